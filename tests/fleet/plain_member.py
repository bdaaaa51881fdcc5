"""A member written straight from the protocol, to try the head without the library's engine.

It has callers in one line, one message under way at a time, and no fast path.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from processes import Process
from sim_store import SimStore
from spenders import Refused, Terms
from vendor import FINGERPRINT, Call, Vendor

from budgetguard._core.balance import Balance
from budgetguard._core.store_messages import (
    NEVER,
    Debit,
    Join,
    KeptDebit,
    Landing,
    Message,
    Need,
    Reply,
    Report,
    ticks_up,
)
from budgetguard.stores.base import StoreUnavailable

WANT = 10_000_000
"""Micro-credits of slack that a member would like to have."""

HISTORY = 60.0
"""Seconds for which a debit is remembered after it must be cleared: its stamp is known to the head alone."""

MARGIN = 0.95
"""The share of `hold_for` for which a member trusts its lease."""


@dataclass(eq=False)
class Caller:
    """One that waits."""

    call: Call
    ticket: int
    future: "asyncio.Future[None]"
    began: float
    asked: float | None = None
    """The stamp after which a balance has to be requested before it is refused."""


@dataclass(eq=False)
class Ended:
    """A debit: when it clears by our monotonic clock, and by the head's once that is known."""

    amount: int
    slots: int
    clears: float
    kept: bool
    told: float = 0.0
    """In how many seconds it clears, as was last reported."""
    stamp: float | None = None


