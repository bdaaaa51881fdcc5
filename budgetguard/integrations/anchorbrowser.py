"""Anchor Browser's SDK, sync and async, with a guard before every method that costs credits."""

import functools
import inspect
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import httpx

from budgetguard._core.amounts import to_credits
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.durations import LONGEST
from budgetguard._costs import Cost
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.binding import binding_of
from budgetguard.browser._deletion import is_alive, refusal_in
from budgetguard.browser._steps import Ask
from budgetguard.guard import check_guard
from budgetguard.integrations._anchor_prices import PRICED, REPORTS, RETRY, EndReport, leaves_none
from budgetguard.integrations._extra import extra
from budgetguard.integrations._guarded_object import check_unguarded
from budgetguard.integrations._sdk import (
    Replaced,
    bound,
    checked_costs,
    credits_at,
    ended,
    requirement,
)
from budgetguard.providers.anchorbrowser.billing import BROWSER
from budgetguard.providers.anchorbrowser.provider import AnchorBrowser
from budgetguard.providers.billing import Unpriced, value_at

if TYPE_CHECKING:
    from budgetguard._engine.call_spec import CallSpec
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("anchorbrowser"):
    from anchorbrowser import (
        Anchorbrowser,
        APIConnectionError,
        APIStatusError,
        AsyncAnchorbrowser,
        NotFoundError,
    )


C = TypeVar("C", bound=Anchorbrowser | AsyncAnchorbrowser)
Async: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]

_SESSIONS = ("delete_session", "delete_all_sessions", "get_async_session_status")
_BATCHES = ("delete_batch_session", "get_batch_session")
_COPIES = ("copy", "with_options")
_CONCLUDING = (
    *(f"sessions.{name}" for name in _SESSIONS),
    *(f"batch_sessions.{name}" for name in _BATCHES),
)
_FREE = frozenset((*REPORTS, *_CONCLUDING, *_COPIES))
_PARTS = frozenset(path.partition(".")[0] for path in (*PRICED, *REPORTS))
# Resources whose methods call other methods of the client.
_HELPERS = ("agent", "browser")
_REFUSALS = frozenset(range(400, 500)) - {HTTPStatus.REQUEST_TIMEOUT}
_WITHIN = 10.0
# The states of a batch that starts no more sessions, and of one of its sessions that never began.
_BEGUN = frozenset({"completed", "failed", "cancelled"})
_NEVER_BEGUN = frozenset({"failed", "cancelled"})
# Each session of a batch takes a request to check.
_FEW = 20
# The number of recent batches for which the cost of a retry is remembered.
_REMEMBERED = 1024


