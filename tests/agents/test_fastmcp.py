"""FastMCP's servers, as their clients see them: in memory, on asyncio, which its client needs."""

import asyncio
from collections.abc import Iterator
from typing import Any

import anyio
import example
import pytest
from needed import need
from scenes import (
    FIGURES,
    MISSPELLED,
    OUTCOMES,
    REFUSED,
    TOO_LITTLE,
    UNKNOWN,
    WITHHELD,
    Kept,
    Serving,
    Slow,
    breaks,
    endless,
    five_side_by_side,
    out_of_time,
    text,
    too_dear,
    ways_to_price,
    works_on,
)

need("fastmcp")

from fastmcp import Client, Context, FastMCP, FastMCPApp
from fastmcp.client.client import CallToolResult
from fastmcp.dependencies import Depends
from fastmcp.exceptions import MCPError, ToolError, ValidationError
from fastmcp.server.extensions import ServerExtension
from fastmcp.server.middleware import Middleware
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from fastmcp.server.providers import Provider
from fastmcp.server.providers.addressing import hashed_backend_name
from fastmcp.server.transforms import Namespace, Transform
from fastmcp.server.transforms.search import BM25SearchTransform, RegexSearchTransform
from fastmcp.tools import Tool
from fastmcp.tools.base import ToolResult
from fastmcp.tools.tool_transform import ArgTransform
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult, Result
from pydantic import TypeAdapter

from budgetguard import BudgetGuardError, Guard, InsufficientCredits
from budgetguard.integrations.fastmcp import BudgetMiddleware
from budgetguard.integrations.tools import for_model
from budgetguard.testing import FakeProvider, HandClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """FastMCP's client makes asyncio tasks."""
    return "asyncio"


@pytest.fixture
def guard(provider: FakeProvider) -> Guard:
    """A guard without a balance yet: each test first sets what the provider will report."""
    return Guard(provider)


class Specs(Serving):
    """A server of two tools."""

    def __init__(self, guard: Guard, costs: Any, **options: Any) -> None:
        super().__init__()
        self.server = FastMCP("specs", middleware=[BudgetMiddleware(guard, costs, **options)])
        self.server.tool(self.deep_spec)
        self.server.tool(self.fast_spec)

    async def call(self, name: str = "deep_spec", /, **arguments: Any) -> CallToolResult:
        """What a client is answered."""
        async with Client(self.server) as client:
            return await client.call_tool(name, arguments or {"prompt": "x"}, raise_on_error=False)


async def test_a_refusal_is_an_error_result_and_the_client_goes_on(
    guard: Guard, provider: FakeProvider
) -> None:
    """Its words are for the model, its figures for the program; the tool never ran."""
    provider.credits = 20
    specs = Specs(guard, {"deep_spec": 50, "fast_spec": 10})
    async with Client(specs.server) as client:
        await client.list_tools()
        refused = await client.call_tool("deep_spec", {"prompt": "all"}, raise_on_error=False)
        assert (refused.is_error, text(refused)) == (True, TOO_LITTLE)
        assert refused.structured_content == FIGURES
        assert guard.available == 20
        with pytest.raises(ToolError, match="BUDGET: needs 50 credits"):
            await client.call_tool("deep_spec", {"prompt": "all"})
        assert text(await client.call_tool("fast_spec", {"prompt": "less"})) == "outline of less"
    assert specs.ran == ["fast_spec less"]
    assert guard.available == 10


async def test_stop_is_a_protocol_error(guard: Guard, provider: FakeProvider) -> None:
    """No tool result, but an error with a code and the figures; the cause remains here."""
    provider.credits = 20
    specs = Specs(guard, {"deep_spec": 50}, on_refusal="stop")
    with pytest.raises(MCPError) as stopped:
        await specs.call()
    assert (stopped.value.error.code, stopped.value.error.message) == (402, TOO_LITTLE)
    assert stopped.value.error.data == FIGURES
    with pytest.raises(MCPError) as inside:
        await specs.server.call_tool("deep_spec", {"prompt": "x"})
    assert isinstance(inside.value.__cause__, InsufficientCredits)
    assert specs.ran == []
    assert guard.available == 20


