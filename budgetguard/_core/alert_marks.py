"""Alert marks: amounts, shares of the last top-up and runways, and when each of them is crossed.

Every mark comes down to a *threshold*, an amount that must be available. It changes only when a
balance arrives, so that between two balances a mark of any kind costs no more than an amount.

* An amount is its own threshold.
* A share is one of what the account could spend, less the floor, after its last top-up. That is the
  last rise of the balance by at least a tenth of what it was; a smaller one may be a charge that was
  taken back. Before the first top-up that this process sees, it is the highest balance seen.
* A runway is what the account spends in that time at its present rate. The rate is taken over a 24th
  of the runway, at least 10 minutes and at most a day: what the balance fell by, whoever spent it, and
  the debits that it cannot show yet. There is no threshold before half of that period was observed, with
  spending in at least two parts of it. The rate is computed anew at most 16 times in a period.

A mark that is crossed is told once. It is armed again by a balance that is higher than the one before
and, less the floor, above the threshold.

Amounts are micro-credits, times are monotonic seconds.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Literal, TypeAlias, cast

from budgetguard._core.amounts import UNLIMITED, Amount, cost, spell, to_credits
from budgetguard._core.durations import LONGEST, LONGEST_DAYS
from budgetguard._core.errors import amount_of
from budgetguard._core.policy import NEVER
from budgetguard._core.snapshot import BalanceSnapshot, Micro

AlertBelow: TypeAlias = Amount | Sequence[Amount] | None
"""`alert_below` as users write it: one mark or several; a share is text like "20%", a runway like "24h"."""

SHORTEST_PERIOD = 10 * 60.0
LONGEST_PERIOD = 24 * 3600.0
_PERIODS = 24
_SAMPLES = 16
_LEAST_RISE = Fraction(1, 10)

_WRITTEN = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([%mhd])\s*", re.ASCII)
_SECONDS = {"m": 60, "h": 3600, "d": 24 * 3600}


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark: `figure` is micro-credits, a share of 1, or seconds. `text` is as users write it."""

    kind: Literal["amount", "share", "runway"]
    figure: Fraction
    text: str

    @property
    def period(self) -> float:
        """How many seconds a runway's rate is taken over."""
        return min(max(float(self.figure) / _PERIODS, SHORTEST_PERIOD), LONGEST_PERIOD)

    def words(self, threshold: int, unit: str) -> str:
        """What is the case when the mark is crossed."""
        amount = amount_of(to_credits(threshold), unit)
        if self.kind == "share":
            return f"less than {self.text} of the last top-up ({amount}) is available"
        if self.kind == "runway":
            return f"less than {self.text} of spending at the present rate ({amount}) is available"
        return f"less than {amount} {'is' if amount.startswith('1 ') else 'are'} available"


def parse(given: AlertBelow) -> tuple[Mark, ...]:
    """The marks of `alert_below`, without those that are given twice.

    Raises TypeError or ValueError for what is no amount, share or runway.
    """
    if given is None:
        return ()
    several = given if isinstance(given, list | tuple) else (cast("Amount", given),)
    return tuple(dict.fromkeys(_mark(each) for each in several))


def _mark(given: Amount) -> Mark:
    written = _WRITTEN.fullmatch(given) if isinstance(given, str) else None
    if written is None:
        return _amount(given)
    figure, sign = Fraction(written[1]), written[2]
    text = f"{spell(Decimal(written[1]))}{'%' if sign == '%' else ' ' + sign}"
    if sign == "%":
        if not 0 < figure < 100:  # noqa: PLR2004  per cent
            msg = "alert_below takes a share above 0% and below 100%"
            raise ValueError(msg)
        return Mark("share", figure / 100, text)
    runway = figure * _SECONDS[sign]
    if not 0 < runway <= LONGEST:
        msg = f"alert_below takes a runway above 0 and of at most {LONGEST_DAYS} days"
        raise ValueError(msg)
    return Mark("runway", runway, text)


def _amount(given: Amount) -> Mark:
    if isinstance(given, str):
        try:
            Decimal(given)
        except InvalidOperation:
            msg = 'alert_below is not a number: write it like 50 or "12.5", a share like "20%", a runway like "24h"'
            raise ValueError(msg) from None
    micro = cost(given, "alert_below")
    return Mark("amount", Fraction(micro), spell(to_credits(micro)))


