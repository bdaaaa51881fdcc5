#!/usr/bin/env bash
# mcp 2.3.0 (PyPI); run November 2026.
#
# A tool of an MCPServer that is annotated `-> dict` answers without `structured_content`, and is listed
# without an output schema; its JSON is in the text content alone. Annotated `-> dict[str, Any]`, the
# same function has both. Nothing tells which of the two a tool became, so a hook that reads a figure
# from the structured content, such as what a call has cost, finds None.
#
# Output seen:
#   bare None
#   parametrised {'creditsUsed': 7}
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mcp==2.3.0

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
from typing import Any

from mcp import Client
from mcp.server.mcpserver import MCPServer

server = MCPServer("credits")


@server.tool()
def bare() -> dict:
    return {"creditsUsed": 7}


@server.tool()
def parametrised() -> dict[str, Any]:
    return {"creditsUsed": 7}


async def main() -> list[Any]:
    async with Client(server) as client:
        return [(await client.call_tool(each, {})).structured_content for each in ("bare", "parametrised")]


seen = asyncio.run(main())
print("bare", seen[0])
print("parametrised", seen[1])
sys.exit(0 if seen == [None, {"creditsUsed": 7}] else 1)
PYTHON
