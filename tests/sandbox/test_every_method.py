"""Every method of both SDKs that spends is served, and charged what the sandbox's price list says."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from anchorbrowser import Anchorbrowser
from predev_api import PredevAPI

from budgetguard._core.amounts import cost, to_credits
from budgetguard.integrations._anchor_prices import PRICED, RETRY
from budgetguard.integrations.predev import _COSTS as PREDEV_PRICED
from budgetguard.providers.billing import Unpriced
from budgetguard.testing.sandbox import (
    AI_STEP,
    BROWSER_CREATED,
    BROWSER_MINUTE,
    DEEP_SPEC,
    FAST_SPEC,
    PROXY_MB,
    TASK_FLOOR,
    Sandbox,
)

CREDITS = 1000
URL = "https://example.com"
ID = "5b0b5cc2-0b0e-4b5e-9d0e-0a0a0a0a0a0a"

# The price list. A session that nobody deletes lives for 20 minutes.
SESSION = BROWSER_CREATED + 20 * BROWSER_MINUTE
PAGE = BROWSER_CREATED + BROWSER_MINUTE
FETCHED = {PAGE + megabytes * PROXY_MB for megabytes in range(1, 11)}


def task(*steps: int, own_browser: bool = True) -> set[Decimal]:
    """What tasks of so many steps cost; six steps are a minute of their browser."""
    browser = {
        n: BROWSER_CREATED + -(-n // 6) * BROWSER_MINUTE if own_browser else 0 for n in steps
    }
    return {n * AI_STEP + browser[n] for n in steps}


TASK = task(*range(3, 31))

# Each spending method with arguments, and what it may be charged.
ANCHOR: list[tuple[str, dict[str, Any], set[Decimal]]] = [
    ("sessions.create_session", {}, {SESSION}),
    (
        "sessions.create_session",
        {"session": {"timeout": {"max_duration": 3}}},
        {BROWSER_CREATED + 3 * BROWSER_MINUTE},
    ),
    ("sessions.create_session_async", {}, {SESSION}),
    ("batch_sessions.create_batch_session", {"count": 3}, {3 * SESSION}),
    ("tools.perform_web_task", {"prompt": "BalanceSnapshot"}, TASK),
    ("tools.perform_web_task", {"prompt": "BalanceSnapshot", "max_steps": 2}, task(2)),
    ("tools.perform_web_task", {"prompt": "BalanceSnapshot", "async_": True}, TASK),
    ("tools.fetch_webpage", {"url": URL}, FETCHED),
    ("tools.screenshot_webpage", {"url": URL}, {PAGE}),
    ("tools.create_page_pdf", {"url": URL}, {PAGE}),
    ("tasks.run_task", {"task_id": ID, "input_params": {}}, TASK),
    ("tasks.generate_task", {"task_name": "orders", "task_prompt": "List all orders."}, TASK),
    ("tasks_legacy.run_adhoc_task", {"task_id": ID}, TASK),
    ("tasks_legacy.run_adhoc_task", {"task_id": ID, "async_": True}, TASK),
    ("tasks_legacy.run_task_by_name", {"task_name": "orders"}, TASK),
]
FAST = {Decimal(n) for n in range(FAST_SPEC.credits[0], FAST_SPEC.credits[1] + 1)}
DEEP = {Decimal(n) for n in range(DEEP_SPEC.credits[0], DEEP_SPEC.credits[1] + 1)}
PROMPT = {"input_text": "A chess club", "current_context": "None", "doc_urls": [URL, URL]}
# Two tasks: the floor for each, and up to 0.4 credits more.
TASKS = {Decimal(2 * TASK_FLOOR).scaleb(-6) + Decimal(n) / 10 for n in range(9)}
PREDEV: list[tuple[str, dict[str, Any], set[Decimal]]] = [
    ("fast_spec", PROMPT, FAST),
    ("deep_spec", PROMPT, DEEP),
    ("fast_spec_async", PROMPT, FAST),
    ("deep_spec_async", PROMPT, DEEP),
    *(
        (name, {**PROMPT, "file": b"A chess club."}, FAST)
        for name in ("fast_spec", "fast_spec_async")
    ),
    *(
        (name, {**PROMPT, "file": b"A chess club."}, DEEP)
        for name in ("deep_spec", "deep_spec_async")
    ),
    ("browser_agent", {"tasks": [{"url": URL}] * 2}, TASKS),
    ("browser_agent", {"tasks": [{"url": URL}] * 2, "stream": True}, TASKS),
    ("browser_agent", {"tasks": [{"url": URL}] * 2, "run_async": True}, TASKS),
]


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the SDKs from a proxy that this machine may have."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a sandbox in which everything is done within milliseconds."""
    with Sandbox(credits=CREDITS, speed=1e6) as sandbox:
        yield sandbox


