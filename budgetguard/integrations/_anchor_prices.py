"""What each method of Anchor Browser's SDK may cost, and how its end is heard of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from budgetguard.integrations._sdk import said
from budgetguard.providers.anchorbrowser_wire import AI_STEP, FETCH, PAGE, session_cost
from budgetguard.wrong import shown

# The API reference's defaults (2026-11): minutes of a session's longest life, steps of a task.
MINUTES: Final = 20
STEPS: Final = 200


@dataclass(frozen=True, slots=True)
class Priced:
    """A method that spends: its cost and slots, and the id by which it goes on after its reply.

    `life` says how many minutes it goes on at most, where that is asked for.
    """

    cost: Any
    slots: int = 0
    kind: str = ""
    id: str = ""
    goes_on: Callable[[Any], bool] = lambda _: True
    life: Callable[..., int] | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A free method that tells of the end of one kind of work; by being done, or by its reply."""

    kind: str
    over: Callable[[Any], bool] = lambda _: True


# What the caller left out is falsy, be it None or the SDK's own NotGiven.
def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"what {what}={shown(value)} may cost at most is not known: name it by costs="
        raise ValueError(msg)
    return value


def _minutes(session: Any) -> int:
    return _count(said(session or None, "timeout.max_duration") or MINUTES, "max_duration")


def _body(extra_body: Any, **given: Any) -> Mapping[str, Any]:
    """What is sent: the SDK lets `extra_body` win."""
    return {**given, **(extra_body or {})}


def _session_life(*, session: Any = None, extra_body: Any = None, **_: Any) -> int:
    return _minutes(_body(extra_body, session=session)["session"])


def _batch_life(*, configuration: Any = None, extra_body: Any = None, **_: Any) -> int:
    body = _body(extra_body, configuration=configuration)
    return _minutes(said(body["configuration"] or None, "session"))


def _session(**kwargs: Any) -> Decimal:
    return session_cost(_session_life(**kwargs))


def _batch(*, count: Any, extra_body: Any = None, **kwargs: Any) -> Decimal:
    sessions = _count(_body(extra_body, count=count)["count"], "count")
    return session_cost(_batch_life(extra_body=extra_body, **kwargs)) * sessions


def _web_task(
    *, max_steps: Any = None, session_id: Any = None, extra_body: Any = None, **_: Any
) -> Decimal:
    steps = _count(_body(extra_body, max_steps=max_steps)["max_steps"] or STEPS, "max_steps")
    return AI_STEP * steps + (0 if session_id else session_cost(MINUTES))


def _is_over(_: Any) -> bool:
    return False


def _has_no_result(reply: Any) -> bool:
    return said(reply, "data.result") is None


def _runs(reply: Any) -> bool:
    return not _run_over(reply)


def _is_async(reply: Any) -> bool:
    return said(reply, "data.async_") is not False


def _says(where: str, *words: str) -> Callable[[Any], bool]:
    return lambda reply: said(reply, where) in words


def _leaves_none(reply: Any) -> bool:
    return not said(reply, "data.failed_deletions")


_run_over = _says("status", "success", "failure", "timeout", "cancelled")
_TASK = _web_task()

RETRY: Final = "batch_sessions.retry_batch_session"
PRICED: Final[Mapping[str, Priced]] = {
    "sessions.create_session": Priced(_session, 1, "session", "data.id", life=_session_life),
    "sessions.create_session_async": Priced(
        _session, 1, "request", "data.request_id", life=_session_life
    ),
    "batch_sessions.create_batch_session": Priced(
        _batch, 0, "batch", "data.batch_id", life=_batch_life
    ),
    RETRY: Priced(None),
    "tools.perform_web_task": Priced(_web_task, 0, "workflow", "data.workflow_id", _has_no_result),
    "tools.fetch_webpage": Priced(FETCH, goes_on=_is_over),
    "tools.screenshot_webpage": Priced(PAGE, goes_on=_is_over),
    "tools.create_page_pdf": Priced(PAGE, goes_on=_is_over),
    "tasks.run_task": Priced(_TASK, 0, "run", "run_id", _runs),
    "tasks.generate_task": Priced(_TASK, 0, "generation", "id"),
    "tasks_legacy.run_adhoc_task": Priced(_TASK, goes_on=_is_async),
    "tasks_legacy.run_task_by_name": Priced(_TASK, goes_on=_is_async),
}
TOLD: Final[Mapping[str, Told]] = {
    "batch_sessions.delete_batch_session": Told("batch", _leaves_none),
    "batch_sessions.update_batch_session": Told("batch"),
    "tools.get_perform_web_task_status": Told(
        "workflow", _says("data.status", "COMPLETED", "FAILED")
    ),
    "tasks.get_task_run_status": Told("run", _run_over),
    "tasks.get_task_generation_status": Told("generation", _says("status", "ready", "failed")),
}
