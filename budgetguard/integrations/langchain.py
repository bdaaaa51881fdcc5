"""LangChain agents and LangGraph's ToolNode: credits before a tool runs.

agent = create_agent(model, tools, middleware=[..., BudgetMiddleware(guard, {"deep_spec": 50})])

budget = BudgetMiddleware(guard, {"deep_spec": 50})
node = ToolNode(tools, **budget.hooks)
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools

if TYPE_CHECKING:
    from langchain_core.messages import ToolCall
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import Command

    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

with extra("langchain"):
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.messages import ToolMessage


Result: TypeAlias = "ToolMessage | Command[Any]"


class BudgetMiddleware(AgentMiddleware[Any, Any, Any]):
    """Holds what a tool call costs while it runs; the model reads a refusal as the tool's result.

    `costs` is by tool name, see `budgetguard.integrations.tools.Tools`; `actual` is given what the
    tool came to: a ToolMessage, a Command, or a list of both. Of parallel calls in one turn, those
    that the balance covers run. A tool that raises, or whose error was made a message of, is kept:
    nobody knows what it cost. So is one whose arguments LangChain itself turns down, and one that
    interrupts the graph, unless `release_on=GraphInterrupt` says that nothing was spent by then.

    Put it last in `middleware`: each attempt of a retry around it is held for, but what middleware
    after it does (another attempt, another tool) it cannot see. With `on_refusal="stop"` the error
    ends the run and reaches whoever invoked the agent, unless a middleware before it or a ToolNode
    with `handle_tool_errors=True` makes a message of it. Guards tools alone: a model's own cost is
    for an HTTP transport to guard. LangChain takes the result of a `return_direct` tool for the
    answer, a refusal too. A name that no tool has guards nothing; the log warns of one that looks like a
    slip, at the first call.
    """

    @discreet
    def __init__(
        self, guard: "Guard", costs: Mapping[str, Cost | None], *, on_refusal: OnRefusal = "tell"
    ) -> None:
        super().__init__()
        self._tools = Tools(guard, costs, on_refusal=on_refusal)
        self._name = f"{type(self).__name__}({', '.join(costs)})"

    @property
    def name(self) -> str:
        """Tells the middleware of two guards apart: an agent takes no two of one name."""
        return self._name

    @property
    def hooks(self) -> dict[str, Any]:
        """The keyword arguments that give a ToolNode without an agent the same guard."""
        return {"wrap_tool_call": self.wrap_tool_call, "awrap_tool_call": self.awrap_tool_call}

    def wrap_tool_call(
        self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], Result]"
    ) -> Result:
        """Run one tool call, or tell the model why not."""
        call = self._looked_at(request)
        try:
            hold = self._tools.open(call["name"], call["args"])
        except Exception as error:  # noqa: BLE001  whatever went wrong, the tool does not run
            return self._refused(request, error)
        with hold:
            result = handler(request)
            self._end(call["name"], hold, result)
        return result

    async def awrap_tool_call(
        self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], Awaitable[Result]]"
    ) -> Result:
        """`wrap_tool_call`, for agents that are awaited."""
        call = self._looked_at(request)
        try:
            hold = await self._tools.aopen(call["name"], call["args"])
        except Exception as error:  # noqa: BLE001  as above
            return self._refused(request, error)
        with hold:
            result = await handler(request)
            self._end(call["name"], hold, result)
        return result

    def _looked_at(self, request: "ToolCallRequest") -> "ToolCall":
        # Nowhere else does an agent show which tools it has; a request made by hand has none.
        tools = getattr(request.runtime, "tools", None)
        if tools:
            self._tools.expect(tool.name for tool in tools)
        return request.tool_call

    def _refused(self, request: "ToolCallRequest", error: Exception) -> ToolMessage:
        call = request.tool_call
        words = self._tools.refusal(call["name"], error)
        return ToolMessage(words, tool_call_id=call["id"], name=call["name"], status="error")

    def _end(self, name: str, hold: "Hold", result: Result) -> None:
        if isinstance(result, ToolMessage) and result.status == "error":
            hold.keep()
        else:
            self._tools.settle(name, hold, result)
