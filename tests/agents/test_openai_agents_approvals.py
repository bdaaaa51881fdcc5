"""The OpenAI Agents SDK's approvals: the run pauses with nothing held, and goes on with the decision."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from needed import need
from scenes import Worker

need("agents")

from agents import (
    Agent,
    FunctionTool,
    ItemHelpers,
    ModelResponse,
    RunConfig,
    Runner,
    RunState,
    Usage,
    function_tool,
)
from agents.models.interface import Model
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputItem,
    ResponseOutputMessage,
    ResponseOutputText,
)

from budgetguard import ApprovalRequest, Event, Guard, set_active
from budgetguard.integrations.openai_agents import guarded_tools
from budgetguard.testing import FakeProvider, HandClock

DAY = 24 * 60 * 60
OFF_THE_NET = RunConfig(tracing_disabled=True)


class Scripted(Model):
    """Calls the tool with each of its prompts, a turn each, and then says what it read."""

    def __init__(self, *turns: list[str]) -> None:
        self.turns = list(turns) or [["shop"]]
        self.calls = 0

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        items = options["input"] if "input" in options else args[1]
        return ModelResponse(output=self._reply(items), usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError

    def _reply(self, items: Any) -> list[ResponseOutputItem]:
        read = [
            str(item["output"])
            for item in ItemHelpers.input_to_new_input_list(items)
            if item.get("type") == "function_call_output"
        ]
        if self.turns:
            return [self._call(prompt) for prompt in self.turns.pop(0)]
        text = ResponseOutputText(annotations=[], text=" / ".join(read), type="output_text")
        return [
            ResponseOutputMessage(
                id="answer", content=[text], role="assistant", status="completed", type="message"
            )
        ]

    def _call(self, prompt: str) -> ResponseFunctionToolCall:
        self.calls += 1
        arguments = json.dumps({"prompt": prompt})
        return ResponseFunctionToolCall(
            name="deep_spec",
            arguments=arguments,
            call_id=f"call {self.calls}",
            type="function_call",
        )


def tool_of(tool: Worker, **options: Any) -> FunctionTool:
    """Give the SDK's tool."""
    return function_tool(tool.acall, name_override="deep_spec", **options)


def agent_of(
    tool: Worker, cost: Any = 50, *turns: list[str], spec: Any = None, **options: Any
) -> Agent[Any]:
    """Give an agent whose tool is asked about above 20 credits."""
    tools = guarded_tools(
        [spec or tool_of(tool)], tool.guard, {"deep_spec": cost}, approve_above=20, **options
    )
    return Agent("planner", model=Scripted(*turns), tools=tools)


def run(agent: Agent[Any], given: Any = "Go.") -> Any:
    """Run an agent, or go on from a state."""
    return asyncio.run(Runner.run(agent, given, run_config=OFF_THE_NET))


def resume(
    agent: Agent[Any], first: Any, decide: Callable[[str], bool] = bool, **options: Any
) -> Any:
    """Go on after a decision about each call."""
    state = first.to_state()
    for each in first.interruptions:
        if decide(json.loads(each.arguments)["prompt"]):
            state.approve(each, **options)
        else:
            state.reject(each)
    return run(agent, state)


@pytest.fixture
def tool(guard: Guard) -> Worker:
    """A tool that says back what it was asked for, louder."""
    return Worker(guard)


def test_the_run_is_paused_with_nothing_held(guard: Guard, tool: Worker) -> None:
    """What was asked is remembered in JSON values until the call begins; the approved call runs once."""
    asked: dict[str, Any] = {}
    agent = agent_of(tool, approvals=asked)
    first = run(agent)
    assert len(first.interruptions) == 1
    assert (tool.ran, guard.available) == ([], 100)
    question = asked["call 1"]
    assert json.loads(json.dumps(question)) == question
    assert (question["operation"], question["needed"], question["available"]) == (
        "deep_spec",
        "50",
        "100",
    )
    assert resume(agent, first).final_output == "SHOP"
    assert (tool.ran, tool.available, asked) == (["shop"], [50], {})


def test_a_cheaper_call_is_not_asked_about(guard: Guard, tool: Worker) -> None:
    """It runs at once."""
    assert run(agent_of(tool, 20)).final_output == "SHOP"
    assert guard.available == 80


