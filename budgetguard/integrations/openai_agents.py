"""The OpenAI Agents SDK's function tools: credits before a tool runs.

agent = Agent("planner", tools=guarded_tools([deep_spec], guard, {"deep_spec": 50}))
"""

import copy
import functools
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import wrapt

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools, guarded_already, no_such_tool

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

with extra("openai-agents"):
    from agents import FunctionTool, Tool
    from agents.agent_tool_state import get_agent_tool_state_scope, peek_agent_tool_run_result


_BIND = "__agents_bind_function_tool__"


@discreet
def guarded_tools(
    tools: Iterable[Tool],
    guard: "Guard",
    costs: Mapping[str, Cost | None],
    *,
    on_refusal: OnRefusal = "tell",
) -> list[Tool]:
    """The same tools for an Agent, where those that `costs` names ask for their credits first.

    `costs` is by tool name, see `budgetguard.integrations.tools.Tools`; a callable is given the
    arguments that the model wrote, defaults not filled in, and `actual` what the tool returned. The
    model reads a refusal as the tool's result; with `on_refusal="stop"` the run ends with a
    UserError of the SDK, whose cause is the error. Of parallel calls in one turn, those that the
    balance covers run. A tool that raises is kept, whatever its `failure_error_function` makes of
    that; so is one that times out or is cancelled. Approvals and input guardrails come before the
    guard, and hold nothing.

    The tools that are given stay as they are. Guarded are function tools, agents as tools among
    them: those at one price for their whole run, so leave the tools inside of them without one.
    Where a run inside pauses for an approval, what it was held for is kept, and going on is asked and
    priced again: price the tools inside instead. What OpenAI hosts, shells, computers, custom tools,
    handoffs, and the tools of `mcp_servers` are not function tools, and `"*"` does not reach them; nor
    is the model's own cost guarded.

    A refusal ends the run in either case where it cannot be read: of a tool whose output has a declared
    schema, and of a paused run that is to go on. An agent whose `tool_use_behavior` is to stop at a tool
    takes a refusal for its answer.

    Raises ValueError for a name that no tool has, and TypeError where the tool is no function tool or
    is guarded already.
    """
    telling = Tools(guard, costs, on_refusal=on_refusal)
    stopping = Tools(guard, costs, on_refusal="stop")
    given = list(tools)
    for name in costs:
        if name != "*":
            _check(name, given, costs)
    return [
        _guarded(tool, stopping if getattr(tool, "output_json_schema", None) else telling)
        for tool in given
    ]


def _check(name: str, tools: Iterable[Tool], costs: Iterable[str]) -> None:
    kinds = {tool.name: type(tool) for tool in tools}
    if name not in kinds:
        raise ValueError(no_such_tool(name, kinds, costs))
    if not issubclass(kinds[name], FunctionTool):
        msg = f"{name} is no function tool, but {kinds[name].__name__}: it cannot be guarded here"
        raise TypeError(msg)


def _guarded(tool: Tool, tools: Tools) -> Tool:
    if not isinstance(tool, FunctionTool) or tools.find(tool.name) is None:
        return tool
    if isinstance(tool.on_invoke_tool, _Guarded):
        raise TypeError(guarded_already(tool.name))
    own = copy.copy(tool)
    own.on_invoke_tool = _Guarded(own.on_invoke_tool, own.name, tools)
    return own


class _Guarded(wrapt.ObjectProxy):  # type: ignore[misc,type-arg,unused-ignore]
    """What invokes a tool, with the guard before it.

    A proxy, because the SDK (0.24) knows its own invokers by their type: they check a call's
    arguments before it asks whether that is approved, and are bound anew to a copied tool.
    """

    def __init__(self, invoke: Any, name: str, tools: Tools) -> None:
        of_the_sdk = hasattr(invoke, _BIND)
        # The partial, because a copied tool also binds methods of its own anew, past this proxy.
        super().__init__(invoke if of_the_sdk else functools.partial(invoke))
        self._self_body = invoke._invoke_tool_impl if of_the_sdk else None  # noqa: SLF001
        self._self_name = name
        self._self_tools = tools

    async def __call__(self, context: Any, arguments: str) -> Any:
        name, tools = self._self_name, self._self_tools
        try:
            hold = await tools.aopen(name, json.loads(arguments) if arguments else {})
        except Exception as error:
            if _is_paused(context):
                raise  # Of a run that is to go on nothing is read: it would pause again, for ever.
            return tools.refusal(name, error)
        with hold:
            result = await self._telling(hold)(context, arguments)
            if not _is_paused(context):
                tools.settle(name, hold, result)
            elif hold.state == "open":
                hold.keep()
        return result

    def __agents_bind_function_tool__(self, tool: FunctionTool) -> "_Guarded":
        if self._self_body is None:
            return self
        return _Guarded(getattr(self.__wrapped__, _BIND)(tool), self._self_name, self._self_tools)

    def _telling(self, hold: "Hold") -> Any:
        """What invokes the tool, and ends `hold` if that raises, before words are made of it."""
        body = self._self_body
        if body is None:
            return self.__wrapped__

        async def tell(context: Any, arguments: str) -> Any:
            try:
                return await body(context, arguments)
            except BaseException as error:
                hold.finish(error)
                raise

        invoke = copy.copy(self.__wrapped__)
        invoke._invoke_tool_impl = tell  # noqa: SLF001  there is no public place inside of it
        return invoke


def _is_paused(context: Any) -> bool:
    """Whether an agent as a tool waits for an approval inside of it."""
    call = getattr(context, "tool_call", None)
    if call is None:
        return False
    run = peek_agent_tool_run_result(call, scope_id=get_agent_tool_state_scope(context))
    return bool(getattr(run, "interruptions", None))
