"""LangChain's agents and LangGraph's ToolNode, with a scripted model in the place of a real one."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import example
import pytest
from needed import need
from scenes import (
    COULD_NOT,
    FIVE,
    MISSPELLED,
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
    no_price_for,
    out_of_time,
    reads_of_want,
    refreshed,
    three_at_once,
    too_dear,
    works_on,
)
from staging import until, waiting

need("langchain", "langgraph")

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain.tools import InjectedToolCallId, ToolRuntime
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from pydantic import TypeAdapter

from budgetguard import BudgetGuardError, Guard, InsufficientCredits, set_active
from budgetguard.integrations.langchain import BudgetMiddleware
from budgetguard.integrations.tools import for_model
from budgetguard.testing import FakeProvider, HandClock


class Scripted(FakeMessagesListChatModel):
    """Says its lines in turn, whatever it reads."""

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        return self


def calls(*named: tuple[str, dict[str, Any]]) -> AIMessage:
    """Give the model's line that calls tools."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": name, "args": args, "id": f"call {number}"}
            for number, (name, args) in enumerate(named)
        ],
    )


class Tool(Worker):
    """LangChain's tool, which awaits where the agent does."""

    def named(self, name: str = "deep_spec") -> BaseTool:
        return StructuredTool.from_function(
            self.call, self.acall, name=name, description="Write a specification."
        )


Ask = Callable[[Any], dict[str, Any]]


def by_invoke(agent: Any) -> Any:
    """Run an agent, blocking."""
    return agent.invoke({"messages": [("user", "Go.")]})


def by_ainvoke(agent: Any) -> Any:
    """Run an agent that awaits."""
    return asyncio.run(agent.ainvoke({"messages": [("user", "Go.")]}))


def by_stream(agent: Any) -> Any:
    """Run an agent, and take what it says as it comes."""
    *_, last = agent.stream({"messages": [("user", "Go.")]}, stream_mode="values")
    return last


def by_astream(agent: Any) -> Any:
    """Take what an agent says as it comes, awaiting."""

    async def run() -> Any:
        states = agent.astream({"messages": [("user", "Go.")]}, stream_mode="values")
        return [state async for state in states][-1]

    return asyncio.run(run())


