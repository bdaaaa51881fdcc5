"""One browser session: paid for before it is opened, ended whatever happens, settled at what it used."""

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

from budgetguard.browser.course import Ask, Course, Patience, arun, checked_patience, run
from budgetguard.browser.ending import (
    Ending,
    end,
    end_tagged,
    never_began,
    sessions_of,
    wants_credits,
)
from budgetguard.browser.journal import Entry, Journal, Note, account_of, check_journal
from budgetguard.clock import Instant
from budgetguard.credits import Amount, cost, exact, to_credits
from budgetguard.discreet import discreet
from budgetguard.durations import LONGEST, LONGEST_DAYS, seconds
from budgetguard.errors import HoldClosed
from budgetguard.events import logger
from budgetguard.guard import check_guard
from budgetguard.providers.anchorbrowser import AnchorBrowser

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

MINUTES = 20
CREATE_WITHIN = 120.0


@discreet
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
    """A block with a browser session at Anchor Browser in it, which ends with the block.

    `with` takes an `Anchorbrowser` as `client`, `async with` an `AsyncAnchorbrowser`. Before the
    session is asked for, the block takes a slot of the account's `max_concurrency` and the credits
    for the longest life of `minutes`: the creation, each minute and one that billing rounds up to, by
    `AnchorBrowser`'s prices. The provider is given the same `minutes` as `max_duration`, so that even
    a session nobody ends costs no more browser time than was held. `extra` credits are held for what
    else it uses: proxies, AI steps. `wait` (s) and `name` are those of `require_credits`; `create`
    is passed on to `create_session`: `session=`, `browser=`, `integrations=`, `identities=`.

    On every way out the session is deleted, by the tries that `patience` allows, until the provider
    confirms that it is gone; then the hold is settled at its `credits_used`, or, where the provider
    does not say, at the time that passed, with all of `extra`. An end that could not be confirmed is
    logged, keeps the hold and stays in the journal; it never hides what the block raised. The session
    carries a random tag, by which it is found again if its creation's reply is lost.

    With a `journal`, tag and id are on disk before the request and before the block: `reap` ends what
    a killed process left. Without one such a session lives until its `max_duration`.

    The creation is waited for at most `create_within` seconds (in plain code a quarter more), however
    slowly its reply drips; async code is cancelled only after that, because a session whose reply nobody
    reads would be left open. A Ctrl-C in plain code ends the wait, and what was created is looked for
    and ended; a second one leaves it to `reap`. A forked child that leaves the block ends nothing.

    Raises what admission raises (InsufficientCredits, ConcurrencyLimit, BalanceUnavailable) with
    nothing sent, the SDK's errors, OSError where the journal cannot be written, and TypeError or
    ValueError for arguments that cannot be. One object opens one session.
    """
    if isinstance(minutes, bool) or not isinstance(minutes, int):
        msg = f"minutes takes an int, not {type(minutes).__name__}"
        raise TypeError(msg)
    if minutes < 1:
        msg = f"minutes must be at least 1, not {minutes}: a session without a longest life may cost anything"
        raise ValueError(msg)
    if minutes > LONGEST / 60:
        msg = f"minutes must be at most {LONGEST / 60:.0f}, which are {LONGEST_DAYS} days, not {minutes}"
        raise ValueError(msg)
    if journal is not None:
        check_journal(journal)
    check_guard(guard, AnchorBrowser)
    _check(client, create)
    terms = _Terms(
        minutes,
        extra=to_credits(cost(extra, "extra")),
        admission={"slots": slots, "wait": wait, "name": name, "linger": 60 * minutes},
        create={**create, "session": _with_life(create.get("session"), minutes)},
        create_within=seconds(create_within, "create_within", positive=True),
        patience=checked_patience(patience),
    )
    return Opening(client, guard, journal, terms)


