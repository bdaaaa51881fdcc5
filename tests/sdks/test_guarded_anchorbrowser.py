"""Anchor Browser's SDK behind `guarded()`, plain and async, against the sandbox."""

import gc
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

import anyio
import httpx
import pytest
from accounts import Elapse, OpenSandbox, Outcomes, anchor_guard
from anchorbrowser import (
    Anchorbrowser,
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncAnchorbrowser,
    NotFoundError,
)

from budgetguard import AnchorBrowser, ConcurrencyLimit, Guard, InsufficientCredits, PreDev
from budgetguard._core.activation import ACTIVATION
from budgetguard._core.events import Event
from budgetguard._engine.binding import binding_of
from budgetguard.integrations._anchor_prices import PRICED
from budgetguard.integrations.anchorbrowser import guarded
from budgetguard.providers.anchorbrowser.billing import FETCH, PAGE
from budgetguard.testing import FakeProvider
from budgetguard.testing.sandbox import BROWSER_CREATED, BROWSER_MINUTE, Sandbox

# Under trio httpx leaves its request's body half read when a connection breaks or is cancelled.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")

Connect = Callable[..., Any]
Begin = Callable[..., tuple[Sandbox, Guard, Any]]

CLEAR = AnchorBrowser.linger + AnchorBrowser.lag
SESSION = AnchorBrowser.BROWSER + AnchorBrowser.BROWSER_HOUR * 21 / 60
TASK = AnchorBrowser.AI_STEP * 200
ID = "5b0b5cc2-0b0e-4b5e-9d0e-0a0a0a0a0a0a"
WHEN = "2026-11-01T00:00:00Z"


def running(guard: Guard) -> int:
    """How many calls run, once all finished ones are charged."""
    account = binding_of(guard).account
    account.flush()
    return account.ledger.running


def within(part: str, names: str) -> set[str]:
    """Give the paths of some methods of a part."""
    return {f"{part}.{name}" for name in names.split()}


# Everything public that costs nothing by itself, and why it may pass.
FREE = {
    # Calls priced methods of the guarded client.
    "agent.task",
    "agent.browser_task",
    "browser.create",
    # Speaks with a session that is held already.
    "browser.connect",
    "tools.execute_code",
    *within(
        "agent",
        "get_requested_human_intervention list_agent_files list_pending_interventions"
        " pause_agent respond_to_human_intervention resume_agent upload_agent_files",
    ),
    *within(
        "sessions",
        "copy delete_all_sessions delete_session drag_and_drop get_all_sessions_status"
        " get_async_session_status get_clipboard get_session get_session_downloads"
        " get_session_pages get_session_screenshot get_sessions_history goto"
        " keyboard_shortcut keyboard_type list_sessions mouse_click mouse_double_click"
        " mouse_down mouse_move mouse_up paste scroll set_clipboard upload_file",
    ),
    # Reports on, or concludes, work that was priced when it began.
    "batch_sessions.delete_batch_session",
    "batch_sessions.get_batch_session",
    "batch_sessions.list_batch_sessions",
    "batch_sessions.update_batch_session",
    "tasks.get_task_generation_status",
    "tasks.get_task_run_status",
    "tools.get_perform_web_task_status",
    # Keeps records.
    "billing.get_billing",
    *within(
        "applications",
        "create_application create_auth_flow create_identity_token delete_application"
        " delete_auth_flow get_application list_application_identities list_applications"
        " list_auth_flows update_auth_flow",
    ),
    *(f"certificates.{verb}_certificate" for verb in ("create", "delete")),
    "certificates.list_certificates",
    "events.signal_event",
    "events.wait_for_event",
    *(f"extensions.{verb}_extension" for verb in ("delete", "get", "upload")),
    "extensions.list_extensions",
    *(f"identities.{verb}_identity" for verb in ("create", "delete", "get", "update")),
    *(f"integrations.{verb}_integration" for verb in ("create", "delete")),
    "integrations.list_integrations",
    *(f"profiles.{verb}_profile" for verb in ("create", "delete", "get")),
    "profiles.list_profiles",
    *within(
        "recordings",
        "delete_recording fetch_primary_recording list_recordings pause_recording resume_recording",
    ),
    *within(
        "tasks_legacy",
        "create_task delete_task delete_task_version deploy_task get_latest_task_version"
        " get_task get_task_draft get_task_execution get_task_version list_task_executions"
        " list_task_versions list_tasks publish_task_version save_task_draft update_task",
    ),
    *within(
        "webhooks",
        "create_webhook delete_webhook get_webhook list_webhook_events list_webhooks"
        " rotate_webhook_secret send_webhook_test_event update_webhook",
    ),
    # The client's own: views of it, and requests that somebody writes by hand, which are not guarded.
    "close",
    "copy",
    "delete",
    "get",
    "get_api_list",
    "is_closed",
    "patch",
    "platform_headers",
    "post",
    "put",
    "request",
    "with_options",
}


async def got(result: Any) -> Any:
    """Await what the async client returns; the plain one has it already."""
    return await result if inspect.isawaitable(result) else result


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
async def connect(way: tuple[str, Any]) -> AsyncIterator[Connect]:
    """Make clients of that kind, for a sandbox or another address; they are closed after the test."""
    clients = []

    def connect(url: str, guard: Guard, costs: Any = None, **options: Any) -> Any:
        client = way[1](api_key=Sandbox.anchor_key, base_url=url, **options)
        clients.append(client)
        return guarded(client, guard, costs=costs)

    yield connect
    for client in clients:
        await got(client.close())


@pytest.fixture
def begin(open_sandbox: OpenSandbox, connect: Connect) -> Begin:
    """Open a sandbox; give it with a guard of its project, and a client of that kind behind it."""

    def begin(
        credits: float | str,
        on_event: Outcomes | None = None,
        sole_spender: Any = "auto",
        **options: Any,
    ) -> tuple[Sandbox, Guard, Any]:
        sandbox = open_sandbox(credits, **options)
        guard = anchor_guard(sandbox, on_event=on_event, sole_spender=sole_spender)
        return sandbox, guard, connect(sandbox.url, guard)

    return begin


def check_ledger(sandbox: Sandbox, guard: Guard, elapse: Elapse) -> None:
    """Compare the guard's ledger with the provider's records: no hold is open, and nothing was promised twice."""
    assert running(guard) == 0
    assert guard.available is not None
    assert guard.available <= sandbox.anchor.balance
    assert sandbox.anchor.died == 0
    assert sandbox.anchor.lowest_balance >= 0
    elapse(sandbox, CLEAR)
    guard.balance(max_age=0)
    assert guard.available == sandbox.anchor.balance


def public(thing: Any) -> set[str]:
    """Name the public methods."""
    names = {name for name in dir(type(thing)) if not name.startswith("_")}
    return {name for name in names if callable(inspect.getattr_static(type(thing), name))}


