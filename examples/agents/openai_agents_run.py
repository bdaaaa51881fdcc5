"""An agent of the OpenAI Agents SDK whose tools cost credits, with a scripted model.

It needs openai-agents, and no account, no key and no network: the account is in memory.
"""

from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, ModelResponse, RunConfig, Runner, Usage, function_tool
from agents.models.interface import Model
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputItem,
    ResponseOutputMessage,
    ResponseOutputText,
)

from budgetguard import Guard
from budgetguard.integrations.openai_agents import guarded_tools
from budgetguard.testing import FakeProvider

account = FakeProvider(30)
guard = Guard(account)


@function_tool
def fast_spec(prompt: str) -> dict[str, Any]:
    """Outline a project."""
    account.charge(8)
    return {"outline": f"{prompt}, in short", "creditsUsed": 8}


@function_tool
def deep_spec(prompt: str) -> dict[str, Any]:
    """Describe a project in every detail."""
    account.charge(45)
    return {"specification": f"{prompt}, at length", "creditsUsed": 45}


class Script(Model):
    """Stands in for a chat model: gives its scripted replies in order."""

    def __init__(self, *lines: ResponseOutputItem) -> None:
        self.lines = list(lines)

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        """Give the next scripted reply."""
        return ModelResponse([self.lines.pop(0)], Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Not used: this program requests no stream."""
        raise NotImplementedError


def call(name: str) -> ResponseFunctionToolCall:
    """Make the reply of a model that calls a tool."""
    text = '{"prompt": "a web shop"}'
    return ResponseFunctionToolCall(name=name, arguments=text, call_id=name, type="function_call")


def answer(text: str) -> ResponseOutputMessage:
    """Make the reply of a model that finishes the run."""
    part = ResponseOutputText(text=text, annotations=[], type="output_text")
    return ResponseOutputMessage(
        id="answer", content=[part], role="assistant", status="completed", type="message"
    )


def used(spec: dict[str, Any]) -> int:
    """Return the cost that a tool reports."""
    cost: int = spec["creditsUsed"]
    return cost


costs = {"fast_spec": {"min": 10, "actual": used}, "deep_spec": {"min": 50, "actual": used}}
agent = Agent(
    "planner",
    model=Script(call("fast_spec"), call("deep_spec"), answer("The outline has to do.")),
    tools=guarded_tools([fast_spec, deep_spec], guard, costs),
)
result = Runner.run_sync(agent, "Specify a web shop.", run_config=RunConfig(tracing_disabled=True))
for item in result.new_items:
    if item.type == "tool_call_item":
        print(f"The model calls {item.tool_name}.")
    elif item.type == "tool_call_output_item":
        print(f"The tool: {item.output}")
print(f"The model: {result.final_output}")
print(f"{account.credits} credits are left.")
