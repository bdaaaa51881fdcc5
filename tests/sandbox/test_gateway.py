"""pre.dev's AI gateway in the sandbox, by OpenAI's and by Anthropic's own SDK."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from needed import need

from budgetguard import Guard, PreDev
from budgetguard.testing.sandbox import INPUT_TOKEN, OUTPUT_TOKEN, Sandbox
from budgetguard.transport import GuardTransport

need("openai", "anthropic")
import anthropic  # noqa: E402
import openai  # noqa: E402

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "sandbox/parrot", "messages": HELLO}
MESSAGE = {**CHAT, "max_tokens": 50}


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the SDKs from a proxy that this machine may have."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a sandbox in which everything is done within milliseconds."""
    with Sandbox(credits=100, speed=1e6) as sandbox:
        yield sandbox


def price(prompt_tokens: int, tokens: int) -> Decimal:
    """Credits for so many tokens."""
    return Decimal(prompt_tokens * INPUT_TOKEN + tokens * OUTPUT_TOKEN).scaleb(-6)


def test_openai(sandbox: Sandbox) -> None:
    """A call is charged by the token; its headers say what, and a stream's charge is posted later."""
    with openai.OpenAI(api_key=sandbox.predev_key, base_url=f"{sandbox.url}/v1") as client:
        raw = client.chat.completions.with_raw_response.create(**CHAT)
        reply: Any = raw.parse()
        assert reply.choices[0].message.content
        assert reply.usage.completion_tokens == len(reply.choices[0].message.content.split())
        charged = price(reply.usage.prompt_tokens, reply.usage.completion_tokens)
        assert Decimal(raw.headers["x-predev-credits-charged"]) == charged
        assert Decimal(raw.headers["x-predev-credits-remaining"]) == 100 - charged
        assert sandbox.predev.charged == charged
        options = {"include_usage": True}
        with client.chat.completions.with_raw_response.create(
            **CHAT, stream=True, stream_options=options
        ).parse() as stream:
            *_, last = chunks = [*stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        streamed = price(last.usage.prompt_tokens, last.usage.completion_tokens)
        assert sandbox.predev.charged == charged + streamed
        assert [model.id for model in client.models.list()] == ["sandbox/parrot"]


def test_anthropic(sandbox: Sandbox) -> None:
    """The same by `/v1/messages`, plainly and as a stream."""
    with anthropic.Anthropic(api_key=sandbox.predev_key, base_url=sandbox.url) as client:
        reply = client.messages.create(**MESSAGE)
        charged = price(reply.usage.input_tokens, reply.usage.output_tokens)
        assert sandbox.predev.charged == charged
        with client.messages.stream(**MESSAGE) as stream:
            final = stream.get_final_message()
        streamed = price(final.usage.input_tokens, final.usage.output_tokens)
        assert final.stop_reason == "end_turn"
        assert sandbox.predev.charged == charged + streamed


def test_guarded(sandbox: Sandbox) -> None:
    """A guarded client's cached balance is that of the reply's header, without a refresh."""
    guard = Guard(PreDev(sandbox.predev_key, base_url=sandbox.url))
    http = httpx.Client(transport=GuardTransport(guard))
    options: Any = {"api_key": sandbox.predev_key, "http_client": http}
    with openai.OpenAI(base_url=f"{sandbox.url}/v1", **options) as client:
        client.chat.completions.create(**CHAT)
    assert guard.balance().credits == sandbox.predev.balance == 100 - sandbox.predev.charged
    assert sandbox.balance_requests == 1


def test_refusals(client: Callable[..., httpx.Client]) -> None:
    """What cannot be paid at most is a 402 in OpenAI's shape, and charges nothing."""
    with Sandbox(credits="0.1", speed=1e6) as sandbox:
        options: Any = {"api_key": sandbox.predev_key, "max_retries": 0}
        with openai.OpenAI(base_url=f"{sandbox.url}/v1", **options) as api:
            with pytest.raises(openai.APIStatusError) as refused:
                api.chat.completions.create(**CHAT)
            assert (refused.value.status_code, refused.value.code) == (402, "insufficient_credits")
            figures = refused.value.body["predev"]  # type: ignore[call-overload,index]
            assert figures["credits_remaining"] == 0.1 < figures["estimated_credits"]
            api.chat.completions.create(**CHAT, max_tokens=30)
        assert (sandbox.predev.refused, sandbox.predev.finished) == (1, 1)
        http = client(sandbox, checked=False)
        for wrong in ({"model": "m"}, {"messages": HELLO}, {**CHAT, "max_tokens": 0}):
            assert http.post("/v1/chat/completions", json=wrong).status_code == 400
        assert http.post("/v1/messages", json=CHAT).status_code == 400
        http.headers["authorization"] = "Bearer wrong"
        unauthorized = http.post("/v1/chat/completions", json=CHAT)
        assert unauthorized.json()["error"]["code"] == "unauthorized"
        sandbox.fault("/v1/chat/*", status=503)
        away = http.post("/v1/chat/completions", json=CHAT)
        assert away.json()["error"]["code"] == "balance_unavailable"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 10**30},
        {"max_tokens": 10**320},
        {"max_tokens": 1.5},
        {"max_completion_tokens": True, "max_tokens": "5"},
        {"stream_options": 1, "max_tokens": None},
        {"model": "\ud800"},
        {"messages": {}},
    ],
)
def test_what_makes_no_sense(
    sandbox: Sandbox, path: str, wrong: dict[str, Any], client: Callable[..., httpx.Client]
) -> None:
    """It is a 400 with a body as documented, and charges nothing."""
    http = client(sandbox, checked=False)
    reply = http.post(path, content=json.dumps({**CHAT, "max_tokens": 5, **wrong}))
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert sandbox.predev.operations == {}


def test_null_is_no_limit(sandbox: Sandbox, client: Callable[..., httpx.Client]) -> None:
    """Of two names for the limit, the one that is given counts; SDKs send null for None."""
    http = client(sandbox)
    body = {**CHAT, "max_completion_tokens": None, "max_tokens": 1, "stream_options": None}
    assert http.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"] == 1


def test_a_stream_that_nobody_reads_is_charged(
    client: Callable[..., httpx.Client], manual: Sandbox
) -> None:
    """The charge is made when the answer is complete, and can be asked for a little later."""
    http = client(manual, checked=False)
    with http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as reply:
        id = reply.headers["x-predev-request-id"]
        assert "x-predev-credits-charged" not in reply.headers
    ask = {"id": id}
    assert http.get("/v1/generation", params=ask).json()["error"]["code"] == "not_ready"
    assert manual.predev.charged == 0
    manual.advance(3)
    assert http.get("/v1/generation", params=ask).status_code == 404
    manual.advance(3)
    data = http.get("/v1/generation", params=ask).json()["data"]
    assert Decimal(str(data["credits"])) == manual.predev.charged > 0
    assert http.get("/v1/generation", params={"id": "?"}).json()["error"]["code"] == "not_found"


def test_an_answer_that_cannot_be_paid(
    client: Callable[..., httpx.Client], manual: Sandbox
) -> None:
    """Credits that are gone by the end of an answer make its stream end in an error."""
    http = client(manual, checked=False)
    call = {**CHAT, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=call) as reply:
        manual.anchor.spend(100)
        manual.predev.spend(100)
        manual.advance(10)
        text = "".join(reply.iter_text())
    assert "insufficient_credits" in text
    assert "[DONE]" not in text
    assert manual.predev.died == 1
