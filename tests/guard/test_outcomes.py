"""What becomes of the hold when a guarded call ends, in sync and async code alike.

The account has a lag and a linger, so that what was released, settled and kept can be told apart:
100 credits, of which a call holds 30, 29 or 31 of which may turn out to be its cost.
"""

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

from budgetguard import Event, Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock

pytestmark = pytest.mark.usefixtures("few_to_collect")


class Refused(Exception):
    """What a client raises when nothing was charged."""


class Told:
    """The events that tell how a call ended."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Take one."""
        self.events.append(event)

    @property
    def ends(self) -> list[tuple[str, Decimal | None]]:
        """Kind and credits, without admissions and refreshes."""
        before = {"admitted", "refreshed"}
        return [(event.kind, event.credits) for event in self.events if event.kind not in before]


@pytest.fixture
def told() -> Told:
    """The guard's events."""
    return Told()


@pytest.fixture(params=[True, False], ids=["with events", "without"])
def guard(request: pytest.FixtureRequest, clock: HandClock, told: Told) -> Guard:
    """A guard that knows of its 100 credits."""
    del clock
    provider = FakeProvider(100, lag=5, linger=300)
    guard = Guard(provider, on_event=told if request.param else None)
    guard.balance()
    return guard


def ended(guard: Guard, told: Told, *ends: tuple[str, int]) -> bool:
    """Whether these events were delivered, where there is a listener."""
    return binding_of(guard).subscriber.on_event is None or told.ends == list(ends)


