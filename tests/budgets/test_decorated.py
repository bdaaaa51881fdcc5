"""A budget as a decorator: a new one for each call, whatever kind of function it is."""

import asyncio
import functools
import gc
import inspect
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from looking import NOTHING, figures, open_in

from budgetguard import BudgetExceeded, Event, Guard
from budgetguard.testing import FakeProvider, HandClock


def spend(guard: Guard, credits: int) -> None:
    """One call at that cost."""
    guard.acquire(credits).settle()


def test_each_call_has_a_budget_of_its_own(guard: Guard) -> None:
    """As many calls as there are, and each may spend as much."""

    @guard.budget(10)
    def run(credits: int) -> int:
        spend(guard, credits)
        return credits

    assert [run(10) for _ in range(3)] == [10] * 3
    with pytest.raises(BudgetExceeded) as refused:
        run(11)
    assert str(refused.value.budget).endswith("<locals>.run")
    spend(guard, 50)
    assert guard.available == 920


def test_it_has_the_name_that_it_was_given(guard: Guard) -> None:
    """Or else the function's."""

    @guard.budget(10, name="a run")
    def run() -> None:
        spend(guard, 11)

    with pytest.raises(BudgetExceeded, match="the budget a run has 10 of 10 credits left"):
        run()


def test_calls_that_call_each_other_are_nested(guard: Guard) -> None:
    """A function that calls itself is within its own budget, and that of each call around it."""

    @guard.budget(10, name="nested")
    def run(depth: int) -> None:
        spend(guard, 4)
        if depth:
            run(depth - 1)

    run(1)
    with pytest.raises(BudgetExceeded):
        run(2)
    assert guard.available == 1000 - 8 - 8


def test_the_function_keeps_what_it_is(guard: Guard) -> None:
    """Its name, its text, its signature, and its kind."""

    async def fetch(url: str, *, pages: int = 1) -> str:
        """Fetch it."""
        return url * pages

    run = guard.budget(10)(fetch)
    assert inspect.iscoroutinefunction(run)
    assert (run.__name__, run.__doc__) == ("fetch", "Fetch it.")
    assert inspect.signature(run) == inspect.signature(fetch)
    assert inspect.isgeneratorfunction(guard.budget(10)(steps))
    assert inspect.isasyncgenfunction(guard.budget(10)(parts))
    assert not inspect.iscoroutinefunction(guard.budget(10)(spend))


MODULE_GUARD = Guard(FakeProvider(100))


@MODULE_GUARD.budget(10)
def of_this_module() -> str:
    """Do nothing."""
    return "done"


def test_it_is_pickled_by_its_name() -> None:
    """As any function of a module is."""
    assert of_this_module() == "done"
    code = pickle.dumps(of_this_module)
    assert b"of_this_module" in code


@pytest.mark.parametrize("outer", [classmethod, staticmethod, None])
@pytest.mark.parametrize("outside", [True, False])
def test_methods(guard: Guard, outer: Any, *, outside: bool) -> None:
    """Plain ones, and those of classes in either order."""

    def run(*args: Any) -> tuple[Any, ...]:
        spend(guard, args[-1])
        return args

    function: Any = run
    for decorate in [guard.budget(10), outer] if outside else [outer, guard.budget(10)]:
        function = function if decorate is None else decorate(function)
    agent = type("Agent", (), {"run": function})
    one = agent()
    first = () if outer is staticmethod else (agent if outer is classmethod else one,)
    assert one.run(10) == (*first, 10)
    with pytest.raises(BudgetExceeded):
        one.run(11)


def test_a_bound_method(guard: Guard) -> None:
    """Of somebody else's object."""

    class Agent:
        def run(self, credits: int) -> str:
            """Spend it."""
            spend(guard, credits)
            return "done"

    run = guard.budget(10)(Agent().run)
    assert run(10) == "done"
    assert run.__doc__ == "Spend it."
    with pytest.raises(BudgetExceeded):
        run(11)


