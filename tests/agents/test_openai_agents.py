"""The OpenAI Agents SDK, with a scripted model in the place of a real one."""

import asyncio
import copy
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import example
import pytest
from needed import need
from scenes import (
    COULD_NOT,
    FIVE,
    NOT_AGAIN,
    OUTCOMES,
    REFUSED,
    UNKNOWN,
    Kept,
    Slow,
    Worker,
    breaks,
    cancelled_at_work,
    check_three_of_five,
    endless,
    no_price_for,
    on_a_loop_of_its_own,
    out_of_time,
    reads_of_want,
    three_at_once,
    too_dear,
    works_on,
)
from staging import until

need("agents")

from agents import (
    Agent,
    FunctionTool,
    ItemHelpers,
    ModelBehaviorError,
    ModelResponse,
    RunConfig,
    RunContextWrapper,
    Runner,
    ToolGuardrailFunctionOutput,
    ToolTimeoutError,
    Usage,
    UserError,
    WebSearchTool,
    function_tool,
    handoff,
    tool_input_guardrail,
    tool_namespace,
)
from agents.models.interface import Model
from agents.tool_context import ToolContext
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputItem,
    ResponseOutputMessage,
    ResponseOutputText,
)
from pydantic import BaseModel

from budgetguard import BudgetGuardError, Guard, InsufficientCredits, set_active
from budgetguard.integrations.openai_agents import guarded_tools
from budgetguard.integrations.tools import for_model
from budgetguard.testing import FakeProvider, HandClock

OFF_THE_NET = RunConfig(tracing_disabled=True)
SHOP = ("deep_spec", '{"prompt": "shop"}')
Ask = Callable[[Agent[Any]], Any]


class Scripted(Model):
    """Calls tools in its first turn and answers in its last; notes what it read."""

    def __init__(self, *named: tuple[str, str]) -> None:
        self.named = named or (SHOP,)
        self.read: list[str] = []

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        items = options["input"] if "input" in options else args[1]
        return ModelResponse(output=self._reply(items), usage=Usage(), response_id=None)

    async def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        items = options["input"] if "input" in options else args[1]
        response = Response(
            id="response",
            created_at=0,
            model="scripted",
            object="response",
            output=self._reply(items),
            parallel_tool_calls=True,
            tool_choice="auto",
            tools=[],
        )
        yield ResponseCompletedEvent(
            response=response, sequence_number=0, type="response.completed"
        )

    def _reply(self, items: Any) -> list[ResponseOutputItem]:
        self.read = [
            str(item["output"])
            for item in ItemHelpers.input_to_new_input_list(items)
            if item.get("type") == "function_call_output"
        ]
        if self.read:
            text = ResponseOutputText(annotations=[], text="Done.", type="output_text")
            return [
                ResponseOutputMessage(
                    id="answer",
                    content=[text],
                    role="assistant",
                    status="completed",
                    type="message",
                )
            ]
        return [
            ResponseFunctionToolCall(
                name=name, arguments=args, call_id=f"call {number}", type="function_call"
            )
            for number, (name, args) in enumerate(self.named)
        ]


class Noting(Worker):
    """The SDK's tools, which note."""

    def named(self, name: str = "deep_spec", **options: Any) -> FunctionTool:
        """Give a tool that awaits."""
        return function_tool(self.acall, name_override=name, **options)

    def threaded(self, name: str = "deep_spec") -> FunctionTool:
        """Give a tool that runs in a thread."""
        return function_tool(self.call, name_override=name)


def by_run(agent: Agent[Any]) -> Any:
    """Run an agent that awaits."""
    return asyncio.run(Runner.run(agent, "Go.", run_config=OFF_THE_NET))


def by_run_sync(agent: Agent[Any]) -> Any:
    """Run an agent, blocking."""
    return on_a_loop_of_its_own(lambda: Runner.run_sync(agent, "Go.", run_config=OFF_THE_NET))


def by_run_streamed(agent: Agent[Any]) -> Any:
    """Run an agent, and take what it says as it comes."""

    async def run() -> Any:
        result = Runner.run_streamed(agent, "Go.", run_config=OFF_THE_NET)
        async for _ in result.stream_events():
            pass
        return result

    return asyncio.run(run())


