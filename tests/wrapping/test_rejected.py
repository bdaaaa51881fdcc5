"""What cannot be guarded rightly is refused, as early as it can be known."""

import contextlib
import functools
import inspect
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self
from unittest.mock import Mock

import anyio
import pytest
import wrapt

from budgetguard import Guard, GuardPool, require_credits
from budgetguard.integrations import guarded
from budgetguard.testing import FakeProvider


def function() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("thing", "what"),
    [
        (int, "a class"),
        (Guard, "a class"),
        (property(lambda self: self), "a property"),
        (functools.cached_property(lambda self: self), "a cached_property"),
        (functools.partialmethod(function), "a partialmethod"),
        (classmethod(property(lambda self: self)), "a property"),  # type: ignore[arg-type]
        (3, "a int"),
        ("name", "a str"),
        (None, "a NoneType"),
    ],
)
def test_what_is_not_a_function_is_refused(guard: Guard, thing: Any, what: str) -> None:
    """Classes, properties and what cannot be called are a TypeError at decoration."""
    with pytest.raises(TypeError, match=f"not {what}$"):
        guard.require_credits(min=1)(thing)


def test_actual_on_an_async_generator_is_refused(guard: Guard) -> None:
    """An async generator has no result for actual."""

    async def steps() -> AsyncIterator[int]:
        yield 1

    require = guard.require_credits(min=1, actual=lambda _: 1)
    for thing in (steps, functools.partial(steps), staticmethod(steps)):
        with pytest.raises(TypeError, match="async generator"):
            require(thing)
    with pytest.raises(TypeError, match="async generator"):
        require(contextlib.asynccontextmanager(steps))


def test_something_has_to_be_required(guard: Guard) -> None:
    """None of min, cost and slots is a TypeError."""
    for require in (guard.require_credits, require_credits):
        with pytest.raises(TypeError, match="at least one of min, cost and slots"):
            require()


