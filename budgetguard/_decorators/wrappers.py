"""Turns a function into a guarded function of the same kind.

Plain functions, coroutine functions and both kinds of generators are wrapped in a closure of the same
kind, which keeps the signature, binding and pickling by name, and costs least. classmethod and
staticmethod objects, and functions made by contextlib.contextmanager, are unwrapped, and wrapped
again. Everything else (partials, bound methods, builtins, objects with `__call__`) is wrapped with
wrapt, which preserves its other features.

The wrappers of plain functions and coroutine functions contain the fast path inline (see
`_engine/fast_path.py`), because a function call for it would cost a third of the whole. An interrupt
(Ctrl-C) can arrive between any two calls, so the credits always have exactly one owner: the frame's
`taken`, until it is set to None right before the append that finishes the call. The private loop
records what was appended. Only an overrun is recorded at once, because the next admission depends
on it.
"""

import contextlib
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from budgetguard._core import reentrancy
from budgetguard._core.approval import check_plain_approve
from budgetguard._core.branch import MANY_ENDS
from budgetguard._core.call_context import UNBOUNDED, state_for
from budgetguard._core.errors import REFUSALS
from budgetguard._core.on_refusal import awaited
from budgetguard._core.sync_callables import PLAIN
from budgetguard._decorators.guarded_function import GuardedFunction
from budgetguard._decorators.refused_calls import ASYNC, ASYNC_GENERATOR, GENERATOR, check_kind
from budgetguard._decorators.unfinished_results import async_generator, follow, generator
from budgetguard._decorators.unguarded_paths import GRAPH, holds_a_function, second_way
from budgetguard._engine.hold import Hold

if TYPE_CHECKING:
    from collections import deque

    from budgetguard._core.leased_ledger import AnyLedger
    from budgetguard._engine.call_spec import Amounts, CallSpec

F = TypeVar("F")

_EMPTY: Any = lambda: ()  # noqa: E731
# The functions that these decorators return are recognized by their code objects.
_MANAGERS: dict[Any, Callable[[Any], Any]] = {
    contextlib.contextmanager(_EMPTY).__code__: contextlib.contextmanager,
    contextlib.asynccontextmanager(_EMPTY).__code__: contextlib.asynccontextmanager,
}


def can_wrap(function: object) -> bool:
    """Whether `function` is of a kind that `wrap` accepts."""
    if isinstance(function, classmethod | staticmethod):
        return True
    return callable(function) and not isinstance(function, type)


def wrap(spec: "CallSpec", function: F) -> F:
    """`function`, guarded; raises TypeError for an object that cannot be guarded reliably."""
    if not can_wrap(function):
        what = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
        made = not isinstance(function, type) and holds_a_function(function)
        put = "Put require_credits directly above `def`: it" if made else "require_credits"
        msg = f"{put} guards functions, methods and callable objects, not {what}"
        raise TypeError(msg)
    if isinstance(function, classmethod | staticmethod):
        return cast("F", type(function)(wrap(spec, function.__func__)))
    way = second_way(function)
    if way is not None:
        raise TypeError(_passed_by(function, way))
    manager = _MANAGERS.get(getattr(function, "__code__", None))
    inner = getattr(function, "__wrapped__", None)
    if manager is not None and inner is not None:
        # The work is done in the block, not when the context manager is made.
        return cast("F", manager(wrap(spec, inner)))
    guard = _kind(function)
    if spec.on_refusal is not None:
        check_kind(spec.on_refusal, _awaited_as(function, guard))
    if guard is _guard_async_generator and spec.actual is not None:
        msg = "actual= receives a result, and an async generator has none: leave it out"
        raise TypeError(msg)
    if spec.approve is not None and guard in {_guard_plain, _guard_generator}:
        check_plain_approve(spec.approve)
    own = GuardedFunction(spec, _name(function))
    if isinstance(function, FunctionType):
        return cast("F", functools.wraps(function)(guard(own, function)))
    return cast("F", _wrap_object(own, function, guard))