WAYS = {"run": by_run, "run_sync": by_run_sync, "run_streamed": by_run_streamed}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def ask(request: pytest.FixtureRequest) -> Ask:
    """Run an agent in each of the SDK's ways."""
    run: Ask = request.param
    return run


@pytest.fixture
def tool(guard: Guard) -> Noting:
    """A tool that says back what it was asked for, louder."""
    return Noting(guard)


def ask_for(
    ask: Ask,
    guard: Guard,
    tools: Sequence[FunctionTool] | FunctionTool,
    costs: Mapping[str, Any],
    *named: tuple[str, str],
    **options: Any,
) -> list[str]:
    """Have the model call tools in one turn, and give what it read of them."""
    model = Scripted(*named)
    given = [tools] if isinstance(tools, FunctionTool) else tools
    agent = Agent("planner", model=model, tools=guarded_tools(given, guard, costs, **options))
    assert ask(agent).final_output == "Done."
    return model.read


def test_a_refusal_is_the_tools_result(ask: Ask, guard: Guard, tool: Noting) -> None:
    """The model reads it and continues; the tool never ran, and nothing is held or charged."""
    assert ask_for(ask, guard, tool.named(), {"deep_spec": 120}) == [REFUSED]
    assert tool.ran == []
    assert guard.available == 100


def test_a_refusal_may_end_the_run(ask: Ask, guard: Guard, tool: Noting) -> None:
    """With "stop" the SDK wraps the error in one of its own, whose cause it is."""
    with pytest.raises(UserError, match="deep_spec needs 120 credits, and 100 are") as ended:
        ask_for(ask, guard, tool.named(), {"deep_spec": 120}, on_refusal="stop")
    assert isinstance(ended.value.__cause__, InsufficientCredits)
    assert tool.ran == []
    assert guard.available == 100


def test_a_callable_supplies_the_tools_result(ask: Ask, guard: Guard, tool: Noting) -> None:
    """The model reads it as the tool's output; it never ran, and nothing is held."""

    async def cached(error: InsufficientCredits, name: str, arguments: Any) -> str:
        await asyncio.sleep(0)
        return f"{error.needed} {name} {arguments['prompt']} {guard.available}"

    costs = {"deep_spec": {"min": 120, "on_refusal": cached}}
    assert ask_for(ask, guard, tool.named(), costs) == ["120 deep_spec shop 100"]
    assert tool.ran == []


def test_what_a_callable_raises_ends_the_run(ask: Ask, guard: Guard, tool: Noting) -> None:
    """As a refusal does with "stop"."""

    def failing(*_: Any) -> Any:
        raise LookupError

    with pytest.raises(UserError) as ended:
        ask_for(ask, guard, tool.named(), {"deep_spec": 120}, on_refusal=failing)
    assert isinstance(ended.value.__cause__, LookupError)
    assert isinstance(ended.value.__cause__.__context__, InsufficientCredits)


def test_a_tool_costs_what_it_says(ask: Ask, guard: Guard) -> None:
    """`actual` is given what the tool returned; until then its cost is held."""
    tool = Noting(guard, lambda _: json.dumps({"creditsUsed": 12}))
    terms = {"min": 50, "actual": lambda spec: json.loads(spec)["creditsUsed"]}
    ask_for(ask, guard, tool.named(), {"deep_spec": terms})
    assert tool.available == [50]
    assert guard.available == 88


def test_a_tool_without_an_actual_costs_its_cost(ask: Ask, guard: Guard, tool: Noting) -> None:
    """Here, what a callable says of the arguments that the model wrote."""
    ask_for(ask, guard, tool.threaded(), {"deep_spec": lambda prompt: 10 * len(prompt)})
    assert (tool.ran, tool.available, guard.available) == (["shop"], [60], 60)


def test_an_actual_that_fails_is_the_cost(ask: Ask, guard: Guard, tool: Noting) -> None:
    """The tool's result is the model's all the same."""
    terms = {"min": 50, "actual": lambda _: 1 / 0}
    assert ask_for(ask, guard, tool.named(), {"deep_spec": terms}) == ["SHOP"]
    assert guard.available == 50


