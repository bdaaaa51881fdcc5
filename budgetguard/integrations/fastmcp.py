"""FastMCP servers: credits before a tool runs.

server = FastMCP("specs", middleware=[BudgetMiddleware(guard, {"deep_spec": 50})])
"""

import functools
import inspect
import itertools
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations._told import following, telling
from budgetguard.integrations._turn import Turn, release, unanswered
from budgetguard.integrations.answers import for_client, status_code
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools

if TYPE_CHECKING:
    from fastmcp.server.middleware import CallNext, MiddlewareContext
    from mcp_types import CallToolRequestParams, ListToolsRequest

    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

with extra("fastmcp"):
    from fastmcp.exceptions import NotFoundError, ToolError, ValidationError
    from fastmcp.server.dependencies import without_injected_parameters
    from fastmcp.server.middleware import Middleware
    from fastmcp.server.providers.addressing import parse_hashed_backend_name
    from fastmcp.tools.base import InputRequiredToolResult, Tool, ToolResult
    from fastmcp.tools.function_tool import FunctionTool
    from fastmcp.tools.tool_transform import TransformedTool
    from fastmcp.utilities.async_utils import is_coroutine_function
    from mcp.shared.exceptions import MCPError
    from pydantic import PrivateAttr


class BudgetMiddleware(Middleware):
    """Holds what a tool call costs while it runs; the client reads a refusal as an error result.

    `costs` is by the name that this server lists a tool under, see
    `budgetguard.integrations.tools.Tools`. A callable for it is given the arguments as the client
    sent them, not yet checked or converted; `actual` is given the ToolResult. A refusal is a
    ToolResult with `is_error`, the words as its text and the figures as `structured_content`. With
    `on_refusal="stop"` it is a protocol error instead, an MCPError of code 402, 429, 503 or 500 with
    the figures as its `data`, which ends most clients' runs: the run itself is not the server's.

    A tool that raises is kept, unless `release_on` names what it raised; so is one that is out of its
    time, is cancelled, gives an error result, asks its client for input or becomes a background task:
    nobody knows yet what it cost. A call whose arguments FastMCP turns down, or of a tool that there
    is not, costs nothing. For that the functions of priced tools are wrapped, in the server, at their
    first call.

    What FastMCP's own tools only forward is priced once, as the tool that is called: those of its
    search transforms, for one, are free under `"*"`. Name a tool of yours that forwards so, at None.

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
        name, arguments = context.message.name, context.message.arguments or {}
        tool: Tool | None = None
        try:
            tool = await _tool(context)
            name = name if tool is None else tool.name
            hold = None if self._is_free(name, tool) else await self._tools.aopen(name, arguments)
        except Exception as error:  # noqa: BLE001  whatever went wrong, the tool does not run
            refusal = error
        else:
            if hold is None:
                return await call_next(context)
            return await self._run(name, tool, hold, context, call_next)
        if tool is None and self._tools.find(name) is None:
            return await call_next(context)  # it is FastMCP that cannot look it up, and will say so
        turned_down = await _turned_down(context, tool)
        if turned_down is not None:
            raise turned_down
        return self._refused(name, refusal)

    async def _run(
        self,
        name: str,
        tool: "Tool | None",
        hold: "Hold",
        context: "MiddlewareContext[CallToolRequestParams]",
        call_next: "CallNext[CallToolRequestParams, ToolResult]",
    ) -> ToolResult:
        turn = Turn(hold)
        with following(_function(tool), turn):
            try:
                result = await call_next(context)
            except BaseException as error:
                broken_off = functools.partial(_break_off, hold, error)
                turn.left(broken_off, broken_off)
                raise
        turn.over(functools.partial(self._end, name, hold, result))
        return result

    def _is_free(self, name: str, tool: "Tool | None") -> bool:
        return self._tools.find(name) is None or (
            tool is not None and _is_fastmcps(tool) and not self._tools.names(name)
        )

    def _refused(self, name: str, error: Exception) -> ToolResult:
        words, figures = for_client(name, error)
        if self._stops:
            raise _Stop(status_code(error), words, figures) from error
        return _Refusal(name, words, figures)

    def _end(self, name: str, hold: "Hold", result: Any) -> None:
        if _is_done(result):
            self._tools.settle(name, hold, result)
        elif isinstance(result, _Refusal) and result._tool == name:  # noqa: SLF001
            release(hold)  # another guard, inside of this one, let nothing run
        else:
            hold.keep()


class _Refusal(ToolResult):
    """What another guard, around this one, is not to take for the result of a tool that ran."""

    _tool: str = PrivateAttr(default="")

    def __init__(self, tool: str, words: str, figures: dict[str, Any]) -> None:
        super().__init__(words, structured_content=figures, is_error=True)
        self._tool = tool


class _Stop(MCPError):
    """Likewise."""


def _is_done(result: Any) -> bool:
    """Whether the tool came to an end; a background task's result, for one, is no ToolResult."""
    return (
        isinstance(result, ToolResult)
        and not result.is_error
        and not isinstance(result, InputRequiredToolResult)
    )


