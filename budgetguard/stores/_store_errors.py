"""What can be wrong with a store's file, in words: what happened, which file, and what to do.

Each is the end of a sentence: "The balance at ... is not known: <reason>."
"""

import errno
import os


def locked(path: str, timeout: float) -> str:
    """Another process kept the write lock for all that time."""
    return (
        f"the store at {path} is locked by another program, and did not become free within "
        f"{timeout:g} s; end the program that keeps it locked"
    )


def silent(path: str, timeout: float) -> str:
    """Nothing is known but that there was no answer."""
    return f"the store at {path} did not answer within {timeout:g} s; check the disk that it is on"


def on_a_network(path: str, kind: str) -> str:
    """The file's locks would not hold between machines."""
    return (
        f"the store at {path} is on a network file system ({kind}), whose locks cannot be relied on; "
        "choose a path on a local disk"
    )


def on_another_machine(path: str, host: str, ago: float) -> str:
    """Somebody with another kernel wrote to it lately."""
    return (
        f"the store at {path} was used by another machine ({host}) {ago:.0f} s ago, and a file can serve "
        "only one at a time; use a path on a disk of this machine, or wait a minute if the other one has "
        "stopped using it"
    )


def of_another_program(path: str) -> str:
    """It is a database, and not one of ours."""
    return f"{path} is the database of another program; give SQLiteStore a path of its own"


def too_new(path: str, theirs: int, ours: int) -> str:
    """A later version of the library wrote it."""
    return (
        f"the store at {path} has the format {theirs} of a newer version of budgetguard, and this one knows "
        f"formats up to {ours}; upgrade budgetguard in this program"
    )


def no_database(path: str) -> str:
    """Its first bytes are not those of a database."""
    return (
        f"{path} is not an SQLite database; give SQLiteStore another path, or move that file away"
    )


def damaged(path: str) -> str:
    """What is in it contradicts itself."""
    return (
        f"the store at {path} is damaged; move it away together with its -wal and -shm files, and the "
        "processes will tell a new one what they hold"
    )


def torn(path: str) -> str:
    """Some of its files were deleted, and processes still have the others open."""
    return (
        f"the store at {path} has lost one of its files; delete it together with its -wal and -shm files, "
        "and the processes will tell a new one what they hold"
    )


def unwritable(path: str) -> str:
    """It can be read at most."""
    return (
        f"the store at {path} is read-only for this process; make the file and its directory writable, and "
        "run all processes that share it as one user"
    )


def full(path: str) -> str:
    """A write did not fit. Nothing of the transaction remains."""
    return f"the disk of the store at {path} is full; make room on it"


def no_wal(path: str) -> str:
    """The file system has no shared memory for SQLite."""
    return (
        f"the file system of the store at {path} does not support SQLite's write-ahead log; choose a path on "
        "another disk"
    )


def copied_by_a_fork(path: str) -> str:
    """What SQLite believes about the file's locks was copied from the parent process, and is wrong here."""
    return (
        f"this process was forked while its parent was using the store at {path}, so it cannot use it; "
        "fork earlier, or start the process anew"
    )


def no_thread(path: str) -> str:
    """The system refuses to start one."""
    return f"this process can start no thread for the store at {path}; raise the limit for threads"


def failed(path: str, what: str) -> str:
    """Anything else, in the words of the system or of SQLite."""
    return f"the store at {path} cannot be used: {what}"


def of_the_system(path: str, error: OSError) -> str:
    """The sentence for an error of the operating system."""
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return unwritable(path)
        case errno.ENOSPC | errno.EDQUOT:
            return full(path)
        case errno.EMFILE | errno.ENFILE:
            return (
                f"no file is left to open the store at {path} with; raise the limit for open files"
            )
        case errno.ENOENT | errno.ENOTDIR:
            folder = os.path.dirname(path)  # noqa: PTH120
            return f"the directory of the store at {path} is gone; create {folder} again"
        case errno.EISDIR:
            return f"{path} is a directory; SQLiteStore takes the path of a file in it"
        case _:
            return failed(path, error.strerror or type(error).__name__)
