"""Failing refreshes: the attempts within one, the backoff between them, and the callers' errors."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest
from staging import Caller, answered, start_together, under_way, waiting

from budgetguard import BalanceUnavailable, Guard, InvalidCredentials
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def provider() -> FakeProvider:
    """A provider that cannot be reached."""
    provider = FakeProvider(100)
    provider.failure = httpx.ConnectError("no route to host")
    return provider


@pytest.fixture
def guard(clock: HandClock, provider: FakeProvider) -> Guard:
    """A guard whose jitter is always at its maximum."""
    del clock
    guard = Guard(provider)
    binding_of(guard).account.runtime.jitter = lambda _, longest: longest
    return guard


def unavailable(guard: Guard) -> BalanceUnavailable:
    """The error of a call that is refused at once."""
    with pytest.raises(BalanceUnavailable) as error:
        guard.acquire(1)
    return error.value


def fail_until_told(guard: Guard, clock: HandClock, step: float = 0.25) -> BalanceUnavailable:
    """The error of a call that waits for its refresh's attempts while time passes."""
    caller = Caller(lambda: guard.acquire(1))
    under_way(clock, guard.provider, 1)
    while waiting(guard):
        clock.advance(step)
    error = caller.outcome()
    assert isinstance(error, BalanceUnavailable)
    return error


def attempts_come_after(guard: Guard, clock: HandClock, *waits: float) -> None:
    """See the attempts of a call's refresh: a second one and more, each when its wait is over."""
    caller = Caller(lambda: guard.acquire(1))
    under_way(clock, guard.provider, 1)
    for number, wait in enumerate(waits, start=1):
        clock.advance(wait - 0.01)
        assert guard.provider.requests == number
        clock.advance(0.01)
        assert guard.provider.requests == number + 1
    assert isinstance(caller.outcome(), BalanceUnavailable)


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [
        (httpx.ConnectError("no route"), 3),
        (httpx.ConnectTimeout("slow"), 3),
        (answered(500), 3),
        (answered(503), 3),
        (answered(429), 3),
        (answered(429, retry_after="3"), 3),
        (answered(429, retry_after="30"), 1),
        (answered(503, retry_after="30"), 1),
        (answered(404), 1),
        (answered(401), 1),
        (answered(403), 1),
        (httpx.ReadError("broken"), 1),
        (ConnectionError("broken"), 1),
        (BalanceUnavailable(provider="fake", reason="nonsense"), 1),
    ],
    ids=[
        "no connection",
        "connection times out",
        "500",
        "503",
        "429",
        "429 that fits",
        "429 that does not fit",
        "503 that does not fit",
        "404",
        "401",
        "403",
        "broken while reading",
        "any other error",
        "nonsense",
    ],
)
def test_a_refresh_makes_up_to_three_attempts_where_that_may_help(
    clock: HandClock, guard: Guard, provider: FakeProvider, failure: Exception, attempts: int
) -> None:
    """All inside its one deadline."""
    provider.failure = failure
    before = clock.monotonic()
    fail_until_told(guard, clock)
    assert provider.requests == attempts
    assert clock.monotonic() - before <= 10


