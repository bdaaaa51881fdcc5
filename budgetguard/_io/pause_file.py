"""The files by which `budgetguard pause` reaches all processes of one user on one machine.

All of them are in one directory, which depends on nothing but the user, unless BUDGETGUARD_PAUSE_DIR names
another one. It is neither the runtime directory, which a service is not told and which ends with the user's
last session, nor one for temporary files, which may be another one for each service and is cleaned: a pause
would not be heard, or would end by itself.
"""

import errno
import functools
import os
import stat
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from pathlib import Path

from budgetguard._core.errors import ConfigurationError
from budgetguard._core.pause import LONGEST_NOTE, UNREADABLE, note, note_name, reason_in

VARIABLE = "BUDGETGUARD_PAUSE_DIR"

_BELOW_HOME = Path(".local", "state")
_OURS = Path("budgetguard", "pause")
_OTHERS_WRITE = 0o022
# No file is left, for this process or for all.
_USED_UP = frozenset({errno.EMFILE, errno.ENFILE})


def directory() -> Path:
    """Where the files are, whether or not it exists; raises ConfigurationError if nothing tells."""
    named = _named()
    if named and not Path(named).is_absolute():
        msg = f"{VARIABLE} must be an absolute path: every process has a working directory of its own."
        raise ConfigurationError(msg)
    if named:
        return Path(named)
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA", ""))
    else:
        base = Path(_home_of(os.geteuid())) / _BELOW_HOME
    if not base.is_absolute():
        msg = f"This user has no home directory: set {VARIABLE} to the directory for pauses."
        raise ConfigurationError(msg)
    return base / _OURS


def names(here: Path, wanted: Iterable[str]) -> Collection[str]:
    """The names of the files that are there, `wanted` among them; raises OSError if nobody can tell."""
    try:
        # Not Path.iterdir, which makes a Path of each.
        return frozenset(os.listdir(here))  # noqa: PTH208
    except FileNotFoundError:
        return ()
    except OSError as error:
        if error.errno not in _USED_UP:
            raise
        # A listing takes a file of this process, and asking for one name does not.
        return frozenset(name for name in wanted if os.path.lexists(here / name))


def reason_in_file(path: Path) -> str | None:
    """Why the account with that file is paused; None if there is no such file."""
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
        here.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(here)
        path = here / note_name(fingerprint)
        # Whole or not at all, also for a process that reads it now.
        new = path.with_suffix(f".{os.getpid()}")
        new.unlink(missing_ok=True)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(file, note(reason, datetime.now(UTC)))
            os.fsync(file)
        finally:
            os.close(file)
        new.replace(path)
    except OSError as error:
        raise _failed(here, error) from None


def remove(fingerprint: str) -> bool:
    """End the pause of that account; False if there was none. Raises ConfigurationError if it goes on."""
    here = directory()
    try:
        (here / note_name(fingerprint)).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _failed(here, error) from None
    return True


def _check_owner(here: Path) -> None:
    """Others must not be able to end or begin our pauses. A directory that was named is taken as it is."""
    if _named() or not hasattr(os, "geteuid"):
        return
    found = here.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & _OTHERS_WRITE:
        msg = f"{here} must be a directory that belongs to this user, and that nobody else can write to."
        raise ConfigurationError(msg)


def _named() -> str:
    return os.environ.get(VARIABLE, "").strip()


def _failed(here: Path, error: OSError) -> ConfigurationError:
    msg = (
        f"The pause in {here} cannot be changed: {error.strerror}. Set {VARIABLE}, for this command and for "
        "the programs, to a directory that both can use."
    )
    return ConfigurationError(msg)


def _flag(name: str) -> int:
    return getattr(os, name, 0)  # there is none of them on Windows


@functools.cache
def _home_of(user: int) -> str:
    """The user's home directory, which HOME may tell differently to a service, a shell and `sudo`."""
    import pwd

    try:
        return pwd.getpwuid(user).pw_dir
    except KeyError:  # as in a container that runs under any number
        return os.environ.get("HOME", "")
