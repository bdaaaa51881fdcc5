"""Moonshot, the vendor of the Kimi models."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import ConfigurationError
from budgetguard._io.base_url import find_base_url
from budgetguard.providers._tokens import TokenPrice
from budgetguard.providers.chat.billing import known_models
from budgetguard.providers.chat.moonshot.billing import PRICES, MoonshotBilling
from budgetguard.providers.http_provider import HTTPProvider

if TYPE_CHECKING:
    import httpx

_CURRENCIES = {".moonshot.ai": "USD", ".moonshot.cn": "CNY"}
_TOP_UP = {"USD": "https://platform.kimi.ai", "CNY": "https://platform.kimi.com"}
# What a base URL of OpenAI's or Anthropic's client ends in.
_CLIENTS = re.compile(r"(/anthropic)?(/v1)?$")


class Moonshot(HTTPProvider):
    """An account at Moonshot, the vendor of the Kimi models.

    The key is `api_key`, or else MOONSHOT_API_KEY from the environment. Requests go to `base_url`, or else to
    MOONSHOT_BASE_URL, or else to https://api.moonshot.ai; what clients add to it, such as /v1, is
    removed. The host decides the currency: https://api.moonshot.ai has accounts in USD, and
    https://api.moonshot.cn others in CNY, with other keys. Of any other host, such as a proxy, `currency`, or
    else MOONSHOT_CURRENCY, says it: "USD" or "CNY".

    `PRICES` are the prices by currency and model, per million tokens (pricing pages and who quotes them,
    2026-11, see docs/providers/moonshot.md). `prices_per_model` adds to them, or replaces them:
    `{"kimi-k3": TokenPrice(3, 15, cached="0.3")}`. A call holds the most that it can cost by them: set
    `max_completion_tokens` in requests. A model without a price is refused with status 400.

    `account`, `extra_credits`, `topup_step` and `trust_env` are those of `HTTPProvider`. Raises
    ConfigurationError for an invalid key, base URL or currency, and TypeError or ValueError for other invalid
    arguments.

    Charges are deducted after "a few minutes" (Moonshot's answer in its forum, topic 111, 2026), hence `lag`
    (s). `linger` (s), how long it may go on for a client that has gone, is not documented.
    """

    PRICES: Final = PRICES

    name = "Moonshot"
    variable = "MOONSHOT_API_KEY"
    url_variable = "MOONSHOT_BASE_URL"
    base_url = "https://api.moonshot.ai"
    top_up_url = _TOP_UP["USD"]
    unit = "USD"
    lag = 600.0
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
        url = find_base_url(base_url, self.url_variable, self.base_url)
        self.unit = _find_currency(currency, url)
        self.top_up_url = _TOP_UP[self.unit]
        super().__init__(
            api_key,
            base_url=_CLIENTS.sub("", url),
            account=account,
            extra_credits=extra_credits,
            topup_step=topup_step,
            trust_env=trust_env,
        )
        models = known_models(PRICES[self.unit], prices_per_model)
        self.billing = billing = MoonshotBilling(models)
        self.prices = billing.all_prices()

    def _identity(self, *parts: str) -> str:
        return super()._identity(*parts, self.unit)

    def __repr__(self) -> str:
        return f"Moonshot(currency={self.unit!r}, base_url={self.base_url!r})"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        reply = await self.get_fields(client, "/v1/users/me/balance")
        if reply.credits("code") != 0 or not reply.flag("status"):
            reason = "the provider reported a failure" + f": {reply.said}" * bool(reply.said)
            raise reply.nonsense(reason)
        # What can be spent: the voucher alone where the cash is below zero (balance page, 2026-11).
        return Balance(credits=reply.inner("data").credits("available_balance"), unit=self.unit)


def _find_currency(given: str | None, url: str) -> str:
    if given is not None and not isinstance(given, str):
        msg = f"currency takes a str, not {type(given).__name__}"
        raise TypeError(msg)
    host = urlsplit(url).hostname or ""
    of_host = next((each for end, each in _CURRENCIES.items() if host.endswith(end)), None)
    value = os.environ.get("MOONSHOT_CURRENCY", "").strip() if given is None else given
    if value and value not in PRICES:
        # Not quoted in the message: it may be the key, passed in the wrong place.
        msg = f"currency (or MOONSHOT_CURRENCY) must be {' or '.join(PRICES)}."
        raise ConfigurationError(msg)
    if of_host and value not in ("", of_host):
        msg = f"Accounts at {host} are in {of_host}, and currency (or MOONSHOT_CURRENCY) says {value}."
        raise ConfigurationError(msg)
    if not value and not of_host:
        msg = (
            "The currency of an account is known only at api.moonshot.ai (USD) and "
            "api.moonshot.cn (CNY): for another base_url, pass currency= or set MOONSHOT_CURRENCY."
        )
        raise ConfigurationError(msg)
    return value or str(of_host)