@clean_traceback
def guarded(client: C, guard: "Guard", *, costs: Mapping[str, Cost] | None = None) -> C:
    """A client that refuses calls which its credits do not cover; so do its `with_options()` and `copy()`.

    What is held, and what it is settled at:

    - A session is held at the cost of its longest life, plus the minute that billing rounds up to, and
      takes a slot. It is settled at its `credits_used` when `delete_session` closes it, or is refused because
      the session ended by itself, and at what was held once its longest life is over. If the cost is
      not known by then, the hold is kept.
    - A batch is held at that cost for each of its sessions, and settled at what was held when it is deleted
      or cancelled.
    - A task is held at `max_steps` steps, plus a session unless it names one. Replies give no cost, so it is
      settled at what was held when it is over. No price is documented for generating tasks and for running
      generated ones: they are held at the largest number of steps.
    - A screenshot or PDF is held at one minute of a browser, `fetch_webpage` at 10 MB through proxies more.
    - A reply whose body is read later is held until it is closed or dropped.

    `costs` overrides this by names like `"tools.perform_web_task"`, with a number, a callable that is given
    the method's arguments, or a mapping of arguments for `require_credits`. A session without a longest
    life is a ValueError until you name its cost, and so is a retry of a batch that was not started here.
    Traffic through proxies is not part of a session's cost.

    A hold is kept when the outcome is unknown: time-outs, broken connections, server errors, and work for
    which the provider answers 404. If this object and its copies are dropped, the holds that are still open
    are kept too. Kept credits remain counted until a later balance shows what was charged: for as long as the
    sessions may live, or for the guard's `linger` if that is longer. A hold is released after a refusal
    (4xx) and after a connection that was never made. A 402 marks the guard exhausted, and so does a 403 for
    the project's cost limit: after either, nothing more can be spent now.

    A request that costs credits is sent only once, whatever the client's `max_retries`: an attempt without
    an answer may have started a browser. `browser.create`, `agent.task` and `agent.browser_task` call the
    guarded methods.

    Requests made with `client.post()` itself are not guarded, nor are calls that a subclass's own methods
    make inside: price those. Raises TypeError if `client` is not an SDK client or is already guarded, or if
    the guard is of another provider; AttributeError for costs of methods that the client does not have;
    ValueError for costs of methods that only settle or call other priced methods.
    """
    if not isinstance(client, Anchorbrowser | AsyncAnchorbrowser):
        msg = f"guarded() takes an Anchorbrowser or AsyncAnchorbrowser, not {type(client).__name__}"
        raise TypeError(msg)
    check_unguarded(client)
    check_guard(guard, AnchorBrowser)
    costs = checked_costs(costs)
    for name in costs:
        if name in _PARTS:
            msg = f"{name} is a part of the client, not a method: name one of its methods"
            raise TypeError(msg)
        if name in _FREE or name.partition(".")[0] in _HELPERS:
            msg = f"{name} only calls or settles methods that spend: price those"
            raise ValueError(msg)
    return cast("C", _Account(guard, costs, type(client).__name__).view(client))


@dataclass(slots=True)
class _Work:
    """Work that continues: its hold, its longest life in seconds once begun, and its end on the clock."""

    need: "CallSpec"
    hold: "Hold"
    life: float
    until: float = math.inf


class _View(Replaced):
    """A guarded client."""

    def __getattr__(self, name: str) -> Any:
        part = super().__getattr__(name)
        # A new one each time: a stored one and the client would keep each other alive.
        return type(part)(self) if name in _HELPERS else part


