"""The keyed budgets of one account, for all its members: sub-accounts beside the account's own ledger.

A call is granted by the account and all its budgets, or by none. No balance ever corrects a budget.

Pure: no lock. Amounts are integer micro-credits. What a call takes is given back when its window is over on the
account's virtual clock, so windows begin at the `latest` that its time may be, and end by its `now`.

Which clock a window goes by is decided as in one process, see "Keyed budgets: which clock" in
docs/design.md, but the members' wall clocks may differ:

- Hours, days and months begin when the wall clock of any member says so, for all members. A need for an
  earlier window than that is decided in the current one, so a clock that is behind reopens nothing.
- A member whose clock is ahead begins the next window for all. If the others then still ask for an
  earlier one when the window's whole length has passed on the virtual clock, they get theirs. So it
  costs them at most one window.
- From then on the members' clocks are known to disagree. The window that was left, and any later one,
  is not begun again before the current one's length has passed on the virtual clock. So two clocks that
  disagree for ever do not take turns in beginning windows.
- Rolling budgets go by the virtual clock alone. What a call cost belongs to the bucket that admitted
  it, which is a 60th of the window, and is given back as a whole, so late by that at most.

Windows are named by stamps: the wall time at which an hour, a day or a month begins, and the virtual
time at which a bucket ends. The head says with each grant which ones admitted the call, and members
report what the call holds and costs under the same stamps.
"""

from bisect import bisect_right, insort
from collections.abc import Mapping
from math import inf
from typing import Any, TypeAlias

from budgetguard._core.budget_shares import BudgetShares
from budgetguard._core.store_messages import (
    TICK,
    BudgetNeed,
    BudgetUse,
    BudgetView,
    Need,
    ticks_up,
)
from budgetguard._core.virtual_clock import VirtualClock

BUCKETS = 60
CHECKS_PER_CALL = 2

MOST_BEHIND = 86_400.0
"""Seconds. A wall clock that is behind by no more reopens no window, even one that nobody asks for."""

BudgetState: TypeAlias = dict[str, Any]
"""One budget, as values of JSON."""


