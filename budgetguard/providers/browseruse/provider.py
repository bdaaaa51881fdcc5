"""Browser Use."""

import re
from typing import TYPE_CHECKING, ClassVar, Final

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard.providers.billing import Prices
from budgetguard.providers.browseruse.billing import (
    BROWSER_HOUR,
    RUN,
    SESSION,
    SKILL,
    STEP,
    TASK,
    BrowserUseBilling,
    browser_cost,
    task_cost,
    with_slots,
)
from budgetguard.providers.http_provider import HTTPProvider

if TYPE_CHECKING:
    import httpx

_VERSION = re.compile(r"/api/v\d+$")


class BrowserUse(HTTPProvider):
    """The account of one project at Browser Use, in US dollars.

    The key is `api_key`, or else BROWSER_USE_API_KEY from the environment. Requests go to `base_url`, or
    else to BROWSER_USE_BASE_URL, or else to https://api.browser-use.com. A version at the end, as in the
    base URLs of its SDK ("/api/v3"), is left out: the guarded paths contain it, and the balance comes from
    `/api/v2/billing/account`, which is the same for the users of v2, v3 and v4. All keys of a project share
    its balance and its browsers: give their guards the same `account`. The other arguments and the errors
    are those of `HTTPProvider`.

    A run of v4 or a task of v3 is held at its `maxCostUsd`, which ends the work when it is reached. Without
    one, RUN or SESSION is held: more than what is documented as the typical cost, but no upper end. Browser
    Use then allows 25 dollars for a session of v4, and an undocumented amount for one of v3, at most the
    balance. A task of v2 is held at TASK and `maxSteps` steps at the price of its model, STEP for one without
    a documented price; a browser at BROWSER_HOUR for its `timeout`; a skill at SKILL. Traffic is not
    included: 5 dollars per GB through the provider's proxies, 0.20 otherwise.

    `prices` lists the requests that a transport guards. `prices_with_slots` are the same, but each request that
    starts a session or a browser also takes one of the sessions that the project may have at once. `lag` (s) is the minute by which browsers are billed:
    none is documented. `linger` (s) is the longest life of a session and of a browser, four hours.
    (docs.browser-use.com and browser-use.com/pricing as of 2026-08 to 2026-11, see docs/providers/browser-use.md.)
    """

    RUN: Final = RUN
    SESSION: Final = SESSION
    BROWSER_HOUR: Final = BROWSER_HOUR
    TASK: Final = TASK
    STEP: Final = STEP
    SKILL: Final = SKILL

    browser_cost = staticmethod(browser_cost)
    task_cost = staticmethod(task_cost)
    billing = BrowserUseBilling()
    prices: Prices | None = billing.prices
    prices_with_slots: ClassVar[Prices] = with_slots(billing.prices)

    name = "Browser Use"
    variable = "BROWSER_USE_API_KEY"
    url_variable = "BROWSER_USE_BASE_URL"
    key_header = "x-browser-use-api-key"
    key_prefix = ""
    unit = "USD"
    top_up_url = "https://cloud.browser-use.com/billing"
    lag = 60.0
    linger = 14_400.0

    base_url = "https://api.browser-use.com"

    @clean_traceback
    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        account: str | None = None,
        extra_credits: Amount = 0,
        topup_step: Amount | None = None,
        trust_env: bool = False,
    ) -> None:
        super().__init__(
            api_key,
            base_url=base_url,
            account=account,
            extra_credits=extra_credits,
            topup_step=topup_step,
            trust_env=trust_env,
        )
        self.base_url = _VERSION.sub("", self.base_url)
        self.fingerprint = self._identity()
        # One per account, because it remembers what the account's sessions have cost.
        self.billing = BrowserUseBilling()

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        account = await self.get_fields(client, "/api/v2/billing/account")
        # Null for an account that pays as it goes (guide on billing, 2026-11).
        plan = account.optional_inner("planInfo")
        return Balance(
            credits=account.credits("totalCreditsBalanceUsd"),
            tier=None if plan is None else plan.text("planName"),
            max_concurrency=account.count("concurrentSessionLimit"),
            unit=self.unit,
        )
