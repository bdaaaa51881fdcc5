"""The lazy results of openai's and anthropic's SDKs: held for to the end of their streams."""

import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import httpx2
import pytest
from kinds import Meter
from needed import need

from budgetguard import Guard
from budgetguard.integrations import guarded

need("openai", "anthropic")
import anthropic  # noqa: E402
import openai  # noqa: E402

HELLO: Any = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
CHAT: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
    ],
}
CHUNK: dict[str, Any] = {
    **CHAT,
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}],
}
MODELS: dict[str, Any] = {
    "object": "list",
    "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "o"}],
}
MESSAGE: dict[str, Any] = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
TEXT: dict[str, Any] = {"type": "text", "text": ""}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": TEXT},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 7},
    },
    {"type": "message_stop"},
]
UNTIL: dict[str, Any] = {"min": 10, "until": "close"}


def answer(path: str, content: bytes) -> tuple[dict[str, str], str]:
    """The headers and the body that a provider answers with."""
    asked = json.loads(content or b"{}")
    if path.endswith("/models"):
        return {}, json.dumps(MODELS)
    if not asked.get("stream"):
        return {}, json.dumps(CHAT)
    events: list[tuple[str, str]] = [("message", json.dumps(CHUNK)), ("message", "[DONE]")]
    if path.endswith("/messages"):
        events = [(event["type"], json.dumps(event)) for event in EVENTS]
    body = "".join(f"event: {name}\ndata: {data}\n\n" for name, data in events)
    return {"content-type": "text/event-stream"}, body


def served(library: Any) -> Any:
    """A transport of httpx or httpx2 that answers so."""

    def respond(request: Any) -> Any:
        headers, text = answer(request.url.path, request.content)
        headers = {"content-type": "application/json", **headers}
        return library.Response(200, headers=headers, text=text)

    return library.MockTransport(respond)


def openai_client(guard: Guard, costs: dict[str, Any]) -> Any:
    """OpenAI's."""
    http = httpx.Client(transport=served(httpx))
    return guarded(openai.OpenAI(api_key="k", http_client=http), guard, costs)


def async_openai_client(guard: Guard, costs: dict[str, Any]) -> Any:
    """The same, to await."""
    http = httpx.AsyncClient(transport=served(httpx))
    return guarded(openai.AsyncOpenAI(api_key="k", http_client=http), guard, costs)


def anthropic_client(guard: Guard, costs: dict[str, Any]) -> Any:
    """Anthropic's."""
    http = httpx2.Client(transport=served(httpx2))
    return guarded(anthropic.Anthropic(api_key="k", http_client=http), guard, costs)


def async_anthropic_client(guard: Guard, costs: dict[str, Any]) -> Any:
    """The same, to await."""
    http = httpx2.AsyncClient(transport=served(httpx2))
    return guarded(anthropic.AsyncAnthropic(api_key="k", http_client=http), guard, costs)


def of_a_stream(result: Any, is_open: Callable[[], None]) -> None:
    is_open()
    assert [chunk.choices[0].delta.content for chunk in result] == ["Hi"]


def of_a_stream_left(result: Any, is_open: Callable[[], None]) -> None:
    with result as stream:
        is_open()
        next(stream)


def of_a_stream_closed(result: Any, is_open: Callable[[], None]) -> None:
    is_open()
    result.close()


def of_a_value(result: Any, _: Callable[[], None]) -> None:
    assert result.choices[0].message.content == "Hi"


def of_a_manager(result: Any, is_open: Callable[[], None]) -> None:
    with result as stream:
        is_open()
        assert stream.get_final_completion().choices[0].message.content == "Hi"


def of_a_streamed_response(result: Any, is_open: Callable[[], None]) -> None:
    with result as response:
        is_open()
        assert response.parse().id == "c"


def of_messages(result: Any, is_open: Callable[[], None]) -> None:
    with result as stream:
        is_open()
        assert stream.get_final_text() == "Hi"


def of_events(result: Any, is_open: Callable[[], None]) -> None:
    is_open()
    assert [event.type for event in result][-1] == "message_stop"


CREATE = "chat.completions.create"
RESPONSE = "chat.completions.with_streaming_response.create"
STREAMED = {**HELLO, "stream": True}
CASES: list[tuple[Any, str, dict[str, Any], Callable[..., None]]] = [
    (openai_client, CREATE, STREAMED, of_a_stream),
    (openai_client, CREATE, STREAMED, of_a_stream_left),
    (openai_client, CREATE, STREAMED, of_a_stream_closed),
    (openai_client, CREATE, HELLO, of_a_value),
    (openai_client, "chat.completions.stream", HELLO, of_a_manager),
    (openai_client, RESPONSE, HELLO, of_a_streamed_response),
    (anthropic_client, "messages.stream", {**HELLO, "max_tokens": 5}, of_messages),
    (anthropic_client, "messages.create", {**STREAMED, "max_tokens": 5}, of_events),
]


