"""Which results stand for unfinished work, and which can be closed: decided by their type alone."""

from collections.abc import AsyncGenerator, Generator

_FUTURE = ("cancelled", "done", "exception", "result")
_ENDS = ("close", "aclose", "__exit__", "__aexit__", "__next__", "__anext__", "__aiter__")


class Unknown(BaseException):
    """The cause of a kept hold where there is no exception. Never raised."""


def goes_on(kind: type, until: str | None) -> bool:
    """Whether the work of a call may go on when it has returned an object of this type."""
    if hasattr(kind, "__await__") or is_future(kind):
        return True
    # Checking for `throw` is cheaper than the ABCs' instance checks, and few types have it.
    throws = hasattr(kind, "throw") or hasattr(kind, "athrow")
    if throws and issubclass(kind, Generator | AsyncGenerator):
        return True
    if hasattr(kind, "_self_goes_on"):  # the proxy of an inner guard
        return True
    return until is not None and can_end(kind)


def can_end(kind: type) -> bool:
    """Whether objects of this type can be closed, left or exhausted.

    An object that can only be iterated over may be a stream or a list. A list is a value: it defines
    its own equality, by its items, and a stream does not.
    """
    if any(hasattr(kind, name) for name in _ENDS):
        return True
    return hasattr(kind, "__iter__") and getattr(kind, "__eq__", None) is object.__eq__


def is_future(kind: type) -> bool:
    """Whether objects of this type are futures, of any library."""
    return hasattr(kind, "add_done_callback") and all(hasattr(kind, name) for name in _FUTURE)
