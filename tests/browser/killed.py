"""A program that opens a browser session and is killed on the way, at the point it is told.

Reads a number a line. For each it forks a child, which kills itself (SIGKILL) when it comes to that
point of its way, and prints "killed", or "finished" where the way has no such point. The points are
right after each call that changes a file or the wire, or reads from it: what lies between two of them
is seen by nobody but the process itself. A number with a point in it is so many seconds, after which
the kernel kills the child wherever it is (SIGALRM, which nobody handles).
"""

import asyncio
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import trio
from anchorbrowser import (
    Anchorbrowser,
    AsyncAnchorbrowser,
    DefaultAsyncHttpxClient,
    DefaultHttpxClient,
)

from budgetguard import AnchorBrowser, Guard
from budgetguard.browser import Journal, browser_session

MINUTES = 5
# Made once, before anybody is forked: each client would load all certificates for itself.
UNUSED_TLS = ssl.create_default_context()
FILES = {"mkdir", "open", "flock", "write", "fsync", "unlink", "close"}
WIRE = {"connect", "connect_ex", "send", "sendall", "recv", "recv_into"}
EFFECTS = FILES | WIRE


def plain(key: str, url: str, folder: str) -> None:
    """Open a session, refresh it, leave it."""
    guard = Guard(AnchorBrowser(key, base_url=url))
    with (
        DefaultHttpxClient(verify=UNUSED_TLS) as http,
        Anchorbrowser(api_key=key, base_url=url, http_client=http) as client,
        browser_session(client, guard, MINUTES, journal=Journal(folder)) as session,
    ):
        session.refresh()


async def awaited(key: str, url: str, folder: str) -> None:
    """Do the same for code that awaits."""
    guard = Guard(AnchorBrowser(key, base_url=url))
    async with (
        DefaultAsyncHttpxClient(verify=UNUSED_TLS) as http,
        AsyncAnchorbrowser(api_key=key, base_url=url, http_client=http) as client,
        browser_session(client, guard, MINUTES, journal=Journal(folder)) as session,
    ):
        await session.arefresh()


WAYS: dict[str, Callable[..., Any]] = {
    "plain": plain,
    "asyncio": lambda *where: asyncio.run(awaited(*where)),
    "trio": lambda *where: trio.run(awaited, *where),
}


def die_at(point: int) -> None:
    """Have this process killed when it comes to its so-many-th point."""
    left = point

    def profile(_: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        if event == "c_return" and argument.__name__ in EFFECTS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(profile)
    threading.setprofile(profile)  # plain code's requests have a thread of their own


def main(way: str, *where: str) -> None:
    """Fork a child for each number, and tell what became of it."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            if "." in line:
                signal.setitimer(signal.ITIMER_REAL, float(line))
            else:
                die_at(int(line))
            WAYS[way](*where)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        states = {0: "finished", -signal.SIGKILL: "killed", -signal.SIGALRM: "killed"}
        said = states.get(status, f"failed with {status}")
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
