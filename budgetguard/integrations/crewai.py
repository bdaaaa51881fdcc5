"""CrewAI's tools: credits are set aside before a tool runs, however CrewAI runs it.

agent = Agent(tools=guarded_tools([deep_spec, search], guard, {"deep_spec": 50}), ...)

CrewAI's hooks (1.15, read 2026-11) are not used, because they are not reliable: an exception from a
hook is swallowed and the tool runs; an `async` hook is never awaited; an LLM class that runs functions
itself, and the adapters for other frameworks, call no hooks; between two hooks a failing tool may run
six times, or a cached result may be read; and a model reads that a hook blocked the call, not why.
"""

import inspect
import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._costs import Cost
from budgetguard.integrations._extra import extra
from budgetguard.integrations.tools import OnToolRefusal, Tools, guarded_already, no_such_tool

if TYPE_CHECKING:
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("crewai"):
    from crewai.tools import BaseTool, ToolFailure, ToolFailurePolicy
    from crewai.tools.base_tool import Tool
    from crewai.utilities.string_utils import sanitize_tool_name
    from pydantic import Field, PrivateAttr


_ANY = "*"


@clean_traceback
def guarded_tools(
    tools: Iterable[BaseTool],
    guard: "Guard",
    costs: Mapping[str, Cost | None],
    *,
    on_refusal: OnToolRefusal = "tell",
) -> list[BaseTool]:
    """The tools, with the guard inside those that cost credits; the others are unchanged.

    `costs` is keyed by tool name, either as written or as a model sees it, see
    `budgetguard.integrations.tools.Tools`; `actual` is given what the tool returned. Each run holds its
    cost, including each of CrewAI's own retries of a tool that raises. A result from CrewAI's cache costs
    nothing. A refusal is a ToolFailure, which CrewAI neither caches nor takes as a final answer.

    With `on_refusal="stop"` a refusal follows `ToolFailurePolicy.RAISE`: the run stops with a
    ToolExecutionFailedError, whose `record.failure.error` is the refusal. What a callable returns is the
    tool's result, which CrewAI caches as any other; an async one is for tools that are awaited. A call that CrewAI rejects
    before the tool begins holds nothing and stops no run.

    If a tool raises, the hold is kept: the outcome is unknown, so the credits remain counted until a later
    balance shows what was charged. `release_on` can name exceptions that prove that nothing was charged.
    The hold is also kept if a tool returns a ToolFailure, or an awaitable without being an `async def`.

    Give the agent these tools instead of the original ones, which remain unguarded. Tools that CrewAI adds
    itself, for `mcps`, `apps` or delegation, are not included. A refused call counts towards
    `max_usage_count`. After a checkpoint, guard the tools again: restored ones never run.

    Raises TypeError for a tool that is not a BaseTool or is already guarded, and ValueError for a name
    that no tool has.
    """
    tools = list(tools)
    seen = {_seen(_checked(tool).name) for tool in tools}
    named = {_seen(name): cost for name, cost in costs.items()}
    for name in sorted(named.keys() - seen - {_ANY}):
        raise ValueError(no_such_tool(name, sorted(seen), named))
    if len(named) != len(costs):
        msg = f"two names in costs are the same tool to a model: {', '.join(costs)}"
        raise ValueError(msg)
    priced = Tools(guard, named, on_refusal=on_refusal)
    return [
        tool if priced.find(_seen(tool.name)) is None else _guarded(tool, priced) for tool in tools
    ]


class Refusal(ToolFailure):
    """The failure that CrewAI gets for a refused call; `error` is the reason."""

    error: Any = Field(default=None, exclude=True)
    stops: bool = Field(default=False, exclude=True)

    def __str__(self) -> str:
        # The adapters for other frameworks show a model `str` of whatever a tool returns.
        return self.as_agent_message()


