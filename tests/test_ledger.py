"""The ledger: the formula of the contract, against a list of everything that ever happened."""

import decimal
import math
import os
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from budgetguard import Balance
from budgetguard._core.amounts import UNLIMITED, to_credits
from budgetguard._core.branch import LedgerEntry
from budgetguard._core.clock import Instant
from budgetguard._core.debits import Debits
from budgetguard._core.ledger import Ledger
from budgetguard._core.snapshot import BalanceSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT = 1 / 16
LAG = 5.0


def at(mono: float) -> Instant:
    """A moment on both clocks."""
    return Instant(mono, 1e9 + mono)


def snapshot(
    credits: int | None,
    sent: float,
    *,
    limit: int | None = None,
    used: int | None = None,
    slots: int | None = None,
) -> BalanceSnapshot:
    """A balance of so many micro-credits, asked for at `sent`."""
    balance = Balance(
        credits=None if credits is None else to_credits(credits),
        max_concurrency=slots,
        cost_limit=None if limit is None else to_credits(limit),
        credits_used=None if used is None else to_credits(used),
    )
    return BalanceSnapshot.of(balance, at(sent))


def ledger_of(credits: int | None = 100, sent: float = 0.0) -> Ledger:
    """A ledger with a balance in it."""
    ledger = Ledger()
    ledger.head.others.join(False)
    assert ledger.apply(snapshot(credits, sent))
    return ledger


def opened(ledger: Ledger, amount: int, slots: int = 0) -> LedgerEntry:
    """A hold in `ledger`."""
    entry = LedgerEntry(amount, slots)
    ledger.open(entry)
    return entry


def figures(ledger: Ledger) -> tuple[float, int, int, int, int]:
    """All that the ledger says."""
    return (
        ledger.available(0, 0),
        ledger.held,
        ledger.pending,
        ledger.slots_in_use,
        ledger.running,
    )


# The machine: times are sixteenths of a second, so that buckets free exactly when they may.


@dataclass
class Run:
    """One guarded call, as somebody with pen and paper would note it."""

    entry: LedgerEntry
    amount: int
    slots: int
    charged: int = 0
    open: bool = True


@dataclass
class Debit:
    """One amount that a balance sent at or after `made + delay` shows."""

    amount: int
    made: float
    delay: float
    slots: int = 0


@dataclass
class Paper:
    """The naive ledger."""

    runs: list[Run] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    debits: list[Debit] = field(default_factory=list)
    sent: float | None = None
    credits: float = 0
    ceiling: float = UNLIMITED
    exhausted: tuple[float, float] | None = None

    def held(self) -> int:
        """What open calls have set aside and the provider has not charged."""
        rest = [max(run.amount - run.charged, 0) for run in self.runs if run.open]
        return sum(rest) + sum(self.constant)

    def spendable(self, extra: int) -> float:
        """What the newest balance says that can be spent."""
        return 0 if self.exhausted else min(self.credits + extra, self.ceiling)

    def available(self, floor: int, extra: int) -> float:
        """The formula, written out."""
        return self.spendable(extra) - floor - self.held() - sum(d.amount for d in self.debits)

    def record(self, debit: Debit) -> None:
        """A call, or a part of it, was spent."""
        self.debits.append(debit)

    def see(self, sent: float, credits: float, ceiling: float) -> bool:
        """A balance arrives."""
        if self.sent is not None and sent <= self.sent:
            return False
        if self.exhausted is not None:
            at_hand, until = self.exhausted
            ends = credits > at_hand or sent >= until
            self.exhausted = None if ends else (min(at_hand, credits), until)
        self.sent, self.credits, self.ceiling = sent, credits, ceiling
        self.debits = [debit for debit in self.debits if sent < debit.made + debit.delay]
        return True

    def exhaust(self, now: float, lag: float) -> None:
        """The provider refused a call."""
        at_hand = self.exhausted[0] if self.exhausted else self.credits
        self.exhausted = at_hand, now + lag
        self.sent = now


AMOUNT = st.integers(0, 40)
SIXTEENTHS = st.integers(0, 160).map(lambda n: n * UNIT)
ANY = st.integers(0, 1000)