class PlainMember:
    """One member; `room` is what callers may take now, `used` what open calls hold."""

    every_kind = False

    def __init__(self, process: Process, store: SimStore, vendor: Vendor, terms: Terms) -> None:
        self.process, self.vendor, self.terms = process, vendor, terms
        self.link = store.link(FINGERPRINT, process.runtime)
        self.expires = store.expires
        self.room = self.used = self.slots = self.running = 0
        self.debits: list[Ended] = []
        self.unreported: list[Ended] = []
        self.telling: list[Ended] = []
        self.waiting: list[Caller] = []
        self.tickets = self.number = self.recall = 0
        self.epoch, self.joined, self.view = "", False, None
        self.seen, self.seen_at = NEVER, (0.0, 0.0)
        self.dropped = 0.0
        self.valid = (float("-inf"), float("-inf"))
        self.landing: Landing | None = None
        self.refreshing = False
        self.wanted: float | None = None
        self.news = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None
        self.reader: asyncio.Future[None] | None = None
        self.read_after: float | None = None

    # What callers do.

    def slack(self) -> int:
        """What a caller could take at once."""
        return self.room if self._valid() else 0

    def unsettled(self, number: int = 0) -> int:
        """What finished calls cost that was not reported, by a head that has taken that message."""
        told = self.telling if number >= self.number else []
        return sum(each.amount for each in self.unreported if each not in told)

    async def call(self, call: Call, body: Callable[[Any], Awaitable[int]]) -> None:
        """Guard one call."""
        await self._admit(call)
        call.held = call.cost
        try:
            actual = await body(self)
        except BaseException:
            self._end(call, call.cost, kept=True)
            raise
        self._end(call, actual, kept=False)

    def start(self) -> None:
        """Begin to talk to the head."""
        if self.task is None:
            self.task = self.process.start(self._talk(), f"{self.process.name} talks")

    async def _admit(self, call: Call) -> None:
        clock = self.process.machine
        self.start()
        if not (self.waiting or call.slots) and self.slack() >= call.cost:
            self.room -= call.cost
            self._open(call)
            return
        self.tickets += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        caller = Caller(call, self.tickets, future, clock.monotonic())
        self.waiting.append(caller)
        self.news.set()
        try:
            async with asyncio.timeout(call.wait + self.terms.timeout):
                await asyncio.shield(future)
        except BaseException as error:
            if caller in self.waiting:
                self.waiting.remove(caller)
            elif not future.exception():
                self._give_back(call)
            if isinstance(error, TimeoutError):
                why = "not decided in time"
                raise Refused(why, "an answer") from None
            raise

    def _open(self, call: Call) -> None:
        self.used += call.cost
        self.slots += call.slots
        self.running += 1

    def _give_back(self, call: Call) -> None:
        """Granted, and no longer wanted."""
        self.used -= call.cost
        self.slots -= call.slots
        self.running -= 1
        self.room += call.cost
        self.news.set()

    def _end(self, call: Call, actual: int, *, kept: bool) -> None:
        nature = self.vendor.nature
        late = nature.lag + (nature.linger if kept else 0.0)
        self._give_back(call)
        self.room -= actual
        slots = call.slots if kept else 0
        clears = self.process.machine.monotonic() + late
        self.unreported.append(Ended(actual, slots, clears, kept))

    def bound_to(self, epoch: str) -> bool:
        """Whether it takes that epoch for the latest, and its lease for its own."""
        return self.joined and self.epoch == epoch

    def exhausted(self) -> None:
        """The provider refused a call, says a user."""

    async def exit(self) -> None:
        """The process exits; this one says nothing."""

    async def refresh(self) -> None:
        """Have a balance that is requested from now on."""
        self.start()
        self.reader = asyncio.get_running_loop().create_future()
        self.read_after = None
        self.news.set()
        async with asyncio.timeout(60):
            await self.reader

    # Its side of the protocol.

    def _valid(self) -> bool:
        if not self.expires:
            return True
        clock = self.process.machine
        since = max(clock.boottime() - self.valid[0], clock.wall() - self.valid[1])
        return since < self.terms.hold_for * MARGIN

    async def _talk(self) -> None:
        self.link.listen(self.news.set)
        while True:
            beat = self.terms.hold_for / 3 if self.room or self.used or self.unreported else 1e6
            beat = 0.25 if self.waiting or self.reader else beat
            if self._quiet():
                beat = self.terms.hold_for / 2
            try:
                async with asyncio.timeout(beat):
                    await self.news.wait()
            except TimeoutError:
                pass
            self.news.clear()
            leave = self._quiet() and self.joined and not self.waiting
            if self.joined or self.waiting or self.unreported or self.reader:
                await self._say_it(leave=leave)

    def _quiet(self) -> bool:
        return not (self.running or self.waiting or self.unreported or self.landing or self.reader)

    async def _say_it(self, *, leave: bool) -> None:
        message = self._message(leave=leave)
        reported = list(self.unreported)
        self.room, before = message.report.keep, len(self.unreported)
        self.telling = list(self.unreported)
        while True:
            clock = self.process.machine
            sent = clock.boottime(), clock.wall()
            try:
                reply = await self.link.exchange(message)
            except StoreUnavailable:
                await asyncio.sleep(0.2)
                continue
            break
        self.telling = []
        self._take(message, reply, sent, self.unreported[before:], reported)

    def _message(self, *, leave: bool) -> Message:
        clock, terms = self.process.machine, self.terms
        self.number += 1
        join = None
        if not self.joined:
            hold_for = terms.hold_for if self.expires else None
            join = Join(hold_for=hold_for, sole_spender=True)
            told = self.debits + self.unreported
        else:
            told = self.unreported
        for each in told:
            each.told = ticks_up(max(each.clears - clock.monotonic(), 0.0))
        settled = tuple(Debit(each.amount, each.told) for each in told if not each.kept)
        kept = tuple(KeptDebit(each.amount, each.told, each.slots) for each in told if each.kept)
        recalled = self.view is not None and self.view.recall > self.recall
        keep = 0 if leave or recalled or self.waiting else self.slack()
        if self.view is not None:
            self.recall = self.view.recall
        elapsed = min(clock.monotonic() - self.seen_at[0], clock.wall() - self.seen_at[1])
        after = self.wanted
        if self.joined and (self.refreshing or self.landing):
            after = None
        report = Report(
            used=self.used,
            keep=keep,
            slots=self.slots,
            running=self.running,
            settled=settled,
            kept=kept,
            needs=tuple(
                Need(
                    each.ticket,
                    each.call.cost,
                    each.call.cost,
                    each.call.slots,
                    terms.floor,
                    counts=each.call.wait > 0,
                )
                for each in self.waiting
            ),
            want=0 if leave else WANT,
            floor=terms.floor,
            recall=self.recall,
            patience=ticks_up(self.vendor.nature.lag + self.vendor.nature.linger),
        )
        landing, self.landing = self.landing, None
        return Message(
            self.link.member,
            self.number,
            self.epoch,
            self.seen,
            ticks_up(max(elapsed, 0.0)) if self.seen != NEVER else 0.0,
            report,
            join,
            refresh_after=after if join is None else None,
            refresh_timeout=terms.timeout,
            landing=landing,
            leave=leave,
            dropped=self.dropped,
        )

    def _take(
        self,
        message: Message,
        reply: Reply,
        sent: tuple[float, float],
        ended: list[Ended],
        reported: list[Ended],
    ) -> None:
        clock, view = self.process.machine, reply.view
        assert reply.status != "old", "our own last message is older than one of ours"
        self.epoch, self.view = reply.epoch, view
        self.seen, self.seen_at = view.now, (clock.monotonic(), clock.wall())
        self.dropped = view.dropped
        if reply.status != "done":
            self.joined = False
            if reply.status == "expired":
                self.room = 0
            self.news.set()
            return
        self.valid = sent
        if message.join is not None:
            reported = [each for each in self.unreported + self.debits if each not in ended]
            if reply.epoch != message.epoch:
                for each in self.debits:
                    each.stamp = None
        self.joined = not message.leave
        self._count_as_told(view.now, reported)
        self._let_in(reply)
        self.room = 0 if message.leave else reply.lease - self.used - self.unsettled()
        snapshot = view.snapshot
        if snapshot is not None:
            self.debits = [
                each
                for each in self.debits
                if each.stamp is None or each.stamp + HISTORY > snapshot.sent.mono
            ]
        self._refuse(reply)
        self._refresh(reply)
        if self.waiting and not message.report.needs:
            self.news.set()

    def _count_as_told(self, now: float, reported: list[Ended]) -> None:
        for each in reported:
            if each in self.unreported:
                self.unreported.remove(each)
                self.debits.append(each)
            if each.stamp is None:
                each.stamp = now + each.told

    def _let_in(self, reply: Reply) -> None:
        for caller in list(self.waiting):
            if caller.ticket in reply.granted:
                self.waiting.remove(caller)
                self._open(caller.call)
                caller.future.set_result(None)

    def _refuse(self, reply: Reply) -> None:
        view, clock = reply.view, self.process.machine
        snapshot = view.snapshot
        for caller in list(self.waiting):
            if caller.asked is None:
                caller.asked = view.now - self.terms.recheck_after
            if caller.ticket not in reply.refused or snapshot is None:
                continue
            late = clock.monotonic() - caller.began >= caller.call.wait
            if late and snapshot.sent.mono >= caller.asked:
                self.waiting.remove(caller)
                caller.future.set_exception(
                    Refused(f"{caller.call.cost} needed", "credits", final=True)
                )

    def _refresh(self, reply: Reply) -> None:
        view = reply.view
        snapshot = view.snapshot
        if reply.refresh == "yours":
            self.refreshing = True
            number, epoch = reply.refresh_number, reply.epoch
            self.process.start(self._fetch(number, epoch), f"{self.process.name} refreshes")
        if self.reader is not None:
            if self.read_after is None:
                self.read_after = view.now
            if snapshot is not None and snapshot.sent.mono > self.read_after:
                self.reader.set_result(None)
                self.reader = None
        old = snapshot is None or view.now - snapshot.sent.mono > self.terms.fresh_for
        self.wanted = self.read_after if self.reader else None
        if self.waiting or (old and (self.room or self.running)):
            oldest = NEVER if snapshot is None else view.now - self.terms.recheck_after
            self.wanted = oldest
            if reply.refresh not in {"wait", "blocked"} and not self.refreshing:
                pause = 0.05 if old else self.terms.recheck_after
                self.process.loop.call_later(pause, self.news.set)

    async def _fetch(self, number: int, epoch: str) -> None:
        balance, reason = None, ""
        clock = self.process.machine
        wall = clock.wall()
        try:
            async with asyncio.timeout(self.terms.timeout):
                balance = await self.vendor.fetch(None)
        except Exception as error:
            reason = type(error).__name__
        assert balance is None or isinstance(balance, Balance)
        self.landing = Landing(
            epoch,
            number,
            balance,
            wall,
            reason,
            failures=0 if balance else 1,
            delay=0.0 if balance else 1.0,
        )
        self.refreshing = False
        self.news.set()