class _Account:
    """The guard and the holds that a guarded client and its copies share; it refers to none of these.

    Its methods are written for async clients. A sync client's methods are passed to them as coroutine
    functions that never wait, so that a single step runs each to its end.
    """

    def __init__(self, guard: "Guard", costs: Mapping[str, Cost], name: str) -> None:
        self._guard = guard
        self._costs = costs
        self._name = name
        self._open: dict[tuple[str, str], _Work] = {}
        # The cost and the life of each batch, even after it has ended, because it may be retried.
        self._batches: dict[str, tuple[Decimal, float]] = {}
        self._needs = {path: self._need(path) for path in PRICED}

    def view(self, client: Any) -> _View:
        """The client, with guarded methods in place of its own."""
        here: dict[str, Any] = {name: self._copies(client, name) for name in _COPIES}
        get_batch = client.batch_sessions.get_batch_session
        handlers = self._handlers(client.sessions.get_session, get_batch)
        more = {path: cost for path, cost in self._costs.items() if path not in PRICED}
        for part in _PARTS:
            methods = {}
            for name, handler in _within(handlers, part).items():
                method = getattr(getattr(client, part), name)
                spends = f"{part}.{name}" in PRICED
                methods[name] = _run(_once(client, part, method) if spends else method, handler)
            own, path = getattr(client, part), f"{self._name}.{part}"
            here[part] = Replaced(own, self._guard, _within(more, part), methods, path)
        others = {path: it for path, it in more.items() if path.partition(".")[0] not in here}
        return _View(client, self._guard, others, here, self._name)

    def _need(self, path: str, **options: Any) -> "CallSpec":
        priced = PRICED[path]
        cost = functools.partial(_retry, self._batches) if path == RETRY else priced.cost
        options |= {"min": cost, "slots": priced.slots, "name": f"{self._name}.{path}"}
        return requirement(self._guard, options, self._costs.get(path))

    def _need_for(self, path: str, life: float) -> "CallSpec":
        """The requirement of one call; a kept hold counts for as long as the work may live."""
        if binding_of(self._guard).linger < life < math.inf:
            return self._need(path, linger=min(life, LONGEST))
        return self._needs[path]

    def _life(self, path: str, how: Mapping[str, Any]) -> float:
        """The most seconds that the requested work can last; infinity if that is not known."""
        if path == RETRY:
            _, life = self._batches.get(str(how["batch_id"]), (None, math.inf))
            return life
        try:
            return PRICED[path].most(**how).life or math.inf
        except Unpriced:
            return math.inf  # priced by costs=

    def _copies(self, client: Any, name: str) -> Callable[..., Any]:
        copy = getattr(client, name)

        @functools.wraps(copy)
        def copying(*args: Any, **kwargs: Any) -> Any:
            return self.view(copy(*args, **kwargs))

        return copying

    def _handlers(
        self, get_session: Callable[..., Any], get_batch: Callable[..., Any]
    ) -> dict[str, Async]:
        opens = _aopen if inspect.iscoroutinefunction(get_session) else _open
        get_session, get_batch = _in_time(get_session), _in_time(get_batch)
        return {
            **{path: functools.partial(self._spend, path, opens) for path in PRICED},
            **{path: functools.partial(self._end, report) for path, report in REPORTS.items()},
            "sessions.delete_session": functools.partial(self._delete, get_session),
            "sessions.delete_all_sessions": functools.partial(self._delete_all, get_session),
            "sessions.get_async_session_status": self._follow,
            "batch_sessions.get_batch_session": self._see_batch,
            "batch_sessions.delete_batch_session": functools.partial(
                self._delete_batch, get_batch, get_session
            ),
        }

    async def _spend(self, path: str, opens: Async, method: Async, args: Any, kwargs: Any) -> Any:
        priced = PRICED[path]
        life = self._life(path, bound(method, args, kwargs))
        need = self._need_for(path, life)
        self._end_lives()
        hold = await opens(need, args, kwargs)
        try:
            reply = await method(*args, **kwargs)
        except BaseException as error:
            self._failed(hold, error)
            raise
        id = value_at(reply, priced.id) if priced.id else None
        if not priced.goes_on(reply):
            return ended(need, hold, reply)
        if id is None:
            hold.keep()
        else:
            self._put(priced.kind, id, _Work(need, hold, life))
        return reply

    async def _end(self, report: EndReport, method: Async, args: Any, kwargs: Any) -> Any:
        id = _first(method, args, kwargs)
        with self._keep_if_unknown(report.kind, id):
            reply = await method(*args, **kwargs)
        if report.over(reply):
            work = self._take(report.kind, id)
            if work is not None:
                work.need.settle(work.hold, reply)
        return reply

    async def _follow(self, method: Async, args: Any, kwargs: Any) -> Any:
        """Replace the id of a requested session by the session's own id, once that is known."""
        request = _first(method, args, kwargs)
        with self._keep_if_unknown("request", request):
            reply = await method(*args, **kwargs)
        session = value_at(reply, "data.session.session_id")
        lost = value_at(reply, "data.status") in {"failed", "cancelled"}
        work = self._take("request", request) if session is not None or lost else None
        if work is not None and session is not None:
            self._put("session", session, work)
        elif work is not None:
            work.hold.keep()
        return reply

    async def _delete(self, get_session: Async, method: Async, args: Any, kwargs: Any) -> Any:
        id = _first(method, args, kwargs)
        with self._keep_if_unknown("session", id):
            reply = await self._ending([id], get_session, method, args, kwargs)
        await self._gone(get_session, id)
        return reply

    async def _delete_all(self, get_session: Async, method: Async, args: Any, kwargs: Any) -> Any:
        # Those from before the request: a session that is created during it may continue.
        ids = [id for kind, id in list(self._open) if kind == "session"]
        reply = await self._ending(ids, get_session, method, args, kwargs)
        for id in ids:
            await self._gone(get_session, id)
        return reply

    async def _ending(
        self, ids: list[str], get_session: Async, method: Async, args: Any, kwargs: Any
    ) -> Any:
        """Request the end of sessions; if that is refused, they may have ended by themselves."""
        try:
            return await method(*args, **kwargs)
        except APIStatusError:
            for id in ids:
                if not await self._ask_about(get_session, id):
                    break
            raise

    async def _ask_about(self, get_session: Async, id: str) -> bool:
        """Request a session's state, and settle it if it is over; False if there is no answer."""
        if ("session", id) not in self._open:
            return True
        try:
            seen = await get_session(id)
        except Exception:  # noqa: BLE001  the caller gets the refusal itself
            return False
        status = value_at(seen, "data.status")
        if status is not None and not is_alive(status):
            work = self._take("session", id)
            if work is not None:
                _settle(work, seen, _used(seen))
        return True

    async def _see_batch(self, method: Async, args: Any, kwargs: Any) -> Any:
        """A batch that starts no more sessions is over when the last of them has reached its longest life."""
        id = _first(method, args, kwargs)
        with self._keep_if_unknown("batch", id):
            reply = await method(*args, **kwargs)
        self._begins_no_more(id, reply)
        return reply

    def _begins_no_more(self, id: str, seen: Any) -> bool:
        if value_at(seen, "data.status") not in _BEGUN:
            return False
        work = self._open.get(("batch", id))
        if work is not None:
            work.until = min(work.until, self._in(work.life))
        return True

    async def _delete_batch(
        self, get_batch: Async, get_session: Async, method: Async, args: Any, kwargs: Any
    ) -> Any:
        id = _first(method, args, kwargs)
        try:
            reply = await self._end(EndReport("batch", leaves_none), method, args, kwargs)
        except APIStatusError:
            await self._ask_about_batch(get_batch, get_session, id)
            raise
        await self._ask_about_batch(get_batch, get_session, id)
        return reply

    async def _ask_about_batch(self, get_batch: Async, get_session: Async, id: str) -> None:
        """Settle a batch that is still held after its deletion, if its sessions have ended by themselves.

        Each of its sessions takes a request, so a batch with more than a few is left until its longest life.
        """
        if ("batch", id) not in self._open:
            return
        used: int | None = 0
        try:
            batch = await get_batch(id)
            sessions = value_at(batch, "data.sessions")
            if not (self._begins_no_more(id, batch) and sessions) or len(sessions) > _FEW:
                return
            for each in sessions:
                if (
                    value_at(each, "session_id") is None
                    and value_at(each, "status") in _NEVER_BEGUN
                ):
                    continue
                seen = await get_session(value_at(each, "session_id"))
                status = value_at(seen, "data.status")
                if status is None or is_alive(status):
                    return
                spent = _used(seen)
                used = None if used is None or spent is None else used + spent
        except Exception:  # noqa: BLE001  the caller gets the outcome of the deletion itself
            return
        work = self._take("batch", id)
        if work is not None:
            _settle(work, batch, used)

    async def _gone(self, get_session: Async, id: str) -> None:
        """A session has ended: settle it at what it used, if that is known."""
        work = self._take("session", id)
        if work is None:
            return
        with work.hold as hold:
            try:
                seen = await get_session(id)
            except Exception:  # noqa: BLE001  the caller's own request succeeded
                hold.keep()
                return
            _settle(work, seen, _used(seen))

    @contextmanager
    def _keep_if_unknown(self, kind: str, id: str) -> Iterator[None]:
        """A block for a request about some work; after a 404, no reply will report that the work is over."""
        try:
            yield
        except NotFoundError:
            work = self._take(kind, id)
            if work is not None:
                work.hold.keep()
            raise

    def _in(self, seconds: float) -> float:
        return binding_of(self._guard).clock.monotonic() + seconds

    def _end_lives(self) -> None:
        """Settle work whose longest life is over, so that nobody has to delete it."""
        now = binding_of(self._guard).clock.monotonic()
        for (kind, id), work in list(self._open.items()):
            if work.until <= now and self._take(kind, id) is not None:
                work.hold.settle()

    def _put(self, kind: str, id: Any, work: _Work) -> None:
        if kind == "session":
            work.until = self._in(work.life)
        if kind == "batch":
            self._batches[str(id)] = work.hold.amount, work.life
            if len(self._batches) > _REMEMBERED:
                self._batches.pop(next(iter(tuple(self._batches))), None)
        nested.step_out(work.hold)
        self._open[kind, str(id)] = work

    def _take(self, kind: str, id: Any) -> _Work | None:
        """Remove and return the work of that id; of several callers, only the first receives it."""
        return self._open.pop((kind, str(id)), None)

    def _failed(self, hold: "Hold", error: BaseException) -> None:
        if isinstance(error, APIStatusError):
            refusal = refusal_in(error)
            if refusal is not None:
                # Before the release, which could admit another call.
                self._guard.mark_refused(refusal)
            if error.status_code in _REFUSALS:
                hold.release()
        elif isinstance(error, APIConnectionError) and isinstance(
            error.__cause__, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
        ):
            # By the cause: in this SDK, time-outs are connection errors too.
            hold.release()
        hold.finish(error)


