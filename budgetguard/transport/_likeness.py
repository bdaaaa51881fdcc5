"""Objects that pass for a library's type if that library is loaded, without importing it.

Transports that compose others check `isinstance(transport, httpx.BaseTransport)`. Which library will
check is not known in advance, and registering a class would need an abstract base class.
"""

import functools
import sys
from typing import Any


def seen_as(kind: type, libraries: tuple[str, ...], name: str) -> type:
    """The class to return as an object's `__class__`: a subclass of `kind` and of each library's `name`."""
    loaded = (sys.modules.get(library) for library in libraries)
    bases = (getattr(module, name, None) for module in loaded if module is not None)
    return _class(kind, tuple(base for base in bases if base is not None))


@functools.cache
def _class(kind: type, bases: tuple[type, ...]) -> type:
    # Never instantiated.
    names: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (kind, *bases), names) if bases else kind