def test_another_process_can_resume(guard: Guard, tool: Worker) -> None:
    """With `approvals` that outlive the first one, and without them not."""
    asked: dict[str, Any] = {}
    first = run(agent_of(tool, approvals=asked))
    state = first.to_state()
    state.approve(first.interruptions[0])
    kept, asked = state.to_string(), json.loads(json.dumps(asked))

    async def elsewhere(**options: Any) -> Any:
        agent = agent_of(tool, **options)
        agent.model.turns.clear()  # type: ignore[union-attr]
        restored = await RunState.from_string(agent, kept)
        return await Runner.run(agent, restored, run_config=OFF_THE_NET)

    unknown = asyncio.run(elsewhere()).final_output
    assert unknown == (
        "BUDGET: deep_spec needs 50 credits, and no approval of this call is known. "
        "Do not retry; continue without this tool, and tell the user."
    )
    assert (tool.ran, guard.available) == ([], 100)
    assert asyncio.run(elsewhere(approvals=asked)).final_output == "SHOP"


def test_a_denied_call_does_not_run(guard: Guard, tool: Worker) -> None:
    """The model reads the SDK's own words."""
    agent = agent_of(tool)
    output = resume(agent, run(agent), lambda _: False).final_output
    assert "not approved" in output
    assert (tool.ran, guard.available) == ([], 100)


def test_a_late_approval_is_decided_on_the_balance_as_it_is_then(
    guard: Guard, provider: FakeProvider, clock: HandClock, tool: Worker
) -> None:
    """Others spent meanwhile: the approved call is refused."""
    agent = agent_of(tool)
    first = run(agent)
    provider.charge(70)
    clock.advance(700)
    output = resume(agent, first).final_output
    assert output.startswith("BUDGET: needs 50 credits, 30 available")
    assert (tool.ran, guard.available) == ([], 30)


def test_a_call_whose_price_rose_is_asked_about_again(guard: Guard, tool: Worker) -> None:
    """What was approved is not enough: the model reads that it may call again, which asks again."""
    price = [50]
    agent = agent_of(tool, lambda prompt: price[0], ["shop"], ["shop"])
    first = run(agent)
    price[0] = 60
    second = resume(agent, first)
    assert len(second.interruptions) == 1
    assert (tool.ran, guard.available) == ([], 100)
    output = resume(agent, second).final_output
    assert output == (
        "BUDGET: deep_spec needs 60 credits, and the approval that was given does not cover this "
        "call any more. Call it once more to ask for another approval. / SHOP"
    )
    assert tool.available == [40]


@pytest.mark.parametrize(("after", "runs"), [(DAY, True), (DAY + 1, False)])
def test_an_approval_expires(clock: HandClock, tool: Worker, after: int, runs: bool) -> None:
    """A day after it was asked for."""
    agent = agent_of(tool)
    first = run(agent)
    clock.advance(after)
    output = resume(agent, first).final_output
    assert (output == "SHOP", "does not cover this call any more" in output) == (runs, not runs)


def test_an_approval_is_for_one_call(guard: Guard, tool: Worker) -> None:
    """Approving the tool for good does not approve the price of its next call."""
    agent = agent_of(tool, 30, ["shop"], ["blog"])
    output = resume(agent, run(agent), always_approve=True).final_output
    assert output.startswith(
        "SHOP / BUDGET: deep_spec needs 30 credits, and no approval of this call is known."
    )
    assert (tool.ran, guard.available) == (["shop"], 70)


def test_parallel_calls_each_have_an_approval_of_their_own(guard: Guard, tool: Worker) -> None:
    """One is approved and one denied."""
    agent = agent_of(tool, 30, ["shop", "blog"])
    output = resume(agent, run(agent), lambda prompt: prompt == "blog").final_output
    assert output.endswith("/ BLOG") or output.startswith("BLOG /")
    assert (tool.ran, guard.available) == (["blog"], 70)


@pytest.mark.parametrize("own", [True, lambda *_: True, False], ids=["always", "policy", "never"])
def test_the_tools_own_approvals_are_asked_for_too(tool: Worker, own: Any) -> None:
    """One approval answers both; a call that costs little is asked about as it was before."""
    dear = agent_of(tool, 50, spec=tool_of(tool, needs_approval=own))
    assert resume(dear, run(dear)).final_output == "SHOP"
    cheap = agent_of(tool, 5, spec=tool_of(tool, needs_approval=own))
    assert len(run(cheap).interruptions) == bool(own)


