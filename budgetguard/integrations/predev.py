"""pre.dev's SDK, with a guard before every method that costs credits."""

import functools
import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from budgetguard._core.amounts import to_credits
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import ConfigurationError
from budgetguard._core.events import logger
from budgetguard._costs import Cost
from budgetguard._decorators.result_kinds import goes_on
from budgetguard._decorators.unfinished_results import follow as follow_result
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.binding import binding_of
from budgetguard._engine.follower import Sending, ask_list, ask_status, follower_of, may_search
from budgetguard._engine.hold import NullHold, cause_of, proves
from budgetguard._engine.submitted_work import StatusRequest, Work, Works
from budgetguard._io.base_url import find_base_url
from budgetguard.guard import check_guard
from budgetguard.integrations._extra import extra
from budgetguard.integrations._guarded_object import check_unguarded
from budgetguard.integrations._sdk import Replaced, bound, checked_costs, credits_at, requirement
from budgetguard.providers._account import check_flag
from budgetguard.providers.base import Profile
from budgetguard.providers.billing import BillingReply, WorkStatus, value_at
from budgetguard.providers.predev.billing import (
    DEEP_SPEC,
    FAST_SPEC,
    OVER,
    batch_path,
    lost_spec,
    spec_path,
    tasks_cost,
)
from budgetguard.providers.predev.provider import PreDev

if TYPE_CHECKING:
    from budgetguard._engine.call_spec import CallSpec
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("predev"):
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

    from budgetguard.integrations._requests import never_connected


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
_NOT_FOUND = 404
_RUNNING = ("pending", "processing")


@clean_traceback
def guarded(
    api: PredevAPI,
    guard: "Guard",
    *,
    costs: Mapping[str, Cost] | None = None,
    follow: bool = True,
) -> PredevAPI:
    """A client that refuses calls which its credits do not cover, and settles each call at its real cost.

    A spec is held at `PreDev.FAST_SPEC` or `PreDev.DEEP_SPEC` credits, and a browser agent at
    `PreDev.BROWSER_TASK` for each task: a task costs at least 0.1 credits and is metered beyond that, with
    no documented upper end; 0.5 is what pre.dev's own example of a refused batch needs (browser agents'
    pages, 2026-11). `costs` overrides this by method name, with a number, a callable that is given the
    method's arguments, or a mapping of arguments for `require_credits`.

    Submitted work (`fast_spec_async`, `deep_spec_async`, `browser_agent(run_async=True)`) is held until
    a reply reports that it is over. Until then, each reply moves what has been charged so far from held to
    spent. These are the replies to `get_spec_status` and `get_browser_agent`, and entries of lists, that you
    request through this object. If you have not requested any for a while (30 to 60 s after the submission,
    or 120 s after the last one), the library requests the status itself, every 30 to 60 s, with this
    client's key: in the background, never while a call waits, and also after this object was dropped. With
    `follow=False` it requests nothing, and the hold is kept when this object is dropped. A stream is admitted
    at its first event and held until its `done` event.

    A spec whose reply was lost (a time-out, a broken connection, a server error, its own 402) is searched
    for once, after 10 s, by `/list-specs`, which is free. If exactly one spec has the call's endpoint and
    input text, began at its time (to 60 s), and belongs to no other call that is known, then it is followed
    as if it had been submitted. In any other case, and if another call with the same input was under way,
    the hold is kept. This relies on the fields `_id`, `created`, `endpoint`, `input` and `hasMore`
    (predev-api 1.1.0, 2026-11); a spec with a file is not searched for.

    A hold is released if nothing began: the request was refused, or the connection was never made. It is
    kept if the outcome is unknown: time-outs, broken connections, server errors, a spec's 402, a stream that
    was left early, any other result that was left unfinished, a 404 for submitted work, because then no
    reply will report that it is over, and work whose status was not received for `linger` and 600 s, or
    that went on for 24 hours. A guard that is closed asks no more: the holds are kept. Kept credits remain counted until a later balance shows what was
    charged. A refusal for lack of credits marks the guard exhausted.

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
    check_flag(follow, "follow")
    if api.base_url == PreDev.base_url:
        api.base_url = find_base_url(None, "PREDEV_BASE_URL", PreDev.base_url)
    account = _Account(guard, costs, _profile(api, guard) if follow else None)
    here = account.methods(api)
    if settling := sorted(costs.keys() & here.keys() - _COSTS.keys()):
        msg = f"leave {' and '.join(settling)} out of costs: free, and used to settle other calls"
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
_PATHS: Final = {
    "fast_spec": "/fast-spec",
    "deep_spec": "/deep-spec",
    "fast_spec_async": "/fast-spec",
    "deep_spec_async": "/deep-spec",
}


class _Kind:
    """Submitted work of one kind: where pre.dev's replies name it, and where its status is found."""

    def __init__(
        self, ids: tuple[str, ...], used: str, entries: str, path: Callable[[object], str | None]
    ) -> None:
        self._ids = ids
        self.used = used
        self._entries = entries
        self.path = path

    def find(self, reply: Any) -> str | None:
        """The path of the status of the work that a reply names."""
        paths = (self.path(value_at(reply, name)) for name in self._ids)
        return next((path for path in paths if path is not None), None)

    def listed(self, reply: Any) -> Iterator[tuple[str, Any]]:
        """The entries of a list that name their work and what it used; others may omit fields."""
        entries = value_at(reply, self._entries)
        for entry in entries if isinstance(entries, list) else ():
            path = self.find(entry)
            if path is not None and credits_at(entry, self.used) is not None:
                yield path, entry

    def status(self, need: "CallSpec", hold: "Hold", reply: Any) -> WorkStatus:
        """What a reply gives of this work: what it has been charged so far, or that it is over."""
        used, status = credits_at(reply, self.used), value_at(reply, "status")
        if status not in OVER:
            return WorkStatus(charged=None if used is None else to_credits(used))
        if status == "failed" and used is None:
            return WorkStatus(end="keep")
        if need.actual is None:
            return WorkStatus(end="cost")
        return WorkStatus(end=to_credits(need.real_cost(reply, hold.micro, hold.operation)))

    def read(self, need: "CallSpec", hold: "Hold", reply: BillingReply) -> WorkStatus | None:
        """The same for a reply to the library's own request, with numbers as the SDK gives them."""
        if reply.status == _NOT_FOUND:
            return WorkStatus(end="keep")
        try:
            body = json.loads(reply.content or b"")
        except (ValueError, RecursionError):
            return None
        known = value_at(body, "status") in (*_RUNNING, *OVER)
        return self.status(need, hold, body) if known else None


