"""A FastMCP server whose tools cost credits: a refusal is a tool's result for the client.

The model is scripted; the account and the connection are in memory: no key and no network are needed.
"""

import asyncio
from typing import Any

from fastmcp import Client, FastMCP

from budgetguard import Guard
from budgetguard.integrations.fastmcp import BudgetMiddleware
from budgetguard.testing import FakeProvider

guard = Guard(FakeProvider(40))
budget = BudgetMiddleware(
    guard,
    {
        "deep_spec": 50,
        "fast_spec": {"min": 10, "actual": lambda result: result.structured_content["creditsUsed"]},
    },
)
server = FastMCP("specs", middleware=[budget])
deep_specs: list[str] = []


@server.tool
def deep_spec(prompt: str) -> dict[str, Any]:
    """Write a spec of everything."""
    deep_specs.append(prompt)
    return {"creditsUsed": 47, "spec": f"All of {prompt}."}


@server.tool
async def fast_spec(prompt: str) -> dict[str, Any]:
    """Outline a spec."""
    return {"creditsUsed": 8, "spec": f"The outline of {prompt}."}


def model(read: list[str]) -> str | None:
    """Stand in for a chat model: return the next tool to call, or None to answer."""
    if not read:
        return "deep_spec"
    return "fast_spec" if read[-1].startswith("BUDGET") else None


async def main() -> None:
    """Let the model call tools until it answers."""
    read: list[str] = []
    async with Client(server) as client:
        while name := model(read):
            print(f"The model calls {name}.")
            result = await client.call_tool(name, {"prompt": "a shop"}, raise_on_error=False)
            read += [block.text for block in result.content if block.type == "text"]
            print(f"The model reads: {read[-1]}")
    print(f"{guard.available} of 40 credits are available; deep_spec ran {len(deep_specs)} times.")


if __name__ == "__main__":
    asyncio.run(main())
