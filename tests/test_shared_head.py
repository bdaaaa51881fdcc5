"""`SharedHead`: the rules of the protocol between the head of an account and its members, one by one.

`test_shared_head_machine.py` has all of them at once. Amounts are micro-credits, times are seconds.
"""

from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from budgetguard._core.balance import Balance
from budgetguard._core.shared_head import (
    CALM,
    GRACE,
    QUEUE_PATIENCE,
    RECALL_PATIENCE,
    WAKE_AGAIN,
    SharedHead,
)
from budgetguard._core.store_messages import (
    BudgetNeed,
    BudgetUse,
    Busy,
    Debit,
    Exhausted,
    Join,
    KeptDebit,
    KeyLimited,
    Landing,
    Message,
    Need,
    Offered,
    Pausing,
    Reply,
    Report,
)
from budgetguard._core.virtual_clock import MOST_BEHIND

HOLD_FOR = 60.0
REPORT = (
    "used",
    "keep",
    "slots",
    "running",
    "settled",
    "kept",
    "saved",
    "needs",
    "want",
    "floor",
    "recall",
    "patience",
    "budgets",
)


def balance(credits: int, slots: int | None = None) -> Balance:
    """What the provider says."""
    return Balance(Decimal(credits).scaleb(-6), max_concurrency=slots)


class Store:
    """A head with its server's clock, and members that send one message after another."""

    def __init__(self, head: SharedHead | None = None) -> None:
        self.head = head or SharedHead("e1")
        self.time = 1000.0
        self.numbers: dict[str, int] = {}
        self.seen: dict[str, tuple[str, float, float, float]] = {}
        self.dead: set[str] = set()
        self.woken: frozenset[str] = frozenset()
        self.last: Message

    def send(self, member: str, *, join: bool | Join = False, **what: Any) -> Reply:
        """The member's next message."""
        self.numbers[member] = self.numbers.get(member, 0) + 1
        epoch, seen, dropped, at = self.seen.get(member, ("", float("-inf"), 0.0, self.time))
        told = {name: what.pop(name) for name in REPORT if name in what}
        report = Report(**{"patience": 10.0, **told})
        first = Join(HOLD_FOR, sole_spender=False) if join is True else join or None
        message = Message(
            member,
            self.numbers[member],
            what.pop("epoch", epoch),
            seen=seen,
            elapsed=self.time - at,
            dropped=dropped,
            report=report,
            join=first,
            **what,
        )
        return self.repeat(message)

    def repeat(self, message: Message) -> Reply:
        """That message, whether it was sent before or not."""
        self.last = message
        reply, self.woken = self.head.handle(message, self.time, self.dead)
        view = reply.view
        self.seen[message.member] = reply.epoch, view.now, view.dropped, self.time
        return reply

    def begin(self, member: str, **what: Any) -> Reply:
        """The member asks for the right to refresh."""
        return self.send(member, refresh_after=self.head.now, refresh_timeout=5.0, **what)

    def newcomer(self) -> None:
        """Somebody joins, who cannot vouch for the time that has passed."""
        message = Message("new", 1, "", join=Join(HOLD_FOR))
        _, self.woken = self.head.handle(message, self.time, self.dead)

    def know(self, member: str, credits: int, sessions: int | None = None, **what: Any) -> Reply:
        """The member refreshes, without any trouble."""
        right = self.send(member, refresh_after=self.head.now, refresh_timeout=10.0, **what)
        assert right.refresh == "yours"
        landing = Landing(right.epoch, right.refresh_number, balance(credits, sessions))
        return self.send(member, landing=landing, **what)


def need(ticket: int, amount: int, *, cost: int | None = None, **more: Any) -> Need:
    """A caller that waits, unless it is said not to."""
    return Need(
        ticket, amount, amount if cost is None else cost, counts=more.pop("counts", True), **more
    )


@pytest.fixture
def store() -> Store:
    """An account of 100 credits, and two members, ann and bob, without slack."""
    store = Store()
    store.send("ann", join=True)
    store.send("bob", join=True)
    store.know("ann", 100, 2)
    return store


# Leases.


def test_a_lease_is_what_is_used_what_is_kept_and_what_is_granted(store: Store) -> None:
    """And all else that was in it is free for others at once."""
    assert store.send("ann", needs=(need(1, 30),)).lease == 30
    reply = store.send("ann", used=20, needs=(need(2, 5),))
    assert (reply.lease, reply.granted, reply.view.leased) == (25, (2,), 25)
    assert store.head.free(0, 0) == 75


def test_callers_one_after_the_other_are_granted_by_their_own_guards_settings(
    store: Store,
) -> None:
    """Credits that the provider does not report, and a floor, count for those alone that have them."""
    needs = (need(1, 60, extra=20), need(2, 60))
    assert store.send("ann", needs=needs).granted == (1,)
    needs = (need(3, 10), need(4, 10, floor=90))
    assert store.send("ann", needs=needs).granted == (3,)


def test_what_one_message_is_granted_fits_together(store: Store) -> None:
    """Each need leaves less credits and sessions for the next; what is granted is used, and no slack."""
    reply = store.send("ann", needs=(need(1, 60), need(2, 50), need(3, 40)))
    assert (reply.granted, reply.lease, reply.view.used) == ((1,), 60, 60)
    reply = store.send("bob", needs=tuple(need(ticket, 0, slots=1) for ticket in (1, 2, 3)))
    assert (reply.granted, reply.slots) == ((1, 2), 2)


def test_what_is_kept_while_a_message_is_under_way_stays_in_the_lease(store: Store) -> None:
    """Its member goes on admitting from it, whatever others need."""
    lease = store.send("ann", want=20).lease
    assert lease == 20
    reply = store.send("ann", keep=lease, want=0)
    assert reply.lease == lease
    assert store.send("bob", needs=(need(1, 90),)).granted == ()
    assert store.head.members["ann"].lease == lease


def test_a_member_may_use_more_than_its_lease(store: Store) -> None:
    """Calls that were forced, or that cost more than they held: what is free falls below zero."""
    assert store.send("ann", used=130).lease == 130
    assert store.head.free(0, 0) == -30
    assert store.send("bob", needs=(need(1, 1),)).granted == ()
    assert store.send("ann", used=0, settled=(Debit(60, 5.0),)).lease == 0
    assert store.send("bob", needs=(need(2, 40),)).granted == (2,)


