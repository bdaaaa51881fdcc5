"""The wait queue, whatever happens to it: no waiter that fits waits, and none waits too long."""

import asyncio
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard import Guard
from budgetguard._core.amounts import MICRO
from budgetguard._core.policy import NOBODY, QueuedAhead, possible, shortage, usable
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider

if TYPE_CHECKING:
    from budgetguard._engine.hold import Hold
    from budgetguard._engine.waiters import AdmissionWaiter

SLOTS = 3
# So often a loop turns until all that can run has run, and no time has passed.
TURNS = 25


class WaitQueue(RuleBasedStateMachine):
    """Two guards of one account, one of which keeps a floor; callers come, end, leave and wait."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.runtime = VirtualRuntime(self.clock, self.loop, Random(0))
        self.provider = FakeProvider(20, max_concurrency=SLOTS)
        with runtime_of(self.runtime):  # type: ignore[arg-type]
            self.guards = [Guard(self.provider, lag=1, linger=2, floor=floor) for floor in (0, 5)]
        self.account = binding_of(self.guards[0]).account
        self.loop.run_until_complete(self.guards[0].abalance())
        self.hold = self.guards[0].acquire(8, slots=1)
        self.open: list[Hold] = []
        self.came: list[AdmissionWaiter] = []

    @rule(
        callers=st.lists(
            st.tuples(
                st.sampled_from([0, 1, 4, 9, 18]),
                st.sampled_from([0, 0, 1, 2]),
                st.sampled_from([0, 4, 40]),
                st.integers(0, 1),
            ),
            min_size=2,
            max_size=5,
        )
    )
    def come(self, callers: list[tuple[int, int, int, int]]) -> None:
        """Some callers come."""
        for amount, slots, wait, at in callers:
            guard = self.guards[at]
            cost = amount // 2
            spec = guard.require_credits(amount, cost=cost, slots=slots, wait=wait).spec
            call = spec._call(binding_of(guard), "work", amount * MICRO, cost * MICRO)
            self.came.append(self.account.ask(call))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), way=st.sampled_from(["settle", "release", "keep"]))
    def end(self, data: st.DataObject, way: str) -> None:
        """A call that was admitted ends."""
        opened = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if way == "settle":
            opened.end_at(opened.micro // 2)
        else:
            getattr(opened, way)()

    @precondition(lambda self: self.came)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A caller is cancelled while it waits."""
        gone = self.came.pop(data.draw(st.integers(0, len(self.came) - 1)))
        self.account.post(self.account._abandon, gone)
        assert gone not in self.account.wait_queue.queue

    @rule(credits=st.sampled_from([14, 18, 22, 26]))
    def come_along(self, credits: int) -> None:
        """A reply brings a balance along."""
        self.clock.mono += 0.01
        self.provider.credits = Decimal(credits)
        self.account.offer(Decimal(credits), self.clock.now())

    @precondition(lambda self: len(self.came) > 8)
    @rule()
    def mark_exhausted(self) -> None:
        """The provider refuses a call."""
        self.guards[0].mark_exhausted()

    @rule(seconds=st.sampled_from([0.1, 1, 5, 20]), credits=st.sampled_from([14, 18, 22, 26]))
    def wait(self, seconds: float, credits: int) -> None:
        """Time passes, and the account is charged or topped up."""
        self.provider.credits = Decimal(credits)
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def nobody_waits_who_fits(self) -> None:
        """On top of all that those need who came before and count."""
        self.loop.run_until_complete(self.turn())
        account, now = self.account, self.clock.now()
        with account.lock:
            ahead, ledger = NOBODY, account.ledger
            for waiter in account.wait_queue.queue:
                need, terms = waiter.call.need, waiter.call.subscriber.terms
                assert now.mono <= waiter.deadline(now.mono)
                if usable(ledger.snapshot, terms, now, need.arrived):
                    assert shortage(ledger, terms, need, ahead, now) is not None
                counts = account.wait_queue.queue[waiter].counts
                assert not counts or now.mono < need.until
                assert counts or not (now.mono < need.until and possible(ledger, terms, need))
                if counts:
                    ahead = QueuedAhead(ahead.amount + need.amount, ahead.slots + need.slots)

    @invariant()
    def everybody_is_somewhere(self) -> None:
        """Let in, refused, or in the queue with a deadline to come."""
        still = []
        for waiter in self.came:
            if waiter.hold is not None:
                self.open.append(waiter.hold)
            elif not waiter.done:
                assert waiter in self.account.wait_queue.queue
                still.append(waiter)
        self.came = still
        deadlines = [waiter.deadline(self.clock.monotonic()) for waiter in still]
        assert self.account.wait_queue.deadline <= min(deadlines, default=float("inf"))

    async def turn(self) -> None:
        """Let all that is due happen."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def teardown(self) -> None:
        """The process is over."""
        self.runtime.die()
        self.loop.run_until_complete(self.turn())
        self.loop.close()


TestWaitQueue = WaitQueue.TestCase
TestWaitQueue.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
