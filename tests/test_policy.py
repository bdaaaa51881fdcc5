"""The policy: the contract's section on refusals, row by row, and what no row may ever say."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import Balance
from budgetguard._core.amounts import to_credits
from budgetguard._core.branch import LedgerEntry
from budgetguard._core.clock import Instant
from budgetguard._core.ledger import Ledger
from budgetguard._core.policy import (
    NEVER,
    NOBODY,
    Admit,
    CallNeed,
    Decision,
    GuardTerms,
    QueuedAhead,
    RefreshState,
    Refuse,
    Shortfall,
    Wait,
    decide,
    decide_reading,
    possible,
    ready_in,
    shortage,
    slot_in,
    usable,
)
from budgetguard._core.snapshot import BalanceSnapshot

TERMS = GuardTerms(
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
IN_FLIGHT = RefreshState(last_sent=NOW - 1, in_flight=True)

ADMIT = Admit()
ADMIT_AND_REFRESH = Admit(refresh=True)
ADMIT_UNKNOWN = Admit(unknown=True)
WAIT = Wait(None)
WAIT_AND_REFRESH = Wait(NOW)
UNKNOWN = Refuse(Shortfall.UNKNOWN, permanent=False)
TOO_LITTLE = Refuse(Shortfall.CREDITS, permanent=True)


def at(mono: float) -> Instant:
    """A moment on both clocks."""
    return Instant(mono, 1e9 + mono)


def ledger_of(
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
    busy: float | None = None,
    key_limited: float | None = None,
    paused: str | None = None,
    **limits: Any,
) -> Ledger:
    """A ledger whose balance was requested `age` seconds ago, with calls in it."""
    ledger = Ledger()
    for name in ("cost_limit", "credits_used"):
        if limits.get(name) is not None:
            limits[name] = to_credits(limits[name])
    balance = Balance(credits=None if credits is None else to_credits(credits), **limits)
    wall = 1e9 + NOW - (age if wall_age is None else wall_age)
    ledger.apply(BalanceSnapshot.of(balance, Instant(NOW - age, wall)))
    if held or slots_held:
        ledger.open(LedgerEntry(held, slots_held))
    if kept or slots_kept:
        entry = LedgerEntry(kept, slots_kept)
        ledger.open(entry)
        ledger.keep(entry, NOW + 60)
    if pending:
        ledger.take(pending)
        ledger.put(pending, pending, NOW + 20)
    if exhausted is not None:
        ledger.refuse(at(NOW - exhausted), 60.0)
    if busy is not None:
        ledger.head.busy(NOW + busy)
    if key_limited is not None:
        ledger.head.limit_key("", NOW + key_limited, NOW)
    ledger.head.pause("guard", paused)
    return ledger


def need(
    amount: int = 50,
    *,
    cost: int | None = None,
    slots: int = 0,
    waited: float = 0.0,
    wait: float = 0.0,
    timeout: float = 10.0,
) -> CallNeed:
    """A caller who came `waited` seconds ago and queues for `wait` in all."""
    arrived = NOW - waited
    return CallNeed(
        amount=amount,
        cost=amount if cost is None else cost,
        slots=slots,
        arrived=arrived,
        until=arrived + wait,
        give_up=arrived + wait + timeout,
    )


def decided(
    ledger: Ledger,
    caller: CallNeed,
    refreshing: RefreshState | None = None,
    *,
    terms: GuardTerms = TERMS,
    ahead: QueuedAhead = NOBODY,
) -> Decision:
    """What becomes of the caller now, where the cached balance is the last one."""
    if refreshing is None:
        refreshing = RefreshState(last_sent=ledger.snapshot.sent.mono if ledger.snapshot else NEVER)
    return decide(ledger, refreshing, terms, caller, ahead, at(NOW))


def refused(why: Shortfall, *, permanent: bool = False) -> Refuse:
    """A refusal for `why`."""
    return Refuse(why, permanent=permanent)


# A balance that is enough.


@pytest.mark.parametrize(
    ("age", "decision"),
    [
        (0.0, ADMIT),
        (299.9, ADMIT),
        (300.0, ADMIT_AND_REFRESH),
        (599.9, ADMIT_AND_REFRESH),
        (600.0, ADMIT_AND_REFRESH),
        (600.1, WAIT_AND_REFRESH),
    ],
)
def test_enough_by_age(age: float, decision: Decision) -> None:
    """Younger than fresh_for is used as it is, up to stale_for a refresh runs behind, then we wait."""
    assert decided(ledger_of(1000, age), need(50)) == decision


@pytest.mark.parametrize(
    ("wall_age", "decision"),
    [(300.0, ADMIT_AND_REFRESH), (600.1, WAIT_AND_REFRESH), (-9e9, ADMIT)],
    ids=["fresh_for", "past stale_for", "set back"],
)
def test_age_is_the_larger_of_both_clocks(wall_age: float, decision: Decision) -> None:
    """A suspend ages a balance, a wall clock that was set back does not renew it."""
    assert decided(ledger_of(1000, 1.0, wall_age=wall_age), need(50)) == decision


@pytest.mark.parametrize(
    "refreshing",
    [IN_FLIGHT, RefreshState(last_sent=NOW - 1, blocked_until=NOW + 1)],
    ids=["in flight", "backing off"],
)
def test_no_refresh_behind_where_none_can_start(refreshing: RefreshState) -> None:
    """A caller with a usable balance is admitted, and neither joins nor doubles a refresh."""
    assert decided(ledger_of(1000, 400.0), need(50), refreshing) == ADMIT
    assert decided(ledger_of(60, 10.0), need(50), refreshing) == ADMIT


def test_a_backoff_that_is_over_blocks_no_refresh() -> None:
    """The first moment at which a refresh may be made again is one."""
    refreshing = RefreshState(last_sent=NOW - 400, blocked_until=NOW)
    assert decided(ledger_of(1000, 400.0), need(50), refreshing) == ADMIT_AND_REFRESH
    assert decided(ledger_of(10, 400.0), need(50), refreshing) == WAIT_AND_REFRESH


@pytest.mark.parametrize(
    ("credits", "cost", "age", "decision"),
    [
        (100, 50, 10.0, ADMIT),
        (99, 50, 10.0, ADMIT_AND_REFRESH),
        (50, 50, 10.0, ADMIT_AND_REFRESH),
        (99, 50, 5.0, ADMIT_AND_REFRESH),
        (99, 50, 4.9, ADMIT),
        (99, 49, 10.0, ADMIT),
        (50, 0, 10.0, ADMIT),
    ],
    ids=[
        "its cost is left",
        "less is left",
        "nothing is left",
        "refreshed recheck_after ago",
        "refreshed just now",
        "cost decides, not min",
        "no cost",
    ],
)
def test_near_exhaustion_it_refreshes_more_often(
    credits: int, cost: int, age: float, decision: Decision
) -> None:
    """A call that leaves less than its own cost has a refresh behind it, recheck_after apart."""
    assert decided(ledger_of(credits, age), need(50, cost=cost)) == decision


def test_a_failed_refresh_counts_for_the_distance_near_exhaustion() -> None:
    """Refreshes that were not due to age keep their distance from failed ones too."""
    refreshing = RefreshState(last_sent=NOW - 4, blocked_until=NOW - 1)
    assert decided(ledger_of(60, 200.0), need(50), refreshing) == ADMIT


# What is available.


@pytest.mark.parametrize(
    ("ledger", "terms", "ahead", "most"),
    [
        (ledger_of(100), {}, NOBODY, 100),
        (ledger_of(100), {"floor": 30}, NOBODY, 70),
        (ledger_of(100), {"extra": 30}, NOBODY, 130),
        (ledger_of(100, held=30), {}, NOBODY, 70),
        (ledger_of(100, pending=30), {}, NOBODY, 70),
        (ledger_of(100, kept=30), {}, NOBODY, 70),
        (ledger_of(100), {}, QueuedAhead(30, 0), 70),
        (ledger_of(100, cost_limit=90, credits_used=20), {"extra": 30}, NOBODY, 70),
        (ledger_of(100, cost_limit=70), {}, NOBODY, 70),
        (
            ledger_of(200, held=10, pending=20, kept=30),
            {"floor": 40, "extra": 5},
            QueuedAhead(35, 9),
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
    ledger: Ledger, terms: dict[str, int], ahead: QueuedAhead, most: int
) -> None:
    """A need equal to what is available is met, one micro-credit more is not."""
    guard = replace(TERMS, **terms)  # type: ignore[arg-type]
    assert isinstance(decided(ledger, need(most), terms=guard, ahead=ahead), Admit)
    assert isinstance(decided(ledger, need(most + 1), terms=guard, ahead=ahead), Refuse)


def test_an_exhausted_account_admits_nobody() -> None:
    """After the provider's own refusal not a micro-credit is there, extra credits neither."""
    ledger = ledger_of(100, 10.0, exhausted=1.0)
    terms = replace(TERMS, extra=1000)
    assert decided(ledger, need(1), terms=terms) == TOO_LITTLE


