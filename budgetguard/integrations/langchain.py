"""LangChain agents and LangGraph's ToolNode: credits are set aside before a tool runs.

agent = create_agent(model, tools, middleware=[..., BudgetMiddleware(guard, {"deep_spec": 50})])

budget = BudgetMiddleware(guard, {"deep_spec": 50})
node = ToolNode(tools, **budget.hooks)
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from weakref import WeakKeyDictionary

from budgetguard._core.amounts import Amount
from budgetguard._core.approval import ApprovalRequest
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.events import logger
from budgetguard._costs import Cost
from budgetguard.integrations._approvals import covers, is_about, question
from budgetguard.integrations._extra import extra
from budgetguard.integrations._tool_call import Refused, Turn
from budgetguard.integrations.tools import OnToolRefusal, Tools

if TYPE_CHECKING:
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import Command

    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("langchain"):
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.messages import ToolMessage
    from langchain_core.messages.tool import ToolOutputMixin
    from langchain_core.tools import BaseTool, StructuredTool
    from langchain_core.tools.simple import Tool
    from langgraph.errors import GraphBubbleUp
    from langgraph.prebuilt.tool_node import msg_content_output
    from langgraph.types import interrupt


Result: TypeAlias = "ToolMessage | Command[Any]"

_DOES_NOT_FIT = (
    "The answer to the approval request of %s does not fit it, so it is asked again. Resume the graph with "
    'the interrupt\'s value and its decision: {**interrupt.value, "approved": True}'
)

_NUMBERS: "WeakKeyDictionary[Guard, int]" = WeakKeyDictionary()
_COUNT = count()


class BudgetMiddleware(AgentMiddleware[Any, Any, Any]):
    """Holds the cost of a tool call while the tool runs; the model reads a refusal as its result.

    `costs` is keyed by the name of the tool that runs, see `budgetguard.integrations.tools.Tools`.
    `actual` is given the result of the call: a ToolMessage, a Command, or a list of both. Of parallel
    calls in one turn, those that the balance covers run.

    What happens to the hold:

    - Credits are held from the moment the tool's own code begins. A call whose arguments LangChain
      rejects, or whose tool does not exist, costs nothing.
    - If the tool raises, the hold is kept: the outcome is unknown, so the credits remain counted until
      a later balance shows what was charged. This is so whatever message LangChain makes of the
      exception, unless `release_on` names its type.
    - The hold is also kept if the tool returns a message of status "error", or interrupts the graph
      (unless you pass `release_on=GraphInterrupt`).
    - A synchronous tool that is awaited runs in a thread. If the caller stops waiting, the hold
      remains open until the thread has finished.

    With `approve_above`, a call that would hold more than that many credits interrupts the graph before
    anything is held. The interrupt's value says what is asked, see docs/how-to/approvals.md. Resume the
    graph with that value and `"approved"`: `Command(resume={**interrupt.value, "approved": True})`. A no
    (`"approved": False`, or only False) is a refusal. An answer about another call, for less than the call
    costs by now, or more than 24 hours after the question, does not count: the graph is interrupted
    again. That needs a checkpointer.

    Put it last in `middleware`: it cannot see when middleware after it replaces the tool. With
    `on_refusal="stop"` the error stops the run and reaches the code that invoked the agent, unless a
    middleware before it, or a ToolNode with `handle_tool_errors=True`, turns it into a message. What a
    callable returns becomes a ToolMessage of status "success", as a tool's result does; a ToolMessage, a
    Command or a list of both is taken as it is. An async callable needs an agent that is awaited.

    It guards tools only; use a guarded HTTP transport for the cost of the model itself. LangChain takes
    the result of a `return_direct` tool as the answer, even if that is a refusal. A name that no tool
    has guards nothing; at the first call the log warns of a name that resembles a tool's.
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
        number = _NUMBERS.setdefault(guard, next(_COUNT))
        self._name = f"{type(self).__name__}({', '.join(costs)}){f' {number}' if number else ''}"

    @property
    def name(self) -> str:
        """A name that differs between guards, because an agent rejects two middlewares of one name."""
        return self._name

    @property
    def hooks(self) -> dict[str, Any]:
        """Keyword arguments that put the same guard into a ToolNode used without an agent."""
        return {"wrap_tool_call": self.wrap_tool_call, "awrap_tool_call": self.awrap_tool_call}

    def wrap_tool_call(
        self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], Result]"
    ) -> Result:
        """Run one tool call, or return a refusal for the model to read."""
        call = self._call(request)
        if call is None:
            return handler(request)
        try:
            run = handler if call.admits_inside else functools.partial(call.enter().run, handler)
            result = run(call.request)
            if call.refused is None:
                return call.over(result)
        except BaseException as error:
            call.left()
            if error is not call.refused:
                raise
        return call.refusal()

    async def awrap_tool_call(
        self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], Awaitable[Result]]"
    ) -> Result:
        """`wrap_tool_call`, for asynchronous agents."""
        call = self._call(request)
        if call is None:
            return await handler(request)
        try:
            run = handler
            if not call.admits_inside:
                run = functools.partial((await call.aenter()).arun, handler)
            result = await run(call.request)
            if call.refused is None:
                return call.over(result)
        except BaseException as error:
            call.left()
            if error is not call.refused:
                raise
        return await call.arefusal()

    def _call(self, request: "ToolCallRequest") -> "_Call | None":
        # The only place where an agent shows its tools; a request made by hand has none.
        tools = getattr(request.runtime, "tools", None)
        if tools:
            self._tools.expect(tool.name for tool in tools)
        # The tool in the request runs, whatever name the model wrote; without a tool, nothing runs.
        if request.tool is None or self._tools.find(request.tool.name) is None:
            return None
        return _Call(self._tools, request, request.tool)


