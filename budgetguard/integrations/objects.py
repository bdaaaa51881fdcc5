"""Any object, with a guard before those of its methods that spend."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, TypeAlias, TypeVar, cast

from budgetguard.credits import Amount
from budgetguard.guard import Guard, check_guard
from budgetguard.proxies import Proxy, able

T = TypeVar("T")
Cost: TypeAlias = Amount | Callable[..., Amount] | Mapping[str, Any]


def guarded(obj: T, guard: "Guard", costs: Mapping[str, Cost]) -> T:
    """What behaves as `obj` does, but refuses what its credits will not pay for.

    `costs` says of each method that spends what it may cost, in credits: a number, a callable given
    the method's arguments, or the arguments of `require_credits` in a mapping. A name may lead to a
    part of the object: `"sessions.create"`.

    The object itself is left as it is. Guarded is what is called through the result and under these
    names: not what the object's own methods call inside, nor objects that they return. A method that
    calls a priced one is to be priced instead of it, or a call is refused at two places. The result is
    an instance of the object's class, to `isinstance`; it cannot be pickled, copied or called, nor what
    is guarded be replaced in it: replace that in the object, and guard it then.

    Raises AttributeError where the object has no such method, TypeError for what is no method or no
    guard, and TypeError or ValueError for a cost that cannot be.
    """
    check_guard(guard)
    if isinstance(obj, type):
        msg = f"guarded() takes an object, not the class {obj.__name__}: make one first"
        raise TypeError(msg)
    if not costs:
        msg = f"guarded() needs the cost of at least one method of {type(obj).__name__}"
        raise ValueError(msg)
    return cast("T", Guarded(obj, guard, costs, type(obj).__name__))


class Guarded(Proxy):  # type: ignore[misc]
    """An object that is asked for its priced methods here, and for all else as before."""

    def __new__(cls, wrapped: Any, *_: Any, **__: Any) -> Any:
        """One that can be awaited or iterated over, if the object can."""
        return super().__new__(able(cls, wrapped))

    def __init__(self, wrapped: Any, guard: "Guard", costs: Mapping[str, Cost], path: str) -> None:
        super().__init__(wrapped)
        self._self_here: dict[str, Any] = {}
        inner: dict[str, dict[str, Cost]] = {}
        here: dict[str, Any] = {}
        for name, cost in costs.items():
            first, _, rest = name.partition(".")
            if first.startswith("__"):
                msg = f"{path}.{first} is called by Python itself: decorate the function instead"
                raise TypeError(msg)
            part = _part(wrapped, first, path)
            if rest:
                inner.setdefault(first, {})[rest] = cost
            else:
                here[first] = _method(part, guard, cost, f"{path}.{first}")
        for name, theirs in inner.items():
            if name in here:
                msg = f"{path}.{name} is priced itself, and so is a part of it"
                raise ValueError(msg)
            here[name] = Guarded(getattr(wrapped, name), guard, theirs, f"{path}.{name}")
        self._self_here = here

    def __getattr__(self, name: str) -> Any:
        # Asked for whatever the proxy itself has not: nothing that could be priced is passed by.
        here = self._self_here
        return here[name] if name in here else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        # It would be set on the object behind, and the method that was priced be called all the same.
        if not name.startswith("_self_") and name in self._self_here:
            msg = f"{name} is guarded: replace it in the object itself, and guard that"
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
        """Hand out the guarded object where a block is given the one behind it."""
        return self if entered is self.__wrapped__ else entered


def check_unguarded(obj: object) -> None:
    """Raise TypeError for what is guarded already: a call would be held twice."""
    if isinstance(obj, Guarded):
        msg = f"this {obj.__class__.__name__} is guarded already: pass the object itself"
        raise TypeError(msg)


def _part(wrapped: Any, name: str, path: str) -> Any:
    try:
        return getattr(wrapped, name)
    except AttributeError:
        public = [each for each in dir(wrapped) if not each.startswith("_")]
        near = get_close_matches(name, public, n=3)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        msg = f"{path} has no {name!r} to guard.{meant}"
        raise AttributeError(msg) from None


def _method(method: Any, guard: "Guard", cost: Cost, path: str) -> Any:
    if not callable(method) or isinstance(method, type):
        msg = f"{path} is no method, but {type(method).__name__}"
        raise TypeError(msg)
    terms: Mapping[str, Any] = cost if isinstance(cost, Mapping) else {"min": cost}
    try:
        return guard.require_credits(**{"name": path, **terms})(method)
    except (TypeError, ValueError) as error:
        error.add_note(f"in the cost of {path}")
        raise