async def test_a_callable_supplies_the_tools_result(guard: Guard, provider: FakeProvider) -> None:
    """FastMCP converts it as it would what the tool returns, to the tool's declared output."""
    provider.credits = 20

    async def cached(error: InsufficientCredits, name: str, arguments: Any) -> Any:
        return f"{error.needed} {name} {arguments['prompt']} {guard.available}"

    specs = Specs(guard, {"fast_spec": 50}, on_refusal=cached)
    result = await specs.call("fast_spec")
    assert (result.is_error, text(result)) == (False, "50 fast_spec x 20")
    assert result.structured_content == {"result": "50 fast_spec x 20"}
    assert specs.ran == []


@pytest.mark.parametrize(
    ("cost", "left"), ways_to_price(lambda result: result.structured_content["used"])
)
async def test_an_admitted_tool_is_settled(guard: Guard, cost: Any, left: int) -> None:
    """Its credits are held while it runs; then it costs what was held, or what `actual` says."""
    specs = Specs(guard, {"deep_spec": cost})

    async def snapshot() -> Any:
        return guard.available

    specs.during = snapshot
    result = await specs.call()
    assert result.structured_content == {"used": 8, "seen": "70"}
    assert guard.available == left


async def test_calls_side_by_side_never_go_beyond_the_balance(guard: Guard) -> None:
    """Of five at 30 each, a balance of 100 lets three run; the others read why not."""
    specs = Specs(guard, {"deep_spec": 30})
    async with Client(specs.server) as client:
        answers = await five_side_by_side(
            specs,
            lambda prompt: client.call_tool("deep_spec", {"prompt": prompt}, raise_on_error=False),
        )
    refused = [text(answer) for answer in answers if answer.is_error]
    assert len(specs.ran) == 3
    assert len(refused) == 2
    assert all(words.startswith("BUDGET: needs 30 credits, 10 available") for words in refused)
    assert guard.available == 10


async def test_a_tool_that_raises_is_kept(guard: Guard, kept: Kept) -> None:
    """Nobody knows what it cost."""
    specs = Specs(guard, {"deep_spec": 30})

    async def fail() -> None:
        breaks("x")

    specs.during = fail
    assert (await specs.call()).is_error
    kept(guard, 30)


async def test_a_tool_that_is_cancelled_is_kept(guard: Guard, kept: Kept) -> None:
    """The provider may work on."""
    specs = Specs(guard, {"deep_spec": 30})
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await anyio.sleep_forever()

    specs.during = hang
    async with anyio.create_task_group() as group:
        group.start_soon(specs.server.call_tool, "deep_spec", {"prompt": "x"})
        await begun.wait()
        assert guard.available == 70
        group.cancel_scope.cancel()
    kept(guard, 30)


async def test_an_error_result_is_kept(guard: Guard, kept: Kept) -> None:
    """A tool that says itself that it failed may have spent by then."""
    specs = Specs(guard, {"*": 30})

    @specs.server.tool
    def failing(prompt: str) -> ToolResult:
        return ToolResult(f"{prompt} broke half-way", is_error=True)

    assert text(await specs.call("failing")) == "x broke half-way"
    kept(guard, 30)


async def test_a_tool_that_asks_its_client_first_is_kept(guard: Guard, kept: Kept) -> None:
    """It has not come to an end, so `actual` is not asked."""
    specs = Specs(guard, {"asking": {"min": 30, "actual": lambda _: 0}})
    schema: Any = {"type": "object", "properties": {"name": {"type": "string"}}}

    @specs.server.tool
    def asking() -> InputRequiredResult:
        params = ElicitRequestFormParams(message="Whose?", requested_schema=schema)
        return InputRequiredResult(input_requests={"name": ElicitRequest(params=params)})

    await specs.server.call_tool("asking", {})
    kept(guard, 30)


