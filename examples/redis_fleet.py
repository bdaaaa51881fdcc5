"""A fleet of processes, as on many machines, which share the credits of one account through a Redis server.

The server is the one that REDIS_URL names, redis://localhost:6379 by default. Runs against a sandbox on this
machine: no account, no money. With --live it spends the credits of PREDEV_API_KEY at pre.dev.
"""

import argparse
import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from predev_api import PredevAPI

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard.stores import RedisStore
from budgetguard.stores.members import read_members
from budgetguard.testing.sandbox import Sandbox

PROCESSES = 4
SPECS = 6


def store() -> RedisStore:
    """The store that all processes name. A service needs no prefix; this one is for one run."""
    url = os.environ.get("REDIS_URL", "redis://localhost:6379")
    return RedisStore(url, prefix=os.environ["FLEET_PREFIX"])


def spend() -> None:
    """One process of the fleet: write some specs at once, and print what they cost."""
    guard = Guard(PreDev(), store=store())
    api = PredevAPI(os.environ["PREDEV_API_KEY"], guard.provider.base_url)

    @guard.require_credits(
        min=PreDev.FAST_SPEC, actual=lambda spec: spec["creditsUsed"], wait=30, name="fast_spec"
    )
    def fast_spec(prompt: str) -> Any:
        return api.fast_spec(prompt)

    def attempt(number: int) -> str:
        try:
            return f"cost {fast_spec(f'A web shop, number {number}')['creditsUsed']}"
        except InsufficientCredits as refusal:
            return f"refused {refusal}"

    with ThreadPoolExecutor(SPECS) as pool:
        print(*pool.map(attempt, range(SPECS)), sep="\n")


def run(key: str, base_url: str) -> None:
    """Start the fleet, wait for all of it, and tell what it did."""
    os.environ |= {
        "PREDEV_API_KEY": key,
        "PREDEV_BASE_URL": base_url,
        "FLEET_PREFIX": f"fleet-example-{secrets.token_hex(4)}",
    }
    fleet = [
        subprocess.Popen([sys.executable, __file__, "--member"], stdout=subprocess.PIPE, text=True)  # noqa: S603  our own arguments
        for _ in range(PROCESSES)
    ]
    lines: list[str] = []
    for process in fleet:
        printed, _ = process.communicate()
        if process.returncode:
            sys.exit("A process of the fleet has failed; its own message is above.")
        costs = [int(each.split()[1]) for each in printed.splitlines() if each.startswith("cost")]
        print(f"The calls of process {process.pid} cost {sum(costs)} credits.")
        lines += printed.splitlines()
    costs = [int(each.split()[1]) for each in lines if each.startswith("cost")]
    refused = [each.partition(" ")[2] for each in lines if each.startswith("refused")]
    print(f"{len(costs)} specs written for {sum(costs)} credits, {len(refused)} refused.")
    print(*refused[:1])
    for account in read_members(store()):
        gone = sum(member.state == "gone" for member in account.members)
        print(f"{gone} processes have left the store, {len(account.members) - gone} have not.")


def main() -> None:
    """Run against the sandbox, or against the real account with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend credits of PREDEV_API_KEY")
    parser.add_argument("--base-url", default=PreDev.base_url, help="the API for --live")
    parser.add_argument("--member", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        spend()
        return
    if options.live:
        key = os.environ.get("PREDEV_API_KEY") or parser.error("--live needs PREDEV_API_KEY")
        run(key, options.base_url)
        return
    with Sandbox(credits=100, speed=60) as sandbox:
        run(sandbox.predev_key, sandbox.url)
        account = sandbox.predev
        print(f"The sandbox charged {account.charged}; {account.died} specs died half-way.")
        print(f"Balance requests of all processes: {sandbox.balance_requests}.")


if __name__ == "__main__":
    main()
