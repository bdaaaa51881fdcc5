"""Pydantic AI's agents: credits before a tool runs.

agent = Agent(model, tools=[deep_spec], capabilities=[BudgetCapability(guard, {"deep_spec": 50})])
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools

if TYPE_CHECKING:
    from budgetguard.guard import Guard

with extra("pydantic-ai"):
    from pydantic_ai import RunContext, ToolFailed
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset


class BudgetCapability(AbstractCapability[Any]):
    """Holds what a tool call costs while it runs; the model reads a refusal as a failed tool.

    `costs` is by tool name, see `budgetguard.integrations.tools.Tools`; `actual` is given what the
    tool returned. Guards all that the agent runs itself: its functions, toolsets, MCP servers, and
    the tools of other capabilities. Of parallel calls in one turn, those that the balance covers
    run. A tool that raises is kept, ModelRetry and a request for approval among it, unless
    `release_on` names them: `{"min": 50, "release_on": ModelRetry}`. A call that waits for approval
    holds nothing.

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
        try:
            hold = await self.tools.aopen(name, tool_args)
        except Exception as error:
            raise ToolFailed(self.tools.refusal(name, error)) from error
        with hold:
            result = await super().call_tool(name, tool_args, ctx, tool)
            self.tools.settle(name, hold, result)
        return result
