"""DeepSeek."""

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import ConfigurationError
from budgetguard._core.events import logger
from budgetguard._io.base_url import find_base_url
from budgetguard.providers._fields import Fields
from budgetguard.providers._tokens import TokenPrice
from budgetguard.providers.chat.billing import known_models
from budgetguard.providers.chat.deepseek.billing import PRICES, DeepSeekBilling
from budgetguard.providers.http_provider import HTTPProvider

if TYPE_CHECKING:
    import httpx

_CURRENCY = re.compile("[A-Z]{3}")
# What a base URL of OpenAI's or Anthropic's client ends in.
_CLIENTS = re.compile(r"(/anthropic)?(/v1|/beta)?$")


class DeepSeek(HTTPProvider):
    """An account at DeepSeek, in one of its currencies.

    The key is `api_key`, or else DEEPSEEK_API_KEY from the environment. Requests go to `base_url`, or else to
    DEEPSEEK_BASE_URL, or else to https://api.deepseek.com; what clients add to it, such as /v1, is
    removed. `currency` is "USD" or "CNY", by default what DEEPSEEK_CURRENCY says, or else "USD". An account
    may have a balance in each of them. They are never added up, and one that is not there is an error which
    names those that are.

    `PRICES` are the documented prices by currency and model, per million tokens in the peak hours. They are
    half as high at other times (pricing page, 2026-10). `prices_per_model` adds to them, or replaces them:
    `{"deepseek-flash": TokenPrice("0.3", "1.2", cached="0.006")}`. A call holds the most that it can cost by
    them: set `max_tokens` in requests, which otherwise may have 393,216 tokens of reply. A model without a
    price is refused with status 400.

    `account`, `extra_credits`, `topup_step` and `trust_env` are those of `HTTPProvider`. Raises
    ConfigurationError for an invalid key, base URL or currency, and TypeError or ValueError for other invalid
    arguments.

    The balance shows charges late: a user saw 14 % of the cost of an hour's work come within the half hour
    after it (2026-09, see docs/providers/deepseek.md), hence `lag` (s). `linger` (s) is how long a request may
    wait for its inference to begin (rate limit page, 2026-11).
    """

    PRICES: Final = PRICES

    name = "DeepSeek"
    variable = "DEEPSEEK_API_KEY"
    url_variable = "DEEPSEEK_BASE_URL"
    base_url = "https://api.deepseek.com"
    top_up_url = "https://platform.deepseek.com/top_up"
    unit = "USD"
    lag = 1800.0
    linger = 600.0

    @clean_traceback
    def __init__(
        self,
        api_key: str | None = None,
        *,
        currency: str | None = None,
        prices_per_model: Mapping[str, TokenPrice] | None = None,
        base_url: str | None = None,
        account: str | None = None,
        extra_credits: Amount = 0,
        topup_step: Amount | None = None,
        trust_env: bool = False,
    ) -> None:
        self.unit = _find_currency(currency)
        url = find_base_url(base_url, self.url_variable, self.base_url)
        super().__init__(
            api_key,
            base_url=_CLIENTS.sub("", url),
            account=account,
            extra_credits=extra_credits,
            topup_step=topup_step,
            trust_env=trust_env,
        )
        models = known_models(PRICES[self.unit], prices_per_model)
        self.billing = billing = DeepSeekBilling(models, self.unit)
        self.prices = billing.all_prices()
        self._was_unavailable = False

    def _identity(self, *parts: str) -> str:
        return super()._identity(*parts, self.unit)

    def __repr__(self) -> str:
        return f"DeepSeek(currency={self.unit!r}, base_url={self.base_url!r})"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`.

        If DeepSeek says that it does not suffice for calls (`is_available` is false), it counts as zero.
        """
        reply = await self.get_fields(client, "/user/balance")
        left = _balance_in(reply, self.unit)
        available = reply.flag("is_available")
        self._note(left, available=available)
        return Balance(credits=left if available else min(left, Decimal(0)), unit=self.unit)

    def _note(self, left: Decimal, *, available: bool) -> None:
        """Log once why a balance counts as zero."""
        unavailable = left > 0 and not available
        if unavailable and not self._was_unavailable:
            logger.warning(
                "DeepSeek reports %s %s, and that the account cannot make calls (is_available is "
                "false): it counts as zero",
                left,
                self.unit,
            )
        self._was_unavailable = unavailable


def _balance_in(reply: Fields, currency: str) -> Decimal:
    """The balance in that currency; their order in the reply changes from request to request."""
    found: dict[str, Decimal] = {}
    for entry in reply.objects("balance_infos"):
        theirs = entry.text("currency") or ""
        if not _CURRENCY.fullmatch(theirs):
            msg = "currency in the provider's reply is not the code of a currency"
            raise reply.nonsense(msg)
        if theirs in found:
            msg = f"the provider's reply has two balances in {theirs}"
            raise reply.nonsense(msg)
        found[theirs] = entry.decimal_text("total_balance")
    if currency not in found:
        others = " and ".join(sorted(found)) or "no currency"
        msg = (
            f"the account has no balance in {currency}, but in {others}. "
            "Pass currency= to DeepSeek, or set DEEPSEEK_CURRENCY"
        )
        raise reply.nonsense(msg)
    return found[currency]


def _find_currency(given: str | None) -> str:
    value = os.environ.get("DEEPSEEK_CURRENCY", "").strip() or "USD" if given is None else given
    if not isinstance(value, str):
        msg = f"currency takes a str, not {type(value).__name__}"
        raise TypeError(msg)
    if value not in PRICES:
        # Not quoted in the message: it may be the key, passed in the wrong place.
        msg = f"currency (or DEEPSEEK_CURRENCY) must be {' or '.join(PRICES)}."
        raise ConfigurationError(msg)
    return value
