"""Refused calls that tenacity, stamina, Celery and arq try again later, as the how-to guide shows it."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from needed import need

need("arq", "cachetools", "celery", "fakeredis", "stamina", "tenacity")

import arq.worker
import fakeredis
import stamina
import tenacity
from arq import Retry
from arq.connections import ArqRedis
from cachetools import LRUCache
from celery import Celery

from budgetguard import Balance, BudgetGuardError, Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock


def seconds_until(error: BudgetGuardError) -> float | None:
    """How long to park a refused call; None if waiting does not help."""
    if error.retryable:
        return getattr(error, "retry_after", None) or 1.0
    renews_at: datetime | None = getattr(error, "renews_at", None)
    if renews_at is None:
        return None
    return max((renews_at - datetime.now(UTC)).total_seconds(), 0.0) + 60


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard of 60 credits."""
    return Guard(FakeProvider(60))


Attempts = list[str]


def refused_once(guard: Guard) -> tuple[Callable[[str], str], Attempts, Callable[..., Any]]:
    """A call that is refused while another runs, its attempts, and what ends that other one."""
    running, attempts = guard.acquire(50), Attempts()

    @guard.require_credits(min=50)
    def call(prompt: str) -> str:
        attempts.append(prompt)
        return prompt.upper()

    def end(*_: Any) -> None:
        if running.state == "open":
            running.release()

    return call, attempts, end


def retrying(slept: list[float], during: Callable[..., Any] = lambda *_: None) -> Any:
    """Tenacity's decorator, whose waits are noted, and do not take any time."""

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        during()

    return tenacity.retry(
        retry=tenacity.retry_if_exception(lambda error: getattr(error, "retryable", False)),
        wait=tenacity.wait_exception(lambda error: getattr(error, "retry_after", None) or 1),
        stop=tenacity.stop_after_attempt(5),
        reraise=True,
        sleep=sleep,
    )


def test_tenacity_waits_as_long_as_the_refusal_says(guard: Guard) -> None:
    """Then the call is admitted, by an admission of its own."""
    call, attempts, end = refused_once(guard)
    slept: list[float] = []
    assert retrying(slept, end)(call)("a shop") == "A SHOP"
    assert (slept, attempts) == ([5], ["a shop"])


def test_tenacity_leaves_a_final_refusal_alone(clock: HandClock) -> None:
    """It reaches the caller at once, and as it is."""
    slept: list[float] = []
    poor = Guard(FakeProvider(1)).require_credits(min=50)(str.upper)
    with pytest.raises(InsufficientCredits):
        retrying(slept)(poor)("a shop")
    assert slept == []


@pytest.fixture
def _at_once() -> Iterator[None]:
    """Stamina waits no time at all."""
    with stamina.set_testing(True, attempts=5):
        yield


@pytest.mark.usefixtures("_at_once")
def test_stamina_takes_the_seconds_from_a_hook(guard: Guard, clock: HandClock) -> None:
    """A number of seconds for a refusal that may pass, False for one that is final."""
    call, attempts, end = refused_once(guard)
    asked: list[float | bool] = []

    def when(error: Exception) -> float | bool:
        retryable = isinstance(error, BudgetGuardError) and error.retryable
        asked.append(float(getattr(error, "retry_after", None) or 1) if retryable else False)
        end()
        return asked[-1]

    decorate = stamina.retry(on=when, attempts=5, timeout=None)
    assert decorate(call)("a shop") == "A SHOP"
    assert (asked, attempts) == ([5.0], ["a shop"])
    poor = Guard(FakeProvider(1)).require_credits(min=50)(str.upper)
    with pytest.raises(InsufficientCredits):
        decorate(poor)("a shop")
    assert asked == [5.0, False]


def test_celery_parks_a_refused_task(clock: HandClock) -> None:
    """`on_refusal` is given the task itself, and puts it off; it runs when there is enough."""
    app = Celery("work", broker="memory://", backend="cache+memory://")
    app.conf.task_always_eager = True
    provider = FakeProvider(0, lag=0)
    guard = Guard(provider, recheck_after=0)
    parked: list[Any] = []

    def park(error: BudgetGuardError, task: Any, prompt: str) -> None:
        parked.append((task.name, prompt, seconds_until(error)))
        provider.top_up(100)
        clock.advance(1)
        raise task.retry(exc=error, countdown=seconds_until(error) or 3600)

    @app.task(bind=True, max_retries=None, name="write")  # type: ignore[untyped-decorator,unused-ignore]
    @guard.require_credits(min=50, on_refusal=park)
    def write(task: Any, prompt: str) -> str:
        return prompt.upper()

    assert write.delay("a shop").get() == "A SHOP"
    assert parked == [("write", "a shop", None)]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's own
async def test_arq_parks_a_refused_job(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    """`on_refusal` is given the job's context, and raises arq's Retry; the job runs when it can."""

    async def nothing(*_: Any) -> None: ...

    # What it asks a server about, the fake does not know.
    monkeypatch.setattr(arq.worker, "log_redis_info", nothing)
    provider = FakeProvider(0, lag=0)
    guard = Guard(provider, recheck_after=0)
    parked: list[Any] = []

    def park(error: BudgetGuardError, ctx: dict[str, Any], prompt: str) -> None:
        parked.append((ctx["job_try"], prompt, seconds_until(error)))
        provider.top_up(100)
        clock.advance(1)
        raise Retry(defer=0)

    @guard.require_credits(min=50, on_refusal=park)
    async def write(ctx: dict[str, Any], prompt: str) -> str:
        return prompt.upper()

    connection = fakeredis.FakeAsyncRedis()
    pool = ArqRedis(connection_pool=connection.connection_pool)
    job = await pool.enqueue_job("write", "a shop")
    worker = arq.worker.Worker(
        [arq.worker.func(write, name="write")],
        redis_pool=pool,
        burst=True,
        poll_delay=0.01,
        handle_signals=False,
    )
    await worker.main()
    assert job is not None
    assert await job.result(timeout=5) == "A SHOP"
    assert parked == [(1, "a shop", None)]
    await worker.close()
    await connection.aclose()


def test_a_call_is_parked_until_the_allocation_renews(clock: HandClock) -> None:
    """A minute later; a refusal that no time can change is not parked at all."""
    renews = datetime.now(UTC) + timedelta(days=3)
    found: list[float | None] = []
    for renews_at in (renews, None):
        balance = Balance(credits=1, renews_at=renews_at)
        call = Guard(lambda balance=balance: balance).require_credits(
            min=50, on_refusal=lambda error: found.append(seconds_until(error))
        )(print)
        call()
    soon, never = found
    assert soon is not None
    assert timedelta(days=3) - timedelta(minutes=5) < timedelta(seconds=soon)
    assert timedelta(seconds=soon) <= timedelta(days=3, minutes=1)
    assert never is None


def test_a_cached_answer(clock: HandClock) -> None:
    """The last answer to the same prompt; without one, the refusal itself."""
    answers: LRUCache[str, str] = LRUCache(maxsize=100)
    guard = Guard(FakeProvider(60))

    def last_answer(error: BudgetGuardError, prompt: str) -> str:
        if prompt not in answers:
            raise error
        return answers[prompt]

    @guard.require_credits(min=50, on_refusal=last_answer)
    def write(prompt: str) -> str:
        answers[prompt] = prompt.upper()
        return answers[prompt]

    assert [write("a shop"), write("a shop")] == ["A SHOP", "A SHOP"]
    with pytest.raises(InsufficientCredits) as refused:
        write("a library")
    assert refused.value.__context__ is None
