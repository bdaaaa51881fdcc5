"""Pydantic AI's deferred tools as approvals: the run ends with nothing held, and another goes on."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from needed import need
from scenes import Worker

need("pydantic_ai")

from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    Tool,
    ToolApproved,
    ToolDenied,
    UserError,
)
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from budgetguard import ApprovalRequest, Guard
from budgetguard.integrations.pydantic_ai import BudgetCapability
from budgetguard.testing import FakeProvider, HandClock

DAY = 24 * 60 * 60


def agent_of(
    tool: Worker, cost: Any = 50, *prompts: str, output: Any = None, **options: Any
) -> Agent[None, Any]:
    """Give an agent whose model calls the tool and then says what it read."""

    def reply(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        parts = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        if parts:
            return ModelResponse([TextPart(" / ".join(str(part.content) for part in parts))])
        return ModelResponse(
            [ToolCallPart("deep_spec", {"prompt": prompt}) for prompt in prompts or ("shop",)]
        )

    budget = BudgetCapability(tool.guard, {"deep_spec": cost}, approve_above=20)
    return Agent(
        FunctionModel(reply),
        tools=[Tool(tool.acall, name="deep_spec", **options)],
        output_type=output or [str, DeferredToolRequests],
        capabilities=[budget],
    )


def run(agent: Agent[None, Any], **resumed: Any) -> Any:
    """Run an agent, or go on with what was decided."""
    return asyncio.run(agent.run(None if resumed else "Go.", **resumed))


def resume(agent: Agent[None, Any], first: Any, decide: Callable[[str], Any], **other: Any) -> Any:
    """Go on after a decision about each call, and hand back what was asked."""
    requests = first.output
    results = DeferredToolResults(
        approvals={
            call.tool_call_id: decide(call.args_as_dict()["prompt"]) for call in requests.approvals
        },
        metadata=other.get("metadata", requests.metadata),
    )
    return run(agent, message_history=first.all_messages(), deferred_tool_results=results)


def yes(_: str) -> bool:
    """Approve a call."""
    return True


@pytest.fixture
def tool(guard: Guard) -> Worker:
    """A tool that says back what it was asked for, louder."""
    return Worker(guard)


def test_the_run_ends_with_nothing_held(guard: Guard, tool: Worker) -> None:
    """The request's metadata says what is asked, in JSON values; the approved call runs once."""
    agent = agent_of(tool)
    first = run(agent)
    assert isinstance(first.output, DeferredToolRequests)
    assert (tool.ran, guard.available) == ([], 100)
    [call] = first.output.approvals
    question = first.output.metadata[call.tool_call_id]
    assert json.loads(json.dumps(question)) == question
    assert (question["operation"], question["needed"], question["available"]) == (
        "deep_spec",
        "50",
        "100",
    )
    assert resume(agent, first, yes).output == "SHOP"
    assert (tool.ran, tool.available) == (["shop"], [50])


def test_a_cheaper_call_is_not_asked_about(guard: Guard, tool: Worker) -> None:
    """It runs at once."""
    assert run(agent_of(tool, 20)).output == "SHOP"
    assert guard.available == 80


def test_another_process_can_resume(tool: Worker) -> None:
    """All that is needed is in the messages and the metadata, both of which are JSON."""
    first = run(agent_of(tool))
    [call] = first.output.approvals
    results = DeferredToolResults(
        approvals={call.tool_call_id: True},
        metadata=json.loads(json.dumps(first.output.metadata)),
    )
    history = ModelMessagesTypeAdapter.validate_json(first.all_messages_json())
    second = run(agent_of(tool), message_history=history, deferred_tool_results=results)
    assert second.output == "SHOP"


def test_a_denied_call_does_not_run(guard: Guard, tool: Worker) -> None:
    """The model reads the framework's own words."""
    agent = agent_of(tool)
    assert resume(agent, run(agent), lambda _: ToolDenied("Too dear.")).output == "Too dear."
    assert (tool.ran, guard.available) == ([], 100)


def test_a_late_approval_is_decided_on_the_balance_as_it_is_then(
    guard: Guard, provider: FakeProvider, clock: HandClock, tool: Worker
) -> None:
    """Others spent meanwhile: the approved call is refused."""
    agent = agent_of(tool)
    first = run(agent)
    provider.charge(70)
    clock.advance(700)
    output = resume(agent, first, yes).output
    assert output.startswith("BUDGET: needs 50 credits, 30 available")
    assert (tool.ran, guard.available) == ([], 30)


