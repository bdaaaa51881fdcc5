"""Real SDKs over a guarded transport: a refusal is not tried again, a retry is one call."""

import functools
from decimal import Decimal
from typing import Any

import httpx
import httpx2
import pytest
from anchorbrowser import Anchorbrowser, APIStatusError, AsyncAnchorbrowser
from anchorbrowser import APIConnectionError as AnchorConnectionError
from needed import need

from budgetguard import AnchorBrowser, Event, Guard, InsufficientCredits
from budgetguard._engine.binding import binding_of
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import AsyncGuardTransport, GuardTransport

need("openai", "anthropic")
import anthropic
import openai

KEY = Sandbox.predev_key
HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
    ],
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
HEADERS = {"x-predev-credits-charged": "0.25", "x-predev-credits-remaining": "99.75"}
COMPLETIONS = "/v1/chat/completions"


def openai_client(guard: Guard, url: str, library: Any, **options: Any) -> Any:
    """OpenAI's client, for pre.dev's gateway."""
    http = library.Client(transport=GuardTransport(guard, **options))
    return openai.OpenAI(api_key=KEY, base_url=f"{url}/v1", http_client=http)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDKs' retries come at once."""
    for module in ("openai", "anthropic", "anchorbrowser"):
        monkeypatch.setattr(f"{module}._base_client.INITIAL_RETRY_DELAY", 0.001)
        monkeypatch.setattr(f"{module}._base_client.MAX_RETRY_DELAY", 0.001)


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_openai(predev: Guard, sandbox: Sandbox, clock: HandClock, library: Any) -> None:
    """A refusal is its error of status 402, after no request; an admitted call is settled."""
    sandbox.fault(COMPLETIONS, status=200, body=CHAT, headers=HEADERS)
    clock.advance(1)
    with openai_client(predev, sandbox.url, library) as client:
        with predev.acquire(99) as rest:
            with pytest.raises(openai.APIStatusError) as refused:
                client.chat.completions.create(model="m", messages=HELLO)
            rest.release()
        assert (refused.value.status_code, refused.value.code) == (402, "insufficient_credits")
        assert sandbox.requests["POST", COMPLETIONS] == 0
        answer = client.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "Hi"
    assert predev.balance().credits == Decimal("99.75")


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_openai_raising(predev: Guard, sandbox: Sandbox, library: Any) -> None:
    """With `on_refusal="raise"`, the guard's own error reaches the caller, also through this SDK."""
    with (
        openai_client(predev, sandbox.url, library, on_refusal="raise") as client,
        predev.acquire(99),
        pytest.raises(InsufficientCredits),
    ):
        client.chat.completions.create(model="m", messages=HELLO)
    assert sandbox.requests["POST", COMPLETIONS] == 0


def raising(guard: Guard, url: str, sdk: str, retries: int) -> tuple[Any, type[Exception]]:
    """A call by an SDK over a raising transport, and that SDK's error of no connection."""
    if sdk == "anthropic":
        http: Any = httpx2.Client(transport=GuardTransport(guard, on_refusal="raise"))
        client = anthropic.Anthropic(
            api_key=KEY, base_url=url, http_client=http, max_retries=retries
        )
        call = functools.partial(client.messages.create, model="m", max_tokens=10, messages=HELLO)
        return call, anthropic.APIConnectionError
    http = httpx.Client(transport=GuardTransport(guard, on_refusal="raise"))
    browser = Anchorbrowser(
        api_key=Sandbox.anchor_key, base_url=url, http_client=http, max_retries=retries
    )
    return browser.sessions.create_session, AnchorConnectionError


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("sdk", ["anthropic", "anchorbrowser"])
def test_who_wraps_what_is_raised(
    predev: Guard, anchor: Guard, sandbox: Sandbox, sdk: str, retries: int
) -> None:
    """These take any exception for a broken connection; the refusal is its cause, after all tries."""
    guard = predev if sdk == "anthropic" else anchor
    refusals: list[Event] = []

    def note(event: Event) -> None:
        if event.kind == "refused":
            refusals.append(event)

    guard = Guard(guard.provider, on_event=note)
    guard.balance()
    call, wrapped = raising(guard, sandbox.url, sdk, retries)
    with guard.acquire(guard.available or 0), pytest.raises(wrapped) as refused:
        call()
    assert isinstance(refused.value.__cause__, InsufficientCredits)
    assert len(refusals) == retries + 1
    assert not {path for _, path in sandbox.requests} & {"/v1/messages", "/v1/sessions"}