async def test_a_background_task_is_kept(guard: Guard, kept: Kept) -> None:
    """An extension that runs the tool later answers with something that is no tool's result."""

    class Later(ServerExtension):
        identifier = "com.example/later"

        async def intercept_tool_call(self, params: Any, context: Any, call_next: Any) -> Any:
            del call_next
            return Result()

    specs = Specs(guard, {"deep_spec": {"min": 30, "actual": lambda _: 0}})
    specs.server.add_extension(Later())
    assert isinstance(await specs.server.call_tool("deep_spec", {"prompt": "x"}), Result)
    assert specs.ran == []
    kept(guard, 30)


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
async def test_a_cost_that_cannot_be_told_lets_nothing_run(
    guard: Guard, no_price: tuple[Any, str], on_refusal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told so; what went wrong is for the server's log alone."""
    specs = Specs(guard, {"deep_spec": no_price[0]}, on_refusal=on_refusal)
    if on_refusal == "tell":
        result = await specs.call()
        assert (result.is_error, text(result)) == (True, WITHHELD)
        assert result.structured_content == {"error": "not_run", "retry_after": None}
    else:
        with pytest.raises(MCPError) as stopped:
            await specs.call()
        assert (stopped.value.error.code, stopped.value.error.message) == (500, WITHHELD)
    assert "deep_spec was not run: the credits for it could not be set aside" in caplog.messages
    assert specs.ran == []
    assert guard.available in {None, 100}


async def test_a_balance_that_cannot_be_had_lets_nothing_run(
    guard: Guard, provider: FakeProvider
) -> None:
    """The provider's text remains in the server's log."""
    provider.failure = OSError("no route to 10.0.0.7")
    specs = Specs(guard, {"deep_spec": 50})
    result = await specs.call()
    assert (result.is_error, text(result)) == (True, UNKNOWN)
    assert result.structured_content is not None
    assert result.structured_content.pop("retry_after") > 0
    assert result.structured_content == {"error": "balance_unavailable"}
    assert specs.ran == []


def test_a_balance_that_hangs_lets_nothing_run(
    guard: Guard, provider: FakeProvider, clock: HandClock
) -> None:
    """The client is told at the guard's time-out."""
    specs = Specs(guard, {"deep_spec": 50})
    answer = out_of_time(clock, provider, lambda: anyio.run(specs.call))
    assert text(answer) == UNKNOWN
    assert specs.ran == []


async def test_sessions_that_are_in_use_are_told(guard: Guard, provider: FakeProvider) -> None:
    """Slots are part of a cost too."""
    provider.max_concurrency = 1
    specs = Specs(guard, {"deep_spec": {"min": 1, "slots": 1}})
    with await guard.aacquire(slots=1):
        result = await specs.call()
    assert text(result).startswith("BUDGET: 1 of 1 sessions at fake are in use.")
    assert result.structured_content is not None
    assert result.structured_content["error"] == "concurrency_limit"
    assert specs.ran == []


async def test_what_is_not_priced_costs_nothing(guard: Guard, provider: FakeProvider) -> None:
    """Not even a balance request; `"*"` prices the rest, and None exempts one of them."""
    provider.credits = 5
    free = Specs(guard, {"deep_spec": 50})
    await free.call("fast_spec", prompt="one")
    assert (free.ran, provider.requests) == (["fast_spec one"], 0)
    rest = Specs(guard, {"*": 10, "fast_spec": None})
    await rest.call("fast_spec", prompt="two")
    assert (await rest.call("deep_spec", prompt="three")).is_error
    assert rest.ran == ["fast_spec two"]


async def test_a_price_with_a_slip_in_its_name_is_told(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """In the server's log, when a client lists the tools."""
    specs = Specs(guard, {"deep_spek": 120})
    async with Client(specs.server) as client:
        assert [tool.name for tool in await client.list_tools()] == ["deep_spec", "fast_spec"]
    assert MISSPELLED in caplog.messages


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120, lambda prompt: 10 * len(prompt)])
@pytest.mark.parametrize("arguments", [{"prompt": [1]}, {"promt": "x"}])
async def test_arguments_that_fastmcp_turns_down_cost_nothing(
    guard: Guard, cost: Any, on_refusal: Any, arguments: dict[str, Any]
) -> None:
    """Its own words are read, whether or not there is a price or the credits for it."""
    specs = Specs(guard, {"deep_spec": cost}, on_refusal=on_refusal)
    result = await specs.call("deep_spec", **arguments)
    assert result.is_error
    assert "validation error" in text(result)
    assert specs.ran == []
    assert guard.available in {None, 100}


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120])
async def test_a_tool_that_there_is_not_costs_nothing(
    guard: Guard, cost: int, on_refusal: Any
) -> None:
    """Not even what the star says; FastMCP's own words are read."""
    specs = Specs(guard, {"*": cost}, on_refusal=on_refusal)
    result = await specs.call("no_spec")
    assert (result.is_error, text(result)) == (True, "Unknown tool: 'no_spec'")
    assert guard.available == 100


