"""Which methods of Anchor Browser's SDK cost credits, by their requests, and which report a result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from budgetguard.providers.anchorbrowser import billing
from budgetguard.providers.anchorbrowser.billing import SPENDING, Most, RequestFields, run_is_over
from budgetguard.providers.billing import value_at


@dataclass(frozen=True, slots=True)
class Priced:
    """A method that costs credits: its request, its slots, and the id of the work that continues after it.

    The provider's own table gives what the request may cost, and whether work continues after a reply.
    """

    request: tuple[str, str]
    slots: int = 0
    kind: str = ""
    id: str = ""

    def most(self, **how: Any) -> Most:
        """The most that a call with these arguments can cost; raises Unpriced if that is not known."""
        most = SPENDING[self.request].most
        return most if isinstance(most, Most) else most(_request_fields(**how))

    def cost(self, *_: Any, **how: Any) -> Decimal:
        """The credits of `most`, for a call as it was made."""
        return self.most(**how).credits

    def goes_on(self, reply: Any) -> bool:
        """Whether work continues after this reply."""
        return SPENDING[self.request].goes_on(reply)


@dataclass(frozen=True, slots=True)
class EndReport:
    """A free method that reveals that one kind of work is over: always, or if its reply says so."""

    kind: str
    over: Callable[[Any], bool] = lambda _: True


def _request_fields(
    *, session_id: Any = None, extra_query: Any = None, extra_body: Any = None, **body: Any
) -> RequestFields:
    """The request as it is sent: in the SDK, `extra_body` and `extra_query` take precedence."""
    # An omitted argument is falsy, whether it is None or the SDK's own NotGiven.
    given = {name: value for name, value in body.items() if value}
    query = {"sessionId": session_id} if session_id else {}
    return RequestFields({**given, **(extra_body or {})}, {**query, **(extra_query or {})})


def _says(where: str, *words: str) -> Callable[[Any], bool]:
    return lambda reply: value_at(reply, where) in words


def leaves_none(reply: Any) -> bool:
    return not value_at(reply, "data.failed_deletions")


RETRY: Final = "batch_sessions.retry_batch_session"
PRICED: Final[Mapping[str, Priced]] = {
    "sessions.create_session": Priced(("POST", "/v1/sessions"), 1, "session", "data.id"),
    "sessions.create_session_async": Priced(
        ("POST", "/v1/sessions/async"), 1, "request", "data.request_id"
    ),
    "batch_sessions.create_batch_session": Priced(
        ("POST", "/v1/batch-sessions"), 0, "batch", "data.batch_id"
    ),
    RETRY: Priced(billing.RETRY),
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
REPORTS: Final[Mapping[str, EndReport]] = {
    "batch_sessions.update_batch_session": EndReport("batch"),
    "tools.get_perform_web_task_status": EndReport(
        "workflow", _says("data.status", "COMPLETED", "FAILED")
    ),
    "tasks.get_task_run_status": EndReport("run", run_is_over),
    "tasks.get_task_generation_status": EndReport("generation", _says("status", "ready", "failed")),
}