class TestPlainFunctions:
    """Calls that return or raise."""

    def call(self, guard: Guard, body: Callable[[], object], **more: Any) -> object:
        """Call `body`, guarded with a cost of 30."""

        @guard.require_credits(min=30, **more)
        def function() -> object:
            return body()

        return function()

    def test_a_call_that_returns_is_settled_at_its_cost(self, guard: Guard, told: Told) -> None:
        """Nobody said what it really cost."""
        assert self.call(guard, lambda: "result") == "result"
        assert guard.available == 70
        assert ended(guard, told, ("settled", 30))

    @pytest.mark.parametrize("real", [0, 29, 30], ids=str)
    def test_actual_says_what_it_cost(self, guard: Guard, told: Told, real: int) -> None:
        """It is given the result."""
        assert self.call(guard, lambda: {"used": real}, actual=lambda result: result["used"])
        assert guard.available == 100 - real
        assert ended(guard, told, ("settled", real))

    def test_more_than_was_held_is_accepted_and_reported(self, guard: Guard, told: Told) -> None:
        """The money is gone: an overrun by what was not held."""
        self.call(guard, lambda: None, actual=lambda _: 45)
        assert guard.available == 55
        assert ended(guard, told, ("settled", 45), ("overrun", 15))

    @pytest.mark.parametrize(
        "actual",
        [
            lambda _: 1 / 0,
            lambda _: None,
            lambda _: True,
            lambda _: -1,
            lambda _: float("nan"),
            lambda _: "many",
            lambda _: 10**13,
            lambda: 1,
        ],
        ids=["raises", "None", "bool", "negative", "NaN", "words", "too much", "takes nothing"],
    )
    def test_nonsense_from_actual_is_settled_at_cost_and_reported(
        self,
        guard: Guard,
        told: Told,
        caplog: pytest.LogCaptureFixture,
        actual: Callable[..., Any],
    ) -> None:
        """The call's own result is returned untouched."""
        result = object()
        assert self.call(guard, lambda: result, actual=actual) is result
        assert guard.available == 70
        assert ended(guard, told, ("settled", 30))
        assert [record.name for record in caplog.records] == ["budgetguard"]
        assert "actual of" in caplog.text

    def test_a_call_that_raises_is_kept(self, guard: Guard, told: Told, clock: HandClock) -> None:
        """The provider may work on: it counts until a balance 305 seconds later shows."""
        with pytest.raises(ConnectionError, match="gone"):
            self.call(guard, _raises(ConnectionError("gone")))
        clock.advance(304)
        assert guard.available == 70
        clock.advance(1)
        assert guard.available == 100
        assert ended(guard, told, ("kept", 30))

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
    def test_what_ends_a_program_keeps_the_hold(
        self, guard: Guard, told: Told, clock: HandClock, error: BaseException
    ) -> None:
        """KeyboardInterrupt and the like are no Exceptions, and count all the same."""
        with pytest.raises(type(error)):
            self.call(guard, _raises(error))
        clock.advance(0)
        assert guard.available == 70
        assert ended(guard, told, ("kept", 30))

    @pytest.mark.parametrize(
        "release_on",
        [Refused, (ConnectionError, Refused), Exception],
        ids=["one", "several", "base"],
    )
    def test_an_error_that_proves_that_nothing_was_charged_releases(
        self, guard: Guard, told: Told, release_on: Any
    ) -> None:
        """`release_on` goes by isinstance."""
        with pytest.raises(Refused):
            self.call(guard, _raises(Refused()), release_on=release_on)
        assert guard.available == 100
        assert ended(guard, told, ("released", 30))

    def test_another_error_than_those_is_kept(self, guard: Guard, told: Told) -> None:
        """What is not in `release_on` proves nothing."""
        with pytest.raises(KeyError):
            self.call(guard, _raises(KeyError()), release_on=Refused)
        assert guard.available == 70
        assert ended(guard, told, ("kept", 30))

    def test_an_interrupt_while_actual_runs_leaves_no_open_hold(
        self, guard: Guard, clock: HandClock
    ) -> None:
        """Control-C there ends the hold like one anywhere else."""

        @guard.require_credits(
            min=30, actual=lambda stop: _raises(KeyboardInterrupt())() if stop else 0
        )
        def function(stop: bool) -> bool:
            return stop

        function(stop=False)
        with pytest.raises(KeyboardInterrupt):
            function(stop=True)
        gc.collect()
        clock.advance(305)
        guard.balance(max_age=0)
        assert guard.available == 100


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("warm", [False, True], ids=["first call", "later call"])
class TestWaysIn:
    """A first call is decided on at length, later ones quickly: they have to end alike."""

    @pytest.mark.parametrize(
        ("body", "options", "available"),
        [
            (lambda: None, {}, 970),
            (lambda: None, {"actual": lambda _: 7}, 993),
            (lambda: None, {"actual": lambda _: 45}, 955),
            (lambda: None, {"actual": lambda _: 1 / 0}, 970),
            (lambda: None, {"cost": 0}, 1000),
            (lambda: None, {"cost": 0, "actual": lambda _: 3}, 997),
            (lambda: None, {"cost": 31}, 969),
            (lambda: 1 / 0, {}, 970),
            (lambda: 1 / 0, {"release_on": (ZeroDivisionError, KeyError)}, 1000),
        ],
        ids=[
            "returns",
            "costs less",
            "costs more",
            "actual raises",
            "check only",
            "check only, with actual",
            "cost above min",
            "raises",
            "raises, nothing charged",
        ],
    )
    def test_both_ways_end_alike(
        self, warm: bool, body: Callable[[], object], options: dict[str, Any], available: int
    ) -> None:
        """What is available after a call does not depend on how it was admitted."""
        provider = FakeProvider(1000, lag=5, linger=300)
        guard = Guard(provider)
        idle = warm

        @guard.require_credits(min=30, **{"release_on": KeyError, **options})
        def function() -> object:
            if idle:
                raise KeyError
            return body()

        @guard.require_credits(min=30, **{"release_on": KeyError, **options})
        async def coroutine() -> object:
            return function.__wrapped__()  # type: ignore[attr-defined]

        guard.balance()
        for call in (function, lambda: asyncio.run(coroutine())):
            before = guard.available
            assert before is not None
            idle = warm
            if warm:
                with pytest.raises(KeyError):
                    call()
                assert guard.available == before
            idle = False
            with contextlib.suppress(ZeroDivisionError):
                call()
            assert guard.available == before - (1000 - available)


