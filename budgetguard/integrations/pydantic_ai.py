"""Pydantic AI's agents: credits before a tool runs.

agent = Agent(model, tools=[deep_spec], capabilities=[BudgetCapability(guard, {"deep_spec": 50})])
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from budgetguard.discreet import discreet
from budgetguard.errors import BudgetGuardError
from budgetguard.integrations._extra import extra
from budgetguard.integrations._turn import Turn, in_the_dark, release
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

with extra("pydantic-ai"):
    from pydantic_ai import ApprovalRequired, CallDeferred, RunContext, ToolFailed
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
    from pydantic_ai.toolsets.function import FunctionToolsetTool


class BudgetCapability(AbstractCapability[Any]):
    """Holds what a tool call costs while it runs; the model reads a refusal as a failed tool.

    `costs` is by tool name, see `budgetguard.integrations.tools.Tools`; `actual` is given what the
    tool returned. Guards all that the agent runs itself: its functions, toolsets, MCP servers, and
    the tools of other capabilities. Of parallel calls in one turn, those that the balance covers
    run. A call that waits for approval, or whose arguments Pydantic AI turns down, holds nothing. A
    tool that raises is kept, unless `release_on` names what it raised: a function that raises
    ModelRetry before it spends anything is right with `{"min": 50, "release_on": ModelRetry}`. The
    ModelRetry that Pydantic AI itself makes of a tool's time-out, or of an MCP server that did not
    answer, is not meant by that: nobody knows what that tool cost, and it is kept. A plain function
    runs in a thread: when nobody waits for it any more, its hold stays open until that has ended.

    Put it last in `capabilities`: what another one's toolset does inside of it, it cannot see. With
    `on_refusal="stop"` the error ends the run and reaches whoever ran the agent, unless another
    capability's `on_tool_execute_error` recovers from it. Does not guard output functions, tools
    that the model's provider runs, external tools, nor the model's own cost. A name that no tool has
    guards nothing; the log warns of one that looks like a slip. Not for durable runs (Temporal, DBOS,
    Prefect; 2.68, read 2026-11): it would be asked in the workflow, and again at each replay of it.
    """

    @discreet
    def __init__(
        self, guard: "Guard", costs: Mapping[str, Cost | None], *, on_refusal: OnRefusal = "tell"
    ) -> None:
        super().__init__()
        self._tools = Tools(guard, costs, on_refusal=on_refusal)

    @classmethod
    def get_serialization_name(cls) -> str | None:
        """None: a guard cannot be written into a specification of an agent."""
        return None

    # Not wrap_tool_execute: there, other capabilities have turned a tool's failure into a result,
    # and Pydantic AI a ModelRetry into an error of its own, which release_on could not name.
    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Give the agent's tools with the guard before them."""
        return _Guarded(toolset, self._tools)


@dataclass
class _Guarded(WrapperToolset[Any]):
    """Tools, each of which is asked for before it is called."""

    tools: Tools

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """Give the tools as they are, and tell of prices for others."""
        tools = await super().get_tools(ctx)
        self.tools.expect(tools)
        return tools

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Run one tool call, or tell the model why not."""
        priced = tool.tool_def.name  # what runs, by the name that the model knows it by
        try:
            hold = await self.tools.aopen(priced, tool_args)
        except Exception as error:
            raise _Refusal(self.tools.refusal(priced, error)) from error
        settle = functools.partial(self.tools.settle, priced, hold)
        turn = Turn(hold, settle)
        noting, run = _noting(tool, turn), super().call_tool
        if noting is tool:
            run = functools.partial(turn.arun, run)
        try:
            result = await run(name, tool_args, ctx, noting)
        except BaseException as error:
            if noting is tool and in_the_dark(error):
                hold.keep()
            turn.left(functools.partial(_before_it_began, hold, error))
            raise
        turn.over(lambda: settle(result))
        return result


class _Refusal(ToolFailed):
    """What another guard, around this one, is not to take for a tool that ran."""


def _before_it_began(hold: "Hold", error: BaseException) -> None:
    """The function was not reached: what is around it raised `error` instead."""
    if isinstance(error, ApprovalRequired | CallDeferred | _Refusal | BudgetGuardError):
        release(hold)
    else:
        hold.finish(error)


def _noting(tool: ToolsetTool[Any], turn: Turn) -> ToolsetTool[Any]:
    """The same tool, whose function runs through `turn`; `tool` itself where it has none.

    Around the function Pydantic AI (2.68, read 2026-11) has threads and time-outs of its own.
    """
    if isinstance(tool, FunctionToolsetTool):
        schema: Any = getattr(tool.call_func, "__self__", None)
        if not hasattr(schema, "function"):
            return replace(tool, call_func=functools.partial(turn.arun, tool.call_func))
        run = functools.partial(turn.arun if schema.is_async else turn.run, schema.function)
        return replace(tool, call_func=replace(schema, function=run).call)
    for field in fields(tool):
        inner = getattr(tool, field.name)
        if isinstance(inner, ToolsetTool):
            own: dict[str, Any] = {field.name: _noting(inner, turn)}
            return tool if own[field.name] is inner else replace(tool, **own)
    return tool
