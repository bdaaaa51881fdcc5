"""Sessions that a dead process left behind, ended by whoever comes next."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import anyio.lowlevel

from budgetguard.browser.course import Course, Patience, arun, checked_patience, run
from budgetguard.browser.ending import end, end_tagged, sessions_of
from budgetguard.browser.journal import Entry, Found, Journal, Note, account_of, check_journal
from budgetguard.discreet import discreet
from budgetguard.events import logger

# Seconds beyond a session's longest life, for its creation and for clocks that differ.
_GRACE = 600


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one reap did.

    - `gone`: ids of sessions that the provider confirmed to be over; they are forgotten.
    - `left`: ids of sessions that may live still, because their end could not be confirmed, and
      tags of those that could not be looked for; they stay in the journal for the next reap.
    - `unseen`: tags of sessions that were asked for, and that the provider knows nothing of; the
      next reap looks again, until they would have ended by themselves.
    - `living`, `elsewhere`, `unreadable`: how many were left alone, because their owner lives, they
      belong to another account or key, or their file makes no sense.
    """

    gone: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    living: int = 0
    elsewhere: int = 0
    unreadable: int = 0


@discreet
def reap(client: Any, journal: Journal, *, patience: Patience | None = None) -> Reaped:
    """End the sessions in `journal` whose process is dead, or gave up on ending them.

    `client` is an `Anchorbrowser` of the account that opened them. Sessions of another base URL or
    key are left alone, as are those of living processes and all that are not in the journal. What
    is confirmed gone is forgotten, what is not stays. Several at once, in one process or many, share
    the work. `patience` counts for each session.

    Raises nothing for what the provider does; TypeError for an `AsyncAnchorbrowser`, and OSError
    where the journal cannot be read or written.
    """
    check_journal(journal)
    patience = checked_patience(patience)
    sessions, account = sessions_of(client, awaits=False), account_of(client)
    tally = _Tally()
    for found in journal.find():
        run(_reap(sessions, account, found, tally, patience), patience)
    return tally.reaped()


@discreet
async def areap(client: Any, journal: Journal, *, patience: Patience | None = None) -> Reaped:
    """`reap` with an `AsyncAnchorbrowser`; a cancellation takes effect between two sessions."""
    check_journal(journal)
    patience = checked_patience(patience)
    sessions, account = sessions_of(client, awaits=True), account_of(client)
    tally = _Tally()
    # Never between finding and ending: what was found is locked.
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
) -> Course[None]:
    if not isinstance(found, Entry):
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