class BrowserSession:
    """A session that is open. Made by `browser_session`.

    `id`, `cdp_url` and `live_view_url` are the provider's, `data` all that the SDK returned, `hold`
    what is set aside. The URLs may carry a key: they are in no repr and no journal.
    """

    def __init__(self, course: "_Life", data: Any) -> None:
        self.id: str = data.id
        self.cdp_url: str | None = data.cdp_url
        self.live_view_url: str | None = data.live_view_url
        self.data = data
        self.hold = course.hold
        self._life = course

    def extend(self, credits: Amount) -> None:
        """Set more credits aside, before something that costs beyond the browser's time.

        Decides on the balance at hand, as `Hold.extend` does, and raises what that raises:
        InsufficientCredits where they are not there. The session's longest life stays as it is,
        because the API has no way to change it (anchorbrowser 1.0.1, 2026-11): ask for more `minutes`.
        """
        self.hold.extend(credits)

    def refresh(self) -> Decimal | None:
        """Ask what the session has used so far, in credits, and have its hold keep up with it.

        What is booked is not held any longer, and where that and the rest of its longest life come to
        more than was set aside, the hold is extended. None where the provider does not say. Raises
        InsufficientCredits where the credits for going on are not there: leave the block then. Raises
        the SDK's errors too, and TimeoutError for an answer that takes longer than `patience.each`.
        """
        return self._life.keep_up(self._life.look(awaits=False).answer())

    async def arefresh(self) -> Decimal | None:
        """`refresh`, for code that awaits."""
        return self._life.keep_up(await self._life.look(awaits=True).aanswer())

    def __repr__(self) -> str:
        return f"<BrowserSession {self.id}, {self.hold!r}>"


class Opening:
    """What `browser_session` returns: a context manager, plain or async, for one session."""

    def __init__(
        self, client: Any, guard: "Guard", journal: Journal | None, terms: "_Terms"
    ) -> None:
        self._client = client
        self._guard = guard
        self._journal = journal
        self._terms = terms
        self._free = [None]
        self._life: _Life | None = None

    def __enter__(self) -> BrowserSession:
        sessions = self._claim(awaits=False)
        hold = self._guard.acquire(cost=self._terms.held, **self._terms.admission)
        life = self._life = _Life(self._guard, hold, sessions, self._terms)
        return run(life.begin(self._journal, self._client), self._terms.patience)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._life is not None
        run(self._life.close(), self._terms.patience)

    async def __aenter__(self) -> BrowserSession:
        sessions = self._claim(awaits=True)
        hold = await self._guard.aacquire(cost=self._terms.held, **self._terms.admission)
        life = self._life = _Life(self._guard, hold, sessions, self._terms)
        try:
            return await arun(life.begin(self._journal, self._client), self._terms.patience)
        except BaseException:
            if life.is_open:  # a cancellation was put off until then
                await arun(life.close(), self._terms.patience)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._life is not None
        await arun(self._life.close(), self._terms.patience)

    def _claim(self, *, awaits: bool) -> Any:
        sessions = sessions_of(self._client, awaits=awaits)
        try:
            self._free.pop()
        except IndexError:
            msg = "This browser_session(...) was entered before. Make a new one for each session."
            raise RuntimeError(msg) from None
        return sessions


