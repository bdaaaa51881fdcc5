"""What a call hands back unfinished is followed: its hold lasts as long as the work."""

import asyncio
import contextlib
import functools
import gc
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import wrapt
from kinds import Meter, plainly

from budgetguard import Guard, InsufficientCredits, set_active
from budgetguard.integrations import guarded

Function = Callable[[], Any]
Way = Callable[[Any, Function], Function]


class Calls:
    """An object with `__call__`, and one with a method."""

    def __init__(self, function: Function) -> None:
        self._function = function

    def __call__(self) -> Any:
        return self._function()

    def method(self) -> Any:
        return self._function()


def by_guarded(requirement: Any, function: Function) -> Function:
    """Through the methods of a whole object."""
    spec = requirement.spec
    terms = {"min": 10, "actual": spec.actual, "release_on": spec.release_on}
    through = guarded(Calls(function), spec.guard, {"method": terms})
    return through.method


def by_method(requirement: Any, function: Function) -> Function:
    """As a method of a class."""

    class Client:
        @requirement
        def call(self) -> Any:
            return function()

    return Client().call


# A way from a function to a guarded plain function that hands its result on.
WAYS: dict[str, Way] = {
    "under another decorator": lambda require, function: require(plainly(function)),
    "lambda": lambda require, function: require(lambda: function()),  # noqa: PLW0108
    "partial": lambda require, function: require(functools.partial(lambda f: f(), function)),
    "callable object": lambda require, function: require(Calls(function)),
    "bound method": lambda require, function: require(Calls(function).method),
    "method": by_method,
    "guarded object": by_guarded,
}
# Both ways in: with nothing to decide, and through a Hold.
TERMS: dict[str, dict[str, Any]] = {"fast path": {"min": 10}, "slow path": {"min": lambda *_: 10}}

ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
terms = pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
backends = pytest.mark.anyio


def steps() -> Generator[int, str, str]:
    """Two steps, and a result."""
    said = yield 1
    try:
        yield 2
    except KeyError:
        yield 3
    return said or "done"


async def asteps() -> AsyncIterator[Any]:
    """Two steps."""
    said = yield 1
    await anyio.lowlevel.checkpoint()
    yield said or 2


async def work() -> str:
    """One step, and a result."""
    await anyio.lowlevel.checkpoint()
    return "done"


class Later:
    """An awaitable that is nothing else."""

    def __await__(self) -> Generator[Any, Any, str]:
        return work().__await__()


@ways
@terms
def test_a_generator_is_held_for_to_its_end(
    guard: Guard, meter: Meter, way: Way, terms: dict[str, Any]
) -> None:
    """From the call, after which it may have begun, until it is exhausted; then it is settled."""
    function = way(guard.require_credits(**terms), steps)
    for _ in range(3):
        with meter:
            running = function()
            assert inspect.isgenerator(running)
            assert running.__name__ == "steps"
            assert meter.is_open()
            assert next(running) == 1
            assert meter.is_open()
            assert list(running) == [2]
            assert meter.ending() == "settled"


def test_a_proxy_is_what_it_stands_for(guard: Guard, meter: Meter) -> None:
    """Of a list, and then of a generator: their type is the same, and is not gone by."""
    results: list[Any] = [wrapt.ObjectProxy([1]), wrapt.ObjectProxy(steps())]
    function = guard.require_credits(min=10)(lambda: results.pop(0))
    with meter:
        assert list(function()) == [1]
        assert meter.ending() == "settled"
    with meter:
        running = function()
        assert meter.is_open()
        assert list(running) == [1, 2]
        assert meter.ending() == "settled"


@ways
def test_a_second_call_does_not_get_the_same_credits(guard: Guard, way: Way) -> None:
    """While the first generator runs, its credits are taken."""
    guard.balance()
    function = way(guard.require_credits(min=10), steps)
    running = [function() for _ in range(10)]
    with pytest.raises(InsufficientCredits):
        function()
    assert [next(each) for each in running] == [1] * 10


@terms
def test_a_generator_left_half_way_is_kept(
    guard: Guard, meter: Meter, terms: dict[str, Any]
) -> None:
    """Closed or dropped, before its first step or after it."""
    function = guard.require_credits(**terms)(plainly(steps))

    def drop(running: Any) -> None:
        del running

    for first in (True, False):
        for leave in (lambda running: running.close(), drop):
            with meter:
                running = function()
                if first:
                    next(running)
                leave(running)
                del running
                gc.collect()
                assert meter.ending() == "kept"


@terms
def test_a_generator_that_raises(guard: Guard, meter: Meter, terms: dict[str, Any]) -> None:
    """It is kept; or released, where the exception proves that nothing was charged."""

    def failing() -> Iterator[int]:
        yield 1
        raise ValueError

    for release_on, ending in (((), "kept"), (ValueError, "released")):
        function = guard.require_credits(**terms, release_on=release_on)(plainly(failing))
        with meter:
            running = function()
            next(running)
            with pytest.raises(ValueError):  # noqa: PT011
                next(running)
            assert meter.ending() == ending