def test_a_call_whose_price_rose_is_asked_about_again(guard: Guard, tool: Worker) -> None:
    """What was approved is not enough; one that fell needs no other approval."""
    price = [50]
    agent = agent_of(tool, lambda prompt: price[0])
    first = run(agent)
    price[0] = 60
    second = resume(agent, first, yes)
    [question] = second.output.metadata.values()
    assert (question["needed"], tool.ran, guard.available) == ("60", [], 100)
    price[0] = 55
    assert resume(agent, second, yes).output == "SHOP"
    assert tool.available == [45]


@pytest.mark.parametrize(("after", "asked_again"), [(DAY, False), (DAY + 1, True)])
def test_an_approval_expires(clock: HandClock, tool: Worker, after: int, asked_again: bool) -> None:
    """A day after it was asked for, it is asked for again."""
    agent = agent_of(tool)
    first = run(agent)
    clock.advance(after)
    second = resume(agent, first, yes)
    if asked_again:
        assert isinstance(second.output, DeferredToolRequests)
        second = resume(agent, second, yes)
    assert (second.output, tool.ran) == ("SHOP", ["shop"])


def test_an_approval_without_what_was_asked_is_none(guard: Guard, tool: Worker) -> None:
    """It does not say what it is for; nor does one with another call's metadata."""
    agent = agent_of(tool, 30, "shop", "blog")
    first = run(agent)
    shop, blog = (call.tool_call_id for call in first.output.approvals)
    asked = first.output.metadata
    for metadata in ({}, {shop: asked[blog], blog: asked[shop]}):
        again = resume(agent, first, yes, metadata=metadata)
        assert isinstance(again.output, DeferredToolRequests)
    assert (tool.ran, guard.available) == ([], 100)


def test_parallel_calls_each_have_an_approval_of_their_own(guard: Guard, tool: Worker) -> None:
    """One is approved and one denied."""
    agent = agent_of(tool, 30, "shop", "blog")
    second = resume(agent, run(agent), lambda prompt: prompt == "blog")
    assert (tool.ran, tool.available) == (["blog"], [70])
    assert second.output.endswith("/ BLOG")
    assert guard.available == 70


def test_arguments_that_the_approver_changed_are_priced_anew(guard: Guard, tool: Worker) -> None:
    """At no more than was approved they run; else they are asked about."""
    agent = agent_of(tool, lambda prompt: 10 * len(prompt))
    first = run(agent)
    shorter = resume(agent, first, lambda _: ToolApproved(override_args={"prompt": "web"}))
    assert (shorter.output, tool.available) == ("WEB", [70])
    longer = resume(agent, first, lambda _: ToolApproved(override_args={"prompt": "office"}))
    assert isinstance(longer.output, DeferredToolRequests)
    assert tool.ran == ["web"]


def test_a_tool_that_requires_approval_anyway(tool: Worker) -> None:
    """Its own approval comes first, and does not say what the call costs: ours is asked for after it."""
    agent = agent_of(tool, requires_approval=True)
    first = run(agent)
    assert first.output.metadata == {}
    second = resume(agent, first, yes)
    assert isinstance(second.output, DeferredToolRequests)
    assert resume(agent, second, yes).output == "SHOP"


def test_an_agent_that_cannot_defer(guard: Guard, tool: Worker) -> None:
    """The framework says what is missing."""
    with pytest.raises(UserError, match="DeferredToolRequests"):
        run(agent_of(tool, output=str))
    assert (tool.ran, guard.available) == ([], 100)


def test_a_callable_may_answer_instead(guard: Guard, tool: Worker) -> None:
    """A tool whose cost names one asks it, and the run goes on."""
    asked: list[ApprovalRequest] = []

    async def approve(request: ApprovalRequest) -> bool:
        asked.append(request)
        return len(asked) > 1

    agent = agent_of(tool, {"min": 50, "approve": approve})
    assert run(agent).output.startswith("BUDGET: deep_spec needs 50 credits, and the approval was")
    assert run(agent).output == "SHOP"
    assert (asked[0].kwargs, tool.available) == ({"prompt": "shop"}, [50])
