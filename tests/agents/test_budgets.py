"""Agents within a budget: their tools take from it, and the model reads what is left of it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from needed import need

need("langchain", "langgraph", "agents")

from agents import Agent, RunConfig, Runner, function_tool
from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from test_openai_agents import Scripted as ScriptedAgent

from budgetguard import BudgetExceeded, Guard
from budgetguard.integrations.langchain import BudgetMiddleware
from budgetguard.integrations.openai_agents import guarded_tools
from budgetguard.integrations.tools import Tools

REFUSED = (
    "BUDGET: run-42 has 4 of 30 credits left; deep_spec needs 26. "
    "Do not retry; finish with what you have."
)


class Scripted(FakeMessagesListChatModel):
    """Says its lines in turn, whatever it reads."""

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        return self


def wants_a_spec(number: int) -> AIMessage:
    """Give the model's line that calls the tool."""
    call = {"name": "deep_spec", "args": {"prompt": "shop"}, "id": f"call {number}"}
    return AIMessage("", tool_calls=[call])  # type: ignore[list-item]


@pytest.mark.parametrize("awaited", [False, True])
def test_langchain(guard: Guard, *, awaited: bool) -> None:
    """The second spec is one too many: the model is told so by name, and finishes."""
    ran = list[str]()

    @tool
    def deep_spec(prompt: str) -> str:
        """Write a specification."""
        ran.append(prompt)
        return "done"

    lines = [wants_a_spec(1), wants_a_spec(2), AIMessage("Finished.")]
    agent: Any = create_agent(
        Scripted(responses=lines),
        [deep_spec],
        middleware=[BudgetMiddleware(guard, {"deep_spec": 26})],
    )
    asked: Any = {"messages": [("user", "Go.")]}
    with guard.budget(30, name="run-42") as run:
        answer = asyncio.run(agent.ainvoke(asked)) if awaited else agent.invoke(asked)
        assert (run.spent, run.held) == (26, 0)
    texts = [message.text for message in answer["messages"]]
    assert texts[-2:] == [REFUSED, "Finished."]
    assert ran == ["shop"]


def test_openai_agents(guard: Guard) -> None:
    """The run's own context carries the budget to its tools."""
    ran = list[str]()

    @function_tool
    def deep_spec(prompt: str) -> str:
        """Write a specification."""
        ran.append(prompt)
        return "done"

    model = ScriptedAgent()
    agent = Agent(
        name="writer", model=model, tools=guarded_tools([deep_spec], guard, {"deep_spec": 26})
    )

    async def main() -> None:
        quiet = RunConfig(tracing_disabled=True)
        async with guard.budget(30, name="run-42") as run:
            await Runner.run(agent, "Go.", run_config=quiet)
            await Runner.run(agent, "Go.", run_config=quiet)
            assert (run.spent, run.held) == (26, 0)

    asyncio.run(main())
    assert ran == ["shop"]
    assert model.read == [REFUSED]


def test_a_refusal_can_stop_the_run(guard: Guard) -> None:
    """With `on_refusal="stop"` the budget's error ends it, with its figures."""
    tools = Tools(guard, {"*": 26}, on_refusal="stop")
    with guard.budget(20, name="run-42"), pytest.raises(BudgetExceeded) as refused:
        tools.refusal("deep_spec", _refusal(tools))
    assert refused.value.budget == "run-42"


def _refusal(tools: Tools) -> Exception:
    with pytest.raises(BudgetExceeded) as refused:
        tools.open("deep_spec", {})
    return refused.value
