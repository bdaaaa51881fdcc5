"""Whether the interpreter has begun to exit: from then on failed refreshes are not reported."""

import atexit
import sys
from collections.abc import Callable


class _Exit:
    """The private loop sets `begun` at exit."""

    begun = False


EXIT = _Exit()


def at_exit(function: Callable[..., object], *args: object) -> None:
    """Call a function when this process exits, also if it is a child of `multiprocessing`."""
    atexit.register(function, *args)
    # Its children end without the functions of atexit.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, function, args, exitpriority=0)
