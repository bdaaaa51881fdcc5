"""LangGraph's interrupts as approvals: the graph is paused with nothing held, and goes on with the answer."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from needed import need
from scenes import Worker

need("langchain", "langgraph")

from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from budgetguard import ApprovalDenied, ApprovalRequest, Event, Guard
from budgetguard.integrations.langchain import BudgetMiddleware
from budgetguard.testing import FakeProvider, HandClock

DAY = 24 * 60 * 60
CONFIG: Any = {"configurable": {"thread_id": "1"}}
DENIED = (
    "BUDGET: deep_spec needs 50 credits, and the approval was denied. "
    "Do not retry; continue without this tool, and tell the user."
)


class Scripted(FakeMessagesListChatModel):
    """Says its lines in turn, whatever it reads."""

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        return self


class Tool(Worker):
    """LangChain's tool, which awaits where the agent does."""

    def named(self) -> BaseTool:
        return StructuredTool.from_function(
            self.call, self.acall, name="deep_spec", description="Write a specification."
        )


class Price:
    """A price that changes."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, prompt: str) -> int:
        return self.amount


def calls(*prompts: str) -> AIMessage:
    """Give the model's line that calls the tool with each prompt."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": "deep_spec", "args": {"prompt": prompt}, "id": f"call {number}"}
            for number, prompt in enumerate(prompts)
        ],
    )


Run = Callable[[Any, Any], Any]


def by_invoke(graph: Any, given: Any) -> Any:
    """Run or resume a graph, blocking."""
    return graph.invoke(given, CONFIG)


def by_ainvoke(graph: Any, given: Any) -> Any:
    """Run or resume a graph that awaits."""
    return asyncio.run(graph.ainvoke(given, CONFIG))


