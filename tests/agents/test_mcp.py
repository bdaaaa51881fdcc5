"""Servers on the MCP SDK, as their clients see them: in memory, in both eras, and over a socket."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import anyio
import example
import pytest
import uvicorn
from needed import need
from scenes import (
    FIGURES,
    MISSPELLED,
    REFUSED,
    TOO_LITTLE,
    UNKNOWN,
    WITHHELD,
    Kept,
    Serving,
    Slow,
    breaks,
    five_side_by_side,
    out_of_time,
    text,
    too_dear,
    ways_to_price,
)

need("mcp.server.mcpserver")

from mcp import Client, MCPError
from mcp.server.extension import Extension
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    ListToolsResult,
    TextContent,
)
from pydantic import BaseModel, TypeAdapter

from budgetguard import BudgetGuardError, Guard, InsufficientCredits
from budgetguard.integrations.mcp import BudgetMiddleware
from budgetguard.integrations.tools import for_model
from budgetguard.testing import FakeProvider, HandClock

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["2026-07-28", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    """The protocol of today, and the one with a handshake."""
    return str(request.param)


@pytest.fixture
def guard(provider: FakeProvider) -> Guard:
    """A guard without a balance yet: each test first sets what the provider will report."""
    return Guard(provider)


class Specs(Serving):
    """A server of two tools."""

    def __init__(self, guard: Guard, costs: Any, *, mode: str = "auto", **options: Any) -> None:
        super().__init__()
        extensions = options.pop("extensions", None)
        self.mode = mode
        self.server: MCPServer[Any] = MCPServer(
            "specs", middleware=[BudgetMiddleware(guard, costs, **options)], extensions=extensions
        )
        self.server.add_tool(self.deep_spec)
        self.server.add_tool(self.fast_spec)

    def client(self) -> Client:
        """One of its clients."""
        return Client(self.server, mode=self.mode)

    async def call(self, name: str = "deep_spec", /, **arguments: Any) -> CallToolResult:
        """What a client is answered."""
        async with self.client() as client:
            return await client.call_tool(name, arguments or {"prompt": "x"})

    async def error(self) -> MCPError:
        """The protocol's error that a client gets instead."""
        async with self.client() as client:
            with pytest.raises(MCPError) as raised:
                await client.call_tool("deep_spec", {"prompt": "x"})
        return raised.value


async def test_a_refusal_is_an_error_result_and_the_client_goes_on(
    guard: Guard, provider: FakeProvider, mode: str
) -> None:
    """Its words are for the model, its figures for the program; the tool never ran."""
    provider.credits = 20
    specs = Specs(guard, {"deep_spec": 50, "fast_spec": 10}, mode=mode)
    async with specs.client() as client:
        await client.list_tools()
        refused = await client.call_tool("deep_spec", {"prompt": "all"})
        assert (refused.is_error, text(refused)) == (True, TOO_LITTLE)
        assert refused.structured_content == FIGURES
        assert guard.available == 20
        assert text(await client.call_tool("fast_spec", {"prompt": "less"})) == "outline of less"
    assert specs.ran == ["fast_spec less"]
    assert guard.available == 10


async def test_stop_is_a_protocol_error(guard: Guard, provider: FakeProvider, mode: str) -> None:
    """No tool result at all, but an error with a code and the figures."""
    provider.credits = 20
    specs = Specs(guard, {"deep_spec": 50}, mode=mode, on_refusal="stop")
    stopped = await specs.error()
    assert (stopped.code, stopped.message, stopped.data) == (402, TOO_LITTLE, FIGURES)
    assert specs.ran == []
    assert guard.available == 20


async def test_a_callable_supplies_the_tools_result(
    guard: Guard, provider: FakeProvider, mode: str
) -> None:
    """The server converts it as it would what the tool returns, to the tool's declared output."""
    provider.credits = 20

    async def cached(error: InsufficientCredits, name: str, arguments: Any) -> Any:
        return f"{error.needed} {name} {arguments['prompt']} {guard.available}"

    specs = Specs(guard, {"fast_spec": 50}, mode=mode, on_refusal=cached)
    result = await specs.call("fast_spec")
    assert (result.is_error, text(result)) == (False, "50 fast_spec x 20")
    assert result.structured_content == {"result": "50 fast_spec x 20"}
    assert specs.ran == []


