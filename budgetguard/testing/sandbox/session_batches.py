"""Anchor Browser's sessions that start after the reply: a single one, or a batch of them."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from budgetguard.testing.sandbox.browsers import Browsers, Session, checked
from budgetguard.testing.sandbox.clock import Clock, after, date
from budgetguard.testing.sandbox.replies import anchor, uuid

# From the schema in the API reference (2026-11); the description on that page says 5,000.
LARGEST_BATCH = 1_000
# Provider seconds until the sessions start. The pages document no figure.
PROVISIONING = 5.0

Status = Literal["pending", "processing", "completed", "failed", "cancelled"]


@dataclass(slots=True)
class Item:
    """One session of a batch, whether started or not."""

    index: int
    status: Status = "pending"
    session: Session | None = None
    retries: int = 0

    @property
    def over(self) -> bool:
        """Whether its session has ended, or will never start."""
        return self.status != "pending" and (self.session is None or self.session.ended is not None)

    def body(self) -> dict[str, Any]:
        """Its entry in the status of the batch."""
        body: dict[str, Any] = {
            "item_index": self.index,
            "status": self.status,
            "retry_count": self.retries,
        }
        if self.session is not None:
            body |= {"session_id": self.session.operation.id, **addresses(self.session)}
            body["started_at"] = date(self.session.created)
        if self.status == "failed":
            body["error"] = "Insufficient credits to allocate a new browser"
        return body


@dataclass(slots=True)
class SessionBatch:
    """The sessions of one request."""

    id: str
    configuration: dict[str, Any]
    created: float
    items: list[Item]
    completed: float | None = None
    retried: bool = False
    cancelled: bool = False

    @property
    def status(self) -> Status:
        """The status of the batch."""
        if self.cancelled:
            return "cancelled"
        if self.count("pending"):
            return "processing" if self.retried else "pending"
        return "completed" if self.count("completed") else "failed"

    def count(self, status: Status) -> int:
        """How many of its sessions have that status."""
        return sum(item.status == status for item in self.items)

    def summary(self) -> dict[str, Any]:
        """The fields that every reply about the batch has."""
        return {
            "batch_id": self.id,
            "status": self.status,
            "total_requests": len(self.items),
            "created_at": date(self.created),
        }

    def body(self) -> dict[str, Any]:
        """The data that `GET /v1/batch-sessions/{batch_id}` replies with."""
        waiting = self.count("pending")
        body = {
            **self.summary(),
            "completed_requests": self.count("completed"),
            "failed_requests": self.count("failed"),
            "processing_requests": waiting if self.retried else 0,
            "pending_requests": 0 if self.retried else waiting,
            "sessions": [item.body() for item in self.items],
            "progress": {
                "percentage": 100 * (len(self.items) - waiting) / len(self.items),
                "current_phase": "provisioning" if waiting else "ready",
            },
        }
        if self.completed is not None:
            body["actual_completion_time"] = date(self.completed)
        return body


@dataclass(slots=True)
class SessionBatches:
    """All requests for sessions that start after the reply.

    A session counts against the limit of open sessions from the request on. It is charged when it
    starts, and fails if it cannot be paid then.
    """

    browsers: Browsers
    clock: Clock
    _batches: dict[str, SessionBatch] = field(default_factory=dict)

    def submit(self, kind: str, count: object, configuration: dict[str, Any]) -> SessionBatch:
        """Reserve sessions. Raises the documented 400, 402, 403 and 429."""
        if type(count) is not int or not 1 <= count <= LARGEST_BATCH:
            raise anchor(400, f"count is a number from 1 to {LARGEST_BATCH}.")
        checked(configuration)
        with self.clock.settled() as now:
            id = uuid(kind, len(self._batches) + 1)
            batch = SessionBatch(id, configuration, now, [Item(n) for n in range(count)])
            self._begin(batch, batch.items, now)
            self._batches[id] = batch
            return batch

    def find(self, id: str) -> SessionBatch:
        """The batch with that id. Raises 404 if there is none."""
        batch = self._batches.get(id)
        if batch is None:
            raise anchor(404, "Batch not found.")
        return batch

    def all(self) -> list[SessionBatch]:
        """All batches, the newest first."""
        return [*reversed(self._batches.values())]

    def retry(self, id: str, *, failed_only: bool) -> int:
        """Start failed sessions again, or all that have ended. Returns how many."""
        with self.clock.settled() as now:
            batch = self.find(id)
            again = [i for i in batch.items if (i.status == "failed" if failed_only else i.over)]
            self._begin(batch, again, now)
            for item in again:
                item.status, item.session, item.retries = "pending", None, item.retries + 1
            batch.retried, batch.cancelled = True, False
            return len(again)

    def end(self, id: str, *, cancel: bool) -> int:
        """End all sessions of a batch, started or not. Returns how many were running."""
        with self.clock.settled() as now:
            batch = self.find(id)
            ended = 0
            for item in batch.items:
                if item.status == "pending":
                    item.status = "cancelled"
                    self.browsers.reserved -= 1
                elif item.session is not None and not item.over:
                    self.browsers.end(item.session, now)
                    ended += 1
            batch.cancelled = batch.cancelled or cancel
            return ended

    def _begin(self, batch: SessionBatch, items: list[Item], now: float) -> None:
        self.browsers.check(len(items), "API key would exceed batch browser limit.")
        self.browsers.reserved += len(items)
        self.clock.at(after(now, PROVISIONING), partial(self._provision, batch, items))

    def _provision(self, batch: SessionBatch, items: list[Item], when: float) -> None:
        for item in items:
            if item.status == "pending":
                self.browsers.reserved -= 1
                item.session = self.browsers.start(batch.configuration, when)
                item.status = "failed" if item.session is None else "completed"
        batch.completed = when
        self.clock.tell()


def addresses(session: Session) -> dict[str, str]:
    """The addresses of its browser. Nothing listens there: the sandbox has no browsers."""
    id = session.operation.id
    return {"cdp_url": f"ws://127.0.0.1:9/{id}", "live_view_url": f"http://127.0.0.1:9/{id}"}
