"""Pydantic AI's agents: credits are set aside before a tool runs.

agent = Agent(model, tools=[deep_spec], capabilities=[BudgetCapability(guard, {"deep_spec": 50})])
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from budgetguard._core.amounts import Amount
from budgetguard._core.approval import ApprovalRequest
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import BudgetGuardError
from budgetguard._costs import Cost
from budgetguard.integrations._approvals import covers, question
from budgetguard.integrations._extra import extra
from budgetguard.integrations._tool_call import Turn, is_outcome_unknown, release
from budgetguard.integrations.tools import OnToolRefusal, Tools

if TYPE_CHECKING:
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("pydantic-ai"):
    from pydantic_ai import ApprovalRequired, CallDeferred, RunContext, ToolFailed
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
    from pydantic_ai.toolsets.function import FunctionToolsetTool


class BudgetCapability(AbstractCapability[Any]):
    """Holds the cost of a tool call while the tool runs; the model reads a refusal as a failed tool.

    `costs` is keyed by tool name, see `budgetguard.integrations.tools.Tools`; `actual` is given what the
    tool returned. It guards every tool that the agent itself runs: its functions, its toolsets, MCP
    servers, and the tools of other capabilities. Of parallel calls in one turn, those that the balance
    covers run.

    What happens to the hold:

    - A call that waits for approval, or whose arguments Pydantic AI rejects, holds nothing.
    - If the tool raises, the hold is kept: the outcome is unknown, so the credits remain counted until a
      later balance shows what was charged. If your function raises ModelRetry before it spends anything,
      say so with `{"min": 50, "release_on": ModelRetry}`.
    - Pydantic AI itself raises ModelRetry when a tool times out or an MCP server does not answer.
      `release_on` does not apply to that: the cost is unknown, so the hold is kept.
    - A synchronous function runs in a thread. If the caller stops waiting, the hold remains open until
      the thread has finished.

    With `approve_above`, a call that would hold more than that many credits is deferred as a tool with
    `requires_approval` is, before anything is held; so the agent's `output_type` must include
    DeferredToolRequests. The request's metadata says what is asked, see docs/how-to/approvals.md. Hand it
    back with the decision: `DeferredToolResults(approvals={...}, metadata=requests.metadata)`. An approval
    without it, for less than the call costs by now, or more than 24 hours after the question, does not
    count: the call is deferred again.

    Put it last in `capabilities`: it cannot see what another capability's toolset does inside it. With
    `on_refusal="stop"` the error stops the run and reaches the code that ran the agent, unless another
    capability's `on_tool_execute_error` recovers from it. What a callable returns is the tool's result, and
    what it raises is what the tool would have raised.

    It does not guard output functions, tools that the model's provider runs, external tools, or the
    model's own cost. A name that no tool has guards nothing; the log warns of a name that resembles a
    tool's. Do not use it in durable runs (Temporal, DBOS, Prefect; 2.68, read 2026-11): it would admit
    the call inside the workflow, and again at each replay.
    """

    @clean_traceback
    def __init__(
        self,
        guard: "Guard",
        costs: Mapping[str, Cost | None],
        *,
        on_refusal: OnToolRefusal = "tell",
        approve_above: Amount | None = None,
    ) -> None:
        super().__init__()
        self._tools = Tools(guard, costs, on_refusal=on_refusal, approve_above=approve_above)

    @classmethod
    def get_serialization_name(cls) -> str | None:
        """None: a guard cannot be written into an agent's specification."""
        return None

    # Not wrap_tool_execute: by then, other capabilities may have turned a tool's failure into a
    # result, and Pydantic AI a ModelRetry into its own error, which release_on could not name.
    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """The agent's tools, with the guard around them."""
        return _Guarded(toolset, self._tools)


@dataclass
class _Guarded(WrapperToolset[Any]):
    """Tools whose calls are admitted before they run."""

    tools: Tools

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """The tools, unchanged; the log warns of prices whose names nearly match one."""
        tools = await super().get_tools(ctx)
        self.tools.expect(tools)
        return tools

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Run one tool call, or raise a refusal for the model to read."""
        priced = tool.tool_def.name  # the name that the model sees
        try:
            hold = await self.tools.aopen(priced, tool_args, functools.partial(_approve, ctx))
        except (ApprovalRequired, CallDeferred):
            raise  # the run ends here, and goes on with what was decided
        except Exception as error:
            said = await self.tools.arefusal(priced, error, tool_args)
            if self.tools.supplies(priced, error):
                return said
            raise _Refusal(said) from error
        settle = functools.partial(self.tools.settle, priced, hold)
        turn = Turn(hold, settle)
        noting, run = _noting(tool, turn), super().call_tool
        if noting is tool:
            run = functools.partial(turn.arun, run)
        try:
            result = await run(name, tool_args, ctx, noting)
        except BaseException as error:
            if noting is tool and is_outcome_unknown(error):
                hold.keep()
            turn.left(functools.partial(_before_it_began, hold, error))
            raise
        turn.over(lambda: settle(result))
        return result


def _approve(ctx: RunContext[Any], request: ApprovalRequest) -> bool:
    """End the run with a deferred call, unless this one goes on with an approval that covers it."""
    decided, call = ctx.tool_call_metadata, ctx.tool_call_id
    if ctx.tool_call_approved and covers(decided, request, call):
        return True
    raise ApprovalRequired(metadata=question(request, call))


class _Refusal(ToolFailed):
    """A refusal. Another guard, around this one, must not mistake it for the failure of a tool that ran."""


def _before_it_began(hold: "Hold", error: BaseException) -> None:
    """The function was not reached: the code around it raised `error` instead."""
    if isinstance(error, ApprovalRequired | CallDeferred | _Refusal | BudgetGuardError):
        release(hold)
    else:
        hold.finish(error)


def _noting(tool: ToolsetTool[Any], turn: Turn) -> ToolsetTool[Any]:
    """The same tool, with its function run through `turn`; `tool` itself if it has no function.

    Pydantic AI (2.68, read 2026-11) puts threads and time-outs of its own around the function.
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