def test_parallel_calls_run_as_far_as_the_balance_goes(
    ask: Ask, guard: Guard, provider: FakeProvider
) -> None:
    """Of five calls in one turn at 30 of 100 credits three run, at the same time."""
    tool = Noting(guard, three_at_once(provider))
    named = [("deep_spec", json.dumps({"prompt": prompt})) for prompt in FIVE]
    texts = ask_for(ask, guard, tool.threaded(), {"deep_spec": 30}, *named)
    check_three_of_five(texts, tool.ran)
    assert provider.lowest == 10


@pytest.mark.parametrize(
    ("handling", "words"),
    [
        ({}, "An error occurred while running the tool. Please try again."),
        (
            {"failure_error_function": lambda _, error: f"Told: {error}"},
            "Told: the connection broke",
        ),
    ],
    ids=["default", "own"],
)
def test_a_failure_made_words_of_is_kept(
    ask: Ask, guard: Guard, kept: Kept, handling: Any, words: str
) -> None:
    """The model reads the SDK's words as ever, but the tool did not return."""
    terms = {"min": 50, "actual": lambda _: 0}
    tool = Noting(guard, breaks).named(**handling)
    assert ask_for(ask, guard, tool, {"deep_spec": terms}) == [words]
    kept(guard, 50)


def test_a_failure_that_ends_the_run_is_kept(ask: Ask, guard: Guard, kept: Kept) -> None:
    """Where the tool's own policy is to raise."""
    tool = Noting(guard, breaks).named(failure_error_function=None)
    with pytest.raises(UserError, match="the connection broke"):
        ask_for(ask, guard, tool, {"deep_spec": 50})
    kept(guard, 50)


def test_release_on_gives_it_back(ask: Ask, guard: Guard) -> None:
    """Where the exception proves that nothing was charged, whatever words are made of it."""
    terms = {"min": 50, "release_on": OSError}
    [text] = ask_for(ask, guard, Noting(guard, breaks).named(), {"deep_spec": terms})
    assert text.startswith("An error occurred")
    assert guard.available == 100


@pytest.mark.parametrize("behavior", ["error_as_result", "raise_exception"])
def test_a_tool_that_is_out_of_time_is_kept(
    ask: Ask, guard: Guard, kept: Kept, behavior: str
) -> None:
    """The SDK gives up on it, which says nothing of what it costs."""
    slow = function_tool(
        endless,
        name_override="deep_spec",
        timeout=1e-6,
        timeout_behavior=behavior,  # type: ignore[call-overload]
    )
    if behavior == "error_as_result":
        [text] = ask_for(ask, guard, slow, {"deep_spec": 50})
        assert text.startswith("Tool 'deep_spec' timed out after")
    else:
        with pytest.raises(ToolTimeoutError):
            ask_for(ask, guard, slow, {"deep_spec": 50})
    kept(guard, 50)


def test_a_run_that_is_cancelled_keeps_its_holds(guard: Guard, kept: Kept) -> None:
    """The tool was at work, and may be charged for."""

    def run(work: Any) -> Any:
        tool = function_tool(work, name_override="deep_spec")
        tools = guarded_tools([tool], guard, {"deep_spec": 50})
        agent = Agent("planner", model=Scripted(), tools=tools)
        return Runner.run(agent, "Go.", run_config=OFF_THE_NET)

    cancelled_at_work(run)
    kept(guard, 50)


def test_a_cost_that_cannot_be_told_runs_nothing(
    ask: Ask, guard: Guard, tool: Noting, no_price: tuple[Any, str]
) -> None:
    """The model is told, and the tool does not run for free."""
    cost, kind = no_price
    [text] = ask_for(ask, guard, tool.named(), {"deep_spec": cost})
    assert text.startswith(f"{COULD_NOT} ({kind}")
    assert text.endswith(f"). {NOT_AGAIN}")
    assert tool.ran == []
    assert guard.available == 100


