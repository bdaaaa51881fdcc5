"""Budgets per hour, day or month: each window has an allowance of its own."""

from dataclasses import dataclass
from math import inf

from budgetguard._core.allowance import Allowance
from budgetguard._core.budget_key import Key
from budgetguard._core.budget_windows import CalendarPeriod, Period
from budgetguard._core.clock import Instant

SMALLEST_JUMP = 60.0
"""Seconds. A wall clock that runs ahead by less is not reported."""


@dataclass(frozen=True, slots=True)
class ClockJump:
    """The wall clock moved `seconds` further than the monotonic clock, so windows may have begun."""

    seconds: float

    def __str__(self) -> str:
        return (
            f"The wall clock moved {self.seconds:.0f} s further than the monotonic clock: it was set "
            "forward, or the machine was suspended. Budgets per hour, day or month go by the wall "
            "clock, so those whose window has ended begin a new one."
        )


class ClockWatch:
    """Compares the two clocks, for all calendar budgets of an account."""

    __slots__ = ("_ahead", "jump")

    def __init__(self) -> None:
        self._ahead: float | None = None
        self.jump: ClockJump | None = None

    def compare(self, now: Instant) -> None:
        """Note in `jump` if the wall clock was set forward since the last comparison."""
        ahead = now.wall - now.mono
        if self._ahead is not None and ahead - self._ahead >= SMALLEST_JUMP:
            before = self.jump.seconds if self.jump else 0.0
            self.jump = ClockJump(before + ahead - self._ahead)
        self._ahead = ahead


class CalendarWindow:
    """The current window of all the budgets of one period; `start` and `end` are wall seconds.

    A window that was reached is never left for an earlier one, so a wall clock that is set back gives
    nothing back. If the clock remains before the window's start for as long as the window lasts, by
    the monotonic clock, then a new window begins: so a clock that was far ahead for a moment delays
    the next window by the length of one at most.
    """

    __slots__ = ("_period", "_reached", "_watch", "end", "start")

    def __init__(self, period: CalendarPeriod, watch: ClockWatch) -> None:
        self._period = period
        self._watch = watch
        self._reached = 0.0
        self.start = self.end = -inf

    def move_on(self, now: Instant) -> float:
        """Begin the window that `now` is in, if it is a later one; returns the current one's end."""
        self._watch.compare(now)
        if now.wall >= self.end or (now.wall < self.start and now.mono >= self._over()):
            self.start, self.end = self._period.window(now.wall)
            self._reached = now.mono
        return self.end

    def renews_at(self, now: Instant) -> float:
        """When the next window begins, in wall seconds."""
        end = self.move_on(now)
        over = now.wall + self._over() - now.mono
        return over if over < self.start else end

    def _over(self) -> float:
        """When the window's whole length has passed, by the monotonic clock."""
        return self._reached + self.end - self.start


class CalendarBudget:
    """The budget of one name and key, per hour, day or month.

    `allowance` is that of the window which ends at `valid_until` (wall seconds), None before the
    first call of `current`. The figures are its figures.
    """

    __slots__ = ("__weakref__", "_window", "allowance", "ident", "limit", "valid_until")

    shared: bool = False

    def __init__(self, ident: tuple[str, Key, Period], window: CalendarWindow) -> None:
        self.ident = ident
        self.limit = 0
        self.allowance: Allowance | None = None
        self.valid_until = -inf
        self._window = window

    @property
    def name(self) -> str:
        """The budget's name."""
        return self.ident[0]

    @property
    def spent(self) -> int:
        """What finished calls of the window cost."""
        return self.allowance.spent if self.allowance else 0

    @property
    def held(self) -> int:
        """What running calls hold that were admitted in the window."""
        return self.allowance.held if self.allowance else 0

    @property
    def left(self) -> int:
        """What may still be taken; negative after a call that cost more than it held."""
        return self.allowance.room if self.allowance else self.limit

    def current(self, now: Instant) -> Allowance:
        """The allowance of the window that `now` is in.

        A call ends in the allowance that admitted it, in whatever window that is.
        """
        end = self._window.move_on(now)
        if self.allowance is None or self.valid_until != end:
            allowance = Allowance(self.limit)
            # In this order, with no call in between: who reads them without a lock must not find
            # the allowance of an earlier window with the end of a later one.
            self.allowance = allowance
            self.valid_until = end
            return allowance
        return self.allowance

    def renews_at(self, now: Instant) -> float:
        """When the next window begins, in wall seconds."""
        return self._window.renews_at(now)

    def change_limit(self, limit: int) -> None:
        """Replace the limit, also of the current window."""
        self.limit = limit
        if allowance := self.allowance:
            allowance.room += limit - allowance.limit
            allowance.limit = limit

    def whole(self, now: Instant) -> bool:
        """Whether nothing is held or spent in the window that `now` is in."""
        allowance = self.allowance
        if allowance is None or self.valid_until != self._window.move_on(now):
            return True
        return allowance.room == allowance.limit and not allowance.spent
