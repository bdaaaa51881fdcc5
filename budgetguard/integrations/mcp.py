"""Servers on the MCP SDK, version 2: credits are set aside before a tool runs.

server = MCPServer("specs", middleware=[BudgetMiddleware(guard, {"deep_spec": 50})])

For a low-level Server, use `server.middleware.append(...)`. Version 1 of the SDK has no middleware
around tools (1.30, read 2026-11): decorate the tools' functions with `guard.require_credits` there.
"""

import functools
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._costs import Cost
from budgetguard._engine.hold import NullHold
from budgetguard.integrations._client_answers import for_client, status_code
from budgetguard.integrations._extra import extra
from budgetguard.integrations._mcp_tools import (
    asks_first,
    lacks_an_answer,
    server_behind,
    takes,
    tool_of,
)
from budgetguard.integrations._server_tools import following
from budgetguard.integrations._tool_call import Turn, release
from budgetguard.integrations.tools import OnToolRefusal, Tools

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("mcp"):
    from mcp.shared.exceptions import MCPError
    from mcp_types import CallToolRequestParams, CallToolResult, TextContent
    from pydantic import ValidationError


class BudgetMiddleware:
    """Holds the cost of a tool call while the tool runs; the client reads a refusal as an error result.

    `costs` is keyed by tool name, see `budgetguard.integrations.tools.Tools`. A cost callable is given the
    arguments as the client sent them, neither checked nor converted; `actual` is given the CallToolResult.

    A refusal is a CallToolResult with `isError`, with the message as its text and the figures as
    `structuredContent`. With `on_refusal="stop"` it is a protocol error instead: an MCPError of code 402,
    429, 503 or 500, with the figures as its `data`. That stops the run in most clients; the server has no
    control over the run itself. What a callable returns is the tool's result, converted as the server
    converts it; a low-level Server, which converts nothing, takes a CallToolResult, a text or JSON values.

    What happens to the hold:

    - If the tool raises, is cancelled, returns an error result, asks its client for input or becomes a
      background task, the hold is kept: the outcome is unknown, so the credits remain counted until a
      later balance shows what was charged. `release_on` can name exceptions that prove that nothing was charged.
    - A call costs nothing if an MCPServer rejects its arguments or has no such tool, or if a resolver of
      a parameter asks the client first or is declined. To detect this, the functions of priced tools are
      wrapped, in the server, at their first call.
    - Of a low-level Server, only the handler's answer and its exceptions can be seen.

    Put it last in `middleware`: middleware after it could rename or repeat the call that was admitted. It
    guards calls by clients, but not resources, prompts, or calls of `MCPServer.call_tool` by the server's
    own code. A name that no tool has guards nothing; when tools are listed, the log warns of a name that
    resembles one of theirs.
    """

    @clean_traceback
    def __init__(
        self,
        guard: "Guard",
        costs: Mapping[str, Cost | None],
        *,
        on_refusal: OnToolRefusal = "tell",
    ) -> None:
        self._tools = Tools(guard, costs, on_refusal=on_refusal)

    async def __call__(
        self, ctx: "ServerRequestContext[Any, Any]", call_next: "CallNext"
    ) -> "HandlerResult":
        """Run one tool call, or answer with a refusal; all other requests pass unchanged."""
        if ctx.method == "tools/list":
            return self._check_prices(await call_next(ctx))
        if ctx.method != "tools/call":
            return await call_next(ctx)
        if ctx.request_id is None:
            return None  # A notification: the SDK would drop it as well, but after our admission.
        # Validated as the SDK will validate it, so that invalid calls are rejected before admission.
        call = CallToolRequestParams.model_validate(ctx.params or {}, by_name=False)
        if self._tools.find(call.name) is None:
            return await call_next(ctx)
        return await self._run(_Found(call_next, call), ctx, call_next)

    async def _run(
        self, found: "_Found", ctx: "ServerRequestContext[Any, Any]", call_next: "CallNext"
    ) -> "HandlerResult":
        try:
            hold = await self._tools.aopen(found.name, found.arguments)
        except Exception as error:  # noqa: BLE001  after any failure the tool must not run
            refusal = error
        else:
            turn = Turn(hold)
            with found.following(turn):
                try:
                    result = await call_next(ctx)
                except BaseException as error:
                    turn.left(functools.partial(_before_it_began, found, hold, error))
                    raise
            turn.over(lambda: self._end(found, turn, result))
            return result
        if found.is_turned_down():
            # The server itself reports why; if it reached the function after all, that would not run.
            refused_turn = Turn(NullHold(found.name, 0))
            refused_turn.left()
            with found.following(refused_turn):
                return await call_next(ctx)
        return await self._refused(found, refusal)

    def _check_prices(self, listed: "HandlerResult") -> "HandlerResult":
        tools = listed.get("tools") if isinstance(listed, dict) else None
        if isinstance(tools, list):
            self._tools.expect(tool["name"] for tool in tools if isinstance(tool, dict))
        return listed

    async def _refused(self, found: "_Found", error: Exception) -> "HandlerResult":
        if self._tools.supplies(found.name, error):
            return found.as_result(await self._tools.arefusal(found.name, error, found.arguments))
        words, figures = for_client(found.name, error)
        if self._tools.stops(found.name):
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
        elif not turn.began and (
            isinstance(result, _Refusal)
            or found.is_asking(result if done is None else done)
            or (done and found.is_turned_down())
        ):
            release(turn.hold)
        else:
            turn.hold.keep()