@pytest.fixture(params=[by_invoke, by_ainvoke], ids=["invoke", "ainvoke"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Run an agent in each of both ways."""
    run: Ask = request.param
    return run


@pytest.fixture
def tool(guard: Guard) -> Tool:
    """A tool that says back what it was asked for, louder."""
    return Tool(guard)


def agent_of(
    *tools: BaseTool, lines: Sequence[AIMessage], middleware: Sequence[Any] = ()
) -> tuple[Any, Scripted]:
    """Give an agent whose model says `lines` and then the answer, and the model."""
    model = Scripted(responses=[*lines, AIMessage("Done.")])
    return create_agent(model, list(tools), middleware=list(middleware)), model


def results(state: Mapping[str, Any]) -> list[BaseMessage]:
    """Give what the tools came to, as the model reads it; the run must have gone on to its end."""
    assert state["messages"][-1].text == "Done."
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


def ask_for(
    ask: Ask, tool: Tool, costs: Mapping[str, Any], *named: tuple[str, dict[str, Any]]
) -> list[BaseMessage]:
    """Have the model call tools in one turn, and give what they came to."""
    line = calls(*(named or [("deep_spec", {"prompt": "shop"})]))
    budget = BudgetMiddleware(tool.guard, costs)
    return results(ask(agent_of(tool.named(), lines=[line], middleware=[budget])[0]))


@pytest.mark.parametrize("ask", [by_invoke, by_ainvoke, by_stream, by_astream])
def test_a_refusal_is_the_tools_result(ask: Ask, guard: Guard, tool: Tool) -> None:
    """The model reads it and continues; the tool never ran, and nothing is held or charged."""
    [result] = ask_for(ask, tool, {"deep_spec": 120})
    assert isinstance(result, ToolMessage)
    assert (result.text, result.status) == (REFUSED, "error")
    assert (result.name, result.tool_call_id) == ("deep_spec", "call 0")
    assert tool.ran == []
    assert guard.available == 100


def test_the_model_is_given_the_refusal(guard: Guard, tool: Tool) -> None:
    """What it reads before it answers is the refusal, word for word."""
    read: list[list[BaseMessage]] = []

    class BalanceWaiter(Scripted):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            read.append(messages)
            return super()._generate(messages, *args, **kwargs)

    line = calls(("deep_spec", {"prompt": "shop"}))
    model = BalanceWaiter(responses=[line, AIMessage("Done.")])
    budget = BudgetMiddleware(guard, {"deep_spec": 120})
    by_invoke(create_agent(model, [tool.named()], middleware=[budget]))
    assert [messages[-1].text for messages in read] == ["Go.", REFUSED]


def test_a_refusal_may_end_the_run(ask: Ask, guard: Guard, tool: Tool) -> None:
    """With "stop" the error itself reaches the caller, wrapped in nothing."""
    budget = BudgetMiddleware(guard, {"deep_spec": 120}, on_refusal="stop")
    line = calls(("deep_spec", {"prompt": "shop"}))
    agent, _ = agent_of(tool.named(), lines=[line], middleware=[budget])
    with pytest.raises(InsufficientCredits, match="deep_spec needs 120 credits, and 100 are"):
        ask(agent)
    assert tool.ran == []
    assert guard.available == 100


@pytest.mark.parametrize("of", ["all", "one tool"])
def test_a_callable_supplies_the_tools_result(ask: Ask, guard: Guard, tool: Tool, of: str) -> None:
    """The model reads it as it would the tool's own; the tool never ran, and nothing is held."""
    seen: list[Any] = []

    def cached(error: InsufficientCredits, name: str, arguments: Mapping[str, Any]) -> Any:
        seen.append((error.needed, name, arguments, guard.available))
        return {"cached": arguments["prompt"]}

    cost = {"min": 120, "on_refusal": cached} if of == "one tool" else 120
    options: dict[str, Any] = {"on_refusal": cached if of == "all" else "stop"}
    budget = BudgetMiddleware(guard, {"deep_spec": cost}, **options)
    line = calls(("deep_spec", {"prompt": "shop"}))
    [result] = results(ask(agent_of(tool.named(), lines=[line], middleware=[budget])[0]))
    assert isinstance(result, ToolMessage)
    assert (json.loads(result.text), result.status) == ({"cached": "shop"}, "success")
    assert (result.name, result.tool_call_id) == ("deep_spec", "call 0")
    assert seen == [(120, "deep_spec", {"prompt": "shop"}, 100)]
    assert tool.ran == []


def test_a_callable_may_return_a_message(ask: Ask, guard: Guard, tool: Tool) -> None:
    """It is taken as it is."""
    message = ToolMessage("none", tool_call_id="call 0", artifact=[1], status="error")
    budget = BudgetMiddleware(guard, {"deep_spec": 120}, on_refusal=lambda *_: message)
    line = calls(("deep_spec", {"prompt": "shop"}))
    [result] = results(ask(agent_of(tool.named(), lines=[line], middleware=[budget])[0]))
    assert isinstance(result, ToolMessage)
    assert (result.text, result.artifact, result.status) == ("none", [1], "error")


def test_an_async_callable_needs_an_agent_that_awaits(guard: Guard, tool: Tool) -> None:
    """Elsewhere the tool does not run either: the run ends with a TypeError."""

    async def cached(error: InsufficientCredits, name: str, arguments: Any) -> str:
        await asyncio.sleep(0)
        return f"cached {arguments['prompt']}"

    budget = BudgetMiddleware(guard, {"deep_spec": 120}, on_refusal=cached)
    line = calls(("deep_spec", {"prompt": "shop"}))
    agent, _ = agent_of(tool.named(), lines=[line], middleware=[budget])
    [result] = results(by_ainvoke(agent))
    assert result.text == "cached shop"
    agent, _ = agent_of(tool.named(), lines=[line], middleware=[budget])
    with pytest.raises(TypeError, match="not awaited must be a plain function") as raised:
        by_invoke(agent)
    assert tool.ran == []
    del raised


def test_what_a_callable_raises_ends_the_run(ask: Ask, guard: Guard, tool: Tool) -> None:
    """Wrapped in nothing, with the refusal as its context."""

    def failing(*_: Any) -> Any:
        raise LookupError

    budget = BudgetMiddleware(guard, {"deep_spec": 120}, on_refusal=failing)
    line = calls(("deep_spec", {"prompt": "shop"}))
    agent, _ = agent_of(tool.named(), lines=[line], middleware=[budget])
    with pytest.raises(LookupError) as raised:
        ask(agent)
    assert isinstance(raised.value.__context__, InsufficientCredits)


def test_a_tool_costs_what_it_says(ask: Ask, guard: Guard) -> None:
    """`actual` is given the message that the tool came to; until then its cost is held."""
    tool = Tool(guard, lambda _: json.dumps({"creditsUsed": 12}))
    terms = {"min": 50, "actual": lambda message: json.loads(message.text)["creditsUsed"]}
    ask_for(ask, tool, {"deep_spec": terms})
    assert tool.available == [50]
    assert guard.available == 88


def test_a_tool_without_an_actual_costs_its_cost(ask: Ask, guard: Guard, tool: Tool) -> None:
    """Here, what a callable says of the arguments that the model gave."""
    ask_for(ask, tool, {"deep_spec": lambda prompt: 10 * len(prompt)})
    assert (tool.ran, tool.available, guard.available) == (["shop"], [60], 60)


def test_an_actual_that_fails_is_the_cost(ask: Ask, guard: Guard, tool: Tool) -> None:
    """The tool's result is the model's all the same."""
    [result] = ask_for(ask, tool, {"deep_spec": {"min": 50, "actual": lambda _: 1 / 0}})
    assert result.text == "SHOP"
    assert guard.available == 50


def test_parallel_calls_run_as_far_as_the_balance_goes(
    ask: Ask, guard: Guard, provider: FakeProvider
) -> None:
    """Of five calls in one turn at 30 of 100 credits three run, at the same time."""
    tool = Tool(guard, three_at_once(provider))
    line = calls(*(("deep_spec", {"prompt": prompt}) for prompt in FIVE))
    agent, _ = agent_of(
        plain(tool), lines=[line], middleware=[BudgetMiddleware(guard, {"deep_spec": 30})]
    )
    check_three_of_five([message.text for message in results(ask(agent))], tool.ran)
    assert provider.lowest == 10


def test_a_tool_that_raises_is_kept(ask: Ask, guard: Guard, kept: Kept) -> None:
    """Nobody knows what it cost until a balance shows it that was asked for late enough."""
    with pytest.raises(OSError, match="the connection broke"):
        ask_for(ask, Tool(guard, breaks), {"deep_spec": 50})
    kept(guard, 50)


def test_release_on_gives_it_back(ask: Ask, guard: Guard) -> None:
    """Where the exception proves that nothing was charged."""

    def work(_: str) -> str:
        raise ConnectionRefusedError

    terms = {"min": 50, "release_on": ConnectionRefusedError}
    with pytest.raises(ConnectionRefusedError):
        ask_for(ask, Tool(guard, work), {"deep_spec": terms})
    assert guard.available == 100


def test_a_run_that_is_cancelled_keeps_its_holds(guard: Guard, kept: Kept) -> None:
    """The tool was at work, and may be charged for."""

    def run(work: Any) -> Any:
        line = calls(("deep_spec", {"prompt": "shop"}))
        tool = StructuredTool.from_function(coroutine=work, name="deep_spec", description="Wait.")
        budget = BudgetMiddleware(guard, {"deep_spec": 50})
        agent, _ = agent_of(tool, lines=[line], middleware=[budget])
        return agent.ainvoke({"messages": []})

    cancelled_at_work(run)
    kept(guard, 50)


def test_a_cost_that_cannot_be_told_runs_nothing(
    ask: Ask, guard: Guard, tool: Tool, no_price: tuple[Any, str]
) -> None:
    """The model is told, and the tool does not run for free."""
    cost, kind = no_price
    [result] = ask_for(ask, tool, {"deep_spec": cost})
    assert result.text.startswith(f"{COULD_NOT} ({kind}")
    assert result.text.endswith(f"). {NOT_AGAIN}")
    assert tool.ran == []
    assert guard.available == 100


def test_a_cost_that_cannot_be_told_may_end_the_run(ask: Ask, guard: Guard, tool: Tool) -> None:
    """With "stop" whatever the callable raised reaches the caller."""
    budget = BudgetMiddleware(guard, {"deep_spec": no_price_for}, on_refusal="stop")
    line = calls(("deep_spec", {"prompt": "shop"}))
    with pytest.raises(LookupError, match="no price for shop"):
        ask(agent_of(tool.named(), lines=[line], middleware=[budget])[0])
    assert tool.ran == []


def test_a_balance_that_never_comes_runs_nothing(
    ask: Ask, clock: HandClock, provider: FakeProvider
) -> None:
    """After the guard's time-out the model reads that nothing was started."""
    tool = Tool(Guard(provider))
    [result] = out_of_time(clock, provider, lambda: ask_for(ask, tool, {"deep_spec": 50}))
    assert result.text == UNKNOWN
    assert tool.ran == []


def test_a_balance_that_fails_runs_nothing(ask: Ask, provider: FakeProvider) -> None:
    """An unknown balance never lets a tool through."""
    provider.failure = ValueError("no balance here")
    tool = Tool(Guard(provider))
    [result] = ask_for(ask, tool, {"deep_spec": 50})
    assert result.text.startswith("BUDGET: the balance at fake is not known")
    assert tool.ran == []


def test_a_closed_guard_runs_nothing(ask: Ask, guard: Guard, tool: Tool) -> None:
    """It admits nobody any more."""
    guard.close()
    [result] = ask_for(ask, tool, {"deep_spec": 50})
    assert "RuntimeError: deep_spec was called after the guard of fake was closed." in result.text
    assert tool.ran == []


def test_what_has_no_price_passes(ask: Ask, guard: Guard, tool: Tool) -> None:
    """And costs nothing."""
    [result] = ask_for(ask, tool, {"fast_spec": 120})
    assert result.text == "SHOP"
    assert (tool.available, guard.available) == ([100], 100)


def test_a_price_with_a_slip_in_its_name_is_told(
    ask: Ask, guard: Guard, tool: Tool, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, at the first call: an agent shows its tools no earlier."""
    ask_for(ask, tool, {"deep_spek": 120})
    assert MISSPELLED in caplog.messages


def test_a_star_prices_the_rest(ask: Ask, guard: Guard, tool: Tool) -> None:
    """But not what is named, be it at no cost."""
    other, free = Tool(guard), Tool(guard)
    line = calls(*((name, {"prompt": name}) for name in ("deep_spec", "search", "free")))
    budget = BudgetMiddleware(guard, {"*": 120, "deep_spec": 10, "free": None})
    tools = [tool.named(), other.named("search"), free.named("free")]
    texts = [
        message.text
        for message in results(ask(agent_of(*tools, lines=[line], middleware=[budget])[0]))
    ]
    assert texts[0] == "DEEP_SPEC"
    assert texts[1].startswith("BUDGET: needs 120 credits")
    assert texts[2] == "FREE"
    assert (other.ran, free.ran, guard.available) == ([], ["free"], 90)


def test_a_refusal_is_never_settled(ask: Ask, guard: Guard, tool: Tool) -> None:
    """`actual` is asked about what ran, and about nothing else."""
    asked: list[Any] = []
    terms = {"min": 120, "actual": asked.append}
    ask_for(ask, tool, {"deep_spec": terms})
    assert (asked, guard.available) == ([], 100)


WRONG = ("deep_spec", {"prompt": 3})
RIGHT = ("deep_spec", {"prompt": "shop"})


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120, {"min": lambda prompt: 10 * len(prompt)}])
def test_arguments_that_langchain_turns_down_cost_nothing(
    ask: Ask, guard: Guard, tool: Tool, cost: Any, on_refusal: Any
) -> None:
    """Its own words are read, whether or not there is a price or the credits for it."""
    budget = BudgetMiddleware(guard, {"deep_spec": cost}, on_refusal=on_refusal)
    [result] = results(ask(agent_of(tool.named(), lines=[calls(WRONG)], middleware=[budget])[0]))
    assert "Input should be a valid string" in result.text
    assert (tool.ran, guard.available) == ([], 100)


class OwnWay(StructuredTool):
    """A tool made of a function, with a way of its own to be awaited."""

    async def _arun(self, *args: Any, config: Any = None, **kwargs: Any) -> str:
        return f"own: {kwargs['prompt']}"


def test_a_tools_own_way_to_be_awaited_is_taken(guard: Guard, tool: Tool) -> None:
    """As without a guard, and held for once."""
    own = OwnWay.from_function(lambda prompt: prompt, name="deep_spec", description="Slow.")
    budget = BudgetMiddleware(guard, {"deep_spec": 60})
    [result] = results(by_ainvoke(agent_of(own, lines=[calls(RIGHT)], middleware=[budget])[0]))
    assert result.text == f"own: {RIGHT[1]['prompt']}"
    assert guard.available == 40


def test_the_corrected_call_is_let_in(ask: Ask, guard: Guard, tool: Tool) -> None:
    """In the turn after the one whose arguments were wrong, with all credits there."""
    budget = BudgetMiddleware(guard, {"deep_spec": 60})
    lines = [calls(WRONG), calls(RIGHT)]
    state = ask(agent_of(tool.named(), lines=lines, middleware=[budget])[0])
    assert results(state)[-1].text == "SHOP"
    assert guard.available == 40


def test_a_validation_error_of_the_tools_own_is_kept(ask: Ask, guard: Guard, kept: Kept) -> None:
    """It comes from inside, as of a reply that it could not read, and costs what it costs."""

    def work(prompt: str) -> str:
        return str(TypeAdapter(int).validate_python(prompt))

    [result] = ask_for(ask, Tool(guard, work), {"deep_spec": 50})
    assert isinstance(result, ToolMessage)
    assert result.status == "error"
    kept(guard, 50)


def test_a_tool_that_cannot_run_so_costs_nothing(guard: Guard) -> None:
    """LangChain finds that it has no plain function when it would call it."""
    tool = Tool(guard)
    awaited = StructuredTool.from_function(coroutine=tool.acall, name="deep_spec", description="-")
    budget = BudgetMiddleware(guard, {"deep_spec": 50})
    with pytest.raises(NotImplementedError):
        by_invoke(agent_of(awaited, lines=[calls(RIGHT)], middleware=[budget])[0])
    assert (tool.ran, guard.available) == ([], 100)


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120])
def test_a_tool_that_there_is_not_costs_nothing(
    ask: Ask, guard: Guard, tool: Tool, cost: int, on_refusal: Any
) -> None:
    """Not even what the star says; LangChain's own words are read."""
    budget = BudgetMiddleware(guard, {"*": cost}, on_refusal=on_refusal)
    line = calls(("deep_spek", {"prompt": "shop"}))
    [result] = results(ask(agent_of(tool.named(), lines=[line], middleware=[budget])[0]))
    assert result.text.startswith("Error: deep_spek is not a valid tool")
    assert guard.available == 100


class Instead(AgentMiddleware[Any, Any, Any]):
    """Puts another tool in the place of the one that the model named."""

    def __init__(self, tool: BaseTool) -> None:
        super().__init__()
        self.tool = tool

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(tool=self.tool))

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(tool=self.tool))


@pytest.mark.parametrize("named", ["fast_spec", "no_spec"])
def test_the_tool_that_runs_is_priced(ask: Ask, guard: Guard, tool: Tool, named: str) -> None:
    """And not the name that the model wrote, be there a tool of that name or not."""
    cheap = Tool(guard)
    costs = {"deep_spec": 120, "fast_spec": 10}
    middleware = [Instead(tool.named()), BudgetMiddleware(guard, costs)]
    agent, _ = agent_of(
        cheap.named("fast_spec"), lines=[calls((named, {"prompt": "x"}))], middleware=middleware
    )
    [result] = results(ask(agent))
    assert result.text == REFUSED
    assert (tool.ran, cheap.ran, guard.available) == ([], [], 100)


def test_a_tool_in_its_place_at_no_price_passes(ask: Ask, guard: Guard, tool: Tool) -> None:
    """The dear one that was named does not run."""
    free = Tool(guard)
    middleware = [Instead(free.named("search")), BudgetMiddleware(guard, {"deep_spec": 120})]
    agent, _ = agent_of(tool.named(), lines=[calls(RIGHT)], middleware=middleware)
    assert [message.text for message in results(ask(agent))] == ["SHOP"]
    assert (tool.ran, free.ran, guard.available) == ([], ["shop"], 100)


def plain(tool: Worker | Slow) -> BaseTool:
    """One without a coroutine."""
    return StructuredTool.from_function(tool.call, name="deep_spec", description="Plain.")


class Plain(BaseTool):
    """A tool that is written as a class."""

    name: str = "deep_spec"
    description: str = "Slow."
    work: Callable[[str], str]

    def _run(self, prompt: str) -> str:
        return self.work(prompt)


@pytest.mark.parametrize("of_a_class", [False, True])
@OUTCOMES
def test_a_thread_that_works_on_holds_on(
    clock: HandClock,
    provider: FakeProvider,
    error: Any,
    release_on: Any,
    after: int,
    of_a_class: bool,
) -> None:
    """When its run is cancelled only the wait is over: the credits remain held until the thread has finished."""
    slow = Slow(error)

    async def given_up(guard: Guard) -> None:
        budget = BudgetMiddleware(guard, {"deep_spec": {"min": 50, "release_on": release_on}})
        tool = Plain(work=slow.call) if of_a_class else plain(slow)
        agent, _ = agent_of(tool, lines=[calls(RIGHT)], middleware=[budget])
        await slow.give_up(agent.ainvoke({"messages": [("user", "Go.")]}))

    works_on(clock, provider, slow, after, given_up)


def test_a_sibling_that_fails_ends_no_thread(clock: HandClock, provider: FakeProvider) -> None:
    """The run stops with its error, and the other call remains held until it has finished."""
    slow = Slow()

    async def fail(prompt: str) -> str:
        await slow.has_begun()
        raise OSError(prompt)

    failing = StructuredTool.from_function(coroutine=fail, name="failing", description="Fails.")

    async def given_up(guard: Guard) -> None:
        line = calls(RIGHT, ("failing", {"prompt": "broke"}))
        budget = BudgetMiddleware(guard, {"deep_spec": 50})
        agent, _ = agent_of(plain(slow), failing, lines=[line], middleware=[budget])
        with pytest.raises(OSError, match="broke"):
            await agent.ainvoke({"messages": [("user", "Go.")]})

    works_on(clock, provider, slow, 50, given_up)


def test_who_waits_for_credits_takes_up_no_thread(guard: Guard) -> None:
    """It may be given up, and the tool does not run then."""
    tool = Tool(guard)
    budget = BudgetMiddleware(guard, {"deep_spec": {"min": 60, "wait": 30}})
    agent, _ = agent_of(plain(tool), lines=[calls(RIGHT)], middleware=[budget])

    async def run() -> None:
        with guard.acquire(60):
            running = asyncio.create_task(agent.ainvoke({"messages": [("user", "Go.")]}))
            await asyncio.to_thread(until, lambda: waiting(guard) == 1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    asyncio.run(run())
    assert tool.ran == []


def test_the_tool_itself_is_run(ask: Ask, guard: Guard) -> None:
    """What it notes of itself is not noted of a copy."""

    class Counting(Plain):
        runs: int = 0

        def _run(self, prompt: str, run_manager: Any = None) -> str:
            self.runs += 1
            return f"{prompt} {self.runs}, {run_manager is not None}"

    tool = Counting(work=str)
    budget = BudgetMiddleware(guard, {"deep_spec": 10})
    agent, _ = agent_of(tool, lines=[calls(RIGHT), calls(RIGHT)], middleware=[budget])
    texts = [message.text for message in results(ask(agent))]
    assert texts == ["shop 1, True", "shop 2, True"]
    assert (tool.runs, guard.available) == (2, 80)


def test_a_tool_with_a_way_in_of_its_own_is_held_for(ask: Ask, guard: Guard) -> None:
    """One that answers before LangChain comes to where tools are written."""
    ran: list[Any] = []

    class Own(Plain):
        def invoke(self, call: Any, *_: Any, **__: Any) -> Any:
            ran.append((call["args"], guard.available))
            return ToolMessage("own", tool_call_id=call["id"])

        async def ainvoke(self, call: Any, *_: Any, **__: Any) -> Any:
            return self.invoke(call)

    budget = BudgetMiddleware(guard, {"deep_spec": {"min": 60, "actual": lambda _: 7}})
    agent, _ = agent_of(Own(work=str), lines=[calls(RIGHT)], middleware=[budget])
    assert [message.text for message in results(ask(agent))] == ["own"]
    assert (ran, guard.available) == ([({"prompt": "shop"}, 40)], 93)
    dear = BudgetMiddleware(guard, {"deep_spec": 120})
    agent, _ = agent_of(Own(work=str), lines=[calls(RIGHT)], middleware=[dear])
    assert "BUDGET: needs 120" in results(ask(agent))[0].text
    assert len(ran) == 1


def test_a_state_that_is_injected_is_there(ask: Ask, guard: Guard) -> None:
    """What LangChain gives a tool beyond the model's arguments, and what it keeps from a price."""

    def count(prompt: str, runtime: ToolRuntime, call: Annotated[str, InjectedToolCallId]) -> str:
        return f"{prompt} {len(runtime.state['messages'])} {call}"

    tool = StructuredTool.from_function(count, name="deep_spec", description="Count.")
    budget = BudgetMiddleware(guard, {"deep_spec": lambda prompt: 10 * len(prompt)})
    agent, _ = agent_of(tool, lines=[calls(RIGHT)], middleware=[budget])
    assert [message.text for message in results(ask(agent))] == ["shop 2 call 0"]
    assert guard.available == 60


def test_a_tool_that_is_not_there_passes(ask: Ask, guard: Guard, tool: Tool) -> None:
    """Without a price for it, LangChain's own message is read and nothing is held or charged."""
    [result] = ask_for(ask, tool, {"deep_spec": 50}, ("deep_spek", {"prompt": "shop"}))
    assert result.text.startswith("Error: deep_spek is not a valid tool")
    assert guard.available == 100


def test_each_attempt_of_a_retry_is_held_for(ask: Ask, guard: Guard) -> None:
    """The budget comes last: the attempt that failed is kept, the next one is admitted anew."""

    def work(prompt: str) -> str:
        if len(tool.ran) == 1:
            raise OSError
        return prompt

    tool = Tool(guard, work)
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0)
    budget = BudgetMiddleware(guard, {"deep_spec": 30})
    line = calls(("deep_spec", {"prompt": "shop"}))
    agent, _ = agent_of(tool.named(), lines=[line], middleware=[retry, budget])
    assert [message.text for message in results(ask(agent))] == ["shop"]
    assert tool.available == [70, 40]
    assert guard.available == 40


def test_retries_around_it_end_with_the_budget(ask: Ask, guard: Guard) -> None:
    """An attempt that cannot be paid for is refused, and the refusal is no reason to try again."""

    def work(_: str) -> str:
        raise OSError

    tool = Tool(guard, work)
    retry = ToolRetryMiddleware(max_retries=5, initial_delay=0)
    budget = BudgetMiddleware(guard, {"deep_spec": 40})
    line = calls(("deep_spec", {"prompt": "shop"}))
    agent, _ = agent_of(tool.named(), lines=[line], middleware=[retry, budget])
    [result] = results(ask(agent))
    assert result.text.startswith("BUDGET: needs 40 credits, 20 available")
    assert len(tool.ran) == 2


def test_two_guards_may_watch_one_agent(ask: Ask, guard: Guard, tool: Tool) -> None:
    """Each prices the tools of its own account."""
    other = Guard(FakeProvider(5))
    browse = Tool(other)
    line = calls(("deep_spec", {"prompt": "shop"}), ("browse", {"prompt": "page"}))
    budgets = [BudgetMiddleware(guard, {"deep_spec": 50}), BudgetMiddleware(other, {"browse": 10})]
    agent, _ = agent_of(tool.named(), browse.named("browse"), lines=[line], middleware=budgets)
    texts = [message.text for message in results(ask(agent))]
    assert texts[0] == "SHOP"
    assert texts[1].startswith("BUDGET: needs 10 credits, 5 available")
    assert (browse.ran, guard.available, other.available) == ([], 50, 5)


@pytest.mark.parametrize("refusing", [0, 1])
def test_two_guards_may_watch_one_tool(ask: Ask, guard: Guard, tool: Tool, refusing: int) -> None:
    """Both are asked, and what one holds is given back where the other refuses."""
    other = Guard(FakeProvider(100))
    guards = [guard, other]
    budgets = [BudgetMiddleware(each, {"deep_spec": 60}) for each in guards]
    assert budgets[0].name != budgets[1].name
    agent, _ = agent_of(tool.named(), lines=[calls(RIGHT), calls(RIGHT)], middleware=budgets)
    with guards[refusing].acquire(50) as hold:
        state = ask(agent)
        hold.release()
    assert all("BUDGET: needs 60 credits" in message.text for message in results(state))
    assert (tool.ran, guard.available, other.available) == ([], 100, 100)
    agent, _ = agent_of(tool.named(), lines=[calls(RIGHT)], middleware=budgets)
    assert [message.text for message in results(ask(agent))] == ["SHOP"]
    assert (guard.available, other.available) == (40, 40)


def test_two_guards_hold_for_one_thread(clock: HandClock, provider: FakeProvider) -> None:
    """Both until it has finished."""
    slow, other = Slow(), Guard(FakeProvider(100), linger=0, lag=0)

    async def given_up(guard: Guard) -> None:
        budgets = [BudgetMiddleware(each, {"deep_spec": 50}) for each in (guard, other)]
        agent, _ = agent_of(plain(slow), lines=[calls(RIGHT)], middleware=budgets)
        await slow.give_up(agent.ainvoke({"messages": [("user", "Go.")]}))
        clock.advance(10)
        await other.abalance(max_age=0)
        assert other.available == 50

    works_on(clock, provider, slow, 50, given_up)
    until(lambda: refreshed(clock, other).available == 100)


def test_one_guard_twice_is_a_slip(guard: Guard, tool: Tool) -> None:
    """LangChain says so, because both have one name: each call would be held twice."""
    budgets = [BudgetMiddleware(guard, {"deep_spec": 60}) for _ in range(2)]
    with pytest.raises(AssertionError, match="duplicate"):
        agent_of(tool.named(), lines=[], middleware=budgets)


def test_attempts_inside_of_it_are_held_for_too(ask: Ask, guard: Guard) -> None:
    """A retry that comes after it in the list tries the guarded tool; a refusal is not tried again."""

    def work(_: str) -> str:
        raise OSError

    tool = Tool(guard, work)
    retry = ToolRetryMiddleware(max_retries=5, initial_delay=0)
    budget = BudgetMiddleware(guard, {"deep_spec": 40})
    agent, _ = agent_of(tool.named(), lines=[calls(RIGHT)], middleware=[budget, retry])
    [result] = results(ask(agent))
    assert result.text.startswith("BUDGET: needs 40 credits, 20 available")
    assert (tool.available, guard.available) == ([60, 20], 20)


def node_of(tool: BaseTool, budget: BudgetMiddleware, **options: Any) -> Any:
    """Give a graph with no agent, whose one node runs tools."""
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([tool], **budget.hooks, **options))
    graph.add_edge("__start__", "tools")
    return graph.compile(checkpointer=InMemorySaver())


