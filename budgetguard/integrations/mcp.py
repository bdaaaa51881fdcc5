"""Servers on the MCP SDK, version 2: credits before a tool runs.

server = MCPServer("specs", middleware=[BudgetMiddleware(guard, {"deep_spec": 50})])

A low-level Server takes it by `server.middleware.append(...)`. Version 1 of the SDK has no middleware
around tools (1.30, read 2026-11): decorate the tools' functions with `guard.require_credits` there.
"""

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from budgetguard.discreet import discreet
from budgetguard.hold import NoHold
from budgetguard.integrations._extra import extra
from budgetguard.integrations._mcp_tools import server_behind, takes, tool_of
from budgetguard.integrations._told import following
from budgetguard.integrations._turn import Turn, release
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

    A tool that raises is kept, unless `release_on` names what it raised; so is one that is cancelled,
    gives an error result, asks its client for input or becomes a background task: nobody knows yet
    what it cost. A call whose arguments an MCPServer turns down, or of a tool that there is not, costs
    nothing. For that the functions of its priced tools are wrapped, in the server, at their first
    call. Of a low-level Server only the handler's answer is seen, and what the handler raises.

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
        if self._tools.find(call.name) is None:
            return await call_next(ctx)
        return await self._run(_Found(call_next, call), ctx, call_next)

    async def _run(
        self, found: "_Found", ctx: "ServerRequestContext[Any, Any]", call_next: "CallNext"
    ) -> "HandlerResult":
        try:
            hold = await self._tools.aopen(found.name, found.arguments)
        except Exception as error:  # noqa: BLE001  whatever went wrong, the tool does not run
            refusal = error
        else:
            turn = Turn(hold)
            with found.following(turn):
                try:
                    result = await call_next(ctx)
                except BaseException as error:
                    turn.left(functools.partial(_before_it_began, hold, error))
                    raise
            turn.over(lambda: self._end(found, turn, result))
            return result
        if found.is_turned_down():
            # The server says itself why; its function, if it were reached all the same, does not run.
            nobodys = Turn(NoHold(found.name, 0))
            nobodys.left()
            with found.following(nobodys):
                return await call_next(ctx)
        return self._refused(found.name, refusal)

    def _looked_at(self, listed: "HandlerResult") -> "HandlerResult":
        tools = listed.get("tools") if isinstance(listed, dict) else None
        if isinstance(tools, list):
            self._tools.expect(tool["name"] for tool in tools if isinstance(tool, dict))
        return listed

    def _refused(self, name: str, error: Exception) -> CallToolResult:
        words, figures = for_client(name, error)
        if self._stops:
            raise _Stop(status_code(error), words, figures) from error
        return _Refusal(
            content=[TextContent(type="text", text=words)],
            structured_content=figures,
            is_error=True,
        )

    def _end(self, found: "_Found", turn: Turn, result: "HandlerResult") -> None:
        done = _tools_result(result)
        if done is not None and not done.is_error:
            self._tools.settle(found.name, turn.hold, done)
        elif not turn.began and (isinstance(result, _Refusal) or (done and found.is_turned_down())):
            release(turn.hold)
        else:
            turn.hold.keep()


class _Refusal(CallToolResult):
    """What another guard, around this one, is not to take for the result of a tool that ran."""


class _Stop(MCPError):
    """Likewise."""


class _Found:
    """A call, and the tool that is behind it where the server is one whose tools can be found."""

    def __init__(self, call_next: "CallNext", call: CallToolRequestParams) -> None:
        self.name = call.name
        self.arguments = call.arguments or {}
        self._server = server_behind(call_next)
        self._tool = None if self._server is None else tool_of(self._server, call.name)

    def is_turned_down(self) -> bool:
        """Whether there is no such tool, or it does not take the arguments."""
        if self._tool is None:
            return self._server is not None
        return not takes(self._tool, self.arguments)

    def following(self, turn: Turn) -> AbstractContextManager[None]:
        """A block in which the tool's function tells `turn` what it does."""
        return nullcontext() if self._tool is None else following(self._tool.fn, turn)


def _before_it_began(hold: "Hold", error: BaseException) -> None:
    """The tool was not reached, or is of a server that cannot be followed: `error` is all there is."""
    if isinstance(error, _Stop):
        release(hold)
    else:
        hold.finish(error)


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