def bucket_end(latest: float, rolling: float) -> float:
    """The stamp of the bucket that admits calls at that time, in a budget of so many seconds.

    Buckets begin at the same times whoever asks first, so that the heads of several epochs agree.
    """
    width = _width(rolling)
    return (int(latest / TICK) // width + 1) * width * TICK


def rebased(stamp: float, rolling: float, by: float) -> float:
    """The stamp of a bucket in an epoch whose virtual clock shows `by` seconds more.

    The bucket then ends up to a 60th of the window later, and never earlier.
    """
    width = _width(rolling)
    moved = int(ticks_up(stamp + by) / TICK)
    return -(-moved // width) * width * TICK


def _width(rolling: float) -> int:
    """The length of a bucket, in ticks."""
    return max(int(ticks_up(rolling / BUCKETS) / TICK), 1)


class SharedBudget:
    """One keyed budget: what its members hold and spent, by window.

    `rolling` is its seconds; None for hours, days and months. Those have a current `window`, up to
    `until` in wall time, which was `reached` at a virtual time. `beyond` is the earliest window that was
    left for an earlier one, `inf` if none was; `moved` if something was spent in an earlier window.
    `limit` is the last that any member named; 0 before the first.
    """

    __slots__ = ("beyond", "limit", "moved", "reached", "rolling", "until", "window", "windows")

    def __init__(self, rolling: float | None) -> None:
        self.limit = 0
        self.rolling = rolling
        self.window = self.until = self.reached = -inf
        self.beyond = inf
        self.moved = False
        self.windows: dict[float, BudgetShares] = {}

    def decided_in(self, need: BudgetNeed, clock: VirtualClock) -> float:
        """The window that admits a call now; begins a new one if it is time for that."""
        if need.admitted is not None:
            return need.admitted
        if self.rolling is not None:
            return bucket_end(clock.latest, self.rolling)
        self._move_to(need.window, need.until, clock)
        return self.window

    def room(self, need: BudgetNeed, clock: VirtualClock) -> int:
        """What may still be taken in the window that the call belongs to."""
        window = self.decided_in(need, clock)
        _, spent, held = self.figures(window)
        return need.limit - held - spent

    def figures(self, window: float) -> tuple[int, int, int]:
        """The limit, what is spent, and what is held in a window; a rolling budget has only one."""
        if self.rolling is not None:
            buckets = self.windows.values()
            return (
                self.limit,
                sum(each.spent for each in buckets),
                sum(each.held for each in buckets),
            )
        shares = self.windows.get(window)
        return (self.limit, shares.spent, shares.held) if shares else (self.limit, 0, 0)

    def put(self, member: str, use: BudgetUse, clock: VirtualClock) -> None:
        """Replace what a member holds and spent in a window."""
        if self.rolling is None and self.window < use.window < self.beyond:
            # Some head granted it, so some clock has reached it.
            self._move_to(use.window, use.until, clock)
        shares = self.windows.setdefault(use.window, BudgetShares())
        shares.put(member, use.held, use.spent)
        self.clear(clock.now)

    def clear(self, now: float) -> None:
        """Drop what counts no more."""
        for stamp, shares in list(self.windows.items()):
            if self._past(stamp, now):
                shares.clear_spent()
            if not shares.held and (not shares.spent or self._left(stamp)):
                del self.windows[stamp]

    def forgettable(self, now: float) -> bool:
        """Whether nothing would change if this budget began anew."""
        self.clear(now)
        if self.rolling is not None:
            return not self.windows
        if any(shares.held for shares in self.windows.values()):
            return False
        length = self.until - self.window
        if now >= self.reached + length + min(length, MOST_BEHIND):
            return True
        return not (self.windows or self.moved)

    def gives_back_in(self, now: float) -> float | None:
        """In how many seconds of the virtual clock something is given back for certain.

        None if nothing is spent. Hours, days and months may end earlier, by the wall clock.
        """
        if self.rolling is None:
            return max(self.reached + self.until - self.window - now, 0.0)
        spent = [stamp for stamp, shares in self.windows.items() if shares.spent]
        return max(min(spent) + self.rolling - now, 0.0) if spent else None

    def _move_to(self, window: float, until: float, clock: VirtualClock) -> None:
        if window == self.window:
            return
        later = window > self.window
        if not (later and window < self.beyond):
            if clock.now < self.reached + self.until - self.window:
                return
            self.beyond = inf if later else self.window
        left = self.windows.get(self.window)
        self.moved = self.moved or (left is not None and left.spent > 0)
        self.window, self.until, self.reached = window, until, clock.latest
        self.clear(clock.now)

    def _past(self, stamp: float, now: float) -> bool:
        return self.rolling is not None and now >= stamp + self.rolling

    def _left(self, stamp: float) -> bool:
        return self.rolling is None and stamp != self.window

    def dump(self) -> BudgetState:
        """The state, as values of JSON."""
        return {
            "limit": self.limit,
            "rolling": self.rolling,
            "window": _finite(self.window),
            "until": _finite(self.until),
            "reached": _finite(self.reached),
            "beyond": _finite(self.beyond),
            "moved": self.moved,
            "windows": [[stamp, *shares.dump()] for stamp, shares in self.windows.items()],
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> "SharedBudget":
        """The budget whose `dump` this is."""
        new = cls(state["rolling"])
        new.limit, new.moved = state["limit"], state["moved"]
        if state["window"] is not None:
            new.window, new.until, new.reached = state["window"], state["until"], state["reached"]
        new.beyond = inf if state["beyond"] is None else state["beyond"]
        new.windows = {stamp: BudgetShares.load(shares) for stamp, *shares in state["windows"]}
        return new


def _finite(stamp: float) -> float | None:
    return stamp if abs(stamp) < inf else None


class SharedBudgets:
    """The keyed budgets of one account, shared by its members.

    A member reports what its calls hold and spent, and is then granted more, in the same message. What
    it does not mention in a report is unchanged.

    After each message, `forget` drops some of the budgets that would be the same if they began anew. So
    memory follows the budgets in use, and no message waits while many are dropped.
    """

    __slots__ = ("_budgets", "_names", "checked", "unchecked")

    def __init__(self) -> None:
        self._budgets: dict[str, SharedBudget] = {}
        # In order, so that every process that loads the state checks them in the same turn.
        self._names: list[str] = []
        # The last one that was checked, and how many are new since then.
        self.checked = ""
        self.unchecked = 0

    def __len__(self) -> int:
        """How many budgets are remembered."""
        return len(self._budgets)

    def fits(self, need: Need, clock: VirtualClock) -> str | None:
        """None if there is room for `need.amount` in all its budgets, else the first that has none."""
        for each in need.budgets:
            budget = self._named(each, clock.now)
            if need.amount and budget.room(each, clock) < need.amount:
                return each.budget
        return None

    def may_free(self, need: Need, clock: VirtualClock) -> bool:
        """Whether all its budgets may have room for `need.amount` once open calls have ended."""
        for each in need.budgets:
            budget = self._named(each, clock.now)
            _, spent, _ = budget.figures(budget.decided_in(each, clock))
            if need.amount and each.limit - spent < need.amount:
                return False
        return True

    def take(self, member: str, need: Need, clock: VirtualClock) -> tuple[float, ...]:
        """`need.cost` is held by a member in all budgets of the need, whether there is room or not.

        Returns the windows that it is held in, which the member has to report it in.
        """
        windows = list[float]()
        for each in need.budgets:
            budget = self._named(each, clock.now)
            window = budget.decided_in(each, clock)
            held, spent = self._shares(budget, window, member)
            use = BudgetUse(each.budget, window, held + need.cost, spent, each.until)
            budget.put(member, use, clock)
            windows.append(window)
        return tuple(windows)

    def report(self, member: str, uses: tuple[BudgetUse, ...], clock: VirtualClock) -> None:
        """A member's open calls hold `held` in all, and it has spent `spent` more since its last report.

        A call that cost nothing may cost something later, whatever is remembered of its window.
        """
        for use in uses:
            budget = self._known(use)
            _, spent = self._shares(budget, use.window, member)
            all_spent = BudgetUse(use.budget, use.window, use.held, spent + use.spent, use.until)
            budget.put(member, all_spent, clock)

    def reassert(self, member: str, uses: tuple[BudgetUse, ...], clock: VirtualClock) -> None:
        """These are all of a member's windows: what it holds, and all that it spent in each.

        A member that has left and joins again does not mention what it spent before it left.
        """
        for budget in self._budgets.values():
            for shares in budget.windows.values():
                shares.put(member, 0, 0)
        for use in uses:
            self._known(use).put(member, use, clock)

    def died(self, member: str, now: float) -> None:
        """A member is believed to be dead: what it held counts as spent until it reasserts."""
        for budget in self._budgets.values():
            for shares in budget.windows.values():
                shares.die(member)
            budget.clear(now)

    def left(self, member: str, now: float) -> None:
        """A member goes: what it spent remains, and what it still held counts as spent."""
        for budget in self._budgets.values():
            for shares in budget.windows.values():
                shares.leave(member)
            budget.clear(now)

    def figures(self, budget: str, window: float) -> tuple[int, int, int]:
        """The limit, what is spent, and what is held, in a window that the head gave.

        `window` does not matter for a rolling budget. All 0 if nothing is remembered.
        """
        found = self._budgets.get(budget)
        return found.figures(window) if found else (0, 0, 0)

    def window(self, budget: str) -> tuple[float, float] | None:
        """Where the current hour, day or month begins and ends; None if there is none."""
        found = self._budgets.get(budget)
        return (found.window, found.until) if found and found.window > -inf else None

    def gives_back_in(self, budget: str, now: float) -> float | None:
        """In how many seconds something is given back for certain, see `SharedBudget`."""
        found = self._budgets.get(budget)
        return found.gives_back_in(now) if found else None

    def view(self, budget: str, now: float) -> BudgetView | None:
        """What members are shown of a budget; None if nothing is remembered."""
        found = self._budgets.get(budget)
        if found is None:
            return None
        if found.rolling is None:
            window, until = (found.window, found.until) if found.window > -inf else (0.0, 0.0)
        else:
            found.clear(now)
            window = until = 0.0
        _, spent, held = found.figures(window)
        gives_back_in = found.gives_back_in(now) if window or found.rolling is not None else None
        return BudgetView(budget, spent, held, window, until, gives_back_in)

    def forgettable(self, now: float) -> bool:
        """Whether nothing would change if all of them began anew."""
        return all(each.forgettable(now) for each in self._budgets.values())

    def forget(self, now: float) -> None:
        """Check two budgets, and two more for each that is new, in turn."""
        checks, self.unchecked = CHECKS_PER_CALL * (1 + self.unchecked), 0
        for _ in range(min(checks, len(self._names))):
            place = bisect_right(self._names, self.checked)
            if place == len(self._names):
                place = 0
            self.checked = name = self._names[place]
            if self._budgets[name].forgettable(now):
                del self._budgets[name], self._names[place]

    def dump(self) -> dict[str, BudgetState]:
        """The state, as values of JSON: what each budget is, by name. `checked` and `unchecked` are not in it."""
        return {name: self._budgets[name].dump() for name in self._names}

    @classmethod
    def load(
        cls, state: Mapping[str, BudgetState], checked: str = "", unchecked: int = 0
    ) -> "SharedBudgets":
        """The budgets whose `dump`, `checked` and `unchecked` these are."""
        new = cls()
        new.checked, new.unchecked = checked, unchecked
        new._names = sorted(state)
        new._budgets = {name: SharedBudget.load(state[name]) for name in new._names}
        return new

    def _named(self, need: BudgetNeed, now: float) -> SharedBudget:
        budget = self._known(need)
        budget.limit = need.limit
        budget.clear(now)
        return budget

    def _known(self, named: BudgetNeed | BudgetUse) -> SharedBudget:
        budget = self._budgets.get(named.budget)
        if budget is None:
            self.unchecked += 1
            budget = self._budgets[named.budget] = SharedBudget(named.rolling)
            insort(self._names, named.budget)
        return budget

    @staticmethod
    def _shares(budget: SharedBudget, window: float, member: str) -> tuple[int, int]:
        shares = budget.windows.get(window)
        return shares.of(member) if shares else (0, 0)