class AlertMarks:
    """The marks of one guard, and whether each of them is armed; `floor` and `extra` are the guard's.

    `highest` is the highest threshold of an armed mark, NEVER without one.
    """

    def __init__(self, marks: Sequence[Mark], floor: int, extra: int) -> None:
        self._marks = [_Watched(mark) for mark in marks]
        self._floor = floor
        self._extra = extra
        # What the account could spend after its last top-up, and what it has spent net of refunds.
        self._full: Micro | None = None
        self._spent = 0
        self.highest: Micro = NEVER
        self._set_highest()

    def __bool__(self) -> bool:
        return bool(self._marks)

    def crossed(self, available: Micro) -> list[tuple[Mark, int]]:
        """The armed marks that are crossed, with their thresholds, highest first; each is told once."""
        if available >= self.highest:
            return []
        crossed = [each for each in self._marks if each.armed and available < each.threshold]
        for each in crossed:
            each.armed = False
        self._set_highest()
        crossed.sort(key=lambda each: -each.threshold)
        return [(each.mark, int(each.threshold)) for each in crossed]

    def renew(
        self, before: BalanceSnapshot | None, snapshot: BalanceSnapshot, pending: int
    ) -> None:
        """A balance has replaced another one: set the thresholds, and arm marks again.

        Holds are ignored here: a hold that is opened and ended is no reason for another alert. `pending`
        are the debits that the balance cannot show yet.
        """
        if not self._marks:
            return
        self._note(None if before is None else self._reported(before), self._reported(snapshot))
        left = snapshot.spendable(self._extra) - self._floor
        rose = before is None or snapshot.spendable(self._extra) > before.spendable(self._extra)
        for each in self._marks:
            if each.mark.kind == "share":
                each.threshold = self._share(each.mark.figure)
            elif each.mark.kind == "runway":
                each.sample(snapshot.sent.mono, self._spent + pending)
            each.armed = each.armed or (rose and left > each.threshold)
        self._set_highest()

    def _note(self, before: Micro | None, reported: Micro) -> None:
        """Tell a top-up from what was spent or given back."""
        known = before not in {None, UNLIMITED} and reported != UNLIMITED
        topped_up = True
        if known and before is not None:
            rise = int(reported) - int(before)
            topped_up = rise > 0 and rise >= _LEAST_RISE * int(before)
            if not topped_up:
                self._spent -= rise
        if self._full is None or topped_up or reported > self._full:
            self._full = reported

    def _share(self, share: Fraction) -> Micro:
        if self._full is None or self._full == UNLIMITED:
            return NEVER
        return int(share * max(int(self._full) - self._floor, 0))

    def _reported(self, snapshot: BalanceSnapshot) -> Micro:
        # Not `spendable`, which is 0 after a refusal: the balance that ends it would be a top-up.
        return min(snapshot.credits + self._extra, snapshot.ceiling)

    def _set_highest(self) -> None:
        self.highest = max((each.threshold for each in self._marks if each.armed), default=NEVER)


class _Watched:
    """One mark, its present threshold, and whether it is armed."""

    __slots__ = ("_samples", "armed", "mark", "threshold")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.armed = True
        self.threshold: Micro = int(mark.figure) if mark.kind == "amount" else NEVER
        # When, and what was spent by then.
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, at: float, spent: int) -> None:
        """Set a runway's threshold by what was spent until `at`."""
        samples, period = self._samples, self.mark.period
        if samples and at - samples[-1][0] < period / _SAMPLES:
            return
        samples.append((at, spent))
        while at - samples[1 if len(samples) > 1 else 0][0] >= period:
            samples.popleft()
        (first, least), *_ = samples
        elapsed = at - first
        parts = sum(later > earlier for (_, earlier), (_, later) in pairwise(samples))
        if elapsed < period / 2 or parts < 2 or spent <= least:  # noqa: PLR2004
            self.threshold = NEVER
            return
        self.threshold = ceil(self.mark.figure * (spent - least) / Fraction(elapsed))
