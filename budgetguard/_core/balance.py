"""An account's balance as the provider reported it, and when it was requested."""

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from budgetguard._core.amounts import CREDITS, Amount, exact
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.clock import SYSTEM, Clock, Instant


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's balance as its provider reports it.

    `credits` is None when the account is unlimited. `cost_limit` and `credits_used` are credits
    too. `max_concurrency` counts sessions; None means no limit. `as_of` (UTC) is when the request
    was sent; a guard sets it for the balances that it requests itself. `unit` is what all amounts are
    counted in. `renews_at` is when the account's allocation renews, None if that is not known; no
    decision depends on it. Amounts may be int, float, Decimal or str; a value that is not a valid
    amount raises TypeError or ValueError, and so does a `renews_at` without a time zone.
    """

    credits: Decimal | None
    tier: str | None = None
    max_concurrency: int | None = None
    cost_limit: Decimal | None = None
    credits_used: Decimal | None = None
    as_of: datetime = field(default_factory=lambda: datetime.now(UTC))
    unit: str = CREDITS
    renews_at: datetime | None = None
    _sent: Instant | None = field(default=None, repr=False, compare=False)
    _clock: Clock = field(default=SYSTEM, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("credits", "cost_limit", "credits_used"):
            value: Amount | None = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, exact(value, f"Balance.{name}"))
        if not isinstance(self.unit, str) or not self.unit:
            msg = f'Balance.unit takes a name such as "USD", not {type(self.unit).__name__}'
            raise TypeError(msg)
        renews = self.renews_at
        if renews is not None and not isinstance(renews, datetime):
            msg = f"Balance.renews_at takes a datetime or None, not {type(renews).__name__}"
            raise TypeError(msg)
        if renews is not None and renews.utcoffset() is None:
            msg = "Balance.renews_at needs a time zone: pass datetime(..., tzinfo=UTC)"
            raise ValueError(msg)
        limit = self.max_concurrency
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            msg = f"Balance.max_concurrency takes an int or None, not {type(limit).__name__}"
            raise TypeError(msg)
        if limit is not None and limit < 0:
            msg = f"Balance.max_concurrency must not be negative: {limit}"
            raise ValueError(msg)

    @property
    def age(self) -> float:
        """Seconds since the request was sent, by whichever clock advanced more; never below 0."""
        now = self._clock.now()
        if self._sent is not None:
            return now.since(self._sent)
        return max(now.wall - self.as_of.timestamp(), 0.0)

    def sent_at(self, sent: Instant, clock: Clock) -> "Balance":
        """The same balance, stamped with the moment its request was sent."""
        as_of = datetime.fromtimestamp(sent.wall, UTC)
        return replace(self, as_of=as_of, _sent=sent, _clock=clock)

    def __reduce__(self) -> tuple[Any, ...]:
        # A monotonic stamp means nothing in another process. There the age is computed from as_of.
        return Balance, tuple(getattr(self, f.name) for f in fields(self)[:8])


# The arguments of a dataclass are locals of its generated __init__.
Balance.__init__ = clean_traceback(Balance.__init__)  # type: ignore[method-assign]
