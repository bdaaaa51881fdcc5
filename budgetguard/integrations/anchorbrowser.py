"""Anchor Browser's SDK, plain and async, with a guard before everything in it that spends."""

import functools
import inspect
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import httpx

from budgetguard import nested
from budgetguard.browser.course import Ask
from budgetguard.browser.ending import is_alive, wants_credits
from budgetguard.credits import to_credits
from budgetguard.discreet import discreet
from budgetguard.durations import LONGEST
from budgetguard.guard import check_guard
from budgetguard.integrations._anchor_prices import PRICED, RETRY, TOLD, Told
from budgetguard.integrations._extra import extra
from budgetguard.integrations._sdk import Replaced, bound, credits_said, ended, requirement
from budgetguard.integrations.objects import Cost, check_unguarded
from budgetguard.providers.anchorbrowser import AnchorBrowser
from budgetguard.providers.anchorbrowser_wire import BROWSER
from budgetguard.wire import Unpriced, said

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.hold import Hold
    from budgetguard.requirement import Requirement

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
_COPIES = ("copy", "with_options")
_FREE = frozenset((*TOLD, *(f"sessions.{name}" for name in _SESSIONS), *_COPIES))
_PARTS = frozenset(path.partition(".")[0] for path in (*PRICED, *TOLD))
# Resources whose methods call those of the client that they are given.
_HELPERS = ("agent", "browser")
_REFUSALS = frozenset(range(400, 500)) - {HTTPStatus.REQUEST_TIMEOUT}
_WITHIN = 10.0


@discreet
def guarded(client: C, guard: "Guard", *, costs: Mapping[str, Cost] | None = None) -> C:
    """`client`, refusing what its credits will not pay for; so do `with_options()` and `copy()`.

    A session is held at what its longest life costs, with the minute that billing rounds up to, and
    takes a slot; a batch at as much for each of its sessions. A session is settled at its
    `credits_used` when `delete_session` has ended it or is refused because it ended by itself, at what
    was held when its longest life is over, and kept where the cost is not known by then; a batch is settled at what was held when it
    is deleted or cancelled. A task is held at `max_steps` steps, and at a session too unless it names
    one; as replies name no cost, it is settled at that when it is over. A screenshot or PDF is held
    at a browser's minute, `fetch_webpage` at 10 MB through proxies more. For tasks that are
    generated, and for running them, no price is documented: they are held at the most steps. A reply
    that is yet to be read is held until it is closed or left.

    `costs` says otherwise, by names like `"tools.perform_web_task"`: a number, a callable given the
    method's arguments, or the arguments of `require_credits` in a mapping. A session without a
    longest life is a ValueError until its cost is named, and so is a retry of a batch that was not
    begun here. What sessions send through proxies is not in their cost.

    `browser.create`, `agent.task` and `agent.browser_task` call the guarded methods. Holds of what
    goes on end with this object and its copies, if nothing ended them before: dropped holds are kept.
    So are those of what the provider answers with 404 when it is asked for. What is kept counts for as
    long as its sessions may live, or for the guard's `linger` if that is longer. What spends is sent
    once, whatever the client's `max_retries`: behind an attempt that had no answer a browser may run.

    A 402 marks the guard exhausted, and so does a 403 by the project's cost limit: both say that
    nothing more can be spent now. Refusals by 4xx, and connections that were never made, release.
    Time-outs, broken connections and errors of the server keep.

    Requests made by `client.post()` itself are not guarded, nor calls that a subclass's own methods
    make inside: price those. Raises TypeError for what is no client or is guarded already, and for a
    guard of another account; AttributeError for costs of methods it does not have; ValueError for
    costs of methods that tell of others' costs, or that only call priced ones.
    """
    if not isinstance(client, Anchorbrowser | AsyncAnchorbrowser):
        msg = f"guarded() takes an Anchorbrowser or AsyncAnchorbrowser, not {type(client).__name__}"
        raise TypeError(msg)
    check_unguarded(client)
    check_guard(guard, AnchorBrowser)
    costs = costs or {}
    for name in costs:
        if name in _PARTS:
            msg = f"{name} is no method, but a part of the client: name one of its methods"
            raise TypeError(msg)
        if name in _FREE or name.partition(".")[0] in _HELPERS:
            msg = f"{name} only calls or settles methods that spend: price those"
            raise ValueError(msg)
    return cast("C", _Account(guard, costs, type(client).__name__).view(client))


@dataclass(frozen=True, slots=True)
class _Work:
    """What goes on: its hold, how many seconds it lives at most, and until when."""

    need: "Requirement"
    hold: "Hold"
    life: float
    until: float = math.inf


class _View(Replaced):
    """A guarded client."""

    def __getattr__(self, name: str) -> Any:
        part = super().__getattr__(name)
        # Made anew each time: kept here, it and the client would keep each other from being dropped.
        return type(part)(self) if name in _HELPERS else part


