"""A call that was not approved is refused like any other: `on_refusal` supplies its result."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from budgetguard import ApprovalDenied, Guard
from budgetguard.testing import FakeProvider

pytestmark = pytest.mark.anyio


@pytest.fixture
def guarded() -> Any:
    """A decorator for calls that nobody approves."""
    guard = Guard(FakeProvider(100))
    return guard.require_credits(
        50, approve=lambda _: False, on_refusal=lambda error, *_: [type(error).__name__]
    )


def test_a_function(guarded: Any) -> None:
    """It returns what was supplied."""

    def work() -> list[str]:
        raise AssertionError

    assert guarded(work)() == [ApprovalDenied.__name__]


async def test_a_coroutine_function(guarded: Any) -> None:
    """Likewise."""

    async def work() -> list[str]:
        raise AssertionError

    assert await guarded(work)() == [ApprovalDenied.__name__]


def test_a_generator(guarded: Any) -> None:
    """It yields what was supplied."""

    def work() -> Iterator[str]:
        raise AssertionError
        yield ""

    assert list(guarded(work)()) == [ApprovalDenied.__name__]


async def test_an_async_generator(guarded: Any) -> None:
    """Likewise."""

    async def work() -> AsyncIterator[str]:
        raise AssertionError
        yield ""

    assert [item async for item in guarded(work)()] == [ApprovalDenied.__name__]
