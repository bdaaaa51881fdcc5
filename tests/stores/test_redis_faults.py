"""What a server may go through while processes spend by it: stopped, killed, emptied, busy, without the script.

Callers get an answer in time, the members say anew what they hold, and nothing is promised twice. With
BUDGETGUARD_LONG=1 there is much more of everything.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from interpreter import LONG
from redis_spenders import all_is_well, let_run, nearly_exhausted, redis_spenders
from server_process import ENGINES, ServerProcess, servers, until
from spending_processes import go_on, pause
from store_place import ServerPlace

from budgetguard import BalanceUnavailable, Guard
from budgetguard._engine.binding import binding_of
from budgetguard.stores import _redis_words as words
from budgetguard.testing import FakeProvider

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

SEED = os.environ.get("BUDGETGUARD_SEED", "1")
ROUNDS = 40
PLACE = ServerPlace(0)
MICRO = 10**6
# Somebody else's script. No clock moves inside scripts in both engines.
BUSY = "for _ = 1, tonumber(ARGV[1]) do end"


def test_calls_within_the_lease_go_on_without_a_server(tmp_path: Path) -> None:
    """Until its end. A call that needs more is told why within the store's timeout, and all is well afterwards."""
    told: list[str] = []
    with servers("redis", tmp_path) as [server]:
        store = ServerPlace(server.port, prefix="lease").store()
        provider = FakeProvider(1000, lag=0, linger=0)
        guard = Guard(
            provider,
            store=store,
            hold_for=PLACE.hold_for,
            timeout=PLACE.patience,
            on_event=lambda event: told.append(event.kind),
        )
        account = binding_of(guard).account
        ledger: Any = account.ledger
        until(lambda: (guard.acquire(1).settle(), ledger.room >= 2 * MICRO)[1])
        server.stop()
        guard.acquire(1).settle()
        with pytest.raises(BalanceUnavailable) as error:
            guard.acquire(500)
        assert error.value.reason == words.silent(f"127.0.0.1:{server.port}", PLACE.timeout)
        until(lambda: "lease_lost" in told)
        assert ledger.room <= 0
        with pytest.raises(BalanceUnavailable):
            guard.acquire(1)
        server.go_on()
        until(lambda: ledger.away is None)
        guard.acquire(500).settle()
        kinds = [kind for kind in told if kind.startswith(("store", "lease", "regrouped"))]
        assert kinds == ["store_lost", "lease_lost", "store_back"]


@pytest.fixture(params=ENGINES if LONG else ENGINES[:1])
def engine(request: pytest.FixtureRequest) -> str:
    """Both in the long form."""
    name: str = request.param
    return name


def stop(server: ServerProcess, random: Random) -> None:
    """Stop it, mostly for longer than callers wait for it, and sometimes for longer than leases last."""
    server.stop()
    let_run(random.uniform(0.2, 1.2) * PLACE.hold_for)
    server.go_on()


def restart(server: ServerProcess, random: Random) -> None:
    """Kill it, and start it with what it has on its disk."""
    server.kill()
    pause(random, 1.0)
    server.start()


def keep_busy(server: ServerProcess, random: Random) -> None:
    """Run somebody else's script for longer than the store's timeout."""
    began = time.monotonic()
    server.do("EVAL", BUSY, 0, 10**7)
    rate = 10**7 / (time.monotonic() - began)
    server.do("EVAL", BUSY, 0, int(rate * (2 * PLACE.timeout + random.random())))


def forget_scripts(server: ServerProcess, random: Random) -> None:
    """Again and again, while messages are on their way."""
    for _ in range(20):
        server.do("SCRIPT", "FLUSH")
        pause(random, 0.02)


def forget_all(server: ServerProcess, random: Random) -> None:
    """Remove all keys."""
    pause(random, 0.1)
    server.do("FLUSHALL")


FAULTS: dict[str, tuple[Callable[[ServerProcess, Random], None], tuple[str, ...]]] = {
    "stopped": (stop, ()),
    "restarted empty": (restart, ()),
    "restarted from its log": (restart, ("--appendonly", "yes", "--appendfsync", "always")),
    "restarted with what it wrote last": (restart, ("--appendonly", "yes")),
    "busy": (keep_busy, ()),
    "busy and says so": (keep_busy, ("--busy-reply-threshold", "50")),
    "without the script": (forget_scripts, ()),
    "emptied": (forget_all, ()),
}


# The short form has some of them in turn, in the same processes.
IN_TURN = ("without the script", "stopped", "emptied", "restarted empty")


@pytest.mark.parametrize(
    "faults", [(name,) * ROUNDS for name in FAULTS] if LONG else [IN_TURN], ids=lambda them: them[0]
)
def test_a_server_under_load(tmp_path: Path, engine: str, faults: tuple[str, ...]) -> None:
    """All processes live, so nothing is lost: nothing is overspent, and all credits are there in the end."""
    random = Random(f"{faults[0]} {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    _, options = FAULTS[faults[0]]
    with (
        servers(engine, tmp_path, 1, *options) as [server],
        redis_spenders(tmp_path, server.port, SEED) as (account, nursery),
    ):
        for fault in faults:
            account.top_up(random.randint(30, 60))
            nearly_exhausted(account)
            account.top_up(random.randint(10, 30))
            go_on(account, 1)
            FAULTS[fault][0](server, random)
        account.top_up(30)
        nearly_exhausted(account)
        busy = words.failed(f"127.0.0.1:{server.port}", "BUSY")
        told = all_is_well(account, nursery, server.port, busy)
        assert told["store_lost"] == told["store_back"]