def _passed_by(function: Any, way: str) -> str:
    kind = function.__class__
    # Some frameworks make a class for each function, with the function's name.
    known = next(each for each in kind.__mro__ if "__call__" in vars(each))
    name = kind.__name__ if known is kind else f"{kind.__name__} ({known.__name__})"
    if way == GRAPH:
        why = f"calls of this {name} only add to a graph, and its work is done later, unguarded"
    else:
        why = f"only direct calls of this {name} would be guarded, and its {way} bypasses them"
    return f"Put require_credits directly above `def`, below all other decorators: {why}"


def _kind(function: Any) -> Callable[[GuardedFunction, Any], Any]:
    call = function
    while isinstance(call, functools.partial):
        call = call.func
    if not isinstance(call, FunctionType | types.MethodType | types.BuiltinFunctionType):
        # Not type(): the `__class__` of a wrapt proxy is that of the object it stands for.
        call = getattr(call.__class__, "__call__", None)  # noqa: B004
    if inspect.isasyncgenfunction(call):
        return _guard_async_generator
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(function):
        return _guard_coroutine
    if inspect.isgeneratorfunction(call):
        return _guard_generator
    return _guard_plain


def _awaited_as(function: Any, guard: Any) -> str:
    """What the calls of a function are, in the words of `check_kind`."""
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_ITERABLE_COROUTINE:
        return ASYNC
    return _WORDS.get(guard, PLAIN)


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _wrap_object(
    own: GuardedFunction, function: Any, guard: Callable[[GuardedFunction, Any], Any]
) -> Any:
    import wrapt

    inner = guard(own, function)

    def call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        if wrapped is function:
            return inner(*args, **kwargs)
        # Bound to an instance, which is passed to min and cost too.
        bound = lambda _, /, *a, **k: wrapped(*a, **k)  # noqa: E731, PLW0108
        return guard(own, bound)(instance, *args, **kwargs)

    class Wrapper(wrapt.FunctionWrapper):  # type: ignore[misc,type-arg,unused-ignore]
        """Pickled as the spec and the wrapped object."""

        def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
            return wrap, (own.spec, self.__wrapped__)

    class AsyncCallable(Wrapper):
        """Frameworks check whether an object's `__call__` is a coroutine function."""

        async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
            return await super().__call__(*args, **kwargs)

    is_async = inspect.iscoroutinefunction(getattr(function.__class__, "__call__", None))  # noqa: B004
    return (AsyncCallable if is_async else Wrapper)(function, call)


def _guard_plain(  # noqa: C901, PLR0915  inline in one frame, for speed
    own: GuardedFunction, function: Callable[..., Any]
) -> Callable[..., Any]:
    if own.checks_only:
        return _check_plain(own, function)
    spec, lag = own.spec, own.spec.lag
    constant = spec.amounts
    at_cost = spec.actual is None

    def guarded(*args: Any, **kwargs: Any) -> Any:  # noqa: C901, PLR0911, PLR0912, PLR0915  likewise
        taken: AnyLedger | None
        ends: deque[Any]
        context: Any
        end: Any
        allowances: Any = None
        binding, amounts = own.ref.binding, constant
        if binding is None or (reserve := binding.subscriber.reserve) is None or binding.listened:
            return _call_held(own, function, args, kwargs, amounts)
        if amounts is None:
            amounts = spec.amounts_of(args, kwargs)
        _, cost, need = amounts
        account, context = binding.account, reentrancy.CALL_STATE.get()
        if context is not None and context.ledger is not account.ledger:
            context = state_for(account, context)
        mono, wall = account.monotonic(), account.wall()
        taken = ledger = account.ledger
        # No call in these steps, so no other thread, signal handler or finalizer runs in between.
        if (
            mono >= account.fresh_until_mono
            or wall >= account.fresh_until_wall
            or ledger.room - need < reserve
        ):
            return _call_held(own, function, args, kwargs, amounts)
        if context is not None:
            if context.ledger is not ledger or wall >= context.plain_until:
                return _call_held(own, function, args, kwargs, amounts)
            first, second, third = allowances = context.allowances
            if first.room < need:
                return _call_held(own, function, args, kwargs, amounts)
            if second is not UNBOUNDED:
                if second.room < need or third.room < need:
                    return _call_held(own, function, args, kwargs, amounts)
                second.room -= cost
                third.room -= cost
            first.room -= cost
        ledger.room -= cost
        ledger.held += cost
        ledger.running += 1
        epoch = ledger.epoch
        try:
            result = function(*args, **kwargs)
            if type(result) is not own.plain and own.is_unfinished(result):
                hold = own.adopt(binding, taken, cost, mono, context, allowances)
                taken, hold.ended = None, False
                return follow(spec, hold, result)
            real = cost if at_cost else spec.real_cost(result, cost, own.operation)
            clears_at = account.monotonic() + (binding.lag if lag is None else lag)
            if constant is not None and at_cost:
                ends, end = ledger.ends_at_cost[cost], clears_at
            else:
                ends, end = ledger.ends, (cost, real, clears_at, epoch)
            taken, ledger.frees = None, ledger.frees or real < cost
            if context is not None:
                first, second, third = allowances
                first.spent += real
                if second is not UNBOUNDED:
                    second.spent += real
                    third.spent += real
                if real != cost:
                    first.room += cost - real
                    second.room += cost - real
                    third.room += cost - real
            ends.append(end)
        except BaseException as error:
            if taken is not None:
                own.fail(binding, taken, cost, mono, error, context, allowances)
            raise
        if real > cost:
            account.flush()
        elif account.queue or not len(ends) % MANY_ENDS:
            account.flush_soon()
        return result

    return guarded


