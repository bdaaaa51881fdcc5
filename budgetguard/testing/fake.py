"""A provider with an account in memory, for tests that need no server."""

from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any

from budgetguard._core.amounts import Amount, exact
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._engine.fork import Locked

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

_NUMBERS = count(1)


class OutOfCredits(Exception):
    """The fake account cannot pay a charge, as when a real provider answers with status 402."""


class FakeProvider:
    """A provider whose account is a number in memory. Pass it to a `Guard`.

    - `credits`: the true balance; None means unlimited.
    - `lag`, `linger`: the provider's defaults, in seconds, as a guard reads them.
    - `max_concurrency`, `cost_limit`, `credits_used`, `extra_credits`, `topup_step`: what the
      provider reports besides the balance.
    - `requests`: how many times a guard fetched the balance.
    - `lowest`: the lowest balance so far.
    - `failure`: an exception that every fetch raises, or None.
    - `on_fetch`: a callable that runs at the start of every fetch, or None. An awaitable that it
      returns is awaited.

    Call `charge` where a real provider would charge for its work, and `top_up` where a person
    would add credits. All methods are safe to call from any thread.
    """

    name = "fake"
    top_up_url = "https://example.com/top-up"

    @clean_traceback
    def __init__(
        self,
        credits: Amount | None = 100,
        *,
        lag: float = 0,
        linger: float = 0,
        max_concurrency: int | None = None,
        cost_limit: Amount | None = None,
        credits_used: Amount | None = None,
        extra_credits: Amount = 0,
        topup_step: Amount | None = None,
    ) -> None:
        self.lag = lag
        self.linger = linger
        self.max_concurrency = max_concurrency
        self.cost_limit = cost_limit
        self.credits_used = credits_used
        self.extra_credits = extra_credits
        self.topup_step = topup_step
        self.fingerprint = f"fake account {next(_NUMBERS)}"
        self.failure: Exception | None = None
        self.on_fetch: Callable[[], Any] | None = None
        self.requests = 0
        self._locked = Locked()
        self._credits = None if credits is None else exact(credits, "credits")
        self.lowest = self._credits

    @property
    def credits(self) -> Decimal | None:
        """The true balance."""
        return self._credits

    @credits.setter
    def credits(self, credits: Amount | None) -> None:
        with self._locked.lock:
            self._set(None if credits is None else exact(credits, "credits"))

    def charge(self, cost: Amount, *, overdraw: bool = False) -> None:
        """Subtract `cost` credits from the balance.

        If the balance is too low, this raises OutOfCredits and subtracts nothing, unless
        `overdraw` is set: then the balance goes below zero.
        """
        amount = exact(cost, "cost")
        with self._locked.lock:
            if self._credits is None:
                return
            if amount > self._credits and not overdraw:
                msg = f"402: the charge is {amount} credits, and {self._credits} are left"
                raise OutOfCredits(msg)
            self._set(self._credits - amount)

    def top_up(self, credits: Amount) -> None:
        """Add credits to the balance."""
        amount = exact(credits, "credits")
        with self._locked.lock:
            if self._credits is not None:
                self._set(self._credits + amount)

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:  # noqa: ARG002  the protocol of providers has it
        """Return the current balance, or raise `failure` if that is set."""
        self.requests += 1
        if self.on_fetch is not None:
            waited = self.on_fetch()
            if waited is not None:
                await waited
        if self.failure is not None:
            raise self.failure
        return Balance(
            credits=self._credits,
            max_concurrency=self.max_concurrency,
            cost_limit=self.cost_limit,  # type: ignore[arg-type]
            credits_used=self.credits_used,  # type: ignore[arg-type]
        )

    def _set(self, credits: Decimal | None) -> None:
        self._credits = credits
        if credits is not None and self.lowest is not None:
            self.lowest = min(self.lowest, credits)