class _Call:
    """One call by a model; the tool in its `request` sets its credits aside before it runs."""

    def __init__(self, tools: Tools, request: "ToolCallRequest", tool: BaseTool) -> None:
        self.admits_inside = _is_langchains(tool)
        self.request = (
            request.override(tool=_admitting(tool, self)) if self.admits_inside else request
        )
        self.refused: Refused | None = None
        self._tools = tools
        self._name = tool.name
        self._turn: Turn | None = None

    def enter(self) -> Turn:
        """Set the credits aside; raises Refused if the tool must not run."""
        self.left()  # code between here and the tool tries again: each attempt has its own hold
        arguments = self.request.tool_call["args"]
        try:
            self._turn = Turn(self._tools.open(self._name, arguments, self._approve))
        except GraphBubbleUp:
            raise  # the graph is paused until somebody has answered
        except Exception as error:  # noqa: BLE001  after any failure the tool must not run
            self.refused = Refused(error)
            raise self.refused from None
        return self._turn

    async def aenter(self) -> Turn:
        """`enter`, for asynchronous code."""
        self.left()
        arguments = self.request.tool_call["args"]
        try:
            self._turn = Turn(await self._tools.aopen(self._name, arguments, self._approve))
        except GraphBubbleUp:
            raise
        except Exception as error:  # noqa: BLE001  as above
            self.refused = Refused(error)
            raise self.refused from None
        return self._turn

    def over(self, result: Result) -> Result:
        """The call has the result `result`."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.over(functools.partial(self._settle, turn.hold, result))
        return result

    def left(self) -> None:
        """The call has no result."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.left()

    def refusal(self) -> Result:
        """The message in which the model reads the refusal; raises the error to stop the run."""
        error, arguments = self._refused()
        return self._message(error, self._tools.refusal(self._name, error, arguments))

    async def arefusal(self) -> Result:
        """`refusal`, for asynchronous code."""
        error, arguments = self._refused()
        return self._message(error, await self._tools.arefusal(self._name, error, arguments))

    def _refused(self) -> tuple[Exception, dict[str, Any]]:
        assert self.refused is not None
        return self.refused.error, self.request.tool_call["args"]

    def _message(self, error: Exception, result: Any) -> Result:
        supplied = self._tools.supplies(self._name, error)
        if supplied and _is_message(result):
            return cast("Result", result)
        call = self.request.tool_call
        return ToolMessage(
            cast("Any", msg_content_output(result)),
            tool_call_id=call["id"],
            name=call["name"],
            status="success" if supplied else "error",
        )

    def _approve(self, request: ApprovalRequest) -> bool:
        """Interrupt the graph, once for each question; the node then runs again, with the answers."""
        call = self.request.tool_call
        asked = question(request, call["id"], call["args"])
        while True:
            answer = interrupt(asked)
            if answer is False:
                return False
            if is_about(answer, request, call["id"], call["args"]):
                approved = answer.get("approved")
                if approved is False:
                    return False
                if approved is True and covers(answer, request, call["id"], call["args"]):
                    return True
            logger.warning(_DOES_NOT_FIT, request.operation)

    def _settle(self, hold: "Hold", result: Result) -> None:
        if isinstance(result, ToolMessage) and result.status == "error":
            hold.keep()
        else:
            self._tools.settle(self._name, hold, result)