async def test_stop_leaves_the_cause_to_the_servers_own_middleware(
    guard: Guard, provider: FakeProvider
) -> None:
    """Whatever records errors there finds all figures."""
    provider.credits = 20
    causes: list[object] = []
    specs = Specs(guard, {"deep_spec": 50}, on_refusal="stop")

    async def record(ctx: Any, call_next: Any) -> Any:
        try:
            return await call_next(ctx)
        except MCPError as error:
            causes.append(error.__cause__)
            raise

    specs.server.middleware.insert(0, record)
    await specs.error()
    assert [type(cause) for cause in causes] == [InsufficientCredits]


@pytest.mark.parametrize(
    ("cost", "left"), ways_to_price(lambda result: result.structured_content["used"])
)
async def test_an_admitted_tool_is_settled(guard: Guard, mode: str, cost: Any, left: int) -> None:
    """Its credits are held while it runs; then it costs what was held, or what `actual` says."""
    specs = Specs(guard, {"deep_spec": cost}, mode=mode)

    async def snapshot() -> Any:
        return guard.available

    specs.during = snapshot
    result = await specs.call()
    assert result.structured_content == {"used": 8, "seen": "70"}
    assert guard.available == left


async def test_calls_side_by_side_never_go_beyond_the_balance(guard: Guard, mode: str) -> None:
    """Of five at 30 each, a balance of 100 lets three run; the others read why not."""
    specs = Specs(guard, {"deep_spec": 30}, mode=mode)
    async with specs.client() as client:
        answers = await five_side_by_side(
            specs, lambda prompt: client.call_tool("deep_spec", {"prompt": prompt})
        )
    refused = [text(answer) for answer in answers if answer.is_error]
    assert len(specs.ran) == 3
    assert len(refused) == 2
    assert all(words.startswith("BUDGET: needs 30 credits, 10 available") for words in refused)
    assert guard.available == 10


async def test_a_tool_that_raises_is_kept(guard: Guard, kept: Kept, mode: str) -> None:
    """The SDK makes an error result of it, and nobody knows what it cost."""
    specs = Specs(guard, {"deep_spec": {"min": 30, "actual": lambda _: 0}}, mode=mode)

    async def fail() -> None:
        breaks("x")

    specs.during = fail
    assert (await specs.call()).is_error
    kept(guard, 30)


async def test_a_tool_that_is_cancelled_is_kept(guard: Guard, kept: Kept, mode: str) -> None:
    """The client gives up on it; the provider may work on."""
    specs = Specs(guard, {"deep_spec": 30}, mode=mode)
    begun, ended = anyio.Event(), anyio.Event()

    async def hang() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    specs.during = hang
    async with specs.client() as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "deep_spec", {"prompt": "x"})
            await begun.wait()
            assert guard.available == 70
            group.cancel_scope.cancel()
        await ended.wait()
    kept(guard, 30)


async def test_a_tool_that_asks_its_client_first_is_kept(guard: Guard, kept: Kept) -> None:
    """Each round is a call of its own, and `actual` is asked about the last alone."""
    specs = Specs(guard, {"asking": {"min": 30, "actual": lambda _: 0}})
    schema: Any = {"type": "object", "properties": {"name": {"type": "string"}}}

    @specs.server.tool()
    async def asking() -> InputRequiredResult:
        params = ElicitRequestFormParams(message="Whose?", requested_schema=schema)
        return InputRequiredResult(input_requests={"name": ElicitRequest(params=params)})

    async with specs.client() as client:
        asked = await client.session.call_tool("asking", {}, allow_input_required=True)
    assert isinstance(asked, InputRequiredResult)
    kept(guard, 30)


class Agreed(BaseModel):
    """What a client is asked."""

    yes: bool


async def agree(prompt: str) -> Elicit[Agreed]:
    """Ask the client first."""
    return Elicit(message=f"Spend on {prompt}?", schema=Agreed)


async def spends_first(prompt: str) -> Elicit[Agreed]:
    """Ask nothing, but break."""
    raise NameError(prompt)


async def _yes(context: Any, params: Any) -> ElicitResult:
    del context, params
    return ElicitResult(action="accept", content={"yes": True})


async def _no(context: Any, params: Any) -> ElicitResult:
    del context, params
    return ElicitResult(action="decline")


