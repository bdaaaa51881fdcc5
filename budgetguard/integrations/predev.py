"""pre.dev's SDK, with a guard before everything in it that spends."""

import functools
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from budgetguard import nested
from budgetguard.credits import to_credits
from budgetguard.discreet import discreet
from budgetguard.errors import HoldClosed
from budgetguard.guard import check_guard
from budgetguard.integrations._extra import extra
from budgetguard.integrations._sdk import Replaced, bound, credits_said, requirement
from budgetguard.integrations.objects import Cost, check_unguarded
from budgetguard.providers.predev import PreDev
from budgetguard.providers.predev_wire import DEEP_SPEC, FAST_SPEC, tasks_cost
from budgetguard.unfinished import follow, goes_on
from budgetguard.wire import said

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.hold import Hold
    from budgetguard.requirement import Requirement

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


# How far work may have come when its request fails: refusals are answered before it begins, with
# the result, or in the middle of its events.
Begun: TypeAlias = Literal["no", "maybe", "yes"]

_REFUSED = (
    AuthenticationError,
    BatchTooLargeError,
    QueueFullError,
    RateLimitError,
    SubscriptionRequiredError,
)
# The SDK keeps a status in the message alone. 400 and 403 are documented as refusals of a request.
_STATUS = re.compile(r"API request failed with status (\d{3}):")
_REFUSALS = ("400", "403")
_UNKNOWN = "404"
_RUNNING = ("pending", "processing")
_OVER = ("completed", "failed")


@discreet
def guarded(
    api: PredevAPI, guard: "Guard", *, costs: Mapping[str, Cost] | None = None
) -> PredevAPI:
    """`api`, refusing what its credits will not pay for, and settling what it really cost.

    Held are `PreDev.FAST_SPEC` and `DEEP_SPEC` credits for a spec, and for a browser agent
    `PreDev.BROWSER_TASK` for each task: a task costs 0.1 credits at least and is metered on top, without a
    documented upper end; 0.5 is what pre.dev's own example of a refused batch needs (browser agents'
    pages, 2026-11). `costs` says otherwise, by the method's name: a number, a callable given the
    method's arguments, or the arguments of `require_credits` in a mapping.

    What is submitted (`fast_spec_async`, `deep_spec_async`, `browser_agent(run_async=True)`) is held
    until `get_spec_status` or `get_browser_agent`, or an entry of a list, says through this object
    that it is over; until then each of these moves what was charged so far from held to spent. Where
    one of the two is answered with 404 the hold is kept, as nobody will hear of its end. Where nobody
    asks, the holds end with this object: dropped holds are kept, so they count until a balance that
    was asked for late enough. A stream is admitted at its first event and held until its `done`; one
    that is left before is kept. So is whatever else a method may hand out unfinished.

    A refusal for want of credits marks the guard exhausted. A hold is released where nothing began:
    refusals of the request, and connections that were never made. It is kept where part of it may
    have been charged: time-outs, broken connections, errors of the server, a spec's 402.

    Requests that the object's private methods make are not guarded, nor calls that a subclass's own
    methods make inside: price those. Raises TypeError for what is no PredevAPI or is guarded already,
    and for a guard of another account; AttributeError for costs of methods it does not have; ValueError
    for costs of those that tell of others' costs.
    """
    if not isinstance(api, PredevAPI):
        msg = f"guarded() takes a PredevAPI, not {type(api).__name__}"
        raise TypeError(msg)
    check_unguarded(api)
    check_guard(guard, PreDev)
    costs = costs or {}
    account = _Account(guard, costs)
    here = account.methods(api)
    if asked := sorted(costs.keys() & here.keys() - _COSTS.keys()):
        msg = f"{' and '.join(asked)}: free, and used to settle others: leave them out of costs"
        raise ValueError(msg)
    more = {name: cost for name, cost in costs.items() if name not in _COSTS}
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
    """What was submitted of one kind and is not known to be over: its holds, by pre.dev's ids."""

    def __init__(self, ids: tuple[str, ...], used: str, entries: str) -> None:
        self._ids = ids
        self.used = used
        self._entries = entries
        self._open: dict[str, tuple[Requirement, Hold]] = {}

    def answered(self, need: "Requirement", hold: "Hold", reply: Any, *, submitted: bool) -> None:
        """A request was answered: follow what goes on, settle what is over."""
        if not submitted and said(reply, "status") not in _RUNNING:
            need.settle(hold, reply)
        elif (id := self._id(reply)) is None:
            hold.keep()
        else:
            nested.step_out(hold)
            self._open[id] = need, hold
            self.told(id, reply)

    def told(self, id: str, reply: Any) -> None:
        """Somebody asked: this is what that work was charged so far, or it is over."""
        used, status = credits_said(reply, self.used), said(reply, "status")
        if status not in _OVER:
            work = self._open.get(id)
            if work is not None and used is not None:
                # Another thread may have heard of the end.
                with suppress(HoldClosed):
                    work[1].charged(to_credits(used))
        elif (work := self._open.pop(id, None)) is not None:
            need, hold = work
            if status == "failed" and used is None:
                hold.keep()
            else:
                need.settle(hold, reply)

    def lost(self, id: str) -> None:
        """pre.dev does not know that work: nobody will hear of its end."""
        work = self._open.pop(id, None)
        if work is not None:
            work[1].keep()

    def listed(self, reply: Any) -> None:
        """Somebody asked for a list; entries may leave fields out."""
        entries = said(reply, self._entries)
        for entry in entries if isinstance(entries, list) else ():
            id = self._id(entry)
            if id is not None and credits_said(entry, self.used) is not None:
                self.told(id, entry)

    def _id(self, reply: Any) -> str | None:
        found = (said(reply, name) for name in self._ids)
        return next((id for id in found if isinstance(id, str) and id), None)


