"""The default guard: the one that is used by code that names no guard."""

from threading import get_ident
from typing import Any

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.reentrancy import CHANGING, interrupting
from budgetguard._engine.binding import GuardRef
from budgetguard._engine.fork import Locked
from budgetguard.guard import Guard
from budgetguard.providers.registry import from_environment

_OTHERWISE = "or call budgetguard.set_default_guard(Guard(...)), or pass guard=."
_ADVICE = (
    f"Set one of them, {_OTHERWISE}",
    f"Name it with BUDGETGUARD_PROVIDER, {_OTHERWISE}",
)


class Default(GuardRef[Guard]):
    """Holds the default guard; `guard` is None until it is set, or made by the first call."""

    def __init__(self) -> None:
        super().__init__(None)
        self._locked = Locked()

    def __reduce__(self) -> str:
        # Pickled by name, because another process has a default guard of its own.
        return "DEFAULT"

    def __call__(self, *_: Any, **__: Any) -> Guard:
        """The default guard, made from the environment on first use; the arguments are ignored."""
        guard = self.guard
        if guard is None:
            if get_ident() in CHANGING:
                raise RuntimeError(interrupting("The default guard"))
            with self._locked.lock:
                made = self.guard or Guard(from_environment(*_ADVICE))
                # A signal handler on this same thread may have made one in the meantime.
                guard = self.guard = self.guard or made
        return guard


DEFAULT = Default()


@clean_traceback
def set_default_guard(guard: Guard | None) -> None:
    """Set the guard that is used by code that names no guard, from its next call on.

    None removes it: the next such call makes a guard from the environment.
    """
    if guard is not None and not isinstance(guard, Guard):
        msg = f"set_default_guard takes a Guard or None, not {type(guard).__name__}"
        raise TypeError(msg)
    DEFAULT.guard = guard
