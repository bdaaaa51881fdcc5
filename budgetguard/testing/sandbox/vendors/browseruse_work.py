"""What goes on at Browser Use after a request: agents that work step by step, and browsers.

`Work` has the JSON that the three APIs show of it. All fields that the SDK's models require are there
(browser-use-sdk 3.12.1, 2026-11).
"""

import math
from dataclasses import dataclass
from typing import Any

from budgetguard.testing.sandbox.account import Operation, credits_of
from budgetguard.testing.sandbox.clock import after, date

# USD for an hour, billed by the minute: the API reference's description of `POST /browsers` (2026-08).
BROWSER_HOUR_MICROS = 20_000
_HOUR = 60


@dataclass(slots=True)
class Work:
    """A task, a session, a run or a browser.

    `spent` is in micro-dollars; `cap` is where an agent stops. A session that is continued has one
    operation for each of its tasks.
    """

    id: str
    operations: list[Operation]
    status: str
    created: float
    asked: dict[str, Any]
    session: str
    cap: float = math.inf
    steps: int = 0
    ended: float | None = None
    output: str | None = None
    error: str | None = None
    is_successful: bool | None = None

    @property
    def operation(self) -> Operation:
        """The one that runs, or ran last."""
        return self.operations[-1]

    @property
    def spent(self) -> int:
        """Micro-dollars charged for it so far."""
        return sum(each.micros for each in self.operations)

    @property
    def cost(self) -> str:
        """What was charged so far, as its replies say it."""
        return f"{credits_of(self.spent):f}"

    @property
    def minutes(self) -> int:
        """The minutes for which a browser was asked."""
        return int(self.asked.get("timeout", _HOUR))

    def task_status(self) -> dict[str, Any]:
        """A task of v2, as the route to be polled shows it."""
        return {
            "id": self.id,
            "status": self.status,
            "output": self.output,
            "finishedAt": None if self.ended is None else date(self.ended),
            "isSuccess": self.is_successful,
            "cost": self.cost if self.steps else None,
        }

    def task(self) -> dict[str, Any]:
        """A task of v2."""
        return {
            **self.task_status(),
            "sessionId": self.session,
            "llm": self.asked.get("llm", "browser-use-2.0"),
            "task": self.asked.get("task", ""),
            "createdAt": date(self.created),
            "steps": [],
            "outputFiles": [],
        }

    def old_session(self) -> dict[str, Any]:
        """A session of v2."""
        return {
            "id": self.id,
            "status": self.status,
            "startedAt": date(self.created),
            "finishedAt": None if self.ended is None else date(self.ended),
            "persistMemory": self.asked.get("persistMemory", True),
            "keepAlive": self.asked.get("keepAlive", True),
            "proxyUsedMb": "0",
            "proxyCost": "0",
            "tasks": [],
        }

    def session_view(self) -> dict[str, Any]:
        """A session of v3, which reports all that it has cost."""
        cap = None if self.cap == math.inf else f"{credits_of(int(self.cap)):f}"
        return {
            "id": self.id,
            "status": self.status,
            "model": self.asked.get("model", "claude-opus-4.7"),
            "output": self.output,
            "stepCount": self.steps,
            "isTaskSuccessful": self.is_successful,
            "maxCostUsd": cap,
            "llmCostUsd": self.cost,
            "proxyCostUsd": "0",
            "browserCostUsd": "0",
            "totalCostUsd": self.cost,
            "createdAt": date(self.created),
            "updatedAt": date(self.created if self.ended is None else self.ended),
        }

    def run_created(self) -> dict[str, Any]:
        """The reply to the request for a run of v4."""
        return {
            "id": self.id,
            "status": "queued",
            "model": self.asked.get("model", "gpt-6-luna"),
            "sessionId": self.session,
            "workspaceId": self.session,
            "eventsUrl": f"/api/v4/runs/{self.id}/events",
        }

    def run(self) -> dict[str, Any]:
        """A run of v4."""
        return {
            "id": self.id,
            "task": self.asked.get("task", ""),
            "title": None,
            "model": self.asked.get("model", "gpt-6-luna"),
            "contextLimit": 200_000,
            "status": self.status,
            "result": self.output,
            "error": self.error,
            "sessionId": self.session,
            "workspaceId": self.session,
            "totalInputTokens": 1_000 * self.steps,
            "totalOutputTokens": 100 * self.steps,
            "totalCostUsd": self.cost,
            "createdAt": date(self.created),
            "updatedAt": date(self.created if self.ended is None else self.ended),
        }

    def browser(self) -> dict[str, Any]:
        """A browser, which is alike in all three APIs."""
        return {
            "id": self.id,
            "status": self.status,
            "liveUrl": f"http://127.0.0.1/live/{self.id}",
            "cdpUrl": f"http://127.0.0.1/cdp/{self.id}",
            "timeoutAt": date(after(self.created, 60 * self.minutes)),
            "startedAt": date(self.created),
            "finishedAt": None if self.ended is None else date(self.ended),
            "proxyUsedMb": "0",
            "proxyCost": "0",
            "browserCost": self.cost,
        }


def browser_micros(minutes: float) -> int:
    """What a browser costs that is open for so many minutes: begun ones count, and at least one."""
    return math.ceil(BROWSER_HOUR_MICROS * max(math.ceil(minutes), 1) / _HOUR)
