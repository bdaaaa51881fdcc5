"""One call costs the same in front of the SDK, by `guarded()`, and below it, by a guarded transport."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from io import BytesIO
from typing import Any, Self

import httpx
import predev_api.client
import pytest
import requests
from accounts import AT_ONCE, TASKS, OpenSandbox, anchor_guard, predev_guard
from anchorbrowser import Anchorbrowser, APIStatusError, AsyncAnchorbrowser
from predev_api import PredevAPI

from budgetguard import Event, Guard
from budgetguard._engine.binding import binding_of
from budgetguard.integrations import anchorbrowser, predev
from budgetguard.integrations._anchor_prices import PRICED, RETRY
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import AsyncGuardTransport, GuardTransport

CREDITS = 1000
ID = "5b0b5cc2-0b0e-4b5e-9d0e-0a0a0a0a0a0a"
SHORT = {"timeout": {"max_duration": 7, "idle_timeout": 2}}
# Each spending method of Anchor Browser's SDK, with arguments that its price may depend on.
CALLS: dict[str, list[dict[str, Any]]] = {
    "sessions.create_session": [
        {},
        {"session": SHORT},
        {"session": {"timeout": {}}},
        {"session": {"timeout": {"max_duration": 2879}}},
        {"session": SHORT, "extra_body": {"session": {"timeout": {"max_duration": 90}}}},
        {"extra_body": {"session": None}},
        {"browser": {"headless": {"active": True}}},
    ],
    "sessions.create_session_async": [{}, {"session": SHORT}],
    "batch_sessions.create_batch_session": [
        {"count": 3},
        {"count": 3000, "configuration": {"session": SHORT}},
        {"count": 1, "extra_body": {"count": 5}},
    ],
    RETRY: [{"batch_id": ID}, {"batch_id": ID, "max_retries": 2}],
    "tools.perform_web_task": [
        {"prompt": "BalanceSnapshot"},
        {"prompt": "BalanceSnapshot", "max_steps": 3},
        {"prompt": "BalanceSnapshot", "max_steps": 0},
        {"prompt": "BalanceSnapshot", "session_id": "s"},
        {"prompt": "BalanceSnapshot", "session_id": "s", "max_steps": 3},
        {
            "prompt": "BalanceSnapshot",
            "extra_query": {"sessionId": "s"},
            "extra_body": {"max_steps": 5},
        },
        {"prompt": "BalanceSnapshot", "session_id": "", "async_": True},
    ],
    "tools.fetch_webpage": [{"url": "https://example.com"}],
    "tools.screenshot_webpage": [{}, {"url": "https://example.com", "session_id": "s"}],
    "tools.create_page_pdf": [{"url": "https://example.com"}],
    "tasks.run_task": [
        {"task_id": "t", "input_params": {}},
        {"task_id": "t", "input_params": {"max_steps": 1}, "session_id": "s"},
    ],
    "tasks.generate_task": [{"task_name": "a", "task_prompt": "b"}],
    "tasks_legacy.run_adhoc_task": [{"task_id": ID}, {"task_id": ID, "async_": True}],
    "tasks_legacy.run_task_by_name": [{"task_name": "a"}],
}
# What nobody can say the cost of.
UNPRICED: list[tuple[str, dict[str, Any]]] = [
    ("sessions.create_session", {"session": {"timeout": {"max_duration": -1}}}),
    ("sessions.create_session_async", {"session": {"timeout": {"max_duration": "20"}}}),
    ("sessions.create_session", {"session": {"timeout": {"max_duration": True}}}),
    ("batch_sessions.create_batch_session", {"count": -3}),
    (
        "batch_sessions.create_batch_session",
        {"count": 1, "configuration": {"session": {"timeout": {"max_duration": -1}}}},
    ),
    (RETRY, {"batch_id": "of-somebody-else"}),
    ("tools.perform_web_task", {"prompt": "BalanceSnapshot", "max_steps": "many"}),
]
KINDS = [(path, how) for path, each in CALLS.items() for how in each]


async def got(result: Any) -> Any:
    """Await what the async client returns; the plain one has it already."""
    return await result if inspect.isawaitable(result) else result


def method(client: Any, path: str) -> Callable[..., Any]:
    """The method at that path."""
    part, name = path.split(".")
    return getattr(getattr(client, part), name)  # type: ignore[no-any-return]


class Admitted:
    """Collects what each call was let in with."""

    def __init__(self) -> None:
        self.credits: list[Any] = []

    def __call__(self, event: Event) -> None:
        """Note an admission."""
        if event.kind == "admitted":
            self.credits.append(event.credits)


@pytest.fixture(
    params=[
        ("asyncio", Anchorbrowser),
        ("asyncio", AsyncAnchorbrowser),
        ("trio", AsyncAnchorbrowser),
    ],
    ids=["plain", "asyncio", "trio"],
)
def way(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """Give an event loop and a client; the plain one does not care for which."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def anyio_backend(way: tuple[str, Any]) -> str:
    """Run the test on that loop."""
    return way[0]