@pytest.mark.parametrize("kind", [Anchorbrowser, AsyncAnchorbrowser])
def test_every_method_of_the_sdk_is_known(kind: type[Any]) -> None:
    """An SDK's newer version cannot bring a method that spends and that nobody has priced."""
    client = kind(api_key="key")
    found = public(client)
    for part in {name for name in dir(type(client)) if not name.startswith("_")}:
        resource = getattr(client, part)
        if type(resource).__module__.startswith("anchorbrowser.resources"):
            found |= {f"{part}.{name}" for name in public(resource)}
    assert found == PRICED.keys() | FREE
    assert not PRICED.keys() & FREE


@pytest.mark.anyio
@pytest.mark.parametrize("path", sorted(PRICED))
async def test_every_priced_method_is_refused_unsent(
    open_sandbox: OpenSandbox, connect: Connect, path: str
) -> None:
    """Without credits nothing reaches the provider."""
    sandbox = open_sandbox(0)
    client = connect(sandbox.url, anchor_guard(sandbox), {"batch_sessions.retry_batch_session": 1})
    part, name = path.split(".")
    arguments = {
        "create_batch_session": {"count": 1},
        "retry_batch_session": {"batch_id": ID},
        "perform_web_task": {"prompt": "BalanceSnapshot"},
        "fetch_webpage": {"url": "https://example.com"},
        "create_page_pdf": {"url": "https://example.com"},
        "run_task": {"task_id": ID, "input_params": {}},
        "generate_task": {"task_name": "a", "task_prompt": "b"},
        "run_adhoc_task": {"task_id": ID},
        "run_task_by_name": {"task_name": "a"},
    }
    with pytest.raises(InsufficientCredits, match=rf"^\w+\.{part}\.{name} needs"):
        await got(getattr(getattr(client, part), name)(**arguments.get(name, {})))
    assert {method for method, _ in sandbox.requests} == {"GET"}


@pytest.mark.anyio
async def test_a_session_lives_until_it_is_deleted(begin: Begin, elapse: Elapse) -> None:
    """Its longest life and a slot are held, then what it used is counted."""
    sandbox, guard, client = begin(1, max_concurrent_browsers=1)
    created = await got(client.sessions.create_session())
    assert guard.available == 1 - SESSION
    with pytest.raises(ConcurrencyLimit):
        await got(client.sessions.create_session())
    elapse(sandbox, 150)
    assert (await got(client.sessions.get_session(created.data.id))).data.status == "running"
    assert running(guard) == 1
    await got(client.sessions.delete_session(created.data.id))
    assert guard.available == 1 - BROWSER_CREATED - 3 * BROWSER_MINUTE
    again = await got(client.sessions.create_session())
    await got(client.sessions.delete_session(session_id=again.data.id))
    assert sandbox.anchor.max_concurrency_seen == 1
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("arguments", "cost"),
    [
        ({}, SESSION),
        ({"session": {"timeout": {"max_duration": 5}}}, Decimal("0.015")),
        ({"session": {"timeout": {"idle_timeout": 1}}}, SESSION),
        ({"extra_body": {"session": {"timeout": {"max_duration": 119}}}}, Decimal("0.11")),
    ],
    ids=str,
)
async def test_what_a_session_may_cost(
    open_sandbox: OpenSandbox, connect: Connect, arguments: dict[str, Any], cost: Decimal
) -> None:
    """By its longest life, however that is sent."""
    sandbox = open_sandbox(1)
    guard = anchor_guard(sandbox)
    await got(connect(sandbox.url, guard).sessions.create_session(**arguments))
    assert guard.available == 1 - cost


@pytest.mark.anyio
async def test_a_session_at_its_longest_never_costs_more(begin: Begin, elapse: Elapse) -> None:
    """Nobody deletes these; they end by themselves and make room, credits and slot."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(
        "0.12", max_concurrent_browsers=1, on_event=outcomes, sole_spender=False
    )
    for number in range(3):
        await got(client.sessions.create_session())
        assert outcomes.kinds == ["settled"] * number
        elapse(sandbox, 60 * 20)
        elapse(sandbox, AnchorBrowser.lag)
        guard.balance(max_age=0)
    # The last one's end is detected here, too late for a balance that shows it.
    with pytest.raises(InsufficientCredits) as refused:
        await got(client.sessions.create_session())
    assert refused.value.retryable
    assert sandbox.anchor.finished == 3
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
@pytest.mark.parametrize("life", [-1, "20", True], ids=str)
async def test_a_life_without_an_end_needs_a_price(
    begin: Begin, elapse: Elapse, connect: Connect, life: Any
) -> None:
    """Until it has one nothing is sent; then the session is held until it is deleted."""
    sandbox, guard, client = begin(1, sole_spender=False)
    session = {"timeout": {"max_duration": life}}
    with pytest.raises(ValueError, match=r"max_duration=.* set it with costs="):
        await got(client.sessions.create_session(session=session))
    with pytest.raises(ValueError, match="max_duration="):
        await got(
            client.batch_sessions.create_batch_session(count=2, configuration={"session": session})
        )
    assert not any(method == "POST" for method, _ in sandbox.requests)
    if life == -1:
        client = connect(sandbox.url, guard, {"sessions.create_session": "0.5"})
        created = await got(client.sessions.create_session(session=session))
        elapse(sandbox, 3600)
        guard.balance(max_age=0)
        with pytest.raises(InsufficientCredits):
            await got(client.sessions.create_session())
        await got(client.sessions.delete_session(created.data.id))
        check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "used", [None, "N/A", -1, 0, 0.005, float("nan"), "missing", "no data", "runs on", 500, 404]
)
async def test_an_ended_session_of_unknown_cost_is_kept(
    begin: Begin, elapse: Elapse, used: Any
) -> None:
    """It is deleted nevertheless, and counts until a late enough balance."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    id = (await got(client.sessions.create_session())).data.id
    fault: dict[str, Any] = {"body": {"data": {"credits_used": used}}}
    if isinstance(used, int) and used > 0:
        fault = {"status": used}
    elif used == "runs on":
        fault = {"body": {"data": {"credits_used": 0.02, "status": "running"}}}
    elif used == "missing":
        fault = {"body": {"data": {}}}
    elif used == "no data":
        fault = {"body": {}}
    sandbox.fault("/v1/sessions/*", method="GET", **fault)
    deleted = await got(client.sessions.delete_session(id))
    assert deleted.data.status == "success"
    assert outcomes.kinds == ["kept"]
    assert guard.available == 1 - SESSION
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
async def test_its_own_questions_are_bounded(
    open_sandbox: OpenSandbox, connect: Connect, way: tuple[str, Any]
) -> None:
    """The SDK would wait for 41 days: deleting a session waits no longer for what it used."""
    asked: list[Any] = []

    def note(request: httpx.Request) -> None:
        if request.method == "GET":
            asked.append(request.extensions["timeout"]["read"])

    async def anote(request: httpx.Request) -> None:
        note(request)

    sandbox = open_sandbox(1)
    plain = way[1] is Anchorbrowser
    http: Any = (
        httpx.Client(event_hooks={"request": [note]})
        if plain
        else httpx.AsyncClient(event_hooks={"request": [anote]})
    )
    client = connect(sandbox.url, anchor_guard(sandbox), http_client=http)
    first, second = [(await got(client.sessions.create_session())).data.id for _ in range(2)]
    await got(client.sessions.delete_session(first))
    sandbox.fault("/v1/sessions/*", method="DELETE", status=409)
    with pytest.raises(APIStatusError):
        await got(client.sessions.delete_session(second))
    assert asked == [10, 10]


