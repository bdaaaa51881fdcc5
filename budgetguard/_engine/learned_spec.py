"""What a call needs whose cost is learned, and which of the two kinds of needs a call has."""

from dataclasses import replace
from typing import Any

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.amounts import to_credits
from budgetguard._core.cost_sample import CostFigures, CostSample
from budgetguard._core.events import logger
from budgetguard._core.learned_cost import LearnedCost
from budgetguard._engine.approval import NOTHING_APPROVED, needs_approval
from budgetguard._engine.binding import Bound, GuardBinding, binding_of
from budgetguard._engine.call_spec import Amounts, CallSpec, Pending
from budgetguard._engine.hold import Hold, NullHold
from budgetguard._engine.known_costs import UNBOUND, CostTerms

# Operations whose name nobody chose: their calls may have nothing in common.
UNNAMED = {"this block", "acquire()", "aacquire()"}

_NO_COST = -1

# That its calls were free lately does not make one harmless: where nothing is left, none is admitted.
LEAST = 1


class LearnedSpec(CallSpec):
    """The needs of a call whose cost is learned.

    Every call is decided under the account's lock, so the fast path knows nothing of learned costs.
    """

    def __init__(self, guard: Any, *, cost: LearnedCost, **options: Any) -> None:
        """The other arguments are those of CallSpec."""
        super().__init__(guard, cost=to_credits(cost.start), **options)
        self.learned = cost
        self.amounts = None

    def begin(
        self,
        operation: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Any = None,
        amounts: Amounts | None = None,
        *,
        forced: bool = False,
        approved: int = NOTHING_APPROVED,
        bound: GuardBinding | None = None,
    ) -> Hold | Pending:
        """Request the admission of a call, at what its operation costs by now."""
        operation = _plain(self.name or operation or "this block")
        if operation in UNNAMED:
            msg = "learned(...) needs a name here, by which it learns: pass name="
            raise TypeError(msg)
        ACTIVATION.read_environment()
        if ACTIVATION.passive:
            return NullHold(operation, self.slots)
        kwargs = kwargs or {}
        binding = bound or self.find_binding(args, kwargs)
        binding.check_open(operation)
        least, _, _ = amounts or self.amounts_of(args, kwargs)
        costs, key = binding.account.costs, self.learned.key(args, kwargs)
        costs.declare(operation, terms_of_call(self))
        sample = costs.sample(operation, key)
        figures = sample.figures
        self._warn(operation, sample, figures)
        cost = figures.to_hold(self.learned.start, self.learned.quantile)
        # Asked again if the cost rose meanwhile, since other calls have taught it.
        if (
            self.approve is not None
            and cost > approved
            and not forced
            and (first := needs_approval(self, binding, operation, cost, args, kwargs, amounts))
        ):
            return binding, first
        call = self._call(binding, operation, max(least, LEAST), cost, forced=forced)
        return binding, binding.account.ask(replace(call, sample=sample))

    def cost_of(
        self, binding: GuardBinding, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> int:
        """What a call would hold by now, in micro-credits."""
        sample = binding.account.costs.sample(_plain(operation), self.learned.key(args, kwargs))
        return sample.figures.to_hold(self.learned.start, self.learned.quantile)

    def settle(self, hold: Hold, result: Any) -> None:
        """End the call's hold; if `actual` fails, nothing is learned."""
        if self.actual is None or hold.state != "open" or isinstance(hold, NullHold):
            super().settle(hold, result)
            return
        actual = self.real_cost(result, _NO_COST, hold.operation)
        hold.end_at(None if actual == _NO_COST else actual)

    def _warn(self, operation: str, sample: CostSample, figures: CostFigures) -> None:
        """Log that calls cost more than they held too often; once, until as few do as should."""
        if sample.warned:
            sample.warned = figures.misses_more(self.learned.quantile)
        elif figures.misses_too_often(self.learned.quantile):
            # Before it is logged, because another thread may be about to.
            sample.warned = True
            logger.warning(
                "%s: %d of the last %d calls cost more than they held, although learned(...) is to be "
                "enough for %g %%. Report what running calls were charged (hold.charged), or raise "
                "quantile=",
                operation,
                figures.misses,
                len(figures.costs),
                100 * self.learned.quantile,
            )


def call_spec(guard: Any, **options: Any) -> CallSpec:
    """What a call needs; raises as CallSpec does.

    A learned cost may be given as `min`, as every cost may. If its name is known, so is its cost.
    """
    least, cost = options.get("min"), options.get("cost")
    if isinstance(least, LearnedCost):
        if cost is not None:
            msg = "learned(...) is a cost: pass it as cost=, and to min= a number or a callable"
            raise TypeError(msg)
        least, cost = None, least
    if isinstance(cost, LearnedCost):
        spec: CallSpec = LearnedSpec(guard, **{**options, "min": least, "cost": cost})
    else:
        spec = CallSpec(guard, **options)
    if spec.name is not None and (name := _plain(spec.name)) not in UNNAMED:
        declare(spec, name)
    return spec


def check_teaches(spec: CallSpec) -> None:
    """Raise TypeError for a learned cost in a place where only `actual` can tell what a call cost."""
    if isinstance(spec, LearnedSpec) and spec.actual is None:
        msg = "learned(...) needs actual= here: a callable that is given the result and returns its cost"
        raise TypeError(msg)


def declare(spec: CallSpec, operation: str) -> None:
    """Remember what the calls of an operation need, for estimates."""
    guard: Any = spec.guard
    bound: Bound | None = None if callable(guard) else guard
    costs = UNBOUND if bound is None else binding_of(bound).account.costs
    costs.declare(_plain(operation), terms_of_call(spec))


def _plain(name: str) -> str:
    """A name as a key: of a class derived from str, it may be unhashable, or unequal to itself."""
    return str.__str__(name)


def terms_of_call(spec: CallSpec) -> CostTerms:
    """What a call needs, as far as it is known before there is one."""
    if isinstance(spec, LearnedSpec):
        least, learned = LEAST if callable(spec.min) else max(spec.min or 0, LEAST), spec.learned
        return CostTerms(least, learned.start, learned.quantile, learned.by is not None)
    if spec.amounts is None:
        return CostTerms(None, None)
    least, cost, _ = spec.amounts
    return CostTerms(least, cost)
