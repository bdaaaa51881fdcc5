"""The OpenAI Agents SDK's function tools: credits are set aside before a tool runs.

agent = Agent("planner", tools=guarded_tools([deep_spec], guard, {"deep_spec": 50}))
"""

import asyncio
import copy
import functools
import inspect
import json
import types
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, cast

import wrapt

from budgetguard._core.amounts import Amount
from budgetguard._core.approval import ApprovalRequest
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._costs import Cost
from budgetguard.integrations._approvals import Approvals
from budgetguard.integrations._extra import extra
from budgetguard.integrations._tool_call import Refused, Turn, within
from budgetguard.integrations.tools import OnToolRefusal, Tools, guarded_already, no_such_tool

if TYPE_CHECKING:
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("openai-agents"):
    from agents import AgentBase, FunctionTool, Tool
    from agents.agent_tool_state import get_agent_tool_state_scope, peek_agent_tool_run_result


_BIND = "__agents_bind_function_tool__"


@clean_traceback
def guarded_tools(
    tools: Iterable[Tool],
    guard: "Guard",
    costs: Mapping[str, Cost | None],
    *,
    on_refusal: OnToolRefusal = "tell",
    approve_above: Amount | None = None,
    approvals: MutableMapping[str, Any] | None = None,
) -> list[Tool]:
    """The same tools for an Agent, with the guard in those that `costs` names.

    `costs` is keyed by tool name, see `budgetguard.integrations.tools.Tools`. A callable is given the
    arguments as the model wrote them, without defaults; `actual` is given what the tool returned. The
    model reads a refusal as the tool's result; with `on_refusal="stop"` the run stops with a UserError of
    the SDK, whose cause is the error. What a callable returns is the tool's result; what it raises stops the
    run in the same way. Of parallel calls in one turn, those that the balance covers run.

    What happens to the hold:

    - Arguments that the SDK rejects hold nothing. Approvals and input guardrails come before the hold.
    - If the tool raises, times out or is cancelled, the hold is kept: the outcome is unknown, so the
      credits remain counted until a later balance shows what was charged. This is so whatever the tool's
      `failure_error_function` makes of the exception, unless `release_on` names its type.
    - A synchronous function runs in a thread. If the caller stops waiting, the hold remains open until
      the thread has finished.

    The tools that you pass are not changed. Function tools can be guarded, including agents used as
    tools. The price of such an agent covers its whole run, so give the tools inside it no price. If that
    run pauses for an approval, its hold is kept, and resuming it is admitted and priced again; price the
    tools inside instead in that case. Tools that OpenAI hosts, shells, computers, custom tools, handoffs
    and the tools of `mcp_servers` are not function tools, so `"*"` does not cover them. The model's own
    cost is not guarded either.

    With `approve_above`, a call that would hold more than that many credits needs an approval of the SDK's,
    as with `needs_approval`, before anything is held: the run pauses with an interruption, until
    `state.approve(...)` or `state.reject(...)`. What was asked is remembered in `approvals`, by the id of
    the call: a mapping of JSON values, in memory if you pass none. Pass one that outlives the process, such
    as a `shelve`, if runs are resumed in another one. When the call begins, it must still be covered: what it
    costs by now is no more than what was asked, and no more than 24 hours have passed. If it is not, the
    model reads that it may call the tool again, which asks again. A call that was never asked about here is
    refused, also after `always_approve=True`.

    Where nothing could read a refusal, it stops the run whatever `on_refusal` is: for a tool whose output has
    a declared schema (unless a callable supplies its result), and for a paused run that is being resumed. An agent whose `tool_use_behavior` is to
    stop at a tool takes a refusal as its answer.

    Raises ValueError for a name that no tool has, and TypeError if the named tool is not a function tool
    or is already guarded, or if `tools` contains something that is not a tool.
    """
    asked = _approvals(approve_above, approvals)
    priced = Tools(guard, costs, on_refusal=on_refusal, approve_above=approve_above)
    given = [_checked(tool) for tool in _several(tools)]
    for name in costs:
        if name != "*":
            _check(name, given, costs)
    return [_guarded(tool, priced, asked) for tool in given]


def _several(tools: object) -> Iterable[Any]:
    if not isinstance(tools, Iterable):
        msg = f"guarded_tools takes a list of tools, not {type(tools).__name__}"
        raise TypeError(msg)
    return tools


def _checked(tool: Any) -> Tool:
    # Every kind of tool in the SDK has a name, but so do agents.
    is_tool = isinstance(getattr(tool, "name", None), str) and not isinstance(tool, AgentBase)
    if not is_tool:
        advice = ""
        if isinstance(tool, AgentBase):
            advice = ": give it agent.as_tool(...)"
        elif inspect.isroutine(tool):
            advice = ": decorate the function with function_tool"
        msg = f"guarded_tools takes the SDK's tools, not {type(tool).__name__}{advice}"
        raise TypeError(msg)
    return cast("Tool", tool)


