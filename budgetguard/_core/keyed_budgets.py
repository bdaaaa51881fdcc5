"""The keyed budgets of one account: found by name, key and period, and forgotten when they are whole."""

from collections import deque
from typing import TypeAlias
from weakref import ref

from budgetguard._core.budget_key import Key
from budgetguard._core.budget_windows import CalendarPeriod, Period
from budgetguard._core.calendar_budget import CalendarBudget, CalendarWindow, ClockJump, ClockWatch
from budgetguard._core.clock import Instant
from budgetguard._core.rolling_budget import RollingBudget

CHECKS_PER_CALL = 2
CHECKS_BEFORE_QUIET = 1024

KeyedBudget: TypeAlias = CalendarBudget | RollingBudget


class KeyedBudgets:
    """The keyed budgets of one account; everything here needs the account's lock.

    Neither an LRU nor a TTL cache fits: what is spent must not be evicted, however many keys there
    are, and a window's end would expire all keys at once. Instead, each `find` checks the two budgets
    that were not checked for the longest time, and forgets one that is whole, if nobody refers to
    it. So there are never many more whole ones than others. After a window in which a million keys
    spent something, half a million calls forget them, and none of the calls pauses for it.
    """

    __slots__ = ("_budgets", "_to_check", "_watch", "_windows")

    def __init__(self) -> None:
        # A weak reference for a moment, while it is checked whether anybody else has one.
        self._budgets: dict[tuple[str, Key, Period], KeyedBudget | ref[KeyedBudget]] = {}
        self._to_check: deque[KeyedBudget] = deque()
        # One for each unit and zone; they are kept, so that no clock that is set back reopens one.
        self._windows: dict[CalendarPeriod, CalendarWindow] = {}
        self._watch = ClockWatch()

    def __len__(self) -> int:
        """How many budgets are remembered."""
        return len(self._budgets)

    def find(self, name: str, key: Key, period: Period, limit: int, now: Instant) -> KeyedBudget:
        """The budget of this name, key and period; `limit` (micro-credits) replaces its limit.

        Callers keep a reference to it for as long as they may admit calls by what `current` gave:
        without one, a budget that is whole is forgotten.
        """
        ident = (name, key, period)
        found = self._budgets.get(ident)
        budget = (found() if isinstance(found, ref) else found) or self._new(ident)
        if budget is not found:
            self._budgets[ident] = budget
            self._to_check.append(budget)
        if budget.limit != limit:
            budget.change_limit(limit)
        for _ in range(min(len(self._to_check), CHECKS_PER_CALL)):
            self._check_next(now)
        return budget

    def quiet(self, now: Instant) -> bool:
        """Whether nothing is held or spent in a running window.

        Checks no more than 1,024 budgets and forgets those that are whole, so where there are more,
        it takes several calls until it is True.
        """
        most = len(self._to_check)
        for _ in range(min(most, CHECKS_BEFORE_QUIET)):
            if not self._check_next(now):
                return False
        # An interrupt may have left a budget that is not among those to check.
        return most <= CHECKS_BEFORE_QUIET and len(self._to_check) == len(self._budgets)

    def take_clock_jump(self) -> ClockJump | None:
        """What to log about a wall clock that was set forward, once for each time."""
        jump, self._watch.jump = self._watch.jump, None
        return jump

    def _new(self, ident: tuple[str, Key, Period]) -> KeyedBudget:
        period = ident[2]
        if not isinstance(period, CalendarPeriod):
            return RollingBudget(ident, period.seconds)
        window = self._windows.get(period)
        if window is None:
            window = self._windows[period] = CalendarWindow(period, self._watch)
        return CalendarBudget(ident, window)

    def _check_next(self, now: Instant) -> bool:
        """Whether the next budget to check is whole; it is forgotten if nobody refers to it."""
        budget = self._to_check.popleft()
        if not budget.whole(now):
            self._to_check.append(budget)
            return False
        # The weak reference takes its place, so that an interrupt in between does not lose a budget
        # that somebody refers to.
        ident = budget.ident
        self._budgets[ident] = others = ref(budget)
        del budget
        kept = others()
        if kept is None:
            del self._budgets[ident]
        else:
            self._budgets[ident] = kept
            self._to_check.append(kept)
        return True
