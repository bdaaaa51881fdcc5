"""Each safety of the protocol is taken out once, and the simulation of a fleet finds it.

`python tests/fleet/run.py --seeds 200` is the long form of the simulation.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from fleet import Fleet
from guard_member import GuardMember
from oracle import COSTS, Broken
from plain_member import PlainMember
from weather import Menu

from budgetguard._core.clock import Instant
from budgetguard._core.leased_ledger import LeasedLedger
from budgetguard._core.member_record import MemberRecord
from budgetguard._core.queued_needs import Remainder
from budgetguard._core.shared_budgets import SharedBudget
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import Landing, Message, Need, Report, Status
from budgetguard._core.virtual_clock import VirtualClock
from budgetguard._engine import membership
from budgetguard._engine.membership import Membership

MICRO = 10**6

HOLD, DIE, LEAVE = MemberRecord.hold, MemberRecord.die, MemberRecord.leave
SESSION, TAKE, ADVANCE = SharedHead._session, SharedHead._take, VirtualClock.advance
LAND, LEND, LEFT = SharedHead._land, SharedHead._lend, Remainder.above_floor
REPORT = LeasedLedger.report

pytestmark = pytest.mark.usefixtures("few_to_collect")


def takes_back_all(member: MemberRecord, report: Report) -> None:
    """The head takes for its own what a member keeps while its message is under way."""
    HOLD(member, replace(report, keep=0))


def goes_on_with_all(ledger: LeasedLedger, now: Instant, **how: Any) -> Report:
    """A member says that it keeps nothing, and goes on taking from its slack all the same."""
    room = ledger.room
    report = REPORT(ledger, now, **how)
    ledger.message = replace(report, keep=0)
    ledger._returned, ledger.room = 0, room
    return ledger.message


def any_number(head: SharedHead, message: Message, member: MemberRecord | None) -> Status:
    """A message that arrives after later ones takes effect again."""
    status = SESSION(head, message, member)
    return "done" if status == "old" else status


def no_stored_reply(head: SharedHead, message: Message, woken: set[str]) -> Any:
    """A message that was sent again takes effect again."""
    reply = TAKE(head, message, woken)
    if message.member in head.members:
        head.members[message.member].reply = None
    return reply


def stamped_when_it_lands(head: SharedHead, name: str, landing: Landing) -> set[str]:
    """A balance counts from when its reply was there, and not from when it was requested."""
    head.refresh = replace(head.refresh, last_began=head.now)
    return LAND(head, name, landing)


def by_the_server_alone(
    clock: VirtualClock, server: float, seen: float, dropped: float, elapsed: float, *, alone: bool
) -> None:
    """No member has to vouch for the time that the server's clock says."""
    del seen, elapsed, alone
    ADVANCE(clock, server, float("-inf"), dropped, 0.0, alone=True)


def nothing_forced(member: MemberRecord, report: Report) -> None:
    """What open calls hold is booked only as far as the lease covers it."""
    HOLD(member, replace(report, used=min(report.used, member.lease)))


def floors_ignored(left: Remainder, need: Need) -> Any:
    """Needs are granted from what lies below their floor."""
    return LEFT(left, replace(need, floor=0))


def slack_below_the_floor(head: SharedHead, member: MemberRecord, report: Report) -> None:
    """Slack is given out from below the floor."""
    LEND(head, member, replace(report, floor=0))


def slack_while_short(head: SharedHead, member: MemberRecord, report: Report) -> None:
    """Slack is given out although somebody is short."""
    calm_until, head.calm_until = head.calm_until, float("-inf")
    needs = {name: each.needs for name, each in head.members.items()}
    for each in head.members.values():
        each.needs = {}
    LEND(head, member, report)
    for name, each in head.members.items():
        each.needs = needs[name]
    head.calm_until = calm_until


def dies_free(member: MemberRecord, now: float) -> None:
    """What a dead member held is free at once."""
    member.lease = member.slots = 0
    DIE(member, now)


def dies_at_once(member: MemberRecord, now: float) -> None:
    """What the calls of a dead member may still cost counts no longer than until it died."""
    member.patience = 0.0
    DIE(member, now)


def leaves_free(member: MemberRecord, now: float) -> None:
    """What calls still use is free as soon as their process has said that it goes."""
    member.used = 0
    LEAVE(member, now)


@dataclass(frozen=True)
class World:
    """Where a safety is missed; whatever is not given is drawn from the seed."""

    spender: type
    seed: int
    calls: int
    menu: Menu | None = None
    costs: tuple[int, ...] = COSTS
    terms: tuple[tuple[str, Any], ...] = ()
    kinds: bool = False

    def run(self) -> Fleet:
        """Run it to its end."""
        fleet = Fleet(
            self.seed,
            self.calls,
            self.spender,
            menu=self.menu,
            costs=self.costs,
            kinds=self.kinds,
            **dict(self.terms),
        )
        fleet.run()
        return fleet