def _check(name: str, tools: Iterable[Tool], costs: Iterable[str]) -> None:
    kinds = {tool.name: type(tool) for tool in tools}
    if name not in kinds:
        raise ValueError(no_such_tool(name, kinds, costs))
    if not issubclass(kinds[name], FunctionTool):
        msg = f"{name} is {kinds[name].__name__}, not a function tool: it cannot be guarded here"
        raise TypeError(msg)


def _approvals(
    above: Amount | None, approvals: MutableMapping[str, Any] | None
) -> "Approvals | None":
    if approvals is not None and not isinstance(approvals, MutableMapping):
        msg = f"approvals takes a mapping that can be changed, not {type(approvals).__name__}"
        raise TypeError(msg)
    if above is None:
        if approvals is not None:
            msg = "approvals= has no effect without approve_above="
            raise TypeError(msg)
        return None
    return Approvals({} if approvals is None else approvals)


def _guarded(tool: Tool, tools: Tools, asked: "Approvals | None") -> Tool:
    if not isinstance(tool, FunctionTool) or tools.find(tool.name) is None:
        return tool
    if isinstance(tool.on_invoke_tool, _Guarded):
        raise TypeError(guarded_already(tool.name))
    own = copy.copy(tool)
    has_schema = bool(getattr(tool, "output_json_schema", None))
    own.on_invoke_tool = _Guarded(own.on_invoke_tool, own.name, tools, asked, has_schema=has_schema)
    if asked is not None:
        own.needs_approval = _asking(tool, tools, asked)
    return own