@pytest.fixture(params=[by_invoke, by_ainvoke], ids=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a graph in each of both ways."""
    way: Run = request.param
    return way


@pytest.fixture
def tool(guard: Guard) -> Tool:
    """A tool that says back what it was asked for, louder."""
    return Tool(guard)


@pytest.fixture
def saver() -> InMemorySaver:
    """Where a graph keeps what it needs to go on."""
    return InMemorySaver()


def agent_of(
    tool: Tool, saver: InMemorySaver, cost: Any = 50, prompts: Sequence[str] = ("shop",)
) -> Any:
    """Give an agent whose model calls the tool and then answers."""
    model = Scripted(responses=[calls(*prompts), AIMessage("Done.")])
    budget = BudgetMiddleware(tool.guard, {"deep_spec": cost}, approve_above=20)
    return create_agent(model, [tool.named()], middleware=[budget], checkpointer=saver)


GO = {"messages": [("user", "Go.")]}


# More than enough for two calls.
MOST_QUESTIONS = 10


def questions(state: Any) -> list[Any]:
    """Give what a paused graph asks."""
    return [each.value for each in state.get("__interrupt__", [])]


def results(state: Any) -> list[str]:
    """Give what the tools came to; the run must have gone on to its end."""
    assert state["messages"][-1].text == "Done."
    return [each.text for each in state["messages"] if isinstance(each, ToolMessage)]


def test_the_graph_is_paused_with_nothing_held(
    run: Run, guard: Guard, tool: Tool, saver: InMemorySaver
) -> None:
    """The question says what would be held, in JSON values; the approved call runs once."""
    agent = agent_of(tool, saver)
    [question] = questions(run(agent, GO))
    assert (tool.ran, guard.available) == ([], 100)
    assert json.loads(json.dumps(question)) == question
    assert question["type"] == "budgetguard.approval"
    assert (question["operation"], question["needed"], question["available"]) == (
        "deep_spec",
        "50",
        "100",
    )
    assert (question["arguments"], question["tool_call_id"]) == ({"prompt": "shop"}, "call 0")
    state = run(agent, Command(resume={**question, "approved": True}))
    assert (results(state), tool.ran, tool.available) == (["SHOP"], ["shop"], [50])


class Own(StructuredTool):
    """A tool with a way of its own to its function, so that it is admitted around it."""

    def run(self, *args: Any, **options: Any) -> Any:
        return super().run(*args, **options)

    async def arun(self, *args: Any, **options: Any) -> Any:
        return await super().arun(*args, **options)


@pytest.mark.parametrize("kind", [StructuredTool, Own])
def test_every_kind_of_tool_is_asked_about(
    run: Run, guard: Guard, tool: Tool, saver: InMemorySaver, kind: type[StructuredTool]
) -> None:
    """Also a plain function that runs in a thread, and a tool that is admitted around its own code."""
    model = Scripted(responses=[calls("shop"), AIMessage("Done.")])
    budget = BudgetMiddleware(guard, {"deep_spec": 50}, approve_above=20)
    plain = kind.from_function(tool.call, name="deep_spec", description="Write a specification.")
    agent = create_agent(model, [plain], middleware=[budget], checkpointer=saver)
    [question] = questions(run(agent, GO))
    assert (tool.ran, guard.available) == ([], 100)
    assert results(run(agent, Command(resume={**question, "approved": True}))) == ["SHOP"]
    assert tool.ran == ["shop"]


def test_a_cheaper_call_is_not_asked_about(
    run: Run, guard: Guard, tool: Tool, saver: InMemorySaver
) -> None:
    """It runs at once."""
    assert results(run(agent_of(tool, saver, cost=20), GO)) == ["SHOP"]
    assert guard.available == 80


def test_another_process_can_resume(run: Run, tool: Tool, saver: InMemorySaver) -> None:
    """All that is needed is in the checkpoint and the answer."""
    [question] = questions(run(agent_of(tool, saver), GO))
    model = Scripted(responses=[AIMessage("Done.")])
    budget = BudgetMiddleware(tool.guard, {"deep_spec": 50}, approve_above=20)
    other = create_agent(model, [tool.named()], middleware=[budget], checkpointer=saver)
    answer = json.loads(json.dumps({**question, "approved": True}))
    assert results(run(other, Command(resume=answer))) == ["SHOP"]


@pytest.mark.parametrize("bare", [True, False])
def test_a_denied_call_does_not_run(
    run: Run, guard: Guard, tool: Tool, saver: InMemorySaver, bare: bool
) -> None:
    """The model reads that; nothing was held."""
    agent = agent_of(tool, saver)
    [question] = questions(run(agent, GO))
    answer = False if bare else {**question, "approved": False}
    assert results(run(agent, Command(resume=answer))) == [DENIED]
    assert (tool.ran, guard.available) == ([], 100)


def test_a_late_approval_is_decided_on_the_balance_as_it_is_then(
    run: Run,
    guard: Guard,
    provider: FakeProvider,
    clock: HandClock,
    tool: Tool,
    saver: InMemorySaver,
) -> None:
    """Others spent meanwhile: the approved call is refused."""
    agent = agent_of(tool, saver)
    [question] = questions(run(agent, GO))
    provider.charge(70)
    clock.advance(700)
    [text] = results(run(agent, Command(resume={**question, "approved": True})))
    assert text.startswith("BUDGET: needs 50 credits, 30 available")
    assert (tool.ran, guard.available) == ([], 30)


def test_a_call_whose_price_rose_is_asked_about_again(
    run: Run, guard: Guard, tool: Tool, saver: InMemorySaver
) -> None:
    """What was approved is not enough; one that fell needs no other approval."""
    price = Price(50)
    agent = agent_of(tool, saver, price)
    [question] = questions(run(agent, GO))
    price.amount = 60
    [again] = questions(run(agent, Command(resume={**question, "approved": True})))
    assert (again["needed"], tool.ran, guard.available) == ("60", [], 100)
    price.amount = 55
    assert results(run(agent, Command(resume={**again, "approved": True}))) == ["SHOP"]
    assert tool.available == [45]


@pytest.mark.parametrize(("after", "asked_again"), [(DAY, False), (DAY + 1, True)])
def test_an_approval_expires(
    run: Run, clock: HandClock, tool: Tool, saver: InMemorySaver, after: int, asked_again: bool
) -> None:
    """A day after it was asked for, it is asked for again."""
    agent = agent_of(tool, saver)
    [question] = questions(run(agent, GO))
    clock.advance(after)
    state = run(agent, Command(resume={**question, "approved": True}))
    if asked_again:
        [again] = questions(state)
        state = run(agent, Command(resume={**again, "approved": True}))
    assert (results(state), tool.ran) == (["SHOP"], ["shop"])


@pytest.mark.parametrize(
    "change",
    [
        {"tool_call_id": "call 7"},
        {"arguments": {"prompt": "shopping mall"}},
        {"operation": "fast_spec"},
        {"needed": "49.999999"},
        {"needed": "NaN"},
        {"needed": None},
        {"unit": "USD"},
        {"provider": "other"},
        {"expires_at": "1900-01-01T00:00:00+00:00"},
        {"expires_at": "2100-01-01T00:00:00"},
        {"expires_at": "soon"},
        {"approved": "yes"},
        {"approved": 1},
        {"type": "another"},
    ],
    ids=str,
)
def test_an_answer_about_something_else_is_no_approval(
    guard: Guard, tool: Tool, saver: InMemorySaver, change: dict[str, Any]
) -> None:
    """The same question is asked again."""
    agent = agent_of(tool, saver)
    [question] = questions(by_invoke(agent, GO))
    state = by_invoke(agent, Command(resume={**question, "approved": True, **change}))
    assert len(questions(state)) == 1
    assert (tool.ran, guard.available) == ([], 100)


def test_a_bare_yes_does_not_say_what_it_approves(
    tool: Tool, saver: InMemorySaver, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again, and the log says how to answer."""
    caplog.set_level("WARNING", "budgetguard")
    agent = agent_of(tool, saver)
    by_invoke(agent, GO)
    [question] = questions(by_invoke(agent, Command(resume=True)))
    assert '{**interrupt.value, "approved": True}' in caplog.text
    assert results(by_invoke(agent, Command(resume={**question, "approved": True}))) == ["SHOP"]


def test_parallel_calls_each_have_an_approval_of_their_own(
    run: Run, guard: Guard, tool: Tool, saver: InMemorySaver
) -> None:
    """One is approved and one denied, by the ids of their interrupts."""
    agent = agent_of(tool, saver, 30, ("shop", "blog"))
    state = run(agent, GO)
    assert len(questions(state)) == 2
    answers = {
        each.id: {**each.value, "approved": each.value["arguments"] == {"prompt": "blog"}}
        for each in state["__interrupt__"]
    }
    texts = results(run(agent, Command(resume=answers)))
    assert texts[0].startswith("BUDGET: deep_spec needs 30 credits, and the approval was denied.")
    assert (texts[1], tool.ran, tool.available) == ("BLOG", ["blog"], [70])


def test_a_tool_that_interrupts_itself_is_not_asked_about_twice(
    run: Run, guard: Guard, saver: InMemorySaver
) -> None:
    """Its own question comes after ours, and each gets its own answer."""
    tool = Tool(guard, lambda prompt: f"{prompt}, {interrupt('Continue?')}")
    agent = agent_of(tool, saver, {"min": 30, "release_on": Exception})
    [question] = questions(run(agent, GO))
    assert questions(run(agent, Command(resume={**question, "approved": True}))) == ["Continue?"]
    assert guard.available == 100
    assert results(run(agent, Command(resume="yes"))) == ["shop, yes"]


def test_a_node_without_an_agent(run: Run, guard: Guard, tool: Tool, saver: InMemorySaver) -> None:
    """Its calls share one task, and run at once: none takes another one's answer as its own."""
    budget = BudgetMiddleware(guard, {"deep_spec": 30}, approve_above=20)
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([tool.named()], **budget.hooks))
    graph.set_entry_point("tools")
    node = graph.compile(checkpointer=saver)
    state = run(node, {"messages": [calls("shop", "blog")]})
    answered: list[str] = []
    # Where threads change between the two, LangGraph hands one's answer to the other, which asks again.
    while (asked := questions(state)) and len(answered) < MOST_QUESTIONS:
        answered += [each["arguments"]["prompt"] for each in asked]
        state = run(node, Command(resume={**asked[0], "approved": True}))
        assert set(tool.ran) <= set(answered)
    assert [each.text for each in state["messages"][1:]] == ["SHOP", "BLOG"]


