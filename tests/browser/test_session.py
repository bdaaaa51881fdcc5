"""A browser session is paid for before it is opened, and ended on every way out."""

import asyncio
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anyio
import httpx
import pytest
from anchorbrowser import APIConnectionError, APIStatusError, APITimeoutError, DefaultHttpxClient

from budgetguard import (
    AnchorBrowser,
    ConcurrencyLimit,
    Event,
    Guard,
    InsufficientCredits,
    PreDev,
    set_active,
)
from budgetguard._engine.binding import binding_of
from budgetguard.browser import Patience, areap, browser_session, reap
from budgetguard.integrations.anchorbrowser import guarded
from budgetguard.testing.sandbox import BROWSER_CREATED, BROWSER_MINUTE

MINUTES = 5
HELD = AnchorBrowser.BROWSER + AnchorBrowser.BROWSER_HOUR * (MINUTES + 1) / 60
SESSION = "/v1/sessions/session-000002"  # the first after the foreign one
FAULTS = [
    {"status": 500, "times": 3},
    {"status": 429, "times": 4},
    {"reset": True, "times": 2},
    {"hang": True, "times": 1},
    {"body": b"{", "status": 502, "times": 1},
]


def open_one(scene: Any, **options: Any) -> Any:
    """Open a session with the scene's client, guard, journal and patience."""
    given = {"journal": scene.journal, "patience": scene.patience, "name": "visit"} | options
    return browser_session(scene.client, scene.guard, MINUTES, **given)


def aopen_one(scene: Any, client: Any, **options: Any) -> Any:
    """Do the same with an async client."""
    given = {"journal": scene.journal, "patience": scene.patience} | options
    return browser_session(client, scene.guard, MINUTES, **given)


def test_from_request_to_end(scene: Any) -> None:
    """Credits, slot, longest life, tag and journal while it is open; nothing but its cost after."""
    before = scene.guard.balance().credits
    with open_one(scene, session={"tags": ["mine"], "timeout": {"idle_timeout": -1}}) as session:
        assert session.hold.amount == HELD == before - scene.guard.available
        assert (session.hold.slots, session.hold.operation) == (1, "visit")
        assert session.cdp_url.startswith("ws://")
        assert session.live_view_url.startswith("http://")
        assert session.data.id == session.id
        assert session.cdp_url not in repr(session)
        asked = scene.client.sessions.get_session(session.id).data.configuration["session"]
        [mine, tag] = asked["tags"]
        assert (mine, asked["timeout"]) == ("mine", {"max_duration": MINUTES, "idle_timeout": -1})
        [file] = scene.files
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(scene.journal.folder.stat().st_mode) == 0o700
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert lines[0]["tag"] == tag
        assert lines[1] == {"session": session.id}
        assert scene.sandbox.anchor_key not in file.read_text()
        scene.elapse(150)
    used = BROWSER_CREATED + 3 * BROWSER_MINUTE
    assert scene.own == {session.id: "finished"}
    assert (session.hold.state, scene.guard.available) == ("settled", before - used)
    assert (scene.files, scene.waits.pauses, scene.deletions) == ([], [], 1)


@pytest.mark.anyio
async def test_from_request_to_end_async(scene: Any) -> None:
    """The same for code that awaits."""
    before = (await scene.guard.abalance()).credits
    async with scene.new_async_client() as client, aopen_one(scene, client) as session:
        assert session.hold.amount == HELD == before - scene.guard.available
        assert len(scene.files) == 1
        assert await session.arefresh() == BROWSER_CREATED + BROWSER_MINUTE
    assert scene.own == {session.id: "finished"}
    assert session.hold.state == "settled"
    assert scene.guard.available == before - BROWSER_CREATED - BROWSER_MINUTE
    assert (scene.files, scene.deletions) == ([], 1)


def test_refused_before_anything_is_sent(open_scene: Callable[..., Any]) -> None:
    """Without the credits or the slot nothing is asked for and nothing written down."""
    poor = open_scene(float(HELD))
    with pytest.raises(InsufficientCredits, match=r"visit needs 0\.015 credits"), open_one(poor):
        raise AssertionError
    assert (poor.creations, poor.files) == (0, [])
    crowded = open_scene(1, max_concurrent_browsers=3)
    with open_one(crowded, slots=2) as session:
        assert session.hold.slots == 2
        with pytest.raises(ConcurrencyLimit), open_one(crowded, slots=2):
            raise AssertionError
    assert (crowded.creations, crowded.files) == (1, [])


def test_the_guard_is_not_asked_for_more_than_the_provider_lets_run(scene: Any) -> None:
    """The held credits pay for a session that nobody closes, to its last minute."""
    with open_one(scene) as session:
        scene.elapse(3600)
        assert scene.own == {session.id: "finished"}
    assert BROWSER_CREATED + MINUTES * BROWSER_MINUTE <= HELD
    assert scene.sandbox.anchor.operations[session.id].charged <= HELD
    assert session.hold.state == "settled"