class GuardedTool(BaseTool):
    """A tool that runs another one after its credits are set aside."""

    _inner: BaseTool = PrivateAttr()
    _tools: Tools = PrivateAttr()

    def __getattribute__(self, name: str) -> Any:
        # CrewAI (1.15, read 2026-11) reads the policy from the tool, not from the failure. With a fixed
        # policy, the tool's own failures and a model's mistakes would end the run as well.
        if name == "tool_failure_policy" and _asks_of_a_stop(sys._getframe(1)):  # noqa: SLF001
            return ToolFailurePolicy.RAISE
        return super().__getattribute__(name)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        arguments = self._named(args, kwargs)
        try:
            hold = self._tools.open(_seen(self.name), arguments)
        except Exception as error:  # noqa: BLE001  after any failure the tool must not run
            if self._supplies(error):
                return self._tools.refusal(_seen(self.name), error, arguments)
            return self._refused(error)
        with hold:
            result = self._inner._run(**arguments)  # noqa: SLF001  the method that tools override
            self._end(hold, result)
        return result

    async def _arun(self, *args: Any, **kwargs: Any) -> Any:
        if type(self._inner)._arun is BaseTool._arun:  # noqa: SLF001  likewise
            return await super()._arun()
        return await self._await(self._inner._arun, args, kwargs)  # noqa: SLF001  likewise

    async def _await(self, run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = self._named(args, kwargs)
        try:
            hold = await self._tools.aopen(_seen(self.name), arguments)
        except Exception as error:  # noqa: BLE001  as above
            if self._supplies(error):
                return await self._tools.arefusal(_seen(self.name), error, arguments)
            return self._refused(error)
        with hold:
            result = await run(**arguments)
            self._end(hold, result)
        return result

    def format_output_for_agent(self, raw_result: Any) -> str:
        """The text of a result for the model; CrewAI itself formats a ToolFailure, such as a refusal."""
        return self._inner.format_output_for_agent(raw_result)

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, so that the price and the run see the same."""
        names = list(self.args_schema.model_fields)
        if len(args) > len(names):
            msg = f"{self.name} takes {len(names)} arguments, but {len(args)} were given"
            raise TypeError(msg)
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def _supplies(self, error: Exception) -> bool:
        return self._tools.supplies(_seen(self.name), error)

    def _refused(self, error: Exception) -> Refusal:
        stops = self._tools.stops(_seen(self.name))
        words = str(error) if stops else self._tools.refusal(_seen(self.name), error)
        return Refusal(message=words, error=error, stops=stops)

    def _end(self, hold: "Hold", result: Any) -> None:
        if isinstance(result, ToolFailure) or inspect.isawaitable(result):
            hold.keep()
        else:
            self._tools.settle(_seen(self.name), hold, result)


class GuardedCoroutineTool(GuardedTool):
    """A guarded tool whose `_run` must be awaited, which CrewAI detects from the kind of function."""

    async def _run(self, *args: Any, **kwargs: Any) -> Any:
        return await self._await(self._inner._run, args, kwargs)  # noqa: SLF001  as above


def _guarded(tool: BaseTool, tools: Tools) -> BaseTool:
    if isinstance(tool, GuardedTool):
        raise TypeError(guarded_already(tool.name))
    run = tool.func if isinstance(tool, Tool) else tool._run  # noqa: SLF001  as above
    kind = GuardedCoroutineTool if inspect.iscoroutinefunction(run) else GuardedTool
    # Validated when `tool` was made; a second validation would repeat its warnings.
    guarded = kind.model_construct(**{name: getattr(tool, name) for name in BaseTool.model_fields})
    guarded._inner, guarded._tools = tool, tools  # noqa: SLF001  of this file
    return guarded


def _asks_of_a_stop(frame: FrameType | None) -> bool:
    """Whether CrewAI reads the policy because of a refusal that must end the run."""
    for _ in range(3):
        if frame is not None:
            failure = frame.f_locals.get("failure")
            if isinstance(failure, Refusal):
                return failure.stops
            frame = frame.f_back
    return False


def _seen(name: str) -> str:
    """The name by which a model calls a tool."""
    return _ANY if name == _ANY else str(sanitize_tool_name(name))


def _checked(tool: object) -> BaseTool:
    if not isinstance(tool, BaseTool):
        msg = f"guarded_tools takes CrewAI's BaseTool, not {type(tool).__name__}"
        raise TypeError(msg)
    return tool