def _admitting(tool: BaseTool, call: _Call) -> BaseTool:
    """A copy of `tool` that sets its credits aside where its own code begins: in `_run` or `_arun`.

    LangChain (1.4, read 2026-11) checks the arguments before that, and turns exceptions into
    messages after it.
    """
    if isinstance(tool, StructuredTool | Tool):
        has_plain = bool(tool.func)
        own = type(tool)._arun not in {StructuredTool._arun, Tool._arun}  # noqa: SLF001
        is_awaited = own or tool.coroutine not in {None, _awaited}
    else:
        has_plain, is_awaited = True, type(tool)._arun is not BaseTool._arun  # noqa: SLF001

    @functools.wraps(tool._run)  # noqa: SLF001  the method that tools override
    def run(*args: Any, **kwargs: Any) -> Any:
        if not has_plain:
            return tool._run(*args, **kwargs)  # noqa: SLF001  raises: the tool has no sync function
        return call.enter().run(tool._run, *args, **kwargs)  # noqa: SLF001

    @functools.wraps(tool._arun)  # noqa: SLF001
    async def arun(*args: Any, **kwargs: Any) -> Any:
        turn = await call.aenter()
        if is_awaited:
            return await turn.arun(tool._arun, *args, **kwargs)  # noqa: SLF001

        @functools.wraps(tool._run)  # noqa: SLF001
        def noting(*args: Any, **kwargs: Any) -> Any:
            return turn.run(tool._run, *args, **kwargs)  # noqa: SLF001

        # In a thread, which continues even if its caller stops waiting.
        return await BaseTool._arun(_with(tool, _run=noting), *args, **kwargs)  # noqa: SLF001

    if isinstance(tool, StructuredTool | Tool) and tool.coroutine is None:
        # Without a coroutine, LangChain would run all of it, admission included, in a thread.
        return _with(tool, _run=run, _arun=arun, coroutine=_awaited)
    return _with(tool, _run=run, _arun=arun)


async def _awaited(*_: Any) -> None:
    """A placeholder that makes LangChain treat the tool as asynchronous and await its `_arun`."""


def _with(tool: BaseTool, **own: Any) -> BaseTool:
    """A copy of `tool` with its own methods, set past Pydantic, which accepts only fields."""
    copied = tool.model_copy()
    for name, value in own.items():
        object.__setattr__(copied, name, value)
    return copied


def _is_message(result: object) -> bool:
    """Whether LangChain takes it for the answer to a tool call, as it is."""
    several = result if isinstance(result, list) and result else [result]
    return all(isinstance(each, ToolOutputMixin) for each in several)


def _is_langchains(tool: BaseTool) -> bool:
    """Whether LangChain's own code leads to `_run` and `_arun`: the tool overrides nothing before."""
    ways = (getattr(type(tool), name) for name in ("invoke", "ainvoke", "run", "arun"))
    return all(way.__module__.startswith("langchain_core.") for way in ways)