ONE_CALL = {"messages": [calls(("deep_spec", {"prompt": "shop"}))]}
THREAD: Any = {"configurable": {"thread_id": "1"}}


@pytest.fixture(params=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Callable[[Any, Any], Any]:
    """Run a graph in each of both ways."""
    if request.param == "invoke":
        return lambda graph, given: graph.invoke(given, THREAD)
    return lambda graph, given: asyncio.run(graph.ainvoke(given, THREAD))


def test_a_tool_node_without_an_agent(
    run: Callable[[Any, Any], Any], guard: Guard, tool: Tool
) -> None:
    """The same guard, by its hooks."""
    budget = BudgetMiddleware(guard, {"deep_spec": 60})
    graph = node_of(tool.named(), budget)
    assert run(graph, ONE_CALL)["messages"][-1].text == "SHOP"
    assert run(graph, ONE_CALL)["messages"][-1].text.startswith("BUDGET: needs 60 credits, 40 ")
    assert (tool.ran, guard.available) == (["shop"], 40)


def test_an_error_made_a_message_of_is_kept(
    run: Callable[[Any, Any], Any], guard: Guard, kept: Kept
) -> None:
    """A ToolNode that handles errors returns, but the tool did not."""

    def work(_: str) -> str:
        raise OSError

    budget = BudgetMiddleware(guard, {"deep_spec": {"min": 50, "actual": lambda _: 0}})
    graph = node_of(Tool(guard, work).named(), budget, handle_tool_errors=True)
    assert run(graph, ONE_CALL)["messages"][-1].status == "error"
    kept(guard, 50)


@pytest.mark.parametrize("by", ["node", "tool"])
def test_an_error_made_a_message_of_may_free_it(
    run: Callable[[Any, Any], Any], guard: Guard, by: str
) -> None:
    """`release_on` is about what the tool raised, whatever is read of that."""

    def work(_: str) -> str:
        raise ToolException

    budget = BudgetMiddleware(guard, {"deep_spec": {"min": 50, "release_on": ToolException}})
    tool = Tool(guard, work).named()
    tool.handle_tool_error = by == "tool"
    graph = node_of(tool, budget, handle_tool_errors=by == "node")
    assert run(graph, ONE_CALL)["messages"][-1].status == "error"
    assert guard.available == 100


def test_an_error_result_of_the_tools_own_is_kept(
    run: Callable[[Any, Any], Any], guard: Guard, kept: Kept
) -> None:
    """It returned, but says itself that it failed."""

    def work(prompt: str) -> Any:
        return ToolMessage(prompt, tool_call_id="call 0", status="error")

    budget = BudgetMiddleware(guard, {"deep_spec": {"min": 50, "actual": lambda _: 0}})
    run(node_of(Tool(guard, work).named(), budget), ONE_CALL)
    kept(guard, 50)


def test_stop_gives_way_to_a_node_that_handles_errors(
    run: Callable[[Any, Any], Any], guard: Guard, tool: Tool
) -> None:
    """It makes a message of any error: the tool does not run, the graph does."""
    budget = BudgetMiddleware(guard, {"deep_spec": 120}, on_refusal="stop")
    graph = node_of(tool.named(), budget, handle_tool_errors=True)
    message = run(graph, ONE_CALL)["messages"][-1]
    assert "InsufficientCredits" in message.text
    assert (message.status, tool.ran, guard.available) == ("error", [], 100)


@pytest.mark.parametrize(("release_on", "after"), [((), 20), (GraphInterrupt, 60)])
def test_a_tool_that_interrupts_starts_anew(
    run: Callable[[Any, Any], Any], guard: Guard, release_on: Any, after: int
) -> None:
    """It is kept, and held for again when it is resumed, unless it says that nothing was spent."""

    def work(prompt: str) -> str:
        return f"{prompt}, {interrupt('Continue?')}"

    budget = BudgetMiddleware(guard, {"deep_spec": {"min": 40, "release_on": release_on}})
    graph = node_of(Tool(guard, work).named(), budget)
    run(graph, ONE_CALL)
    assert run(graph, Command(resume="yes"))["messages"][-1].text == "shop, yes"
    assert guard.available == after


def test_a_command_is_what_the_tool_came_to(run: Callable[[Any, Any], Any], guard: Guard) -> None:
    """A tool that changes the graph's state is settled by what it returned."""
    seen: list[Any] = []

    def work(prompt: str) -> Any:
        return Command(update={"messages": [ToolMessage(prompt, tool_call_id="call 0")]})

    def actual(came_to: Any) -> int:
        seen.append(came_to)
        return 7

    budget = BudgetMiddleware(guard, {"deep_spec": {"min": 50, "actual": actual}})
    graph = node_of(Tool(guard, work).named(), budget)
    assert run(graph, ONE_CALL)["messages"][-1].text == "shop"
    assert isinstance(seen[0], Command)
    assert guard.available == 93


def test_a_decorated_function_inside_of_a_tool(ask: Ask, guard: Guard) -> None:
    """Its refusal stops the run; if it is caught, it is the tool's result."""

    def raising(prompt: str) -> str:
        """Write a specification."""
        return too_dear(guard)(prompt)

    def telling(prompt: str) -> str:
        """Write a specification."""
        try:
            return too_dear(guard)(prompt)
        except BudgetGuardError as error:
            return for_model(error)

    tools = [StructuredTool.from_function(each) for each in (raising, telling)]
    with pytest.raises(InsufficientCredits):
        ask(agent_of(*tools, lines=[calls(("raising", {"prompt": "shop"}))])[0])
    state = ask(agent_of(*tools, lines=[calls(("telling", {"prompt": "shop"}))])[0])
    assert [message.text for message in results(state)] == [REFUSED]


def test_guards_that_are_off_let_all_pass(ask: Ask, guard: Guard, tool: Tool) -> None:
    """As everywhere."""
    set_active(False)
    assert ask_for(ask, tool, {"deep_spec": 120})[0].text == "SHOP"
    assert guard.available == 100


@pytest.mark.parametrize(
    ("costs", "options", "kind"),
    [
        ({}, {}, ValueError),
        ({"x": -1}, {}, ValueError),
        ({"x": 1}, {"on_refusal": "halt"}, ValueError),
    ],
)
def test_what_cannot_be_is_said_at_once(
    guard: Guard, costs: Any, options: Any, kind: type[Exception]
) -> None:
    """When the middleware is made, not when a tool is called."""
    with pytest.raises(kind):
        BudgetMiddleware(guard, costs, **options)


def test_the_example() -> None:
    """It runs as a user would run it, with no warning."""
    printed = example.run("agents/langchain_agent.py")
    assert reads_of_want(printed)
    assert printed.endswith("ai: The outline has to do.\n22 credits are left.\n")


def test_the_example_of_sub_agents() -> None:
    """Each is told by its own budget, and what was spent is what the account paid."""
    printed = example.run("agents/langgraph_subagents.py")
    for topic in ("a seed library", "a tide table"):
        assert f"{topic} spent 36 of 40. Its last call: BUDGET: " in printed
        assert f"\n{topic}: that is what the budget allowed.\n" in printed
    assert printed.endswith(
        "The run spent 72 of 100 credits, for 6 outlines.\n928 credits are left in the account.\n"
    )