def waiting_for(scene: Any, fault: dict[str, Any]) -> Patience:
    """Patience that is short only where an answer never comes."""
    return scene.waits.patience(each=0.5 if fault.get("hang") else 10)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_deletion_is_tried_again(scene: Any, fault: dict[str, Any]) -> None:
    """What goes wrong on the wire does not leave a session open, nor hides what the block raised."""
    patience = waiting_for(scene, fault)
    with pytest.raises(ZeroDivisionError), open_one(scene, patience=patience) as session:
        scene.sandbox.fault(SESSION, method="DELETE", **fault)
        raise ZeroDivisionError
    assert scene.own == {session.id: "finished"}
    assert (session.hold.state, scene.files) == ("settled", [])
    # On a busy machine, an answer that only was slow may have been given up as well.
    times = fault["times"]
    assert scene.waits.pauses[:times] == [0.5 * 2**n for n in range(times)]
    assert fault.get("hang") or len(scene.waits.pauses) == times


@pytest.mark.anyio
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_the_deletion_is_tried_again_async(scene: Any, fault: dict[str, Any]) -> None:
    """The same for code that awaits."""
    patience = waiting_for(scene, fault)
    async with scene.new_async_client() as client:
        with pytest.raises(ZeroDivisionError):
            async with aopen_one(scene, client, patience=patience) as session:
                scene.sandbox.fault(SESSION, method="DELETE", **fault)
                raise ZeroDivisionError
    assert scene.own == {session.id: "finished"}
    assert (session.hold.state, scene.files) == ("settled", [])
    # On a busy machine, an answer that only was slow may have been given up as well.
    times = fault["times"]
    assert scene.waits.pauses[:times] == [0.5 * 2**n for n in range(times)]
    assert fault.get("hang") or len(scene.waits.pauses) == times


@pytest.mark.anyio
async def test_a_dripping_answer_is_not_waited_for(scene: Any) -> None:
    """Async code keeps to the time of a request also where every byte is in time."""
    patience = scene.waits.patience(each=0.2)
    async with scene.new_async_client() as client, aopen_one(scene, client, patience=patience):
        scene.sandbox.fault(SESSION, method="DELETE", drip=0.1, times=1)
    assert set(scene.own.values()) == {"finished"}
    assert scene.files == []


DRIP = {"method": "GET", "drip": 0.05}  # each byte long before `each`, the last of them long after


def test_no_answer_is_waited_for_byte_by_byte(scene: Any) -> None:
    """Plain code, too, gives an answer up that is not whole in time, and asks again."""
    with open_one(scene, patience=scene.waits.patience(each=1)):
        scene.sandbox.fault(SESSION, times=1, **DRIP)
    assert (scene.files, scene.waits.pauses) == ([], [0.5])
    assert scene.sandbox.requests["GET", "/v1/sessions/{session_id}"] == 2


@pytest.mark.anyio
async def test_a_refresh_that_drips(scene: Any) -> None:
    """It is given up after the same time, by plain code and by code that awaits; the block goes on."""
    await scene.guard.abalance()
    patience = scene.waits.patience(each=1)
    scene.sandbox.fault(SESSION, times=1, **DRIP)
    with open_one(scene, patience=patience) as session:
        with pytest.raises(TimeoutError, match="no complete answer came within 1 s"):
            session.refresh()
        assert session.refresh() == BROWSER_CREATED + BROWSER_MINUTE
    async with (
        scene.new_async_client() as client,
        aopen_one(scene, client, patience=patience) as one,
    ):
        scene.sandbox.fault(f"/v1/sessions/{one.id}", times=1, **DRIP)
        with pytest.raises(TimeoutError, match="no complete answer came within 1 s"):
            await one.arefresh()
        assert await one.arefresh() == BROWSER_CREATED + BROWSER_MINUTE


