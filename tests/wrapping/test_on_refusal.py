"""`on_refusal` supplies the result of a refused call, of every kind, and of no other call."""

import contextvars
import functools
import gc
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import anyio.lowlevel
import cloudpickle
import pytest
from kinds import KINDS, Kind, Meter, ablock, adouble, asteps, block, double, run, steps

from budgetguard import (
    BalanceUnavailable,
    ConcurrencyLimit,
    Event,
    Guard,
    InsufficientCredits,
    learned,
    require_credits,
    set_active,
    set_default_guard,
)
from budgetguard.testing import FakeProvider, HandClock

# Plain functions that return something to await are decided inside the loop that will await it.
pytestmark = pytest.mark.filterwarnings("ignore:.* has to wait, which blocks the:RuntimeWarning")

every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
TERMS: dict[str, dict[str, Any]] = {
    "too dear": {"min": 101},
    "computed": {"min": lambda *_: 101},
    "checked": {"min": 101, "cost": 0},
    "with slots": {"min": 101, "slots": 1},
    "learned": {"cost": learned(101), "actual": lambda _: 1},
    "queued": {"min": 101, "wait": 1},
}
SAME_KIND: dict[str, Callable[[int], Any]] = {
    "sync": double,
    "async": adouble,
    "generator": steps,
    "async generator": asteps,
    "block": block,
    "async block": ablock,
}
REFUSED = 10
HELD: contextvars.ContextVar[str] = contextvars.ContextVar("HELD", default="")


def refused(*_: Any) -> Any:
    """A body that must not run."""
    raise AssertionError


@every
def test_it_supplies_the_result_of_every_kind(guard: Guard, kind: Kind) -> None:
    """It is given the error and the arguments, self included, and its result is the call's.

    What takes the place of a function above `contextmanager` is a generator, as the function is.
    """
    seen: list[tuple[Any, ...]] = []

    def instead(error: InsufficientCredits, *args: Any) -> Any:
        seen.append((type(error), len(args), args[-1]))
        return SAME_KIND[kind.run](REFUSED)

    guarded = kind.build(guard.require_credits(min=101, on_refusal=instead))
    managers = {"block": contextmanager, "async block": asynccontextmanager}
    bare = managers.get(kind.run, lambda function: function)(SAME_KIND[kind.run])
    assert run(kind.run, guarded, 7) == run(kind.run, bare, REFUSED)
    [(error, count, last)] = seen
    assert error is InsufficientCredits
    if kind.name == "property_above":
        assert (count, last.x) == (1, 7)
    else:
        assert (count, last) == (1 + kind.first, 7)
    assert guard.available == 100


@every
def test_an_admitted_call_never_asks_it(guard: Guard, kind: Kind) -> None:
    """On the slow path and on the fast path, the body runs."""
    guarded = kind.build(guard.require_credits(min=10, on_refusal=refused))
    expected = run(kind.run, kind.build(lambda function: function), 4)
    assert [run(kind.run, guarded, 4) for _ in range(3)] == [expected] * 3


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_every_way_to_be_refused(guard: Guard, terms: dict[str, Any]) -> None:
    """Constant and computed amounts, checks, slots, learned costs and waits, by one rule."""
    guarded = guard.require_credits(**terms, on_refusal=lambda error, x: (error.operation, x))
    assert guarded(refused)(3) == ("refused", 3)
    assert guard.available == 100


def test_every_error_of_an_admission(clock: HandClock) -> None:
    """Too few credits, too few slots, and a balance that is not known."""

    def unknown() -> float:
        raise OSError

    slots = Guard(FakeProvider(100, max_concurrency=1))
    slots.acquire(1, slots=1)
    found = [
        guard.require_credits(10, slots=1, on_refusal=type)(refused)()
        for guard in (Guard(FakeProvider(1)), slots, Guard(unknown))
    ]
    assert found == [InsufficientCredits, ConcurrencyLimit, BalanceUnavailable]


def test_the_bodys_own_refusal_is_the_callers(guard: Guard) -> None:
    """An error of the body is not this call's refusal: not even of a guarded call inside it."""
    inner = guard.require_credits(min=101)(refused)
    for wait in (0, 1):  # on the slow path, and then on the fast path
        outer = guard.require_credits(min=10, wait=wait, on_refusal=refused)(inner)
        for _ in range(2):
            with pytest.raises(InsufficientCredits) as raised:
                outer()
            assert raised.value.needed == 101


