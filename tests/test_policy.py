"""The policy: the contract's section on refusals, row by row, and what no row may ever say."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import Balance
from budgetguard.clock import Instant
from budgetguard.credits import to_credits
from budgetguard.ledger import Entry, Ledger, Look
from budgetguard.policy import (
    NEVER,
    NOBODY,
    Admit,
    Ahead,
    Decision,
    Looking,
    Need,
    Refuse,
    Stay,
    Terms,
    Why,
    decide,
    decide_reading,
    possible,
    ready_in,
    shortage,
    slot_in,
    usable,
)

TERMS = Terms(
    fresh_for=300,
    stale_for=600,
    recheck_after=5,
    timeout=10,
    floor=0,
    extra=0,
    allow_unknown=False,
)
ALLOW = replace(TERMS, allow_unknown=True)
NOW = 1000.0
JUST_BEFORE = math.nextafter(NOW, 0.0)
IN_FLIGHT = Looking(last_sent=NOW - 1, in_flight=True)

ADMIT = Admit()
ADMIT_AND_LOOK = Admit(look=True)
ADMIT_UNKNOWN = Admit(unknown=True)
WAIT = Stay(None)
WAIT_AND_LOOK = Stay(NOW)
UNKNOWN = Refuse(Why.UNKNOWN, hopeless=False)
TOO_LITTLE = Refuse(Why.CREDITS, hopeless=True)


def at(mono: float) -> Instant:
    """A moment on both clocks."""
    return Instant(mono, 1e9 + mono)


def books(
    credits: int | None = 100,
    age: float = 1.0,
    *,
    held: int = 0,
    pending: int = 0,
    kept: int = 0,
    slots_held: int = 0,
    slots_kept: int = 0,
    wall_age: float | None = None,
    exhausted: float | None = None,
    **limits: Any,
) -> Ledger:
    """A ledger whose look was sent `age` seconds ago, with calls in it."""
    ledger = Ledger()
    for name in ("cost_limit", "credits_used"):
        if limits.get(name) is not None:
            limits[name] = to_credits(limits[name])
    balance = Balance(credits=None if credits is None else to_credits(credits), **limits)
    wall = 1e9 + NOW - (age if wall_age is None else wall_age)
    ledger.apply(Look.of(balance, Instant(NOW - age, wall)))
    if held or slots_held:
        ledger.open(Entry(held, slots_held))
    if kept or slots_kept:
        entry = Entry(kept, slots_kept)
        ledger.open(entry)
        ledger.keep(entry, NOW + 60)
    if pending:
        ledger.take(pending)
        ledger.put(pending, pending, NOW + 20)
    if exhausted is not None:
        ledger.refuse(at(NOW - exhausted), 60.0)
    return ledger


def need(
    amount: int = 50,
    *,
    cost: int | None = None,
    slots: int = 0,
    waited: float = 0.0,
    wait: float = 0.0,
    timeout: float = 10.0,
) -> Need:
    """A caller who came `waited` seconds ago and queues for `wait` in all."""
    arrived = NOW - waited
    return Need(
        amount=amount,
        cost=amount if cost is None else cost,
        slots=slots,
        arrived=arrived,
        until=arrived + wait,
        give_up=arrived + wait + timeout,
    )


def decided(
    ledger: Ledger,
    caller: Need,
    looking: Looking | None = None,
    *,
    terms: Terms = TERMS,
    ahead: Ahead = NOBODY,
) -> Decision:
    """What becomes of the caller now, where the last look is the one at hand."""
    if looking is None:
        looking = Looking(last_sent=ledger.look.sent.mono if ledger.look else NEVER)
    return decide(ledger, looking, terms, caller, ahead, at(NOW))


def refused(why: Why, *, hopeless: bool = False) -> Refuse:
    """A refusal for `why`."""
    return Refuse(why, hopeless=hopeless)


# A balance that is enough.


@pytest.mark.parametrize(
    ("age", "decision"),
    [
        (0.0, ADMIT),
        (299.9, ADMIT),
        (300.0, ADMIT_AND_LOOK),
        (599.9, ADMIT_AND_LOOK),
        (600.0, ADMIT_AND_LOOK),
        (600.1, WAIT_AND_LOOK),
    ],
)
def test_enough_by_age(age: float, decision: Decision) -> None:
    """Younger than fresh_for is used as it is, up to stale_for a look runs behind, then we wait."""
    assert decided(books(1000, age), need(50)) == decision


@pytest.mark.parametrize(
    ("wall_age", "decision"),
    [(300.0, ADMIT_AND_LOOK), (600.1, WAIT_AND_LOOK), (-9e9, ADMIT)],
    ids=["fresh_for", "past stale_for", "set back"],
)
def test_age_is_the_larger_of_both_clocks(wall_age: float, decision: Decision) -> None:
    """A suspend ages a balance, a wall clock that was set back does not renew it."""
    assert decided(books(1000, 1.0, wall_age=wall_age), need(50)) == decision


@pytest.mark.parametrize(
    "looking",
    [IN_FLIGHT, Looking(last_sent=NOW - 1, blocked_until=NOW + 1)],
    ids=["in flight", "backing off"],
)
def test_no_look_behind_where_none_can_start(looking: Looking) -> None:
    """A caller with a usable balance is let in, and neither joins nor doubles a look."""
    assert decided(books(1000, 400.0), need(50), looking) == ADMIT
    assert decided(books(60, 10.0), need(50), looking) == ADMIT


def test_a_backoff_that_is_over_blocks_no_look() -> None:
    """The first moment at which a look may be made again is one."""
    looking = Looking(last_sent=NOW - 400, blocked_until=NOW)
    assert decided(books(1000, 400.0), need(50), looking) == ADMIT_AND_LOOK
    assert decided(books(10, 400.0), need(50), looking) == WAIT_AND_LOOK


@pytest.mark.parametrize(
    ("credits", "cost", "age", "decision"),
    [
        (100, 50, 10.0, ADMIT),
        (99, 50, 10.0, ADMIT_AND_LOOK),
        (50, 50, 10.0, ADMIT_AND_LOOK),
        (99, 50, 5.0, ADMIT_AND_LOOK),
        (99, 50, 4.9, ADMIT),
        (99, 49, 10.0, ADMIT),
        (50, 0, 10.0, ADMIT),
    ],
    ids=[
        "its cost is left",
        "less is left",
        "nothing is left",
        "looked recheck_after ago",
        "looked just now",
        "cost decides, not min",
        "no cost",
    ],
)
def test_near_the_edge_it_looks_more_often(
    credits: int, cost: int, age: float, decision: Decision
) -> None:
    """A call that leaves less than its own cost has a look behind it, recheck_after apart."""
    assert decided(books(credits, age), need(50, cost=cost)) == decision


def test_a_failed_look_counts_for_the_distance_near_the_edge() -> None:
    """Looks that were not due to age keep their distance from failed ones too."""
    looking = Looking(last_sent=NOW - 4, blocked_until=NOW - 1)
    assert decided(books(60, 200.0), need(50), looking) == ADMIT


# What is available.


@pytest.mark.parametrize(
    ("ledger", "terms", "ahead", "most"),
    [
        (books(100), {}, NOBODY, 100),
        (books(100), {"floor": 30}, NOBODY, 70),
        (books(100), {"extra": 30}, NOBODY, 130),
        (books(100, held=30), {}, NOBODY, 70),
        (books(100, pending=30), {}, NOBODY, 70),
        (books(100, kept=30), {}, NOBODY, 70),
        (books(100), {}, Ahead(30, 0), 70),
        (books(100, cost_limit=90, credits_used=20), {"extra": 30}, NOBODY, 70),
        (books(100, cost_limit=70), {}, NOBODY, 70),
        (
            books(200, held=10, pending=20, kept=30),
            {"floor": 40, "extra": 5},
            Ahead(35, 9),
            70,
        ),
    ],
    ids=[
        "credits",
        "floor",
        "extra",
        "holds",
        "debits",
        "kept",
        "ahead",
        "cost limit",
        "cap",
        "all",
    ],
)
def test_a_need_fits_up_to_what_is_available(
    ledger: Ledger, terms: dict[str, int], ahead: Ahead, most: int
) -> None:
    """A need equal to what is available is met, one micro-credit more is not."""
    guard = replace(TERMS, **terms)  # type: ignore[arg-type]
    assert isinstance(decided(ledger, need(most), terms=guard, ahead=ahead), Admit)
    assert isinstance(decided(ledger, need(most + 1), terms=guard, ahead=ahead), Refuse)


def test_an_exhausted_account_admits_nobody() -> None:
    """After the provider's own refusal not a micro-credit is there, extra credits neither."""
    ledger = books(100, 10.0, exhausted=1.0)
    terms = replace(TERMS, extra=1000)
    assert decided(ledger, need(1), terms=terms) == TOO_LITTLE