def test_no_more_threads(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be started, as at the interpreter's end, sessions end all the same."""

    def none(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    with open_one(scene) as session:
        monkeypatch.setattr(threading.Thread, "start", none)
        assert session.refresh() == BROWSER_CREATED + BROWSER_MINUTE
    assert (scene.own, scene.files) == ({session.id: "finished"}, [])


def test_the_deadline_ends_the_tries(scene: Any) -> None:
    """No pause goes beyond the time there is."""
    scene.sandbox.fault(SESSION, method="DELETE", status=500)
    with open_one(scene, patience=scene.waits.patience(tries=99, within=10)):
        pass
    assert scene.waits.pauses == [0.5, 1, 2, 4]


@pytest.mark.parametrize("raised", [None, ZeroDivisionError])
def test_an_end_that_is_not_confirmed(
    scene: Any, raised: type[Exception] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, credits and slot remain held, the id remains recorded, and a reap finds it."""
    before = scene.guard.balance().credits
    scene.sandbox.fault(SESSION, method="DELETE", status=500, times=5)

    def visit() -> Any:
        with open_one(scene) as session:
            if raised is not None:
                raise raised
        return session

    if raised is None:
        assert visit().hold.state == "kept"
    else:
        with pytest.raises(raised):
            visit()
    assert scene.own == {"session-000002": "running"}
    assert scene.guard.available == before - HELD
    assert len(scene.files) == 1
    kept, record = (each for each in caplog.records if each.levelno == logging.WARNING)
    assert kept.getMessage().startswith(
        "The cost of visit is not known. The guard counts 0.015 credits and 1 "
    )
    assert "session-000002 is not confirmed gone" in record.getMessage()
    assert "call reap(client, journal)" in record.getMessage()
    assert scene.sandbox.anchor_key not in record.getMessage()
    reaped = reap(scene.client, scene.journal, patience=scene.patience)
    assert (reaped.gone, reaped.living, scene.files) == (("session-000002",), 0, [])
    assert scene.own == {"session-000002": "finished"}


def test_without_a_journal_the_warning_says_what_to_do(
    scene: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal is optional, and then the id is in the log."""
    scene.sandbox.fault(SESSION, method="DELETE", status=401)
    with open_one(scene, journal=None):
        assert scene.files == []
    assert scene.deletions == 1
    assert "call delete_session('session-000002')" in caplog.text


def test_a_success_that_was_none(scene: Any) -> None:
    """A session that runs on after its deletion was accepted is deleted again."""
    scene.sandbox.fault(SESSION, method="DELETE", body={"data": {"status": "success"}}, times=2)
    with open_one(scene) as session:
        pass
    assert (scene.own, scene.deletions) == ({session.id: "finished"}, 3)
    assert scene.files == []


def test_a_success_that_is_never_seen(scene: Any) -> None:
    """A session that goes on running is not forgotten, and its hold not settled."""
    scene.sandbox.fault(SESSION, method="DELETE", body={"data": {"status": "success"}})
    with open_one(scene) as session:
        pass
    assert (session.hold.state, len(scene.files)) == ("kept", 1)


def test_gone_already(scene: Any) -> None:
    """Where the provider knows the session no more, it is gone."""
    with open_one(scene) as session:
        scene.sandbox.fault(SESSION, status=404)
    assert (session.hold.state, scene.files, scene.deletions) == ("settled", [], 1)


LIFE = 60 * MINUTES
USED_UP = BROWSER_CREATED + MINUTES * BROWSER_MINUTE


@pytest.mark.parametrize("status", [400, 404, 409, 410, 422, 500])
def test_ended_by_itself(scene: Any, status: int) -> None:
    """What the provider calls completed is gone, whatever it says to a deletion of it."""
    before = scene.guard.balance().credits
    with open_one(scene) as session:
        scene.sandbox.fault(SESSION, method="DELETE", status=status)
        scene.elapse(LIFE)
    assert scene.own == {session.id: "finished"}
    assert (session.hold.state, scene.files, scene.waits.pauses) == ("settled", [], [])
    assert scene.guard.available == before - USED_UP
    assert binding_of(scene.guard).account.ledger.slots_in_use == 0


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 409, 410, 422, 500])
async def test_ended_by_itself_async(scene: Any, status: int) -> None:
    """The same for code that awaits."""
    before = (await scene.guard.abalance()).credits
    async with scene.new_async_client() as client, aopen_one(scene, client) as session:
        scene.sandbox.fault(SESSION, method="DELETE", status=status)
        scene.elapse(LIFE)
    assert (session.hold.state, scene.files, scene.waits.pauses) == ("settled", [], [])
    assert scene.guard.available == before - USED_UP
    assert binding_of(scene.guard).account.ledger.slots_in_use == 0


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("completed", "settled"),
        ("Expired", "settled"),
        ("failed", "settled"),
        ("running", "kept"),
        ("Active", "kept"),
        ("terminating", "kept"),
        ("provisioning", "kept"),
        ("unknown", "kept"),
        (None, "kept"),
    ],
)
@pytest.mark.parametrize("status", [200, 422])
def test_the_providers_word_decides(scene: Any, status: int, word: str | None, state: str) -> None:
    """After a deletion, taken or turned down, what does not go on is over; no word is none."""
    with open_one(scene) as session:
        body = {"data": {"status": "success"}} if status == 200 else None
        scene.sandbox.fault(SESSION, method="DELETE", status=status, body=body)
        seen = {"data": {"status": word, "credits_used": 0.02}}
        scene.sandbox.fault(SESSION, method="GET", body=seen)
    assert (session.hold.state, len(scene.files)) == (state, state == "kept")
    if status == 422:
        assert scene.deletions == 1


