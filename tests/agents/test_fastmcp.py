"""FastMCP's servers, as their clients see them: in memory, on asyncio, which its client needs."""

import asyncio
from typing import Any

import anyio
import example
import pytest
from needed import need
from scenes import (
    FIGURES,
    MISSPELLED,
    TOO_LITTLE,
    UNKNOWN,
    UNTOLD,
    Kept,
    Serving,
    breaks,
    five_side_by_side,
    out_of_time,
    text,
    ways_to_price,
)

need("fastmcp")

from fastmcp import Client, FastMCP, FastMCPApp
from fastmcp.client.client import CallToolResult
from fastmcp.exceptions import MCPError, NotFoundError, ToolError, ValidationError
from fastmcp.server.extensions import ServerExtension
from fastmcp.server.middleware import Middleware
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from fastmcp.server.providers.addressing import hashed_backend_name
from fastmcp.tools.base import ToolResult
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult, Result

from budgetguard import Guard, InsufficientCredits
from budgetguard.integrations.fastmcp import BudgetMiddleware
from budgetguard.testing import FakeProvider, HandClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """FastMCP's client makes asyncio tasks."""
    return "asyncio"


@pytest.fixture
def guard(provider: FakeProvider) -> Guard:
    """A guard that has not looked yet: a test says first what it will see."""
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
    """No tool result at all, but an error with a code and the figures; the cause stays here."""
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


@pytest.mark.parametrize(
    ("cost", "left"), ways_to_price(lambda result: result.structured_content["used"])
)
async def test_an_admitted_tool_is_settled(guard: Guard, cost: Any, left: int) -> None:
    """Its credits are held while it runs; then it costs what was held, or what `actual` says."""
    specs = Specs(guard, {"deep_spec": cost})

    async def look() -> Any:
        return guard.available

    specs.during = look
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
        assert (result.is_error, text(result)) == (True, UNTOLD)
        assert result.structured_content == {"error": "not_run", "retry_after": None}
    else:
        with pytest.raises(MCPError) as stopped:
            await specs.call()
        assert (stopped.value.error.code, stopped.value.error.message) == (500, UNTOLD)
    assert "deep_spec was not run: the credits for it could not be set aside" in caplog.messages
    assert specs.ran == []
    assert guard.available in {None, 100}


async def test_a_balance_that_cannot_be_had_lets_nothing_run(
    guard: Guard, provider: FakeProvider
) -> None:
    """What the provider said stays here."""
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
    """Not even a look at the balance; `"*"` prices the rest, and None lets one of them pass."""
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


@pytest.mark.parametrize(
    ("release_on", "left"), [((), 80), ((ValidationError, NotFoundError), 100)]
)
async def test_what_fastmcp_rejects_is_kept_or_freed(
    guard: Guard, release_on: Any, left: int
) -> None:
    """Wrong arguments, and a tool that there is not: as `release_on` says."""
    specs = Specs(guard, {"*": {"min": 10, "release_on": release_on}})
    assert (await specs.call("deep_spec", prompt=[1])).is_error
    assert (await specs.call("no_spec")).is_error
    assert (specs.ran, guard.available) == ([], left)


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


def test_the_example() -> None:
    """Run as a user would run it."""
    lines = example.run("agents/fastmcp_server.py").splitlines()
    assert lines[1].startswith("The model reads: BUDGET: needs 50 credits, 40 available")
    assert lines[-1] == "32 of 40 credits are available; deep_spec ran 0 times."
