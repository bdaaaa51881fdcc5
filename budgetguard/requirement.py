"""What one call needs: the object behind `require_credits`, decorator and context manager in one."""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from budgetguard import nested
from budgetguard.asker import Call
from budgetguard.blocking import warn_if_looped
from budgetguard.callers import caller
from budgetguard.credits import UNLIMITED, Amount
from budgetguard.credits import cost as to_cost
from budgetguard.discreet import discreet
from budgetguard.durations import seconds
from budgetguard.events import logger
from budgetguard.hold import Hold, NoHold
from budgetguard.plain import check_plain, leave_alone
from budgetguard.policy import Need
from budgetguard.switch import SWITCH
from budgetguard.waiting import Admission
from budgetguard.wrong import unknown

if TYPE_CHECKING:
    from budgetguard.guard import Guard

F = TypeVar("F")
_BLOCK = "this block"
_NOTHING: Any = object()


class Requirement:
    """Credits and slots that a call needs, and how its hold ends.

    Decorates any number of functions. As a context manager it guards one block at a time.
    """

    def __init__(
        self,
        guard: "Guard | Callable[..., Guard]",
        *,
        min: Amount | Callable[..., Amount] | None = None,
        cost: Amount | Callable[..., Amount] | None = None,
        actual: Callable[[Any], Amount] | None = None,
        slots: int = 0,
        wait: float = 0,
        lag: float | None = None,
        linger: float | None = None,
        release_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        name: str | None = None,
        until: Literal["close"] | None = None,
    ) -> None:
        rest = (cost, actual, slots, wait, lag, linger, release_on, name)
        if not any(rest) and _just_defined(min):
            raise TypeError(_bare(min))
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
            msg = f"actual takes a callable given the result, not {type(actual).__name__}"
            raise TypeError(msg)
        if until is not None and not isinstance(until, str):
            msg = f'until takes "close" or None, not {type(until).__name__}'
            raise TypeError(msg)
        if until not in {None, "close"}:
            msg = 'until takes "close" or None, not another text'
            raise ValueError(msg)
        if not callable(guard) and not hasattr(guard, "asker"):
            msg = f"guard takes a Guard or a callable, not {type(guard).__name__}"
            raise TypeError(msg)
        if callable(min) or callable(cost) or actual is not None or callable(guard):
            _check_callables(min=min, cost=cost, actual=actual, guard=guard)
        self.guard = guard
        self.min = min if min is None or callable(min) else to_cost(min, "min")
        self.cost = cost if cost is None or callable(cost) else to_cost(cost, "cost")
        self.actual = actual
        self.slots = slots
        self.wait = seconds(wait, "wait")
        self.lag = None if lag is None else seconds(lag, "lag")
        self.linger = None if linger is None else seconds(linger, "linger")
        self.release_on = _exceptions(release_on)
        self.name = name if name is None else _checked_name(name)
        self.until = until
        # Empty while a block is guarded; list.pop is atomic, so two cannot both be let in.
        self._free = [None]
        self._entered: Hold | None = None

    def find_guard(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Guard":
        """The guard that this call goes to."""
        guard = self.guard
        if not callable(guard):
            return guard
        found = guard(*args, **kwargs)
        if not hasattr(found, "asker"):
            leave_alone(found)
            msg = f"guard= has to return a Guard, and returned {type(found).__name__}"
            raise TypeError(msg)
        return found

    def open(
        self,
        operation: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Any = None,
        *,
        warns: bool = False,
    ) -> Hold:
        """Admit one call, blocking while it waits; raises what the admission raises.

        `warns` where that keeps an event loop from running; what blocks that loop anyway, such as a
        plain HTTP client's requests, is let in without.
        """
        started = self._start(operation, args, kwargs or {})
        if isinstance(started, NoHold):
            return started
        guard, ticket = started
        if warns and not ticket.done:
            try:
                warn_if_looped(ticket.call.operation)
            except BaseException:
                # Where warnings are errors.
                guard.account.abandon(ticket)
                raise
        ticket.wait(guard.account)
        return self._hold(guard, ticket)

    async def aopen(
        self, operation: str | None = None, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Hold:
        """`open`, waiting without blocking the event loop."""
        started = self._start(operation, args, kwargs or {})
        if isinstance(started, NoHold):
            return started
        guard, ticket = started
        await ticket.wait_async(guard.account)
        return self._hold(guard, ticket)

    def _start(
        self, operation: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "NoHold | tuple[Guard, Admission]":
        operation = self.name or operation or _BLOCK
        if not SWITCH.read:
            SWITCH.read_environment()
        if SWITCH.passive:
            return NoHold(operation, self.slots)
        guard = self.find_guard(args, kwargs)
        guard.check_open(operation)
        call = self._call(guard, operation, args, kwargs)
        return guard, guard.account.ask(call)

    def _call(
        self, guard: "Guard", operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call:
        least = _amount(self.min, "min", args, kwargs)
        cost = _amount(self.cost, "cost", args, kwargs)
        if cost is None:
            cost = least or 0
        now = guard.runtime.clock.monotonic()
        need = Need(
            amount=max(least or 0, cost),
            cost=cost,
            slots=self.slots,
            arrived=now,
            until=now + self.wait,
            give_up=now + self.wait + guard.asker.terms.timeout,
        )
        if self.wait and guard.asker.observes:
            guard.say_once(
                "wait", logging.INFO, "%s asks to wait, and observing never does", operation
            )
        lag = guard.lag if self.lag is None else self.lag
        linger = guard.linger if self.linger is None else self.linger
        return Call(guard.asker, operation, need, lag, linger)

    def _hold(self, guard: "Guard", ticket: Admission) -> Hold:
        ticket.check()
        assert ticket.opened is not None
        hold = Hold(guard.account, ticket.opened, self.release_on)
        if self.slots:
            _tell_of_slots(guard, ticket.call.operation)
        if logger.isEnabledFor(logging.DEBUG):
            nested.tell(hold)
        return hold

    def settle(self, hold: Hold, result: Any) -> None:
        """The guarded work is done: end its hold, at what `actual` says where there is one."""
        if self.actual is None:
            hold.finish(None)
        elif hold.state == "open" and not isinstance(hold, NoHold):
            hold.settle_micro(self.real_cost(result, hold.micro, hold.operation))

    def real_cost(self, result: Any, cost: int, operation: str) -> int:
        """What `actual` says; `cost` where it raises or returns nonsense, which is reported."""
        assert self.actual is not None
        try:
            return to_cost(self.actual(result), "actual")
        except Exception:  # noqa: BLE001  the result is the caller's all the same
            logger.exception("actual of %s failed; its hold is settled at cost", operation)
            return cost

    @discreet
    def __call__(self, function: F = _NOTHING, /, *args: Any, **kwargs: Any) -> F:
        """Guard `function`; raises TypeError for what cannot be guarded rightly."""
        from budgetguard.wrapping import can_wrap, wrap

        if callable(self.min) and (args or kwargs or not can_wrap(function)):
            raise TypeError(_bare(self.min))
        if args or kwargs:
            msg = "require_credits(...) takes one function to decorate"
            raise TypeError(msg)
        self._check_heard()
        return wrap(self, function)

    def _check_heard(self) -> None:
        """Raise TypeError for terms of a hold, where a decorated call has none to speak of."""
        held = self.min if self.cost is None else self.cost
        if held != 0 or self.actual is not None or self.slots:
            return
        given = {"lag": self.lag, "linger": self.linger}
        unheard = [f"{what}=" for what, value in given.items() if value is not None]
        if unheard:
            msg = f"a call that holds nothing (cost=0) leaves nothing to {' and '.join(unheard)}: leave it out"
            raise TypeError(msg)

    def __enter__(self) -> Hold:
        self._claim()
        try:
            self._entered = self.open(warns=True)
        except BaseException:
            self._free.append(None)
            raise
        return self._entered

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(error)

    async def __aenter__(self) -> Hold:
        self._claim()
        try:
            self._entered = await self.aopen()
        except BaseException:
            self._free.append(None)
            raise
        return self._entered

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(error)

    def _claim(self) -> None:
        if self.actual is not None:
            msg = (
                "actual= is given a function's result, and a block has none: use hold.settle(cost)"
            )
            raise TypeError(msg)
        if self.until is not None:
            msg = "until= is about a function's result, and a block has none: its hold ends with it"
            raise TypeError(msg)
        try:
            self._free.pop()
        except IndexError:
            msg = (
                "This require_credits(...) guards a block already. Make a new one for each block "
                "that runs at the same time."
            )
            raise RuntimeError(msg) from None

    def _leave(self, error: BaseException | None) -> None:
        hold, self._entered = self._entered, None
        self._free.append(None)
        assert hold is not None
        hold.finish(error)


def _tell_of_slots(guard: "Guard", operation: str) -> None:
    """Log once that there is no limit of sessions to keep to, where slots are taken of it."""
    look = guard.account.ledger.look
    if look is not None and look.slots == UNLIMITED:
        guard.say_once(
            "slots",
            logging.WARNING,
            "%s takes slots, and %s names no limit of sessions at once: none is kept to",
            operation,
            guard.asker.provider,
        )


def _amount(
    given: int | Callable[..., Amount] | None,
    what: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> int | None:
    return to_cost(given(*args, **kwargs), what) if callable(given) else given


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


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        msg = f"name takes a str, not {type(name).__name__}"
        raise TypeError(msg)
    if name == "":
        msg = "name is empty: leave it out for the function's own"
        raise ValueError(msg)
    return name


def check_terms(terms: Mapping[str, Any]) -> None:
    """Raise TypeError for a mapping that names what is no argument of `require_credits`."""
    known = _arguments()
    for name in terms:
        if not isinstance(name, str):
            msg = f"a mapping takes the names of require_credits' arguments, not {type(name).__name__}"
            raise TypeError(msg)
        if name not in known:
            msg = f"it names {unknown(name, known, 'argument of require_credits', list(terms))}"
            raise TypeError(msg)


@functools.cache
def _arguments() -> tuple[str, ...]:
    return tuple(each for each in inspect.signature(Requirement).parameters if each != "guard")


def _just_defined(function: Any) -> bool:
    """Whether `function` was defined where it is given, and has no name there yet: by a bare decorator.

    At a call it would be too late: `bare(callback)` looks like decorating a callback.
    """
    own = function.__func__ if isinstance(function, classmethod | staticmethod) else function
    if not isinstance(own, FunctionType) or own.__name__ == "<lambda>":
        return False
    scope, _ = caller()
    if scope is None:
        return False
    code, names = scope.f_code, scope.f_locals
    within = f"{code.co_qualname}{'.<locals>' * bool(code.co_flags & inspect.CO_OPTIMIZED)}."
    prefix = "" if code.co_name == "<module>" else within
    namesake = getattr(names.get(own.__name__), "__code__", None)
    return (
        own.__qualname__ == prefix + own.__name__
        and own.__module__ == scope.f_globals.get("__name__")
        and namesake is not own.__code__
        and not any(value is function for value in names.values())
    )


def _bare(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return (
        f"{name} is decorated with a bare @require_credits. "
        "Write @require_credits(min=...), with the credits that it needs."
    )
