"""LangChain agents and LangGraph's ToolNode: credits before a tool runs.

agent = create_agent(model, tools, middleware=[..., BudgetMiddleware(guard, {"deep_spec": 50})])

budget = BudgetMiddleware(guard, {"deep_spec": 50})
node = ToolNode(tools, **budget.hooks)
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations._turn import Refused, Turn
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools

if TYPE_CHECKING:
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import Command

    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

with extra("langchain"):
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import BaseTool, StructuredTool
    from langchain_core.tools.simple import Tool


Result: TypeAlias = "ToolMessage | Command[Any]"

_NUMBERS: "WeakKeyDictionary[Guard, int]" = WeakKeyDictionary()
_COUNT = count()


class BudgetMiddleware(AgentMiddleware[Any, Any, Any]):
    """Holds what a tool call costs while it runs; the model reads a refusal as the tool's result.

    `costs` is by the name of the tool that runs, see `budgetguard.integrations.tools.Tools`; `actual`
    is given what the tool came to: a ToolMessage, a Command, or a list of both. Of parallel calls in
    one turn, those that the balance covers run. Credits are asked for where the tool's own code
    begins: arguments that LangChain turns down, and tools that there are not, cost nothing. A tool
    that raises is kept, whatever message is made of that, unless `release_on` names what it raised;
    so is one that interrupts the graph, but for `release_on=GraphInterrupt`, and one that returns a
    message of status "error". A plain tool that is awaited runs in a thread: when nobody waits for it
    any more its hold stays open until that has ended.

    Put it last in `middleware`: a tool that middleware after it puts in this one's place it cannot
    see. With `on_refusal="stop"` the error ends the run and reaches whoever invoked the agent, unless
    a middleware before it or a ToolNode with `handle_tool_errors=True` makes a message of it. Guards
    tools alone: a model's own cost is for an HTTP transport to guard. LangChain takes the result of a
    `return_direct` tool for the answer, a refusal too. A name that no tool has guards nothing; the log
    warns of one that looks like a slip, at the first call.
    """

    @discreet
    def __init__(
        self, guard: "Guard", costs: Mapping[str, Cost | None], *, on_refusal: OnRefusal = "tell"
    ) -> None:
        super().__init__()
        self._tools = Tools(guard, costs, on_refusal=on_refusal)
        number = _NUMBERS.setdefault(guard, next(_COUNT))
        self._name = f"{type(self).__name__}({', '.join(costs)}){f' {number}' if number else ''}"

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
        call = self._call(request)
        if call is None:
            return handler(request)
        try:
            if call.asks_inside:
                return call.over(handler(call.request))
            return call.over(call.enter().run(handler, call.request))
        except BaseException as error:
            call.left()
            if error is not call.refused:
                raise
        return call.told()

    async def awrap_tool_call(
        self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], Awaitable[Result]]"
    ) -> Result:
        """`wrap_tool_call`, for agents that are awaited."""
        call = self._call(request)
        if call is None:
            return await handler(request)
        try:
            if call.asks_inside:
                return call.over(await handler(call.request))
            turn = await call.aenter()
            return call.over(await turn.arun(handler, call.request))
        except BaseException as error:
            call.left()
            if error is not call.refused:
                raise
        return call.told()

    def _call(self, request: "ToolCallRequest") -> "_Call | None":
        # Nowhere else does an agent show which tools it has; a request made by hand has none.
        tools = getattr(request.runtime, "tools", None)
        if tools:
            self._tools.expect(tool.name for tool in tools)
        # What runs is the tool in the request, whatever name the model wrote; without one, nothing.
        if request.tool is None or self._tools.find(request.tool.name) is None:
            return None
        return _Call(self._tools, request, request.tool)


class _Call:
    """One call that a model made; its `request` is for a tool that asks before it runs."""

    def __init__(self, tools: Tools, request: "ToolCallRequest", tool: BaseTool) -> None:
        self.asks_inside = _is_langchains(tool)
        self.request = request.override(tool=_asking(tool, self)) if self.asks_inside else request
        self.refused: Refused | None = None
        self._tools = tools
        self._name = tool.name
        self._turn: Turn | None = None

    def enter(self) -> Turn:
        """Set the credits aside; raises Refused where the tool is not to run."""
        self.left()  # tried again, by what stands between here and the tool: held for anew
        try:
            self._turn = Turn(self._tools.open(self._name, self.request.tool_call["args"]))
        except Exception as error:  # noqa: BLE001  whatever went wrong, the tool does not run
            self.refused = Refused(error)
            raise self.refused from None
        return self._turn

    async def aenter(self) -> Turn:
        """`enter`, for code that awaits."""
        self.left()
        try:
            self._turn = Turn(await self._tools.aopen(self._name, self.request.tool_call["args"]))
        except Exception as error:  # noqa: BLE001  as above
            self.refused = Refused(error)
            raise self.refused from None
        return self._turn

    def over(self, result: Result) -> Result:
        """The call came to `result`."""
        if self.refused is not None:
            return self.told()
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.over(functools.partial(self._settle, turn.hold, result))
        return result

    def left(self) -> None:
        """The call came to nothing."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.left()

    def told(self) -> ToolMessage:
        """What the model is to read of a refusal; raises it where the run is to stop."""
        assert self.refused is not None
        words = self._tools.refusal(self._name, self.refused.error)
        call = self.request.tool_call
        return ToolMessage(words, tool_call_id=call["id"], name=call["name"], status="error")

    def _settle(self, hold: "Hold", result: Result) -> None:
        if isinstance(result, ToolMessage) and result.status == "error":
            hold.keep()
        else:
            self._tools.settle(self._name, hold, result)


