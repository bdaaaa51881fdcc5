"""OpenRouter."""

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import BalanceUnavailable, InvalidCredentials
from budgetguard._io.credentials import Credential
from budgetguard.providers._account import find_key
from budgetguard.providers._fields import Fields
from budgetguard.providers._tokens import TokenPrice
from budgetguard.providers.billing import Prices
from budgetguard.providers.http_provider import HTTPProvider
from budgetguard.providers.openrouter.billing import CALL, OpenRouterBilling, reset_at
from budgetguard.providers.openrouter.prices import PriceList

if TYPE_CHECKING:
    import httpx

_MANAGEMENT = "OPENROUTER_MANAGEMENT_KEY"
_UNKNOWN = (
    "this key has no limit of its own, so it does not show what the account has left: pass "
    f"management_key=, or set {_MANAGEMENT} (openrouter.ai/settings/management-keys), or give "
    "the key a limit"
)
_NOT_MANAGING = (
    f"management_key= (or {_MANAGEMENT}) is not a management key, and only such a key shows what the "
    "account has left: create one at openrouter.ai/settings/management-keys"
)


class _Left(NamedTuple):
    """What one limit, or the account, still has in USD, and when it renews."""

    usd: Decimal
    renews_at: datetime | None = None


class OpenRouter(HTTPProvider):
    """An account at OpenRouter; all amounts are US dollars, which OpenRouter also calls credits.

    The key is `api_key`, or else OPENROUTER_API_KEY from the environment; the management key is
    `management_key`, or else OPENROUTER_MANAGEMENT_KEY, and may be left out. Requests go to `base_url`,
    or else to OPENROUTER_BASE_URL, or else to https://openrouter.ai/api/v1. The other arguments and the
    errors are those of `HTTPProvider`.

    The balance is the least of what `GET /key` shows: the key's own limit, and the budgets of its workspace
    and guardrails. A limit of null means that the key has none (limits page, 2026-08). What the account
    itself has left is shown to a management key alone (`GET /credits`, API reference, 2026-08); with one,
    the balance is the smaller of both, and may be negative. A key without any limit has an unknown balance
    without a management key: BalanceUnavailable.

    `prices_per_model` maps models to their `pricing` objects, as `GET /api/v1/models` gives them, in USD a
    token. With it, a request that names only models of the list, that limits its answer (`max_tokens` and
    the like) and in which nothing but tokens is paid is held at the most that it can cost by these
    prices. Every other request is held at CALL at first, and then at what the calls of its model cost:
    `learned(CALL, by=model)`. CALL is no price: OpenRouter has none per call. Raises TypeError or
    ValueError for an invalid list. `prices` lists the requests that a transport guards.

    OpenRouter does not document how long it takes to post a charge (`lag`, s), nor how long a model
    continues to write for a client that gave up (`linger`, s): only some providers stop then, and only for
    streams (streaming page, 2026-08).
    """

    CALL: Final = CALL

    billing = OpenRouterBilling()
    prices: Prices | None = billing.prices

    name = "OpenRouter"
    variable = "OPENROUTER_API_KEY"
    url_variable = "OPENROUTER_BASE_URL"
    unit = "USD"
    top_up_url = "https://openrouter.ai/settings/credits"
    lag = 60.0
    linger = 600.0

    base_url = "https://openrouter.ai/api/v1"

    @clean_traceback
    def __init__(
        self,
        api_key: str | None = None,
        management_key: str | None = None,
        *,
        prices_per_model: Mapping[str, Mapping[str, Any] | TokenPrice] | None = None,
        base_url: str | None = None,
        account: str | None = None,
        extra_credits: Amount = 0,
        topup_step: Amount | None = None,
        trust_env: bool = False,
    ) -> None:
        managing = None
        if management_key is not None or os.environ.get(_MANAGEMENT, "").strip():
            managing = find_key(
                management_key, provider="OpenRouter management", variable=_MANAGEMENT
            )
        del management_key
        if isinstance(managing, Exception):
            raise managing
        super().__init__(
            api_key,
            base_url=base_url,
            account=account,
            extra_credits=extra_credits,
            topup_step=topup_step,
            trust_env=trust_env,
        )
        self._management = None
        if managing is not None:
            own = self._credential
            self._management = replace(own, key=managing, beside=(own.key,))
            self._credential = replace(own, beside=(managing,))
        if prices_per_model is not None:
            self.billing = billing = OpenRouterBilling(PriceList(prices_per_model))
            self.prices = billing.prices_of_account()

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        fields = await self.get_fields(client, "/key")
        found = _limits(fields.inner("data"))
        if self._management is not None:
            found.append(_Left(await self._account_has(client, self._management)))
        if not found:
            raise fields.nonsense(_UNKNOWN)
        least = min(found, key=lambda each: (each.usd, each.renews_at is None))
        return Balance(credits=least.usd, unit=self.unit, renews_at=least.renews_at)

    async def _account_has(self, client: "httpx.AsyncClient", management: Credential) -> Decimal:
        """What the account has left, which may be negative."""
        try:
            data = await self._data(client, "/credits", management)
        except InvalidCredentials as error:
            reason = f"{error.reason}, which is the one in management_key= or {_MANAGEMENT}"
            problem: BalanceUnavailable = InvalidCredentials(provider=self.name, reason=reason)
        else:
            bought, used = data.credits("total_credits"), data.credits("total_usage")
            if bought or used or await self._manages(client, management):
                return bought - used
            problem = BalanceUnavailable(provider=self.name, reason=_NOT_MANAGING)
        raise problem

    async def _manages(self, client: "httpx.AsyncClient", key: Credential) -> bool:
        """Whether it is a management key: another one may be sent zeros, not a 403 (openchamber#3411)."""
        return (await self._data(client, "/key", key)).flag("is_management_key")

    async def _data(self, client: "httpx.AsyncClient", path: str, key: Credential) -> Fields:
        # Deferred, so that importing budgetguard does not import an HTTP client.
        from budgetguard._io.http import get_json

        reply = await get_json(client, self.base_url + path, key, provider=self.name)
        return Fields(reply, provider=self.name).inner("data")


def _limits(data: Fields) -> list[_Left]:
    """What each limit on the key still has; empty if there is none.

    `budgets` is all that enforcement checks, the key's own limit included, and `effective_budget` is one of
    them (SDK openrouter 1.3.84, 2026-11). Replies before the autumn of 2026 have neither.
    """
    left = data.signed_credits("limit_remaining")
    if left is None and data.has("limit") and data.signed_credits("limit") is not None:
        msg = "the provider's reply has a limit, but not what remains of it"
        raise data.nonsense(msg)
    found = (
        [] if left is None else [_Left(left, _renewal(data.text("limit_reset"), datetime.now(UTC)))]
    )
    budgets = data.objects("budgets") if data.has("budgets") else []
    effective = data.optional_inner("effective_budget")
    return found + [
        _Left(each.credits("remaining_usd"), reset_at(each.text("resets_at")))
        for each in (*budgets, *(() if effective is None else (effective,)))
    ]


def _renewal(reset: str | None, now: datetime) -> datetime | None:
    """When a key's limit resets: at midnight UTC, weeks begin on Monday (SDK openrouter 1.3.84, 2026-11)."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if reset == "daily":
        return today + timedelta(days=1)
    if reset == "weekly":
        return today + timedelta(days=7 - today.weekday())
    if reset == "monthly":
        return (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return None
