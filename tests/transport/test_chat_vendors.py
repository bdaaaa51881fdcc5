"""OpenAI's client at DeepSeek and Moonshot, guarded: what calls cost, and what becomes of refusals."""

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import httpx2
import pytest
from needed import need

from budgetguard import Guard
from budgetguard.providers import DeepSeek, Moonshot
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox, Vendor
from budgetguard.transport import AsyncGuardTransport, GuardTransport

need("openai")
import openai

HELLO: Any = [{"role": "user", "content": "Hello"}]
MODELS = {"deepseek": "deepseek-flash", "moonshot": "kimi-k3"}
MAKERS: dict[str, Any] = {"deepseek": DeepSeek, "moonshot": Moonshot}
USAGE: Any = {"include_usage": True}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's retries come at once."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.001)


@pytest.fixture(params=MODELS)
def vendor(request: pytest.FixtureRequest, open_sandbox: Callable[..., Sandbox]) -> Vendor:
    """Each of the two, with 100 dollars and a clock turned by hand."""
    return open_sandbox(100, speed=1, clock="manual").vendor(request.param)


@pytest.fixture
def guard(vendor: Vendor, clock: HandClock) -> Guard:
    """Give a guard of its account, which knows of its balance."""
    guard = Guard(MAKERS[vendor.name](vendor.key, base_url=f"{vendor.url}/v1", currency="USD"))
    guard.balance()
    clock.advance(1)
    return guard


def sync_client(guard: Guard, vendor: Vendor, library: Any = httpx2, **options: Any) -> Any:
    """OpenAI's client for the vendor."""
    http = library.Client(transport=GuardTransport(guard))
    url = f"{vendor.url}/v1"
    return openai.OpenAI(api_key=vendor.key, base_url=url, http_client=http, **options)


def create(client: Any, vendor: Vendor, **more: Any) -> Any:
    """A call, or what has to be awaited for one."""
    asked = {"model": MODELS[vendor.name], "messages": HELLO, "max_tokens": 50}
    return client.chat.completions.create(**asked | more)


def settled_as_charged(guard: Guard, vendor: Vendor) -> bool:
    """Whether the guard counts exactly what the vendor charged."""
    counted = Decimal(100) - (guard.available or 0)
    return counted == vendor.account.charged > 0


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_a_call_costs_what_its_tokens_cost(guard: Guard, vendor: Vendor, library: Any) -> None:
    """Those in the cache included; what it held in advance is free again."""
    vendor.cached = 5  # type: ignore[attr-defined]
    with sync_client(guard, vendor, library) as client:
        assert create(client, vendor).usage.completion_tokens == 50
        assert settled_as_charged(guard, vendor)
        create(client, vendor, max_tokens=7)
    assert settled_as_charged(guard, vendor)


@pytest.mark.parametrize("options", [{}, {"stream_options": USAGE}], ids=["plain", "usage"])
def test_a_stream_costs_what_its_end_says(
    guard: Guard, vendor: Vendor, options: dict[str, Any]
) -> None:
    """Whether or not the request asks for its usage."""
    with sync_client(guard, vendor) as client:
        chunks = list(create(client, vendor, stream=True, **options))
    assert chunks[0].choices[0].delta.content == "No"
    assert settled_as_charged(guard, vendor)


def test_a_stream_that_is_left_remains_held(guard: Guard, vendor: Vendor) -> None:
    """Nobody knows what it will have cost."""
    with sync_client(guard, vendor) as client, create(client, vendor, stream=True) as stream:
        next(iter(stream))
    assert Decimal(100) - (guard.available or 0) > vendor.account.charged > 0


# The client leaves the generators of a stream to the collector, of which trio warns (openai 3.57).
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"stream": True}], ids=["whole", "streamed"])
async def test_async_calls(guard: Guard, vendor: Vendor, options: dict[str, Any]) -> None:
    """They are settled like sync ones."""
    async with openai.AsyncOpenAI(
        api_key=vendor.key,
        base_url=f"{vendor.url}/v1",
        http_client=httpx2.AsyncClient(transport=AsyncGuardTransport(guard)),
    ) as client:
        answer = await create(client, vendor, **options)
        if options:
            assert len([chunk async for chunk in answer]) >= 7
    assert settled_as_charged(guard, vendor)


def test_a_call_that_is_too_dear_is_not_sent(guard: Guard, vendor: Vendor) -> None:
    """What remains does not pay for its limit; the client's error is of status 402, and not tried again."""
    vendor.account.spend("99.9999")
    guard.balance(max_age=0)
    with sync_client(guard, vendor) as client, pytest.raises(openai.APIStatusError) as refused:
        create(client, vendor, max_tokens=1000)
    assert refused.value.status_code == 402
    assert f"{guard.provider.name} reports 0.0001" in refused.value.message
    assert vendor.requests.arrived == 0


