"""HTTPProvider: what the accounts of all vendors with a key and a base URL have in common."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._io.base_url import find_base_url
from budgetguard._io.credentials import Credential
from budgetguard.providers._account import (
    check_account,
    check_flag,
    find_extra,
    find_key,
    find_step,
    fingerprint,
)
from budgetguard.providers._fields import Fields
from budgetguard.providers.base import LAG, LINGER
from budgetguard.providers.billing import BillingReply

if TYPE_CHECKING:
    import httpx


class HTTPProvider:
    """An account at a vendor with an HTTP API: the base class of all built-in providers, and of yours.

    A subclass sets these class attributes and defines `fetch`, see docs/how-to/your-vendor.md:

    - `name`: as shown in errors and events.
    - `variable`, `url_variable`: the environment variables for the key and for the base URL.
    - `base_url`: where requests go by default.
    - `key_header`, `key_prefix`: how a request carries the key; by default `Authorization: Bearer KEY`.
    - `unit`: what the account is counted in, such as "USD"; by default "credits".
    - `lag`, `linger` (s), `top_up_url`: as in `Provider`; by default 5, 0 and None.
    - `prices`: the prices of the requests that a transport guards; by default those of `billing`.
    - `billing`: a `Billing`, which reads replies. Without one, the provider's own methods `cost_of`, `classify`,
      `remaining` and `refusal_body` do, as far as it has them, see `Provider`.

    `account` names the account if several keys share it, or if its keys are rotated: guards whose providers
    give the same name share the account's credits, whatever their keys. The balance is then requested with
    the key of the guard that was made first. `extra_credits` are credits that can be spent beyond the
    reported balance. If the balance rises by top-ups alone, and each is a whole multiple of some number of
    credits, `topup_step` is that number; see docs/correctness.md. With `trust_env`, proxies and certificates
    are taken from the environment.

    Raises ConfigurationError for a missing or invalid key and an invalid base URL, and TypeError or ValueError
    for other invalid arguments.
    """

    name: str
    variable: ClassVar[str]
    url_variable: ClassVar[str]
    key_header: ClassVar[str] = "authorization"
    key_prefix: ClassVar[str] = "Bearer "

    base_url: str
    unit: str = "credits"
    lag: float = LAG
    linger: float = LINGER
    top_up_url: str | None = None
    # Any, so that a subclass which always has them need not annotate them as optional.
    prices: Any = None
    billing: Any = None

    extra_credits: Decimal
    topup_step: Decimal | None
    trust_env: bool
    fingerprint: str
    """A digest of the account's identity."""
    credential: str
    """A digest of the key."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.billing is not None and "billing" in vars(cls) and "prices" not in vars(cls):
            cls.prices = cls.billing.prices or None

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
        key = find_key(api_key, provider=self.name, variable=self.variable)
        del api_key
        if isinstance(key, Exception):
            raise key
        self._credential = Credential(key, self.key_header, self.key_prefix)
        self.base_url = find_base_url(base_url, self.url_variable, self.base_url)
        self.extra_credits = find_extra(extra_credits)
        self.topup_step = find_step(topup_step)
        self.trust_env = check_flag(trust_env, "trust_env")
        self.credential = key.fingerprint()
        self._account = check_account(account)
        self.fingerprint = self._identity()

    def _identity(self, *parts: str) -> str:
        """The fingerprint: of `account` if there is one, else of the key and of `parts`."""
        named = self._account is not None
        who = ("account", self._account or "") if named else ("key", self.credential)
        return fingerprint(self.name, self.base_url, *who, *parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        raise NotImplementedError

    async def get_fields(self, client: "httpx.AsyncClient", path: str) -> Fields:
        """The JSON object at a path below the base URL, for `fetch`; raises BalanceUnavailable.

        Accepts only status 200 with one JSON object of at most 16 KiB, and follows no redirect.
        """
        # Deferred, so that importing budgetguard does not import an HTTP client.
        from budgetguard._io.http import get_json

        reply = await get_json(client, self.base_url + path, self._credential, provider=self.name)
        return Fields(reply, provider=self.name)

    async def fetch_reply(self, client: "httpx.AsyncClient", path: str) -> BillingReply:
        """The reply to a GET of a path below the base URL, 200, 202 or 404; raises BalanceUnavailable otherwise."""
        from budgetguard._io.http import get_reply

        status, content = await get_reply(
            client, f"{self.base_url}{path}", self._credential, provider=self.name
        )
        return BillingReply(path, status, {}, content, complete=content is not None)
