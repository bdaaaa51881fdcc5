"""The keyed budgets of a shared account, as one of its processes sees them.

The head decides about them, and a call takes from one only when the head has granted it. Here is what this
process's own calls hold and spent in each window, for the next report. All figures are the head's, as of
its last reply, plus what changed here since.

A window is named by the head's stamp, see `shared_budgets`. Before the first reply a bucket of a rolling
budget has none, and nothing is told of it.

Pure: no clock, no lock. Amounts are integer micro-credits.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from math import inf
from weakref import WeakValueDictionary

from budgetguard._core.allowance import Allowance
from budgetguard._core.budget_key import Key, spell_key
from budgetguard._core.budget_windows import CalendarPeriod, Period, spell_period
from budgetguard._core.calendar_budget import CalendarWindow, ClockJump, ClockWatch
from budgetguard._core.clock import Instant
from budgetguard._core.policy import OverBudget
from budgetguard._core.shared_budgets import MOST_BEHIND, bucket_end, rebased
from budgetguard._core.store_messages import BudgetNeed, BudgetUse, BudgetView, Need, Reply, View

CHECKS_PER_CALL = 2

SHORTEST = 0.05
"""Seconds after which the head is asked again at the earliest, if it says that a budget has no room."""


class DrawnWindow(Allowance):
    """What this process's calls hold and spent in one window of a budget, or in a bucket of a rolling one.

    The head was told `told_held` and `told_spent` of it. `limit`, `spent`, `held` and `room` are the
    budget's, of all members.
    """

    __slots__ = (
        "_book",
        "budget",
        "own_held",
        "own_spent",
        "told_held",
        "told_spent",
        "until",
        "window",
    )

    def __init__(
        self, book: "DrawnBudgets", budget: "DrawnBudget", window: float | None, until: float
    ) -> None:
        # What the base would set is a property here.
        self._book = book
        self.budget = budget
        self.window = window
        self.until = until
        self.own_held = self.own_spent = self.told_held = self.told_spent = 0

    @property
    def limit(self) -> int:  # type: ignore[override]
        """The budget's limit."""
        return self.budget.limit

    @property
    def spent(self) -> int:  # type: ignore[override]
        """What finished calls of all members cost, as far as is known here."""
        return self.budget.figures(self.window)[0]

    @property
    def room(self) -> int:  # type: ignore[override]
        """What may still be taken, as far as is known here."""
        spent, held = self.budget.figures(self.window)
        return self.budget.limit - held - spent

    @property
    def changed(self) -> bool:
        """Whether the head has to hear of it."""
        return self.own_held != self.told_held or self.own_spent != self.told_spent

    def move(self, held: int, spent: int) -> None:
        """Change what is held and what is spent by these amounts; either may be negative."""
        self.own_held += held
        self.own_spent += spent
        self._book.note(self)