async def test_a_mounted_servers_words_are_told_before_a_refusal(guard: Guard) -> None:
    """So that wrong arguments end no run that is to stop at a refusal."""
    specs = Specs(guard, {"never": 1})
    budget = BudgetMiddleware(guard, {"*": 130}, on_refusal="stop")
    outer = FastMCP("outer", middleware=[budget])
    outer.mount(specs.server, namespace="child")
    async with Client(outer) as client:
        wrong = {"prompt": [1]}
        result = await client.call_tool("child_deep_spec", wrong, raise_on_error=False)
        assert "validation error" in text(result)
        with pytest.raises(MCPError, match="BUDGET: needs 130 credits"):
            await client.call_tool("child_deep_spec", {"prompt": "x"})
    assert (specs.ran, guard.available) == ([], 100)


async def test_arguments_are_turned_down_by_a_mounted_server_too(guard: Guard) -> None:
    """And by a tool that another one was made of, with other names for its arguments."""
    specs = Specs(guard, {"never": 1})
    outer = FastMCP("outer", middleware=[BudgetMiddleware(guard, {"*": 60})])
    outer.mount(specs.server, namespace="child")
    deep = await specs.server.get_tool("deep_spec")
    assert deep is not None
    outer.add_tool(
        Tool.from_tool(deep, name="own", transform_args={"prompt": ArgTransform(name="p")})
    )
    async with Client(outer) as client:
        for name, wrong in [("child_deep_spec", {"prompt": [1]}), ("own", {"p": [1]})]:
            assert (await client.call_tool(name, wrong, raise_on_error=False)).is_error
            assert guard.available == 100
    assert specs.ran == []


async def own(specs: Specs) -> None:
    """Raise the error that FastMCP raises of arguments."""
    raise ValidationError("inside")  # noqa: EM101


async def pydantics(specs: Specs) -> None:
    """Find that a reply is not what was expected."""
    TypeAdapter(int).validate_python("many")


async def nested_wrong(specs: Specs) -> None:
    """Call another tool with arguments that it does not take."""
    await specs.server.call_tool("fast_spec", {})


async def nested_unknown(specs: Specs) -> None:
    """Call a tool that there is not."""
    await specs.server.call_tool("no_spec", {})


@pytest.mark.parametrize("inside", [own, pydantics, nested_wrong, nested_unknown])
async def test_an_error_of_that_kind_from_inside_is_kept(
    guard: Guard, kept: Kept, inside: Any
) -> None:
    """The tool had begun, and costs what it costs."""
    specs = Specs(guard, {"deep_spec": 30, "fast_spec": 0.001})
    specs.during = lambda: inside(specs)
    assert (await specs.call()).is_error
    kept(guard, 30)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(("release_on", "left"), [((), 70), (OSError, 100), (LookupError, 70)])