def _asking(tool: BaseTool, call: _Call) -> BaseTool:
    """A copy of `tool` that asks for its credits where its own code begins: in `_run` or `_arun`.

    What comes before that in LangChain (1.4, read 2026-11) checks the arguments; what comes after
    makes words of exceptions.
    """
    if isinstance(tool, StructuredTool | Tool):
        has_plain = bool(tool.func)
        own = type(tool)._arun not in {StructuredTool._arun, Tool._arun}  # noqa: SLF001
        is_awaited = own or tool.coroutine not in {None, _awaited}
    else:
        has_plain, is_awaited = True, type(tool)._arun is not BaseTool._arun  # noqa: SLF001

    @functools.wraps(tool._run)  # noqa: SLF001  what a tool is written as
    def run(*args: Any, **kwargs: Any) -> Any:
        if not has_plain:
            return tool._run(*args, **kwargs)  # noqa: SLF001  raises that there is none
        return call.enter().run(tool._run, *args, **kwargs)  # noqa: SLF001

    @functools.wraps(tool._arun)  # noqa: SLF001
    async def arun(*args: Any, **kwargs: Any) -> Any:
        turn = await call.aenter()
        if is_awaited:
            return await turn.arun(tool._arun, *args, **kwargs)  # noqa: SLF001

        @functools.wraps(tool._run)  # noqa: SLF001
        def noting(*args: Any, **kwargs: Any) -> Any:
            return turn.run(tool._run, *args, **kwargs)  # noqa: SLF001

        # In a thread, which works on when nobody waits for it any more.
        return await BaseTool._arun(_with(tool, _run=noting), *args, **kwargs)  # noqa: SLF001

    if isinstance(tool, StructuredTool | Tool) and tool.coroutine is None:
        # Without one, all of it would go into a thread, and wait there for its credits.
        return _with(tool, _run=run, _arun=arun, coroutine=_awaited)
    return _with(tool, _run=run, _arun=arun)


async def _awaited(*_: Any) -> None:
    """Stand where LangChain looks whether a tool is awaited; what is awaited is its `_arun`."""


def _with(tool: BaseTool, **own: Any) -> BaseTool:
    """A copy of `tool` with methods of its own; that those are no fields is no matter to Pydantic."""
    copied = tool.model_copy()
    for name, value in own.items():
        object.__setattr__(copied, name, value)
    return copied


def _is_langchains(tool: BaseTool) -> bool:
    """Whether `_run` and `_arun` are where this tool comes to, and nothing of its own is before them."""
    ways = (getattr(type(tool), name) for name in ("invoke", "ainvoke", "run", "arun"))
    return all(way.__module__.startswith("langchain_core.") for way in ways)
