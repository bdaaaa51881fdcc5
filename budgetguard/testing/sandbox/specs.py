"""pre.dev's specifications. Each consists of inferences, charged one by one as they finish."""

import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from budgetguard.testing.sandbox.account import Account, Operation, number
from budgetguard.testing.sandbox.bell import Bell
from budgetguard.testing.sandbox.clock import Clock, after, date
from budgetguard.testing.sandbox.replies import predev_out_of_credits


@dataclass(frozen=True, slots=True)
class Kind:
    """What the specs of one endpoint cost, and how long they take.

    `credits` and `seconds` are the documented ranges (pre.dev's API pages, 2026-11). The pages do
    not document the number of inferences; the sandbox chooses it.
    """

    endpoint: Literal["fast_spec", "deep_spec"]
    credits: tuple[int, int]
    seconds: tuple[int, int]
    inferences: int


FAST_SPEC = Kind("fast_spec", credits=(5, 10), seconds=(30, 60), inferences=5)
DEEP_SPEC = Kind("deep_spec", credits=(10, 50), seconds=(120, 300), inferences=10)


@dataclass(slots=True)
class Spec:
    """One specification, in any state."""

    kind: Kind
    prompt: str
    created: float
    step: float
    parts: list[int]
    operation: Operation
    file: str | None = None
    ended: float | None = None
    charged_parts: int = 0
    bell: Bell = field(default_factory=Bell)

    @property
    def status(self) -> Literal["pending", "processing", "completed", "failed"]:
        """Its status as `GET /spec-status` reports it."""
        if self.operation.state == "running":
            return "processing" if self.charged_parts else "pending"
        return "completed" if self.operation.state == "finished" else "failed"

    def body(self) -> dict[str, Any]:
        """The body that `GET /spec-status` and a synchronous submission reply with."""
        status = self.status
        body = {
            "_id": self.operation.id,
            "created": date(self.created),
            "endpoint": self.kind.endpoint,
            "input": self.prompt,
            "status": status,
            "success": status == "completed",
            "progress": 100 * self.charged_parts // len(self.parts),
            "creditsUsed": number(self.operation.micros),
        }
        if self.file is not None:
            body["uploadedFileName"] = self.file
        if self.ended is not None:
            body["executionTime"] = round(1000 * (self.ended - self.created))
        if status == "failed":
            body["errorMessage"] = predev_out_of_credits().body["message"]
        if status == "completed":
            text = f"# {self.kind.endpoint}\n\n{self.prompt}\n"
            body |= {"codingAgentSpecMarkdown": text, "humanSpecMarkdown": text}
        return body


class Specs:
    """All specs. The seed and the order of their submission decide what they cost."""

    def __init__(self, account: Account, clock: Clock, seed: int) -> None:
        self._account = account
        self._clock = clock
        self._seed = seed
        self._specs: dict[str, Spec] = {}

    def submit(self, kind: Kind, prompt: str) -> Spec:
        """Start a spec. Raises the documented 402 if the balance is used up."""
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
            self._clock.at(after(now, spec.step), partial(self._infer, spec))
            return spec

    def find(self, id: str) -> Spec | None:
        """The spec with that id, or None."""
        return self._specs.get(id)

    def all(self) -> list[Spec]:
        """All specs, the newest first."""
        return [*reversed(self._specs.values())]

    def _infer(self, spec: Spec, when: float) -> None:
        if not self._account.charge(spec.operation, spec.parts[spec.charged_parts], when):
            spec.ended = when
            self._account.end(spec.operation, "died")
        else:
            spec.charged_parts += 1
            if spec.charged_parts == len(spec.parts):
                spec.ended = when
                self._account.end(spec.operation, "finished")
            else:
                self._clock.at(after(when, spec.step), partial(self._infer, spec))
        spec.bell.ring()


def _split(total: int, parts: int, draw: random.Random) -> list[int]:
    """Split `total` whole credits into so many parts of at least one credit each."""
    cuts = sorted(draw.sample(range(1, total), parts - 1))
    return [after - before for before, after in zip([0, *cuts], [*cuts, total], strict=True)]