@pytest.mark.parametrize(
    ("deleted", "seen", "state"),
    [
        (400, 404, "settled"),
        (409, 404, "settled"),
        (410, 410, "settled"),
        (422, 410, "settled"),
        (401, 404, "kept"),
        (403, 404, "kept"),
        (500, 404, "kept"),
        (422, 500, "kept"),
        (422, 401, "kept"),
    ],
)
def test_what_is_not_there(scene: Any, deleted: int, seen: int, state: str) -> None:
    """A session is gone that its own deletion and a question do not find; a closed door says nothing."""
    with open_one(scene) as session:
        scene.sandbox.fault(SESSION, method="DELETE", status=deleted)
        scene.sandbox.fault(SESSION, method="GET", status=seen)
    assert (session.hold.state, len(scene.files)) == (state, state == "kept")


def test_turned_down_while_it_runs(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is not deleted again in vain, and the warning has both of the provider's words."""
    with open_one(scene) as session:
        scene.sandbox.fault(SESSION, method="DELETE", status=422)
    assert (session.hold.state, scene.deletions, scene.waits.pauses) == ("kept", 1, [])
    assert "Unprocessable" in caplog.text
    assert "it is still running" in caplog.text


def test_turned_down_and_unheard(scene: Any) -> None:
    """After a final refusal only the question is asked again."""
    with open_one(scene) as session:
        scene.sandbox.fault(SESSION, method="DELETE", status=422)
        scene.sandbox.fault(SESSION, method="GET", status=500, times=2)
        scene.elapse(LIFE)
    assert (session.hold.state, scene.deletions) == ("settled", 1)
    assert scene.waits.pauses == [0.5, 1]


@pytest.mark.parametrize(
    "seen",
    [{"status": 500}, {"body": {}}, {"body": {"data": {"credits_used": 0.02}}}],
    ids=str,
)
def test_deleted_but_not_to_be_looked_at(scene: Any, seen: dict[str, Any]) -> None:
    """An accepted deletion alone confirms nothing: the session may run on, for all of its life."""
    with open_one(scene) as session:
        before = scene.guard.available + session.hold.amount
        scene.elapse(61)
        scene.sandbox.fault(SESSION, method="DELETE", body={"data": {"status": "success"}})
        scene.sandbox.fault(SESSION, method="GET", **seen)
    assert scene.own == {session.id: "running"}
    assert (session.hold.state, len(scene.files), scene.deletions) == ("kept", 1, 1)
    assert scene.guard.available == before - HELD


@pytest.mark.parametrize("figure", ["N/A", None, "NaN", -1, 0, 1e30, [], {}], ids=repr)
def test_figures_that_make_no_sense(scene: Any, figure: Any) -> None:
    """Where the provider does not say what was used, the time that passed and all extras count."""
    events: list[Event] = []
    scene.guard = scene.new_guard(on_event=events.append)
    with open_one(scene, extra=0.1) as session:
        session.extend("0.2")
        scene.elapse(61)
        seen = {"data": {"status": "completed", "credits_used": figure}}
        scene.sandbox.fault(SESSION, method="GET", body=seen)
    [settled] = [each.credits for each in events if each.kind == "settled"]
    assert settled == Decimal("0.311667")


def test_a_figure_above_the_hold_is_taken(scene: Any) -> None:
    """What was used beyond the hold is spent all the same."""
    with open_one(scene) as session:
        before = scene.guard.available + session.hold.amount
        seen = {"data": {"status": "completed", "credits_used": "0.5"}}
        scene.sandbox.fault(SESSION, method="GET", body=seen)
    assert scene.guard.available == before - Decimal("0.5")


def test_the_hold_keeps_up(scene: Any) -> None:
    """What was used is no longer held, and what it will use beyond is held in time."""
    with open_one(scene) as session:
        before = scene.guard.available + session.hold.amount
        scene.elapse(90)
        assert session.refresh() == BROWSER_CREATED + 2 * BROWSER_MINUTE
        assert session.hold.amount == HELD
        used = BROWSER_CREATED + 2 * BROWSER_MINUTE + Decimal("0.2")
        scene.sandbox.fault(
            SESSION, body={"data": {"status": "running", "credits_used": str(used)}}, times=1
        )
        assert session.refresh() == used
        assert session.hold.amount == used + AnchorBrowser.BROWSER_HOUR * 3 / 60
        assert scene.guard.available == before - session.hold.amount
        scene.sandbox.fault(
            SESSION, body={"data": {"status": "running", "credits_used": "N/A"}}, times=1
        )
        assert session.refresh() is None


def test_what_is_booked_is_not_held_too(scene: Any) -> None:
    """Once the balance shows what a session used, that is counted there alone."""
    with open_one(scene) as session:
        used = session.refresh()
        assert used == BROWSER_CREATED + BROWSER_MINUTE
        scene.clock.advance(binding_of(scene.guard).lag)
        assert scene.guard.balance(max_age=0).credits == scene.sandbox.anchor.balance
        assert scene.guard.available == scene.sandbox.anchor.balance - (HELD - used)


def test_a_refresh_after_its_longest_life(scene: Any) -> None:
    """What was used is held, and nothing given back for minutes that nobody has."""
    with open_one(scene) as session:
        scene.elapse(LIFE + 180)
        used = HELD + Decimal("0.01")
        seen = {"data": {"status": "running", "credits_used": str(used)}}
        scene.sandbox.fault(SESSION, method="GET", body=seen, times=1)
        assert session.refresh() == used
        assert session.hold.amount == used


@pytest.mark.parametrize(
    ("seconds", "minutes"),
    [(0, 1), (60, 1), (61, 2), (LIFE, MINUTES), (LIFE + 1, MINUTES + 1), (3600, MINUTES + 1)],
)
def test_the_minutes_that_passed(scene: Any, seconds: float, minutes: int) -> None:
    """Without a figure each that began is billed, to the one after the last."""
    events: list[Event] = []
    scene.guard = scene.new_guard(on_event=events.append)
    with open_one(scene):
        scene.elapse(seconds)
        scene.sandbox.fault(SESSION, method="GET", body={"data": {"status": "completed"}})
    [settled] = [each.credits for each in events if each.kind == "settled"]
    most = AnchorBrowser.BROWSER + AnchorBrowser.BROWSER_HOUR * minutes / 60
    assert 0 <= settled - most < Decimal("0.000001")


def test_a_kept_session_counts_for_its_longest_life(scene: Any) -> None:
    """Its credits and its slot come free with a balance of `lag` after that, and not before."""
    scene.sandbox.fault(SESSION, method="DELETE", status=401)
    with open_one(scene) as session:
        pass
    assert session.hold.state == "kept"
    ledger = binding_of(scene.guard).account.ledger
    scene.elapse(LIFE + AnchorBrowser.lag - 1)
    assert scene.guard.balance(max_age=0).credits - scene.guard.available == HELD
    assert ledger.slots_in_use == 1
    scene.elapse(1)
    assert scene.guard.balance(max_age=0).credits == scene.guard.available
    assert ledger.slots_in_use == 0


def test_the_sdks_own_retries_are_off(scene: Any) -> None:
    """One session is asked for once: a second request would make a second one."""
    scene.client = scene.new_client(max_retries=2)
    scene.sandbox.fault("/v1/sessions", method="POST", status=500, times=1)
    with pytest.raises(APIStatusError), open_one(scene):
        raise AssertionError
    assert (scene.creations, scene.own) == (1, {})
    scene.client.close()


def test_no_credits_to_go_on(scene: Any) -> None:
    """An extension that cannot be paid is refused, and the session is closed like any other."""
    with pytest.raises(InsufficientCredits, match="visit needs 5 credits"), open_one(scene) as one:
        one.extend(5)
    assert scene.own == {one.id: "finished"}
    with pytest.raises(InsufficientCredits), open_one(scene) as other:
        running = {"data": {"status": "running", "credits_used": 3}}
        scene.sandbox.fault("/v1/sessions/session-000003", method="GET", body=running, times=1)
        other.refresh()
    assert scene.own[other.id] == "finished"


def test_the_reply_to_the_creation_is_lost(scene: Any) -> None:
    """A session of which nobody read the id is found by its tag and ended."""
    scene.sandbox.fault("/v1/sessions", method="POST", drip=30)
    with pytest.raises(APITimeoutError), open_one(scene, create_within=0.2):
        raise AssertionError
    assert scene.own == {"session-000002": "finished"}
    assert scene.files == []
    assert scene.guard.available == scene.sandbox.anchor.balance


@pytest.mark.anyio
async def test_the_reply_to_the_creation_is_lost_async(scene: Any) -> None:
    """The same for code that awaits."""
    scene.sandbox.fault("/v1/sessions", method="POST", drip=30)
    async with scene.new_async_client() as client:
        with pytest.raises((APITimeoutError, TimeoutError)):
            async with aopen_one(scene, client, create_within=0.2):
                raise AssertionError
    assert scene.own == {"session-000002": "finished"}
    assert (scene.files, scene.guard.available) == ([], scene.sandbox.anchor.balance)


def test_the_reply_to_the_creation_drips(scene: Any) -> None:
    """The wait for it is bounded although each byte comes in time, and its session is ended."""
    scene.sandbox.fault("/v1/sessions", method="POST", drip=0.05)
    late = pytest.raises(TimeoutError, match="no complete answer came within 1 s")
    with late, open_one(scene, create_within=1):
        raise AssertionError
    assert (scene.own, scene.files) == ({"session-000002": "finished"}, [])
    assert scene.guard.available == scene.sandbox.anchor.balance


@pytest.mark.anyio
async def test_the_reply_to_the_creation_drips_async(scene: Any) -> None:
    """The same for code that awaits."""
    scene.sandbox.fault("/v1/sessions", method="POST", drip=0.05)
    async with scene.new_async_client() as client:
        with pytest.raises(TimeoutError, match="no complete answer came within 1 s"):
            async with aopen_one(scene, client, create_within=1):
                raise AssertionError
    assert (scene.own, scene.files) == ({"session-000002": "finished"}, [])
    assert scene.guard.available == scene.sandbox.anchor.balance


@pytest.mark.parametrize("data", [{}, {"id": ""}, {"id": None}, None], ids=str)
def test_a_reply_without_an_id(scene: Any, data: Any) -> None:
    """It is found by its tag nevertheless."""
    scene.sandbox.fault("/v1/sessions", method="POST", body={"data": data})
    with pytest.raises(RuntimeError, match="lacks the session's id"), open_one(scene):
        raise AssertionError
    assert (scene.own, len(scene.files)) == ({}, 1)
    assert scene.guard.available == scene.sandbox.anchor.balance - HELD


def test_a_creation_of_which_nothing_is_known(scene: Any) -> None:
    """A 500 may have started a session: credits remain held, the tag remains recorded."""
    scene.sandbox.fault("/v1/sessions", method="POST", status=500)
    with pytest.raises(APIStatusError), open_one(scene):
        raise AssertionError
    assert (scene.own, scene.creations, len(scene.files)) == ({}, 1, 1)
    assert scene.guard.available == scene.sandbox.anchor.balance - HELD
    assert scene.waits.pauses == [0.5, 1, 2, 4]


@pytest.mark.anyio
async def test_a_creation_of_which_nothing_is_known_async(scene: Any) -> None:
    """The same for async code: it is searched for by its tag, and only once."""
    scene.sandbox.fault("/v1/sessions", method="POST", status=500)
    async with scene.new_async_client() as client:
        with pytest.raises(APIStatusError):
            async with aopen_one(scene, client):
                raise AssertionError
    assert (scene.own, scene.creations, len(scene.files)) == ({}, 1, 1)
    assert scene.waits.pauses == [0.5, 1, 2, 4]
    assert scene.sandbox.requests["GET", "/v1/sessions"] == 5


PROJECT_LIMIT = {"error": {"code": 403, "message": "Project cost limit reached."}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, None),
        (401, None),
        (402, None),
        (403, PROJECT_LIMIT),
        (403, {"error": "Forbidden"}),
        (429, None),
    ],
)
def test_a_creation_turned_down(scene: Any, status: int, body: Any) -> None:
    """A refusal started nothing: released, forgotten, and lack of credits is told to the guard."""
    scene.sandbox.fault("/v1/sessions", method="POST", status=status, body=body, times=1)
    before = scene.guard.balance().credits
    with pytest.raises(APIStatusError) as error, open_one(scene):
        raise AssertionError
    assert error.value.status_code == status
    assert (scene.files, scene.waits.pauses) == ([], [])
    exhausted = status == 402 or body is PROJECT_LIMIT
    assert scene.guard.available == (0 if exhausted else before)


