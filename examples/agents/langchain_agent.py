"""A LangChain agent whose tools cost credits, with a scripted model and an account in memory.

It needs langchain, and no account, no key and no network.
"""

import json
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from budgetguard import Guard
from budgetguard.integrations.langchain import BudgetMiddleware
from budgetguard.testing import FakeProvider

account = FakeProvider(30)
guard = Guard(account)


@tool
def fast_spec(prompt: str) -> dict[str, Any]:
    """Outline a project."""
    account.charge(8)
    return {"outline": f"{prompt}, in short", "creditsUsed": 8}


@tool
def deep_spec(prompt: str) -> dict[str, Any]:
    """Describe a project in every detail."""
    account.charge(45)
    return {"specification": f"{prompt}, at length", "creditsUsed": 45}


class Model(FakeMessagesListChatModel):
    """Stands in for a chat model: gives its scripted replies in order."""

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:  # noqa: ARG002  as models do
        """Do nothing, because the replies are scripted."""
        return self


def call(number: str, name: str) -> AIMessage:
    """Make the reply of a model that calls a tool."""
    args = {"prompt": "a web shop"}
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": number}])


def used(message: ToolMessage) -> int:
    """Return the cost that a tool reports."""
    cost: int = json.loads(message.text)["creditsUsed"]
    return cost


costs = {"fast_spec": {"min": 10, "actual": used}, "deep_spec": {"min": 50, "actual": used}}
lines = [call("1", "fast_spec"), call("2", "deep_spec"), AIMessage("The outline has to do.")]
agent = create_agent(
    Model(responses=lines),
    [fast_spec, deep_spec],
    middleware=[BudgetMiddleware(guard, costs)],
)
for message in agent.invoke({"messages": [HumanMessage("Specify a web shop.")]})["messages"]:
    for asked in getattr(message, "tool_calls", []):
        print(f"The model calls {asked['name']}({asked['args']['prompt']!r}).")
    if message.text:
        print(f"{message.type}: {message.text}")
print(f"{account.credits} credits are left.")
