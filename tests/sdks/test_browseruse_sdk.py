"""Browser Use's own SDK, plain and awaiting, in its three versions, against the sandbox."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from accounts import OpenSandbox, Outcomes
from followed import BEGUN, elapsed
from needed import need

from budgetguard import (
    AnchorBrowser,
    ConcurrencyLimit,
    ConfigurationError,
    Guard,
    InsufficientCredits,
)
from budgetguard.providers import BrowserUse
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import AsyncGuardTransport, GuardTransport

need("browser_use_sdk")
from browser_use_sdk import (  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: E402
    APIKeySpendLimitError,
    BrowserUseError,
    v2,
    v3,
    v4,
)

from budgetguard.integrations import browseruse  # noqa: E402

if TYPE_CHECKING:
    from budgetguard.providers.billing import Prices

pytestmark = pytest.mark.anyio

VERSIONS = {"v2": v2, "v3": v3, "v4": v4}
WAYS = ["plain", "asyncio"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """The plain client and the awaiting one, which needs asyncio's futures in `run`."""
    return str(request.param)


@pytest.fixture
def anyio_backend() -> str:
    """Its awaiting client runs on asyncio."""
    return "asyncio"


@pytest.fixture
def sandbox(open_sandbox: OpenSandbox) -> Sandbox:
    """Give one whose time is moved by hand."""
    return open_sandbox(100)


class Sdk:
    """One version's clients, plain or awaiting, behind one face."""

    def __init__(self, sandbox: Sandbox, guard: Guard, way: str) -> None:
        self._url = sandbox.vendor("browseruse").url
        self._key = sandbox.vendor("browseruse").key
        self._guard = guard
        self._way = way
        self._open: list[Any] = []

    def bare(self, version: str, **options: Any) -> Any:
        """A client without a guard."""
        module = VERSIONS[version]
        kind = module.BrowserUse if self._way == "plain" else module.AsyncBrowserUse
        # Between two attempts it would sleep.
        options = {"base_url": f"{self._url}/api/{version}", "max_retries": 0} | options
        client = kind(options.pop("key", self._key), **options)
        self._open.append(client)
        return client

    def client(self, version: str, **options: Any) -> Any:
        """A guarded client."""
        return browseruse.guarded(self.bare(version), self._guard, **options)

    async def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The method's result, awaited if it has to be."""
        if self._way == "plain":
            return await anyio.to_thread.run_sync(lambda: method(*args, **kwargs))
        return await method(*args, **kwargs)

    async def close(self) -> None:
        """Close all clients."""
        for client in self._open:
            closed = client.close()
            if closed is not None:
                await closed


@pytest.fixture
def outcomes() -> Outcomes:
    """Give what becomes of holds."""
    return Outcomes()


@pytest.fixture
def guard(sandbox: Sandbox, clock: HandClock, outcomes: Outcomes) -> Guard:
    """Give a guard of the account, which knows of its dollars."""
    clock.set_wall(BEGUN)
    vendor = sandbox.vendor("browseruse")
    guard = Guard(BrowserUse(vendor.key, base_url=vendor.url), on_event=outcomes)
    guard.balance()
    return guard


@pytest.fixture
async def sdk(sandbox: Sandbox, guard: Guard, way: str) -> AsyncIterator[Sdk]:
    """Give the clients."""
    sdk = Sdk(sandbox, guard, way)
    yield sdk
    await sdk.close()


def beginning(client: Any, version: str) -> Any:
    """The method that begins an agent's work, as that version calls it."""
    return getattr(client, {"v2": "tasks", "v3": "sessions", "v4": "runs"}[version]).create


async def begin(sdk: Sdk, version: str, **options: Any) -> Any:
    """Begin one piece of an agent's work, with a client of its own."""
    client = sdk.client(version, **options.pop("guarded", {}))
    return await sdk.call(beginning(client, version), "Find it", **options)


