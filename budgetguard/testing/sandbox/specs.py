"""pre.dev's specifications: generated inference by inference, each booked as it ends."""

import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from budgetguard.testing.sandbox.account import Account, Operation, number
from budgetguard.testing.sandbox.bell import Bell
from budgetguard.testing.sandbox.clock import Clock, date
from budgetguard.testing.sandbox.replies import predev_out_of_credits


@dataclass(frozen=True, slots=True)
class Kind:
    """What one endpoint's specs cost and how long they take.

    `credits` and `seconds` are the documented ranges (pre.dev's API pages, 2026-11); the number of
    inferences is the sandbox's own: the pages do not give one.
    """

    endpoint: Literal["fast_spec", "deep_spec"]
    credits: tuple[int, int]
    seconds: tuple[int, int]
    inferences: int


FAST_SPEC = Kind("fast_spec", credits=(5, 10), seconds=(30, 60), inferences=5)
DEEP_SPEC = Kind("deep_spec", credits=(10, 50), seconds=(120, 300), inferences=10)


@dataclass(slots=True)
class Spec:
    """One specification under way or done."""

    kind: Kind
    prompt: str
    created: float
    step: float
    parts: list[int]
    operation: Operation
    ended: float | None = None
    booked: int = 0
    bell: Bell = field(default_factory=Bell)

    @property
    def status(self) -> Literal["pending", "processing", "completed", "failed"]:
        """The status word of `GET /spec-status`."""
        if self.operation.state == "running":
            return "processing" if self.booked else "pending"
        return "completed" if self.operation.state == "finished" else "failed"

    def body(self) -> dict[str, Any]:
        """The spec as both `GET /spec-status` and a synchronous submission show it."""
        status = self.status
        body = {
            "_id": self.operation.id,
            "created": date(self.created),
            "endpoint": self.kind.endpoint,
            "input": self.prompt,
            "status": status,
            "success": status == "completed",
            "progress": 100 * self.booked // len(self.parts),
            "creditsUsed": number(self.operation.micros),
        }
        if self.ended is not None:
            body["executionTime"] = round(1000 * (self.ended - self.created))
        if status == "failed":
            body["errorMessage"] = predev_out_of_credits().body["message"]
        if status == "completed":
            text = f"# {self.kind.endpoint}\n\n{self.prompt}\n"
            body |= {"codingAgentSpecMarkdown": text, "humanSpecMarkdown": text}
        return body


class Specs:
    """The desk that takes submissions; costs follow from the seed and their order."""

    def __init__(self, account: Account, clock: Clock, seed: int) -> None:
        self._account = account
        self._clock = clock
        self._seed = seed
        self._specs: dict[str, Spec] = {}

    def submit(self, kind: Kind, prompt: str) -> Spec:
        """Start a spec; raises the documented 402 when the balance is used up."""
        with self._clock.settled() as now:
            if not self._account.covers(0):
                self._account.refuse()
                raise predev_out_of_credits()
            number_in_order = len(self._specs) + 1
            draw = random.Random(f"{self._seed}:{number_in_order}")  # noqa: S311 - a simulation
            parts = _split(draw.randint(*kind.credits), kind.inferences, draw)
            spec = Spec(
                kind=kind,
                prompt=prompt,
                created=now,
                step=draw.randint(*kind.seconds) / kind.inferences,
                parts=[credits * 1_000_000 for credits in parts],
                operation=self._account.begin(kind.endpoint, f"spec_{number_in_order:06d}"),
            )
            self._specs[spec.operation.id] = spec
            self._clock.at(now + spec.step, partial(self._infer, spec))
            return spec

    def find(self, id: str) -> Spec | None:
        """The spec of that id."""
        return self._specs.get(id)

    def _infer(self, spec: Spec, when: float) -> None:
        if not self._account.charge(spec.operation, spec.parts[spec.booked], when):
            spec.ended = when
            self._account.end(spec.operation, "died")
        else:
            spec.booked += 1
            if spec.booked == len(spec.parts):
                spec.ended = when
                self._account.end(spec.operation, "finished")
            else:
                self._clock.at(when + spec.step, partial(self._infer, spec))
        spec.bell.ring()


def _split(total: int, parts: int, draw: random.Random) -> list[int]:
    """`total` whole credits over so many parts, at least one in each."""
    cuts = sorted(draw.sample(range(1, total), parts - 1))
    return [after - before for before, after in zip([0, *cuts], [*cuts, total], strict=True)]
