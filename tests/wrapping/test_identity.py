"""A guarded function can stand wherever the bare one stood."""

import asyncio
import copy
import functools
import gc
import inspect
import math
import pickle
import sys
import typing
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import anyio.lowlevel
import pytest
from kinds import LAG, Meter

from budgetguard import Guard, InsufficientCredits, require_credits, set_default_guard
from budgetguard.testing import FakeProvider, HandClock

GUARD = Guard(FakeProvider(10**6))


@require_credits(min=1, guard=GUARD)
def plain(x: int, /, *rest: int, key: "int | None" = None, **more: float) -> "list[int]":
    """Twice x."""
    return [x, *rest]


@require_credits(min=1, guard=GUARD)
async def coroutine(x: int) -> int:
    """Twice x."""
    return x


@require_credits(min=1, guard=GUARD)
def generator(x: int) -> Iterator[int]:
    """Just x."""
    yield x


@require_credits(min=1, guard=GUARD)
async def async_generator(x: int) -> AsyncIterator[int]:
    """Just x."""
    yield x


class Client:
    """Something whose methods are guarded."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Client)

    __hash__ = None  # type: ignore[assignment]

    @require_credits(min=1, guard=GUARD)
    def method(self, x: int) -> int:
        """Just x."""
        return x

    @require_credits(min=1, guard=GUARD)
    @classmethod
    def above(cls, x: int) -> int:
        """Just x."""
        return x

    @classmethod
    @require_credits(min=1, guard=GUARD)
    def below(cls, x: int) -> int:
        """Just x."""
        return x

    @require_credits(min=1, guard=GUARD)
    @staticmethod
    def static(x: int) -> int:
        """Just x."""
        return x


FUNCTIONS = [plain, coroutine, generator, async_generator]
METHODS = [Client.method, Client.above, Client.below, Client.static]


@pytest.mark.parametrize("function", [*FUNCTIONS, *METHODS], ids=lambda f: f.__qualname__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_functions_pickle_by_name(function: Callable[..., Any], protocol: int) -> None:
    """Guarded functions and methods come out of a pickle as themselves."""
    if protocol < 4 and "." in function.__qualname__ and not inspect.ismethod(function):
        protocol = 4
    again = pickle.loads(pickle.dumps(function, protocol))
    assert again == function
    assert copy.copy(function) == function
    assert copy.deepcopy(function) == function


def test_bound_methods_pickle_with_their_instance() -> None:
    """A guarded method bound to an instance comes out bound to an equal one."""
    again = pickle.loads(pickle.dumps(Client().method))
    assert again.__func__ is Client.method
    assert again(4) == 4


def test_annotations_are_found() -> None:
    """`typing.get_type_hints` and `inspect.signature` see through, text annotations included."""
    assert typing.get_type_hints(plain) == {
        "x": int,
        "rest": int,
        "key": int | None,
        "more": float,
        "return": list[int],
    }
    assert str(inspect.signature(plain, eval_str=True)) == (
        "(x: int, /, *rest: int, key: int | None = None, **more: float) -> list[int]"
    )
    assert plain(1, 2, key=3, other=4.0) == [1, 2]


def test_source_and_attributes_are_found() -> None:
    """The source is the function's own, and its attributes are carried along."""

    def attributed() -> None:
        """Nothing."""

    attributed.mark = "here"  # type: ignore[attr-defined]
    guarded = GUARD.require_credits(min=1)(attributed)
    assert guarded.mark == "here"  # type: ignore[attr-defined]
    assert inspect.getsource(guarded) == inspect.getsource(attributed)
    assert inspect.unwrap(guarded) is attributed


def test_keyword_arguments_of_any_name_pass() -> None:
    """No parameter name is taken by the wrapper, not on functions and not on objects."""

    def everything(**given: int) -> dict[str, int]:
        return given

    names = {"self": 1, "args": 2, "kwargs": 3, "function": 4, "wrapped": 5, "instance": 6}
    require = GUARD.require_credits(min=1)
    for guarded in (require(everything), require(functools.partial(everything))):
        assert guarded(**names) == names


def test_methods_bind_to_their_instance() -> None:
    """Each instance gets its own method; through the class it remains a function."""
    one, other = Client(), Client()
    assert one.method.__self__ is one  # type: ignore[attr-defined]
    assert other.method.__self__ is other  # type: ignore[attr-defined]
    assert inspect.isfunction(Client.method)
    assert Client.above.__self__ is Client  # type: ignore[attr-defined]
    assert isinstance(vars(Client)["above"], classmethod)
    assert isinstance(vars(Client)["static"], staticmethod)


