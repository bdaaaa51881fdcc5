"""A web service behind four gunicorn workers, which share the credits of one account through a file.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
PREDEV_API_KEY at pre.dev.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from predev_api import PredevAPI

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard.stores import SQLiteStore
from budgetguard.stores.members import StoredMember, read_members
from budgetguard.testing.sandbox import Sandbox

WORKERS = 4
REQUESTS = 24
QUIET = ("--log-level", "warning", "--no-control-socket")


def service() -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """The WSGI application. Each worker calls this, and so has a guard of its own."""
    guard = Guard(PreDev(), store=SQLiteStore(os.environ["CREDITS_FILE"]))
    guard.balance()  # joins the others now, and not with the first request
    api = PredevAPI(os.environ["PREDEV_API_KEY"], guard.provider.base_url)

    @guard.require_credits(
        min=PreDev.FAST_SPEC, actual=lambda spec: spec["creditsUsed"], name="fast_spec"
    )
    def fast_spec(prompt: str) -> Any:
        return api.fast_spec(prompt)

    def application(_: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            status, told = "200 OK", {"cost": fast_spec("A web shop")["creditsUsed"]}
            told["worker"] = os.getpid()
        except InsufficientCredits as refusal:
            status, told = "402 Payment Required", {"reason": str(refusal)}
        start_response(status, [("content-type", "application/json")])
        return [json.dumps(told).encode()]

    return application


def run(key: str, base_url: str, folder: Path) -> None:
    """Serve with gunicorn, request many specs at once, and tell what the workers did with them."""
    store = folder / "credits.db"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = ["--workers", str(WORKERS), "--bind", f"fd://{listener.fileno()}"]
        server = subprocess.Popen(  # noqa: S603  our own arguments
            [sys.executable, "-m", "gunicorn", "gunicorn_workers:service()", *options, *QUIET],
            pass_fds=[listener.fileno()],
            cwd=Path(__file__).parent,
            env=os.environ
            | {"PREDEV_API_KEY": key, "PREDEV_BASE_URL": base_url, "CREDITS_FILE": str(store)},
        )
        try:
            while not store.exists() or len(members(store)) < WORKERS:
                if server.poll() is not None:
                    sys.exit("gunicorn has ended; its own message is above.")
                time.sleep(0.1)  # until all workers have started
            spent = {member.pid: 0 for member in members(store)}

            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            with ThreadPoolExecutor(REQUESTS) as pool:
                replies = pool.map(lambda _: httpx.get(url, timeout=300).json(), range(REQUESTS))
            answers = list(replies)
        finally:
            server.terminate()
            server.wait()
    for each in answers:
        if "cost" in each:
            spent[each["worker"]] += each["cost"]
    for worker, cost in sorted(spent.items()):
        print(f"The calls of worker {worker} cost {cost} credits.")
    costs = [each["cost"] for each in answers if "cost" in each]
    refused = [each["reason"] for each in answers if "reason" in each]
    print(f"{len(costs)} specs written for {sum(costs)} credits, {len(refused)} refused.")
    print(*refused[:1])


def members(store: Path) -> list[StoredMember]:
    """The workers that share the account, as `budgetguard members` shows them."""
    return [member for account in read_members(store) for member in account.members]


def main() -> None:
    """Run against the sandbox, or against the real account with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend credits of PREDEV_API_KEY")
    parser.add_argument("--base-url", default=PreDev.base_url, help="the API for --live")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.live:
            key = os.environ.get("PREDEV_API_KEY") or parser.error("--live needs PREDEV_API_KEY")
            run(key, options.base_url, Path(folder))
            return
        with Sandbox(credits=100, speed=60) as sandbox:
            run(sandbox.predev_key, sandbox.url, Path(folder))
            account = sandbox.predev
            print(f"The sandbox charged {account.charged}; {account.died} specs died half-way.")
            print(f"Balance requests of all workers: {sandbox.balance_requests}.")


if __name__ == "__main__":
    main()
