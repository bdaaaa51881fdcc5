"""Anchor Browser's AI tasks: charged for each step, and for a browser if they open one."""

import random
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Literal

from budgetguard.testing.sandbox.account import Account, Operation, micro
from budgetguard.testing.sandbox.bell import Bell
from budgetguard.testing.sandbox.browsers import Browsers, check_payable
from budgetguard.testing.sandbox.clock import Clock, after
from budgetguard.testing.sandbox.replies import anchor, uuid

# From a third-party reading of the pricing page (July 2026).
AI_STEP = Decimal("0.01")
# The default of `max_steps` in the API reference (2026-11).
MOST_STEPS = 200
# How many steps a task takes, and how many provider seconds a step takes. Not documented.
_STEPS = (3, 30)
_STEP = 10
_STEPS_A_MINUTE = 60 // _STEP

Kind = Literal["workflow", "run", "generation", "execution"]


@dataclass(slots=True)
class Task:
    """One task, in any state."""

    kind: Kind
    subject: str
    session_id: str | None
    created: float
    steps: int
    operation: Operation
    taken: int = 0
    ended: float | None = None
    bell: Bell = field(default_factory=Bell)

    @property
    def failed(self) -> bool:
        """Whether it ended because a step could not be paid."""
        return self.operation.state == "died"

    @property
    def milliseconds(self) -> int | None:
        """How long it took, or None while it runs."""
        return None if self.ended is None else round(1000 * (self.ended - self.created))

    @property
    def result(self) -> dict[str, str]:
        """Its result, which the sandbox invents."""
        return {"answer": f"{self.subject}: done in {self.steps} steps"}


class WebTasks:
    """All AI tasks of the project.

    A task is charged for each step. If the request names no session, the task opens a browser
    while it runs; that is charged like a session, but does not count against the limit of open
    sessions. If a step cannot be paid, the task dies. No price is documented for generating tasks
    and for running them, so they are charged like web tasks.
    """

    def __init__(self, account: Account, clock: Clock, seed: int, browsers: Browsers) -> None:
        self._account = account
        self._clock = clock
        self._seed = seed
        self._browsers = browsers
        self._step = micro(AI_STEP)
        self._tasks: dict[str, Task] = {}

    def start(
        self, kind: Kind, subject: str, session_id: str | None, most: int = MOST_STEPS
    ) -> Task:
        """Start a task. Raises 404 if the session is not running.

        Also raises 402 and 403, as for a session; for tasks, the pages do not document them.
        """
        with self._clock.settled() as now:
            if session_id is not None:
                self._browsers.running(session_id)
            first = self._step + (0 if session_id else self._browsers.first_price)
            check_payable(self._account, first)
            order = len(self._tasks) + 1
            draw = random.Random(f"{self._seed}:task:{order}")  # noqa: S311 - a simulation
            id = uuid("task", order)
            steps = min(draw.randint(*_STEPS), most)
            operation = self._account.begin(f"task_{kind}", id)
            task = self._tasks[id] = Task(kind, subject, session_id, now, steps, operation)
            if session_id is None:
                self._account.charge(operation, self._browsers.first_price, now)
            self._clock.at(after(now, _STEP), partial(self._take, task))
            return task

    def find(self, kind: Kind, id: str) -> Task:
        """The task of that kind with that id. Raises 404 if there is none."""
        task = self._tasks.get(id)
        if task is None or task.kind != kind:
            raise anchor(404, "Not found.")
        return task

    def executions(self, subject: str) -> list[Task]:
        """The runs of a task by the legacy routes, the newest first."""
        tasks = reversed(self._tasks.values())
        return [it for it in tasks if it.kind == "execution" and it.subject == subject]

    def _take(self, task: Task, when: float) -> None:
        last = task.taken + 1 == task.steps
        micros = self._step
        if task.session_id is None and not last and (task.taken + 1) % _STEPS_A_MINUTE == 0:
            micros += self._browsers.minute_price
        if not self._account.charge(task.operation, micros, when):
            self._end(task, "died", when)
            return
        task.taken += 1
        if last:
            self._end(task, "finished", when)
        else:
            self._clock.at(after(when, _STEP), partial(self._take, task))

    def _end(self, task: Task, state: Literal["finished", "died"], when: float) -> None:
        task.ended = when
        self._account.end(task.operation, state)
        task.bell.ring()
