"""Follows submitted work to its end, so that a program which no longer asks about it need not.

A `Follower` requests the status of an account's works on the private loop, when the program has not asked
for a while. A call whose reply was lost has no id: it is searched for once, and followed if exactly one
piece of work can be its own.

There is no lock. Callers only set attributes and append, and everything else happens on the loop's
thread. A forked child has no follower: it neither asks for its parent's work nor ends its holds.
"""

import heapq
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from weakref import WeakValueDictionary

from budgetguard._core.events import logger
from budgetguard._core.status_schedule import (
    EVERY,
    SEARCH_AFTER,
    SEARCH_FOR,
    SILENCE,
    RequestPause,
    StatusSchedule,
)
from budgetguard._engine.hold import NullHold
from budgetguard._engine.submitted_work import FoundWork, StatusRequest, Work, Works
from budgetguard.providers.billing import BillingReply, LostCall, WorkStatus

if TYPE_CHECKING:
    from budgetguard._engine.subscriber import Subscriber
    from budgetguard._io.loop import Runtime
    from budgetguard.providers.base import Profile

_LATER = float("inf")

# How far the provider's clock and this machine's may differ, in seconds.
CLOCK_ALLOWANCE = 60.0
# Work of finished calls, which cannot be that of a lost one; the oldest is forgotten.
_MOST_CLAIMED = 1024
# A longer reply is read in a thread, because parsing it would delay the loop's other work.
_LONG_REPLY = 16 * 1024

# These end the program or come from a finalizer, where nothing is to be started.
_NO_SEARCH = (KeyboardInterrupt, SystemExit, GeneratorExit)

ReadStatus: TypeAlias = Callable[[BillingReply], WorkStatus | None]


class FollowedAccount(Protocol):
    """What a follower needs from its account."""

    followers: "dict[str, Follower]"

    @property
    def follower(self) -> "Follower | None":
        """The one there is, if any."""
        ...

    @property
    def runtime(self) -> "Runtime":
        """The private loop of this process."""
        ...


class Sending:
    """A request that could be searched for, from when it is sent until its outcome is known."""

    __slots__ = ("__weakref__", "_contested", "_others", "lost", "sent")

    def __init__(
        self, others: "WeakValueDictionary[int, Sending]", lost: LostCall, sent: float
    ) -> None:
        self.lost = lost
        self.sent = sent
        self._contested = False
        self._others = others

    def end(self) -> None:
        """Its outcome is known, or its search is over."""
        self._others.pop(id(self), None)

    def is_alone(self) -> bool:
        """Whether no other request under way could have begun the same work; none of several ever is."""
        # A list of its own, as other threads add to it.
        for each in self._others.valuerefs():
            other = each()
            if other is not None and other is not self and other.lost.key == self.lost.key:
                other.contest()
                self.contest()
        return not self._contested

    def contest(self) -> None:
        """Another request could have begun its work."""
        self._contested = True


