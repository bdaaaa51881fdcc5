"""The guard that code gets which names none."""

import os
from threading import get_ident
from typing import Any

from budgetguard.errors import ConfigurationError
from budgetguard.gate import Slot
from budgetguard.guard import Guard
from budgetguard.inside import CHANGING, interrupting
from budgetguard.process import Locked
from budgetguard.providers import AnchorBrowser, PreDev

PREDEV_KEY = "PREDEV_API_KEY"
ANCHOR_KEY = "ANCHORBROWSER_API_KEY"
_OTHERWISE = "or call budgetguard.set_default_guard(Guard(...)), or pass guard=."
_ADVICE = f"Set one of them, {_OTHERWISE}", f"Unset one, {_OTHERWISE}"


class Default(Slot):
    """Holds the default guard; `guard` is None until somebody sets it or calls this."""

    def __init__(self) -> None:
        super().__init__(None)
        self._locked = Locked()

    def __call__(self, *_: Any, **__: Any) -> Guard:
        """The default guard, made from the environment on first use; the call does not matter."""
        guard = self.guard
        if guard is None:
            if get_ident() in CHANGING:
                raise RuntimeError(interrupting("The default guard"))
            with self._locked.lock:
                made = self.guard or Guard(provider_from_environment(*_ADVICE))
                # A signal's handler may have been faster, on this very thread.
                guard = self.guard = self.guard or made
        return guard


DEFAULT = Default()


def provider_from_environment(without: str, with_two: str) -> PreDev | AnchorBrowser:
    """The one provider whose key the environment holds.

    Raises ConfigurationError where there is none, or two; the error ends in the advice given.
    """
    predev, anchor = os.environ.get(PREDEV_KEY), os.environ.get(ANCHOR_KEY)
    if predev and anchor:
        msg = f"Both {PREDEV_KEY} and {ANCHOR_KEY} are set, and one is wanted. {with_two}"
        raise ConfigurationError(msg)
    if predev:
        return PreDev()
    if anchor:
        return AnchorBrowser()
    msg = f"Neither {PREDEV_KEY} nor {ANCHOR_KEY} is set. {without}"
    raise ConfigurationError(msg)


def set_default_guard(guard: Guard | None) -> None:
    """Have `guard` serve code that names none, from its next call on.

    None takes it back: the next such call makes a guard from the environment.
    """
    if guard is not None and not isinstance(guard, Guard):
        msg = f"set_default_guard takes a Guard or None, not {type(guard).__name__}"
        raise TypeError(msg)
    DEFAULT.guard = guard