def test_slack_is_at_most_half_of_a_members_share_of_what_is_free(store: Store) -> None:
    """So that it shrinks towards exhaustion, whatever members want."""
    assert store.send("ann", want=1000).lease == 25
    assert store.send("bob", want=1000).lease == 18
    assert store.send("ann", keep=25, want=1000).lease == 25 + 14
    assert store.send("ann", keep=39, want=10).lease == 39


def test_a_need_may_ask_for_more_than_it_draws(store: Store) -> None:
    """`amount` has to be available, `cost` is held."""
    assert store.send("ann", needs=(need(1, 101, cost=10, counts=False),)).refused == (1,)
    assert store.send("ann", needs=(need(2, 100, cost=10),)).lease == 10


def test_a_floor_is_left_to_others(store: Store) -> None:
    """By needs and by slack; credits that the provider does not report count where they are told."""
    assert store.send("ann", needs=(need(1, 61, floor=40),)).refused == (1,)
    assert store.send("ann", needs=(need(1, 60, floor=40),)).granted == (1,)
    assert store.send("bob", want=30, floor=40).lease == 0
    assert store.send("bob", needs=(need(1, 60, extra=20),)).granted == (1,)
    assert store.head.free(0, 0) == -20


def test_sessions_are_counted_over_all_members(store: Store) -> None:
    """Those of lost calls are counted until a balance must show them."""
    store.send("ann", needs=(need(1, 0, slots=1),))
    store.send("bob", needs=(need(1, 0, slots=1),))
    assert store.send("ann", slots=1, needs=(need(2, 0, slots=1),)).granted == ()
    lost = KeptDebit(0, 10.0, 1, sessions=((None, 1),))
    assert store.send("ann", kept=(lost,), needs=(need(3, 0, slots=1),)).granted == ()
    store.time += 11.0
    store.know("bob", 100, 2, slots=1)
    assert store.send("ann", needs=(need(4, 0, slots=1),)).granted == (4,)


# The queue, and the recall.


def test_needs_are_met_in_the_order_in_which_they_came(store: Store) -> None:
    """A later one may have only what earlier ones leave, of whichever member they are."""
    store.send("ann", used=60)
    assert store.send("bob", used=0, needs=(need(1, 50),)).granted == ()
    reply = store.send("ann", used=60, needs=(need(1, 20),))
    assert (reply.granted, reply.refused) == ((), (1,))
    assert store.send("bob", used=0, needs=(need(1, 50),)).refused == (1,)
    store.send("ann", used=10)
    assert store.woken == {"bob"}
    assert store.send("ann", used=10, needs=(need(2, 41),)).granted == ()
    assert store.send("ann", used=10, needs=(need(2, 40),)).granted == (2,)
    assert store.send("bob", needs=(need(1, 50),)).granted == (1,)


def test_a_need_that_does_not_count_holds_up_nobody(store: Store) -> None:
    """Its caller does not wait for credits."""
    store.send("bob", used=60)
    store.send("ann", needs=(need(1, 50, counts=False),))
    assert store.send("bob", used=60, needs=(need(1, 40),)).granted == (1,)


def test_a_member_that_is_not_heard_holds_up_nobody_for_long(store: Store) -> None:
    """Its callers keep their place, and are passed by."""
    store.send("bob", used=60)
    store.send("ann", used=0, needs=(need(1, 50),))
    store.time += QUEUE_PATIENCE
    assert store.send("bob", used=60, needs=(need(1, 20),)).granted == ()
    store.time += 0.25
    assert store.send("bob", used=60, needs=(need(1, 20),)).granted == (1,)


def test_a_need_recalls_the_slack_of_others(store: Store) -> None:
    """They are woken, keep nothing with their next message, and the need is met."""
    slack = store.send("bob", want=1000).lease
    asked = store.send("ann", needs=(need(1, 90),))
    assert (asked.granted, asked.refused, asked.view.recall) == ((), (), 1)
    assert store.woken == {"bob"}
    given = store.send("bob", keep=0, recall=1, want=slack)
    assert (given.lease, given.view.exact) == (0, True)
    assert store.woken == {"ann"}
    assert store.send("ann", needs=(need(1, 90),)).granted == (1,)


def test_who_waits_is_woken_by_the_last_report_that_it_needs(store: Store) -> None:
    """Not by those before, after which the head could only say that it still has to wait."""
    store.send("cid", join=True)
    store.send("ann", needs=(need(1, 50),))
    store.send("cid", needs=(need(1, 40),))
    lacking = need(1, 20, counts=False)
    store.send("bob", needs=(lacking,))
    assert store.woken == {"ann", "cid"}
    store.send("ann", used=50, recall=1)
    assert store.woken == frozenset()
    store.send("cid", used=40, recall=1)
    assert store.woken == {"bob"}
    assert store.send("bob", needs=(lacking,)).refused == (1,)


def test_who_waits_is_woken_by_the_first_report_that_gives_enough(store: Store) -> None:
    """Whatever others have to say."""
    store.send("cid", join=True)
    store.send("ann", needs=(need(1, 50),))
    store.send("cid", needs=(need(1, 40),))
    store.send("bob", needs=(need(1, 20),))
    store.send("ann", used=10, recall=1)
    assert store.woken == {"bob"}


def test_who_waits_is_told_once_that_it_waits_in_vain(store: Store) -> None:
    """It then waits for a top-up or for calls to end, and no report that changes nothing wakes it."""
    store.send("ann", needs=(need(1, 90),))
    crowd = tuple(need(ticket, 10) for ticket in range(1, 4))
    assert store.send("bob", needs=crowd).granted == (1,)
    assert store.woken == {"ann"}
    store.send("ann", used=90, recall=1)
    assert store.woken == {"bob"}
    assert store.send("bob", used=10, recall=1, needs=crowd[1:]).refused == (2, 3)
    store.send("ann", used=90, recall=1)
    assert store.woken == frozenset()
    store.send("ann", used=85, recall=1)
    assert store.woken == frozenset()
    store.send("ann", used=80, recall=1)
    assert store.woken == {"bob"}


