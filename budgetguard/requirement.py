"""What `require_credits` returns: a decorator and a context manager in one."""

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import Any, TypeVar

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._engine.binding import Bound, GuardBinding
from budgetguard._engine.call_site import caller
from budgetguard._engine.call_spec import CallSpec
from budgetguard._engine.hold import Hold
from budgetguard._engine.learned_spec import call_spec, check_teaches

F = TypeVar("F")
_NOTHING: Any = object()
# The kinds of objects that a bare decorator may be given. Not all of them are callable.
_DEFINED = (FunctionType, classmethod, staticmethod)


class Requirement:
    """The credits and slots that a call needs, and how its hold ends.

    It can decorate any number of functions. As a context manager it guards one block at a time.
    """

    __slots__ = ("__weakref__", "_entered", "_free", "_guard", "_spec")

    def __init__(self, spec: CallSpec, guard: Bound | None = None) -> None:
        """`guard` is the guard of these calls, where `spec` itself does not contain it."""
        self._spec = spec
        self._guard = guard
        # Empty while a block is guarded. list.pop is atomic, so two blocks cannot both be entered.
        self._free = [None]
        self._entered: Hold | None = None

    @property
    def spec(self) -> CallSpec:
        """What a call needs; it includes the guard."""
        return self._spec if self._guard is None else self._spec.of(self._guard)

    def __reduce__(self) -> tuple[type["Requirement"], tuple[CallSpec]]:
        return Requirement, (self.spec,)

    @clean_traceback
    def __call__(self, function: F = _NOTHING, /, *args: Any, **kwargs: Any) -> F:
        """Guard `function`; raises TypeError for an object that cannot be guarded reliably."""
        from budgetguard._decorators.wrappers import can_wrap, wrap

        least = self._spec.min
        if callable(least) and (args or kwargs or not can_wrap(function)):
            raise TypeError(_bare(least))
        if args or kwargs:
            msg = "require_credits(...) takes one function to decorate"
            raise TypeError(msg)
        self._check_options()
        check_teaches(self._spec)
        return wrap(self.spec, function)

    def _check_options(self) -> None:
        """Raise TypeError for options of a hold if the decorated call holds nothing."""
        spec = self._spec
        held = spec.min if spec.cost is None else spec.cost
        if held != 0 or spec.actual is not None or spec.slots:
            return
        given = {"lag": spec.lag, "linger": spec.linger}
        useless = [f"{what}=" for what, value in given.items() if value is not None]
        if useless:
            msg = f"{' and '.join(useless)} would have no effect on a call that holds nothing (cost=0): leave it out"
            raise TypeError(msg)

    def __enter__(self) -> Hold:
        spec = self._claimed()
        try:
            admitted = spec.begin()
            if not isinstance(admitted, Hold):
                admitted = spec.wait_for(*admitted, warns=True)
        except BaseException:
            self._free.append(None)
            raise
        self._entered = admitted
        return admitted

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        hold, self._entered = self._entered, None
        self._free.append(None)
        assert hold is not None
        if error is None:
            hold.end_at()
        else:
            hold.finish(error)

    async def __aenter__(self) -> Hold:
        spec = self._claimed()
        try:
            admitted = spec.begin()
            if not isinstance(admitted, Hold):
                admitted = await spec.await_for(*admitted)
        except BaseException:
            self._free.append(None)
            raise
        self._entered = admitted
        return admitted

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _claimed(self) -> CallSpec:
        """What the block needs; raises if the block cannot be entered."""
        spec = self._spec
        if spec.actual is not None:
            msg = (
                "actual= receives a function's result, and a block has none: use hold.settle(cost)"
            )
            raise TypeError(msg)
        if spec.until is not None:
            msg = (
                "until= applies to a function's result, and a block has none: leave it out, the hold "
                "ends with the block"
            )
            raise TypeError(msg)
        if spec.on_refusal is not None:
            msg = (
                "on_refusal= supplies a function's result, and a block has none: catch the error around "
                "the block"
            )
            raise TypeError(msg)
        try:
            self._free.pop()
        except IndexError:
            msg = (
                "This require_credits(...) is already guarding a block. Make a new one for each block "
                "that runs at the same time."
            )
            raise RuntimeError(msg) from None
        return spec


def plain_specs(binding: GuardBinding) -> Callable[[Any, Any, Any], CallSpec]:
    """A function that returns the CallSpec for a `min`, `cost` and `name`, checked only once each.

    This makes a block that is entered often cheap. The specs refer to the guard's binding and not to
    the guard, which keeps them, so there is no reference cycle. The least recently used are dropped,
    because amounts may be computed. Callers pass whole numbers only: a value that merely equals
    one, such as True, would share its cache entry. Raises as CallSpec does.
    """

    @functools.lru_cache(maxsize=256)
    def checked(min_: Any, cost: Any, name: Any) -> CallSpec:
        return call_spec(binding, min=min_, cost=cost, name=name)

    return checked


def checked_spec(guard: Any, **options: Any) -> CallSpec:
    """What a call needs; raises TypeError for a function that was decorated without any options."""
    least = options.get("min")
    alone = isinstance(least, _DEFINED) and sum(map(bool, options.values())) == 1
    if alone and _just_defined(least):
        raise TypeError(_bare(least))
    return call_spec(guard, **options)


def _just_defined(function: Any) -> bool:
    """Whether `function` comes from a bare decorator.

    It does if it was defined in the scope that called, and has no name there yet. This cannot be
    found out when the decorated name is called: `bare(callback)` is the same as decorating one.
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
        "Write @require_credits(min=...) with the credits that a call needs."
    )
