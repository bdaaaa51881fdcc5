"""A LangGraph run with two sub-agents, each capped by a budget inside that of the run.

The sub-agents' models are scripted and would go on for ever; an account in memory pays for their tools.
It needs langchain and langgraph, and no account, no key and no network.
"""

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph

from budgetguard import Guard
from budgetguard.integrations.langchain import BudgetMiddleware
from budgetguard.testing import FakeProvider

RUN, EACH, PRICE = 100, 40, 12

account = FakeProvider(1000)
guard = Guard(account)
written: list[str] = []


@tool
def fast_spec(prompt: str) -> str:
    """Outline a project."""
    account.charge(PRICE)
    written.append(prompt)
    return f"an outline of {prompt}"


class EagerModel(FakeMessagesListChatModel):
    """Stands in for a chat model: asks for one outline after the other, until it is told to finish."""

    topic: str

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:  # noqa: ARG002  as models do
        """Do nothing, because what it asks for is scripted."""
        return self

    def _generate(self, messages: list[Any], *args: Any, **options: Any) -> Any:
        if messages[-1].type == "tool" and messages[-1].text.startswith("BUDGET:"):
            self.responses = [AIMessage(f"{self.topic}: that is what the budget allowed.")]
        else:
            number = sum(message.type == "tool" for message in messages) + 1
            args_of_tool = {"prompt": f"{self.topic}, part {number}"}
            call = {"name": "fast_spec", "args": args_of_tool, "id": f"{self.topic}-{number}"}
            self.responses = [AIMessage("", tool_calls=[call])]
        return super()._generate(messages, *args, **options)


class State(TypedDict):
    """What the graph carries: the sub-agents' reports."""

    reports: Annotated[list[str], lambda before, after: before + after]


def sub_agent(topic: str) -> Any:
    """Make a node that runs an agent inside a budget of its own."""
    middleware: Any = BudgetMiddleware(guard, {"fast_spec": PRICE})
    agent = create_agent(
        EagerModel(responses=[], topic=topic), [fast_spec], middleware=[middleware]
    )

    def run(state: State) -> State:  # noqa: ARG001  as LangGraph calls nodes
        # Carved: its 40 credits are set aside at once, so that the other one cannot take them.
        with guard.budget(EACH, name=topic, share="carve") as budget:
            result = agent.invoke({"messages": [HumanMessage(f"Specify {topic}.")]})
        tools = [message.text for message in result["messages"] if message.type == "tool"]
        print(f"{topic} spent {budget.spent} of {EACH}. Its last call: {tools[-1]}")
        return {"reports": [result["messages"][-1].text]}

    return run


graph = StateGraph(State)
for each in ("a seed library", "a tide table"):
    graph.add_node(each, sub_agent(each))
    graph.add_edge(START, each)
    graph.add_edge(each, END)
with guard.budget(RUN, name="run") as run:
    reports = graph.compile().invoke({"reports": []})["reports"]
print(*reports, sep="\n")
print(f"The run spent {run.spent} of {RUN} credits, for {len(written)} outlines.")
print(f"{account.credits} credits are left in the account.")
