"""`OtherSpenders`: what balances prove about others who spend, and what is believed meanwhile.

Amounts are credits, times are seconds. A balance arrives when it was requested, unless a test says more.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetguard import Balance
from budgetguard._core.amounts import MICRO, to_credits
from budgetguard._core.branch import LedgerEntry
from budgetguard._core.clock import Instant
from budgetguard._core.ledger import Ledger
from budgetguard._core.other_spenders import (
    CHECKPOINT_EVERY,
    FIRST_SPELL,
    LONGEST_SPELL,
    MOST_CHECKPOINTS,
    NOISE,
    OtherSpenders,
)
from budgetguard._core.snapshot import BalanceSnapshot

LAG = 5.0
MINUTE = 60.0


class Account:
    """A ledger at its default setting, in credits, whose balance was 1,000 at the beginning."""

    def __init__(self, credits: int = 1000, *, step: int | None = None, **limits: Any) -> None:
        self.ledger = Ledger()
        self.ledger.head.others.topup_step = None if step is None else step * MICRO
        self.now = 0.0
        self.limits = limits
        self.see(credits)

    @property
    def others(self) -> OtherSpenders:
        """The evidence."""
        return self.ledger.head.others

    @property
    def believed(self) -> bool:
        """Whether others are believed to spend."""
        assert self.others.belief is not None
        return self.others.belief.others

    @property
    def available(self) -> float:
        """What may be promised."""
        return float(to_credits(self.ledger.available(0, 0)))

    @property
    def overlap(self) -> int:
        """The overlap of the cached balance."""
        assert self.ledger.snapshot is not None
        return self.ledger.snapshot.overlap // MICRO

    def see(
        self,
        credits: float | None,
        after: float = 10.0,
        landed: float | None = None,
        **limits: Any,
    ) -> None:
        """A balance that was requested so many seconds after the last one, or after the last event."""
        self.now += after
        self.limits |= limits
        balance = Balance(
            credits=None if credits is None else to_credits(round(credits * MICRO)), **self.limits
        )
        assert self.ledger.apply(BalanceSnapshot.of(balance, Instant(self.now, self.now)), landed)

    def hold(self, credits: int) -> LedgerEntry:
        """A call that runs from now on."""
        entry = LedgerEntry(credits * MICRO)
        self.ledger.open(entry)
        return entry

    def settle(self, entry: LedgerEntry, credits: int) -> None:
        """A call ends now, and cost so much."""
        assert self.ledger.settle(entry, credits * MICRO, self.now + LAG)

    def prove(self, after: float = 10.0) -> None:
        """Somebody else spends a credit while nothing is held."""
        assert not self.ledger.held
        snapshot = self.ledger.snapshot
        assert snapshot is not None
        self.see(int(snapshot.credits) // MICRO - 1, after)


def test_nobody_else_is_believed_to_spend_at_first() -> None:
    """What a running call was charged is not counted twice, from the first balance on."""
    account = Account()
    account.hold(50)
    account.see(970)
    assert (account.available, account.overlap, account.believed) == (950, 30, False)


def test_a_fall_beyond_all_that_is_held_is_a_proof() -> None:
    """From then on what running calls were charged is counted twice, as if it was never known."""
    account = Account()
    account.hold(50)
    account.see(949)
    assert account.believed
    assert account.others.changed
    assert account.others.belief is not None
    assert account.others.belief.proven == MICRO
    assert (account.available, account.overlap) == (899, 0)
    account.see(939)
    assert (account.available, account.others.changed) == (889, False)


def test_what_a_call_turns_out_to_have_cost_proves_it_afterwards() -> None:
    """A fall of 40 while a call held 50 proves nothing, until that call turns out to have cost 10."""
    account = Account()
    first, _ = account.hold(50), account.hold(100)
    account.see(960, CHECKPOINT_EVERY)
    account.settle(first, 10)
    account.see(960, 1.0)
    assert not account.believed
    account = Account()
    first = account.hold(50)
    account.see(960, CHECKPOINT_EVERY)
    account.hold(100)
    account.settle(first, 10)
    # The direct proof fails: 40 fell, and 110 are held and pending.
    account.see(960, 1.0)
    assert account.believed
    assert account.others.belief is not None
    assert account.others.belief.proven == 30 * MICRO


def test_what_a_call_costs_that_began_later_proves_nothing() -> None:
    """A checkpoint's bound is about the calls that it counted."""
    account = Account()
    account.hold(50)
    account.see(960, CHECKPOINT_EVERY)
    later = account.hold(100)
    account.settle(later, 1)
    account.see(959, 1.0)
    assert not account.believed


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda ledger, entry: ledger.release(entry), id="released"),
        pytest.param(lambda ledger, entry: ledger.settle(entry, 0, 0.0), id="settled at nothing"),
        pytest.param(
            lambda ledger, entry: (
                entry.__setattr__("ended", True),
                ledger.ends.append((entry.micro, 0, 0.0, entry.epoch)),
                ledger.record_ends(),
            ),
            id="settled without a lock",
        ),
    ],
)
def test_each_end_below_the_hold_lowers_the_bound(end: Any) -> None:
    """A call that turns out to have cost nothing cannot explain any of the fall."""
    account = Account()
    entry = account.hold(50)
    account.see(960, CHECKPOINT_EVERY)
    account.hold(100)
    end(account.ledger, entry)
    account.see(960, 1.0)
    assert account.believed