class _Submitted(Work):
    """Work that was submitted through one guarded client."""

    __slots__ = ("kind", "need")

    def __init__(
        self, kind: _Kind, need: "CallSpec", hold: "Hold", path: str | None, **how: Any
    ) -> None:
        super().__init__(hold, path, **how)
        self.kind = kind
        self.need = need

    def status(self, reply: Any) -> WorkStatus:
        """What a reply of the SDK gives of this work."""
        return self.kind.status(self.need, self.hold, reply)


class _Account:
    """The guard and the holds of one guarded client. Its methods hold no reference to that client.

    `pays` is the account whose key that client has, as far as its work is followed.
    """

    def __init__(self, guard: "Guard", costs: Mapping[str, Cost], pays: Profile | None) -> None:
        self._guard = guard
        self._account = binding_of(guard).account
        self._pays = pays
        # Work that only replies to the client itself tell about.
        self._works = Works()
        self._specs = _Kind(("specId", "_id"), "creditsUsed", "specs", spec_path)
        self._batches = _Kind(("id",), "totalCreditsUsed", "batches", batch_path)
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
        kind = self._batches if name == "browser_agent" else self._specs

        @functools.wraps(method)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            how = bound(method, args, kwargs)
            if how.get("stream"):
                return self._stream(method, need, args, kwargs)
            submitted = name.endswith("_async") or bool(how.get("run_async"))
            # A browser agent's 402 comes before the work; a spec's may come with its result.
            begun: Begun = "no" if submitted or kind is self._batches else "maybe"
            hold = need.open(None, args, kwargs)
            sending = self._sending(name, how, hold)
            try:
                reply = method(*args, **kwargs)
            except BaseException as error:
                if not self._searched(_Submitted(kind, need, hold, None), sending, error, begun):
                    self._failed(hold, error, begun)
                raise
            if sending is not None:
                sending.end()
            if isinstance(reply, Iterator):
                return self._events(need, hold, lambda: reply)
            if goes_on(type(reply), need.until):
                return follow_result(need, hold, reply)
            self._answered(kind, need, hold, reply, submitted=submitted)
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

    def _answered(
        self, kind: _Kind, need: "CallSpec", hold: "Hold", reply: Any, *, submitted: bool
    ) -> None:
        """A request was answered: follow work that continues, settle work that is over."""
        path = None if isinstance(hold, NullHold) else kind.find(reply)
        if not submitted and value_at(reply, "status") not in _RUNNING:
            if path is not None and self._pays is not None:
                follower_of(self._account).claim(path)
            need.settle(hold, reply)
        elif path is None:
            hold.keep()
        else:
            nested.step_out(hold)
            work = _Submitted(kind, need, hold, path)
            if not work.apply(work.status(reply)):
                self._follow(work)

    def _follow(self, work: _Submitted) -> None:
        if self._pays is not None:
            assert work.path is not None
            work.ask = self._ask(work, work.path)
            work.trust_env = self._pays.trust_env
            if follower_of(self._account).follow(work):
                return
        self._works.add(work)

    def _ask(self, work: _Submitted, path: str) -> StatusRequest:
        assert self._pays is not None
        read = functools.partial(work.kind.read, work.need, work.hold)
        # Aside: it may call the user's `actual`.
        return ask_status(self._pays, path, read, aside=True)

    def _sending(self, name: str, how: Mapping[str, Any], hold: "Hold") -> Sending | None:
        """A request that could be searched for if its reply is lost: a spec without a file."""
        path = _PATHS.get(name)
        if self._pays is None or path is None or how.get("file") or isinstance(hold, NullHold):
            return None
        lost = lost_spec(path, how.get("input_text"))
        return None if lost is None else follower_of(self._account).sending(lost)

    def _searched(
        self, work: _Submitted, sending: Sending | None, error: BaseException, begun: Begun
    ) -> bool:
        """Have the work of a call searched for whose outcome is unknown; False if that is not possible."""
        unknown = may_search(error) and not (
            proves(error, work.need.release_on)
            or (
                isinstance(error, PredevAPIError) and (_refused(error) or _none_begun(error, begun))
            )
        )
        if self._pays is None or sending is None or not unknown:
            return False
        if isinstance(error, PredevAPIError) and _wants_credits(error):
            self._guard.mark_exhausted()
        follower, until = follower_of(self._account), binding_of(self._guard).clock.wall()
        nested.step_out(work.hold)
        work.cause, work.trust_env = cause_of(error), self._pays.trust_env
        ask = functools.partial(self._ask, work)
        work.ask = ask_list(self._pays, follower, sending, until, ask)
        return follower.search(work)

    def _told(self, path: str, reply: Any = None, *, unknown: bool = False) -> None:
        """The client received a reply about some work, or that pre.dev does not know it."""
        for works in (self._works, self._account.follower):
            work = None if works is None else works.get(path)
            if works is None or work is None:
                continue
            if unknown:
                status = WorkStatus(end="keep")
            elif isinstance(work, _Submitted):
                status = work.status(reply)
            else:
                continue
            works.tell(work, status)

    def _failed(self, hold: "Hold", error: BaseException, begun: Begun) -> None:
        if isinstance(error, PredevAPIError):
            if _wants_credits(error):
                # Before the release, which could admit another call.
                self._guard.mark_exhausted()
            if begun != "yes" and (_refused(error) or _none_begun(error, begun)):
                hold.release()
        hold.finish(error)

    def _reports(self, method: Callable[..., Any], kind: _Kind) -> Callable[..., Any]:
        @functools.wraps(method)
        def reporting(*args: Any, **kwargs: Any) -> Any:
            [id, *_] = bound(method, args, kwargs).values()
            path = kind.path(id)
            try:
                reply = method(*args, **kwargs)
            except PredevAPIError as error:
                if path is not None and _status(error) == str(_NOT_FOUND):
                    self._told(path, unknown=True)
                raise
            if path is not None:
                self._told(path, reply)
            return reply

        return reporting

    def _lists(self, method: Callable[..., Any], kind: _Kind) -> Callable[..., Any]:
        @functools.wraps(method)
        def listing(*args: Any, **kwargs: Any) -> Any:
            reply = method(*args, **kwargs)
            for path, entry in kind.listed(reply):
                self._told(path, entry)
            return reply

        return listing


def _profile(api: PredevAPI, guard: "Guard") -> Profile | None:
    """The account that a client's work is asked about with; None if its key or address is not accepted."""
    trust_env = isinstance(guard.provider, PreDev) and guard.provider.trust_env
    try:
        return Profile.of(PreDev(api.api_key, base_url=api.base_url, trust_env=trust_env))
    except (ConfigurationError, TypeError):
        logger.info("Submitted work is not followed: the client's key or base_url is not accepted")
        return None


def _closing(events: Any) -> AbstractContextManager[Any]:
    return closing(events) if hasattr(events, "close") else nullcontext(events)


def _status(error: PredevAPIError) -> str | None:
    found = _STATUS.match(str(error))
    return found and found[1]


def _wants_credits(error: PredevAPIError) -> bool:
    return isinstance(error, InsufficientCreditsError) or _status(error) == "402"


def _none_begun(error: PredevAPIError, begun: Begun) -> bool:
    """Whether credits were lacking before the work began."""
    return begun == "no" and _wants_credits(error)


def _refused(error: PredevAPIError) -> bool:
    """Whether pre.dev rejected the request or never received it."""
    if isinstance(error, _REFUSED) or _status(error) in _REFUSALS:
        return True
    return never_connected(error.__cause__)
