"""Prices of requests by method and path, each checked and read once."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from budgetguard._core.argument_types import place
from budgetguard._core.learned_cost import LearnedCost
from budgetguard._core.sync_callables import check_plain
from budgetguard._costs import spec_for
from budgetguard._engine.call_spec import CallSpec
from budgetguard.guard import Guard
from budgetguard.providers.billing import Price, Prices
from budgetguard.routes import Routes

_SAID = "the provider's replies give what was spent"
_NO_EFFECT = {
    **{name: f"a transport takes no {name}: {_SAID}" for name in ("release_on", "until")},
    "on_refusal": "a price takes no on_refusal: pass it to the transport, which gives it the request",
}
_NO_SLOTS = "a transport that does not follow work takes no slots: a session outlives its request"
# Called with the reply.
_LATER = "actual"
# A part of a path that cannot be a key: short words, a wildcard, a version.
_WORDS = re.compile(r"(?=.{0,24}$)([a-z]+([-_.][a-z]+)*|\*\*?|v[0-9]+|)")
# The number of addresses whose price is cached.
_KNOWN = 256


class RequestPrice:
    """One price; with `by_content` it depends on the request, which must then be read completely."""

    def __init__(self, guard: Guard, price: Price, where: str, *, takes_slots: bool) -> None:
        self._refused = _NO_EFFECT if takes_slots else {"slots": _NO_SLOTS, **_NO_EFFECT}
        self._guard = guard
        self._price = price
        self._fixed: CallSpec | None = None
        self.by_content = callable(price)
        if callable(price):
            check_plain(price, where)
            return
        self._fixed = spec_for(guard, price, where, self._refused)
        if isinstance(price, Mapping):
            self.by_content = any(_reads(term) for name, term in price.items() if name != _LATER)
        else:
            self.by_content = _reads(price)

    def spec(self, request: Any, operation: str) -> CallSpec | None:
        """The requirement of this request, or None if it costs nothing."""
        if self._fixed is not None:
            return self._fixed
        assert callable(self._price)
        cost = self._price(request)
        if cost is None:
            return None
        return spec_for(self._guard, cost, f"the price of {operation}", self._refused)


class PriceTable:
    """The prices of one transport; raises TypeError or ValueError for invalid ones.

    With `takes_slots`, they may have slots.
    """

    def __init__(self, guard: Guard, prices: Prices, *, takes_slots: bool = False) -> None:
        # First, so that later errors name only valid methods and paths.
        Routes(prices)
        priced = {
            key: RequestPrice(guard, price, _named(key, prices), takes_slots=takes_slots)
            for key, price in prices.items()
        }
        self.find = lru_cache(_KNOWN)(Routes(priced).find)


def _reads(term: object) -> bool:
    """Whether a part of a price is given the request."""
    return callable(term) or (isinstance(term, LearnedCost) and term.by is not None)


def _named(request: tuple[str, str], prices: Prices) -> str:
    """A price's name in an error: its request, or its position if the path may contain a key."""
    method, path = request
    if all(_WORDS.fullmatch(part) for part in path.strip("/").split("/")):
        return f"the price of {method} {path}"
    return f"the {place(prices, request)} price"
