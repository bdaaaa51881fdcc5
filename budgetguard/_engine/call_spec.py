"""What one call needs, and how it is admitted: the common base of all forms of guarded calls."""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from copy import copy
from threading import get_ident
from typing import Any, Literal, Self, TypeAlias

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.amounts import UNLIMITED, Amount
from budgetguard._core.amounts import cost as to_cost
from budgetguard._core.approval import ApprovalRequest, Approve, check_approve
from budgetguard._core.argument_types import unknown
from budgetguard._core.call_context import state_for
from budgetguard._core.clean_tracebacks import WRONG, clear
from budgetguard._core.durations import seconds
from budgetguard._core.events import logger
from budgetguard._core.on_refusal import OnRefusal
from budgetguard._core.on_refusal import check as check_on_refusal
from budgetguard._core.policy import CallNeed
from budgetguard._core.reentrancy import CALL_STATE, CHANGING
from budgetguard._core.sync_callables import check_plain, leave_alone
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.approval import NOTHING_APPROVED, NeedsApproval, needs_approval
from budgetguard._engine.binding import Bound, GuardBinding, GuardRef, binding_of
from budgetguard._engine.blocked_loop import warn_if_looped
from budgetguard._engine.budget_blocks import context_around
from budgetguard._engine.fast_path import open_for
from budgetguard._engine.hold import Hold, NullHold
from budgetguard._engine.subscriber import Call
from budgetguard._engine.waiters import AdmissionWaiter

# Defaults are recognized by identity, because False == 0 and is not a number of slots.
NO_SLOTS = 0
NO_WAIT = 0
NOTHING: tuple[type[BaseException], ...] = ()

_BLOCK = "this block"

Pending: TypeAlias = tuple[GuardBinding, AdmissionWaiter | NeedsApproval]
"""The binding of a call's guard, and what the call waits for."""

Amounts: TypeAlias = tuple[int, int, int]
"""The credits that must be available for a call, its cost, and the room it needs on the fast path;
in micro-credits."""