def test_who_was_woken_is_not_woken_again_at_once(store: Store) -> None:
    """It is about to report anyway; or else it has not heard it, and is woken again after a while."""
    store.send("cid", join=True)
    store.send("ann", needs=(need(1, 100),))
    store.send("bob", needs=(need(1, 1),))
    assert store.woken == {"ann"}
    store.send("cid", needs=(need(1, 1),))
    assert store.woken == frozenset()
    store.time += WAKE_AGAIN
    store.send("cid", needs=(need(1, 1), need(2, 1)))
    assert store.woken == {"ann"}
    store.send("ann", used=100, recall=1)
    assert store.woken == {"bob", "cid"}
    store.send("bob", needs=(need(1, 1), need(2, 1)))
    assert store.woken == {"ann"}


def test_a_need_is_refused_if_nobody_could_help(store: Store) -> None:
    """That is known once all who hold something have reported: their calls may have finished meanwhile."""
    store.send("bob", used=30)
    reply = store.send("ann", needs=(need(1, 71),))
    assert (reply.refused, reply.view.recall) == ((), 1)
    assert store.woken == {"bob"}
    store.send("bob", used=30, recall=1)
    assert store.woken == {"ann"}
    assert store.send("ann", needs=(need(1, 71),)).refused == (1,)
    assert store.send("ann", needs=(need(2, 101),)).refused == (2,)


def test_slack_of_a_member_that_does_not_answer_counts_as_used(store: Store) -> None:
    """After a moment; the view says how many such members there are, and when the last lease ends."""
    store.send("bob", want=1000)
    assert store.send("ann", needs=(need(1, 90),)).refused == ()
    store.time += RECALL_PATIENCE / 2
    assert store.send("ann", needs=(need(1, 90),)).refused == ()
    store.time += RECALL_PATIENCE / 2
    reply = store.send("ann", needs=(need(1, 90),))
    assert reply.refused == (1,)
    assert (reply.view.missing, reply.view.missing_until) == (1, HOLD_FOR)


def test_a_member_that_does_not_answer_keeps_nobody_from_asking_the_others(store: Store) -> None:
    """What they have may be enough without it."""
    store.send("cid", join=True)
    store.send("bob", want=20)
    store.send("ann", needs=(need(1, 90),))
    store.time += RECALL_PATIENCE
    store.send("ann")
    assert store.send("cid", recall=1, want=10).lease == 10
    reply = store.send("ann", needs=(need(2, 75),))
    assert (reply.refused, reply.view.missing, reply.view.recall) == ((), 1, 2)
    assert store.woken == {"cid"}
    store.send("cid", recall=2)
    assert store.send("ann", needs=(need(2, 75),)).granted == (2,)


def test_a_recall_begins_when_it_is_sent_though_the_clock_stood_still_before(store: Store) -> None:
    """Time that passed before it counts for nobody, also if a member vouches for it only afterwards."""
    store.send("bob", want=1000)
    store.time += 5 * RECALL_PATIENCE
    assert store.send("new", join=True, needs=(need(1, 90),)).refused == ()
    assert store.send("ann").view.missing == 0
    assert store.send("new", needs=(need(1, 90),)).refused == ()
    store.send("bob", recall=1)
    assert store.send("new", needs=(need(1, 90),)).granted == (1,)


def test_a_second_recall_gives_no_more_time_for_the_first(store: Store) -> None:
    """Or a member that never answers would be waited for as long as others are short."""
    store.send("bob", want=1000)
    store.send("ann", needs=(need(1, 90),))
    store.time += RECALL_PATIENCE / 2
    assert store.send("ann", news=(Exhausted(5.0, 0.0),)).view.recall == 2
    store.time += RECALL_PATIENCE / 2
    assert store.send("ann").view.missing == 1


def test_who_waits_hears_that_nobody_can_help_any_more(store: Store) -> None:
    """And nothing as long as others may."""
    store.send("bob", used=10, want=20)
    assert store.send("ann", needs=(need(1, 85),)).refused == ()
    store.send("bob", used=10, keep=20)
    assert store.woken == set()
    store.send("bob", used=30, recall=1)
    assert store.woken == {"ann"}
    assert store.send("ann", needs=(need(1, 85),)).refused == (1,)


def test_a_session_is_waited_for_until_those_that_had_some_have_spoken(store: Store) -> None:
    """Theirs may have ended since they last reported."""
    store.send("bob", slots=2)
    assert store.send("ann", needs=(need(1, 0, slots=1),)).refused == ()
    assert store.woken == {"bob"}
    store.send("bob", slots=2, recall=1)
    assert store.woken == {"ann"}
    assert store.send("ann", needs=(need(1, 0, slots=1),)).refused == (1,)


def test_who_has_not_answered_the_recall_gets_no_slack(store: Store) -> None:
    """However long ago somebody was short."""
    slack = store.send("bob", want=1000).lease
    store.send("ann", needs=(need(1, 90),))
    store.send("ann")
    store.time += CALM
    assert store.send("bob", keep=slack, want=1000).lease == slack
    assert store.send("bob", keep=0, recall=1, want=1000).lease == slack


def test_a_lack_of_sessions_alone_keeps_nobody_from_slack(store: Store) -> None:
    """No credits would help there."""
    assert store.send("ann", needs=(need(1, 0, slots=3, counts=False),)).refused == (1,)
    assert store.send("bob", want=10).lease == 10


def test_members_see_what_callers_of_others_wait_for(store: Store) -> None:
    """And who waits, which debits have to clear for that."""
    store.send("bob", used=80, settled=(Debit(5, 3.0),), kept=(KeptDebit(4, 9.0, 1),))
    view = store.send("ann", needs=(need(1, 50, slots=2), need(2, 90, counts=False))).view
    assert (view.queued, view.queued_slots) == (0, 0)
    assert view.debits == ((3.0, 5, 0), (9.0, 4, 1))
    view = store.send("bob", used=80).view
    assert (view.queued, view.queued_slots, view.debits) == (50, 2, ())


# Keyed budgets.


def user(limit: int = 30) -> tuple[BudgetNeed, ...]:
    """A call in somebody's rolling budget."""
    return (BudgetNeed("user", limit, rolling=60.0),)


def use(held: int, spent: int) -> tuple[BudgetUse, ...]:
    """What a member tells of that budget, in its first window."""
    return (BudgetUse("user", 1.0, held, spent, rolling=60.0),)


