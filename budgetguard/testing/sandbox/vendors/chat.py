"""Calls of chat models in OpenAI's shape, charged by the token; what DeepSeek and Moonshot share."""

import json
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, ClassVar, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from budgetguard.testing.sandbox.account import Operation
from budgetguard.testing.sandbox.clock import EPOCH
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendor import Handlers, Vendor

# Invented: the length of an answer, and how many bytes of a request make a token of its prompt.
_TOKENS = 100
_BYTES = 4
_WORDS = ("No", " model", " is", " behind", " the", " sandbox.")
_MICRO = Decimal("0.000001")


class Rates(NamedTuple):
    """A model's prices for a million tokens: of new input, of input in the cache, and of output."""

    input: Decimal
    cached: Decimal
    output: Decimal


class Answer(NamedTuple):
    """One answer of a model, paid when it is complete."""

    operation: Operation
    model: str
    created: int
    prompt: int
    cached: int
    output: int

    def body(self, kind: str, choice: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """A reply, or a chunk of one, with one choice."""
        return {
            "id": self.operation.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "finish_reason": None, **choice}],
            **more,
        }


class ChatVendor(Vendor):
    """A vendor of chat models. A subclass sets `models`, and writes `usage` and `end`.

    - `cached`: the most tokens of each prompt that are in the vendor's cache. A test may set it.
    """

    models: ClassVar[Mapping[str, Rates]]
    cached: int = 0

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The tokens of an answer, in the vendor's own names."""
        raise NotImplementedError

    def end(self, answer: Answer, *, asked: bool) -> Iterator[dict[str, Any]]:
        """The last chunks of a stream; `asked` says whether the request wants its usage."""
        raise NotImplementedError

    def paid(self) -> Handlers:
        """The answers, at OpenAI's two paths."""
        paths = ("/chat/completions", "/v1/chat/completions")
        return {("POST", path): self._answer for path in paths}

    def rates(self, model: str, created: int) -> Rates:
        """The prices of a model at that time (s since the epoch)."""
        del created
        return self.models[model]

    async def _answer(self, request: Request) -> Response:
        given = await self.body(request)
        answer = self._paid(given, len(await request.body()))
        if given.get("stream") is True:
            options = given.get("stream_options")
            asked = isinstance(options, dict) and options.get("include_usage") is True
            frames = self._frames(answer, asked=asked)
            return StreamingResponse(frames, media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(_WORDS)}
        choice = {"message": message, "finish_reason": "stop"}
        return JSONResponse(answer.body("chat.completion", choice, usage=self.usage(answer)))

    def _paid(self, given: Mapping[str, Any], size: int) -> Answer:
        model, messages = given.get("model"), given.get("messages")
        if not isinstance(model, str) or not isinstance(messages, list) or not messages:
            raise self.error(400, "A request has a model and messages.")
        if model not in self.models:
            raise self.error(404, "The model does not exist.")
        limit = self._limit(given)
        with self.clock.settled() as now:
            created = int(EPOCH.timestamp() + now)
            rates = self.rates(model, created)
            prompt = max(1, size // _BYTES)
            cached, output = min(self.cached, prompt), min(limit, _TOKENS)
            parts = zip(rates, (prompt - cached, cached, output), strict=True)
            cost = sum((rate * tokens for rate, tokens in parts), Decimal(0)) * _MICRO
            operation = self.charge(cost.quantize(_MICRO, ROUND_CEILING), "answer")
        return Answer(operation, model, created, prompt, cached, output)

    def _limit(self, given: Mapping[str, Any]) -> int:
        for name in ("max_completion_tokens", "max_tokens"):
            limit = given.get(name)
            if limit is None:
                continue
            if type(limit) is not int or limit < 1:
                raise self.error(400, f"{name} is a whole number above zero.")
            return limit
        return _TOKENS

    def _frames(self, answer: Answer, *, asked: bool) -> Iterator[str]:
        null = {"usage": None} if asked else {}
        for word in _WORDS:
            delta = {"delta": {"role": "assistant", "content": word}}
            yield _frame(answer.body("chat.completion.chunk", delta, **null))
        for chunk in self.end(answer, asked=asked):
            yield _frame(chunk)
        yield "data: [DONE]\n\n"


def openai_error(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Refusal:
    """An error in the shape of OpenAI's."""
    return Refusal(status, {"error": {"message": message, "type": kind, **more}}, headers)


def _frame(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