WRONG = ['{"prompt": 3}', "{}", "{", "[1]", "7", '"text"']


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120, lambda prompt: 10 * len(prompt)])
@pytest.mark.parametrize("arguments", WRONG)
def test_arguments_that_the_sdk_turns_down_cost_nothing(
    guard: Guard, tool: Noting, arguments: str, cost: Any, on_refusal: Any
) -> None:
    """Its own words are read, whether or not there is a price or the credits for it."""
    costs, wrong = {"deep_spec": cost}, ("deep_spec", arguments)
    [text] = ask_for(by_run, guard, tool.named(), costs, wrong, on_refusal=on_refusal)
    assert "Please try again" in text
    assert (tool.ran, guard.available) == ([], 100)


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120, lambda **named: 10 * len(named["input"])])
@pytest.mark.parametrize("arguments", WRONG)
def test_arguments_that_an_agent_as_a_tool_turns_down_cost_nothing(
    guard: Guard, arguments: str, cost: Any, on_refusal: Any
) -> None:
    """Likewise."""
    write = Agent("writer", model=Scripted()).as_tool("write", "Write.", run_config=OFF_THE_NET)
    wrong = ("write", arguments)
    [text] = ask_for(by_run, guard, write, {"write": cost}, wrong, on_refusal=on_refusal)
    assert "Please try again" in text
    assert guard.available == 100


def test_a_behaviour_error_of_the_tools_own_is_kept(ask: Ask, guard: Guard, kept: Kept) -> None:
    """It comes from inside, and costs what it costs; `release_on` hears it."""

    def work(_: str) -> str:
        raise ModelBehaviorError("inside")  # noqa: EM101

    tool = Noting(guard, work)
    terms = {"min": 50, "release_on": ModelBehaviorError}
    ask_for(ask, guard, tool.threaded(), {"deep_spec": terms})
    assert guard.available == 100
    ask_for(ask, guard, tool.named(), {"deep_spec": 50})
    kept(guard, 50)


@OUTCOMES
def test_a_thread_that_works_on_holds_on(
    clock: HandClock, provider: FakeProvider, error: Any, release_on: Any, after: int
) -> None:
    """When its run is cancelled only the wait is over: the credits remain held until the thread has finished."""
    slow = Slow(error)

    async def given_up(guard: Guard) -> None:
        terms = {"min": 50, "release_on": release_on}
        tool = function_tool(slow.call, name_override="deep_spec")
        tools = guarded_tools([tool], guard, {"deep_spec": terms})
        agent = Agent("planner", model=Scripted(), tools=tools)
        await slow.give_up(Runner.run(agent, "Go.", run_config=OFF_THE_NET))

    works_on(clock, provider, slow, after, given_up)


def test_a_sibling_that_fails_ends_no_thread(clock: HandClock, provider: FakeProvider) -> None:
    """The run stops with its error, and the other call remains held until it has finished."""
    slow = Slow()

    @function_tool(failure_error_function=None)
    async def failing() -> str:
        await slow.has_begun()
        raise OSError

    async def given_up(guard: Guard) -> None:
        tool = function_tool(slow.call, name_override="deep_spec")
        tools = guarded_tools([tool, failing], guard, {"deep_spec": 50})
        agent = Agent("planner", model=Scripted(SHOP, ("failing", "")), tools=tools)
        with pytest.raises(UserError):
            await Runner.run(agent, "Go.", run_config=OFF_THE_NET)

    works_on(clock, provider, slow, 50, given_up)


def test_what_a_thread_came_to_is_what_it_cost(clock: HandClock, provider: FakeProvider) -> None:
    """Also where nobody waits for it any more."""
    slow = Slow()

    async def given_up(guard: Guard) -> None:
        terms = {"min": 50, "actual": len}
        tool = function_tool(slow.call, name_override="deep_spec")
        tools = guarded_tools([tool], guard, {"deep_spec": terms})
        agent = Agent("planner", model=Scripted(), tools=tools)
        await slow.give_up(Runner.run(agent, "Go.", run_config=OFF_THE_NET))

    guard = Guard(provider, linger=0)
    guard.balance()

    async def main() -> None:
        await given_up(guard)
        slow.go_on.set()

    asyncio.run(main())
    until(lambda: guard.available == 96)


