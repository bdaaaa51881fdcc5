"""Servers on the MCP SDK, version 2: credits before a tool runs.

server = MCPServer("specs", middleware=[BudgetMiddleware(guard, {"deep_spec": 50})])

A low-level Server takes it by `server.middleware.append(...)`. Version 1 of the SDK has no middleware
around tools (1.30, read 2026-11): decorate the tools' functions with `guard.require_credits` there.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations.answers import for_client, status_code
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

with extra("mcp"):
    from mcp.shared.exceptions import MCPError
    from mcp_types import CallToolRequestParams, CallToolResult, TextContent
    from pydantic import ValidationError


class BudgetMiddleware:
    """Holds what a tool call costs while it runs; the client reads a refusal as an error result.

    `costs` is by tool name, see `budgetguard.integrations.tools.Tools`. A callable for it is given the
    arguments as the client sent them, not yet checked or converted; `actual` is given the
    CallToolResult. A refusal is a CallToolResult with `isError`, the words as its text and the
    figures as `structuredContent`. With `on_refusal="stop"` it is a protocol error instead, an
    MCPError of code 402, 429, 503 or 500 with the figures as its `data`, which ends most clients'
    runs: the run itself is not the server's.

    A tool that gives an error result, is cancelled, asks its client for input or becomes a background
    task is kept: nobody knows yet what it cost. The SDK makes an error result of what a tool raises,
    and of arguments that it rejects.

    Put it last in `middleware`: one that comes after it could rename or repeat the call that was paid
    for. Guards what a client sends: not resources and prompts, nor what the server's own code calls
    by `MCPServer.call_tool`. A name that no tool has guards nothing; the log warns of one that looks
    like a slip, when the tools are listed.
    """

    @discreet
    def __init__(
        self, guard: "Guard", costs: Mapping[str, Cost | None], *, on_refusal: OnRefusal = "tell"
    ) -> None:
        self._tools = Tools(guard, costs, on_refusal=on_refusal)
        self._stops = on_refusal == "stop"

    async def __call__(
        self, ctx: "ServerRequestContext[Any, Any]", call_next: "CallNext"
    ) -> "HandlerResult":
        """Run one tool call, or tell the client why not; anything else goes through."""
        if ctx.method == "tools/list":
            return self._looked_at(await call_next(ctx))
        if ctx.method != "tools/call":
            return await call_next(ctx)
        if ctx.request_id is None:
            return None  # A notification of this name: the SDK would drop it too, at our cost.
        # Read as the SDK is about to read it: what it would reject is rejected here.
        call = CallToolRequestParams.model_validate(ctx.params or {}, by_name=False)
        try:
            hold = await self._tools.aopen(call.name, call.arguments or {})
        except Exception as error:  # noqa: BLE001  whatever went wrong, the tool does not run
            return self._refused(call.name, error)
        with hold:
            result = await call_next(ctx)
            self._end(call.name, hold, result)
        return result

    def _looked_at(self, listed: "HandlerResult") -> "HandlerResult":
        tools = listed.get("tools") if isinstance(listed, dict) else None
        if isinstance(tools, list):
            self._tools.expect(tool["name"] for tool in tools if isinstance(tool, dict))
        return listed

    def _refused(self, name: str, error: Exception) -> CallToolResult:
        words, figures = for_client(name, error)
        if self._stops:
            raise MCPError(status_code(error), words, figures) from error
        return CallToolResult(
            content=[TextContent(type="text", text=words)],
            structured_content=figures,
            is_error=True,
        )

    def _end(self, name: str, hold: "Hold", result: "HandlerResult") -> None:
        done = _tools_result(result)
        if done is None or done.is_error:
            hold.keep()
        else:
            self._tools.settle(name, hold, done)


def _tools_result(result: "HandlerResult") -> CallToolResult | None:
    """What the tool came to; None for a task's, an extension's or an unfinished call's answer."""
    if isinstance(result, CallToolResult):
        return result
    if not isinstance(result, dict) or result.get("resultType", "complete") != "complete":
        return None
    try:
        return CallToolResult.model_validate(result, by_name=False)
    except ValidationError:
        return None