@pytest.mark.parametrize(
    ("version", "held"), [("v2", "0.61"), ("v3", BrowserUse.SESSION), ("v4", BrowserUse.RUN)]
)
async def test_work_is_held_until_it_has_ended(
    sdk: Sdk,
    guard: Guard,
    sandbox: Sandbox,
    clock: HandClock,
    outcomes: Outcomes,
    version: str,
    held: Decimal | str,
) -> None:
    """What was charged moves out of the hold, and the library asks for the end in the program's place."""
    begun = await begin(sdk, version)
    vendor: Any = sandbox.vendor("browseruse")
    assert str(begun.id) in vendor._work
    assert guard.available == 100 - Decimal(held)
    elapsed(clock, guard)(sandbox, 40)
    assert guard.available is not None
    assert guard.available <= 100 - Decimal(held)
    assert outcomes.kinds == []
    elapsed(clock, guard)(sandbox, 200)
    assert outcomes.settled_at == [Decimal("0.5")]
    assert guard.balance(max_age=0).credits == guard.available == Decimal("99.5")


@pytest.mark.parametrize("version", ["v3", "v4"])
async def test_the_cap_of_a_call_is_what_it_holds(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, clock: HandClock, outcomes: Outcomes, version: str
) -> None:
    """A call that names its upper end is refused exactly where the account cannot pay that."""
    with pytest.raises(InsufficientCredits) as caught:
        await begin(sdk, version, max_cost_usd=100.01)
    assert caught.value.needed == Decimal("100.01")
    assert sandbox.vendor("browseruse").requests.arrived == 0
    await begin(sdk, version, max_cost_usd="0.3")
    assert guard.available == Decimal("99.7")
    elapsed(clock, guard)(sandbox, 200)
    assert outcomes.settled_at == [Decimal("0.3")]
    assert sandbox.vendor("browseruse").account.charged == Decimal("0.3")


@pytest.mark.parametrize("version", ["v2", "v3"])
async def test_run_settles_by_its_own_polls(
    open_sandbox: OpenSandbox, clock: HandClock, way: str, version: str
) -> None:
    """The program's own requests tell of the end; the library makes none, though no time passes for it."""
    with Sandbox(100, speed=1e6) as sandbox:
        vendor, outcomes = sandbox.vendor("browseruse"), Outcomes()
        guard = Guard(BrowserUse(vendor.key, base_url=vendor.url), on_event=outcomes)
        sdk = Sdk(sandbox, guard, way)
        client = sdk.client(version)
        if way == "plain":
            result = await anyio.to_thread.run_sync(client.run, "Find it")
        else:
            result = await client.run("Find it")
        assert result.output == "Forty-two."
        assert outcomes.settled_at == [Decimal("0.5")]
        with pytest.raises(InsufficientCredits):
            client = sdk.client(version, prices={("POST", "/api/*/*"): 1000})
            await sdk.call(lambda: client.run("Find it"))
        await sdk.close()
        assert vendor.requests.arrived == 1


async def test_streams_settle_too(sdk: Sdk, sandbox: Sandbox, outcomes: Outcomes, way: str) -> None:
    """Messages are read until the session has ended, as the last request for it tells."""
    client = sdk.client("v3")
    vendor: Any = sandbox.vendor("browseruse")
    vendor.step_seconds = 0.000_001
    if way == "plain":
        stream = await anyio.to_thread.run_sync(client.stream, "Find it")
        sandbox.advance(1)
        await anyio.to_thread.run_sync(list, stream)
    else:
        stream = client.run("Find it")
        await stream._ensure_session_id()
        sandbox.advance(1)
        assert [message async for message in stream] == []
    assert stream.output == "Forty-two."
    assert outcomes.settled_at == [Decimal("0.5")]


