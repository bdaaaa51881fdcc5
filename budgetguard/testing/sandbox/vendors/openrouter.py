"""OpenRouter: two balance endpoints, a chat model whose replies say what they cost, and its refusals."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from budgetguard.testing.sandbox.account import Operation, number
from budgetguard.testing.sandbox.clock import EPOCH
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendor import Handlers, Vendor

MODEL = "sandbox/parrot"
# Micro-dollars a token. Real models cost about a thousandth of that.
INPUT_TOKEN = 1_000
OUTPUT_TOKEN = 2_000
_WORDS = ("There ", "is ", "no ", "model ", "behind ", "the ", "sandbox.")
_MOST_TOKENS = 10**6
_CREDITS_PAGE = "https://openrouter.ai/settings/credits"
_KEYS_PAGE = "https://openrouter.ai/settings/keys"
_RESETS_AT = "2026-12-01T00:00:00.000Z"


class OpenRouter(Vendor):
    """It sells the tokens of chat models for US dollars.

    - `GET /key` has the shape of openrouter 1.3.84 (2026-11). The key's own limit is what the account
      has; a test may set `limit_left`, to None for a key without a limit, and `budgets`.
    - `GET /credits` is for `management_key` alone; others get 403, as documented. With
      `zeros_for_others`, they get zeros, which has been reported of the real one (2026-09).
    - `GET /models` has one model with its prices. Real ones have many more fields.
    - `POST /chat/completions` costs what its tokens cost, streamed or not. An answer has seven tokens,
      or as many as `max_tokens` allows. `usage.cost` is in the body and in a stream's last chunk. A
      client that hangs up is charged for all of it, as with providers that cannot be cancelled
      (streaming page, 2026-08). A test may set `fails_midway`: a stream then ends in an error.

    The bodies of `exhausted` and `busy`, `metadata.limit_source` and `reason` are documented (limits
    page, 2026-08), as is `key_limit` with 403 (field reports until 2026-08). That a budget is refused with
    `limit_source` and `resets_at` comes from readers of the errors page (2026-10).
    """

    name = "openrouter"
    key = "openrouter_sandbox_not_a_real_key"
    other_key = "openrouter_sandbox_other_not_a_real_key"
    management_key = "openrouter_sandbox_management_not_a_real_key"

    limit_left: float | str | None = "account"
    limit_reset: str | None = None
    budgets: Sequence[Mapping[str, Any]] = ()
    zeros_for_others = False
    fails_midway: Mapping[str, Any] | None = None

    def free(self) -> Handlers:
        """The two balances, and the models."""
        return {
            ("GET", "/key"): self._key,
            ("GET", "/credits"): self._credits,
            ("GET", "/models"): self._models,
        }

    def paid(self) -> Handlers:
        """The chat."""
        return {("POST", "/chat/completions"): self._chat}

    def refusals(self) -> Mapping[str, Refusal]:
        """The three that every vendor has, and five more of the same statuses."""
        wait = {"retry-after": f"{self.retry_after:g}"}
        return {
            "exhausted": _error(
                402,
                f"Insufficient credits. Add more using {_CREDITS_PAGE}",
                limit_source="openrouter_credits",
                remedy_hint=f"Add credits at {_CREDITS_PAGE}, or lower max_tokens / prompt size.",
            ),
            "busy": _error(
                402,
                "This request would exceed your available credits given your current in-flight "
                "requests. Retry after in-flight requests settle, or add credits.",
                wait,
                reason="in_flight_budget_exhausted",
                limit_source="openrouter_in_flight_budget",
                remedy_hint="Retry after your in-flight requests settle.",
            ),
            "key_limit": _error(
                403, f"Key limit exceeded (monthly limit). Manage it using {_KEYS_PAGE}"
            ),
            "key_limit_402": _error(
                402, "Key limit exceeded.", limit_source="openrouter_key_limit"
            ),
            "budget": _error(
                403,
                "Workspace monthly budget of $500.00 exceeded. Contact your org admin.",
                limit_source="openrouter_workspace_budget",
                resets_at=_RESETS_AT,
            ),
            "too_large": _error(
                402,
                "This request's estimated cost is larger than your in-flight budget.",
                reason="weight_exceeds_budget",
                limit_source="openrouter_credits",
            ),
            "rate_limit": _error(
                429, "Rate limit exceeded", wait, error_type="rate_limit_exceeded"
            ),
            "blocked": _error(
                403, "Request blocked: prompt injection patterns detected", patterns=["..."]
            ),
        }

    def error(self, status: int, message: str) -> Refusal:
        """An error with its status as its code."""
        return _error(status, message)

    def given_key(self, request: Request) -> str | None:
        """The management key is known to all that is free of charge."""
        given = super().given_key(request)
        manages = given == self.management_key and request.method == "GET"
        return self.key if manages else given

    def _manages(self, request: Request) -> bool:
        return super().given_key(request) == self.management_key

    def _bought(self) -> int | float:
        account = self.account
        return number(account.reported_micros() + account.reported_used_micros())

    async def _key(self, request: Request) -> Response:
        manages = self._manages(request)
        left = None if manages else self.limit_left
        left = self.left if left == "account" else left
        budgets = [] if manages else [{**_BUDGET, **each} for each in self.budgets]
        data = {
            **_KEY,
            "limit": None if left is None else self._bought(),
            "limit_remaining": left,
            "limit_reset": self.limit_reset,
            "usage": self.used,
            "is_management_key": manages,
            "is_provisioning_key": manages,
            "budgets": budgets,
            "effective_budget": min(budgets, key=lambda each: each["remaining_usd"], default=None),
        }
        return JSONResponse({"data": data})

    async def _credits(self, request: Request) -> Response:
        bought, used = self._bought(), self.used
        if not self._manages(request):
            if not self.zeros_for_others:
                raise self.error(403, "Only management keys can perform this operation")
            bought = used = 0
        return JSONResponse({"data": {"total_credits": bought, "total_usage": used}})

    async def _models(self, _: Request) -> Response:
        prompt, completion = (f"{each / 10**6:.6f}" for each in (INPUT_TOKEN, OUTPUT_TOKEN))
        pricing = {"prompt": prompt, "completion": completion, "request": "0"}
        return JSONResponse({"data": [{"id": MODEL, "name": "Parrot", "pricing": pricing}]})

    async def _chat(self, request: Request) -> Response:
        given = await self.body(request)
        if not isinstance(given.get("messages"), list):
            raise self.error(400, "messages is a list of messages.")
        limits = [given.get(name) for name in ("max_tokens", "max_completion_tokens")]
        whole = [each for each in limits if each is not None]
        if any(type(each) is not int or not 1 <= each <= _MOST_TOKENS for each in whole):
            raise self.error(400, f"The limit of tokens is a number from 1 to {_MOST_TOKENS:,}.")
        words = _WORDS[: min(whole, default=len(_WORDS))]
        prompt = max(1, sum(len(str(each.get("content", ""))) for each in given["messages"]) // 4)
        micros = prompt * INPUT_TOKEN + len(words) * OUTPUT_TOKEN
        operation = self.charge(number(micros), "chat")
        answer = _Answer(str(given.get("model", MODEL)), words, prompt, operation)
        if given.get("stream") is True:
            chunks = answer.chunks(self.fails_midway)
            return StreamingResponse(chunks, media_type="text/event-stream")
        return JSONResponse(answer.whole())


class _Answer:
    """An answer, and its two forms."""

    def __init__(self, model: str, words: Sequence[str], prompt: int, operation: Operation) -> None:
        self._words = words
        self._head = {
            "id": f"gen-{operation.id}",
            "created": int(EPOCH.timestamp()),
            "model": model,
            "provider": "Sandbox",
        }
        self._usage = {
            "prompt_tokens": prompt,
            "completion_tokens": len(words),
            "total_tokens": prompt + len(words),
            "cost": number(operation.micros),
            "is_byok": False,
        }

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self._words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            **self._head,
            "object": "chat.completion",
            "system_fingerprint": None,
            "choices": [choice],
            "usage": self._usage,
        }

    async def chunks(self, error: Mapping[str, Any] | None) -> AsyncIterator[str]:
        """The frames of a stream, with a comment first, as OpenRouter sends them to pass the time."""
        yield ": OPENROUTER PROCESSING\n\n"
        for word in self._words[:1] if error else self._words:
            yield self._chunk(word)
        if error:
            yield self._chunk("", "error", error=error)
            return
        yield self._chunk("", "stop")
        yield self._chunk("", usage=self._usage)
        yield "data: [DONE]\n\n"

    def _chunk(self, text: str, finish: str | None = None, **more: Any) -> str:
        delta = {"role": "assistant", "content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}
        return f"data: {json.dumps(chunk)}\n\n"


def _error(
    status: int, message: str, headers: Mapping[str, str] | None = None, **metadata: Any
) -> Refusal:
    error: dict[str, Any] = {"code": status, "message": message}
    return Refusal(status, {"error": error | ({"metadata": metadata} if metadata else {})}, headers)


_BUDGET: Mapping[str, Any] = {
    "budget_id": None,
    "guardrail_id": None,
    "include_byok": False,
    "limit_usd": 500,
    "spend_usd": 0,
    "remaining_usd": 500,
    "reset_interval": "monthly",
    "resets_at": _RESETS_AT,
    "scope": "workspace",
}
# The fields that OpenRouter's SDK requires, and no decision depends on.
_KEY: Mapping[str, Any] = {
    "label": "openrouter_...key",
    "usage_daily": 0,
    "usage_weekly": 0,
    "usage_monthly": 0,
    "byok_usage": 0,
    "byok_usage_daily": 0,
    "byok_usage_weekly": 0,
    "byok_usage_monthly": 0,
    "include_byok_in_limit": False,
    "is_free_tier": False,
    "expires_at": None,
    "allowed_data_regions": ["global"],
    "creator_user_id": None,
    "organization_id": None,
    "workspace_id": None,
    "free_model_daily_requests": {"used": 0, "limit": 50, "remaining": 50},
    "rate_limit": {"requests": -1, "interval": "10s", "note": "Deprecated."},
}
