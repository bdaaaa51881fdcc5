"""A Pydantic AI agent whose tools cost credits, with a scripted model and an account in memory.

It needs pydantic-ai, and no account, no key and no network.
"""

from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from budgetguard import Guard
from budgetguard.integrations.pydantic_ai import BudgetCapability
from budgetguard.testing import FakeProvider

account = FakeProvider(30)
guard = Guard(account)


def fast_spec(prompt: str) -> dict[str, Any]:
    """Outline a project."""
    account.charge(8)
    return {"outline": f"{prompt}, in short", "creditsUsed": 8}


def deep_spec(prompt: str) -> dict[str, Any]:
    """Describe a project in every detail."""
    account.charge(45)
    return {"specification": f"{prompt}, at length", "creditsUsed": 45}


def reply(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """Stand in for a chat model: give its scripted replies in order."""
    lines: list[ToolCallPart | TextPart] = [
        ToolCallPart("fast_spec", {"prompt": "a web shop"}),
        ToolCallPart("deep_spec", {"prompt": "a web shop"}),
        TextPart("The outline has to do."),
    ]
    return ModelResponse([lines[len(messages) // 2]])


def used(spec: dict[str, Any]) -> int:
    """Return the cost that a tool reports."""
    cost: int = spec["creditsUsed"]
    return cost


costs = {"fast_spec": {"min": 10, "actual": used}, "deep_spec": {"min": 50, "actual": used}}
agent = Agent(
    FunctionModel(reply),
    tools=[fast_spec, deep_spec],
    capabilities=[BudgetCapability(guard, costs)],
)
for message in agent.run_sync("Specify a web shop.").all_messages():
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            print(f"The model calls {part.tool_name}({part.args_as_dict()['prompt']!r}).")
        elif isinstance(part, ToolReturnPart):
            print(f"The tool: {part.content}")
        elif isinstance(part, TextPart):
            print(f"The model: {part.content}")
print(f"{account.credits} credits are left.")