@pytest.mark.parametrize(
    ("slots", "ledger", "ahead", "fits"),
    [
        (1, books(max_concurrency=3, slots_held=2), NOBODY, True),
        (2, books(max_concurrency=3, slots_held=2), NOBODY, False),
        (1, books(max_concurrency=3, slots_held=1, slots_kept=1), NOBODY, True),
        (1, books(max_concurrency=3, slots_held=2, slots_kept=1), NOBODY, False),
        (1, books(max_concurrency=3, slots_held=1), Ahead(0, 1), True),
        (1, books(max_concurrency=3, slots_held=1), Ahead(0, 2), False),
        (3, books(max_concurrency=3), NOBODY, True),
        (4, books(max_concurrency=3), NOBODY, False),
        (0, books(max_concurrency=0, slots_held=1), NOBODY, True),
        (10**6, books(), NOBODY, True),
    ],
    ids=[
        "last one",
        "one too many",
        "kept, last one",
        "kept, too many",
        "ahead, last one",
        "ahead, too many",
        "all",
        "above the limit",
        "none asked for",
        "no limit",
    ],
)
def test_slots_fit_up_to_the_limit(slots: int, ledger: Ledger, ahead: Ahead, *, fits: bool) -> None:
    """Sessions open, kept, and needed by those before are counted; no session asks for none."""
    decision = decided(ledger, need(0, slots=slots), ahead=ahead)
    assert isinstance(decision, Admit if fits else Refuse)


