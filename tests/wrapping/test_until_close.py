"""`until="close"`: the hold of a call ends when its result is exhausted, closed or left."""

import contextlib
import functools
import gc
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest
from kinds import Meter, plainly

from budgetguard import Guard, InsufficientCredits, PreDev, require_credits
from budgetguard.asgi import GuardMiddleware
from budgetguard.integrations import guarded
from budgetguard.integrations.tools import Tools
from budgetguard.transport import GuardTransport


class Stream:
    """What SDKs hand out for a reply that is still coming in."""

    def __init__(self, parts: int = 3) -> None:
        self.parts = iter(range(parts))
        self.usage = 0
        self.closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        part = next(self.parts)
        self.usage += 1
        return part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def until_done(self) -> Self:
        for _ in self:
            pass
        return self


class Lines:
    """One that is no iterator itself, and that its own methods read to the end and close."""

    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        yield from range(3)

    def read(self) -> list[int]:
        try:
            return list(self)
        finally:
            self.close()

    def close(self) -> None:
        self.closed = True


class AsyncStream:
    """The same, to await."""

    def __init__(self) -> None:
        self.parts = iter(range(3))
        self.closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        await anyio.lowlevel.checkpoint()
        for part in self.parts:
            return part
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True

    async def until_done(self) -> None:
        async for _ in self:
            pass