@pytest.mark.parametrize("version", ["v2", "v3", "v4"])
async def test_a_browser_is_held_until_it_is_stopped(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, outcomes: Outcomes, version: str
) -> None:
    """It is charged for its longest life at once, and settled at what is left of that."""
    browsers = sdk.client(version).browsers
    browser = await sdk.call(browsers.create, timeout=60)
    assert guard.available == Decimal("99.98")
    assert sandbox.vendor("browseruse").account.balance == Decimal("99.98")
    sandbox.advance(90)
    await sdk.call(browsers.get, str(browser.id))
    assert outcomes.kinds == []
    await sdk.call(browsers.stop, str(browser.id))
    assert outcomes.settled_at == [Decimal("0.000667")]
    assert sandbox.vendor("browseruse").account.balance == guard.available == Decimal("99.999333")


async def test_a_browser_that_nobody_stops(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, clock: HandClock, outcomes: Outcomes
) -> None:
    """Its end is found out by the library."""
    await sdk.call(sdk.client("v4").browsers.create, timeout=5)
    elapsed(clock, guard)(sandbox, 290)
    assert outcomes.kinds == []
    elapsed(clock, guard)(sandbox, 90)
    assert outcomes.settled_at == [Decimal("0.001667")]


async def test_a_session_of_v2_is_held_apart_from_its_tasks(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, outcomes: Outcomes
) -> None:
    """Its browser is one thing, a task in it another."""
    client = sdk.client("v2")
    session = await sdk.call(client.sessions.create)
    assert guard.available == Decimal("99.92")
    await sdk.call(client.tasks.create, "Find it", session_id=str(session.id), max_steps=5)
    assert guard.available == Decimal("99.88")
    await sdk.call(client.sessions.stop, str(session.id))
    assert outcomes.settled_at == [Decimal("0.08")]


async def test_a_task_that_continues_a_session(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, outcomes: Outcomes
) -> None:
    """Each is settled at its own cost, though the session reports the sum; waiting costs nothing."""
    sessions = sdk.client("v3").sessions
    waits = await sdk.call(sessions.create)
    assert guard.available == 100
    for number in (1, 2, 3):
        begun = await sdk.call(
            sessions.create, "Find it", session_id=str(waits.id), keep_alive=True
        )
        sandbox.advance(60)
        session = await sdk.call(sessions.get, str(begun.id))
        assert (session.status.value, session.total_cost_usd) == ("idle", f"{number * 0.5:g}")
    assert outcomes.settled_at == [Decimal("0.5")] * 3
    await sdk.call(sessions.stop, str(waits.id))


async def test_a_session_that_was_deleted(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, outcomes: Outcomes
) -> None:
    """It has ended, but no reply says what it cost: it counts as what it held."""
    sessions = sdk.client("v3").sessions
    begun = await sdk.call(sessions.create, "Find it")
    await sdk.call(sessions.delete, str(begun.id))
    assert outcomes.settled_at == [BrowserUse.SESSION]


async def test_a_message_in_a_sessions_queue(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, clock: HandClock, outcomes: Outcomes
) -> None:
    """It becomes a run, which costs; a second run in a busy session is refused, and costs nothing."""
    client = sdk.client("v4")
    run = await sdk.call(client.runs.create, "Find it")
    with pytest.raises(BrowserUseError, match="409"):
        await sdk.call(client.runs.create, "More", session_id=str(run.session_id))
    assert outcomes.kinds == ["released"]
    await sdk.call(client.sessions.send_message, str(run.session_id), "And then?")
    assert guard.available == 100 - 2 * BrowserUse.RUN
    elapsed(clock, guard)(sandbox, 200)
    assert outcomes.settled_at == [Decimal("0.5")] * 2


async def test_a_run_that_is_cancelled(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, clock: HandClock, outcomes: Outcomes
) -> None:
    """It is settled at what it had cost by then."""
    runs = sdk.client("v4").runs
    run = await sdk.call(runs.create, "Find it")
    sandbox.advance(20)
    await sdk.call(runs.cancel, str(run.id))
    await sdk.call(runs.wait_for_completion, str(run.id))
    assert outcomes.settled_at == [Decimal("0.2")]


