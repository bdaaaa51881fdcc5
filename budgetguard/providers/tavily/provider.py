"""Tavily."""

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from budgetguard._core.balance import Balance
from budgetguard.providers.http_provider import HTTPProvider
from budgetguard.providers.tavily.billing import (
    ADVANCED_SEARCH,
    BASIC_SEARCH,
    MINI_RESEARCH,
    PRO_RESEARCH,
    RESEARCH,
    TavilyBilling,
)

if TYPE_CHECKING:
    import httpx

    from budgetguard.providers.billing import BillingReply


class Tavily(HTTPProvider):
    """An account at Tavily, counted in its API credits.

    The key is `api_key`, or else TAVILY_API_KEY from the environment. Requests go to `base_url`, or else to
    TAVILY_BASE_URL, or else to https://api.tavily.com. The other arguments and the errors are those of
    `HTTPProvider`.

    The balance is what is left of the plan and of the pay-as-you-go limit, or what is left of the key's own
    limit if that is less. A key's limit of null is no limit (API reference, 2026-11). A pay-as-you-go limit of
    null counts as none allowed: free accounts have it, and are refused at the end of their plan (field
    reports, 2026-10). If you pay as you go without a limit, name what may be spent in `extra_credits`.
    The endpoint accepts 10 requests in 10 minutes (rate limits, 2026-11): use `Guard(Tavily(), recheck_after=60)`.

    BASIC_SEARCH and ADVANCED_SEARCH are prices, MINI_RESEARCH and PRO_RESEARCH the documented maxima of the
    two models (credits page, 2026-11). Tavily does not document its reporting delay (`lag`, s), and in the
    field it was long; `linger` (s) is the longest that a crawl or a map may run.
    """

    BASIC_SEARCH: Final = BASIC_SEARCH
    ADVANCED_SEARCH: Final = ADVANCED_SEARCH
    MINI_RESEARCH: Final = MINI_RESEARCH
    PRO_RESEARCH: Final = PRO_RESEARCH

    billing = TavilyBilling()

    name = "Tavily"
    variable = "TAVILY_API_KEY"
    url_variable = "TAVILY_BASE_URL"
    top_up_url = "https://app.tavily.com/billing"
    lag = 300.0
    linger = 150.0

    base_url = "https://api.tavily.com"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        # Without X-Project-ID: it would report the usage of one project against the limits of all.
        reply = await self.get_fields(client, "/usage")
        key, account = reply.inner("key"), reply.inner("account")
        left = _left(account.used("plan_limit"), account.used("plan_usage"))
        # Null is not documented here, and is what accounts have that cannot pay as they go.
        paygo = account.limit("paygo_limit", unlimited=None)
        if paygo is not None:
            left += _left(paygo, account.used("paygo_usage"))
        limit = key.limit("limit", unlimited=None)
        if limit is not None:
            left = min(left, limit - key.used("usage"))
        return Balance(credits=left, unit=self.unit, tier=account.text("current_plan"))

    async def fetch_reply(self, client: "httpx.AsyncClient", path: str) -> "BillingReply":
        """The reply to a GET of a path below the base URL; research is asked for its credits, too."""
        query = "?include_usage=true" if path.startswith(f"{RESEARCH}/") else ""
        return await super().fetch_reply(client, path + query)


def _left(limit: Decimal, used: Decimal) -> Decimal:
    # What exceeds the plan is paid from the other limit, and owed to neither.
    return max(limit - used, Decimal(0))
