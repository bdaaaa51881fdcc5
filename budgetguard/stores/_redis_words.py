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


def too_new(where: str, theirs: int, ours: int) -> str:
    """A later version of the library wrote it."""
    return (
        f"the store at {where} has the format {theirs} of a newer version of budgetguard, and this one knows "
        f"formats up to {ours}; upgrade budgetguard in this program"
    )


def failed(where: str, what: str) -> str:
    """Anything else, by the first word of the server's error or its kind."""
    return f"the store at {where} cannot be used: {what}"
