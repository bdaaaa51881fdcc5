"""CrewAI's agents with a scripted model, on both of its ways to call tools."""

import asyncio
import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from example import EXAMPLES
from needed import need
from scenes import (
    COULD_NOT,
    OUTCOMES,
    REFUSED,
    TOO_LITTLE,
    UNKNOWN,
    Kept,
    Slow,
    cancelled_at_work,
    out_of_time,
    too_dear,
    ways_to_price,
    works_on,
)

need("crewai")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its imports warn of is not ours
    from crewai import Agent, BaseLLM, Crew, Task
    from crewai.hooks.dispatch import InterceptionPoint, scoped_hooks
    from crewai.tools import BaseTool, ToolExecutionFailedError, ToolFailure, tool
    from pydantic import BaseModel, PrivateAttr

    from budgetguard.integrations.crewai import GuardedTool, guarded_tools

from budgetguard import BudgetGuardError, Guard, InsufficientCredits
from budgetguard.integrations.tools import for_model
from budgetguard.testing import FakeProvider, HandClock

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # CrewAI's of itself

OFF = {
    "CREWAI_TESTING": "true",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No telemetry, and its files in a folder of the test's own."""
    for name, value in {**OFF, "HOME": str(tmp_path), "CREWAI_STORAGE_DIR": "crewai"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def guard(provider: FakeProvider) -> Guard:
    """A guard without a balance yet: each test first sets what the provider will report."""
    return Guard(provider)


@pytest.fixture(params=[True, False], ids=["native", "ReAct"])
def native(request: pytest.FixtureRequest) -> bool:
    """Whether the model calls functions, or writes what it wants into its text."""
    return bool(request.param)


class Model(BaseLLM):
    """Calls the tools that its script says, then answers; `read` is what it was given of them."""

    native: bool = True
    _script: list[list[tuple[str, dict[str, Any]]]] = PrivateAttr()
    _results: list[str] = PrivateAttr(default_factory=list)

    def supports_function_calling(self) -> bool:
        return self.native

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        self._results = [str(message.get("content")) for message in messages[2:]]
        if not self._script:
            return "done" if self.native else "Thought: I know.\nFinal Answer: done"
        calls = self._script.pop(0)
        if self.native:
            return [
                {
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for number, (name, arguments) in enumerate(calls)
            ]
        [(name, arguments)] = calls
        return f"Thought: I need it.\nAction: {name}\nAction Input: {json.dumps(arguments)}"

    async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call(messages)

    @property
    def read(self) -> str:
        """All that came of its calls."""
        return "\n".join(self._results)


class Specs:
    """Two tools that remember what ran; `during` is called while deep_spec runs."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.during: Callable[[], Any] = lambda: None

        @tool
        def deep_spec(prompt: str) -> Any:
            """Write it all."""
            self.ran.append(f"deep_spec {prompt}")
            return {"used": 8, "seen": self.during()}

        @tool("Fast Spec")
        def fast_spec(prompt: str) -> str:
            """Outline it."""
            self.ran.append(f"fast_spec {prompt}")
            return f"outline of {prompt}"

        self.deep, self.fast = deep_spec, fast_spec
        self.tools: list[BaseTool] = [deep_spec, fast_spec]


def crew(
    tools: list[BaseTool], *turns: Any, native: bool = True, **more: Any
) -> tuple[Crew, Model]:
    """A crew of one whose model takes these turns: one call, or a list of calls, each."""
    model = Model(model="scripted", native=native)
    model._script = [turn if isinstance(turn, list) else [turn] for turn in turns]
    agent = Agent(role="writer", goal="write", backstory="wrote", llm=model, tools=tools, **more)
    task = Task(description="write", expected_output="text", agent=agent)
    return Crew(agents=[agent], tasks=[task]), model


def call(name: str, prompt: str = "x") -> tuple[str, dict[str, Any]]:
    """A model's call of a tool."""
    return name, {"prompt": prompt}


@pytest.mark.parametrize("awaited", [False, True], ids=["kickoff", "akickoff"])
def test_a_refusal_is_read_and_the_run_goes_on(
    guard: Guard, provider: FakeProvider, native: bool, awaited: bool
) -> None:
    """The model reads our words, not CrewAI's about a hook; the tool never ran."""
    provider.credits = 20
    specs = Specs()
    tools = guarded_tools(specs.tools, guard, {"deep_spec": 50, "Fast Spec": 10})
    run, model = crew(tools, call("deep_spec", "all"), call("fast_spec", "less"), native=native)
    output = asyncio.run(run.akickoff()) if awaited else run.kickoff()
    assert output.raw == "done"
    assert model.read.count(TOO_LITTLE) == 1
    assert "outline of less" in model.read
    assert specs.ran == ["fast_spec less"]
    assert guard.available == 10
    [failure] = output.tasks_output[0].tool_failures
    assert isinstance(failure.failure.error, InsufficientCredits)


def test_a_refusal_is_exactly_the_tools_result(guard: Guard, provider: FakeProvider) -> None:
    """Not a word of CrewAI's around it."""
    provider.credits = 20
    specs = Specs()
    run, model = crew(guarded_tools(specs.tools, guard, {"deep_spec": 50}), call("deep_spec"))
    run.kickoff()
    assert model._results[-1] == TOO_LITTLE


def test_stop_ends_the_run(guard: Guard, provider: FakeProvider, native: bool) -> None:
    """CrewAI's own error reaches the caller, with ours in it."""
    provider.credits = 20
    specs = Specs()
    tools = guarded_tools(specs.tools, guard, {"deep_spec": 50}, on_refusal="stop")
    run, model = crew(tools, call("deep_spec"), call("fast_spec"), native=native)
    with pytest.raises(ToolExecutionFailedError, match="deep_spec needs 50 credits") as stopped:
        run.kickoff()
    refusal: Any = stopped.value.record.failure
    assert isinstance(refusal.error, InsufficientCredits)
    assert refusal.error.available == 20
    assert specs.ran == []
    assert len(model._script) == 1
    assert guard.available == 20


@pytest.mark.parametrize("awaited", [False, True], ids=["kickoff", "akickoff"])
def test_a_callable_supplies_the_tools_result(
    guard: Guard, provider: FakeProvider, native: bool, awaited: bool
) -> None:
    """The model reads it as the tool's result, and no failure is noted; the tool never ran."""
    provider.credits = 20

    def cached(error: InsufficientCredits, name: str, arguments: Any) -> str:
        return f"{error.needed} {name} {arguments['prompt']} {guard.available}"

    specs = Specs()
    tools = guarded_tools(specs.tools, guard, {"deep_spec": 50}, on_refusal=cached)
    run, model = crew(tools, call("deep_spec", "all"), native=native)
    output = asyncio.run(run.akickoff()) if awaited else run.kickoff()
    assert output.raw == "done"
    assert "50 deep_spec all 20" in model.read
    assert specs.ran == []
    assert output.tasks_output[0].tool_failures == []


def test_stop_ends_a_run_of_calls_side_by_side(guard: Guard, provider: FakeProvider) -> None:
    """Whichever thread it was in."""
    provider.credits = 20
    specs = Specs()
    tools = guarded_tools(specs.tools, guard, {"deep_spec": 50}, on_refusal="stop")
    run, _ = crew(tools, [call("deep_spec", str(number)) for number in range(3)])
    with pytest.raises(ToolExecutionFailedError):
        run.kickoff()
    assert specs.ran == []


@pytest.mark.parametrize(("cost", "left"), ways_to_price(lambda result: result["used"]))
def test_an_admitted_tool_is_settled(guard: Guard, native: bool, cost: Any, left: int) -> None:
    """Its credits are held while it runs; then it costs what was held, or what `actual` says."""
    specs = Specs()
    specs.during = lambda: guard.available
    run, model = crew(
        guarded_tools(specs.tools, guard, {"deep_spec": cost}), call("deep_spec"), native=native
    )
    run.kickoff()
    assert "'seen': Decimal('70')" in model.read
    assert guard.available == left


def test_calls_side_by_side_never_go_beyond_the_balance(guard: Guard) -> None:
    """Of five at 30 each, a balance of 100 lets three run; the others read why not."""
    specs = Specs()
    all_told = threading.Event()
    specs.during = lambda: all_told.wait(20)
    told: list[str] = []

    def count(context: Any) -> None:
        told.append(context.tool_result)
        if len(told) == 2:
            all_told.set()

    tools = guarded_tools(specs.tools, guard, {"deep_spec": 30})
    run, model = crew(tools, [call("deep_spec", str(number)) for number in range(5)])
    with scoped_hooks({InterceptionPoint.POST_TOOL_CALL: [count]}):
        run.kickoff()
    assert len(specs.ran) == 3
    assert all(words.startswith("BUDGET: needs 30 credits, 10 available") for words in told[:2])
    assert model.read.count("BUDGET") == 2
    assert model.read.count("'seen': True") == 3
    assert guard.available == 10


def test_each_run_of_a_tool_that_raises_is_kept(guard: Guard, kept: Kept, native: bool) -> None:
    """CrewAI runs it again by itself, for one call of the model; each time may have cost."""
    specs = Specs()

    def fail() -> None:
        msg = "half-way"
        raise OSError(msg)

    specs.during = fail
    tools = guarded_tools(specs.tools, guard, {"deep_spec": {"min": 30, "actual": lambda _: 0}})
    run, model = crew(tools, call("deep_spec"), native=native)
    run.kickoff()
    runs = 1 if native else 3
    assert len(specs.ran) == runs
    assert ("half-way" in model.read) is native
    assert ("BUDGET" in model.read) is not native
    kept(guard, 30 * runs)


def test_a_decorated_function_inside_of_a_tool(guard: Guard) -> None:
    """By itself its refusal is an error to CrewAI; caught, it is a ToolFailure in words for a model."""

    @tool
    def raising(prompt: str) -> str:
        """Write it all."""
        return too_dear(guard)(prompt)

    @tool
    def telling(prompt: str) -> str | ToolFailure:
        """Write it all."""
        try:
            return too_dear(guard)(prompt)
        except BudgetGuardError as error:
            return ToolFailure(message=for_model(error))

    run, model = crew([raising, telling], call("raising"))
    assert run.kickoff().raw == "done"
    assert model._results[-1].startswith("Error executing tool: deep_spec needs 120 credits")
    run, model = crew([raising, telling], call("telling"))
    assert run.kickoff().raw == "done"
    assert model._results[-1] == REFUSED


def test_release_on_gives_it_back(guard: Guard, native: bool) -> None:
    """It hears what the tool raised, before CrewAI makes words of that."""
    specs = Specs()

    def fail() -> None:
        raise ConnectionRefusedError

    specs.during = fail
    terms = {"min": 60, "release_on": ConnectionRefusedError}
    run, _ = crew(
        guarded_tools(specs.tools, guard, {"deep_spec": terms}), call("deep_spec"), native=native
    )
    run.kickoff()
    assert specs.ran
    assert guard.available == 100


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120, lambda prompt: 10 * len(prompt)])
@pytest.mark.parametrize("wrong", [("deep_spec", {"prompt": [1]}), ("no_spec", {"prompt": "x"})])
def test_what_crewai_turns_down_costs_nothing(
    guard: Guard, native: bool, cost: Any, on_refusal: Any, wrong: Any
) -> None:
    """Arguments that a tool does not take, and a tool that there is not: the run goes on."""
    specs = Specs()
    costs = {"deep_spec": cost, "*": 1}
    tools = guarded_tools(specs.tools, guard, costs, on_refusal=on_refusal)
    run, model = crew(tools, wrong, native=native)
    assert run.kickoff().raw == "done"
    assert "BUDGET" not in model.read
    assert specs.ran == []
    assert guard.available in {None, 100}


def test_stop_is_for_refusals_alone(guard: Guard, native: bool) -> None:
    """A tool that fails by itself stops no run that would continue without the guard."""
    specs = Specs()
    specs.during = lambda: 1 / 0
    tools = guarded_tools(specs.tools, guard, {"deep_spec": 10}, on_refusal="stop")
    run, model = crew(tools, call("deep_spec"), call("fast_spec", "less"), native=native)
    assert run.kickoff().raw == "done"
    assert "outline of less" in model.read


@OUTCOMES
def test_a_thread_that_works_on_holds_on(
    clock: HandClock, provider: FakeProvider, native: bool, error: Any, release_on: Any, after: int
) -> None:
    """When its crew is cancelled only the wait is over: the credits remain held until the thread has finished."""
    slow = Slow(error)

    async def given_up(guard: Guard) -> None:
        terms = {"min": 50, "release_on": release_on}
        tools = guarded_tools([tool("deep_spec")(slow.call)], guard, {"deep_spec": terms})
        run, _ = crew(tools, call("deep_spec"), native=native)
        await slow.give_up(run.akickoff())

    works_on(clock, provider, slow, after, given_up)


def test_a_failure_that_the_tool_tells_is_kept(guard: Guard, kept: Kept) -> None:
    """It may have spent by then."""
    specs = Specs()

    @tool
    def failing(prompt: str) -> ToolFailure:
        """Fail."""
        return ToolFailure(message=f"{prompt} broke half-way")

    tools = guarded_tools([failing, *specs.tools], guard, {"failing": 30})
    run, model = crew(tools, call("failing"))
    run.kickoff()
    assert "x broke half-way" in model.read
    kept(guard, 30)


def test_a_tool_that_is_cancelled_is_kept(guard: Guard, kept: Kept) -> None:
    """Where it is awaited, it can be."""
    seen: list[Any] = []

    def run(work: Any) -> Any:
        class Waiting(BaseTool):
            name: str = "waiting"
            description: str = "Wait."

            def _run(self, prompt: str) -> str:
                raise NotImplementedError

            async def _arun(self, prompt: str) -> Any:
                seen.append((prompt, guard.available))
                return await work(prompt)

        [waiting] = guarded_tools([Waiting()], guard, {"waiting": 30})
        return waiting.arun(prompt="x")

    cancelled_at_work(run)
    assert seen == [("x", 70)]
    kept(guard, 30)


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
def test_a_cost_that_cannot_be_told_lets_nothing_run(
    guard: Guard, native: bool, no_price: tuple[Any, str], on_refusal: Any
) -> None:
    """The model is told so, or the caller."""
    cost, kind = no_price
    specs = Specs()
    tools = guarded_tools(specs.tools, guard, {"deep_spec": cost}, on_refusal=on_refusal)
    run, model = crew(tools, call("deep_spec", "shop"), native=native)
    if on_refusal == "tell":
        run.kickoff()
        assert f"{COULD_NOT} ({kind}" in model.read
    else:
        with pytest.raises(ToolExecutionFailedError) as stopped:
            run.kickoff()
        failure: Any = stopped.value.record.failure
        assert f"{type(failure.error).__name__}: {failure.error}".startswith(kind)
    assert specs.ran == []
    assert guard.available in {None, 100}


def test_a_balance_that_cannot_be_had_lets_nothing_run(
    guard: Guard, provider: FakeProvider, native: bool
) -> None:
    """The model reads that it must continue without the tool."""
    provider.failure = OSError("no route")
    specs = Specs()
    tools = guarded_tools(specs.tools, guard, {"deep_spec": 50})
    run, model = crew(tools, call("deep_spec"), native=native)
    run.kickoff()
    assert UNKNOWN in model.read
    assert specs.ran == []


def test_a_balance_that_hangs_lets_nothing_run(
    guard: Guard, provider: FakeProvider, clock: HandClock, native: bool
) -> None:
    """The model is told at the guard's time-out."""
    specs = Specs()
    tools = guarded_tools(specs.tools, guard, {"deep_spec": 50})
    run, model = crew(tools, call("deep_spec"), native=native)
    assert out_of_time(clock, provider, run.kickoff).raw == "done"
    assert UNKNOWN in model.read
    assert specs.ran == []


def test_hooks_cannot_let_it_through(guard: Guard, provider: FakeProvider, native: bool) -> None:
    """Nor do they see it otherwise than as a call that was made and failed."""
    provider.credits = 20
    specs = Specs()

    def cheaper(context: Any) -> bool:
        context.tool_input["prompt"] = "long enough"
        return True

    def broken(context: Any) -> None:
        raise OSError

    hooks = {
        InterceptionPoint.PRE_TOOL_CALL: [broken, cheaper],
        InterceptionPoint.POST_TOOL_CALL: [broken],
    }
    tools = guarded_tools(specs.tools, guard, {"deep_spec": len_of_prompt})
    run, model = crew(tools, call("deep_spec", "x"), native=native)
    with scoped_hooks(hooks):  # type: ignore[arg-type]
        run.kickoff()
    assert "BUDGET: needs 110 credits, 20 available" in model.read
    assert specs.ran == []


def len_of_prompt(prompt: str) -> int:
    """Ten credits for each letter."""
    return 10 * len(prompt)


def test_a_refusal_is_not_cached_and_a_cached_result_costs_nothing(
    guard: Guard, provider: FakeProvider, clock: HandClock, native: bool
) -> None:
    """After a top-up the same call runs; a third time, CrewAI remembers what came of it."""
    provider.credits = 20
    specs = Specs()
    tools = guarded_tools(specs.tools, guard, {"deep_spec": 50})
    other = call("fast_spec")
    run, model = crew(
        tools, call("deep_spec"), other, call("deep_spec"), other, call("deep_spec"),
        native=native, cache=True,
    )  # fmt: skip
    topped = []

    def top_up(context: Any) -> None:
        if context.tool_name == "fast_spec" and not topped:
            topped.append(provider.top_up(100))
            clock.advance(6)

    with scoped_hooks({InterceptionPoint.POST_TOOL_CALL: [top_up]}):
        run.kickoff()
    assert model.read.count("BUDGET") == 1
    assert specs.ran.count("deep_spec x") == 1
    assert guard.available == 70


def test_a_refusal_is_no_final_answer(guard: Guard, provider: FakeProvider, native: bool) -> None:
    """Of a tool whose result would be one."""
    provider.credits = 20

    @tool(result_as_answer=True)
    def deep_spec(prompt: str) -> str:
        """Write it all."""
        return prompt

    tools = guarded_tools([deep_spec], guard, {"deep_spec": 50})
    run, _ = crew(tools, call("deep_spec"), native=native)
    assert run.kickoff().raw == "done"


def test_what_is_not_priced_is_what_it_was(guard: Guard, provider: FakeProvider) -> None:
    """The very same tools; `"*"` prices the rest, and None lets one of them be."""
    specs = Specs()
    deep, fast = guarded_tools(specs.tools, guard, {"deep_spec": 50})
    assert fast is specs.fast
    assert isinstance(deep, GuardedTool)
    run, _ = crew([deep, fast], call("fast_spec"))
    run.kickoff()
    assert provider.requests == 0
    provider.credits = 5
    deep, fast = guarded_tools(specs.tools, guard, {"*": 10, "fast_spec": None})
    assert fast is specs.fast
    assert "BUDGET" in str(deep.run(prompt="y"))
    assert specs.ran == ["fast_spec x"]


def test_it_looks_like_the_tool_to_a_model(guard: Guard) -> None:
    """Name, description, arguments, and whatever else CrewAI asks of it."""

    class Answer(BaseModel):
        text: str

    @tool("Deep Spec", result_schema=Answer, max_usage_count=2)
    def deep(prompt: str, pages: int = 3) -> Answer:
        """Write it all."""
        return Answer(text=prompt * pages)

    [guarded] = guarded_tools([deep], guard, {"Deep Spec": lambda prompt, pages: 10 * pages})
    assert guarded.formatted_description == deep.formatted_description
    assert guarded.args_schema is deep.args_schema
    assert guarded.format_output_for_agent(guarded.run(prompt="a")) == '{"text":"aaa"}'
    assert guard.available == 70
    guarded.run("b", 1)
    assert guard.available == 60
    assert isinstance(guarded.run(prompt="c"), ToolFailure)
    assert guard.available == 60
    with pytest.raises(ValueError, match="arguments validation failed"):
        guarded.run(pages=1)
    with pytest.raises(TypeError, match="takes 2 arguments, but 3 were given"):
        guarded._run("a", 1, 2)


def test_tools_to_be_awaited(guard: Guard) -> None:
    """A function, a `_run` and an `_arun` of that kind, from sync and async code alike."""
    seen: list[Any] = []

    @tool
    async def function(prompt: str) -> str:
        """Wait."""
        await asyncio.sleep(0)
        seen.append(guard.available)
        return prompt

    class Both(BaseTool):
        name: str = "both"
        description: str = "Wait."

        async def _run(self, prompt: str) -> str:
            await asyncio.sleep(0)
            seen.append(guard.available)
            return prompt

        async def _arun(self, prompt: str) -> str:
            return await self._run(prompt)

    guarded, both = guarded_tools([function, Both()], guard, {"*": 20})
    assert guarded.run(prompt="a") == "a"
    assert asyncio.run(guarded.arun(prompt="b")) == "b"
    assert both.to_structured_tool().invoke({"prompt": "c"}) == "c"
    assert asyncio.run(both.to_structured_tool().ainvoke({"prompt": "d"})) == "d"
    assert asyncio.run(both.arun(prompt="e")) == "e"
    assert seen == [80, 60, 40, 20, 0]
    refused = [guarded.run(prompt="f"), asyncio.run(both.arun(prompt="g"))]
    assert all(str(words).startswith("BUDGET: needs 20 credits, 0 available") for words in refused)
    assert len(seen) == 5


def test_a_refusal_is_not_put_as_the_tool_puts_its_results(
    guard: Guard, provider: FakeProvider
) -> None:
    """Which it cannot know."""

    class Tabled(BaseTool):
        name: str = "tabled"
        description: str = "Count."

        def _run(self, prompt: str) -> list[str]:
            return [prompt]

        def format_output_for_agent(self, raw_result: Any) -> str:
            return "; ".join(raw_result)

    [tabled] = guarded_tools([Tabled()], guard, {"tabled": 50})
    assert tabled.format_output_for_agent(["x"]) == "x"
    provider.credits = 20
    run, model = crew([tabled], call("tabled"))
    run.kickoff()
    assert model._results[-1].startswith("BUDGET: needs 50 credits")


def test_awaited_tools_end_as_others_do(guard: Guard, clock: HandClock, kept: Kept) -> None:
    """At what `actual` says; a failure that the tool tells is kept."""

    @tool
    async def counted(prompt: str) -> Any:
        """Wait."""
        await asyncio.sleep(0)
        return ToolFailure(message="half-way") if prompt == "bad" else {"used": 8}

    terms = {"min": 30, "actual": lambda result: result["used"]}
    [guarded] = guarded_tools([counted], guard, {"counted": terms})
    asyncio.run(guarded.arun(prompt="good"))
    assert guard.available == 92
    clock.advance(6)
    guard.balance(max_age=0)
    asyncio.run(guarded.arun(prompt="bad"))
    kept(guard, 30)


def test_a_tool_that_cannot_be_awaited_says_so(guard: Guard) -> None:
    """As without us, and for nothing."""

    class Plain(BaseTool):
        name: str = "plain"
        description: str = "Do."

        def _run(self, prompt: str) -> str:
            return prompt

    [plain] = guarded_tools([Plain()], guard, {"plain": 20})
    with pytest.raises(NotImplementedError):
        asyncio.run(plain.arun(prompt="x"))
    assert guard.available is None


def test_what_turns_out_to_be_awaited_is_kept(guard: Guard, kept: Kept) -> None:
    """It has not begun when the function returns, so its credits remain counted."""

    async def later(prompt: str) -> str:
        return prompt

    @tool
    def hidden(prompt: str) -> Any:
        """Come later."""
        return later(prompt)

    terms = {"min": 30, "actual": lambda _: 0}
    [guarded] = guarded_tools([hidden], guard, {"hidden": terms})
    assert guarded.run(prompt="x") == "x"
    kept(guard, 30)


def test_a_copied_crew_is_guarded_too(guard: Guard, provider: FakeProvider) -> None:
    """Its agents have the same tools."""
    provider.credits = 20
    specs = Specs()
    run, _ = crew(guarded_tools(specs.tools, guard, {"deep_spec": 50}), call("deep_spec"))
    [agent] = run.copy().agents
    assert agent.tools is not None
    [deep] = [each for each in agent.tools if each.name == "deep_spec"]
    assert "BUDGET" in str(deep.run(prompt="x"))
    assert specs.ran == []


def test_a_restored_tool_never_runs(guard: Guard) -> None:
    """What a checkpoint says of it has neither the tool nor the guard."""
    specs = Specs()
    [deep, _] = guarded_tools(specs.tools, guard, {"deep_spec": 50})
    saved = deep.model_dump(mode="json", exclude={"cache_function"})
    assert saved["tool_type"] == "budgetguard.integrations.crewai.GuardedTool"
    restored = GuardedTool.model_validate(saved)
    with pytest.raises(AttributeError):
        restored.run(prompt="x")
    with pytest.raises(AttributeError):
        asyncio.run(restored.arun(prompt="x"))
    assert specs.ran == []


def test_what_cannot_be_guarded_is_said_at_once(guard: Guard) -> None:
    """A typo never becomes a tool that spends unguarded."""
    specs = Specs()
    with pytest.raises(ValueError, match=r"'deep_speck', but no tool .* Did you mean deep_spec\?"):
        guarded_tools(specs.tools, guard, {"deep_speck": 50})
    with pytest.raises(
        ValueError, match="two names in costs are the same tool to a model: Fast Spec, fast_spec"
    ):
        guarded_tools(specs.tools, guard, {"Fast Spec": 50, "fast_spec": 1})
    guarded = guarded_tools(specs.tools, guard, {"deep_spec": 50})
    with pytest.raises(
        TypeError, match="deep_spec is already guarded; to guard it for a second account"
    ):
        guarded_tools(guarded, guard, {"*": 1})
    assert guarded_tools(guarded, guard, {"fast_spec": 1})[0] is guarded[0]
    with pytest.raises(TypeError, match="takes CrewAI's BaseTool, not function"):
        guarded_tools([len_of_prompt], guard, {"*": 1})  # type: ignore[list-item]
    with pytest.raises(ValueError, match="on_refusal"):
        guarded_tools(specs.tools, guard, {"*": 1}, on_refusal="ask")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="costs is empty"):
        guarded_tools(specs.tools, guard, {})


def test_the_example() -> None:
    """Run as a user would run it; CrewAI's imports warn."""
    file = EXAMPLES / "agents/crewai_crew.py"
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, timeout=120, check=True
    )
    lines = done.stdout.splitlines()
    assert any(
        line.startswith("It reads: BUDGET: needs 50 credits, 40 available") for line in lines
    )
    assert lines[-1] == "30 of 40 credits are available; what ran: fast_spec."
