"""Anchor Browser's SDK, plain and async, guarded as its users would, against the sandbox."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from accounts import Elapse, OpenSandbox, anchor_guard
from anchorbrowser import (
    Anchorbrowser,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncAnchorbrowser,
    InternalServerError,
    RateLimitError,
)

from budgetguard import (
    AnchorBrowser,
    BudgetGuardError,
    ConcurrencyLimit,
    Guard,
    Hold,
    InsufficientCredits,
)
from budgetguard.testing.sandbox import BROWSER_CREATED, BROWSER_MINUTE, Sandbox

# The longest life of a session by default, and the minute that is billed as it begins.
MINUTES = 20
LONGEST_COST = BROWSER_CREATED + BROWSER_MINUTE * MINUTES
CLEAR = AnchorBrowser.linger + AnchorBrowser.lag


@pytest.fixture
def connect() -> Iterator[Callable[..., Anchorbrowser]]:
    """Make the plain client, for a sandbox or another address."""
    clients = []

    def make(url: str, **options: Any) -> Anchorbrowser:
        clients.append(Anchorbrowser(api_key=Sandbox.anchor_key, base_url=url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def aconnect(sandbox: Sandbox) -> AsyncAnchorbrowser:
    """Make the async client."""
    return AsyncAnchorbrowser(api_key=sandbox.anchor_key, base_url=sandbox.url)


def create(client: Anchorbrowser, guard: Guard, hold: Hold) -> str:
    """Create a session, with what a user does about the SDK's errors."""
    try:
        return id_of(client.sessions.create_session())
    except APIStatusError as error:
        if error.status_code == 402:
            guard.mark_exhausted()
        raise
    except APIConnectionError as error:
        # Not the type alone: timeouts are connection errors of this SDK too.
        if isinstance(error.__cause__, httpx.ConnectError):
            hold.release()
        raise


def id_of(created: Any) -> str:
    """Give the new session's id."""
    id_ = created.data.id
    assert isinstance(id_, str)
    return id_


def test_a_session_is_settled_at_what_it_used(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Callable[..., Anchorbrowser]
) -> None:
    """While a browser is open its longest life is held, then what it really cost is counted."""
    sandbox = open_sandbox(1)
    guard, client = anchor_guard(sandbox), connect(sandbox.url)
    with guard.require_credits(min=LONGEST_COST, slots=1) as hold:
        session = create(client, guard, hold)
        assert guard.available == 1 - LONGEST_COST
        elapse(sandbox, 150)
        client.sessions.delete_session(session)
        seen = client.sessions.get_session(session).data
        assert seen is not None
        hold.settle(seen.credits_used)
    used = BROWSER_CREATED + 3 * BROWSER_MINUTE
    assert sandbox.anchor.charged == used
    assert guard.available == 1 - used
    elapse(sandbox, AnchorBrowser.lag)
    assert guard.balance(max_age=0).credits == guard.available == 1 - used


@pytest.mark.anyio
async def test_more_workers_than_browsers(open_sandbox: OpenSandbox) -> None:
    """Nobody is turned away by the provider, nor left without a turn, and no browser is left."""
    sandbox = open_sandbox(1, max_concurrent_browsers=3)
    guard = anchor_guard(sandbox)
    visited: list[int] = []
    opened, all_taken = [], anyio.Event()
    async with aconnect(sandbox) as client:

        async def visit(number: int) -> None:
            async with guard.require_credits(min=LONGEST_COST, slots=1, wait=30) as hold:
                session = id_of(await client.sessions.create_session())
                opened.append(session)
                if len(opened) == 3:
                    all_taken.set()
                try:
                    await all_taken.wait()
                    await client.sessions.get_session(session)
                    visited.append(number)
                finally:
                    await client.sessions.delete_session(session)
                    seen = (await client.sessions.get_session(session)).data
                    assert seen is not None
                    hold.settle(seen.credits_used)

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(visit, number)
    account = sandbox.anchor
    assert sorted(visited) == list(range(12))
    assert account.max_concurrency_seen == 3
    assert (account.finished, account.running, account.died) == (12, 0, 0)
    assert sandbox.requests["POST", "/v1/sessions"] == 12
    assert guard.available == account.balance