@pytest.mark.parametrize(
    ("slots", "ledger", "ahead", "fits"),
    [
        (1, ledger_of(max_concurrency=3, slots_held=2), NOBODY, True),
        (2, ledger_of(max_concurrency=3, slots_held=2), NOBODY, False),
        (1, ledger_of(max_concurrency=3, slots_held=1, slots_kept=1), NOBODY, True),
        (1, ledger_of(max_concurrency=3, slots_held=2, slots_kept=1), NOBODY, False),
        (1, ledger_of(max_concurrency=3, slots_held=1), QueuedAhead(0, 1), True),
        (1, ledger_of(max_concurrency=3, slots_held=1), QueuedAhead(0, 2), False),
        (3, ledger_of(max_concurrency=3), NOBODY, True),
        (4, ledger_of(max_concurrency=3), NOBODY, False),
        (0, ledger_of(max_concurrency=0, slots_held=1), NOBODY, True),
        (10**6, ledger_of(), NOBODY, True),
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
def test_slots_fit_up_to_the_limit(
    slots: int, ledger: Ledger, ahead: QueuedAhead, *, fits: bool
) -> None:
    """Sessions open, kept, and needed by those before are counted; no session asks for none."""
    decision = decided(ledger, need(0, slots=slots), ahead=ahead)
    assert isinstance(decision, Admit if fits else Refuse)


@pytest.mark.parametrize(
    ("ledger", "caller", "ahead", "lacks"),
    [
        (ledger_of(10, held=20), need(0), QueuedAhead(99, 0), None),
        (ledger_of(10, held=20), need(0, slots=1), QueuedAhead(99, 0), None),
        (ledger_of(100), need(50), QueuedAhead(0, 99), None),
        (ledger_of(100, cost_limit=-1), need(0), NOBODY, None),
        (
            ledger_of(100, cost_limit=40, max_concurrency=0),
            need(41, slots=1),
            NOBODY,
            Shortfall.CAP,
        ),
        (
            ledger_of(10, cost_limit=40, max_concurrency=0),
            need(40, slots=1),
            NOBODY,
            Shortfall.CREDITS,
        ),
        (
            ledger_of(40, cost_limit=40, max_concurrency=0),
            need(40, slots=1),
            NOBODY,
            Shortfall.SLOTS,
        ),
        (ledger_of(10, key_limited=1, busy=1), need(40), NOBODY, Shortfall.KEY),
        (ledger_of(10, busy=1), need(40), NOBODY, Shortfall.CREDITS),
        (ledger_of(100, busy=1), need(40), NOBODY, Shortfall.BUSY),
        (ledger_of(100, busy=1, key_limited=1), need(0), NOBODY, None),
        (ledger_of(100, busy=0, key_limited=0), need(40), NOBODY, None),
    ],
    ids=[
        "no credits needed",
        "only slots needed",
        "no slots needed",
        "nothing for the cap",
        "cap first",
        "then credits",
        "then slots",
        "a key's limit before all",
        "busy last",
        "busy",
        "nothing to pay",
        "over",
    ],
)
def test_a_caller_lacks_only_what_it_needs(
    ledger: Ledger, caller: CallNeed, ahead: QueuedAhead, lacks: Shortfall | None
) -> None:
    """A caller that needs no credits overtakes waiters for credits, and likewise with slots."""
    assert shortage(ledger, TERMS, caller, ahead, at(NOW)) is lacks


@pytest.mark.parametrize(
    ("ledger", "caller", "decision"),
    [
        (ledger_of(busy=5, age=60), need(wait=9), WAIT),
        (ledger_of(busy=5, age=60), need(), refused(Shortfall.BUSY)),
        (ledger_of(busy=5), need(waited=9, wait=9), refused(Shortfall.BUSY)),
        (ledger_of(key_limited=5), need(), refused(Shortfall.KEY, permanent=True)),
        (ledger_of(key_limited=5), need(wait=9), refused(Shortfall.KEY, permanent=True)),
        (ledger_of(key_limited=5, age=60), need(wait=9), WAIT_AND_REFRESH),
    ],
    ids=[
        "waits",
        "refused at once",
        "its time is over",
        "key",
        "key, no wait",
        "key, checked first",
    ],
)
def test_what_the_provider_itself_refuses(
    ledger: Ledger, caller: CallNeed, decision: Decision
) -> None:
    """No refresh is needed to learn that it is busy; a key's limit may have been raised."""
    assert decided(ledger, caller) == decision


@pytest.mark.parametrize(
    ("ledger", "caller", "terms", "could"),
    [
        (Ledger(), need(0), {}, False),
        (ledger_of(50, held=50, pending=50), need(50), {}, True),
        (ledger_of(50), need(51), {}, False),
        (ledger_of(50), need(41), {"floor": 10}, False),
        (ledger_of(50), need(40), {"floor": 10}, True),
        (ledger_of(50), need(60), {"extra": 10}, True),
        (ledger_of(50, cost_limit=40), need(40), {}, True),
        (ledger_of(50, cost_limit=40), need(41), {}, False),
        (ledger_of(-5), need(0), {}, True),
        (ledger_of(50, max_concurrency=2, slots_held=2), need(0, slots=2), {}, True),
        (ledger_of(50, max_concurrency=2), need(0, slots=3), {}, False),
        (ledger_of(50, max_concurrency=2), need(51, slots=2), {}, False),
        (ledger_of(50, exhausted=0.5), need(1), {}, False),
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
    ledger: Ledger, caller: CallNeed, terms: dict[str, int], *, could: bool
) -> None:
    """Only a need above spendable less the floor, or above the slots there are, is hopeless."""
    assert possible(ledger, replace(TERMS, **terms), caller) is could  # type: ignore[arg-type]


# A call that repeats a failed one.


@pytest.mark.parametrize(
    ("ledger", "refreshing", "decision"),
    [
        (ledger_of(100), RefreshState(), ADMIT),
        (ledger_of(100, 299.9), RefreshState(), ADMIT),
        (ledger_of(100, 300), RefreshState(), ADMIT_AND_REFRESH),
        (ledger_of(10), RefreshState(NOW - 1), ADMIT),
        (ledger_of(10), RefreshState(NOW - 6), ADMIT_AND_REFRESH),
        (ledger_of(10), IN_FLIGHT, ADMIT),
        (ledger_of(100, exhausted=0.5), RefreshState(NOW - 1), ADMIT),
        (ledger_of(100, cost_limit=1), RefreshState(NOW - 1), ADMIT),
        (ledger_of(100, 601), RefreshState(), Admit(refresh=True, unknown=True)),
        (ledger_of(100, 601), IN_FLIGHT, ADMIT_UNKNOWN),
        (ledger_of(100, 601), RefreshState(NOW - 9, blocked_until=NOW + 1), ADMIT_UNKNOWN),
        (Ledger(), RefreshState(), Admit(refresh=True, unknown=True)),
        (Ledger(), RefreshState(NOW, blocked_until=NOW), Admit(refresh=True, unknown=True)),
    ],
    ids=[
        "enough",
        "nearly not fresh",
        "not fresh",
        "too little, just requested",
        "too little",
        "too little, being requested",
        "exhausted",
        "above the cap",
        "too old",
        "too old, being requested",
        "too old, failing",
        "nothing known",
        "nothing known, no longer failing",
    ],
)
def test_a_forced_call_is_admitted_at_once(
    ledger: Ledger, refreshing: RefreshState, decision: Decision
) -> None:
    """Whatever is available, known or needed by those ahead; a refresh starts where one is due."""
    caller = replace(need(50, wait=60), forced=True)
    for ahead in (NOBODY, QueuedAhead(1000, 1000)):
        assert decide(ledger, refreshing, TERMS, caller, ahead, at(NOW)) == decision


# Too little: refusals are never given on a stale balance.


@pytest.mark.parametrize(
    ("age", "decision"),
    [
        (0.0, TOO_LITTLE),
        (4.9, TOO_LITTLE),
        (5.0, WAIT_AND_REFRESH),
        (299.0, WAIT_AND_REFRESH),
        (600.0, WAIT_AND_REFRESH),
    ],
)
def test_too_little_on_a_balance_of_some_age(age: float, decision: Decision) -> None:
    """A refusal goes by a balance requested less than recheck_after before the caller came."""
    assert decided(ledger_of(10, age), need(50)) == decision


@pytest.mark.parametrize(
    ("refreshing", "decision"),
    [
        (RefreshState(NOW - 7, in_flight=True), WAIT),
        (RefreshState(NOW - 1, in_flight=True), WAIT),
        (RefreshState(NOW - 1, in_flight=True, blocked_until=NOW + 1), WAIT),
        (RefreshState(NOW - 100, blocked_until=NOW + 0.1), TOO_LITTLE),
        (RefreshState(NOW - 4.9, blocked_until=NOW - 1), TOO_LITTLE),
        (RefreshState(NOW - 5, blocked_until=NOW - 1), WAIT_AND_REFRESH),
        (RefreshState(), WAIT_AND_REFRESH),
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
def test_too_little_on_a_stale_balance(refreshing: RefreshState, decision: Decision) -> None:
    """The caller waits for a refresh; where refreshes fail, the cached balance decides."""
    assert decided(ledger_of(10, 200.0), need(50), refreshing) == decision


def test_a_young_cached_balance_refuses_whatever_is_in_flight() -> None:
    """The caller does not wait for more than it needs."""
    assert decided(ledger_of(10, 4.9), need(50), IN_FLIGHT) == TOO_LITTLE


def test_the_providers_own_refusal_is_as_good_as_a_refresh() -> None:
    """Right after a 402 a call is refused without waiting for a balance."""
    ledger = ledger_of(100, 200.0, exhausted=4.9)
    assert decided(ledger, need(1), RefreshState(NOW - 200)) == TOO_LITTLE
    ledger = ledger_of(100, 200.0, exhausted=5.0)
    assert decided(ledger, need(1), RefreshState(NOW - 200)) == WAIT_AND_REFRESH


def test_an_old_refresh_in_flight_that_lands_is_not_enough() -> None:
    """Where the refresh in flight was sent too long before the caller came, the next one decides."""
    caller = need(50, waited=1.0)
    assert decided(ledger_of(10, 5.9), caller) == TOO_LITTLE
    assert decided(ledger_of(10, 6.0), caller) == WAIT_AND_REFRESH


def test_a_caller_waits_for_one_refresh_only() -> None:
    """The refresh sent for the caller refuses it, however long the answer took."""
    assert decided(ledger_of(10, 8.0), need(50, waited=8.0)) == TOO_LITTLE


@pytest.mark.parametrize(("age", "decision"), [(0.0, TOO_LITTLE), (0.1, WAIT_AND_REFRESH)])
def test_without_recheck_after_each_caller_has_a_refresh_of_its_own(
    age: float, decision: Decision
) -> None:
    """Where refreshes need no distance, only one sent as the caller came, or since, refuses it."""
    terms = replace(TERMS, recheck_after=0)
    assert decided(ledger_of(10, age), need(50), terms=terms) == decision
    assert decided(ledger_of(10, age), need(50, waited=age), terms=terms) == TOO_LITTLE


@pytest.mark.parametrize(
    "ledger",
    [ledger_of(10, 200.0), ledger_of(10, 200.0, max_concurrency=1, slots_held=1)],
    ids=["credits", "slots"],
)
@pytest.mark.parametrize(
    "refreshing", [RefreshState(NOW - 200), IN_FLIGHT], ids=["idle", "in flight"]
)
@pytest.mark.parametrize("wait", [0.0, 20.0])
def test_nobody_is_held_longer_than_wait_and_timeout(
    ledger: Ledger, refreshing: RefreshState, wait: float
) -> None:
    """When its time is up, a caller is refused on the cached balance."""
    caller = need(50, slots=1, waited=10.0 + wait, wait=wait)
    assert decided(ledger, caller, refreshing) == TOO_LITTLE
    soon = replace(caller, give_up=math.nextafter(NOW, math.inf))
    assert isinstance(decided(ledger, soon, refreshing), Wait)


# Queueing.


def test_a_caller_who_waits_for_credits_has_the_next_refresh_made() -> None:
    """While someone waits for credits the guard refreshes every recheck_after."""
    ledger = ledger_of(60, 2.0, held=30)
    assert decided(ledger, need(50, wait=20.0)) == Wait(NOW + 3)
    assert decided(ledger, need(50, wait=20.0), IN_FLIGHT) == WAIT
    late = RefreshState(last_sent=NOW - 30, blocked_until=NOW + 1)
    assert decided(ledger, need(50, wait=20.0), late) == WAIT_AND_REFRESH


def test_refreshes_for_those_who_wait_are_never_without_a_pause() -> None:
    """Where refreshes need no distance, a waiting caller still does not have them made in a loop."""
    terms = replace(TERMS, recheck_after=0)
    ledger = ledger_of(60, 0.0, held=30)
    decision = decided(ledger, need(50, wait=20.0), terms=terms)
    assert isinstance(decision, Wait)
    assert decision.refresh_at is not None
    assert NOW < decision.refresh_at <= NOW + 0.5


def test_a_caller_who_waits_for_slots_needs_no_refreshes() -> None:
    """Sessions come free without the provider's help."""
    ledger = ledger_of(100, 2.0, max_concurrency=1, slots_held=1)
    assert decided(ledger, need(50, slots=1, wait=20.0)) == WAIT


def test_whoever_queues_is_verified_first() -> None:
    """A stale balance is refreshed before anybody is left to wait for credits or slots."""
    assert decided(ledger_of(60, 5.0, held=30), need(50, wait=20.0)) == WAIT_AND_REFRESH
    ledger = ledger_of(100, 5.0, max_concurrency=1, slots_held=1)
    assert decided(ledger, need(50, slots=1, wait=20.0)) == WAIT_AND_REFRESH


@pytest.mark.parametrize(
    ("ledger", "caller", "why"),
    [
        (ledger_of(49), need(50, wait=20.0), Shortfall.CREDITS),
        (ledger_of(99, cost_limit=49), need(50, wait=20.0), Shortfall.CAP),
        (ledger_of(99, max_concurrency=1), need(50, slots=2, wait=20.0), Shortfall.SLOTS),
    ],
    ids=["credits", "cap", "slots"],
)
def test_what_can_never_fit_does_not_queue(
    ledger: Ledger, caller: CallNeed, why: Shortfall
) -> None:
    """A hopeless need is refused at once, however long it would wait."""
    assert decided(ledger, caller) == refused(why, permanent=True)


@pytest.mark.parametrize(
    ("waited", "age", "decision"),
    [
        (19.9, 1.0, Wait(NOW + 4)),
        (20.0, 1.0, refused(Shortfall.CREDITS)),
        (20.0, 4.9, refused(Shortfall.CREDITS)),
        (20.0, 5.0, WAIT_AND_REFRESH),
        (21.0, 5.9, refused(Shortfall.CREDITS)),
        (21.0, 6.0, WAIT_AND_REFRESH),
        (30.0, 6.0, refused(Shortfall.CREDITS)),
    ],
    ids=[
        "not over yet",
        "over, refreshed lately",
        "over, refreshed within recheck_after",
        "over, refreshed recheck_after before",
        "later, refreshed within recheck_after of the end",
        "later, refreshed before that",
        "given up",
    ],
)
def test_the_end_of_queueing(waited: float, age: float, decision: Decision) -> None:
    """At the end of `wait`, too, a refusal goes by a balance requested less than recheck_after before."""
    assert decided(ledger_of(60, age, held=30), need(50, waited=waited, wait=20.0)) == decision


@pytest.mark.parametrize(
    ("ledger", "caller", "why"),
    [
        (ledger_of(60, held=30), need(50), Shortfall.CREDITS),
        (ledger_of(60, pending=30), need(50), Shortfall.CREDITS),
        (ledger_of(60, kept=30), need(50), Shortfall.CREDITS),
        (ledger_of(60, max_concurrency=1, slots_held=1), need(50, slots=1), Shortfall.SLOTS),
    ],
    ids=["holds", "debits", "kept", "slots"],
)
def test_a_refusal_for_what_runs_is_not_hopeless(
    ledger: Ledger, caller: CallNeed, why: Shortfall
) -> None:
    """Where only our own calls are in the way, the refusal says so."""
    assert decided(ledger, caller) == refused(why)


def test_those_before_in_the_queue_are_not_hopeless_either() -> None:
    """A caller that only waits behind others can be admitted later."""
    assert decided(ledger_of(60), need(50), ahead=QueuedAhead(30, 0)) == refused(Shortfall.CREDITS)


# Unknown.


@pytest.mark.parametrize(
    "ledger", [Ledger(), ledger_of(1000, 600.1)], ids=["no balance", "too old"]
)
@pytest.mark.parametrize(
    ("refreshing", "waited", "stays"),
    [
        (RefreshState(), 0.0, WAIT_AND_REFRESH),
        (IN_FLIGHT, 0.0, WAIT),
        (IN_FLIGHT, 1.0, WAIT),
        (replace(IN_FLIGHT, blocked_until=NOW + 1), 0.0, WAIT),
        (RefreshState(NOW - 1, blocked_until=NOW), 0.0, WAIT_AND_REFRESH),
        (RefreshState(NOW - 1, blocked_until=NOW + 0.1), 0.0, None),
        (RefreshState(NOW - 1), 0.9, WAIT_AND_REFRESH),
        (RefreshState(NOW - 1), 1.0, None),
        (RefreshState(NOW - 1), 2.0, None),
        (RefreshState(), 9.9, WAIT_AND_REFRESH),
        (RefreshState(), 10.0, None),
        (IN_FLIGHT, 10.0, None),
    ],
    ids=[
        "ask",
        "join the refresh in flight",
        "wait for one's own refresh",
        "join the one after a failure",
        "the backoff is over",
        "backing off",
        "a refresh failed before the caller came",
        "a refresh failed as the caller came",
        "a refresh failed since",
        "nearly given up",
        "given up",
        "given up in flight",
    ],
)
def test_unknown(
    ledger: Ledger, refreshing: RefreshState, waited: float, stays: Wait | None
) -> None:
    """Without a usable balance a caller waits for one refresh, and is then refused, or admitted."""
    caller = need(50, waited=waited)
    assert decided(ledger, caller, refreshing) == (stays or UNKNOWN)
    assert decided(ledger, caller, refreshing, terms=ALLOW) == (stays or ADMIT_UNKNOWN)


def test_unknown_does_not_queue() -> None:
    """Where no balance can be had, `wait` is no reason to go on."""
    failing = RefreshState(NOW - 1, blocked_until=NOW + 1)
    assert decided(Ledger(), need(50, wait=60.0), failing) == UNKNOWN
    assert decided(Ledger(), need(50, waited=2.0, wait=60.0), RefreshState(NOW - 1)) == UNKNOWN


def test_a_refresh_sent_for_the_caller_counts_however_short_stale_for_is() -> None:
    """Where balances are stale at once, the answer to one's own refresh still is one."""
    terms = replace(TERMS, fresh_for=0, stale_for=0)
    caller = need(50, waited=3.0)
    assert isinstance(decided(ledger_of(50, 3.0), caller, terms=terms), Admit)
    assert decided(ledger_of(49, 3.0), caller, terms=terms) == TOO_LITTLE
    assert decided(ledger_of(50, 3.1), caller, terms=terms) == WAIT_AND_REFRESH


@pytest.mark.parametrize(
    ("age", "decision"),
    [(600.0, ADMIT_AND_REFRESH), (600.1, WAIT_AND_REFRESH)],
    ids=["usable", "too old"],
)
def test_a_balance_grows_stale_for_those_who_wait(age: float, decision: Decision) -> None:
    """A caller that has waited longer than stale_for is not admitted on the balance from the beginning."""
    ledger = ledger_of(100, age, max_concurrency=1)
    assert decided(ledger, need(50, slots=1, waited=age, wait=3600.0)) == decision


def test_a_refresh_that_failed_after_the_callers_own_one_is_not_asked_for_twice() -> None:
    """The balance of a waiting caller has grown stale, and renewing it failed: it is refused."""
    ledger = ledger_of(100, 700.0)
    caller = need(50, waited=700.0, wait=3600.0)
    assert decided(ledger, caller, RefreshState(NOW - 2)) == UNKNOWN
    assert decided(ledger, caller, RefreshState(NOW - 2, in_flight=True)) == WAIT


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
def test_which_balances_are_usable(
    age: float, waited: float, stale_for: float, *, known: bool
) -> None:
    """A balance counts up to stale_for; one sent for the caller, as long as a refresh may take."""
    terms = replace(TERMS, fresh_for=0, stale_for=stale_for)
    assert usable(ledger_of(1, age).snapshot, terms, at(NOW), NOW - waited) is known
    assert not usable(None, terms, at(NOW), NOW - waited)


# Reading a balance.


@pytest.mark.parametrize(
    ("ledger", "refreshing", "waited", "decision"),
    [
        (ledger_of(1, 30.0), RefreshState(), 0.0, ADMIT),
        (ledger_of(1, 30.1), RefreshState(), 0.0, WAIT_AND_REFRESH),
        (ledger_of(1, 31.0), RefreshState(), 1.0, ADMIT),
        (Ledger(), RefreshState(), 0.0, WAIT_AND_REFRESH),
        (ledger_of(1, 99.0), IN_FLIGHT, 0.0, WAIT),
        (Ledger(), RefreshState(blocked_until=NOW + 1), 0.0, UNKNOWN),
        (Ledger(), RefreshState(blocked_until=NOW), 0.0, WAIT_AND_REFRESH),
        (Ledger(), replace(IN_FLIGHT, blocked_until=NOW + 1), 0.0, WAIT),
        (Ledger(), IN_FLIGHT, 9.9, WAIT),
        (Ledger(), IN_FLIGHT, 10.0, UNKNOWN),
        (ledger_of(1, 99.0), RefreshState(), 10.0, UNKNOWN),
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
    ledger: Ledger, refreshing: RefreshState, waited: float, decision: Decision
) -> None:
    """A reader gets a balance sent at or after the moment it named, or waits for the next one."""
    oldest, give_up = NOW - waited - 30.0, NOW - waited + 10.0
    assert decide_reading(ledger.snapshot, refreshing, oldest, give_up, at(NOW)) == decision


# When to try again.


@pytest.mark.parametrize(
    ("ledger", "amount", "seconds"),
    [
        (ledger_of(60, 2.0, held=50), 50, 3.0),
        (ledger_of(60, 5.0, held=50), 50, 0.0),
        (ledger_of(60, 9.0, held=50), 50, 0.0),
        (ledger_of(60, 2.0, pending=50), 50, 20.0),
        (ledger_of(60, 2.0, kept=50), 50, 60.0),
        (ledger_of(60, 2.0, pending=25, kept=25), 35, 20.0),
        (ledger_of(60, 2.0, pending=25, kept=25), 36, 60.0),
        (ledger_of(60, 2.0, held=10, pending=25, kept=15), 50, 60.0),
        (ledger_of(60, 2.0, held=10, pending=25, kept=15), 45, 20.0),
        (ledger_of(60, 2.0, held=40, pending=20), 40, 3.0),
        (ledger_of(60, 2.0, held=40, pending=20), 41, 20.0),
        (ledger_of(60, 2.0, held=40, kept=20), 40, 3.0),
        (ledger_of(10, 2.0), 50, 3.0),
    ],
    ids=[
        "open calls",
        "a refresh is due",
        "a refresh was due",
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
    assert ready_in(ledger, RefreshState(), TERMS, need(amount), at(NOW)) == seconds


def test_a_debit_that_may_leave_already_makes_nobody_wait() -> None:
    """Where the next refresh will show everything, the refresh is all there is to wait for."""
    ledger = ledger_of(60, 2.0, pending=50)
    assert ready_in(ledger, RefreshState(), TERMS, need(50), at(NOW + 19)) == 1.0
    assert ready_in(ledger, RefreshState(), TERMS, need(50), at(NOW + 21)) == 0.0


def test_a_refused_caller_is_not_told_to_come_back_before_the_next_refresh() -> None:
    """While the provider is left alone after failures, nothing can come free."""
    ledger = ledger_of(40, 0.0)
    failing = RefreshState(last_sent=NOW, blocked_until=NOW + 30)
    assert ready_in(ledger, failing, TERMS, need(50), at(NOW + 1)) == 29.0


@pytest.mark.parametrize(
    ("ledger", "slots", "seconds"),
    [
        (ledger_of(slots_held=1, slots_kept=1, max_concurrency=2), 1, 5.0),
        (ledger_of(slots_held=1, slots_kept=1, max_concurrency=2), 2, 60.0),
        (ledger_of(slots_kept=1, max_concurrency=1), 1, 60.0),
        (ledger_of(slots_held=2, max_concurrency=2), 2, 5.0),
        (ledger_of(slots_kept=1, pending=100, max_concurrency=1), 1, 60.0),
    ],
    ids=["a running session suffices", "it does not", "kept alone", "running alone", "few credits"],
)
def test_when_a_caller_refused_for_slots_may_come_again(
    ledger: Ledger, slots: int, seconds: float
) -> None:
    """A running session may end at any time; an unresolved one counts until its debit clears."""
    assert slot_in(ledger, TERMS, need(50, slots=slots), at(NOW)) == seconds


def test_who_lacks_credits_and_slots_comes_again_when_there_are_both() -> None:
    """The later of both is the bound."""
    ledger = ledger_of(60, 2.0, pending=50, slots_kept=1, max_concurrency=1)
    assert ready_in(ledger, RefreshState(), TERMS, need(50), at(NOW)) == 20.0
    assert ready_in(ledger, RefreshState(), TERMS, need(50, slots=1), at(NOW)) == 60.0


def test_what_a_balance_shows_already_comes_free_with_no_debit() -> None:
    """Where a sole spender's balance shows a debit, its leaving makes nothing more available."""
    ledger = Ledger()
    ledger.head.others.join(True)
    ledger.apply(BalanceSnapshot.of(Balance(credits=to_credits(100)), at(NOW - 9)))
    ledger.take(40)
    ledger.put(40, 40, NOW + 20)
    ledger.apply(BalanceSnapshot.of(Balance(credits=to_credits(60)), at(NOW - 8)))
    entry = LedgerEntry(30)
    ledger.open(entry)
    ledger.keep(entry, NOW + 60)
    assert ledger.available(0, 0) == 30
    assert ready_in(ledger, RefreshState(), TERMS, need(50), at(NOW)) == 60.0


# Sixteenths of a second apart: each debit is then in a bucket of its own.
DEBITS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 2), st.booleans()), min_size=1, max_size=12
)


def ended(credits: int, debits: list[tuple[int, int, bool]], running: int) -> Ledger:
    """A ledger whose debits leave one after the other, from ten seconds on."""
    ledger = ledger_of(credits, 2.0, held=running, max_concurrency=4)
    for place, (amount, slots, kept) in enumerate(debits):
        entry = LedgerEntry(amount, slots if kept else 0)
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
        ledger.apply(BalanceSnapshot.of(Balance(to_credits(credits), max_concurrency=4), at(sent)))
        return shortage(ledger, terms, caller, NOBODY, at(sent)) is None

    ready = NOW + ready_in(ended(credits, debits, running), RefreshState(), terms, caller, at(NOW))
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
        ledger_of,
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
    GuardTerms,
    fresh_for=st.sampled_from([0, 1, 300]),
    stale_for=st.sampled_from([300, 600]),
    recheck_after=st.sampled_from([0, 5]),
    timeout=st.just(10),
    floor=AMOUNT,
    extra=AMOUNT,
    allow_unknown=st.booleans(),
)
AHEAD = st.builds(QueuedAhead, AMOUNT, SLOTS)


@st.composite
def refreshes_so_far(draw: st.DrawFn, ledger: Ledger) -> RefreshState:
    """What can be known of refreshes where `ledger` has the newest that arrived."""
    since = ledger.snapshot.sent.mono if ledger.snapshot else NOW - 700
    last = draw(
        st.sampled_from([moment for moment in (since, NOW - 6, NOW - 1) if moment >= since])
    )
    in_flight = draw(st.booleans())
    blocked = NEVER if in_flight else draw(st.sampled_from([NEVER, NOW - 1, NOW, NOW + 1]))
    return RefreshState(last, in_flight, blocked)


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_whoever_is_admitted_fits(
    data: st.DataObject, ledger: Ledger, terms: GuardTerms, caller: CallNeed, ahead: QueuedAhead
) -> None:
    """Nobody is admitted on a known balance without what it needs on top of those before it."""
    refreshing = data.draw(refreshes_so_far(ledger))
    decision = decide(ledger, refreshing, terms, caller, ahead, at(NOW))
    if not isinstance(decision, Admit) or decision.unknown:
        return
    assert ledger.snapshot is not None
    if caller.amount:
        assert ledger.available(terms.floor, terms.extra) - ahead.amount >= caller.amount
        assert caller.amount <= ledger.snapshot.cap
    if caller.slots:
        assert ledger.slots_in_use + ahead.slots + caller.slots <= ledger.snapshot.slots


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_no_refusal_while_an_unverified_refresh_may_still_be_had(
    data: st.DataObject, ledger: Ledger, terms: GuardTerms, caller: CallNeed, ahead: QueuedAhead
) -> None:
    """Before its time is up, a caller is refused on a young balance, or where refreshes fail."""
    refreshing = data.draw(refreshes_so_far(ledger))
    decision = decide(ledger, refreshing, terms, caller, ahead, at(NOW))
    if not isinstance(decision, Refuse) or caller.give_up <= NOW:
        return
    failing = not refreshing.in_flight and refreshing.blocked_until > NOW
    last = [ledger.snapshot.sent.mono] if ledger.snapshot else []
    last += [] if refreshing.in_flight else [refreshing.last_sent]
    came = caller.arrived if caller.until > NOW else caller.until
    assert (
        failing
        or max(last, default=NEVER) >= came
        or max(last, default=NEVER) > came - terms.recheck_after
        or (decision.why is Shortfall.UNKNOWN and refreshing.last_sent >= caller.arrived)
    )


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_unknown_never_admits_unless_allowed(
    data: st.DataObject, ledger: Ledger, terms: GuardTerms, caller: CallNeed, ahead: QueuedAhead
) -> None:
    """Without a balance young enough, only `if_unknown="allow"` lets anybody in, and says so."""
    refreshing = data.draw(refreshes_so_far(ledger))
    decision = decide(ledger, refreshing, terms, caller, ahead, at(NOW))
    if isinstance(decision, Admit):
        age = at(NOW).since(ledger.snapshot.sent) if ledger.snapshot else math.inf
        assert decision.unknown is (age > terms.stale_for)
        assert terms.allow_unknown or not decision.unknown


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_whoever_waits_has_something_to_wait_for(
    data: st.DataObject, ledger: Ledger, terms: GuardTerms, caller: CallNeed, ahead: QueuedAhead
) -> None:
    """A caller remains for a refresh in flight, for a refresh to come, or in the queue; never in vain."""
    refreshing = data.draw(refreshes_so_far(ledger))
    decision = decide(ledger, refreshing, terms, caller, ahead, at(NOW))
    if isinstance(decision, Wait):
        assert caller.give_up > NOW
        assert refreshing.in_flight or decision.refresh_at is not None or caller.until > NOW
        assert decision.refresh_at is None or decision.refresh_at >= NOW
        assert not (refreshing.in_flight and decision.refresh_at is not None)


@given(st.data(), LEDGERS, ALL_TERMS, NEEDS, AHEAD)
def test_deciding_changes_nothing(
    data: st.DataObject, ledger: Ledger, terms: GuardTerms, caller: CallNeed, ahead: QueuedAhead
) -> None:
    """The same question has the same answer, and leaves the ledger as it was."""
    refreshing = data.draw(refreshes_so_far(ledger))
    before = ledger.snapshot, ledger.room, ledger.held, ledger.pending, ledger.slots_in_use
    decision = decide(ledger, refreshing, terms, caller, ahead, at(NOW))
    assert decide(ledger, refreshing, terms, caller, ahead, at(NOW)) == decision
    assert before == (
        ledger.snapshot,
        ledger.room,
        ledger.held,
        ledger.pending,
        ledger.slots_in_use,
    )


# A paused account.

PAUSED = Refuse(Shortfall.PAUSED, permanent=False)
UNKNOWN_LEDGER = Ledger()
UNKNOWN_LEDGER.head.pause("command", "by hand")


@pytest.mark.parametrize(
    "ledger",
    [
        ledger_of(1000, paused="by hand"),
        ledger_of(10, paused="by hand"),
        ledger_of(1000, 601.0, paused="by hand"),
        ledger_of(None, paused="by hand"),
        ledger_of(1000, busy=60, paused="by hand"),
        ledger_of(1000, key_limited=60, paused="by hand"),
        UNKNOWN_LEDGER,
    ],
    ids=["enough", "too little", "stale", "unlimited", "busy", "key limit", "unknown"],
)
@pytest.mark.parametrize("terms", [TERMS, ALLOW], ids=["deny", "allow"])
@pytest.mark.parametrize(
    "caller",
    [need(50), need(0), need(0, slots=1), replace(need(50), forced=True)],
    ids=["credits", "a check", "slots", "a repeat"],
)
@pytest.mark.parametrize("refreshing", [None, IN_FLIGHT], ids=["idle", "in flight"])
def test_a_paused_account_admits_nothing(
    ledger: Ledger, terms: GuardTerms, caller: CallNeed, refreshing: RefreshState | None
) -> None:
    """Whatever it has, and whoever comes; no refresh would help."""
    assert decided(ledger, caller, refreshing, terms=terms) == PAUSED
    waits = replace(caller, until=NOW + 30, give_up=NOW + 40)
    assert decided(ledger, waits, refreshing, terms=terms) == WAIT
    for over in (replace(waits, until=NOW), replace(waits, give_up=NOW)):
        assert decided(ledger, over, refreshing, terms=terms) == PAUSED


def test_the_first_reason_of_several_counts_until_the_last_is_gone() -> None:
    """Who has paused the account is told, one after the other."""
    head = ledger_of(1000).head
    head.pause("command", "first")
    head.pause("guard", "second")
    assert (head.paused, head.paused_by) == ("first", "command")
    head.pause("command", None)
    assert (head.paused, head.paused_by) == ("second", "guard")
    head.pause("command", None)
    head.pause("guard", None)
    assert head.paused is None