def test_with_stop_a_denial_ends_the_run(run: Run, tool: Tool, saver: InMemorySaver) -> None:
    """The error reaches the code that resumed the agent."""
    model = Scripted(responses=[calls("shop"), AIMessage("Done.")])
    budget = BudgetMiddleware(tool.guard, {"deep_spec": 50}, on_refusal="stop", approve_above=20)
    agent = create_agent(model, [tool.named()], middleware=[budget], checkpointer=saver)
    run(agent, GO)
    with pytest.raises(ApprovalDenied):
        run(agent, Command(resume=False))


def test_a_callable_may_answer_instead(
    run: Run, guard: Guard, tool: Tool, saver: InMemorySaver
) -> None:
    """A tool whose cost names one asks it, and does not pause the graph; it may interrupt it itself."""
    asked: list[ApprovalRequest] = []

    def approve(request: ApprovalRequest) -> bool:
        asked.append(request)
        return bool(interrupt("May I?"))

    agent = agent_of(tool, saver, {"min": 50, "approve": approve})
    assert questions(run(agent, GO)) == ["May I?"]
    assert (asked[0].operation, asked[0].kwargs, guard.available) == (
        "deep_spec",
        {"prompt": "shop"},
        100,
    )
    assert results(run(agent, Command(resume=True))) == ["SHOP"]


def test_a_denial_is_an_event(tool: Tool, saver: InMemorySaver) -> None:
    """As a refusal for any other reason."""
    events: list[Event] = []
    tool.guard = Guard(FakeProvider(100), on_event=events.append)
    agent = agent_of(tool, saver)
    by_invoke(agent, GO)
    by_invoke(agent, Command(resume=False))
    refused = [event for event in events if event.kind == "refused"]
    assert [(event.operation, event.cause) for event in refused] == [("deep_spec", "approval")]


@pytest.mark.parametrize("above", [-1, "much", True])
def test_wrong_marks(guard: Guard, above: Any) -> None:
    """When the middleware is made."""
    with pytest.raises((TypeError, ValueError), match="approve_above"):
        BudgetMiddleware(guard, {"deep_spec": 50}, approve_above=above)