def _break_off(hold: "Hold", error: BaseException) -> None:
    """End the hold of a call that ended with `error`, as by what its tool raised.

    FastMCP (4.1, read 2026-11) makes a ToolError of that, and an MCPError of its own time-out.
    """
    if isinstance(error, _Stop) or _never_began(error):
        release(hold)
        return
    at = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
    made_here = isinstance(error, ToolError) and at[-1:] == ["fastmcp.server.server"]
    raised = error.__cause__ if made_here and error.__cause__ is not None else error
    if unanswered(raised):
        hold.keep()
    else:
        hold.finish(raised)


def _never_began(error: BaseException) -> bool:
    """Whether the tool was not found, or its arguments were turned down: no code of its own ran.

    That may raise the same, or call a tool that does, so it is sought in the traceback.
    """
    if not isinstance(error, ValidationError | NotFoundError):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    of_tools = itertools.dropwhile(
        lambda each: not isinstance(each.f_locals.get("self"), Tool), frames
    )
    modules = (str(each.f_globals.get("__name__")) for each in of_tools)
    return all(module.startswith("fastmcp.") or module == __name__ for module in modules)


async def _turned_down(
    context: "MiddlewareContext[CallToolRequestParams]", tool: "Tool | None"
) -> Exception | None:
    """What FastMCP says of a call before it runs anything; that is told rather than a refusal."""
    call = context.message
    if tool is None and context.fastmcp_context is not None:
        return NotFoundError(f"Unknown tool: {call.name!r}")
    if not isinstance(tool, FunctionTool):
        return None
    try:
        takes = {"fn": _nothing(tool.fn), "output_schema": None}
        await tool.model_copy(update=takes).run(dict(call.arguments or {}))
    except ValidationError as error:
        return error
    except Exception:  # noqa: BLE001  it cannot be asked that way: the refusal stands
        return None
    return None


@functools.lru_cache(1000)  # FastMCP keeps as much for each function that it sees, and more
def _nothing(function: Callable[..., Any]) -> Callable[..., None]:
    """A function that takes the same arguments, and does nothing."""

    def nothing(**_: Any) -> None:
        """Do nothing."""

    bare = without_injected_parameters(function)
    nothing.__dict__["__signature__"] = inspect.signature(bare)
    nothing.__annotations__ = get_type_hints(bare, include_extras=True)
    return nothing


def _function(tool: "Tool | None") -> Callable[..., Any] | None:
    """The tool's function, which from now on tells what it does; None where it is not to be had.

    That is so for tools of other servers, and for those that may run in the background, whose function
    another process knows by its name.
    """
    while isinstance(tool, TransformedTool) and tool.fn.__module__.startswith("fastmcp."):
        tool = tool.parent_tool
    if not isinstance(tool, FunctionTool | TransformedTool) or tool.task_config.supports_tasks():
        return None
    if not inspect.isasyncgenfunction(tool.fn):
        tool.fn = telling(tool.fn, is_async=is_coroutine_function(tool.fn), lists=True)
    return tool.fn


def _is_fastmcps(tool: Tool) -> bool:
    """Whether FastMCP has made the tool itself: to search for others, and to have them called.

    Those are priced when they are called; what forwards to them costs nothing.
    """
    return isinstance(tool, FunctionTool) and str(getattr(tool.fn, "__module__", "")).startswith(
        "fastmcp."
    )


async def _tool(context: "MiddlewareContext[CallToolRequestParams]") -> "Tool | None":
    """The tool that is called, which is listed, and priced, by its own name; None if there is none.

    FastMCP 4.1 runs tools of apps under a second name too, their hash and local name (read 2026-11).
    """
    if context.fastmcp_context is None:
        return None
    name, server = context.message.name, context.fastmcp_context.fastmcp
    tool = await server.get_tool(name)
    hashed = parse_hashed_backend_name(name) if tool is None else None
    return tool if hashed is None else await server.get_tool_by_hash(*hashed)