def test_a_cached_function_keeps_its_cache() -> None:
    """`cache_info` and `cache_clear` of an lru_cache below remain within reach."""
    calls = []

    @GUARD.require_credits(min=1)
    @functools.lru_cache
    def cached(x: int) -> int:
        calls.append(x)
        return x

    assert [cached(1), cached(1), cached(2)] == [1, 1, 2]
    assert cached.cache_info().hits == 1
    cached.cache_clear()
    assert cached(1) == 1
    assert calls == [1, 2, 1]


def test_a_partial_keeps_its_parts() -> None:
    """A guarded partial is a partial still."""
    guarded = GUARD.require_credits(min=1)(functools.partial(int, base=2))
    assert isinstance(guarded, functools.partial)
    assert guarded.func is int
    assert guarded.keywords == {"base": 2}
    assert guarded("101") == 5


def test_builtins_can_be_guarded(guard: Guard) -> None:
    """A function written in C is guarded under its own name."""
    guarded = guard.require_credits(min=10)(math.sqrt)
    assert guarded(16) == 4
    assert guarded.__name__ == "sqrt"
    assert guard.available == 90


def test_an_object_keeps_its_attributes_and_type() -> None:
    """A guarded object is an instance of its class, and what it holds can be read and set."""

    class Model:
        """Has a state."""

        temperature = 0.5

        def __call__(self, x: int) -> int:
            """Just x."""
            return x

    model = Model()
    guarded = GUARD.require_credits(min=1)(model)
    assert isinstance(guarded, Model)
    guarded.temperature = 0.7
    assert model.temperature == 0.7
    assert guarded(3) == 3


def test_dispatch_by_type_is_kept(guard: Guard) -> None:
    """A singledispatch function below can be extended through the guarded one."""

    @guard.require_credits(min=10)
    @functools.singledispatch
    def spell(x: object) -> str:
        return "object"

    @spell.register
    def _(x: int) -> str:
        return "int"

    assert spell(1) == "int"
    assert spell("") == "object"
    assert guard.available == 80


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect cannot mark before 3.12")
def test_marked_coroutine_functions_stay_marked(guard: Guard) -> None:
    """What is marked as a coroutine function is one when guarded."""

    @guard.require_credits(min=10)
    @inspect.markcoroutinefunction
    def start(x: int) -> Awaitable[int]:
        return coroutine(x)

    assert inspect.iscoroutinefunction(start)
    assert asyncio.run(start(3)) == 3
    assert guard.available == 90


def test_the_operation_is_named_after_the_function(guard: Guard) -> None:
    """Errors name the qualified name, or `name` where that is given."""
    require = guard.require_credits(min=101)
    cases: list[tuple[Callable[[Any], Any], str]] = [
        (require(functools.partial(math.pow, 2)), "pow"),
        (require(math.sqrt), "sqrt"),
        (require(Client().method), "Client.method"),
        (guard.require_credits(min=101, name="mine")(math.sqrt), "mine"),
    ]
    for function, name in cases:
        with pytest.raises(InsufficientCredits) as caught:
            function(1)
        assert caught.value.operation == name


def test_one_requirement_guards_many_functions(guard: Guard) -> None:
    """One require_credits object decorates any number of functions, each under its own name."""
    require = guard.require_credits(min=60)
    one, two = require(math.floor), require(math.sqrt)
    assert one(1.5) == 1
    with pytest.raises(InsufficientCredits, match="sqrt"):
        two(4)


def test_a_guard_can_be_chosen_by_the_arguments(clock: HandClock) -> None:
    """A callable guard= is asked at every call, whatever attributes it has."""
    guards = {name: Guard(FakeProvider(100)) for name in ("one", "other")}

    def choose(tenant: str) -> Guard:
        return guards[tenant]

    choose.guard = guards["one"]  # type: ignore[attr-defined]

    @require_credits(min=10, guard=choose)
    def work(tenant: str) -> None:
        """Work for a tenant."""

    for tenant in ("one", "other", "one", "other", "other"):
        work(tenant)
    assert guards["one"].available == 80
    assert guards["other"].available == 70


def test_the_default_guard_is_looked_up_at_each_call(clock: HandClock) -> None:
    """A new default guard serves functions decorated long before, calls under way end in the old."""
    one, other = Guard(FakeProvider(100)), Guard(FakeProvider(100))

    @require_credits(min=10)
    def work(then: Callable[[], None] = lambda: None) -> None:
        then()

    set_default_guard(one)
    work()
    work(lambda: set_default_guard(other))
    work()
    assert one.available == 80
    assert other.available == 90
    set_default_guard(one)
    work()
    assert one.available == 70


NONSENSE: list[Callable[[Any], Any]] = [lambda _: 1 / 0, lambda _: None, lambda _: -1]


