"""FastMCP servers: credits before a tool runs.

server = FastMCP("specs", middleware=[BudgetMiddleware(guard, {"deep_spec": 50})])
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations.answers import for_client, status_code
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools

if TYPE_CHECKING:
    from fastmcp.server.middleware import CallNext, MiddlewareContext
    from fastmcp.tools.base import Tool
    from mcp_types import CallToolRequestParams, ListToolsRequest

    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

with extra("fastmcp"):
    from fastmcp.server.middleware import Middleware
    from fastmcp.server.providers.addressing import parse_hashed_backend_name
    from fastmcp.tools.base import InputRequiredToolResult, ToolResult
    from mcp.shared.exceptions import MCPError


class BudgetMiddleware(Middleware):
    """Holds what a tool call costs while it runs; the client reads a refusal as an error result.

    `costs` is by the name that this server lists a tool under, see
    `budgetguard.integrations.tools.Tools`. A callable for it is given the arguments as the client
    sent them, not yet checked or converted; `actual` is given the ToolResult. A refusal is a
    ToolResult with `is_error`, the words as its text and the figures as `structured_content`. With
    `on_refusal="stop"` it is a protocol error instead, an MCPError of code 402, 429, 503 or 500 with
    the figures as its `data`, which ends most clients' runs: the run itself is not the server's.

    A tool that raises, is cancelled, gives an error result, asks its client for input or becomes a
    background task is kept: nobody knows yet what it cost. So is a call whose arguments FastMCP then
    rejects, and, with `"*"`, one of a tool that there is not; `release_on=(ValidationError,
    NotFoundError)` of `fastmcp.exceptions` frees them, and is right where no tool calls another.

    Put it last in `middleware`: one that comes after it could rename or repeat the call that was paid
    for, or answer it from a cache. Guards what goes through `FastMCP.call_tool`, mounted servers'
    tools included, but neither resources and prompts nor `run_middleware=False`. A name that no tool
    has guards nothing; the log warns of one that looks like a slip, when the tools are listed.
    """

    @discreet
    def __init__(
        self, guard: "Guard", costs: Mapping[str, Cost | None], *, on_refusal: OnRefusal = "tell"
    ) -> None:
        self._tools = Tools(guard, costs, on_refusal=on_refusal)
        self._stops = on_refusal == "stop"

    async def on_list_tools(
        self,
        context: "MiddlewareContext[ListToolsRequest]",
        call_next: "CallNext[ListToolsRequest, Sequence[Tool]]",
    ) -> "Sequence[Tool]":
        """Give the tools as they are, and look for a price that was meant for one of them."""
        tools = await call_next(context)
        self._tools.expect(tool.name for tool in tools)
        return tools

    async def on_call_tool(
        self,
        context: "MiddlewareContext[CallToolRequestParams]",
        call_next: "CallNext[CallToolRequestParams, ToolResult]",
    ) -> ToolResult:
        """Run one tool call, or tell the client why not."""
        call = context.message
        try:
            name = await _listed_name(context)
            hold = await self._tools.aopen(name, call.arguments or {})
        except Exception as error:  # noqa: BLE001  whatever went wrong, the tool does not run
            return self._refused(call.name, error)
        with hold:
            result = await call_next(context)
            self._end(name, hold, result)
        return result

    def _refused(self, name: str, error: Exception) -> ToolResult:
        words, figures = for_client(name, error)
        if self._stops:
            raise MCPError(status_code(error), words, figures) from error
        return ToolResult(words, structured_content=figures, is_error=True)

    def _end(self, name: str, hold: "Hold", result: Any) -> None:
        if _is_done(result):
            self._tools.settle(name, hold, result)
        else:
            hold.keep()


def _is_done(result: Any) -> bool:
    """Whether the tool came to an end; a background task's result, for one, is no ToolResult."""
    return (
        isinstance(result, ToolResult)
        and not result.is_error
        and not isinstance(result, InputRequiredToolResult)
    )


async def _listed_name(context: "MiddlewareContext[CallToolRequestParams]") -> str:
    """The name that the tool is listed, and priced, under.

    FastMCP 4.1 runs tools of apps under a second name too, their hash and local name (read 2026-11).
    """
    name = context.message.name
    hashed = parse_hashed_backend_name(name)
    if hashed is None or context.fastmcp_context is None:
        return name
    server = context.fastmcp_context.fastmcp
    if await server.get_tool(name) is not None:
        return name
    tool = await server.get_tool_by_hash(*hashed)
    return name if tool is None else tool.name