def _raises(error: BaseException) -> Callable[[], Any]:
    def body() -> Any:
        raise error

    return body


async def _hang() -> None:
    await anyio.sleep_forever()


class TestCoroutines:
    """Calls that are awaited, on asyncio and trio."""

    pytestmark = pytest.mark.anyio

    async def call(
        self, guard: Guard, body: Callable[[], Awaitable[object]], **more: Any
    ) -> object:
        """Await `body`, guarded with a cost of 30."""

        @guard.require_credits(min=30, **more)
        async def function() -> object:
            return await body()

        return await function()

    async def test_a_call_that_returns_is_settled(self, guard: Guard, told: Told) -> None:
        """At its cost."""

        async def body() -> str:
            await anyio.lowlevel.checkpoint()
            assert guard.available == 70
            return "result"

        assert await self.call(guard, body) == "result"
        assert guard.available == 70
        assert ended(guard, told, ("settled", 30))

    async def test_actual_says_what_it_cost(self, guard: Guard, told: Told) -> None:
        """It is given what was awaited, not the awaitable."""

        async def body() -> int:
            await anyio.lowlevel.checkpoint()
            return 45

        assert await self.call(guard, body, actual=lambda result: result) == 45
        assert guard.available == 55
        assert ended(guard, told, ("settled", 45), ("overrun", 15))

    async def test_a_call_that_raises_is_kept(self, guard: Guard, told: Told) -> None:
        """The provider may work on."""

        async def body() -> None:
            await anyio.lowlevel.checkpoint()
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await self.call(guard, body)
        assert guard.available == 70
        assert ended(guard, told, ("kept", 30))

    async def test_an_error_that_proves_that_nothing_was_charged_releases(
        self, guard: Guard, told: Told
    ) -> None:
        """As in sync code."""

        async def body() -> None:
            await anyio.lowlevel.checkpoint()
            raise Refused

        with pytest.raises(Refused):
            await self.call(guard, body, release_on=Refused)
        assert guard.available == 100
        assert ended(guard, told, ("released", 30))

    async def test_a_call_cancelled_by_its_scope_is_kept(self, guard: Guard, told: Told) -> None:
        """The task group's cancellation ends the call, and not what the provider does."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.call, guard, _hang)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert guard.available == 70
        assert ended(guard, told, ("kept", 30))

    async def test_a_call_that_times_out_is_kept(self, guard: Guard, told: Told) -> None:
        """A deadline that has passed cancels at the first wait."""
        with anyio.move_on_after(0):
            await self.call(guard, _hang)
        assert guard.available == 70
        assert ended(guard, told, ("kept", 30))

    async def test_a_cancelled_call_may_prove_that_nothing_was_charged(
        self, guard: Guard, told: Told
    ) -> None:
        """`release_on` takes the backend's exception of cancellation too."""
        with anyio.move_on_after(0):
            await self.call(guard, _hang, release_on=anyio.get_cancelled_exc_class())
        assert guard.available == 100
        assert ended(guard, told, ("released", 30))


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_task_that_is_cancelled_natively_keeps_the_hold(
    guard: Guard, told: Told, times: int
) -> None:
    """`task.cancel()`, and once more while the first one is under way."""

    @guard.require_credits(min=30)
    async def function() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(function())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert guard.available == 70
    assert ended(guard, told, ("kept", 30))


def test_a_task_cancelled_before_it_began_holds_nothing(guard: Guard, told: Told) -> None:
    """A coroutine that never ran was never admitted."""

    @guard.require_credits(min=30)
    async def function() -> None:
        raise AssertionError

    async def main() -> None:
        task = asyncio.create_task(function())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert guard.available == 100
    assert ended(guard, told)


def test_a_trio_cancel_scope_keeps_the_hold(guard: Guard, told: Told) -> None:
    """Without anyio on the caller's side."""

    @guard.require_credits(min=30)
    async def function() -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert guard.available == 70
    assert ended(guard, told, ("kept", 30))


