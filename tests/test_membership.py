"""`Membership`: which message a process sends to the head of its account, when, and what it makes of the answer.

The head is a real one. Amounts are micro-credits, times are seconds.
"""

from decimal import Decimal

import pytest

from budgetguard._core.balance import Balance
from budgetguard._core.branch import LedgerEntry
from budgetguard._core.budget_windows import RollingPeriod
from budgetguard._core.clock import Instant
from budgetguard._core.drawn_budgets import DrawnBudgets
from budgetguard._core.leased_ledger import LeasedLedger
from budgetguard._core.policy import GuardTerms
from budgetguard._core.shared_head import CALM, SharedHead
from budgetguard._core.store_messages import NEVER, Busy, Join, Landing, Message, Need, Reply
from budgetguard._engine.membership import (
    BEAT,
    FIRST_RETRY,
    IDLE,
    LONGEST_RETRY,
    MARGIN,
    WAITING_BEAT,
    Membership,
    MemberTerms,
)
from budgetguard._engine.refresh_schedule import GRACE, LATER, Refresh
from budgetguard._engine.subscriber import Subscriber
from budgetguard.stores import SQLiteStore

HOLD_FOR = 30.0
PATIENCE = 10.0
TERMS = GuardTerms(
    fresh_for=5,
    stale_for=600,
    recheck_after=1,
    timeout=3,
    floor=0,
    extra=0,
    allow_unknown=False,
)


class Account:
    """The head of an account, and a clock that all its members go by."""

    def __init__(self) -> None:
        self.head = SharedHead("e1")
        self.now = 1000.0
        self.told = 0

    def handle(self, message: Message, *dead: str) -> Reply:
        """The head takes a message."""
        return self.head.handle(message, self.now, dead)[0]

    def tell(self, credits: int) -> None:
        """Somebody who spends nothing tells the balance, and leaves."""
        self.told += 1
        name, epoch = f"teller {self.told}", self.head.epoch
        first = Message(name, 1, "", join=Join(None), refresh_after=self.head.now)
        right = self.handle(first)
        landing = Landing(epoch, right.refresh_number, Balance(credits=Decimal(credits).scaleb(-6)))
        self.handle(Message(name, 2, epoch, landing=landing, leave=True))


class Member:
    """A process: its ledger, and its session with the head. It says that it is no sole spender."""

    def __init__(
        self, account: Account, name: str, *, hold_for: float | None = HOLD_FOR, drift: float = 0.0
    ) -> None:
        self.account = account
        self.name = name
        self.store = SQLiteStore("credits.db", timeout=2)
        self.store.drift = drift
        self.ledger = LeasedLedger(DrawnBudgets(""))
        self.session = Membership(self.store, self.ledger, MemberTerms(hold_for, None, None, ()))
        self.session.welcome((0, 0), "auto", PATIENCE)
        self.needs: tuple[Need, ...] = ()

    @property
    def now(self) -> Instant:
        """The time by its clocks."""
        return Instant(self.account.now, self.account.now + 5000)

    def ready(self, *, drawing: bool = False) -> bool:
        """Whether a message is due."""
        return self.session.ready(self.now, drawing=drawing)

    def build(self, *, leave: bool = False) -> Message:
        """The message that is due."""
        return self.session.build(self.now, self.name, lambda: self.needs, leave=leave)

    def receive(self, message: Message, reply: Reply) -> Reply:
        """The reply arrives."""
        sent, epoch = self.session.sent_at(message), self.session.epoch
        assert self.session.receive(message, reply, self.now)
        self.ledger.see(reply.view, sent, anew=reply.epoch != epoch)
        return reply

    def send(self, *, leave: bool = False) -> Reply:
        """The message that is due is sent and answered."""
        message = self.build(leave=leave)
        return self.receive(message, self.account.handle(message))

    def draw(self, amount: int) -> LedgerEntry:
        """A call begins whose credits the head grants; the reply brings some slack, but for the first one."""
        self.needs = (Need(self.session._number, amount, amount),)
        assert self.send().granted
        self.needs = ()
        entry = LedgerEntry(amount)
        self.ledger.open(entry)
        return entry

    def wants_refresh(self) -> None:
        """Callers here need a newer balance."""
        refresh = Refresh(Subscriber(TERMS, "fake"), 0, LATER, after_freeze=False)
        self.session.ask_to_refresh(refresh)


