"""A CrewAI crew whose tools cost credits: a refusal is a tool's result for its model.

The model is scripted and the account is in memory: no key and no network are needed.
"""

import json
import os
from typing import Any

from crewai import Agent, BaseLLM, Crew, Task
from crewai.tools import tool

from budgetguard import Guard
from budgetguard.integrations.crewai import guarded_tools
from budgetguard.testing import FakeProvider

ran: list[str] = []


@tool
def deep_spec(prompt: str) -> str:
    """Write a spec of everything."""
    ran.append("deep_spec")
    return f"All of {prompt}."


@tool
def fast_spec(prompt: str) -> str:
    """Outline a spec."""
    ran.append("fast_spec")
    return f"The outline of {prompt}."


class Model(BaseLLM):
    """Stands in for a chat model: calls the expensive tool first, then the cheap one."""

    def supports_function_calling(self) -> bool:
        """Tell CrewAI to offer the tools as functions."""
        return True

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        """Call a tool, or answer."""
        read = [message["content"] for message in messages if message["role"] == "tool"]
        if len(read) == 2:
            return "Here is the outline; the rest wants a top-up."
        if read:
            print(f"It reads: {read[-1]}")
        name = "fast_spec" if read else "deep_spec"
        print(f"The model calls {name}.")
        function = {"name": name, "arguments": json.dumps({"prompt": "a shop"})}
        return [{"id": f"call_{len(read)}", "type": "function", "function": function}]


def main() -> None:
    """Let the crew do its one task."""
    os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"
    os.environ["CREWAI_TESTING"] = "true"  # otherwise it offers to show a trace
    guard = Guard(FakeProvider(40))
    tools = guarded_tools([deep_spec, fast_spec], guard, {"deep_spec": 50, "fast_spec": 10})
    writer = Agent(
        role="writer", goal="specify", backstory="", llm=Model(model="scripted"), tools=tools
    )
    task = Task(description="Specify a shop.", expected_output="a spec", agent=writer)
    print(f"The model answers: {Crew(agents=[writer], tasks=[task]).kickoff().raw}")
    print(f"{guard.available} of 40 credits are available; what ran: {', '.join(ran)}.")


if __name__ == "__main__":
    main()