STREAMED = {"X-Stainless-Raw-Response": "stream"}  # what the SDK's own wrappers send
LEFT = 1 - Decimal("0.010834")  # PAGE, in whole micro-credits


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_a_page_that_is_streamed(begin: Begin, how: str) -> None:
    """Its hold is settled when it is closed; one that is dropped half-way is kept."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    sandbox.fault("/v1/tools/screenshot", body=b"\x89PNG" * 1000, content_type="image/png")
    page = await got(client.tools.screenshot_webpage(url="a", extra_headers=STREAMED))
    assert (outcomes.kinds, guard.available) == ([], LEFT)
    assert page.status_code == 200
    if how == "closed":
        await got(page.close())
    else:
        own = page.__wrapped__
        del page
        gc.collect()
        await got(own.close())
        guard.balance(max_age=0)  # takes in what a finalizer told
    assert outcomes.kinds == ["settled" if how == "closed" else "kept"]
    assert guard.available == LEFT


@pytest.mark.anyio
async def test_a_page_that_was_read(begin: Begin) -> None:
    """It can be closed as well, and nobody does: its hold has ended with the call."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    sandbox.fault("/v1/tools/screenshot", body=b"\x89PNG", content_type="image/png")
    page = await got(client.tools.screenshot_webpage(url="a"))
    assert await got(page.read()) == b"\x89PNG"
    assert outcomes.kinds == ["settled"]
    assert guard.available == LEFT


@pytest.mark.anyio
async def test_a_cost_in_words_is_read(begin: Begin) -> None:
    """The provider writes amounts as numbers and as text."""
    sandbox, guard, client = begin(1)
    id = (await got(client.sessions.create_session())).data.id
    sandbox.fault("/v1/sessions/*", method="GET", body={"data": {"credits_used": "0.0125"}})
    await got(client.sessions.delete_session(id))
    assert guard.available == 1 - Decimal("0.0125")


@pytest.mark.anyio
async def test_a_session_that_could_not_be_deleted_stays_held(begin: Begin, elapse: Elapse) -> None:
    """Not after an error of the server; one that the provider does not know is kept."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    id = (await got(client.sessions.create_session())).data.id
    for status in (500, 404):
        assert outcomes.kinds == []
        assert running(guard) == 1
        sandbox.fault("/v1/sessions/*", method="DELETE", times=1, status=status)
        with pytest.raises(APIStatusError):
            await got(client.sessions.delete_session(id))
    assert outcomes.kinds == ["kept"]
    with pytest.raises(NotFoundError):
        await got(client.sessions.delete_session("session_of_nobody"))
    await got(client.sessions.delete_session(id))
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 404, 409, 410, 422, 500])
async def test_a_session_that_ended_by_itself(begin: Begin, elapse: Elapse, status: int) -> None:
    """Its deletion is turned down, which the caller hears; its hold and slot come free."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes, max_concurrent_browsers=1)
    session = {"timeout": {"max_duration": 20, "idle_timeout": 2}}
    id = (await got(client.sessions.create_session(session=session))).data.id
    sandbox.fault("/v1/sessions/*", method="DELETE", status=status)
    elapse(sandbox, 120)
    with pytest.raises(APIStatusError) as refused:
        await got(client.sessions.delete_session(id))
    assert refused.value.status_code == status
    assert outcomes.kinds == ["settled"]
    assert guard.available == sandbox.anchor.balance
    await got(client.sessions.create_session())
    assert sandbox.anchor.running == 1


@pytest.mark.anyio
async def test_a_refused_deletion_of_what_runs(begin: Begin, elapse: Elapse) -> None:
    """No hold is concluded, however the question after it is answered."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    id = (await got(client.sessions.create_session())).data.id
    sandbox.fault("/v1/sessions/*", method="DELETE", status=422, times=4)
    for seen in ({"status": 500}, {"body": {}}, {"body": {"data": {"credits_used": 1}}}, None):
        if seen is not None:
            sandbox.fault("/v1/sessions/*", method="GET", times=1, **seen)
        with pytest.raises(APIStatusError):
            await got(client.sessions.delete_session(id))
    assert outcomes.kinds == []
    await got(client.sessions.delete_session(id))
    assert outcomes.kinds == ["settled"]
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
async def test_a_refused_deletion_of_all(begin: Begin, elapse: Elapse) -> None:
    """Of several, those are settled that ended by themselves; where nobody answers, none is."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    short = {"timeout": {"max_duration": 20, "idle_timeout": 2}}
    for session in (short, {}, short):
        await got(client.sessions.create_session(session=session))
    elapse(sandbox, 120)
    sandbox.fault("/v1/sessions/all", method="DELETE", status=409, times=2)
    sandbox.fault("/v1/sessions/*", method="GET", status=500, times=1)
    for settled, questions in ((0, 1), (2, 4)):
        with pytest.raises(APIStatusError):
            await got(client.sessions.delete_all_sessions())
        assert outcomes.kinds == ["settled"] * settled
        assert sandbox.requests["GET", "/v1/sessions/{session_id}"] == questions
    await got(client.sessions.delete_all_sessions())
    assert outcomes.kinds == ["settled"] * 3
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
async def test_all_sessions_are_ended_at_once(begin: Begin, elapse: Elapse) -> None:
    """Each is settled at its own cost."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    for _ in range(3):
        await got(client.sessions.create_session())
        elapse(sandbox, 60)
    await got(client.sessions.delete_all_sessions())
    assert outcomes.kinds == ["settled"] * 3
    assert guard.available == sandbox.anchor.balance
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
async def test_a_session_without_an_id_is_kept(open_sandbox: OpenSandbox, connect: Connect) -> None:
    """A browser may run that nobody can name."""
    sandbox = open_sandbox(1)
    sandbox.fault("/v1/sessions", method="POST", body={"data": {}})
    outcomes = Outcomes()
    guard = anchor_guard(sandbox, on_event=outcomes)
    await got(connect(sandbox.url, guard).sessions.create_session())
    assert outcomes.kinds == ["kept"]


def async_status(status: str, session: str | None = None) -> dict[str, Any]:
    """Give the body that tells of a session asked for asynchronously."""
    data = {"request_id": ID, "status": status, "created_at": WHEN}
    progress = {"current_phase": "ready" if session else "queued"}
    return {
        "data": {
            **data,
            "progress": progress,
            "session": session and {"session_id": session, "status": "completed"},
        }
    }


@pytest.mark.anyio
@pytest.mark.parametrize("last", ["ready", "failed", "cancelled"])
async def test_a_session_asked_for_asynchronously(begin: Begin, last: str) -> None:
    """Held by its request, then by its own id; kept where there never was one."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    data = {"request_id": ID, "status": "pending", "session_id": None}
    sandbox.fault("/v1/sessions/async", body={"data": data})
    session = str(UUID(int=7)) if last == "ready" else None
    for body in (async_status("processing"), async_status(last, session), async_status("pending")):
        sandbox.fault("/v1/sessions/async/*", times=1, body=body)
    sandbox.fault("/v1/sessions/*", method="DELETE", body={})
    sandbox.fault("/v1/sessions/*", method="GET", body={"data": {"credits_used": 0.02}})
    asked = await got(client.sessions.create_session_async())
    for _ in range(2):
        assert guard.available == 1 - SESSION
        assert outcomes.kinds == []
        await got(client.sessions.get_async_session_status(str(asked.data.request_id)))
    if last == "ready":
        await got(client.sessions.delete_session(str(UUID(int=7))))
        assert outcomes.kinds == ["settled"]
        assert guard.available == 1 - Decimal("0.02")
    await got(client.sessions.get_async_session_status(str(asked.data.request_id)))
    assert outcomes.kinds == ["settled" if last == "ready" else "kept"]


