"""Specs from pre.dev on a thread pool: none is started unless the credits for it are held.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
PREDEV_API_KEY at pre.dev.
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from predev_api import PredevAPI

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard.testing.sandbox import Sandbox

PROMPTS = ["a bakery's web shop", "a chess club", "a seed library", "a tide table", "a car pool"]


def run(key: str, base_url: str, poll_every: float) -> None:
    """Request five deep specs at once, then submit a fast one and poll it until it finishes."""
    api = PredevAPI(key, base_url)
    guard = Guard(PreDev(key, base_url=base_url))
    print(f"The account has {guard.balance().credits} credits.")

    @guard.require_credits(
        min=PreDev.DEEP_SPEC, actual=lambda spec: spec["creditsUsed"], name="deep_spec"
    )
    def deep_spec(prompt: str) -> Any:
        return api.deep_spec(prompt)

    def work(prompt: str) -> str:
        try:
            spec = deep_spec(prompt)
        except InsufficientCredits as refusal:
            return f"Refused {prompt}, which cost nothing: {refusal}"
        return f"Finished {prompt} for {spec['creditsUsed']} credits."

    with ThreadPoolExecutor(max_workers=5) as pool:
        for line in pool.map(work, PROMPTS):
            print(line)

    # The hold lasts as long as the work, not only the submission. If this block raises, it is kept.
    with guard.acquire(min=PreDev.FAST_SPEC, name="fast_spec_async") as hold:
        submitted: Any = api.fast_spec_async("a bird feeder")
        spec: Any = submitted
        while spec["status"] in {"pending", "processing"}:
            time.sleep(poll_every)
            spec = api.get_spec_status(submitted["specId"])
            hold.charged(spec["creditsUsed"])  # charged so far: not counted twice
        hold.settle(spec["creditsUsed"])
    print(f"The submitted spec {spec['status']} for {spec['creditsUsed']} credits.")
    print(f"{guard.available} credits are available.")


def main() -> None:
    """Run against the sandbox, or against the real account with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend credits of PREDEV_API_KEY")
    parser.add_argument("--base-url", default=PreDev.base_url, help="the API for --live")
    options = parser.parse_args()
    if options.live:
        key = os.environ.get("PREDEV_API_KEY") or parser.error("--live needs PREDEV_API_KEY")
        run(key, options.base_url, poll_every=2)
    else:
        with Sandbox(credits=200, speed=150) as sandbox:
            run(sandbox.predev_key, sandbox.url, poll_every=0.02)
            print(f"The sandbox charged {sandbox.predev.charged}, for specs that died: ", end="")
            print(f"{sandbox.predev.wasted}.")


if __name__ == "__main__":
    main()