def test_more_threads_than_browsers(
    open_sandbox: OpenSandbox, connect: Callable[..., Anchorbrowser], pool: ThreadPoolExecutor
) -> None:
    """The same from plain code: one client, twelve threads, two browsers."""
    sandbox = open_sandbox(1, max_concurrent_browsers=2)
    guard, client = anchor_guard(sandbox), connect(sandbox.url)
    opened, all_taken = [], threading.Event()

    @guard.require_credits(
        min=LONGEST_COST, slots=1, wait=30, actual=lambda session: session.credits_used
    )
    def visit() -> Any:
        session = id_of(client.sessions.create_session())
        opened.append(session)
        if len(opened) == 2:
            all_taken.set()
        assert all_taken.wait(30)
        client.sessions.delete_session(session)
        return client.sessions.get_session(session).data

    calls = [pool.submit(visit) for _ in range(12)]
    used = sum(Decimal(str(call.result().credits_used)) for call in calls)
    assert used == sandbox.anchor.charged
    assert sandbox.anchor.max_concurrency_seen == 2
    assert sandbox.anchor.finished == sandbox.requests["POST", "/v1/sessions"] == 12
    assert guard.available == sandbox.anchor.balance


def test_one_browser_too_many(
    open_sandbox: OpenSandbox, connect: Callable[..., Anchorbrowser]
) -> None:
    """Without `wait` the one too many is refused before it is sent, until another has ended."""
    sandbox = open_sandbox(1, max_concurrent_browsers=2)
    guard, client = anchor_guard(sandbox), connect(sandbox.url)
    holds = [guard.acquire(min=LONGEST_COST, slots=1) for _ in range(2)]
    sessions = [create(client, guard, hold) for hold in holds]
    with pytest.raises(ConcurrencyLimit) as refused:
        guard.acquire(min=LONGEST_COST, slots=1)
    assert (refused.value.limit, refused.value.in_use) == (2, 2)
    client.sessions.delete_session(sessions[0])
    holds[0].settle()
    with guard.acquire(min=LONGEST_COST, slots=1) as hold:
        create(client, guard, hold)
    assert sandbox.anchor.max_concurrency_seen == 2
    holds[1].settle()


def test_refused_by_the_provider(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Callable[..., Anchorbrowser]
) -> None:
    """A 402 tells the guard: the next browsers are refused unsent, until there is a top-up."""
    sandbox = open_sandbox(1)
    guard, client = anchor_guard(sandbox), connect(sandbox.url)
    guard.balance()
    sandbox.anchor.spend(1)
    with (
        pytest.raises(APIStatusError) as error,
        guard.require_credits(min=LONGEST_COST, slots=1) as hold,
    ):
        create(client, guard, hold)
    assert error.value.status_code == 402
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(min=LONGEST_COST, slots=1)
    assert refused.value.balance == 0
    assert sandbox.requests["POST", "/v1/sessions"] == 1
    sandbox.anchor.top_up(5)
    elapse(sandbox, 5)
    with guard.acquire(min=LONGEST_COST, slots=1) as hold:
        create(client, guard, hold)
    assert sandbox.anchor.running == 1


def test_cost_limit_of_the_project(
    open_sandbox: OpenSandbox, connect: Callable[..., Anchorbrowser]
) -> None:
    """Where the project's limit leaves less than the credits would, the limit refuses first."""
    sandbox = open_sandbox(10, cost_limit=2, browser_price=1, minute_price="0.5")
    guard, client = anchor_guard(sandbox), connect(sandbox.url)
    with guard.require_credits(min="1.5", slots=1) as hold:
        create(client, guard, hold)
    with pytest.raises(InsufficientCredits, match="the cost limit at Anchor Browser leaves 2"):
        guard.acquire(min="1.5", slots=1)
    assert sandbox.anchor.refused == 0