@ways
def test_actual_is_given_a_generators_return_value(guard: Guard, way: Way) -> None:
    """What it returned when it was exhausted."""
    seen: list[str] = []

    def actual(result: str) -> int:
        seen.append(result)
        return 3

    guard.balance()
    list(way(guard.require_credits(min=10, actual=actual), steps)())
    assert seen == ["done"]
    assert guard.available == 97


def test_a_generator_passes_everything_through(guard: Guard) -> None:
    """send, throw and the return value."""
    running = guard.require_credits(min=10)(plainly(steps))()
    assert next(running) == 1
    assert running.send("hello") == 2
    assert running.throw(KeyError()) == 3
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "hello"


def test_a_generator_that_has_begun_is_still_one(guard: Guard, meter: Meter) -> None:
    """A decorator may have taken the first step: it can be sent something at once."""

    def primed() -> Generator[int, str, str]:
        running = steps()
        next(running)
        return running

    function = guard.require_credits(min=10)(primed)
    with meter:
        running: Any = function()
        assert inspect.isgenerator(running)
        assert running.send("hello") == 2
        assert running.throw(KeyError()) == 3
        assert meter.is_open()
        with pytest.raises(StopIteration) as stop:
            next(running)
        assert stop.value.value == "hello"
        assert meter.ending() == "settled"
    with meter:
        running = function()
        running.close()
        assert meter.ending() == "kept"
    with meter:
        assert list(function()) == [2]
        assert meter.ending() == "settled"


def test_a_generator_that_has_ended_is_settled(guard: Guard, meter: Meter) -> None:
    """Whoever read it to its end hands out one that does nothing more."""

    def spent() -> Iterator[int]:
        running = steps()
        list(running)
        return running

    with meter:
        assert list(guard.require_credits(min=10)(spent)()) == []
        assert meter.ending() == "settled"


def test_a_generator_that_can_be_awaited(guard: Guard, meter: Meter) -> None:
    """As coroutines were before there was `async def`."""

    @coroutine
    def old() -> Generator[Any, Any, str]:
        return (yield from work().__await__())

    function = guard.require_credits(min=10)(plainly(old))

    async def main() -> None:
        running = function()
        assert inspect.isawaitable(running)
        assert await meter.ais_open()
        assert await running == "done"

    with meter:
        asyncio.run(main())
        assert meter.ending() == "settled"


@backends
@ways
@terms
async def test_an_async_generator_is_held_for_to_its_end(
    guard: Guard, meter: Meter, way: Way, terms: dict[str, Any]
) -> None:
    """From the call until it is exhausted."""
    function = way(guard.require_credits(**terms), asteps)
    for _ in range(3):
        async with meter:
            running = function()
            assert inspect.isasyncgen(running)
            assert running.__name__ == "asteps"
            assert await meter.ais_open()
            assert await anext(running) == 1
            assert await running.asend("hello") == "hello"
            assert await meter.ais_open()
            assert [item async for item in running] == []
            assert await meter.aending() == "settled"


@backends
async def test_an_async_generator_that_has_begun_is_still_one(guard: Guard, meter: Meter) -> None:
    """It can be sent something at once, and is closed as ever."""

    async def primed() -> Any:
        running: Any = asteps()
        await anext(running)
        return running

    function = guard.require_credits(min=10)(primed)
    async with meter:
        running = await function()
        assert inspect.isasyncgen(running)
        assert await running.asend("hello") == "hello"
        assert await meter.ais_open()
        assert [item async for item in running] == []
        assert await meter.aending() == "settled"
    async with meter:
        running = await function()
        await running.aclose()
        assert await meter.aending() == "kept"
    async with meter:
        running = await function()
        with pytest.raises(KeyError):
            await running.athrow(KeyError())
        assert await meter.aending() == "kept"


@backends
async def test_an_async_generator_left_half_way_is_kept(guard: Guard, meter: Meter) -> None:
    """Closed, before its first step or after it, or made to raise."""
    function = guard.require_credits(min=10)(plainly(asteps))
    for first in (True, False):
        async with meter:
            running = function()
            if first:
                await anext(running)
            await running.aclose()
            del running
            gc.collect()
            assert await meter.aending() == "kept"
    async with meter:
        running = function()
        await anext(running)
        with pytest.raises(KeyError):
            await running.athrow(KeyError())
        assert await meter.aending() == "kept"