class _Account:
    """The guard and the holds that a guarded client and its copies share; it refers to none of them.

    Its methods are written for async clients. Plain ones are lent to them as coroutine functions
    that never wait, so that one step runs the whole.
    """

    def __init__(self, guard: "Guard", costs: Mapping[str, Cost], name: str) -> None:
        self._guard = guard
        self._costs = costs
        self._name = name
        self._open: dict[tuple[str, str], _Work] = {}
        self._needs = {path: self._need(path) for path in PRICED}

    def view(self, client: Any) -> _View:
        """The client, with guarded methods in the place of its own."""
        here: dict[str, Any] = {name: self._copies(client, name) for name in _COPIES}
        courses = self._courses(client.sessions.get_session)
        more = {path: cost for path, cost in self._costs.items() if path not in PRICED}
        for part in _PARTS:
            methods = {}
            for name, course in _within(courses, part).items():
                method = getattr(getattr(client, part), name)
                spends = f"{part}.{name}" in PRICED
                methods[name] = _run(_once(client, part, method) if spends else method, course)
            own, path = getattr(client, part), f"{self._name}.{part}"
            here[part] = Replaced(own, self._guard, _within(more, part), methods, path)
        others = {path: it for path, it in more.items() if path.partition(".")[0] not in here}
        return _View(client, self._guard, others, here, self._name)

    def _need(self, path: str, **terms: Any) -> "Requirement":
        priced = PRICED[path]
        cost = functools.partial(_retry, self._open) if path == RETRY else priced.cost
        terms |= {"min": cost, "slots": priced.slots, "name": f"{self._name}.{path}"}
        return requirement(self._guard, terms, self._costs.get(path))

    def _need_for(self, path: str, life: float) -> "Requirement":
        """What one call needs; a hold that is kept counts for as long as the work may live."""
        if self._guard.linger < life < math.inf:
            return self._need(path, linger=min(life, LONGEST))
        return self._needs[path]

    def _life(self, path: str, how: Mapping[str, Any]) -> float:
        """Seconds that what is asked for goes on at most; infinity where that is not known."""
        if path == RETRY:
            begun = self._open.get(("batch", str(how["batch_id"])))
            return begun.life if begun else math.inf
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

    def _courses(self, get_session: Callable[..., Any]) -> dict[str, Async]:
        opens = _aopen if inspect.iscoroutinefunction(get_session) else _open
        get_session = _in_time(get_session)
        return {
            **{path: functools.partial(self._spend, path, opens) for path in PRICED},
            **{path: functools.partial(self._end, told) for path, told in TOLD.items()},
            "sessions.delete_session": functools.partial(self._delete, get_session),
            "sessions.delete_all_sessions": functools.partial(self._delete_all, get_session),
            "sessions.get_async_session_status": self._follow,
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
        id = said(reply, priced.id) if priced.id else None
        if not priced.goes_on(reply):
            return ended(need, hold, reply)
        if id is None:
            hold.keep()
        else:
            self._put(priced.kind, id, _Work(need, hold, life))
        return reply

    async def _end(self, told: Told, method: Async, args: Any, kwargs: Any) -> Any:
        id = _first(method, args, kwargs)
        with self._asking(told.kind, id):
            reply = await method(*args, **kwargs)
        if told.over(reply):
            work = self._take(told.kind, id)
            if work is not None:
                work.need.settle(work.hold, reply)
        return reply

    async def _follow(self, method: Async, args: Any, kwargs: Any) -> Any:
        """A session that was asked for gets its own id."""
        request = _first(method, args, kwargs)
        with self._asking("request", request):
            reply = await method(*args, **kwargs)
        session = said(reply, "data.session.session_id")
        lost = said(reply, "data.status") in {"failed", "cancelled"}
        work = self._take("request", request) if session is not None or lost else None
        if work is not None and session is not None:
            self._put("session", session, work)
        elif work is not None:
            work.hold.keep()
        return reply

    async def _delete(self, get_session: Async, method: Async, args: Any, kwargs: Any) -> Any:
        id = _first(method, args, kwargs)
        with self._asking("session", id):
            reply = await self._ending([id], get_session, method, args, kwargs)
        await self._gone(get_session, id)
        return reply

    async def _delete_all(self, get_session: Async, method: Async, args: Any, kwargs: Any) -> Any:
        # Those of before the request: one that is created during it may go on.
        ids = [id for kind, id in list(self._open) if kind == "session"]
        reply = await self._ending(ids, get_session, method, args, kwargs)
        for id in ids:
            await self._gone(get_session, id)
        return reply

    async def _ending(
        self, ids: list[str], get_session: Async, method: Async, args: Any, kwargs: Any
    ) -> Any:
        """Ask for the end of sessions; where that is turned down, they may have ended by themselves."""
        try:
            return await method(*args, **kwargs)
        except APIStatusError:
            for id in ids:
                if not await self._ask_about(get_session, id):
                    break
            raise

    async def _ask_about(self, get_session: Async, id: str) -> bool:
        """Ask for a session and settle it if it is over; False where nobody answers."""
        if ("session", id) not in self._open:
            return True
        try:
            seen = await get_session(id)
        except Exception:  # noqa: BLE001  the caller is told of the refusal
            return False
        status = said(seen, "data.status")
        if status is not None and not is_alive(status):
            work = self._take("session", id)
            if work is not None:
                _settle(work, seen)
        return True

    async def _gone(self, get_session: Async, id: str) -> None:
        """A session has ended: settle it at what it used, if that can be had."""
        work = self._take("session", id)
        if work is None:
            return
        with work.hold as hold:
            try:
                seen = await get_session(id)
            except Exception:  # noqa: BLE001  the caller's own request went well
                hold.keep()
                return
            _settle(work, seen)

    @contextmanager
    def _asking(self, kind: str, id: str) -> Iterator[None]:
        """Ask about some work; of what the provider does not know nobody will hear the end."""
        try:
            yield
        except NotFoundError:
            work = self._take(kind, id)
            if work is not None:
                work.hold.keep()
            raise

    def _end_lives(self) -> None:
        """Settle sessions that cannot be running any more, so that nobody has to delete them."""
        now = self._guard.runtime.clock.monotonic()
        for (kind, id), work in list(self._open.items()):
            if work.until <= now and self._take(kind, id) is not None:
                work.hold.settle()

    def _put(self, kind: str, id: Any, work: _Work) -> None:
        if kind == "session":
            work = replace(work, until=self._guard.runtime.clock.monotonic() + work.life)
        nested.step_out(work.hold)
        self._open[kind, str(id)] = work

    def _take(self, kind: str, id: Any) -> _Work | None:
        """The work of that id, for the one of those who hear of its end that comes first."""
        return self._open.pop((kind, str(id)), None)

    def _failed(self, hold: "Hold", error: BaseException) -> None:
        if isinstance(error, APIStatusError):
            if wants_credits(error):
                # Before the release, which would let somebody in.
                self._guard.mark_exhausted()
            if error.status_code in _REFUSALS:
                hold.release()
        elif isinstance(error, APIConnectionError) and isinstance(
            error.__cause__, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
        ):
            # By the cause: time-outs are connection errors of this SDK too.
            hold.release()
        hold.finish(error)


def _settle(work: _Work, seen: Any) -> None:
    """End the hold of a session that is over, at what the provider says that it used."""
    used = credits_said(seen, "data.credits_used")
    # What runs on will use more, and less than its creation costs is not all of it.
    if used is None or to_credits(used) < BROWSER or is_alive(said(seen, "data.status")):
        work.hold.keep()
    elif work.need.actual is None:
        work.hold.settle(to_credits(used))
    else:
        work.need.settle(work.hold, seen)


def _retry(open_: Mapping[tuple[str, str], _Work], batch_id: Any, **_: Any) -> Decimal:
    work = open_.get(("batch", str(batch_id)))
    return PRICED[RETRY].cost() if work is None else work.hold.amount


async def _open(need: "Requirement", args: Any, kwargs: Any) -> "Hold":
    return need.open(None, args, kwargs)


async def _aopen(need: "Requirement", args: Any, kwargs: Any) -> "Hold":
    return await need.aopen(None, args, kwargs)


def _first(method: Callable[..., Any], args: Any, kwargs: Any) -> str:
    return str(next(iter(bound(method, args, kwargs).values())))


def _within(paths: Mapping[str, Any], part: str) -> dict[str, Any]:
    start = f"{part}."
    return {path.removeprefix(start): it for path, it in paths.items() if path.startswith(start)}


def _once(client: Any, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The client's method without retries: what had no answer is tried again, and may have spent."""

    def once(*args: Any, **kwargs: Any) -> Any:
        # Now, because `max_retries` and the key can be set at any time.
        source = client.with_options(max_retries=0) if client.max_retries else client
        return getattr(getattr(source, part), method.__name__)(*args, **kwargs)

    async def aonce(*args: Any, **kwargs: Any) -> Any:
        return await once(*args, **kwargs)

    return functools.wraps(method)(aonce if inspect.iscoroutinefunction(method) else once)


def _lent(method: Callable[..., Any]) -> Async:
    """The method as a coroutine function; one that is a plain method's never waits."""
    if inspect.iscoroutinefunction(method):
        return method

    @functools.wraps(method)
    async def lent(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return lent


def _in_time(get_session: Callable[..., Any]) -> Async:
    """A question of our own: the caller is not kept for the SDK's time-out, 41 days by default."""
    if inspect.iscoroutinefunction(get_session):

        async def ask(session: str) -> Any:
            return await Ask(functools.partial(get_session, session), _WITHIN).aanswer()

    else:

        async def ask(session: str) -> Any:
            return Ask(functools.partial(get_session, session), _WITHIN).answer()

    return ask


def _run(method: Callable[..., Any], course: Async) -> Callable[..., Any]:
    """A function of the method's kind, which goes the course."""
    lent = _lent(method)

    @functools.wraps(method)
    async def arun(*args: Any, **kwargs: Any) -> Any:
        return await course(lent, args, kwargs)

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            course(lent, args, kwargs).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError

    return arun if lent is method else run