class Follower(Works):
    """The works of one account that the library asks about."""

    def __init__(self, runtime: "Runtime") -> None:
        super().__init__()
        self._runtime = runtime
        self._pause = RequestPause()
        self._new: deque[Work] = deque()
        self._heap: list[tuple[float, int, Work]] = []
        self._order = count()
        self._asking = 0
        self._alarm_at = _LATER
        self._claimed: dict[str, None] = {}
        # Weak: a reply that nobody reads is no longer under way.
        self._sending: WeakValueDictionary[int, Sending] = WeakValueDictionary()
        # Under this name, the loop keeps one client for all requests.
        self._client = object()

    def follow(self, work: Work) -> bool:
        """Ask about this work until it has ended; False if no loop can be started."""
        if isinstance(work.hold, NullHold):
            return True
        now = self._runtime.clock.monotonic()
        work.schedule = StatusSchedule(
            due=now + self._wait(),
            submitted=now,
            heard=now,
            patience=work.hold.linger + SILENCE,
        )
        if work.path is not None:
            self.claim(work.path)
        return self._take(work)

    def search(self, work: Work) -> bool:
        """Search for the work of a lost call, once, after a moment; False if no loop can be started.

        The hold remains open until the search has an answer, for at most two minutes.
        """
        now = self._runtime.clock.monotonic()
        work.schedule = StatusSchedule(now + SEARCH_AFTER, now, now, SEARCH_FOR)
        return self._take(work)

    def sending(self, lost: LostCall) -> Sending:
        """A request that could be searched for is about to be sent; the caller has to end it."""
        sending = Sending(self._sending, lost, self._runtime.clock.wall())
        self._sending[id(sending)] = sending
        return sending

    def tell(self, work: Work, status: WorkStatus) -> None:
        """The program itself received a reply about some work, which is left alone for a while then."""
        work.schedule.told(self._runtime.clock.monotonic())
        super().tell(work, status)

    def claim(self, path: str) -> None:
        """The work there belongs to a call whose reply arrived, so it cannot be that of a lost one."""
        self._claimed[path] = None
        while len(self._claimed) > _MOST_CLAIMED:
            with suppress(StopIteration, KeyError, RuntimeError):  # another thread was faster
                del self._claimed[next(iter(self._claimed))]

    def has_claimed(self, path: str) -> bool:
        """Whether this work belongs to a call that is known."""
        return path in self._claimed

    def leave(self, subscriber: "Subscriber") -> None:
        """A guard was closed: nothing more is asked for it, and its holds are kept."""
        for work in [*self._new, *(work for *_, work in list(self._heap)), *self._by_path.values()]:
            if work.hold.is_of(subscriber):
                self._give_up(work)

    # On the loop's thread, from here on; but for `_set_alarm`.

    def _take(self, work: Work) -> bool:
        # Before the alarm, which may ring at once.
        self._new.append(work)
        if not self._set_alarm(work.schedule.due):
            with suppress(ValueError):
                self._new.remove(work)
            return False
        if work.path is not None:
            self.add(work)
        return True

    def _set_alarm(self, at: float) -> bool:
        # One that is overdue may have gone with a loop whose files were closed.
        if self._runtime.clock.monotonic() <= self._alarm_at <= at:
            return True
        try:
            self._runtime.call_at(at, self._ring)
        except Exception:  # noqa: BLE001  no thread can be started, or the interpreter exits
            return False
        self._alarm_at = at
        return True

    def _ring(self) -> None:
        self._alarm_at = _LATER
        self._review()

    def _review(self) -> None:
        """Begin the requests that are due, and set an alarm for the next one."""
        now = self._runtime.clock.monotonic()
        while self._new:
            self._push(self._new.popleft())
        while self._heap and self._heap[0][0] <= now:
            work = heapq.heappop(self._heap)[2]
            if work.hold.state != "open":
                self.forget(work)
            elif work.hold.orphaned or work.schedule.over_at <= now:
                self._give_up(work)
            elif self._due(work) > now:
                self._push(work)
            elif self._asking < self._pause.at_once:
                self._begin(work)
            else:
                # The end of a request comes back here.
                self._push(work)
                return
        if self._heap:
            self._set_alarm(self._heap[0][0])

    def _due(self, work: Work) -> float:
        return min(max(work.schedule.due, self._pause.until), work.schedule.over_at)

    def _push(self, work: Work) -> None:
        heapq.heappush(self._heap, (self._due(work), next(self._order), work))

    def _begin(self, work: Work) -> None:
        self._asking += 1
        try:
            self._runtime.submit(partial(self._request, work))
        except Exception:  # noqa: BLE001  the interpreter exits
            self._asking -= 1

    async def _request(self, work: Work) -> None:
        from budgetguard._io.status_request import Missed, ask_once

        assert work.ask is not None
        answer: Any = Missed("the request was interrupted")
        try:
            answer = await ask_once(self._runtime, self._client, work.ask, trust_env=work.trust_env)
        finally:
            self._asking -= 1
            if not self._runtime.stopping:
                self._answered(work, answer)
                self._review()

    def _answered(self, work: Work, answer: Any) -> None:
        now, schedule = self._runtime.clock.monotonic(), work.schedule
        try:
            if not isinstance(answer, WorkStatus | FoundWork | None):
                self._pause.failed(now, self._wait(), answer.retry_after)
                operation = work.hold.operation
                logger.debug("The status of %s was not received: %s", operation, answer.reason)
                return
            self._pause.ended()
            if isinstance(answer, FoundWork):
                self._go_on(work, answer, now)
            elif answer is None:
                schedule.missed(now, self._wait())
            else:
                schedule.answered(now, self._wait())
                work.apply(answer)
        finally:
            if work.hold.state == "open":
                self._push(work)
            else:
                self.forget(work)

    def _go_on(self, work: Work, found: FoundWork, now: float) -> None:
        """A search has an answer: follow what was found, or keep the hold as without a search."""
        if found.path is None or found.ask is None:
            work.hold.keep_because(work.cause)
            return
        work.path, work.ask = found.path, found.ask
        work.schedule = StatusSchedule(now, now, now, work.hold.linger + SILENCE)
        self.claim(found.path)
        self.add(work)

    def _give_up(self, work: Work) -> None:
        self.forget(work)
        if work.hold.keep_because(work.cause) and not work.hold.orphaned:
            logger.info(
                "%s is no longer followed: nothing was heard of its end", work.hold.operation
            )

    def _wait(self) -> float:
        return self._runtime.jitter(*EVERY)