@pytest.fixture
def api(sandbox: Sandbox) -> Iterator[Anchorbrowser]:
    """Give Anchor Browser's client, which checks each reply against its own models."""
    key, url = sandbox.anchor_key, sandbox.url
    with Anchorbrowser(api_key=key, base_url=url, _strict_response_validation=True) as api:
        yield api


@pytest.fixture
def manual_api(manual: Sandbox) -> Iterator[Anchorbrowser]:
    """Give that client for a sandbox whose time moves by hand."""
    key, url = manual.anchor_key, manual.url
    with Anchorbrowser(api_key=key, base_url=url, _strict_response_validation=True) as api:
        yield api


def method(client: Any, path: str) -> Callable[..., Any]:
    """The method at that path."""
    for name in path.split("."):
        client = getattr(client, name)
    return client  # type: ignore[no-any-return]


def test_every_method_that_is_priced_is_here() -> None:
    """A method of a newer SDK that is priced in front of it has to be served here as well."""
    assert {path for path, _, _ in ANCHOR} | {RETRY} == PRICED.keys()
    assert {name for name, _, _ in PREDEV} == PREDEV_PRICED.keys()


@pytest.mark.parametrize(
    ("path", "how", "prices"), ANCHOR, ids=lambda it: it if isinstance(it, str) else ""
)
def test_anchor_browser_charges(
    sandbox: Sandbox, api: Anchorbrowser, path: str, how: dict[str, Any], prices: set[Decimal]
) -> None:
    """The account is charged by the price list, and no more than is held for the call."""
    assert method(api, path)(**how) is not None
    assert sandbox.wait_until(lambda: bool(sandbox.anchor.used) and sandbox.anchor.running == 0)
    assert sandbox.anchor.charged in prices
    assert sandbox.anchor.balance == CREDITS - sandbox.anchor.charged
    with suppress(Unpriced):
        held = to_credits(cost(PRICED[path].most(**how).credits, "it"))
        assert sandbox.anchor.charged <= held


def test_a_retry_charges(manual: Sandbox, manual_api: Anchorbrowser) -> None:
    """Sessions of a batch that are over start once more, and are charged once more."""
    batches = manual_api.batch_sessions
    batch = batches.create_batch_session(count=2).data
    assert batch is not None
    manual.advance(3600)
    assert manual.anchor.charged == 2 * SESSION
    retried = batches.retry_batch_session(str(batch.batch_id), retry_failed_only=False).data
    assert retried is not None
    assert (retried.retried_sessions, retried.status) == (2, "processing")
    manual.advance(3600)
    assert manual.anchor.charged == 4 * SESSION


