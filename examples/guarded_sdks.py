"""Both providers' SDKs, each guarded as a whole: every method that spends is held and settled.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
PREDEV_API_KEY at pre.dev and of ANCHORBROWSER_API_KEY at Anchor Browser.
"""

import argparse
import os
import time
from typing import Any

from anchorbrowser import Anchorbrowser
from predev_api import PredevAPI

from budgetguard import AnchorBrowser, BudgetGuardError, Guard, InsufficientCredits, PreDev
from budgetguard.integrations import anchorbrowser, predev
from budgetguard.testing.sandbox import Sandbox


def specs(key: str, base_url: str, poll_every: float) -> None:
    """Submit specs until one is refused, then poll the admitted ones until they finish."""
    guard = Guard(PreDev(key, base_url=base_url))
    api: Any = predev.guarded(PredevAPI(key, base_url), guard)
    submitted = []
    for prompt in ("a bakery's web shop", "a chess club", "a seed library"):
        try:
            submitted.append(api.deep_spec_async(prompt)["specId"])
        except InsufficientCredits as refusal:
            print(f"Refused {prompt}, which cost nothing: {refusal}")
    print(f"{guard.available} credits are available while {len(submitted)} specs are written.")
    for id in submitted:
        while (spec := api.get_spec_status(id))["status"] in {"pending", "processing"}:
            time.sleep(poll_every)
        print(f"A spec {spec['status']} for {spec['creditsUsed']} credits.")
    print(f"{guard.available} credits are available.")


def browsers(key: str, base_url: str) -> None:
    """Open browsers until the account allows no more, and close them."""
    guard = Guard(AnchorBrowser(key, base_url=base_url))
    opened: list[str] = []
    with anchorbrowser.guarded(Anchorbrowser(api_key=key, base_url=base_url), guard) as client:
        try:
            while len(opened) < 3:
                created: Any = client.sessions.create_session()
                opened.append(created.data.id)
        except BudgetGuardError as refusal:
            print(f"Refused one more browser: {refusal}")
        finally:
            for id in opened:
                client.sessions.delete_session(id)
    print(f"{len(opened)} browsers were open. {guard.available} credits are available.")


def main() -> None:
    """Run against the sandbox, or against the real accounts with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend both accounts' credits")
    parser.add_argument("--base-url", help="the API for --live, instead of each provider's")
    options = parser.parse_args()
    if options.live:
        names = ("PREDEV_API_KEY", "ANCHORBROWSER_API_KEY")
        keys = [os.environ.get(name) or parser.error(f"--live needs {name}") for name in names]
        specs(keys[0], options.base_url or PreDev.base_url, poll_every=2)
        browsers(keys[1], options.base_url or AnchorBrowser.base_url)
    else:
        with Sandbox(credits=120, speed=300, max_concurrent_browsers=2) as sandbox:
            specs(sandbox.predev_key, sandbox.url, poll_every=0.02)
            browsers(sandbox.anchor_key, sandbox.url)
            charged, died = sandbox.predev.charged, sandbox.predev.died + sandbox.anchor.died
            print(f"The sandbox charged {charged} and {sandbox.anchor.charged} credits; ", end="")
            print(f"{died} specs or sessions died half-way.")


if __name__ == "__main__":
    main()