def follower_of(account: FollowedAccount) -> Follower:
    """The account's follower in this process; a child begins with none."""
    found = account.follower
    # Atomic, without a lock, which a fork could leave locked.
    return found or account.followers.setdefault("here", Follower(account.runtime))


def ask_status(
    profile: "Profile", path: str, read: ReadStatus, *, aside: bool = False
) -> StatusRequest:
    """A request for the status at `path`, as `read` understands its reply; `aside` in a thread of its own."""

    async def ask(client: Any) -> WorkStatus | None:
        assert profile.fetch_reply is not None
        reply = await profile.fetch_reply(client, path)
        status: WorkStatus | None = await _read(reply, partial(read, reply), aside=aside)
        return status

    return ask


def ask_list(
    profile: "Profile",
    follower: Follower,
    sending: Sending,
    until: float,
    ask: Callable[[str], StatusRequest],
) -> StatusRequest:
    """A request for the list in which a lost call's work appears, once it was lost at `until` (s, wall clock).

    `ask` makes the requests for the status of what was found.
    """
    lost, since = sending.lost, sending.sent - CLOCK_ALLOWANCE

    async def own(client: Any) -> str | None:
        if not sending.is_alone():
            return None
        assert profile.fetch_reply is not None
        reply = await profile.fetch_reply(client, lost.search)
        find = partial(profile.billing.candidates, lost, reply, since, until + CLOCK_ALLOWANCE)
        candidates = await _read(reply, find)
        unclaimed = [path for path in candidates or () if not follower.has_claimed(path)]
        return unclaimed[0] if len(unclaimed) == 1 and sending.is_alone() else None

    async def search(client: Any) -> FoundWork:
        path = await own(client)
        sending.end()
        return FoundWork(path, None if path is None else ask(path))

    return search


def may_search(error: BaseException) -> bool:
    """Whether a call that ended like this is searched for: not where the program or the call is ended."""
    return not isinstance(error, _NO_SEARCH)


async def _read(reply: BillingReply, read: Callable[[], Any], *, aside: bool = False) -> Any:
    if not aside and len(reply.content or b"") <= _LONG_REPLY:
        return read()
    from budgetguard._io.loop import in_daemon_thread

    return await in_daemon_thread(read)