def test_a_need_is_granted_by_the_account_and_its_budget_or_not_at_all(store: Store) -> None:
    """One that its budget has no room for is answered which it is, and blocks nobody."""
    needs = (need(1, 20, budgets=user()), need(2, 11, budgets=user()), need(3, 80))
    reply = store.send("ann", needs=needs)
    assert (reply.granted, reply.windows) == ((1, 3), ((1, (1.0,)),))
    reply = store.send("ann", used=100, budgets=use(0, 20), needs=needs[1:2])
    assert (reply.over, reply.refused, reply.lease) == (((2, "user"),), (), 100)
    assert store.head.members["ann"].needs == []


def test_what_was_set_aside_before_is_not_drawn_again(store: Store) -> None:
    """Beside a caller that needs the same and has nothing set aside."""
    aside = need(1, 20, budgets=user(40), reserved=True)
    reply = store.send("ann", needs=(aside, need(2, 20, budgets=user(40))))
    assert (reply.granted, reply.lease) == ((1, 2), 20)


def test_a_need_waits_for_what_open_calls_may_free_of_its_budget(store: Store) -> None:
    """If its caller does; it is answered once that cannot be any more."""
    store.send("bob", needs=(need(1, 20, budgets=user()),))
    waits = need(1, 11, budgets=user())
    passes = need(2, 11, budgets=user(), counts=False)
    reply = store.send("ann", needs=(waits, passes))
    assert (reply.granted, reply.refused, reply.over) == ((), (), ((2, "user"),))
    store.send("bob", used=0, budgets=use(0, 20))
    assert store.woken == {"ann"}
    assert store.send("ann", needs=(waits,)).over == ((1, "user"),)


@pytest.mark.parametrize("way", ["it dies", "it leaves"])
def test_what_a_member_held_of_a_budget_when_it_went_counts_as_spent(
    store: Store, way: str
) -> None:
    """Nobody knows what its calls cost, and who waits for them is told."""
    store.send("bob", needs=(need(1, 20, budgets=user()),))
    store.send("ann", needs=(need(1, 11, budgets=user()),))
    if way == "it dies":
        store.dead = {"bob"}
        store.newcomer()
    else:
        store.send("bob", used=20, budgets=use(20, 0), leave=True)
    assert store.woken == {"ann"}
    assert store.send("ann", needs=(need(1, 11, budgets=user()),)).over == ((1, "user"),)
    assert store.head.budgets.figures("user", 1.0) == (30, 20, 0)


def test_a_member_that_joins_says_all_that_it_holds_and_spent_of_budgets(store: Store) -> None:
    """In place of what is known of it; and no budget is full before all have said so."""
    store.send("bob", needs=(need(1, 20, budgets=user()),))
    store.send("bob", used=0, budgets=use(0, 20))
    store.head.fail_over("e2")
    store.send("ann")
    store.know("ann", 100, join=True)
    reply = store.send("ann", needs=(need(1, 11, budgets=user()),))
    assert (reply.granted, reply.over) == ((), ())
    store.send("bob")
    store.send("bob", join=True, budgets=use(0, 19))
    assert store.send("ann", needs=(need(1, 11, budgets=user()),)).granted == (1,)


def test_there_is_no_slack_for_a_while_after_somebody_was_short(store: Store) -> None:
    """Nor while a caller waits."""
    store.send("ann", needs=(need(1, 101, counts=False),))
    assert store.send("bob", want=10).lease == 0
    store.time += CALM
    assert store.send("bob", want=10).lease == 10
    store.send("ann", needs=(need(2, 101),))
    store.time += CALM
    assert store.send("bob", want=10).lease == 0


# Sessions.


def test_a_message_that_is_sent_again_takes_effect_once(store: Store) -> None:
    """It gets the same answer, with the account as it is now; an older one is ignored."""
    first = store.send("ann", settled=(Debit(10, 5.0),), needs=(need(1, 30),))
    message = store.last
    again = store.repeat(message)
    assert replace(again, view=first.view) == first
    assert (store.head.pending, store.head.leased) == (10, 30)
    store.send("ann", used=30)
    assert store.repeat(message).status == "old"
    assert (store.head.pending, store.head.leased) == (10, 30)


def test_who_sends_a_message_again_is_heard(store: Store) -> None:
    """Its lease goes on, though nothing else happens."""
    store.send("bob", used=30)
    message = store.last
    for _ in range(2):
        store.time += HOLD_FOR * 2 / 3
        store.send("ann")
        store.repeat(message)
    assert not store.head.members["bob"].gone


def test_a_session_begins_once(store: Store) -> None:
    """Who begins under a higher number than is known has spoken to another state of the account."""
    assert store.send("ann", epoch="", join=True).status == "expired"
    assert store.send("new", join=True).status == "done"


def test_a_member_that_left_holds_nothing(store: Store) -> None:
    """Its debits remain until a balance shows them, and then it is forgotten."""
    store.send("ann", want=20)
    assert store.send("ann", settled=(Debit(10, 5.0),), leave=True).lease == 0
    assert store.head.free(0, 0) == 90
    assert store.send("ann", used=5).status == "expired"
    store.time += 6.0
    store.know("bob", 90)
    assert set(store.head.members) == {"bob"}


@pytest.mark.parametrize("known", [True, False])
def test_the_lease_of_a_dead_member_counts_until_a_balance_must_show_it(
    store: Store, *, known: bool
) -> None:
    """Its slack, too: nobody knows what it did. Whether it died is known, or told by its silence."""
    store.send("ann", used=30, running=2, needs=(need(1, 10, slots=1),))
    store.dead = {"ann"} if known else set()
    for _ in range(0 if known else 3):
        assert store.send("bob").view.kept == 0
        store.time += HOLD_FOR / 3
    view = store.send("bob").view
    assert (view.kept, view.kept_slots, view.leased, view.members) == (40, 1, 0, 1)
    assert view.kept_calls == (("ProcessDied", 3),)
    store.time += 9.0
    assert store.know("bob", 60).view.kept == 40
    store.time += 2.0
    assert store.know("bob", 60).view.kept == 0


