"""pre.dev's SDK, with a guard before every method that costs credits."""

import functools
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from budgetguard._core.amounts import to_credits
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import HoldClosed
from budgetguard._costs import Cost
from budgetguard._decorators.result_kinds import goes_on
from budgetguard._decorators.unfinished_results import follow
from budgetguard._engine import nested_holds as nested
from budgetguard._io.base_url import find_base_url
from budgetguard.guard import check_guard
from budgetguard.integrations._extra import extra
from budgetguard.integrations._guarded_object import check_unguarded
from budgetguard.integrations._sdk import Replaced, bound, checked_costs, credits_at, requirement
from budgetguard.providers.billing import value_at
from budgetguard.providers.predev.billing import DEEP_SPEC, FAST_SPEC, tasks_cost
from budgetguard.providers.predev.provider import PreDev

if TYPE_CHECKING:
    from budgetguard._engine.call_spec import CallSpec
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("predev"):
    import requests
    from predev_api import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        PredevAPI,
        PredevAPIError,
    )
    from predev_api.exceptions import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        AuthenticationError,
        BatchTooLargeError,
        InsufficientCreditsError,
        QueueFullError,
        RateLimitError,
        SubscriptionRequiredError,
    )
    from urllib3.exceptions import ConnectTimeoutError


# Whether work may have begun when its request fails: a refusal can come before the work begins, with
# the result, or in the middle of its events.
Begun: TypeAlias = Literal["no", "maybe", "yes"]

_REFUSED = (
    AuthenticationError,
    BatchTooLargeError,
    QueueFullError,
    RateLimitError,
    SubscriptionRequiredError,
)
# The SDK gives the status only in the message. 400 and 403 are documented as refusals of a request.
_STATUS = re.compile(r"API request failed with status (\d{3}):")
_REFUSALS = ("400", "403")
_UNKNOWN = "404"
_RUNNING = ("pending", "processing")
_OVER = ("completed", "failed")


@clean_traceback
def guarded(
    api: PredevAPI, guard: "Guard", *, costs: Mapping[str, Cost] | None = None
) -> PredevAPI:
    """A client that refuses calls which its credits do not cover, and settles each call at its real cost.

    A spec is held at `PreDev.FAST_SPEC` or `PreDev.DEEP_SPEC` credits, and a browser agent at
    `PreDev.BROWSER_TASK` for each task: a task costs at least 0.1 credits and is metered beyond that, with
    no documented upper end; 0.5 is what pre.dev's own example of a refused batch needs (browser agents'
    pages, 2026-11). `costs` overrides this by method name, with a number, a callable that is given the
    method's arguments, or a mapping of arguments for `require_credits`.

    Submitted work (`fast_spec_async`, `deep_spec_async`, `browser_agent(run_async=True)`) is held until
    `get_spec_status`, `get_browser_agent` or an entry of a list, called through this object, reports that
    it is over. Until then, each of these moves what has been charged so far from held to spent. If you
    never call them, the hold lasts as long as this object, and is kept when the object is dropped. A stream
    is admitted at its first event and held until its `done` event.

    A hold is released if nothing began: the request was refused, or the connection was never made. It is
    kept if the outcome is unknown: time-outs, broken connections, server errors, a spec's 402, a stream that
    was left early, any other result that was left unfinished, and a 404 for submitted work, because then no
    reply will report that it is over. Kept credits remain counted until a later balance shows what was
    charged. A refusal for want of credits marks the guard exhausted.

    A client that was given no `base_url` of its own is pointed at PREDEV_BASE_URL where that is set,
    as its guard is; Anchor Browser's client reads ANCHORBROWSER_BASE_URL itself.

    Requests by the object's private methods are not guarded, nor are calls that a subclass's own methods
    make inside: price those. Raises TypeError if `api` is not a PredevAPI or is already guarded, or if the
    guard is of another provider; AttributeError for costs of methods that it does not have; ValueError for
    costs of methods that only report the costs of others.
    """
    if not isinstance(api, PredevAPI):
        msg = f"guarded() takes a PredevAPI, not {type(api).__name__}"
        raise TypeError(msg)
    check_unguarded(api)
    check_guard(guard, PreDev)
    costs = checked_costs(costs)
    account = _Account(guard, costs)
    here = account.methods(api)
    if settling := sorted(costs.keys() & here.keys() - _COSTS.keys()):
        msg = f"leave {' and '.join(settling)} out of costs: free, and used to settle other calls"
        raise ValueError(msg)
    more = {name: cost for name, cost in costs.items() if name not in _COSTS}
    if api.base_url == PreDev.base_url:
        api.base_url = find_base_url(None, "PREDEV_BASE_URL", PreDev.base_url)
    return cast("PredevAPI", Replaced(api, guard, more, here, type(api).__name__))


