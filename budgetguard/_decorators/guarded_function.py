"""What all calls of one decorated function share, and how they leave the fast path."""

from typing import TYPE_CHECKING, Any

from budgetguard._core.allowance import Allowance
from budgetguard._core.call_context import CallContext
from budgetguard._decorators.result_kinds import goes_on
from budgetguard._engine.binding import GuardBinding, GuardRef
from budgetguard._engine.call_spec import CallSpec
from budgetguard._engine.hold import Hold
from budgetguard._engine.learned_spec import LearnedSpec, declare

if TYPE_CHECKING:
    from budgetguard._core.leased_ledger import AnyLedger

_NOWHERE: GuardRef[Any] = GuardRef(None)


class GuardedFunction:
    """A decorated function's name, its calls' needs, and the reference to their guard."""

    __slots__ = ("checks_only", "operation", "plain", "ref", "spec")

    def __init__(self, spec: CallSpec, operation: str) -> None:
        self.spec = spec
        self.operation = spec.name or operation
        # A call whose guard is found anew each time, that takes slots, that is learned from, or that
        # may need an approval, needs a Hold.
        needs_hold = (
            spec.ref is None
            or spec.slots
            or spec.approve is not None
            or isinstance(spec, LearnedSpec)
        )
        self.ref = _NOWHERE if needs_hold or spec.ref is None else spec.ref
        self.checks_only = spec.cost == 0 and spec.actual is None and not callable(spec.min)
        # The type of the last finished result, so that the next result of that type needs no check.
        self.plain: type = type(None)
        declare(spec, self.operation)

    def __reduce__(self) -> tuple[type["GuardedFunction"], tuple[Any, ...]]:
        # For cloudpickle, which sends functions by value: the cached guard is left out.
        return GuardedFunction, (self.spec, self.operation)

    def is_unfinished(self, result: Any) -> bool:
        """Whether the work behind a result is still going on; the result's type is cached if not."""
        kind, shown = type(result), result.__class__
        if goes_on(kind, self.spec.until):
            return True
        if shown is not kind:
            # A proxy. Another proxy of the same type may stand for something else.
            return goes_on(shown, self.spec.until)
        self.plain = kind
        return False

    def fail(
        self,
        binding: GuardBinding,
        ledger: "AnyLedger",
        cost: int,
        began: float,
        error: BaseException,
        context: CallContext[Any] | None,
        allowances: tuple[Allowance, ...],
    ) -> None:
        """The function raised: end the call as a hold would."""
        try:
            hold = self.adopt(binding, ledger, cost, began, context, allowances)
        except BaseException:
            # Interrupted, and nothing else refers to this call: count it in full, if not as kept.
            linger, lag = self._times(binding)
            clears_at = binding.account.monotonic() + linger + lag
            ledger.ends.append((cost, cost, clears_at, ledger.epoch))
            for each in allowances or ():
                each.spent += cost
            raise
        # From here on it has an entry, which the ledger ends only once.
        hold.ended = False
        hold.finish(error)

    def adopt(
        self,
        binding: GuardBinding,
        ledger: "AnyLedger",
        cost: int,
        began: float,
        context: CallContext[Any] | None,
        allowances: tuple[Allowance, ...],
    ) -> Hold:
        """A Hold for a call that had none so far; it counts once its `ended` is set to False."""
        linger, lag = self._times(binding)
        hold = Hold(
            binding.account,
            binding.subscriber,
            self.operation,
            ledger,
            cost,
            0,
            lag,
            linger,
            self.spec.release_on,
            began,
            context,
        )
        if context is not None:
            hold.allowances = allowances
        hold.epoch = ledger.epoch
        return hold

    def _times(self, binding: GuardBinding) -> tuple[float, float]:
        spec = self.spec
        return (
            binding.linger if spec.linger is None else spec.linger,
            binding.lag if spec.lag is None else spec.lag,
        )