@pytest.mark.anyio
async def test_the_bodys_own_refusal_is_the_callers_async(guard: Guard) -> None:
    """The same of async functions, and of both kinds of generators."""
    inner = guard.require_credits(min=101)(refused)
    require = guard.require_credits(min=10, on_refusal=refused)

    @require
    async def function() -> None:
        inner()

    @require
    def items() -> Iterator[int]:
        yield 1
        inner()

    @require
    async def aitems() -> AsyncIterator[int]:
        yield 1
        inner()

    await guard.abalance()
    for _ in range(2):
        with pytest.raises(InsufficientCredits, match="needs 101"):
            await function()
        with pytest.raises(InsufficientCredits, match="needs 101"):
            list(items())
        with pytest.raises(InsufficientCredits, match="needs 101"):
            _ = [item async for item in aitems()]


@pytest.mark.parametrize("what", ["min", "cost", "guard"])
def test_what_is_computed_for_a_call_may_raise(guard: Guard, what: str) -> None:
    """What decides about a call raises for the caller, also where that is a refusal of its own."""
    ask = guard.require_credits(min=101)(refused)
    given: dict[str, Any] = {"min": 1, "guard": guard, what: lambda: ask()}  # noqa: PLW0108
    guarded = require_credits(**given, on_refusal=refused)(refused)
    for _ in range(2):
        with pytest.raises(InsufficientCredits, match="refused needs 101"):
            guarded()


def test_nothing_is_held_while_it_runs(guard: Guard) -> None:
    """A cheaper call of the same guard may take all that there is, in the caller's own thread."""
    seen: list[Any] = []

    @guard.require_credits(min=100)
    def cheaper(x: int) -> int:
        seen.append((guard.available, threading.get_ident(), HELD.get()))
        return x + 1

    guarded = guard.require_credits(min=101, on_refusal=lambda _, x: cheaper(x))(refused)
    HELD.set("the caller's")
    assert guarded(1) == 2
    assert seen == [(0, threading.get_ident(), "the caller's")]
    HELD.set("")


@pytest.mark.anyio
async def test_nothing_is_held_while_it_runs_async(guard: Guard, meter: Meter) -> None:
    """The same in an async function, whose on_refusal is async or not."""
    here: list[Any] = []

    @guard.require_credits(min=100)
    async def cheaper(x: int) -> int:
        await anyio.lowlevel.checkpoint()
        here.append((guard.available, anyio.get_current_task().id))
        return x + 1

    async def instead(_: InsufficientCredits, x: int) -> int:
        return await cheaper(x)

    async def body(_: int) -> int:
        raise AssertionError

    for on_refusal in (instead, lambda _, x: cheaper(x), functools.partial(instead)):
        guarded = guard.require_credits(min=101, on_refusal=on_refusal)(body)
        async with meter:
            assert await guarded(1) == 2
        assert here.pop() == (0, anyio.get_current_task().id)
    plain = guard.require_credits(min=101, on_refusal=lambda _, x: -x)(body)
    assert await plain(1) == -1


@pytest.mark.anyio
async def test_what_it_raises_is_the_callers(guard: Guard) -> None:
    """With the refusal as its context, whatever the kind; or the refusal itself, with a bare raise."""

    def failing(*_: Any) -> Any:
        raise LookupError

    def later(*_: Any) -> Iterator[int]:
        yield 1
        raise LookupError

    async def alater(*_: Any) -> AsyncIterator[int]:
        yield 1
        raise LookupError

    async def body() -> None: ...

    async def adrain(made: Any) -> None:
        async for _ in made:
            pass

    await guard.abalance()
    require = functools.partial(guard.require_credits, 101)
    for call in (
        require(on_refusal=failing)(lambda: None),
        lambda: list(require(on_refusal=failing)(steps)(1)),
        lambda: list(require(on_refusal=later)(steps)(1)),
    ):
        with pytest.raises(LookupError) as raised:
            call()
        assert isinstance(raised.value.__context__, InsufficientCredits)
    for acall in (
        require(on_refusal=failing)(body),
        lambda: adrain(require(on_refusal=failing)(asteps)(1)),
        lambda: adrain(require(on_refusal=later)(asteps)(1)),
        lambda: adrain(require(on_refusal=alater)(asteps)(1)),
    ):
        with pytest.raises(LookupError) as raised:
            await acall()
        assert isinstance(raised.value.__context__, InsufficientCredits)

    def again(error: InsufficientCredits) -> None:
        raise  # noqa: PLE0704  it runs inside one

    with pytest.raises(InsufficientCredits) as refusal:
        require(on_refusal=again)(lambda: None)()
    assert refusal.value.__context__ is None


