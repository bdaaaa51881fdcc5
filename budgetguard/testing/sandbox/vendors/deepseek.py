"""DeepSeek's API, as its pages describe it (api-docs.deepseek.com, 2026-11)."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from budgetguard.testing.sandbox.account import credits_of
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendor import Handlers
from budgetguard.testing.sandbox.vendors.chat import Answer, ChatVendor, Rates, openai_error

_FLASH = Rates(Decimal("0.3"), Decimal("0.006"), Decimal("1.2"))
_PRO = Rates(Decimal("1.32"), Decimal("0.044"), Decimal("3.96"))
_PEAK = ((1, 4), (6, 10))
_SATURDAY = 5


class DeepSeek(ChatVendor):
    """It sells answers of chat models for US dollars, at half the price outside of the peak hours.

    - `GET /user/balance` replies with one entry per currency, amounts as text: dollars, and an empty
      entry of yuan before them. Real balances have two decimals; these have up to six.
    - `POST /chat/completions` is charged by the token. The last chunk of a stream has the usage,
      whether the request asks for it or not.
    - An empty account gets 402, too many requests 429. The statuses and the first of the messages
      are documented (error codes page); the rest of the bodies are as users report them.
    """

    name = "deepseek"
    key = "sk-deepseek_sandbox_not_a_real_key"
    other_key = "sk-deepseek_sandbox_other_not_a_real_key"
    models: ClassVar = {"deepseek-flash": _FLASH, "deepseek-v4-pro": _PRO}

    def free(self) -> Handlers:
        """The balance."""
        return {("GET", "/user/balance"): self._balance}

    def refusals(self) -> Mapping[str, Refusal]:
        """A lack of credits, too many requests, and an overloaded server."""
        return {
            "exhausted": self._error(402, "Insufficient Balance", "unknown_error"),
            "not_credits": self._error(429, "Rate Limit Reached", "rate_limit_error"),
            "overloaded": self._error(503, "Server Overloaded", "service_unavailable_error"),
        }

    def error(self, status: int, message: str) -> Refusal:
        """An error in OpenAI's shape."""
        return self._error(status, message, "invalid_request_error")

    def rates(self, model: str, created: int) -> Rates:
        """Full prices in the peak hours of a weekday, and half of them at other times (UTC)."""
        full, at = self.models[model], datetime.fromtimestamp(created, UTC)
        peak = at.weekday() < _SATURDAY and any(start <= at.hour < end for start, end in _PEAK)
        return full if peak else Rates(*(rate / 2 for rate in full))

    def usage(self, answer: Answer) -> dict[str, Any]:
        """With the tokens that were in the cache, and those that were not."""
        return {
            "prompt_tokens": answer.prompt,
            "completion_tokens": answer.output,
            "total_tokens": answer.prompt + answer.output,
            "prompt_tokens_details": {"cached_tokens": answer.cached},
            "prompt_cache_hit_tokens": answer.cached,
            "prompt_cache_miss_tokens": answer.prompt - answer.cached,
        }

    def end(self, answer: Answer, *, asked: bool) -> Iterator[dict[str, Any]]:
        """The chunk with the reason to stop has the usage as well."""
        del asked
        choice = {"delta": {"content": ""}, "finish_reason": "stop"}
        yield answer.body("chat.completion.chunk", choice, usage=self.usage(answer))

    def _error(self, status: int, message: str, kind: str) -> Refusal:
        return openai_error(status, kind, message, param=None, code="invalid_request_error")

    async def _balance(self, _: Request) -> Response:
        left = credits_of(self.account.reported_micros())
        entries = [_entry("CNY", Decimal(0)), _entry("USD", left)]
        return JSONResponse({"is_available": left > 0, "balance_infos": entries})


def _entry(currency: str, amount: Decimal) -> dict[str, str]:
    # At least two decimals, as in the documented example.
    text = f"{amount:.2f}" if amount == amount.quantize(Decimal("0.01")) else f"{amount:f}"
    return {
        "currency": currency,
        "total_balance": text,
        "granted_balance": "0.00",
        "topped_up_balance": text,
    }
