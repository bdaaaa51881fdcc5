"""Balance: what a provider said, checked and frozen, and how old it is."""

import copy
import dataclasses
import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from budgetguard import Balance
from budgetguard._core.clock import Instant
from budgetguard.testing import HandClock


def test_all_but_the_credits_may_be_left_out() -> None:
    """A balance of credits alone has no limits, and its date is in UTC."""
    balance = Balance(credits=Decimal(5))
    assert balance == Balance(Decimal(5), None, None, None, None, balance.as_of)
    assert balance.as_of.tzinfo is UTC


@pytest.mark.parametrize("name", ["credits", "cost_limit", "credits_used"])
@pytest.mark.parametrize("given", [3, 2.5, "0.1", Decimal("7.10"), -4], ids=repr)
def test_amounts_become_decimals(name: str, given: Any) -> None:
    """Every amount is taken exactly as written, a negative one too."""
    balance = Balance(**{"credits": None, name: given})
    assert getattr(balance, name) == Decimal(str(given))
    assert type(getattr(balance, name)) is Decimal


@pytest.mark.parametrize("name", ["credits", "cost_limit", "credits_used"])
@pytest.mark.parametrize(
    ("given", "error"),
    [
        (True, TypeError),
        ([], TypeError),
        (float("nan"), ValueError),
        (Decimal("Infinity"), ValueError),
        ("many", ValueError),
        (10**12 + 1, ValueError),
    ],
    ids=repr,
)
def test_what_is_no_amount_is_refused(name: str, given: Any, error: type[Exception]) -> None:
    """No balance can be made of nonsense; the error names the field."""
    with pytest.raises(error, match=f"Balance.{name}"):
        Balance(**{"credits": None, name: given})


@pytest.mark.parametrize(
    ("given", "error"),
    [(True, TypeError), (1.0, TypeError), ("2", TypeError), (-1, ValueError)],
    ids=repr,
)
def test_sessions_are_counted_in_whole_numbers(given: Any, error: type[Exception]) -> None:
    """A limit that is no count is refused."""
    with pytest.raises(error, match="max_concurrency"):
        Balance(credits=None, max_concurrency=given)


@pytest.mark.parametrize("given", [None, 0, 25])
def test_a_count_of_sessions_is_kept(given: int | None) -> None:
    """None is no limit, and zero is one."""
    assert Balance(credits=None, max_concurrency=given).max_concurrency == given


def test_it_is_frozen() -> None:
    """Nobody changes a balance that others read."""
    balance = Balance(credits=Decimal(5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        balance.credits = Decimal(6)  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        balance.age = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("advance", "suspend", "age"),
    [(0, 0, 0), (7, 0, 7), (7, 60, 67), (7, -60, 7)],
    ids=["no time", "time", "time and a suspend", "wall clock set back"],
)
def test_age_goes_by_the_clock_that_advanced_more(
    advance: float, suspend: float, age: float
) -> None:
    """A balance is as old as the worse of two clocks says, counted from the sending."""
    clock = HandClock()
    balance = Balance(credits=Decimal(5)).sent_at(clock.now(), clock)
    clock.advance(advance)
    clock.suspend(suspend)
    assert balance.age == age


def test_age_is_never_negative() -> None:
    """A balance from the future, by a clock that was wrong, is new."""
    assert Balance(credits=None, as_of=datetime.now(UTC) + timedelta(hours=1)).age == 0


def test_age_of_a_balance_made_by_hand_counts_from_as_of() -> None:
    """Where no request was sent, the date given decides."""
    clock = HandClock()
    as_of = datetime.fromtimestamp(clock.wall() - 90, UTC)
    balance = dataclasses.replace(Balance(credits=None, as_of=as_of), _clock=clock)
    assert balance.age == 90


def test_as_of_is_when_the_request_was_sent() -> None:
    """The stamp is the sending's, in UTC, whatever the provider wrote."""
    balance = Balance(credits=Decimal(5), tier="plus").sent_at(Instant(3.0, 1e9), HandClock())
    assert balance.as_of == datetime.fromtimestamp(1e9, UTC)
    assert balance.tier == "plus"


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))]
)
def test_copies_are_equal_and_as_old(duplicate: Any) -> None:
    """A copy carries every public figure; its age goes by `as_of`, which any process can read."""
    clock = HandClock()
    balance = Balance(Decimal(5), "plus", 3, Decimal(40), Decimal(2)).sent_at(clock.now(), clock)
    twin = duplicate(balance)
    assert twin == balance
    assert repr(twin) == repr(balance)
    assert twin.age > 0


def test_its_repr_shows_the_figures_alone() -> None:
    """Nothing of the inner workings is shown."""
    text = repr(Balance(credits=Decimal(5)).sent_at(Instant(3.0, 1e9), HandClock()))
    assert text.startswith("Balance(credits=Decimal('5'), tier=None, max_concurrency=None, ")
    assert "_" not in text.replace("renews_at", "").replace("max_concurrency", "").replace(
        "cost_limit", ""
    ).replace("credits_used", "").replace("as_of", "")