def test_a_cost_that_cannot_be_told_may_end_the_run(ask: Ask, guard: Guard, tool: Noting) -> None:
    """With "stop" whatever the callable raised is the cause."""
    with pytest.raises(UserError, match="no price for shop") as ended:
        ask_for(ask, guard, tool.named(), {"deep_spec": no_price_for}, on_refusal="stop")
    assert isinstance(ended.value.__cause__, LookupError)
    assert tool.ran == []


def test_a_balance_that_never_comes_runs_nothing(
    ask: Ask, clock: HandClock, provider: FakeProvider
) -> None:
    """After the guard's time-out the model reads that nothing was started."""
    guard = Guard(provider)
    tool = Noting(guard)
    [text] = out_of_time(
        clock, provider, lambda: ask_for(ask, guard, tool.named(), {"deep_spec": 50})
    )
    assert text == UNKNOWN
    assert tool.ran == []


def test_a_balance_that_fails_runs_nothing(ask: Ask, provider: FakeProvider) -> None:
    """An unknown balance never lets a tool through."""
    provider.failure = ValueError("no balance here")
    guard = Guard(provider)
    tool = Noting(guard)
    [text] = ask_for(ask, guard, tool.named(), {"deep_spec": 50})
    assert text.startswith("BUDGET: the balance at fake is not known")
    assert tool.ran == []


def test_a_star_prices_the_rest(ask: Ask, guard: Guard, tool: Noting) -> None:
    """But not what is named, be it at no cost."""
    other, free = Noting(guard), Noting(guard)
    names = ("deep_spec", "search", "free")
    texts = ask_for(
        ask,
        guard,
        [tool.named(), other.named("search"), free.named("free")],
        {"*": 120, "deep_spec": 10, "free": None},
        *((name, json.dumps({"prompt": name})) for name in names),
    )
    assert (texts[0], texts[2]) == ("DEEP_SPEC", "FREE")
    assert texts[1].startswith("BUDGET: needs 120 credits")
    assert (other.ran, free.ran, guard.available) == ([], ["free"], 90)


def test_what_has_no_price_is_left_as_it_is(guard: Guard, tool: Noting) -> None:
    """Hosted tools among it, which no guard here could reach."""
    given = [tool.named(), tool.named("free"), WebSearchTool()]
    deep, free, search = guarded_tools(given, guard, {"deep_spec": 10})
    assert deep is not given[0]
    assert (free, search) == (given[1], given[2])
    assert guarded_tools([WebSearchTool()], guard, {"*": 10}) == [WebSearchTool()]


def test_a_refusal_is_never_settled(ask: Ask, guard: Guard, tool: Noting) -> None:
    """`actual` is asked about what ran, and about nothing else."""
    asked: list[Any] = []
    terms = {"min": 120, "actual": asked.append}
    ask_for(ask, guard, tool.named(), {"deep_spec": terms})
    assert (asked, guard.available) == ([], 100)


@pytest.mark.parametrize(
    ("costs", "kind", "words"),
    [
        (
            {"deep_spek": 50},
            ValueError,
            "costs names 'deep_spek', but no tool has that name. Did you mean deep_spec?",
        ),
        (
            {"x": 50},
            ValueError,
            "costs names a tool that does not exist (its 1st name). There is: deep_spec, web_search.",
        ),
        (
            {"web_search": 5},
            TypeError,
            "web_search is WebSearchTool, not a function tool: it cannot be guarded here",
        ),
        ({"deep_spec": -1}, ValueError, "min must not be negative: -1"),
        ({}, ValueError, 'costs is empty: pass {"deep_spec": 50}, or {"*": 10} for all tools'),
    ],
)
def test_a_price_that_guards_nothing_is_said_at_once(
    guard: Guard, tool: Noting, costs: Any, kind: type[Exception], words: str
) -> None:
    """A typo never becomes a tool that spends unguarded."""
    with pytest.raises(kind) as said:
        guarded_tools([tool.named(), WebSearchTool()], guard, costs)
    assert str(said.value) == words


