"""pre.dev's Architect API."""

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from budgetguard.balance import Balance
from budgetguard.credits import Amount
from budgetguard.discreet import discreet
from budgetguard.origin import check_base_url
from budgetguard.providers._account import check_flag, find_extra, find_key, fingerprint
from budgetguard.providers._fields import Fields
from budgetguard.providers.predev_wire import (
    BROWSER_TASK,
    DEEP_SPEC,
    FAST_SPEC,
    GATEWAY_CALL,
    PreDevWire,
)
from budgetguard.secret import Credential

if TYPE_CHECKING:
    import httpx


class PreDev:
    """An account at pre.dev; the key is `api_key`, or else PREDEV_API_KEY.

    `extra_credits` are credits that can be spent beyond what the balance endpoint reports: its page
    says that it returns prototype credits only, and that daily and rollover credits are spent after
    them (docs.pre.dev, credits-balance, 2026-11). `trust_env` lets proxies and certificates be
    taken from the environment. Raises ConfigurationError for a key or base URL that cannot be
    right, and TypeError or ValueError for the others.

    FAST_SPEC and DEEP_SPEC are the upper ends of the documented costs in credits, "~5-10" and
    "~10-50", charged per inference during generation (same page). BROWSER_TASK and GATEWAY_CALL are
    no prices but what a transport holds for a task of a browser batch and for a call of the AI
    gateway, whose costs are metered: the estimates in the documented refusals of both (2026-11).
    `prices` says what requests a transport guards. How long pre.dev takes to book a
    charge (`lag`, s) and works on for a client that gave up (`linger`, s) it does not document.
    """

    FAST_SPEC: Final = FAST_SPEC
    DEEP_SPEC: Final = DEEP_SPEC
    BROWSER_TASK: Final = BROWSER_TASK
    GATEWAY_CALL: Final = GATEWAY_CALL

    wire = PreDevWire()
    prices = wire.prices

    name = "pre.dev"
    top_up_url = "https://pre.dev/projects/key?upgrade=credits"
    lag = 5.0
    linger = 300.0

    base_url: str = "https://api.pre.dev"
    extra_credits: Decimal
    trust_env: bool
    fingerprint: str

    @discreet
    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str = base_url,
        extra_credits: Amount = 0,
        trust_env: bool = False,
    ) -> None:
        key = find_key(api_key, provider=self.name, variable="PREDEV_API_KEY")
        del api_key
        if isinstance(key, Exception):
            raise key
        self._credential = Credential(key, "authorization", "Bearer ")
        self.base_url = check_base_url(base_url)
        self.extra_credits = find_extra(extra_credits)
        self.trust_env = check_flag(trust_env, "trust_env")
        self.fingerprint = fingerprint(self.name, self.base_url, key.fingerprint())

    def __repr__(self) -> str:
        return f"PreDev(base_url={self.base_url!r})"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Ask for the balance once; raises BalanceUnavailable. `as_of` is for the caller to set."""
        # Deferred: whoever only imports budgetguard does not pay for an HTTP client.
        from budgetguard.fetching import get_json, said

        reply = await get_json(
            client,
            f"{self.base_url}/credits-balance",
            self._credential,
            provider=self.name,
        )
        fields = Fields(reply, provider=self.name)
        if not fields.flag("success"):
            words = said(reply)
            reason = "the provider says that it did not succeed" + f": {words}" * bool(words)
            raise fields.nonsense(reason)
        return Balance(credits=fields.credits("creditsRemaining"))
