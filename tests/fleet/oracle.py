"""What has to hold in a fleet, judged by what the world itself knows; raises Broken where it does not.

F1  The true balance covers all that was let in, above the floor; less only by what a lost state may cost.
F2  Nobody is refused while a member that can be reached has slack that would do, and everybody gets an
    answer where nothing goes wrong.
F3  Every caller is back by `wait + timeout`, not counting for how long its process stood still; after that,
    there is another `timeout` for a refresh that was lost.
F4  When all is quiet, every credit is back: nothing leased, nothing pending, free is what is there.
F5  A member's lease covers what its calls hold, what it may still let in, and what it has not reported.
    One that was given up lets nobody in.
F6  What a head takes for free is there, besides all that was let in and all that members may let in.
F7  What calls in a budget hold and have cost is within its limit, but for what a lost state knew.
"""

from typing import TYPE_CHECKING

from processes import Process
from sim_store import TIMEOUT, Server
from vendor import Call

from budgetguard._core.store_messages import Message, Reply

if TYPE_CHECKING:
    from fleet import Fleet

COSTS = (1, 5, 10, 50)
MICRO = 10**6
BACKOFF = 65.0
"""Seconds for which a guard may leave the provider alone after an outage."""

SETTLES = 8.0
"""Seconds after which every member has reached its store again: what is under way, and a pause after it."""

LATE = 0.6
"""Seconds that a caller may come back later than it should."""


class Broken(AssertionError):
    """Something does not hold."""


