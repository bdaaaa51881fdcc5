"""Watches, on the private loop, for the files of `budgetguard pause`.

One listing of one directory, twice a second, serves all accounts of the process. It takes about 10 µs, and
0.1 ms with a thousand accounts. A file itself is read when it appears, and while it is there. No call does I/O
for this, or waits for it.
"""

import weakref
from collections.abc import Callable
from typing import Protocol

from budgetguard._core.clock import Clock
from budgetguard._core.errors import ConfigurationError
from budgetguard._core.events import logger
from budgetguard._io import pause_file

EVERY = 0.5
"""Seconds between two listings."""

# An alarm that is this late was lost, for example with a loop whose files were closed.
_LATE = 1.0

_NEVER = float("-inf")


class Pausable(Protocol):
    """An account, as this sees it. `note_name` is its file; `watched` is set here."""

    note_name: str
    watched: bool

    @property
    def guarded(self) -> bool:
        """Whether the account has guards."""
        ...

    @property
    def heard(self) -> str | None:
        """The reason that it was last told."""
        ...

    def hear(self, reason: str | None) -> None:
        """Its file is there, for that reason; None: it is not."""
        ...


class Alarms(Protocol):
    """What a watch needs of the private loop."""

    clock: Clock

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call back at a monotonic time; raises if no loop can be started."""
        ...


class PauseWatch:
    """The watch of one process. All but `lapsed` and `check_soon` runs on the private loop."""

    def __init__(self, loop: Alarms) -> None:
        self._loop = loop
        self._accounts: weakref.WeakSet[Pausable] = weakref.WeakSet()
        self._alarm_at = _NEVER
        self._complained = False

    def check(self, account: Pausable) -> None:
        """Check the account's file now, and from now on as long as the account has guards."""
        self._accounts.add(account)
        account.watched = True
        self._tell([account])
        self._set_alarm()

    def lapsed(self, account: Pausable, now: float) -> bool:
        """Whether nobody checks the file of an account that was watched once."""
        return not account.watched or now > self._alarm_at + _LATE

    def check_soon(self, account: Pausable) -> None:
        """`check`, from any thread. Without a loop nothing happens: the next change tries again."""
        try:
            self._loop.call_at(self._loop.clock.monotonic(), lambda: self.check(account))
        except Exception:  # noqa: BLE001  no thread can be started, or the interpreter exits
            return
        # Until then it is not asked for once more.
        account.watched = True
        self._alarm_at = max(self._alarm_at, self._loop.clock.monotonic())

    def _ring(self, at: float) -> None:
        if at != self._alarm_at:  # another one has replaced it
            return
        self._alarm_at = _NEVER
        accounts = list(self._accounts)
        self._tell(accounts)
        for account in accounts:
            if not account.guarded:
                account.watched = False
                self._accounts.discard(account)
        if self._accounts:
            self._set_alarm()

    def _set_alarm(self) -> None:
        now = self._loop.clock.monotonic()
        if now < self._alarm_at:
            return
        at = self._alarm_at = now + EVERY
        try:
            self._loop.call_at(at, lambda: self._ring(at))
        except Exception:  # noqa: BLE001  the interpreter exits
            self._alarm_at = _NEVER

    def _tell(self, accounts: list[Pausable]) -> None:
        try:
            here = pause_file.directory()
            there = pause_file.names(here, (account.note_name for account in accounts))
            for account in accounts:
                if account.note_name in there or account.heard is not None:
                    reason = pause_file.reason_in_file(here / account.note_name)
                    if reason != account.heard:
                        account.hear(reason)
        except (OSError, ConfigurationError) as error:
            # As before: a program that never uses this must not stop where it may not see the directory.
            if not self._complained:
                self._complained = True
                why = error.strerror if isinstance(error, OSError) else error
                message = (
                    "`budgetguard pause` cannot reach this process: %s. Set %s, for both, to a directory that "
                    "this process can read."
                )
                logger.warning(message, why, pause_file.VARIABLE)
