"""The AI gateway's routes, in the shapes of OpenAI's and of Anthropic's SDKs (2026-11)."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from budgetguard.testing.sandbox.account import number
from budgetguard.testing.sandbox.gateway import INPUT_TOKEN, MODEL, OUTPUT_TOKEN, Call
from budgetguard.testing.sandbox.reading import json_object
from budgetguard.testing.sandbox.replies import gateway
from budgetguard.testing.sandbox.world import World

_MOST_TOKENS = 10**9


async def chat(world: World, request: Request) -> Response:
    """Reply to `POST /v1/chat/completions`."""
    given = await _body(request)
    limit, options = given.get("max_completion_tokens"), given.get("stream_options") or {}
    if not isinstance(options, dict):
        raise gateway(400, "invalid_request_error", "stream_options is an object.")
    limit = given.get("max_tokens") if limit is None else limit
    with_usage = options.get("include_usage") is True
    return await _answer(world, given, limit, _completion, _Chat(with_usage=with_usage))


async def messages(world: World, request: Request) -> Response:
    """Reply to `POST /v1/messages`."""
    given = await _body(request)
    if given.get("max_tokens") is None:
        raise gateway(400, "invalid_request_error", "max_tokens is required.")
    return await _answer(world, given, given["max_tokens"], _message, _Message())


async def models(_: World, __: Request) -> Response:
    """Reply to `GET /v1/models`: one model with its prices."""
    prices = {"credits_per_m_input": INPUT_TOKEN, "credits_per_m_output": OUTPUT_TOKEN}
    model = {"id": MODEL, "object": "model", "owned_by": "sandbox", "predev": prices}
    return JSONResponse({"object": "list", "data": [model]})


async def generation(world: World, request: Request) -> Response:
    """Reply to `GET /v1/generation?id=`: the charge of a call, streamed or not."""
    call = world.gateway.posted(request.query_params.get("id", ""))
    credits = number(call.operation.micros)
    return JSONResponse(
        {"data": {"id": call.operation.id, "model": call.model, "credits": credits}}
    )


async def _body(request: Request) -> dict[str, Any]:
    given = await json_object(request)
    if given is None or not isinstance(given.get("model"), str):
        raise gateway(400, "invalid_request_error", "model is required.")
    if not isinstance(given.get("messages"), list) or not given["messages"]:
        raise gateway(400, "invalid_request_error", "messages is a list of messages.")
    return given


async def _answer(
    world: World,
    given: dict[str, Any],
    limit: Any,
    whole: Callable[[Call], dict[str, Any]],
    stream: "_Chat | _Message",
) -> Response:
    if limit is not None and (type(limit) is not int or not 1 <= limit <= _MOST_TOKENS):
        reason = f"The limit of tokens is a number from 1 to {_MOST_TOKENS:,}."
        raise gateway(400, "invalid_request_error", reason)
    prompt = json.dumps([given.get("system"), given["messages"]])
    call = world.gateway.submit(given["model"], prompt, limit)
    headers = {"x-predev-request-id": call.operation.id}
    if given.get("stream") is True:
        frames = _frames(world, call, stream)
        return StreamingResponse(frames, headers=headers, media_type="text/event-stream")
    await call.bell.until(lambda: call.ended is not None)
    if call.refusal is not None:
        raise call.refusal
    # A stream has neither of these: its headers are sent before the call is charged.
    headers["x-predev-credits-charged"] = str(number(call.operation.micros))
    headers["x-predev-credits-remaining"] = str(world.gateway.remaining())
    return JSONResponse(whole(call), headers=headers)


async def _frames(world: World, call: Call, stream: "_Chat | _Message") -> AsyncIterator[str]:
    sent = 0
    for frame in stream.start(call):
        yield frame
    while True:
        with world.clock.settled():
            pieces, over = call.pieces[sent : call.said], call.ended is not None
        for piece in pieces:
            yield stream.piece(call, piece)
        sent += len(pieces)
        if over:
            break
        await call.bell.until(partial(_has_more, call, sent))
    for frame in stream.end(call):
        yield frame


def _has_more(call: Call, sent: int) -> bool:
    return call.said > sent or call.ended is not None


def _completion(call: Call) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(call.pieces).strip()}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return _chat_body(call, "chat.completion", [choice]) | {"usage": _chat_usage(call)}


def _chat_body(call: Call, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": call.operation.id,
        "object": kind,
        "created": call.epoch,
        "model": call.model,
        "choices": choices,
    }


def _chat_usage(call: Call) -> dict[str, int]:
    return {
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.tokens,
        "total_tokens": call.prompt_tokens + call.tokens,
    }


class _Chat:
    """Writes a stream as OpenAI does."""

    def __init__(self, *, with_usage: bool) -> None:
        self._with_usage = with_usage

    def start(self, call: Call) -> Iterator[str]:
        yield self._frame(call, {"role": "assistant", "content": ""})

    def piece(self, call: Call, text: str) -> str:
        return self._frame(call, {"content": text})

    def end(self, call: Call) -> Iterator[str]:
        if call.refusal is not None:
            yield _event(call.refusal.body)
            return
        yield self._frame(call, {}, "stop")
        if self._with_usage:
            usage = {"usage": _chat_usage(call)}
            yield _event(_chat_body(call, "chat.completion.chunk", []) | usage)
        yield "data: [DONE]\n\n"

    def _frame(self, call: Call, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event(_chat_body(call, "chat.completion.chunk", [choice]))


def _message(call: Call) -> dict[str, Any]:
    text = {"type": "text", "text": "".join(call.pieces).strip()}
    body = _message_body(call, [text], "end_turn")
    body["usage"]["output_tokens"] = call.tokens
    return body


def _message_body(call: Call, content: list[Any], stop: str | None) -> dict[str, Any]:
    return {
        "id": call.operation.id,
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": call.prompt_tokens, "output_tokens": 0},
    }


class _Message:
    """Writes a stream as Anthropic does."""

    def start(self, call: Call) -> Iterator[str]:
        yield self._frame("message_start", message=_message_body(call, [], None))
        block = {"type": "text", "text": ""}
        yield self._frame("content_block_start", index=0, content_block=block)

    def piece(self, _: Call, text: str) -> str:
        delta = {"type": "text_delta", "text": text}
        return self._frame("content_block_delta", index=0, delta=delta)

    def end(self, call: Call) -> Iterator[str]:
        if call.refusal is not None:
            yield self._frame("error", **call.refusal.body)
            return
        yield self._frame("content_block_stop", index=0)
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        yield self._frame("message_delta", delta=delta, usage={"output_tokens": call.tokens})
        yield self._frame("message_stop")

    def _frame(self, kind: str, **data: Any) -> str:
        return f"event: {kind}\n{_event({'type': kind, **data})}"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