def _settle(work: _Work, seen: Any, used: int | None) -> None:
    """End the hold of finished work, at the micro-credits that it used if that is known."""
    if used is None:
        work.hold.keep()
    elif work.need.actual is None:
        work.hold.end_at(used)
    else:
        work.need.settle(work.hold, seen)


def _used(seen: Any) -> int | None:
    """The micro-credits that a session used in all; None if that is not given or not yet final."""
    used = credits_at(seen, "data.credits_used")
    # A running session will use more, and a figure below the creation's cost is not complete.
    if used is None or to_credits(used) < BROWSER or is_alive(value_at(seen, "data.status")):
        return None
    return used


def _retry(begun: Mapping[str, tuple[Decimal, float]], batch_id: Any, **_: Any) -> Decimal:
    cost, _life = begun.get(str(batch_id), (None, None))
    return PRICED[RETRY].cost() if cost is None else cost


async def _open(need: "CallSpec", args: Any, kwargs: Any) -> "Hold":
    return need.open(None, args, kwargs)


async def _aopen(need: "CallSpec", args: Any, kwargs: Any) -> "Hold":
    return await need.aopen(None, args, kwargs)


def _first(method: Callable[..., Any], args: Any, kwargs: Any) -> str:
    return str(next(iter(bound(method, args, kwargs).values())))