BATCH = {"data": {"batch_id": ID, "status": "pending", "total_requests": 4}}


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["delete", "cancel"])
async def test_a_batch_costs_as_many_sessions(begin: Begin, how: str) -> None:
    """Until it is ended; a retry may begin each of them again."""
    sandbox, guard, client = begin(2)
    sandbox.fault("/v1/batch-sessions*", body=BATCH)
    configuration = {"session": {"timeout": {"max_duration": 59}}}
    with pytest.raises(ValueError, match="was not started here"):
        await got(client.batch_sessions.retry_batch_session(ID))
    batch = await got(
        client.batch_sessions.create_batch_session(count=4, configuration=configuration)
    )
    cost = 4 * Decimal("0.06")
    assert guard.available == 2 - cost
    await got(client.batch_sessions.retry_batch_session(str(batch.data.batch_id)))
    assert guard.available == 2 - 2 * cost
    assert running(guard) == 1
    if how == "delete":
        await got(client.batch_sessions.delete_batch_session(ID))
    else:
        await got(client.batch_sessions.update_batch_session(batch_id=ID, status="cancelled"))
    assert running(guard) == 0
    assert guard.available == 2 - 2 * cost
    with pytest.raises(ValueError, match="count="):
        await got(client.batch_sessions.create_batch_session(count=-3))


@pytest.mark.anyio
async def test_a_batch_that_is_ended_in_part(begin: Begin) -> None:
    """Sessions that could not be deleted go on: it remains held until none is left."""
    sandbox, guard, client = begin(1)
    sandbox.fault("/v1/batch-sessions", body=BATCH)
    await got(client.batch_sessions.create_batch_session(count=2))
    for failed, still in ((1, 1), (0, 0)):
        body = {"data": {"deleted_sessions": 1, "failed_deletions": failed}}
        sandbox.fault("/v1/batch-sessions/*", times=1, body=body)
        await got(client.batch_sessions.delete_batch_session(ID))
        assert running(guard) == still


async def begun_batch(sandbox: Sandbox, client: Any, count: int, status: str = "completed") -> None:
    """Begin a batch, whose sessions are ordinary ones to whoever asks about them."""
    sandbox.fault("/v1/batch-sessions", body=BATCH)
    configuration = {"session": {"timeout": {"max_duration": 20}}}
    await got(client.batch_sessions.create_batch_session(count=count, configuration=configuration))
    sessions = [{"session_id": f"s{number}", "status": "completed"} for number in range(count - 1)]
    sessions.append({"status": "failed"})
    body = {"data": {"batch_id": ID, "status": status, "sessions": sessions}}
    sandbox.fault("/v1/batch-sessions/*", method="GET", body=body)


def seen(status: str, used: object) -> dict[str, object]:
    """What a session's own page says."""
    return {"data": {"status": status, "credits_used": used}}


@pytest.mark.anyio
@pytest.mark.parametrize("refused", [400, 409, 422, None])
@pytest.mark.parametrize(("used", "end"), [(0.03, "settled"), (None, "kept"), (0.001, "kept")])
async def test_a_batch_that_ended_by_itself(
    begin: Begin, refused: int | None, used: float | None, end: str
) -> None:
    """Turned down or without effect, its deletion is no reason to hold on: its sessions are over."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    await begun_batch(sandbox, client, 3)
    sandbox.fault("/v1/sessions/*", method="GET", body=seen("completed", used))
    if refused is None:
        body: dict[str, Any] = {"data": {"deleted_sessions": 0, "failed_deletions": 2}}
        sandbox.fault("/v1/batch-sessions/*", method="DELETE", body=body)
        await got(client.batch_sessions.delete_batch_session(ID))
    else:
        sandbox.fault("/v1/batch-sessions/*", method="DELETE", status=refused)
        with pytest.raises(APIStatusError):
            await got(client.batch_sessions.delete_batch_session(ID))
    assert outcomes.kinds == [end]
    if end == "settled":
        assert guard.available == 1 - 2 * Decimal("0.03")


@pytest.mark.anyio
async def test_a_refused_deletion_of_a_batch_that_runs(begin: Begin) -> None:
    """No hold is concluded, however the questions after it are answered."""
    outcomes = Outcomes()
    sandbox, _, client = begin(1, on_event=outcomes)
    await begun_batch(sandbox, client, 3)
    sandbox.fault("/v1/batch-sessions/*", method="DELETE", status=409)
    for answer in (
        {"body": seen("running", 1)},
        {"body": {}},
        {"status": 500},
        {"status": 404},
    ):
        sandbox.fault("/v1/sessions/*", method="GET", times=1, **answer)
        with pytest.raises(APIStatusError):
            await got(client.batch_sessions.delete_batch_session(ID))
    assert outcomes.kinds == []


@pytest.mark.anyio
@pytest.mark.parametrize("status", ["completed", "processing"])
async def test_a_batch_lives_no_longer_than_its_sessions(
    begin: Begin, elapse: Elapse, status: str
) -> None:
    """Once it begins no more of them: from when it was seen so, for their longest life."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(1, on_event=outcomes)
    await begun_batch(sandbox, client, 2, status)
    await got(client.batch_sessions.get_batch_session(ID))
    elapse(sandbox, 20 * 60 - 1)
    await got(client.sessions.create_session())
    assert outcomes.kinds == []
    elapse(sandbox, 2)
    await got(client.sessions.create_session())
    assert outcomes.kinds[:1] == (["settled"] if status == "completed" else [])
    assert guard.available is not None
    # It may be tried again, and costs what it cost.
    before = guard.available
    sandbox.fault(f"/v1/batch-sessions/{ID}/retry", body=BATCH)
    await got(client.batch_sessions.retry_batch_session(ID))
    assert guard.available == before - 2 * SESSION