def test_a_generators_fallback_gets_all_that_is_sent(guard: Guard) -> None:
    """`send`, `throw` and `close` reach it, and what it returns is the generator's value."""
    seen: list[Any] = []

    def instead(_: InsufficientCredits) -> Generator[Any, Any, str]:
        try:
            seen.append((yield 1))
            try:
                yield 2
            except LookupError:
                seen.append("thrown")
                yield 3
        finally:
            seen.append("ended")
        return "done"

    @guard.require_credits(min=101, on_refusal=instead)
    def guarded() -> Generator[Any, Any, str]:
        raise AssertionError
        yield

    running = guarded()
    assert (next(running), running.send("a"), running.throw(LookupError())) == (1, 2, 3)
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "done"
    assert seen == ["a", "thrown", "ended"]
    left = guarded()
    next(left)
    gc.disable()
    try:
        del left
        assert seen.pop() == "ended"
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_an_async_generators_fallback_gets_all_that_is_sent(guard: Guard) -> None:
    """`asend`, `athrow` and `aclose` reach an async generator that takes its place."""
    seen: list[Any] = []

    async def instead(_: InsufficientCredits) -> AsyncIterator[Any]:
        try:
            seen.append((yield 1))
            try:
                yield 2
            except LookupError:
                seen.append("thrown")
                yield 3
        finally:
            await anyio.lowlevel.checkpoint()
            seen.append("ended")

    guarded: Any = guard.require_credits(min=101, on_refusal=instead)(asteps)
    async with aclosing(guarded()) as running:
        assert await anext(running) == 1
        assert await running.asend("a") == 2
        assert await running.athrow(LookupError()) == 3
    assert seen == ["a", "thrown", "ended"]


@pytest.mark.anyio
async def test_what_can_take_the_place_of_an_async_generator(guard: Guard) -> None:
    """Any iterable, async or not, at once or later."""

    async def aitems(x: int) -> AsyncIterator[int]:
        yield x
        await anyio.lowlevel.checkpoint()
        yield 2 * x

    class Stream:
        def __aiter__(self) -> AsyncIterator[int]:
            return aitems(1)

    async def later(*_: Any) -> list[int]:
        await anyio.lowlevel.checkpoint()
        return [1, 2]

    for on_refusal in (
        later,
        lambda *_: [1, 2],
        lambda *_: iter((1, 2)),
        lambda _, x: steps(x),
        lambda _, x: aitems(x),
        lambda *_: Stream(),
    ):
        guarded = guard.require_credits(min=101, on_refusal=on_refusal)(asteps)
        assert [item async for item in guarded(1)] == [1, 2]


@pytest.mark.parametrize("result", [None, 5, "some text", b"bytes", object()])
@pytest.mark.anyio
async def test_a_generator_takes_nothing_that_has_no_items(guard: Guard, result: Any) -> None:
    """Also no text, whose characters nobody wants one by one; the message names the type alone."""
    require = guard.require_credits(min=101, on_refusal=lambda *_: result)
    kind = type(result).__name__
    await guard.abalance()
    with pytest.raises(TypeError, match=f"of a generator must return an iterable.*, not {kind}$"):
        list(require(steps)(1))
    with pytest.raises(TypeError, match=f"of an async generator must return .*, not {kind}$"):
        _ = [item async for item in require(asteps)(1)]


async def coroutine(*_: Any) -> int:
    """A coroutine function."""
    return 1


class AsyncObject:
    """An object whose `__call__` is async."""

    async def __call__(self, *_: Any) -> int:
        """Return a number, later."""
        return 1


