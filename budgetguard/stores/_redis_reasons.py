"""Why a server did not do what it was asked: from its error to words.

A driver has classes for some errors, whose text it then cuts, and leaves the first word of others in their
text. The text itself is never shown: it may quote what was sent.
"""

import re
from typing import Any

from budgetguard.stores import _redis_words as words
from budgetguard.stores._script import COMMANDS

# A part of the server's text, if it has no class of its own, and what it means.
_TOLD = (
    ("BUSY ", words.busy),
    ("MISCONF ", words.cannot_save),
    ("NOREPLICAS ", words.few_replicas),
    ("in protected mode", words.protected),
    ("max number of clients", words.crowded),
    ("DB index is out of range", words.no_database),
)
_RUN = "permissions to run the '"


def reason_of(  # noqa: PLR0911  one return for each kind
    error: Exception, errors: Any, where: str, prefix: str
) -> str | None:
    """What the server refused, in words; None if it is something else. `errors` has the driver's exceptions."""
    text = str(error)
    if isinstance(error, errors.NoPermissionError) or _in_script(text):
        return _denied(text, where, prefix)
    for part, reason in _TOLD:
        if part in text:
            return reason(where)
    if isinstance(error, errors.AuthenticationError):
        return _unknown_user(text, where)
    if isinstance(error, errors.OutOfMemoryError):
        return words.full(where)
    if found := re.search(r"evicts=([\w-]+)", text):
        return words.evicts(where, found[1])
    if found := re.search(r"taken=(\S+)", text):
        return words.taken(where, found[1])
    if "WRONGTYPE" in text:
        return words.taken(where, f"{prefix}:*")
    return words.damaged(where, prefix) if "contradicts itself" in text else None


def _in_script(text: str) -> bool:
    """Whether a command of the script was denied: no class of errors says so."""
    return "ACL failure in script" in text or "The user executing the script" in text


def _denied(text: str, where: str, prefix: str) -> str:
    if _RUN in text:
        return words.command_denied(where, text.partition(_RUN)[2].partition("'")[0])
    if "channel" in text:
        return words.channels_denied(where, prefix)
    if "can't run this command" in text:
        # Redis 7 does not say which one.
        return words.commands_denied(where, " ".join(f"+{each}" for each in COMMANDS))
    return words.keys_denied(where, prefix)


def _unknown_user(text: str, where: str) -> str:
    if "required" in text:
        return words.no_password(where)
    if "without any password" in text:
        return words.needless_password(where)
    return words.wrong_password(where)