class AsyncLines:
    """One that is iterated over by a generator, and closed as httpx says it."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[int]:
        for part in range(3):
            await anyio.lowlevel.checkpoint()
            yield part

    async def aclose(self) -> None:
        self.closed = True


class Manager:
    """What has to be entered to get at the stream."""

    def __enter__(self) -> Stream:
        self.stream = Stream()
        return self.stream

    def __exit__(self, *_: object) -> None:
        self.stream.close()


class AsyncManager:
    """The same, to await."""

    async def __aenter__(self) -> AsyncStream:
        self.stream = AsyncStream()
        return self.stream

    async def __aexit__(self, *_: object) -> None:
        await self.stream.close()


class Client:
    """What hands them out, when called and when awaited."""

    def call(self, result: Any) -> Any:
        return result

    async def acall(self, result: Any) -> Any:
        return result


TERMS: dict[str, dict[str, Any]] = {
    "fast path": {"min": 10, "until": "close"},
    "long": {"min": lambda *_: 10, "until": "close"},
}
terms = pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)


def iterated(stream: Any) -> None:
    assert list(stream) == [0, 1, 2]


def stepped(stream: Any) -> None:
    assert [next(stream), next(stream), next(stream), next(stream, None)] == [0, 1, 2, None]


def closed(stream: Any) -> None:
    stream.close()


def closed_half_way(stream: Any) -> None:
    next(iter(stream))
    stream.close()


def closed_by_contextlib(stream: Any) -> None:
    with contextlib.closing(stream) as inside:
        assert inside is stream


def left(stream: Any) -> None:
    with stream as inside:
        assert inside is stream
        next(inside)


def left_by_a_stack(stream: Any) -> None:
    with contextlib.ExitStack() as stack:
        assert stack.enter_context(stream) is stream


def read_by_itself(stream: Any) -> None:
    assert stream.until_done() is stream


def read_and_closed_by_itself(stream: Any) -> None:
    assert stream.read() == [0, 1, 2]


def entered(manager: Any) -> None:
    with manager as stream:
        assert type(stream) is Stream
        next(stream)


ENDS: list[tuple[type, Callable[[Any], None]]] = [
    (Stream, iterated),
    (Stream, stepped),
    (Stream, closed),
    (Stream, closed_half_way),
    (Stream, closed_by_contextlib),
    (Stream, left),
    (Stream, left_by_a_stack),
    (Stream, read_by_itself),
    (Lines, iterated),
    (Lines, closed),
    (Lines, closed_half_way),
    (Lines, read_and_closed_by_itself),
    (Manager, entered),
]


@terms
@pytest.mark.parametrize(
    ("kind", "end"), ENDS, ids=[f"{kind.__name__} {end.__name__}" for kind, end in ENDS]
)
def test_it_is_held_for_until_it_has_ended(
    guard: Guard, meter: Meter, terms: dict[str, Any], kind: type, end: Callable[[Any], None]
) -> None:
    """However it comes to its end: then it is settled, and what is done after does nothing."""
    functions = [
        guard.require_credits(**terms)(lambda result: result),
        guarded(Client(), guard, {"call": terms}).call,
    ]
    for function in functions:
        for _ in range(2):
            with meter:
                result = function(kind())
                assert isinstance(result, kind)
                assert meter.is_open()
                end(result)
                assert meter.ending() == "settled"
                if hasattr(result, "close"):
                    result.close()
                    assert result.closed


async def aiterated(stream: Any) -> None:
    assert [part async for part in stream] == [0, 1, 2]


async def aclosed(stream: Any) -> None:
    await stream.close()
    assert stream.closed


async def aclosed_half_way(stream: Any) -> None:
    await anext(stream)
    await stream.close()


async def aclosed_by_contextlib(stream: Any) -> None:
    async with contextlib.aclosing(stream) as inside:
        assert inside is stream


async def aleft(stream: Any) -> None:
    async with stream as inside:
        assert inside is stream
        assert await anext(inside) == 0


async def aread_by_itself(stream: Any) -> None:
    await stream.until_done()


async def aentered(manager: Any) -> None:
    async with manager as stream:
        assert type(stream) is AsyncStream


ASYNC_ENDS: list[tuple[type, Callable[[Any], Awaitable[None]]]] = [
    (AsyncStream, aiterated),
    (AsyncStream, aclosed),
    (AsyncStream, aclosed_half_way),
    (AsyncStream, aleft),
    (AsyncStream, aread_by_itself),
    (AsyncLines, aiterated),
    (AsyncLines, aclosed_by_contextlib),
    (AsyncManager, aentered),
]


@pytest.mark.anyio
@terms
@pytest.mark.parametrize(
    ("kind", "end"), ASYNC_ENDS, ids=[f"{kind.__name__} {end.__name__}" for kind, end in ASYNC_ENDS]
)
async def test_an_async_one_is_held_for_until_it_has_ended(
    guard: Guard,
    meter: Meter,
    terms: dict[str, Any],
    kind: type,
    end: Callable[[Any], Awaitable[None]],
) -> None:
    """Handed out by a plain function, by an async one, or through a guarded object."""
    client = guarded(Client(), guard, {"call": terms, "acall": terms})

    async def start(result: Any) -> Any:
        return result

    for call in (guard.require_credits(**terms)(start), client.acall, client.call):
        for _ in range(2):
            async with meter:
                result = call(kind())
                if call is not client.call:
                    result = await result
                assert isinstance(result, kind)
                assert await meter.ais_open()
                await end(result)
                assert await meter.aending() == "settled"


def test_what_is_dropped_unclosed_is_kept(guard: Guard, meter: Meter) -> None:
    """Nobody knows how far it went: untouched, half read, or with an iterator of its own."""
    function = guard.require_credits(min=10, until="close")(lambda kind: kind())
    uses: list[tuple[type, Callable[[Any], Any]]] = [
        (Stream, lambda stream: None),
        (Stream, next),
        (Lines, lambda stream: next(iter(stream))),
        (Manager, lambda manager: None),
    ]
    for kind, use in uses:
        with meter:
            result = function(kind)
            use(result)
            gc.collect()
            assert meter.is_open()
            del result
            gc.collect()
            assert meter.ending() == "kept"


def test_a_block_that_raises_is_kept(guard: Guard, meter: Meter) -> None:
    """Unless the exception proves that nothing was charged, or the manager swallowed it."""

    class Forgiving(Manager):
        def __exit__(self, *_: object) -> bool:
            return True

    cases: list[tuple[type, Any, str]] = [
        (Stream, (), "kept"),
        (Manager, (), "kept"),
        (Stream, ValueError, "released"),
        (Manager, ValueError, "released"),
        (Forgiving, (), "settled"),
    ]
    for kind, release_on, ending in cases:
        function = guard.require_credits(min=10, until="close", release_on=release_on)(
            kind.__call__
        )
        with meter:
            with contextlib.suppress(ValueError), function():
                raise ValueError
            assert meter.ending() == ending


@pytest.mark.anyio
async def test_an_async_block_that_raises_is_kept(guard: Guard, meter: Meter) -> None:
    """Likewise, and also where it is cancelled."""
    for kind in (AsyncStream, AsyncManager):
        for release_on, ending in (((), "kept"), (ValueError, "released")):
            require = guard.require_credits(min=10, until="close", release_on=release_on)
            async with meter:
                with contextlib.suppress(ValueError):
                    async with require(lambda kind=kind: kind())():
                        raise ValueError
                assert await meter.aending() == ending
            async with meter:
                with anyio.CancelScope() as scope:
                    async with require(lambda kind=kind: kind())():
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                assert await meter.aending() == "kept"


def closing(stream: Any) -> None:
    with contextlib.closing(stream):
        raise ValueError


def finally_closed(stream: Any) -> None:
    try:
        raise ValueError
    finally:
        stream.close()


def closed_at_the_error(stream: Any) -> None:
    try:
        int("no number")
    except ValueError:
        stream.close()


def closed_by_itself_at_an_error(stream: Any) -> None:
    stream.parse()


class Fragile(Stream):
    """A stream that closes itself where it cannot go on."""

    def parse(self) -> None:
        try:
            raise ValueError
        finally:
            self.close()


@pytest.mark.parametrize(
    "end", [closing, finally_closed, closed_at_the_error, closed_by_itself_at_an_error]
)
def test_what_is_closed_because_something_raised_is_kept(
    guard: Guard, meter: Meter, end: Callable[[Any], None]
) -> None:
    """It was left by the exception; which may prove that nothing was charged."""
    for release_on, ending in (((), "kept"), (ValueError, "released")):
        require = guard.require_credits(min=10, until="close", release_on=release_on)
        with meter:
            stream = require(lambda: Fragile())()  # noqa: PLW0108
            with contextlib.suppress(ValueError):
                end(stream)
            assert stream.closed
            assert meter.ending() == ending


@pytest.mark.anyio
async def test_an_async_one_closed_because_something_raised_is_kept(
    guard: Guard, meter: Meter
) -> None:
    """Likewise, cancelled too."""

    async def raise_inside() -> None:
        async with contextlib.aclosing(function(AsyncLines)):
            raise ValueError

    async def cancel_inside() -> None:
        with anyio.CancelScope() as scope:
            stream = function(AsyncLines)
            try:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            finally:
                await stream.aclose()

    function = guard.require_credits(min=10, until="close")(lambda kind: kind())
    for use in (raise_inside, cancel_inside):
        async with meter:
            with contextlib.suppress(ValueError):
                await use()
            assert await meter.aending() == "kept"


def test_an_error_around_all_of_it_is_none_of_its(guard: Guard, meter: Meter) -> None:
    """A fallback that runs while another error is handled may end well."""
    function = guard.require_credits(min=10, until="close")(lambda: Stream())  # noqa: PLW0108
    with meter:
        try:
            int("no number")
        except ValueError:
            stream = function()
            next(stream)
            stream.close()
        assert meter.ending() == "settled"
    with meter:
        stream = function()
        try:
            next(iter(()))
        except StopIteration:
            stream.close()
        assert meter.ending() == "settled"


def test_a_step_that_raises_is_kept(guard: Guard, meter: Meter) -> None:
    """The connection broke off: it is not known what the provider charged."""

    class Broken(Stream):
        def __next__(self) -> int:
            raise ValueError

    for release_on, ending in (((), "kept"), (ValueError, "released")):
        require = guard.require_credits(min=10, until="close", release_on=release_on)
        with meter:
            stream = require(lambda: Broken())()  # noqa: PLW0108
            with pytest.raises(ValueError):  # noqa: PT011
                next(stream)
            assert meter.ending() == ending


@pytest.mark.anyio
async def test_a_wait_for_a_step_that_is_cancelled_is_no_end(guard: Guard, meter: Meter) -> None:
    """A connection can be waited on again after a time-out; closed right then, it is kept."""

    class Connection(AsyncStream):
        silent = True

        async def __anext__(self) -> int:
            if self.silent:
                await anyio.sleep_forever()
            return await super().__anext__()

    async def time_out(connection: Any) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(connection)

    function = guard.require_credits(min=10, until="close")(lambda: Connection())  # noqa: PLW0108
    async with meter:
        connection = function()
        await time_out(connection)
        assert await meter.ais_open()
        connection.silent = False
        assert await anext(connection) == 0
        await connection.close()
        assert await meter.aending() == "settled"
    async with meter:
        connection = function()
        await time_out(connection)
        await connection.close()
        assert await meter.aending() == "kept"


def test_a_close_that_raises_is_kept(guard: Guard, meter: Meter) -> None:
    """It is not known whether the provider received it."""

    class Stuck(Stream):
        def close(self) -> None:
            raise OSError

    function = guard.require_credits(min=10, until="close")(lambda: Stuck())  # noqa: PLW0108
    for end in (closed, left):
        with meter:
            with pytest.raises(OSError):  # noqa: PT011
                end(function())
            assert meter.ending() == "kept"


def test_actual_is_given_what_ended(guard: Guard) -> None:
    """The result itself, or what it was entered as: either knows by then what it cost."""
    guard.balance()
    require = guard.require_credits(min=10, until="close", actual=lambda stream: stream.usage)
    list(require(lambda: Stream())())  # noqa: PLW0108
    assert guard.available == 97
    with require(lambda: Manager())() as stream:  # noqa: PLW0108
        next(stream)
    assert guard.available == 96


def test_a_result_without_an_end_ends_with_the_call(guard: Guard, meter: Meter) -> None:
    """A value is there as a whole: one method may give streams and values."""

    class Model:
        """As pydantic's: it can be iterated over, and compares by what is in it."""

        def __iter__(self) -> Iterator[int]:
            yield 1

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Model)

        __hash__ = None  # type: ignore[assignment]

    function = guard.require_credits(min=10, until="close")(lambda result: result)
    for result in ("text", [1], {"a": 1}, (1,), b"bytes", None, 3, Model(), object()):
        for _ in range(2):
            with meter:
                assert function(result) is result
                assert meter.ending() == "settled"