def _asking(tool: FunctionTool, tools: Tools, asked: "Approvals") -> Any:
    """The tool's `needs_approval`, which also asks about calls that hold more than `approve_above`."""
    own, prepare = tool.needs_approval, getattr(tool.on_invoke_tool, "prepare_arguments", None)

    async def policy(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
        if not callable(own):
            return bool(own)
        prepared = None if prepare is None else prepare(json.dumps(arguments), tool.name)
        if prepared is not None and not prepared.unchanged:
            return True  # the policy would not see what runs, see `_Guarded.prepare_arguments`
        given = own(context, arguments, call_id)
        return bool(await given if inspect.isawaitable(given) else given)

    async def needs_approval(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
        given = await policy(context, arguments, call_id)
        try:
            request = tools.needs_approval(tool.name, arguments)
        except Exception:  # noqa: BLE001  the tool will not run: the model reads why when it is called
            return given
        if request is not None:
            asked.remember(request, call_id, arguments)
        return given or request is not None

    return needs_approval


class _Guarded(wrapt.ObjectProxy):  # type: ignore[misc,type-arg,unused-ignore]
    """Invokes a tool after the guard has admitted the call.

    It is a proxy because the SDK (0.24) recognizes its own invokers by their type: it checks a call's
    arguments before it asks for approval, and binds the invoker again for a copied tool.
    """

    def __init__(
        self,
        invoke: Any,
        name: str,
        tools: Tools,
        asked: "Approvals | None",
        *,
        has_schema: bool,
    ) -> None:
        of_the_sdk = hasattr(invoke, _BIND)
        # A partial, because a copied tool binds its methods again, which would bypass this proxy.
        super().__init__(invoke if of_the_sdk else functools.partial(invoke))
        self._self_body = invoke._invoke_tool_impl if of_the_sdk else None  # noqa: SLF001
        self._self_name = name
        self._self_tools = tools
        self._self_has_schema = has_schema
        self._self_asked = asked

    async def __call__(self, context: Any, arguments: str) -> Any:
        body = self._self_body
        if body is not None and not _takes(body, arguments):
            return await self.__wrapped__(context, arguments)
        call_id = getattr(context, "tool_call_id", None)
        call = _Call(self._self_tools, self._self_name, arguments, self._self_asked, call_id)
        try:
            result = await self._admitting(call)(context, arguments)
        except BaseException as error:
            call.left()
            if error is not call.refused:
                raise
        else:
            call.over(result, paused=_is_paused(context))
            return result
        return await call.refusal(unread=self._self_has_schema, paused=_is_paused(context))

    def prepare_arguments(self, arguments: str, tool_name: str) -> Any:
        """The SDK's own, where nothing is asked here.

        Where a default would be filled in, the SDK (0.24) asks a person without calling
        `needs_approval`, and the price of the call would not be noted.
        """
        if self._self_asked is not None:
            return None
        return self.__wrapped__.prepare_arguments(arguments, tool_name)

    def __agents_bind_function_tool__(self, tool: FunctionTool) -> "_Guarded":
        if self._self_body is None:
            return self
        return _Guarded(
            getattr(self.__wrapped__, _BIND)(tool),
            self._self_name,
            self._self_tools,
            self._self_asked,
            has_schema=self._self_has_schema,
        )

    def _admitting(self, call: "_Call") -> Any:
        """The tool's invoker, which sets its credits aside as late as possible.

        If the SDK made the tool from a function, that is right before the function: the SDK has accepted
        the arguments by then, and has not yet turned the function's exception into text.
        """
        body = self._self_body
        if body is None:
            return call.around(self.__wrapped__)
        invoke = copy.copy(self.__wrapped__)
        invoke._invoke_tool_impl = _admitting_inside(body, call) or call.around(body)  # noqa: SLF001
        return invoke


class _Call:
    """One call by a model of one tool."""

    def __init__(
        self,
        tools: Tools,
        name: str,
        arguments: str,
        asked: "Approvals | None",
        call_id: str | None,
    ) -> None:
        self.refused: Refused | None = None
        self._tools = tools
        self._name = name
        self._arguments = arguments
        self._named: Any = {}
        self._asked = asked
        self._call_id = call_id
        self._turn: Turn | None = None

    def around(self, body: Any) -> Any:
        """`body`, an `async def`, after admission."""

        async def admitting(*args: Any, **kwargs: Any) -> Any:
            return await (await self._enter()).arun(body, *args, **kwargs)

        return admitting

    def around_plain(self, body: Any) -> Any:
        """`body`, a synchronous function, after admission and in a thread, as the SDK would run it."""

        async def admitting(*args: Any, **kwargs: Any) -> Any:
            turn = await self._enter()
            # It continues even if its caller stops waiting.
            return await asyncio.to_thread(turn.run, body, *args, **kwargs)

        return admitting

    def over(self, result: Any, *, paused: bool) -> None:
        """The tool, or the code around it, has the result `result`."""
        if not paused:
            self._forget()
        if self._turn is not None:
            hold = self._turn.hold
            self._turn.over(lambda: hold.keep() if paused else self._settle(hold, result))

    def left(self) -> None:
        """The call has no result."""
        if self._turn is not None:
            self._turn.left()

    async def refusal(self, *, unread: bool, paused: bool) -> Any:
        """What becomes of the refused call; raises the error to stop the run.

        With `unread`, nothing reads a text. With `paused`, the SDK takes no result of any kind: the run
        would pause again and again.
        """
        assert self.refused is not None
        error = self.refused.error
        if paused or (unread and not self._tools.supplies(self._name, error)):
            raise error
        self._forget()
        return await self._tools.arefusal(self._name, error, self._named)

    async def _enter(self) -> Turn:
        try:
            named = self._named = json.loads(self._arguments) if self._arguments else {}
            approve = functools.partial(self._approve, named)
            hold = await self._tools.aopen(self._name, named, approve)
        except Exception as error:  # noqa: BLE001  after any failure the tool must not run
            self.refused = Refused(error)
            raise self.refused from None
        self._turn = Turn(hold, functools.partial(self._settle, hold))
        return self._turn

    def _forget(self) -> None:
        if self._asked is not None:
            self._asked.forget(self._call_id)

    def _approve(self, arguments: Mapping[str, Any], request: ApprovalRequest) -> Any:
        """Whether the SDK's approval of this call, which it has by now, covers it."""
        assert self._asked is not None
        return self._asked.check(request, self._call_id, arguments)

    def _settle(self, hold: "Hold", result: Any) -> None:
        self._tools.settle(self._name, hold, result)


def _admitting_inside(body: Any, call: _Call) -> Any:
    """The SDK's invocation of a sync or async function, with admission first; None for other tools.

    The function can be reached only in the closure (0.24, read 2026-11).
    """
    found = within(body)
    if not {"the_func", "is_sync_function_tool"} <= found.keys():
        return None
    function = found["the_func"]
    admitting = call.around_plain if found["is_sync_function_tool"] else call.around
    own = {**found, "the_func": admitting(function), "is_sync_function_tool": False}
    cells = tuple(types.CellType(own[name]) for name in body.__code__.co_freevars)
    inside = types.FunctionType(body.__code__, body.__globals__, body.__name__, None, cells)
    inside.__dict__.update(body.__dict__)
    return inside


def _takes(body: Any, arguments: str) -> bool:
    """Whether an agent used as a tool accepts the arguments; if not, it reports the reason itself."""
    parameters = within(body).get("params_adapter")
    if parameters is None:
        return True
    try:
        parameters.validate_python(json.loads(arguments) if arguments else {})
    except ValueError:  # includes Pydantic's ValidationError
        return False
    return True


def _is_paused(context: Any) -> bool:
    """Whether an agent used as a tool waits for an approval inside its run."""
    call = getattr(context, "tool_call", None)
    if call is None:
        return False
    run = peek_agent_tool_run_result(call, scope_id=get_agent_tool_state_scope(context))
    return bool(getattr(run, "interruptions", None))