def _bare(prompt: str) -> str:
    return prompt


@pytest.mark.parametrize("costs", [{"deep_spec": 50}, {"*": 50}])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([_bare], "'s tools, not function: decorate the function with function_tool"),
        ([Agent("deep_spec")], "'s tools, not Agent: give it agent.as_tool(...)"),
        ([handoff(Agent("deep_spec"))], "'s tools, not Handoff"),
        (function_tool(_bare), " a list of tools, not FunctionTool"),
    ],
)
def test_what_is_no_tool_is_said_at_once(guard: Guard, given: Any, words: str, costs: Any) -> None:
    """Rather than handed on without a guard, or an AttributeError of this package's own."""
    with pytest.raises(TypeError) as said:
        guarded_tools(given, guard, costs)
    assert str(said.value) in {f"guarded_tools takes{words}", f"guarded_tools takes the SDK{words}"}


def test_the_tools_that_are_given_stay_as_they_are(ask: Ask, guard: Guard, tool: Noting) -> None:
    """Whoever has them calls them unguarded, also while a guarded copy is in use."""
    own = tool.named()
    guarded_tools([own], guard, {"deep_spec": 120})
    model = Scripted()
    assert ask(Agent("planner", model=model, tools=[own])).final_output == "Done."
    assert (model.read, guard.available) == (["SHOP"], 100)


def _replaced(tool: Any) -> FunctionTool:
    return dataclasses.replace(tool, description="Anew.")


def _renamed(tool: Any) -> FunctionTool:
    return dataclasses.replace(tool, name="another")


def _in_a_namespace(tool: Any) -> FunctionTool:
    [copied] = tool_namespace(name="specs", description="Specifications.", tools=[tool])
    return copied


class Bound(FunctionTool):
    """A tool that invokes a method of its own, which the SDK binds anew to each copy."""

    def __init__(self, noting: Noting) -> None:
        super().__init__(
            name="deep_spec",
            description="Write a specification.",
            params_json_schema={"type": "object", "properties": {"prompt": {"type": "string"}}},
            on_invoke_tool=self._invoke,
        )
        self.noting = noting

    async def _invoke(self, _: ToolContext[Any], arguments: str) -> str:
        return str(self.noting.call(json.loads(arguments)["prompt"]))


@pytest.mark.parametrize(
    ("make", "copied"),
    [
        (Noting.named, copy.copy),
        (Noting.named, _replaced),
        (Noting.named, _renamed),
        (Noting.named, _in_a_namespace),
        (Bound, copy.copy),
        (Bound, _in_a_namespace),
    ],
)
def test_a_copy_of_a_guarded_tool_is_guarded(
    guard: Guard, tool: Noting, make: Callable[[Noting], FunctionTool], copied: Any
) -> None:
    """The SDK and its users copy tools, and bind what they call anew."""
    [own] = guarded_tools([make(tool)], guard, {"deep_spec": 60})
    another = copied(own)
    assert another is not own

    async def invoke() -> Any:
        name, arguments = SHOP
        context: Any = ToolContext(None, tool_name=name, tool_call_id="1", tool_arguments=arguments)
        return await another.on_invoke_tool(context, arguments)

    assert asyncio.run(invoke()) == "SHOP"
    assert asyncio.run(invoke()).startswith("BUDGET: needs 60 credits, 40 available")
    assert (tool.ran, tool.available) == (["shop"], [40])


@pytest.mark.parametrize("make", [Noting.named, Bound])
def test_a_tool_is_guarded_once(
    guard: Guard, tool: Noting, make: Callable[[Noting], FunctionTool]
) -> None:
    """A second guard around it could not tell what the first refused from what failed."""
    tools = guarded_tools([make(tool), tool.named("other")], guard, {"deep_spec": 10})
    with pytest.raises(
        TypeError, match="deep_spec is already guarded; to guard it for a second account"
    ):
        guarded_tools(tools, guard, {"*": 10})
    other = guarded_tools(tools, guard, {"other": 10})
    assert other[0] is tools[0]