@pytest.mark.parametrize(
    ("ledger", "caller", "ahead", "lacks"),
    [
        (books(10, held=20), need(0), Ahead(99, 0), None),
        (books(10, held=20), need(0, slots=1), Ahead(99, 0), None),
        (books(100), need(50), Ahead(0, 99), None),
        (books(100, cost_limit=-1), need(0), NOBODY, None),
        (books(100, cost_limit=40, max_concurrency=0), need(41, slots=1), NOBODY, Why.CAP),
        (books(10, cost_limit=40, max_concurrency=0), need(40, slots=1), NOBODY, Why.CREDITS),
        (books(40, cost_limit=40, max_concurrency=0), need(40, slots=1), NOBODY, Why.SLOTS),
    ],
    ids=[
        "no credits needed",
        "only slots needed",
        "no slots needed",
        "nothing for the cap",
        "cap first",
        "then credits",
        "then slots",
    ],
)
def test_a_caller_lacks_only_what_it_needs(
    ledger: Ledger, caller: Need, ahead: Ahead, lacks: Why | None
) -> None:
    """Who needs no credits goes past those who wait for credits, and so with slots."""
    assert shortage(ledger, TERMS, caller, ahead) is lacks


@pytest.mark.parametrize(
    ("ledger", "caller", "terms", "could"),
    [
        (Ledger(), need(0), {}, False),
        (books(50, held=50, pending=50), need(50), {}, True),
        (books(50), need(51), {}, False),
        (books(50), need(41), {"floor": 10}, False),
        (books(50), need(40), {"floor": 10}, True),
        (books(50), need(60), {"extra": 10}, True),
        (books(50, cost_limit=40), need(40), {}, True),
        (books(50, cost_limit=40), need(41), {}, False),
        (books(-5), need(0), {}, True),
        (books(50, max_concurrency=2, slots_held=2), need(0, slots=2), {}, True),
        (books(50, max_concurrency=2), need(0, slots=3), {}, False),
        (books(50, max_concurrency=2), need(51, slots=2), {}, False),
        (books(50, exhausted=0.5), need(1), {}, False),
    ],
    ids=[
        "nothing known",
        "all of it",
        "more than there is",
        "into the floor",
        "down to the floor",
        "with extra",
        "the cap",
        "above the cap",
        "nothing needed",
        "all slots",
        "above the limit",
        "slots without credits",
        "exhausted",
    ],
)
def test_what_could_fit_if_nothing_else_ran(
    ledger: Ledger, caller: Need, terms: dict[str, int], *, could: bool
) -> None:
    """Only a need above spendable less the floor, or above the slots there are, is hopeless."""
    assert possible(ledger, replace(TERMS, **terms), caller) is could  # type: ignore[arg-type]


# Too little: refusals are never given on an old look.


@pytest.mark.parametrize(
    ("age", "decision"),
    [
        (0.0, TOO_LITTLE),
        (4.9, TOO_LITTLE),
        (5.0, WAIT_AND_LOOK),
        (299.0, WAIT_AND_LOOK),
        (600.0, WAIT_AND_LOOK),
    ],
)
def test_too_little_on_a_look_of_some_age(age: float, decision: Decision) -> None:
    """A refusal goes by a look sent less than recheck_after before the caller came."""
    assert decided(books(10, age), need(50)) == decision


@pytest.mark.parametrize(
    ("looking", "decision"),
    [
        (Looking(NOW - 7, in_flight=True), WAIT),
        (Looking(NOW - 1, in_flight=True), WAIT),
        (Looking(NOW - 1, in_flight=True, blocked_until=NOW + 1), WAIT),
        (Looking(NOW - 100, blocked_until=NOW + 0.1), TOO_LITTLE),
        (Looking(NOW - 4.9, blocked_until=NOW - 1), TOO_LITTLE),
        (Looking(NOW - 5, blocked_until=NOW - 1), WAIT_AND_LOOK),
        (Looking(), WAIT_AND_LOOK),
    ],
    ids=[
        "an old one in flight",
        "a young one in flight",
        "one in flight after a failure",
        "backing off",
        "one failed lately",
        "one failed recheck_after ago",
        "none yet",
    ],
)
def test_too_little_on_an_old_look(looking: Looking, decision: Decision) -> None:
    """The caller waits for a look; where looks fail, the balance at hand decides."""
    assert decided(books(10, 200.0), need(50), looking) == decision


def test_a_young_look_at_hand_refuses_whatever_is_in_flight() -> None:
    """The caller does not wait for more than it needs."""
    assert decided(books(10, 4.9), need(50), IN_FLIGHT) == TOO_LITTLE