@pytest.fixture
def account() -> Account:
    """Give an account of 100 micro-credits."""
    account = Account()
    account.tell(100)
    return account


@pytest.fixture
def ann(account: Account) -> Member:
    """Give a member that has joined."""
    ann = Member(account, "ann")
    ann.send()
    return ann


@pytest.fixture
def bob(account: Account) -> Member:
    """Give another one."""
    bob = Member(account, "bob")
    bob.send()
    return bob


# When a message is due.


def test_what_finished_is_told_with_the_next_beat(account: Account, ann: Member) -> None:
    """So that many short calls cost few messages."""
    entry = ann.draw(10)
    ann.ledger.settle(entry, 10, account.now + 5)
    account.now += BEAT * 0.9
    assert not ann.ready()
    account.now += BEAT * 0.2
    assert ann.ready()


def test_while_somebody_is_short_what_finished_is_told_at_once(
    account: Account, ann: Member, bob: Member
) -> None:
    """It may be what another process waits for."""
    entry = ann.draw(10)
    bob.needs = (Need(1, 200, 200),)
    bob.send()
    assert ann.send().view.exact
    assert ann.ledger.room == 0
    ann.ledger.settle(entry, 10, account.now + 5)
    assert ann.ready()


def test_slack_is_given_back_at_once_where_callers_of_others_wait(ann: Member, bob: Member) -> None:
    """Also where all slack would not be enough for them, and nobody asks for it."""
    ann.ledger.release(ann.draw(10))
    ann.send()
    bob.needs = (Need(1, 200, 200, counts=True),)
    bob.send()
    view = ann.send().view
    assert (view.queued, view.recall) == (200, 0)
    assert ann.ledger.room > 0
    assert ann.ready()
    ann.send()
    assert ann.ledger.room == 0


def test_idle_slack_is_given_back_and_a_lease_is_renewed(account: Account, ann: Member) -> None:
    """As long as there is an open call, a third of its time after the last message."""
    ann.draw(10)
    ann.draw(10)
    assert ann.ledger.room > 0
    account.now += IDLE * 0.9
    assert not ann.ready()
    account.now += IDLE * 0.2
    assert ann.ready()
    message = ann.build()
    assert (message.report.keep, message.report.want) == (0, 0)
    ann.receive(message, account.handle(message))
    assert ann.ledger.room == 0
    account.now += HOLD_FOR / 3 - 0.1
    assert not ann.ready()
    account.now += 0.2
    assert ann.ready()


def test_callers_that_wait_are_told_of_again_and_again(account: Account, ann: Member) -> None:
    """A member that is not heard loses their places."""
    ann.session.waits = True
    account.now += WAITING_BEAT - 0.1
    assert not ann.ready()
    account.now += 0.2
    assert ann.ready()


def test_a_recall_is_answered_at_once_and_without_slack(
    account: Account, ann: Member, bob: Member
) -> None:
    """As soon as it is heard of, once; also where nobody is short any more."""
    ann.ledger.release(ann.draw(10))
    ann.send()
    bob.needs = (Need(1, 90, 90),)
    bob.send()
    bob.needs = ()
    bob.send()
    account.now += 2 * CALM
    view = ann.send().view
    assert (view.recall, view.exact) == (1, False)
    assert ann.ledger.room > 0
    assert ann.ready()
    message = ann.build()
    assert (message.report.keep, message.report.recall) == (0, 1)
    ann.receive(message, account.handle(message))
    assert not ann.ready()


def test_a_need_that_takes_this_process_s_slack_gives_it_back(ann: Member) -> None:
    """One that fits beside it does not."""
    ann.ledger.release(ann.draw(10))
    ann.send()
    room = ann.ledger.room
    assert room > 0
    ann.needs = (Need(2, 5, 5),)
    message = ann.build()
    assert message.report.keep == room
    ann.receive(message, ann.account.handle(message))
    ann.needs = (Need(3, 90, 90),)
    assert ann.send().granted == (3,)