async def test_the_reply_to_a_run_was_lost(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, clock: HandClock, outcomes: Outcomes
) -> None:
    """It is found by its text in the list of runs, and followed to its end."""
    sandbox.fault("/browseruse/api/v4/runs", drip=60, times=1)
    client = sdk.client("v4")
    # For replies alone: a connection on a busy machine may take longer.
    client._http._client.timeout = httpx.Timeout(10, read=0.2)
    with pytest.raises(httpx.ReadTimeout):
        await sdk.call(client.runs.create, "Find it")
    assert sandbox.vendor("browseruse").account.running == 1
    elapsed(clock, guard)(sandbox, 240)
    assert outcomes.settled_at == [Decimal("0.5")]


@pytest.mark.parametrize("version", ["v2", "v3", "v4"])
async def test_40_calls_against_an_empty_account(
    sdk: Sdk, sandbox: Sandbox, outcomes: Outcomes, version: str
) -> None:
    """One reaches it, although its account page goes on saying 100."""
    vendor = sandbox.vendor("browseruse")
    vendor.refuse_with = "exhausted"
    create = beginning(sdk.client(version), version)
    for _ in range(40):
        with contextlib.suppress(BrowserUseError, InsufficientCredits):
            await sdk.call(create, "Find it")
    assert vendor.requests == (1, 0, 1)
    assert outcomes.kinds[0] == "exhausted"


async def test_a_keys_own_limit(sdk: Sdk, sandbox: Sandbox, clock: HandClock, way: str) -> None:
    """It stops the calls of that key alone, and the SDK shows it as what it is."""
    vendor = sandbox.vendor("browseruse")
    options: Any = {"base_url": vendor.url, "account": "shop"}
    guards = [Guard(BrowserUse(key, **options)) for key in (vendor.key, vendor.other_key)]
    vendor.refuse_with = "key_limit"
    limited = browseruse.guarded(sdk.bare("v4"), guards[0])
    with pytest.raises(APIKeySpendLimitError):
        await sdk.call(limited.runs.create, "Find it")
    with pytest.raises(InsufficientCredits):
        await sdk.call(limited.runs.create, "Find it")
    assert vendor.requests.arrived == 1
    other = browseruse.guarded(sdk.bare("v4", key=vendor.other_key), guards[1])
    await sdk.call(other.runs.create, "Find it")
    assert vendor.requests == (2, 1, 1)


@pytest.mark.parametrize("kind", ["not_credits_sessions", "not_credits_rate"])
async def test_limits_on_sessions_and_requests(
    sdk: Sdk, sandbox: Sandbox, guard: Guard, outcomes: Outcomes, kind: str
) -> None:
    """They cost nothing and close nothing: the next call gets in."""
    vendor = sandbox.vendor("browseruse")
    vendor.refuse_with, vendor.retry_after = kind, 30
    client = browseruse.guarded(sdk.bare("v4"), guard)
    with pytest.raises(BrowserUseError, match="429"):
        await sdk.call(client.runs.create, "Find it")
    assert outcomes.kinds == ["released"]
    vendor.refuse_with = None
    await sdk.call(client.runs.create, "Find it")
    assert vendor.account.running == 1


@pytest.mark.parametrize(("version", "most"), [("v3", BrowserUse.SESSION), ("v4", BrowserUse.RUN)])
async def test_what_is_held_is_sent_as_the_cap(
    sdk: Sdk,
    sandbox: Sandbox,
    clock: HandClock,
    guard: Guard,
    outcomes: Outcomes,
    version: str,
    most: Decimal,
) -> None:
    """Work that would cost more is stopped by the vendor there; a lower cap of one's own remains."""
    vendor: Any = sandbox.vendor("browseruse")
    vendor.task_cost = 50
    create = beginning(sdk.client(version, send_cap=True), version)
    await sdk.call(create, "Find it")
    await sdk.call(create, "Find it", max_cost_usd=0.25)
    elapsed(clock, guard)(sandbox, 200)
    assert {*outcomes.settled_at} == {Decimal("0.25"), most}
    assert vendor.account.charged == most + Decimal("0.25")
    await sdk.call(beginning(sdk.client(version), version), "Find it")
    elapsed(clock, guard)(sandbox, 200)
    assert vendor.account.charged == most + Decimal("25.25")