@backends
async def test_actual_of_an_async_generator_is_said_to_be_unheard(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no result to give it: the call is settled at its cost, and the log says why."""
    await guard.abalance()
    function = guard.require_credits(min=10, actual=lambda _: 3, name="stream")(plainly(asteps))
    assert [item async for item in function()] == [1, 2]
    assert guard.available == 90
    assert "actual of stream was not called" in caplog.text


@backends
@terms
async def test_an_async_function_that_returns_a_stream(
    guard: Guard, meter: Meter, terms: dict[str, Any]
) -> None:
    """It has only begun when it is awaited, be the stream a generator of either kind."""

    async def start(stream: Callable[[], Any]) -> Any:
        await anyio.lowlevel.checkpoint()
        return stream()

    through = guarded(Starts(), guard, {"start": terms})
    for begin in (guard.require_credits(**terms)(start), through.start):
        for _ in range(3):
            async with meter:
                running = await begin(asteps)
                assert inspect.isasyncgen(running)
                assert await meter.ais_open()
                assert [item async for item in running] == [1, 2]
                assert await meter.aending() == "settled"
            async with meter:
                running = await begin(steps)
                assert await meter.ais_open()
                assert list(running) == [1, 2]
                assert await meter.aending() == "settled"


class Starts:
    """A client whose async method returns a stream."""

    async def start(self, stream: Callable[[], Any]) -> Any:
        return stream()


@backends
@ways
async def test_an_awaitable_is_held_for_until_it_is_done(
    guard: Guard, meter: Meter, way: Way
) -> None:
    """A coroutine, what has `__await__`, and one whose result goes on in turn."""
    require = guard.require_credits(min=10)

    async def stream() -> Any:
        return asteps()

    for begin in (work, Later):
        async with meter:
            running = way(require, begin)()
            assert await meter.ais_open()
            assert await running == "done"
            assert await meter.aending() == "settled"
    async with meter:
        running = await way(require, stream)()
        assert await meter.ais_open()
        assert [item async for item in running] == [1, 2]
        assert await meter.aending() == "settled"


@ways
@terms
def test_a_future_is_held_for_until_it_is_done(
    guard: Guard, meter: Meter, way: Way, terms: dict[str, Any]
) -> None:
    """An executor's future: the caller gets it unchanged, and the worker's thread reports its end."""
    futures: list[Future[str]] = []

    def submit() -> Future[str]:
        futures.append(Future())
        return futures[-1]

    seen: list[str] = []

    def actual(result: str) -> int:
        seen.append(result)
        return 10

    function = way(guard.require_credits(**terms, actual=actual, release_on=KeyError), submit)
    endings: list[tuple[Callable[[Future[str]], Any], str]] = [
        (lambda future: future.set_result("done"), "settled"),
        (lambda future: future.set_exception(ValueError()), "kept"),
        (lambda future: future.set_exception(KeyError()), "released"),
        (lambda future: future.cancel(), "kept"),
    ]
    for end, ending in endings:
        with meter:
            future = function()
            assert future is futures[-1]
            assert meter.is_open()
            end(future)
            assert meter.ending() == ending
    assert seen == ["done"]


def test_a_future_of_nobodys_making(guard: Guard, meter: Meter) -> None:
    """Whatever can be asked, and asked to tell, as a future can: clusters have their own."""

    class Remote:
        def __init__(self) -> None:
            self.tell: Callable[[Any], None] | None = None
            self.error: Exception | None = None

        def add_done_callback(self, tell: Callable[[Any], None]) -> None:
            self.tell = tell

        def done(self) -> bool:
            return False

        def cancelled(self) -> bool:
            return False

        def exception(self) -> Exception | None:
            return self.error

        async def _exception(self) -> Exception | None:
            return self.error

        def result(self) -> str:
            return "done"

    function = guard.require_credits(min=10)(lambda: Remote())  # noqa: PLW0108
    for error, ending in ((None, "settled"), (ValueError(), "kept")):
        with meter:
            future = function()
            assert type(future) is Remote
            assert meter.is_open()
            future.error = error
            future.tell(future)
            assert meter.ending() == ending


def test_a_real_executors_future(guard: Guard, meter: Meter) -> None:
    """It works on in its thread when the call has returned."""
    go = threading.Event()
    with ThreadPoolExecutor(1) as pool, meter:
        submit = guard.require_credits(min=10)(lambda: pool.submit(go.wait, 60))
        future = submit()
        assert meter.is_open()
        go.set()
        assert future.result() is True
        pool.submit(int).result()
        assert meter.ending() == "settled"


def test_a_coroutine_on_another_threads_loop(guard: Guard, meter: Meter) -> None:
    """`run_coroutine_threadsafe` and a task of that loop: followed from here, ended there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    go = asyncio.Event()

    async def wait() -> str:
        await go.wait()
        return "done"

    def task() -> "asyncio.Task[str]":
        async def make() -> "asyncio.Task[str]":
            return asyncio.ensure_future(wait())

        return asyncio.run_coroutine_threadsafe(make(), loop).result()

    async def over(future: Awaitable[str]) -> str:
        return await future

    def settled() -> None:
        """Let the loop run what was scheduled."""
        for _ in range(3):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

    try:
        require = guard.require_credits(min=10)
        with meter:
            future = require(lambda: asyncio.run_coroutine_threadsafe(wait(), loop))()
            assert isinstance(future, Future)
            assert meter.is_open()
            loop.call_soon_threadsafe(go.set)
            assert future.result() == "done"
            settled()
            assert meter.ending() == "settled"
        with meter:
            go.clear()
            running = require(task)()
            assert isinstance(running, asyncio.Task)
            settled()
            assert meter.is_open()
            loop.call_soon_threadsafe(go.set)
            assert asyncio.run_coroutine_threadsafe(over(running), loop).result() == "done"
            settled()
            assert meter.ending() == "settled"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_future_that_is_done_just_now_on_another_threads_loop(guard: Guard, meter: Meter) -> None:
    """Between the check whether it is done and adding a callback, which is then left to its own thread."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)  # asyncio refuses then what it cannot promise to do
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    class JustDone(asyncio.Future[str]):
        def done(self) -> bool:
            was = super().done()
            if not was:
                asyncio.run_coroutine_threadsafe(self.end(), loop).result()
            return was

        async def end(self) -> None:
            self.set_result("done")

    try:
        with meter:
            guard.require_credits(min=10)(lambda: JustDone(loop=loop))()
            for _ in range(3):
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
            assert meter.ending() == "settled"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_futures_of_other_loops(guard: Guard, meter: Meter) -> None:
    """One made before its loop runs, and one whose loop has ended already."""
    require = guard.require_credits(min=10)
    loop = asyncio.new_event_loop()
    with meter:
        task = require(lambda: loop.create_task(work()))()
        assert meter.is_open()
        assert loop.run_until_complete(task) == "done"
        assert meter.ending() == "settled"
    with meter:
        task = loop.create_task(work())
        loop.run_until_complete(task)
        loop.close()
        assert require(lambda: task)() is task
        assert meter.ending() == "settled"


def test_a_future_whose_result_goes_on(guard: Guard, meter: Meter) -> None:
    """A further future is followed. What cannot be followed is held for until it is dropped."""
    outer: Future[Any] = Future()
    inner: Future[str] = Future()
    require = guard.require_credits(min=10)
    with meter:
        require(lambda: outer)()
        outer.set_result(inner)
        assert meter.is_open()
        inner.set_result("done")
        assert meter.ending() == "settled"
    with meter:
        future: Future[Any] = require(lambda: Future())()  # noqa: PLW0108
        future.set_result(steps())
        assert list(future.result()) == [1, 2]
        assert meter.is_open()
        del future
        gc.collect()
        assert meter.ending() == "kept"


def test_a_coroutine_that_is_cancelled_is_kept(guard: Guard, meter: Meter) -> None:
    """Whoever was to await the work gave up on it."""
    function = guard.require_credits(min=10)(plainly(work))

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await function()

    for backend in ("asyncio", "trio"):
        with meter:
            anyio.run(cancelled, backend=backend)
            assert meter.ending() == "kept"


def test_slots_last_as_long(clock: Any) -> None:
    """A session's slot is taken until the generator is exhausted."""
    from budgetguard import ConcurrencyLimit
    from budgetguard.testing import FakeProvider

    guard = Guard(FakeProvider(100, max_concurrency=1))
    function = guard.require_credits(slots=1)(plainly(steps))
    running = function()
    next(running)
    with pytest.raises(ConcurrencyLimit):
        function()
    list(running)
    assert list(function()) == [1, 2]


def test_both_guards_of_one_call_follow_it(guard: Guard, meter: Meter) -> None:
    """One around the other."""
    require = guard.require_credits(min=5)
    for begin in (steps, primed_steps):
        with meter:
            running = require(require(plainly(begin)))()
            assert meter.is_open()
            list(running)
            assert meter.ending() == "settled"


def primed_steps() -> Any:
    """A generator that has begun."""
    running = steps()
    next(running)
    return running


def test_switched_off_it_is_the_very_result(guard: Guard) -> None:
    """With guards off nothing stands in for anything."""
    running = primed_steps()
    function = guard.require_credits(min=10)(lambda: running)
    set_active(False)
    assert function() is running


def test_what_is_finished_is_handed_on_untouched(guard: Guard) -> None:
    """Results are the very objects, and settled on return; `until` is for those that go on."""
    guard.balance()

    class Model:
        def __iter__(self) -> Iterator[int]:
            return iter(())

    for result in ([1], {"a": 1}, "text", None, Model(), contextlib.nullcontext(), iter([1])):
        assert guard.require_credits(min=1)(lambda result=result: result)() is result
    assert guard.available == 93
