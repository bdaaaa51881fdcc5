"""Proxies that support exactly the operations of the objects that they stand for."""

import functools
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Callable

# wrapt 2's ObjectProxy is always iterable; its BaseObjectProxy is not.
Proxy: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)

# Python checks an object's class for these methods, and their presence alone counts.
_USES = ("__await__", "__iter__", "__next__", "__aiter__", "__anext__")


def able(cls: type, wrapped: object) -> type:
    """A proxy class with those of its `_self_uses` that the class of `wrapped` has, too."""
    return _able(cls, tuple(name for name in _USES if hasattr(type(wrapped), name)))


@functools.cache
def _able(cls: type, names: tuple[str, ...]) -> type:
    uses: dict[str, Callable[..., Any]] = cls._self_uses  # type: ignore[attr-defined]
    members: dict[str, Any] = {name: uses[name] for name in names}
    if hasattr(cls, "__iter__") and "__iter__" not in names:
        members["__iter__"] = None  # wrapt 1's ObjectProxy always has one
    return type(cls.__name__, (cls,), {**members, "__module__": cls.__module__})
