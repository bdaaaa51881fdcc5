"""Firecrawl's API."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard.providers._account import check_flag
from budgetguard.providers._fields import Fields
from budgetguard.providers.billing import BillingReply
from budgetguard.providers.firecrawl import prices
from budgetguard.providers.firecrawl.billing import FirecrawlBilling, has_pages
from budgetguard.providers.http_provider import HTTPProvider

if TYPE_CHECKING:
    import httpx


class Firecrawl(HTTPProvider):
    """An account (a team) at Firecrawl.

    The key is `api_key`, or else FIRECRAWL_API_KEY from the environment. Requests go to `base_url`, or else
    to FIRECRAWL_BASE_URL, or else to https://api.firecrawl.dev; the variable that firecrawl-py reads is
    another one, FIRECRAWL_API_URL. All keys of a team spend its credits: if you use several, give each
    provider the same `account`. The other arguments and the errors are those of `HTTPProvider`.

    With `slots=True`, each refresh also requests the team's limit of concurrent browsers (a second request,
    `/v2/concurrency-check`), which then is `Balance.max_concurrency`. It is off by default, because jobs above
    the limit wait in Firecrawl's own queue; only interactive sessions are refused (rate limits page, 2026-11).

    `prices` lists the requests that a transport guards; they are computed from each request. In credits, from
    the billing page, the features pages and the API reference (2026-11): PAGE for a page, FORMAT more for
    each format or option that runs a model, X_PAGE for a page of x.com, MAP for a map, TEN_RESULTS for each
    ten results of a search (TEN_PRIVATE_RESULTS without data retention), MINUTE and PROMPT_MINUTE for a minute
    of an interactive session. CRAWL_LIMIT is how many pages a crawl without a `limit` may have, and
    AGENT_CREDITS what an agent without `maxCredits` may cost. PDF_PAGES is not a price, but what is held for
    the pages of a PDF whose number is not known. docs/providers/firecrawl.md says what is not bounded.

    Firecrawl says that crawls and batches are charged as their pages complete, "minutes or hours after
    submission" (billing page, 2026-11). Their holds, and those of agents, have a `lag` of JOB_LAG and a
    `linger` of JOB_LINGER seconds. For all other requests, it documents neither; `lag` is twice the 15 s in
    which its server collects charges (firecrawl/firecrawl, batch_billing.ts, 2026), and `linger` is the
    longest `timeout` of a request (API reference, 2026-11).
    """

    PAGE: Final = prices.PAGE
    FORMAT: Final = prices.FORMAT
    X_PAGE: Final = prices.X_PAGE
    MAP: Final = prices.MAP
    TEN_RESULTS: Final = prices.TEN_RESULTS
    TEN_PRIVATE_RESULTS: Final = prices.TEN_PRIVATE_RESULTS
    MINUTE: Final = prices.MINUTE
    PROMPT_MINUTE: Final = prices.PROMPT_MINUTE
    CRAWL_LIMIT: Final = prices.CRAWL_LIMIT
    AGENT_CREDITS: Final = prices.AGENT_CREDITS
    PDF_PAGES: Final = prices.PDF_PAGES
    JOB_LAG: Final = prices.JOB_LAG
    JOB_LINGER: Final = prices.JOB_LINGER

    billing = FirecrawlBilling()

    name = "Firecrawl"
    variable = "FIRECRAWL_API_KEY"
    url_variable = "FIRECRAWL_BASE_URL"
    top_up_url = "https://www.firecrawl.dev/app/settings?tab=billing"
    lag = 30.0
    linger = 300.0

    base_url = "https://api.firecrawl.dev"

    @clean_traceback
    def __init__(self, api_key: str | None = None, *, slots: bool = False, **options: Any) -> None:
        self.slots = check_flag(slots, "slots")
        super().__init__(api_key, **options)

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance, and with `slots` the limit of concurrent browsers; raises BalanceUnavailable.

        The caller sets `as_of`.
        """
        usage = await self._get(client, "/v2/team/credit-usage")
        data = usage.inner("data")
        limit = _jobs(await self._get(client, "/v2/concurrency-check")) if self.slots else None
        return Balance(
            credits=data.credits("remainingCredits"),
            max_concurrency=limit,
            unit=self.unit,
            renews_at=_moment(data, "billingPeriodEnd"),
        )

    async def fetch_reply(self, client: "httpx.AsyncClient", path: str) -> BillingReply:
        """The reply to a GET of a path below the base URL, 200 or 404; raises BalanceUnavailable otherwise.

        The status of a crawl or a batch comes with 10 MB of its pages, unless it is asked for fewer.
        """
        reply = await super().fetch_reply(client, f"{path}?limit=1" if has_pages(path) else path)
        return BillingReply(path, reply.status, {}, reply.content, complete=reply.complete)

    async def _get(self, client: "httpx.AsyncClient", path: str) -> Fields:
        fields = await self.get_fields(client, path)
        if not fields.flag("success"):
            words = fields.said
            reason = "the provider reported a failure" + f": {words}" * bool(words)
            raise fields.nonsense(reason)
        return fields


def _jobs(fields: Fields) -> int:
    limit = fields.credits("maxConcurrency")
    if limit < 0 or limit != limit.to_integral_value():
        msg = "maxConcurrency in the provider's reply is not a whole number of jobs"
        raise fields.nonsense(msg)
    return int(limit)


def _moment(fields: Fields, name: str) -> datetime | None:
    """A date and time with its offset, in UTC; null on the free plan (credit-usage page, 2026-11)."""
    text = fields.text(name)
    if text is None:
        return None
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        # Without its offset, it is nobody's time.
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    msg = f"{name} in the provider's reply is not a date and time with an offset"
    raise fields.nonsense(msg)