@dataclass(frozen=True, slots=True)
class _Terms:
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
    """One session from its request to its end."""

    def __init__(self, guard: "Guard", hold: "Hold", sessions: Any, terms: _Terms) -> None:
        self.hold = hold
        self._guard = guard
        self._sessions = sessions
        self._terms = terms
        self._process = os.getpid()
        self._began = self._now()
        self._entry: Entry | None = None
        self._id: str | None = None
        self.is_open = False

    def begin(self, journal: Journal | None, client: Any) -> Course[BrowserSession]:
        """Write the intent down, ask for the session, write its id down."""
        terms = self._terms
        tag = f"budgetguard-{secrets.token_hex(16)}"
        try:
            if journal is not None:
                at = terms.patience.clock.wall()
                self._entry = journal.begin(Note(tag, terms.minutes, at, account_of(client)))
        except BaseException:
            self.hold.release()
            raise
        session = {**terms.create["session"], "tags": [*terms.create["session"]["tags"], tag]}
        request = partial(self._sessions.create_session, **{**terms.create, "session": session})
        try:
            data = (yield Ask(request, terms.create_within)).data
            self._id = _id_of(data)
            if self._entry is not None:
                self._entry.record(self._id)
        except GeneratorExit:
            self._leave()
            raise
        except BaseException as error:  # a Ctrl-C while the id is written, too
            if self._id is None and never_began(error):
                self._never_began(error)
            else:
                yield from self.close(tag)
            raise
        self.is_open = True
        return BrowserSession(self, data)

    def close(self, tag: str = "") -> Course[None]:
        """End the session, or whichever carries the tag, and settle its hold."""
        if os.getpid() != self._process:
            return
        self.is_open = False
        try:
            if self._id is None:
                ending = yield from end_tagged(self._sessions, tag, self._terms.patience)
            else:
                ending = yield from end(self._sessions, self._id, self._terms.patience)
            with suppress(HoldClosed):
                self._settle(ending)
            if ending.gone:
                self._forget()
            else:
                self._tell(ending, tag)
        finally:
            self._leave()

    def look(self, *, awaits: bool) -> Ask:
        """The question what the provider says of the session."""
        if inspect.iscoroutinefunction(self._sessions.get_session) is not awaits:
            right = "session.refresh()" if awaits else "await session.arefresh()"
            msg = f"this session was opened by the other kind of client: use {right}"
            raise TypeError(msg)
        return Ask(partial(self._sessions.get_session, self._id), self._terms.patience.each)

    def keep_up(self, seen: Any) -> Decimal | None:
        """Have the hold follow what the session has used."""
        used = _figure(getattr(seen.data, "credits_used", None))
        if used is None:
            return None
        self.hold.charged(used)
        rest = max(self._terms.minutes - self._minutes(), 0)
        more = used + _price(rest) - self.hold.amount
        if more > 0:
            self.hold.extend(more)
        return used

    def _settle(self, ending: Ending) -> None:
        if not ending.gone:
            self.hold.keep()
            return
        used = _figure(ending.credits_used)
        if used is None or used < AnchorBrowser.BROWSER:  # not booked yet
            time = _price(min(self._minutes(), self._terms.minutes + 1))
            beyond = max(self.hold.amount - self._terms.held, Decimal(0)) + self._terms.extra
            used = AnchorBrowser.BROWSER + time + beyond
        self.hold.settle(used)

    def _never_began(self, error: BaseException) -> None:
        if wants_credits(error):
            self._guard.mark_exhausted()
        self.hold.release()
        self._forget()

    def _forget(self) -> None:
        try:
            if self._entry is not None:
                self._entry.forget()
        except OSError:
            logger.exception("a session that is gone could not be taken out of the journal")

    def _leave(self) -> None:
        """Whatever has not ended by now is the reapers' and the balance's to find out."""
        if self.hold.state == "open":
            with suppress(HoldClosed):
                self.hold.keep()
        if self._entry is not None:
            self._entry.leave()

    def _tell(self, ending: Ending, tag: str) -> None:
        what = self._id or f"the session with tag {tag}"
        advice = f"call delete_session({self._id!r})" if self._id else "look for it in the history"
        logger.warning(
            "%s is not confirmed gone (%s). It ends by itself %d minutes after its creation; "
            "to end it before, %s",
            what,
            ending.reason,
            self._terms.minutes,
            advice if self._entry is None else "call reap(client, journal)",
        )

    def _minutes(self) -> int:
        return max(math.ceil(self._now().since(self._began) / 60), 1)

    def _now(self) -> Instant:
        return self._guard.runtime.clock.now()


def _price(minutes: int) -> Decimal:
    return AnchorBrowser.BROWSER_HOUR * minutes / 60


def _figure(credits: Any) -> Decimal | None:
    """What a session used, where that is a number of credits; "N/A" while it runs, for one, is not."""
    try:
        return to_credits(cost(exact(credits, "credits_used"), "credits_used"))
    except (TypeError, ValueError):
        return None


def _id_of(data: Any) -> str:
    id = getattr(data, "id", None)
    if not isinstance(id, str) or not id:
        msg = "Anchor Browser answered the creation without the session's id"
        raise RuntimeError(msg)
    return id


def _check(client: Any, create: Mapping[str, Any]) -> None:
    """Refuse a guarded client, what `create_session` does not take, and what would undo our own."""
    from budgetguard.integrations.objects import check_unguarded

    check_unguarded(client)
    if "timeout" in create:
        msg = "the creation's time-out is the argument `create_within`: leave timeout out"
        raise ValueError(msg)
    if "session" in (create.get("extra_body") or ()):
        msg = "extra_body would replace the session's longest life and tag: use session="
        raise ValueError(msg)
    inspect.signature(client.sessions.create_session).bind(**create)


def _with_life(given: Mapping[str, Any] | None, minutes: int) -> dict[str, Any]:
    """The user's configuration of the session, with its longest life and room for a tag."""
    session = dict(given or {})
    timeout = dict(session.get("timeout") or {})
    if "max_duration" in timeout:
        msg = "the longest life is the argument `minutes`: leave session.timeout.max_duration out"
        raise ValueError(msg)
    return {
        **session,
        "tags": list(session.get("tags") or ()),
        "timeout": {**timeout, "max_duration": minutes},
    }