def _check_plain(own: GuardedFunction, function: Callable[..., Any]) -> Callable[..., Any]:
    may_pass = _may_pass(own)

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if may_pass():
            return function(*args, **kwargs)
        return _call_held(own, function, args, kwargs, own.spec.amounts)

    return guarded


def _may_pass(own: GuardedFunction) -> Callable[[], bool]:
    """A function that tells whether a call that holds nothing may pass now; it needs no lock."""
    assert own.spec.amounts is not None
    _, _, need = own.spec.amounts

    def may_pass() -> bool:
        binding = own.ref.binding
        if binding is None or (reserve := binding.subscriber.reserve) is None or binding.listened:
            return False
        account = binding.account
        return (
            account.monotonic() < account.fresh_until_mono
            and account.wall() < account.checks_until_wall
            and account.ledger.room - need >= reserve
            and reentrancy.CALL_STATE.get() is None
        )

    return may_pass


def _call_held(
    own: GuardedFunction,
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
    amounts: "Amounts | None",
) -> Any:
    spec = own.spec
    hold = spec.begin(own.operation, args, kwargs, amounts)
    if not isinstance(hold, Hold):
        try:
            hold = spec.wait_for(*hold, warns=True)
        except REFUSALS as error:
            if spec.on_refusal is None:
                raise
            return spec.on_refusal(error, *args, **kwargs)
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        hold.finish(error)
        raise
    if spec.actual is None and type(result) is own.plain:
        hold.end_at()
        return result
    return _end(own, hold, result)


def _end(own: GuardedFunction, hold: Hold, result: Any) -> Any:
    if type(result) is not own.plain and own.is_unfinished(result):
        return follow(own.spec, hold, result)
    own.spec.settle(hold, result)
    return result