DONE = {"data": {"result": {"answer": 42}}}
STARTED = {"data": {"status": "running", "workflow_id": "w1"}}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("arguments", "cost"),
    [
        ({}, TASK + SESSION),
        ({"max_steps": 3}, Decimal("0.03") + SESSION),
        ({"session_id": "s"}, TASK),
        ({"session_id": "s", "max_steps": 3}, Decimal("0.03")),
        ({"session_id": "s", "extra_body": {"max_steps": 5}}, Decimal("0.05")),
    ],
    ids=str,
)
async def test_a_task_costs_its_steps(
    begin: Begin, arguments: dict[str, Any], cost: Decimal
) -> None:
    """And a session, unless it runs in one that is paid for."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(5, on_event=outcomes)
    sandbox.fault("/v1/tools/perform-web-task", body=DONE)
    await got(client.tools.perform_web_task(prompt="BalanceSnapshot", **arguments))
    assert guard.available == 5 - cost
    assert outcomes.kinds == ["settled"]
    with pytest.raises(ValueError, match="max_steps="):
        await got(client.tools.perform_web_task(prompt="BalanceSnapshot", max_steps="many"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "last",
    [
        {"status": "COMPLETED", "result": {}},
        {"status": "FAILED", "error": "No."},
    ],
    ids=str,
)
async def test_a_task_in_the_background(begin: Begin, last: dict[str, Any]) -> None:
    """It is held until its status says that it is over."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(5, on_event=outcomes)
    sandbox.fault("/v1/tools/perform-web-task", body=STARTED)
    sandbox.fault("/v1/tools/*/status", times=1, body={"data": {"status": "RUNNING"}})
    sandbox.fault("/v1/tools/*/status", body={"data": last})
    await got(client.tools.perform_web_task(prompt="BalanceSnapshot", async_=True, session_id="s"))
    await got(client.tools.get_perform_web_task_status("w1"))
    assert outcomes.kinds == []
    await got(client.tools.get_perform_web_task_status(workflow_id="w1"))
    await got(client.tools.get_perform_web_task_status("w1"))
    assert outcomes.kinds == ["settled"]
    assert guard.available == 5 - TASK


@pytest.mark.anyio
async def test_what_the_provider_does_not_know_is_kept(begin: Begin) -> None:
    """Nobody will hear of its end."""
    outcomes = Outcomes()
    sandbox, _, client = begin(5, on_event=outcomes)
    sandbox.fault("/v1/tools/perform-web-task", body=STARTED)
    data = {"request_id": ID, "status": "pending", "session_id": None}
    sandbox.fault("/v1/sessions/async", body={"data": data})
    sandbox.fault("/v1/*/status", status=404)
    await got(client.tools.perform_web_task(prompt="BalanceSnapshot", session_id="s"))
    await got(client.sessions.create_session_async())
    for poll, id in (
        (client.tools.get_perform_web_task_status, "w1"),
        (client.sessions.get_async_session_status, ID),
    ):
        with pytest.raises(NotFoundError):
            await got(poll(id))
    assert outcomes.kinds == ["kept"] * 2


@pytest.mark.anyio
async def test_a_reply_that_says_nothing_is_kept(begin: Begin) -> None:
    """Without a result, or an id to ask for it, work may go on."""
    outcomes = Outcomes()
    sandbox, _, client = begin(50, on_event=outcomes)
    sandbox.fault("*", method="POST", body={})
    await got(client.tools.perform_web_task(prompt="BalanceSnapshot"))
    await got(client.tasks.run_task(ID, input_params={}))
    await got(client.tasks.generate_task(task_name="a", task_prompt="b"))
    await got(client.tasks_legacy.run_adhoc_task(task_id=ID))
    await got(client.tasks_legacy.run_task_by_name("a"))
    await got(client.batch_sessions.create_batch_session(count=1))
    await got(client.sessions.create_session_async())
    assert outcomes.kinds == ["kept"] * 7


@pytest.mark.anyio
@pytest.mark.parametrize("first", ["queued", "success"])
async def test_tasks_are_held_while_they_run(begin: Begin, first: str) -> None:
    """A run, and the writing of a task, until their status says that they are over."""
    outcomes = Outcomes()
    sandbox, guard, client = begin(50, on_event=outcomes)
    sandbox.fault("/v2/tasks/t/run", body={"run_id": "r", "status": first})
    sandbox.fault("/v2/tasks/generate", body={"id": "g", "status": "generating"})
    sandbox.fault("/v2/tasks/runs/r/status", body={"run_id": "r", "status": "timeout"})
    sandbox.fault("/v2/tasks/g/generation-status", body={"id": "g", "status": "ready"})
    await got(client.tasks.run_task("t", input_params={}))
    assert outcomes.kinds == ["settled"] * (first == "success")
    await got(client.tasks.get_task_run_status("r"))
    assert outcomes.kinds == ["settled"]
    await got(client.tasks.generate_task(task_name="a", task_prompt="b"))
    assert outcomes.kinds == ["settled"]
    await got(client.tasks.get_task_generation_status("g"))
    assert outcomes.kinds == ["settled"] * 2
    assert guard.available == 50 - 2 * (TASK + SESSION)


@pytest.mark.anyio
async def test_pages_cost_a_browsers_minute(begin: Begin) -> None:
    """And a fetched one what goes through proxies too."""
    sandbox, guard, client = begin(1)
    sandbox.fault("/v1/tools/*", body=b"a page", content_type="text/html")
    assert await got(client.tools.fetch_webpage(url="https://example.com")) == "a page"
    await got(client.tools.screenshot_webpage(url="https://example.com"))
    await got(client.tools.create_page_pdf(url="https://example.com"))
    body = {"success": True, "async": False, "message": "", "taskId": ID}
    sandbox.clear_faults()
    assert guard.available == 1 - Decimal(str(round(FETCH + 2 * PAGE, 6))) - Decimal("0.000002")
    sandbox.fault("/v1/task/run", body={"data": body})
    sandbox.anchor.top_up(9)
    guard.balance(max_age=0)
    await got(client.tasks_legacy.run_adhoc_task(task_id=ID))
    assert running(guard) == 0