def test_sessions_of_a_dead_member_count_for_as_long_as_it_said(store: Store) -> None:
    """Also where it held no credits. Its callers wait no more."""
    store.send("bob", slots=2, needs=(need(1, 101),))
    store.send("bob", slots=2, needs=(need(1, 101),), patience=30.0)
    store.dead = {"bob"}
    view = store.send("ann", needs=(need(1, 0, slots=1),)).view
    assert (view.kept, view.kept_slots, view.queued) == (0, 2, 0)
    assert store.send("ann", needs=(need(1, 0, slots=1), need(2, 100))).granted == (2,)
    store.time += 29.0
    assert store.know("ann", 100, 2).view.kept_slots == 2
    store.time += 1.0
    store.know("ann", 100, 2)
    assert store.send("ann", needs=(need(1, 0, slots=1),)).granted == (1,)


def test_what_a_member_that_left_still_uses_counts_as_lost(store: Store) -> None:
    """Its slack is free at once."""
    slack = store.send("bob", used=10, slots=1, want=20).lease - 10
    view = store.send("bob", used=10, slots=1, keep=slack, leave=True).view
    assert (view.leased, view.kept, view.kept_slots) == (0, 10, 1)


def test_a_member_that_was_given_up_comes_back_without_slack(store: Store) -> None:
    """What it says in place of what was believed counts, even where nothing is free."""
    store.send("ann", needs=(need(1, 80),))
    for _ in range(3):
        store.time += HOLD_FOR / 3
        store.send("bob")
    assert store.send("bob", needs=(need(1, 30),)).refused == (1,)
    assert store.send("ann", used=80).status == "expired"
    back = store.send("ann", join=True, used=70, settled=(Debit(2, 5.0),))
    assert (back.status, back.lease, store.head.pending) == ("done", 70, 2)
    assert store.send("bob", needs=(need(2, 28),)).granted == (2,)


def test_a_member_that_comes_back_in_the_same_epoch_need_not_repeat_its_debits(
    store: Store,
) -> None:
    """They are known; in another epoch it says all of them, in place of what is known."""
    store.send("bob", settled=(Debit(10, 5.0),), kept=(KeptDebit(3, 9.0),))
    store.dead = {"bob"}
    store.send("ann")
    store.dead = set()
    assert store.send("bob", used=1).status == "expired"
    store.send("bob", join=Join(HOLD_FOR, whole=False), settled=(Debit(2, 5.0),))
    assert store.head.pending == 15
    store.head.fail_over("e2")
    store.send("bob")
    store.send("bob", join=True, settled=(Debit(12, 5.0),), kept=(KeptDebit(3, 9.0),))
    assert store.head.pending == 15


def test_a_join_that_is_sent_again_after_its_member_was_given_up_gets_nothing() -> None:
    """What it was granted then is no longer its own."""
    store = Store()
    store.send("bob", join=True)
    store.know("bob", 100)
    assert store.send("ann", join=True, needs=(need(1, 80),)).granted == (1,)
    message = store.last
    for _ in range(3):
        store.time += HOLD_FOR / 3
        store.send("bob")
    assert store.repeat(message).status == "expired"


# Debits and balances.


def test_a_debit_clears_on_a_balance_that_was_asked_for_at_its_stamp(store: Store) -> None:
    """Or later; not on one that was asked for before, however late it arrives."""
    store.send("bob", settled=(Debit(10, 5.0),))
    store.time += 4.75
    early = store.send("ann", refresh_after=store.head.now, refresh_timeout=10.0)
    store.time += 10.0
    store.send("bob")
    landing = Landing("e1", early.refresh_number, balance(90))
    assert store.send("ann", landing=landing).view.settled == 10
    assert store.know("ann", 90).view.settled == 0


def test_a_call_that_is_reported_late_is_not_in_a_balance_from_before(store: Store) -> None:
    """Its lag may be over, but the balance was asked for before the head knew of the call."""
    right = store.send("ann", refresh_after=store.head.now, refresh_timeout=30.0)
    store.time += 20.0
    store.send("bob", settled=(Debit(10, -24.0),), kept=(KeptDebit(5, -24.0),))
    landing = Landing("e1", right.refresh_number, balance(100))
    view = store.send("ann", landing=landing).view
    assert (view.settled, view.kept) == (10, 5)
    view = store.know("ann", 100).view
    assert (view.settled, view.kept) == (10, 5)
    store.time += 1.0
    view = store.know("ann", 100).view
    assert (view.settled, view.kept) == (0, 0)


def test_one_member_refreshes_for_all(store: Store) -> None:
    """The others wait for it, and hear when it has landed, or take its place when it is overdue."""
    store.time += 1.0
    store.send("ann")
    right = store.send("ann", refresh_after=store.head.now, refresh_timeout=5.0)
    assert (right.refresh, store.send("bob", refresh_after=1.0).refresh) == ("yours", "wait")
    store.send("ann", landing=Landing("e1", right.refresh_number, balance(80)))
    assert store.woken == {"bob"}
    assert store.send("bob", refresh_after=-1.0).refresh == "newer"
    store.time += 1.0
    store.know("ann", 80)
    assert store.woken == set()
    store.time += 1.0
    store.send("ann", refresh_after=store.head.now, refresh_timeout=5.0)
    store.time += 5.0 + GRACE
    assert store.send("bob", refresh_after=store.head.now).refresh == "yours"
    late = Landing("e1", store.head.refresh.number - 1, balance(7))
    assert store.send("ann", landing=late).view.snapshot == store.head.snapshot
    assert store.head.free(0, 0) == 80


def test_who_asks_again_for_the_right_to_refresh_gets_another_one(store: Store) -> None:
    """Whatever was to use the first was lost, and what it may still tell is not heard."""
    store.time += 1.0
    first = store.begin("ann")
    store.time += 1.0
    second = store.begin("ann")
    assert (second.refresh, second.refresh_number) == ("yours", first.refresh_number + 1)
    store.send("ann", landing=Landing("e1", first.refresh_number, balance(7)))
    assert store.head.free(0, 0) == 100


def test_only_who_has_the_right_lands_a_refresh(store: Store) -> None:
    """Nobody else does under the same number."""
    store.time += 1.0
    landing = Landing("e1", store.begin("ann").refresh_number, balance(7))
    store.send("bob", landing=landing)
    assert store.head.free(0, 0) == 100
    store.send("ann", landing=landing)
    assert store.head.free(0, 0) == 7


def test_a_refresh_that_was_given_up_lands_nowhere(store: Store) -> None:
    """Its member died meanwhile, as far as the head knew; another one may refresh at once."""
    store.time += 1.0
    right = store.begin("ann")
    store.dead = {"ann"}
    store.send("bob")
    store.dead = set()
    assert store.send("ann").status == "expired"
    failed = Landing("e1", right.refresh_number, reason="it hung up", delay=60.0)
    store.send("ann", join=True, landing=failed)
    assert store.begin("bob").refresh == "yours"


def test_a_refresh_of_another_epoch_lands_nowhere(store: Store) -> None:
    """Two epochs may give the same number; the right is given anew at once."""
    before = deepcopy(store.head)
    store.time += 1.0
    right = store.begin("ann")
    store.head = before
    store.begin("bob")
    store.head.fail_over("e2")
    store.send("ann")
    assert store.begin("ann", join=True).refresh == "yours"
    store.begin("ann")
    again = store.begin("ann")
    stale = Landing("e1", again.refresh_number, balance(7))
    assert right.refresh == "yours"
    assert store.send("ann", landing=stale).view.snapshot is None


def test_a_debit_counts_in_full_from_the_latest_time_that_it_may_be(store: Store) -> None:
    """Of a call that finished, a member that died, and one that left: nobody vouched for the last 10 seconds."""
    for name in ("dan", "eve"):
        store.send(name, join=True, used=30)
    store.time += 10.0
    store.dead = {"dan"}
    store.newcomer()
    for name in ("bob", "eve"):
        store.seen[name] = "e1", 0.0, 0.0, store.time
    store.send("bob", settled=(Debit(5, 8.0),))
    store.send("eve", used=30, leave=True)
    assert (store.head.now, store.head.clock.latest) == (0.0, 10.0)
    store.time += 7.0
    view = store.know("ann", 100).view
    assert (view.now, view.settled, view.kept) == (17.0, 5, 60)
    store.time += 3.0
    view = store.know("ann", 100).view
    assert (view.settled, view.kept) == (0, 0)


def test_what_the_balance_seemed_to_show_of_slack_is_not_granted_when_that_comes_back() -> None:
    """It was never charged, so it was somebody else who spent."""
    store = Store()
    for name in ("ann", "bob"):
        store.send(name, join=Join(HOLD_FOR, sole_spender=True))
    store.know("ann", 100)
    assert store.send("bob", want=1000).lease == 25
    store.time += 1.0
    view = store.know("ann", 75).view
    assert view.snapshot is not None
    assert view.snapshot.overlap == 25
    assert store.send("bob", needs=(need(1, 76, counts=False),)).granted == ()


@pytest.mark.parametrize("began_later", [False, True])
def test_a_call_that_cost_less_than_it_held_is_evidence(*, began_later: bool) -> None:
    """What the balance showed of the calls of its time is no more than they cost: others spent the rest."""
    store = Store()
    for name in ("ann", "bob"):
        store.send(name, join=Join(HOLD_FOR))
    store.know("ann", 100)
    store.send("ann", needs=(need(1, 40),))
    store.time += 1.0
    assert store.know("ann", 70, used=40).view.others.others is False
    number = store.numbers["ann"] + int(began_later)
    store.send("bob", used=40)
    store.send("ann", settled=(Debit(10, 60.0),), saved=((number, 30),))
    store.time += 1.0
    assert store.know("ann", 70).view.others.others is not began_later


def test_a_refresh_that_failed_leaves_the_provider_alone(store: Store) -> None:
    """For all members, and all can read why."""
    right = store.send("ann", refresh_after=store.head.now, refresh_timeout=5.0)
    failed = Landing("e1", right.refresh_number, reason="it hung up", failures=2, delay=4.0)
    view = store.send("ann", landing=failed).view
    assert (view.refresh.reason, view.refresh.failures) == ("it hung up", 2)
    assert store.send("bob", refresh_after=store.head.now).refresh == "blocked"
    store.time += 4.0
    store.send("ann")
    assert store.send("bob", refresh_after=store.head.now).refresh == "yours"


def test_a_balance_in_a_reply_of_the_provider_counts_as_asked_for_when_its_request_began(
    store: Store,
) -> None:
    """A stamp that the member had by then, of this epoch."""
    store.time += 1.0
    began = store.send("ann").view.now
    store.time += 1.0
    store.send("ann", news=(Offered(balance(70), "e1", began, 0.0),))
    assert store.head.free(0, 0) == 70
    store.send("ann", news=(Offered(balance(60), "e1", began - 0.5, 0.0),))
    store.send("ann", news=(Offered(balance(60), "e0", began + 1.0, 0.0),))
    assert store.head.free(0, 0) == 70


def test_a_balance_in_another_unit_is_not_taken() -> None:
    """Neither from a refresh, which counts as failed, nor from a reply of the provider."""
    store = Store()
    store.send("ann", join=Join(HOLD_FOR, unit="USD"))
    euros = Balance(Decimal(7), unit="EUR")
    landing = Landing("e1", store.begin("ann").refresh_number, euros)
    view = store.send("ann", landing=landing).view
    assert (view.snapshot, view.refresh.in_flight) == (None, False)
    assert view.refresh.reason == "it is in EUR, and this account is counted in USD"
    assert store.send("ann", news=(Offered(euros, "e1", 0.0, 0.0),)).view.snapshot is None


# What the provider says.


def test_a_refusal_of_the_provider_stops_all_members(store: Store) -> None:
    """Their slack is recalled; an equal balance counts again once the lag is over, a larger one at once."""
    store.send("bob", want=20)
    reply = store.send("ann", news=(Exhausted(5.0, 0.0),), needs=(need(1, 1),))
    assert (reply.granted, reply.view.recall) == ((), 1)
    assert "bob" in store.woken
    store.time += 1.0
    store.send("bob", recall=1)
    store.know("ann", 100)
    assert store.send("ann", needs=(need(2, 1),)).granted == ()
    store.time += 1.0
    store.know("ann", 101)
    assert store.send("ann", needs=(need(3, 1),)).granted == (3,)


def test_pauses_and_limits_are_shown_to_all_members(store: Store) -> None:
    """Members decide by them; the head keeps them."""
    news = (Busy(5.0), KeyLimited("key", 9.0), Pausing("guard", "audit"))
    store.send("ann", news=news)
    view = store.send("bob").view
    assert (view.busy_until, view.limited, view.pauses) == (
        5.0,
        (("key", 9.0),),
        (("guard", "audit"),),
    )
    assert store.send("ann", news=(Pausing("guard", None),)).view.pauses == ()


def test_an_equal_balance_does_not_end_a_refusal_before_its_lag_is_over(store: Store) -> None:
    """By the latest time that it may have been when the provider refused."""
    store.time += 10.0
    store.newcomer()
    store.seen["ann"] = "e1", 0.0, 0.0, store.time
    store.send("ann", news=(Exhausted(5.0, 0.0),))
    store.seen["ann"] = "e1", 0.0, 0.0, store.time - 10.0
    store.time += 4.0
    store.know("ann", 100)
    assert (store.head.now, store.head.free(0, 0)) == (14.0, 0)
    store.time += 1.0
    store.know("ann", 100)
    assert store.head.free(0, 0) == 100


def test_no_member_is_believed_to_be_the_sole_spender_if_one_says_otherwise() -> None:
    """False wins over True, and both over "auto", as long as the member lives."""
    store = Store()
    for name, word, setting in (("a", "auto", "auto"), ("b", True, True), ("c", False, False)):
        joined = store.send(name, join=Join(HOLD_FOR, sole_spender=word))  # type: ignore[arg-type]
        assert joined.view.others.setting == setting
    assert store.send("c", leave=True).view.others.setting is True


# Restarts.


def test_nothing_is_granted_after_a_failover_until_all_have_said_what_they_hold(
    store: Store,
) -> None:
    """And until a balance was asked for: the last one may be older than what members know."""
    saved = deepcopy(store.head)
    store.send("bob", needs=(need(1, 90),))
    store.head = saved
    store.head.fail_over("e2")
    assert store.send("ann", needs=(need(2, 50),)).status == "reassert"
    reply = store.know("ann", 100, 2, join=True, needs=(need(2, 50),), want=20)
    assert (reply.granted, reply.refused, reply.lease, reply.view.granting) == ((), (), 0, False)
    assert store.send("bob", used=90).status == "reassert"
    assert store.send("bob", join=True, used=90).lease == 90
    assert store.send("ann", needs=(need(2, 50),)).refused == (2,)
    assert store.send("ann", needs=(need(3, 10),)).granted == (3,)


def test_a_failover_forgets_the_balance(store: Store) -> None:
    """Members may have seen a later one, and have dropped the debits that it cleared."""
    balances = store.send("ann", want=10).view.balances
    store.head.fail_over("e2")
    for name in ("ann", "bob"):
        view = store.send(name).view
        assert (view.snapshot, view.balances) == (None, balances + 1)
        reply = store.send(name, join=True, needs=(need(1, 5),), want=10)
        assert (reply.granted, reply.refused, reply.lease) == ((), (), 0)
    assert store.know("ann", 100, needs=(need(1, 5),)).granted == (1,)


def test_a_failover_gives_no_slack_before_all_have_said_what_they_hold(store: Store) -> None:
    """It tells until when it waits: to the end of the last lease."""
    store.send("dan", join=Join(HOLD_FOR / 2))
    store.head.fail_over("e2")
    store.send("ann")
    reply = store.know("ann", 100, join=True, want=10)
    assert (reply.lease, reply.view.granting_at) == (0, HOLD_FOR)
    store.send("bob")
    assert store.send("bob", join=True).view.granting_at == HOLD_FOR / 2
    store.dead = {"dan"}
    assert store.send("ann", want=10).lease == 10


def test_a_death_that_ends_the_wait_after_a_failover_is_heard_of(store: Store) -> None:
    """By those who wait for credits, whoever's message it was that the store learned it with."""
    store.head.fail_over("e2")
    store.send("ann")
    store.know("ann", 100, join=True, needs=(need(1, 5),))
    store.dead = {"bob"}
    assert store.send("new", epoch="e1").status == "expired"
    assert store.woken == {"ann"}


def test_a_lease_lasts_as_long_after_a_failover_as_if_its_member_had_just_been_heard(
    store: Store,
) -> None:
    """The head that is lost may have heard it."""
    for _ in range(2):
        store.time += HOLD_FOR * 0.4
        store.send("ann")
    store.head.fail_over("e2")
    store.send("ann")
    store.know("ann", 100, join=True)
    store.time += HOLD_FOR * 0.4
    assert store.send("ann", needs=(need(1, 5),)).granted == ()
    assert not store.head.members["bob"].gone


def test_who_joins_an_earlier_epoch_says_so_again(store: Store) -> None:
    """What it told was meant for a head that knew more, or less."""
    store.head.fail_over("e2")
    store.send("ann")
    store.head.fail_over("e3")
    assert store.send("ann", join=True, used=9).status == "reassert"
    assert store.head.members["ann"].used == 0
    assert store.send("ann", join=True, used=9).status == "done"


def test_a_failover_begins_with_the_evidence_anew() -> None:
    """What the lost head knew to be cleared is no proof that others spend."""
    store = Store()
    store.send("ann", join=Join(HOLD_FOR))
    store.know("ann", 100)
    store.head.fail_over("e2")
    store.send("ann")
    store.time += 1.0
    assert store.know("ann", 60, join=Join(HOLD_FOR)).view.others.changes == 0


def test_debits_that_another_epoch_cleared_are_not_in_the_overlap() -> None:
    """A balance shows them, but none that it has to be corrected for."""
    store = Store()
    for name in ("ann", "bob"):
        store.send(name, join=Join(HOLD_FOR, sole_spender=True))
    store.know("ann", 100)
    store.send("ann", needs=(need(1, 40),))
    store.send("bob", needs=(need(1, 40),))
    store.head.fail_over("e2")
    store.send("bob")
    store.know("bob", 100, join=Join(HOLD_FOR, sole_spender=True), used=40)
    store.time += 1.0
    view = store.know("bob", 60, used=40).view
    assert view.snapshot is not None
    assert view.snapshot.overlap == 40
    store.send("ann")
    store.send("ann", join=Join(HOLD_FOR, sole_spender=True))
    assert store.head.free(0, 0) == 20


