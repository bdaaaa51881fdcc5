"""One call guarded at two places holds twice; a debug line says so."""

import logging
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.lowlevel
import httpx
import pytest

from budgetguard import Guard
from budgetguard.testing import FakeProvider
from budgetguard.transport import GuardTransport


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of calls inside calls."""
    return [record.getMessage() for record in caplog.records if "held twice" in record.msg]


def test_a_call_inside_a_call_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """The inner one names the outer one, however often both are called."""
    guard = Guard(FakeProvider(100))
    inner = guard.require_credits(min=1, name="transport")(lambda: guard.available)
    outer = guard.require_credits(min=1, name="decorator")(inner)
    with caplog.at_level(logging.DEBUG, logger="budgetguard"):
        assert outer() == 98
        assert outer() == 96
    assert len(lines(caplog)) == 2
    assert lines(caplog)[0].startswith(
        "transport holds credits inside decorator, which holds credits too"
    )


def test_calls_one_after_the_other_are_not(caplog: pytest.LogCaptureFixture) -> None:
    """Nor are calls of two accounts, one in the other."""
    guard, other = Guard(FakeProvider(100)), Guard(FakeProvider(100))
    with caplog.at_level(logging.DEBUG, logger="budgetguard"):
        guard.acquire(1).settle()
        with guard.require_credits(min=1), other.require_credits(min=1):
            pass
    assert not lines(caplog)


def silent(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether nothing was said of calls inside calls."""
    return not lines(caplog)


@pytest.fixture
def roomy(caplog: pytest.LogCaptureFixture) -> Iterator[Guard]:
    """Give a guard with room for many, and listen."""
    guard = Guard(FakeProvider(1000))
    guard.balance()
    with caplog.at_level(logging.DEBUG, logger="budgetguard"):
        yield guard


def test_holds_side_by_side_are_not(roomy: Guard, caplog: pytest.LogCaptureFixture) -> None:
    """However many are open in one context: none is around the next."""
    for hold in [roomy.acquire(1) for _ in range(50)]:
        hold.settle()
    assert silent(caplog)


@pytest.mark.anyio
async def test_work_side_by_side_is_not(roomy: Guard, caplog: pytest.LogCaptureFixture) -> None:
    """Nor coroutines that are made first and run later, nor generators taken in turns."""
    holds = [await roomy.aacquire(1) for _ in range(50)]
    later = roomy.require_credits(1)(anyio.lowlevel.checkpoint)
    awaited = [later() for _ in range(50)]

    @roomy.require_credits(1)
    def steps() -> Iterator[int]:
        yield from range(3)

    @roomy.require_credits(1)
    async def asteps() -> AsyncIterator[int]:
        for each in range(3):
            yield each

    assert list(zip(steps(), steps(), strict=True)) == [(0, 0), (1, 1), (2, 2)]
    first, second = asteps(), asteps()
    assert [await anext(each) for each in (first, second)] == [0, 0]
    await first.aclose()
    await second.aclose()
    for each in awaited:
        await each
    for hold in holds:
        hold.settle()
    assert silent(caplog)


@pytest.mark.anyio
async def test_tasks_side_by_side_are_not(roomy: Guard, caplog: pytest.LogCaptureFixture) -> None:
    """Each is in a context of its own."""
    inside = anyio.Event()
    running: list[int] = []

    @roomy.require_credits(1)
    async def work() -> None:
        running.append(1)
        if len(running) == 10:
            inside.set()
        await inside.wait()

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(work)
    assert silent(caplog)


def test_the_second_call_inside_is_told_of_too(
    roomy: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """What ended inside does not hide what is around."""
    inner = roomy.require_credits(1, name="inner")(lambda: None)

    @roomy.require_credits(1, name="outer")
    def outer() -> None:
        inner()
        roomy.acquire(1, name="acquired")
        inner()

    outer()
    assert [line.partition(",")[0] for line in lines(caplog)] == [
        "inner holds credits inside outer",
        "acquired holds credits inside outer",
        "inner holds credits inside outer",
    ]


@pytest.mark.anyio
async def test_in_a_block_and_in_a_coroutine(
    roomy: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """There it is inside, and after it no more."""

    @roomy.require_credits(1, name="coroutine")
    async def coroutine() -> None:
        roomy.acquire(1).settle()

    async with roomy.require_credits(1, name="block"):
        await coroutine()
    await coroutine()
    outers = [line.split(" inside ")[1].partition(",")[0] for line in lines(caplog)]
    assert outers == ["block", "coroutine", "coroutine"]


def test_replies_that_are_read_later_are_not(
    roomy: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream may be read while another request is made; a request inside a call is logged."""
    behind = httpx.MockTransport(lambda _: httpx.Response(200, content=iter([b"x"])))
    transport = GuardTransport(
        roomy, transport=behind, prices={("GET", "/a"): 1}, base_url="https://a.example"
    )
    with httpx.Client(transport=transport) as client:
        with client.stream("GET", "https://a.example/a"):
            client.get("https://a.example/a")
        assert silent(caplog)
        roomy.require_credits(1, name="around")(lambda: client.get("https://a.example/a"))()
    assert "GET /a holds credits inside around" in lines(caplog)[0]