class CallSpec:
    """The credits and slots that a call needs, and how its hold ends."""

    def __init__(  # noqa: C901  a check for each argument
        self,
        guard: "Bound | Callable[..., Bound]",
        *,
        min: Amount | Callable[..., Amount] | None = None,
        cost: Amount | Callable[..., Amount] | None = None,
        actual: Callable[[Any], Amount] | None = None,
        slots: int = NO_SLOTS,
        wait: float = NO_WAIT,
        lag: float | None = None,
        linger: float | None = None,
        release_on: tuple[type[BaseException], ...] | type[BaseException] = NOTHING,
        name: str | None = None,
        until: Literal["close"] | None = None,
        on_refusal: OnRefusal | None = None,
        approve: Approve | None = None,
        approve_above: Amount | None = None,
    ) -> None:
        if min is None and cost is None and not slots:
            msg = "require_credits needs at least one of min, cost and slots"
            raise TypeError(msg)
        if isinstance(slots, bool) or not isinstance(slots, int):
            msg = f"slots takes an int, not {type(slots).__name__}"
            raise TypeError(msg)
        if slots < 0:
            msg = f"slots must not be negative: {slots}"
            raise ValueError(msg)
        if actual is not None and not callable(actual):
            msg = f"actual takes a callable that receives the result, not {type(actual).__name__}"
            raise TypeError(msg)
        if until is not None and not isinstance(until, str):
            msg = f'until takes "close" or None, not {type(until).__name__}'
            raise TypeError(msg)
        if until not in {None, "close"}:
            msg = 'until takes "close" or None, not another string'
            raise ValueError(msg)
        if on_refusal is not None:
            check_on_refusal(on_refusal)
        if not callable(guard):
            binding_of(guard)
        if callable(min) or callable(cost) or actual is not None or callable(guard):
            _check_callables(min=min, cost=cost, actual=actual, guard=guard)
        self.guard = guard
        self.ref = _ref(guard)
        self.min = min if min is None or callable(min) else to_cost(min, "min")
        self.cost = cost if cost is None or callable(cost) else to_cost(cost, "cost")
        self.actual = actual
        self.slots = slots
        self.wait = seconds(wait, "wait")
        self.lag = None if lag is None else seconds(lag, "lag")
        self.linger = None if linger is None else seconds(linger, "linger")
        self.release_on = _exceptions(release_on)
        self.name = name if name is None else checked_name(name)
        self.until = until
        self.on_refusal = on_refusal
        self.approve = approve
        self.approve_above: int | None = None
        if approve is not None or approve_above is not None:
            self.approve_above = check_approve(approve, approve_above)
        computed = callable(min) or callable(cost)
        self.amounts = None if computed else self.amounts_of((), {})

    def of(self, guard: Bound) -> "CallSpec":
        """A copy of this spec for that guard."""
        other = copy(self)
        other.guard, other.ref = guard, _ref(guard)
        return other

    def asking(self, approve: Approve, above: int) -> Self:
        """A copy of this spec that asks `approve` about calls that hold more than `above` micro-credits."""
        other = copy(self)
        other.approve, other.approve_above = approve, above
        return other

    def approval_request(
        self, operation: str, arguments: Mapping[str, Any]
    ) -> ApprovalRequest | None:
        """What `approve` would be asked about a call now; None if it needs no approval. Holds nothing."""
        ACTIVATION.read_environment()
        if ACTIVATION.passive or self.approve is None:
            return None
        kwargs = dict(arguments)
        operation = self.name or operation
        binding = self.find_binding((), kwargs)
        cost = self.cost_of(binding, operation, (), kwargs)
        first = needs_approval(self, binding, operation, cost, (), kwargs, None)
        return None if first is None else first.request

    def cost_of(
        self, binding: GuardBinding, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> int:
        """What a call would hold now, in micro-credits."""
        del binding, operation
        _, cost, _ = self.amounts or self.amounts_of(args, kwargs)
        return cost

    def __getstate__(self) -> dict[str, Any]:
        # The reference to a guard is meaningless in another process.
        return {**self.__dict__, "ref": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, ref=_ref(state["guard"]))

    def find_binding(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GuardBinding:
        """The binding of the guard that decides about this call."""
        guard = self.guard
        if not callable(guard):
            return binding_of(guard)
        found = guard(*args, **kwargs)
        try:
            return binding_of(found)
        except TypeError:
            leave_alone(found)
            msg = f"guard= must return a Guard, not {type(found).__name__}"
            del found
        raise TypeError(msg)

    def open(
        self,
        operation: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Any = None,
        *,
        warns: bool = False,
        forced: bool = False,
        approved: int = NOTHING_APPROVED,
    ) -> Hold:
        """Admit one call, blocking while it waits; raises what the admission raises.

        With `warns`, a wait that blocks a running event loop emits a warning. Callers that block the
        loop anyway, such as a synchronous HTTP client, pass False. A `forced` call repeats one that was
        admitted and failed: it is not refused and does not wait, and nobody is asked about it.
        """
        admitted = self.begin(operation, args, kwargs, forced=forced, approved=approved)
        return admitted if isinstance(admitted, Hold) else self.wait_for(*admitted, warns=warns)

    async def aopen(
        self,
        operation: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Any = None,
        *,
        forced: bool = False,
        approved: int = NOTHING_APPROVED,
    ) -> Hold:
        """The async form of `open`: waits without blocking the event loop."""
        admitted = self.begin(operation, args, kwargs, forced=forced, approved=approved)
        return admitted if isinstance(admitted, Hold) else await self.await_for(*admitted)

    def begin(  # noqa: C901, PLR0912  inline in one frame, for speed
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
        """Admit a call on the fast path, or else request its admission.

        Returns the hold, or the guard's binding and what to wait for: a place in the queue, or an
        approval, before which nothing is held. `amounts` are the call's amounts if they have already
        been computed. `forced` is for a call that must not be refused, and `approved` is the cost
        that was approved, in micro-credits, of the guard that is `bound`.
        """
        operation = self.name or operation or _BLOCK
        binding = bound or (None if self.ref is None else self.ref.binding)
        if binding is None or binding.subscriber.reserve is None:
            if not ACTIVATION.read:
                ACTIVATION.read_environment()
            if ACTIVATION.passive:
                return NullHold(operation, self.slots)
            binding = bound or self.find_binding(args, kwargs or {})
            binding.check_open(operation)
        if amounts is None:
            amounts = self.amounts or self.amounts_of(args, kwargs or {})
        least, cost, need = amounts
        if (
            self.approve is not None
            and cost > approved
            and not forced
            and (first := needs_approval(self, binding, operation, cost, args, kwargs, amounts))
        ):
            return binding, first
        account, reserve = binding.account, binding.subscriber.reserve
        context: Any = CALL_STATE.get()
        if context is not None and context.ledger is not account.ledger:
            context = state_for(account, context)
        if (
            reserve is not None
            and not self.slots
            and (context is None or context.ledger is account.ledger)
            # Listeners are called outside every lock, so not from a handler that interrupted a change.
            and not (binding.listened and get_ident() in CHANGING)
        ):
            mono, wall, ledger = account.monotonic(), account.wall(), account.ledger
            # Made before the credits are taken, so that they are returned whatever happens next.
            hold = Hold(
                account,
                binding.subscriber,
                operation,
                ledger,
                cost,
                0,
                binding.lag if self.lag is None else self.lag,
                binding.linger if self.linger is None else self.linger,
                self.release_on,
                mono,
                context,
            )
            if (
                mono < account.fresh_until_mono
                and wall < account.fresh_until_wall
                and ledger.room - need >= reserve
            ):
                # No call in here, see `fast_path`.
                if context is None:
                    ledger.room -= cost
                    ledger.held += cost
                    ledger.running += 1
                    hold.epoch = ledger.epoch
                    hold.ended = False
                elif wall < context.until:
                    first, second, third = hold.allowances = context.allowances
                    if first.room >= need and second.room >= need and third.room >= need:
                        first.room -= cost
                        second.room -= cost
                        third.room -= cost
                        ledger.room -= cost
                        ledger.held += cost
                        ledger.running += 1
                        hold.epoch = ledger.epoch
                        hold.ended = False
            if not hold.ended:
                if binding.listened:
                    hold.emit_admitted(wall)
                return hold
        call = self._call(binding, operation, least, cost, forced=forced)
        return binding, account.ask(call)

    def wait_for(
        self, binding: GuardBinding, waiter: AdmissionWaiter | NeedsApproval, *, warns: bool
    ) -> Hold:
        """The hold of a call whose admission was requested, blocking while it waits.

        If the call needs an approval, `approve` is asked here, on the caller's own thread. The
        admission is requested after that, so it is decided on the balance as it then is.
        """
        while not isinstance(waiter, AdmissionWaiter):
            admitted = self._again(waiter, binding, waiter.asked(self, binding))
            if isinstance(admitted, Hold):
                return admitted
            binding, waiter = admitted
        if warns and not waiter.done:
            try:
                warn_if_looped(waiter.call.operation)
            except BaseException:
                # A warning raises where warnings are turned into errors.
                binding.account.abandon(waiter)
                raise
        waiter.wait(binding.account)
        return self._hold(binding, waiter)

    async def await_for(
        self, binding: GuardBinding, waiter: AdmissionWaiter | NeedsApproval
    ) -> Hold:
        """The async form of `wait_for`: waits without blocking the event loop."""
        while not isinstance(waiter, AdmissionWaiter):
            admitted = self._again(waiter, binding, await waiter.aasked(self, binding))
            if isinstance(admitted, Hold):
                return admitted
            binding, waiter = admitted
        await waiter.wait_async(binding.account)
        return self._hold(binding, waiter)

    def _again(self, needs: NeedsApproval, binding: GuardBinding, approved: int) -> Hold | Pending:
        """Request the admission of a call once more, now that so many micro-credits are approved."""
        return self.begin(
            needs.operation,
            needs.args,
            needs.kwargs,
            needs.amounts,
            approved=approved,
            bound=binding,
        )

    def amounts_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Amounts:
        """What a call needs; computed from its arguments where `min` or `cost` is a callable."""
        least = self.min
        if callable(least):
            least = _amount(least, "min", args, kwargs)
        cost = self.cost
        if callable(cost):
            cost = _amount(cost, "cost", args, kwargs)
        elif cost is None:
            cost = least or 0
        if least is None:
            least = 0
        # A call that leaves less than its own cost must start a refresh, so not on the fast path.
        return least, cost, max(least, 2 * cost)

    def _call(
        self, binding: GuardBinding, operation: str, least: int, cost: int, *, forced: bool = False
    ) -> Call:
        now, context = binding.clock.monotonic(), context_around(binding.account)
        need = CallNeed(
            amount=max(least, cost),
            cost=cost,
            slots=self.slots,
            arrived=now,
            until=now + self.wait,
            give_up=now + self.wait + binding.subscriber.terms.timeout,
            forced=forced,
            budgets=() if context is None else context.budgets,
            reserve=None if context is None else context.reserve,
        )
        if self.wait and binding.subscriber.observes:
            binding.log_once(
                "wait", logging.INFO, "%s passes wait=, which observe mode ignores", operation
            )
        lag = binding.lag if self.lag is None else self.lag
        linger = binding.linger if self.linger is None else self.linger
        return Call(
            binding.subscriber, operation, need, lag, linger, self.release_on, context=context
        )

    def _hold(self, binding: GuardBinding, waiter: AdmissionWaiter) -> Hold:
        waiter.check()
        # The queue may keep the waiter for a while, and must not keep alive a hold that is dropped.
        hold, waiter.hold = waiter.hold, None
        assert hold is not None
        if self.slots:
            _log_unlimited_slots(binding, waiter.call.operation)
        if logger.isEnabledFor(logging.DEBUG):
            nested.enter(hold)
        if self.ref is None:
            open_for(binding.subscriber, binding.account)
        else:
            self.ref.found(binding)
        return hold

    def settle(self, hold: Hold, result: Any) -> None:
        """The guarded work is done: end its hold, at the cost that `actual` returns if there is one."""
        if self.actual is None:
            hold.finish(None)
        elif hold.state == "open" and not isinstance(hold, NullHold):
            hold.end_at(self.real_cost(result, hold.micro, hold.operation))

    def settle_without_result(self, hold: Hold) -> None:
        """An async generator is exhausted. It has no result that `actual` could be given."""
        if self.actual is not None:
            logger.warning(
                "actual of %s was not called: the call returned an async generator, which has no "
                "result. Its hold is settled at cost",
                hold.operation,
            )
        hold.finish(None)

    def real_cost(self, result: Any, cost: int, operation: str) -> int:
        """What `actual` returns; `cost` if it raises or returns an invalid amount, which is logged."""
        assert self.actual is not None
        try:
            return to_cost(self.actual(result), "actual")
        except Exception:  # noqa: BLE001  the result is the caller's all the same
            logger.exception("actual of %s failed; its hold is settled at cost", operation)
            return cost


def _ref(guard: "Bound | Callable[..., Bound]") -> GuardRef[Bound] | None:
    """A lasting reference to a guard. Callables have none, except the default guard's."""
    if isinstance(guard, GuardRef):
        return guard
    return None if callable(guard) else GuardRef(guard)


def _log_unlimited_slots(binding: GuardBinding, operation: str) -> None:
    """Log once that a call takes slots although the provider reports no limit on sessions."""
    snapshot = binding.account.ledger.snapshot
    if snapshot is not None and snapshot.slots == UNLIMITED:
        binding.log_once(
            "slots",
            logging.WARNING,
            "%s takes slots, but %s reports no limit on concurrent sessions, so none is enforced",
            operation,
            binding.subscriber.provider,
        )


def _amount(
    given: Callable[..., Amount], what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> int:
    amount = given(*args, **kwargs)
    try:
        return to_cost(amount, what)
    except WRONG as error:
        del amount
        clear(error)
        raise


def _exceptions(
    given: tuple[type[BaseException], ...] | type[BaseException],
) -> tuple[type[BaseException], ...]:
    kinds = given if isinstance(given, tuple) else (given,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            what = f"the class {kind.__name__}" if isinstance(kind, type) else type(kind).__name__
            msg = f"release_on takes exception types, one or a tuple of them, not {what}"
            raise TypeError(msg)
    return kinds


def _check_callables(**given: Any) -> None:
    for what, each in given.items():
        if callable(each):
            check_plain(each, what)


def checked_name(name: str) -> str:
    """The name; raises TypeError or ValueError for one that cannot be shown."""
    if not isinstance(name, str):
        msg = f"name takes a str, not {type(name).__name__}"
        raise TypeError(msg)
    if name == "":
        msg = "name is empty: leave it out, and there is a default"
        raise ValueError(msg)
    return name


def check_terms(terms: Mapping[str, Any]) -> None:
    """Raise TypeError for a mapping with a key that is not an argument of `require_credits`."""
    known = _arguments()
    for name in terms:
        if not isinstance(name, str):
            msg = f"a mapping's keys are names of require_credits' arguments, not {type(name).__name__}"
            raise TypeError(msg)
        if name not in known:
            msg = f"it names {unknown(name, known, 'argument of require_credits', list(terms))}"
            raise TypeError(msg)


@functools.cache
def _arguments() -> tuple[str, ...]:
    return tuple(each for each in inspect.signature(CallSpec).parameters if each != "guard")
