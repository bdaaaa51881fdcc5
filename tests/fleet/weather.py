"""What goes wrong in a fleet, and when: a menu that each seed draws, and the gusts that follow from it."""

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from processes import Process

if TYPE_CHECKING:
    from fleet import Fleet


@dataclass
class Menu:
    """The share of calls before which each thing happens, on average; of messages for the first two."""

    kills: float = 0.0
    pauses: float = 0.0
    crashes: float = 0.0
    stops: float = 0.0
    suspends: float = 0.0
    jumps: float = 0.0
    cuts: float = 0.0
    server_jumps: float = 0.0
    outages: float = 0.0
    restarts: float = 0.0
    failovers: float = 0.0
    outages_of_provider: float = 0.0
    top_ups: float = 0.0
    others: float = 0.0
    exhaustions: float = 0.0
    spurious: float = 0.0

    @classmethod
    def drawn(cls, random: Random, *, expires: bool) -> "Menu":
        """A few things of all that there are."""
        menu = cls()
        names = list(cls.__dataclass_fields__)
        for name in random.sample(names, random.choice([0, 1, 2, 3, 5, 8])):
            setattr(menu, name, random.choice([0.01, 0.03]) if name in RARE else 0.06)
        if menu.kills:
            menu.kills = 0.003
        if menu.pauses:
            menu.pauses = 0.01
        if not expires:
            # One machine, one disk: no network, and nothing that could be promoted.
            menu.cuts = menu.server_jumps = menu.restarts = menu.failovers = 0.0
        return menu

    @property
    def lasts(self) -> bool:
        """Whether leases matter to what goes wrong."""
        return any(
            (
                self.kills,
                self.pauses,
                self.crashes,
                self.stops,
                self.suspends,
                self.cuts,
                self.outages,
                self.restarts,
                self.failovers,
            )
        )


RARE = {"restarts", "failovers", "suspends", "outages", "crashes", "exhaustions"}