class DrawnBudget:
    """A keyed budget whose head is in a store. `ident` is how it is known there.

    It is `rolling` over so many seconds, or has the windows of a `calendar`. It has neither that nor a name
    while nobody refers to it and the head is told of its last calls.

    `seen` is what the head last said of it, and `gives_back_at` the monotonic time of what that promises.
    """

    __slots__ = (
        "__weakref__",
        "_book",
        "calendar",
        "gives_back_at",
        "ident",
        "limit",
        "name",
        "rolling",
        "seen",
        "windows",
    )

    shared: bool = True

    valid_until = -inf
    """Always past: the head is asked about each call."""

    def __init__(self, book: "DrawnBudgets", ident: str, rolling: float | None) -> None:
        self._book = book
        self.ident = ident
        self.name: str | None = None
        self.limit = 0
        self.rolling = rolling
        self.calendar: CalendarWindow | None = None
        self.seen: BudgetView | None = None
        self.gives_back_at: float | None = None
        self.windows: dict[DrawnWindow, None] = {}

    def current(self, now: Instant) -> DrawnWindow:
        """What a call is counted in that is admitted now without a word of the head."""
        return self.at(*self._window(now))

    def renews_at(self, now: Instant) -> float | None:
        """When more is left for certain, in wall seconds; None if nothing is spent."""
        if self.rolling is not None:
            at = self._given_back_at(now)
            return None if at is None else now.wall + max(at - now.mono, 0.0)
        window, until = self._window(now)
        seen = self.seen
        if seen is not None and seen.window == window and until > now.wall:
            return until
        return self.calendar.renews_at(now) if self.calendar is not None else None

    def needed(self, now: Instant, admitted: Allowance | None) -> BudgetNeed:
        """What a call needs, or one that was `admitted` in a window and needs more."""
        window = admitted.window if isinstance(admitted, DrawnWindow) else None
        if self.rolling is not None:
            return BudgetNeed(self.ident, self.limit, rolling=self.rolling, admitted=window)
        assert self.calendar is not None
        until = self.calendar.move_on(now)
        return BudgetNeed(self.ident, self.limit, self.calendar.start, until, admitted=window)

    def over(self, now: Instant) -> OverBudget:
        """The head's answer that it has no room, and until when that is so for certain."""
        seen = self.seen
        late = self.calendar is not None and seen is not None and seen.until <= now.wall
        if late or self.rolling is not None:
            # Also where the head has not begun the window yet that this process's clock is in.
            at = self._given_back_at(now)
        else:
            renews_at = self.renews_at(now)
            at = None if renews_at is None else now.mono + renews_at - now.wall
        return OverBudget(self, inf if at is None else max(at, now.mono + SHORTEST), self.limit)

    def at(self, window: float | None, until: float) -> DrawnWindow:
        """What this process holds and spent in that window."""
        for each in self.windows:
            if each.window == window:
                return each
        new = DrawnWindow(self._book, self, window, until)
        self._book.keep(new)
        return new

    def figures(self, window: float | None) -> tuple[int, int]:
        """What all members spent and hold in a window; a rolling budget has only one."""
        seen, rolls = self.seen, self.rolling is not None
        known = seen is not None and (rolls or seen.window == window)
        spent, held = (seen.spent, seen.held) if known and seen is not None else (0, 0)
        for each in self.windows:
            if rolls or each.window == window:
                spent += each.own_spent - (each.told_spent if known else 0)
                held += each.own_held - (each.told_held if known else 0)
        return spent, held

    def _window(self, now: Instant) -> tuple[float | None, float]:
        """The current window, or bucket, and the end of the window in wall time."""
        if self.rolling is not None:
            latest = self._book.latest_head_time(now.mono)
            return (None if latest is None else bucket_end(latest, self.rolling)), 0.0
        assert self.calendar is not None
        until, seen = self.calendar.move_on(now), self.seen
        if seen is not None and seen.window > self.calendar.start:
            return seen.window, seen.until
        return self.calendar.start, until

    def _given_back_at(self, now: Instant) -> float | None:
        """When the head gives something back, in monotonic seconds."""
        at = self.gives_back_at
        if at is not None and at > now.mono:
            return at
        stamps = [
            each.window for each in self.windows if each.own_spent and each.window is not None
        ]
        if self.rolling is None or not stamps:
            return at
        head_now = self._book.head_time(now.mono)
        return None if head_now is None else now.mono + min(stamps) + self.rolling - head_now


