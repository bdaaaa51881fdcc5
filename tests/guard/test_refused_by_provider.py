"""The provider itself refuses a call: what a guard makes of each kind of refusal."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from staging import queue_up

from budgetguard import Balance, BalanceUnavailable, Event, Guard, InsufficientCredits
from budgetguard.providers import (
    EXHAUSTED,
    KEY_LIMIT,
    NOT_CREDITS,
    ProviderRefusal,
    busy,
    key_limit,
)
from budgetguard.testing import FakeProvider, HandClock


class OneAccount(FakeProvider):
    """An account that may have several keys."""

    def __init__(self, credential: str, shared: FakeProvider | None = None) -> None:
        super().__init__(100)
        self.credential = credential
        self.shared = shared or self
        self.fingerprint = self.shared.fingerprint

    async def fetch(self, client: Any) -> Balance:
        """The balance of the one account."""
        if self.shared is not self:
            return await self.shared.fetch(client)
        return await super().fetch(client)


@pytest.fixture
def provider() -> FakeProvider:
    """An account with 100 credits."""
    return FakeProvider(100)


@pytest.fixture
def guard(clock: HandClock, provider: FakeProvider) -> Guard:
    """A guard with a balance that was requested a while ago."""
    guard = Guard(provider)
    guard.balance()
    clock.advance(20)
    return guard


def refused(guard: Guard, amount: float = 10) -> InsufficientCredits:
    """The error of a call that does not wait."""
    with pytest.raises(InsufficientCredits) as caught:
        guard.acquire(amount)
    return caught.value


def test_a_busy_provider_refuses_for_a_while_only(
    guard: Guard, provider: FakeProvider, clock: HandClock
) -> None:
    """The balance is untouched, nobody asks for it, and the next call gets in when the pause is over."""
    guard.mark_refused(busy(30))
    error = refused(guard)
    assert (error.basis, error.retryable, error.retry_after) == ("busy", True, 30)
    assert error.balance == error.available == 100
    assert str(error) == (
        "acquire() needs 10 credits, and fake is busy: it refused a call for now, not for lack of "
        "credits. Try again in 30 s."
    )
    clock.advance(29.9)
    assert refused(guard).retry_after == pytest.approx(0.1)
    clock.advance(0.1)
    hold = guard.acquire(10)
    assert (hold.state, guard.available, provider.requests) == ("open", 90, 1)


def test_the_fast_path_is_closed_while_the_provider_is_busy(guard: Guard, clock: HandClock) -> None:
    """Also for a decorated function that has been called before."""
    work = guard.require_credits(10)(lambda: "done")
    assert work() == "done"
    guard.mark_refused(busy(5))
    for _ in range(2):
        with pytest.raises(InsufficientCredits):
            work()
    clock.advance(5)
    assert [work(), work()] == ["done", "done"]


def test_a_call_with_wait_waits_for_a_busy_provider(guard: Guard, clock: HandClock) -> None:
    """Those who come before and those who come during the pause, in order of arrival."""
    running = guard.acquire(95)
    (before,) = queue_up(guard, [lambda: guard.acquire(50, wait=60)])
    guard.mark_refused(busy(10))
    running.release()
    (during,) = queue_up(guard, [lambda: guard.acquire(50, wait=60)])
    clock.advance(9)
    assert guard.available == 100
    clock.advance(1)
    assert [before.outcome().amount, during.outcome().amount] == [50, 50]


def test_a_call_waits_for_a_busy_provider_no_longer_than_it_says(
    guard: Guard, clock: HandClock
) -> None:
    """Then it is refused, with the time that is left."""
    guard.mark_refused(busy(10))
    (caller,) = queue_up(guard, [lambda: guard.acquire(50, wait=4)])
    clock.advance(4)
    error = caller.outcome()
    assert isinstance(error, InsufficientCredits)
    assert (error.basis, error.retry_after) == ("busy", 6)


def test_what_costs_nothing_is_let_in_by_a_busy_provider(clock: HandClock) -> None:
    """A call that takes a slot alone is not about credits."""
    del clock
    guard = Guard(FakeProvider(100, max_concurrency=2))
    guard.balance()
    guard.mark_refused(busy(10))
    assert guard.acquire(slots=1).state == "open"


def test_the_longer_pause_counts(guard: Guard, clock: HandClock) -> None:
    """A second refusal does not shorten the first one's pause."""
    guard.mark_refused(busy(30))
    guard.mark_refused(busy(1))
    clock.advance(29)
    assert refused(guard).retry_after == 1


@pytest.mark.parametrize(
    ("refusal", "pause"),
    [
        (busy(), 5),
        (busy(0), 0),
        (busy(-1), 0),
        (busy(float("nan")), 0),
        (busy(1e9), 3600),
        (busy(float("inf")), 3600),
        (key_limit(), 300),
        (key_limit(7200), 3600),
    ],
    ids=repr,
)
def test_how_long_a_refusal_counts(refusal: ProviderRefusal, pause: float) -> None:
    """What the provider says, within bounds, or a default."""
    assert refusal.pause() == pause


def test_a_key_limit_stops_this_key_alone(clock: HandClock) -> None:
    """Another key of the same account goes on, from the same balance."""
    one = OneAccount("one")
    first, second = Guard(one), Guard(OneAccount("two", one))
    first.balance()
    clock.advance(20)
    work = first.require_credits(10)(lambda: "done")
    work()
    first.mark_refused(KEY_LIMIT)
    with pytest.raises(InsufficientCredits) as caught:
        work()
    error = caught.value
    assert (error.basis, error.retryable, error.balance) == ("key limit", False, 100)
    assert "because of a limit of this key's own. Raise that limit, or use another key." in str(
        error
    )
    assert "op up" not in str(error)
    assert second.acquire(10).state == "open"
    clock.advance(300)
    assert work() == "done"


