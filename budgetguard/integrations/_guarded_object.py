"""Any object, with a guard before those of its methods that cost credits."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, cast

from budgetguard._core.argument_types import near
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._costs import Cost, spec_for
from budgetguard._decorators.proxies import Proxy, able
from budgetguard.guard import Guard, check_guard
from budgetguard.requirement import Requirement

T = TypeVar("T")
_MISSING: Any = object()


@clean_traceback
def guarded(obj: T, guard: "Guard", costs: Mapping[str, Cost]) -> T:
    """A stand-in for `obj` that refuses calls which its credits do not cover.

    `costs` maps the name of each method that costs credits to what one call may cost: a number of
    credits, a callable that is given the method's arguments, or a mapping of arguments for
    `require_credits`. A dotted name leads to a part of the object: `"sessions.create"`.

    A method's hold lasts until the method returns; if it returns a generator, a future or an awaitable, the
    hold lasts until that is finished. For a stream or a connection, put `"until": "close"` in the mapping, see
    `require_credits`.

    The object itself is not changed. Only calls made through the returned object and under these names
    are guarded: calls that the object's own methods make inside are not, nor are objects that they return.
    If one method calls another, price only one of them, or the call is held twice.

    The result passes `isinstance` checks for the object's class. It cannot be pickled, copied or called,
    and a guarded method cannot be replaced in it: replace the method in the object, then guard the object.

    Raises AttributeError if the object has no such method, TypeError if the name leads to something that
    is not a method or if `guard` is not a Guard, and TypeError or ValueError for an invalid cost.
    """
    check_guard(guard)
    if isinstance(obj, type):
        msg = f"guarded() takes an object, not the class {obj.__name__}: make an object first"
        raise TypeError(msg)
    if not isinstance(costs, Mapping):
        msg = f"costs takes a mapping of method names to costs, not {type(costs).__name__}"
        raise TypeError(msg)
    if not costs:
        msg = f"guarded() needs the cost of at least one method of {type(obj).__name__}"
        raise ValueError(msg)
    return cast("T", Guarded(obj, guard, costs, type(obj).__name__))


class Guarded(Proxy):  # type: ignore[misc]
    """An object whose priced methods are replaced; all other attributes are those of the object behind it."""

    def __new__(cls, wrapped: Any, *_: Any, **__: Any) -> Any:
        """A proxy that can be awaited or iterated over if the object can."""
        return super().__new__(able(cls, wrapped))

    def __init__(self, wrapped: Any, guard: "Guard", costs: Mapping[str, Cost], path: str) -> None:
        super().__init__(wrapped)
        self._self_here: dict[str, Any] = {}
        inner: dict[str, dict[str, Cost]] = {}
        here: dict[str, Any] = {}
        for name, cost in costs.items():
            first, _, rest = name.partition(".")
            if first.startswith("__"):
                msg = f"Python itself calls {path}.{first}: decorate the function instead"
                raise TypeError(msg)
            part = _part(wrapped, first, path)
            if rest:
                inner.setdefault(first, {})[rest] = cost
            else:
                here[first] = _method(part, guard, cost, f"{path}.{first}")
        for name, theirs in inner.items():
            if name in here:
                msg = f"costs prices both {path}.{name} and a part of it: leave one of them out"
                raise ValueError(msg)
            here[name] = Guarded(getattr(wrapped, name), guard, theirs, f"{path}.{name}")
        self._self_here = here

    def __getattr__(self, name: str) -> Any:
        # Called for every name that the proxy itself lacks, so no priced method can be missed.
        here = self._self_here
        return here[name] if name in here else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        # It would be set on the object behind the proxy, and the priced method be called anyway.
        if not name.startswith("_self_") and name in self._self_here:
            msg = f"{name} is guarded: replace it in the object itself, then guard the object"
            raise AttributeError(msg)
        super().__setattr__(name, value)

    def __enter__(self) -> Any:
        return self._self_or(type(self.__wrapped__).__enter__(self.__wrapped__))

    def __exit__(self, *args: object) -> Any:
        return type(self.__wrapped__).__exit__(self.__wrapped__, *args)

    async def __aenter__(self) -> Any:
        return self._self_or(await type(self.__wrapped__).__aenter__(self.__wrapped__))

    async def __aexit__(self, *args: object) -> Any:
        return await type(self.__wrapped__).__aexit__(self.__wrapped__, *args)

    async def _self_awaited(self) -> Any:
        return self._self_or(await self.__wrapped__)

    _self_uses: ClassVar = {
        "__await__": lambda self: self._self_awaited().__await__(),
        "__iter__": lambda self: self._self_or(iter(self.__wrapped__)),
        "__next__": lambda self: next(self.__wrapped__),
        "__aiter__": lambda self: self._self_or(aiter(self.__wrapped__)),
        "__anext__": lambda self: anext(self.__wrapped__),
    }

    def _self_or(self, entered: Any) -> Any:
        """The guarded object, wherever a block would be given the object behind it."""
        return self if entered is self.__wrapped__ else entered


def check_unguarded(obj: object) -> None:
    """Raise TypeError for an object that is already guarded: its calls would be held twice."""
    if isinstance(obj, Guarded):
        msg = f"this {obj.__class__.__name__} is already guarded: pass the unguarded object"
        raise TypeError(msg)


def _part(wrapped: Any, name: str, path: str) -> Any:
    part = getattr(wrapped, name, _MISSING)
    if part is _MISSING:
        meant = near(name, [each for each in dir(wrapped) if not each.startswith("_")])
        what = repr(name) if meant else "method of that name"
        advice = f" Did you mean {' or '.join(meant)}?" if meant else ""
        msg = f"{path} has no {what} to guard.{advice}"
        raise AttributeError(msg)
    return part


def _method(method: Any, guard: "Guard", cost: Cost, path: str) -> Any:
    if not callable(method) or isinstance(method, type):
        msg = f"{path} is not a method, but {type(method).__name__}"
        raise TypeError(msg)
    where = f"the cost of {path}"
    need = spec_for(guard, cost, where, name=path)
    try:
        return Requirement(need)(method)
    except (TypeError, ValueError) as error:
        error.add_note(f"in {where}")
        raise