class DrawnBudgets:
    """The keyed budgets of one shared account in one process; everything here needs the account's lock.

    A budget lasts as long as somebody refers to it. What was told of a window is remembered until it can
    no longer matter, in case the head has to hear it again. `account` is what their names in the store
    are made of, besides their own names and keys; it is not in the store.
    """

    __slots__ = (
        "_account",
        "_behind",
        "_calendars",
        "_changed",
        "_found",
        "_kept",
        "_offset",
        "_telling",
        "_unseen",
        "_watch",
        "granted",
    )

    def __init__(self, account: str) -> None:
        self._account = account
        self._found: WeakValueDictionary[str, DrawnBudget] = WeakValueDictionary()
        # One for each unit and zone; they are kept, so that no clock that is set back reopens one.
        self._calendars: dict[CalendarPeriod, CalendarWindow] = {}
        self._watch = ClockWatch()
        self.begin()

    def begin(self) -> None:
        """In a forked child: another member, which holds and spent nothing yet."""
        # In the order in which they are to be checked.
        self._kept: OrderedDict[DrawnWindow, None] = OrderedDict()
        self._changed: dict[DrawnWindow, None] = {}
        self._unseen: dict[DrawnBudget, None] = {}
        self._telling: list[tuple[DrawnWindow, int, int]] = []
        self._offset: float | None = None
        self._behind = 0.0
        # By ticket: the windows that the head counts a call in that it has just granted.
        self.granted: dict[int, tuple[DrawnWindow, ...]] = {}
        for budget in self._found.values():
            budget.windows = {}

    def __len__(self) -> int:
        """How many windows are remembered."""
        return len(self._kept)

    # For the engine.

    def find(self, name: str, key: Key, period: Period, limit: int, now: Instant) -> DrawnBudget:
        """The budget of this name, key and period; `limit` (micro-credits) replaces its limit."""
        ident = self._ident(name, key, period)
        budget = self._found.get(ident)
        if budget is None or budget.name is None:
            calendar = rolling = None
            if isinstance(period, CalendarPeriod):
                calendar = self._calendars.get(period)
                if calendar is None:
                    calendar = self._calendars[period] = CalendarWindow(period, self._watch)
            else:
                rolling = period.seconds
            if budget is None:
                budget = self._found[ident] = DrawnBudget(self, ident, rolling)
                self._unseen[budget] = None
            budget.name, budget.calendar = name, calendar
        budget.limit = limit
        self._check(now, CHECKS_PER_CALL)
        return budget

    def quiet(self, now: Instant) -> bool:  # noqa: ARG002  the head remembers them
        """Whether nothing is held here, and nothing has to be told."""
        return not any(each.changed or each.own_held for each in self._kept)

    def take_clock_jump(self) -> ClockJump | None:
        """What to log about a wall clock that was set forward, once for each time."""
        jump, self._watch.jump = self._watch.jump, None
        return jump

    def over(self, ident: str, now: Instant) -> OverBudget | None:
        """The head's answer that a budget has no room; None if nobody refers to it any more."""
        budget = self._found.get(ident)
        return None if budget is None else budget.over(now)

    # For its windows.

    def keep(self, window: DrawnWindow) -> None:
        """Remember a window."""
        self._kept[window] = None
        window.budget.windows[window] = None

    def note(self, window: DrawnWindow) -> None:
        """Something changed in a window."""
        self.keep(window)
        self._changed[window] = None

    def head_time(self, mono: float) -> float | None:
        """What the head's clock shows at a monotonic time, or a little less; None if nobody knows."""
        return None if self._offset is None else mono - self._offset

    def latest_head_time(self, mono: float) -> float | None:
        """The latest that the account's time may be, as far as the last reply told."""
        return None if self._offset is None else mono - self._offset + self._behind

    # Messages.

    @property
    def changed(self) -> bool:
        """Whether there is something to tell the head, or to ask it."""
        return bool(self._unseen) or any(each.changed for each in self._changed)

    def report(self, now: Instant, *, again: bool) -> tuple[BudgetUse, ...]:
        """What to tell the head: what changed, or all that may still matter if it has to hear it `again`."""
        # Each call adds one window at most.
        self._check(now, CHECKS_PER_CALL * (1 + len(self._changed)))
        kept = self._kept if again else (each for each in self._changed if each.changed)
        chosen = dict.fromkeys(kept)
        self._telling = []
        for budget in self._unseen:
            chosen[budget.current(now)] = None
        uses = list[BudgetUse]()
        for budget, stamp in dict.fromkeys((each.budget, each.window) for each in chosen):
            if stamp is None:
                continue
            same = [each for each in budget.windows if each.window == stamp]
            held = sum(each.own_held for each in same)
            spent = sum(each.own_spent - (0 if again else each.told_spent) for each in same)
            until = max(each.until for each in same)
            self._telling += [(each, each.own_held, each.own_spent) for each in same]
            uses.append(BudgetUse(budget.ident, stamp, held, spent, until, budget.rolling))
        return tuple(uses)

    def accept(self, needs: Iterable[Need], reply: Reply) -> None:
        """The message took effect: the head knows what was told, and holds what it granted."""
        for window, held, spent in self._telling:
            window.told_held, window.told_spent = held, spent
        told = {window.budget for window, _, _ in self._telling}
        self._telling = []
        self._unseen = {each: None for each in self._unseen if each not in told}
        self._changed = {
            each: None for each in self._changed if each.changed or each.window is None
        }
        views = {each.budget: each for each in reply.view.budgets}
        stamps = dict(reply.windows)
        self.granted = {}
        for need in needs:
            if need.ticket not in stamps:
                continue
            found = list[DrawnWindow]()
            for each, stamp in zip(need.budgets, stamps[need.ticket], strict=True):
                view, budget = views.get(each.budget), self._known(each)
                until = view.until if view is not None and view.window == stamp else each.until
                window = budget.at(stamp, until)
                window.told_held += need.cost
                # Also if the call turns out not to begin: then the head has to hear that.
                self.note(window)
                found.append(window)
            self.granted[need.ticket] = tuple(found)

    def leave(self) -> None:
        """The head keeps what was told as spent, by nobody in particular, what was held included."""
        for each in self._kept:
            each.own_spent -= each.told_spent
            each.told_spent = each.told_held = 0

    def see(self, view: View, sent: float) -> None:
        """Take over what the head says; `sent` is when the message was."""
        self._offset, self._behind = sent - view.now, view.behind
        for each in self._kept:
            if each.window is None and each.budget.rolling is not None:
                each.window = bucket_end(view.latest, each.budget.rolling)
        for seen in view.budgets:
            budget = self._found.get(seen.budget)
            if budget is not None:
                budget.seen = seen
                gives = seen.gives_back_in
                budget.gives_back_at = None if gives is None else sent + gives

    def rebase(self, by: float) -> None:
        """Another head's clock may show `by` seconds more."""
        for each in self._kept:
            if each.budget.rolling is not None and each.window is not None:
                each.window = rebased(each.window, each.budget.rolling, by)

    def _known(self, need: BudgetNeed) -> DrawnBudget:
        """The budget of a need, whose caller may have left."""
        budget = self._found.get(need.budget)
        if budget is None:
            budget = self._found[need.budget] = DrawnBudget(self, need.budget, need.rolling)
        return budget

    def _ident(self, name: str, key: Key, period: Period) -> str:
        words = (self._account, ascii(name), spell_key(key), spell_period(period))
        text = "\n".join(("budgetguard budget 1", *words))
        return hashlib.sha256(text.encode("ascii", "backslashreplace")).hexdigest()[:32]

    def _check(self, now: Instant, most: int) -> None:
        """Forget some of the windows that do not matter any more."""
        for _ in range(min(len(self._kept), most)):
            window, _ = self._kept.popitem(last=False)
            if self._matters(window, now):
                self._kept[window] = None
            else:
                window.budget.windows.pop(window, None)

    def _matters(self, window: DrawnWindow, now: Instant) -> bool:
        if window.changed or window.own_held or window in self._changed:
            return True
        if not window.own_spent:
            return False
        rolling = window.budget.rolling
        if rolling is None:
            length = window.until - (window.window or 0.0)
            return now.wall < window.until + min(length, MOST_BEHIND)
        head_now = self.head_time(now.mono)
        return window.window is None or head_now is None or head_now < window.window + rolling