def test_an_asyncio_timeout_keeps_the_hold(guard: Guard, told: Told) -> None:
    """`asyncio.timeout` cancels inside, and raises TimeoutError outside."""

    @guard.require_credits(min=30)
    async def function() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.timeout(0):
            await function()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert guard.available == 70
    assert ended(guard, told, ("kept", 30))


def test_a_coroutine_that_is_dropped_half_way_keeps_the_hold(
    guard: Guard, told: Told, clock: HandClock
) -> None:
    """Nobody awaits it any more, and the provider may work on."""

    @guard.require_credits(min=30)
    async def function() -> None:
        await asyncio.Future()

    loop = asyncio.new_event_loop()
    coroutine = function()
    loop.call_soon(loop.stop)
    task = loop.create_task(coroutine)
    loop.run_forever()
    del coroutine
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    clock.advance(0)
    assert guard.available == 70
    assert ended(guard, told, ("kept", 30))


@pytest.mark.parametrize("kind", ["coroutine", "future", "object"])
def test_a_plain_function_that_returns_an_awaitable_is_guarded_until_that_is_done(
    guard: Guard, told: Told, kind: str
) -> None:
    """The call lasts as long as what it returned."""

    class Later:
        def __init__(self, future: asyncio.Future[int]) -> None:
            self.future = future

        def __await__(self) -> Any:
            return self.future.__await__()

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def coroutine() -> int:
            return await future

        def start() -> Any:
            return {"coroutine": coroutine, "future": lambda: future}.get(
                kind, lambda: Later(future)
            )()

        awaitable = guard.require_credits(min=30, actual=lambda result: result)(start)()
        assert guard.available == 70
        future.set_result(20)
        assert await awaitable == 20
        await asyncio.sleep(0)

    asyncio.run(main())
    assert guard.available == 80
    assert ended(guard, told, ("settled", 20))


@pytest.mark.parametrize("kind", ["coroutine", "future"])
def test_an_awaitable_that_is_cancelled_keeps_the_hold(guard: Guard, told: Told, kind: str) -> None:
    """What a plain function returned is cancelled like any other call."""

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def coroutine() -> int:
            return await future

        def start() -> Any:
            return coroutine() if kind == "coroutine" else future

        task = asyncio.ensure_future(guard.require_credits(min=30)(start)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(main())
    assert guard.available == 70
    assert ended(guard, told, ("kept", 30))


def test_a_dropped_hold_is_kept(guard: Guard, told: Told, clock: HandClock) -> None:
    """A dropped hold does not prove that nothing was charged."""
    guard.acquire(30)
    gc.collect()
    clock.advance(0)
    assert guard.available == 70
    assert ended(guard, told, ("kept", 30))
    clock.advance(305)
    assert guard.available == 100


def test_a_hold_in_a_reference_cycle_is_kept_when_it_is_collected(
    guard: Guard, told: Told, clock: HandClock
) -> None:
    """Only the collector finds it."""
    cycle: list[Any] = [guard.acquire(30)]
    cycle.append(cycle)
    assert guard.available == 70
    assert ended(guard, told)
    del cycle
    gc.collect()
    clock.advance(0)
    assert guard.available == 70
    assert ended(guard, told, ("kept", 30))


def test_nested_calls_each_hold_and_settle(guard: Guard, told: Told) -> None:
    """A guarded function that calls a guarded function holds for both."""

    @guard.require_credits(min=20)
    def inner() -> None:
        assert guard.available == 50

    @guard.require_credits(min=30)
    def outer() -> None:
        inner()
        assert guard.available == 50

    outer()
    assert guard.available == 50
    assert ended(guard, told, ("settled", 20), ("settled", 30))


def test_a_recursive_call_holds_once_per_level(guard: Guard) -> None:
    """One decorated function, three calls open at once."""

    @guard.require_credits(min=20)
    def call(depth: int) -> object:
        return call(depth - 1) if depth else guard.available

    assert call(2) == 40
    assert guard.available == 40