async def test_release_on_is_about_what_the_tool_raised(
    guard: Guard, release_on: Any, left: int, mask: bool
) -> None:
    """And not about the ToolError that FastMCP makes of it, by itself or in a mounted server."""
    inner = FastMCP("inner", mask_error_details=mask)
    inner.tool(breaks, name="deep_spec")
    costs = {"*": {"min": 30, "release_on": release_on}}
    server = FastMCP("specs", middleware=[BudgetMiddleware(guard, costs)], mask_error_details=mask)
    server.tool(breaks, name="deep_spec")
    server.mount(inner, namespace="inner")
    async with Client(server) as client:
        for name in ("deep_spec", "inner_deep_spec"):
            result = await client.call_tool(name, {"_": "x"}, raise_on_error=False)
            assert result.is_error
            assert guard.available == left
            left -= 100 - left


@pytest.mark.parametrize(("release_on", "left"), [(ToolError, 100), (OSError, 70)])
async def test_release_on_a_tool_error(guard: Guard, release_on: Any, left: int) -> None:
    """An error that a tool raises for its client is passed on unchanged, without its cause."""
    specs = Specs(guard, {"deep_spec": {"min": 30, "release_on": release_on}})

    async def fail() -> None:
        raise ToolError("not now") from OSError()  # noqa: EM101, TRY003

    specs.during = fail
    assert text(await specs.call()) == "not now"
    assert guard.available == left


@pytest.mark.parametrize("release_on", [(), (MCPError, TimeoutError)])
async def test_a_tool_that_is_out_of_time_is_kept(
    guard: Guard, kept: Kept, release_on: Any
) -> None:
    """FastMCP gives up on it, which says nothing of what it costs."""
    specs = Specs(guard, {"endless": {"min": 30, "release_on": release_on}})
    specs.server.tool(endless, timeout=1e-6)
    result = await specs.call("endless")
    assert "timed out" in text(result)
    kept(guard, 30)


async def test_a_time_out_of_the_tools_own_is_heard(guard: Guard) -> None:
    """`release_on` says what it proves."""
    specs = Specs(guard, {"deep_spec": {"min": 30, "release_on": TimeoutError}})

    async def fail() -> None:
        raise TimeoutError

    specs.during = fail
    assert (await specs.call()).is_error
    assert guard.available == 100


async def test_a_plain_tool_is_waited_for(clock: HandClock, provider: FakeProvider) -> None:
    """It runs in a thread, so its hold remains open after the client has given up."""
    slow = Slow()
    guard = Guard(provider, linger=0, lag=0)
    server = FastMCP("specs", middleware=[BudgetMiddleware(guard, {"deep_spec": 50})])
    server.tool(slow.call, name="deep_spec")
    async with anyio.create_task_group() as group:
        group.start_soon(server.call_tool, "deep_spec", {"prompt": "x"})
        await slow.has_begun()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            clock.advance(10)
            await guard.abalance(max_age=0)
            assert guard.available == 50
            slow.go_on.set()


@pytest.mark.parametrize("name", ["deep_spec", "own", "made_of"])
@OUTCOMES
def test_a_thread_that_works_on_holds_on(
    clock: HandClock, provider: FakeProvider, error: Any, release_on: Any, after: int, name: str
) -> None:
    """Where asyncio itself cancels a task, as by wait_for, nothing waits for the thread."""
    slow = Slow(error)

    async def given_up(guard: Guard) -> None:
        terms = {"min": 50, "release_on": release_on}
        server = FastMCP("specs", middleware=[BudgetMiddleware(guard, {name: terms})])
        deep = Tool.from_function(slow.call, name="deep_spec")
        server.add_tool(deep)
        server.add_tool(Tool.from_tool(deep, name="own"))

        def made_of(prompt: str) -> str:
            return slow.call(prompt)

        server.add_tool(Tool.from_tool(deep, name="made_of", transform_fn=made_of))
        await slow.give_up(server.call_tool(name, {"prompt": "x"}))

    works_on(clock, provider, slow, after, given_up)


