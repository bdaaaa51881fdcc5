"""A WSGI application whose guard is made, and used, before its server forks."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from budgetguard import Guard, PreDev
from budgetguard._engine.binding import binding_of

guard = Guard(
    PreDev(os.environ["PREDEV_API_KEY"], base_url=os.environ["PREDEV_BASE_URL"]), fresh_for=3600
)


@guard.require_credits(min=1)
def quick() -> None:
    """Cost one credit, the quick way."""


@guard.require_credits(min=lambda: 1, wait=1)
def long() -> None:
    """Cost one credit, the long way."""


quick()
long()
mine = guard.acquire(40)

locked = threading.Event()


def hold_the_lock() -> None:
    """As any thread may while a fork comes, but for good."""
    with binding_of(guard).account.lock:
        locked.set()
        threading.Event().wait()


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterator[bytes]:
    """Make guarded calls and tell of them; then keep this worker until the body comes."""
    before = guard.available
    hold = guard.acquire(10)
    quick()
    long()
    with guard.require_credits(min=5):
        inside = guard.available
    hold.release()
    told = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "before": None if before is None else str(before),
        "inside": str(inside),
        "ids": [hold.id, mine.id],
        "state": mine.state,
        "jitter": repr(binding_of(guard).account.runtime.jitter(0, 1)),
    }
    start_response("200 OK", [("content-type", "application/json")])
    yield json.dumps(told).encode() + b"\n"
    environ["wsgi.input"].read(1)


threading.Thread(target=hold_the_lock, daemon=True).start()
locked.wait()