def test_the_providers_own_refusal_is_as_good_as_a_look() -> None:
    """Right after a 402 nobody waits for a balance in order to be refused."""
    ledger = books(100, 200.0, exhausted=4.9)
    assert decided(ledger, need(1), Looking(NOW - 200)) == TOO_LITTLE
    ledger = books(100, 200.0, exhausted=5.0)
    assert decided(ledger, need(1), Looking(NOW - 200)) == WAIT_AND_LOOK


def test_an_old_look_in_flight_that_lands_is_not_enough() -> None:
    """Where the look in flight was sent too long before the caller came, the next one decides."""
    caller = need(50, waited=1.0)
    assert decided(books(10, 5.9), caller) == TOO_LITTLE
    assert decided(books(10, 6.0), caller) == WAIT_AND_LOOK


def test_a_caller_waits_for_one_look_only() -> None:
    """The look sent for the caller refuses it, however long the answer took."""
    assert decided(books(10, 8.0), need(50, waited=8.0)) == TOO_LITTLE


@pytest.mark.parametrize(("age", "decision"), [(0.0, TOO_LITTLE), (0.1, WAIT_AND_LOOK)])
def test_without_recheck_after_each_caller_has_a_look_of_its_own(
    age: float, decision: Decision
) -> None:
    """Where looks need no distance, only one sent as the caller came, or since, refuses it."""
    terms = replace(TERMS, recheck_after=0)
    assert decided(books(10, age), need(50), terms=terms) == decision
    assert decided(books(10, age), need(50, waited=age), terms=terms) == TOO_LITTLE


@pytest.mark.parametrize(
    "ledger",
    [books(10, 200.0), books(10, 200.0, max_concurrency=1, slots_held=1)],
    ids=["credits", "slots"],
)
@pytest.mark.parametrize("looking", [Looking(NOW - 200), IN_FLIGHT], ids=["idle", "in flight"])
@pytest.mark.parametrize("wait", [0.0, 20.0])
def test_nobody_is_held_longer_than_wait_and_timeout(
    ledger: Ledger, looking: Looking, wait: float
) -> None:
    """When its time is up, a caller is refused on the balance at hand."""
    caller = need(50, slots=1, waited=10.0 + wait, wait=wait)
    assert decided(ledger, caller, looking) == TOO_LITTLE
    soon = replace(caller, give_up=math.nextafter(NOW, math.inf))
    assert isinstance(decided(ledger, soon, looking), Stay)


# Queueing.


def test_a_caller_who_waits_for_credits_has_the_next_look_made() -> None:
    """While someone waits for credits the guard looks every recheck_after."""
    ledger = books(60, 2.0, held=30)
    assert decided(ledger, need(50, wait=20.0)) == Stay(NOW + 3)
    assert decided(ledger, need(50, wait=20.0), IN_FLIGHT) == WAIT
    late = Looking(last_sent=NOW - 30, blocked_until=NOW + 1)
    assert decided(ledger, need(50, wait=20.0), late) == WAIT_AND_LOOK


def test_looks_for_those_who_wait_are_never_without_a_pause() -> None:
    """Where looks need no distance, a waiting caller still does not have them made in a loop."""
    terms = replace(TERMS, recheck_after=0)
    ledger = books(60, 0.0, held=30)
    decision = decided(ledger, need(50, wait=20.0), terms=terms)
    assert isinstance(decision, Stay)
    assert decision.look_at is not None
    assert NOW < decision.look_at <= NOW + 0.5


def test_a_caller_who_waits_for_slots_needs_no_looks() -> None:
    """Sessions come free without the provider's help."""
    ledger = books(100, 2.0, max_concurrency=1, slots_held=1)
    assert decided(ledger, need(50, slots=1, wait=20.0)) == WAIT


def test_whoever_queues_is_verified_first() -> None:
    """An old look is renewed before anybody is left to wait for credits or slots."""
    assert decided(books(60, 5.0, held=30), need(50, wait=20.0)) == WAIT_AND_LOOK
    ledger = books(100, 5.0, max_concurrency=1, slots_held=1)
    assert decided(ledger, need(50, slots=1, wait=20.0)) == WAIT_AND_LOOK


@pytest.mark.parametrize(
    ("ledger", "caller", "why"),
    [
        (books(49), need(50, wait=20.0), Why.CREDITS),
        (books(99, cost_limit=49), need(50, wait=20.0), Why.CAP),
        (books(99, max_concurrency=1), need(50, slots=2, wait=20.0), Why.SLOTS),
    ],
    ids=["credits", "cap", "slots"],
)
def test_what_can_never_fit_does_not_queue(ledger: Ledger, caller: Need, why: Why) -> None:
    """A hopeless need is refused at once, however long it would wait."""
    assert decided(ledger, caller) == refused(why, hopeless=True)


