"""The files by which `budgetguard pause` reaches all processes of one user on one machine.

All of them are in one directory, which depends on nothing but the user, unless BUDGETGUARD_PAUSE_DIR names
another one. It is neither the runtime directory, which a service is not told and which ends with the user's
last session, nor one for temporary files, which may be another one for each service and is cleaned: a pause
would not be heard, or would end by itself.
"""

import functools
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime

from budgetguard._core.errors import ConfigurationError
from budgetguard._core.pause import LONGEST_NOTE, UNREADABLE, note, note_name, reason_in

VARIABLE = "BUDGETGUARD_PAUSE_DIR"

_OTHERS_WRITE = 0o022


def directory() -> str:
    """Where the files are, whether or not it exists; raises ConfigurationError if nothing tells."""
    named = _named()
    if named:
        if not os.path.isabs(named):
            msg = f"{VARIABLE} must be an absolute path: every process has a working directory of its own."
            raise ConfigurationError(msg)
        return named
    home = _home()
    if not os.path.isabs(home):
        msg = f"This user has no home directory: set {VARIABLE} to the directory for pauses."
        raise ConfigurationError(msg)
    return home


def names() -> Collection[str]:
    """The names of the files that are there; raises OSError or ConfigurationError if nobody can tell."""
    try:
        return frozenset(os.listdir(directory()))
    except FileNotFoundError:
        return ()


def reason_of(name: str) -> str | None:
    """Why the account with that file is paused; None if there is no such file."""
    path = os.path.join(directory(), name)
    try:
        # Not through a link, and not waiting for the other end of a pipe.
        file = os.open(path, os.O_RDONLY | _flag("O_NOFOLLOW") | _flag("O_NONBLOCK"))
    except FileNotFoundError:
        return None
    except OSError:
        return UNREADABLE
    try:
        return reason_in(os.read(file, LONGEST_NOTE))
    except OSError:
        return UNREADABLE
    finally:
        os.close(file)


def write(fingerprint: str, reason: str) -> None:
    """Pause the account with that fingerprint; raises ConfigurationError if the file cannot be written."""
    here = directory()
    try:
        os.makedirs(here, mode=0o700, exist_ok=True)
        _check_owner(here)
        path = os.path.join(here, note_name(fingerprint))
        # Whole or not at all, also for a process that reads it now.
        new = f"{path}.{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(new)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(file, note(reason, datetime.now(UTC)))
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(new, path)
    except OSError as error:
        raise _failed("written", here, error) from None


def remove(fingerprint: str) -> bool:
    """End the pause of that account; False if there was none. Raises ConfigurationError if it goes on."""
    here = directory()
    try:
        os.unlink(os.path.join(here, note_name(fingerprint)))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _failed("removed", here, error) from None
    return True


def _check_owner(here: str) -> None:
    """Others must not be able to end or begin our pauses; a directory that was named is as it was meant."""
    found = os.lstat(here)
    if _named() or not hasattr(os, "geteuid"):
        return
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & _OTHERS_WRITE:
        msg = f"{here} must be a directory that belongs to this user, and that nobody else can write to."
        raise ConfigurationError(msg)


def _named() -> str:
    return os.environ.get(VARIABLE, "").strip()


def _failed(done: str, here: str, error: OSError) -> ConfigurationError:
    msg = (
        f"The pause cannot be {done} in {here}: {error.strerror}. Set {VARIABLE}, for this command and for "
        "the programs, to a directory that both can use."
    )
    return ConfigurationError(msg)


def _flag(name: str) -> int:
    return getattr(os, name, 0)  # there is none of them on Windows


def _home() -> str:
    if os.name == "nt":
        local = os.environ.get("LOCALAPPDATA", "")
        return os.path.join(local, "budgetguard", "pause")
    return os.path.join(_home_of(os.geteuid()), ".local", "state", "budgetguard", "pause")


@functools.cache
def _home_of(user: int) -> str:
    """The user's home directory, which a service, a shell and `sudo` may each tell differently by HOME."""
    import pwd

    try:
        return pwd.getpwuid(user).pw_dir
    except KeyError:  # as in a container that runs under any number
        return os.environ.get("HOME", "")