# What stays the same until it is answered.


def test_a_message_is_sent_again_as_it_was(account: Account, ann: Member) -> None:
    """Also where whatever was to carry it was interrupted: a little after its time is over."""
    entry = ann.draw(10)
    message = ann.build()
    ann.ledger.settle(entry, 10, account.now + 5)
    account.now += ann.store.timeout
    assert not ann.ready()
    account.now += GRACE
    assert ann.ready()
    assert ann.build() is message


def test_a_store_that_does_not_answer_is_asked_less_and_less(account: Account, ann: Member) -> None:
    """Twice as long after each failure, up to a bound; after an answer, soon again."""
    message = ann.build()
    pauses = []
    for _ in range(7):
        ann.session.lost("it is away", ann.now, max)
        assert ann.ledger.away == "it is away"
        pauses.append(ann.session.retry_at - account.now)
        assert not ann.ready(drawing=True)
        account.now += pauses[-1] + 0.01
        assert ann.ready()
        assert ann.build() is message
    expected = [min(FIRST_RETRY * 2**n, LONGEST_RETRY) for n in range(7)]
    assert pauses == pytest.approx(expected)
    ann.receive(message, account.handle(message))
    assert ann.ledger.away is None
    ann.build()
    ann.session.lost("it is away", ann.now, max)
    assert ann.session.retry_at - account.now == pytest.approx(FIRST_RETRY)


def test_a_reply_to_another_message_is_not_taken(account: Account, ann: Member) -> None:
    """It was answered before."""
    first = ann.build()
    reply = account.handle(first)
    ann.receive(first, reply)
    message = ann.build()
    assert not ann.session.receive(first, reply, ann.now)
    assert ann.session.under_way is message


# Leases.


def test_a_lease_lasts_from_when_its_message_was_first_sent(account: Account, ann: Member) -> None:
    """It may have been heard then. Whichever of the clocks says so ends it: one may stand still in sleep."""
    message = ann.build()
    sent = ann.now
    reply = account.handle(message)
    account.now += 1.0
    assert ann.build() is message
    account.now += 1.0
    ann.receive(message, reply)
    until = HOLD_FOR * (1 - MARGIN)
    assert not ann.session.lapsed(Instant(sent.mono + until - 0.1, sent.wall + until - 0.1))
    assert ann.session.lapsed(Instant(sent.mono + until, sent.wall))
    assert ann.session.lapsed(Instant(sent.mono, sent.wall + until))


def test_a_lease_of_a_store_that_knows_who_lives_has_no_end(account: Account) -> None:
    """Neither before the first message nor after it."""
    member = Member(account, "ann", hold_for=None)
    assert not member.session.lapsed(member.now)
    member.send()
    account.now += 1e6
    assert not member.session.lapsed(member.now)


# Who the member is.


def test_slack_is_for_all_guards_of_the_process(ann: Member) -> None:
    """Above the highest of their floors, and without what only some may spend beyond the balance."""
    assert ann.session.one_level
    ann.session.welcome((40, 0), "auto", PATIENCE / 2)
    ann.session.welcome((10, 5), "auto", PATIENCE / 2)
    assert not ann.session.one_level
    report = ann.build().report
    assert (report.floor, report.extra, report.patience) == (40, 0, PATIENCE)


def test_a_guard_that_knows_of_other_spenders_has_the_head_told(
    account: Account, ann: Member
) -> None:
    """At once, and without the debits, which it knows."""
    entry = ann.draw(10)
    ann.ledger.settle(entry, 10, account.now + 5)
    ann.send()
    assert not ann.ready()
    ann.session.welcome((0, 0), False, PATIENCE)
    assert ann.ready()
    message = ann.build()
    assert message.join is not None
    assert (message.join.sole_spender, message.join.whole) == (False, False)
    assert message.report.settled == ()


def test_a_member_that_left_joins_anew(ann: Member) -> None:
    """It kept nothing."""
    ann.ledger.release(ann.draw(10))
    ann.send()
    assert ann.ledger.room > 0
    ann.send(leave=True)
    assert (ann.ledger.room, ann.session.joined, ann.ready()) == (0, False, False)
    ann.draw(10)
    assert ann.session.joined


