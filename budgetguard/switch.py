"""The process-wide switch: guards on, off, or as the environment says."""

import os

from budgetguard.errors import ConfigurationError

VARIABLE = "BUDGETGUARD"


class Switch:
    """`passive` is True where guarded code runs as if undecorated.

    `stamp` is another object after each change that sends calls another way, of the switch or of a
    guard: who found nothing out of the ordinary need look at that alone the next time.
    """

    __slots__ = ("_chosen", "observe", "passive", "read", "stamp")

    def __init__(self) -> None:
        self.stamp = object()
        self.read = False
        self._chosen = False
        self.passive = False
        self.observe = False

    def turn(self) -> None:
        """Something has changed."""
        self.stamp = object()

    def read_environment(self) -> None:
        """Read `BUDGETGUARD` once; raises ConfigurationError for a value other than off, observe."""
        if self.read:
            return
        value = os.environ.get(VARIABLE, "").strip().lower()
        if value not in {"", "off", "observe"}:
            # A traceback may be printed together with its locals.
            del value
            msg = f"{VARIABLE} is something else: set it to off or observe, or leave it unset."
            raise ConfigurationError(msg)
        self.read = True
        if not self._chosen:
            self.passive = value == "off"
            self.observe = value == "observe"

    def set_active(self, active: bool) -> None:  # noqa: FBT001  as below
        """Choose for this process, whatever the environment says."""
        self._chosen = True
        self.passive = not active
        self.observe = False
        self.turn()

    def save(self) -> tuple[bool, bool, bool, bool]:
        """The present state, for `restore`."""
        return self.read, self._chosen, self.passive, self.observe

    def restore(self, state: tuple[bool, bool, bool, bool]) -> None:
        """Back to a saved state."""
        self.read, self._chosen, self.passive, self.observe = state
        self.turn()


SWITCH = Switch()


def set_active(active: bool) -> None:  # noqa: FBT001  the contract's signature
    """Switch every guard of this process off, or on again.

    Off, guarded code runs as if undecorated, and blocks get a hold that does nothing: nothing is
    looked up, held or refused. Calls that run already end as they would have. Wins over the
    `BUDGETGUARD` environment variable.
    """
    if not isinstance(active, bool):
        msg = f"set_active takes True or False, not {type(active).__name__}"
        del active  # a traceback may be printed together with its locals
        raise TypeError(msg)
    SWITCH.set_active(active)