def test_a_kept_hold_counts_in_full() -> None:
    """Nobody knows what it cost, so it may explain all that it held."""
    account = Account()
    entry = account.hold(50)
    account.see(950, CHECKPOINT_EVERY)
    account.hold(100)
    account.ledger.keep(entry, account.now + 300)
    account.see(950, 1.0)
    assert not account.believed


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(lambda ledger, entry: ledger.extend(entry, 30 * MICRO), id="extended"),
        pytest.param(lambda ledger, entry: ledger.charge(entry, 80 * MICRO, 0.0), id="charged"),
        pytest.param(lambda ledger, entry: ledger.repeat(entry, 300.0), id="attempted again"),
    ],
)
def test_whatever_a_call_may_cost_beyond_its_hold_raises_the_bound(more: Any) -> None:
    """Its charges may have been in the balance before the ledger heard of them."""
    account = Account()
    entry = account.hold(50)
    account.see(955, CHECKPOINT_EVERY)
    more(account.ledger, entry)
    (checkpoint,) = account.others._checkpoints
    assert checkpoint.bound in {80 * MICRO, 100 * MICRO}
    account.settle(entry, 60)
    assert checkpoint.bound in {60 * MICRO, 80 * MICRO, 110 * MICRO}


def test_a_call_that_cost_more_than_it_held_explains_what_it_cost() -> None:
    """An overrun was charged too."""
    account = Account()
    entry = account.hold(50)
    account.see(950, CHECKPOINT_EVERY)
    (checkpoint,) = account.others._checkpoints
    account.settle(entry, 70)
    assert checkpoint.bound == 70 * MICRO


def test_a_provider_that_gives_back_what_it_reserved_proves_nothing() -> None:
    """A call of 10 that was charged 50 at first, and given back 40 at its end, is one of 10."""
    account = Account()
    entry = account.hold(50)
    account.see(950, CHECKPOINT_EVERY)
    account.settle(entry, 10)
    account.see(990, 1.0)
    account.see(990, LAG)
    assert (account.believed, account.available) == (False, 990)
    account.hold(30)
    account.see(990)
    assert account.available == 960


def test_what_was_given_back_is_not_promised_while_other_calls_run() -> None:
    """A call reserved 10, cost 2 and was given back 8: the hold of another call counts in full again."""
    account = Account()
    entry = account.hold(10)
    account.see(990)
    account.hold(50)
    account.settle(entry, 2)
    account.see(998, 1.0)
    assert (account.available, account.overlap, account.believed) == (948, 2, False)
    account.see(998, LAG)
    assert (account.available, account.overlap, account.believed) == (948, 0, False)


def test_what_was_given_back_below_a_cost_limit_is_not_promised() -> None:
    """The same where a cost limit is what counts."""
    account = Account(cost_limit=100, credits_used=0)
    entry = account.hold(10)
    account.see(1000, credits_used=10)
    account.hold(50)
    account.settle(entry, 2)
    account.see(1000, credits_used=2)
    assert account.available == 48


def test_noise_is_no_proof() -> None:
    """A provider that computes in floats shows a micro-credit less now and then."""
    account = Account()
    account.see(1000 - NOISE / MICRO)
    assert not account.believed
    account.see(1000 - 2 * NOISE / MICRO - 1 / MICRO)
    assert account.believed


def test_a_spell_ends_and_the_next_is_twice_as_long() -> None:
    """Trust comes back with the first balance after the spell, and is harder to regain each time."""
    account = Account()
    spell = FIRST_SPELL
    while spell < 2 * LONGEST_SPELL:
        account.prove()
        assert account.others.belief is not None
        assert (account.believed, account.others.changed) == (True, True)
        assert account.others.belief.spell == min(spell, LONGEST_SPELL)
        snapshot = account.ledger.snapshot
        assert snapshot is not None
        left = int(snapshot.credits) // MICRO
        account.see(left, min(spell, LONGEST_SPELL) - 1)
        assert account.believed
        account.see(left, 1)
        assert (account.believed, account.others.changed) == (False, True)
        spell *= 2