def _tasks_cost(tasks: Any, *_: Any, **__: Any) -> Decimal:
    if not isinstance(tasks, list | tuple):
        msg = f"tasks takes a list of tasks, not {type(tasks).__name__}"
        raise TypeError(msg)
    return tasks_cost(tasks)


_COSTS: Final[Mapping[str, Any]] = {
    "fast_spec": FAST_SPEC,
    "deep_spec": DEEP_SPEC,
    "fast_spec_async": FAST_SPEC,
    "deep_spec_async": DEEP_SPEC,
    "browser_agent": _tasks_cost,
}


class _Work:
    """Submitted work of one kind that may still be running: its holds, by pre.dev's ids."""

    def __init__(self, ids: tuple[str, ...], used: str, entries: str) -> None:
        self._ids = ids
        self.used = used
        self._entries = entries
        self._open: dict[str, tuple[CallSpec, Hold]] = {}

    def answered(self, need: "CallSpec", hold: "Hold", reply: Any, *, submitted: bool) -> None:
        """A request was answered: follow work that continues, settle work that is over."""
        if not submitted and value_at(reply, "status") not in _RUNNING:
            need.settle(hold, reply)
        elif (id := self._id(reply)) is None:
            hold.keep()
        else:
            nested.step_out(hold)
            self._open[id] = need, hold
            self.update(id, reply)

    def update(self, id: str, reply: Any) -> None:
        """A reply gives what this work has been charged so far, or that it is over."""
        used, status = credits_at(reply, self.used), value_at(reply, "status")
        if status not in _OVER:
            work = self._open.get(id)
            if work is not None and used is not None:
                # Another thread may have settled it meanwhile.
                with suppress(HoldClosed):
                    work[1].charged(to_credits(used))
        elif (work := self._open.pop(id, None)) is not None:
            need, hold = work
            if status == "failed" and used is None:
                hold.keep()
            else:
                need.settle(hold, reply)

    def lost(self, id: str) -> None:
        """pre.dev does not know that work, so no reply will ever report that it is over."""
        work = self._open.pop(id, None)
        if work is not None:
            work[1].keep()

    def listed(self, reply: Any) -> None:
        """A list was requested; its entries may omit fields."""
        entries = value_at(reply, self._entries)
        for entry in entries if isinstance(entries, list) else ():
            id = self._id(entry)
            if id is not None and credits_at(entry, self.used) is not None:
                self.update(id, entry)

    def _id(self, reply: Any) -> str | None:
        found = (value_at(reply, name) for name in self._ids)
        return next((id for id in found if isinstance(id, str) and id), None)


