"""The process-wide switch: turns all guards on or off, or follows the environment."""

import os
import weakref
from typing import Protocol

from budgetguard._core.errors import ConfigurationError

VARIABLE = "BUDGETGUARD"


class SwitchListener(Protocol):
    """An object that is notified when guards are switched on or off."""

    def close_fast_path(self) -> None:
        """Make the next call check everything again."""
        ...


class Activation:
    """The state of the switch. While `passive` is True, guarded code runs as if undecorated."""

    __slots__ = ("_chosen", "_listeners", "observe", "passive", "read")

    def __init__(self) -> None:
        self._listeners: weakref.WeakValueDictionary[int, SwitchListener] = (
            weakref.WeakValueDictionary()
        )
        self.read = False
        self._chosen = False
        self.passive = False
        self.observe = False

    def notify(self, listener: SwitchListener) -> None:
        """Notify `listener`, as long as it exists, whenever guards are switched on or off."""
        self._listeners[id(listener)] = listener

    def _changed(self) -> None:
        """Notify every listener."""
        # The references are copied at once: another thread may be making a guard.
        for ref in self._listeners.valuerefs():
            listener = ref()
            if listener is not None:
                listener.close_fast_path()

    def read_environment(self) -> None:
        """Read `BUDGETGUARD` once; raises ConfigurationError unless it is off, observe or empty."""
        if self.read:
            return
        value = os.environ.get(VARIABLE, "").strip().lower()
        if value not in {"", "off", "observe"}:
            # A traceback may be printed together with its locals.
            del value
            msg = f"{VARIABLE} has an unknown value: set it to off or observe, or leave it unset."
            raise ConfigurationError(msg)
        self.read = True
        if not self._chosen:
            self.passive = value == "off"
            self.observe = value == "observe"

    def set_active(self, active: bool) -> None:  # noqa: FBT001  as below
        """Choose for this process, overriding the environment."""
        self._chosen = True
        self.passive = not active
        self.observe = False
        self._changed()

    def save(self) -> tuple[bool, bool, bool, bool]:
        """The current state, for `restore`."""
        return self.read, self._chosen, self.passive, self.observe

    def restore(self, state: tuple[bool, bool, bool, bool]) -> None:
        """Return to a saved state."""
        self.read, self._chosen, self.passive, self.observe = state
        self._changed()


ACTIVATION = Activation()


def set_active(active: bool) -> None:  # noqa: FBT001  the contract's signature
    """Switch every guard of this process off, or on again.

    While guards are off, guarded code runs as if undecorated, and blocks get a hold that does
    nothing: no balance is requested, and no call is held or refused. Calls that are already running
    finish as usual. This setting takes precedence over the `BUDGETGUARD` environment variable.
    """
    if not isinstance(active, bool):
        msg = f"set_active takes True or False, not {type(active).__name__}"
        del active  # a traceback may be printed together with its locals
        raise TypeError(msg)
    ACTIVATION.set_active(active)