def test_each_proof_prolongs_the_spell_and_is_no_news() -> None:
    """The spell counts from the latest proof."""
    account = Account()
    account.prove()
    account.prove(FIRST_SPELL - 1)
    assert not account.others.changed
    account.see(998, FIRST_SPELL - 1)
    assert account.believed
    account.see(998, 1)
    assert not account.believed


def test_a_refusal_that_the_balance_covers_is_a_proof() -> None:
    """The provider says that there is nothing, where there should have been enough for all."""
    account = Account(100)
    account.hold(100)
    account.ledger.refuse(Instant(11.0, 11.0), LAG)
    assert account.believed
    assert account.others.changed
    assert account.others.belief is not None
    assert account.others.belief.proven == 0


def test_a_refusal_that_was_to_be_expected_proves_nothing() -> None:
    """In observe mode calls are let in that the balance does not cover."""
    account = Account(100)
    account.hold(101)
    account.ledger.refuse(Instant(11.0, 11.0), LAG)
    assert not account.believed


def test_a_refusal_without_a_balance_proves_nothing() -> None:
    """Nothing was known that it could contradict."""
    ledger = Ledger()
    ledger.refuse(Instant(1.0, 1.0), LAG)
    assert ledger.head.others.belief is None


@pytest.mark.parametrize(("step", "overlap"), [(None, 30), (100, 40), (500, 40), (1, 30)])
def test_a_top_ups_step_tells_what_it_hides(step: int | None, overlap: int) -> None:
    """A rise of 490 where top-ups are multiples of 100 hides charges of at least 10."""
    account = Account(step=step)
    account.hold(50)
    account.see(970)
    account.see(970 + 490)
    assert account.overlap == overlap


@pytest.mark.parametrize("rise", [1, NOISE, 100 * MICRO + 1, 100 * MICRO + NOISE, 100 * MICRO])
def test_noise_above_a_step_hides_no_charges(rise: int) -> None:
    """A provider that computes in floats shows a micro-credit more now and then, which is no top-up."""
    account = Account(step=100)
    account.hold(50)
    account.see(1000 + rise / MICRO)
    assert account.overlap == 0
    assert account.ledger.available(0, 0) == 950 * MICRO + rise


def test_a_changed_cost_limit_starts_without_evidence_below_it() -> None:
    """What is left of another limit says nothing about what was spent; the belief stays."""
    account = Account(None, cost_limit=to_credits(1000 * MICRO), credits_used=to_credits(0))
    account.hold(50)
    account.see(None, CHECKPOINT_EVERY, credits_used=to_credits(30 * MICRO))
    assert account.available == 950
    assert account.others._checkpoints
    account.see(None, cost_limit=to_credits(900 * MICRO))
    assert account.available == 820
    assert not account.others._checkpoints


def test_an_idle_account_needs_no_checkpoints_and_memory_is_bounded() -> None:
    """There are four at most, and none once nothing is held or pending."""
    account = Account()
    entry = account.hold(50)
    for _ in range(10):
        account.see(1000, CHECKPOINT_EVERY)
    assert len(account.others._checkpoints) == MOST_CHECKPOINTS
    account.settle(entry, 0)
    account.see(1000, LAG)
    assert not account.others._checkpoints


def test_a_balance_that_may_be_the_earlier_one_proves_and_hides_nothing() -> None:
    """Replies to concurrent calls carry balances whose order is not known."""
    account = Account()
    account.hold(50)
    account.see(970, landed=40.0)
    assert account.overlap == 30
    # Requested before the other arrived, and taken at the provider before it, perhaps.
    account.see(1000, 5.0)
    assert (account.available, account.overlap) == (950, 0)
    account.see(940, 5.0)
    assert (account.available, account.overlap, account.believed) == (940, 50, False)
    account.see(960, 20.0)
    assert (account.available, account.overlap, account.believed) == (950, 40, False)


@pytest.mark.parametrize("running", [0, 50])
def test_a_debit_that_a_balance_of_unknown_order_cleared_explains_the_fall(running: int) -> None:
    """It may be charged after the one balance and before the other: it is neither overlap nor a proof."""
    account = Account()
    entry = account.hold(30)
    account.settle(entry, 30)
    account.hold(running)
    account.see(1000, 1.0, landed=40.0)
    for after in (LAG, 1.0, 40.0):
        account.see(970, after)
        assert (account.available, account.overlap) == (970 - running, 0)
    assert not account.believed


