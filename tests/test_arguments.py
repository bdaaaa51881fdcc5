"""What cannot be is refused where it is written, with words that say what would do."""

import logging
from typing import Any

import pytest

from budgetguard import Guard, require_credits
from budgetguard._engine.binding import binding_of
from budgetguard.stores import SQLiteStore
from budgetguard.testing import FakeProvider


@pytest.mark.parametrize(
    ("terms", "error", "words"),
    [
        ({"store": "redis"}, TypeError, "not str. Pass a path to the store: store="),
        ({"store": SQLiteStore}, TypeError, "not the class SQLiteStore. Pass a path"),
        ({"fresh_for": -1}, ValueError, "fresh_for must be at least 0"),
        ({"fresh_for": "5"}, TypeError, "fresh_for takes a number of seconds"),
        ({"fresh_for": 100, "stale_for": 50}, ValueError, "less than fresh_for \\(100\\)"),
        ({"fresh_for": 900, "stale_for": 600}, ValueError, "less than fresh_for \\(900\\)"),
        ({"stale_for": 60}, ValueError, "less than fresh_for \\(300, its default\\).*Lower"),
        ({"stale_for": 60.0, "fresh_for": 300}, ValueError, "less than fresh_for \\(300\\)"),
        ({"timeout": 0}, ValueError, "timeout must be above 0"),
        ({"hold_for": 0}, ValueError, "hold_for must be above 0"),
        ({"lag": float("nan")}, ValueError, "lag"),
        ({"floor": -1}, ValueError, "floor must not be negative"),
        ({"floor": True}, TypeError, "floor takes an int, float, Decimal or str"),
        ({"sole_spender": "yes"}, ValueError, '"auto", True or False, not another string'),
        ({"sole_spender": 1}, TypeError, '"auto", True or False, not int'),
        ({"if_unknown": "maybe"}, ValueError, "if_unknown must be 'deny' or 'allow'"),
        ({"mode": "strict"}, ValueError, "mode must be 'enforce' or 'observe'"),
        ({"on_event": "print"}, TypeError, "on_event takes a callable"),
        ({"alert_below": "many"}, ValueError, "alert_below is not a number"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_terms_of_a_guard(terms: dict[str, Any], error: type[Exception], words: str) -> None:
    """A guard's terms are checked when it is made."""
    with pytest.raises(error, match=words):
        Guard(FakeProvider(), **terms)


@pytest.mark.parametrize(
    ("needs", "error", "words"),
    [
        ({}, TypeError, "at least one of min, cost and slots"),
        ({"min": -1}, ValueError, "min must not be negative"),
        ({"cost": "x"}, ValueError, "cost is not a number"),
        ({"slots": -1}, ValueError, "slots must not be negative"),
        ({"slots": True}, TypeError, "slots takes an int"),
        ({"slots": 1.5}, TypeError, "slots takes an int"),
        ({"min": 1, "actual": 3}, TypeError, "actual takes a callable"),
        ({"min": 1, "wait": -1}, ValueError, "wait must be at least 0"),
        ({"min": 1, "lag": "1"}, TypeError, "lag takes a number of seconds"),
        ({"min": 1, "release_on": "OSError"}, TypeError, "release_on takes exception types"),
        ({"min": 1, "name": 7}, TypeError, "name takes a str"),
        ({"min": 1, "name": ""}, ValueError, "name is empty"),
        ({"min": 1, "guard": 7}, TypeError, "guard takes a Guard or a callable"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_needs_of_a_call(needs: dict[str, Any], error: type[Exception], words: str) -> None:
    """A call's needs are checked at decoration."""
    with pytest.raises(error, match=words):
        require_credits(**needs)


@pytest.mark.parametrize(
    ("terms", "ages"),
    [
        ({"fresh_for": 900}, (900, 900)),
        ({"fresh_for": 10, "stale_for": 20}, (10, 20)),
    ],
)
def test_the_age_at_its_default_gives_way(
    terms: dict[str, float], ages: tuple[float, float]
) -> None:
    """A caller that passes one of the two ages does not have to pass the other."""
    asked = binding_of(Guard(FakeProvider(), **terms)).subscriber.terms
    assert (asked.fresh_for, asked.stale_for) == ages


def test_a_guard_callable_has_to_return_a_guard() -> None:
    """What else it returns is named."""
    function = require_credits(min=1, guard=lambda: 7)(lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="must return a Guard, not int"):
        function()


@pytest.mark.parametrize("terms", [{"lag": 1}, {"linger": 1}, {"lag": 1, "linger": 0}])
@pytest.mark.parametrize("needs", [{"min": 5, "cost": 0}, {"min": 0}, {"min": len, "cost": 0}])
def test_terms_of_a_hold_where_there_is_none(terms: dict[str, Any], needs: dict[str, Any]) -> None:
    """A call that only checks leaves nothing behind that could be charged late."""
    guard = Guard(FakeProvider())
    require = guard.require_credits(**needs, **terms)
    with pytest.raises(
        TypeError, match=f"^{next(iter(terms))}= .*no effect on a call that holds nothing"
    ):
        require(lambda: None)
    for more in ({"actual": len}, {"slots": 1}):
        guard.require_credits(**needs, **terms, **more)(lambda: None)
    if not callable(needs["min"]):
        with require as hold:  # it may be settled at more
            hold.settle(3)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the library logged as a warning."""
    mine = [each for each in caplog.records if each.name == "budgetguard"]
    return [each.getMessage() for each in mine if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("limit", [None, 3])
def test_slots_without_a_limit(caplog: pytest.LogCaptureFixture, limit: int | None) -> None:
    """Said once for a guard, whichever call takes them; nothing where there is a limit."""
    guard = Guard(FakeProvider(max_concurrency=limit))

    @guard.require_credits(slots=1, name="decorated")
    def function() -> None:
        """Take a slot."""

    function()
    function()
    with guard.require_credits(slots=2):
        guard.acquire(slots=1).settle()
    words = "decorated takes slots, but fake reports no limit on concurrent sessions, so none is enforced"
    assert said(caplog) == ([words] if limit is None else [])


@pytest.mark.anyio
async def test_slots_without_a_limit_awaiting(caplog: pytest.LogCaptureFixture) -> None:
    """The same for code that awaits."""
    guard = Guard(FakeProvider())
    async with guard.require_credits(slots=1, name="block"):
        (await guard.aacquire(slots=1)).settle()
    assert [line.partition(" ")[0] for line in said(caplog)] == ["block"]


def test_waiting_while_observing(caplog: pytest.LogCaptureFixture) -> None:
    """It never does; one line in the log."""
    caplog.set_level(logging.INFO, logger="budgetguard")
    for mode in ("enforce", "observe"):
        guard = Guard(FakeProvider(), mode=mode)  # type: ignore[arg-type]
        for _ in range(2):
            guard.acquire(1, wait=5, name=mode).settle()
    lines = [each.getMessage() for each in caplog.records if "wait" in each.getMessage()]
    assert lines == ["observe passes wait=, which observe mode ignores"]


def test_hold_for_without_a_store(caplog: pytest.LogCaptureFixture) -> None:
    """It is said where it was given."""
    Guard(FakeProvider())
    assert said(caplog) == []
    Guard(FakeProvider(), hold_for=60)
    assert said(caplog) == [
        "hold_for has no effect: it applies to stores of several machines, and none is used"
    ]


def test_a_mark_that_nobody_would_hear_of(caplog: pytest.LogCaptureFixture) -> None:
    """Without a listener a log line reports that less is available; with one, an event does."""
    guard = Guard(FakeProvider(100), alert_below=30)
    guard.acquire(60).settle()
    assert said(caplog) == []
    guard.acquire(15).settle()
    assert said(caplog) == ["Less than 30 credits are available at fake: 25"]
    events: list[Any] = []
    heard = Guard(FakeProvider(100), alert_below=30, on_event=events.append)
    heard.acquire(75).settle()
    assert [event.kind for event in events].count("low") == len(said(caplog)) == 1