class _Refusal(CallToolResult):
    """A refusal. Another guard, around this one, must not mistake it for the result of a tool that ran."""


class _Stop(MCPError):
    """A refusal as a protocol error, likewise."""


class _Found:
    """A call, and its tool if the server is of a kind whose tools can be found."""

    def __init__(self, call_next: "CallNext", call: CallToolRequestParams) -> None:
        self.name = call.name
        self.arguments = call.arguments or {}
        self._server = server_behind(call_next)
        self._tool = None if self._server is None else tool_of(self._server, call.name)

    def as_result(self, supplied: Any) -> "HandlerResult":
        """What `on_refusal` returned, as the server would send it if the tool had returned it."""
        if self._tool is not None:
            return self._tool.fn_metadata.convert_result(supplied)
        if isinstance(supplied, CallToolResult):
            return supplied
        text = supplied if isinstance(supplied, str) else json.dumps(supplied, default=str)
        return CallToolResult(
            content=[TextContent(type="text", text=text)],
            structured_content=supplied if isinstance(supplied, dict) else None,
        )

    def is_turned_down(self) -> bool:
        """Whether there is no such tool, or the tool does not accept the arguments."""
        if self._tool is None:
            return self._server is not None
        return not takes(self._tool, self.arguments)

    def is_asking(self, result: object) -> bool:
        """Whether a parameter's resolver asks the client or was declined: the tool has not begun then."""
        return self._tool is not None and asks_first(self._tool, result)

    def lacks_an_answer(self, error: BaseException) -> bool:
        """Whether a parameter's resolver asked for something that this client does not support."""
        return self._tool is not None and lacks_an_answer(self._tool, error)

    def following(self, turn: Turn) -> AbstractContextManager[None]:
        """A block in which the tool's function reports its start and its outcome to `turn`."""
        return nullcontext() if self._tool is None else following(self._tool.fn, turn)


def _before_it_began(found: _Found, hold: "Hold", error: BaseException) -> None:
    """The tool was not reached, or its server cannot be followed: only `error` is known."""
    if isinstance(error, _Stop) or found.lacks_an_answer(error):
        release(hold)
    else:
        hold.finish(error)


def _tools_result(result: "HandlerResult") -> CallToolResult | None:
    """The tool's result; None for the answer of a task, an extension or an unfinished call."""
    if isinstance(result, CallToolResult):
        return result
    if not isinstance(result, dict) or result.get("resultType", "complete") != "complete":
        return None
    try:
        return CallToolResult.model_validate(result, by_name=False)
    except ValidationError:
        return None
