"""A WSGI application whose workers share an account; its guard may be used before they are forked.

STORE is the path of a file, or the URL of a server.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard.stores import RedisStore, SQLiteStore

place = os.environ["STORE"]
guard = Guard(
    PreDev(os.environ["PREDEV_API_KEY"], base_url=os.environ["PREDEV_BASE_URL"]),
    store=RedisStore(place, timeout=10)
    if place.startswith("redis:")
    else SQLiteStore(place, timeout=10),
    fresh_for=3600,
    timeout=60,
)
if os.environ["USED"]:
    with guard.require_credits(min=1):
        pass


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterator[bytes]:
    """Hold 30 credits, if there are so many; keep them, and this worker, until the body comes."""
    try:
        hold = guard.acquire(30)
    except InsufficientCredits:
        hold = None
    start_response("200 OK", [("content-type", "application/json")])
    yield json.dumps({"pid": os.getpid(), "admitted": hold is not None}).encode() + b"\n"
    environ["wsgi.input"].read(1)
    if hold is not None:
        hold.release()
