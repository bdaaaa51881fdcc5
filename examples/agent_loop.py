"""An agent whose tools cost credits: a refusal is returned as the tool's result, and the run goes on.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
PREDEV_API_KEY at pre.dev.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

from predev_api import PredevAPI

from budgetguard import BudgetGuardError, Guard, InsufficientCredits, PreDev
from budgetguard.testing.sandbox import Sandbox

Tools = dict[str, Callable[[str], str]]


def make_tools(key: str, base_url: str) -> Tools:
    """Make the tools. Each refuses a call before it costs anything."""
    api = PredevAPI(key, base_url)
    guard = Guard(PreDev(key, base_url=base_url))

    @guard.require_credits(min=PreDev.FAST_SPEC, actual=lambda spec: spec["creditsUsed"])
    def fast_spec(prompt: str) -> Any:
        return api.fast_spec(prompt)

    @guard.require_credits(min=PreDev.DEEP_SPEC, actual=lambda spec: spec["creditsUsed"])
    def deep_spec(prompt: str) -> Any:
        return api.deep_spec(prompt)

    def tool(call: Callable[[str], Any]) -> Callable[[str], str]:
        def run(prompt: str) -> str:
            try:
                spec = call(prompt)
            except InsufficientCredits as refusal:
                return in_short(refusal)
            except BudgetGuardError as error:
                return f"BUDGET: {error}"
            return f"Done for {spec['creditsUsed']} credits: {spec['codingAgentSpecMarkdown']!r}"

        return run

    return {"fast_spec": tool(fast_spec), "deep_spec": tool(deep_spec)}


def in_short(refusal: InsufficientCredits) -> str:
    """Tell a model what it needs to know to choose another step."""
    as_of = f"{refusal.age:.0f} s ago" if refusal.age >= 1 else "just now"
    have = f"{refusal.available} available (as of {as_of})"
    if refusal.retryable:
        advice = f"The rest is counted for other calls; try again in {refusal.retry_after:.0f} s"
    else:
        advice = f"Do not retry; ask for a top-up: {refusal.top_up_url}"
    return f"BUDGET: needs {refusal.needed} credits, {have}. {advice}"


def model(results: list[str]) -> tuple[str, str]:
    """Stand in for a chat model: return the next tool and its input, or `answer` and the answer."""
    if len(results) == 0:
        return "fast_spec", "Outline a web shop for a bakery"
    if len(results) == 1:
        return "deep_spec", "The shop, in every detail"
    if len(results) == 2 and results[-1].startswith("BUDGET"):
        return "fast_spec", "The shop's checkout only"
    if any(result.startswith("BUDGET") for result in results):
        return "answer", "Here is the outline, and the checkout. The rest needs a top-up."
    return "answer", "Here is the whole shop."


def run(tools: Tools) -> None:
    """Let the model call tools until it answers."""
    results: list[str] = []
    while True:
        name, text = model(results)
        if name == "answer":
            print(f"The model answers: {text}")
            return
        print(f"The model calls {name}({text!r}).")
        results.append(tools[name](text))
        print(f"The tool returns: {results[-1]}")


def main() -> None:
    """Run against the sandbox, or against the real account with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend credits of PREDEV_API_KEY")
    parser.add_argument("--base-url", default=PreDev.base_url, help="the API for --live")
    options = parser.parse_args()
    if options.live:
        key = os.environ.get("PREDEV_API_KEY") or parser.error("--live needs PREDEV_API_KEY")
        run(make_tools(key, options.base_url))
    else:
        with Sandbox(credits=30, speed=300) as sandbox:
            run(make_tools(sandbox.predev_key, sandbox.url))


if __name__ == "__main__":
    main()
