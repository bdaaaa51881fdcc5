"""Anchor Browser's sessions: billed by the minute begun, a few at a time."""

import math
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from budgetguard.testing.sandbox.account import Account, Amount, Operation, micro, number
from budgetguard.testing.sandbox.clock import Clock, date
from budgetguard.testing.sandbox.replies import anchor

# Third-party readings of the pricing page (July 2026): 0.01 a browser, 0.05 a browser-hour billed
# by the minute, here rounded up to a whole micro-credit.
BROWSER_CREATED = Decimal("0.01")
BROWSER_MINUTE = Decimal("0.000834")
# Minutes: `session.timeout.max_duration` of the API reference (2026-11).
LONGEST_LIFE = 20
UNLIMITED = -1


@dataclass(slots=True)
class Session:
    """One browser."""

    configuration: dict[str, Any]
    created: float
    ends: float
    operation: Operation
    ended: float | None = None

    @property
    def tags(self) -> list[str]:
        """The labels that it was given, as `_check_tags` found them."""
        tags: list[str] = self.configuration.get("session", {}).get("tags", [])
        return tags

    @property
    def status(self) -> str:
        """The sandbox's words: the pages list none."""
        words = {"running": "running", "finished": "completed", "died": "failed"}
        return words[self.operation.state]

    def duration(self, now: float) -> int:
        """Whole seconds from its creation to its end, or to now."""
        return int((now if self.ended is None else self.ended) - self.created)


class Browsers:
    """The project's browsers.

    A minute is charged as it begins. One that cannot be paid ends the session, and what it was
    charged counts as wasted.
    """

    def __init__(
        self,
        account: Account,
        clock: Clock,
        *,
        max_concurrent: int,
        per_minute: int | None,
        created_price: Amount,
        minute_price: Amount,
    ) -> None:
        self._account = account
        self._clock = clock
        self.max_concurrent = max_concurrent
        self._per_minute = per_minute
        self._created_price = micro(created_price)
        self._minute_price = micro(minute_price)
        self._creations: deque[float] = deque()
        self._sessions: dict[str, Session] = {}

    def create(self, configuration: dict[str, Any]) -> Session:
        """Start a browser; raises the documented 400, 402, 403 and 429."""
        life = _life(configuration)
        _check_tags(configuration)
        with self._clock.settled() as now:
            self._check_rate(now)
            if 0 <= self.max_concurrent <= self._account.running:
                # The pages document the limit, and no words of its own for passing it.
                raise anchor(429, "Concurrent browser limit reached.")
            first = self._created_price + self._minute_price
            if not self._account.within_limit(first):
                # Documented for asynchronous creation only.
                self._account.refuse()
                raise anchor(403, "Project cost limit reached.")
            if not self._account.covers(first):
                self._account.refuse()
                raise anchor(402, "Insufficient credits to allocate a new browser")
            id = f"session-{len(self._sessions) + 1:06d}"
            operation = self._account.begin("session", id)
            session = Session(configuration, now, now + life, operation)
            self._sessions[id] = session
            self._creations.append(now)
            self._account.charge(operation, first, now)
            self._go_on(session, now)
            return session

    def find(self, id: str) -> Session | None:
        """The session of that id, running or over."""
        return self._sessions.get(id)

    def delete(self, id: str) -> None:
        """End a session; nothing happens to one that is over. Raises 404 for none at all."""
        with self._clock.settled() as now:
            session = self._sessions.get(id)
            if session is None:
                raise anchor(404, "Session not found.")
            self._end(session, now)

    def delete_all(self) -> None:
        """End every session."""
        with self._clock.settled() as now:
            for session in self._sessions.values():
                self._end(session, now)

    def body(self, session: Session) -> dict[str, Any]:
        """The session as `GET /v1/sessions/{id}` shows it."""
        with self._clock.settled() as now:
            return {
                "session_id": session.operation.id,
                "status": session.status,
                "duration": session.duration(now),
                "credits_used": number(session.operation.micros),
                "configuration": session.configuration,
                "playground": False,
                "proxy_bytes": 0,
                "steps": 0,
                "created_at": date(session.created),
            }

    def page(self, page: int, limit: int, tags: AbstractSet[str] = frozenset()) -> dict[str, Any]:
        """One page of `GET /v1/sessions`, the newest first, of sessions that carry all `tags`."""
        with self._clock.settled() as now:
            newest = [each for each in reversed(self._sessions.values()) if tags <= {*each.tags}]
            shown = newest[(page - 1) * limit : page * limit]
            return {
                "sessions": [_history(session, now) for session in shown],
                "total": len(newest),
                "page": page,
                "total_pages": math.ceil(len(newest) / limit),
            }

    def _go_on(self, session: Session, when: float) -> None:
        self._clock.at(min(when + 60, session.ends), partial(self._minute, session))

    def _minute(self, session: Session, when: float) -> None:
        if session.ended is not None:
            return
        if when >= session.ends:
            self._end(session, when)
        elif self._account.charge(session.operation, self._minute_price, when):
            self._go_on(session, when)
        else:
            session.ended = when
            self._account.end(session.operation, "died")

    def _end(self, session: Session, when: float) -> None:
        if session.ended is None:
            session.ended = when
            self._account.end(session.operation, "finished")

    def _check_rate(self, now: float) -> None:
        while self._creations and self._creations[0] <= now - 60:
            self._creations.popleft()
        if self._per_minute is None or len(self._creations) < self._per_minute:
            return
        wait = self._creations[0] + 60 - now if self._creations else 60
        seconds = max(1, math.ceil(self._clock.real(wait)))
        policy = f'"{self._per_minute}-in-1min"'
        headers = {
            "RateLimit": f"{policy}; r=0; t={seconds}",
            "RateLimit-Policy": f"{policy}; q={self._per_minute}; w=60",
            "Retry-After": str(seconds),
        }
        raise anchor(429, "Session creation rate limit exceeded.", headers)


def _life(configuration: dict[str, Any]) -> float:
    """How many seconds a session lives at most.

    `idle_timeout` counts only where it is named: no client connects to a browser of the sandbox,
    and the default of 5 minutes after the last one left would end each session early.
    """
    timeout: Any = configuration
    for name in ("session", "timeout"):
        timeout = timeout.get(name, {})
        if not isinstance(timeout, dict):
            raise anchor(400, f"{name} is an object.")
    limits = []
    for name, default in (("max_duration", LONGEST_LIFE), ("idle_timeout", UNLIMITED)):
        minutes = timeout.get(name, default)
        if type(minutes) is not int or (minutes != UNLIMITED and minutes <= 0):
            raise anchor(400, f"session.timeout.{name} is a number of minutes, or -1.")
        limits.append(math.inf if minutes == UNLIMITED else 60.0 * minutes)
    return min(limits)


def _check_tags(configuration: dict[str, Any]) -> None:
    tags = configuration.get("session", {}).get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise anchor(400, "session.tags is a list of strings.")


def _history(session: Session, now: float) -> dict[str, Any]:
    running = session.ended is None
    return {
        "id": session.operation.id,
        "status": session.status,
        "tags": session.tags,
        "headless": False,
        "recording": False,
        "used_credits": "N/A" if running else number(session.operation.micros),
        "proxy_bytes": 0,
        "steps": 0,
        "duration": session.duration(now),
        "created_at": date(session.created),
        "user_configuration": session.configuration,
        "task_initiated": False,
        "task_executions_count": 0,
        "api_key_name": "sandbox",
        "browser_ip": "127.0.0.1",
        "domains": [],
    }
