"""What pauses an account: the reason as users give it, and the file by which other processes hear of it.

A file's name is a digest of the account's fingerprint, itself a digest: neither shows the key, and the name
cannot be compared with fingerprints from elsewhere. There is no salt: it would be beside the names, where
whoever reads one reads the other, and a lost salt would be a pause that nobody hears.
"""

import hashlib
from datetime import datetime
from typing import Literal, TypeAlias

PausedBy: TypeAlias = Literal["guard", "command", "store"]
"""Who paused an account.

`Guard.pause()` in this process or another one of its store, `budgetguard pause` on this machine, or
`budgetguard pause --store`.
"""

NO_REASON = "no reason was given"
UNREADABLE = "the reason cannot be read"
LONGEST_REASON = 200

LONGEST_NOTE = 16 * 1024
"""A file is read no further than this many bytes."""


def checked_reason(reason: object) -> str:
    """A reason as one line of text; raises TypeError or ValueError unless it has 1 to 200 characters."""
    if not isinstance(reason, str):
        msg = f"reason takes a str, not {type(reason).__name__}"
        raise TypeError(msg)
    line = _one_line(reason)
    if not 0 < len(line) <= LONGEST_REASON:
        msg = f"reason takes 1 to {LONGEST_REASON} characters, not {len(line)}"
        raise ValueError(msg)
    return line


def note_name(fingerprint: str) -> str:
    """The name of the file that pauses the account with that fingerprint."""
    return f"{hashlib.sha256(f'budgetguard pause {fingerprint}'.encode()).hexdigest()}.json"


def note(reason: str, since: datetime) -> bytes:
    """The content of a file that pauses an account."""
    import json  # here and below, so that `import budgetguard` does not pay for it

    return json.dumps({"reason": reason, "since": since.isoformat(timespec="seconds")}).encode()


def reason_in(content: bytes) -> str:
    """The reason in a file; `UNREADABLE` for any content that is not ours, which pauses all the same."""
    import json

    try:
        reason = json.loads(content)["reason"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return UNREADABLE
    line = _one_line(reason) if isinstance(reason, str) else ""
    return line[:LONGEST_REASON] or UNREADABLE


def _one_line(text: str) -> str:
    # Terminals and logs show it, so nothing that would move a cursor.
    shown = (each if each.isprintable() else " " for each in text)
    return " ".join("".join(shown).split()).rstrip(".")
