"""A server on the MCP SDK whose tools cost credits, and a host whose run a refusal stops.

The account and the connection are in memory: no key and no network are needed.
"""

import anyio
from mcp import Client, MCPError
from mcp.server.mcpserver import MCPServer

from budgetguard import Guard
from budgetguard.integrations.mcp import BudgetMiddleware
from budgetguard.testing import FakeProvider

guard = Guard(FakeProvider(40))
budget = BudgetMiddleware(
    guard,
    {
        "deep_spec": lambda prompt: 45 + len(prompt.split()),
        "fast_spec": {"min": 10, "actual": lambda result: result.structured_content["creditsUsed"]},
    },
    on_refusal="stop",
)
server: MCPServer = MCPServer("specs", middleware=[budget], log_level="WARNING")


@server.tool()
def deep_spec(prompt: str) -> dict[str, int | str]:
    """Write a spec of everything."""
    return {"creditsUsed": 47, "spec": f"All of {prompt}."}


@server.tool()
async def fast_spec(prompt: str) -> dict[str, int | str]:
    """Outline a spec."""
    return {"creditsUsed": 8, "spec": f"The outline of {prompt}."}


async def main() -> None:
    """Call a tool that is too expensive, then one that is not."""
    async with Client(server) as client:
        try:
            await client.call_tool("deep_spec", {"prompt": "a shop that sells bread"})
        except MCPError as stopped:
            print(f"The host is told: {stopped.code} {stopped.message}")
            told = stopped.data
            print(
                f"Its program reads: {told['needed']} credits needed, {told['available']} there,",
                told["top_up_url"],
            )
        result = await client.call_tool("fast_spec", {"prompt": "a shop"})
        print(f"Then it gets: {result.structured_content}")
    print(f"{guard.available} of 40 credits are available.")


if __name__ == "__main__":
    anyio.run(main)