@dataclass(frozen=True)
class Safety:
    """One safety: what is there `instead` of it, and where the oracle says in these `words` that it is gone."""

    owner: Any
    name: str
    instead: Any
    words: str
    world: World


plain, guards = partial(World, PlainMember), partial(World, GuardMember)

SAFETIES = {
    "what a member keeps": Safety(MemberRecord, "hold", takes_back_all, "F5: ", plain(1, 20)),
    "what it takes from": Safety(LeasedLedger, "report", goes_on_with_all, "F5: ", guards(1, 20)),
    "message numbers": Safety(SharedHead, "_session", any_number, "F5: ", plain(14, 20)),
    "stored replies": Safety(SharedHead, "_take", no_stored_reply, "F5: ", plain(64, 60)),
    "regrouping": Safety(SharedHead, "granting", property(lambda _: True), "F6: ", plain(0, 20)),
    "stamps before requests": Safety(
        SharedHead, "_land", stamped_when_it_lands, "F6: ", plain(22, 50)
    ),
    "the end of a lease": Safety(
        Membership, "lapsed", lambda *_: False, "F5: ", guards(2, 100, menu=Menu(cuts=0.1))
    ),
    # Only where a member with a slow clock is cut off, and others talk, for as long as a lease lasts.
    "a lease's margin": Safety(
        membership,
        "MARGIN",
        0.0,
        "F5: .* was given up",
        guards(91, 200, menu=Menu(cuts=0.04), terms=(("hold_for", 60.0),)),
    ),
    "vouching for time": Safety(
        VirtualClock, "advance", by_the_server_alone, "F5: ", plain(2, 40, Menu(server_jumps=0.1))
    ),
    "forced amounts": Safety(MemberRecord, "hold", nothing_forced, "F5: ", plain(27, 30)),
    "a need's floor": Safety(Remainder, "above_floor", floors_ignored, "F1: ", plain(0, 20)),
    # Somebody who needs much is short long before: only small calls go down to the floor.
    "a floor below slack": Safety(
        SharedHead,
        "_lend",
        slack_below_the_floor,
        "F1: ",
        plain(136, 65, Menu(), costs=(1,), terms=(("floor", 30 * MICRO),)),
    ),
    "no slack while short": Safety(
        SharedHead,
        "_lend",
        slack_while_short,
        "F2: .* got no answer",
        plain(1480, 60, Menu(top_ups=0.1), costs=(1, 10, 50)),
    ),
    "recalls": Safety(
        SharedHead, "_recall_for", lambda *_: False, "F2: ", plain(101, 15, Menu(top_ups=0.1))
    ),
    "what the dead held": Safety(
        MemberRecord, "die", dies_free, "F6: ", plain(1, 60, Menu(crashes=0.1))
    ),
    "patience with the dead": Safety(
        MemberRecord,
        "die",
        dies_at_once,
        "F6: ",
        plain(722, 30, Menu(crashes=0.1), terms=(("fresh_for", 1.0),)),
    ),
    "what the leaving use": Safety(
        MemberRecord, "leave", leaves_free, "F6: ", guards(8, 60, Menu(), kinds=True)
    ),
    "a budget's room": Safety(
        SharedBudget, "room", lambda *_: 10**15, "F7: ", guards(1, 60, Menu(), kinds=True)
    ),
}

SEEDS = 20
"""How many are tried: the first one found it last."""


@pytest.mark.parametrize("name", SAFETIES)
def test_every_safety_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one safety taken out, the fleet breaks where it is needed."""
    safety, world = SAFETIES[name], SAFETIES[name].world
    monkeypatch.setattr(safety.owner, safety.name, safety.instead)
    with pytest.raises(Broken, match=safety.words):
        for seed in range(world.seed, world.seed + SEEDS):
            replace(world, seed=seed).run()


@pytest.mark.parametrize("name", SAFETIES)
def test_nothing_breaks_there(name: str) -> None:
    """With all safeties, the same fleet keeps all that it promises, and lets calls in."""
    assert SAFETIES[name].world.run().counts["admitted"]


def test_the_same_seed_is_the_same_trace() -> None:
    """A failing seed can be run again: the trace is the same, line by line."""
    first, second = (guards(4, 30, kinds=True).run().trace for _ in range(2))
    assert first == second
    assert len(first) > 100


@pytest.mark.parametrize("seed", [438, 488])
def test_what_was_granted_is_taken_by_nobody_else(seed: int) -> None:
    """Also where the same reply ends a refresh that callers of that process wait for."""
    Fleet(seed, 200, GuardMember).run()
