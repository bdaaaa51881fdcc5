"""pre.dev's Architect API."""

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._io.base_url import find_base_url
from budgetguard._io.credentials import Credential
from budgetguard.providers._account import check_flag, find_extra, find_key, find_step, fingerprint
from budgetguard.providers._fields import Fields
from budgetguard.providers.predev.billing import (
    BROWSER_TASK,
    DEEP_SPEC,
    FAST_SPEC,
    GATEWAY_CALL,
    PreDevBilling,
)

if TYPE_CHECKING:
    import httpx


class PreDev:
    """An account at pre.dev.

    The key is `api_key`, or else PREDEV_API_KEY from the environment. Requests go to `base_url`, or
    else to PREDEV_BASE_URL, or else to https://api.pre.dev.

    `extra_credits` are credits that can be spent beyond what the balance endpoint reports: its page
    says that it returns only prototype credits, and that daily and rollover credits are spent after
    them (docs.pre.dev, credits-balance, 2026-11). If the balance rises by top-ups alone, and each is a
    whole multiple of some number of credits, `topup_step` is that number; see docs/correctness.md.
    With `trust_env`, proxies and certificates are taken from the environment. Raises ConfigurationError for an invalid key or base URL, and
    TypeError or ValueError for other invalid arguments.

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
    top_up_url = "https://pre.dev/projects/key?upgrade=credits"
    lag = 5.0
    linger = 300.0

    base_url: str = "https://api.pre.dev"
    extra_credits: Decimal
    topup_step: Decimal | None
    trust_env: bool
    fingerprint: str

    @clean_traceback
    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        extra_credits: Amount = 0,
        topup_step: Amount | None = None,
        trust_env: bool = False,
    ) -> None:
        key = find_key(api_key, provider=self.name, variable="PREDEV_API_KEY")
        del api_key
        if isinstance(key, Exception):
            raise key
        self._credential = Credential(key, "authorization", "Bearer ")
        self.base_url = find_base_url(base_url, "PREDEV_BASE_URL", self.base_url)
        self.extra_credits = find_extra(extra_credits)
        self.topup_step = find_step(topup_step)
        self.trust_env = check_flag(trust_env, "trust_env")
        self.fingerprint = fingerprint(self.name, self.base_url, key.fingerprint())

    def __repr__(self) -> str:
        return f"PreDev(base_url={self.base_url!r})"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        # Deferred, so that importing budgetguard does not import an HTTP client.
        from budgetguard._io.http import get_json, said

        reply = await get_json(
            client,
            f"{self.base_url}/credits-balance",
            self._credential,
            provider=self.name,
        )
        fields = Fields(reply, provider=self.name)
        if not fields.flag("success"):
            words = said(reply)
            reason = "the provider reported a failure" + f": {words}" * bool(words)
            raise fields.nonsense(reason)
        return Balance(credits=fields.credits("creditsRemaining"))
