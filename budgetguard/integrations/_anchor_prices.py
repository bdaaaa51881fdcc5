"""Which methods of Anchor Browser's SDK spend, by the requests that they make, and how their end is heard of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from budgetguard.providers import anchorbrowser_wire as wire
from budgetguard.providers.anchorbrowser_wire import SPENDING, Asked, Most, run_is_over
from budgetguard.wire import said


@dataclass(frozen=True, slots=True)
class Priced:
    """A method that spends: its request, its slots, and the id by which it goes on after its reply.

    What the request may cost, and whether it goes on, the provider's table says.
    """

    request: tuple[str, str]
    slots: int = 0
    kind: str = ""
    id: str = ""

    def most(self, **how: Any) -> Most:
        """What a call with these arguments may cost; raises Unpriced where nobody can say."""
        most = SPENDING[self.request].most
        return most if isinstance(most, Most) else most(_asked(**how))

    def cost(self, *_: Any, **how: Any) -> Decimal:
        """The credits of that, for a call as it was made."""
        return self.most(**how).credits

    def goes_on(self, reply: Any) -> bool:
        """Whether work goes on behind this reply."""
        return SPENDING[self.request].goes_on(reply)


@dataclass(frozen=True, slots=True)
class Told:
    """A free method that tells of the end of one kind of work; by being done, or by its reply."""

    kind: str
    over: Callable[[Any], bool] = lambda _: True


def _asked(
    *, session_id: Any = None, extra_query: Any = None, extra_body: Any = None, **body: Any
) -> Asked:
    """What is sent: the SDK lets `extra_body` and `extra_query` win."""
    # What the caller left out is falsy, be it None or the SDK's own NotGiven.
    given = {name: value for name, value in body.items() if value}
    query = {"sessionId": session_id} if session_id else {}
    return Asked({**given, **(extra_body or {})}, {**query, **(extra_query or {})})


def _says(where: str, *words: str) -> Callable[[Any], bool]:
    return lambda reply: said(reply, where) in words


def _leaves_none(reply: Any) -> bool:
    return not said(reply, "data.failed_deletions")


RETRY: Final = "batch_sessions.retry_batch_session"
PRICED: Final[Mapping[str, Priced]] = {
    "sessions.create_session": Priced(("POST", "/v1/sessions"), 1, "session", "data.id"),
    "sessions.create_session_async": Priced(
        ("POST", "/v1/sessions/async"), 1, "request", "data.request_id"
    ),
    "batch_sessions.create_batch_session": Priced(
        ("POST", "/v1/batch-sessions"), 0, "batch", "data.batch_id"
    ),
    RETRY: Priced(wire.RETRY),
    "tools.perform_web_task": Priced(
        ("POST", "/v1/tools/perform-web-task"), 0, "workflow", "data.workflow_id"
    ),
    "tools.fetch_webpage": Priced(("POST", "/v1/tools/fetch/webpage")),
    "tools.screenshot_webpage": Priced(("POST", "/v1/tools/screenshot")),
    "tools.create_page_pdf": Priced(("POST", "/v1/tools/page-pdf")),
    "tasks.run_task": Priced(("POST", "/v2/tasks/*/run"), 0, "run", "run_id"),
    "tasks.generate_task": Priced(("POST", "/v2/tasks/generate"), 0, "generation", "id"),
    "tasks_legacy.run_adhoc_task": Priced(("POST", "/v1/task/run")),
    "tasks_legacy.run_task_by_name": Priced(("POST", "/v1/task/run/*")),
}
TOLD: Final[Mapping[str, Told]] = {
    "batch_sessions.delete_batch_session": Told("batch", _leaves_none),
    "batch_sessions.update_batch_session": Told("batch"),
    "tools.get_perform_web_task_status": Told(
        "workflow", _says("data.status", "COMPLETED", "FAILED")
    ),
    "tasks.get_task_run_status": Told("run", run_is_over),
    "tasks.get_task_generation_status": Told("generation", _says("status", "ready", "failed")),
}
