"""pre.dev's browser agents: batches of tasks that run on so many browsers at a time."""

import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from budgetguard.testing.sandbox.account import Account, Operation, number
from budgetguard.testing.sandbox.bell import Bell
from budgetguard.testing.sandbox.clock import Clock
from budgetguard.testing.sandbox.replies import Refusal, predev_browser

# Every task is charged this at submission, also one that fails (plans-and-credits page, 2026-11;
# the page of July 2026 said that failed tasks are free).
TASK_FLOOR = 100_000
# The documented bounds of one batch and of a caller's live tasks (pages and SDK, 2026-11).
LARGEST_BATCH = 1_000
LIVE_TASKS = 1_000
BUY_MORE = "https://pre.dev/projects/key?upgrade=credits"


@dataclass(slots=True)
class Batch:
    """One submission of browser tasks."""

    tasks: list[dict[str, Any]]
    operation: Operation
    draw: random.Random
    started: int = 0
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    frames: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refusal: Refusal | None = None
    bell: Bell = field(default_factory=Bell)

    @property
    def done(self) -> bool:
        """Whether nothing more will happen."""
        return self.operation.state != "running"

    def body(self) -> dict[str, Any]:
        """The batch as `GET /browser-agent/{id}` shows it."""
        return {
            "id": self.operation.id,
            "total": len(self.tasks),
            "completed": len(self.results),
            "results": [self.results[index] for index in sorted(self.results)],
            "totalCreditsUsed": number(self.operation.micros),
            "status": "completed" if self.done else "processing",
        }


class Batches:
    """The queue of browser tasks. The meter's figures are the sandbox's own; the pages give none.

    A batch whose task cannot be paid dies: what was charged is lost, and the tasks still open end
    as errors. How pre.dev ends such a batch is not documented.
    """

    def __init__(self, account: Account, clock: Clock, seed: int) -> None:
        self._account = account
        self._clock = clock
        self._seed = seed
        self._batches: dict[str, Batch] = {}

    def submit(self, tasks: list[dict[str, Any]], concurrency: int) -> Batch:
        """Start a batch; raises the documented 400, 402 and 429."""
        if len(tasks) > LARGEST_BATCH:
            error = f"At most {LARGEST_BATCH} tasks per batch, got {len(tasks)}."
            raise predev_browser(400, error, "BATCH_TOO_LARGE")
        with self._clock.settled() as now:
            live = sum(
                len(each.tasks) - len(each.results)
                for each in self._batches.values()
                if not each.done
            )
            if live + len(tasks) > LIVE_TASKS:
                raise predev_browser(429, f"{live} tasks are in flight.", "QUEUE_FULL")
            floor = TASK_FLOOR * len(tasks)
            if not self._account.covers(floor):
                self._account.refuse()
                raise self._out_of_credits(floor)
            order = len(self._batches) + 1
            batch = Batch(
                tasks,
                self._account.begin("browser_agent", f"batch_{order:06d}"),
                random.Random(f"{self._seed}:batch:{order}"),  # noqa: S311 - a simulation
            )
            self._batches[batch.operation.id] = batch
            self._account.charge(batch.operation, floor, now)
            for _ in range(min(concurrency, len(tasks))):
                self._start(batch, now)
            return batch

    def find(self, id: str) -> Batch | None:
        """The batch of that id."""
        return self._batches.get(id)

    def _start(self, batch: Batch, when: float) -> None:
        if batch.started == len(batch.tasks):
            return
        index = batch.started
        batch.started += 1
        seconds = batch.draw.randint(10, 30)
        metered = batch.draw.randint(0, 4) * 100_000
        event = {"taskIndex": index, "type": "navigation", "url": batch.tasks[index]["url"]}
        batch.frames.append(("task_event", event))
        self._clock.at(when + seconds, partial(self._finish, batch, index, seconds, metered))

    def _finish(self, batch: Batch, index: int, seconds: int, metered: int, when: float) -> None:
        if batch.done:
            return
        if metered and not self._account.charge(batch.operation, metered, when):
            batch.refusal = self._out_of_credits(metered)
            for unfinished in range(len(batch.tasks)):
                if unfinished not in batch.results:
                    self._record(batch, unfinished, "ERROR", TASK_FLOOR)
            batch.frames.append(("error", batch.refusal.body))
            self._account.end(batch.operation, "died")
        else:
            result = self._record(batch, index, "SUCCESS", TASK_FLOOR + metered)
            result |= {"data": {}, "durationMs": 1000 * seconds}
            batch.frames.append(("task_result", {"taskIndex": index, **result}))
            self._start(batch, when)
            if len(batch.results) == len(batch.tasks):
                self._account.end(batch.operation, "finished")
                batch.frames.append(("done", batch.body()))
        batch.bell.ring()

    def _record(self, batch: Batch, index: int, status: str, micros: int) -> dict[str, Any]:
        result = {
            "url": batch.tasks[index]["url"],
            "status": status,
            "creditsUsed": number(micros),
        }
        batch.results[index] = result
        return result

    def _out_of_credits(self, needed: int) -> Refusal:
        have = self._account.balance
        error = f"Need ~{number(needed)} credits, have {have:.2f}. Buy more to continue."
        return predev_browser(402, error, "INSUFFICIENT_CREDITS", BUY_MORE)