async def _call_asking(
    guard: Guard, mode: str, resolver: Any, answer: Any
) -> CallToolResult | MCPError:
    specs = Specs(guard, {"*": 60}, mode=mode)

    @specs.server.tool()
    async def asking(prompt: str, agreed: Annotated[Agreed, Resolve(resolver)]) -> str:
        """Run when the client has agreed."""
        return f"{prompt}: {agreed.yes}"

    async with Client(specs.server, mode=mode, elicitation_callback=answer) as client:
        try:
            return await client.call_tool("asking", {"prompt": "x"})
        except MCPError as error:
            return error


@pytest.mark.parametrize(("answer", "left"), [(_yes, 40), (_no, 100)])
async def test_a_resolvers_question_costs_nothing(
    guard: Guard, mode: str, answer: Any, left: int
) -> None:
    """The tool has not begun; the round that runs it finds the credits free."""
    result = await _call_asking(guard, mode, agree, answer)
    assert isinstance(result, CallToolResult)
    assert result.is_error == (answer is _no)
    assert guard.available == left


async def test_a_resolvers_question_that_no_client_takes_costs_nothing(
    guard: Guard, mode: str
) -> None:
    """Nor does it, so the tool never runs."""
    raised = await _call_asking(guard, mode, agree, None)
    assert isinstance(raised, MCPError)
    assert raised.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    assert guard.available == 100


async def test_a_resolver_that_raises_is_kept(guard: Guard, kept: Kept, mode: str) -> None:
    """It is code of its own, and may have spent before."""
    result = await _call_asking(guard, mode, spends_first, _yes)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    kept(guard, 60)


async def test_a_background_task_is_kept(guard: Guard, kept: Kept) -> None:
    """An extension that runs the tool later answers with something that is no tool's result."""

    class Later(Extension):
        identifier = "com.example/later"

        async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
            del params, ctx, call_next
            return {"resultType": "task", "content": [], "structuredContent": {"taskId": "1"}}

    specs = Specs(guard, {"deep_spec": {"min": 30, "actual": lambda _: 0}}, extensions=[Later()])
    assert (await specs.call()).result_type == "task"
    assert specs.ran == []
    kept(guard, 30)


@pytest.mark.parametrize("answer", [{"content": "nonsense"}, {"resultType": "task"}, None])
async def test_an_answer_that_is_no_tools_result_is_kept(
    guard: Guard, kept: Kept, answer: Any
) -> None:
    """And it goes on to the client as it is."""
    middleware = BudgetMiddleware(guard, {"*": {"min": 30, "actual": lambda _: 0}})

    class Context:
        method = "tools/call"
        request_id = 1
        params = {"name": "any"}  # noqa: RUF012

    async def call_next(ctx: Any) -> Any:
        return answer

    context: Any = Context()
    assert await middleware(context, call_next) is answer
    kept(guard, 30)


async def test_a_result_of_a_middleware_inside_is_settled(guard: Guard) -> None:
    """One that answers by itself gives the SDK's own type."""
    used = CallToolResult(content=[], structured_content={"used": 8})
    specs = Specs(
        guard, {"deep_spec": {"min": 30, "actual": lambda r: r.structured_content["used"]}}
    )

    async def answer(ctx: Any, call_next: Any) -> Any:
        return used if ctx.method == "tools/call" else await call_next(ctx)

    specs.server.middleware.append(answer)
    assert (await specs.call()).structured_content == {"used": 8}
    assert guard.available == 92


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
        stopped = await specs.error()
        assert (stopped.code, stopped.message) == (500, WITHHELD)
    assert "deep_spec was not run: the credits for it could not be set aside" in caplog.messages
    assert specs.ran == []
    assert guard.available in {None, 100}


@pytest.mark.parametrize(("on_refusal", "code"), [("tell", None), ("stop", 503)])
async def test_a_balance_that_cannot_be_had_lets_nothing_run(
    guard: Guard, provider: FakeProvider, on_refusal: Literal["tell", "stop"], code: int | None
) -> None:
    """The provider's text remains in the server's log."""
    provider.failure = OSError("no route to 10.0.0.7")
    specs = Specs(guard, {"deep_spec": 50}, on_refusal=on_refusal)
    if code is None:
        result = await specs.call()
        assert (result.is_error, text(result)) == (True, UNKNOWN)
        figures = result.structured_content
    else:
        stopped = await specs.error()
        assert (stopped.code, stopped.message) == (code, UNKNOWN)
        figures = stopped.data
    assert figures.pop("retry_after") > 0
    assert figures == {"error": "balance_unavailable"}
    assert specs.ran == []


