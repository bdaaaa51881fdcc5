"""What DeepSeek's requests cost, and what its replies say (api-docs.deepseek.com, 2026-11)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import ClassVar, Final

from budgetguard._core.amounts import LIMIT
from budgetguard._core.provider_refusal import EXHAUSTED, ProviderRefusal
from budgetguard.providers._tokens import TokenCount, TokenPrice, usage_of
from budgetguard.providers.billing import REFUSED, BillingReply, Prices, value_at
from budgetguard.providers.chat.billing import ChatBilling, error_in

_CONTEXT = 1_048_576
_LONGEST = 393_216


def _model(cached: str, input: str, output: str) -> TokenPrice:
    return TokenPrice(
        input, output, cached=cached, context=_CONTEXT, longest=_LONGEST, off_peak="0.5"
    )


def _models(flash: TokenPrice, pro: TokenPrice) -> Mapping[str, TokenPrice]:
    # The three are served by one model at one price (pricing page, 2026-10).
    names = ("deepseek-flash", "deepseek-v4-flash", "deepseek-v4-flash-vision-exp")
    return {**dict.fromkeys(names, flash), "deepseek-v4-pro": pro}


PRICES: Final[Mapping[str, Mapping[str, TokenPrice]]] = {
    "USD": _models(_model("0.006", "0.3", "1.2"), _model("0.044", "1.32", "3.96")),
    "CNY": _models(_model("0.04", "2", "8"), _model("0.30", "9", "27")),
}
_TOOL_CALL: Final[Mapping[str, Decimal]] = {"USD": Decimal("0.00075"), "CNY": Decimal("0.005")}
_TOOLS = ("/v1/tools/search", "/v1/tools/fetch")

# The first and last of the peak hours (UTC). Between them are two hours that are not, which the margin covers.
_PEAK = range(1, 10)
_SATURDAY = 5
# It is not documented whether a request is priced by its beginning or by its end.
_MARGIN = timedelta(hours=2)


class DeepSeekBilling(ChatBilling):
    """Reads DeepSeek's replies; `currency` is that of the account, and `models` are priced in it."""

    paths: ClassVar = {
        "/chat/completions": "max_tokens",
        "/v1/chat/completions": "max_tokens",
        "/beta/chat/completions": "max_tokens",
        "/completions": "max_tokens",
        "/v1/completions": "max_tokens",
        "/beta/completions": "max_tokens",
        "/responses": "max_output_tokens",
        "/v1/responses": "max_output_tokens",
        "/anthropic/v1/messages": "max_tokens",
    }
    lacks = "insufficient_balance"

    def __init__(self, models: Mapping[str, TokenPrice], currency: str) -> None:
        super().__init__(models)
        self._tool_call = _TOOL_CALL[currency]

    def all_prices(self) -> Prices:
        """Those of the models, and of a search and a fetch of a page."""
        return {**super().all_prices(), **{("POST", path): self._tool_call for path in _TOOLS}}

    def charged(self, reply: BillingReply, used: TokenCount, price: TokenPrice) -> Decimal:
        """At half the price where the reply began well outside of the peak hours, and with each search."""
        created = reply.last("created") or value_at(reply.last("response"), "created_at")
        cost = price.cost(used, off_peak=_is_off_peak(created or reply.last("created_at")))
        return cost + self._searches(reply)

    def _searches(self, reply: BillingReply) -> Decimal:
        used = value_at(usage_of(reply), "server_tool_use")
        counts = used.values() if isinstance(used, dict) else ()
        costs = (
            each * self._tool_call if each < LIMIT else LIMIT
            for each in counts
            if isinstance(each, Decimal) and each >= 0
        )
        return sum(costs, Decimal())

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """A 402, and an "Insufficient Balance" with any other status of a refusal."""
        if reply.status in REFUSED and error_in(reply)[1] == "insufficient balance":
            return EXHAUSTED
        return super().classify(reply)


def _is_off_peak(created: object) -> bool:
    """Whether a reply that began then (s since the epoch) is surely charged at the lower price.

    China's public holidays have that price as well, and are not known here.
    """
    if not isinstance(created, Decimal):
        return False
    try:
        began = datetime.fromtimestamp(int(created), UTC)
        return not any(map(_is_peak, (began - _MARGIN, began, began + _MARGIN)))
    except (ValueError, OverflowError, OSError):
        return False


def _is_peak(at: datetime) -> bool:
    return at.weekday() < _SATURDAY and at.hour in _PEAK
