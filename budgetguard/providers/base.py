"""What a guard needs from a provider, and the defaults for what a provider does not define."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from budgetguard._core.amounts import to_micro
from budgetguard._core.argument_types import shown
from budgetguard._core.balance import Balance
from budgetguard._core.errors import BudgetGuardError
from budgetguard._core.provider_refusal import ProviderRefusal
from budgetguard.providers.billing import Billing, BillingReply, Outcome, Prices

if TYPE_CHECKING:
    import httpx

LAG = 5.0
LINGER = 0.0


class Fetches(Protocol):
    """Anything that a balance can be fetched from."""

    async def fetch(self, client: Any, /) -> Any:
        """Fetch the balance once."""
        ...


class Provider(Protocol):
    """An account at a vendor that sells by credits, as a guard uses it.

    `name`, as shown in errors and events, and `fetch` are required. A class that derives from this one
    inherits the rest. Any other object with these two works as well; for whatever it does not define, these
    defaults apply:

    - `base_url`, `prices`: the requests that a transport guards; by default None, so that the transport must
      be given them.
    - `unit`: what the account is counted in, such as "USD". A balance in another unit is BalanceUnavailable;
      by default None: the unit of the first balance, which is "credits" unless it says otherwise.
    - `lag`: the provider's reporting delay: how many seconds after its work has finished a call may still be
      charged; 5.
    - `linger`: how many seconds abandoned work may go on, and be charged, after the client gave up; 0.
    - `extra_credits`: credits that can be spent beyond the reported balance; 0.
    - `topup_step`: credits of which each top-up is a whole multiple, if the balance rises by top-ups only, and
      not by refunds. `sole_spender` then knows more of what was charged while somebody paid; None.
    - `top_up_url`: where to buy credits, as refusals tell; None.
    - `trust_env`: whether proxies and certificates are taken from the environment; False.
    - `fingerprint`: a digest that identifies the account, including its key. Guards whose providers have the
      same fingerprint share the account's credits; without one, each guard counts by itself.
    - `credential`: a digest that identifies the key alone, where several keys share an account. A refusal that
      is about the key's own limit counts for guards with the same one; by default None, like `fingerprint`.
    - `billing`: what replies say about credits, a `budgetguard.providers.billing.Billing`. Without one, these
      methods of the provider itself are used, as far as it has them. They do no I/O, and raise nothing; `reply`
      is a `BillingReply`.
    - `cost_of(reply)`: what the call cost, in credits; or "cost" (what is held), "release" (nothing), "keep"
      (unknown); None leaves it to the status: 2xx is "cost", 4xx "release", anything else "keep".
    - `classify(reply)`: how the reply refuses the call, a `ProviderRefusal`; None if it is no refusal. Without
      it, a 402 is EXHAUSTED.
    - `remaining(reply)`: the balance that the reply's headers give; None if they give none.
    - `refusal_body(error)`: the JSON object with which a transport answers for a call that the guard refused.
    - `capped(path, content, most)`: the content of a request with `most` credits as the provider's own cap on
      its cost, for a transport with `send_cap=True`; None if it takes none.
    - `async fetch_reply(client, path)`: the reply to one free GET of a path below `base_url`, as a
      `BillingReply`; with it, work that `billing` can ask about is followed until it has ended.
    """

    name: str
    # Any, so that a provider which always has one need not annotate it as optional.
    base_url: Any = None
    prices: Any = None
    unit: Any = None
    lag: float = LAG
    linger: float = LINGER
    extra_credits: Any = 0
    topup_step: Any = None
    top_up_url: Any = None
    trust_env: bool = False
    fingerprint: Any = None
    credential: Any = None
    billing: Any = None

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once.

        `client` remains open between calls, has no base URL and sends no key. Any exception counts as a failed
        refresh: the text of a BalanceUnavailable is used as its reason, and of an httpx exception the status or
        the kind of failure. The caller sets `as_of`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything known about a provider, or about a function that returns balances; `source` is either."""

    source: Any
    fetches: bool
    name: str
    base_url: str | None
    prices: Prices | None
    unit: str | None
    lag: float
    linger: float
    extra_credits: Any
    topup_step: int | None
    top_up_url: str | None
    trust_env: bool
    fingerprint: str | None
    credential: str
    billing: Billing
    fetch_reply: Callable[[Any, str], Awaitable[BillingReply]] | None

    @classmethod
    def of(cls, source: Any) -> "Profile":
        """Read a provider's attributes; raises TypeError if `source` is neither."""
        fetches = callable(getattr(source, "fetch", None))
        if isinstance(source, type) or not (fetches or callable(source)):
            raise TypeError(_no_provider(source))
        given: dict[str, Any] = {
            name: getattr(source, name, getattr(Provider, name)) for name in _OPTIONAL
        }
        name = getattr(source, "name", None)
        return cls(
            source=source,
            fetches=fetches,
            name=str(name or "the provider"),
            base_url=given["base_url"],
            prices=given["prices"],
            unit=_unit(given["unit"]),
            lag=given["lag"],
            linger=given["linger"],
            extra_credits=given["extra_credits"],
            topup_step=_topup_step(given["topup_step"]),
            top_up_url=given["top_up_url"],
            trust_env=bool(given["trust_env"]),
            fingerprint=given["fingerprint"] or None,
            credential=str(given["credential"] or given["fingerprint"] or ""),
            billing=given["billing"] or _OwnBilling(source),
            # Not declared above, where a type checker would require it of every provider.
            fetch_reply=getattr(source, "fetch_reply", None),
        )


class _OwnBilling(Billing):
    """The billing of a provider that reads replies by methods of its own."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def cost_of(self, reply: BillingReply) -> Outcome:
        found = self._ask("cost_of", reply)
        return super().cost_of(reply) if found is None else found

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        if not hasattr(self._provider, "classify"):
            return super().classify(reply)
        return self._ask("classify", reply)  # type: ignore[no-any-return]

    def remaining(self, reply: BillingReply) -> Decimal | None:
        return self._ask("remaining", reply)  # type: ignore[no-any-return]

    def refusal_body(self, error: BudgetGuardError, path: str) -> dict[str, Any]:
        found = self._ask("refusal_body", error)
        return super().refusal_body(error, path) if found is None else found

    def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
        return self._ask("capped", path, content, most)  # type: ignore[no-any-return]

    def _ask(self, name: str, *about: object) -> Any:
        method = getattr(self._provider, name, None)
        return None if method is None else method(*about)


_OPTIONAL = (
    "base_url",
    "prices",
    "unit",
    "lag",
    "linger",
    "extra_credits",
    "topup_step",
    "top_up_url",
    "trust_env",
    "fingerprint",
    "credential",
    "billing",
)


def _unit(given: Any) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip():
        msg = f'unit takes a name such as "USD", not {shown(given)}'
        raise TypeError(msg)
    return given.strip()


def _topup_step(given: Any) -> int | None:
    if given is None:
        return None
    # Rounded down: a longer step would explain more than was charged.
    step = to_micro(given, "topup_step", rounding="down")
    if step <= 0:
        msg = f"topup_step must be at least a millionth of a credit: {given}"
        raise ValueError(msg)
    return step


def _no_provider(thing: object) -> str:
    kind = f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
    return (
        "Guard takes a provider: PreDev(), AnchorBrowser(), an object with `name` and "
        f"`async fetch(client)`, or a callable that returns the balance; not {kind}. "
        "Pass a key to the provider: Guard(PreDev(key))."
    )
