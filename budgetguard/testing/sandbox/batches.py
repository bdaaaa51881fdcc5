"""pre.dev's browser agents: batches of tasks, of which a limited number runs at a time."""

import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from budgetguard.testing.sandbox.account import Account, Operation, number
from budgetguard.testing.sandbox.bell import Bell
from budgetguard.testing.sandbox.clock import Clock, after
from budgetguard.testing.sandbox.replies import Refusal, predev_browser

# Every task is charged this at submission, even if it fails later (plans-and-credits page,
# 2026-11; in July 2026 the page said that failed tasks are free).
TASK_FLOOR = 100_000
# The documented limits of one batch and of a caller's live tasks (pages and SDK, 2026-11).
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
        """Whether the batch has ended."""
        return self.operation.state != "running"

    @property
    def live(self) -> int:
        """How many of its tasks have not ended."""
        return 0 if self.done else len(self.tasks) - len(self.results)

    def body(self, *, with_events: bool = False) -> dict[str, Any]:
        """The body that `GET /browser-agent/{id}` replies with."""
        results = [
            self.results[index] | ({"events": self._events(index)} if with_events else {})
            for index in sorted(self.results)
        ]
        return {
            "id": self.operation.id,
            "total": len(self.tasks),
            "completed": len(self.results),
            "results": results,
            "totalCreditsUsed": number(self.operation.micros),
            "status": "completed" if self.done else "processing",
        }

    def _events(self, index: int) -> list[dict[str, Any]]:
        frames = (data for kind, data in self.frames if kind == "task_event")
        return [event for event in frames if event["taskIndex"] == index]


class Batches:
    """All batches of browser tasks.

    A task that succeeds is charged 0 to 0.4 credits on top of the floor; the pages document no
    figures for this, so the sandbox chooses them. If a task cannot be paid, its batch dies: the
    charges already made remain, and the unfinished tasks end with an error. How pre.dev ends such
    a batch is not documented.
    """

    def __init__(self, account: Account, clock: Clock, seed: int) -> None:
        self._account = account
        self._clock = clock
        self._seed = seed
        self._batches: dict[str, Batch] = {}

    def submit(self, tasks: list[dict[str, Any]], concurrency: int) -> Batch:
        """Start a batch. Raises the documented 400, 402 and 429."""
        if len(tasks) > LARGEST_BATCH:
            error = f"At most {LARGEST_BATCH} tasks per batch, got {len(tasks)}."
            raise predev_browser(400, error, "BATCH_TOO_LARGE")
        with self._clock.settled() as now:
            live = sum(each.live for each in self._batches.values())
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
        """The batch with that id, or None."""
        return self._batches.get(id)

    def all(self) -> list[Batch]:
        """All batches, the newest first."""
        return [*reversed(self._batches.values())]

    def queue(self) -> tuple[int, int]:
        """How many tasks are running, and how many are waiting for a browser."""
        with self._clock.settled():
            live = [each for each in self._batches.values() if not each.done]
            running = sum(each.started - len(each.results) for each in live)
            return running, sum(each.live for each in live) - running

    def _start(self, batch: Batch, when: float) -> None:
        if batch.started == len(batch.tasks):
            return
        index = batch.started
        batch.started += 1
        seconds = batch.draw.randint(10, 30)
        metered = batch.draw.randint(0, 4) * 100_000
        event = {"taskIndex": index, "type": "navigation", "url": batch.tasks[index]["url"]}
        batch.frames.append(("task_event", event))
        self._clock.at(after(when, seconds), partial(self._finish, batch, index, seconds, metered))

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
