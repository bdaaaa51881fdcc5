"""One call of a tool and the wait for it, each of which may end first."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from budgetguard import Guard
from budgetguard.integrations._tool_call import Refused, Turn

LEAVE: list[Callable[[Turn], None]] = [
    lambda turn: turn.left(),
    lambda turn: turn.over(turn.hold.release),
]


@pytest.fixture
def turn(guard: Guard) -> Turn:
    """A call that was let in, with 50 of 100 credits."""
    return Turn(guard.acquire(50))


def fails() -> None:
    """Break at work."""
    raise OSError


@pytest.mark.parametrize("leave", LEAVE)
def test_what_nobody_waits_for_does_not_begin(
    guard: Guard, turn: Turn, leave: Callable[[Turn], None]
) -> None:
    """As of a thread that was queued when the wait ended: its credits are given back, and it not run."""
    ran: list[str] = []
    leave(turn)
    assert (turn.hold.state, guard.available) == ("released", 100)
    with pytest.raises(
        RuntimeError, match="does not run: its caller stopped waiting before it began"
    ):
        turn.run(ran.append, "x")
    assert ran == []


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize(("body", "state"), [(str, "settled"), (fails, "kept")])
def test_a_body_that_is_left_ends_its_hold(
    turn: Turn, leave: Callable[[Turn], None], body: Any, state: str
) -> None:
    """And nobody before it."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(20)
        body()

    def run() -> None:
        with contextlib.suppress(OSError):
            turn.run(work)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(20)
    leave(turn)
    assert turn.hold.state == "open"
    go_on.set()
    thread.join(20)
    assert turn.hold.state == state


def test_a_body_that_has_returned_cost_what_was_held(turn: Turn) -> None:
    """Unless whoever leaves knows better."""
    turn.run(str)
    assert turn.hold.state == "open"
    turn.left()
    assert turn.hold.state == "settled"


def test_who_leaves_may_know_better(turn: Turn) -> None:
    """As where what came after the body says that it did not end well."""
    turn.run(str)
    turn.left(returned=turn.hold.keep)
    assert turn.hold.state == "kept"


@pytest.mark.parametrize("awaited", [False, True])
def test_a_body_that_raises_is_heard(turn: Turn, *, awaited: bool) -> None:
    """Whatever was made of that afterwards, and though it raises before there is anything to await."""
    with pytest.raises(OSError):  # noqa: PT011
        asyncio.run(turn.arun(fails)) if awaited else turn.run(fails)  # type: ignore[arg-type,func-returns-value]
    turn.over(turn.hold.settle)
    assert turn.hold.state == "kept"


def test_what_is_begun_again_ends_as_it_ends_at_last(turn: Turn) -> None:
    """One hold for all that is tried around the body."""
    with pytest.raises(OSError):  # noqa: PT011
        turn.run(fails)
    turn.run(str)
    turn.over(turn.hold.settle)
    assert turn.hold.state == "settled"


def test_a_body_that_another_guard_kept_out_costs_nothing(guard: Guard, turn: Turn) -> None:
    """It is within this one, and let nothing run."""

    def refuse() -> None:
        raise Refused(OSError())

    with pytest.raises(Refused):
        turn.run(refuse)
    turn.left()
    assert guard.available == 100


def test_what_a_plain_body_gives_back_to_be_awaited_is_its_work(turn: Turn) -> None:
    """It finishes when that has been awaited."""

    async def later() -> str:
        assert turn.hold.state == "open"
        raise OSError

    async def run() -> None:
        await turn.run(later)

    with pytest.raises(OSError):  # noqa: PT011
        asyncio.run(run())
    turn.left()
    assert turn.hold.state == "kept"