@pytest.mark.parametrize(
    ("waited", "age", "decision"),
    [
        (19.9, 1.0, Stay(NOW + 4)),
        (20.0, 1.0, refused(Why.CREDITS)),
        (20.0, 4.9, refused(Why.CREDITS)),
        (20.0, 5.0, WAIT_AND_LOOK),
        (21.0, 5.9, refused(Why.CREDITS)),
        (21.0, 6.0, WAIT_AND_LOOK),
        (30.0, 6.0, refused(Why.CREDITS)),
    ],
    ids=[
        "not over yet",
        "over, looked lately",
        "over, looked within recheck_after",
        "over, looked recheck_after before",
        "later, looked within recheck_after of the end",
        "later, looked before that",
        "given up",
    ],
)
def test_the_end_of_queueing(waited: float, age: float, decision: Decision) -> None:
    """At the end of `wait`, too, a refusal goes by a look sent less than recheck_after before."""
    assert decided(books(60, age, held=30), need(50, waited=waited, wait=20.0)) == decision


@pytest.mark.parametrize(
    ("ledger", "caller", "why"),
    [
        (books(60, held=30), need(50), Why.CREDITS),
        (books(60, pending=30), need(50), Why.CREDITS),
        (books(60, kept=30), need(50), Why.CREDITS),
        (books(60, max_concurrency=1, slots_held=1), need(50, slots=1), Why.SLOTS),
    ],
    ids=["holds", "debits", "kept", "slots"],
)
def test_a_refusal_for_what_runs_is_not_hopeless(ledger: Ledger, caller: Need, why: Why) -> None:
    """Where only our own calls are in the way, the refusal says so."""
    assert decided(ledger, caller) == refused(why)


def test_those_before_in_the_queue_are_not_hopeless_either() -> None:
    """Who only waits behind others can come in later."""
    assert decided(books(60), need(50), ahead=Ahead(30, 0)) == refused(Why.CREDITS)


# Unknown.


@pytest.mark.parametrize("ledger", [Ledger(), books(1000, 600.1)], ids=["no balance", "too old"])
@pytest.mark.parametrize(
    ("looking", "waited", "stays"),
    [
        (Looking(), 0.0, WAIT_AND_LOOK),
        (IN_FLIGHT, 0.0, WAIT),
        (IN_FLIGHT, 1.0, WAIT),
        (replace(IN_FLIGHT, blocked_until=NOW + 1), 0.0, WAIT),
        (Looking(NOW - 1, blocked_until=NOW), 0.0, WAIT_AND_LOOK),
        (Looking(NOW - 1, blocked_until=NOW + 0.1), 0.0, None),
        (Looking(NOW - 1), 0.9, WAIT_AND_LOOK),
        (Looking(NOW - 1), 1.0, None),
        (Looking(NOW - 1), 2.0, None),
        (Looking(), 9.9, WAIT_AND_LOOK),
        (Looking(), 10.0, None),
        (IN_FLIGHT, 10.0, None),
    ],
    ids=[
        "ask",
        "join the look in flight",
        "wait for one's own look",
        "join the one after a failure",
        "the backoff is over",
        "backing off",
        "a look failed before the caller came",
        "a look failed as the caller came",
        "a look failed since",
        "nearly given up",
        "given up",
        "given up in flight",
    ],
)
def test_unknown(ledger: Ledger, looking: Looking, waited: float, stays: Stay | None) -> None:
    """Without a usable balance a caller waits for one look, and is then refused, or let in."""
    caller = need(50, waited=waited)
    assert decided(ledger, caller, looking) == (stays or UNKNOWN)
    assert decided(ledger, caller, looking, terms=ALLOW) == (stays or ADMIT_UNKNOWN)


def test_unknown_does_not_queue() -> None:
    """Where no balance can be had, `wait` is no reason to go on."""
    failing = Looking(NOW - 1, blocked_until=NOW + 1)
    assert decided(Ledger(), need(50, wait=60.0), failing) == UNKNOWN
    assert decided(Ledger(), need(50, waited=2.0, wait=60.0), Looking(NOW - 1)) == UNKNOWN


def test_a_look_sent_for_the_caller_counts_however_short_stale_for_is() -> None:
    """Where balances are stale at once, the answer to one's own look still is one."""
    terms = replace(TERMS, fresh_for=0, stale_for=0)
    caller = need(50, waited=3.0)
    assert isinstance(decided(books(50, 3.0), caller, terms=terms), Admit)
    assert decided(books(49, 3.0), caller, terms=terms) == TOO_LITTLE
    assert decided(books(50, 3.1), caller, terms=terms) == WAIT_AND_LOOK


@pytest.mark.parametrize(
    ("age", "decision"),
    [(600.0, ADMIT_AND_LOOK), (600.1, WAIT_AND_LOOK)],
    ids=["usable", "too old"],
)
def test_a_balance_grows_stale_for_those_who_wait(age: float, decision: Decision) -> None:
    """Who has queued for longer than stale_for is not let in on the look from the beginning."""
    ledger = books(100, age, max_concurrency=1)
    assert decided(ledger, need(50, slots=1, waited=age, wait=3600.0)) == decision


