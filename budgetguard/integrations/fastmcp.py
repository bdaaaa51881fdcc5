"""FastMCP servers: credits are set aside before a tool runs.

server = FastMCP("specs", middleware=[BudgetMiddleware(guard, {"deep_spec": 50})])
"""

import functools
import inspect
import itertools
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._costs import Cost
from budgetguard.integrations._client_answers import for_client, status_code
from budgetguard.integrations._extra import extra
from budgetguard.integrations._server_tools import following, is_followed, reporting
from budgetguard.integrations._tool_call import Turn, release, unanswered
from budgetguard.integrations.tools import OnToolRefusal, Tools

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from fastmcp.server.middleware import CallNext, MiddlewareContext
    from fastmcp.server.transforms import GetToolNext
    from mcp_types import CallToolRequestParams, ListToolsRequest

    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("fastmcp"):
    from fastmcp.exceptions import NotFoundError, ToolError, ValidationError
    from fastmcp.server.context import Context
    from fastmcp.server.dependencies import without_injected_parameters
    from fastmcp.server.middleware import Middleware
    from fastmcp.server.providers.addressing import parse_hashed_backend_name
    from fastmcp.server.providers.fastmcp_provider import FastMCPProviderTool
    from fastmcp.server.transforms import Transform
    from fastmcp.tools.base import InputRequiredToolResult, Tool, ToolResult
    from fastmcp.tools.function_tool import FunctionTool
    from fastmcp.tools.tool_transform import TransformedTool
    from fastmcp.utilities.async_utils import is_coroutine_function
    from fastmcp.utilities.versions import VersionSpec
    from mcp.shared.exceptions import MCPError
    from pydantic import PrivateAttr