@pytest.mark.parametrize(
    ("name", "how", "prices"), PREDEV, ids=lambda it: it if isinstance(it, str) else ""
)
def test_predev_charges(
    sandbox: Sandbox, name: str, how: dict[str, Any], prices: set[Decimal]
) -> None:
    """The account is charged by the price list."""
    if "file" in how:
        how = {**how, "file": BytesIO(how["file"])}
    reply = getattr(PredevAPI(sandbox.predev_key, sandbox.url), name)(**how)
    if how.get("stream"):
        reply = [*reply]
    assert reply
    assert sandbox.wait_until(
        lambda: bool(sandbox.predev.operations) and sandbox.predev.running == 0
    )
    assert sandbox.predev.charged in prices
    assert sandbox.predev.balance == CREDITS - sandbox.predev.charged


def test_an_upload_is_read(sandbox: Sandbox) -> None:
    """A spec with a file has the prompt of the form and the file's name."""
    api: Any = PredevAPI(sandbox.predev_key, sandbox.url)
    spec = api.fast_spec("Ein Café\r\nim Park", file=BytesIO(b"\x00\xff\r\n--x\r\n"))
    assert (spec["input"], spec["uploadedFileName"]) == ("Ein Café\r\nim Park", "upload.txt")
    submitted = api.deep_spec_async("A shop", file=BytesIO(b"?"))
    assert submitted["status"] == "pending"
    listed = api.list_specs()
    assert (listed["total"], listed["hasMore"]) == (2, False)


def test_predev_lists(manual: Sandbox) -> None:
    """Lists are filtered and paged, the newest first, and cost nothing."""
    api: Any = PredevAPI(manual.predev_key, manual.url)
    for prompt in ("A shop", "A chess club", "Another shop"):
        api.fast_spec_async(prompt)
    api.deep_spec_async("A bank")
    assert [spec["input"] for spec in api.list_specs()["specs"]] == [
        "A bank",
        "Another shop",
        "A chess club",
        "A shop",
    ]
    page = api.list_specs(limit=1, skip=1)
    assert (page["specs"][0]["input"], page["total"], page["hasMore"]) == ("Another shop", 4, True)
    assert api.list_specs(endpoint="deep_spec")["total"] == 1
    assert api.find_specs("SHOP$")["total"] == 2
    assert api.find_specs("^a", status="completed")["total"] == 0
    for wrong in ({"query": "("}, {"query": "a", "limit": 0}):
        with pytest.raises(Exception, match="400"):
            api.find_specs(**wrong)
    stub = api.browser_agent([{"url": URL}] * 3, concurrency=2, run_async=True)
    queue = api.browser_agent_status()
    assert [queue[name] for name in ("running", "pending", "total", "cap")] == [2, 1, 3, 1000]
    assert api.list_browser_agents(status="completed")["batches"] == []
    assert api.list_browser_agents(limit=5)["batches"][0]["id"] == stub["id"]
    manual.advance(3600)
    assert api.browser_agent_status()["total"] == 0
    plain, eventful = (api.get_browser_agent(stub["id"], each) for each in (False, True))
    assert "events" not in plain["results"][0]
    assert eventful["results"][0]["events"][0]["url"] == URL
    assert api.list_browser_agents()["batches"] == [plain]


def test_anchor_browsers_free_methods(manual: Sandbox, manual_api: Anchorbrowser) -> None:
    """Methods around a session are answered in the SDK's shapes, and cost nothing."""
    api, tags = manual_api, {"session": {"tags": ["a", "b"]}}
    session: Any = api.sessions.create_session(**tags).data  # type: ignore[arg-type]
    charged = manual.anchor.charged
    assert api.sessions.goto(session.id, url=URL).status == "success"
    assert api.sessions.get_session_screenshot(session.id).read().startswith(b"\x89PNG")
    png = api.tools.screenshot_webpage(session_id=session.id)
    pdf = api.tools.create_page_pdf(url=URL, session_id=session.id)
    assert (png.read()[:4], pdf.read()[:5]) == (b"\x89PNG", b"%PDF-")
    statuses: Any = api.sessions.get_all_sessions_status(tags="a").data
    assert [(each.session_id, each.status) for each in statuses.items] == [(session.id, "running")]
    assert api.sessions.get_all_sessions_status(tags="c").data.count == 0  # type: ignore[union-attr]
    usage: Any = api.sessions.get_sessions_history()
    assert Decimal(str(usage.summary.total_credits_used)) == charged == manual.anchor.charged


