"""The accounts and the clock of the sandbox, without a server."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetguard.testing.sandbox import Sandbox
from budgetguard.testing.sandbox.account import Account, credits_of, micro, number
from budgetguard.testing.sandbox.clock import Clock

MOST = 10**15


@given(st.integers(0, MOST))
def test_amounts_are_exact(micros: int) -> None:
    """Every amount survives as a Decimal, as its text, and as the number in a JSON body."""
    amount = credits_of(micros)
    assert micro(amount) == micro(str(amount)) == micro(number(micros)) == micros
    assert Decimal(str(number(micros))) == amount


@pytest.mark.parametrize(
    "amount", [-1, "0.0000001", "nan", "inf", 10**9 + 1, "many", float("nan"), None]
)
def test_amounts_refused(amount: float | str | None) -> None:
    """A value that is not an amount of credits is refused at once."""
    with pytest.raises(ValueError, match="credits are a number"):
        Sandbox(credits=amount)  # type: ignore[arg-type]


STEP = st.one_of(
    st.tuples(st.just("charge"), st.integers(0, 40)),
    st.tuples(st.just("spend"), st.integers(0, 40)),
    st.tuples(st.just("top_up"), st.integers(0, 40)),
    st.tuples(st.just("advance"), st.integers(0, 20)),
)


@settings(deadline=None)
@given(st.lists(STEP), st.booleans(), st.sampled_from([0.0, 5.0]))
def test_an_account_adds_up(steps: list[tuple[str, int]], overdraft: bool, lag: float) -> None:
    """All credits that were added are left or were spent; without overdraft none goes below zero."""
    clock = Clock(None)
    account = Account(100, clock, lag=lag, overdraft=overdraft)
    with clock.settled():
        operation = account.begin("spec", "one")
    added, seen = 100, [Decimal(100)]
    for step, n in steps:
        if step == "charge":
            before = account.balance
            with clock.settled() as now:
                charged = account.charge(operation, micro(n), now)
            assert charged == (before > 0 and (overdraft or before >= n))
        elif step == "spend":
            assert account.spend(n) <= n
        elif step == "top_up":
            account.top_up(n)
            added += n
        else:
            clock.advance(n)
        seen.append(account.balance)
        assert account.balance == added - account.used
        assert account.used >= account.charged
        assert account.reported >= account.balance
    assert account.lowest_balance == min(seen)
    assert overdraft or account.lowest_balance >= 0
    clock.advance(lag)
    assert account.reported == account.balance


def test_another_user_takes_at_most_what_is_left() -> None:
    """Another user can empty the account; `spend` returns what was taken."""
    account = Account(10, Clock(None))
    assert [account.spend(7) for _ in range(3)] == [7, 3, 0]
    assert [account.used, account.charged, account.lowest_balance] == [10, 0, 0]


def test_manual_clock_adds_up() -> None:
    """Ten steps of a tenth of a second are a second."""
    clock = Clock(None)
    due: list[float] = []
    with clock.settled():
        clock.at(1.0, due.append)
    for _ in range(9):
        clock.advance(0.1)
    assert due == []
    clock.advance(0.1)
    assert due == [1.0]


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_time_moves_forward(seconds: float) -> None:
    """A manual clock refuses values that are not a time to move forward by."""
    with pytest.raises(ValueError, match="moves forward"):
        Clock(None).advance(seconds)


def test_clock_faster_than_its_work() -> None:
    """Work that becomes due faster than it can be done slows the clock, and does not pile up."""
    real, done = 0.0, 0
    clock = Clock(60, timer=lambda: real)

    def work(when: float) -> None:
        nonlocal real, done
        real += 1
        done += 1
        clock.at(when + 1, work)

    with clock.settled():
        clock.at(1, work)
    for second in range(1, 4):
        real += 1
        for _ in range(2):
            with clock.settled() as now:
                assert (now, done) == (60 * second, 60 * second)


def test_real_clock_is_not_moved() -> None:
    """Advancing a clock that runs by itself is an error that says how to make a manual one."""
    with pytest.raises(RuntimeError, match='clock="manual"'):
        Sandbox().advance(1)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_speed_is_positive(speed: float) -> None:
    """A speed that is not a positive number is refused."""
    with pytest.raises(ValueError, match="speed"):
        Sandbox(speed=speed)