def test_decorating_takes_one_function(guard: Guard) -> None:
    """A requirement is called with one function and nothing else."""
    require = guard.require_credits(min=1)
    calls: list[Callable[[], Any]] = [
        lambda: require(function, 1),
        lambda: require(function, key=1),
        require,
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


def require_either(guard: Guard) -> list[Callable[..., Any]]:
    """Both ways to write it."""
    return [guard.require_credits, require_credits]


@pytest.mark.parametrize("which", [0, 1], ids=["of a guard", "of the package"])
def test_bare_on_a_function(guard: Guard, which: int) -> None:
    """Without parentheses, on plain and coroutine functions, whatever they take."""
    bare = require_either(guard)[which]
    with pytest.raises(TypeError, match=r"nothing.* bare @require_credits.*min="):

        @bare
        def nothing() -> None:
            """Take no argument."""

        nothing()
    with pytest.raises(TypeError, match=r"number.* bare @require_credits.*min="):

        @bare
        def number(x: int) -> None:
            """Take a number."""

        number(3)
    with pytest.raises(TypeError, match=r"callback.* bare @require_credits.*min="):

        @bare
        def callback(then: Callable[[], None]) -> None:
            """Take one callable."""

        callback(function)
    with pytest.raises(TypeError, match=r"later.* bare @require_credits.*min="):

        @bare
        async def later(then: Callable[[], None]) -> None:
            """Take one callable, later."""

        later(function)


@pytest.mark.parametrize("which", [0, 1], ids=["of a guard", "of the package"])
def test_bare_on_a_method(guard: Guard, which: int) -> None:
    """Without parentheses, on methods of all three kinds."""
    bare = require_either(guard)[which]
    with pytest.raises(TypeError, match=r"method.* bare @require_credits.*min="):

        class Client:
            @bare
            def method(self, then: Callable[[], None]) -> None:
                """Take one callable."""

        Client().method(function)
    with pytest.raises(TypeError, match=r"made.* bare @require_credits.*min="):

        class Above:
            @bare
            @classmethod
            def made(cls, then: Callable[[], None]) -> None:
                """Take one callable."""

        Above.made(function)
    with pytest.raises(TypeError, match=r"static.* bare @require_credits.*min="):

        class Static:
            @staticmethod
            @bare
            def static(then: Callable[[], None]) -> None:
                """Take one callable."""

        Static.static(function)


def price(*_: object) -> int:
    """What a call costs."""
    return 10


def test_a_price_by_position_is_not_taken_for_bare(guard: Guard) -> None:
    """A callable min may be given by position: a function, a local one, a lambda, a method."""

    def local(*_: object) -> int:
        return 10

    class Prices:
        def of(self, *_: object) -> int:
            return 10

    for given in (price, local, lambda *_: 10, Prices().of, functools.partial(price)):
        assert guard.require_credits(given)(function)() is None
    assert guard.available == 50


class Queue:
    """What runs functions elsewhere."""

    def __init__(self) -> None:
        self.sent: list[Any] = []


QUEUE = Queue()
SEEN: list[object] = []


class Runs:
    """An object that calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class WithDelay(Runs):
    """As in Celery, RQ and the like."""

    def delay(self, *args: Any) -> None:
        QUEUE.sent.append((self._function, args))


class WithKiq(Runs):
    """As in taskiq, where the worker finds the function by its name."""

    async def kiq(self, *args: Any) -> None:
        QUEUE.sent.append((self._function.__name__, args))


class WithSend(Runs):
    """As in dramatiq."""

    def send(self, *args: Any) -> None:
        QUEUE.sent.append(("name", args))


class WithRemote:
    """As in Ray, whose functions cannot even be called."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        msg = "call remote()"
        raise TypeError(msg)

    def remote(self, *args: Any) -> None:
        QUEUE.sent.append(args)

    def options(self, **_: Any) -> Self:
        return self


class WithSubmit(Runs):
    """As in Prefect, in any of three ways."""

    def submit(self, *args: Any) -> None:
        QUEUE.sent.append(args)


class WithMap(Runs):
    """Likewise."""

    def map(self, *args: Any) -> None:
        QUEUE.sent.append(args)


class WithOptions(Runs):
    """Likewise."""

    def with_options(self, **_: Any) -> Any:
        return WithOptions(self._function)


class WithFn:
    """As dramatiq's and Prefect's: the function itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.fn = function

    def __call__(self, *args: Any) -> Any:
        return self.fn(*args)


class WithFunc:
    """As huey's, where a call only enqueues."""

    __slots__ = ("func",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.func = function

    def __call__(self, *args: Any) -> None:
        QUEUE.sent.append(args)


class WithCallback:
    """As click's, which comes to it by two steps, one of them above."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.callback = function

    def __call__(self, *args: Any) -> Any:
        return self.main(*args)

    def main(self, *args: Any) -> Any:
        return self.invoke(args)

    def invoke(self, args: Any) -> Any:
        return self.callback(*args)


class WithCallbackAbove(WithCallback):
    """As click's groups."""

    def invoke(self, args: Any) -> Any:
        return super().invoke(args)


def as_celery(function: Callable[..., Any]) -> Any:
    """A class made for the one function, whose method it becomes, behind a proxy."""

    class Task:
        def __call__(self, *args: Any) -> Any:
            return self.run(*args)

        run: Any

    made = type("deep_spec", (Task,), {"run": staticmethod(function)})
    return wrapt.CallableObjectProxy(made())


class WithGraph:
    """As Dask's: a call only adds to a graph, and any other name is a step of it too."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __dask_graph__(self) -> dict[str, Any]:
        return {}

    def __call__(self, *args: Any) -> Self:
        return self

    def __getattr__(self, name: str) -> Self:
        return self


class Reaches(Runs):
    """One of nobody's: a method of whatever name that comes to the function."""

    def later(self, *args: Any) -> Any:
        return self._sent(args)

    def _sent(self, args: Any) -> Any:
        return self._function(*args)


class HandsOn:
    """A class of one's own around a queue's task, which answers for all that it has not."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._task = WithDelay(function)

    def __call__(self, *args: Any) -> Any:
        return self._task(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


class CallsItself(Runs):
    """By another name."""

    def schedule(self, *args: Any) -> Any:
        return self(*args)


class CallsItselfLater(Runs):
    """Where what comes first are other calls."""

    def all_of(self, many: list[Any]) -> list[Any]:
        return [*map(str, many), self(*many)]


class StartsItself(Runs):
    """In a thread, which is given no arguments."""

    def start(self) -> None:
        threading.Thread(target=self).start()


class SubmitsItself(Runs):
    """To a pool."""

    def enter(self, pool: Any, *args: Any) -> Any:
        return pool.submit(self, args)


class ShowsIt(Runs):
    """As a property."""

    @property
    def original(self) -> Callable[..., Any]:
        return self._function


class ShowsItOnce(Runs):
    """As a property that is kept."""

    @functools.cached_property
    def original(self) -> Callable[..., Any]:
        return self._function


class InPart(Runs):
    """With some of its arguments."""

    def _apply(self, *args: Any) -> Any:
        return self._function(*args)

    twice = functools.partialmethod(_apply, 2)


def with_an_attribute(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that can be sent away."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    call.delay = lambda *args: QUEUE.sent.append((function, args))  # type: ignore[attr-defined]
    return call


def with_the_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that keeps the one that it calls."""

    def call(*args: Any) -> Any:
        return function(*args)

    call.fn = function  # type: ignore[attr-defined]
    return call


def with_a_sender(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that can be sent away, by another name."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    call.send = lambda *args: QUEUE.sent.append((function, args))  # type: ignore[attr-defined]
    return call


TASKS: list[tuple[Callable[[Any], Any], str, str]] = [
    (WithDelay, "WithDelay", "delay"),
    (WithKiq, "WithKiq", "kiq"),
    (WithSend, "WithSend", "send"),
    (WithRemote, "WithRemote", "remote"),
    (WithSubmit, "WithSubmit", "submit"),
    (WithMap, "WithMap", "map"),
    (WithOptions, "WithOptions", "with_options"),
    (WithFn, "WithFn", "fn"),
    (WithFunc, "WithFunc", "func"),
    (WithCallback, "WithCallback", "callback"),
    (WithCallbackAbove, "WithCallbackAbove", "callback"),
    (as_celery, r"deep_spec \(Task\)", "run"),
    (WithGraph, "WithGraph", "graph"),
    (Reaches, "Reaches", "later"),
    (HandsOn, "HandsOn", "delay"),
    (CallsItself, "CallsItself", "schedule"),
    (CallsItselfLater, "CallsItselfLater", "all_of"),
    (StartsItself, "StartsItself", "start"),
    (SubmitsItself, "SubmitsItself", "enter"),
    (ShowsIt, "ShowsIt", "original"),
    (ShowsItOnce, "ShowsItOnce", "original"),
    (InPart, "InPart", "twice"),
    (with_an_attribute, "function", "delay"),
    (with_the_function, "function", "fn"),
    (with_a_sender, "function", "send"),
]


@pytest.mark.parametrize(
    ("task", "kind", "way"), TASKS, ids=[task.__name__ for task, _, _ in TASKS]
)
def test_a_second_way_to_the_function_is_refused(
    guard: Guard, task: Callable[[Any], Any], kind: str, way: str
) -> None:
    """A guard above a task object would guard its calls alone: the error says where to put it."""
    words = rf"Put require_credits directly above `def`, .* {kind} .*\b{way}\b"
    require = guard.require_credits(min=10)
    with pytest.raises(TypeError, match=words):
        require(task(function))
    with pytest.raises(TypeError, match=words):
        require(staticmethod(task(function)))
    task(require(function))


def test_a_task_among_the_methods_of_an_object_is_refused(guard: Guard) -> None:
    """And the error names which."""

    class Client:
        deep_spec = WithDelay(function)

    with pytest.raises(TypeError, match="directly above `def`") as said:
        guarded(Client(), guard, {"deep_spec": 50})
    assert said.value.__notes__ == ["in the cost of Client.deep_spec"]


def test_a_tool_that_cannot_be_called_is_told_where_to_go(guard: Guard) -> None:
    """Frameworks make objects of functions that are no functions any more."""

    class Tool:
        def __init__(self, function: Callable[..., Any]) -> None:
            self.func = function

    with pytest.raises(TypeError, match=r"^Put require_credits directly above `def`.* not a Tool$"):
        guard.require_credits(min=10)(Tool(function))


class Client:
    """A plain class with `__call__`, hooks, and methods that do other things."""

    def __init__(self) -> None:
        self.on_event = function
        self.closed = False

    def __call__(self, prompt: str) -> str:
        return self._write(prompt)

    def _write(self, prompt: str) -> str:
        return prompt.upper()

    def send(self, message: str) -> str:
        return message

    def map(self, message: str) -> str:
        self.on_event()
        return message

    def close(self) -> None:
        self.closed = True


class Named(Runs):
    """One that shows its function, without a way to run it."""

    def describe(self) -> str | None:
        return self._function.__doc__

    def clear(self, key: str) -> str:
        return key

    @property
    def title(self) -> str:
        return self._function.__name__

    def also(self, *more: Any) -> "Named":
        SEEN.append(self)
        if more:
            self.clear(*more)
        return self


class Background(Runs):
    """One with a thread for something else, which it passes itself to."""

    def start(self) -> None:
        threading.Thread(target=self._write, args=(self,), name=repr(self)).start()

    def watch(self) -> None:
        threading.Thread(target=self._write, name=f"{self} writes").start()

    def _write(self, *_: Any) -> None:
        SEEN.append(self)


class Answers(Runs):
    """One with a few more names than it was written with."""

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            return "one"
        raise AttributeError(name)


class Anything(Runs):
    """One that takes any name for one of a path, as clients of JSON-RPC do."""

    def __getattr__(self, name: str) -> "Anything":
        return Anything(self._function)


@wrapt.decorator
def through(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    """A decorator made with wrapt."""
    return wrapped(*args, **kwargs)


def test_a_plain_class_with_other_methods_is_guarded(guard: Guard) -> None:
    """`close()` and the like are no second way."""
    guard.balance()
    client = Client()
    guarded_client = guard.require_credits(min=10)(client)
    assert guarded_client("one") == "ONE"
    assert guard.available == 90
    assert guarded_client.send("two") == "two"
    guarded_client.close()
    assert client.closed
    assert guard.available == 90


@pytest.mark.parametrize(
    "thing",
    [
        Named(function),
        Answers(function),
        Background(function),
        Anything(function),
        functools.partial(function),
        functools.lru_cache(function),
        functools.update_wrapper(Runs(function), function),
        through(function),
        Client().send,
        Mock(return_value=None),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_made_of_a_function_is_guarded(guard: Guard, thing: Any) -> None:
    """Partials, caches, proxies, objects that run a function, and people's own mocks."""
    guard.balance()
    guarded_thing = guard.require_credits(min=10, name="thing")(thing)
    args = ("x",) if inspect.ismethod(thing) else ()
    guarded_thing(*args)
    assert guard.available == 90


def test_at_the_bottom_of_a_stack() -> None:
    """In an exit handler and in a new thread there is no calling code: that is no bare decorator."""
    code = (
        "import atexit, _thread, time\n"
        "from budgetguard import Guard, require_credits\n"
        "from budgetguard.testing import FakeProvider\n"
        "guard = Guard(FakeProvider())\n"
        "def price(): return 1\n"
        "class Told(str):\n"
        "    def __eq__(self, other): told.release(); return False\n"
        "for require in (require_credits, guard.require_credits):\n"
        "    for given in (5, price):\n"
        "        atexit.register(require, given)\n"
        "        told = _thread.allocate_lock()\n"
        "        told.acquire()\n"
        "        _thread.start_new_thread(require, (given,), {'name': Told('x')})\n"
        "        assert told.acquire(timeout=20)\n"
        "        _thread.start_new_thread(require, (given,))\n"
        "while _thread._count():\n"
        "    time.sleep(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""


class TestAsync:
    """Amounts and guards are needed at once: callables that would have to be awaited are rejected."""

    class Awaited:
        """Objects and methods."""

        async def __call__(self, *_: object) -> int:
            return 1

        async def method(self, *_: object) -> int:
            return 1

        @classmethod
        async def of_class(cls, *_: object) -> int:
            return 1

    @staticmethod
    async def later(*_: object) -> int:
        """Not now."""
        return 1

    @staticmethod
    async def steps(*_: object) -> AsyncIterator[int]:
        """Nor this."""
        yield 1

    @staticmethod
    def generator(*_: object) -> Iterator[int]:
        """Nor this."""
        yield 1

    KINDS = (
        later,
        functools.partial(later, 1),
        functools.partial(functools.partial(later), 1),
        Awaited(),
        Awaited().method,
        Awaited.of_class,
        functools.partial(Awaited(), 1),
        steps,
        generator,
    )

    @pytest.mark.parametrize("what", ["min", "cost", "actual", "guard"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_at_decoration(self, guard: Guard, what: str, kind: Any) -> None:
        """Whatever kind of callable it is, and wherever it is given."""
        terms = {"min": 1, what: kind}
        with pytest.raises(TypeError, match=f"{what} takes a plain function: an async function"):
            require_credits(**terms)
        if what != "guard":
            with pytest.raises(TypeError, match=f"{what} takes a plain function"):
                guard.require_credits(**terms)

    def test_for_a_pool_and_for_events(self) -> None:
        """The same words."""
        for kind in self.KINDS:
            with pytest.raises(TypeError, match="make_guard takes a plain function"):
                GuardPool(kind)
            with pytest.raises(TypeError, match="on_event takes a plain function"):
                Guard(FakeProvider(), on_event=kind)

    @pytest.mark.parametrize("what", ["min", "cost"])
    @pytest.mark.parametrize("way", ["plain", "async", "block", "generator"])
    def test_what_returns_something_to_await(self, guard: Guard, what: str, way: str) -> None:
        """From outside it looks plain: refused at the call, and closed without having run."""
        made: list[Any] = []

        def looks_plain(*_: object) -> Any:
            made.append(TestAsync.later())
            return made[-1]

        require: Any = guard.require_credits(**{"min": 1, what: looks_plain})
        ways: dict[str, Callable[[], Any]] = {
            "plain": require(lambda: None),
            "async": lambda: anyio.run(require(TestAsync.later)),
            "block": require.__enter__,
            "generator": lambda: list(require(TestAsync.generator)()),
        }
        with pytest.raises(
            TypeError, match=f"{what} takes an int, float, Decimal or str, not coro"
        ):
            ways[way]()
        assert [inspect.getcoroutinestate(each) for each in made] == [inspect.CORO_CLOSED]

    def test_what_actual_returns_to_await(
        self, guard: Guard, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The call is settled at cost, which is logged; its own result is returned."""
        actual: Any = lambda _: TestAsync.later()  # noqa: E731
        function = guard.require_credits(min=10, actual=actual)(lambda: "done")
        assert [function(), function()] == ["done", "done"]
        assert guard.available == 80
        assert caplog.text.count("actual takes an int, float, Decimal or str, not coroutine") == 2

    def test_a_guard_to_await(self) -> None:
        """It is closed, too."""
        guard: Any = lambda *_: TestAsync.later()  # noqa: E731
        with pytest.raises(TypeError, match="must return a Guard, not coroutine"):
            require_credits(1, guard=guard)(lambda: None)()
        with pytest.raises(TypeError, match="must return a Guard, not coroutine"):
            GuardPool(guard)[1]