class LedgerMachine(RuleBasedStateMachine):
    """Whatever is done, the ledger says what the naive ledger says."""

    sole_spender = False

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.ledger.head.others.join(self.sole_spender)
        self.paper = Paper()
        self.now = 100.0
        self.seen: BalanceSnapshot | None = None

    def see(self, sent: float, credits: float, ceiling: float, _: float | None) -> bool:
        """Note a balance on paper; whether it is news."""
        return self.paper.see(sent, credits, ceiling)

    def pick(self, which: int) -> Run:
        """One of the calls so far, ended or not."""
        return self.paper.runs[which % len(self.paper.runs)]

    @rule(seconds=SIXTEENTHS)
    def time_passes(self, seconds: float) -> None:
        """Both clocks advance."""
        self.now += seconds

    @rule(amount=AMOUNT, slots=st.integers(0, 3))
    def open(self, amount: int, slots: int) -> None:
        """A call begins."""
        self.paper.runs.append(Run(opened(self.ledger, amount, slots), amount, slots))

    @rule(amount=AMOUNT)
    def take(self, amount: int) -> None:
        """A call of constant cost begins."""
        self.ledger.take(amount)
        self.paper.constant.append(amount)

    @precondition(lambda self: self.paper.constant)
    @rule(which=ANY, debit=AMOUNT, lag=SIXTEENTHS)
    def put(self, which: int, debit: int, lag: float) -> None:
        """A call of constant cost ends."""
        held = self.paper.constant.pop(which % len(self.paper.constant))
        self.ledger.put(held, debit, self.now + lag)
        self.paper.record(Debit(debit, self.now, lag))

    @precondition(lambda self: self.paper.constant)
    @rule(which=ANY, delay=SIXTEENTHS)
    def lose(self, which: int, delay: float) -> None:
        """A call of constant cost ends with an unknown cost."""
        held = self.paper.constant.pop(which % len(self.paper.constant))
        self.ledger.lose(held, self.now + delay)
        self.paper.record(Debit(held, self.now, delay))

    @precondition(lambda self: self.paper.runs)
    @rule(which=ANY, more=AMOUNT)
    def extend(self, which: int, more: int) -> None:
        """A call turns out longer."""
        run = self.pick(which)
        if run.open:
            self.ledger.extend(run.entry, more)
            run.amount += more

    @precondition(lambda self: self.paper.runs)
    @rule(which=ANY, total=AMOUNT, lag=SIXTEENTHS)
    def charge(self, which: int, total: int, lag: float) -> None:
        """The provider says what it has charged of a call."""
        run = self.pick(which)
        self.ledger.charge(run.entry, total, self.now + lag)
        if run.open and total > run.charged:
            self.paper.record(Debit(total - run.charged, self.now, lag))
            run.charged = total

    @precondition(lambda self: self.paper.runs)
    @rule(which=ANY, actual=AMOUNT, lag=SIXTEENTHS)
    def settle(self, which: int, actual: int, lag: float) -> None:
        """A call ends at its cost, or is said to once more."""
        run = self.pick(which)
        assert self.ledger.settle(run.entry, actual, self.now + lag) is run.open
        if run.open:
            self.paper.record(Debit(max(actual - run.charged, 0), self.now, lag))
        run.open = False

    @precondition(lambda self: self.paper.runs)
    @rule(which=ANY)
    def release(self, which: int) -> None:
        """A call ends free of charge."""
        run = self.pick(which)
        assert self.ledger.release(run.entry) is run.open
        run.open = False

    @precondition(lambda self: self.paper.runs)
    @rule(which=ANY, delay=SIXTEENTHS)
    def keep(self, which: int, delay: float) -> None:
        """A call ends with an unknown cost."""
        run = self.pick(which)
        assert self.ledger.keep(run.entry, self.now + delay) is run.open
        if run.open:
            rest = max(run.amount - run.charged, 0)
            self.paper.record(Debit(rest, self.now, delay, run.slots))
        run.open = False

    @rule(
        ago=SIXTEENTHS,
        credits=st.none() | st.integers(-10, 200),
        limit=st.none() | st.tuples(st.integers(0, 200), st.integers(0, 200)),
    )
    def balance_arrives(
        self, ago: float, credits: int | None, limit: tuple[int, int] | None
    ) -> None:
        """A reply comes in, in whatever order."""
        most, used = limit or (None, None)
        arrived = snapshot(credits, self.now - ago, limit=most, used=used)
        seen = self.see(
            self.now - ago,
            UNLIMITED if credits is None else credits,
            UNLIMITED if limit is None else limit[0] - limit[1],
            most,
        )
        assert self.ledger.apply(arrived) is seen

    @rule(lag=SIXTEENTHS)
    def provider_refuses(self, lag: float) -> None:
        """A call met a 402."""
        self.ledger.refuse(at(self.now), lag)
        self.paper.exhaust(self.now, lag)

    @invariant()
    def the_formula_holds(self) -> None:
        """Every figure is the naive one."""
        ledger, paper = self.ledger, self.paper
        assert ledger.held == paper.held()
        assert ledger.pending == sum(debit.amount for debit in paper.debits)
        assert ledger.running == sum(run.open for run in paper.runs) + len(paper.constant)
        assert ledger.slots_in_use == sum(run.slots for run in paper.runs if run.open) + sum(
            debit.slots for debit in paper.debits
        )
        if ledger.snapshot is None:
            assert paper.sent is None
            return
        assert ledger.snapshot.sent.mono == paper.sent
        assert ledger.room == paper.available(0, 0)
        for floor, extra in [(0, 0), (7, 0), (0, 30), (7, 30)]:
            assert ledger.available(floor, extra) == paper.available(floor, extra)
            assert ledger.snapshot.spendable(extra) == paper.spendable(extra)


@dataclass
class Chain:
    """All values one figure has had: each is a bound, less what was committed and it does not show."""

    bounds: list[float] = field(default_factory=list)
    last: float = UNLIMITED
    shows: int = 0

    def best(self, spent: int) -> float:
        """The best of them."""
        return max(self.bounds) - spent

    def see(self, value: float, shows: int, spent: int) -> None:
        """One more value; nothing above it is believed.

        What it rose by is a top-up, or no more than what was shown of running calls, and taken back.
        """
        if UNLIMITED in {self.last, value}:
            self.bounds = []
        rise = max(value - self.last, 0) if self.bounds else 0
        if self.bounds and rise <= max(self.bounds) - self.last - self.shows:
            rise = 0
        self.bounds = [min(bound + rise, value + spent) for bound in self.bounds]
        self.bounds.append(value + shows)
        self.last, self.shows = value, shows


