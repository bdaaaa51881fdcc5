"""Where the code is that called the library."""

import sys
from types import FrameType

# What may stand between the library and the code that called it: ExitStack, wrapped callables.
_BETWEEN = frozenset({__name__.partition(".")[0], "contextlib", "wrapt"})


def caller() -> tuple[FrameType | None, int]:
    """The nearest frame that is neither the library's nor in between, and how far up it is.

    None where there is none: at the bottom of a stack, as in a new thread or in an exit handler,
    nobody's code called.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    depth = 0
    while frame is not None and _is_between(frame):
        frame, depth = frame.f_back, depth + 1
    return frame, depth


def _is_between(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN
