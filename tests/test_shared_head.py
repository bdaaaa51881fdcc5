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
REPORT = ("used", "keep", "slots", "running", "settled", "kept", "needs", "want", "floor", "recall")


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
        report = Report(**{name: what.pop(name) for name in REPORT if name in what}, patience=10.0)
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
    store.time += RECALL_PATIENCE
    reply = store.send("ann", needs=(need(1, 90),))
    assert reply.refused == (1,)
    assert (reply.view.missing, reply.view.missing_until) == (1, HOLD_FOR)


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
    store.send("bob", settled=(Debit(10, -14.0),))
    landing = Landing("e1", right.refresh_number, balance(100))
    assert store.send("ann", landing=landing).view.settled == 10


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
    store.send("ann", refresh_after=store.head.now, refresh_timeout=5.0)
    store.time += 5.0 + GRACE
    assert store.send("bob", refresh_after=store.head.now).refresh == "yours"
    late = Landing("e1", store.head.refresh.number - 1, balance(7))
    assert store.send("ann", landing=late).view.snapshot == store.head.snapshot
    assert store.head.free(0, 0) == 80


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
