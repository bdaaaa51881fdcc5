"""Ends the sessions that dead processes left open."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import anyio.lowlevel

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.events import logger
from budgetguard.browser._deletion import end, end_tagged, sessions_of
from budgetguard.browser._journal import (
    Found,
    Journal,
    JournalEntry,
    Note,
    account_of,
    check_journal,
)
from budgetguard.browser._steps import Patience, RequestSteps, arun, checked_patience, run

# Seconds beyond a session's longest life, for its creation and for clocks that differ.
_GRACE = 600


@dataclass(frozen=True, slots=True)
class Reaped:
    """The result of one reap.

    - `gone`: ids of sessions that the provider confirmed to be over; they are removed from the journal.
    - `left`: ids of sessions that may still be open because their end could not be confirmed, and tags of
      sessions that could not be searched for; they remain in the journal for the next reap.
    - `unseen`: tags of sessions that were requested but that the provider does not know; each reap searches
      for them again, until they would have ended by themselves.
    - `living`, `elsewhere`, `unreadable`: how many were left alone because their owner is alive, because
      they belong to another account or key, or because their file is invalid.
    """

    gone: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    living: int = 0
    elsewhere: int = 0
    unreadable: int = 0


@clean_traceback
def reap(client: Any, journal: Journal, *, patience: Patience | None = None) -> Reaped:
    """End the sessions in `journal` whose process has died or could not confirm that they ended.

    `client` is an `Anchorbrowser` of the account that opened them. Sessions of another base URL or key are
    left alone, and so are those of living processes and all that are not in the journal. A session that is
    confirmed gone is removed from the journal; the others remain. Several reaps at once, in one process or
    many, share the work. `patience` applies to each session.

    Provider errors are not raised. Raises TypeError for an `AsyncAnchorbrowser`, and OSError if the journal
    cannot be read or written.
    """
    check_journal(journal)
    patience = checked_patience(patience)
    sessions, account = sessions_of(client, awaits=False), account_of(client)
    tally = _Tally()
    for found in journal.find():
        run(_reap(sessions, account, found, tally, patience), patience)
    return tally.reaped()


@clean_traceback
async def areap(client: Any, journal: Journal, *, patience: Patience | None = None) -> Reaped:
    """`reap` with an `AsyncAnchorbrowser`; a cancellation takes effect between two sessions."""
    check_journal(journal)
    patience = checked_patience(patience)
    sessions, account = sessions_of(client, awaits=True), account_of(client)
    tally = _Tally()
    # Never between finding and ending a session, because its file is locked then.
    await anyio.lowlevel.checkpoint()
    for found in journal.find():
        await arun(_reap(sessions, account, found, tally, patience), patience)
        await anyio.lowlevel.checkpoint()
    return tally.reaped()


class _Tally:
    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {"gone": [], "left": [], "unseen": []}
        self.alone = Counter[str]()

    def reaped(self) -> Reaped:
        return Reaped(
            gone=tuple(self.names["gone"]),
            left=tuple(self.names["left"]),
            unseen=tuple(self.names["unseen"]),
            living=self.alone["living"],
            elsewhere=self.alone["elsewhere"],
            unreadable=self.alone["unreadable"],
        )


def _reap(
    sessions: Any, account: str, found: Found, tally: _Tally, patience: Patience
) -> RequestSteps[None]:
    if not isinstance(found, JournalEntry):
        tally.alone[found] += 1
        return
    try:
        if found.note.account != account:
            tally.alone["elsewhere"] += 1
            return
        if found.session is None:
            ending = yield from end_tagged(sessions, found.note.tag, patience)
        else:
            ending = yield from end(sessions, found.session, patience)
        if ending.gone or (ending.unseen and _has_ended(found.note, patience)):
            found.forget()
        names = ending.ids or (found.note.tag,)
        kind = "gone" if ending.gone else "unseen" if ending.unseen else "left"
        tally.names[kind] += names
        if kind == "left":
            logger.warning("Not confirmed gone: %s (%s)", ", ".join(names), ending.reason)
    finally:
        found.leave()


def _has_ended(note: Note, patience: Patience) -> bool:
    return patience.clock.wall() > note.at + 60 * note.minutes + _GRACE