def test_a_model_without_a_price_is_not_called(guard: Guard, vendor: Vendor) -> None:
    """The client's error is that of a wrong request, and says what to do."""
    with sync_client(guard, vendor) as client, pytest.raises(openai.BadRequestError) as refused:
        create(client, vendor, model="other")
    assert "prices_per_model=" in refused.value.message
    assert vendor.requests.arrived == 0


@pytest.mark.parametrize("capped", [True, False])
def test_a_price_of_ones_own_can_be_the_vendors_limit(
    guard: Guard, vendor: Vendor, capped: bool
) -> None:
    """With `send_cap`, the reply has no more tokens than what is held pays for, after the dearest prompt."""
    price = {"deepseek": "0.0007", "moonshot": "0.007"}[vendor.name]
    prices = {("POST", path): price for path in ("/chat/completions", "/v1/chat/completions")}
    http = httpx2.Client(transport=GuardTransport(guard, prices=prices, send_cap=capped))
    url = f"{vendor.url}/v1"
    with openai.OpenAI(api_key=vendor.key, base_url=url, http_client=http) as client:
        used = create(client, vendor, max_tokens=None).usage.completion_tokens
    assert used < 50 if capped else used == 100
    assert settled_as_charged(guard, vendor)


def kinds(vendor: Vendor) -> list[str]:
    """The refusals for want of credits."""
    return [kind for kind in vendor.refusals() if kind.startswith("exhausted")]


def test_of_forty_calls_to_an_empty_account_one_reaches_it(
    guard: Guard, vendor: Vendor, clock: HandClock
) -> None:
    """Although its balance goes on saying 100, and the client tries a 429 again: twice, on its own."""
    for kind in kinds(vendor):
        before = vendor.requests.arrived
        vendor.refuse_with = kind
        with sync_client(guard, vendor) as client:
            for _ in range(40):
                with pytest.raises(openai.APIStatusError):
                    create(client, vendor)
                clock.advance(guard.provider.lag / 100)
        assert vendor.requests.arrived == before + 1
        vendor.refuse_with = None
        clock.advance(guard.provider.lag + 1)
        guard.balance(max_age=0)
    assert guard.available == Decimal(100)
    assert not vendor.account.charged


def test_what_the_caller_of_an_empty_account_sees(guard: Guard, vendor: Vendor) -> None:
    """The vendor's own 402; where that is a 429, the guard's refusal of the client's second try."""
    vendor.refuse_with = "exhausted"
    with sync_client(guard, vendor) as client, pytest.raises(openai.APIStatusError) as refused:
        create(client, vendor)
    assert refused.value.status_code == 402
    ours = "Moonshot itself refused a call for lack of credits" in refused.value.message
    assert ours == (vendor.name == "moonshot")
    with (
        sync_client(guard, vendor, max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as again,
    ):
        create(client, vendor)
    assert again.value.status_code == 402
    assert guard.provider.top_up_url in again.value.message


def test_other_refusals_close_no_account(guard: Guard, vendor: Vendor) -> None:
    """The client tries a rate limit and an overload again; the next call is sent in any case."""
    others = vendor.refusals().keys() - kinds(vendor)
    assert len(others) >= 2
    with sync_client(guard, vendor) as client:
        for count, kind in enumerate(others, 1):
            vendor.refuse_with = kind
            before = vendor.requests.arrived
            with pytest.raises(openai.APIStatusError) as refused:
                create(client, vendor)
            assert refused.value.status_code == vendor.refusals()[kind].status
            assert vendor.requests.arrived - before == (1 if kind == "not_credits_denied" else 3)
            vendor.refuse_with = None
            create(client, vendor)
            assert vendor.requests.carried_out == count


def test_a_top_up_opens_the_account(guard: Guard, vendor: Vendor, clock: HandClock) -> None:
    """At once, and not only after the lag."""
    vendor.refuse_with = "exhausted"
    with sync_client(guard, vendor) as client:
        with pytest.raises(openai.APIStatusError):
            create(client, vendor)
        vendor.refuse_with = None
        vendor.account.top_up(5)
        clock.advance(1)
        guard.balance(max_age=0)
        create(client, vendor)
    assert vendor.requests.carried_out == 1


def test_keys_are_logged_nowhere(
    guard: Guard, vendor: Vendor, caplog: pytest.LogCaptureFixture
) -> None:
    """By the guard, the client and its HTTP library, all at DEBUG, whatever happens."""
    with caplog.at_level(logging.DEBUG), sync_client(guard, vendor) as client:
        create(client, vendor)
        vendor.refuse_with = "exhausted"
        for _ in range(2):
            with pytest.raises(openai.APIStatusError) as refused:
                create(client, vendor)
            assert vendor.key not in str(refused.value)
        guard.balance(max_age=0)
    assert len(caplog.records) > 20
    shown = [record.getMessage() for record in caplog.records]
    assert not [text for text in shown if vendor.key in text]
    assert vendor.key not in repr(guard)
