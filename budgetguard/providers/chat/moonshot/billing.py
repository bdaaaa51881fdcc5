"""What Moonshot's requests cost, and what its replies say (platform.kimi.ai, 2026-11)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final

from budgetguard._core.provider_refusal import EXHAUSTED, ProviderRefusal
from budgetguard.providers._tokens import ChatRequest, TokenPrice
from budgetguard.providers.billing import REFUSED, BillingReply, Prices
from budgetguard.providers.chat.billing import ChatBilling, error_in, unpriced

_LONG = 1_048_576
_SHORT = 262_144
# A reply of the K2 models has 32,768 tokens if its request does not say, but a page says 1,024 of all models.
_DEFAULT = 32_768
_K3_DEFAULT = 131_072


def _k3(cached: str, input: str, output: str, written: str) -> TokenPrice:
    """K3 charges for what it stores in its cache; `written` is for an hour, and `input` for five minutes."""
    return TokenPrice(
        input, output, cached=cached, written=written, context=_LONG, longest=_K3_DEFAULT
    )


def _k2(cached: str, input: str, output: str) -> TokenPrice:
    return TokenPrice(input, output, cached=cached, context=_SHORT, longest=_DEFAULT)


PRICES: Final[Mapping[str, Mapping[str, TokenPrice]]] = {
    "USD": {
        "kimi-k3.1-pro": _k3("0.20", "2", "10", "4"),
        "kimi-k3.1-pro-highspeed": _k3("0.20", "4", "20", "8"),
        "kimi-k3": _k3("0.30", "3", "15", "6"),
        "kimi-k2.7-code": _k2("0.19", "0.95", "4"),
        "kimi-k2.7-code-highspeed": _k2("0.38", "1.90", "8"),
        "kimi-k2.6": _k2("0.16", "0.95", "4"),
    },
    "CNY": {
        "kimi-k3": _k3("2", "20", "100", "40"),
        "kimi-k2.7-code": _k2("1.30", "6.50", "27"),
        "kimi-k2.6": _k2("1.10", "6.50", "27"),
    },
}
# The time that a request may ask for, in the field `prompt_cache_options.ttl` and in Anthropic's `cache_control`.
_FOR_AN_HOUR = b'"1h"'


class MoonshotBilling(ChatBilling):
    """Reads Moonshot's replies; `models` are priced in the account's currency."""

    prices: ClassVar[Prices] = {
        ("POST", "/v1/batches"): unpriced("a batch"),
        ("POST", "/v1/formulas/**"): unpriced("a tool that the vendor runs"),
    }
    paths: ClassVar = {
        "/v1/chat/completions": "max_completion_tokens",
        "/v1/responses": "max_output_tokens",
        "/anthropic/v1/messages": "max_tokens",
    }
    lacks = "exceeded_current_quota_error"

    def price_for(self, asked: ChatRequest) -> TokenPrice:
        """The dearer price of what is stored for an hour counts only where a request asks for that."""
        price = super().price_for(asked)
        return price if _FOR_AN_HOUR in asked.content else replace(price, written=None)

    def price_by_reply(self, model: str) -> TokenPrice | None:
        """With the price of what is stored as by default, which is for five minutes."""
        price = super().price_by_reply(model)
        return None if price is None else replace(price, written=None)

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """By the type of the error, which is the same with status 429 and 403; most 429 are rate limits."""
        if reply.status in REFUSED:
            kind, message = error_in(reply)
            if kind == self.lacks or "insufficient balance" in message:
                return EXHAUSTED
        return super().classify(reply)