def test_a_refresh_that_succeeds_at_its_last_attempt_is_a_refresh(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """Its callers never notice the earlier attempts."""
    caller = Caller(lambda: guard.acquire(10).settle())
    under_way(clock, provider, 1)
    clock.advance(0.5)
    assert provider.requests == 2
    provider.failure = None
    clock.advance(1)
    assert caller.outcome() is None
    assert (provider.requests, guard.available) == (3, 90)


def test_attempts_are_spaced_exponentially(clock: HandClock, guard: Guard) -> None:
    """Half a second, then a whole one."""
    attempts_come_after(guard, clock, 0.5, 1)


def test_attempts_keep_to_retry_after(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """The provider says when to come again."""
    provider.failure = answered(429, retry_after="3")
    attempts_come_after(guard, clock, 3, 3)


def test_the_wait_between_refreshes_doubles_up_to_sixty_seconds(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """Failure after failure, and no refresh before its time."""
    provider.failure = ConnectionError("down")
    waits = []
    for number in range(1, 12):
        error = unavailable(guard)
        assert provider.requests == number
        assert error.retry_after is not None
        waits.append(error.retry_after)
        clock.advance(error.retry_after - 0.01)
        unavailable(guard)
        assert provider.requests == number
        clock.advance(0.01)
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_the_backoff_goes_on_from_the_attempts_within_a_refresh(
    clock: HandClock, guard: Guard
) -> None:
    """Three attempts are three failures: the next refresh waits for two seconds, not half a one."""
    assert fail_until_told(guard, clock).retry_after == pytest.approx(2, abs=0.25)


def test_a_success_ends_the_backoff(clock: HandClock, guard: Guard, provider: FakeProvider) -> None:
    """The next failure counts as the first."""
    provider.failure = ConnectionError("down")
    for _ in range(6):
        unavailable(guard)
        clock.advance(60)
    provider.failure = None
    guard.balance()
    provider.failure = ConnectionError("down")
    clock.advance(601)
    assert unavailable(guard).retry_after == 0.5


@pytest.mark.parametrize("share", [0, 0.3, 1], ids=str)
def test_the_wait_is_drawn_from_nothing_to_the_most(
    clock: HandClock, guard: Guard, provider: FakeProvider, share: float
) -> None:
    """Full jitter: of a fleet that lost its provider together, each comes at its own time."""
    drawn: list[tuple[float, float]] = []

    def jitter(least: float, most: float) -> float:
        drawn.append((least, most))
        return share * most

    binding_of(guard).account.runtime.jitter = jitter
    provider.failure = ConnectionError("down")
    for most in (0.5, 1, 2):
        error = unavailable(guard)
        assert error.retry_after == pytest.approx(share * most, abs=0.002)
        clock.advance(2)
    assert drawn == [(0, 0.5), (0, 1), (0, 2)]


@pytest.mark.usefixtures("clock")
def test_by_default_no_two_guards_draw_the_same() -> None:
    """The jitter is random, and differs from one failure to the next."""
    waits = set()
    for _ in range(10):
        provider = FakeProvider(1)
        provider.failure = ConnectionError("down")
        waits.add(unavailable(Guard(provider)).retry_after)
    assert len(waits) > 1


def _in_seconds(seconds: float, _: HandClock) -> str:
    return str(seconds)


def _as_a_date(seconds: float, clock: HandClock) -> str:
    return format_datetime(datetime.fromtimestamp(clock.wall() + seconds, UTC), usegmt=True)


@pytest.mark.parametrize("spelled", [_in_seconds, _as_a_date], ids=["seconds", "date"])
@pytest.mark.parametrize(("asked", "kept"), [(20, 20), (3600, 60), (9_999_999_999, 60)], ids=str)
def test_retry_after_keeps_the_next_refresh_away(
    clock: HandClock,
    guard: Guard,
    provider: FakeProvider,
    spelled: Callable[[float, HandClock], str],
    asked: float,
    kept: float,
) -> None:
    """In seconds or as a date, and never for longer than a minute."""
    if asked > 10**9 and spelled is _as_a_date:
        value = "Fri, 31 Dec 9999 23:59:59 GMT"
    else:
        value = spelled(asked, clock)
    provider.failure = answered(429, retry_after=value)
    assert unavailable(guard).retry_after == kept
    clock.advance(kept - 0.1)
    unavailable(guard)
    assert provider.requests == 1
    clock.advance(0.1)
    provider.failure = None
    guard.acquire(1).release()
    assert provider.requests == 2


@pytest.mark.parametrize("value", ["soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT", "nan", "1e9"])
def test_a_retry_after_that_says_nothing_is_ignored(
    clock: HandClock, guard: Guard, provider: FakeProvider, value: str
) -> None:
    """The backoff goes on as it would have."""
    provider.failure = answered(429, retry_after=value)
    assert fail_until_told(guard, clock).retry_after == pytest.approx(2, abs=0.25)
    assert provider.requests == 3


def test_backing_off_goes_by_the_clock_that_never_jumps(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """A wall clock that is set forward does not bring the next refresh closer."""
    provider.failure = answered(429, retry_after="50")
    unavailable(guard)
    clock.set_wall(clock.wall() + 1_000)
    unavailable(guard)
    assert provider.requests == 1


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (401, InvalidCredentials, False),
        (403, InvalidCredentials, False),
        (404, BalanceUnavailable, True),
    ],
    ids=str,
)
def test_a_refused_key_is_told_from_a_provider_that_is_down(
    guard: Guard,
    provider: FakeProvider,
    status: int,
    kind: type[BalanceUnavailable],
    retryable: bool,
) -> None:
    """Trying again does not help there."""
    provider.failure = answered(status)
    error = unavailable(guard)
    assert type(error) is kind
    assert error.retryable is retryable
    assert str(status) in error.reason
    assert error.status_code == 503


def test_a_refused_key_is_logged_until_one_is_accepted(
    clock: HandClock, guard: Guard, provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and again after a refresh that succeeded; a provider that is down is not."""
    provider.failure = answered(404)
    unavailable(guard)
    assert not caplog.records
    for _ in range(2):
        provider.failure = answered(401)
        for _ in range(3):
            clock.advance(120)
            unavailable(guard)
        provider.failure = None
        clock.advance(700)
        guard.balance(max_age=0)
        clock.advance(700)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["The balance at fake is not available: the provider answered 401."] * 2


def test_a_failed_refresh_is_shared_and_each_caller_gets_an_error_of_its_own(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """With the cause that they have in common."""
    broken = ConnectionError("broken")
    provider.failure = httpx.ConnectError("first")
    callers = start_together(guard, lambda: guard.acquire(1), 10)
    under_way(clock, provider, 1)
    provider.failure = broken
    clock.advance(0.5)
    errors = [caller.outcome() for caller in callers]
    assert len({id(error) for error in errors}) == 10
    assert {error.__cause__ for error in errors} == {broken}
    assert provider.requests == 2


def test_an_error_of_the_http_client_is_no_cause(guard: Guard, provider: FakeProvider) -> None:
    """It holds the request, and that holds the key."""
    provider.failure = answered(404)
    error = unavailable(guard)
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"content_type": "text/html; charset=utf-8"}, BalanceUnavailable),
        ({"cf_mitigated": "challenge"}, BalanceUnavailable),
        ({"content_type": "application/json"}, InvalidCredentials),
        ({}, InvalidCredentials),
    ],
)
def test_a_page_before_a_users_own_provider_is_no_bad_key(
    clock: HandClock, status: int, headers: dict[str, str], kind: type[BalanceUnavailable]
) -> None:
    """What a firewall or a proxy puts there says nothing of the key."""
    provider = FakeProvider()
    provider.failure = answered(status, **headers)
    with pytest.raises(BalanceUnavailable) as caught:
        Guard(provider).acquire(1)
    assert type(caught.value) is kind
    clock.advance(0)


def test_a_users_own_provider_may_be_told_to_wait_twice(clock: HandClock) -> None:
    """The longer of both counts."""
    provider = FakeProvider()
    request = httpx.Request("GET", "https://api.example.com/balance")
    reply = httpx.Response(429, headers=[("Retry-After", "20"), ("Retry-After", "30")])
    provider.failure = httpx.HTTPStatusError("429", request=request, response=reply)
    with pytest.raises(BalanceUnavailable) as caught:
        Guard(provider).acquire(1)
    assert caught.value.retry_after == 30
    clock.advance(0)
