"""A seeded fleet: processes that share an account through a store, in a world that helps them little."""

import asyncio
import gc
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

from allowances import Allowed
from clocks import Machine
from guard_member import forget
from network import Links, Network
from oracle import COSTS, MICRO, Oracle
from processes import FleetLoop, Process
from provider import Nature
from sim_store import Server, SimStore, brief, copied, shown
from spenders import NeverConnected, Refused, Spender, Terms, WorkFailed
from vendor import Call, Vendor
from virtual import VirtualClock
from weather import Menu, Weather

from budgetguard._core.errors import BalanceUnavailable, InsufficientCredits
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import Message, Reply
from budgetguard._engine.hold import Hold

COLLECT_EVERY = 100
MOST_SERVERS = 4
LIMITS = (5, 20, 100, 400)
STATES = 30
"""How many earlier states of a head a failover can go back to."""


class Fleet:
    """One run of so many `calls`; `trace` has a line for everything that happened, in order.

    `spender` makes what spends in a process. All else is drawn, but for a `menu` and `terms` that are given;
    calls have one of the `costs`, and are of several `kinds`.
    """

    def __init__(  # noqa: PLR0915  all that a seed draws
        self,
        seed: int,
        calls: int,
        spender: Callable[..., Spender],
        *,
        menu: Menu | None = None,
        costs: tuple[int, ...] = COSTS,
        kinds: bool | None = None,
        **terms: Any,
    ) -> None:
        self.random = draw = Random(f"fleet {seed}")
        self.steps = calls
        self.costs = costs
        # Apart, so that fleets of one kind of call are what they were before there were others.
        self._kinds = Random(f"kinds {seed}")
        drawn_kinds = getattr(spender, "every_kind", False) and self._kinds.random() < 0.6
        self.kinds = drawn_kinds if kinds is None else kinds
        self.budgets = [
            Allowed(
                name,
                self._kinds.choice(LIMITS) * MICRO,
                per=self._kinds.choice([20.0, 60.0, 300.0]),
            )
            for name in ("ada", "bob")
        ]
        self._blocks: dict[Process, Allowed] = {}
        self.beyond = 0
        """What was counted as held although the account may not have it: further attempts of calls."""
        self.forgotten = float("-inf")
        """Until when there were heads that did not know what calls took from keyed budgets."""
        self.clock = VirtualClock()
        self.loop = FleetLoop(self.clock)
        self.trace: list[str] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self.calls: dict[int, Call] = {}
        self.live: dict[int, Call] = {}
        """Those of them that ask, are open, or still cost something."""
        self.over = False
        self._spender = spender
        self._numbers = count()
        self.expires = draw.random() < 0.8
        self.nature = Nature(
            lag=draw.choice([0.0, 1.0, 5.0, 20.0]),
            linger=draw.choice([0.0, 5.0, 30.0]),
            books=draw.choice(["start", "per inference", "end"]),
            latency=draw.choice([0.05, 0.3, 0.3, 2.0]),
            failing=draw.choice([0.0, 0.0, 0.0, 0.2]),
            slots=draw.choice([None, None, 3, 8]),
        )
        self.vendor = Vendor(
            self.nature, draw.choice([60, 300, 1000, 4000]), self.clock, Random(f"vendor {seed}")
        )
        self.vendor.loop, self.vendor.say = self.loop, self.say
        drawn = Terms(
            hold_for=draw.choice([6.0, 20.0, 60.0]),
            floor=draw.choice([0, 0, 10]) * MICRO,
            recheck_after=draw.choice([1.0, 5.0]),
            timeout=draw.choice([4.0, 10.0]),
            fresh_for=draw.choice([20.0, 300.0]),
            lag=self.nature.lag,
            linger=self.nature.linger,
        )
        self.terms = replace(drawn, **terms)
        self.busy = draw.choice([0.02, 0.3, 2.0])
        """Seconds between two calls, on average."""
        self.floor = self.terms.floor
        self.others = False
        drawn_menu = Menu.drawn(draw, expires=self.expires)
        menu = drawn_menu if menu is None else menu
        if menu.lasts:
            # Long enough for a lease to end, and for much to happen before and after.
            self.busy = max(self.busy, self.terms.hold_for / 20)
        self.burst = draw.choice([1, 1, 1, 10, 40])
        """How many calls come at once."""
        self.others = menu.others > 0
        bad = self.expires and draw.random() < 0.5
        links = Links(
            delay=draw.choice([0.001, 0.005, 0.05]) if self.expires else 0.0005,
            lost=draw.choice([0.0, 0.02, 0.2]) if bad else 0.0,
            twice=draw.choice([0.0, 0.05, 0.2]) if bad else 0.0,
            late=draw.choice([0.0, 0.02, 0.1]) if bad else 0.0,
        )
        self.network = Network(self.loop, Random(f"network {seed}"), links, self.counts)
        self.weather = Weather(self, menu, Random(f"weather {seed}"))
        self.ears: dict[str, Callable[[], None] | None] = {}
        self.primary: dict[str, Server] = {}
        self.servers: list[Server] = []
        self._states: deque[tuple[SharedHead, float]] = deque(maxlen=STATES)
        self._saves = Random(f"states {seed}")
        self._machine = Machine(self.clock, draw, drifts=False)
        self._add_server(SharedHead("e1"))
        self.processes: list[Process] = []
        self.oracle = Oracle(self)
        self._jitter = Random(f"jitter {seed}")
        for _ in range(draw.randint(2, 8)):
            self._begin_process()
        self.say(
            f"{len(self.processes)} processes, {'a fleet' if self.expires else 'one machine'},"
            f" {self.nature}, {self.vendor.true} there, {self.terms}, {links}, {menu}"
        )

    # Processes and servers.

    def _begin_process(self) -> None:
        machine = Machine(self.clock, self.random) if self.expires else self._machine
        process = Process(len(self.processes) + 1, machine, self.loop, self._jitter)
        self.processes.append(process)
        self.primary[process.name] = self.servers[-1]
        store = SimStore(self, process, expires=self.expires)
        process.spender = self._spender(process, store, self.vendor, self.terms)

    def living(self) -> list[Process]:
        """The processes that were not killed."""
        return [each for each in self.processes if each.alive]

    def kill(self, process: Process) -> None:
        """SIGKILL, and another process in its place; the provider goes on with what it has begun."""
        self.say(f"{process.name} is killed")
        self._ends(process)

    def exit(self, process: Process) -> None:
        """The process exits in good order, and leaves its open calls as they are."""
        self.counts["exit"] += 1
        self.say(f"{process.name} exits")
        process.leaving = process.runtime.stopping = True
        process.start(self._exits(process), f"{process.name} exits")

    async def _exits(self, process: Process) -> None:
        await process.spender.exit()
        self.loop.outside(0.0, self._exited, process)

    def _exited(self, process: Process) -> None:
        if process.alive:
            self.say(f"{process.name} is gone")
            self._ends(process)

    def _ends(self, process: Process) -> None:
        process.kill()
        self.oracle.killed_at = self.clock.mono
        self.weather.disturbed.discard(process.name)
        for call in self.calls.values():
            if call.process is process:
                if call.state == "open":
                    self.vendor.abandon(call)
                call.state = "ended"
        self._begin_process()

    def _add_server(self, head: SharedHead) -> Server:
        clock = self._machine.boottime if not self.expires else self._machine.wall
        server = Server(f"s{len(self.servers) + 1}", head, clock)
        if self.expires:
            server.offset = self.random.uniform(-1000, 1000)
        self.servers.append(server)
        return server

    def restart_empty(self) -> None:
        """The server restarts, and its state is gone."""
        if not self.united() or len(self.servers) >= MOST_SERVERS:
            return
        epoch = f"e{len(self.servers) + 1}"
        old = self.servers[-1]
        old.up = False
        server = self._add_server(SharedHead(epoch, regroup=self.terms.hold_for))
        self._begins(server, old.head, self.clock.mono)
        self.primary = dict.fromkeys(self.primary, server)
        self._states.clear()
        self.forgotten = self.clock.mono + self.terms.hold_for
        self.counts["restart"] += 1
        self.say(f"the store restarts empty: {epoch}")

    def fail_over(self, *, old_goes_on: bool) -> None:
        """A replica is promoted, whose state is an earlier one; some members may not hear of it."""
        if not (self._states and self.united()) or len(self.servers) >= MOST_SERVERS:
            return
        head, balance_at = self.random.choice(list(self._states))
        old, head = self.servers[-1], copied(head)
        epoch = f"e{len(self.servers) + 1}"
        head.fail_over(epoch)
        server = self._add_server(head)
        self._begins(server, head, balance_at)
        stay: list[str] = []
        if old_goes_on:
            stay = [each.name for each in self.living() if self.random.random() < 0.5]
        else:
            old.up = False
        self.primary = {name: old if name in stay else server for name in self.primary}
        self._states.clear()
        self.forgotten = self.clock.mono + self.terms.hold_for
        self.counts["failover"] += 1
        self.say(f"failover to {epoch}, {stay} stay with the old one")
        if stay:
            self.counts["old primary goes on"] += 1
            self.weather.disturbed.add("old primary")
            seconds = self.random.choice([0.5, 5.0, 2 * self.terms.hold_for])
            self.loop.outside(seconds, self.reunite)

    def _begins(self, server: Server, before: SharedHead, balance_at: float) -> None:
        """A server begins with a state of its own; these are the members that it has to hear of."""
        server.began, server.balance_at = self.clock.mono, balance_at
        server.known = {name for name, each in before.members.items() if not each.gone}
        server.unsaid = {name for name, each in server.head.members.items() if not each.gone}
        server.unheard = {process.name for process in self.processes}

    def process(self, name: str) -> Process:
        """The process of a member."""
        return self.processes[int(name[1:]) - 1]

    def united(self) -> bool:
        """Whether all members know the primary."""
        return all(server is self.servers[-1] for server in self.primary.values())

    def reunite(self) -> None:
        """All members hear of the primary, and there is no other any more."""
        if not self.united():
            self.say("all members know the primary")
            self.forgotten = max(self.forgotten, self.clock.mono)
            for server in self.servers[:-1]:
                server.up = False
            self.primary = dict.fromkeys(self.primary, self.servers[-1])
        self.weather.disturbed.discard("old primary")

    def handle(self, server: Server, message: Message) -> tuple[Reply, frozenset[str]]:
        """A message arrives at a server."""
        head = server.head
        record = head.members.get(message.member)
        before = 0 if record is None else record.lease + record.pending
        dead = [each.name for each in self.processes if not each.alive and not self.expires]
        began, refused = head.refresh.number, _refused(head)
        try:
            reply, woken = head.handle(message, server.clock(), dead)
        except BaseException as error:
            self.failures.append(error)
            self.say(f"{server.name} breaks at {brief(message)}: {error!r}")
            raise
        if refused and not _refused(head):
            # Members that are idle learn it with their next message, or their next look.
            self._knows_more(self.terms.recheck_after + 1.0)
        if head.refresh.number != began:
            server.refresh_at = self.clock.mono
        if message.landing is not None and not head.refresh.in_flight:
            server.balance_at = server.refresh_at
        self.say(f"{server.name} to {message.member}: {shown(reply)}")
        self.counts["messages"] += 1
        self.counts[reply.status] += 1
        self.oracle.handled(server, message, reply, before)
        if server is self.servers[-1]:
            self._save(server, joined=message.join is not None and reply.status == "done")
        return reply, woken

    def _save(self, server: Server, *, joined: bool) -> None:
        """Keep some states for a failover: none from before the last join, which waits for a replica."""
        if not self.weather.menu.failovers:
            return
        if joined:
            self._states.clear()
        if joined or self._saves.random() < 0.1:
            self._states.append((copied(server.head), server.balance_at))

    def wake(self, server: Server, member: str) -> None:
        """A hint that a member should send a message."""
        process = self.process(member)
        if self.primary[member] is server and process.alive:
            self.network.carry("in", member, self._hint, process)

    def _hint(self, process: Process) -> None:
        def hear() -> None:
            ear = self.ears.get(process.name)
            if ear is not None:
                ear()

        process.call(hear)

    def exhaust(self, random: Random) -> None:
        """A user says that the provider refused a call."""
        running = [each for each in self.living() if each.runs]
        if not running:
            return
        process = random.choice(running)
        self.counts["exhausted"] += 1
        self.say(f"{process.name} was refused by the provider")
        process.call(process.spender.exhausted)
        self._knows_more(1.0)

    def _knows_more(self, seconds: float) -> None:
        """For so long, the head knows of a refusal by the provider, or of its end, and some member does not."""
        self.weather.disturbed.add("exhausted")
        self.loop.outside(seconds, self.weather.disturbed.discard, "exhausted")

    # What the oracle asks.

    def calm(self) -> bool:
        """Whether every member can be reached at once."""
        return (
            self.network.links.clean
            and not self.weather.disturbed
            and self.servers[-1].up
            and self.servers[-1].head.granting
            and not self.vendor.down
            and self.nature.prompt
        )

    def excused(self) -> int:
        """What others have spent, and what calls have cost beyond what they held."""
        return self.vendor.spent_by_others + self.beyond

    def slots_excused(self) -> int:
        """Sessions whose members were lost with a state."""
        return 100 if self.oracle.allowed else 0

    def say(self, what: str) -> None:
        """Add a line to the trace."""
        if self.over:
            return
        self.trace.append(f"{self.clock.mono - 1_000_000:12.6f} {what}")
        if self.servers and self.processes:
            self.oracle.happened()

    # The run.

    def run(self) -> None:
        """Run it to its end; raises Broken where something does not hold.

        What is dropped in a cycle is collected at set times, or else no two traces would be alike.
        """
        gc.collect()
        gc.disable()
        try:
            self.loop.run_until_complete(self._main())
        finally:
            gc.enable()
            self.over = True
            self.loop.run_until_complete(self._close())
            self.loop.close()
            forget({id(each.runtime) for each in self.processes})

    async def _close(self) -> None:
        for process in self.processes:
            process.bury()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in sorted(others, key=lambda each: each.get_name()):
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        await self.loop.shutdown_asyncgens()

    async def _main(self) -> None:
        for number in range(self.steps):
            if number % self.burst == 0:
                await asyncio.sleep(self.random.expovariate(1 / (self.busy * self.burst)))
            if number % COLLECT_EVERY == 0:
                gc.collect()
            self.weather.blow()
            self._start_a_call(number)
            self._forget()
            self.oracle.step()
        self.weather.clear()
        while any(call.state != "ended" for call in self.live.values()):
            await asyncio.sleep(1.0)
            self._forget()
            self.oracle.step()
        await self._end()

    def _start_a_call(self, number: int) -> None:
        process = self.random.choice(self.living())
        if not process.runs or process.leaving:
            return
        if self.kinds and self._kinds.random() < 0.01:
            self.exit(process)
            return
        random = self.random
        call = Call(
            number,
            process,
            cost=random.choice(self.costs) * MICRO,
            slots=random.choice([0, 0, 1]) if self.nature.slots else 0,
            wait=random.choice([0.0, 0.0, 5.0, 60.0]),
            arrived=self.clock.mono,
            idle_before=process.idle_for(),
            stops_before=process.stops,
        )
        if self.kinds:
            call.kind = self._kinds.choice(["", "", "charged", "extend", "attempt"])
            call.budgets = tuple(self._budgets_of(process))
        self.calls[number] = self.live[number] = call
        self.say(f"{number} asks {process.name} for {call.cost}, {call.slots}, waits {call.wait:g}")
        task = process.start(self._caller(call), f"call {number:06}")
        if random.random() < 0.05:
            self.loop.outside(random.expovariate(1 / 5), process.call, task.cancel)

    def _budgets_of(self, process: Process) -> Iterator[Allowed]:
        """Those that a call is in: of a block that lasts for a while, of a key."""
        draw = self._kinds
        if draw.random() < 0.2:
            block = self._blocks.get(process)
            if block is None or draw.random() < 0.1:
                limit = draw.choice(LIMITS) * MICRO
                block = self._blocks[process] = Allowed(f"a block of {process.name}", limit)
            yield block
        if draw.random() < 0.2:
            yield draw.choice(self.budgets)

    def _forget(self) -> None:
        """Forget the calls that have ended."""
        for number, call in list(self.live.items()):
            if call.state == "ended" and not call.to_come:
                del self.live[number]

    async def _caller(self, call: Call) -> None:
        try:
            await call.process.spender.call(call, self._body(call))
        except NeverConnected:
            self.say(f"{call.number} never connected")
        except WorkFailed:
            self.say(f"{call.number} failed")
        except asyncio.CancelledError:
            self.say(f"{call.number} cancelled")
            call.answered = True
        except Refused as refused:
            self.say(f"{call.number} lacks {refused.lacks}: {refused}")
            if refused.lacks == "credits":
                self.oracle.refused(call, queued=refused.queued)
            elif refused.lacks == "an answer":
                self.counts["lacks an answer"] += 1
                self.oracle.unanswered(call)
            else:
                self.counts[f"lacks {refused.lacks}"] += 1
                self.oracle.returned(call)
        except Exception as error:
            if not self.over:
                self.failures.append(error)
        finally:
            call.state = "ended"

    def _body(self, call: Call) -> Callable[..., Any]:
        async def body(handle: Any) -> int:
            call.state = "open"
            call.held = max(call.held, call.cost)
            self.say(f"{call.number} in at {call.cost}")
            self.oracle.admitted(call)
            try:
                await self._work(call, handle)
            except BaseException:
                self.vendor.abandon(call)
                raise
            finally:
                self.say(f"{call.number} out after {call.worked}")
                call.state = "ended"
            return call.worked - call.earlier

        return body

    async def _work(self, call: Call, handle: Any) -> None:
        """One or two requests, one after the other, which cost no more together than the call holds."""
        random = self.random
        if random.random() < 0.03:
            raise NeverConnected
        total = random.randint(0, call.cost // MICRO) * MICRO
        seconds = random.expovariate(1 / random.choice([0.1, 3.0, 10.0]))
        amounts = list(self._shares(total))
        requests = [amounts[: len(amounts) // 2], amounts[len(amounts) // 2 :]]
        for request in requests:
            if request:
                await self.vendor.serve(call, request, seconds / len(requests))
            if random.random() < 0.02:
                raise WorkFailed
            if call.kind and handle is not None:
                await self._goes_on(call, handle)

    async def _goes_on(self, call: Call, handle: Hold) -> None:
        """The call costs more than was expected, or tells what it has cost so far."""
        draw = self._kinds
        if call.kind == "charged":
            self.counts["charged"] += 1
            handle.charged(call.worked / MICRO)
        elif call.kind == "extend":
            await self._extends(call, handle, draw.choice(self.costs) * MICRO)
        elif draw.random() < 0.2 and not call.earlier:
            # The request before may still be working, for all that is known.
            self.counts["another attempt"] += 1
            self.say(f"{call.number} tries again, {call.cost} for the attempt before")
            handle.keep_attempt()
            call.held += call.cost
            self.beyond += call.cost
            call.earlier = call.worked
            # What is still to come of it costs at most the rest.
            await self.vendor.serve(call, [draw.randint(0, call.earlier)], draw.expovariate(1.0))

    async def _extends(self, call: Call, handle: Hold, more: int) -> None:
        draw, process, began = self._kinds, call.process, self.clock.mono
        idle = process.idle_for()
        self.say(f"{call.number} asks for {more} more")
        try:
            await handle.aextend(more / MICRO)
        except (InsufficientCredits, BalanceUnavailable) as error:
            self.counts["not extended"] += 1
            self.say(f"{call.number} gets no more: {error}")
            return
        finally:
            idle = process.idle_for() - idle
            self.oracle.answered_extension(call, self.clock.mono - began - idle)
        self.counts["extended"] += 1
        call.held += more
        self.say(f"{call.number} holds {call.held}")
        self.oracle.covered(call)
        self.oracle.within(call)
        await self.vendor.serve(call, [draw.randint(0, more)], draw.expovariate(1.0))

    def _shares(self, total: int) -> Iterator[int]:
        if self.nature.books != "per inference" or total < 4 * MICRO:
            yield total
            return
        yield from [total // 4] * 3
        yield total - total // 4 * 3

    async def _end(self) -> None:
        """Let everything come to rest, and look at the books once more."""
        self.nature = self.vendor.nature = Nature(
            lag=self.nature.lag,
            linger=self.nature.linger,
            books=self.nature.books,
            latency=0.05,
            failing=0.0,
            slots=self.nature.slots,
        )
        links = self.network.links
        links.lost = links.twice = links.late = 0.0
        await asyncio.sleep(self.nature.linger + 2 * self.nature.lag + 70)
        for last in (False, False, True):
            await asyncio.sleep(3 * self.terms.hold_for + 70)
            process = self.living()[0]
            task = process.start(process.spender.refresh(), "the last refresh")
            await asyncio.wait([task])
            if last or not isinstance(task.exception(), BalanceUnavailable):
                # After a jump of its clock a store may be late to notice that a backoff is over.
                task.result()
        await asyncio.sleep(4 * self.terms.hold_for + 10)
        self.oracle.step()
        self.oracle.after_everything()
        self.say(f"end: {dict(sorted(self.counts.items()))}")


def _refused(head: SharedHead) -> bool:
    """Whether the provider refuses calls, as far as the head knows."""
    return head.snapshot is not None and head.snapshot.refused_until is not None
