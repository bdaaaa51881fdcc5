"""An HTTP client that checks the credits before each request, at its transport.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
PREDEV_API_KEY at pre.dev.
"""

import argparse
import asyncio
import os
from collections import Counter

import httpx

from budgetguard import Guard, PreDev
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import AsyncGuardTransport

PROMPTS = ["a bakery", "a chess club", "a seed library", "a bike shop", "a choir", "a bookbinder"]


async def write_specs(key: str, base_url: str) -> None:
    """Request all specs at once. Those that the credits are not enough for are never sent."""
    guard = Guard(PreDev(key, base_url=base_url))
    async with httpx.AsyncClient(
        base_url=base_url,
        headers={"Authorization": f"Bearer {key}"},
        transport=AsyncGuardTransport(guard),
        timeout=300,
    ) as client:

        async def ask(prompt: str) -> str:
            reply = await client.post("/fast-spec", json={"input": f"A web shop for {prompt}"})
            body = reply.json()
            if reply.status_code == httpx.codes.PAYMENT_REQUIRED:
                print(f"Refused {prompt}: {body['message']}")
                return "refused"
            reply.raise_for_status()
            print(f"Wrote {prompt} for {body['creditsUsed']} credits.")
            return "written"

        outcomes = Counter(await asyncio.gather(*map(ask, PROMPTS)))
    print(
        f"{outcomes['written']} written, {outcomes['refused']} refused before they cost anything."
    )
    print(f"{guard.available} credits are available.")


def main() -> None:
    """Run against the sandbox, or against the real account with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend credits of PREDEV_API_KEY")
    parser.add_argument("--base-url", help="the API for --live, instead of pre.dev")
    options = parser.parse_args()
    if options.live:
        key = os.environ.get("PREDEV_API_KEY") or parser.error("--live needs PREDEV_API_KEY")
        asyncio.run(write_specs(key, options.base_url or PreDev.base_url))
        return
    with Sandbox(credits=35, speed=150) as sandbox:
        asyncio.run(write_specs(sandbox.predev_key, sandbox.url))
        account = sandbox.predev
        print(f"The sandbox charged {account.charged}; {account.died} specs died half-way.")


if __name__ == "__main__":
    main()