@pytest.mark.anyio
async def test_a_creation_turned_down_async(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Async code does not search for one either, and logs no warning."""
    scene.sandbox.fault("/v1/sessions", method="POST", status=429)
    async with scene.new_async_client() as client:
        with pytest.raises(APIStatusError):
            async with aopen_one(scene, client):
                raise AssertionError
    assert (scene.files, scene.waits.pauses) == ([], [])
    assert scene.sandbox.requests["GET", "/v1/sessions"] == 0
    assert not [each for each in caplog.records if each.name == "budgetguard"]


def test_nobody_there(scene: Any) -> None:
    """A connection that is refused carried nothing."""
    before = scene.guard.balance().credits
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        scene.client.base_url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(APIConnectionError), open_one(scene):
            raise AssertionError
    assert (scene.files, scene.guard.available) == ([], before)


def test_a_journal_that_cannot_be_written(scene: Any) -> None:
    """Nothing is requested that could not be recorded, and nothing remains held."""
    scene.journal.folder.write_text("in the way")
    before = scene.guard.balance().credits
    with pytest.raises(FileExistsError), open_one(scene):
        raise AssertionError
    assert (scene.creations, scene.guard.available) == (0, before)


def test_an_id_that_cannot_be_written(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session whose id is not on disk is ended before the work begins."""
    written = os.write

    def full(file: int, data: bytes) -> int:
        if b'"session"' in data:
            raise OSError(28, "No space left on device")
        return written(file, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"), open_one(scene):
        raise AssertionError
    assert (scene.own, scene.files) == ({"session-000002": "finished"}, [])


@pytest.mark.anyio
async def test_cancelled_while_open(scene: Any) -> None:
    """A cancelled block closes its session nevertheless."""
    async with scene.new_async_client() as client:
        with anyio.CancelScope() as scope:
            async with aopen_one(scene, client) as session:
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert (scene.own, scene.files) == ({session.id: "finished"}, [])
    assert session.hold.state == "settled"


@pytest.mark.anyio
async def test_cancelled_while_it_is_created(scene: Any) -> None:
    """The creation's reply is waited for, so that what was created is ended."""
    entered = []
    scene.sandbox.fault("/v1/sessions", method="POST", latency=0.2)
    async with scene.new_async_client() as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel_on_arrival() -> None:
                    arrived = lambda: scene.creations == 1  # noqa: E731
                    assert await anyio.to_thread.run_sync(scene.sandbox.wait_until, arrived)
                    scope.cancel()

                tasks.start_soon(cancel_on_arrival)
                async with aopen_one(scene, client):
                    entered.append(scene.own)
                    await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert entered == [{"session-000002": "running"}]
    assert (scene.own, scene.files) == ({"session-000002": "finished"}, [])


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/sessions"), ("DELETE", SESSION)])
def test_cancelled_by_asyncio_again_and_again(scene: Any, method: str, path: str) -> None:
    """No number of `task.cancel()` leaves a session open, and the task is cancelled in the end."""
    scene.sandbox.fault(path, method=method, latency=0.3, times=1)

    async def visit() -> None:
        async with scene.new_async_client() as client, aopen_one(scene, client):
            await asyncio.sleep(0)

    def arrived() -> bool:
        return (scene.creations if method == "POST" else scene.deletions) == 1

    async def main() -> None:
        task = asyncio.ensure_future(visit())
        assert await asyncio.to_thread(scene.sandbox.wait_until, arrived)
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.01)
        assert task.cancelled()

    asyncio.run(main())
    assert (scene.own, scene.files) == ({"session-000002": "finished"}, [])
    assert scene.waits.pauses == []


def test_the_loop_is_shut_down_around_it(scene: Any) -> None:
    """A task that `asyncio.run` cancels at its end still closes its session."""

    async def visit(ready: asyncio.Event) -> None:
        async with scene.new_async_client() as client, aopen_one(scene, client):
            ready.set()
            await asyncio.sleep(3600)

    async def main() -> asyncio.Task[None]:
        ready = asyncio.Event()
        task = asyncio.ensure_future(visit(ready))
        await ready.wait()
        return task

    assert asyncio.run(main()).cancelled()
    assert (scene.own, scene.files) == ({"session-000002": "finished"}, [])


class Interrupting:
    """Raises at requests of one method, as Ctrl-C or an exit in a signal handler would."""

    def __init__(self, method: str, *kinds: type[BaseException]) -> None:
        self.method = method
        self.kinds = list(kinds)

    def __call__(self, response: httpx.Response) -> None:
        if response.request.method == self.method and self.kinds:
            raise self.kinds.pop(0)


def interrupted(scene: Any, method: str, *kinds: type[BaseException]) -> Any:
    """Make a client that is interrupted when the provider has done what it was asked."""
    hooks = {"response": [Interrupting(method, *kinds)]}
    return scene.new_client(http_client=DefaultHttpxClient(event_hooks=hooks))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_interrupted(scene: Any, method: str, kind: type[BaseException]) -> None:
    """The first Ctrl-C or exit is put off until the session has ended."""
    with interrupted(scene, method, kind) as scene.client, pytest.raises(kind), open_one(scene):
        assert method != "POST"
    assert (scene.own, scene.files) == ({"session-000002": "finished"}, [])
    assert scene.guard.available == scene.sandbox.anchor.balance


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupted_while_the_id_is_written(
    scene: Any, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    """Waiting for the disk is a place like any other."""
    synced, syncs = os.fsync, []

    def interrupting(file: int) -> None:
        synced(file)
        syncs.append(file)
        if len(syncs) == 3:  # after the intent and the folder: the id
            raise kind

    monkeypatch.setattr(os, "fsync", interrupting)
    with pytest.raises(kind), open_one(scene):
        raise AssertionError
    assert len(syncs) == 3
    assert (scene.own, scene.files) == ({"session-000002": "finished"}, [])
    assert scene.guard.available == scene.sandbox.anchor.balance


def test_interrupted_twice(scene: Any) -> None:
    """The second Ctrl-C stops it at once, and the session is left to a reap."""
    scene.sandbox.fault(SESSION, method="DELETE", status=500)
    twice = (KeyboardInterrupt, KeyboardInterrupt)
    with interrupted(scene, "DELETE", *twice) as scene.client:
        with pytest.raises(KeyboardInterrupt), open_one(scene):
            pass
        assert (scene.deletions, scene.own) == (2, {"session-000002": "running"})
        scene.sandbox.clear_faults()
        assert reap(scene.client, scene.journal, patience=scene.patience).gone == (
            "session-000002",
        )


def test_switched_off(scene: Any) -> None:
    """With guards switched off sessions end all the same."""
    set_active(False)
    with open_one(scene) as session:
        session.extend(1000)
        assert session.hold.amount == 0
    assert (scene.own, scene.files) == ({session.id: "finished"}, [])
    assert scene.sandbox.balance_requests == 0


def test_the_hold_is_the_users_to_end(scene: Any) -> None:
    """A hold that the block settled itself does not change."""
    with open_one(scene) as session:
        before = scene.guard.available + session.hold.amount
        session.hold.settle("0.3")
    assert scene.guard.available == before - Decimal("0.3")
    assert scene.files == []


def test_wrong_uses(scene: Any) -> None:
    """What cannot be is said where it is written."""
    for minutes, kind in [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]:
        with pytest.raises(kind, match="minutes"):
            browser_session(scene.client, scene.guard, minutes)
    browser_session(scene.client, scene.guard, 366 * 24 * 60)
    for minutes in (366 * 24 * 60 + 1, 10**300):
        with pytest.raises(ValueError, match=r"minutes must be at most 527040 \(366 days\)"):
            browser_session(scene.client, scene.guard, minutes)
    with pytest.raises(ValueError, match="create_within must be at most 366 days"):
        open_one(scene, create_within=1e300)
    with pytest.raises(ValueError, match="wait must be at most 366 days"):
        open_one(scene, wait=1e300).__enter__()
    with pytest.raises(ValueError, match="minutes"):
        open_one(scene, session={"timeout": {"max_duration": 3}})
    with pytest.raises(ValueError, match="extra"):
        open_one(scene, extra=-1)
    with pytest.raises(ValueError, match="create_within"):
        open_one(scene, create_within=0)
    with pytest.raises(ValueError, match="create_within"):
        open_one(scene, timeout=5)
    with pytest.raises(ValueError, match="extra_body"):
        open_one(scene, extra_body={"session": {"timeout": {"max_duration": -1}}})
    other = Guard(PreDev("key"))
    with pytest.raises(TypeError, match=r"for an account at pre\.dev"):
        browser_session(scene.client, other, MINUTES)
    with pytest.raises(TypeError, match="already guarded"):
        browser_session(guarded(scene.client, scene.guard), scene.guard, MINUTES)
    with pytest.raises(TypeError, match="browzer"):
        open_one(scene, browzer={})
    with pytest.raises(TypeError, match=r"not str: Journal\(folder\)"):
        open_one(scene, journal="sessions")
    for options, kind in [
        ({"tries": 0}, ValueError),
        ({"tries": True}, TypeError),
        ({"within": 0}, ValueError),
        ({"each": 0}, ValueError),
        ({"first_pause": -1}, ValueError),
    ]:
        with pytest.raises(kind):
            Patience(**options)
    once = open_one(scene)
    with once:
        pass
    with pytest.raises(RuntimeError, match="Make a new one"), once:
        raise AssertionError


@pytest.mark.anyio
async def test_the_other_kind_of_client(scene: Any) -> None:
    """A client that cannot serve the block is refused before anything is held."""
    async with scene.new_async_client() as client:
        with pytest.raises(TypeError, match="this takes an A"), aopen_one(scene, client):
            raise AssertionError
        with pytest.raises(TypeError, match="this takes an A"):
            reap(client, scene.journal)
    with pytest.raises(TypeError, match="this takes an A"):
        async with open_one(scene):
            raise AssertionError
    with pytest.raises(TypeError, match="this takes an A"):
        await areap(scene.client, scene.journal)
    assert scene.creations == 0


@pytest.mark.anyio
async def test_the_other_kind_of_refresh(scene: Any) -> None:
    """What has to be awaited is not left lying about."""
    async with scene.new_async_client() as client, aopen_one(scene, client) as session:
        with pytest.raises(TypeError, match=r"await session\.arefresh\(\)"):
            session.refresh()
    with open_one(scene) as session, pytest.raises(TypeError, match=r"session\.refresh\(\)"):
        await session.arefresh()