def test_a_caller_with_a_limited_key_blocks_nobody(clock: HandClock) -> None:
    """It does not wait for the limit, although it has the time."""
    one = OneAccount("one")
    first, second = Guard(one), Guard(OneAccount("two", one))
    running = first.acquire(95)
    clock.advance(20)
    first.mark_refused(key_limit(60))
    assert first.balance(max_age=0).credits == 100
    with pytest.raises(InsufficientCredits):
        first.acquire(50, wait=30)
    (waiter,) = queue_up(second, [lambda: second.acquire(50, wait=30)])
    running.release()
    assert waiter.outcome().amount == 50


def test_a_higher_balance_ends_a_key_limit(
    guard: Guard, provider: FakeProvider, clock: HandClock
) -> None:
    """As when the key's limit was raised, for a provider that reports it; an equal one does not."""
    guard.mark_refused(KEY_LIMIT)
    assert guard.balance(max_age=0).credits == 100
    clock.advance(10)
    refused(guard)
    provider.top_up(1)
    clock.advance(10)
    assert guard.acquire(10).state == "open"


def test_what_is_not_about_credits_changes_nothing(guard: Guard, provider: FakeProvider) -> None:
    """No refresh, no event, no refusal."""
    guard.mark_refused(NOT_CREDITS)
    hold = guard.acquire(10)
    assert hold.state == "open"
    assert provider.requests == 1
    hold.release()


def test_lack_of_credits_is_what_mark_exhausted_says(guard: Guard) -> None:
    """A balance of zero, which the provider itself proved."""
    guard.mark_refused(EXHAUSTED)
    assert refused(guard).basis == "refused"


def test_anything_else_is_a_type_error(guard: Guard) -> None:
    """The name of a kind is not enough, because it carries no pause."""
    with pytest.raises(TypeError, match="mark_refused takes a ProviderRefusal, not str"):
        guard.mark_refused("busy")  # type: ignore[arg-type]


def test_listeners_hear_of_it(clock: HandClock) -> None:
    """`busy` goes to every guard of the account, and a key's limit to those with the key."""
    heard: list[Event] = []
    others: list[Event] = []
    one = OneAccount("one")
    guard = Guard(one, on_event=heard.append)
    other = Guard(OneAccount("two", one), on_event=others.append)
    guard.balance()
    del clock
    heard.clear()
    others.clear()
    guard.mark_refused(busy(3))
    guard.mark_refused(KEY_LIMIT)
    assert [event.kind for event in heard] == ["busy", "exhausted"]
    assert heard[1].reason == "the provider refused a call because of a limit of this key's own"
    assert [event.kind for event in others] == ["busy"]
    assert other.available == 100


def test_observe_mode_lets_it_through(clock: HandClock, provider: FakeProvider) -> None:
    """It says that it would have refused the call."""
    del clock
    heard: list[Event] = []
    guard = Guard(provider, mode="observe", on_event=heard.append)
    guard.balance()
    guard.mark_refused(busy(3))
    assert guard.acquire(10, wait=5).state == "open"
    assert [event.enforced for event in heard if event.kind == "refused"] == [False]


class TestUnits:
    """What an account is counted in."""

    def test_a_message_says_the_unit(self, clock: HandClock) -> None:
        """At every amount, because dollars are no credits."""
        del clock
        renews = datetime(2026, 12, 1, tzinfo=UTC)
        guard = Guard(lambda: Balance(credits="0.42", unit="USD", renews_at=renews), floor="0.1")
        guard.acquire("0.3", name="other").keep()
        error = refused(guard, 0.5)
        assert str(error) == (
            "acquire() needs 0.5 USD, and 0.02 USD is available: the provider reports 0.42 USD, "
            "0.3 USD is unresolved for up to 5 s because the outcome of a call is not known, "
            "the floor reserves 0.1 USD (as of just now). The allocation renews at "
            "2026-12-01 00:00 UTC. Top up the account."
        )
        assert (error.unit, error.renews_at) == ("USD", renews)
        assert type(error)(*error.args).renews_at == renews

    def test_amounts_in_two_units_are_never_compared(self, clock: HandClock) -> None:
        """The balance is not known then, and the error says why."""
        answers = [Balance(credits=5, unit="CNY"), Balance(credits=70, unit="USD")]
        guard = Guard(lambda: answers.pop(0))
        assert guard.balance().unit == "CNY"
        clock.advance(400)
        with pytest.raises(
            BalanceUnavailable, match="it is in USD, and this account is counted in CNY"
        ):
            guard.balance()

    def test_a_provider_may_leave_the_unit_to_its_class(self, clock: HandClock) -> None:
        """A balance that says nothing is in the unit of its provider."""
        del clock

        class InDollars(FakeProvider):
            unit = "USD"

        guard = Guard(InDollars(Decimal("1.5")))
        assert guard.balance().unit == "USD"
        assert "needs 2 USD, and 1.5 USD is available" in str(refused(guard, 2))

    @pytest.mark.parametrize("unit", ["", 5, None], ids=repr)
    def test_a_unit_is_a_name(self, unit: Any) -> None:
        """Anything else is refused where it is written."""
        with pytest.raises(TypeError, match="unit takes a name"):
            Balance(credits=1, unit=unit)

    def test_a_renewal_has_a_time_zone(self) -> None:
        """A time of no place is not a time."""
        with pytest.raises(ValueError, match="needs a time zone"):
            Balance(credits=1, renews_at=datetime(2026, 12, 1))  # noqa: DTZ001
        with pytest.raises(TypeError, match="takes a datetime"):
            Balance(credits=1, renews_at="2026-12-01")  # type: ignore[arg-type]
