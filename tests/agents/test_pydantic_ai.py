"""Pydantic AI's agents, with a scripted model in the place of a real one."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    endless,
    on_a_loop_of_its_own,
    out_of_time,
    reads_of_want,
    three_at_once,
    too_dear,
    works_on,
)

need("pydantic_ai", "fastmcp", "mcp_types")

from fastmcp import Client, FastMCP
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_PARAMS, REQUEST_TIMEOUT
from pydantic_ai import (
    Agent,
    AgentRunResult,
    ApprovalRequired,
    DeferredToolRequests,
    DeferredToolResults,
    FunctionToolset,
    ModelRetry,
    RunContext,
    Tool,
    ToolDefinition,
    ToolFailed,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.capabilities import AbstractCapability, Hooks
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from budgetguard import BudgetGuardError, Guard, InsufficientCredits, set_active
from budgetguard.integrations.pydantic_ai import BudgetCapability
from budgetguard.integrations.tools import for_model
from budgetguard.testing import FakeProvider, HandClock

Ask = Callable[[Any], AgentRunResult[Any]]


class Scripted:
    """A model that calls tools until one of them came to something; notes what it read."""

    def __init__(self, *named: tuple[str, dict[str, Any]]) -> None:
        self.named = named or (("deep_spec", {"prompt": "shop"}),)
        self.read: list[ToolReturnPart] = []
        self.model = FunctionModel(self.reply, stream_function=self.stream)

    def reply(self, messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        self.read += [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        if any(part.outcome != "retried" for part in self.read):
            return ModelResponse([TextPart("Done.")])
        return ModelResponse([ToolCallPart(name, args) for name, args in self.named])

    async def stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        for number, part in enumerate(self.reply(messages, info).parts):
            if isinstance(part, TextPart):
                yield part.content
            elif isinstance(part, ToolCallPart):
                yield {number: DeltaToolCall(part.tool_name, part.args_as_json_str())}


class Noting(Worker):
    """Pydantic AI's tools, which note."""

    def named(self, name: str = "deep_spec", **options: Any) -> Tool[Any]:
        """Give a tool that awaits."""
        return Tool(self.acall, name=name, **options)

    def threaded(self, name: str = "deep_spec") -> Tool[Any]:
        """Give a tool that runs in a thread."""
        return Tool(self.call, name=name)


def by_run(agent: Agent[None, Any]) -> Any:
    """Run an agent that awaits."""
    return asyncio.run(agent.run("Go."))


def by_run_sync(agent: Agent[None, Any]) -> Any:
    """Run an agent, blocking."""
    return on_a_loop_of_its_own(lambda: agent.run_sync("Go."))


def by_run_stream(agent: Agent[None, Any]) -> Any:
    """Run an agent, and take what it says as it comes."""

    async def run() -> Any:
        async with agent.run_stream("Go.") as result:
            assert await result.get_output() == "Done."
            return result

    return asyncio.run(run())