def _namespaced(server: FastMCP, budget: BudgetMiddleware) -> FastMCP:
    server.add_transform(Namespace("in"))
    server.add_middleware(budget)
    return server


def _mounted(server: FastMCP, budget: BudgetMiddleware) -> FastMCP:
    outer = FastMCP("outer", middleware=[budget])
    outer.mount(server, namespace="in")
    return outer


def _mounted_twice(server: FastMCP, budget: BudgetMiddleware) -> FastMCP:
    middle = FastMCP("middle")
    middle.mount(server, namespace="in")
    outer = FastMCP("outer", middleware=[budget])
    outer.mount(middle)
    return outer


def _made_anew(server: FastMCP, budget: BudgetMiddleware) -> FastMCP:
    class Anew(Provider):
        async def _get_tool(self, name: str, version: Any = None) -> Tool | None:
            tool = await server.get_tool(name.removeprefix("in_"), version)
            return None if tool is None else tool.model_copy(update={"name": name})

    return FastMCP("outer", middleware=[budget], providers=[Anew()])


@pytest.mark.parametrize("served", [_namespaced, _mounted, _mounted_twice, _made_anew])
@OUTCOMES
def test_a_thread_of_a_tool_that_was_copied_holds_on(
    clock: HandClock, provider: FakeProvider, error: Any, release_on: Any, after: int, served: Any
) -> None:
    """As FastMCP does for a namespace and for a mounted server, and a provider may at each call."""
    slow = Slow(error)

    async def given_up(guard: Guard) -> None:
        server = FastMCP("specs")
        server.tool(slow.call, name="deep_spec")
        terms = {"min": 50, "release_on": release_on}
        server = served(server, BudgetMiddleware(guard, {"in_deep_spec": terms}))
        await slow.give_up(server.call_tool("in_deep_spec", {"prompt": "x"}))

    works_on(clock, provider, slow, after, given_up)


async def test_a_tool_is_called_as_without_a_guard(guard: Guard) -> None:
    """With what FastMCP gives it beside its arguments, and again and again."""
    specs = Specs(guard, {"*": {"min": 1, "release_on": LookupError}})

    def url() -> str:
        return "https://example.com"

    @specs.server.tool
    def injected(prompt: str, ctx: Context, where: str = Depends(url)) -> str:
        return f"{prompt} {type(ctx).__name__} {where}"

    @specs.server.tool
    def parts(prompt: str) -> Iterator[str]:
        yield prompt
        if prompt == "broken":
            raise LookupError

    for _ in range(2):
        assert text(await specs.call("injected")) == "x Context https://example.com"
        assert text(await specs.call("parts")) == '["x"]'
        assert (await specs.call("parts", prompt="broken")).is_error
    assert guard.available == 96


@pytest.mark.parametrize("refusing", [0, 1])
@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
async def test_two_guards_may_watch_one_server(
    guard: Guard, refusing: int, on_refusal: Any
) -> None:
    """Both are asked, and what one holds is given back where the other refuses."""
    guards = [guard, Guard(FakeProvider(100))]
    specs = Specs(guards[0], {"deep_spec": 60}, on_refusal=on_refusal)
    specs.server.add_middleware(
        BudgetMiddleware(guards[1], {"deep_spec": 60}, on_refusal=on_refusal)
    )
    for each in guards:
        await each.abalance()
    with guards[refusing].acquire(50) as hold:
        if on_refusal == "tell":
            assert text(await specs.call()).startswith("BUDGET: needs 60 credits")
        else:
            with pytest.raises(MCPError, match="BUDGET: needs 60 credits"):
                await specs.call()
        hold.release()
    assert (specs.ran, [each.available for each in guards]) == ([], [100, 100])
    assert not (await specs.call()).is_error
    assert [each.available for each in guards] == [40, 40]