def test_actual_that_fails_settles_at_cost(
    guard: Guard, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Where actual raises or returns nonsense, the cost stands, also one computed per call."""
    guard.balance()
    for min_ in (10, lambda: 10):
        for nonsense in NONSENSE:
            work: Callable[[], str] = guard.require_credits(min=min_, actual=nonsense)(
                lambda: "result"
            )
            for _ in range(2):
                before = guard.available
                assert before is not None
                assert work() == "result"
                assert guard.available == before - 10
        clock.advance(LAG)
        guard.balance(max_age=0)
    assert "actual" in caplog.text


def test_a_task_that_fails_unseen_is_still_reported(guard: Guard, meter: Meter) -> None:
    """Guarding a task does not silence asyncio's "exception was never retrieved"."""

    @guard.require_credits(min=10)
    def start() -> "asyncio.Task[None]":
        async def fail() -> None:
            raise ZeroDivisionError

        return asyncio.ensure_future(fail())

    reports: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context))
        task = start()
        await asyncio.wait([task])
        del task
        gc.collect()
        await asyncio.sleep(0)

    with meter:
        asyncio.run(main())
        assert meter.ending() == "kept"
    assert [report["message"] for report in reports] == ["Task exception was never retrieved"]


def test_a_cancelled_task_is_kept(guard: Guard, meter: Meter) -> None:
    """A task that a plain function returned keeps its hold when it is cancelled."""

    @guard.require_credits(min=10)
    def start() -> "asyncio.Task[None]":
        return asyncio.ensure_future(asyncio.sleep(1000))

    async def main() -> None:
        task = start()
        task.cancel()
        await asyncio.wait([task])

    with meter:
        asyncio.run(main())
        assert meter.ending() == "kept"


def test_a_coroutine_never_awaited_is_kept_and_named(guard: Guard, meter: Meter) -> None:
    """Python warns of a dropped coroutine under the function's own name; its hold is kept."""

    async def inner() -> None:
        """Never runs."""

    @guard.require_credits(min=10)
    def start() -> Awaitable[None]:
        return inner()

    # Recorded warnings would keep the coroutine alive.
    told: list[str] = []
    with meter, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: told.append(str(message))
        start()
        gc.collect()
        assert meter.ending() == "kept"
    assert told
    assert all("inner' was never awaited" in message for message in told)


def test_a_coroutine_function_not_awaited_holds_nothing(guard: Guard) -> None:
    """Calling a guarded coroutine function without awaiting it asks for nothing."""
    guard.balance()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        guard.require_credits(min=10)(coroutine)(1)  # type: ignore[unused-coroutine]
    assert guard.available == 100


def test_generators_are_admitted_at_their_first_step(guard: Guard, meter: Meter) -> None:
    """A generator that is never started asks for nothing."""
    guarded = guard.require_credits(min=10)(generator)
    with meter:
        steps = guarded(1)
        assert guard.available == 100
        assert next(steps) == 1
        assert guard.available == 90
        steps.close()  # type: ignore[attr-defined]
        assert meter.ending() == "kept"


def test_generators_pass_everything_through(guard: Guard) -> None:
    """send, throw and close reach the generator, and its return value comes back."""

    @guard.require_credits(min=10)
    def talk() -> Generator[str, str, str]:
        said = yield "begin"
        try:
            yield said
        except KeyError as error:
            yield f"caught {error}"
        return "end"

    steps = talk()
    assert next(steps) == "begin"
    assert steps.send("hello") == "hello"
    assert steps.throw(KeyError(1)) == "caught 1"
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == "end"


@pytest.mark.anyio
async def test_async_generators_pass_everything_through(guard: Guard) -> None:
    """asend, athrow and aclose reach the async generator."""
    closed = []

    @guard.require_credits(min=10)
    async def talk() -> AsyncIterator[Any]:
        try:
            said = yield "begin"
            try:
                yield said
            except KeyError as error:
                yield f"caught {error}"
            yield "more"
        finally:
            await anyio.lowlevel.checkpoint()
            closed.append(True)

    steps: Any = talk()
    assert await anext(steps) == "begin"
    assert await steps.asend("hello") == "hello"
    assert await steps.athrow(KeyError(1)) == "caught 1"
    assert await anext(steps) == "more"
    await steps.aclose()
    assert closed == [True]
    steps = talk()
    assert await anext(steps) == "begin"
    with pytest.raises(ValueError, match="mine"):
        await steps.athrow(ValueError("mine"))
    assert closed == [True, True]


def test_an_async_generator_left_open_is_closed_quietly(guard: Guard, meter: Meter) -> None:
    """A loop that ends closes a guarded async generator once, without complaints."""
    closed: list[bool] = []
    reports: list[Any] = []

    @guard.require_credits(min=10)
    async def talk() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            closed.append(True)

    kept = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c))
        steps = talk()
        kept.append(steps)
        async for _ in steps:
            break

    with meter:
        asyncio.run(main())
        assert meter.ending() == "kept"
    assert closed == [True]
    assert reports == []
