"""Moonshot's API, as its pages describe it (platform.kimi.ai, 2026-11)."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendor import Handlers
from budgetguard.testing.sandbox.vendors.chat import Answer, ChatVendor, Rates, openai_error

_K3 = Rates(Decimal(3), Decimal("0.3"), Decimal(15))
_K26 = Rates(Decimal("0.95"), Decimal("0.16"), Decimal(4))
_QUOTA = "exceeded_current_quota_error"
_SUSPENDED = (
    "Your account org-0 <ak-0> is suspended due to insufficient balance, please recharge your "
    "account or check your plan and billing details"
)
_INACTIVE = (
    "Your account org-0 <ak-0> is not active, organization org-0 exceeded current quota, please "
    "check your plan and billing details"
)


class Moonshot(ChatVendor):
    """It sells answers of chat models for US dollars.

    - `GET /v1/users/me/balance` replies with `data.available_balance`, a number. Once the cash is
      below zero, what is available is the voucher, and there is none here.
    - `POST /v1/chat/completions` is charged by the token. The last choice of a stream has the usage;
      a request that asks for it gets a chunk with it as well.
    - An empty account gets 429, or 403 in an account that never was paid into. Only the `type` of
      the error tells that 429 from a rate limit. The types are documented (errors page), the
      messages are as users report them.
    """

    name = "moonshot"
    key = "sk-moonshot_sandbox_not_a_real_key"
    other_key = "sk-moonshot_sandbox_other_not_a_real_key"
    models: ClassVar = {"kimi-k3": _K3, "kimi-k2.6": _K26}

    def free(self) -> Handlers:
        """The balance."""
        return {("GET", "/v1/users/me/balance"): self._balance}

    def refusals(self) -> Mapping[str, Refusal]:
        """A lack of credits with two statuses, and others that have one of them too."""
        limit = "Your account reached organization max RPM: 3, please try again after 1 seconds"
        overloaded = "The engine is currently overloaded, please try again later"
        return {
            "exhausted": openai_error(429, _QUOTA, _SUSPENDED),
            "exhausted_inactive": openai_error(403, _QUOTA, _INACTIVE),
            "not_credits_rate": openai_error(429, "rate_limit_reached_error", limit),
            "not_credits_overload": openai_error(429, "engine_overloaded_error", overloaded),
            "not_credits_denied": openai_error(403, "permission_denied_error", "Permission denied"),
        }

    def error(self, status: int, message: str) -> Refusal:
        """An error with the type that its status usually has."""
        kinds = {401: "invalid_authentication_error", 404: "resource_not_found_error"}
        return openai_error(status, kinds.get(status, "invalid_request_error"), message)

    def usage(self, answer: Answer) -> dict[str, Any]:
        """With the tokens that were in the cache, at the top."""
        return {
            "prompt_tokens": answer.prompt,
            "completion_tokens": answer.output,
            "total_tokens": answer.prompt + answer.output,
            "cached_tokens": answer.cached,
        }

    def end(self, answer: Answer, *, asked: bool) -> Iterator[dict[str, Any]]:
        """The usage is in the last choice, and again in a chunk of its own if it was asked for."""
        usage = self.usage(answer)
        choice = {"delta": {}, "finish_reason": "stop", "usage": usage}
        yield answer.body("chat.completion.chunk", choice)
        if asked:
            yield {**answer.body("chat.completion.chunk", {}), "choices": [], "usage": usage}

    async def _balance(self, _: Request) -> Response:
        cash = self.left
        data = {
            "available_balance": max(cash, 0),
            "voucher_balance": 0,
            "cash_balance": cash,
        }
        return JSONResponse({"code": 0, "data": data, "scode": "0x0", "status": True})