@pytest.fixture
async def connect(way: tuple[str, Any]) -> AsyncIterator[Callable[..., Any]]:
    """Make clients that are guarded in front or below."""
    async with AsyncExitStack() as stack:

        async def connect(guard: Guard, where: str) -> Any:
            options: dict[str, Any] = {
                "api_key": Sandbox.anchor_key,
                "base_url": guard.provider.base_url,
            }
            if where == "below" and way[1] is Anchorbrowser:
                options["http_client"] = httpx.Client(transport=GuardTransport(guard))
            elif where == "below":
                options["http_client"] = httpx.AsyncClient(transport=AsyncGuardTransport(guard))
            client = way[1](**options)
            if way[1] is Anchorbrowser:
                stack.enter_context(client)
            else:
                await stack.enter_async_context(client)
            return client if where == "below" else anchorbrowser.guarded(client, guard)

        yield connect


def test_there_is_a_call_of_each_method() -> None:
    """A method that is priced in front is tried below; the SDK's others are told in the neighbour."""
    assert CALLS.keys() == PRICED.keys()


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "how"), KINDS, ids=lambda it: it if isinstance(it, str) else "")
async def test_anchor_browsers_calls_cost_the_same(
    open_sandbox: OpenSandbox, connect: Callable[..., Any], path: str, how: dict[str, Any]
) -> None:
    """What is held, and what is left after the reply, is the same in front and below."""
    batch = {"data": {"batch_id": ID, "status": "pending", "total_requests": 3}}
    told = []
    for where in ("in front", "below"):
        sandbox = open_sandbox(CREDITS)
        sandbox.fault("/v1/batch-sessions*", body=batch)
        sandbox.fault("*", method="POST", body={"data": {}})
        admitted = Admitted()
        guard = anchor_guard(sandbox, on_event=admitted)
        client = await connect(guard, where)
        if path == RETRY:
            await got(client.batch_sessions.create_batch_session(count=3))
        await got(method(client, path)(**how))
        told.append((admitted.credits, guard.available))
    assert told[0] == told[1]
    assert told[0][0][-1] > 0


@pytest.mark.anyio
@pytest.mark.parametrize("path", sorted(CALLS))
async def test_anchor_browsers_calls_are_refused_alike(
    open_sandbox: OpenSandbox, connect: Callable[..., Any], path: str
) -> None:
    """Without credits nothing is sent by a client whose transport is guarded, either."""
    sandbox = open_sandbox(0)
    client = await connect(anchor_guard(sandbox), "below")
    with pytest.raises(APIStatusError) as refused:
        await got(method(client, path)(**CALLS[path][0]))
    assert refused.value.status_code == (400 if path == RETRY else 402)
    assert {method for method, _ in sandbox.requests} <= {"GET"}


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "how"), UNPRICED, ids=str)
async def test_what_nobody_can_price_is_not_sent(
    open_sandbox: OpenSandbox, connect: Callable[..., Any], path: str, how: dict[str, Any]
) -> None:
    """In front that is a ValueError, below a refusal; both say how to name a price."""
    sandbox = open_sandbox(CREDITS)
    words = "is not known: set it with costs= .* or with prices="
    in_front = await connect(anchor_guard(sandbox), "in front")
    with pytest.raises(ValueError, match=words):
        await got(method(in_front, path)(**how))
    below = await connect(anchor_guard(sandbox), "below")
    with pytest.raises(APIStatusError, match=words) as refused:
        await got(method(below, path)(**how))
    assert refused.value.status_code == 400
    assert not any(method == "POST" for method, _ in sandbox.requests)


class NoBrowser:
    """Stands where the SDK connects Playwright to a browser, of which the sandbox has none."""

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["browser.create", "agent.task", "agent.browser_task"])
async def test_anchor_browsers_helpers_cost_the_same(
    open_sandbox: OpenSandbox,
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    way: tuple[str, Any],
    name: str,
) -> None:
    """Methods that call others inside are held for what those cost, each of them once."""
    if name == "agent.browser_task" and way[0] == "trio":
        pytest.skip("the SDK starts a task of asyncio")
    if name == "agent.task":
        monkeypatch.setattr("anchorbrowser.resources.agent_helpers.BrowserSetup", NoBrowser)
    told = []
    for where in ("in front", "below"):
        sandbox = open_sandbox(CREDITS)
        sandbox.fault("/v1/tools/perform-web-task", body={"data": {"result": {"answer": 42}}})
        admitted = Admitted()
        client = await connect(anchor_guard(sandbox, on_event=admitted), where)
        started = await got(
            method(client, name)(*([] if name == "browser.create" else ["BalanceSnapshot"]))
        )
        if name == "agent.browser_task":
            task = started["task_result_task"]
            await task if way[1] is AsyncAnchorbrowser else task.result(30)
        told.append(admitted.credits)
    assert told[0] == told[1]
    assert len(told[0]) == (1 if name == "browser.create" else 2)


