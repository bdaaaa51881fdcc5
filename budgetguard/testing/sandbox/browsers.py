"""Anchor Browser's sessions: charged for each minute as it begins, and limited in number."""

import math
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Literal

from budgetguard.testing.sandbox.account import Account, Amount, Operation, micro, number
from budgetguard.testing.sandbox.bounds import within
from budgetguard.testing.sandbox.clock import Clock, after, date
from budgetguard.testing.sandbox.replies import anchor, uuid

# Third-party readings of the pricing page (July 2026): 0.01 for a browser, and 0.05 for an hour,
# billed by the minute. Here a minute is rounded up to a whole micro-credit.
BROWSER_CREATED = Decimal("0.01")
BROWSER_MINUTE = Decimal("0.000834")
# Minutes: `session.timeout.max_duration` of the API reference (2026-11).
LONGEST_LIFE = 20
UNLIMITED = -1


@dataclass(slots=True)
class Session:
    """One browser session."""

    configuration: dict[str, Any]
    created: float
    ends: float
    operation: Operation
    ended: float | None = None

    @property
    def tags(self) -> list[str]:
        """Its labels, which `_check_tags` has checked."""
        tags: list[str] = self.configuration.get("session", {}).get("tags", [])
        return tags

    @property
    def status(self) -> str:
        """Its status. The pages list no words for it, so these are the sandbox's own."""
        words = {"running": "running", "finished": "completed", "died": "failed"}
        return words[self.operation.state]

    def duration(self, now: float) -> int:
        """Whole seconds from its creation to its end, or to now."""
        return int(after(now if self.ended is None else self.ended, -self.created))


class Browsers:
    """All sessions of the project.

    A minute is charged as it begins. If that cannot be paid, the session dies, and the credits
    that it was charged count as wasted.
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
        words = "max_concurrent_browsers is -1 for any number, or a whole number"
        self.max_concurrent = int(within(max_concurrent, -1, 1e6, words))
        self._per_minute = per_minute
        self.created_price = micro(created_price)
        self.minute_price = micro(minute_price)
        self._creations: deque[float] = deque()
        self._sessions: dict[str, Session] = {}
        self._open = 0
        self.reserved = 0

    def create(self, configuration: dict[str, Any]) -> Session:
        """Start a session. Raises the documented 400, 402, 403 and 429."""
        checked(configuration)
        with self._clock.settled() as now:
            self._check_rate(now)
            # The pages document the limit, but not the message for exceeding it.
            self.check(1, "Concurrent browser limit reached.")
            self._creations.append(now)
            return self._start(f"session-{len(self._sessions) + 1:06d}", configuration, now)

    def check(self, count: int, full: str) -> None:
        """Check that `count` more sessions may start. Raises 429 (message `full`), 403 and 402."""
        if 0 <= self.max_concurrent < self._open + self.reserved + count:
            raise anchor(429, full)
        check_payable(self._account, count * self.first_price)

    def start(self, configuration: dict[str, Any], when: float) -> Session | None:
        """Start a session that was reserved. Returns None if it can no longer be paid."""
        if not self._account.payable(self.first_price):
            return None
        # The SDK's models require UUIDs here, but accept any text as the id in `create`.
        return self._start(uuid("session", len(self._sessions) + 1), configuration, when)

    @property
    def first_price(self) -> int:
        """Micro-credits that a session is charged when it starts."""
        return self.created_price + self.minute_price

    def find(self, id: str) -> Session | None:
        """The session with that id, or None."""
        return self._sessions.get(id)

    def running(self, id: str) -> Session:
        """The running session with that id. Raises 404 if there is none."""
        session = self._sessions.get(id)
        if session is None or session.ended is not None:
            raise anchor(404, "Session not found.")
        return session

    def all(self) -> list[Session]:
        """All sessions, the oldest first."""
        return [*self._sessions.values()]

    def end(self, session: Session, when: float) -> None:
        """End a session. If it has ended already, nothing happens."""
        if session.ended is None:
            self._over(session, "finished", when)

    def delete(self, id: str) -> None:
        """End the session with that id, as `end` does. Raises 404 if there is none."""
        with self._clock.settled() as now:
            session = self._sessions.get(id)
            if session is None:
                raise anchor(404, "Session not found.")
            self.end(session, now)

    def delete_all(self) -> None:
        """End every session."""
        with self._clock.settled() as now:
            for session in self._sessions.values():
                self.end(session, now)

    def body(self, session: Session) -> dict[str, Any]:
        """The data that `GET /v1/sessions/{id}` replies with."""
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
        """One page of `GET /v1/sessions`: the sessions that have all `tags`, the newest first."""
        with self._clock.settled() as now:
            newest = [each for each in reversed(self._sessions.values()) if tags <= {*each.tags}]
            shown = newest[(page - 1) * limit : page * limit]
            return {
                "sessions": [_history(session, now) for session in shown],
                "total": len(newest),
                "page": page,
                "total_pages": math.ceil(len(newest) / limit),
            }

    def usage(self) -> dict[str, Any]:
        """The body of `GET /v1/sessions/history`: one data point for all sessions."""
        with self._clock.settled() as now:
            sessions = self.all()
            seconds = sum(each.duration(now) for each in sessions)
            credits = number(sum(each.operation.micros for each in sessions))
        figures = {"session_hours": seconds / 3600, "credits_used": credits}
        point = {"date": date(now), "session_count": len(sessions), **figures}
        totals = {f"total_{name}": figure for name, figure in figures.items()}
        return {"data": [point], "summary": {"total_sessions": len(sessions), **totals}}

    def _start(self, id: str, configuration: dict[str, Any], now: float) -> Session:
        life = _life(configuration)
        operation = self._account.begin("session", id)
        session = Session(configuration, now, after(now, life), operation)
        self._sessions[id] = session
        self._open += 1
        self._account.charge(operation, self.first_price, now)
        self._go_on(session, now)
        return session

    def _go_on(self, session: Session, when: float) -> None:
        self._clock.at(min(after(when, 60), session.ends), partial(self._minute, session))

    def _minute(self, session: Session, when: float) -> None:
        if session.ended is not None:
            return
        if when >= session.ends:
            self._over(session, "finished", when)
        elif self._account.charge(session.operation, self.minute_price, when):
            self._go_on(session, when)
        else:
            self._over(session, "died", when)

    def _over(self, session: Session, state: Literal["finished", "died"], when: float) -> None:
        session.ended = when
        self._open -= 1
        self._account.end(session.operation, state)

    def _check_rate(self, now: float) -> None:
        while self._creations and after(self._creations[0], 60) <= now:
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


def check_payable(account: Account, micros: int) -> None:
    """Raise 403 if the cost limit, or 402 if the balance, does not allow this charge."""
    if not account.within_limit(micros):
        # The pages document this for asynchronous creation only.
        account.refuse()
        raise anchor(403, "Project cost limit reached.")
    if not account.covers(micros):
        account.refuse()
        raise anchor(402, "Insufficient credits to allocate a new browser")


def checked(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a session. Raises 400 if it is not valid."""
    _life(configuration)
    _check_tags(configuration)
    return configuration


def _life(configuration: dict[str, Any]) -> float:
    """How many seconds a session lives at most.

    `idle_timeout` counts only if the request names it. No client ever connects to a browser of the
    sandbox, so the default of 5 minutes without a client would end every session early.
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
