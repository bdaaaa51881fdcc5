"""The OpenAI Agents SDK's function tools: credits before a tool runs.

agent = Agent("planner", tools=guarded_tools([deep_spec], guard, {"deep_spec": 50}))
"""

import asyncio
import copy
import functools
import json
import types
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import wrapt

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations._turn import Refused, Turn, within
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
    balance covers run. Arguments that the SDK turns down hold nothing, as do approvals and input
    guardrails, which come before. A tool that raises is kept, whatever its `failure_error_function`
    makes of that, unless `release_on` names what it raised; so is one that times out or is cancelled.
    A plain function runs in a thread: when nobody waits for it any more, its hold stays open until
    that has ended.

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
        body = self._self_body
        if body is not None and not _takes(body, arguments):
            return await self.__wrapped__(context, arguments)
        call = _Call(self._self_tools, self._self_name, arguments)
        try:
            result = await self._asking(call)(context, arguments)
        except BaseException as error:
            call.left()
            if error is not call.refused:
                raise
        else:
            call.over(result, paused=_is_paused(context))
            return result
        return call.told(paused=_is_paused(context))

    def __agents_bind_function_tool__(self, tool: FunctionTool) -> "_Guarded":
        if self._self_body is None:
            return self
        return _Guarded(getattr(self.__wrapped__, _BIND)(tool), self._self_name, self._self_tools)

    def _asking(self, call: "_Call") -> Any:
        """What invokes the tool, and asks for its credits as far inside as can be reached.

        That is the function itself, where the SDK has made a tool of one: by then it has found the
        arguments right, and has made no words yet of what the function raises.
        """
        body = self._self_body
        if body is None:
            return call.around(self.__wrapped__)
        invoke = copy.copy(self.__wrapped__)
        invoke._invoke_tool_impl = _asking_inside(body, call) or call.around(body)  # noqa: SLF001
        return invoke


class _Call:
    """One call that a model made of a tool."""

    def __init__(self, tools: Tools, name: str, arguments: str) -> None:
        self.refused: Refused | None = None
        self._tools = tools
        self._name = name
        self._arguments = arguments
        self._turn: Turn | None = None

    def around(self, body: Any) -> Any:
        """`body`, an `async def`, asked for first."""

        async def asking(*args: Any, **kwargs: Any) -> Any:
            return await (await self._enter()).arun(body, *args, **kwargs)

        return asking

    def around_plain(self, body: Any) -> Any:
        """`body`, a plain function, asked for first and run in a thread, as the SDK would run it."""

        async def asking(*args: Any, **kwargs: Any) -> Any:
            turn = await self._enter()
            # It works on when nobody waits for it any more.
            return await asyncio.to_thread(turn.run, body, *args, **kwargs)

        return asking

    def over(self, result: Any, *, paused: bool) -> None:
        """The tool, or whatever stands around it, came to `result`."""
        if self._turn is not None:
            hold = self._turn.hold
            self._turn.over(lambda: hold.keep() if paused else self._settle(hold, result))

    def left(self) -> None:
        """The call came to nothing."""
        if self._turn is not None:
            self._turn.left()

    def told(self, *, paused: bool) -> str:
        """What the model is to read of a refusal; raises it where the run is to stop."""
        assert self.refused is not None
        if paused:
            # Of a run that is to go on nothing is read: it would pause again, for ever.
            raise self.refused.error
        return self._tools.refusal(self._name, self.refused.error)

    async def _enter(self) -> Turn:
        try:
            named = json.loads(self._arguments) if self._arguments else {}
            hold = await self._tools.aopen(self._name, named)
        except Exception as error:  # noqa: BLE001  whatever went wrong, the tool does not run
            self.refused = Refused(error)
            raise self.refused from None
        self._turn = Turn(hold, functools.partial(self._settle, hold))
        return self._turn

    def _settle(self, hold: "Hold", result: Any) -> None:
        self._tools.settle(self._name, hold, result)


def _asking_inside(body: Any, call: _Call) -> Any:
    """The SDK's invocation of a plain or `async def` function, which is asked for; None of others.

    The function is only to be had in the closure (0.24, read 2026-11).
    """
    found = within(body)
    if not {"the_func", "is_sync_function_tool"} <= found.keys():
        return None
    function = found["the_func"]
    asking = call.around_plain if found["is_sync_function_tool"] else call.around
    own = {**found, "the_func": asking(function), "is_sync_function_tool": False}
    cells = tuple(types.CellType(own[name]) for name in body.__code__.co_freevars)
    inside = types.FunctionType(body.__code__, body.__globals__, body.__name__, None, cells)
    inside.__dict__.update(body.__dict__)
    return inside


def _takes(body: Any, arguments: str) -> bool:
    """Whether an agent as a tool takes the arguments; it says itself of others why not."""
    parameters = within(body).get("params_adapter")
    if parameters is None:
        return True
    try:
        parameters.validate_python(json.loads(arguments) if arguments else {})
    except ValueError:  # a ValidationError of Pydantic's is one
        return False
    return True


def _is_paused(context: Any) -> bool:
    """Whether an agent as a tool waits for an approval inside of it."""
    call = getattr(context, "tool_call", None)
    if call is None:
        return False
    run = peek_agent_tool_run_result(call, scope_id=get_agent_tool_state_scope(context))
    return bool(getattr(run, "interruptions", None))
