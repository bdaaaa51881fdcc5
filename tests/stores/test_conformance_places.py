"""The places where calls leave a program, over two members of a store: the same answers as without one.

Each member has a client, a middleware or a session of its own; what one does is what the other decides on.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from anchorbrowser import Anchorbrowser
from staging import until
from worlds import WORLDS, World, refused, world_of

from budgetguard import (
    AnchorBrowser,
    BalanceUnavailable,
    BudgetExceeded,
    ConcurrencyLimit,
    GuardPool,
    PreDev,
    learned,
)
from budgetguard._core.problem_document import SCHEMA
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard.asgi import GuardMiddleware
from budgetguard.browser import Journal, Patience, browser_session
from budgetguard.stores import SQLiteStore
from budgetguard.testing import FakeProvider
from budgetguard.testing.sandbox import BROWSER_CREATED, BROWSER_MINUTE, Sandbox
from budgetguard.transport import GuardTransport

SPEC = {"input": "A web shop for a bakery"}
MINUTES = 5
BROWSER_HELD = AnchorBrowser.BROWSER + AnchorBrowser.BROWSER_HOUR * (MINUTES + 1) / 60
START = {"type": "http.response.start", "status": 200, "headers": []}
LAST = {"type": "http.response.body", "body": b"done"}


@pytest.fixture(params=["alone", "pair", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Without a store, and two members with either store."""
    with world_of(request.param, tmp_path) as world:
        yield world


def members_of(world: World) -> int | None:
    """How many processes an error says that take part, if one of them holds something."""
    return 1 if world.shared else None


# HTTP clients.


@contextmanager
def clients(world: World, sandbox: Sandbox) -> Iterator[Any]:
    """A guarded client of each member, in turn."""
    provider = PreDev(Sandbox.predev_key, base_url=sandbox.url)
    world.open(provider)
    headers = {"authorization": f"Bearer {Sandbox.predev_key}"}
    with ExitStack() as stack:
        made = {
            guard: stack.enter_context(
                httpx.Client(transport=GuardTransport(guard), headers=headers, timeout=20)
            )
            for guard in world.guards
        }
        yield lambda: made[world.turn()]


def test_a_guarded_client_settles_at_what_the_reply_says(world: World) -> None:
    """Every member sees what it cost, and no refusal leaves."""
    with Sandbox(100, speed=20_000.0) as sandbox, clients(world, sandbox) as client:
        spent = Decimal(0)
        for _ in range(2):
            reply = client().post(f"{sandbox.url}/fast-spec", json=SPEC)
            spent += Decimal(str(reply.json()["creditsUsed"]))
            assert {world.turn().available for _ in range(2)} == {100 - spent}
        hold = world.turn().acquire(60)
        reply = client().post(f"{sandbox.url}/deep-spec", json=SPEC)
        assert (reply.status_code, reply.json()["generationsAvailable"]) == (402, 0)
        left = 40 - spent
        words = f"POST /deep-spec needs 50 credits, and {left.normalize():f} are available"
        assert reply.json()["message"].startswith(words)
        assert sandbox.requests["POST", "/deep-spec"] == 0
        hold.release()
        assert world.turn().available == 100 - spent
        assert [each.kind for each in world.events if each.operation == "POST /fast-spec"] == [
            "admitted",
            "settled",
        ] * 2


def test_a_refusal_of_the_provider_reaches_every_member(world: World) -> None:
    """A 402 of its own, though the balance looked sufficient: nobody is let in before a later balance."""
    with Sandbox(100, speed=20_000.0) as sandbox, clients(world, sandbox) as client:
        sandbox.fault("/fast-spec", status=402)
        assert client().post(f"{sandbox.url}/fast-spec", json=SPEC).status_code == 402
        for _ in range(2):
            error = refused(world.turn(), 1)
            assert (error.basis, error.balance) == ("refused", 0)
        assert {each.kind for each in world.told} >= {"exhausted"}


# Web services.


async def _never() -> Any:
    await asyncio.sleep(3600)