async def test_a_closed_guard_lets_nothing_run(guard: Guard) -> None:
    """Its error is for whoever runs the server to act upon; the client is told it all the same."""
    guard.close()
    specs = Specs(guard, {"deep_spec": 50})
    result = await specs.call()
    assert text(result) == WITHHELD
    assert result.structured_content == {"error": "not_run", "retry_after": None}
    assert specs.ran == []


def test_a_balance_that_hangs_lets_nothing_run(
    guard: Guard, provider: FakeProvider, clock: HandClock, anyio_backend: str
) -> None:
    """The client is told at the guard's time-out."""
    specs = Specs(guard, {"deep_spec": 50})
    answer = out_of_time(clock, provider, lambda: anyio.run(specs.call, backend=anyio_backend))
    assert text(answer) == UNKNOWN
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
    guard: Guard, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the server's log, when a client lists the tools."""
    specs = Specs(guard, {"deep_spek": 120}, mode=mode)
    async with specs.client() as client:
        listed = await client.list_tools()
    assert [tool.name for tool in listed.tools] == ["deep_spec", "fast_spec"]
    assert MISSPELLED in caplog.messages


@pytest.mark.parametrize("params", [{}, {"name": 7}, {"name": "deep_spec", "arguments": [1]}])
async def test_what_the_sdk_rejects_holds_nothing(guard: Guard, params: Any) -> None:
    """A request without a name, or whose arguments are no mapping, is an error as without us."""
    specs = Specs(guard, {"*": 30})

    async def spoil(ctx: Any, call_next: Any) -> Any:
        if ctx.method == "tools/call":
            ctx.params = {**params, "_meta": ctx.params.get("_meta")}
        return await call_next(ctx)

    specs.server.middleware.insert(0, spoil)
    assert (await specs.error()).code == INVALID_PARAMS
    assert specs.ran == []
    assert guard.available is None


async def test_a_notification_of_that_name_holds_nothing(guard: Guard) -> None:
    """It runs no tool, so nobody can hold credits by sending some."""
    specs = Specs(guard, {"*": 30}, mode="legacy")
    seen: list[object] = []

    async def record(ctx: Any, call_next: Any) -> Any:
        result = await call_next(ctx)
        if ctx.method == "tools/call":
            seen.append(ctx.request_id)
        return result

    specs.server.middleware.insert(0, record)
    async with specs.client() as client:
        await client.session._dispatcher.notify("tools/call", {"name": "deep_spec"})
        await client.call_tool("fast_spec", {"prompt": "x"})
    assert seen[0] is None
    assert specs.ran == ["fast_spec x"]
    assert guard.available == 70


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120, lambda prompt: 10 * len(prompt)])
@pytest.mark.parametrize("arguments", [{"prompt": [1]}, {"promt": "x"}])
async def test_arguments_that_the_sdk_turns_down_cost_nothing(
    guard: Guard, cost: Any, on_refusal: Any, arguments: dict[str, Any]
) -> None:
    """Its own words are read, whether or not there is a price or the credits for it."""
    specs = Specs(guard, {"deep_spec": cost}, on_refusal=on_refusal)
    result = await specs.call("deep_spec", **arguments)
    assert result.is_error
    assert text(result).startswith("Error executing tool deep_spec: 1 validation error")
    assert specs.ran == []
    assert guard.available in {None, 100}


@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
@pytest.mark.parametrize("cost", [60, 120])
async def test_a_tool_that_there_is_not_costs_nothing(
    guard: Guard, cost: int, on_refusal: Any
) -> None:
    """Not even what the star says; the SDK's own words are read."""
    specs = Specs(guard, {"*": cost}, on_refusal=on_refusal)
    result = await specs.call("no_spec")
    assert (result.is_error, text(result)) == (True, "Unknown tool: no_spec")
    assert guard.available == 100


async def pydantics(specs: Specs) -> None:
    """Find that a reply is not what was expected."""
    TypeAdapter(int).validate_python("many")


async def nested_wrong(specs: Specs) -> None:
    """Call another tool with arguments that it does not take."""
    await specs.server.call_tool("fast_spec", {})


async def nested_unknown(specs: Specs) -> None:
    """Call a tool that there is not."""
    await specs.server.call_tool("no_spec", {})


@pytest.mark.parametrize("inside", [pydantics, nested_wrong, nested_unknown])
async def test_an_error_of_that_kind_from_inside_is_kept(
    guard: Guard, kept: Kept, inside: Any
) -> None:
    """The tool had begun, and costs what it costs."""
    specs = Specs(guard, {"deep_spec": 30})
    specs.during = lambda: inside(specs)
    assert (await specs.call()).is_error
    kept(guard, 30)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("release_on", "left"), [((), 70), (OSError, 100), (LookupError, 70)])
