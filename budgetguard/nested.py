"""Calls inside of calls: one that is guarded at two places holds twice, and a debug line says so.

Around a call is what runs it: a block, a decorated function, a middleware. A hold whose work goes on
elsewhere (one that was acquired, an awaitable, a generator, a reply that is read later) is around
nothing that comes after it: `step_out` says so.
"""

import weakref
from contextvars import ContextVar
from dataclasses import dataclass

from budgetguard.events import logger
from budgetguard.hold import Hold


@dataclass(frozen=True, slots=True)
class _Level:
    hold: "weakref.ref[Hold]"
    around: "_Level | None"


_INNERMOST: ContextVar[_Level | None] = ContextVar("budgetguard_innermost", default=None)


def tell(hold: Hold) -> None:
    """Log that `hold` is inside an open one of the same account; from here on it is the innermost."""
    around = _open(_INNERMOST.get())
    outer = None if around is None else around.hold()
    if outer is not None and outer.same_account(hold):
        logger.debug(
            "%s holds credits while %s, around it, does: if both guard one call, it is held twice",
            hold.operation,
            outer.operation,
        )
    _INNERMOST.set(_Level(weakref.ref(hold), around))


def step_out(hold: Hold) -> None:
    """What comes next in this context is not inside `hold`, though it is open."""
    level = _INNERMOST.get()
    if level is not None and level.hold() is hold:
        _INNERMOST.set(level.around)


def _open(level: _Level | None) -> _Level | None:
    """The innermost level whose hold is open still; what has ended is forgotten."""
    while level is not None:
        hold = level.hold()
        if hold is not None and hold.state == "open":
            return level
        level = level.around
    return None