def test_a_failover_waits_for_a_silent_member_as_long_as_its_lease_lasts(store: Store) -> None:
    """Then what it held, as far as is known, counts as lost."""
    store.send("bob", needs=(need(1, 90),))
    store.head.fail_over("e2")
    store.send("ann")
    store.know("ann", 100, join=True)
    for _ in range(4):
        assert store.send("ann", needs=(need(1, 5),)).granted == ()
        store.time += HOLD_FOR / 4
    reply = store.send("ann", needs=(need(1, 5), need(2, 11)))
    assert (reply.granted, reply.refused, reply.view.kept) == ((1,), (2,), 90)


def test_an_empty_head_grants_nothing_before_every_lease_has_ended() -> None:
    """Members that live say what they hold; nobody knows of the others."""
    store = Store(SharedHead("e1", regroup=HOLD_FOR))
    store.send("ann", epoch="e0", used=30)
    store.know("ann", 100, join=True, used=30)
    while store.head.now < HOLD_FOR:
        assert store.send("ann", used=30, needs=(need(1, 5),)).granted == ()
        store.time += 10.0
        store.send("ann", used=30)
    assert store.send("ann", used=30, needs=(need(1, 70),)).granted == (1,)


@pytest.mark.parametrize("order", [(20.0, 90.0), (90.0, 20.0)])
def test_an_empty_head_waits_as_long_as_the_longest_lease(order: tuple[float, float]) -> None:
    """Of those that come back; until the first of them says how long its lease is, nobody knows."""
    store = Store(SharedHead("e1", regroup=60.0))
    for name, hold_for in zip(("ann", "bob"), order, strict=True):
        assert store.send(name, epoch="e0").status == "reassert"
        store.send(name, join=Join(hold_for))
    assert store.head.regroup == 90.0
    store.head.handle(Message("new", 1, "", join=Join(120.0)), store.time)
    assert store.head.regroup == 90.0


def test_an_empty_head_waits_no_longer_than_the_leases() -> None:
    """Whoever comes first says how long those are."""
    store = Store(SharedHead("e1", regroup=60.0))
    store.send("ann", epoch="e0")
    store.send("ann", join=Join(20.0))
    assert store.head.regroup == 20.0


def test_a_head_may_know_whom_to_wait_for() -> None:
    """It grants as soon as each of these has joined, or is known to be dead."""
    store = Store(SharedHead("e1", await_members=("ann", "bob", "cid")))
    store.know("ann", 100, join=True)
    store.dead = {"cid"}
    assert store.send("ann", needs=(need(1, 5),)).granted == ()
    store.send("bob", join=True, used=95)
    assert store.send("ann", needs=(need(1, 5),)).granted == (1,)


# The account's clock.


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_of_the_servers_clock_ends_nothing_early(store: Store, jump: float) -> None:
    """Neither a lease nor a debit: the account's clock goes by what a member vouches for as well."""
    store.send("bob", used=40, settled=(Debit(10, 5.0),))
    store.time += 4.0
    store.send("ann")
    store.time += jump
    store.head.handle(Message("cid", 1, "", join=Join(HOLD_FOR)), store.time)
    store.seen["ann"] = "e1", 4.0, 0.0, store.time
    assert store.know("ann", 100).view.settled == 10
    assert 4.0 <= store.head.now < 4.01
    assert not store.head.members["bob"].gone


def test_time_that_nobody_vouches_for_ends_no_lease(store: Store) -> None:
    """Nor is a member that was heard meanwhile given up early, once somebody does."""
    store.send("dan", join=Join(15.0))
    store.time += 18.0
    store.newcomer()
    assert (store.head.now, store.head.clock.latest) == (0.0, 18.0)
    assert "dan" in store.head.members
    store.seen["dan"] = "e1", 0.0, 0.0, store.time
    store.send("dan")
    for more, lives in ((14.0, True), (1.0, False)):
        store.time += more
        store.send("ann")
        assert ("dan" in store.head.members) is lives


def test_a_restart_reads_another_servers_clock(store: Store) -> None:
    """Its difference from the last one's is no time that has passed."""
    store.time += 10.0
    store.newcomer()
    store.head.fail_over("e2")
    store.time += 3600.0
    store.send("ann")
    assert (store.head.now, store.head.clock.latest, store.head.clock.dropped) == (0.0, 0.0, 0.0)


def test_stamps_of_another_epoch_vouch_for_nothing(store: Store) -> None:
    """They are from a clock that was further ahead: a jump would bring the time back at once."""
    before = deepcopy(store.head)
    store.time += 50.0
    store.send("ann")
    store.send("bob")
    store.head = before
    store.head.fail_over("e2")
    store.send("ann")
    store.time += 3600.0
    store.send("bob")
    assert store.head.now == 0.0


def test_who_is_alone_vouches_for_all_the_time_that_has_passed(store: Store) -> None:
    """Nobody else has anything that a jump could end."""
    for name in ("ann", "bob"):
        store.send(name, leave=True)
    store.time += 1000.0
    store.newcomer()
    assert store.head.now == 1000.0


@pytest.mark.parametrize("new", [False, True])
def test_time_in_which_the_servers_clock_was_set_back_is_lost(store: Store, *, new: bool) -> None:
    """Whether a member says how much that was or nobody does: a jump does not bring it back."""
    store.time -= 3600.0
    if new:
        store.newcomer()
    else:
        store.seen["ann"] = "e1", 0.0, 0.0, store.time - 50.0
        store.send("ann")
    store.time += 7200.0
    store.seen["bob"] = "e1", 0.0, 0.0, store.time - 50.0
    store.send("bob")
    assert store.head.now == 0.0


def test_time_that_was_lost_is_not_regained_by_a_jump(store: Store) -> None:
    """Who heard last before the loss vouches for it as well: what was dropped since is taken off."""
    store.time += 50.0
    store.head.handle(Message("cid", 1, "", join=Join(HOLD_FOR)), store.time)
    store.seen["bob"] = "e1", store.head.now, store.head.clock.dropped, store.time
    store.send("bob", settled=(Debit(10, 4.0),))
    latest = store.head.clock.latest
    assert latest == MOST_BEHIND
    store.head.handle(Message("ann", 9, "e1", seen=0.0, elapsed=50.0), store.time + 3600.0)
    assert store.head.now == latest