def request_through(guard: Any, app: Any, cost: Any = 30) -> list[dict[str, Any]]:
    """What a web service sends that is guarded by the middleware."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/paid",
        "raw_path": b"/paid",
        "query_string": b"",
        "headers": [],
    }

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    middleware = GuardMiddleware(app, guard, {("*", "/paid"): cost})
    asyncio.run(middleware(scope, _never, send))
    return sent


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers."""
    del scope, receive
    await send(START)
    await send(LAST)


async def breaks_off(scope: Any, receive: Any, send: Any) -> None:
    """An app that does not finish its response."""
    del scope, receive
    await send(START)


def test_a_web_service_refuses_with_the_figures_of_all(world: World) -> None:
    """In a problem document, whose members are the same but for the processes."""
    world.open()
    assert request_through(world.turn(), answers) == [START, LAST]
    request_through(world.turn(), breaks_off, 20)
    assert world.kinds() == ["admitted", "settled", "admitted", "kept"]
    hold = world.turn().acquire(40)
    start, body = request_through(world.turn(), answers)
    found = json.loads(body["body"])
    jsonschema.validate(found, SCHEMA)
    assert start["status"] == found["status"] == 402
    assert (found["needed"], found["available"], found["operation"]) == (30, 10, "* /paid")
    assert (found["retryable"], found["retry_after"]) == (True, found["retry_after"])
    assert found.get("processes") == members_of(world)
    hold.release()
    assert world.turn().available == 50


def test_a_web_service_refuses_sessions_of_all(world: World) -> None:
    """With the limit, and how many are open anywhere."""
    world.open(FakeProvider(100, max_concurrency=2))
    holds = [world.turn().acquire(slots=1) for _ in range(2)]
    start, body = request_through(world.turn(), answers, {"slots": 1})
    found = json.loads(body["body"])
    jsonschema.validate(found, SCHEMA)
    assert (start["status"], found["limit"], found["in_use"]) == (429, 2, 2)
    assert found.get("processes") == (2 if world.shared else None)
    for hold in holds:
        hold.release()


# Browser sessions.


def test_a_browser_session_counts_for_all_until_it_has_ended(world: World, tmp_path: Path) -> None:
    """Its credits and its slot; its journal is its own process's, and is empty afterwards."""
    with Sandbox(1, clock="manual", max_concurrent_browsers=1) as sandbox:
        world.open(AnchorBrowser(Sandbox.anchor_key, base_url=sandbox.url))
        client = Anchorbrowser(api_key=Sandbox.anchor_key, base_url=sandbox.url)
        journal = Journal(tmp_path / "journal")
        patience = Patience(sleep=lambda _: None)
        with (
            client,
            browser_session(
                client, world.turn(), MINUTES, journal=journal, patience=patience, name="visit"
            ) as session,
        ):
            assert session.hold.amount == BROWSER_HELD
            assert world.turn().available == 1 - BROWSER_HELD
            with pytest.raises(ConcurrencyLimit) as error:
                world.turn().acquire(slots=1)
            assert (error.value.limit, error.value.in_use) == (1, 1)
            assert error.value.processes == members_of(world)
            session.extend("0.1")
            assert world.turn().available == 1 - BROWSER_HELD - Decimal("0.1")
            assert len(list(journal.folder.iterdir())) == 1
        assert session.hold.state == "settled"
        assert list(journal.folder.iterdir()) == []
        cost = BROWSER_CREATED + BROWSER_MINUTE + Decimal("0.1")
        assert world.turn().available >= 1 - cost
        world.turn().acquire(slots=1).release()


# Guards and costs.


def test_what_a_member_learned_and_what_the_account_still_pays_for(world: World) -> None:
    """The estimate is of this process's calls, and of all members' credits."""
    world.open()
    guard = world.turn()
    for cost in (2, 4, 2, 2):
        with guard.require_credits(cost=learned(20), name="call") as hold:
            hold.settle(cost)
        world.hear(guard)
    hold = world.turn().acquire(40)
    world.all_hear()
    found = guard.estimate("call")
    assert (found.settlements, found.largest, found.median) == (4, 4, 2)
    left = Decimal(100 - 10 - 40)
    assert guard.available == left
    assert found.more_calls == pytest.approx(left / found.cost, abs=1)
    hold.release()