def _guard_coroutine(  # noqa: C901, PLR0915  likewise
    own: GuardedFunction, function: Callable[..., Awaitable[Any]]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    if own.checks_only:
        return _check_coroutine(own, function)
    spec, lag = own.spec, own.spec.lag
    constant = spec.amounts
    at_cost = spec.actual is None

    async def guarded(*args: Any, **kwargs: Any) -> Any:  # noqa: C901, PLR0911, PLR0912, PLR0915  likewise
        taken: AnyLedger | None
        ends: deque[Any]
        context: Any
        end: Any
        allowances: Any = None
        binding, amounts = own.ref.binding, constant
        if binding is None or (reserve := binding.subscriber.reserve) is None or binding.listened:
            return await _await_held(own, function, args, kwargs, amounts)
        if amounts is None:
            amounts = spec.amounts_of(args, kwargs)
        _, cost, need = amounts
        account, context = binding.account, reentrancy.CALL_STATE.get()
        if context is not None and context.ledger is not account.ledger:
            context = state_for(account, context)
        mono, wall = account.monotonic(), account.wall()
        taken = ledger = account.ledger
        # No call in these steps, so no other thread, signal handler or finalizer runs in between.
        if (
            mono >= account.fresh_until_mono
            or wall >= account.fresh_until_wall
            or ledger.room - need < reserve
        ):
            return await _await_held(own, function, args, kwargs, amounts)
        if context is not None:
            if context.ledger is not ledger or wall >= context.plain_until:
                return await _await_held(own, function, args, kwargs, amounts)
            first, second, third = allowances = context.allowances
            if first.room < need:
                return await _await_held(own, function, args, kwargs, amounts)
            if second is not UNBOUNDED:
                if second.room < need or third.room < need:
                    return await _await_held(own, function, args, kwargs, amounts)
                second.room -= cost
                third.room -= cost
            first.room -= cost
        ledger.room -= cost
        ledger.held += cost
        ledger.running += 1
        epoch = ledger.epoch
        try:
            result = await function(*args, **kwargs)
            if type(result) is not own.plain and own.is_unfinished(result):
                hold = own.adopt(binding, taken, cost, mono, context, allowances)
                taken, hold.ended = None, False
                return follow(spec, hold, result)
            real = cost if at_cost else spec.real_cost(result, cost, own.operation)
            clears_at = account.monotonic() + (binding.lag if lag is None else lag)
            if constant is not None and at_cost:
                ends, end = ledger.ends_at_cost[cost], clears_at
            else:
                ends, end = ledger.ends, (cost, real, clears_at, epoch)
            taken, ledger.frees = None, ledger.frees or real < cost
            if context is not None:
                first, second, third = allowances
                first.spent += real
                if second is not UNBOUNDED:
                    second.spent += real
                    third.spent += real
                if real != cost:
                    first.room += cost - real
                    second.room += cost - real
                    third.room += cost - real
            ends.append(end)
        except BaseException as error:
            if taken is not None:
                own.fail(binding, taken, cost, mono, error, context, allowances)
            raise
        if real > cost:
            account.flush()
        elif account.queue or not len(ends) % MANY_ENDS:
            account.flush_soon()
        return result

    return guarded


def _check_coroutine(
    own: GuardedFunction, function: Callable[..., Awaitable[Any]]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    may_pass = _may_pass(own)

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if may_pass():
            return await function(*args, **kwargs)
        return await _await_held(own, function, args, kwargs, own.spec.amounts)

    return guarded


async def _await_held(
    own: GuardedFunction,
    function: Callable[..., Awaitable[Any]],
    args: Any,
    kwargs: Any,
    amounts: "Amounts | None",
) -> Any:
    spec = own.spec
    hold = spec.begin(own.operation, args, kwargs, amounts)
    if not isinstance(hold, Hold):
        try:
            hold = await spec.await_for(*hold)
        except REFUSALS as error:
            if spec.on_refusal is None:
                raise
            return await awaited(spec.on_refusal, error, *args, **kwargs)
    try:
        result = await function(*args, **kwargs)
    except BaseException as error:
        hold.finish(error)
        raise
    if spec.actual is None and type(result) is own.plain:
        hold.end_at()
        return result
    return _end(own, hold, result)


def _guard_generator(
    own: GuardedFunction, function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Generator[Any, Any, Any]]:
    code = getattr(function, "__code__", None)
    return generator(
        own.spec, functools.partial(own.spec.begin, own.operation), function, like=code
    )


def _guard_async_generator(
    own: GuardedFunction, function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    return async_generator(own.spec, functools.partial(own.spec.begin, own.operation), function)


_WORDS: dict[Any, str] = {
    _guard_coroutine: ASYNC,
    _guard_generator: GENERATOR,
    _guard_async_generator: ASYNC_GENERATOR,
}
