"""Limit concurrent browser sessions at Anchor Browser: more workers than browsers, none left open.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
ANCHORBROWSER_API_KEY at Anchor Browser.
"""

import argparse
import asyncio
import os

from anchorbrowser import Anchorbrowser, AsyncAnchorbrowser
from anchorbrowser.types.models import SessionCreateResponseSchema
from anchorbrowser.types.params import SessionConfig

from budgetguard import AnchorBrowser, BudgetGuardError, Guard
from budgetguard.testing.sandbox import Sandbox

MINUTES = 5
LIFE: SessionConfig = {"timeout": {"max_duration": MINUTES}}
# The price of the longest possible session, and of one minute because billing rounds up.
LONGEST_COST = AnchorBrowser.BROWSER + AnchorBrowser.BROWSER_HOUR * (MINUTES + 1) / 60
PAGES = ["news", "weather", "tides", "trains", "broken", "ferries", "markets", "museums"]


async def visit(client: AsyncAnchorbrowser, guard: Guard, page: str) -> str:
    """Open a browser as soon as one is free, and close it whatever happens."""
    try:
        async with guard.require_credits(
            min=LONGEST_COST, slots=1, wait=30, name="create_session"
        ) as hold:
            session = session_id(await client.sessions.create_session(session=LIFE))
            try:
                await read(page)
            finally:
                await client.sessions.delete_session(session)
                seen = (await client.sessions.get_session(session)).data
                # Settled here, so that the slot is free again even if the page failed.
                hold.settle(seen.credits_used if seen else None)
    except (BudgetGuardError, ValueError) as error:
        return f"No {page}: {error}"
    return f"Read {page}."


async def read(page: str) -> None:
    """Connect Playwright to the session's `cdp_url` here. This stand-in only waits."""
    await asyncio.sleep(0.2)
    if page == "broken":
        msg = "the page does not load."
        raise ValueError(msg)


def visit_once(client: Anchorbrowser, guard: Guard) -> None:
    """Do the same in synchronous code."""
    with guard.require_credits(min=LONGEST_COST, slots=1, wait=30, name="create_session") as hold:
        session = session_id(client.sessions.create_session(session=LIFE))
        try:
            print("One more browser, from synchronous code.")
        finally:
            client.sessions.delete_session(session)
            seen = client.sessions.get_session(session).data
            hold.settle(seen.credits_used if seen else None)


def session_id(created: SessionCreateResponseSchema) -> str:
    """Return the new session's id, which is optional in the SDK's types."""
    assert created.data is not None
    assert created.data.id is not None
    return created.data.id


async def run(key: str, base_url: str) -> None:
    """Read eight pages with as many browsers as the account allows."""
    guard = Guard(AnchorBrowser(key, base_url=base_url))
    balance = await guard.abalance()
    print(f"The account has {balance.credits} credits and {balance.max_concurrency} browsers.")
    async with AsyncAnchorbrowser(api_key=key, base_url=base_url) as client:
        for line in await asyncio.gather(*(visit(client, guard, page) for page in PAGES)):
            print(line)
    with Anchorbrowser(api_key=key, base_url=base_url) as plain:
        await asyncio.to_thread(visit_once, plain, guard)
    print(f"{guard.available} credits are available.")


def main() -> None:
    """Run against the sandbox, or against the real account with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend ANCHORBROWSER_API_KEY's credits")
    parser.add_argument("--base-url", default=AnchorBrowser.base_url, help="the API for --live")
    options = parser.parse_args()
    if options.live:
        key = os.environ.get("ANCHORBROWSER_API_KEY") or parser.error(
            "--live needs ANCHORBROWSER_API_KEY"
        )
        asyncio.run(run(key, options.base_url))
    else:
        with Sandbox(credits=1, max_concurrent_browsers=3) as sandbox:
            asyncio.run(run(sandbox.anchor_key, sandbox.url))
            account = sandbox.anchor
            print(f"At most {account.max_concurrency_seen} browsers were open at once. ", end="")
            print(
                f"The sandbox charged {account.charged} credits; {account.running} are still open."
            )


if __name__ == "__main__":
    main()
