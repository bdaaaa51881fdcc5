"""Browser sessions that cannot leak: credits are held before they open, and each one is closed.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
ANCHORBROWSER_API_KEY at Anchor Browser.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from anchorbrowser import Anchorbrowser, AsyncAnchorbrowser

from budgetguard import AnchorBrowser, BudgetGuardError, Guard
from budgetguard.browser import BrowserSession, Journal, browser_session, reap
from budgetguard.testing.sandbox import Sandbox

MINUTES = 5


def visit(client: Anchorbrowser, guard: Guard, journal: Journal) -> None:
    """Open a session. It is closed although the page does not load."""
    try:
        with browser_session(client, guard, MINUTES, wait=30, journal=journal) as session:
            print(f"Opened one for at most {session.hold.amount} credits.")
            read(session)
    except ValueError as error:
        print(f"{error} The session is over, its hold {session.hold.state}.")


def read(session: BrowserSession) -> None:
    """Connect Playwright to `session.cdp_url` here. This stand-in fails."""
    print(f"It used {session.refresh()} so far.")
    msg = "The page does not load."
    raise ValueError(msg)


async def give_up(client: AsyncAnchorbrowser, guard: Guard, journal: Journal) -> None:
    """Cancel a task while it uses a session."""

    async def use() -> None:
        async with browser_session(client, guard, MINUTES, wait=30, journal=journal):
            opened.set()
            await asyncio.sleep(3600)

    opened = asyncio.Event()
    task = asyncio.ensure_future(use())
    await asyncio.wait([task, asyncio.ensure_future(opened.wait())], return_when="FIRST_COMPLETED")
    task.cancel()
    await asyncio.wait([task])
    print(f"A task was {'cancelled' if task.cancelled() else 'refused'}; its session is over too.")


def die(client: Anchorbrowser, guard: Guard, journal: Journal) -> None:
    """Exit at once while a session is open. This runs in a process of its own."""
    with browser_session(client, guard, MINUTES, wait=30, journal=journal):
        os._exit(1)


def run(key: str, base_url: str, folder: Path) -> None:
    """Leave sessions by an error, a cancellation and a dead process; then clean up."""
    guard = Guard(AnchorBrowser(key, base_url=base_url))
    journal = Journal(folder)
    with Anchorbrowser(api_key=key, base_url=base_url) as client:
        visit(client, guard, journal)

        async def cancelled() -> None:
            async with AsyncAnchorbrowser(api_key=key, base_url=base_url) as awaited:
                await give_up(awaited, guard, journal)

        asyncio.run(cancelled())
        child = [sys.executable, __file__, "--die-in", str(folder), "--base-url", base_url]
        keyed = os.environ | {"ANCHORBROWSER_API_KEY": key}
        subprocess.run(child, env=keyed, check=False)  # noqa: S603  this program itself
        print("A process died with a session open.")
        # A program does this at its start.
        reaped = reap(client, journal)
        print(
            f"The next one closed {len(reaped.gone)} and left {reaped.living} of other processes alone."
        )
        print(f"Not confirmed: {len(reaped.left) + len(reaped.unseen)}.")


def main() -> None:
    """Run against the sandbox, or against the real account with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend ANCHORBROWSER_API_KEY's credits")
    parser.add_argument("--base-url", default=AnchorBrowser.base_url, help="the API for --live")
    parser.add_argument("--die-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    key = os.environ.get("ANCHORBROWSER_API_KEY", "")
    if options.die_in:
        guard = Guard(AnchorBrowser(key, base_url=options.base_url))
        client = Anchorbrowser(api_key=key, base_url=options.base_url)
        die(client, guard, Journal(options.die_in))
    with tempfile.TemporaryDirectory() as folder:
        if options.live:
            if not key:
                parser.error("--live needs ANCHORBROWSER_API_KEY")
            try:
                run(key, options.base_url, Path(folder))
            except BudgetGuardError as error:
                print(f"Refused: {error}")
        else:
            with Sandbox(credits=1, max_concurrent_browsers=3) as sandbox:
                run(sandbox.anchor_key, sandbox.url, Path(folder))
                print(f"{sandbox.anchor.running} of {sandbox.anchor.finished} are still open.")


if __name__ == "__main__":
    main()