class _Account:
    """The guard and the holds of one guarded client. Its methods hold no reference to that client."""

    def __init__(self, guard: "Guard", costs: Mapping[str, Cost]) -> None:
        self._guard = guard
        self._specs = _Work(("specId", "_id"), "creditsUsed", "specs")
        self._batches = _Work(("id",), "totalCreditsUsed", "batches")
        self._needs = {name: self._need(name, costs.get(name)) for name in _COSTS}

    def methods(self, api: PredevAPI) -> dict[str, Any]:
        """The methods that replace the client's own."""
        here = {name: self._spends(name, getattr(api, name)) for name in _COSTS}
        reports, listed = self._reports, self._lists
        return here | {
            "get_spec_status": reports(api.get_spec_status, self._specs),
            "list_specs": listed(api.list_specs, self._specs),
            "find_specs": listed(api.find_specs, self._specs),
            "get_browser_agent": reports(api.get_browser_agent, self._batches),
            "list_browser_agents": listed(api.list_browser_agents, self._batches),
        }

    def _need(self, name: str, given: Cost | None) -> "CallSpec":
        used = self._batches.used if name == "browser_agent" else self._specs.used
        options = {"min": _COSTS[name], "actual": lambda reply: value_at(reply, used)}
        return requirement(self._guard, {**options, "name": f"PredevAPI.{name}"}, given)

    def _spends(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        need = self._needs[name]
        work = self._batches if name == "browser_agent" else self._specs

        @functools.wraps(method)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            how = bound(method, args, kwargs)
            if how.get("stream"):
                return self._stream(method, need, args, kwargs)
            submitted = name.endswith("_async") or bool(how.get("run_async"))
            # A browser agent's 402 comes before the work; a spec's may come with its result.
            begun: Begun = "no" if submitted or work is self._batches else "maybe"
            hold = need.open(None, args, kwargs)
            try:
                reply = method(*args, **kwargs)
            except BaseException as error:
                self._failed(hold, error, begun)
                raise
            if isinstance(reply, Iterator):
                return self._events(need, hold, lambda: reply)
            if goes_on(type(reply), need.until):
                return follow(need, hold, reply)
            work.answered(need, hold, reply, submitted=submitted)
            return reply

        return guarded

    def _stream(
        self, method: Callable[..., Any], need: "CallSpec", args: Any, kwargs: Any
    ) -> Generator[Any, None, None]:
        hold = need.open(None, args, kwargs)
        nested.step_out(hold)
        yield from self._events(need, hold, lambda: method(*args, **kwargs))

    def _events(
        self, need: "CallSpec", hold: "Hold", begin: Callable[[], Any]
    ) -> Generator[Any, None, None]:
        begun: Begun = "no"
        used = 0
        try:
            with _closing(begin()) as events:
                for event in events:
                    begun = "yes"
                    kind, data = value_at(event, "event"), value_at(event, "data")
                    if kind == "done" and hold.state == "open":
                        need.settle(hold, data)
                    elif kind == "task_result" and hold.state == "open":
                        used += credits_at(data, "creditsUsed") or 0
                        hold.charged(to_credits(used))
                    yield event
        except BaseException as error:
            self._failed(hold, error, begun)
            raise
        if hold.state == "open":
            hold.keep()

    def _failed(self, hold: "Hold", error: BaseException, begun: Begun) -> None:
        if isinstance(error, PredevAPIError):
            short = _wants_credits(error)
            if short:
                # Before the release, which could admit another call.
                self._guard.mark_exhausted()
            if begun != "yes" and (_refused(error) or (short and begun == "no")):
                hold.release()
        hold.finish(error)

    def _reports(self, method: Callable[..., Any], work: _Work) -> Callable[..., Any]:
        @functools.wraps(method)
        def reporting(*args: Any, **kwargs: Any) -> Any:
            [id, *_] = bound(method, args, kwargs).values()
            try:
                reply = method(*args, **kwargs)
            except PredevAPIError as error:
                if _status(error) == _UNKNOWN:
                    work.lost(id)
                raise
            work.update(id, reply)
            return reply

        return reporting

    def _lists(self, method: Callable[..., Any], work: _Work) -> Callable[..., Any]:
        @functools.wraps(method)
        def listing(*args: Any, **kwargs: Any) -> Any:
            reply = method(*args, **kwargs)
            work.listed(reply)
            return reply

        return listing


def _closing(events: Any) -> AbstractContextManager[Any]:
    return closing(events) if hasattr(events, "close") else nullcontext(events)


def _status(error: PredevAPIError) -> str | None:
    found = _STATUS.match(str(error))
    return found and found[1]


def _wants_credits(error: PredevAPIError) -> bool:
    return isinstance(error, InsufficientCreditsError) or _status(error) == "402"


def _refused(error: PredevAPIError) -> bool:
    """Whether pre.dev rejected the request or never received it."""
    if isinstance(error, _REFUSED) or _status(error) in _REFUSALS:
        return True
    # A ConnectionError alone may also come from a connection that broke later. The class covers
    # connections that were refused or timed out, and names that were not found.
    cause = error.__cause__
    reason = cause.args[0] if isinstance(cause, requests.ConnectionError) and cause.args else None
    return isinstance(getattr(reason, "reason", None), ConnectTimeoutError)
