"""The head of an account as a script for Redis and Valkey: its text, and the keys of an account."""

import hashlib
from functools import cache
from importlib.resources import files

_FILES = (
    *("numbers", "wire", "debits", "state", "budgets", "known", "grants", "comings", "balances"),
    *("turn", "survey", "expiry", "writes", "view", "script"),
)

COMMANDS = (
    *(
        "eval",
        "evalsha",
        "info",
        "time",
        "type",
        "del",
        "pexpireat",
        "persist",
        "publish",
        "subscribe",
    ),
    *(
        "unsubscribe",
        "ping",
        "wait",
        "hget",
        "hmget",
        "hgetall",
        "hkeys",
        "hexists",
        "hset",
        "hdel",
    ),
    *(
        "smembers",
        "sadd",
        "srem",
        "zrange",
        "zrevrange",
        "zrangebyscore",
        "zrangebylex",
        "zadd",
        "zrem",
    ),
)
"""All that a user of the server has to be allowed to run, on keys and channels with the prefix."""

_KEYS = (
    *("account", "members", "debits", "words", "needs", "numbers", "interested"),
    *(
        "silence",
        "unanswered",
        "clearing",
        "cleared",
        "kept_next",
        "kept_last",
        "refreshing",
        "woken",
    ),
    *("budgets", "budget_names", "budget_members"),
)


@cache
def script() -> str:
    """The whole script. Its files follow each other: what one declares, the later ones use."""
    folder = files("budgetguard.stores") / "lua"
    return "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in _FILES)


@cache
def script_sha() -> str:
    """The name by which a server that has the script knows it."""
    return hashlib.sha1(script().encode(), usedforsecurity=False).hexdigest()


def keys_of(prefix: str, account: str) -> tuple[str, ...]:
    """The keys of an account, all in one slot of a cluster."""
    return tuple(f"{prefix}:{{{account}}}:{name}" for name in _KEYS)
