"""The tools of an MCPServer: found from a middleware, and followed to what their functions do.

A middleware of the MCP SDK (2.3, read 2026-11) is told of a call by its name, and of its end by what
the server has made of that. What the function raised, and whether it was reached at all, is only to be
had inside of the server, to which a middleware's `call_next` leads.
"""

import functools
import inspect
from typing import TYPE_CHECKING, Any

from budgetguard.integrations._extra import extra
from budgetguard.integrations._told import telling
from budgetguard.integrations._turn import within

if TYPE_CHECKING:
    from mcp.server.context import CallNext

with extra("mcp"):
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.tools import Tool


def server_behind(call_next: "CallNext") -> "MCPServer[Any] | None":
    """The server whose tools are called at the end of the chain; None of another kind."""
    step: Any = call_next
    while isinstance(step, functools.partial):
        step = step.args[-1]
    server = getattr(within(step).get("self"), "server", None)
    entry = server.get_request_handler("tools/call") if server is not None else None
    handler = getattr(entry, "handler", None)
    while inspect.isfunction(handler):  # an extension's, around it
        handler = within(handler).get("handler")
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, MCPServer) else None


def tool_of(server: "MCPServer[Any]", name: str) -> Tool | None:
    """The server's tool of that name, whose function from now on tells what it does."""
    tool = server._tool_manager.get_tool(name)  # noqa: SLF001  the public list has no functions
    if tool is not None:
        tool.fn = telling(tool.fn, is_async=tool.is_async)
    return tool


def takes(tool: Tool, arguments: dict[str, Any]) -> bool:
    """Whether the server will take the arguments, as far as can be told without running anything."""
    try:
        tool.fn_metadata.validate_arguments(arguments)
    except Exception:  # noqa: BLE001  a validator's own error is the server's to tell, too
        return False
    return True