# Another head, and one that gave the member up.


def test_another_head_is_told_at_once_what_is_held_and_what_finished(
    account: Account, ann: Member
) -> None:
    """Also what was reported before: it may know nothing of it."""
    ann.draw(30)
    settled, kept = ann.draw(10), ann.draw(5)
    ann.ledger.settle(settled, 10, account.now + 5)
    ann.ledger.keep(kept, account.now + 9)
    ann.send()
    account.head = SharedHead("e2", regroup=60.0)
    assert ann.send().status == "reassert"
    assert ann.ready()
    assert ann.send().status == "done"
    assert ann.ledger.held == 30
    assert (account.head.leased, account.head.pending) == (30 + ann.ledger.room, 15)


def test_what_a_member_that_was_given_up_had_reported_is_not_told_again(
    account: Account, ann: Member, bob: Member
) -> None:
    """Its message took effect before, and it did not hear of that."""
    entry = ann.draw(10)
    ann.ledger.settle(entry, 10, account.now + 5)
    message = ann.build()
    account.handle(message)
    account.handle(bob.build(), "ann")
    assert ann.receive(message, account.handle(message)).status == "expired"
    again = ann.build()
    assert again.join is not None
    assert not again.join.whole
    ann.receive(again, account.handle(again))
    assert (account.head.pending, account.head.leased) == (10, ann.ledger.room)


def test_what_a_member_had_to_report_when_it_was_given_up_is_told(
    account: Account, ann: Member, bob: Member
) -> None:
    """Its message came too late to take effect; its news are told as well."""
    entry = ann.draw(10)
    ann.ledger.settle(entry, 10, account.now + 5)
    account.handle(bob.build(), "ann")
    ann.session.news.append(Busy(5.0))
    assert ann.send().status == "expired"
    assert ann.ready()
    assert ann.send().view.busy_until > account.head.now
    assert (account.head.pending, account.head.leased) == (10, ann.ledger.room)


def test_stamps_of_budgets_move_with_the_clock_of_another_head(
    account: Account, ann: Member
) -> None:
    """Or what was spent would be given back at once, by a clock that is ahead."""
    now = ann.now
    budget = ann.ledger.budgets.find("user", "ada", RollingPeriod(600.0), 100, now)
    window = budget.current(now)
    window.move(0, 30)
    ann.send()
    assert window.window is not None
    left = window.window - account.head.now
    account.now += 4.0
    account.head = SharedHead("e2", regroup=10_000.0)
    account.head.clock.now = 9000.0
    assert ann.send().status == "reassert"
    assert window.window == pytest.approx(9000.0 + left - 4.0, abs=10.1)


def test_a_number_that_is_too_old_is_left_behind(account: Account, ann: Member) -> None:
    """The head knows later messages of this member; all debits are told under the next number."""
    entry = ann.draw(10)
    ann.ledger.settle(entry, 10, account.now + 5)
    ann.send()
    account.head.fail_over("e2")
    assert ann.send().status == "reassert"
    account.head.members["ann"].number = 50
    assert ann.send().status == "old"
    message = ann.build()
    assert message.number == 51
    assert message.join is not None
    assert message.join.whole
    assert ann.receive(message, account.handle(message)).status == "done"
    assert account.head.pending == 10


# Time.


def test_a_member_vouches_by_the_reply_that_took_the_shortest(
    account: Account, ann: Member
) -> None:
    """Or each message would cost the head's clock the time of a round trip."""
    stamp = account.head.now
    account.now += 1.0
    message = ann.build()
    reply = account.handle(message)
    account.now += 0.5
    ann.receive(message, reply)
    account.now += 0.5
    message = ann.build()
    assert message.seen + message.elapsed == stamp + 2.0