def test_a_session_that_starts_after_the_reply(manual: Sandbox, manual_api: Anchorbrowser) -> None:
    """It is reserved at once and charged when it starts; then it is a session like any other."""
    sessions = manual_api.sessions
    request: Any = sessions.create_session_async().data
    waiting: Any = sessions.get_async_session_status(str(request.request_id)).data
    assert (waiting.status, waiting.session, manual.anchor.charged) == ("pending", None, 0)
    manual.advance(5)
    ready: Any = sessions.get_async_session_status(str(request.request_id)).data
    assert (ready.status, manual.anchor.charged) == ("ready", PAGE)
    assert isinstance(ready.session.session_id, UUID)
    sessions.delete_session(str(ready.session.session_id))
    assert manual.anchor.running == 0


def test_a_batch_ends(manual: Sandbox, manual_api: Anchorbrowser) -> None:
    """A batch that is cancelled starts nothing, one that is deleted ends what runs."""
    batches = manual_api.batch_sessions
    first: Any = batches.create_batch_session(count=2).data
    batches.update_batch_session(str(first.batch_id), status="cancelled")
    manual.advance(60)
    seen: Any = batches.get_batch_session(str(first.batch_id)).data
    assert (seen.status, manual.anchor.charged) == ("cancelled", 0)
    second: Any = batches.create_batch_session(count=5).data
    manual.advance(5)
    assert manual.anchor.running == 5
    deleted: Any = batches.delete_batch_session(str(second.batch_id)).data
    assert (deleted.deleted_sessions, deleted.failed_deletions) == (5, 0)
    assert (manual.anchor.running, manual.anchor.charged) == (0, 5 * PAGE)
    listed: Any = batches.list_batch_sessions(status="completed").data
    assert [each.batch_id for each in listed.batches] == [second.batch_id]


def test_a_batch_that_cannot_be_paid(client: Callable[..., Any]) -> None:
    """It is refused at once, or its sessions fail when they start, and can be tried again."""
    with Sandbox(credits="0.05", clock="manual", max_concurrent_browsers=8) as sandbox:
        http = client(sandbox, checked=False)
        counts = [(9, 429), (5, 402), (0, 400), (1001, 400), ("2", 400)]
        for count, status in counts:
            assert http.post("/v1/batch-sessions", json={"count": count}).status_code == status
        id = http.post("/v1/batch-sessions", json={"count": 3}).json()["data"]["batch_id"]
        sandbox.anchor.spend("0.03")
        sandbox.advance(5)
        batch = http.get(f"/v1/batch-sessions/{id}").json()["data"]
        assert (batch["completed_requests"], batch["failed_requests"]) == (1, 2)
        assert http.post(f"/v1/batch-sessions/{id}/retry").status_code == 402
        sandbox.anchor.top_up(1)
        assert http.post(f"/v1/batch-sessions/{id}/retry").json()["data"]["retried_sessions"] == 2
        sandbox.advance(5)
        assert sandbox.anchor.running == 3
        assert http.get("/v1/batch-sessions/none").status_code == 404


