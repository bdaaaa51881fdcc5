"""What spends in a process of the fleet, whichever way it is made."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from vendor import Call

Body: TypeAlias = Callable[[Any], Awaitable[int]]
"""The guarded code of a call: it is given the hold, if there is one, and returns micro-credits."""


@dataclass(frozen=True)
class Terms:
    """What the guards of a fleet are told: seconds and micro-credits."""

    hold_for: float
    floor: int
    recheck_after: float
    timeout: float
    fresh_for: float
    lag: float
    linger: float
    sole_spender: Any = True


class Spender(Protocol):
    """A guard of one process, or a member written from the protocol."""

    every_kind: bool
    """Whether it knows budgets, and calls whose holds change."""

    used: int
    """What open calls hold."""

    def slack(self) -> int:
        """What a caller could take at once."""
        ...

    def unsettled(self, number: int) -> int:
        """What finished calls cost that was not reported, by a head that has taken that message."""
        ...

    def bound_to(self, epoch: str) -> bool:
        """Whether it takes that epoch for the latest, and its lease for its own."""
        ...

    def exhausted(self) -> None:
        """The provider refused a call, says a user."""
        ...

    async def call(self, call: Call, body: Body) -> None:
        """Guard one call; raises Refused, or what the body raises."""
        ...

    async def refresh(self) -> None:
        """Have a balance that is requested from now on."""
        ...

    async def exit(self) -> None:
        """The process exits in good order."""
        ...


class Refused(Exception):
    """A caller did not get in.

    - `lacks`: "credits", "slots" or "an answer".
    - `final`: waiting alone would not help.
    - `queued`: what callers ahead of it were waiting for.
    """

    def __init__(self, why: str, lacks: str, *, final: bool = False, queued: float = 0) -> None:
        super().__init__(why)
        self.lacks, self.final, self.queued = lacks, final, queued


class NeverConnected(Exception):
    """Proves that nothing was charged."""


class WorkFailed(Exception):
    """The provider's work failed; what it costs is not known."""