async def test_release_on_is_about_what_the_tool_raised(
    guard: Guard, release_on: Any, left: int, plain: bool
) -> None:
    """And not about the error result that the SDK makes of it."""
    specs = Specs(guard, {"breaks": {"min": 30, "release_on": release_on}})

    async def awaited(prompt: str) -> str:
        return breaks(prompt)

    specs.server.add_tool((lambda prompt: breaks(prompt)) if plain else awaited, name="breaks")  # noqa: PLW0108
    for _ in range(2):  # the server's tool does not change between two calls
        assert (await specs.call("breaks")).is_error
        assert guard.available == left
        left -= 100 - left


async def test_a_tool_that_calls_another_is_followed_alone(guard: Guard) -> None:
    """A call by the server's own code is not the client's, and does not end the client's hold."""
    terms = {"min": 30, "release_on": ToolError}
    specs = Specs(guard, {"deep_spec": terms, "fast_spec": terms})

    async def nested() -> Any:
        return await specs.server.call_tool("fast_spec", {"prompt": "y"})

    await specs.call("fast_spec")
    specs.during = nested
    assert not (await specs.call()).is_error
    assert specs.ran == ["fast_spec x", "deep_spec x", "fast_spec y"]
    assert guard.available == 40


async def test_a_low_level_handler_that_raises_is_heard(guard: Guard) -> None:
    """As far as a server of that kind tells what its tools do."""

    async def on_call_tool(ctx: Any, params: CallToolRequestParams) -> CallToolResult:
        raise MCPError(INVALID_PARAMS, params.name)

    server: Server[Any] = Server("low", on_call_tool=on_call_tool)
    costs = {"free": {"min": 30, "release_on": MCPError}, "kept": 30}
    server.middleware.append(BudgetMiddleware(guard, costs))
    async with Client(server) as client:
        for name, left in [("free", 100), ("kept", 70)]:
            with pytest.raises(MCPError):
                await client.call_tool(name)
            assert guard.available == left


@pytest.mark.parametrize(
    ("supplied", "words", "figures"),
    [
        ("a text", "a text", None),
        ({"x": 1}, '{"x": 1}', {"x": 1}),
        ([1, 2], "[1, 2]", None),
        (CallToolResult(content=[TextContent(type="text", text="own")]), "own", None),
    ],
)
async def test_a_callable_supplies_a_low_level_tools_result(
    guard: Guard, supplied: Any, words: str, figures: Any
) -> None:
    """A server of that kind converts nothing: a text, JSON values, or the result itself."""

    async def on_call_tool(ctx: Any, params: CallToolRequestParams) -> CallToolResult:
        raise AssertionError

    async def on_list_tools(ctx: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[])

    server: Server[Any] = Server("low", on_call_tool=on_call_tool, on_list_tools=on_list_tools)
    server.middleware.append(BudgetMiddleware(guard, {"deep": 130}, on_refusal=lambda *_: supplied))
    async with Client(server) as client:
        result = await client.call_tool("deep")
    assert (result.is_error, text(result)) == (False, words)
    assert result.structured_content == figures


async def test_an_extension_around_the_tools_hides_nothing(guard: Guard) -> None:
    """An extension that sees each call."""

    class RefreshSchedule(Extension):
        identifier = "com.example/sees"

        async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
            return await call_next(ctx)

    terms = {"min": 30, "release_on": OSError}
    specs = Specs(guard, {"deep_spec": terms}, extensions=[RefreshSchedule()])

    async def fail() -> None:
        breaks("x")

    specs.during = fail
    assert (await specs.call()).is_error
    assert (await specs.call("deep_spec", prompt=[1])).is_error
    assert guard.available == 100


@pytest.mark.parametrize("refusing", [0, 1])
@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
async def test_two_guards_may_watch_one_server(
    guard: Guard, refusing: int, on_refusal: Any
) -> None:
    """Both are asked, and what one holds is given back where the other refuses."""
    guards = [guard, Guard(FakeProvider(100))]
    specs = Specs(guards[0], {"deep_spec": 60}, on_refusal=on_refusal)
    inner = BudgetMiddleware(guards[1], {"deep_spec": 60}, on_refusal=on_refusal)
    specs.server.middleware.append(inner)
    for each in guards:
        await each.abalance()
    with guards[refusing].acquire(50) as hold:
        if on_refusal == "tell":
            assert text(await specs.call()).startswith("BUDGET: needs 60 credits")
        else:
            assert "BUDGET: needs 60 credits" in (await specs.error()).message
        hold.release()
    assert (specs.ran, [each.available for each in guards]) == ([], [100, 100])
    assert not (await specs.call()).is_error
    assert [each.available for each in guards] == [40, 40]