def test_tasks_are_followed_to_their_end(manual: Sandbox, manual_api: Anchorbrowser) -> None:
    """Each kind of task reports that it is running, then its result."""
    api: Any = manual_api
    workflow = api.tools.perform_web_task(prompt="Count", async_=True).data.workflow_id
    run = api.tasks.run_task(ID, input_params={})
    generated = api.tasks.generate_task(task_name="orders", task_prompt="List all orders.")
    ran = api.tasks_legacy.run_adhoc_task(task_id=ID, async_=True).data
    execution = str(ran.execution_result_id)
    manual.advance(10)
    assert api.tools.get_perform_web_task_status(workflow).data.status == "RUNNING"
    assert (run.status, api.tasks.get_task_run_status(run.run_id).status) == ("queued", "running")
    assert api.tasks.get_task_generation_status(generated.id).status == "generating"
    assert api.tasks_legacy.get_task_execution(ID, execution).data.status == "running"
    manual.advance(300)
    assert api.tools.get_perform_web_task_status(workflow).data.result["answer"]
    assert api.tasks.get_task_run_status(run.run_id).result["answer"]
    assert api.tasks.get_task_generation_status(generated.id).status == "ready"
    [listed] = api.tasks_legacy.list_task_executions(ID).data.results
    assert (str(listed.id), listed.status) == (execution, "success")
    assert manual.anchor.finished == 4


def test_a_task_in_a_session(manual: Sandbox, manual_api: Anchorbrowser) -> None:
    """A task in a session opens no browser; a session that has ended cannot be used."""
    session: Any = manual_api.sessions.create_session().data
    manual_api.tools.perform_web_task(prompt="Count", session_id=session.id, async_=True)
    manual.advance(59)
    manual_api.sessions.delete_session(session.id)
    manual.advance(300)
    steps = task(*range(3, 31), own_browser=False)
    assert manual.anchor.charged - PAGE in steps
    with pytest.raises(Exception, match="404"):
        manual_api.tools.perform_web_task(prompt="Count", session_id=session.id)


def test_the_agent_helper(manual: Sandbox, manual_api: Anchorbrowser) -> None:
    """The SDK's helper creates a session, opens a page in it and performs a task there."""
    started: Any = manual_api.agent.browser_task("Count", task_options={"url": URL})
    assert manual.wait_until(lambda: manual.anchor.running == 2)
    manual.advance(300)
    assert started["task_result_task"].result(30).data.result["answer"]
    assert manual.requests["POST", "/v1/sessions/{session_id}/goto"] == 1


def test_tasks_that_cannot_be_paid(client: Callable[..., Any]) -> None:
    """A task is refused without credits for its start, and ends at the step that it cannot pay."""
    with Sandbox(credits="0.04", speed=1e6) as sandbox:
        http = client(sandbox, checked=False)
        died = http.post("/v1/tools/perform-web-task", json={"prompt": "Count"})
        assert (died.status_code, died.json()["error"]["code"]) == (500, 500)
        assert sandbox.anchor.wasted == sandbox.anchor.charged > 0
        for path, body in (
            ("/v1/tools/perform-web-task", {"prompt": "Count"}),
            ("/v1/tools/fetch/webpage", {"url": URL}),
            ("/v2/tasks/generate", {"taskName": "a", "taskPrompt": "b"}),
        ):
            assert http.post(path, json=body).status_code == 402
    with Sandbox(credits="0.04", speed=1e6) as sandbox:
        http = client(sandbox, checked=False)
        ran = http.post("/v1/task/run", json={"taskId": ID}).json()["data"]
        assert (ran["success"], bool(ran["error"])) == (False, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tools/perform-web-task", {}),
        ("/v1/tools/perform-web-task", {"prompt": "Count", "max_steps": 0}),
        ("/v1/tools/fetch/webpage", {"url": 3}),
        ("/v1/tools/screenshot", {}),
        ("/v2/tasks/x/run", {"input_params": 3}),
        ("/v2/tasks/generate", {"taskName": "a"}),
        ("/v1/task/run", {"taskId": "a"}),
        ("/v1/batch-sessions", {"count": 1, "configuration": 3}),
    ],
)
def test_invalid_requests(
    client: Callable[..., Any], manual: Sandbox, path: str, body: dict[str, Any]
) -> None:
    """They are a 400, and nothing is charged."""
    reply = client(manual, checked=False).post(path, json=body)
    assert reply.status_code == 400
    assert manual.anchor.used == 0
