"""The tools of an MCPServer: how a middleware finds them and follows what their functions do.

A middleware of the MCP SDK (2.3, read 2026-11) sees a call's name, and the result that the server made
of it. Only the server itself knows what the function raised and whether it was reached at all; the
middleware's `call_next` leads there.
"""

import functools
import inspect
import re
from typing import TYPE_CHECKING, Any

from budgetguard.integrations._extra import extra
from budgetguard.integrations._server_tools import reporting
from budgetguard.integrations._tool_call import within

if TYPE_CHECKING:
    from mcp.server.context import CallNext

with extra("mcp"):
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.tools import Tool
    from mcp.shared.exceptions import MCPError
    from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY, CallToolResult, InputRequiredResult

# The server's result when a client declines a resolver's question (2.3, read 2026-11).
_DECLINED = re.compile(
    r"Error executing tool .*: Resolver for parameter .* could not resolve: "
    r"elicitation was (decline|cancel)"
)


def server_behind(call_next: "CallNext") -> "MCPServer[Any] | None":
    """The MCPServer at the end of the middleware chain; None for a server of another kind."""
    step: Any = call_next
    while isinstance(step, functools.partial):
        step = step.args[-1]
    server = getattr(within(step).get("self"), "server", None)
    entry = server.get_request_handler("tools/call") if server is not None else None
    handler = getattr(entry, "handler", None)
    while inspect.isfunction(handler):  # an extension's wrapper
        handler = within(handler).get("handler")
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, MCPServer) else None


def tool_of(server: "MCPServer[Any]", name: str) -> Tool | None:
    """The server's tool of that name, whose function from now on reports its runs."""
    tool = server._tool_manager.get_tool(name)  # noqa: SLF001  the public list has no functions
    if tool is not None:
        tool.fn = reporting(tool.fn, is_async=tool.is_async)
    return tool


def takes(tool: Tool, arguments: dict[str, Any]) -> bool:
    """Whether the server will accept the arguments, as far as that shows without running anything."""
    try:
        tool.fn_metadata.validate_arguments(arguments)
    except Exception:  # noqa: BLE001  the server reports a validator's own error, too
        return False
    return True


def asks_first(tool: Tool, result: object) -> bool:
    """Whether the server asks the client, or was declined, before it runs the tool's function.

    Parameters' resolvers do that. Use this only for a call whose function never began, because the
    function may ask the client as well.
    """
    if not tool.resolved_params:
        return False
    if isinstance(result, CallToolResult):
        texts = [getattr(part, "text", "") for part in result.content]
        return len(texts) == 1 and _DECLINED.fullmatch(texts[0]) is not None
    kind = result.get("resultType") if isinstance(result, dict) else None
    return isinstance(result, InputRequiredResult) or kind == "input_required"


def lacks_an_answer(tool: Tool, error: BaseException) -> bool:
    """Whether a resolver asks for something that this client does not support."""
    return (
        bool(tool.resolved_params)
        and isinstance(error, MCPError)
        and error.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    )
