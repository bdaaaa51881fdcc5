"""The provider of the fleet: it works, books and answers whatever becomes of the process that asked."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from processes import HERE, FleetLoop, Process
from provider import Provider

if TYPE_CHECKING:
    import asyncio

FINGERPRINT = "f" * 64


@dataclass(eq=False)
class Call:
    """What the world itself knows of one call; amounts are micro-credits, times the world's."""

    number: int
    process: Process
    cost: int
    slots: int
    wait: float
    arrived: float
    idle_before: float
    stops_before: int = 0
    state: Literal["asking", "open", "ended"] = "asking"
    held: int = 0
    worked: int = 0
    earlier: int = 0
    """What was worked in attempts before the last."""
    kind: str = ""
    """What else is done with its hold."""
    budgets: tuple[Any, ...] = ()
    answered: bool = False
    least: float = float("inf")
    """The least that was free or in slack at any moment since it asked, besides what others asked for."""
    parts: list["Part"] = field(default_factory=list)
    work: list[tuple[float, int]] = field(default_factory=list)

    def worked_since(self, moment: float) -> int:
        """What the provider has worked for it since then."""
        return sum(micro for at, micro in self.work if at >= moment)

    @property
    def holds_or_costs(self) -> int:
        """What it takes from a budget, at least."""
        if self.state == "open" and self.process.alive:
            return self.held
        return self.worked + self.to_come

    @property
    def to_come(self) -> int:
        """What the provider is still going to work."""
        return sum(part.micro for part in self.parts)

    @property
    def promised(self) -> int:
        """What it may still cost."""
        if self.state == "open" and self.process.alive:
            return max(self.held - self.worked, self.to_come, 0)
        return self.to_come


@dataclass(eq=False)
class Part:
    """Work that is still to be done."""

    micro: int
    moved: bool = False


class Vendor(Provider):
    """An account whose work goes on in the world outside of all processes."""

    fingerprint = FINGERPRINT
    loop: FleetLoop
    say: Any

    async def fetch(self, _: Any) -> Any:
        """One look; its books are read at some moment, whatever becomes of the process meanwhile."""
        process = HERE.get()
        assert process is not None
        self.sent.append(self._clock.mono)
        latency = self._random.expovariate(1 / self.nature.latency)
        if self.nature.prompt:
            latency = min(latency, 1.0)
        mishap = self._a_mishap()
        answer = self.loop.create_future()
        if mishap == "hang":
            latency = 3600.0
        before = self._random.uniform(0, latency)

        def see() -> None:
            seen = self.now_reported()
            self.loop.outside(latency - before, process.call, arrive, seen)

        def arrive(seen: int) -> None:
            if not answer.done():
                answer.set_result(seen)

        self.loop.outside(before, see)
        return self._reply(await answer, mishap)

    def _a_mishap(self) -> str:
        if self.down:
            return "refused"
        if self._random.random() >= self.nature.failing:
            return ""
        return self._random.choice(["500", "nonsense", "hang", "refused", "raises"])

    async def serve(self, call: Call, amounts: list[int], seconds: float) -> None:
        """Work in parts, evenly over so many seconds; returns when the answer is there."""
        answer: asyncio.Future[None] = self.loop.create_future()
        at_once = self.nature.books == "start"
        for index, micro in enumerate(amounts):
            part = Part(micro)
            call.parts.append(part)
            share = index if at_once else index + 1
            if at_once and not index:
                self._done(call, part)
            else:
                self.loop.outside(seconds * share / len(amounts), self._done, call, part)

        def arrive() -> None:
            if not answer.done():
                answer.set_result(None)

        self.loop.outside(seconds + 0.001, call.process.call, arrive)
        await answer

    def _done(self, call: Call, part: Part) -> None:
        """A part is done, unless the client went away: then it is done at another time."""
        if not part.moved:
            self._charge(call, part)

    def _charge(self, call: Call, part: Part) -> None:
        call.parts.remove(part)
        call.worked += part.micro
        call.work.append((self._clock.mono, part.micro))
        self.work(part.micro)
        self.say(f"{call.number} worked {part.micro}, {self.true} left")

    def abandon(self, call: Call) -> None:
        """The client has gone; the provider goes on for a while."""
        for part in call.parts:
            part.moved = True
            self.loop.outside(self._random.uniform(0, self.nature.linger), self._charge, call, part)
