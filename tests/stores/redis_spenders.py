"""Processes that spend from an account in a server, near its last credits, and what must be true in the end."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paid_provider
from interpreter import PATIENCE
from paid_provider import PaidAccount
from spending_processes import Nursery, spenders
from store_place import ServerPlace

from budgetguard._core.leased_ledger import _REGROUPS
from budgetguard.stores import _redis_words as words

# The most that one call costs, and what nearly exhausted means: some callers are refused, others are not.
MOST = 4
FEW = 3 * MOST


@contextmanager
def redis_spenders(
    folder: Path, port: int, seed: str, processes: int = 3, **settings: Any
) -> Iterator[tuple[PaidAccount, Nursery]]:
    """So many processes that spend, by the store at that port; they have nothing to spend yet."""
    place = ServerPlace(port, **settings)
    with spenders(folder, 0, place=place.text) as (account, nursery):
        for number in range(processes):
            nursery.start("spend", f"{seed} {number}")
        yield account, nursery


def nearly_exhausted(account: PaidAccount) -> None:
    """Wait until nearly all credits were spent, also those that dead processes held for a while."""
    end = time.monotonic() + PATIENCE
    while account.last > FEW:
        assert time.monotonic() < end, account.last
        time.sleep(0.005)


def let_run(seconds: float) -> None:
    """Let everything run for so long."""
    threading.Event().wait(seconds)


def quiet(place: ServerPlace) -> float:
    """Seconds until all that dead processes held must be back."""
    return place.hold_for + paid_provider.LAG + paid_provider.LINGER


def all_is_well(account: PaidAccount, nursery: Nursery, port: int, *but: str) -> Counter[str]:
    """Nothing was overspent, nobody waited too long, and all credits come back; returns what was told.

    Callers were told nothing else than that the store is away, or `but` that, and the log said the same.
    """
    told = nursery.end_all()
    left = back(account, nursery)
    assert account.lowest >= 0, account.lowest
    assert left >= 1
    heard_of(told, nursery, port, *but)
    return told


def back(account: PaidAccount, nursery: Nursery) -> int:
    """A new process can hold all that is left; returns how much that is."""
    account.top_up(max(1 - account.rest(), 0))
    left = account.credits
    took = nursery.end(nursery.start("take", left, PATIENCE))
    assert took["took"] == left, took
    return left


def heard_of(told: Counter[str], nursery: Nursery, port: int, *but: str) -> None:
    """Nobody was late, and callers and logs were told reasons that there are."""
    where = f"127.0.0.1:{port}"
    timeout = ServerPlace(port).timeout
    away = {words.silent(where, timeout), words.unreachable(where), words.loading(where), *but}
    counts = {"spent", "refused", "store_lost", "store_back", "regrouped", "lease_lost"}
    assert set(told) <= away | {_REGROUPS} | counts, told
    assert set(nursery.words().splitlines()) <= away, nursery.words()