def test_a_look_that_failed_after_the_callers_own_one_is_not_asked_for_twice() -> None:
    """The balance of a waiting caller has grown stale, and renewing it failed: it is refused."""
    ledger = books(100, 700.0)
    caller = need(50, waited=700.0, wait=3600.0)
    assert decided(ledger, caller, Looking(NOW - 2)) == UNKNOWN
    assert decided(ledger, caller, Looking(NOW - 2, in_flight=True)) == WAIT


@pytest.mark.parametrize(
    ("age", "waited", "stale_for", "known"),
    [
        (600.0, 0.0, 600, True),
        (600.1, 0.0, 600, False),
        (0.0, 0.0, 0, True),
        (0.1, 0.0, 0, False),
        (0.1, 0.1, 0, True),
        (10.0, 10.0, 0, True),
        (10.1, 10.1, 0, False),
    ],
)
def test_which_looks_are_usable(
    age: float, waited: float, stale_for: float, *, known: bool
) -> None:
    """A look counts up to stale_for; one sent for the caller, as long as a look may take."""
    terms = replace(TERMS, fresh_for=0, stale_for=stale_for)
    assert usable(books(1, age).look, terms, at(NOW), NOW - waited) is known
    assert not usable(None, terms, at(NOW), NOW - waited)


# Reading a balance.


@pytest.mark.parametrize(
    ("ledger", "looking", "waited", "decision"),
    [
        (books(1, 30.0), Looking(), 0.0, ADMIT),
        (books(1, 30.1), Looking(), 0.0, WAIT_AND_LOOK),
        (books(1, 31.0), Looking(), 1.0, ADMIT),
        (Ledger(), Looking(), 0.0, WAIT_AND_LOOK),
        (books(1, 99.0), IN_FLIGHT, 0.0, WAIT),
        (Ledger(), Looking(blocked_until=NOW + 1), 0.0, UNKNOWN),
        (Ledger(), Looking(blocked_until=NOW), 0.0, WAIT_AND_LOOK),
        (Ledger(), replace(IN_FLIGHT, blocked_until=NOW + 1), 0.0, WAIT),
        (Ledger(), IN_FLIGHT, 9.9, WAIT),
        (Ledger(), IN_FLIGHT, 10.0, UNKNOWN),
        (books(1, 99.0), Looking(), 10.0, UNKNOWN),
    ],
    ids=[
        "old enough",
        "too old",
        "grown old while waiting",
        "none",
        "in flight",
        "backing off",
        "backoff over",
        "in flight after a failure",
        "waiting",
        "given up",
        "given up on an old one",
    ],
)
def test_who_only_reads(
    ledger: Ledger, looking: Looking, waited: float, decision: Decision
) -> None:
    """A reader gets a balance sent at or after the moment it named, or waits for the next one."""
    oldest, give_up = NOW - waited - 30.0, NOW - waited + 10.0
    assert decide_reading(ledger.look, looking, oldest, give_up, at(NOW)) == decision


# When to try again.


@pytest.mark.parametrize(
    ("ledger", "amount", "seconds"),
    [
        (books(60, 2.0, held=50), 50, 3.0),
        (books(60, 5.0, held=50), 50, 0.0),
        (books(60, 9.0, held=50), 50, 0.0),
        (books(60, 2.0, pending=50), 50, 20.0),
        (books(60, 2.0, kept=50), 50, 60.0),
        (books(60, 2.0, pending=25, kept=25), 35, 20.0),
        (books(60, 2.0, pending=25, kept=25), 36, 60.0),
        (books(60, 2.0, held=10, pending=25, kept=15), 50, 60.0),
        (books(60, 2.0, held=10, pending=25, kept=15), 45, 20.0),
        (books(60, 2.0, held=40, pending=20), 40, 3.0),
        (books(60, 2.0, held=40, pending=20), 41, 20.0),
        (books(60, 2.0, held=40, kept=20), 40, 3.0),
        (books(10, 2.0), 50, 3.0),
    ],
    ids=[
        "open calls",
        "a look is due",
        "a look was due",
        "debits",
        "kept",
        "debits before kept suffice",
        "debits before kept do not suffice",
        "open calls and debits do not suffice",
        "open calls and debits suffice",
        "open calls suffice",
        "open calls do not suffice",
        "open calls suffice beside kept",
        "nothing to wait for",
    ],
)
def test_when_a_refused_caller_may_come_again(ledger: Ledger, amount: int, seconds: float) -> None:
    """Not before the next refresh, nor before enough debits leave where open calls do not suffice."""
    assert ready_in(ledger, Looking(), TERMS, need(amount), at(NOW)) == seconds


def test_a_debit_that_may_leave_already_makes_nobody_wait() -> None:
    """Where the next look will show everything, the look is all there is to wait for."""
    ledger = books(60, 2.0, pending=50)
    assert ready_in(ledger, Looking(), TERMS, need(50), at(NOW + 19)) == 1.0
    assert ready_in(ledger, Looking(), TERMS, need(50), at(NOW + 21)) == 0.0


