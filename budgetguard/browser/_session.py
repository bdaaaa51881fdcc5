"""One browser session: paid for before it opens, always ended, and settled at what it used."""

import inspect
import math
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from budgetguard._core.amounts import Amount, cost, exact, to_credits
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.clock import Instant
from budgetguard._core.durations import LONGEST, LONGEST_DAYS, seconds
from budgetguard._core.errors import HoldClosed
from budgetguard._core.events import logger
from budgetguard._engine.binding import binding_of
from budgetguard.browser._deletion import (
    Ending,
    end,
    end_tagged,
    never_began,
    refusal_in,
    sessions_of,
)
from budgetguard.browser._journal import Journal, JournalEntry, Note, account_of, check_journal
from budgetguard.browser._steps import Ask, Patience, RequestSteps, arun, checked_patience, run
from budgetguard.guard import check_guard
from budgetguard.providers.anchorbrowser.provider import AnchorBrowser

if TYPE_CHECKING:
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

MINUTES = 20
CREATE_WITHIN = 120.0


@clean_traceback
def browser_session(
    client: Any,
    guard: "Guard",
    minutes: int = MINUTES,
    *,
    extra: Amount = 0,
    slots: int = 1,
    wait: float = 0,
    name: str = "browser_session",
    journal: Journal | None = None,
    create_within: float = CREATE_WITHIN,
    patience: Patience | None = None,
    **create: Any,
) -> "Opening":
    """A block with an open browser session at Anchor Browser; it is closed with the block.

    Use `with` for an `Anchorbrowser` as `client`, `async with` for an `AsyncAnchorbrowser`. Before the
    session is requested, the block takes a slot of the account's `max_concurrency` and holds the credits for
    its longest life of `minutes`, by `AnchorBrowser`'s prices: the creation, each minute, and one minute that
    billing rounds up to. The provider gets the same `minutes` as `max_duration`, so even a session that
    nobody closes costs no more browser time than was held. `extra` credits are held for everything else that
    it uses: proxies, AI steps. `wait` (s) and `name` are those of `require_credits`; `create` is passed on
    to `create_session`: `session=`, `browser=`, `integrations=`, `identities=`.

    However the block is left, the session is deleted, in as many tries as `patience` allows, until the
    provider confirms that it is gone. Then the hold is settled at its `credits_used`, or, if the provider does
    not give that, at the time that passed plus all of `extra`. If the end cannot be confirmed, that is
    logged, the hold is kept (the outcome is unknown, so the credits remain counted until a later balance
    shows what was charged), and the session remains in the journal. An exception from the block is always
    raised. The session carries a random tag, by which it is found if the reply to its creation is lost.

    With a `journal`, the tag is on disk before the request, and the id before the block begins: `reap` closes
    what a killed process left open. Without a journal, such a session runs until its `max_duration`.

    The creation may take at most `create_within` seconds (0.25 s more in sync code), however slowly its reply
    arrives. Async code is cancelled only after that, because a session whose reply was never read would
    remain open. A Ctrl-C in sync code stops the wait; the session is then searched for and closed. A second
    Ctrl-C leaves that to `reap`. A forked child that leaves the block closes nothing.

    Raises what the admission raises (InsufficientCredits, ConcurrencyLimit, BalanceUnavailable, Paused) with
    nothing sent, the SDK's errors, OSError if the journal cannot be written, and TypeError or ValueError for invalid
    arguments. Each call returns an object that opens one session.
    """
    if isinstance(minutes, bool) or not isinstance(minutes, int):
        msg = f"minutes takes an int, not {type(minutes).__name__}"
        raise TypeError(msg)
    if minutes < 1:
        msg = f"minutes must be at least 1, not {minutes}: without a longest life, a session's cost is unlimited"
        raise ValueError(msg)
    if minutes > LONGEST / 60:
        msg = f"minutes must be at most {LONGEST / 60:.0f} ({LONGEST_DAYS} days), not {minutes}"
        raise ValueError(msg)
    if journal is not None:
        check_journal(journal)
    check_guard(guard, AnchorBrowser)
    _check(client, create)
    options = _Options(
        minutes,
        extra=to_credits(cost(extra, "extra")),
        admission={"slots": slots, "wait": wait, "name": name, "linger": 60 * minutes},
        create={**create, "session": _with_life(create.get("session"), minutes)},
        create_within=seconds(create_within, "create_within", positive=True),
        patience=checked_patience(patience),
    )
    return Opening(client, guard, journal, options)