class Agent:
    """An object that can be called."""

    def __call__(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("other", [Agent, Agent(), functools.partial(spend), 3, None, print])
def test_other_kinds_are_refused(guard: Guard, other: Any) -> None:
    """Their calls could pass by what was put in place; a block does not."""
    with pytest.raises(TypeError, match=r"a budget decorates functions and methods, not .* block"):
        guard.budget(10)(other)


def test_errors_pass_through(guard: Guard) -> None:
    """The function's own, and what it set aside is given back."""

    @guard.budget(100, share="carve")
    def run() -> None:
        spend(guard, 10)
        msg = "no such page"
        raise LookupError(msg)

    with pytest.raises(LookupError):
        run()
    assert guard.available == 990
    assert open_in(guard) == NOTHING


def test_the_call_is_refused_where_too_little_can_be_set_aside(guard: Guard) -> None:
    """Before the function runs."""
    ran = list[int]()
    run = guard.budget(50, share="carve", name="run")(lambda: ran.append(1))
    with guard.budget(40), pytest.raises(BudgetExceeded, match="the budget run needs 50"):
        run()
    assert ran == []


def test_a_key_of_the_calls_arguments(guard: Guard, clock: HandClock) -> None:
    """Each user has a budget, for a day."""

    @guard.budget(10, name="user", key=lambda user, _: user, per="day")
    def serve(user: str, credits: int) -> str:
        spend(guard, credits)
        return user

    assert [serve("ada", 6), serve("bob", 10), serve("ada", 4)] == ["ada", "bob", "ada"]
    for user in ("ada", "bob"):
        with pytest.raises(BudgetExceeded):
            serve(user, 1)
    clock.advance(86_400)
    guard.balance()
    assert serve("ada", 10) == "ada"


@pytest.mark.parametrize(
    ("key", "kind", "words"),
    [
        (lambda _: ["sk-secret"], TypeError, "or a tuple of these, not list"),
        (lambda _: float("nan"), TypeError, "or a tuple of these, not float"),
        (lambda: "ada", TypeError, "argument"),
    ],
)
def test_a_key_that_is_none(guard: Guard, key: Any, kind: type[Exception], words: str) -> None:
    """The call does not run, and the key is not shown."""
    ran = list[int]()
    serve = guard.budget(10, name="user", key=key, per="day")(lambda _: ran.append(1))
    with pytest.raises(kind, match=words) as raised:
        serve("ada")
    assert ran == []
    assert "sk-secret" not in str(raised.value)


@pytest.mark.anyio
async def test_coroutine_functions(guard: Guard) -> None:
    """Calls that overlap have a budget each, which their tasks are in."""

    @guard.budget(10, name="run")
    async def run() -> int:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(one)
        with pytest.raises(BudgetExceeded):
            await one()
        return 1

    @guard.require_credits(min=5)
    async def one() -> None:
        await anyio.lowlevel.checkpoint()

    made = [run() for _ in range(3)]
    spend(guard, 20)
    assert [await each for each in made] == [1, 1, 1]
    assert guard.available == 950


@pytest.mark.anyio
async def test_plain_functions_that_return_a_coroutine(guard: Guard) -> None:
    """Its work is in the budget, and what the caller does before it is awaited is not."""

    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        spend(guard, 10)
        with pytest.raises(BudgetExceeded):
            spend(guard, 1)
        return "done"

    made = list[Awaitable[str]]()
    run = guard.budget(10, name="run")(lambda: work())  # noqa: PLW0108  it is a plain function
    made = [run(), run()]
    spend(guard, 50)
    assert [await each for each in made] == ["done", "done"]
    spend(guard, 50)
    assert guard.available == 880


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_coroutine_that_nobody_awaits(guard: Guard) -> None:
    """What was set aside for it goes back when it is dropped."""

    async def work() -> None:
        """Do nothing."""

    run = guard.budget(100, share="carve")(lambda: work())  # noqa: PLW0108  it is a plain function
    made = run()
    assert guard.available == 900
    made.close()
    del made
    gc.collect()
    assert guard.available == 1000
    assert open_in(guard) == NOTHING


def steps() -> Iterator[int]:
    """Two steps."""
    yield 1
    yield 2


async def parts() -> AsyncIterator[int]:
    """Two parts."""
    yield 1
    yield 2


def test_a_generators_own_calls_are_in_its_budget(guard: Guard) -> None:
    """And those of the code that iterates over it are not."""

    @guard.budget(10, name="run")
    def run() -> Iterator[int]:
        for each in range(4):
            spend(guard, 3)
            yield each

    seen = list[int]()
    with pytest.raises(BudgetExceeded):
        for each in run():
            spend(guard, 50)
            seen.append(each)
    assert seen == [0, 1, 2]
    spend(guard, 50)
    assert guard.available == 1000 - 9 - 200


def test_a_generator_is_bound_where_it_is_read_too(guard: Guard) -> None:
    """Its steps are in the reader's budget and in its own."""

    @guard.budget(10, name="run")
    def run() -> Iterator[int]:
        while True:
            spend(guard, 3)
            yield 1

    made = run()
    next(made)
    with guard.budget(5, name="reader") as reader:
        next(made)
        with pytest.raises(BudgetExceeded, match="the budget reader has 2 of 5"):
            next(made)
    assert figures(reader) == (3, 0, 2)


def test_whatever_is_sent_into_a_generator_arrives(guard: Guard) -> None:
    """And what it returns comes back, and errors both ways."""

    @guard.budget(100)
    def run() -> Generator[int, str, str]:
        said = yield 1
        try:
            yield len(said)
        except LookupError:
            spend(guard, 5)
            yield 3
        return said

    made = run()
    assert next(made) == 1
    assert made.send("page") == 4
    assert made.throw(LookupError("gone")) == 3
    with pytest.raises(StopIteration) as ended:
        next(made)
    assert ended.value.value == "page"
    other = run()
    next(other)
    with pytest.raises(ValueError, match="wrong"):
        other.throw(ValueError("wrong"))


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_generator_that_is_not_read_to_its_end(guard: Guard, how: str) -> None:
    """It cleans up within its budget, and gives back what was set aside."""
    cleaned = list[str | None]()

    @guard.budget(10, name="run", share="carve")
    def run() -> Iterator[int]:
        try:
            yield 1
        finally:
            try:
                spend(guard, 11)
            except BudgetExceeded as error:
                cleaned.append(error.budget)

    made = run()
    next(made)
    assert guard.available == 990
    if how == "close":
        made.close()  # type: ignore[attr-defined]
    del made
    gc.collect()
    assert cleaned == ["run"]
    assert guard.available == 1000
    assert open_in(guard) == NOTHING


def test_a_generator_that_is_never_begun(guard: Guard) -> None:
    """Nothing was set aside for it."""
    made = guard.budget(10, share="carve")(steps)()
    assert guard.available == 1000
    del made
    gc.collect()
    assert open_in(guard) == NOTHING


@pytest.mark.anyio
async def test_async_generators(guard: Guard) -> None:
    """The same for what is awaited: also what is sent, thrown and closed."""

    @guard.budget(10, name="run", share="carve")
    async def run() -> Any:
        said = None
        while True:
            await anyio.lowlevel.checkpoint()
            try:
                said = yield said
                spend(guard, 3)
            except LookupError:
                said = "caught"

    made = run()
    assert await anext(made) is None
    assert guard.available == 990
    spend(guard, 50)
    assert await made.asend("page") == "page"
    spend(guard, 50)
    assert await made.athrow(LookupError("gone")) == "caught"
    assert await made.asend("more") == "more"
    assert await made.asend("still more") == "still more"
    with pytest.raises(BudgetExceeded):
        await made.asend("too much")
    assert guard.available == 1000 - 100 - 9
    assert [each async for each in guard.budget(10)(parts)()] == [1, 2]
    other = run()
    await anext(other)
    await other.aclose()
    assert guard.available == 1000 - 100 - 9
    assert open_in(guard) == NOTHING


@pytest.mark.parametrize("order", ["budget outside", "budget inside"])
def test_together_with_require_credits(guard: Guard, order: str) -> None:
    """Above it, the call is in the budget; below it, only what the call does."""
    decorators = [guard.require_credits(min=6), guard.budget(10, name="run")]
    if order == "budget inside":
        decorators.reverse()
    function: Callable[[], None] = lambda: spend(guard, 5)  # noqa: E731
    for decorate in decorators:
        function = decorate(function)
    if order == "budget outside":
        with pytest.raises(BudgetExceeded):
            function()
    else:
        function()


def test_events_name_it(clock: HandClock) -> None:
    """Each call's event has the name of the function around it."""
    del clock
    told = list[Event]()
    guard = Guard(FakeProvider(1000), on_event=told.append)
    guard.balance()

    @guard.budget(10, name="run")
    async def run() -> None:
        spend(guard, 3)

    told.clear()
    asyncio.run(run())
    spend(guard, 3)
    assert [event.budget for event in told if event.kind == "settled"] == ["run", None]