@pytest.fixture(params=[by_run, by_run_sync], ids=["run", "run_sync"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Run an agent in each of both ways."""
    run: Ask = request.param
    return run


@pytest.fixture
def tool(guard: Guard) -> Noting:
    """A tool that says back what it was asked for, louder."""
    return Noting(guard)


def ask_for(
    ask: Ask,
    tool: Tool[Any],
    capability: AbstractCapability[Any],
    *named: tuple[str, dict[str, Any]],
    **options: Any,
) -> Sequence[ToolReturnPart]:
    """Have the model call tools in one turn, and give what it read of them."""
    script = Scripted(*named)
    options.setdefault("capabilities", [capability])
    result: Any = ask(Agent(script.model, tools=[tool], **options))
    if isinstance(result, AgentRunResult):
        assert result.output == "Done."
    return script.read


@pytest.mark.parametrize("ask", [by_run, by_run_sync, by_run_stream])
def test_a_refusal_is_the_tools_result(ask: Ask, guard: Guard, tool: Noting) -> None:
    """The model reads a failed tool and continues; it never ran, and nothing is held or charged."""
    [result] = ask_for(ask, tool.named(), BudgetCapability(guard, {"deep_spec": 120}))
    assert (result.content, result.outcome) == (REFUSED, "failed")
    assert tool.ran == []
    assert guard.available == 100


def test_a_refusal_may_end_the_run(ask: Ask, guard: Guard, tool: Noting) -> None:
    """With "stop" the error itself reaches the caller, wrapped in nothing."""
    budget = BudgetCapability(guard, {"deep_spec": 120}, on_refusal="stop")
    with pytest.raises(InsufficientCredits, match="deep_spec needs 120 credits, and 100 are"):
        ask_for(ask, tool.named(), budget)
    assert tool.ran == []
    assert guard.available == 100


def test_a_callable_supplies_the_tools_result(ask: Ask, guard: Guard, tool: Noting) -> None:
    """The model reads a tool's success; it never ran, and nothing is held."""

    async def cached(error: InsufficientCredits, name: str, arguments: Any) -> Any:
        await asyncio.sleep(0)
        return {"cached": [error.needed, name, arguments, guard.available]}

    budget = BudgetCapability(guard, {"deep_spec": 120}, on_refusal=cached)
    [result] = ask_for(ask, tool.named(), budget)
    assert result.content == {"cached": [120, "deep_spec", {"prompt": "shop"}, 100]}
    assert result.outcome == "success"
    assert tool.ran == []


def test_a_tool_costs_what_it_says(ask: Ask, guard: Guard) -> None:
    """`actual` is given what the tool returned; until then its cost is held."""
    tool = Noting(guard, lambda _: {"creditsUsed": 12})
    terms = {"min": 50, "actual": lambda spec: spec["creditsUsed"]}
    ask_for(ask, tool.named(), BudgetCapability(guard, {"deep_spec": terms}))
    assert tool.available == [50]
    assert guard.available == 88


def test_a_tool_without_an_actual_costs_its_cost(ask: Ask, guard: Guard, tool: Noting) -> None:
    """Here, what a callable says of the arguments that the model gave."""
    budget = BudgetCapability(guard, {"deep_spec": lambda prompt: 10 * len(prompt)})
    ask_for(ask, tool.threaded(), budget)
    assert (tool.ran, tool.available, guard.available) == (["shop"], [60], 60)


def test_an_actual_that_fails_is_the_cost(ask: Ask, guard: Guard, tool: Noting) -> None:
    """The tool's result is the model's all the same."""
    terms = {"min": 50, "actual": lambda _: 1 / 0}
    [result] = ask_for(ask, tool.named(), BudgetCapability(guard, {"deep_spec": terms}))
    assert (result.content, guard.available) == ("SHOP", 50)


def test_parallel_calls_run_as_far_as_the_balance_goes(
    ask: Ask, guard: Guard, provider: FakeProvider
) -> None:
    """Of five calls in one turn at 30 of 100 credits three run, at the same time."""
    tool = Noting(guard, three_at_once(provider))
    named = [("deep_spec", {"prompt": prompt}) for prompt in FIVE]
    budget = BudgetCapability(guard, {"deep_spec": 30})
    texts = [str(part.content) for part in ask_for(ask, tool.threaded(), budget, *named)]
    check_three_of_five(texts, tool.ran)
    assert provider.lowest == 10


def test_a_tool_that_raises_is_kept(ask: Ask, guard: Guard, kept: Kept) -> None:
    """Nobody knows what it cost until a balance shows it that was asked for late enough."""
    budget = BudgetCapability(guard, {"deep_spec": 50})
    with pytest.raises(OSError, match="the connection broke"):
        ask_for(ask, Noting(guard, breaks).named(), budget)
    kept(guard, 50)


@pytest.mark.parametrize("last", [True, False])
def test_a_failure_that_others_recover_from_is_kept(
    ask: Ask, guard: Guard, kept: Kept, *, last: bool
) -> None:
    """The model reads what another capability made of it, but the tool did not return."""

    async def recover(*_: Any, **__: Any) -> str:
        return "recovered"

    terms = {"min": 50, "actual": lambda _: 0}
    others: list[Any] = [BudgetCapability(guard, {"deep_spec": terms})]
    others.insert(0 if last else 1, Hooks(tool_execute_error=recover))
    [result] = ask_for(ask, Noting(guard, breaks).named(), others[0], capabilities=others)
    assert result.content == "recovered"
    kept(guard, 50)


@pytest.mark.parametrize(("release_on", "after"), [((), 30), (ModelRetry, 65)])
def test_a_tool_that_wants_other_arguments(
    ask: Ask, guard: Guard, release_on: Any, after: int
) -> None:
    """It is kept, and held for again, unless it says that nothing was spent by then."""

    def work(prompt: str) -> str:
        if len(tool.ran) == 1:
            msg = "longer, please"
            raise ModelRetry(msg)
        return prompt

    tool = Noting(guard, work)
    budget = BudgetCapability(guard, {"deep_spec": {"min": 35, "release_on": release_on}})
    asked, done = ask_for(ask, tool.named(), budget)
    assert (asked.outcome, done.content) == ("retried", "shop")
    assert guard.available == after


def test_arguments_that_pydantic_turns_down_cost_nothing(ask: Ask, guard: Guard) -> None:
    """They are checked before anything is held."""

    class Learning(Scripted):
        def reply(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            reply = super().reply(messages, info)
            self.named = (("deep_spec", {"prompt": "shop"}),)
            return reply

    script, tool = Learning(("deep_spec", {"prompt": 3})), Noting(guard)
    budget = BudgetCapability(guard, {"deep_spec": 35})
    ask(Agent(script.model, tools=[tool.named()], capabilities=[budget]))
    assert [part.outcome for part in script.read] == ["retried", "success"]
    assert (tool.ran, guard.available) == (["shop"], 65)


def test_a_run_that_is_cancelled_keeps_its_holds(guard: Guard, kept: Kept) -> None:
    """The tool was at work, and may be charged for."""

    def run(work: Any) -> Any:
        budget = BudgetCapability(guard, {"deep_spec": 50})
        tool = Tool(work, name="deep_spec")
        return Agent(Scripted().model, tools=[tool], capabilities=[budget]).run("Go.")

    cancelled_at_work(run)
    kept(guard, 50)


def test_a_tool_that_is_out_of_time_is_kept(guard: Guard, kept: Kept) -> None:
    """The framework gives up on it, which says nothing of what it costs."""

    async def run() -> None:
        budget = BudgetCapability(guard, {"deep_spec": 50})
        slow = Tool(endless, name="deep_spec", timeout=1e-6, max_retries=0)
        agent = Agent(Scripted().model, tools=[slow], capabilities=[budget])
        with pytest.raises(UnexpectedModelBehavior):
            await agent.run("Go.")

    asyncio.run(run())
    kept(guard, 50)


@pytest.mark.parametrize("release_on", [ModelRetry, (ModelRetry, TimeoutError)])
def test_a_time_out_is_kept_whatever_it_is_dressed_as(
    guard: Guard, kept: Kept, release_on: Any
) -> None:
    """Pydantic AI makes a ModelRetry of it, which is not the tool's."""

    async def run() -> None:
        terms = {"min": 50, "release_on": release_on}
        budget = BudgetCapability(guard, {"deep_spec": terms})
        slow = Tool(endless, name="deep_spec", timeout=1e-6, max_retries=0)
        agent = Agent(Scripted().model, tools=[slow], capabilities=[budget])
        with pytest.raises(UnexpectedModelBehavior):
            await agent.run("Go.")

    asyncio.run(run())
    kept(guard, 50)


class Remote(AbstractToolset[Any]):
    """A toolset that runs nothing here, but raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @property
    def id(self) -> str | None:
        return None

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        [tool] = (await FunctionToolset([Tool(endless, name="deep_spec")]).get_tools(ctx)).values()
        return {
            "deep_spec": ToolsetTool(
                toolset=self,
                tool_def=tool.tool_def,
                max_retries=0,
                args_validator=tool.args_validator,
            )
        }

    async def call_tool(self, *_: Any) -> Any:
        raise self.error


def caused_by(cause: BaseException) -> ModelRetry:
    """What Pydantic AI makes of an error of an MCP server."""
    retry = ModelRetry(str(cause))
    retry.__cause__ = cause
    return retry


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (ModelRetry("other arguments, please"), 100),
        (caused_by(OSError("refused")), 100),
        (caused_by(TimeoutError()), 50),
        (caused_by(MCPError(REQUEST_TIMEOUT, "timed out")), 50),
        (caused_by(MCPError(CONNECTION_CLOSED, "closed")), 50),
        (caused_by(MCPError(INVALID_PARAMS, "no such tool")), 100),
    ],
)
def test_a_server_that_does_not_answer_is_kept(guard: Guard, error: Exception, left: int) -> None:
    """What it says of the arguments is the tool's own word, and that nobody answered is not."""
    terms = {"min": 50, "release_on": ModelRetry}
    budget = BudgetCapability(guard, {"deep_spec": terms})
    agent = Agent(Scripted().model, toolsets=[Remote(error)], capabilities=[budget])
    with pytest.raises(UnexpectedModelBehavior):
        asyncio.run(agent.run("Go."))
    assert guard.available == left


def test_an_mcp_server_that_is_out_of_time_is_kept(guard: Guard, kept: Kept) -> None:
    """With the real client and server: what comes of it is a ModelRetry."""
    slow = Slow()

    async def work(prompt: str) -> str:
        slow.begun.set()
        return await endless(prompt)

    async def run() -> None:
        slow.outlast()
        server = FastMCP("specs")
        server.tool(work, name="deep_spec")
        terms = {"min": 50, "release_on": ModelRetry}
        agent = Agent(
            Scripted().model,
            toolsets=[MCPToolset(Client(server, timeout=60), max_retries=0)],
            capabilities=[BudgetCapability(guard, {"deep_spec": terms})],
        )
        with pytest.raises(UnexpectedModelBehavior):
            await agent.run("Go.")

    asyncio.run(run())
    kept(guard, 50)


@OUTCOMES
def test_a_thread_that_works_on_holds_on(
    clock: HandClock, provider: FakeProvider, error: Any, release_on: Any, after: int
) -> None:
    """When it is out of time only the wait is over: the credits remain held until the thread has finished."""
    slow = Slow(error)

    async def given_up(guard: Guard) -> None:
        terms = {"min": 50, "release_on": (ModelRetry, release_on) if release_on else ModelRetry}
        tool = Tool(slow.call, name="deep_spec", timeout=60, max_retries=0)
        budget = BudgetCapability(guard, {"deep_spec": terms})
        slow.outlast()
        with pytest.raises(UnexpectedModelBehavior):
            await Agent(Scripted().model, tools=[tool], capabilities=[budget]).run("Go.")

    works_on(clock, provider, slow, after, given_up)


def test_a_sibling_that_fails_ends_no_thread(clock: HandClock, provider: FakeProvider) -> None:
    """In an executor of the program's own, which Pydantic AI waits for no longer then."""
    slow = Slow()

    async def failing(prompt: str) -> str:
        await slow.has_begun()
        raise OSError(prompt)

    async def given_up(guard: Guard) -> None:
        named = [("deep_spec", {"prompt": "shop"}), ("failing", {"prompt": "broke"})]
        agent = Agent(
            Scripted(*named).model,
            tools=[Tool(slow.call, name="deep_spec"), failing],
            capabilities=[BudgetCapability(guard, {"deep_spec": 50})],
        )
        with agent.using_thread_executor(executor), pytest.raises(OSError, match="broke"):
            await agent.run("Go.")

    with ThreadPoolExecutor() as executor:
        works_on(clock, provider, slow, 50, given_up)


def test_a_plain_function_that_is_awaited_is_followed(guard: Guard, kept: Kept) -> None:
    """It returns at once what is still to be done, and that is what its hold is for."""

    def run(work: Any) -> Any:
        tool = Tool(lambda prompt: work(prompt), name="deep_spec")  # noqa: PLW0108
        budget = BudgetCapability(guard, {"deep_spec": {"min": 50, "actual": lambda _: 0}})
        return Agent(Scripted().model, tools=[tool], capabilities=[budget]).run("Go.")

    cancelled_at_work(run)
    kept(guard, 50)


@pytest.mark.parametrize("refusing", [0, 1])
@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
def test_two_guards_may_watch_one_tool(
    ask: Ask, guard: Guard, tool: Noting, refusing: int, on_refusal: Any
) -> None:
    """Both are asked, and what one holds is given back where the other refuses."""
    guards = [guard, Guard(FakeProvider(100))]
    guards[1].balance()
    budgets = [BudgetCapability(each, {"deep_spec": 60}, on_refusal=on_refusal) for each in guards]
    agent = Agent(Scripted().model, tools=[tool.named()], capabilities=budgets)
    with guards[refusing].acquire(50) as hold:
        if on_refusal == "tell":
            ask(agent)
        else:
            with pytest.raises(InsufficientCredits):
                ask(agent)
        hold.release()
    assert (tool.ran, [each.available for each in guards]) == ([], [100, 100])
    ask(Agent(Scripted().model, tools=[tool.named()], capabilities=budgets))
    assert [each.available for each in guards] == [40, 40]


def test_a_tool_goes_by_the_name_that_the_model_knows(ask: Ask, guard: Guard, tool: Noting) -> None:
    """Prefixed, renamed or prepared: that name is priced, and not the function's."""
    names = {"a_deep_spec", "b_deep", "c_deep"}

    async def prepare(_: RunContext[Any], tool_def: ToolDefinition) -> ToolDefinition:
        return dataclasses.replace(tool_def, name="c_deep")

    agent = Agent(
        Scripted(*((name, {"prompt": name}) for name in sorted(names))).model,
        toolsets=[
            FunctionToolset([tool.named()]).prefixed("a"),
            FunctionToolset([tool.named()]).renamed({"b_deep": "deep_spec"}),
            FunctionToolset([tool.named(prepare=prepare)]),
        ],
        capabilities=[
            BudgetCapability(guard, {"*": 1, "deep_spec": 500, **dict.fromkeys(names, 20)})
        ],
    )
    ask(agent)
    assert (set(tool.ran), guard.available) == (names, 40)


def test_the_tool_that_runs_is_priced(ask: Ask, guard: Guard, tool: Noting) -> None:
    """Where a toolset around it has another tool called than the model named."""
    cheap = Noting(guard)

    class Instead(WrapperToolset[Any]):
        async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
            self.tools = await super().get_tools(ctx)
            return self.tools

        async def call_tool(self, name: str, tool_args: Any, ctx: Any, tool: Any) -> Any:
            return await super().call_tool(name, tool_args, ctx, self.tools["deep_spec"])

    class Before(AbstractCapability[Any]):
        def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
            return Instead(toolset)

    script = Scripted(("fast_spec", {"prompt": "shop"}))
    budget = BudgetCapability(guard, {"deep_spec": 120, "fast_spec": 10})
    tools = [tool.named(), cheap.named("fast_spec")]
    ask(Agent(script.model, tools=tools, capabilities=[Before(), budget]))
    assert [part.content for part in script.read] == [REFUSED]
    assert (tool.ran, cheap.ran, guard.available) == ([], [], 100)


@pytest.mark.parametrize("approved", [False, True])
def test_an_approval_asked_for_by_a_toolset_costs_nothing(
    guard: Guard, tool: Noting, approved: bool
) -> None:
    """It comes before the function, which did not run; by a tool's own asking it did."""
    toolset: Any = FunctionToolset([tool.named()])
    if not approved:
        toolset = toolset.approval_required()
    agent = Agent(
        Scripted().model,
        toolsets=[toolset],
        output_type=[str, DeferredToolRequests],
        capabilities=[BudgetCapability(guard, {"deep_spec": 60})],
    )
    result = asyncio.run(agent.run("Go."))
    assert isinstance(result.output, str if approved else DeferredToolRequests)
    assert guard.available == (40 if approved else 100)


def test_a_cost_that_cannot_be_told_runs_nothing(
    ask: Ask, guard: Guard, tool: Noting, no_price: tuple[Any, str]
) -> None:
    """The model is told, and the tool does not run for free."""
    cost, kind = no_price
    [result] = ask_for(ask, tool.named(), BudgetCapability(guard, {"deep_spec": cost}))
    assert str(result.content).startswith(f"{COULD_NOT} ({kind}")
    assert str(result.content).endswith(f"). {NOT_AGAIN}")
    assert tool.ran == []
    assert guard.available == 100


@pytest.mark.parametrize("raised", [ModelRetry, ApprovalRequired, LookupError])
def test_a_cost_that_cannot_be_told_may_end_the_run(
    ask: Ask, guard: Guard, tool: Noting, raised: type[Exception]
) -> None:
    """With "stop" it is raised as it is: Pydantic AI's own exceptions keep their meaning."""

    def cost(prompt: str) -> int:
        raise raised(prompt)

    budget = BudgetCapability(guard, {"deep_spec": cost}, on_refusal="stop")
    with pytest.raises((UnexpectedModelBehavior, UserError, LookupError)):
        ask_for(ask, tool.named(max_retries=0), budget)
    assert tool.ran == []


def test_a_balance_that_never_comes_runs_nothing(
    ask: Ask, clock: HandClock, provider: FakeProvider
) -> None:
    """After the guard's time-out the model reads that nothing was started."""
    tool = Noting(Guard(provider))
    budget = BudgetCapability(tool.guard, {"deep_spec": 50})
    [result] = out_of_time(clock, provider, lambda: ask_for(ask, tool.named(), budget))
    assert result.content == UNKNOWN
    assert tool.ran == []


def test_a_balance_that_fails_runs_nothing(ask: Ask, provider: FakeProvider) -> None:
    """An unknown balance never lets a tool through."""
    provider.failure = ValueError("no balance here")
    tool = Noting(Guard(provider))
    [result] = ask_for(ask, tool.named(), BudgetCapability(tool.guard, {"deep_spec": 50}))
    assert str(result.content).startswith("BUDGET: the balance at fake is not known")
    assert tool.ran == []


def test_what_has_no_price_passes(ask: Ask, guard: Guard, tool: Noting) -> None:
    """And costs nothing."""
    [result] = ask_for(ask, tool.named(), BudgetCapability(guard, {"fast_spec": 120}))
    assert result.content == "SHOP"
    assert (tool.available, guard.available) == ([100], 100)


def test_a_price_with_a_slip_in_its_name_is_told(
    ask: Ask, guard: Guard, tool: Noting, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, when a run has its tools."""
    ask_for(ask, tool.named(), BudgetCapability(guard, {"deep_spek": 120}))
    assert MISSPELLED in caplog.messages


def test_a_star_prices_the_rest(ask: Ask, guard: Guard, tool: Noting) -> None:
    """Wherever the agent has it from, but not what is named, be it at no cost."""
    other, free = Noting(guard), Noting(guard)
    names = ("deep_spec", "search", "free")
    script = Scripted(*((name, {"prompt": name}) for name in names))
    agent = Agent(
        script.model,
        tools=[tool.named()],
        toolsets=[FunctionToolset([other.named("search"), free.named("free")])],
        capabilities=[BudgetCapability(guard, {"*": 120, "deep_spec": 10, "free": None})],
    )
    ask(agent)
    texts = {part.tool_name: str(part.content) for part in script.read}
    assert (texts["deep_spec"], texts["free"]) == ("DEEP_SPEC", "FREE")
    assert texts["search"].startswith("BUDGET: needs 120 credits")
    assert (other.ran, free.ran, guard.available) == ([], ["free"], 90)


def test_what_ends_the_run_is_no_tool(ask: Ask, guard: Guard) -> None:
    """An answer in a form of its own is not priced by the star."""

    def answer(_: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse([ToolCallPart(info.output_tools[0].name, {"response": ["a", "b"]})])

    budget = BudgetCapability(guard, {"*": 120})
    agent: Any = Agent(FunctionModel(answer), output_type=list[str], capabilities=[budget])
    assert ask(agent).output == ["a", "b"]
    assert guard.available == 100


def test_a_refusal_is_never_settled(ask: Ask, guard: Guard, tool: Noting) -> None:
    """`actual` is asked about what ran, and about nothing else."""
    asked: list[Any] = []
    terms = {"min": 120, "actual": asked.append}
    ask_for(ask, tool.named(), BudgetCapability(guard, {"deep_spec": terms}))
    assert (asked, guard.available) == ([], 100)


def test_a_call_that_waits_for_approval_holds_nothing(guard: Guard, tool: Noting) -> None:
    """The guard is asked when it is approved, which may be much later."""

    async def run() -> None:
        agent = Agent(
            Scripted().model,
            tools=[tool.named(requires_approval=True)],
            output_type=[str, DeferredToolRequests],
            capabilities=[BudgetCapability(guard, {"deep_spec": 40})],
        )
        first = await agent.run("Go.")
        assert isinstance(first.output, DeferredToolRequests)
        assert (tool.ran, guard.available) == ([], 100)
        approved = DeferredToolResults(
            approvals={call.tool_call_id: True for call in first.output.approvals}
        )
        second = await agent.run(
            message_history=first.all_messages(), deferred_tool_results=approved
        )
        assert second.output == "Done."

    asyncio.run(run())
    assert (tool.available, guard.available) == ([60], 60)


def test_other_capabilities_change_the_arguments_first(
    ask: Ask, guard: Guard, tool: Noting
) -> None:
    """What is priced is what runs, wherever the budget stands."""

    async def longer(*_: Any, args: dict[str, Any], **__: Any) -> dict[str, Any]:
        return {"prompt": args["prompt"] * 2}

    budget = BudgetCapability(guard, {"deep_spec": lambda prompt: 10 * len(prompt)})
    others = [budget, Hooks(before_tool_execute=longer)]
    ask_for(ask, tool.named(), budget, capabilities=others)
    assert (tool.ran, tool.available) == (["shopshop"], [20])


def test_two_guards_may_watch_one_agent(ask: Ask, guard: Guard, tool: Noting) -> None:
    """Each prices the tools of its own account."""
    other = Guard(FakeProvider(5))
    browse = Noting(other)
    script = Scripted(("deep_spec", {"prompt": "shop"}), ("browse", {"prompt": "page"}))
    agent = Agent(
        script.model,
        tools=[tool.named(), browse.named("browse")],
        capabilities=[
            BudgetCapability(guard, {"deep_spec": 50}),
            BudgetCapability(other, {"browse": 10}),
        ],
    )
    ask(agent)
    assert script.read[0].content == "SHOP"
    assert str(script.read[1].content).startswith("BUDGET: needs 10 credits, 5 available")
    assert (browse.ran, guard.available, other.available) == ([], 50, 5)


def test_guards_that_are_off_let_all_pass(ask: Ask, guard: Guard, tool: Noting) -> None:
    """As everywhere."""
    set_active(False)
    [result] = ask_for(ask, tool.named(), BudgetCapability(guard, {"deep_spec": 120}))
    assert (result.content, guard.available) == ("SHOP", 100)


@pytest.mark.parametrize(
    ("costs", "options"), [({}, {}), ({"x": -1}, {}), ({"x": 1}, {"on_refusal": "halt"})]
)
def test_what_cannot_be_is_said_at_once(guard: Guard, costs: Any, options: Any) -> None:
    """When the capability is made, not when a tool is called."""
    with pytest.raises(ValueError, match=r"costs is empty|min must|on_refusal must"):
        BudgetCapability(guard, costs, **options)


def test_a_specification_cannot_name_it() -> None:
    """It would have to hold the guard, and its key."""
    assert BudgetCapability.get_serialization_name() is None


def test_the_example() -> None:
    """It runs as a user would run it, with no warning."""
    printed = example.run("agents/pydantic_ai_agent.py")
    assert reads_of_want(printed)
    assert printed.endswith("The model: The outline has to do.\n22 credits are left.\n")


def test_a_decorated_function_inside_of_a_tool(ask: Ask, guard: Guard) -> None:
    """Its refusal stops the run; as ToolFailed it is the tool's result."""

    def raising(prompt: str) -> str:
        return too_dear(guard)(prompt)

    def telling(prompt: str) -> str:
        try:
            return too_dear(guard)(prompt)
        except BudgetGuardError as error:
            raise ToolFailed(for_model(error)) from error

    named = {"prompt": "shop"}
    with pytest.raises(InsufficientCredits):
        ask(Agent(Scripted(("raising", named)).model, tools=[raising]))
    script = Scripted(("telling", named))
    ask(Agent(script.model, tools=[telling]))
    assert [(part.content, part.outcome) for part in script.read] == [(REFUSED, "failed")]