class BrowserSession:
    """An open session, made by `browser_session`.

    `id`, `cdp_url` and `live_view_url` come from the provider, `data` is everything that the SDK returned,
    and `hold` is the session's hold. The URLs may contain a key, so they appear in no repr and no journal.
    """

    def __init__(self, life: "_Life", data: Any) -> None:
        self.id: str = data.id
        self.cdp_url: str | None = data.cdp_url
        self.live_view_url: str | None = data.live_view_url
        self.data = data
        self.hold = life.hold
        self._life = life

    def extend(self, credits: Amount) -> None:
        """Hold more credits, before something that costs more than the browser's time.

        It decides on the cached balance, as `Hold.extend` does, and raises InsufficientCredits if the credits
        are not available. The session's longest life does not change, because the API has no way to change it
        (anchorbrowser 1.0.1, 2026-11): if you need more time, request more `minutes` at the start.
        """
        self.hold.extend(credits)

    async def aextend(self, credits: Amount) -> None:
        """`extend`, for async code: with a store it may wait for that."""
        await self.hold.aextend(credits)

    def refresh(self) -> Decimal | None:
        """Fetch what the session has used so far, in credits, and adjust its hold.

        What has been charged is moved out of the hold. If that and the rest of the longest life come to more than
        was held, the hold is extended. Returns None if the provider does not give a figure. Raises
        InsufficientCredits if the credits to continue are not available: leave the block then. Also raises the
        SDK's errors, and TimeoutError if the answer takes longer than `patience.each`.
        """
        used, more = self._life.keep_up(self._life.snapshot(awaits=False).answer())
        if more > 0:
            self.hold.extend(more)
        return used

    async def arefresh(self) -> Decimal | None:
        """`refresh`, for async code."""
        used, more = self._life.keep_up(await self._life.snapshot(awaits=True).aanswer())
        if more > 0:
            await self.hold.aextend(more)
        return used

    def __repr__(self) -> str:
        return f"<BrowserSession {self.id}, {self.hold!r}>"


class Opening:
    """What `browser_session` returns: a sync and async context manager for one session."""

    def __init__(
        self, client: Any, guard: "Guard", journal: Journal | None, options: "_Options"
    ) -> None:
        self._client = client
        self._guard = guard
        self._journal = journal
        self._options = options
        self._free = [None]
        self._life: _Life | None = None

    def __enter__(self) -> BrowserSession:
        sessions = self._claim(awaits=False)
        hold = self._guard.acquire(cost=self._options.held, **self._options.admission)
        life = self._life = _Life(self._guard, hold, sessions, self._options)
        return run(life.begin(self._journal, self._client), self._options.patience)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._life is not None
        run(self._life.close(), self._options.patience)

    async def __aenter__(self) -> BrowserSession:
        sessions = self._claim(awaits=True)
        hold = await self._guard.aacquire(cost=self._options.held, **self._options.admission)
        life = self._life = _Life(self._guard, hold, sessions, self._options)
        try:
            return await arun(life.begin(self._journal, self._client), self._options.patience)
        except BaseException:
            if life.is_open:  # a cancellation was deferred until now
                await arun(life.close(), self._options.patience)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._life is not None
        await arun(self._life.close(), self._options.patience)

    def _claim(self, *, awaits: bool) -> Any:
        sessions = sessions_of(self._client, awaits=awaits)
        try:
            self._free.pop()
        except IndexError:
            msg = "This browser_session(...) was already entered. Make a new one for each session."
            raise RuntimeError(msg) from None
        return sessions


@dataclass(frozen=True, slots=True)
class _Options:
    minutes: int
    extra: Decimal
    admission: dict[str, Any]
    create: dict[str, Any]
    create_within: float
    patience: Patience

    @property
    def held(self) -> Decimal:
        return AnchorBrowser.session_cost(self.minutes) + self.extra


