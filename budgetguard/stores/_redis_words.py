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


def no_password(where: str) -> str:
    """It has one, and was told none."""
    return f"the store at {where} requires a password; put it into the store's URL or client"


def wrong_password(where: str) -> str:
    """It knows no such user, or the password is another one."""
    return f"the store at {where} rejects the user name or the password; check both"


def needless_password(where: str) -> str:
    """It has none, and was told one."""
    return (
        f"the store at {where} has no password for its default user; leave it out of the store's URL or "
        "client, or set it in the server"
    )


def protected(where: str) -> str:
    """It has no password, and the connection comes from elsewhere."""
    return (
        f"the store at {where} is in protected mode, in which a server without a password serves its own "
        "machine only; give it a password"
    )


def command_denied(where: str, command: str) -> str:
    """The user may not run this one."""
    return f"the user at the store at {where} may not run {command.upper()}; allow it with +{command.lower()}"


def commands_denied(where: str, commands: str) -> str:
    """The user may not run one of those that the script runs; which one, the server does not say."""
    return f"the user at the store at {where} may not run a command of the store; allow {commands}"


def keys_denied(where: str, prefix: str) -> str:
    """The user may not read and write the store's keys."""
    return f"the user at the store at {where} may not use the store's keys; allow them with ~{prefix}:*"


def channels_denied(where: str, prefix: str) -> str:
    """The user may not hear or publish hints."""
    return f"the user at the store at {where} may not use the store's channels; allow them with &{prefix}:*"


def loading(where: str) -> str:
    """It has just been started."""
    return f"the store at {where} is loading its data; it answers once that is done"


def busy(where: str) -> str:
    """Somebody's script takes long."""
    return (
        f"the store at {where} is busy with a script of another program; it answers once that has ended, "
        "or was ended with SCRIPT KILL"
    )


def read_only(where: str) -> str:
    """It is a replica, or has been made one."""
    return f"the server of the store at {where} is a replica; connect to its primary"


def no_primary(where: str) -> str:
    """Sentinels answer, and none has a primary that is up; or none answers."""
    return f"no sentinel knows a primary that is up for the store at {where}; check the name and the sentinels"


def sentinels_deny(where: str) -> str:
    """They have a password of their own."""
    return (
        f"the sentinels of the store at {where} refuse this user; give sentinel_username and sentinel_password "
        "in the URL"
    )


def no_cluster(where: str) -> str:
    """The server is no node of a cluster."""
    return f"the servers of the store at {where} are no cluster; give RedisStore a URL without +cluster"


def no_slot(where: str, slot: int) -> str:
    """No node has the slot of the account."""
    return f"no node of the store at {where} has slot {slot}; check CLUSTER INFO"


def cluster_down(where: str) -> str:
    """Some slots have no primary: a failover, or for good."""
    return f"the store at {where} is down; it answers once all of its slots have a primary again"


def moving(where: str) -> str:
    """The account's slot is on its way to another node, one key after the other."""
    return (
        f"the store at {where} is moving the account to another node; it answers once that is done"
    )


def in_cluster(where: str) -> str:
    """A URL of one server was given for a cluster."""
    return f"the server of the store at {where} is in a cluster; give RedisStore the URL redis+cluster://{where}"


def untrusted(where: str) -> str:
    """Its certificate is not of an authority that is known here, or of another name."""
    return (
        f"the certificate of the store at {where} is not trusted; check the name in it, and give the authority's "
        "file as ssl_ca_certs"
    )


def no_tls(where: str) -> str:
    """The server speaks no TLS, or wants a certificate of the client's."""
    return (
        f"there is no TLS connection to the store at {where}; check its port, and whether it wants ssl_certfile "
        "and ssl_keyfile"
    )


def unconfirmed(where: str, confirmed: int, wanted: int, timeout: float) -> str:
    """The server has it; a failover could lose it."""
    return (
        f"{confirmed} of {wanted} replicas of the store at {where} confirmed within {timeout:g} s; check the "
        "replicas, or lower `confirm`"
    )


def full(where: str) -> str:
    """Nothing can be added. Nothing of the message remains."""
    return f"the server of the store at {where} has no memory left; raise its maxmemory"


def cannot_save(where: str) -> str:
    """It refuses changes, because it cannot write them to its disk."""
    return (
        f"the server of the store at {where} cannot write to its disk and takes no changes (MISCONF); see its "
        "log"
    )


def few_replicas(where: str) -> str:
    """It refuses changes without enough replicas."""
    return (
        f"the server of the store at {where} has fewer replicas than its min-replicas-to-write and takes no "
        "changes; it does once they are back"
    )


def crowded(where: str) -> str:
    """It takes no more connections."""
    return f"the server of the store at {where} has as many connections as it may; raise its maxclients"


def no_database(where: str) -> str:
    """The number in the URL is too high."""
    return f"the server of the store at {where} has no database of that number; use a lower one"


def evicts(where: str, policy: str) -> str:
    """It would drop keys of its own accord."""
    return (
        f"the server of the store at {where} may drop what it was told when its memory is full: its "
        f"maxmemory-policy is {policy}; set it to noeviction"
    )


def taken(where: str, key: str) -> str:
    """Another program has a key of that name."""
    return (
        f"the store at {where} cannot be used, because the key {key} is another program's; give the store "
        "another prefix"
    )


def damaged(where: str, prefix: str) -> str:
    """What it says of an account contradicts itself."""
    return (
        f"the store at {where} is damaged; delete its keys ({prefix}:*): the processes tell it anew what they "
        "hold"
    )


def too_new(where: str, theirs: int, ours: int) -> str:
    """A later version of the library wrote it."""
    return (
        f"the store at {where} has the format {theirs} of a newer version of budgetguard, and this one knows "
        f"formats up to {ours}; upgrade budgetguard in this program"
    )


def failed(where: str, what: str) -> str:
    """Anything else, by the first word of the server's error or its kind."""
    return f"the store at {where} cannot be used: {what}"
