"""Objects that are of a library's type where that library is there, without importing it.

Transports that compose others check `isinstance(transport, httpx.BaseTransport)`. Which library asks
is not known beforehand, and registering would need an abstract base class.
"""

import functools
import sys
from typing import Any


def seen_as(kind: type, libraries: tuple[str, ...], name: str) -> type:
    """The class to be given as an object's `__class__`: of `kind`, and of each library's `name`."""
    loaded = (sys.modules.get(library) for library in libraries)
    bases = (getattr(module, name, None) for module in loaded if module is not None)
    return _class(kind, tuple(base for base in bases if base is not None))


@functools.cache
def _class(kind: type, bases: tuple[type, ...]) -> type:
    # No instance is made of it.
    names: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (kind, *bases), names) if bases else kind
