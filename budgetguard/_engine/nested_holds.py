"""Nested holds: a call that is guarded in two places is held twice, which is logged at DEBUG.

A hold surrounds a call if it belongs to what runs the call: a block, a decorated function, a
middleware. A hold whose work continues elsewhere (an acquired hold, an awaitable, a generator, a
response that is read later) does not surround what comes after it: `step_out` records that.
"""

import weakref
from contextvars import ContextVar
from dataclasses import dataclass

from budgetguard._core.events import logger
from budgetguard._engine.hold import Hold


@dataclass(frozen=True, slots=True)
class _Level:
    hold: "weakref.ref[Hold]"
    around: "_Level | None"


_INNERMOST: ContextVar[_Level | None] = ContextVar("budgetguard_innermost", default=None)


def enter(hold: Hold) -> None:
    """Make `hold` the innermost one; log it if it is inside an open hold of the same account."""
    around = _open(_INNERMOST.get())
    outer = None if around is None else around.hold()
    if outer is not None and outer.same_account(hold):
        logger.debug(
            "%s holds credits inside %s, which holds credits too: if both guard one call, it is held twice",
            hold.operation,
            outer.operation,
        )
    _INNERMOST.set(_Level(weakref.ref(hold), around))


def step_out(hold: Hold) -> None:
    """Record that what comes next in this context is not inside `hold`, although it is open."""
    level = _INNERMOST.get()
    if level is not None and level.hold() is hold:
        _INNERMOST.set(level.around)


def _open(level: _Level | None) -> _Level | None:
    """The innermost level whose hold is still open; levels that have ended are dropped."""
    while level is not None:
        hold = level.hold()
        if hold is not None and hold.state == "open":
            return level
        level = level.around
    return None