class Weather:
    """Lets things happen by the menu."""

    def __init__(self, fleet: "Fleet", menu: Menu, random: Random) -> None:
        self.fleet = fleet
        self.menu = menu
        self.over = False
        self.disturbed: set[str] = set()
        """The processes that are stopped or cut off now."""
        self._random = random

    def between(self, process: Process, point: str) -> None:
        """A moment around a message of a process: it may be killed or stopped right there."""
        if self.over or not process.runs:
            return
        fleet, draw = self.fleet, self._random
        if draw.random() < self.menu.kills:
            fleet.counts[f"killed {point}"] += 1
            fleet.kill(process)
        elif draw.random() < self.menu.pauses:
            fleet.counts[f"stopped {point}"] += 1
            self._stop(process)

    def blow(self) -> None:  # noqa: C901  one branch for each kind of weather
        """Between two calls."""
        fleet, menu, random = self.fleet, self.menu, self._random
        draw = random.random

        def a_process() -> Process | None:
            running = [each for each in fleet.living() if each.runs]
            return random.choice(running) if running else None

        process = a_process()
        if process is None:
            return
        if draw() < menu.crashes:
            fleet.counts["crash"] += 1
            fleet.kill(process)
        elif draw() < menu.stops:
            fleet.counts["stop"] += 1
            self._stop(process)
        elif draw() < menu.suspends:
            self._suspend(process)
        if draw() < menu.jumps:
            by = random.choice([-3600.0, -30.0, 30.0, 3600.0])
            process.machine.set_wall(by)
            # A balance is as old as the clock says that changed most, until there is a newer one.
            fleet.oracle.restless = fleet.clock.mono
            fleet.counts["wall jump"] += 1
            fleet.say(f"{process.name}: wall clock {by:+g}")
        if draw() < menu.cuts:
            self._cut(process)
        if draw() < menu.server_jumps:
            by = random.choice([-7200.0, -3.0, 3.0, 3600.0])
            fleet.servers[-1].offset += by
            fleet.counts["server clock jump"] += 1
            fleet.say(f"server clock {by:+g}")
        if draw() < menu.outages:
            self._outage()
        if draw() < menu.restarts:
            fleet.restart_empty()
        elif draw() < menu.failovers:
            fleet.fail_over(old_goes_on=random.random() < 0.5)
        self._elsewhere()
        if draw() < menu.spurious:
            fleet.counts["spurious hint"] += 1
            fleet.wake(fleet.servers[-1], process.name)

    def _elsewhere(self) -> None:
        fleet, menu, random = self.fleet, self.menu, self._random
        draw, vendor = random.random, fleet.vendor
        if draw() < menu.top_ups:
            credits = random.randint(20, 400)
            vendor.top_up(credits)
            fleet.counts["top-up"] += 1
            fleet.say(f"top-up {credits}")
        if fleet.others and draw() < 0.05:
            vendor.spend_elsewhere(random.randint(1, 3) * 10**6)
            fleet.counts["others spend"] += 1
        if draw() < menu.outages_of_provider and not vendor.down:
            vendor.down = True
            fleet.counts["provider down"] += 1
            fleet.say("provider down")
            fleet.loop.outside(random.choice([1.0, 20.0]), self._provider_up)
        if draw() < menu.exhaustions:
            fleet.exhaust(random)

    def _provider_up(self) -> None:
        self.fleet.vendor.down = False
        self.fleet.say("provider up")

    # What ends by itself.

    def _some_time(self) -> float:
        """From a moment to more than a lease is held."""
        fleet, draw = self.fleet, self._random
        hold_for = fleet.terms.hold_for
        seconds = draw.choice([0.05, 1.0, hold_for / 2, hold_for, 2 * hold_for])
        if draw.random() < 0.5:
            # Or else little else would happen in a short life.
            seconds = min(seconds, fleet.steps * fleet.busy / 5)
        return seconds * draw.uniform(0.8, 1.2)

    def _stop(self, process: Process) -> None:
        seconds = self._some_time()
        process.stop()
        self.disturbed.add(process.name)
        self.fleet.say(f"{process.name} is stopped for {seconds:.3f} s")
        self.fleet.loop.outside(seconds, self._resume, process)

    def _resume(self, process: Process) -> None:
        if process.stopped and not process.machine.suspended:
            self.fleet.say(f"{process.name} goes on")
            process.resume()
            self.disturbed.discard(process.name)

    def _suspend(self, process: Process) -> None:
        machine = process.machine
        here = [each for each in self.fleet.living() if each.machine is machine]
        if not all(each.runs for each in here) or not self.fleet.expires:
            return
        seconds = self._some_time()
        machine.suspend()
        for each in here:
            each.stop()
            self.disturbed.add(each.name)
        self.fleet.counts["suspend"] += 1
        self.fleet.say(f"{process.name}'s machine sleeps for {seconds:.3f} s")
        self.fleet.loop.outside(seconds, self._wake, here)

    def _wake(self, here: list[Process]) -> None:
        if not here[0].machine.suspended:
            return
        here[0].machine.resume()
        for process in here:
            self.fleet.say(f"{process.name} wakes up")
            process.resume(slept=True)
            self.disturbed.discard(process.name)

    def _cut(self, process: Process) -> None:
        ways = self._random.choice([("out",), ("in",), ("out", "in")])
        seconds = self._some_time()
        for way in ways:
            self.fleet.network.cut[way].add(process.name)
        self.disturbed.add(process.name)
        self.fleet.counts[f"cut off, {' and '.join(ways)}"] += 1
        self.fleet.say(f"{process.name} is cut off, {' and '.join(ways)}, for {seconds:.3f} s")
        self.fleet.loop.outside(seconds, self._heal, process)

    def _heal(self, process: Process) -> None:
        for way in ("out", "in"):
            self.fleet.network.cut[way].discard(process.name)
        self.disturbed.discard(process.name)
        self.fleet.say(f"{process.name} is no longer cut off")

    def _outage(self) -> None:
        server = self.fleet.servers[-1]
        if server.up:
            server.up = False
            seconds = self._some_time()
            self.fleet.counts["store away"] += 1
            self.fleet.say(f"the store is away for {seconds:.3f} s")
            self.fleet.loop.outside(seconds, self._back, server)

    def _back(self, server: object) -> None:
        if server is self.fleet.servers[-1]:
            self.fleet.servers[-1].up = True
            self.fleet.say("the store is back")

    def clear(self) -> None:
        """No more of it; all that is left heals."""
        self.over = True
        fleet = self.fleet
        for process in list(fleet.living()):
            if process.machine.suspended:
                self._wake([each for each in fleet.living() if each.machine is process.machine])
            self._resume(process)
            self._heal(process)
        fleet.servers[-1].up = True
        self._provider_up()
        fleet.reunite()
