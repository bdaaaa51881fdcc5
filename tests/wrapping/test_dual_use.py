"""What can be awaited, entered and iterated over keeps working in all three ways."""

import asyncio
import contextlib
import gc
import inspect
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest
from kinds import LAG, LINGER, Meter
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from budgetguard import ConcurrencyLimit, Guard
from budgetguard.integrations import guarded
from budgetguard.testing import FakeProvider, HandClock


class Pages:
    """As openai's lists: awaited, a page; iterated over, the items of all pages."""

    async def _load(self) -> list[int]:
        await anyio.lowlevel.checkpoint()
        return [1, 2]

    def __await__(self) -> Generator[Any, None, list[int]]:
        return self._load().__await__()

    async def __aiter__(self) -> AsyncIterator[int]:
        for item in await self:
            yield item


class Request(Coroutine[Any, Any, str]):
    """As aiohttp's: a coroutine, that can be entered too."""

    def __init__(self) -> None:
        self._coroutine = self._send()
        self.released = False

    async def _send(self) -> str:
        await anyio.lowlevel.checkpoint()
        return "response"

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, None, str]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> str:
        return await self._coroutine

    async def __aexit__(self, *_: object) -> None:
        await anyio.lowlevel.checkpoint()
        self.released = True


class Connection:
    """As a database's: it is what is had by awaiting it, and by entering it."""

    async def _open(self) -> Self:
        await anyio.lowlevel.checkpoint()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self

    async def __aexit__(self, *_: object) -> None:
        await anyio.lowlevel.checkpoint()

    async def __aiter__(self) -> AsyncIterator[int]:
        yield 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Plain code may use it as well."""

    def __iter__(self) -> Iterator[int]:
        yield 1


async def awaited(result: Any) -> Any:
    return await result


async def awaited_in_a_group(result: Any) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(awaited, result)


async def entered(result: Any) -> None:
    async with result:
        await anyio.lowlevel.checkpoint()


async def entered_by_a_stack(result: Any) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(result)


async def iterated(result: Any) -> None:
    async for _ in result:
        await anyio.lowlevel.checkpoint()


async def entered_plainly(result: Any) -> None:
    with result:
        pass


async def iterated_plainly(result: Any) -> None:
    list(result)


USES: list[tuple[type, Callable[[Any], Awaitable[Any]]]] = [
    (Pages, awaited),
    (Pages, awaited_in_a_group),
    (Pages, iterated),
    (Request, awaited),
    (Request, entered),
    (Request, entered_by_a_stack),
    (Connection, awaited),
    (Connection, entered),
    (Connection, iterated),
    (Connection, entered_plainly),
    (Connection, iterated_plainly),
]
TERMS: dict[str, dict[str, Any]] = {"fast path": {"min": 10}, "slow path": {"min": lambda *_: 10}}

terms = pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
each_use = pytest.mark.parametrize(
    ("kind", "use"), USES, ids=[f"{kind.__name__} {use.__name__}" for kind, use in USES]
)


class Client:
    """What hands them out."""

    def call(self, kind: type) -> Any:
        return kind()


@pytest.mark.anyio
@terms
@each_use
async def test_what_ended_well_is_settled(
    guard: Guard,
    meter: Meter,
    terms: dict[str, Any],
    kind: type,
    use: Callable[[Any], Awaitable[Any]],
) -> None:
    """Awaited, left or exhausted: and held for until then."""
    for function in (
        guard.require_credits(**terms)(lambda kind: kind()),
        guarded(Client(), guard, {"call": terms}).call,
    ):
        for _ in range(2):
            async with meter:
                result = function(kind)
                assert isinstance(result, kind)
                assert await meter.ais_open()
                await use(result)
                assert await meter.aending() == "settled"


@pytest.mark.anyio
@each_use
async def test_slots_are_free_again(
    clock: Any, kind: type, use: Callable[[Any], Awaitable[Any]]
) -> None:
    """A slot is taken for as long as the credits are."""
    guard = Guard(FakeProvider(100, lag=LAG, linger=LINGER, max_concurrency=1))
    await guard.abalance()
    function = guard.require_credits(slots=1)(lambda: kind())  # noqa: PLW0108
    for _ in range(2):
        result = function()
        with pytest.raises(ConcurrencyLimit):
            function()
        await use(result)


@pytest.mark.anyio
async def test_what_ended_badly_is_kept(guard: Guard, meter: Meter) -> None:
    """A block that raises or is cancelled, an iteration that is left half-way, what is dropped."""

    async def raise_inside(result: Any) -> None:
        with contextlib.suppress(ValueError):
            async with result:
                raise ValueError

    async def cancel_inside(result: Any) -> None:
        with anyio.CancelScope() as scope:
            async with result:
                scope.cancel()
                await anyio.lowlevel.checkpoint()

    async def close_half_way(result: Any) -> None:
        async with contextlib.aclosing(aiter(result)) as items:
            await anext(items)

    async def drop(result: Any) -> None:
        """Do nothing."""

    cases: list[tuple[type, Callable[[Any], Awaitable[None]]]] = [
        (Request, raise_inside),
        (Connection, raise_inside),
        (Request, cancel_inside),
        (Connection, cancel_inside),
        (Pages, close_half_way),
        (Pages, drop),
        (Connection, drop),
    ]
    function = guard.require_credits(min=10)(lambda kind: kind())
    for kind, use in cases:
        async with meter:
            await use(function(kind))
            gc.collect()
            await anyio.lowlevel.checkpoint()
            assert await meter.aending() == "kept", (kind, use)


@pytest.mark.anyio
async def test_what_proves_to_be_free_is_released(guard: Guard, meter: Meter) -> None:
    """In a block, while it is entered, and while it is awaited."""

    class Refused(Connection):
        async def _open(self) -> Self:
            raise ValueError

    async def raise_inside(result: Any) -> None:
        async with result:
            raise ValueError

    function = guard.require_credits(min=10, release_on=ValueError)(lambda kind: kind())
    for kind, use in ((Connection, raise_inside), (Refused, entered), (Refused, awaited)):
        async with meter:
            with pytest.raises(ValueError):  # noqa: PT011
                await use(function(kind))
            assert await meter.aending() == "released"


@pytest.mark.anyio
async def test_actual_is_given_what_came_of_it(guard: Guard) -> None:
    """What awaiting gave, or what was entered."""
    await guard.abalance()
    seen: list[Any] = []

    def actual(result: Any) -> int:
        seen.append(result)
        return 1

    function = guard.require_credits(min=10, actual=actual)(lambda kind: kind())
    await awaited(function(Pages))
    await entered(function(Request))
    assert seen == [[1, 2], "response"]
    assert guard.available == 98


@pytest.mark.anyio
async def test_it_can_do_what_it_could_and_no_more(guard: Guard) -> None:
    """To isinstance and inspect."""
    await guard.abalance()
    function = guard.require_credits(min=10)(lambda kind: kind())
    pages, request = function(Pages), function(Request)
    assert inspect.isawaitable(pages)
    assert not isinstance(pages, Iterator)
    assert not hasattr(type(pages), "__anext__")
    assert isinstance(request, Coroutine)
    assert not hasattr(type(request), "__aiter__")
    request.close()


def test_a_coroutine_of_ones_own_as_a_task(guard: Guard, meter: Meter) -> None:
    """asyncio steps through it itself, without awaiting it."""
    function = guard.require_credits(min=10)(lambda: Request())  # noqa: PLW0108

    async def main() -> None:
        assert await asyncio.create_task(function()) == "response"
        assert await asyncio.gather(awaited(Request())) == ["response"]

    with meter:
        asyncio.run(main())
        assert meter.ending() == "settled"
    with meter:
        function().close()
        assert meter.ending() == "kept"


def test_an_iteration_left_by_a_break_is_kept(guard: Guard, meter: Meter) -> None:
    """The items that were not asked for may be charged all the same."""
    function = guard.require_credits(min=10)(lambda: Pages())  # noqa: PLW0108

    async def main() -> None:
        async for _ in function():
            break

    with meter:
        asyncio.run(main())
        gc.collect()
        assert meter.ending() == "kept"


def test_websockets_in_all_three_ways(guard: Guard, meter: Meter, clock: HandClock) -> None:
    """`websockets.connect`, on a real socket, is awaited, entered, or connects again and again."""

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(f"{message}!")

    async def talk(connection: ClientConnection) -> str:
        """Talk, and say whether the credits are held meanwhile."""
        assert isinstance(connection, ClientConnection)
        await connection.send("hello")
        assert await connection.recv() == "hello!"
        clock.advance(LAG)
        await guard.abalance(max_age=0)
        return "held" if guard.available == 90 else "settled"

    async def by_awaiting(connecting: Any) -> str:
        connection = await connecting
        said = await talk(connection)
        await connection.close()
        return said

    async def by_entering(connecting: Any) -> str:
        async with connecting as connection:
            return await talk(connection)

    async def by_iterating(connecting: Any) -> str:
        async with contextlib.aclosing(aiter(connecting)) as connections:
            return await talk(await anext(connections))

    async def main(use: Callable[[Any], Awaitable[str]], terms: dict[str, Any]) -> str:
        async with serve(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connected = guard.require_credits(min=10, **terms)(lambda url: connect(url))  # noqa: PLW0108
            connecting = connected(f"ws://127.0.0.1:{port}")
            assert isinstance(connecting, connect)
            assert await meter.ais_open()
            return await use(connecting)

    cases: list[tuple[Any, dict[str, Any], str, str]] = [
        (by_awaiting, {}, "settled", "settled"),
        (by_entering, {}, "held", "settled"),
        (by_iterating, {}, "held", "kept"),
        (by_awaiting, {"until": "close"}, "held", "settled"),
        (by_entering, {"until": "close"}, "held", "settled"),
    ]
    for use, terms, inside, ending in cases:
        with meter:
            assert asyncio.run(main(use, terms)) == inside, (use, terms)
            gc.collect()
            if inside == "held":
                assert meter.ending() == ending, (use, terms)
