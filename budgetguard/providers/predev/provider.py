"""pre.dev's Architect API."""

from typing import TYPE_CHECKING, Final

from budgetguard._core.balance import Balance
from budgetguard.providers.http_provider import HTTPProvider
from budgetguard.providers.predev.billing import (
    BROWSER_TASK,
    DEEP_SPEC,
    FAST_SPEC,
    GATEWAY_CALL,
    PreDevBilling,
)

if TYPE_CHECKING:
    import httpx


class PreDev(HTTPProvider):
    """An account at pre.dev.

    The key is `api_key`, or else PREDEV_API_KEY from the environment. Requests go to `base_url`, or
    else to PREDEV_BASE_URL, or else to https://api.pre.dev.

    `extra_credits` are credits that can be spent beyond what the balance endpoint reports: its page
    says that it returns only prototype credits, and that daily and rollover credits are spent after
    them (docs.pre.dev, credits-balance, 2026-11). The other arguments and the errors are those of
    `HTTPProvider`.

    FAST_SPEC and DEEP_SPEC are the upper limits of the documented costs in credits, "~5-10" and
    "~10-50", charged per inference during generation (same page). BROWSER_TASK and GATEWAY_CALL are
    not prices: they are what a transport holds for a task of a browser batch and for a call of the
    AI gateway. The costs of both are metered; the figures are the estimates in their documented
    refusals (2026-11). `prices` lists the requests that a transport guards.

    pre.dev does not document how long it takes to post a charge (`lag`, s), nor how long it continues
    to work for a client that gave up (`linger`, s).
    """

    FAST_SPEC: Final = FAST_SPEC
    DEEP_SPEC: Final = DEEP_SPEC
    BROWSER_TASK: Final = BROWSER_TASK
    GATEWAY_CALL: Final = GATEWAY_CALL

    billing = PreDevBilling()
    prices = billing.prices

    name = "pre.dev"
    variable = "PREDEV_API_KEY"
    url_variable = "PREDEV_BASE_URL"
    top_up_url = "https://pre.dev/projects/key?upgrade=credits"
    lag = 5.0
    linger = 300.0

    base_url = "https://api.pre.dev"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        fields = await self.get_fields(client, "/credits-balance")
        if not fields.flag("success"):
            words = fields.said
            reason = "the provider reported a failure" + f": {words}" * bool(words)
            raise fields.nonsense(reason)
        return Balance(credits=fields.credits("creditsRemaining"))