class _Life:
    """One session, from its request to its end."""

    def __init__(self, guard: "Guard", hold: "Hold", sessions: Any, options: _Options) -> None:
        self.hold = hold
        self._guard = guard
        self._sessions = sessions
        self._options = options
        self._process = os.getpid()
        self._began = self._now()
        self._entry: JournalEntry | None = None
        self._id: str | None = None
        self.is_open = False

    def begin(self, journal: Journal | None, client: Any) -> RequestSteps[BrowserSession]:
        """Record the intent, request the session, record its id."""
        options = self._options
        tag = f"budgetguard-{secrets.token_hex(16)}"
        try:
            if journal is not None:
                at = options.patience.clock.wall()
                self._entry = journal.begin(Note(tag, options.minutes, at, account_of(client)))
        except BaseException:
            self.hold.release()
            raise
        session = {**options.create["session"], "tags": [*options.create["session"]["tags"], tag]}
        request = partial(self._sessions.create_session, **{**options.create, "session": session})
        try:
            data = (yield Ask(request, options.create_within)).data
            self._id = _id_of(data)
            if self._entry is not None:
                self._entry.record(self._id)
        except GeneratorExit:
            self._leave()
            raise
        except BaseException as error:  # includes a Ctrl-C while the id is written
            if self._id is None and never_began(error):
                self._never_began(error)
            else:
                yield from self.close(tag)
            raise
        self.is_open = True
        return BrowserSession(self, data)

    def close(self, tag: str = "") -> RequestSteps[None]:
        """End the session, or the session that carries the tag, and end its hold."""
        if os.getpid() != self._process:
            return
        self.is_open = False
        try:
            if self._id is None:
                ending = yield from end_tagged(self._sessions, tag, self._options.patience)
            else:
                ending = yield from end(self._sessions, self._id, self._options.patience)
            with suppress(HoldClosed):
                self._settle(ending)
            if ending.gone:
                self._forget()
            else:
                self._tell(ending, tag)
        finally:
            self._leave()

    def snapshot(self, *, awaits: bool) -> Ask:
        """The request for the session's state."""
        if inspect.iscoroutinefunction(self._sessions.get_session) is not awaits:
            right = "session.refresh()" if awaits else "await session.arefresh()"
            kind = "a sync" if awaits else "an async"
            msg = f"this session was opened by {kind} client: use {right}"
            raise TypeError(msg)
        return Ask(partial(self._sessions.get_session, self._id), self._options.patience.each)

    def keep_up(self, seen: Any) -> tuple[Decimal | None, Decimal]:
        """Tell the hold what the session has used; returns that, and by how much to extend the hold."""
        used = _figure(getattr(seen.data, "credits_used", None))
        if used is None:
            return None, Decimal(0)
        self.hold.charged(used)
        rest = max(self._options.minutes - self._minutes(), 0)
        return used, used + _price(rest) - self.hold.amount

    def _settle(self, ending: Ending) -> None:
        if not ending.gone:
            self.hold.keep()
            return
        used = _figure(ending.credits_used)
        if used is None or used < AnchorBrowser.BROWSER:  # not charged yet
            time = _price(min(self._minutes(), self._options.minutes + 1))
            beyond = max(self.hold.amount - self._options.held, Decimal(0)) + self._options.extra
            used = AnchorBrowser.BROWSER + time + beyond
        self.hold.settle(used)

    def _never_began(self, error: BaseException) -> None:
        refusal = refusal_in(error)
        if refusal is not None:
            self._guard.mark_refused(refusal)
        self.hold.release()
        self._forget()

    def _forget(self) -> None:
        try:
            if self._entry is not None:
                self._entry.forget()
        except OSError:
            logger.exception("a session that is gone could not be removed from the journal")

    def _leave(self) -> None:
        """Whatever is still open is now left to the reapers and to later balances."""
        if self.hold.state == "open":
            with suppress(HoldClosed):
                self.hold.keep()
        if self._entry is not None:
            self._entry.leave()

    def _tell(self, ending: Ending, tag: str) -> None:
        what = self._id or f"the session with tag {tag}"
        advice = (
            f"call delete_session({self._id!r})" if self._id else "find it in the session history"
        )
        logger.warning(
            "%s is not confirmed gone (%s). It will close %d minutes after its creation; "
            "to close it earlier, %s",
            what,
            ending.reason,
            self._options.minutes,
            advice if self._entry is None else "call reap(client, journal)",
        )

    def _minutes(self) -> int:
        return max(math.ceil(self._now().since(self._began) / 60), 1)

    def _now(self) -> Instant:
        return binding_of(self._guard).clock.now()


def _price(minutes: int) -> Decimal:
    return AnchorBrowser.BROWSER_HOUR * minutes / 60


def _figure(credits: Any) -> Decimal | None:
    """What a session used, if that is a number of credits; it is "N/A" while the session runs, for example."""
    try:
        return to_credits(cost(exact(credits, "credits_used"), "credits_used"))
    except (TypeError, ValueError):
        return None


def _id_of(data: Any) -> str:
    id = getattr(data, "id", None)
    if not isinstance(id, str) or not id:
        msg = "Anchor Browser's reply to the creation lacks the session's id"
        raise RuntimeError(msg)
    return id


def _check(client: Any, create: Mapping[str, Any]) -> None:
    """Reject a guarded client, arguments that `create_session` does not take, and conflicting ones."""
    from budgetguard.integrations._guarded_object import check_unguarded

    check_unguarded(client)
    if not hasattr(client, "sessions"):
        msg = f"browser_session takes an Anchorbrowser or AsyncAnchorbrowser, not {type(client).__name__}"
        raise TypeError(msg)
    if "timeout" in create:
        msg = "use `create_within` for the time-out of the creation: leave timeout out"
        raise ValueError(msg)
    if "session" in (create.get("extra_body") or ()):
        msg = "extra_body would replace the session's longest life and tag: use session= instead"
        raise ValueError(msg)
    inspect.signature(client.sessions.create_session).bind(**create)


def _with_life(given: Mapping[str, Any] | None, minutes: int) -> dict[str, Any]:
    """The user's session configuration, with its longest life and a list for the tag."""
    session = dict(given or {})
    timeout = dict(session.get("timeout") or {})
    if "max_duration" in timeout:
        msg = "use `minutes` for the longest life: leave session.timeout.max_duration out"
        raise ValueError(msg)
    return {
        **session,
        "tags": list(session.get("tags") or ()),
        "timeout": {**timeout, "max_duration": minutes},
    }