def test_a_guard_of_a_pool_is_busy_as_long_as_the_contract_says(world: World) -> None:
    """Neither with an open hold nor with a debit younger than its `lag` is it evicted; then it is."""
    provider = FakeProvider(100, lag=30)
    world.open(provider)
    with runtime_of(world.runtimes[0]):
        pool = GuardPool(
            lambda key: world.more(provider if key == "one" else FakeProvider(50))[0], maxsize=1
        )
        account = binding_of(pool["one"]).account
        hold = pool["one"].acquire(10)
        assert not account.quiet()
        hold.settle()
        world.advance(5)
        assert not account.quiet()
        assert len(pool) == 1
        pool["two"].available  # noqa: B018
        assert len(pool) == 2
        world.advance(30)
        world.advance(6)
        assert account.quiet()
        pool["three"].available  # noqa: B018
        assert len(pool) <= 2


def test_a_budget_and_an_unknown_balance_in_a_web_service(world: World) -> None:
    """The same statuses, whoever decides."""
    provider = world.open()
    guard = world.turn()
    with guard.budget(20, name="user", key=7, per="day"):
        guard.acquire(15).settle()
        with pytest.raises(BudgetExceeded) as error:
            guard.acquire(6)
    assert (error.value.spent, error.value.limit, error.value.processes) == (15, 20, None)
    provider.failure = BalanceUnavailable("fake", "down for repairs", None)
    world.advance(601)
    start, body = request_through(world.turn(), answers)
    found = json.loads(body["body"])
    jsonschema.validate(found, SCHEMA)
    assert (start["status"], found["title"]) == (503, "Balance unavailable")
    assert "down for repairs" in found["detail"]


# What a store tells of itself.


def told(world: World) -> list[str]:
    """What was told of the store."""
    kinds = {"store_lost", "store_back", "lease_lost", "regrouped"}
    return [event.kind for event in world.told if event.kind in kinds]


def test_a_file_that_was_deleted_is_told_as_a_store_that_begins_anew(tmp_path: Path) -> None:
    """By each member once, and what they hold counts as before."""
    with world_of("sqlite", tmp_path) as world:
        world.open()
        holds = [guard.acquire(10) for guard in world.guards]
        world.advance(1)
        for name in ("credits.db", "credits.db-wal", "credits.db-shm"):
            (tmp_path / name).unlink()
        for _ in range(8):
            for guard in world.guards:
                world.hear(guard)
            world.advance(1)
        world.guards[0].balance(max_age=0)
        world.all_hear()
        assert told(world) == ["regrouped"] * 2
        assert [guard.available for guard in world.guards] == [80, 80]
        for hold in holds:
            hold.release()
        world.advance(1)
        world.turn().acquire(100).release()


LOCKS = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_file_that_another_program_locks_is_told_as_lost_and_as_back(tmp_path: Path) -> None:
    """What a caller needs beyond the lease is refused with the reason, and comes back later."""
    name = "short"
    WORLDS[name] = (lambda _, folder: SQLiteStore(folder / "credits.db", timeout=0.2), 1)
    try:
        with world_of(name, tmp_path) as world:
            world.open(FakeProvider(100))
            hold = world.guards[0].acquire(10)
            locking = subprocess.Popen(
                [sys.executable, "-c", LOCKS, str(tmp_path / "credits.db")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert locking.stdout is not None
                assert locking.stdout.readline().strip() == "locked"
                with pytest.raises(BalanceUnavailable, match="is locked by another program"):
                    world.guards[0].acquire(50)
            finally:
                locking.communicate("go\n")
            assert told(world) == ["store_lost"]
            world.advance(6)
            until(lambda: told(world) == ["store_lost", "store_back"])
            hold.settle()
            world.advance(1)
            world.guards[0].acquire(90).release()
    finally:
        del WORLDS[name]