PROJECT_LIMIT = {"error": {"code": 403, "message": "Project cost limit reached."}}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [
        ({"status": 400}, ["released"]),
        ({"status": 401}, ["released"]),
        ({"status": 402}, ["exhausted", "released"]),
        ({"status": 403, "body": PROJECT_LIMIT}, ["exhausted", "released"]),
        ({"status": 403, "body": {"error": "Forbidden"}}, ["released"]),
        ({"status": 408}, ["kept"]),
        ({"status": 429}, ["released"]),
        ({"status": 500}, ["kept"]),
        ({"status": 503}, ["kept"]),
        ({"reset": True}, ["kept"]),
        ({"body": b"<html>"}, ["kept"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("retries", [0, 2])
async def test_what_an_error_says_of_the_hold(
    open_sandbox: OpenSandbox,
    connect: Connect,
    fault: dict[str, Any],
    outcomes: list[str],
    retries: int,
) -> None:
    """Refusals release, lack of credits is told to the guard, all else is kept, and none is resent."""
    sandbox = open_sandbox(1)
    sandbox.fault("/v1/sessions", method="POST", **fault)
    told = Outcomes()
    guard = anchor_guard(sandbox, on_event=told)
    client = connect(sandbox.url, guard, max_retries=retries)
    with pytest.raises(ValueError if "body" in fault and len(fault) == 1 else APIError):
        await got(client.sessions.create_session())
    assert told.kinds == outcomes
    assert running(guard) == 0
    assert sandbox.requests["POST", "/v1/sessions"] == 1
    assert client.max_retries == retries


@pytest.mark.anyio
async def test_what_is_free_is_sent_again(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Connect
) -> None:
    """The client's `max_retries` holds for the end of a session, and for what it used."""
    sandbox = open_sandbox(1)
    guard = anchor_guard(sandbox)
    client = connect(sandbox.url, guard, max_retries=1)
    created = await got(client.sessions.create_session())
    for method in ("DELETE", "GET"):
        again = {"status": 503, "headers": {"retry-after-ms": "1"}}
        sandbox.fault("/v1/sessions/*", method=method, times=1, **again)
    await got(client.sessions.delete_session(created.data.id))
    assert sandbox.requests["DELETE", "/v1/sessions/{session_id}"] == 2
    assert guard.available == 1 - BROWSER_CREATED - BROWSER_MINUTE
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
async def test_what_is_set_later_counts(open_sandbox: OpenSandbox, connect: Connect) -> None:
    """Retries switched on behind the guard resend nothing that spends, and a new key is used."""
    sandbox = open_sandbox(1)
    client = connect(sandbox.url, anchor_guard(sandbox))
    client.max_retries = 2
    sandbox.fault("/v1/sessions", method="POST", times=1, status=500)
    with pytest.raises(APIStatusError):
        await got(client.sessions.create_session())
    assert sandbox.requests["POST", "/v1/sessions"] == 1
    client.api_key = "another"
    with pytest.raises(APIStatusError) as refused:
        await got(client.sessions.create_session())
    assert refused.value.status_code == 401


@pytest.mark.anyio
async def test_a_connection_that_was_never_made_releases(
    open_sandbox: OpenSandbox, connect: Connect, nobody: str
) -> None:
    """Nothing was sent: credits and slot are free at once."""
    sandbox = open_sandbox(1, max_concurrent_browsers=1)
    guard = anchor_guard(sandbox)
    client = connect(nobody, guard)
    for _ in range(2):
        with pytest.raises(APIConnectionError):
            await got(client.sessions.create_session())
    assert guard.available == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("cause", "outcomes"),
    [
        (httpx.ConnectTimeout, ["released"]),
        (httpx.PoolTimeout, ["released"]),
        (httpx.WriteTimeout, ["kept"]),
        (httpx.RemoteProtocolError, ["kept"]),
    ],
)
async def test_the_cause_tells_whether_it_was_sent(
    open_sandbox: OpenSandbox, cause: type[Exception], outcomes: list[str]
) -> None:
    """What a loopback socket cannot be brought to do, the SDK's own transport is made to say."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise cause(str(request.url))

    sandbox = open_sandbox(1)
    told = Outcomes()
    guard = anchor_guard(sandbox, on_event=told)
    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as http:
        client = guarded(
            AsyncAnchorbrowser(api_key="key", base_url=sandbox.url, http_client=http), guard
        )
        with pytest.raises(APIConnectionError):
            await client.sessions.create_session()
    assert told.kinds == outcomes


@pytest.mark.anyio
async def test_a_timed_out_creation_is_kept(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Connect
) -> None:
    """The browser runs, billed, and holds its slot for as long as it may live."""
    sandbox = open_sandbox(1, max_concurrent_browsers=1)
    sandbox.fault("/v1/sessions", method="POST", drip=60)
    guard = anchor_guard(sandbox)
    client = connect(sandbox.url, guard, timeout=httpx.Timeout(10, read=0.02))
    with pytest.raises(APITimeoutError):
        await got(client.sessions.create_session())
    assert sandbox.wait_until(lambda: sandbox.anchor.running == 1)
    assert guard.available == 1 - SESSION
    with pytest.raises(ConcurrencyLimit):
        await got(client.sessions.create_session())
    elapse(sandbox, CLEAR)
    guard.balance(max_age=0)
    assert guard.available == sandbox.anchor.balance


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["session", "batch", "retry", "dropped"])
async def test_kept_for_as_long_as_it_may_live(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Connect, how: str
) -> None:
    """A life longer than the guard's `linger` is the hold's own; what costs say comes before."""
    sandbox = open_sandbox(1)
    outcomes = Outcomes()
    guard = anchor_guard(sandbox, on_event=outcomes, sole_spender=False)
    timeout = {"max_duration": 120}
    configuration = {"session": {"timeout": timeout}}
    held = AnchorBrowser.session_cost(120)

    async def begin(costs: Any = None) -> None:
        client = connect(sandbox.url, guard, costs)
        if how == "session":
            sandbox.fault("/v1/sessions", method="POST", times=1, status=500)
            with pytest.raises(APIStatusError):
                await got(client.sessions.create_session(session={"timeout": timeout}))
        elif how == "batch":
            sandbox.fault("/v1/batch-sessions", times=1, status=500)
            with pytest.raises(APIStatusError):
                await got(
                    client.batch_sessions.create_batch_session(count=1, configuration=configuration)
                )
        elif how == "retry":
            sandbox.fault("/v1/batch-sessions*", body=BATCH)
            batches = client.batch_sessions
            await got(batches.create_batch_session(count=1, configuration=configuration))
            await got(batches.retry_batch_session(ID))
            await got(batches.delete_batch_session(ID))
        else:
            await got(client.sessions.create_session(session={"timeout": timeout}))
            sandbox.fault("/v1/sessions/*", method="GET", status=500)
            [session] = sandbox.anchor.operations
            await got(client.sessions.delete_session(session))

    await begin()
    elapse(sandbox, 120 * 60 + AnchorBrowser.lag - 1)
    guard.balance(max_age=0)
    assert "kept" in outcomes.kinds
    assert guard.available is not None
    assert sandbox.anchor.balance - guard.available == pytest.approx(held, abs=Decimal("0.000001"))
    elapse(sandbox, 1)
    guard.balance(max_age=0)
    assert guard.available == sandbox.anchor.balance
    if how == "session":
        await begin({"sessions.create_session": {"linger": 10}})
        elapse(sandbox, 10 + AnchorBrowser.lag)
        guard.balance(max_age=0)
        assert guard.available == sandbox.anchor.balance


@pytest.mark.anyio
async def test_a_cancelled_creation_is_kept(open_sandbox: OpenSandbox) -> None:
    """Whoever stops waiting does not stop the browser."""
    sandbox = open_sandbox(1)
    sandbox.fault("/v1/sessions", method="POST", hang=True)
    outcomes = Outcomes()
    guard = anchor_guard(sandbox, on_event=outcomes)
    async with (
        AsyncAnchorbrowser(api_key=sandbox.anchor_key, base_url=sandbox.url) as own,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(guarded(own, guard).sessions.create_session)
        while not sandbox.requests["POST", "/v1/sessions"]:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert outcomes.kinds == ["kept"]
    assert guard.available == 1 - SESSION


@pytest.mark.anyio
async def test_cancelled_while_it_asks_what_a_session_used(
    open_sandbox: OpenSandbox, elapse: Elapse
) -> None:
    """The session is gone, but its cost is unknown: kept."""
    sandbox = open_sandbox(1)
    outcomes = Outcomes()
    guard = anchor_guard(sandbox, on_event=outcomes)
    async with AsyncAnchorbrowser(api_key=sandbox.anchor_key, base_url=sandbox.url) as own:
        client = guarded(own, guard)
        created: Any = await client.sessions.create_session()
        sandbox.fault("/v1/sessions/*", method="GET", hang=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.sessions.delete_session, created.data.id)
            while not sandbox.requests["GET", "/v1/sessions/{session_id}"]:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert outcomes.kinds == ["kept"]
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
async def test_the_projects_limit_is_no_wish(begin: Begin, elapse: Elapse) -> None:
    """After its 403 nothing is sent until a late enough balance."""
    sandbox, guard, client = begin(10)
    sandbox.fault("/v1/sessions", method="POST", times=1, status=403, body=PROJECT_LIMIT)
    with pytest.raises(APIStatusError):
        await got(client.sessions.create_session())
    with pytest.raises(InsufficientCredits, match="itself refused"):
        await got(client.sessions.create_session())
    assert sandbox.requests["POST", "/v1/sessions"] == 1
    elapse(sandbox, 5)
    guard.balance(max_age=0)
    elapse(sandbox, AnchorBrowser.lag)
    guard.balance(max_age=0)
    await got(client.sessions.create_session())
    assert sandbox.anchor.running == 1


@pytest.mark.anyio
async def test_copies_are_guarded_and_share_the_holds(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Connect
) -> None:
    """What one created another may end, and prices come along."""
    sandbox = open_sandbox(1)
    guard = anchor_guard(sandbox)
    names = ("tools.fetch_webpage", "profiles.list_profiles", "sessions.list_sessions")
    client = connect(sandbox.url, guard, dict.fromkeys(names, 2))
    copies = [client.with_options(timeout=5), client.copy(), client.copy().with_options()]
    for copy in copies:
        assert isinstance(copy, type(client))
        created = await got(copy.sessions.create_session())
        assert guard.available < 1
        await got(client.sessions.delete_session(created.data.id))
        for call in (copy.profiles.list_profiles, copy.sessions.list_sessions):
            with pytest.raises(InsufficientCredits):
                await got(call())
        with pytest.raises(InsufficientCredits):
            await got(copy.tools.fetch_webpage(url="https://example.com"))
    assert copies[0].timeout == 5
    check_ledger(sandbox, guard, elapse)


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
async def test_an_agents_task_is_held_once(
    open_sandbox: OpenSandbox,
    elapse: Elapse,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its session and its steps, each by the method that it calls inside."""
    monkeypatch.setattr("anchorbrowser.resources.agent_helpers.BrowserSetup", NoBrowser)
    sandbox = open_sandbox(5)
    sandbox.fault("/v1/tools/perform-web-task", body=DONE)
    admitted: list[Any] = []

    def note(event: Event) -> None:
        if event.kind == "admitted":
            admitted.append((str(event.operation).partition(".")[2], event.credits))

    guard = anchor_guard(sandbox, on_event=note)
    client = connect(sandbox.url, guard)
    done = await got(client.agent.task("BalanceSnapshot"))
    assert done.data.result == {"answer": 42}
    assert admitted == [("sessions.create_session", SESSION), ("tools.perform_web_task", TASK)]
    [session] = sandbox.anchor.operations
    await got(
        client.agent.task("BalanceSnapshot", session_id=session, task_options={"max_steps": 7})
    )
    assert admitted[2:] == [("tools.perform_web_task", Decimal("0.07"))]
    await got(client.sessions.delete_session(session))
    check_ledger(sandbox, guard, elapse)


def test_a_browser_task_is_held_once(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """Also where the SDK runs it on a thread of its own; a refusal comes by its future."""
    sandbox = open_sandbox("0.2")
    sandbox.fault("/v1/tools/perform-web-task", body=DONE)
    guard = anchor_guard(sandbox)
    with Anchorbrowser(api_key=sandbox.anchor_key, base_url=sandbox.url) as own:
        client = guarded(own, guard)
        task = client.agent.browser_task("BalanceSnapshot", task_options={"max_steps": 5})
        assert task["task_result_task"].result(30).data.result == {"answer": 42}
        assert guard.available == Decimal("0.2") - SESSION - Decimal("0.05")
        client.sessions.delete_session(task["session_id"])
        refused = client.agent.browser_task("BalanceSnapshot")
        assert isinstance(refused["task_result_task"].exception(30), InsufficientCredits)
        client.sessions.delete_session(refused["session_id"])
    assert sandbox.requests["POST", "/v1/tools/perform-web-task"] == 1
    check_ledger(sandbox, guard, elapse)


def test_an_async_browser_task_is_held_once(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """Likewise where it is a task of asyncio, the only loop that the SDK knows there."""
    sandbox = open_sandbox("0.2")
    sandbox.fault("/v1/tools/perform-web-task", body=DONE)
    guard = anchor_guard(sandbox)

    async def run() -> None:
        async with AsyncAnchorbrowser(api_key=sandbox.anchor_key, base_url=sandbox.url) as own:
            client = guarded(own, guard)
            task = await client.agent.browser_task("BalanceSnapshot", task_options={"max_steps": 5})
            await task["task_result_task"]
            assert guard.available == Decimal("0.2") - SESSION - Decimal("0.05")
            await client.sessions.delete_session(task["session_id"])

    anyio.run(run)
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
async def test_a_browser_is_held_once(begin: Begin, elapse: Elapse) -> None:
    """What connects to it comes from the SDK; the session is held until it is ended."""
    sandbox, guard, client = begin(1)
    manager = await got(client.browser.create())
    assert hasattr(manager, "__enter__") or hasattr(manager, "__aenter__")
    assert guard.available == 1 - SESSION
    [session] = sandbox.anchor.operations
    await got(client.sessions.delete_session(session))
    check_ledger(sandbox, guard, elapse)


def test_many_threads(open_sandbox: OpenSandbox, elapse: Elapse, pool: ThreadPoolExecutor) -> None:
    """One client, sixteen threads, three browsers: nobody is turned away by the provider."""
    sandbox = open_sandbox(1, max_concurrent_browsers=3)
    guard = anchor_guard(sandbox)
    opened, taken = [], threading.Event()
    with Anchorbrowser(api_key=sandbox.anchor_key, base_url=sandbox.url) as own:
        client = guarded(own, guard, costs={"sessions.create_session": {"wait": 30}})

        def visit(_: int) -> None:
            created: Any = client.sessions.create_session()
            opened.append(created.data.id)
            if len(opened) == 3:
                taken.set()
            assert taken.wait(30)
            client.sessions.delete_session(created.data.id)

        list(pool.map(visit, range(16)))
    assert sandbox.anchor.finished == sandbox.requests["POST", "/v1/sessions"] == 16
    assert sandbox.anchor.max_concurrency_seen == 3
    check_ledger(sandbox, guard, elapse)


def test_a_session_is_settled_once(
    open_sandbox: OpenSandbox, elapse: Elapse, pool: ThreadPoolExecutor
) -> None:
    """However many threads delete it."""
    sandbox = open_sandbox(1)
    outcomes = Outcomes()
    guard = anchor_guard(sandbox, on_event=outcomes)
    with Anchorbrowser(api_key=sandbox.anchor_key, base_url=sandbox.url) as own:
        client = guarded(own, guard)
        created: Any = client.sessions.create_session()
        list(pool.map(client.sessions.delete_session, [created.data.id] * 8))
    assert outcomes.kinds == ["settled"]
    check_ledger(sandbox, guard, elapse)


def test_dropped_with_its_copies_it_keeps(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """The holds end with the last of them, at once: nothing waits for the garbage collector."""
    sandbox = open_sandbox(1)
    sandbox.fault("/v1/batch-sessions*", body=BATCH)
    outcomes = Outcomes()
    guard = anchor_guard(sandbox, on_event=outcomes)
    with Anchorbrowser(api_key=sandbox.anchor_key, base_url=sandbox.url) as own:
        client = guarded(own, guard)
        client.sessions.create_session()
        client.batch_sessions.create_batch_session(count=2)
        client.browser.create()
        copy = client.with_options(timeout=3)
        gc.disable()
        try:
            del client
            assert running(guard) == 3
            del copy
            assert guard.available == 1 - 4 * SESSION
            assert running(guard) == 0
        finally:
            gc.enable()
        elapse(sandbox, 60 * 20)
        guard.balance(max_age=0)
    assert outcomes.kinds == ["kept"] * 3
    check_ledger(sandbox, guard, elapse)


@pytest.mark.anyio
async def test_costs_of_ones_own(open_sandbox: OpenSandbox, connect: Connect) -> None:
    """A number, a callable, or options; options that are left out keep their defaults."""
    sandbox = open_sandbox(1, max_concurrent_browsers=1)
    guard = anchor_guard(sandbox)
    costs = {
        "sessions.create_session": {
            "cost": "0.5",
            "actual": lambda session: 2 * session.data.credits_used,
        },
        "tools.fetch_webpage": {"min": 4, "wait": 0},
    }
    client = connect(sandbox.url, guard, costs)
    created = await got(client.sessions.create_session())
    assert guard.available == Decimal("0.5")
    with pytest.raises(ConcurrencyLimit):
        await got(client.sessions.create_session())
    with pytest.raises(InsufficientCredits, match="needs 4 credits"):
        await got(client.tools.fetch_webpage(url="four"))
    await got(client.sessions.delete_session(created.data.id))
    assert guard.available == 1 - 2 * (BROWSER_CREATED + BROWSER_MINUTE)


@pytest.mark.parametrize(
    ("client", "costs", "kind", "words"),
    [
        (Anchorbrowser, {}, TypeError, "guarded() takes an Anchorbrowser"),
        (None, {}, TypeError, "not None"),
        (1, {"sessions.crate": 1}, AttributeError, "sessions has no 'crate' to guard"),
        (1, {"sesions.create_session": 1}, AttributeError, "Did you mean sessions"),
        (1, {"sessions": 1}, TypeError, "is a part of the client, not a method"),
        (1, {"sessions.delete_session": 1}, ValueError, "sessions.delete_session only calls"),
        (1, {"with_options": 1}, ValueError, "with_options only calls"),
        (1, {"agent.task": 1}, ValueError, "agent.task only calls"),
        (1, {"browser.create": 1}, ValueError, "browser.create only calls"),
        (1, {"tasks.run_task": -1}, ValueError, "min must not be negative"),
        (1, {"tasks.run_task": {"mn": 1}}, TypeError, "mn"),
    ],
)
def test_what_cannot_be_guarded_is_said_at_once(
    client: Any, costs: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """A typo never becomes a method that spends unguarded."""
    own = Anchorbrowser(api_key="key") if client == 1 else client
    with pytest.raises(kind) as said:
        guarded(own, Guard(FakeProvider(100)), costs=costs)
    assert words in str(said.value)


def test_the_guard_is_of_the_account_that_pays() -> None:
    """Another provider's credits do not pay for these calls, and one guard is enough."""
    client = Anchorbrowser(api_key="key")
    with pytest.raises(TypeError, match=r"for an account at pre\.dev.*pass Guard\(AnchorBrowser"):
        guarded(client, Guard(PreDev("key")))
    once = guarded(client, Guard(FakeProvider(100)))
    with pytest.raises(TypeError, match="this Anchorbrowser is already guarded"):
        guarded(once, Guard(FakeProvider(100)))


@pytest.mark.anyio
async def test_wrong_arguments_hold_nothing(open_sandbox: OpenSandbox, connect: Connect) -> None:
    """They are the SDK's own TypeError, before anything is asked for."""
    sandbox = open_sandbox(1)
    client = connect(sandbox.url, anchor_guard(sandbox))
    with pytest.raises(TypeError):
        await got(client.sessions.create_session(colour="blue"))
    with pytest.raises(TypeError):
        await got(client.sessions.delete_session())
    assert not sandbox.requests


@pytest.mark.anyio
async def test_it_is_the_client_in_all_else(begin: Begin) -> None:
    """Its class, kinds of methods and signatures are the SDK's; a block gets the guarded one."""
    _, _, client = begin(1)
    assert isinstance(client, Anchorbrowser | AsyncAnchorbrowser)
    own = client.__wrapped__
    for path in PRICED:
        part, name = path.split(".")
        ours, theirs = (getattr(getattr(each, part), name) for each in (client, own))
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
    assert (await got(client.billing.get_billing())).data.credits == 1
    if isinstance(own, Anchorbrowser):
        with client as inside:
            assert inside is client
    else:
        async with client as inside:
            assert inside is client


@pytest.mark.anyio
async def test_switched_off_it_is_the_bare_client(begin: Begin) -> None:
    """Nothing is fetched, held, or settled."""
    sandbox, guard, client = begin("0.012")
    ACTIVATION.set_active(False)
    created = await got(client.sessions.create_session())
    await got(client.sessions.delete_session(created.data.id))
    assert sandbox.balance_requests == 0
    assert guard.available is None


@pytest.mark.anyio
async def test_a_session_of_many_years_is_kept_for_one(
    open_sandbox: OpenSandbox, elapse: Elapse, connect: Connect
) -> None:
    """Its price is that of all its minutes, and nothing is kept for longer than 366 days."""
    sandbox = open_sandbox(9000)
    guard = anchor_guard(sandbox)
    client = connect(sandbox.url, guard, None)
    sandbox.fault("/v1/sessions", method="POST", times=1, status=500)
    with pytest.raises(APIStatusError):
        await got(client.sessions.create_session(session={"timeout": {"max_duration": 10**7}}))
    assert 9000 - 8335 < guard.available < 9000 - 8333  # type: ignore[operator]
    elapse(sandbox, 366 * 86_400 + AnchorBrowser.lag - 1)
    guard.balance(max_age=0)
    assert binding_of(guard).account.ledger.kept.total > 0
    elapse(sandbox, 1)
    guard.balance(max_age=0)
    assert guard.available == 9000
