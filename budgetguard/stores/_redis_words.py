"""What can be wrong with a store in a server, in words: what happened, where, and what to do.

Each is the end of a sentence: "The balance at ... is not known: <reason>." None has a password in it.
"""


def no_driver() -> str:
    """Neither package is installed."""
    return (
        "RedisStore needs redis or valkey, which are not installed: `python -m pip install redis`"
    )


def silent(where: str, timeout: float) -> str:
    """Nothing is known but that there was no answer."""
    return f"the store at {where} did not answer within {timeout:g} s; check the server and the network"


def unreachable(where: str) -> str:
    """There is no connection, or it was cut."""
    return f"the store at {where} cannot be reached; check the server and the network"


def denied(where: str) -> str:
    """The password is wrong, or the user may not do what the store does."""
    return (
        f"the store at {where} refuses this user; check the password, and that the user may run scripts "
        "on its keys and channels"
    )


def loading(where: str) -> str:
    """It has just been started."""
    return f"the store at {where} is loading its data; it answers once that is done"


def read_only(where: str) -> str:
    """It is a replica, or has been made one."""
    return f"the server of the store at {where} is a replica; connect to its primary"


def full(where: str) -> str:
    """Nothing can be added. Nothing of the message remains."""
    return f"the server of the store at {where} has no memory left; raise its maxmemory"


def too_new(where: str, theirs: int, ours: int) -> str:
    """A later version of the library wrote it."""
    return (
        f"the store at {where} has the format {theirs} of a newer version of budgetguard, and this one knows "
        f"formats up to {ours}; upgrade budgetguard in this program"
    )


def failed(where: str, what: str) -> str:
    """Anything else, by the first word of the server's error or its kind."""
    return f"the store at {where} cannot be used: {what}"