def test_a_refused_connection_releases(
    open_sandbox: OpenSandbox, connect: Callable[..., Anchorbrowser], nobody: str
) -> None:
    """Nothing was sent: credits and slot are free at once."""
    sandbox = open_sandbox(1, max_concurrent_browsers=1)
    guard, client = anchor_guard(sandbox), connect(nobody)
    for _ in range(2):
        with (
            pytest.raises(APIConnectionError),
            guard.require_credits(min=LONGEST_COST, slots=1) as hold,
        ):
            create(client, guard, hold)
        assert hold.state == "released"
    assert guard.available == 1


def test_release_on_takes_the_sdks_own_type(
    open_sandbox: OpenSandbox, connect: Callable[..., Anchorbrowser], nobody: str
) -> None:
    """release_on=APIConnectionError releases, and timeouts too: behind one a browser may run."""
    sandbox = open_sandbox(1)
    sandbox.fault("/v1/sessions", method="POST", drip=60)
    guard = anchor_guard(sandbox)
    need = guard.require_credits(min=LONGEST_COST, release_on=APIConnectionError)
    with pytest.raises(APIConnectionError):
        need(connect(nobody).sessions.create_session)()
    assert guard.available == 1
    impatient = connect(sandbox.url, timeout=httpx.Timeout(10, read=0.02))
    with pytest.raises(APITimeoutError):
        need(impatient.sessions.create_session)()
    assert sandbox.wait_until(lambda: sandbox.anchor.running == 1)
    assert guard.available == 1


@pytest.mark.parametrize("fault", [{"reset": True}, {"status": 500}], ids=str)
def test_errors_of_the_sdk_keep_the_hold(
    open_sandbox: OpenSandbox,
    elapse: Elapse,
    connect: Callable[..., Anchorbrowser],
    fault: dict[str, Any],
) -> None:
    """A browser may run behind an error: it counts, slot included, for as long as one lives."""
    sandbox = open_sandbox(1, max_concurrent_browsers=1)
    sandbox.fault("/v1/sessions", times=1, **fault)
    guard, client = anchor_guard(sandbox), connect(sandbox.url)
    with (
        pytest.raises((APIConnectionError, InternalServerError)),
        guard.require_credits(min=LONGEST_COST, slots=1) as hold,
    ):
        create(client, guard, hold)
    assert hold.state == "kept"
    assert guard.available == 1 - LONGEST_COST
    elapse(sandbox, CLEAR - 1)
    with pytest.raises(ConcurrencyLimit):
        guard.acquire(min=LONGEST_COST, slots=1)
    elapse(sandbox, 1)
    guard.balance(max_age=0)
    assert guard.available == 1
    guard.acquire(min=LONGEST_COST, slots=1).release()


def test_a_rate_limit_that_proves_that_nothing_began(
    open_sandbox: OpenSandbox, connect: Callable[..., Anchorbrowser]
) -> None:
    """The SDK's own type for 429, named in release_on, gives credits and slot back at once."""
    sandbox = open_sandbox(1, sessions_per_minute=1)
    guard, client = anchor_guard(sandbox), connect(sandbox.url)
    need = guard.require_credits(
        min=LONGEST_COST, slots=1, actual=lambda _: "0.01", release_on=RateLimitError
    )
    create_session = need(client.sessions.create_session)
    create_session()
    with pytest.raises(RateLimitError):
        create_session()
    assert guard.available == 1 - Decimal("0.01")


def arrived(sandbox: Sandbox, sent: int) -> bool:
    """Tell whether the provider began as many sessions as were sent."""
    return len(sandbox.anchor.operations) == sent


def test_clients_that_give_up_never_overspend(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Callable[..., Anchorbrowser]
) -> None:
    """A session whose creation timed out goes on and is billed late: it remains held until the balance shows that."""
    sandbox = open_sandbox(100, lag=59, browser_price=1, minute_price=1, max_concurrent_browsers=9)
    guard = anchor_guard(sandbox)
    client = connect(sandbox.url, timeout=httpx.Timeout(10, read=0.02))
    sandbox.fault("/v1/sessions", method="POST", drip=60)
    sent = 0
    for _ in range(120):
        try:
            with guard.require_credits(min=1 + MINUTES, slots=1):
                client.sessions.create_session()
        except BudgetGuardError:
            pass
        except APITimeoutError:
            sent += 1
            assert sandbox.wait_until(partial(arrived, sandbox, sent))
        elapse(sandbox, 60)
    assert sandbox.anchor.died == sandbox.anchor.refused == 0
    assert sandbox.anchor.finished == sent == 4
    assert sandbox.anchor.balance == 100 - 4 * (1 + MINUTES)