@dataclass
class SolePaper(Paper):
    """The naive ledger of a sole spender: every balance is kept, and the best bound counts."""

    by_credits: Chain = field(default_factory=Chain)
    by_ceiling: Chain = field(default_factory=Chain)
    limit: float | None = None
    all_debits: list[Debit] = field(default_factory=list)

    def record(self, debit: Debit) -> None:
        super().record(debit)
        self.all_debits.append(debit)

    def bounds(self) -> tuple[float, float]:
        """What all balances together bound the credits, and what is left below the limit, by."""
        spent = self.held() + sum(debit.amount for debit in self.all_debits)
        return self.by_credits.best(spent), self.by_ceiling.best(spent)

    def available(self, floor: int, extra: int) -> float:
        if self.exhausted:
            return super().available(floor, extra)
        credits, ceiling = self.bounds()
        return min(credits + extra, ceiling) - floor

    def see(self, sent: float, credits: float, ceiling: float, limit: float | None = None) -> bool:
        known = self.by_credits.bounds and not self.exhausted
        best = self.bounds() if known else (0.0, 0.0)
        if not super().see(sent, credits, ceiling):
            return False
        if self.exhausted:
            return True
        same = limit == self.limit
        low = UNLIMITED not in {credits, self.by_credits.last} and credits < best[0]
        low |= same and UNLIMITED not in {ceiling, self.by_ceiling.last} and ceiling < best[1]
        if low or not known:
            self.by_credits, self.by_ceiling = Chain(), Chain()
        if not same:
            self.by_ceiling = Chain()
        spent = self.held() + sum(debit.amount for debit in self.all_debits)
        shows = sum(d.amount for d in self.all_debits if d.made + d.delay <= sent)
        self.by_credits.see(credits, shows, spent)
        self.by_ceiling.see(ceiling, shows, spent)
        self.limit = limit
        return True

    def exhaust(self, now: float, lag: float) -> None:
        super().exhaust(now, lag)
        self.by_credits, self.by_ceiling = Chain(), Chain()


class SoleLedgerMachine(LedgerMachine):
    """The same for a sole spender, whose ledger carries one figure where the paper keeps all balances."""

    sole_spender = True

    def __init__(self) -> None:
        super().__init__()
        self.paper = SolePaper()

    def see(self, sent: float, credits: float, ceiling: float, limit: float | None) -> bool:
        return self.paper.see(sent, credits, ceiling, limit)

    @precondition(lambda self: self.paper.by_credits.bounds and not self.paper.exhausted)
    @rule(ago=SIXTEENTHS, more=AMOUNT, left=AMOUNT)
    def nobody_else_spent(self, ago: float, more: int, left: int) -> None:
        """A reply comes in that is at least what it has to be."""
        credits, ceiling = self.paper.bounds()
        sent = max(self.now - ago, self.paper.sent + UNIT)
        if sent > self.now or credits == UNLIMITED:
            return
        seen, limit, rest = int(credits) + more, self.paper.limit, UNLIMITED
        if limit is not None:
            rest = max(int(ceiling) + left, 0)
        used = None if limit is None else limit - rest
        news = self.see(sent, seen, rest, limit)
        assert self.ledger.apply(snapshot(seen, sent, limit=limit, used=used)) is news

    @invariant()
    def no_more_is_promised_than_is_seen(self) -> None:
        """The overlap is never more than what is held and pending."""
        snapshot = self.ledger.snapshot
        if snapshot is not None and self.ledger.snapshot is not self.seen:
            self.seen = snapshot
            committed = self.ledger.held + self.ledger.pending
            assert 0 <= snapshot.overlap <= committed
            assert 0 <= snapshot.ceiling_overlap <= committed


LONG = bool(os.environ.get("BUDGETGUARD_LONG"))
LedgerMachine.TestCase.settings = settings(
    max_examples=1250 if LONG else 150, stateful_step_count=40, deadline=None
)
SoleLedgerMachine.TestCase.settings = LedgerMachine.TestCase.settings
TestLedgerMachine = LedgerMachine.TestCase
TestSoleLedgerMachine = SoleLedgerMachine.TestCase


# A sole spender.


def sole(credits: int | None = 100, *, limit: int | None = None, used: int | None = None) -> Ledger:
    """The ledger of a sole spender, with a balance in it."""
    ledger = Ledger()
    ledger.head.others.join(True)
    assert ledger.apply(snapshot(credits, 0.0, limit=limit, used=used))
    return ledger


def test_a_sole_spenders_running_call_is_not_counted_twice() -> None:
    """What a call was charged while it runs is in the balance and in its hold, and counts once."""
    ledger = sole(100)
    entry = opened(ledger, 50)
    ledger.apply(snapshot(70, 1.0))
    assert ledger.snapshot is not None
    assert (ledger.available(0, 0), ledger.snapshot.overlap) == (50, 30)
    ledger.settle(entry, 45, 2.0 + LAG)
    ledger.apply(snapshot(55, 3.0))
    assert (ledger.available(0, 0), ledger.snapshot.overlap) == (55, 45)
    ledger.apply(snapshot(55, 2.0 + LAG))
    assert (ledger.available(0, 0), ledger.snapshot.overlap) == (55, 0)