async def test_a_plain_tool_is_waited_for(guard: Guard, clock: HandClock) -> None:
    """It runs in a thread, so its hold remains open after the client has given up."""
    slow = Slow()
    specs = Specs(guard, {"slow": {"min": 50, "linger": 0, "lag": 0}})
    specs.server.add_tool(slow.call, name="slow")
    async with specs.client() as client, anyio.create_task_group() as group:
        group.start_soon(client.call_tool, "slow", {"prompt": "x"})
        await slow.has_begun()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            clock.advance(10)
            await guard.abalance(max_age=0)
            assert guard.available == 50
            slow.go_on.set()


async def test_a_low_level_server_takes_it_too(guard: Guard) -> None:
    """Its list of middleware is public."""
    ran: list[str] = []

    async def on_call_tool(ctx: Any, params: CallToolRequestParams) -> CallToolResult:
        ran.append(params.name)
        return CallToolResult(content=[])

    async def on_list_tools(ctx: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[])

    server: Server[Any] = Server("low", on_call_tool=on_call_tool, on_list_tools=on_list_tools)
    server.middleware.append(BudgetMiddleware(guard, {"big": 130, "small": 30}))
    async with Client(server) as client:
        assert (await client.call_tool("big")).is_error
        assert not (await client.call_tool("small")).is_error
    assert ran == ["small"]
    assert guard.available == 70


@contextmanager
def served(server: MCPServer[Any]) -> Iterator[str]:
    """The server on a loopback socket; its URL."""
    config = uvicorn.Config(server.streamable_http_app(), port=0, log_level="error", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        running.should_exit = True
        thread.join(20)


# On trio the client's HTTP library leaves generators behind that it began (httpx2 2.16).
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("on_refusal", ["tell", "stop"])
async def test_over_a_socket(
    guard: Guard,
    provider: FakeProvider,
    mode: str,
    on_refusal: Literal["tell", "stop"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Streamable HTTP: the same words, the same figures, and the connection lives on."""
    monkeypatch.setenv("NO_PROXY", "*")
    provider.credits = 20
    specs = Specs(guard, {"deep_spec": 50, "fast_spec": 10}, on_refusal=on_refusal)
    with served(specs.server) as url:
        async with Client(url, mode=mode) as client:
            if on_refusal == "tell":
                refused = await client.call_tool("deep_spec", {"prompt": "all"})
                assert (text(refused), refused.structured_content) == (TOO_LITTLE, FIGURES)
            else:
                with pytest.raises(MCPError) as stopped:
                    await client.call_tool("deep_spec", {"prompt": "all"})
                assert (stopped.value.code, stopped.value.data) == (402, FIGURES)
            assert text(await client.call_tool("fast_spec", {"prompt": "b"})) == "outline of b"
    assert specs.ran == ["fast_spec b"]
    assert guard.available == 10


async def test_a_decorated_function_inside_of_a_tool(guard: Guard) -> None:
    """The text of its refusal remains on the server; that of a ToolError goes to the client."""
    server: MCPServer[Any] = MCPServer("specs")

    @server.tool()
    def raising(prompt: str) -> str:
        return too_dear(guard)(prompt)

    @server.tool()
    def telling(prompt: str) -> str:
        try:
            return too_dear(guard)(prompt)
        except BudgetGuardError as error:
            raise ToolError(for_model(error)) from error

    async with Client(server) as client:
        read = [
            text(await client.call_tool(name, {"prompt": "x"})) for name in ("raising", "telling")
        ]
    assert read == ["Error executing tool raising", f"Error executing tool telling: {REFUSED}"]


def test_the_example() -> None:
    """Run as a user would run it."""
    lines = example.run("agents/mcp_server.py").splitlines()
    assert lines[0].startswith("The host is told: 402 BUDGET: needs 50 credits, 40 available")
    assert lines[1] == "Its program reads: 50 credits needed, 40 there, https://example.com/top-up"
    assert lines[-1] == "32 of 40 credits are available."