@pytest.mark.parametrize("version", ["v2", "v3", "v4"])
async def test_slots(
    sdk: Sdk, sandbox: Sandbox, clock: HandClock, outcomes: Outcomes, version: str
) -> None:
    """A call takes one until its work has ended, and without a free one nothing is sent."""
    vendor = sandbox.vendor("browseruse")
    vendor.slots = 2
    guard = Guard(BrowserUse(vendor.key, base_url=vendor.url, account=version))
    client = browseruse.guarded(sdk.bare(version), guard, slots=True)
    create = beginning(client, version)
    begun = await sdk.call(create, "Find it")
    browser = await sdk.call(client.browsers.create)
    for method in (client.browsers.create, create):
        with pytest.raises(ConcurrencyLimit) as caught:
            await sdk.call(method, *(["Find it"] if method is create else []))
        assert (caught.value.in_use, caught.value.limit) == (2, 2)
    assert vendor.requests == (2, 2, 0)
    await sdk.call(client.browsers.stop, str(browser.id))
    await sdk.call(client.browsers.create)
    elapsed(clock, guard)(sandbox, 200)
    await sdk.call(create, "More")
    assert vendor.requests == (4, 4, 0)
    assert begun.id


async def test_a_task_in_a_session_of_v2_shares_its_slot(sdk: Sdk, sandbox: Sandbox) -> None:
    """The session has one already."""
    vendor = sandbox.vendor("browseruse")
    vendor.slots = 2
    guard = Guard(BrowserUse(vendor.key, base_url=vendor.url, account="v2"))
    client = browseruse.guarded(sdk.bare("v2"), guard, slots=True)
    session = await sdk.call(client.sessions.create)
    await sdk.call(client.tasks.create, "Find it", session_id=str(session.id))
    with guard.require_credits(min=0.01, slots=1):
        pass


async def test_slots_need_work_that_is_followed(sdk: Sdk, guard: Guard) -> None:
    """Otherwise nobody would learn when one is free again."""
    prices: Prices = {("POST", "/x"): {"min": 1, "slots": 1}}
    with pytest.raises(TypeError, match="does not follow work takes no slots"):
        browseruse.guarded(sdk.bare("v4"), guard, prices=prices, follow=False)
    sessions = Guard(AnchorBrowser("anchor_not_a_real_key"))
    with pytest.raises(TypeError, match="does not follow work takes no slots"):
        GuardTransport(sessions, prices=prices)


async def test_prices_of_ones_own(sdk: Sdk, guard: Guard) -> None:
    """They replace the provider's, by route; all others remain."""
    prices = {("POST", "/api/v4/runs"): 7, ("POST", "/api/v4/browsers"): {"min": 3}}
    client = sdk.client("v4", prices=prices)
    await sdk.call(client.runs.create, "Find it", max_cost_usd=1)
    await sdk.call(client.browsers.create)
    assert guard.available == 90
    await begin(sdk, "v3")
    assert guard.available == 89


async def test_nothing_is_asked_without_follow(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, clock: HandClock, outcomes: Outcomes
) -> None:
    """The hold is kept, and counts until a balance shows what was charged."""
    await begin(sdk, "v4", guarded={"follow": False})
    elapsed(clock, guard)(sandbox, 600)
    assert outcomes.kinds == ["kept"]
    assert sandbox.requests["GET", "/browseruse/api/v4/runs/{id}"] == 0