def test_a_top_up_between_two_balances_of_unknown_order_is_not_counted_as_charges() -> None:
    """Of two balances on either side of a top-up, the later one may be known first."""
    account = Account()
    account.hold(50)
    account.see(1300, landed=40.0)
    account.see(1000, 5.0)
    assert (account.available, account.believed) == (1000, False)
    account.see(1300, 20.0)
    assert (account.available, account.overlap) == (1250, 0)


@pytest.mark.parametrize(
    ("settings_of_guards", "setting"),
    [
        (["auto"], "auto"),
        (["auto", True], True),
        ([True, "auto"], True),
        ([True, False], False),
        ([False, True, "auto"], False),
    ],
)
def test_false_wins_over_true_and_both_over_auto(
    settings_of_guards: list[Any], setting: Any
) -> None:
    """Guards of one account need not agree."""
    others = OtherSpenders()
    for each in settings_of_guards:
        others.join(each)
    assert others.setting == setting


# What holds whatever happens.

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(1, 40), st.integers(0, 40)),
        st.tuples(st.just("work"), st.integers(0, 5), st.integers(1, 15)),
        st.tuples(st.just("end"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("keep"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("look"), st.integers(1, 200), st.just(0)),
        st.tuples(st.just("request"), st.integers(1, 10), st.just(0)),
        st.tuples(st.just("reply"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("top up"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("others"), st.integers(1, 20), st.just(0)),
    ),
    max_size=60,
)


class World:
    """Calls that are charged at once while they run, at most what they hold, beside a ledger that looks on."""

    STEP = 100

    def __init__(self, *, others: bool, step: bool) -> None:
        self.others = others
        self.account = Account(10_000, step=self.STEP if step else None)
        self.true = 10_000
        self.spent_by_others = 0
        self.running: list[tuple[LedgerEntry, int, list[int]]] = []
        self.replies: list[tuple[float, int, int]] = []

    def act(self, what: str, number: int, more: int) -> None:
        """One step."""
        account = self.account
        if what == "begin":
            self.running.append((account.hold(number), min(number, more), [0]))
        elif what == "top up":
            self.true += number * self.STEP
        elif what == "others" and self.others:
            self.true -= number
            self.spent_by_others += number
        elif what == "look":
            account.see(self.true, float(number))
            self.check()
        elif what == "request":
            account.now += number
            self.replies.append((account.now, self.true, self.spent_by_others))
        elif what == "reply" and self.replies:
            self.arrive(*self.replies.pop(number % len(self.replies)))
        elif self.running and what in {"work", "end", "keep"}:
            entry, cost, worked = self.running[number % len(self.running)]
            if what == "work":
                amount = min(more, cost - worked[0])
                worked[0] += amount
                self.true -= amount
            elif what == "end":
                account.settle(entry, worked[0])
                self.running.remove((entry, cost, worked))
            else:
                account.ledger.keep(entry, account.now + LAG)
                self.running.remove((entry, cost, worked))

    def arrive(self, sent: float, credits: int, spent: int) -> None:
        """A balance comes late, after others perhaps that were requested before or after it."""
        account = self.account
        account.now += 1
        snapshot = BalanceSnapshot.of(Balance(credits=credits), Instant(sent, sent))
        if account.ledger.apply(snapshot, account.now):
            self.check(unseen=self.spent_by_others - spent)

    def check(self, unseen: int = 0) -> None:
        """What the new balance promises, against what nobody but the provider knows.

        `unseen` is what others spent since the balance was requested, which no setting can know of.
        """
        account = self.account
        still_held = sum(entry.micro // MICRO - worked[0] for entry, _, worked in self.running)
        committed = (account.ledger.held + account.ledger.pending) // MICRO
        headroom = self.true - still_held
        too_much = account.available - headroom
        assert too_much <= unseen + min(self.spent_by_others, committed)
        if not self.others:
            assert not account.believed


@given(STEPS, st.booleans())
@settings(deadline=None, max_examples=400)
def test_nobody_else_spends_so_nothing_is_proven_and_nothing_promised_too_much(
    steps: list[tuple[str, int, int]], step: bool
) -> None:
    """Whatever is believed, `available` is never above what is truly left beside all running calls."""
    world = World(others=False, step=step)
    for each in steps:
        world.act(*each)


@given(STEPS, st.booleans())
@settings(deadline=None, max_examples=400)
def test_others_spend_and_no_more_than_that_is_promised_too_much(
    steps: list[tuple[str, int, int]], step: bool
) -> None:
    """At each balance the promise is too high by at most what others spent, and what is committed."""
    world = World(others=True, step=step)
    for each in steps:
        world.act(*each)