class BudgetMiddleware(Middleware):
    """Holds the cost of a tool call while the tool runs; the client reads a refusal as an error result.

    `costs` is keyed by the name under which this server lists a tool, see
    `budgetguard.integrations.tools.Tools`. A cost callable is given the arguments as the client sent
    them, neither checked nor converted; `actual` is given the ToolResult.

    A refusal is a ToolResult with `is_error`, with the message as its text and the figures as
    `structured_content`. With `on_refusal="stop"` it is a protocol error instead: an MCPError of code 402,
    429, 503 or 500, with the figures as its `data`. That stops the run in most clients; the server has no
    control over the run itself. What a callable returns is the tool's result, converted as FastMCP does it.

    What happens to the hold:

    - If the tool raises, times out, is cancelled, returns an error result, asks its client for input or
      becomes a background task, the hold is kept: the outcome is unknown, so the credits remain counted
      until a later balance shows what was charged. `release_on` can name exceptions that prove that nothing was charged.
    - A call costs nothing if FastMCP rejects its arguments or has no such tool. To detect this, the
      functions of priced tools are wrapped in their server at their first call, and the server is given a
      transform for tools that FastMCP copies. Mounted servers are treated in the same way.

    A call that FastMCP's own tools only forward is priced once, as the tool that they call: its search
    transforms, for example, are free under `"*"`. If a tool of yours forwards calls in this way, give it
    the cost None.

    Put it last in `middleware`: middleware after it could rename or repeat the call that was admitted, or
    answer it from a cache. It guards calls through `FastMCP.call_tool`, including tools of mounted
    servers, but not resources, prompts, or calls with `run_middleware=False`. A name that no tool has
    guards nothing; when tools are listed, the log warns of a name that resembles one of theirs.
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

    async def on_list_tools(
        self,
        context: "MiddlewareContext[ListToolsRequest]",
        call_next: "CallNext[ListToolsRequest, Sequence[Tool]]",
    ) -> "Sequence[Tool]":
        """The tools, unchanged; the log warns of prices whose names nearly match one."""
        tools = await call_next(context)
        self._tools.expect(tool.name for tool in tools)
        return tools

    async def on_call_tool(
        self,
        context: "MiddlewareContext[CallToolRequestParams]",
        call_next: "CallNext[CallToolRequestParams, ToolResult]",
    ) -> ToolResult:
        """Run one tool call, or answer with a refusal."""
        name, arguments = context.message.name, context.message.arguments or {}
        tool: Tool | None = None
        path: list[Tool] = []
        try:
            tool = await _tool(context)
            name = name if tool is None else tool.name
            if self._is_free(name, tool):
                hold = None
            else:
                path = await _path(tool, context)
                hold = await self._tools.aopen(name, arguments)
        except Exception as error:  # noqa: BLE001  after any failure the tool must not run
            refusal = error
        else:
            if hold is None:
                return await call_next(context)
            return await self._run(name, path, hold, context, call_next)
        if tool is None and self._tools.find(name) is None:
            return await call_next(context)  # FastMCP cannot find it either, and will report that
        turned_down = await _turned_down(context, path)
        if turned_down is not None:
            raise turned_down
        if tool is not None and self._tools.supplies(name, refusal):
            return tool.convert_result(await self._tools.arefusal(name, refusal, arguments))
        return self._refused(name, refusal)

    async def _run(
        self,
        name: str,
        path: "list[Tool]",
        hold: "Hold",
        context: "MiddlewareContext[CallToolRequestParams]",
        call_next: "CallNext[CallToolRequestParams, ToolResult]",
    ) -> ToolResult:
        turn = Turn(hold)
        names = {name, *(tool.name for tool in path)}
        with following(_function(path[-1] if path else None), turn):
            try:
                result = await call_next(context)
            except BaseException as error:
                broken_off = functools.partial(_break_off, hold, error)
                turn.left(broken_off, broken_off)
                raise
        turn.over(functools.partial(self._end, name, names, turn, result))
        return result

    def _is_free(self, name: str, tool: "Tool | None") -> bool:
        return self._tools.find(name) is None or (
            tool is not None and _is_fastmcps(tool) and not self._tools.names(name)
        )

    def _refused(self, name: str, error: Exception) -> ToolResult:
        words, figures = for_client(name, error)
        if self._tools.stops(name):
            raise _Stop(status_code(error), words, figures) from error
        return _Refusal(name, words, figures)

    def _end(self, name: str, names: Collection[str], turn: Turn, result: Any) -> None:
        if _is_done(result):
            self._tools.settle(name, turn.hold, result)
        elif isinstance(result, _Refusal) and result.is_of(names) and not turn.began:
            release(turn.hold)  # another guard, inside this one, refused the call
        else:
            turn.hold.keep()


class _Refusal(ToolResult):
    """A refusal. Another guard, around this one, must not mistake it for the result of a tool that ran."""

    _tool: str = PrivateAttr(default="")

    def __init__(self, tool: str, words: str, figures: dict[str, Any]) -> None:
        super().__init__(words, structured_content=figures, is_error=True)
        self._tool = tool

    def is_of(self, names: Collection[str]) -> bool:
        """Whether it refuses the tool of one of these names, rather than a tool that this one called."""
        return self._tool in names


class _Stop(MCPError):
    """A refusal as a protocol error, likewise."""


def _is_done(result: Any) -> bool:
    """Whether the tool finished; the result of a background task, for example, is not a ToolResult."""
    return (
        isinstance(result, ToolResult)
        and not result.is_error
        and not isinstance(result, InputRequiredToolResult)
    )


def _break_off(hold: "Hold", error: BaseException) -> None:
    """Finish the hold of a call that raised `error`, according to what the tool itself raised.

    FastMCP (4.1, read 2026-11) wraps that in a ToolError, and reports its own time-out as an MCPError.
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
    """Whether the tool was not found, or its arguments were rejected, so that its own code never ran.

    A tool may raise the same errors, or call a tool that does; the traceback shows the difference.
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
    context: "MiddlewareContext[CallToolRequestParams]", path: "list[Tool]"
) -> Exception | None:
    """The error that FastMCP raises for this call before it runs anything; it replaces a refusal."""
    call = context.message
    if not path and context.fastmcp_context is not None:
        return NotFoundError(f"Unknown tool: {call.name!r}")
    # Up to that tool, the arguments are passed on unchanged.
    tool = next((each for each in path if not isinstance(each, FastMCPProviderTool)), None)
    if not isinstance(tool, FunctionTool):
        return None
    try:
        takes = {"fn": _nothing(tool.fn), "output_schema": None}
        await tool.model_copy(update=takes).run(dict(call.arguments or {}))
    except ValidationError as error:
        return error
    except Exception:  # noqa: BLE001  it cannot be checked in this way: the refusal stands
        return None
    return None


@functools.lru_cache(1000)  # FastMCP itself stores more than this for each function
def _nothing(function: Callable[..., Any]) -> Callable[..., None]:
    """A function that accepts the same arguments and does nothing."""

    def nothing(**_: Any) -> None:
        """Do nothing."""

    bare = without_injected_parameters(function)
    nothing.__dict__["__signature__"] = inspect.signature(bare)
    nothing.__annotations__ = get_type_hints(bare, include_extras=True)
    return nothing


def _function(tool: "Tool | None") -> Callable[..., Any] | None:
    """The tool's function, which from now on reports its runs; None if it cannot be reached.

    It cannot for tools of other servers, nor for tools that may run in the background: another process
    finds their function by its name.
    """
    tool = _made_of(tool)
    if not isinstance(tool, FunctionTool | TransformedTool) or tool.task_config.supports_tasks():
        return None
    if not inspect.isasyncgenfunction(tool.fn):
        tool.fn = reporting(tool.fn, is_async=is_coroutine_function(tool.fn), lists=True)
    return tool.fn


def _made_of(tool: "Tool | None") -> "Tool | None":
    """The tool that another was made from, unless that one has a function of its own."""
    while isinstance(tool, TransformedTool) and tool.fn.__module__.startswith("fastmcp."):
        tool = tool.parent_tool
    return tool


async def _path(
    tool: "Tool | None", context: "MiddlewareContext[CallToolRequestParams]"
) -> "list[Tool]":
    """The tool and the tools behind it: those it was made from, and those of mounted servers."""
    path: list[Tool] = []
    if tool is None or context.fastmcp_context is None:
        return path
    _install_reporting(context.fastmcp_context.fastmcp)
    while tool is not None:
        path.append(tool)
        tool = _made_of(tool)
        if tool is not path[-1]:
            continue
        tool = await _mounted(tool) if isinstance(tool, FastMCPProviderTool) else None
    return path


async def _mounted(tool: FastMCPProviderTool) -> "Tool | None":
    """The tool of a mounted server that this one represents; found in the same way as FastMCP 4.2 does."""
    server, name = tool._server, tool._original_name  # noqa: SLF001
    version = VersionSpec(eq=tool.version) if tool.version else None
    try:
        async with Context(fastmcp=server):
            found = await _named(server, name or "", version)
    except Exception:  # noqa: BLE001  the server will report it itself
        return None
    _install_reporting(server)
    return found


class _Reporting(Transform):
    """Makes the tool of a followed call report its run even if FastMCP has copied it."""

    async def get_tool(
        self, name: str, call_next: "GetToolNext", *, version: VersionSpec | None = None
    ) -> "Tool | None":
        """The tool, unchanged except for its function."""
        tool = await call_next(name, version=version)
        made_of = _made_of(tool)
        if is_followed(getattr(made_of, "fn", None)):
            _function(made_of)
        return tool


def _install_reporting(server: "FastMCP[Any]") -> None:
    # Not add_transform, which clears the schemas that headers are checked against.
    transforms: list[Transform] = getattr(server, "_transforms", [])
    if not any(isinstance(each, _Reporting) for each in transforms):
        transforms.append(_Reporting())


def _is_fastmcps(tool: Tool) -> bool:
    """Whether FastMCP itself made the tool, to search for other tools and to call them.

    Those are priced when they are called; forwarding a call to them costs nothing.
    """
    return isinstance(tool, FunctionTool) and str(getattr(tool.fn, "__module__", "")).startswith(
        "fastmcp."
    )


async def _tool(context: "MiddlewareContext[CallToolRequestParams]") -> "Tool | None":
    """The called tool, which is listed and priced under its own name; None if there is none.

    FastMCP 4.1 also runs tools of apps under a second name, their hash and local name (read 2026-11).
    """
    if context.fastmcp_context is None:
        return None
    return await _named(context.fastmcp_context.fastmcp, context.message.name)


async def _named(
    server: "FastMCP[Any]", name: str, version: VersionSpec | None = None
) -> "Tool | None":
    tool = await server.get_tool(name, version)
    hashed = parse_hashed_backend_name(name) if tool is None else None
    return tool if hashed is None else await server.get_tool_by_hash(*hashed)