class Oracle:
    """Holds all guards against the truth."""

    def __init__(self, fleet: "Fleet") -> None:
        self.fleet = fleet
        self.allowed = 0
        """What may be overspent by now, because a state was lost with nobody left who knew it."""
        self.restless = fleet.clock.mono - BACKOFF - SETTLES
        """When something was last wrong."""
        self.killed_at = float("-inf")
        """When a process was last killed, maybe with the right to refresh the balance for all."""
        self._calm = True
        self._epochs: dict[str, str] = {}

    def fail(self, words: str) -> None:
        """Say what is broken; the run ends as soon as the fleet looks."""
        self.fleet.say(words)
        self.fleet.failures.append(Broken(words))

    # F1: what was let in is covered.

    def spare(self) -> int:
        """What the account holds beyond all that may still be spent by calls that were let in."""
        return self.fleet.vendor.true - sum(call.promised for call in self.fleet.live.values())

    def admitted(self, call: Call) -> None:
        """F1 and F3, for a call that was just let in."""
        fleet = self.fleet
        fleet.counts["admitted"] += 1
        self._in_time(call)
        self.covered(call)
        for budget in call.budgets:
            budget.calls.append((call.arrived, call))
            self.within(call)
        limit = fleet.vendor.nature.slots
        if call.slots and limit:
            using = sum(
                each.slots
                for each in fleet.live.values()
                if each.slots and (each.state == "open" or each.to_come)
            )
            if using > limit + fleet.slots_excused():
                self.fail(f"F1: {using} sessions at once, {limit} allowed")

    def covered(self, call: Call) -> None:
        """F1, for a call that holds more than a moment ago."""
        short = self.fleet.floor - self.spare() - self.allowed - self.fleet.excused()
        if short > 0:
            self.fail(
                f"F1: call {call.number} of {call.held / MICRO:g} is not covered,"
                f" {short / MICRO:g} short ({self.allowed / MICRO:g} allowed)"
            )

    def within(self, call: Call) -> None:
        """F7, for a call that holds more than a moment ago."""
        fleet, now = self.fleet, self.fleet.clock.mono
        for budget in call.budgets:
            if budget.per is not None and now < fleet.forgotten + budget.per:
                continue
            taken = budget.taken(now)
            if taken > budget.limit + fleet.beyond:
                self.fail(
                    f"F7: with call {call.number}, {taken / MICRO:g} are taken from"
                    f" {budget.name} of {budget.limit / MICRO:g}"
                )

    def lost(self, micro: int, why: str) -> None:
        """That much may be overspent from now on: nobody is left who knew of it."""
        if micro > 0:
            self.allowed += micro
            self.fleet.counts["lost cells"] += 1
            self.fleet.say(f"may overspend {micro}: {why}")

    # F2 and F3: answers.

    def refused(self, call: Call, *, queued: float = 0) -> None:
        """F2 and F3, for a caller that was refused for lack of credits."""
        fleet = self.fleet
        fleet.counts["refused"] += 1
        self._in_time(call)
        if queued or call.slots:
            return
        if call.least >= call.cost:
            self.fail(
                f"F2: call {call.number} of {call.cost} was refused, and at least"
                f" {call.least / MICRO:g} were within reach since it asked"
            )

    def unanswered(self, call: Call) -> None:
        """F2 and F3, for a caller that was told that nothing is known."""
        self._in_time(call)
        if max(self.restless, self.killed_at) + BACKOFF + SETTLES <= call.arrived:
            self.fail(f"F2: call {call.number} got no answer in the calmest weather")

    def answered_extension(self, call: Call, took: float) -> None:
        """F3, for a call that asked for more: it waits for the store, and for nothing else."""
        late = took - TIMEOUT * 1.02 - LATE
        if late > 0:
            self.fail(f"F3: call {call.number} was told {late:.2f} s late whether it gets more")

    def returned(self, call: Call) -> None:
        """F3, for a caller that got any other answer."""
        self._in_time(call)

    def _in_time(self, call: Call) -> None:
        if call.answered:
            return
        call.answered = True
        late = self._late(call)
        if late > 0:
            self.fail(f"F3: call {call.number} was answered {late:.2f} s late")

    def _late(self, call: Call) -> float:
        fleet = self.fleet
        idle = call.process.idle_for() - call.idle_before
        took = fleet.clock.mono - call.arrived - idle
        # A refresh that was lost to a stop is made once more.
        refreshes = 1 + call.process.stops - call.stops_before
        return took - (call.wait + refreshes * fleet.terms.timeout) * 1.02 - LATE

    # Between any two things that happen.

    def happened(self) -> None:
        """Note the least that was within reach of each caller since it asked."""
        fleet = self.fleet
        was_calm, self._calm = self._calm, fleet.calm()
        if not (was_calm and self._calm):
            self.restless = fleet.clock.mono
        asking = [call for call in fleet.live.values() if call.state == "asking"]
        if not asking:
            return
        settled = self.restless + SETTLES <= fleet.clock.mono
        spare = self._within_reach() if settled else 0
        others = spare - sum(call.cost for call in asking)
        for call in asking:
            call.least = min(call.least, others + call.cost)

    def _within_reach(self) -> int:
        fleet = self.fleet
        head = fleet.servers[-1].head
        if head.snapshot is None:
            return 0
        return int(head.free(fleet.floor, 0)) + sum(
            process.spender.slack()
            for process in fleet.living()
            if process.runs and self._member_of(process, head.epoch)
        )

    def _member_of(self, process: Process, epoch: str) -> bool:
        return self._epochs.get(process.name) == epoch

    def step(self) -> None:
        """Look at everything there is."""
        fleet = self.fleet
        if fleet.failures:
            raise fleet.failures[0]
        for call in fleet.live.values():
            if call.state == "asking" and call.process.runs and self._late(call) > 0:
                msg = f"F3: call {call.number} waits {self._late(call):.2f} s too long"
                raise Broken(msg)

    # F5, and what a lost state may cost, after each message.

    def handled(self, server: Server, message: Message, reply: Reply, before: int) -> None:
        """A server took a message."""
        fleet, head = self.fleet, server.head
        if reply.status == "done":
            self._epochs[message.member] = reply.epoch
            server.unsaid.discard(message.member)
            if message.leave:
                del self._epochs[message.member]
                self._lives_on(fleet.process(message.member))
        if server is not fleet.servers[-1]:
            record = head.members.get(message.member)
            drawn = 0 if record is None else record.lease + record.pending
            self.lost(drawn - before, "the old primary gave it out")
        elif server.unheard and head.granting:
            self._reckon(server)
        self._gone(server)
        for process in fleet.living():
            self._lease_covers(server, process)
        if server is fleet.servers[-1]:
            self._is_there(server)

    def _reckon(self, server: Server) -> None:
        """Credits are granted after a regroup: what the state does not know of those that were not heard is lost.

        Those that live, and that the head has to wait for, are not among them before their leases have ended.
        """
        fleet, head = self.fleet, server.head
        ended = fleet.clock.mono >= server.began + 0.93 * fleet.terms.hold_for
        for name in sorted(server.unheard):
            process = fleet.process(name)
            if self._member_of(process, head.epoch):
                server.unheard.discard(name)
            elif ended or not (process.alive and name in server.known):
                server.unheard.discard(name)
                record = head.members.get(name)
                known = 0 if record is None else record.lease + record.pending
                shown = server.balance_at - fleet.vendor.nature.lag
                spent = sum(
                    call.promised + call.worked_since(shown)
                    for call in fleet.calls.values()
                    if call.process is process
                )
                self.lost(spent - known, f"{name} did not say what it holds")

    def _gone(self, server: Server) -> None:
        """Members that live, and were given up: what they began may go on for longer than is kept."""
        fleet = self.fleet
        for process in fleet.living():
            record = server.head.members.get(process.name)
            here = self._epochs.get(process.name) == server.head.epoch
            lives = record is not None and not record.gone
            if lives or not (here or process.name in server.unsaid):
                continue
            server.unsaid.discard(process.name)
            if here:
                del self._epochs[process.name]
                slack = process.spender.slack()
                if slack and process.machine.hides_time(fleet.terms.hold_for):
                    self.lost(slack, f"no clock shows {process.name} that its lease has ended")
                elif slack and fleet.primary[process.name] is server:
                    self.fail(f"F5: {process.name} was given up, and may take more")
            self._lives_on(process)

    def _lives_on(self, process: Process) -> None:
        fleet = self.fleet
        begun = [
            call
            for call in fleet.calls.values()
            if call.process is process and call.state == "open"
        ]
        if begun or process.spender.used:
            fleet.counts["lives, and was given up"] += 1
        nature = fleet.vendor.nature
        patience = 0.95 * (nature.lag + nature.linger)
        fleet.loop.outside(patience, self._goes_on, process, begun)

    def _goes_on(self, process: Process, begun: list[Call]) -> None:
        micro = sum(call.promised for call in begun if call.state == "open" or call.to_come)
        self.lost(micro, f"{process.name} lives on")

    def _is_there(self, server: Server) -> None:
        """F6: no credits are free that somebody may already have."""
        fleet, head = self.fleet, server.head
        if head.snapshot is None or not head.granting:
            return
        slack = sum(process.spender.slack() for process in fleet.living())
        there = self.spare() - slack + self.allowed + fleet.excused()
        free = head.free(0, 0)
        if free > max(there, 0):
            self.fail(
                f"F6: {free / MICRO:g} are taken for free, {there / MICRO:g} are there"
                f" besides {slack / MICRO:g} in slack"
            )

    def _lease_covers(self, server: Server, process: Process) -> None:
        fleet, head = self.fleet, server.head
        if not self._member_of(process, head.epoch) or fleet.primary[process.name] is not server:
            return
        spender, record = process.spender, head.members[process.name]
        if not spender.bound_to(head.epoch):
            return
        untold = spender.unsettled(record.number)
        if spender.used + spender.slack() + untold > record.lease + fleet.excused():
            self.fail(
                f"F5: {process.name} has {record.lease}, and holds {spender.used}, may take"
                f" {spender.slack()}, and has not told of {untold}"
            )

    # F4, at the end.

    def after_everything(self) -> None:
        """Nothing is leased or pending, and what is free is what the account has."""
        fleet = self.fleet
        head = fleet.servers[-1].head
        counted = (head.leased, head.pending, head.slots_in_use)
        if counted != (0, 0, 0):
            msg = f"F4: leased, pending and slots are {counted}"
            raise Broken(msg)
        waiting = [each for member in head.members.values() for each in member.needs]
        if waiting:
            msg = f"F4: {len(waiting)} still wait"
            raise Broken(msg)
        held = [each.spender.held_in_blocks() for each in fleet.living() if fleet.kinds]
        if any(held):
            msg = f"F4: {sum(held)} are held in budgets"
            raise Broken(msg)
        free = None if head.snapshot is None else head.free(0, 0)
        if free != fleet.vendor.true:
            msg = f"F4: {free} is free, {fleet.vendor.true} is there"
            raise Broken(msg)