@pytest.mark.anyio
async def test_a_transport_remembers_what_a_batch_cost(
    open_sandbox: OpenSandbox, connect: Callable[..., Any]
) -> None:
    """Of several batches the retry costs what its own did; a batch that was refused is none."""
    sandbox = open_sandbox(10)
    admitted = Admitted()
    guard = anchor_guard(sandbox, on_event=admitted)
    client = await connect(guard, "below")
    batches = client.batch_sessions
    for number, count in ((1, 2), (2, 7)):
        body = {"data": {"batch_id": ID[:-1] + str(number), "total_requests": count}}
        sandbox.fault("/v1/batch-sessions", times=1, body=body)
        await got(batches.create_batch_session(count=count))
    sandbox.fault("/v1/batch-sessions", times=1, status=429)
    with pytest.raises(APIStatusError):
        await got(batches.create_batch_session(count=4))
    sandbox.fault("/v1/batch-sessions/*", body={"data": {}})
    for number in (1, 2):
        await got(batches.retry_batch_session(ID[:-1] + str(number)))
    first, second, _, *retries = admitted.credits
    assert retries == [first, second]
    assert binding_of(guard).account.ledger.kept.total == 4 * 27_500 + 14 * 27_500


# pre.dev, whose SDK goes by `requests`: what it sends is handed to a guarded client of httpx.


class Bridge:
    """Stands where pre.dev's SDK has `requests`, and sends by a client of httpx."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(requests, name)

    def post(self, url: str, *, stream: bool = False, timeout: float, **options: Any) -> Any:
        """What the SDK would have sent."""
        del stream
        sent = requests.Request("POST", url, **options).prepare()
        answer = self._client.post(
            url, content=sent.body, headers=dict(sent.headers), timeout=timeout
        )
        reply = requests.Response()
        reply.status_code = answer.status_code
        reply.headers.update(answer.headers)
        reply.encoding = "utf-8"
        reply._content, reply._content_consumed = answer.content, True  # type: ignore[attr-defined]
        return reply


SPECS: list[dict[str, Any]] = [
    {"input_text": "A chess club"},
    {"input_text": "A chess club", "current_context": "None", "doc_urls": ["https://example.com"]},
    {"input_text": "A chess club", "file": None},
]
PREDEV_CALLS: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("fast_spec", "deep_spec", "fast_spec_async", "deep_spec_async"), SPECS),
    "browser_agent": [
        {"tasks": TASKS},
        {"tasks": TASKS[:1], "concurrency": 2},
        {"tasks": tuple(TASKS[:3])},
        {"tasks": TASKS, "stream": True},
        {"tasks": TASKS, "run_async": True},
    ],
}
# Methods that cost nothing: they tell of work and of the account.
PREDEV_FREE = {
    "browser_agent_status",
    "find_specs",
    "get_browser_agent",
    "get_credits_balance",
    "get_spec_status",
    "list_browser_agents",
    "list_specs",
}


def test_there_is_a_call_of_each_method_of_predev() -> None:
    """A newer SDK's method is unknown here until somebody says what it costs."""
    public = {name for name in dir(PredevAPI) if not name.startswith("_")}
    assert public == PREDEV_CALLS.keys() | PREDEV_FREE


@pytest.fixture
def below(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Guard], None]]:
    """Have the SDK's requests go by a guarded transport."""
    clients = []

    def below(guard: Guard) -> None:
        clients.append(httpx.Client(transport=GuardTransport(guard)))
        monkeypatch.setattr(predev_api.client, "requests", Bridge(clients[-1]))

    yield below
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name, each in PREDEV_CALLS.items() for how in each],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_predevs_calls_cost_the_same(
    open_sandbox: OpenSandbox,
    below: Callable[[Guard], None],
    name: str,
    how: dict[str, Any],
) -> None:
    """The hold, and what becomes of it, is the same in front and below."""
    told = []
    for where in ("in front", "below"):
        sandbox = open_sandbox(CREDITS, **AT_ONCE)
        # The sandbox reads no uploads.
        body = {"specId": "s", "status": "pending"} if "async" in name else {"creditsUsed": 3}
        if "file" in how:
            sandbox.fault("/*-spec", method="POST", body=body)
        events: list[tuple[str, Any]] = []
        guard = predev_guard(
            sandbox,
            on_event=lambda event, events=events: events.append((event.kind, event.credits)),
        )
        api: Any = PredevAPI(sandbox.predev_key, sandbox.url)
        if where == "below":
            below(guard)
        else:
            api = predev.guarded(api, guard)
        upload = {"file": BytesIO(b"A chess club.")} if "file" in how else {}
        result = getattr(api, name)(**{**how, **upload})
        if how.get("stream"):
            assert [*result][-1]["event"] == "done"
        # Below nobody follows what goes on behind a reply, in front somebody does.
        told.append([each for each in events if each[0] in {"admitted", "settled"}])
        sandbox.clear_faults()
    assert told[0] == told[1]
    assert told[0][0][1] > 0
