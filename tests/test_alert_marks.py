"""Alert marks: what may be written, when each is crossed, and when it is armed again."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import Balance
from budgetguard._core.alert_marks import AlertBelow, AlertMarks, parse
from budgetguard._core.amounts import MICRO
from budgetguard._core.clock import Instant
from budgetguard._core.policy import NEVER
from budgetguard._core.snapshot import BalanceSnapshot, refused

MINUTE = 60.0
HOUR = 60 * MINUTE


def snapshot_of(credits: float | None, at: float, **figures: Any) -> BalanceSnapshot:
    """A balance of so many credits, None for unlimited, that was requested at that time."""
    amount = None if credits is None else Decimal(str(credits))
    return BalanceSnapshot.of(Balance(credits=amount, **figures), Instant(at, at))


class Marked:
    """The marks of a guard, and its balances."""

    def __init__(self, marks: AlertBelow, floor: int = 0, extra: int = 0) -> None:
        self.marks = AlertMarks(parse(marks), floor * MICRO, extra * MICRO)
        self.snapshot: BalanceSnapshot | None = None
        self.at = 0.0

    def balance(
        self, credits: float | None, after: float = MINUTE, pending: float = 0, **figures: Any
    ) -> list[str]:
        """A balance arrives; returns what is told, with nothing held."""
        self.at += after
        return self.take(snapshot_of(credits, self.at, **figures), pending)

    def take(self, snapshot: BalanceSnapshot, pending: float = 0) -> list[str]:
        """The same, as a snapshot."""
        before, self.snapshot = self.snapshot, snapshot
        self.marks.renew(before, snapshot, int(pending * MICRO))
        return self.told(None, pending)

    def told(self, available: float | None, pending: float = 0) -> list[str]:
        """What is told with so many credits available, by default all but the floor."""
        assert self.snapshot is not None
        micro: float = (
            self.snapshot.spendable(self.marks._extra) - self.marks._floor - int(pending * MICRO)
            if available is None
            else int(available * MICRO)
        )
        return [mark.words(at, "credits") for mark, at in self.marks.crossed(micro)]


class TestWriting:
    """What `alert_below` takes."""

    @pytest.mark.parametrize(
        ("given", "marks"),
        [
            (None, []),
            ([], []),
            (0, ["amount 0 0"]),
            (50, ["amount 50000000 50"]),
            ("50", ["amount 50000000 50"]),
            (" 12.5 ", ["amount 12500000 12.5"]),
            (Decimal("0.1"), ["amount 100000 0.1"]),
            ("20%", ["share 1/5 20%"]),
            (" 12.50 % ", ["share 1/8 12.5%"]),
            ("30m", ["runway 1800 30 m"]),
            ("24h", ["runway 86400 24 h"]),
            ("1.5 h", ["runway 5400 1.5 h"]),
            ("7d", ["runway 604800 7 d"]),
            (["20%", 50, "24h"], ["share 1/5 20%", "amount 50000000 50", "runway 86400 24 h"]),
            ((50, "50", 50.0, "20%", "20 %"), ["amount 50000000 50", "share 1/5 20%"]),
        ],
        ids=str,
    )
    def test_marks(self, given: Any, marks: list[str]) -> None:
        """Amounts as everywhere, shares and runways as text; what is given twice counts once."""
        assert [f"{mark.kind} {mark.figure} {mark.text}" for mark in parse(given)] == marks

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            (True, TypeError, "alert_below takes an int, float, Decimal or str, not bool"),
            ([None], TypeError, "alert_below takes an int, float, Decimal or str, not NoneType"),
            ([[50]], TypeError, "alert_below takes an int, float, Decimal or str, not list"),
            ({50}, TypeError, "alert_below takes an int, float, Decimal or str, not set"),
            (-1, ValueError, "alert_below must not be negative"),
            ("soon", ValueError, 'alert_below is not a number: .*, a runway like "24h"'),
            ("24 hours", ValueError, "alert_below is not a number"),
            ("-5%", ValueError, "alert_below is not a number"),
            ("0%", ValueError, "alert_below takes a share above 0% and below 100%"),
            ("100%", ValueError, "alert_below takes a share above 0% and below 100%"),
            ("0h", ValueError, "alert_below takes a runway above 0 and of at most 366 days"),
            ("367d", ValueError, "alert_below takes a runway above 0 and of at most 366 days"),
        ],
        ids=str,
    )
    def test_anything_else(self, given: Any, error: type[Exception], message: str) -> None:
        """An error when the guard is made, that says what can be written."""
        with pytest.raises(error, match=message):
            parse(given)


class TestAmounts:
    """Several amounts, each by itself."""

    def test_each_is_told_once_as_it_is_crossed(self) -> None:
        """Whatever becomes of the other."""
        marked = Marked([20, 50])
        assert marked.balance(100) == []
        assert marked.told(50) == []
        assert marked.told(49) == ["less than 50 credits are available"]
        assert marked.told(21) == marked.told(20) == []
        assert marked.told(19) == ["less than 20 credits are available"]
        assert marked.told(0) == []

    def test_two_that_are_crossed_at_once_are_both_told(self) -> None:
        """The higher one first."""
        marked = Marked(["1", 50, 20])
        marked.balance(100)
        assert marked.told(0.5) == [
            "less than 50 credits are available",
            "less than 20 credits are available",
            "less than 1 credit is available",
        ]

    def test_each_is_armed_again_by_a_balance_above_it(self) -> None:
        """A top-up between two marks arms the lower one alone."""
        marked = Marked([20, 50])
        marked.balance(100)
        marked.told(10)
        marked.balance(10)
        marked.balance(40)
        assert marked.told(10) == ["less than 20 credits are available"]

    def test_a_hold_that_ends_arms_nothing(self) -> None:
        """Nor does a balance that has not risen."""
        marked = Marked([20, 50])
        marked.balance(100)
        assert len(marked.told(10)) == 2
        marked.told(100)
        assert marked.told(10) == []
        marked.balance(100)
        assert marked.told(10) == []

    @given(
        st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
        st.lists(st.tuples(st.booleans(), st.integers(0, 120)), max_size=30),
    )
    def test_each_is_as_if_it_were_alone(
        self, marks: list[int], steps: list[tuple[bool, int]]
    ) -> None:
        """Whatever balances and holds come, several marks say what each of them would say."""

        def said(of: list[int]) -> list[str]:
            marked = Marked(list(of))
            heard = [(0, text) for text in marked.balance(100)]
            for step, (is_balance, credits) in enumerate(steps, 1):
                told = marked.balance(credits) if is_balance else marked.told(credits)
                heard += [(step, text) for text in told]
            return [f"{step} {text}" for step, text in heard]

        assert sorted(said(marks)) == sorted(text for mark in marks for text in said([mark]))

    def test_the_highest_armed_one_counts(self) -> None:
        """It is what calls may not cross unseen."""
        marked = Marked([20, 50])
        assert marked.marks.highest == 50 * MICRO
        marked.balance(30)
        assert marked.marks.highest == 20 * MICRO
        marked.told(1)
        assert marked.marks.highest == NEVER


class TestShares:
    """Shares of the last top-up."""

    WORDS = "less than 20% of the last top-up ({} credits) is available"

    def test_of_the_first_balance_before_any_top_up(self) -> None:
        """That is all that is known."""
        marked = Marked("20%")
        assert marked.balance(100) == []
        assert marked.balance(20) == []
        assert marked.balance(19) == [self.WORDS.format(20)]
        assert marked.balance(5) == []

    def test_of_what_there_was_after_a_top_up(self) -> None:
        """A larger one raises the threshold, a smaller one lowers it."""
        marked = Marked("20%")
        marked.balance(100)
        marked.balance(50)
        assert marked.balance(1050) == []
        assert marked.balance(209) == [self.WORDS.format(210)]
        marked.balance(8)
        assert marked.balance(50) == []
        assert marked.balance(11) == []
        assert marked.balance(9) == [self.WORDS.format(10)]

    def test_a_charge_that_was_taken_back_is_no_top_up(self) -> None:
        """A rise by less than a tenth leaves the threshold as it is."""
        marked = Marked("20%")
        marked.balance(1000)
        marked.balance(300)
        assert marked.balance(329) == []
        assert marked.balance(199) == [self.WORDS.format(200)]

    def test_a_rise_above_all_that_was_seen_counts_whatever_its_size(self) -> None:
        """The threshold follows the highest balance."""
        marked = Marked("20%")
        marked.balance(1000)
        marked.balance(1005)
        assert marked.balance(200.5) == [self.WORDS.format(201)]

    def test_the_floor_is_no_part_of_it(self) -> None:
        """A share is one of what can be promised."""
        marked = Marked("20%", floor=50)
        marked.balance(150)
        assert marked.balance(70) == []
        assert marked.balance(69) == [self.WORDS.format(20)]
        assert Marked("20%", floor=50).balance(30) == [self.WORDS.format(0)]

    def test_extra_credits_are_part_of_it(self) -> None:
        """They can be spent."""
        marked = Marked("20%", extra=100)
        marked.balance(100)
        assert marked.balance(-61) == [self.WORDS.format(40)]

    def test_an_unlimited_account_has_none(self) -> None:
        """Until it is limited."""
        marked = Marked("20%")
        assert marked.balance(None) == []
        assert marked.marks.highest == NEVER
        assert marked.balance(100) == []
        assert marked.balance(19) == [self.WORDS.format(20)]
        assert marked.balance(None) == []
        assert marked.marks.highest == NEVER

    def test_the_end_of_a_refusal_is_no_top_up(self) -> None:
        """The provider refused a call, and then reports what it reported before."""
        marked = Marked("20%")
        marked.balance(1000)
        assert marked.balance(150) == [self.WORDS.format(200)]
        assert marked.snapshot is not None
        marked.take(refused(marked.snapshot, marked.at + 5))
        marked.balance(140)
        assert marked.balance(20) == []


class TestRunways:
    """Runways: how long the credits last at the present rate."""

    def spend(
        self, marked: Marked, credits: float, each: float, times: int, after: float = 5 * MINUTE
    ) -> list[str]:
        """So many balances, each lower by that much."""
        told: list[str] = []
        for number in range(times):
            told += marked.balance(credits - each * number, after)
        return told

    def test_told_when_less_is_left(self) -> None:
        """12 credits an hour are 288 a day; half an hour of evidence is needed."""
        marked = Marked("24h")
        assert self.spend(marked, 300, 1, 7) == []
        assert self.spend(marked, 293, 1, 5) == []
        assert marked.balance(288, 5 * MINUTE) == []
        assert marked.balance(287, 5 * MINUTE) == [
            "less than 24 h of spending at the present rate (288 credits) is available"
        ]
        assert self.spend(marked, 286, 1, 5) == []

    def test_not_before_half_of_its_period(self) -> None:
        """However fast the first calls spend."""
        marked = Marked("24h")
        assert self.spend(marked, 100, 10, 6) == []
        assert len(marked.balance(40, 5 * MINUTE)) == 1

    def test_not_after_a_single_expensive_call(self) -> None:
        """That says nothing of the next ones."""
        marked = Marked("24h")
        marked.balance(1000)
        marked.balance(500, 10 * MINUTE)
        assert self.spend(marked, 500, 0, 9) == []
        assert len(marked.balance(400, 5 * MINUTE)) == 1

    def test_what_the_balance_cannot_show_yet_counts(self) -> None:
        """A provider that reports late changes nothing."""
        marked = Marked("24h")
        told: list[str] = []
        for number in range(8):
            told += marked.balance(100, 5 * MINUTE, pending=number)
        assert len(told) == 1

    def test_a_top_up_is_not_taken_for_less_spending(self) -> None:
        """What was spent before it still counts."""
        marked = Marked("24h")
        self.spend(marked, 100, 1, 5)
        assert self.spend(marked, 296, 1, 4) == []
        assert marked.balance(286, 5 * MINUTE) != []

    def test_charges_that_are_taken_back_are_not_spent(self) -> None:
        """A provider reserves 50 of 10,000 for a call and gives back 49."""
        marked = Marked("24h")
        told: list[str] = []
        credits = 10_000
        for _ in range(10):
            told += marked.balance(credits - 50, 3 * MINUTE)
            credits -= 1
            told += marked.balance(credits, 3 * MINUTE)
        assert told == []

    def test_the_rate_is_the_present_one(self) -> None:
        """What was spent before the last period is forgotten."""
        marked = Marked("24h")
        self.spend(marked, 100_000, 100, 24)
        assert marked.marks.highest == 28_800 * MICRO
        self.spend(marked, 97_000, 1, 24)
        assert marked.marks.highest == 288 * MICRO

    def test_an_idle_account_has_all_the_time(self) -> None:
        """There is no threshold where nothing is spent."""
        marked = Marked("24h")
        self.spend(marked, 1000, 1, 24)
        assert marked.marks.highest > NEVER
        self.spend(marked, 976, 0, 24)
        assert marked.marks.highest == NEVER

    def test_armed_again_by_a_balance_that_lasts_longer(self) -> None:
        """Not by a lower rate alone, nor by a top-up that does not suffice."""
        marked = Marked("24h")
        assert len(self.spend(marked, 200, 1, 8)) == 1
        self.spend(marked, 193, 0.01, 24)
        assert self.spend(marked, 192, 1, 13) == []
        marked.balance(250, 5 * MINUTE)
        assert marked.balance(249, 5 * MINUTE) == []
        marked.balance(600, 5 * MINUTE)
        assert len(self.spend(marked, 400, 20, 3)) == 1

    @pytest.mark.parametrize(
        ("mark", "minutes"), [("30m", 10), ("4h", 10), ("24h", 60), ("7d", 420), ("90d", 1440)]
    )
    def test_the_period_grows_with_the_runway(self, mark: str, minutes: int) -> None:
        """A 24th of it, between 10 minutes and a day."""
        assert parse(mark)[0].period == minutes * MINUTE

    def test_frequent_balances_are_thinned_out(self) -> None:
        """The rate, and with it the threshold, changes at most 16 times in a period."""
        marked = Marked("24h")
        thresholds: list[float] = []
        for second in range(2 * 3600):
            marked.balance(1_000_000 - second, 1)
            thresholds.append(marked.marks.highest)
        assert len(set(thresholds)) <= 33
        assert thresholds[-1] == 86_400 * MICRO

    def test_an_unlimited_account_has_no_end(self) -> None:
        """There is nothing to tell."""
        marked = Marked("24h")
        for _ in range(30):
            assert marked.balance(None, 5 * MINUTE) == []


def test_without_marks_nothing_is_told() -> None:
    """And nothing is kept."""
    marked = Marked(None)
    assert not marked.marks
    assert marked.balance(0) == []