def test_others_of_an_account_are_not_sole_spenders() -> None:
    """Without sole_spender, a ledger assumes that the balance shows nothing of the running calls."""
    ledger = ledger_of(100)
    opened(ledger, 50)
    ledger.apply(snapshot(70, 1.0))
    assert ledger.available(0, 0) == 20


def test_a_top_up_raises_what_a_sole_spender_can_promise() -> None:
    """More than there has to be is simply more."""
    ledger = sole(100)
    opened(ledger, 50)
    ledger.apply(snapshot(70, 1.0))
    ledger.apply(snapshot(370, 2.0))
    assert ledger.available(0, 0) == 350
    ledger.apply(snapshot(360, 3.0))
    assert ledger.available(0, 0) == 350


def test_a_rise_is_never_believed_beyond_the_balance() -> None:
    """A provider that reserves and gives back raises the balance too; more than it shows is not promised."""
    ledger = sole(100)
    entry = opened(ledger, 50)
    ledger.apply(snapshot(50, 1.0))
    ledger.settle(entry, 10, 1.0 + LAG)
    assert ledger.available(0, 0) == 90
    ledger.apply(snapshot(90, 2.0))
    assert ledger.available(0, 0) == 90


def test_a_top_up_with_credits_given_back_is_not_believed_beyond_the_balance() -> None:
    """The overlap is never more than what is still held and pending, here 10."""
    ledger = sole(100)
    entry = opened(ledger, 50)
    ledger.apply(snapshot(50, 1.0))
    ledger.settle(entry, 10, 3.0 + LAG)
    ledger.apply(snapshot(190, 2.0))
    assert ledger.snapshot is not None
    assert (ledger.available(0, 0), ledger.snapshot.overlap) == (190, 10)


@pytest.mark.parametrize(
    ("credits", "available", "missing"), [(50, 50, 0), (49, -1, 1), (0, -50, 50)]
)
def test_a_balance_below_what_is_promised_stands_alone(
    credits: int, available: int, missing: int
) -> None:
    """Somebody else spent: earlier balances no longer count, and the missing amount is reported."""
    ledger = sole(100)
    opened(ledger, 50)
    ledger.apply(snapshot(credits, 1.0))
    assert ledger.snapshot is not None
    assert (ledger.available(0, 0), ledger.head.others.contradiction) == (available, missing)
    ledger.apply(snapshot(max(credits, 5), 2.0))
    assert ledger.head.others.contradiction == 0


def test_a_refusal_of_the_providers_ends_what_a_sole_spender_knew() -> None:
    """A 402 contradicts the ledger: the next balance stands alone."""
    ledger = sole(100)
    opened(ledger, 50)
    ledger.apply(snapshot(70, 1.0))
    ledger.refuse(at(2.0), LAG)
    assert ledger.available(0, 0) == -50
    ledger.apply(snapshot(60, 2.0 + LAG))
    assert ledger.available(0, 0) == 10


def test_a_lack_is_noticed_behind_an_overlap() -> None:
    """A balance below what was still available shows that somebody else spends."""
    ledger = sole(100)
    opened(ledger, 50)
    ledger.apply(snapshot(70, 1.0))
    ledger.apply(snapshot(49, 2.0))
    assert ledger.snapshot is not None
    assert (ledger.available(0, 0), ledger.head.others.contradiction) == (-1, 1)


def test_the_overlap_below_a_cost_limit_is_carried_from_balance_to_balance() -> None:
    """What was charged before the balance before the last one is still in the balance and in the hold."""
    ledger = sole(None, limit=100, used=0)
    opened(ledger, 50)
    ledger.apply(snapshot(None, 1.0, limit=100, used=10))
    ledger.apply(snapshot(None, 2.0, limit=100, used=30))
    assert ledger.available(0, 0) == 50


def test_debits_that_cleared_leave_the_overlap() -> None:
    """They are no longer counted, so there is nothing to make up for."""
    ledger = sole(100)
    first = opened(ledger, 30)
    opened(ledger, 50)
    ledger.apply(snapshot(60, 1.0))
    ledger.settle(first, 30, 2.0)
    ledger.apply(snapshot(60, 3.0))
    assert ledger.available(0, 0) == 20


def test_no_more_is_promised_than_the_balance_shows_once_debits_have_cleared() -> None:
    """A provider that gives back what it had reserved raises the balance by what was not spent."""
    ledger = sole(100)
    first, second = opened(ledger, 50), opened(ledger, 20)
    ledger.apply(snapshot(30, 1.0))
    ledger.settle(first, 10, 2.0)
    ledger.settle(second, 20, 20.0)
    ledger.apply(snapshot(70, 3.0))
    assert ledger.available(0, 0) == 70


