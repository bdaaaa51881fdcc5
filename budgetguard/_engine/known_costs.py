"""What the operations of an account cost: constants as they were declared, and what was learned.

There is no lock: a lookup is one step of a dictionary, and what is lost when two threads add an
operation at the same time is one settlement.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from budgetguard._core.argument_types import near, unknown
from budgetguard._core.cost_sample import CostSample

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Programs may generate a new operation name for each call.
MOST = 1024

# How many names a message lists.
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class CostTerms:
    """What a call of an operation needs, in micro-credits; None where that is computed.

    With a `quantile` the cost is learned, and `cost` is its start; `by_key` if it is learned by one.
    Not the LearnedCost itself, which would keep a user's callable alive.
    """

    least: int | None
    cost: int | None
    quantile: float | None = None
    by_key: bool = False


class KnownCosts:
    """The costs of operations by name, in bounded memory."""

    __slots__ = ("_samples", "_terms", "_uses")

    def __init__(self) -> None:
        self._terms: dict[str, CostTerms] = {}
        self._samples: dict[tuple[str, Hashable], CostSample] = {}
        self._uses = count(1)

    def declare(self, operation: str, terms: CostTerms) -> None:
        """The calls of that operation need this from now on."""
        if self._terms.get(operation) != terms:
            self._terms[operation] = terms
            if len(self._terms) > MOST:
                # A dictionary is in order of insertion.
                _drop(self._terms, list(self._terms.copy())[: MOST // 2])

    def sample(self, operation: str, key: Hashable) -> CostSample:
        """The sample of an operation's calls with that key; empty if there is none yet."""
        sample = self._samples.get((operation, key))
        if sample is None:
            sample = self._samples.setdefault((operation, key), CostSample())
            if len(self._samples) > MOST:
                used = sorted(self._samples.copy().items(), key=lambda item: item[1].used)
                oldest = [each for each, other in used[: MOST // 2] if other is not sample]
                _drop(self._samples, oldest)
        sample.used = next(self._uses)
        return sample

    def terms(self, operation: str) -> CostTerms | None:
        """What calls of that operation need; None for an operation that is not known."""
        return self._terms.get(operation)

    def learned(self, operation: str, key: Hashable) -> CostSample | None:
        """The sample of an operation's calls with that key, if there is one."""
        return self._samples.get((operation, key))

    @property
    def operations(self) -> list[str]:
        """The names that are known."""
        return list(self._terms.copy())


UNBOUND = KnownCosts()
"""Constant costs of functions whose guard is only found when they are called."""


def not_known(operation: str, *known: KnownCosts) -> LookupError:
    """The error about an operation that nobody declared or called."""
    names = sorted({name for each in known for name in each.operations})
    shown = near(operation, names) or names[:_SHOWN]
    msg = (
        f"estimate() was asked for {unknown(operation, shown, 'operation')} "
        "An operation is known once its function is decorated, or else from its first call on."
    )
    return LookupError(msg)


def _drop(table: dict[K, V], keys: list[K]) -> None:
    for key in keys:
        table.pop(key, None)