async def test_the_sdk_shows_why_a_transport_refused(sdk: Sdk, guard: Guard, way: str) -> None:
    """Where its error is wanted instead of the guard's: the sentence, from where it expects one."""
    client = sdk.bare("v4")
    kind = GuardTransport if way == "plain" else AsyncGuardTransport
    client._http._client._transport = kind(guard)
    with pytest.raises(BrowserUseError) as caught:
        await sdk.call(client.runs.create, "Find it", max_cost_usd=1000)
    assert caught.value.status_code == 402
    assert caught.value.message.startswith("POST /api/v4/runs needs 1000 USD, and 100 USD")
    assert type(caught.value) is BrowserUseError


async def test_what_is_not_guarded(sdk: Sdk, guard: Guard, sandbox: Sandbox, way: str) -> None:
    """Anything but a client of the SDK, one that is guarded, and one that pays from a wallet."""
    client = sdk.client("v4")
    with pytest.raises(TypeError, match="already guarded"):
        browseruse.guarded(client, guard)
    with pytest.raises(TypeError, match="a client of browser_use_sdk, not object"):
        browseruse.guarded(object(), guard)
    other = Guard(AnchorBrowser("anchor_not_a_real_key"))
    with pytest.raises(TypeError, match=r"pass Guard\(BrowserUse"):
        browseruse.guarded(sdk.bare("v4"), other)
    pays = sdk.bare("v3")
    pays._http._client = type("Wallet", (type(pays._http._client),), {})()
    with pytest.raises(TypeError, match="x402"):
        browseruse.guarded(pays, guard)
    inner = pays._http._client.close() if way == "plain" else pays._http._client.aclose()
    if inner is not None:
        await inner


async def test_where_a_client_without_a_base_url_goes(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To where the guard's account is, in the version's own path."""
    there = Guard(BrowserUse("bu_not_a_real_key"))
    client = browseruse.guarded(sdk.bare("v4", base_url=None), there)
    assert client._http._client.base_url == "https://api.browser-use.com/api/v4/"
    with pytest.raises(ConfigurationError, match=r"sends to https://api.browser-use.com, but"):
        browseruse.guarded(sdk.bare("v4", base_url=None), guard)
    monkeypatch.setenv("BROWSER_USE_BASE_URL", f"{sandbox.vendor('browseruse').url}/api/v3")
    client = browseruse.guarded(sdk.bare("v4", base_url=None), guard)
    await sdk.call(client.runs.create, "Find it")
    assert guard.available == 100 - BrowserUse.RUN
    monkeypatch.setenv("BROWSER_USE_BASE_URL", "ftp://x")
    with pytest.raises(ConfigurationError):
        browseruse.guarded(sdk.bare("v4", base_url=None), guard)


async def test_requests_through_a_proxy_are_guarded(
    sdk: Sdk, monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    """The client sends them through a mount, which is none of the transport's."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", nobody)
    client = sdk.client("v4")
    assert client._http._client._mounts
    with pytest.raises(InsufficientCredits):
        await sdk.call(client.runs.create, "Find it", max_cost_usd=1000)
    with pytest.raises(httpx.ConnectError):
        await sdk.call(client.runs.create, "Find it")


async def test_the_key_is_shown_nowhere(
    sdk: Sdk, guard: Guard, sandbox: Sandbox, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With all loggers at DEBUG, whatever becomes of a call; nor in errors, events and representations."""
    caplog.set_level(logging.DEBUG)
    vendor, said = sandbox.vendor("browseruse"), []
    client = sdk.client("v4")
    await sdk.call(client.runs.create, "Find it")
    elapsed(clock, guard)(sandbox, 200)
    for kind in ("not_credits_rate", "key_limit", "exhausted"):
        vendor.refuse_with = kind
        for cost in (1, 1000):
            with pytest.raises((BrowserUseError, InsufficientCredits)) as caught:
                await sdk.call(client.runs.create, "Find it", max_cost_usd=cost)
            said += [f"{caught.value} {caught.value!r} {caught.value.args}"]
    said += [caplog.text, repr(guard), repr(guard.provider), repr(vars(guard.provider))]
    assert "/browseruse/api/v4/runs" in caplog.text
    assert all(vendor.key not in each for each in said)