def test_what_is_unfinished_anyway_is_followed_as_ever(guard: Guard, meter: Meter) -> None:
    """Generators to their end: closed half-way they are kept, as nothing else says what is left."""

    def steps() -> Iterator[int]:
        yield 1
        yield 2

    function = guard.require_credits(min=10, until="close")(lambda: steps())  # noqa: PLW0108
    with meter:
        assert list(function()) == [1, 2]
        assert meter.ending() == "settled"
    with meter:
        running = function()
        next(running)
        running.close()
        assert meter.ending() == "kept"


def test_a_context_manager_made_of_a_generator(guard: Guard, meter: Meter) -> None:
    """Under another decorator it is not seen for what it is: `until` says when it ends."""

    @guard.require_credits(min=10, until="close")
    @plainly
    @contextlib.contextmanager
    def session() -> Iterator[str]:
        yield "session"

    with meter:
        with session() as inside:
            assert inside == "session"
            assert meter.is_open()
        assert meter.ending() == "settled"


def test_the_result_stays_what_it_was(guard: Guard) -> None:
    """To isinstance, its attributes, comparisons and repr; and no more than it was."""
    stream = Stream()
    result = guard.require_credits(min=10, until="close")(lambda: stream)()
    assert isinstance(result, Stream)
    assert result.__class__ is Stream
    assert not isinstance(result, Awaitable | AsyncIterator)
    assert isinstance(result, Iterator)
    assert result == stream
    assert hash(result) == hash(stream)
    assert repr(result) == repr(stream)
    result.usage = 5
    assert stream.usage == 5
    result.close()
    assert stream.closed