@pytest.mark.parametrize(("limit", "available"), [(100, 50), (90, 40 - 10)])
def test_a_changed_cost_limit_forgets_what_was_known_of_it(limit: int, available: int) -> None:
    """Below the same limit, what a call was charged counts once; below another, it is not known."""
    ledger = sole(None, limit=100, used=0)
    opened(ledger, 50)
    ledger.apply(snapshot(None, 1.0, limit=limit, used=10))
    assert ledger.available(0, 0) == available


def test_an_account_that_becomes_unlimited_or_limited_starts_anew() -> None:
    """Between a balance without bound and one with, nothing can be carried."""
    ledger = sole(None)
    opened(ledger, 50)
    ledger.apply(snapshot(70, 1.0))
    assert ledger.available(0, 0) == 20
    ledger.apply(snapshot(None, 2.0))
    assert ledger.available(0, 0) == UNLIMITED
    assert ledger.snapshot is not None
    assert ledger.head.others.contradiction == 0


# Ends of calls of constant cost, several at once.


def running(*amounts: int) -> Ledger:
    """A ledger with calls of constant cost in it."""
    ledger = ledger_of()
    for amount in amounts:
        ledger.take(amount)
    return ledger


def test_ends_close_together_are_recorded_as_one_by_the_last_of_them() -> None:
    """They leave together, none of them early, and each of them ends a call."""
    ledger = running(10, 10, 10, 1)
    ledger.ends_at_cost[10].extend([15.0, 15.03, 15.01])
    ledger.record_ends()
    assert figures(ledger) == (100 - 30 - 1, 1, 30, 0, 1)
    ledger.apply(snapshot(70, 15.02))
    assert ledger.pending == 30
    ledger.apply(snapshot(70, 15.03))
    assert ledger.pending == 0


def test_ends_far_apart_clear_each_for_itself() -> None:
    """What ended first does not wait for what ended last."""
    ledger = running(10, 10, 20)
    ledger.ends_at_cost[10].extend([15.0, 15.5])
    ledger.ends_at_cost[20].append(15.0)
    ledger.record_ends()
    assert (ledger.held, ledger.pending, ledger.running) == (0, 40, 0)
    ledger.apply(snapshot(70, 15.2))
    assert ledger.pending == 10


def test_ends_are_recorded_once() -> None:
    """What was recorded is gone from among the ends."""
    ledger = running(10, 10)
    ledger.ends_at_cost[10].append(15.0)
    ledger.record_ends()
    ledger.record_ends()
    assert figures(ledger) == (80, 10, 10, 0, 1)


# Debits, and when they leave.


@pytest.mark.parametrize(
    ("sent", "pending"),
    [
        (math.nextafter(15.0, 0.0), 30),
        (15.0, 0),
        (16.0, 0),
        (10.0, 30),
    ],
    ids=["just before", "exactly then", "later", "when it was made"],
)
def test_a_debit_leaves_with_a_refresh_sent_lag_after_it_was_made(
    sent: float, pending: int
) -> None:
    """A settled call counts until a balance was asked for `lag` after its end, and no longer."""
    ledger = ledger_of()
    ledger.settle(opened(ledger, 30), 30, 10.0 + LAG)
    assert ledger.apply(snapshot(70, sent))
    assert ledger.pending == pending
    assert ledger.available(0, 0) == 70 - pending


@pytest.mark.parametrize(
    ("sent", "pending", "slots"),
    [(math.nextafter(315.0, 0.0), 30, 2), (315.0, 0, 0)],
    ids=["just before", "exactly then"],
)
def test_a_kept_hold_counts_slots_included(sent: float, pending: int, slots: int) -> None:
    """A kept call counts in full, with its sessions, until linger and lag have passed."""
    ledger = ledger_of()
    assert ledger.keep(opened(ledger, 30, slots=2), 10.0 + 300 + LAG)
    assert (ledger.held, ledger.pending, ledger.slots_in_use) == (0, 30, 2)
    assert ledger.available(0, 0) == 70
    ledger.apply(snapshot(100, sent))
    assert (ledger.pending, ledger.slots_in_use) == (pending, slots)


def test_settled_calls_free_their_slots_at_once() -> None:
    """A session that ended counts no longer, unlike its cost."""
    ledger = ledger_of()
    ledger.settle(opened(ledger, 30, slots=2), 30, 15.0)
    assert (ledger.pending, ledger.slots_in_use) == (30, 0)


@given(
    st.lists(st.tuples(st.integers(1, 99), st.floats(0, 60)), min_size=1, max_size=30),
    st.lists(st.floats(0, 62), max_size=10),
)
def test_debits_never_leave_early_and_hardly_late(
    debits: list[tuple[int, float]], sent: list[float]
) -> None:
    """Whatever the times, no balance frees what it may not show; a bucket holds up 1/16 s at most."""
    counted = Debits()
    left = debits
    for amount, clears_at in debits:
        counted.add(amount, clears_at)
    for moment in sorted(sent):
        counted.clear(moment)
        left = [debit for debit in left if debit[1] > moment]
        late = sum(amount for amount, clears_at in debits if clears_at > moment - UNIT)
        assert sum(amount for amount, _ in left) <= counted.total <= late
    counted.clear(math.inf)
    assert (counted.total, counted.slots) == (0, 0)
    assert counted.next_clears_at is None
    assert counted.last_clears_at is None