def test_a_refused_caller_is_not_told_to_come_back_before_the_next_look() -> None:
    """While the provider is left alone after failures, nothing can come free."""
    ledger = books(40, 0.0)
    failing = Looking(last_sent=NOW, blocked_until=NOW + 30)
    assert ready_in(ledger, failing, TERMS, need(50), at(NOW + 1)) == 29.0


@pytest.mark.parametrize(
    ("ledger", "slots", "seconds"),
    [
        (books(slots_held=1, slots_kept=1, max_concurrency=2), 1, 5.0),
        (books(slots_held=1, slots_kept=1, max_concurrency=2), 2, 60.0),
        (books(slots_kept=1, max_concurrency=1), 1, 60.0),
        (books(slots_held=2, max_concurrency=2), 2, 5.0),
        (books(slots_kept=1, pending=100, max_concurrency=1), 1, 60.0),
    ],
    ids=["a running session suffices", "it does not", "kept alone", "running alone", "few credits"],
)
def test_when_a_caller_refused_for_slots_may_come_again(
    ledger: Ledger, slots: int, seconds: float
) -> None:
    """A session that runs may end at any time; one of which nobody knows, when its debit leaves."""
    assert slot_in(ledger, TERMS, need(50, slots=slots), at(NOW)) == seconds


def test_who_lacks_credits_and_slots_comes_again_when_there_are_both() -> None:
    """The later of both is the bound."""
    ledger = books(60, 2.0, pending=50, slots_kept=1, max_concurrency=1)
    assert ready_in(ledger, Looking(), TERMS, need(50), at(NOW)) == 20.0
    assert ready_in(ledger, Looking(), TERMS, need(50, slots=1), at(NOW)) == 60.0


def test_what_a_balance_shows_already_comes_free_with_no_debit() -> None:
    """Where a sole spender's balance shows a debit, its leaving makes nothing more available."""
    ledger = Ledger()
    ledger.sole_spender = True
    ledger.apply(Look.of(Balance(credits=to_credits(100)), at(NOW - 9)))
    ledger.take(40)
    ledger.put(40, 40, NOW + 20)
    ledger.apply(Look.of(Balance(credits=to_credits(60)), at(NOW - 8)))
    entry = Entry(30)
    ledger.open(entry)
    ledger.keep(entry, NOW + 60)
    assert ledger.available(0, 0) == 30
    assert ready_in(ledger, Looking(), TERMS, need(50), at(NOW)) == 60.0


# Sixteenths of a second apart: each debit is then in a bucket of its own.
DEBITS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 2), st.booleans()), min_size=1, max_size=12
)


def ended(credits: int, debits: list[tuple[int, int, bool]], running: int) -> Ledger:
    """Books whose debits leave one after the other, from ten seconds on."""
    ledger = books(credits, 2.0, held=running, max_concurrency=4)
    for place, (amount, slots, kept) in enumerate(debits):
        entry = Entry(amount, slots if kept else 0)
        ledger.open(entry)
        clears_at = NOW + 10 + place / 16
        if kept:
            ledger.keep(entry, clears_at)
        else:
            ledger.settle(entry, amount, clears_at)
    return ledger


@given(DEBITS, st.integers(0, 100), st.integers(0, 20), st.integers(1, 60), st.integers(0, 4))
def test_the_moment_named_is_the_first_at_which_the_caller_can_fit(
    debits: list[tuple[int, int, bool]], running: int, floor: int, amount: int, slots: int
) -> None:
    """A balance asked for then lets it in, if the open calls cost nothing; one before would not."""
    credits, terms = amount + floor + 3, replace(TERMS, floor=floor)
    caller = need(amount, slots=slots)

    def fits(sent: float) -> bool:
        ledger = ended(credits, debits, 0)
        ledger.apply(Look.of(Balance(to_credits(credits), max_concurrency=4), at(sent)))
        return shortage(ledger, terms, caller, NOBODY) is None

    ready = NOW + ready_in(ended(credits, debits, running), Looking(), terms, caller, at(NOW))
    due = NOW + 3
    assert fits(ready)
    assert ready == due or not fits(math.nextafter(ready, 0))


# What no row may say.


