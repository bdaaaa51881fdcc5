"""What has to hold at every moment of a simulation; raises Broken where it does not."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from provider import MICRO

from budgetguard._core.errors import BudgetGuardError, InsufficientCredits
from budgetguard._core.events import Event
from budgetguard._core.policy import NEVER, exceeded
from budgetguard._engine.account import Account
from budgetguard._engine.binding import binding_of
from budgetguard._engine.refresh_schedule import GRACE, LATER

if TYPE_CHECKING:
    from scenario import Facts, Simulation

    from budgetguard._engine.waiters import AdmissionWaiter

COSTS = (1, 5, 10, 50)
ENDS = ("settled", "kept", "released")

# A little more than floating point and the order of things within one moment make of it.
EPSILON = 0.2


class Broken(AssertionError):
    """An invariant does not hold."""


class Watch:
    """Holds one guard's books against what the simulation itself knows."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.events: Counter[str] = Counter()
        self.counts = {"admitted": 0, "refused": 0, "unknown": 0, "slots": 0, "over budget": 0}
        self.attempts = 0
        self._errors: list[BudgetGuardError] = []
        self._last_sent = NEVER
        self._last_start = NEVER
        self.lost = False
        self._covered: dict[int, float] = {}
        self._first_covered: tuple[AdmissionWaiter, float] | None = None
        self._blocked = NEVER
        self._landed = NEVER
        self._newest = self._before = float("inf")
        self._overlap = self._overlap_before = 0
        self._began = simulation.clock.mono

    @property
    def account(self) -> Account:
        """The account under test, of the process that lives now."""
        return binding_of(self.simulation.guard).account

    def begin_anew(self) -> None:
        """The process died; nothing of it is left."""
        self._last_sent = self._last_start = self._blocked = NEVER
        self._newest = self._before = float("inf")
        self._overlap = self._overlap_before = 0
        self._began = self.simulation.clock.mono
        self._covered, self._first_covered = {}, None
        self.events.clear()
        self.attempts = 0

    def told(self, event: Event) -> None:
        """An event: counted, so that every admission can be seen to end once.

        S1: what is available is never more than the balance shows.
        """
        self.events[event.kind] += 1
        if event.kind != "refreshed" or event.available is None or event.credits is None:
            return
        floor = binding_of(self.simulation.guard).subscriber.terms.floor
        if event.available > event.credits - Decimal(floor) / MICRO:
            msg = f"S1: {event.available} available of a balance of {event.credits}"
            raise Broken(msg)

    # S1 to S4 and S6, between any two things that happen.

    def step(self) -> None:
        """Look at everything there is."""
        simulation, provider = self.simulation, self.simulation.provider
        if simulation.failures:
            raise simulation.failures[0]
        if provider.lowest + provider.spent_by_others < 0:
            msg = f"S1: overspent, {provider.lowest / MICRO} at the lowest"
            raise Broken(msg)
        if provider.most_in_flight > 1 and not simulation.lossy:
            msg = f"S6: {provider.most_in_flight} looks in flight at once"
            raise Broken(msg)
        self._held()
        snapshot, ledger = self.account.ledger.snapshot, self.account.ledger
        if snapshot is not None:
            if snapshot.sent.mono < self._last_sent:
                msg = "S4: an older look replaced a newer one"
                raise Broken(msg)
            self._last_sent = snapshot.sent.mono
            for debits in (ledger.settled, ledger.kept):
                stamp = debits.next_clears_at
                if (
                    stamp is not None
                    and stamp <= snapshot.sent.mono
                    and snapshot.refused_until is None
                ):
                    msg = f"S2: a debit of {stamp} outlived a look sent at {snapshot.sent.mono}"
                    raise Broken(msg)
        self._first_in_line()
        if simulation.crowd is not None:
            simulation.crowd.step()

    def _held(self) -> None:
        """S2: what the open calls hold is held; a caller between its answer and its call as well."""
        account = self.account
        if account.ledger.ends or account._posts or any(account.ledger.ends_at_cost.values()):
            return
        known = sum(facts.rest() for facts in self.simulation.open.values())
        if account.ledger.held < known:
            msg = f"S2: {account.ledger.held} held, {known} by open calls"
            raise Broken(msg)

    def admitted(self, number: int, cost: int, slots: int) -> None:
        """S1 and S3: there is a balance, and it covers this call on top of all that run."""
        simulation, ledger = self.simulation, self.account.ledger
        self.counts["admitted"] += 1
        terms = binding_of(simulation.guard).subscriber.terms
        snapshot = ledger.snapshot
        if snapshot is None:
            msg = f"S3: call {number} was let in without a balance"
            raise Broken(msg)
        age = simulation.clock.mono - snapshot.sent.mono
        if age > max(terms.stale_for, terms.timeout) + EPSILON:
            msg = f"S3: call {number} was let in on a balance {age:.0f} s old"
            raise Broken(msg)
        crowd, facts = simulation.crowd, simulation.open[number]
        if crowd is None or not crowd.promised(facts):
            self.covered(f"call {number} of {cost}")
        limit = simulation.nature.slots
        using = sum(facts.slots for facts in simulation.open.values())
        if slots and limit and using > limit:
            msg = f"S1: {using} sessions at once, {limit} allowed"
            raise Broken(msg)

    def covered(self, what: str) -> None:
        """S1: the balance covers what was just let in, on top of all that runs or was set aside."""
        simulation, snapshot = self.simulation, self.account.ledger.snapshot
        terms = binding_of(simulation.guard).subscriber.terms
        if snapshot is None:
            msg = f"S3: {what} was let in without a balance"
            raise Broken(msg)
        # Who was let in as a look landed may go by the look before.
        at_once = simulation.clock.mono == self._landed
        seen = min(snapshot.sent.mono, self._before) if at_once else snapshot.sent.mono
        others = simulation.provider.spent_since(seen)
        if self.account.ledger.head.others.setting == "auto":
            overlap = max(self._overlap, self._overlap_before) if at_once else snapshot.overlap
            others += min(simulation.provider.spent_since(self._began) - others, overlap)
        spare = simulation.spare() + others - terms.floor
        if spare < 0:
            msg = f"S1: {what} is not covered, {spare / MICRO:g} short"
            raise Broken(msg)

    # S5 and S7, of refusals.

    def refused(self, error: InsufficientCredits, arrived: float, wait: float, need: int) -> None:
        """The figures add up, the look behind it is young enough, and no other caller got it."""
        self.counts["refused"] += 1
        self.mine(error)
        figures = error.balance + error.extra - error.held - error.pending + error.overlap
        if figures - error.queued - error.floor != error.available:
            msg = f"the figures of a refusal do not add up: {error}"
            raise Broken(msg)
        if error.available >= error.needed:
            msg = f"refused although enough was available: {error}"
            raise Broken(msg)
        now, terms = self.simulation.clock.mono, binding_of(self.simulation.guard).subscriber.terms
        asked = arrived if error.retry_after is None else min(arrived + wait, now)
        simulation = self.simulation
        schedule = simulation.runtime.starts[-1:] + simulation.provider.sent[-1:]
        newest = max([*schedule, simulation.exhausted_at])
        verified = newest >= asked - terms.recheck_after - EPSILON
        verified = verified or now >= arrived + wait + terms.timeout - EPSILON
        if not verified and now >= self.account._schedule.known.blocked_until:
            msg = f"S5: refused on a look {now - newest:.1f} s old, recheck {terms.recheck_after}"
            raise Broken(msg)
        since = self._covered.get(need)
        if since is not None and error.queued == 0 and self._in_time(since, need * MICRO):
            msg = f"L1: refused {need}, covered for {now - since:.1f} s: {error}"
            raise Broken(msg)

    def refused_again(self, again: Callable[[], bool]) -> None:
        """S5: the same caller is refused the same, at once, and nothing has changed for it."""
        # Who stopped waiting in this same moment leaves the queue with the next change.
        self.account.flush()
        before = self.figures()
        if again() and self.figures() != before:
            msg = f"S5: a refusal changed {before} to {self.figures()}"
            raise Broken(msg)

    def figures(self) -> tuple[object, ...]:
        """All that admissions and refusals could change."""
        ledger = self.account.ledger
        return (
            ledger.room,
            ledger.held,
            ledger.pending,
            ledger.running,
            ledger.slots_in_use,
            ledger.snapshot,
            len(self.account.wait_queue.queue),
        )

    def mine(self, error: BudgetGuardError) -> None:
        """S7: every caller gets an exception of its own."""
        if any(error is other for other in self._errors[-50:]):
            msg = f"S7: two callers got one exception: {error!r}"
            raise Broken(msg)
        self._errors.append(error)

    # S6, of when looks begin.

    def look_begins(self) -> None:
        """Looks keep their distance, but for those due to age; nothing breaks the backoff."""
        account, now = self.account, self.simulation.clock.now()
        terms, snapshot = (
            binding_of(self.simulation.guard).subscriber.terms,
            account.ledger.snapshot,
        )
        if now.mono < self._blocked - EPSILON:
            msg = f"S6: a look {self._blocked - now.mono:.1f} s before its backoff was over"
            raise Broken(msg)
        aged = snapshot is None or now.since(snapshot.sent) >= terms.fresh_for
        # One that was lost is made anew, a moment after its deadline.
        again = terms.timeout + GRACE if self.lost else LATER
        near = now.mono - self._last_start < min(terms.recheck_after, again) - EPSILON
        if near and not aged and not self.simulation.reading:
            msg = f"S6: a look {now.mono - self._last_start:.1f} s after the one before"
            raise Broken(msg)
        self._last_start = now.mono

    def look_landed(self) -> None:
        """Remember until when the provider is to be left alone, and what was known before."""
        self._blocked = self.account._schedule.known.blocked_until
        snapshot = self.account.ledger.snapshot
        if snapshot is not None and snapshot.sent.mono != self._newest:
            self._newest, self._before = snapshot.sent.mono, self._newest
            self._overlap, self._overlap_before = snapshot.overlap, self._overlap
            self._landed = self.simulation.clock.mono
            self._proven()

    def _proven(self) -> None:
        """S9: what a balance proves that others have spent, they have spent since this process began."""
        proven = self.account.ledger.head.others.contradiction
        spent = self.simulation.provider.spent_since(self._began)
        if proven > spent:
            msg = (
                f"S9: others are said to have spent {proven / MICRO:g}, and spent {spent / MICRO:g}"
            )
            raise Broken(msg)

    # L1: who is covered for long enough gets in.

    def happened(self) -> None:
        """Note since when each cost has been covered, and for whom that is first in line."""
        now, spare = self.simulation.clock.mono, self._knowably_spare()
        queue = self.account.wait_queue.queue
        ahead = sum(waiter.call.need.amount for waiter in queue)
        for cost in COSTS:
            if spare is None or spare - ahead < cost * MICRO:
                self._covered.pop(cost, None)
            else:
                self._covered.setdefault(cost, now)
        at = self.simulation.clock.now()
        first = next((each for each in queue if exceeded(each.call.need, at) is None), None)
        if (
            first is None
            or spare is None
            or spare < first.call.need.amount
            or first.call.need.slots
        ):
            self._first_covered = None
        elif self._first_covered is None or self._first_covered[0] is not first:
            self._first_covered = (first, now)

    def _first_in_line(self) -> None:
        now, first = self.simulation.clock.mono, self._first_covered
        if first is not None and self._in_time(first[1], first[0].call.need.amount):
            msg = f"L1: the first in line waits, covered for {now - first[1]:.1f} s"
            raise Broken(msg)

    def _in_time(self, since: float, need: int) -> bool:
        """Whether a need that has been covered since then should have been let in by now.

        A debit that became old within that time, and a top-up, may still wait for the look that shows
        it.
        """
        terms, now = binding_of(self.simulation.guard).subscriber.terms, self.simulation.clock.mono
        patience = terms.recheck_after + terms.timeout + EPSILON
        spare = self._knowably_spare(before=now - patience)
        if spare is None or now - since <= patience:
            return False
        return spare - self.simulation.provider.paid_since(now - patience) >= need

    def _knowably_spare(self, before: float | None = None) -> int | None:
        """What the books should let in: the truth, less the floor, open holds and young debits.

        Young is what a look sent then is not sure to show; now, if nothing else is said.
        """
        simulation, ledger, now = self.simulation, self.account.ledger, self.simulation.clock.mono
        if not simulation.reachable() or now <= simulation.exhausted_until:
            return None
        floor = binding_of(simulation.guard).subscriber.terms.floor
        sent = now if before is None else before
        young = sum(
            int(amount)
            for debits in (ledger.settled, ledger.kept)
            for stamp, amount, _ in debits.in_order()
            if stamp > sent
        )
        return simulation.provider.true - floor - ledger.held - young

    # S2 and L2, at the end.

    def ended(self, facts: "Facts", number: int) -> None:
        """S2: a call ends once."""
        if facts.ended > 1:
            msg = f"S2: call {number} ended {facts.ended} times"
            raise Broken(msg)

    def after_everything(self) -> None:
        """L2: nothing is held, the books equal the provider's, and every admission ended once."""
        simulation, ledger = self.simulation, self.account.ledger
        counted = (ledger.held, ledger.pending, ledger.running, ledger.slots_in_use)
        if counted != (0, 0, 0, 0):
            msg = f"L2: held, pending, running and slots are {counted}"
            raise Broken(msg)
        true = simulation.provider.true - binding_of(simulation.guard).subscriber.terms.floor
        available = simulation.guard.available
        if available is None or int(available * MICRO) != true:
            msg = f"L2: {available} available, {true / MICRO} there"
            raise Broken(msg)
        ends = sum(self.events[kind] for kind in ENDS)
        if self.events["admitted"] != ends - self.attempts:
            msg = f"S2: {self.events['admitted']} admissions were told of, and {ends} ends"
            raise Broken(msg)