def test_a_bucket_leaves_with_its_youngest_debit() -> None:
    """Two debits of nearly one time leave together, at the later one's."""
    debits = Debits()
    debits.add(1, 10.01, slots=1)
    debits.add(2, 10.03)
    debits.add(4, 10.02, slots=2)
    debits.clear(10.02)
    assert (debits.total, debits.slots) == (7, 3)
    debits.clear(10.03)
    assert (debits.total, debits.slots) == (0, 0)


def test_debits_leave_in_the_order_of_their_times() -> None:
    """A debit with a short delay does not wait for one that was made before it."""
    debits = Debits()
    debits.add(30, 315.0, slots=1)
    debits.add(7, 20.0)
    debits.add(5, 100.0)
    assert (debits.next_clears_at, debits.last_clears_at) == (20.0, 315.0)
    debits.clear(20.0)
    assert (debits.total, debits.slots) == (35, 1)
    assert (debits.next_clears_at, debits.last_clears_at) == (100.0, 315.0)


def test_many_debits_take_little_memory() -> None:
    """Sums do not grow with the number of calls, only with the time they span."""
    debits = Debits()
    for n in range(10_000):
        debits.add(1, n / 10_000)
    cleared = 0
    while debits.next_clears_at is not None:
        debits.clear(debits.next_clears_at)
        cleared += 1
    assert cleared == 16
    assert debits.total == 0


# Balances, ordered by when they were sent.


@pytest.mark.parametrize("sent", [9.0, 10.0], ids=["older", "of the same moment"])
def test_a_balance_that_is_not_newer_changes_nothing(sent: float) -> None:
    """A late reply to an older request neither replaces the balance nor frees a debit."""
    ledger = ledger_of(100, sent=10.0)
    opened(ledger, 20, slots=1)
    ledger.settle(opened(ledger, 30), 30, 5.0)
    before, at_hand = figures(ledger), ledger.snapshot
    assert not ledger.apply(snapshot(1000, sent))
    assert figures(ledger) == before
    assert ledger.snapshot is at_hand


def test_the_order_of_balances_is_the_monotonic_clocks() -> None:
    """A wall clock that was set back makes no balance older, and one set forward frees no debit."""
    ledger = ledger_of(100, sent=10.0)
    ledger.settle(opened(ledger, 30), 30, 15.0)
    forward = BalanceSnapshot.of(Balance(credits=to_credits(90)), Instant(11.0, 9e9))
    assert ledger.apply(forward)
    assert ledger.pending == 30
    back = BalanceSnapshot.of(Balance(credits=to_credits(80)), Instant(12.0, 5.0))
    assert ledger.apply(back)
    assert ledger.available(0, 0) == 50


def test_a_lower_balance_replaces_a_higher_one() -> None:
    """What others spent is believed at once."""
    ledger = ledger_of(100)
    opened(ledger, 30)
    ledger.apply(snapshot(10, 1.0))
    assert ledger.available(0, 0) == ledger.room == -20


def test_an_account_without_a_bound_always_has_room() -> None:
    """Unlimited remains unlimited, whatever is held, pending or kept back."""
    ledger = ledger_of(None)
    opened(ledger, 10**18)
    ledger.settle(opened(ledger, 10**18), 10**18, 5.0)
    assert ledger.available(10**18, 0) == ledger.room == UNLIMITED
    assert ledger.snapshot is not None
    assert ledger.snapshot.slots == UNLIMITED
    assert ledger.apply(snapshot(5, 6.0))
    assert ledger.available(0, 0) == 5 - 10**18


def test_a_limited_number_of_sessions_is_noted() -> None:
    """The snapshot carries the provider's limit, zero too."""
    assert snapshot(5, 0.0, slots=3).slots == 3
    assert snapshot(5, 0.0, slots=0).slots == 0


@pytest.mark.parametrize(
    ("credits", "limit", "used", "extra", "spendable", "cap"),
    [
        (100, None, None, 0, 100, UNLIMITED),
        (100, None, None, 20, 120, UNLIMITED),
        (100, None, 50, 20, 120, UNLIMITED),
        (100, 90, 50, 20, 40, UNLIMITED),
        (100, 200, 50, 20, 120, UNLIMITED),
        (100, 200, 50, 70, 150, UNLIMITED),
        (100, 50, 60, 0, -10, UNLIMITED),
        (None, 90, 50, 0, 40, UNLIMITED),
        (100, 90, None, 20, 120, 90),
        (None, 90, None, 0, UNLIMITED, 90),
        (-5, None, None, 0, -5, UNLIMITED),
    ],
    ids=[
        "credits",
        "with extra",
        "used alone says nothing",
        "limit is smaller",
        "credits are smaller",
        "limit bounds extra",
        "limit is passed",
        "limit bounds no bound",
        "limit alone is a cap",
        "cap without a bound",
        "overdrawn",
    ],
)
def test_what_can_be_spent(
    credits: int | None,
    limit: int | None,
    used: int | None,
    extra: int,
    spendable: float,
    cap: float,
) -> None:
    """Credits and extra credits, below what a cost limit leaves; a limit alone caps one call."""
    seen = snapshot(credits, 0.0, limit=limit, used=used)
    assert seen.spendable(extra) == spendable
    assert seen.cap == cap


