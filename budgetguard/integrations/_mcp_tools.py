"""The tools of an MCPServer: found from a middleware, and followed to what their functions do.

A middleware of the MCP SDK (2.3, read 2026-11) is told of a call by its name, and of its end by what
the server has made of that. What the function raised, and whether it was reached at all, is only to be
had inside of the server, to which a middleware's `call_next` leads.
"""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from budgetguard.integrations._extra import extra
from budgetguard.integrations._turn import Turn, within

if TYPE_CHECKING:
    from mcp.server.context import CallNext

with extra("mcp"):
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.tools import Tool

_TURNS: ContextVar[tuple[tuple[Tool, Turn], ...]] = ContextVar("budgetguard_turns", default=())


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
    """The server's tool of that name, whose function tells the turns in `following` what it does."""
    tool = server._tool_manager.get_tool(name)  # noqa: SLF001  the public list has no functions
    if tool is not None and not isinstance(tool.fn, _Told):
        tool.fn = _Told(tool)
    return tool


def takes(tool: Tool, arguments: dict[str, Any]) -> bool:
    """Whether the server will take the arguments, as far as can be told without running anything."""
    try:
        tool.fn_metadata.validate_arguments(arguments)
    except Exception:  # noqa: BLE001  a validator's own error is the server's to tell, too
        return False
    return True


@contextmanager
def following(tool: Tool, turn: Turn) -> Iterator[None]:
    """In the block, a run of the tool's function goes through `turn`."""
    token = _TURNS.set((*_TURNS.get(), (tool, turn)))
    try:
        yield
    finally:
        _TURNS.reset(token)


class _Told:
    """A tool's function, in its place, for good: without anyone who follows it, it is as it was."""

    def __init__(self, tool: Tool) -> None:
        functools.update_wrapper(self, tool.fn)
        self._tool = tool
        self._function = tool.fn

    def __call__(self, **arguments: Any) -> Any:
        turns = [turn for tool, turn in _TURNS.get() if tool is self._tool]
        if self._tool.is_async:
            return self._await(turns, arguments)
        run = self._function
        for turn in turns:
            run = functools.partial(turn.run, run)
        with _nobody():
            return run(**arguments)

    async def _await(self, turns: list[Turn], arguments: dict[str, Any]) -> Any:
        run = self._function
        for turn in turns:
            run = functools.partial(turn.arun, run)
        with _nobody():
            return await run(**arguments)


@contextmanager
def _nobody() -> Iterator[None]:
    """What a tool's function calls by itself is not followed."""
    token = _TURNS.set(())
    try:
        yield
    finally:
        _TURNS.reset(token)