def test_arguments_with_defaults(tool: Worker) -> None:
    """The SDK would fill them in: the price is of those that the model wrote, and is noted."""
    asked: list[Any] = []

    async def call(prompt: str, pages: int = 1) -> Any:
        return tool.call(prompt * pages)

    def policy(_: Any, arguments: Any, __: str) -> bool:
        asked.append(arguments)
        return False

    for own in (False, policy):
        spec = function_tool(call, name_override="deep_spec", strict_mode=False, needs_approval=own)
        agent = agent_of(tool, 30, spec=spec)
        assert resume(agent, run(agent)).final_output == "SHOP"
    assert asked == []


def test_an_agent_as_a_tool_that_pauses_again(guard: Guard, tool: Worker) -> None:
    """Its approval counts until the call has a result, however often the run pauses in between."""
    inner = Agent("writer", model=Scripted(["shop"]), tools=[tool_of(tool, needs_approval=True)])
    write = inner.as_tool("deep_spec", "Write.", run_config=OFF_THE_NET)

    class Planner(Scripted):
        def _call(self, prompt: str) -> ResponseFunctionToolCall:
            call = super()._call(prompt)
            arguments = json.dumps({"input": prompt})
            return call.model_copy(update={"arguments": arguments, "call_id": "outer"})

    asked: dict[str, Any] = {}
    costs = {"deep_spec": {"min": 30, "actual": lambda _: 5}}
    tools = guarded_tools([write], guard, costs, approve_above=20, approvals=asked)
    planner = Agent("planner", model=Planner(["Go."]), tools=tools)
    result = run(planner)
    assert (list(asked), guard.available) == (["outer"], 100)
    for _ in range(2):
        state = result.to_state()
        for each in result.interruptions:
            state.approve(each)
        result = run(planner, state)
    assert (result.final_output, tool.ran, asked) == ("SHOP", ["shop"], {})


@pytest.mark.parametrize("how", ["off", "observe"])
def test_guards_that_do_not_refuse_ask_nobody(provider: FakeProvider, how: str) -> None:
    """Off, or only observing."""
    tool = Worker(Guard(provider, mode="observe" if how == "observe" else "enforce"))
    if how == "off":
        set_active(False)
    assert run(agent_of(tool)).final_output == "SHOP"


def test_a_price_that_cannot_be_told(guard: Guard, tool: Worker) -> None:
    """Nobody is asked; the model reads why the call does not run."""
    output = run(agent_of(tool, lambda prompt: prompt)).final_output
    assert output.startswith("BUDGET: deep_spec was not run because the credits for it could not")
    assert (tool.ran, guard.available) == ([], 100)


def test_a_callable_may_answer_instead(guard: Guard, tool: Worker) -> None:
    """A tool whose cost names one asks it, and the run goes on."""
    asked: list[ApprovalRequest] = []

    def approve(request: ApprovalRequest) -> bool:
        asked.append(request)
        return len(asked) > 1

    cost = {"min": 50, "approve": approve}
    assert run(agent_of(tool, cost)).final_output.startswith("BUDGET: deep_spec needs 50 credits")
    assert run(agent_of(tool, cost)).final_output == "SHOP"
    assert (asked[0].kwargs, tool.available) == ({"prompt": "shop"}, [50])


def test_what_is_not_covered_is_an_event(clock: HandClock) -> None:
    """As a refusal for any other reason."""
    events: list[Event] = []
    tool = Worker(Guard(FakeProvider(100), on_event=events.append))
    agent = agent_of(tool)
    first = run(agent)
    clock.advance(DAY + 1)
    resume(agent, first)
    refused = [event for event in events if event.kind == "refused"]
    assert [(event.operation, event.cause) for event in refused] == [("deep_spec", "approval")]


def test_what_expired_long_ago_is_forgotten(clock: HandClock, tool: Worker) -> None:
    """Runs that nobody resumes leave nothing behind for ever."""
    asked: dict[str, Any] = {"another program's": 1}
    agent = agent_of(tool, 50, ["shop"], approvals=asked)
    run(agent)
    asked["call 0"] = asked.pop("call 1")
    clock.advance(32 * DAY)
    agent.model = Scripted()
    run(agent)
    assert list(asked) == ["another program's", "call 1"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"approve_above": -1}, "approve_above"),
        ({"approve_above": "much"}, "approve_above"),
        ({"approvals": {}}, "approvals= has no effect without approve_above="),
        ({"approve_above": 1, "approvals": [1]}, "not list"),
    ],
    ids=["negative", "text", "alone", "list"],
)
def test_wrong_arguments(guard: Guard, tool: Worker, options: Any, error: str) -> None:
    """When the tools are guarded."""
    with pytest.raises((TypeError, ValueError), match=error):
        guarded_tools([tool_of(tool)], guard, {"deep_spec": 50}, **options)