def test_balances_round_down() -> None:
    """A part of a micro-credit is never promised, under a cost limit neither."""
    balance = Balance(
        credits=Decimal("1.0000019"), cost_limit=Decimal(3), credits_used=Decimal("2.5000001")
    )
    seen = BalanceSnapshot.of(balance, at(0.0))
    assert (seen.credits, seen.ceiling) == (1_000_001, 499_999)
    capped = BalanceSnapshot.of(Balance(credits=None, cost_limit=Decimal("0.0000019")), at(0.0))
    assert capped.cap == 1


@pytest.mark.parametrize("precision", [3, 28])
def test_a_cost_limits_room_is_exact(precision: int) -> None:
    """The difference of limit and use does not go by anybody's decimal context."""
    balance = Balance(
        credits=None, cost_limit=Decimal(10**12), credits_used=Decimal("0." + "0" * 30 + "1")
    )
    with decimal.localcontext(decimal.Context(prec=precision)):
        assert BalanceSnapshot.of(balance, at(0.0)).ceiling == 10**18 - 1


# Holds.


def test_holds_and_settling_below_and_above() -> None:
    """A call's real cost replaces its hold, more than was held included."""
    ledger = ledger_of()
    below, above = opened(ledger, 30), opened(ledger, 30)
    assert ledger.available(0, 0) == 40
    assert ledger.settle(below, 10, 5.0)
    assert ledger.available(0, 0) == 60
    assert ledger.settle(above, 45, 5.0)
    assert figures(ledger) == (45, 0, 55, 0, 0)


def test_a_hold_asks_for_no_slots_unless_told() -> None:
    """Credits alone take no session."""
    ledger = ledger_of()
    ledger.open(LedgerEntry(30))
    assert figures(ledger) == (70, 30, 0, 0, 1)


def test_a_released_hold_leaves_no_trace() -> None:
    """Nothing was charged: nothing is counted."""
    ledger = ledger_of()
    before = figures(ledger)
    assert ledger.release(opened(ledger, 30, slots=2))
    assert figures(ledger) == before


@pytest.mark.parametrize("first", ["settle", "release", "keep"])
@pytest.mark.parametrize("second", ["settle", "release", "keep", "charge"])
def test_a_hold_ends_once(first: str, second: str) -> None:
    """Whatever ends a hold first counts; what comes later changes nothing."""
    ledger = ledger_of()
    entry = opened(ledger, 30, slots=1)
    ways: dict[str, Callable[[], object]] = {
        "settle": lambda: ledger.settle(entry, 7, 5.0),
        "release": lambda: ledger.release(entry),
        "keep": lambda: ledger.keep(entry, 9.0),
        "charge": lambda: ledger.charge(entry, 99, 5.0),
    }
    assert ways[first]()
    before = figures(ledger)
    assert not ways[second]()
    assert figures(ledger) == before


def test_a_charged_part_moves_from_held_to_debit() -> None:
    """What the provider has charged already is not counted twice once a balance shows it."""
    ledger = ledger_of(100)
    entry = opened(ledger, 50)
    ledger.charge(entry, 20, 1.0 + LAG)
    assert figures(ledger) == (50, 30, 20, 0, 1)
    ledger.apply(snapshot(80, 1.0 + LAG))
    assert figures(ledger) == (50, 30, 0, 0, 1)


@pytest.mark.parametrize("total", [20, 19, 0], ids=["the same", "less", "none"])
def test_a_total_that_is_no_larger_changes_nothing(total: int) -> None:
    """Totals only grow: one that arrives late is dropped."""
    ledger = ledger_of()
    entry = opened(ledger, 50)
    ledger.charge(entry, 20, 5.0)
    before = figures(ledger)
    ledger.charge(entry, total, 99.0)
    assert figures(ledger) == before
    assert ledger.settled.last_clears_at == 5.0


def test_more_charged_than_held_is_counted() -> None:
    """The credits are gone, so they are debits, and nothing of the call is held any more."""
    ledger = ledger_of()
    entry = opened(ledger, 50)
    ledger.charge(entry, 40, 5.0)
    ledger.charge(entry, 70, 5.0)
    assert figures(ledger) == (30, 0, 70, 0, 1)
    assert entry.rest == 0
    ledger.settle(entry, 75, 6.0)
    assert figures(ledger) == (25, 0, 75, 0, 0)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("settle", (65, 0, 35)),
        ("less", (80, 0, 20)),
        ("release", (80, 0, 20)),
        ("keep", (50, 0, 50)),
    ],
)
def test_how_a_charged_hold_ends(end: str, expected: tuple[int, int, int]) -> None:
    """What was charged remains a debit, whatever becomes of the rest."""
    ledger = ledger_of()
    entry = opened(ledger, 50)
    ledger.charge(entry, 20, 5.0)
    if end == "release":
        ledger.release(entry)
    elif end == "keep":
        ledger.keep(entry, 9.0)
    else:
        ledger.settle(entry, 35 if end == "settle" else 15, 5.0)
    assert figures(ledger)[:3] == expected