CHUNKS = """\
data: {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}

data: [DONE]

"""


def test_a_stream_that_openai_has_read_is_over(predev: Guard, sandbox: Sandbox) -> None:
    """It reads no further than to the mark of the end, and hangs up."""
    sandbox.fault(COMPLETIONS, status=200, body=CHUNKS, content_type="text/event-stream")
    with openai_client(predev, sandbox.url, httpx2) as client:
        chunks = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert len(list(chunks)) == 1
    ledger = binding_of(predev).account.ledger
    binding_of(predev).account.flush()
    assert (ledger.running, ledger.kept.total, ledger.settled.total) == (0, 0, 1_400_000)


def test_a_retry_by_openai_is_one_call(predev: Guard, sandbox: Sandbox) -> None:
    """Three attempts go by one hold, though there is room for no second one."""
    sandbox.fault(COMPLETIONS, status=500, times=2, body={})
    with (
        predev.acquire(98) as rest,
        openai_client(predev, sandbox.url, httpx2) as client,
    ):
        sandbox.fault(COMPLETIONS, status=200, body=CHAT, headers=HEADERS)
        client.chat.completions.create(model="m", messages=HELLO)
        rest.release()
    assert sandbox.requests["POST", COMPLETIONS] == 3
    assert binding_of(predev).account.ledger.running == 0


@pytest.mark.anyio
async def test_openai_awaiting(predev: Guard, sandbox: Sandbox, clock: HandClock) -> None:
    """The same from the awaiting client."""
    sandbox.fault(COMPLETIONS, status=200, body=CHAT, headers=HEADERS)
    clock.advance(1)
    http = httpx2.AsyncClient(transport=AsyncGuardTransport(predev))
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=f"{sandbox.url}/v1", http_client=http
    ) as client:
        with predev.acquire(99) as rest:
            with pytest.raises(openai.APIStatusError):
                await client.chat.completions.create(model="m", messages=HELLO)
            rest.release()
        await client.chat.completions.create(model="m", messages=HELLO)
    assert sandbox.requests["POST", COMPLETIONS] == 1
    assert predev.balance().credits == Decimal("99.75")


def test_anthropic(predev: Guard, sandbox: Sandbox, clock: HandClock) -> None:
    """Its 402 has a type of its own; the message of the refusal is the guard's."""
    sandbox.fault("/v1/messages", status=200, body=MESSAGE, headers=HEADERS)
    clock.advance(1)
    http = httpx2.Client(transport=GuardTransport(predev))
    with anthropic.Anthropic(api_key=KEY, base_url=sandbox.url, http_client=http) as client:
        with predev.acquire(99) as rest:
            with pytest.raises(anthropic.PaymentRequiredError, match=r"needs 1\.4 credits"):
                client.messages.create(model="m", max_tokens=10, messages=HELLO)
            rest.release()
        client.messages.create(model="m", max_tokens=10, messages=HELLO)
    assert sandbox.requests["POST", "/v1/messages"] == 1
    assert predev.balance().credits == Decimal("99.75")


def test_anchor_browser(anchor: Guard, sandbox: Sandbox) -> None:
    """Sessions are guarded wherever the SDK makes them."""
    http = httpx.Client(transport=GuardTransport(anchor))
    with Anchorbrowser(
        api_key=Sandbox.anchor_key, base_url=sandbox.url, http_client=http, max_retries=2
    ) as client:
        client.sessions.create_session()
        with anchor.acquire(anchor.available), pytest.raises(APIStatusError) as refused:
            client.with_options(timeout=5).sessions.create_session()
    assert refused.value.status_code == 402
    assert sandbox.requests["POST", "/v1/sessions"] == 1


@pytest.mark.anyio
async def test_anchor_browser_awaiting(clock: HandClock, sandbox: Sandbox) -> None:
    """A guard without a balance fetches it first, and blocks no event loop."""
    guard = Guard(AnchorBrowser(Sandbox.anchor_key, base_url=sandbox.url))
    http = httpx.AsyncClient(transport=AsyncGuardTransport(guard))
    async with AsyncAnchorbrowser(
        api_key=Sandbox.anchor_key, base_url=sandbox.url, http_client=http
    ) as client:
        await client.sessions.create_session()
    assert sandbox.requests["POST", "/v1/sessions"] == 1
    assert binding_of(guard).account.ledger.kept.total > 0