def test_methods_of_models_are_given_the_model_itself(guard: Guard) -> None:
    """A page that can be closed may be a model too, whose own methods know nothing of an end."""

    class Model:
        def dump(self) -> type:
            return type(self)

    class Page(Model):
        def close(self) -> None:
            """Nothing is open."""

        def all(self) -> type:
            return type(self)

    class File(io.StringIO):
        def lines(self) -> type:
            return type(self)

    function = guard.require_credits(min=10, until="close")(lambda result: result)
    assert function(Page()).dump() is Page
    assert function(Page()).all() is not Page
    assert function(File()).lines() is File


@pytest.mark.parametrize("require", [require_credits, Guard.require_credits])
def test_it_is_close_or_nothing(guard: Guard, require: Any) -> None:
    """Anything else is refused at once, without showing what it was."""
    make = functools.partial(require, guard) if require is Guard.require_credits else require
    with pytest.raises(ValueError, match=r'^until takes "close" or None, not another string$'):
        make(min=1, until="sk-secret")
    with pytest.raises(TypeError, match=r'^until takes "close" or None, not bool$'):
        make(min=1, until=True)
    with pytest.raises(TypeError, match=r'^until takes "close" or None, not list$'):
        make(min=1, until=["close"])


def test_a_block_takes_no_until(guard: Guard) -> None:
    """A block has no result, nor has acquire."""
    with pytest.raises(TypeError, match="until= applies to a function's result"):
        guard.require_credits(min=1, until="close").__enter__()
    with pytest.raises(TypeError, match="until"):
        guard.acquire(1, until="close")  # type: ignore[call-arg]
    with guard.require_credits(min=1):
        pass


@pytest.mark.anyio
async def test_an_async_block_takes_no_until(guard: Guard) -> None:
    """Likewise."""
    with pytest.raises(TypeError, match="until= applies to a function's result"):
        await guard.require_credits(min=1, until="close").__aenter__()


def test_where_nobody_hands_out_a_result_it_is_refused(guard: Guard) -> None:
    """A transport's replies, a web service's requests and an agent's tools end by rules of their own."""
    terms = {"min": 1, "until": "close"}
    predev = Guard(PreDev("pdk_not_a_real_key"))
    places: list[Callable[[], Any]] = [
        lambda: GuardTransport(predev, prices={("POST", "/specs"): terms}),
        lambda: GuardMiddleware(None, guard=guard, rules={("POST", "/specs"): terms}),  # type: ignore[arg-type]
        lambda: Tools(guard, {"deep_spec": terms}),
    ]
    for place in places:
        with pytest.raises(TypeError, match="until"):
            place()


def test_a_second_call_does_not_get_the_same_credits(guard: Guard) -> None:
    """As long as ten streams are open, there is nothing left for an eleventh."""
    function = guard.require_credits(min=10, until="close")(lambda: Stream())  # noqa: PLW0108
    streams = [function() for _ in range(10)]
    with pytest.raises(InsufficientCredits):
        function()
    for stream in streams:
        list(stream)
