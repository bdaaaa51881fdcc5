"""Test suites make a loop for each test: a guard of the module outlives them all."""

import unittest

import pytest

from budgetguard import Guard
from budgetguard.testing import FakeProvider

GUARD = Guard(FakeProvider(10**6, lag=0), recheck_after=0)


@GUARD.require_credits(min=1)
async def work() -> str:
    """Cost one credit."""
    return "done"


async def use() -> None:
    """Calls that are decided at once, and some that wait for a look, and for each other."""
    assert await work() == "done"
    assert (await GUARD.abalance(max_age=0)).credits == 10**6
    async with GUARD.require_credits(min=lambda: 10**6 - 10, wait=60) as hold:
        assert GUARD.available is not None
        assert GUARD.available < 11
        hold.release()


@pytest.mark.anyio
@pytest.mark.parametrize("turn", range(20))
async def test_a_loop_for_each_test(turn: int) -> None:
    """Asyncio and trio in turn, by a plugin."""
    await use()


class LoopForEach(unittest.IsolatedAsyncioTestCase):
    """By unittest's own."""

    async def test_first(self) -> None:
        """A loop."""
        await use()

    async def test_second(self) -> None:
        """And another."""
        await use()