@pytest.mark.parametrize("namespace", [None, "child"])
async def test_a_mounted_servers_own_guard_may_refuse(guard: Guard, namespace: str | None) -> None:
    """Then nothing ran, and the outer server's credits are given back, whatever it calls the tool."""
    inner = Specs(Guard(FakeProvider(100)), {"deep_spec": 130})
    outer = FastMCP("outer", middleware=[BudgetMiddleware(guard, {"*": 60})])
    outer.mount(inner.server, namespace=namespace)
    async with Client(outer) as client:
        name = "_".join(filter(None, [namespace, "deep_spec"]))
        result = await client.call_tool(name, {"prompt": "x"}, raise_on_error=False)
    assert text(result).startswith("BUDGET: needs 130 credits, 100 available")
    assert (inner.ran, guard.available) == ([], 100)


async def test_a_refusal_inside_of_a_tool_is_its_own_affair(guard: Guard, kept: Kept) -> None:
    """It had begun, and hands on what it was told by another tool."""
    specs = Specs(guard, {"outer": 30, "deep_spec": 90})

    @specs.server.tool
    async def outer(prompt: str) -> ToolResult:
        return await specs.server.call_tool("deep_spec", {"prompt": prompt})

    assert text(await specs.call("outer")).startswith("BUDGET: needs 90 credits, 70")
    kept(guard, 30)


@pytest.mark.parametrize("search", [RegexSearchTransform, BM25SearchTransform])
async def test_what_only_forwards_is_free(guard: Guard, search: Any) -> None:
    """FastMCP's search transform calls a tool by another tool: only the one that works is priced."""
    specs = Specs(guard, {"*": 60})
    specs.server.add_transform(search())
    async with Client(specs.server) as client:
        query = {"pattern": "deep"} if search is RegexSearchTransform else {"query": "deep"}
        found = await client.call_tool("search_tools", query)
        assert "deep_spec" in text(found)
        assert guard.available in {None, 100}
        forwarded = {"name": "deep_spec", "arguments": {"prompt": "x"}}
        assert not (await client.call_tool("call_tool", forwarded)).is_error
        assert (specs.ran, guard.available) == (["deep_spec x"], 40)
        refused = await client.call_tool("call_tool", forwarded, raise_on_error=False)
        assert text(refused).startswith("BUDGET: needs 60 credits, 40 available")
    assert (specs.ran, guard.available) == (["deep_spec x"], 40)


async def test_what_only_forwards_may_be_priced(guard: Guard) -> None:
    """By its name; a tool of the server's own that forwards is exempted by its name."""
    specs = Specs(guard, {"*": 60, "call_tool": 10, "forward": None})
    specs.server.add_transform(RegexSearchTransform())

    @specs.server.tool
    async def forward(name: str) -> ToolResult:
        return await specs.server.call_tool(name, {"prompt": "x"})

    assert not (await specs.call("forward", name="fast_spec")).is_error
    assert guard.available == 40
    await specs.call("call_tool", name="search_tools")
    assert guard.available == 30


@pytest.mark.parametrize(("name", "left"), [("deep_spec", 100), ("fast_spec", None)])
async def test_a_tool_that_cannot_be_looked_up_is_fastmcps_to_tell(
    guard: Guard, name: str, left: int | None
) -> None:
    """Where it has no price; one that has is not run, and holds nothing."""

    class Broken(Transform):
        async def get_tool(self, name: str, call_next: Any, *, version: Any = None) -> Any:
            raise OSError

    await guard.abalance()
    specs = Specs(guard, {"deep_spec": 30})
    specs.server.add_transform(Broken())
    if left is None:
        with pytest.raises(MCPError, match="Internal server error"):
            await specs.call(name)
    else:
        assert (await specs.call(name)).is_error
    assert (specs.ran, guard.available) == ([], 100)


