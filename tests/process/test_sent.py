"""Guarded functions that are sent to other processes: by name, by value, or not at all but with a reason."""

import asyncio
import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest
from interpreter import STRICT, Script

from budgetguard import Guard, GuardPool, InsufficientCredits, require_credits, set_default_guard
from budgetguard.testing import FakeProvider

WHY_NOT = r"The guard of fake cannot be pickled: .* use budgetguard\.require_credits\(\.\.\.\)"


class Spec:
    """A callable object."""

    def __call__(self, number: int) -> int:
        return 2 * number


def kinds(guarded: Any) -> dict[str, Callable[[int], object]]:
    """One guarded function of each kind, none of which can be imported by its name; 2 x 4 comes of it."""

    @guarded(min=30)
    def plain(number: int) -> int:
        return 2 * number

    @guarded(min=30, actual=lambda result: result)
    def told(number: int) -> int:
        return 2 * number

    @guarded(min=lambda number: number)
    def dynamic(number: int) -> int:
        return 2 * number

    @guarded(min=30)
    async def coroutine(number: int) -> int:
        return 2 * number

    @guarded(min=30)
    def generator(number: int) -> Iterator[int]:
        yield 2 * number

    @guarded(min=30)
    async def async_generator(number: int) -> Any:
        yield 2 * number

    class Client:
        @guarded(min=30)
        def method(self, number: int) -> int:
            return 2 * number

        @classmethod
        @guarded(min=30)
        def of_class(cls, number: int) -> int:
            return 2 * number

    return {
        "plain": plain,
        "told": told,
        "dynamic": dynamic,
        "coroutine": coroutine,
        "generator": generator,
        "async generator": async_generator,
        "method": Client().method,
        "classmethod": Client.of_class,
        "partial": guarded(min=30)(functools.partial(plain.__wrapped__)),
        "object": guarded(min=30)(Spec()),
    }


KINDS = list(kinds(require_credits))


def called(function: Callable[[int], Any]) -> int:
    """What comes of a call of any kind."""
    result = function(4)
    if hasattr(result, "__await__"):
        return asyncio.run(result)
    if hasattr(result, "__anext__"):
        return asyncio.run(anext(result))
    return next(result) if hasattr(result, "__next__") else result


@pytest.mark.parametrize("kind", KINDS)
def test_cloudpickle_sends_what_finds_its_guard_where_it_is_called(kind: str) -> None:
    """Made anew of its value it is guarded still, by the default guard of where it is."""
    data = cloudpickle.dumps(kinds(require_credits)[kind])
    provider = FakeProvider(50)
    set_default_guard(Guard(provider))
    function = cloudpickle.loads(data)
    assert called(function) == 8
    assert provider.requests == 1
    set_default_guard(Guard(FakeProvider(3)))
    with pytest.raises(InsufficientCredits):
        called(function)


@pytest.mark.parametrize("kind", KINDS)
def test_what_took_the_fast_path_before_is_sent_as_well(kind: str) -> None:
    """What it learned of a guard remains behind, lock and all."""
    set_default_guard(Guard(FakeProvider(1000)))
    function = kinds(require_credits)[kind]
    for _ in range(3):
        called(function)
    again = cloudpickle.loads(cloudpickle.dumps(function))
    set_default_guard(Guard(FakeProvider(3)))
    with pytest.raises(InsufficientCredits):
        called(again)


@pytest.mark.parametrize("kind", KINDS)
def test_cloudpickle_is_told_why_a_guard_cannot_be_sent(kind: str) -> None:
    """With what to write instead; not that it cannot pickle some lock."""
    function = kinds(Guard(FakeProvider(100)).require_credits)[kind]
    with pytest.raises(TypeError, match=WHY_NOT):
        cloudpickle.dumps(function)
    assert called(function) == 8


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_what_holds_a_guard_says_why_it_cannot_be_sent(dumps: Callable[[object], bytes]) -> None:
    """Guards, what they make, and pools of them."""
    guard = Guard(FakeProvider(100))
    for what in (guard, [guard], guard.require_credits(min=1), functools.partial(guard.acquire, 1)):
        with pytest.raises(TypeError, match=WHY_NOT):
            dumps(what)
    with pytest.raises(TypeError, match="A GuardPool cannot be copied or pickled"):
        dumps(GuardPool(lambda _: guard))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_guard_is_that_guard(duplicate: Callable[[Any], Any]) -> None:
    """What is copied with a guard in it spends from the same account."""
    guard = Guard(FakeProvider(100))
    assert duplicate(guard) is guard
    with duplicate(guard.require_credits(min=30)):
        assert guard.available == 70


JOBLIB = """
from joblib import Parallel, delayed
from budgetguard import Guard, InsufficientCredits, require_credits
from budgetguard.testing import FakeProvider

def at_work(*_):
    return Guard(FakeProvider(100))
"""


def test_joblib_runs_guarded_functions(script: Script) -> None:
    """In its own processes, where each finds a guard; a refusal comes back with its figures."""
    said = script(
        JOBLIB
        + """
@require_credits(min=lambda number: number, guard=at_work)
def call(number):
    return 2 * number

if __name__ == "__main__":
    print(Parallel(n_jobs=2)(delayed(call)(number) for number in range(4)))
    try:
        Parallel(n_jobs=2)(delayed(call)(number) for number in (1, 101))
    except InsufficientCredits as error:
        print(error.needed, error.available, error.retryable)
""",
        flags=STRICT[:2],
    )
    assert said == "[0, 2, 4, 6]\n101 100 False"


def test_joblib_is_told_why_a_guard_cannot_be_sent(script: Script) -> None:
    """In the traceback of its own error."""
    said = script(
        JOBLIB
        + """
import traceback

@at_work().require_credits(min=10)
def call(number):
    return 2 * number

if __name__ == "__main__":
    try:
        Parallel(n_jobs=2)(delayed(call)(number) for number in range(4))
    except Exception:
        print(traceback.format_exc())
""",
        flags=STRICT[:2],
    )
    assert "The guard of fake cannot be pickled: " in said