def test_a_member_vouches_for_nothing_by_stamps_of_another_head(
    account: Account, ann: Member
) -> None:
    """From its first reply on, it does by that one's."""
    account.now += 5.0
    ann.send()
    account.head = SharedHead("e2")
    account.handle(Message("x", 1, "", join=Join(None)))
    account.now += 1.0
    reply = ann.send()
    account.now += 3.0
    message = ann.build()
    assert (message.seen, message.elapsed) == (reply.view.now, 3.0)


def test_a_moment_here_has_the_latest_stamp_that_is_not_after_it(
    account: Account, ann: Member
) -> None:
    """A balance must not seem to have been asked for later than it was."""
    first, at = account.head.now, account.now
    account.now += 4.0
    ann.send()
    assert account.head.now == first + 4.0
    assert ann.session.stamp_before(account.now) == first + 4.0
    assert ann.session.stamp_before(at + 3.0) == first
    assert ann.session.stamp_before(at - 0.1) is None


def test_clocks_that_differ_in_rate_clear_nothing_early(account: Account) -> None:
    """By as much as two of them may differ in the longest time that a debit may take."""
    member = Member(account, "ann", drift=0.01)
    member.send()
    settled, kept = member.draw(10), member.draw(5)
    member.ledger.settle(settled, 10, account.now + 5)
    member.ledger.keep(kept, account.now + 9)
    report = member.build().report
    margin = 2 * 0.01 * PATIENCE
    assert [each.clears_in for each in report.settled] == pytest.approx([5 + margin], abs=1e-5)
    assert [each.clears_in for each in report.kept] == pytest.approx([9 + margin], abs=1e-5)


# Refreshes.


def landing(epoch: str, number: int) -> Landing:
    """What the provider said."""
    return Landing(epoch, number, Balance(credits=Decimal("0.00009")))


def test_one_right_is_for_one_refresh(account: Account, ann: Member) -> None:
    """It is asked for at once, used once, and gone once that has ended."""
    account.now += 1.0
    ann.wants_refresh()
    assert ann.ready()
    reply = ann.send()
    assert ann.session.granted_right(reply)
    assert not ann.session.granted_right(reply)
    assert ann.session.refreshes
    assert not ann.ready()
    assert ann.session.land(landing)
    assert not ann.session.land(landing)
    assert ann.ready()
    view = ann.send().view
    assert view.snapshot is not None
    assert view.snapshot.credits == 90


def test_who_waits_for_another_member_s_refresh_asks_now_and_then(
    account: Account, ann: Member, bob: Member
) -> None:
    """Not again and again; and at once where a head may have forgotten it."""
    account.now += 1.0
    bob.wants_refresh()
    assert bob.send().refresh == "yours"
    ann.wants_refresh()
    assert ann.send().refresh == "wait"
    assert not ann.ready()
    account.now += WAITING_BEAT + 0.1
    assert ann.ready()
    account.head.fail_over("e2")
    assert ann.send().status == "reassert"
    assert ann.send().refresh == "yours"


def test_a_right_ends_with_its_epoch(account: Account, ann: Member) -> None:
    """What a refresh brings then is not told, and the right is asked for anew."""
    account.now += 1.0
    ann.wants_refresh()
    assert ann.session.granted_right(ann.send())
    account.head.fail_over("e2")
    ann.send()
    assert not ann.session.refreshes
    assert not ann.session.land(landing)
    assert ann.build().refresh_after is not None


def test_a_right_that_was_not_used_is_asked_for_anew(account: Account, ann: Member) -> None:
    """Whatever was to refresh was lost, as in a process that was stopped."""
    account.now += 1.0
    ann.wants_refresh()
    assert ann.session.granted_right(ann.send())
    ann.wants_refresh()
    reply = ann.send()
    assert reply.refresh == "yours"
    assert ann.session.granted_right(reply)


def test_a_wish_is_not_compared_with_another_clock_s_stamps(account: Account, ann: Member) -> None:
    """Or a refresh of another head would seem to be one from before it."""
    account.now += 50.0
    ann.send()
    account.tell(80)
    ann.send()
    ann.wants_refresh()
    assert ann.build().refresh_after == account.head.now
    account.head = SharedHead("e2")
    message = ann.session.under_way
    assert message is not None
    ann.receive(message, account.handle(message))
    assert ann.build().refresh_after == NEVER