def called(client: Any, path: str, arguments: dict[str, Any]) -> Any:
    """What a method of a part of the client gives."""
    for name in path.split("."):
        client = getattr(client, name)
    return client(**arguments)


@pytest.mark.parametrize(
    ("make", "path", "arguments", "use"), CASES, ids=[f"{p} {u.__name__}" for _, p, _, u in CASES]
)
def test_it_is_held_for_to_its_end(
    guard: Guard,
    meter: Meter,
    make: Any,
    path: str,
    arguments: dict[str, Any],
    use: Callable[..., None],
) -> None:
    """With `until="close"`; a method that gave a value, and no stream, ends with its call."""

    def is_open() -> None:
        guard.balance(max_age=0)
        assert guard.available == 90

    client = make(guard, {path: UNTIL})
    for _ in range(2):
        with meter:
            use(called(client, path, arguments), is_open)
            assert meter.ending() == "settled"


async def of_an_async_stream(result: Any, is_open: Callable[[], Awaitable[None]]) -> None:
    stream = await result
    assert isinstance(stream, openai.AsyncStream)
    await is_open()
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["Hi"]


async def of_an_async_manager(result: Any, is_open: Callable[[], Awaitable[None]]) -> None:
    async with result as stream:
        await is_open()
        done = await stream.get_final_completion()
        assert done.choices[0].message.content == "Hi"


async def of_async_messages(result: Any, is_open: Callable[[], Awaitable[None]]) -> None:
    async with result as stream:
        await is_open()
        assert [text async for text in stream.text_stream] == ["Hi"]


ASYNC_CASES: list[tuple[Any, str, dict[str, Any], Callable[..., Awaitable[None]]]] = [
    (async_openai_client, CREATE, STREAMED, of_an_async_stream),
    (async_openai_client, "chat.completions.stream", HELLO, of_an_async_manager),
    (async_anthropic_client, "messages.stream", {**HELLO, "max_tokens": 5}, of_async_messages),
]


@pytest.mark.anyio
@pytest.mark.filterwarnings(
    "ignore:Async generator '(openai|httpx):ResourceWarning"
)  # trio tells of it
@pytest.mark.parametrize(
    ("make", "path", "arguments", "use"),
    ASYNC_CASES,
    ids=[f"{path} {use.__name__}" for _, path, _, use in ASYNC_CASES],
)
async def test_an_async_one_is_held_for_to_its_end(
    guard: Guard,
    meter: Meter,
    make: Any,
    path: str,
    arguments: dict[str, Any],
    use: Callable[..., Awaitable[None]],
) -> None:
    """Likewise."""

    async def is_open() -> None:
        await guard.abalance(max_age=0)
        assert guard.available == 90

    client = make(guard, {path: UNTIL})
    for _ in range(2):
        async with meter:
            await use(called(client, path, arguments), is_open)
            assert await meter.aending() == "settled"


def test_a_stream_that_is_dropped_is_kept(guard: Guard, meter: Meter) -> None:
    """Half read, and never closed."""
    client = openai_client(guard, {CREATE: UNTIL})
    with meter:
        stream = client.chat.completions.create(**STREAMED)
        next(stream)
        del stream
        gc.collect()
        assert meter.ending() == "kept"


def test_actual_is_given_the_stream(guard: Guard) -> None:
    """A stream knows when it has ended what was used."""
    guard.balance()
    used: Callable[[Any], int] = lambda stream: stream.current_message_snapshot.usage.output_tokens  # noqa: E731
    client = anthropic_client(guard, {"messages.stream": {**UNTIL, "actual": used}})
    with client.messages.stream(**HELLO, max_tokens=5) as stream:
        stream.until_done()
    assert guard.available == 93


@pytest.mark.anyio
async def test_a_list_page_is_awaited_or_iterated_over(guard: Guard, meter: Meter) -> None:
    """openai's lists are both, and are settled after either."""
    client = async_openai_client(guard, {"models.list": 10})
    async with meter:
        page = await client.models.list()
        assert [model.id for model in page.data] == ["m"]
        assert await meter.aending() == "settled"
    async with meter:
        assert [model.id async for model in client.models.list()] == ["m"]
        assert await meter.aending() == "settled"


def test_a_list_page_of_plain_code_is_there_at_once(guard: Guard, meter: Meter) -> None:
    """A page is no stream: it has ended when it is there."""
    client = openai_client(guard, {"models.list": 10})
    with meter:
        assert [model.id for model in client.models.list()] == ["m"]
        assert meter.ending() == "settled"
