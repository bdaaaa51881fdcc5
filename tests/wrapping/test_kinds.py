"""Every kind of callable keeps its kind, and its hold ends as it should."""

import inspect
from typing import Any

import pytest
from kinds import KINDS, Kind, Meter, run

from budgetguard import Guard, InsufficientCredits, set_active

# Plain functions that return something to await look first here, inside the loop that will await it.
pytestmark = pytest.mark.filterwarnings("ignore:.* has to wait, which blocks the:RuntimeWarning")

every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
TESTS = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
    inspect.isfunction,
    inspect.ismethod,
    inspect.isbuiltin,
    callable,
)


def bare(function: Any) -> Any:
    """No decoration."""
    return function


def signature(function: Any) -> inspect.Signature | None:
    """The signature, None where it has none, as some builtins."""
    try:
        return inspect.signature(function)
    except ValueError:
        return None


@every
def test_results_are_those_of_the_bare_callable(guard: Guard, kind: Kind) -> None:
    """A guarded callable gives what the bare one gives, the first time and later."""
    guarded, undecorated = kind.build(guard.require_credits(min=10)), kind.build(bare)
    expected = run(kind.run, undecorated, 4)
    assert [run(kind.run, guarded, 4) for _ in range(3)] == [expected] * 3


@every
def test_the_kind_is_kept(guard: Guard, kind: Kind) -> None:
    """`inspect` reports the same about a guarded callable as about the bare one."""
    guarded, undecorated = kind.build(guard.require_credits(min=10)), kind.build(bare)
    assert [test(guarded) for test in TESTS] == [test(undecorated) for test in TESTS]
    called, called_bare = (
        inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
        for function in (guarded, undecorated)
    )
    assert called == called_bare


@every
def test_signature_and_names_are_kept(guard: Guard, kind: Kind) -> None:
    """Signature, name, qualified name, doc and module are those of the bare callable."""
    guarded, undecorated = kind.build(guard.require_credits(min=10)), kind.build(bare)
    assert signature(guarded) == signature(undecorated)
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        assert getattr(guarded, name, None) == getattr(undecorated, name, None)


@every
def test_a_call_that_returns_is_settled(guard: Guard, meter: Meter, kind: Kind) -> None:
    """The hold of a call that returns is settled, on the slow path and on the fast path."""
    guarded = kind.build(guard.require_credits(min=10))
    for x in (1, 2, 3):
        with meter:
            run(kind.run, guarded, x)
            assert meter.ending() == "settled"


@every
def test_a_call_that_raises_is_kept(guard: Guard, meter: Meter, kind: Kind) -> None:
    """The hold of a call that raises is kept, on the slow path and on the fast path."""
    guarded = kind.build(guard.require_credits(min=10))
    for x in (-1, -2, -3):
        with meter:
            with pytest.raises(ValueError, match="below zero"):
                run(kind.run, guarded, x)
            assert meter.ending() == "kept"


@every
def test_a_call_that_proves_to_be_free_is_released(guard: Guard, meter: Meter, kind: Kind) -> None:
    """What release_on names releases the hold, on the slow path and on the fast path."""
    guarded = kind.build(guard.require_credits(min=10, release_on=ValueError))
    for x in (-1, -2, -3):
        with meter:
            with pytest.raises(ValueError, match="below zero"):
                run(kind.run, guarded, x)
            assert meter.ending() == "released"


@every
def test_a_refused_call_does_not_run(guard: Guard, kind: Kind) -> None:
    """A call that needs too much is refused before anything runs, and changes nothing."""
    guarded = kind.build(guard.require_credits(min=101))
    with pytest.raises(InsufficientCredits):
        run(kind.run, guarded, 1)
    assert guard.available == 100


@every
def test_min_and_cost_are_given_the_arguments(guard: Guard, kind: Kind) -> None:
    """Callable min, cost and guard get what the call got, self or the class included."""
    seen: list[tuple[Any, ...]] = []

    def note(*args: Any, **kwargs: Any) -> int:
        seen.append((*args, kwargs))
        return 10

    guarded = kind.build(guard.require_credits(min=note, cost=note))
    run(kind.run, guarded, 7)
    given = 1 if kind.name != "property_above" else 0
    for args in seen:
        assert len(args) == given + kind.first + 1
        assert args[-1] == {}
        assert args[-2] == 7 or not given
    assert len(seen) == 2


@every
def test_actual_is_given_the_result(guard: Guard, kind: Kind) -> None:
    """What actual says is what a call cost; an async generator has no result to ask."""
    seen = []

    def actual(result: Any) -> int:
        seen.append(result)
        return 3

    require = guard.require_credits(min=10, actual=actual)
    if kind.run in {"async generator", "async block"}:
        with pytest.raises(TypeError, match="async generator"):
            kind.build(require)
        return
    guarded = kind.build(require)
    for x in (4, 5):
        run(kind.run, guarded, x)
    assert guard.available == 94
    assert seen == ([None] * 2 if kind.run == "block" else [8, 10])


@every
def test_switched_off_it_runs_as_if_undecorated(guard: Guard, kind: Kind) -> None:
    """With guards off nothing is requested or held, and no callable is called."""

    def ask(*_: Any, **__: Any) -> int:
        raise AssertionError

    settings: dict[str, Any] = (
        {} if "async" in kind.run and kind.run != "async" else {"actual": ask}
    )
    guarded = kind.build(guard.require_credits(min=ask, **settings))
    set_active(False)
    assert run(kind.run, guarded, 4) == run(kind.run, kind.build(bare), 4)
    assert guard.available is None


@every
def test_guarding_twice_holds_twice(guard: Guard, kind: Kind) -> None:
    """Two guards, one around the other, are both held, and both end."""
    once = guard.require_credits(min=10)
    guarded = kind.build(lambda function: once(once(function)))
    run(kind.run, guarded, 4)
    assert guard.available == 80