def test_without_lingering_they_would(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Callable[..., Anchorbrowser]
) -> None:
    """With `linger=0` sessions are opened that are cut off for lack of credits."""
    sandbox = open_sandbox(100, lag=59, browser_price=1, minute_price=1, max_concurrent_browsers=9)
    guard = anchor_guard(sandbox, linger=0, lag=0)
    client = connect(sandbox.url, timeout=httpx.Timeout(10, read=0.02))
    sandbox.fault("/v1/sessions", method="POST", drip=60)
    for _ in range(40):
        try:
            with guard.require_credits(min=1 + MINUTES, slots=1):
                client.sessions.create_session()
        except (BudgetGuardError, APITimeoutError):
            pass
        elapse(sandbox, 60)
    assert sandbox.anchor.died > 0


@pytest.mark.anyio
async def test_cancelled_while_it_is_created(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """Whether there is a browser is not known: its hold is kept, slot included."""
    sandbox = open_sandbox(1, max_concurrent_browsers=1)
    sandbox.fault("/v1/sessions", method="POST", hang=True, times=1)
    guard = anchor_guard(sandbox)
    holds = []
    async with aconnect(sandbox) as client:

        async def visit() -> None:
            async with guard.require_credits(min=LONGEST_COST, slots=1) as hold:
                holds.append(hold)
                await client.sessions.create_session()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(visit)
            arrived = await anyio.to_thread.run_sync(
                sandbox.wait_until, lambda: sandbox.requests["POST", "/v1/sessions"] == 1
            )
            assert arrived
            tasks.cancel_scope.cancel()
    assert [hold.state for hold in holds] == ["kept"]
    assert guard.available == 1 - LONGEST_COST
    with pytest.raises(ConcurrencyLimit):
        await guard.aacquire(min=LONGEST_COST, slots=1)
    elapse(sandbox, CLEAR)
    await guard.abalance(max_age=0)
    assert guard.available == 1


@pytest.mark.anyio
async def test_cancelled_while_it_is_open(open_sandbox: OpenSandbox) -> None:
    """A browser that is deleted under a shield is settled, and its slot is free at once."""
    sandbox = open_sandbox(1, max_concurrent_browsers=1)
    guard = anchor_guard(sandbox)
    async with aconnect(sandbox) as client:

        async def visit() -> None:
            async with guard.require_credits(min=LONGEST_COST, slots=1) as hold:
                session = id_of(await client.sessions.create_session())
                try:
                    opened.set()
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await client.sessions.delete_session(session)
                        seen = (await client.sessions.get_session(session)).data
                        assert seen is not None
                        hold.settle(seen.credits_used)

        for _ in range(2):
            opened = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(visit)
                await opened.wait()
                tasks.cancel_scope.cancel()
    assert sandbox.anchor.running == 0
    assert sandbox.anchor.finished == 2
    assert guard.available == sandbox.anchor.balance


@pytest.mark.anyio
async def test_the_async_clients_own_method(open_sandbox: OpenSandbox) -> None:
    """A coroutine method of the SDK is guarded in place."""
    sandbox = open_sandbox(1, max_concurrent_browsers=2)
    guard = anchor_guard(sandbox)
    async with aconnect(sandbox) as client:
        need = guard.require_credits(min=LONGEST_COST, name="create_session")
        create_session = need(client.sessions.create_session)
        await create_session(session={"timeout": {"max_duration": MINUTES}})
        assert guard.available == 1 - LONGEST_COST
        sandbox.anchor.spend(1)
        guard.mark_exhausted()
        with pytest.raises(InsufficientCredits, match="create_session needs"):
            await create_session()
    assert sandbox.requests["POST", "/v1/sessions"] == 1