def test_a_tool_of_other_making_is_guarded(ask: Ask, guard: Guard, kept: Kept) -> None:
    """It is given the context that it asks for, and kept where it raises."""
    given: list[Any] = []

    async def invoke(context: RunContextWrapper[Any], arguments: str) -> str:
        given.append((type(context), arguments))
        msg = "the connection broke"
        raise OSError(msg)

    schema = {"type": "object", "properties": {"prompt": {"type": "string"}}}
    tool = FunctionTool("deep_spec", "Write a specification.", schema, invoke)
    with pytest.raises(UserError, match="the connection broke"):
        ask_for(ask, guard, tool, {"deep_spec": 50})
    assert given == [(RunContextWrapper, SHOP[1])]
    kept(guard, 50)


def test_a_tool_without_arguments(ask: Ask, guard: Guard) -> None:
    """What the model wrote may be empty."""

    @function_tool
    async def refresh() -> str:
        return f"{guard.available} available"

    assert ask_for(ask, guard, refresh, {"refresh": 10}, ("refresh", "")) == ["90 available"]


def test_an_agent_as_a_tool_has_one_price(ask: Ask, guard: Guard, tool: Noting) -> None:
    """What it does inside is its own affair."""
    inner = Agent("writer", model=Scripted(), tools=[tool.named()])
    write = inner.as_tool("write", "Write.", run_config=OFF_THE_NET)
    costs = {"write": 70}
    named = ("write", '{"input": "Go."}')
    assert ask_for(ask, guard, write, costs, named) == ["Done."]
    assert (tool.available, guard.available) == ([30], 30)
    [text] = ask_for(ask, guard, write, costs, named)
    assert text.startswith("BUDGET: needs 70 credits, 30 available")


def test_an_agent_as_a_tool_that_pauses_is_priced_again(
    guard: Guard, provider: FakeProvider, clock: HandClock, tool: Noting
) -> None:
    """What it spent by then is kept; going on is refused to the caller, who may try once more."""
    asked: list[Any] = []
    inner = Agent("writer", model=Scripted(), tools=[tool.named(needs_approval=True)])
    write = inner.as_tool("write", "Write.", run_config=OFF_THE_NET)
    terms = {"min": 60, "actual": lambda words: asked.append(words) or 7}
    model = Scripted(("write", '{"input": "Go."}'))
    planner = Agent("planner", model=model, tools=guarded_tools([write], guard, {"write": terms}))

    async def run(given: Any) -> Any:
        return await Runner.run(planner, given, run_config=OFF_THE_NET)

    first = asyncio.run(run("Go."))
    assert (len(first.interruptions), asked, guard.available) == (1, [], 40)
    clock.advance(30)
    guard.balance(max_age=0)
    state = first.to_state()
    state.approve(first.interruptions[0])
    with pytest.raises(UserError) as ended:
        asyncio.run(run(state))
    assert isinstance(ended.value.__cause__, InsufficientCredits)
    assert (tool.ran, guard.available) == ([], 40)
    provider.top_up(100)
    clock.advance(30)
    assert asyncio.run(run(state)).final_output == "Done."
    assert (tool.ran, asked, model.read) == (["shop"], ["Done."], ["Done."])
    assert guard.available == 133


def test_a_paused_run_that_breaks_ends_its_hold_once(guard: Guard, kept: Kept) -> None:
    """The tool inside raises when it may go on: the SDK pauses again, the hold is over."""
    inner = Agent(
        "writer",
        model=Scripted(),
        tools=[Noting(guard, breaks).named(needs_approval=True, failure_error_function=None)],
    )
    write = inner.as_tool("write", "Write.", run_config=OFF_THE_NET)
    model = Scripted(("write", '{"input": "Go."}'))
    tools = guarded_tools([write], guard, {"write": {"min": 40, "release_on": UserError}})
    planner = Agent("planner", model=model, tools=tools)

    async def run() -> Any:
        first = await Runner.run(planner, "Go.", run_config=OFF_THE_NET)
        state = first.to_state()
        state.approve(first.interruptions[0])
        return await Runner.run(planner, state, run_config=OFF_THE_NET)

    assert len(asyncio.run(run()).interruptions) == 1
    kept(guard, 40)