def test_an_extension_adds_to_the_hold() -> None:
    """A longer call holds more, and ends with all of it."""
    ledger = ledger_of()
    entry = opened(ledger, 30)
    ledger.extend(entry, 15)
    assert (entry.micro, figures(ledger)) == (45, (55, 45, 0, 0, 1))
    ledger.charge(entry, 40, 5.0)
    ledger.extend(entry, 10)
    assert figures(ledger) == (45, 15, 40, 0, 1)
    ledger.release(entry)
    assert figures(ledger) == (60, 0, 40, 0, 0)


# The provider itself refuses.


@pytest.mark.parametrize(
    ("credits", "sent", "spendable"),
    [
        (41, 10.1, 41),
        (40, 10.1, 0),
        (39, 10.1, 0),
        (40, math.nextafter(15.0, 0.0), 0),
        (40, 15.0, 40),
        (39, 15.0, 39),
        (0, 15.0, 0),
        (None, 10.1, UNLIMITED),
        (41, 10.0, 0),
        (41, 9.9, 0),
        (41, -1.0, 0),
    ],
    ids=[
        "higher",
        "equal",
        "lower",
        "equal, just before lag",
        "equal, lag later",
        "lower, lag later",
        "zero, lag later",
        "unlimited now",
        "higher, of the same moment",
        "higher, sent before",
        "higher, older than the balance at hand",
    ],
)
def test_what_ends_an_exhaustion(credits: int | None, sent: float, spendable: float) -> None:
    """A balance of zero counts until a higher one, or one sent `lag` later, arrives."""
    ledger = ledger_of(40)
    ledger.refuse(at(10.0), LAG)
    assert ledger.snapshot.spendable(0) == ledger.snapshot.spendable(1000) == ledger.room == 0
    ledger.apply(snapshot(credits, sent))
    assert ledger.snapshot.spendable(0) == ledger.room == spendable


def test_an_exhausted_balance_says_zero() -> None:
    """Readers of the balance get what the provider's refusal amounts to."""
    ledger = ledger_of(40)
    ledger.refuse(at(10.0), LAG)
    assert ledger.snapshot is not None
    assert ledger.snapshot.balance.credits == 0
    ledger.apply(snapshot(39, 11.0))
    assert ledger.snapshot.balance.credits == 0
    ledger.apply(snapshot(40, 12.0))
    assert ledger.snapshot.balance.credits == Decimal("0.00004")


def test_a_lower_balance_lowers_what_ends_an_exhaustion() -> None:
    """Higher means higher than the balance last seen, not than the one before it."""
    ledger = ledger_of(40)
    ledger.refuse(at(10.0), LAG)
    ledger.apply(snapshot(20, 11.0))
    assert ledger.snapshot.spendable(0) == 0
    ledger.apply(snapshot(20, 12.0))
    assert ledger.snapshot.spendable(0) == 0
    ledger.apply(snapshot(21, 13.0))
    assert ledger.snapshot.spendable(0) == 21


def test_a_refusal_again_waits_for_its_own_lag() -> None:
    """The second refusal starts its time anew, and remembers the balance before the first."""
    ledger = ledger_of(40)
    ledger.refuse(at(10.0), LAG)
    ledger.refuse(at(13.0), LAG)
    ledger.apply(snapshot(40, 15.0))
    assert ledger.snapshot.spendable(0) == 0
    ledger.apply(snapshot(40, 18.0))
    assert ledger.snapshot.spendable(0) == 40


@pytest.mark.parametrize(("credits", "available"), [(0, 0), (1, 1)])
def test_a_refusal_with_no_cached_balance(credits: int, available: int) -> None:
    """Before the first refresh, any balance above zero is a higher one."""
    ledger = Ledger()
    ledger.refuse(at(10.0), LAG)
    assert ledger.available(0, 0) == 0
    ledger.apply(snapshot(credits, 11.0))
    assert ledger.available(0, 0) == available
    assert ledger.snapshot is not None
    assert (ledger.snapshot.refused_until is None) is (available > 0)


def test_a_refusal_without_a_bound_lasts_for_lag() -> None:
    """No balance is higher than unlimited: only time ends such an exhaustion."""
    ledger = ledger_of(None)
    ledger.refuse(at(10.0), LAG)
    ledger.apply(snapshot(None, 14.0))
    assert ledger.snapshot.spendable(0) == 0
    ledger.apply(snapshot(None, 15.0))
    assert ledger.snapshot.spendable(0) == UNLIMITED


def test_a_refusal_keeps_holds_and_debits() -> None:
    """Exhaustion is about the balance; what runs, runs on."""
    ledger = ledger_of(40)
    opened(ledger, 10, slots=1)
    ledger.settle(opened(ledger, 5), 5, 12.0)
    ledger.refuse(at(10.0), LAG)
    assert figures(ledger) == (-15, 10, 5, 1, 1)
    ledger.apply(snapshot(38, 12.0))
    assert figures(ledger) == (-10, 10, 0, 1, 1)
    assert ledger.room == -10


def test_a_refusal_keeps_limits() -> None:
    """Caps and sessions remain as the last balance said."""
    ledger = Ledger()
    ledger.apply(snapshot(40, 0.0, limit=30, slots=2))
    ledger.refuse(at(10.0), LAG)
    assert ledger.snapshot is not None
    assert (ledger.snapshot.cap, ledger.snapshot.slots) == (30, 2)
