"""Work that goes on at the provider after its call returned: whose hold it is, and what its status does to it.

`Works` is a registry of such holds, each identified by the path of its status. Replies about the work
that the program receives are passed to it. There is no lock: each step is one operation of a dictionary.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from budgetguard._core.amounts import cost as to_cost
from budgetguard._core.errors import HoldClosed
from budgetguard._core.status_schedule import StatusSchedule
from budgetguard._engine.hold import Hold
from budgetguard.providers.billing import Outcome, WorkStatus

_LATER = float("inf")

StatusRequest: TypeAlias = Callable[[Any], Awaitable["WorkStatus | FoundWork | None"]]
"""One request, given an HTTP client: what it says about the work; None if it says nothing.

It raises if there is no valid reply.
"""


@dataclass(frozen=True, slots=True)
class FoundWork:
    """The work of a lost call; None if none or more than one can be its own."""

    path: str | None
    ask: StatusRequest | None = None


class Work:
    """A hold whose work goes on at the provider, until its status says that it has ended.

    `path` is None while it is still searched for; `cause` is the name of the exception of its call.
    """

    __slots__ = ("ask", "cause", "hold", "path", "schedule", "trust_env")

    def __init__(
        self,
        hold: Hold,
        path: str | None,
        ask: StatusRequest | None = None,
        *,
        trust_env: bool = False,
        cause: str | None = None,
    ) -> None:
        self.hold = hold
        self.path = path
        self.ask = ask
        self.trust_env = trust_env
        self.cause = cause
        self.schedule = StatusSchedule(_LATER, 0.0, 0.0, 0.0)

    def apply(self, status: WorkStatus) -> bool:
        """Change the hold as its status says; True if it has ended."""
        hold, end = self.hold, status.end
        # Another thread may have ended it in the meantime.
        with suppress(HoldClosed):
            if end is None:
                if status.charged is not None:
                    hold.charged(status.charged)
            elif end == "keep":
                hold.keep_because(self.cause)
            elif end == "release":
                hold.release()
            else:
                hold.end_at(_micro(end))
        return hold.state != "open"


class Works:
    """Holds by the path of their work's status; thread-safe."""

    def __init__(self) -> None:
        self._by_path: dict[str, Work] = {}

    def add(self, work: Work) -> None:
        """Note the work of a hold. Of two holds for the same work, the newer one is kept."""
        assert work.path is not None
        if self._by_path.setdefault(work.path, work) is not work:
            work.hold.keep_because(work.cause)

    def get(self, path: str) -> Work | None:
        """The work whose status is found there, unless it has ended."""
        return self._by_path.get(path)

    def tell(self, work: Work, status: WorkStatus) -> None:
        """The program itself received a reply about some work."""
        if work.apply(status):
            self.forget(work)

    def forget(self, work: Work) -> None:
        """The work has ended."""
        if work.path is not None and self._by_path.get(work.path) is work:
            self._by_path.pop(work.path, None)


def _micro(end: Outcome) -> int | None:
    """What to settle at; None for the hold's own amount, also where the figure is not a valid cost."""
    try:
        return None if end == "cost" else to_cost(end, "the reply's credits")
    except (TypeError, ValueError):
        return None