def _within(paths: Mapping[str, Any], part: str) -> dict[str, Any]:
    start = f"{part}."
    return {path.removeprefix(start): it for path, it in paths.items() if path.startswith(start)}


def _once(client: Any, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The client's method without retries: an attempt without an answer may have cost credits."""

    def once(*args: Any, **kwargs: Any) -> Any:
        # Read now, because `max_retries` and the key can be set at any time.
        source = client.with_options(max_retries=0) if client.max_retries else client
        return getattr(getattr(source, part), method.__name__)(*args, **kwargs)

    async def aonce(*args: Any, **kwargs: Any) -> Any:
        return await once(*args, **kwargs)

    return functools.wraps(method)(aonce if inspect.iscoroutinefunction(method) else once)


def _as_async(method: Callable[..., Any]) -> Async:
    """The method as a coroutine function; if the method is synchronous, it never waits."""
    if inspect.iscoroutinefunction(method):
        return method

    @functools.wraps(method)
    async def as_async(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return as_async


def _in_time(get_session: Callable[..., Any]) -> Async:
    """A request of our own, with a short time-out: the SDK's default of 41 days would block the caller."""
    if inspect.iscoroutinefunction(get_session):

        async def ask(session: str) -> Any:
            return await Ask(functools.partial(get_session, session), _WITHIN).aanswer()

    else:

        async def ask(session: str) -> Any:
            return Ask(functools.partial(get_session, session), _WITHIN).answer()

    return ask


def _run(method: Callable[..., Any], handler: Async) -> Callable[..., Any]:
    """A function of the method's kind that runs the handler."""
    as_async = _as_async(method)

    @functools.wraps(method)
    async def arun(*args: Any, **kwargs: Any) -> Any:
        return await handler(as_async, args, kwargs)

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            handler(as_async, args, kwargs).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError

    return arun if as_async is method else run