AMOUNT = st.integers(0, 60)
AGE = st.sampled_from([0.0, 1.0, 4.9, 5.0, 5.1, 10.0, 299.0, 300.0, 301.0, 600.0, 601.0])
SLOTS = st.integers(0, 3)
LEDGERS = st.one_of(
    st.builds(Ledger),
    st.builds(
        books,
        st.none() | AMOUNT,
        AGE,
        held=AMOUNT,
        pending=AMOUNT,
        kept=AMOUNT,
        slots_held=SLOTS,
        slots_kept=SLOTS,
        exhausted=st.none() | st.just(0.0),
        max_concurrency=st.none() | SLOTS,
        cost_limit=st.none() | AMOUNT,
        credits_used=st.none() | AMOUNT,
    ),
)
NEEDS = st.builds(
    need,
    AMOUNT,
    cost=st.none() | AMOUNT,
    slots=SLOTS,
    waited=st.sampled_from([0.0, 1.0, 5.0, 9.0, 20.0, 30.0, 700.0]),
    wait=st.sampled_from([0.0, 20.0, 3600.0]),
)
ALL_TERMS = st.builds(
    Terms,
    fresh_for=st.sampled_from([0, 1, 300]),
    stale_for=st.sampled_from([300, 600]),
    recheck_after=st.sampled_from([0, 5]),
    timeout=st.just(10),
    floor=AMOUNT,
    extra=AMOUNT,
    allow_unknown=st.booleans(),
)
AHEAD = st.builds(Ahead, AMOUNT, SLOTS)


@st.composite
def looks_so_far(draw: st.DrawFn, ledger: Ledger) -> Looking:
    """What can be known of looks where `ledger` has the newest that arrived."""
    since = ledger.look.sent.mono if ledger.look else NOW - 700
    last = draw(
        st.sampled_from([moment for moment in (since, NOW - 6, NOW - 1) if moment >= since])
    )
    in_flight = draw(st.booleans())
    blocked = NEVER if in_flight else draw(st.sampled_from([NEVER, NOW - 1, NOW, NOW + 1]))
    return Looking(last, in_flight, blocked)


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_whoever_is_let_in_fits(
    data: st.DataObject, ledger: Ledger, terms: Terms, caller: Need, ahead: Ahead
) -> None:
    """Nobody is let in on a known balance without what it needs on top of those before it."""
    looking = data.draw(looks_so_far(ledger))
    decision = decide(ledger, looking, terms, caller, ahead, at(NOW))
    if not isinstance(decision, Admit) or decision.unknown:
        return
    assert ledger.look is not None
    if caller.amount:
        assert ledger.available(terms.floor, terms.extra) - ahead.amount >= caller.amount
        assert caller.amount <= ledger.look.cap
    if caller.slots:
        assert ledger.slots_in_use + ahead.slots + caller.slots <= ledger.look.slots


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_no_refusal_while_an_unverified_look_may_still_be_had(
    data: st.DataObject, ledger: Ledger, terms: Terms, caller: Need, ahead: Ahead
) -> None:
    """Before its time is up, a caller is refused on a young look, or where looks fail."""
    looking = data.draw(looks_so_far(ledger))
    decision = decide(ledger, looking, terms, caller, ahead, at(NOW))
    if not isinstance(decision, Refuse) or caller.give_up <= NOW:
        return
    failing = not looking.in_flight and looking.blocked_until > NOW
    last = [ledger.look.sent.mono] if ledger.look else []
    last += [] if looking.in_flight else [looking.last_sent]
    came = caller.arrived if caller.until > NOW else caller.until
    assert (
        failing
        or max(last, default=NEVER) >= came
        or max(last, default=NEVER) > came - terms.recheck_after
        or (decision.why is Why.UNKNOWN and looking.last_sent >= caller.arrived)
    )


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_unknown_never_admits_unless_allowed(
    data: st.DataObject, ledger: Ledger, terms: Terms, caller: Need, ahead: Ahead
) -> None:
    """Without a balance young enough, only `if_unknown="allow"` lets anybody in, and says so."""
    looking = data.draw(looks_so_far(ledger))
    decision = decide(ledger, looking, terms, caller, ahead, at(NOW))
    if isinstance(decision, Admit):
        age = at(NOW).since(ledger.look.sent) if ledger.look else math.inf
        assert decision.unknown is (age > terms.stale_for)
        assert terms.allow_unknown or not decision.unknown


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_whoever_waits_has_something_to_wait_for(
    data: st.DataObject, ledger: Ledger, terms: Terms, caller: Need, ahead: Ahead
) -> None:
    """A caller stays for a look in flight, for a look to come, or in the queue; never in vain."""
    looking = data.draw(looks_so_far(ledger))
    decision = decide(ledger, looking, terms, caller, ahead, at(NOW))
    if isinstance(decision, Stay):
        assert caller.give_up > NOW
        assert looking.in_flight or decision.look_at is not None or caller.until > NOW
        assert decision.look_at is None or decision.look_at >= NOW
        assert not (looking.in_flight and decision.look_at is not None)


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_deciding_changes_nothing(
    data: st.DataObject, ledger: Ledger, terms: Terms, caller: Need, ahead: Ahead
) -> None:
    """The same question has the same answer, and leaves the books as they were."""
    looking = data.draw(looks_so_far(ledger))
    before = ledger.look, ledger.room, ledger.held, ledger.pending, ledger.slots_in_use
    decision = decide(ledger, looking, terms, caller, ahead, at(NOW))
    assert decide(ledger, looking, terms, caller, ahead, at(NOW)) == decision
    assert before == (
        ledger.look,
        ledger.room,
        ledger.held,
        ledger.pending,
        ledger.slots_in_use,
    )