class Spec(BaseModel):
    """What a tool returns by a declared schema."""

    text: str


def test_a_refusal_of_a_typed_tool_ends_the_run(ask: Ask, guard: Guard) -> None:
    """It cannot be words where a schema is promised; admitted, the tool is as ever."""

    async def call(prompt: str) -> Spec:
        return Spec(text=prompt)

    tool = function_tool(call, name_override="deep_spec", output_type=Spec)
    assert ask_for(ask, guard, tool, {"deep_spec": 60}) == ['{"text":"shop"}']
    with pytest.raises(UserError) as ended:
        ask_for(ask, guard, tool, {"deep_spec": 60})
    assert isinstance(ended.value.__cause__, InsufficientCredits)
    assert guard.available == 40


def test_guardrails_come_first(ask: Ask, guard: Guard, tool: Noting) -> None:
    """What they reject is not held for."""

    @tool_input_guardrail
    def never(_: Any) -> ToolGuardrailFunctionOutput:
        return ToolGuardrailFunctionOutput.reject_content("Not today.")

    spec = tool.named(tool_input_guardrails=[never])
    assert ask_for(ask, guard, spec, {"deep_spec": 60}) == ["Not today."]
    assert (tool.ran, guard.available) == ([], 100)


def test_an_approval_is_asked_for_as_without_a_guard(guard: Guard, tool: Noting) -> None:
    """Nothing is held until it is there, and its policy is not asked of arguments that differ."""
    asked: list[Any] = []

    async def policy(_: Any, arguments: dict[str, Any], __: str) -> bool:
        asked.append(arguments)
        return False

    async def call(prompt: str, pages: int = 1) -> str:
        return str(tool.call(prompt * pages))

    spec = function_tool(call, name_override="deep_spec", needs_approval=policy, strict_mode=False)
    tools = guarded_tools([spec], guard, {"deep_spec": 40})

    async def run(arguments: str) -> Any:
        agent = Agent("planner", model=Scripted(("deep_spec", arguments)), tools=tools)
        first = await Runner.run(agent, "Go.", run_config=OFF_THE_NET)
        if not first.interruptions:
            return first.final_output
        assert guard.available == 60
        state = first.to_state()
        state.approve(first.interruptions[0])
        second = await Runner.run(agent, state, run_config=OFF_THE_NET)
        return f"Approved. {second.final_output}"

    assert asyncio.run(run('{"prompt": "shop", "pages": 2}')) == "Done."
    assert asked == [{"prompt": "shop", "pages": 2}]
    # A default would be filled in: the SDK asks a person, and not the policy.
    assert asyncio.run(run('{"prompt": "shop"}')) == "Approved. Done."
    assert len(asked) == 1
    assert (tool.ran, tool.available) == (["shopshop", "shop"], [60, 20])


def test_a_decorated_function_inside_of_a_tool(ask: Ask, guard: Guard) -> None:
    """By itself the model is asked to try again; by the tool's own function for failures it is told."""

    def deep_spec(prompt: str) -> str:
        """Write a specification."""
        return too_dear(guard)(prompt)

    def tell(_: RunContextWrapper[Any], error: Exception) -> str:
        if isinstance(error, BudgetGuardError):
            return for_model(error)
        raise error

    raising = function_tool(deep_spec)
    telling = function_tool(deep_spec, failure_error_function=tell)
    read = []
    for tool in (raising, telling):
        model = Scripted()
        ask(Agent("planner", model=model, tools=[tool]))
        read += model.read
    assert read == ["An error occurred while running the tool. Please try again.", REFUSED]


def test_guards_that_are_off_let_all_pass(ask: Ask, guard: Guard, tool: Noting) -> None:
    """As everywhere."""
    set_active(False)
    assert ask_for(ask, guard, tool.named(), {"deep_spec": 120}) == ["SHOP"]
    assert guard.available == 100


def test_the_example() -> None:
    """It runs as a user would run it, with no warning."""
    printed = example.run("agents/openai_agents_run.py")
    assert reads_of_want(printed)
    assert printed.endswith("The model: The outline has to do.\n22 credits are left.\n")
