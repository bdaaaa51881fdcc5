"""CrewAI's tools: credits before a tool runs, on whichever way CrewAI takes to it.

agent = Agent(tools=guarded_tools([deep_spec, search], guard, {"deep_spec": 50}), ...)

Not by CrewAI's hooks (1.15, read 2026-11), which cannot be made to hold: a hook that raises is
swallowed and the tool runs, an `async` one is never awaited, an LLM class that runs functions itself
and the adapters for other frameworks call no hooks, between two hooks a failing tool may run six
times or a cached result be read, and of a blocked call a model reads that a hook blocked it, not why.
"""

import inspect
import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from budgetguard.discreet import discreet
from budgetguard.integrations._extra import extra
from budgetguard.integrations.objects import Cost
from budgetguard.integrations.tools import OnRefusal, Tools, guarded_already, no_such_tool

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.hold import Hold

with extra("crewai"):
    from crewai.tools import BaseTool, ToolFailure, ToolFailurePolicy
    from crewai.tools.base_tool import Tool
    from crewai.utilities.string_utils import sanitize_tool_name
    from pydantic import Field, PrivateAttr


_ANY = "*"


@discreet
def guarded_tools(
    tools: Iterable[BaseTool],
    guard: "Guard",
    costs: Mapping[str, Cost | None],
    *,
    on_refusal: OnRefusal = "tell",
) -> list[BaseTool]:
    """The tools, with a guard inside those that cost credits; the others are as they were.

    `costs` is by tool name, as written or as a model sees it, see
    `budgetguard.integrations.tools.Tools`; `actual` is given what the tool returned. Each run holds
    its cost, CrewAI's own retries of a tool that raises too; a result from CrewAI's cache costs
    nothing. A refusal is a ToolFailure, which CrewAI neither caches nor takes for a final answer.

    With `on_refusal="stop"` a refusal goes by `ToolFailurePolicy.RAISE`: the run ends with
    ToolExecutionFailedError, in whose `record.failure.error` the refusal is. What CrewAI turns down
    before a tool begins holds nothing, and ends no run. A tool that raises is kept, unless
    `release_on` names what it raised; so is one that returns a ToolFailure: nobody knows what it cost.
    So is one that returns something to await where it does not say so by `async def`.

    Give the agent these tools instead of the original ones, which stay without a guard. Tools that
    CrewAI adds by itself, for `mcps`, `apps` or delegation, are not among them. A refused call counts
    towards `max_usage_count`. After a checkpoint, guard the tools anew: restored ones never run.

    Raises TypeError for what is no BaseTool or is guarded already, and ValueError for a cost that no
    tool has.
    """
    tools = list(tools)
    seen = {_seen(_checked(tool).name) for tool in tools}
    named = {_seen(name): cost for name, cost in costs.items()}
    for name in sorted(named.keys() - seen - {_ANY}):
        raise ValueError(no_such_tool(name, sorted(seen), named))
    if len(named) != len(costs):
        msg = f"costs names a tool twice, as a model sees them: {', '.join(costs)}"
        raise ValueError(msg)
    priced = Tools(guard, named, on_refusal=on_refusal)
    return [
        tool if priced.find(_seen(tool.name)) is None else _guarded(tool, priced, on_refusal)
        for tool in tools
    ]


class Refusal(ToolFailure):
    """What CrewAI is told of a call that was not let in; `error` is what kept it out."""

    error: Any = Field(default=None, exclude=True)
    stops: bool = Field(default=False, exclude=True)

    def __str__(self) -> str:
        # The adapters for other frameworks show a model the text of whatever a tool returns.
        return self.as_agent_message()


class GuardedTool(BaseTool):
    """A tool that runs another one when the credits for it are there."""

    _inner: BaseTool = PrivateAttr()
    _tools: Tools = PrivateAttr()
    _stops: bool = PrivateAttr(default=False)

    def __getattribute__(self, name: str) -> Any:
        # CrewAI (1.15, read 2026-11) asks a tool, and not its failure, whether that ends the run: so a
        # policy that is always the same would have the tool's own failures and a model's slip end it.
        if name == "tool_failure_policy" and _asks_of_a_stop(sys._getframe(1)):  # noqa: SLF001
            return ToolFailurePolicy.RAISE
        return super().__getattribute__(name)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        arguments = self._named(args, kwargs)
        try:
            hold = self._tools.open(_seen(self.name), arguments)
        except Exception as error:  # noqa: BLE001  whatever went wrong, the tool does not run
            return self._refused(error)
        with hold:
            result = self._inner._run(**arguments)  # noqa: SLF001  what a tool is written as
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
            return self._refused(error)
        with hold:
            result = await run(**arguments)
            self._end(hold, result)
        return result

    def format_output_for_agent(self, raw_result: Any) -> str:
        """What a model reads of a result; CrewAI puts a ToolFailure, a refusal too, by itself."""
        return self._inner.format_output_for_agent(raw_result)

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, so that what is priced is what is run."""
        names = list(self.args_schema.model_fields)
        if len(args) > len(names):
            msg = f"{self.name} takes {len(names)} arguments, and was given {len(args)}"
            raise TypeError(msg)
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def _refused(self, error: Exception) -> Refusal:
        words = str(error) if self._stops else self._tools.refusal(_seen(self.name), error)
        return Refusal(message=words, error=error, stops=self._stops)

    def _end(self, hold: "Hold", result: Any) -> None:
        if isinstance(result, ToolFailure) or inspect.isawaitable(result):
            hold.keep()
        else:
            self._tools.settle(_seen(self.name), hold, result)


class GuardedCoroutineTool(GuardedTool):
    """A guarded tool whose `_run` is to be awaited, which CrewAI finds out by its kind."""

    async def _run(self, *args: Any, **kwargs: Any) -> Any:
        return await self._await(self._inner._run, args, kwargs)  # noqa: SLF001  as above


def _guarded(tool: BaseTool, tools: Tools, on_refusal: OnRefusal) -> BaseTool:
    if isinstance(tool, GuardedTool):
        raise TypeError(guarded_already(tool.name))
    run = tool.func if isinstance(tool, Tool) else tool._run  # noqa: SLF001  as above
    kind = GuardedCoroutineTool if inspect.iscoroutinefunction(run) else GuardedTool
    # Checked when `tool` was made; checking again would warn again of what cannot be serialized.
    guarded = kind.model_construct(**{name: getattr(tool, name) for name in BaseTool.model_fields})
    guarded._inner, guarded._tools = tool, tools  # noqa: SLF001  of this file
    if on_refusal == "stop":
        guarded._stops = True  # noqa: SLF001  likewise
    return guarded


def _asks_of_a_stop(frame: FrameType | None) -> bool:
    """Whether the policy is asked for because of a refusal that is to end the run."""
    for _ in range(3):
        if frame is not None:
            failure = frame.f_locals.get("failure")
            if isinstance(failure, Refusal):
                return failure.stops
            frame = frame.f_back
    return False


def _seen(name: str) -> str:
    """The name that a model calls a tool by."""
    return _ANY if name == _ANY else str(sanitize_tool_name(name))


def _checked(tool: object) -> BaseTool:
    if not isinstance(tool, BaseTool):
        msg = f"guarded_tools takes CrewAI's BaseTool, not {type(tool).__name__}"
        raise TypeError(msg)
    return tool