@pytest.mark.parametrize(
    ("function", "on_refusal"),
    [
        (double, coroutine),
        (double, AsyncObject()),
        (double, functools.partial(coroutine)),
        (double, steps),
        (double, asteps),
        (adouble, steps),
        (adouble, asteps),
        (steps, coroutine),
        (steps, asteps),
    ],
)
def test_what_nobody_could_await_is_rejected_at_decoration(
    guard: Guard, function: Any, on_refusal: Any
) -> None:
    """A plain function cannot await, and an async one does not iterate."""
    with pytest.raises(TypeError, match=r"on_refusal of an? .* must be a.* plain function"):
        guard.require_credits(min=101, on_refusal=on_refusal)(function)


@pytest.mark.parametrize("wrong", ["tell", 1, b"", ("a",), False])
def test_wrong_values(guard: Guard, wrong: Any) -> None:
    """Anything but a callable is a TypeError that names its type; the words are those of other places."""
    for require in (require_credits, guard.require_credits):
        with pytest.raises(TypeError, match=f"callable .*, not {type(wrong).__name__}"):
            require(min=1, on_refusal=wrong)


@pytest.mark.anyio
async def test_a_block_takes_none(guard: Guard) -> None:
    """A block has no result; a hold taken by hand has none either."""
    dear = guard.require_credits(min=1, on_refusal=refused)
    for _ in range(2):
        with pytest.raises(TypeError, match="a block has none"), dear:
            pass
        with pytest.raises(TypeError, match="a block has none"):
            async with dear:
                pass
    options: Any = {"on_refusal": refused}
    with pytest.raises(TypeError, match="on_refusal"):
        guard.acquire(1, **options)
    with pytest.raises(TypeError, match="on_refusal"):
        await guard.aacquire(1, **options)


@pytest.mark.parametrize("how", ["observe", "off"])
def test_it_is_not_asked_where_nothing_is_refused(how: str, clock: HandClock) -> None:
    """In observe mode, and while guards are switched off."""
    guard = Guard(FakeProvider(1), mode="observe" if how == "observe" else "enforce")
    if how == "off":
        set_active(False)
    assert guard.require_credits(min=10, on_refusal=refused)(double)(2) == 4
    assert list(guard.require_credits(min=10, on_refusal=refused)(steps)(2)) == [2, 4]


def test_the_refusal_is_told_as_ever(clock: HandClock) -> None:
    """The event comes before on_refusal runs, which may make calls with events of their own."""
    seen: list[Any] = []

    def note(event: Event) -> None:
        if event.kind in {"refused", "admitted"}:
            seen.append((event.kind, event.operation))

    guard = Guard(FakeProvider(100), on_event=note)
    cheap = guard.require_credits(min=1, name="cheap")(lambda: "cheap")
    dear = guard.require_credits(min=101, name="dear", on_refusal=lambda _: cheap())
    assert dear(refused)() == "cheap"
    assert seen == [("refused", "dear"), ("admitted", "cheap")]


def test_a_result_that_would_be_followed_is_returned_as_it_is(guard: Guard) -> None:
    """With `until="close"` too: nothing is held that could follow it, and `actual` is not called."""
    stream = open(__file__, encoding="utf-8")  # noqa: SIM115, PTH123
    with stream:
        require = guard.require_credits(
            min=101, until="close", actual=refused, on_refusal=lambda _: stream
        )
        assert require(refused)() is stream


def supplied(error: InsufficientCredits, x: int) -> int:
    """A result instead."""
    return -x


def test_pickled_by_name_and_by_value() -> None:
    """A function is sent by name as before; what is sent by value takes its on_refusal along."""
    set_default_guard(Guard(FakeProvider(100)))
    guarded = require_credits(min=101, on_refusal=supplied)(functools.partial(double))
    assert pickle.loads(pickle.dumps(guarded))(2) == -2
    function = require_credits(min=101, on_refusal=supplied)(lambda x: x)
    assert cloudpickle.loads(cloudpickle.dumps(function))(2) == -2


def test_one_on_refusal_above_another(guard: Guard) -> None:
    """Of two guards around one function, each answers for its own refusal."""
    poor = Guard(FakeProvider(1))

    @guard.require_credits(min=10, on_refusal=lambda *_: "outer")
    @poor.require_credits(min=10, on_refusal=lambda *_: "inner")
    def function() -> str:
        raise AssertionError

    assert function() == "inner"
    with guard.require_credits(min=85):
        assert function() == "outer"