async def test_the_tool_that_runs_is_priced(guard: Guard) -> None:
    """Where a transform gives another tool than the one that was asked for."""

    class Instead(Transform):
        async def get_tool(self, name: str, call_next: Any, *, version: Any = None) -> Any:
            return await call_next("deep_spec", version=version)

    specs = Specs(guard, {"deep_spec": 130, "fast_spec": 10})
    specs.server.add_transform(Instead())
    result = await specs.call("fast_spec")
    assert text(result).startswith("BUDGET: needs 130 credits")
    assert specs.ran == []


async def test_a_mounted_servers_tools_go_by_their_listed_names(guard: Guard) -> None:
    """The outer server's names are what it prices."""
    inner = Specs(guard, {"other": 1})
    outer = FastMCP("outer", middleware=[BudgetMiddleware(guard, {"child_deep_spec": 130})])
    outer.mount(inner.server, namespace="child")
    async with Client(outer) as client:
        result = await client.call_tool("child_deep_spec", {"prompt": "x"}, raise_on_error=False)
    assert text(result).startswith("BUDGET: needs 130 credits, 100 available")
    assert inner.ran == []


async def test_an_apps_tool_has_no_second_name_that_is_free(guard: Guard) -> None:
    """FastMCP takes its hash for a name too."""
    ran: list[str] = []
    app = FastMCPApp("board")

    @app.tool
    def save(text: str) -> str:
        ran.append(text)
        return text

    server = FastMCP("specs", middleware=[BudgetMiddleware(guard, {"in_save": 130})])
    server.mount(FastMCP("inner", providers=[app]), namespace="in")
    hashed = hashed_backend_name("board", "save")
    async with Client(server) as client:
        result = await client.call_tool(hashed, {"text": "x"}, raise_on_error=False)
        assert text(result).startswith("BUDGET: needs 130 credits, 100 available")
        await client.call_tool("0123456789ab_save", {"text": "x"}, raise_on_error=False)
    assert ran == []
    free = FastMCP("free", middleware=[BudgetMiddleware(guard, {"other": 130})], providers=[app])
    async with Client(free) as client:
        await client.call_tool(hashed, {"text": "shows that the name works"})
    assert ran == ["shows that the name works"]


async def test_the_last_middleware_sees_what_is_run(guard: Guard) -> None:
    """What comes before it may rename a call, or answer it from a cache for nothing."""

    class Rename(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            message = context.message.model_copy(update={"name": "deep_spec"})
            return await call_next(context.copy(message=message))

    specs = Specs(guard, {"deep_spec": 60})
    specs.server.middleware[:0] = [ResponseCachingMiddleware(), Rename()]
    for _ in range(3):
        answer = await specs.server.call_tool("fast_spec", {"prompt": "x"})
        assert not answer.is_error
    assert specs.ran == ["deep_spec x"]
    assert guard.available == 40


@pytest.mark.parametrize("mask", [False, True])
async def test_a_decorated_function_inside_of_a_tool(guard: Guard, mask: bool) -> None:
    """Its refusal is an error with our words for programs, or none; a ToolError has those for models."""
    server = FastMCP("specs", mask_error_details=mask)

    @server.tool
    def raising(prompt: str) -> str:
        return too_dear(guard)(prompt)

    @server.tool
    def telling(prompt: str) -> str:
        try:
            return too_dear(guard)(prompt)
        except BudgetGuardError as error:
            raise ToolError(for_model(error)) from error

    async with Client(server) as client:
        read = [
            text(await client.call_tool(name, {"prompt": "x"}, raise_on_error=False))
            for name in ("raising", "telling")
        ]
    assert read[0].startswith("Error calling tool 'raising'")
    assert ("deep_spec needs 120 credits" in read[0]) is not mask
    assert read[1] == REFUSED


def test_the_example() -> None:
    """Run as a user would run it."""
    lines = example.run("agents/fastmcp_server.py").splitlines()
    assert lines[1].startswith("The model reads: BUDGET: needs 50 credits, 40 available")
    assert lines[-1] == "32 of 40 credits are available; deep_spec ran 0 times."
