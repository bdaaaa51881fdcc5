"""Where a store is, as a text that programs can be given: the path of a file, or what a server's store takes."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from budgetguard.stores import SQLiteStore
from budgetguard.stores.redis import RedisStore

# The timeouts are for a machine that is busy with other tests.
FILE_TIMEOUT = 60.0


class BriefRegroupStore(RedisStore):
    """A store in a server that waits for `hold_for` seconds when it has lost all, and not for a minute."""

    hold_for: float
    asked = False

    def options(self) -> str:
        """Whoever comes first to a new account has lost nothing."""
        asked, self.asked = self.asked, True
        return json.dumps({"regroup": self.hold_for}) if asked else ""


@dataclass(frozen=True)
class ServerPlace:
    """A store in a server, and what guards of it are told. All times are seconds."""

    port: int
    # Where several servers are named: of the store, in the place of a port here.
    url: str = ""
    prefix: str = "spending"
    timeout: float = 0.5
    hold_for: float = 1.5
    # Until its callers have an answer, beyond what they wait.
    patience: float = 5.0
    first_retry: float = 0.05
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """For the command line of a program."""
        return json.dumps(asdict(self))

    def store(self) -> RedisStore:
        """The store that is there."""
        store = BriefRegroupStore(
            self.url or f"redis://127.0.0.1:{self.port}",
            prefix=self.prefix,
            timeout=self.timeout,
            **dict(self.options),
        )
        store.hold_for = self.hold_for
        return store


def server_place(text: str) -> ServerPlace | None:
    """The place in a server that a text means; None if it is a path."""
    if not text.startswith("{"):
        return None
    settings = json.loads(text)
    options = tuple((name, value) for name, value in settings.pop("options"))
    return ServerPlace(**settings, options=options)


def guard_settings(text: str) -> dict[str, Any]:
    """What a guard of the store at that place takes."""
    place = server_place(text)
    if place is None:
        return {"store": SQLiteStore(text, timeout=FILE_TIMEOUT), "timeout": 2 * FILE_TIMEOUT}
    return {"store": place.store(), "timeout": place.patience, "hold_for": place.hold_for}