class _Account:
    """One guarded client's guard and holds. Its methods do not refer to the client that has them."""

    def __init__(self, guard: "Guard", costs: Mapping[str, Cost]) -> None:
        self._guard = guard
        self._specs = _Work(("specId", "_id"), "creditsUsed", "specs")
        self._batches = _Work(("id",), "totalCreditsUsed", "batches")
        self._needs = {name: self._need(name, costs.get(name)) for name in _COSTS}

    def methods(self, api: PredevAPI) -> dict[str, Any]:
        """The methods that stand in for the client's own."""
        here = {name: self._spends(name, getattr(api, name)) for name in _COSTS}
        told, listed = self._tells, self._lists
        return here | {
            "get_spec_status": told(api.get_spec_status, self._specs),
            "list_specs": listed(api.list_specs, self._specs),
            "find_specs": listed(api.find_specs, self._specs),
            "get_browser_agent": told(api.get_browser_agent, self._batches),
            "list_browser_agents": listed(api.list_browser_agents, self._batches),
        }

    def _need(self, name: str, given: Cost | None) -> "Requirement":
        used = self._batches.used if name == "browser_agent" else self._specs.used
        terms = {"min": _COSTS[name], "actual": lambda reply: said(reply, used)}
        return requirement(self._guard, {**terms, "name": f"PredevAPI.{name}"}, given)

    def _spends(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        need = self._needs[name]
        work = self._batches if name == "browser_agent" else self._specs

        @functools.wraps(method)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            how = bound(method, args, kwargs)
            if how.get("stream"):
                return self._stream(method, need, args, kwargs)
            submitted = name.endswith("_async") or bool(how.get("run_async"))
            # A browser's 402 is a gate before the work, a spec's may come with its result.
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
        self, method: Callable[..., Any], need: "Requirement", args: Any, kwargs: Any
    ) -> Generator[Any, None, None]:
        hold = need.open(None, args, kwargs)
        nested.step_out(hold)
        yield from self._events(need, hold, lambda: method(*args, **kwargs))

    def _events(
        self, need: "Requirement", hold: "Hold", begin: Callable[[], Any]
    ) -> Generator[Any, None, None]:
        begun: Begun = "no"
        used = 0
        try:
            with _closing(begin()) as events:
                for event in events:
                    begun = "yes"
                    kind, data = said(event, "event"), said(event, "data")
                    if kind == "done" and hold.state == "open":
                        need.settle(hold, data)
                    elif kind == "task_result" and hold.state == "open":
                        used += credits_said(data, "creditsUsed") or 0
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
                # Before the release, which would let somebody in.
                self._guard.mark_exhausted()
            if begun != "yes" and (_refused(error) or (short and begun == "no")):
                hold.release()
        hold.finish(error)

    def _tells(self, method: Callable[..., Any], work: _Work) -> Callable[..., Any]:
        @functools.wraps(method)
        def telling(*args: Any, **kwargs: Any) -> Any:
            [id, *_] = bound(method, args, kwargs).values()
            try:
                reply = method(*args, **kwargs)
            except PredevAPIError as error:
                if _status(error) == _UNKNOWN:
                    work.lost(id)
                raise
            work.told(id, reply)
            return reply

        return telling

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
    """Whether pre.dev turned the request down, or never got it."""
    if isinstance(error, _REFUSED) or _status(error) in _REFUSALS:
        return True
    # A ConnectionError alone may also be one that broke later. The class stands for connections
    # that were refused or timed out, and for names that were not found.
    cause = error.__cause__
    reason = cause.args[0] if isinstance(cause, requests.ConnectionError) and cause.args else None
    return isinstance(getattr(reason, "reason", None), ConnectTimeoutError)
