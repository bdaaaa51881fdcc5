"""Ready-made listeners for `Guard(on_event=...)`: one that logs events, and one that sends webhooks.

from budgetguard.listeners import LogListener, WebhookListener

guard = Guard(provider, alert_below=["20%", "24h"], on_event=[LogListener(), WebhookListener(url, secret=...)])
"""

import json
import logging
import time
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self, get_args

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.durations import seconds
from budgetguard._core.event_fields import event_fields
from budgetguard._core.events import Event, Kind
from budgetguard._core.webhook_signature import key_of, verify
from budgetguard._engine.outbox import Outbox
from budgetguard._io.base_url import check_address
from budgetguard._io.credentials import Secret

__all__ = ["LogListener", "WebhookListener", "verify_webhook"]

_KINDS: tuple[str, ...] = get_args(Kind)
_MOST_ATTEMPTS = 20
_MOST_QUEUED = 1_000_000


class LogListener:
    """Logs each event as one line of `key=value` pairs, with the same fields in `record.budgetguard`.

    `logger` is a logger or its name, `level` the level of all lines. `kinds` are the kinds of events
    that are logged, None for all. Texts are quoted where they are not a single word, and never begin a
    new line. Raises TypeError or ValueError for wrong arguments.
    """

    def __init__(
        self,
        logger: str | logging.Logger = "budgetguard.events",
        *,
        level: int = logging.INFO,
        kinds: Collection[Kind] | None = None,
    ) -> None:
        if not isinstance(logger, str | logging.Logger):
            msg = f"logger takes a logger or its name, not {type(logger).__name__}"
            raise TypeError(msg)
        _whole(level, "level", 0, 100)
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._level = level
        self._kinds = _checked_kinds(kinds)

    def __call__(self, event: Event) -> None:
        """Log an event, if its kind is wanted and the level is enabled."""
        if event.kind in self._kinds and self._logger.isEnabledFor(self._level):
            fields = event_fields(event)
            labels = fields.get("labels", {})
            flat = {**fields, **{f"labels.{name}": value for name, value in labels.items()}}
            flat.pop("labels", None)
            line = " ".join(f"{_word(name)}={_word(value)}" for name, value in flat.items())
            self._logger.log(self._level, "%s", line, extra={"budgetguard": fields})


class WebhookListener:
    """Sends events to an HTTPS address, signed as Standard Webhooks 1.0.0 defines it.

    The call of the listener only queues an event: requests are made on the library's own loop, in
    nobody's way, and nothing is started by the constructor.

    - `url`: https, or http to this machine. No redirect is followed. Of the URL only the origin is
      ever shown, as paths and queries of webhooks often contain secrets.
    - `secret`: base64 of 24 to 64 random bytes, with or without `whsec_` before it. Never shown.
    - `kinds`: the kinds of events that are sent.
    - `timeout`: seconds for one attempt, in all.
    - `attempts`: how often an event is sent at most, 1 to 20. It is sent again after no answer, 408,
      425, 429 and 5xx, with the same `webhook-id`: after a random time below 2 s, then below 8, 32 and
      so on up to 300 s, and no earlier than a Retry-After says, up to 300 s. After any other status it
      is given up. What is given up is counted in `failed`, and logged until one is delivered.
    - `max_queue`: how many events may wait. When it is full, new events are dropped: counted in
      `dropped`, and logged once until there is room again.

    Events are sent one after the other, in order: one that has to be repeated delays those behind it.
    The body is JSON of at most 16 KiB: `{"type": "budgetguard.low", "timestamp": ..., "data": {...}}`,
    where `data` has the fields of the event that are not None, amounts as text.

    At exit the interpreter waits up to 1 s for what is queued, in all listeners together; what is not
    sent by then is lost. A forked child begins with an empty queue. Raises TypeError, ValueError or ConfigurationError for
    wrong arguments.
    """

    @clean_traceback
    def __init__(
        self,
        url: str,
        *,
        secret: str,
        kinds: Collection[Kind] = ("low", "exhausted"),
        timeout: float = 5,
        attempts: int = 5,
        max_queue: int = 1000,
    ) -> None:
        self._address = check_address(url, "url")
        hidden = Secret(secret, "secret")
        key_of(hidden.reveal(), "secret")
        self._kinds = _checked_kinds(kinds)
        self._outbox = Outbox(
            self._address,
            hidden,
            seconds(timeout, "timeout", positive=True),
            _whole(attempts, "attempts", 1, _MOST_ATTEMPTS),
            _whole(max_queue, "max_queue", 1, _MOST_QUEUED),
        )

    def __call__(self, event: Event) -> None:
        """Queue an event, if its kind is wanted."""
        if event.kind in self._kinds:
            self._outbox.put(event)

    def __repr__(self) -> str:
        return f"WebhookListener({self._address.origin!r})"

    @property
    def delivered(self) -> int:
        """How many events the receiver has accepted."""
        return self._outbox.delivered

    @property
    def failed(self) -> int:
        """How many events were given up."""
        return self._outbox.failed

    @property
    def dropped(self) -> int:
        """How many events were not queued because the queue was full."""
        return self._outbox.dropped

    def flush(self, timeout: float = 5) -> bool:
        """Wait until nothing is queued, at most `timeout` seconds; whether that is so.

        Blocks the thread: in async code, await `aflush`.
        """
        return self._outbox.wait(seconds(timeout, "timeout"))

    async def aflush(self, timeout: float = 5) -> bool:  # noqa: ASYNC109
        """The async form of `flush`."""
        return await self._outbox.wait_async(seconds(timeout, "timeout"))

    def close(self, timeout: float = 5) -> bool:
        """Take no more events, and `flush`. Calling it is optional."""
        self._outbox.closed = True
        return self.flush(timeout)

    async def aclose(self, timeout: float = 5) -> bool:  # noqa: ASYNC109
        """The async form of `close`."""
        self._outbox.closed = True
        return await self.aflush(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@clean_traceback
def verify_webhook(
    secret: str, headers: Mapping[str, str], body: bytes, *, tolerance: float = 300
) -> dict[str, Any]:
    """The JSON object of a webhook that a receiver got, if it was signed with `secret`.

    `headers` are those of the request, in any case, and `body` is its content exactly as received.
    Raises ValueError if a header is missing, if it was signed more than `tolerance` seconds ago or
    ahead, if no signature is right, or if the body is not a JSON object; ConfigurationError for a
    secret that cannot be one. Keep the values of `webhook-id` for that long, to tell repeats.
    """
    key = key_of(Secret(secret, "secret").reveal(), "secret")
    verify(key, headers, body, seconds(tolerance, "tolerance"), time.time())
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        msg = "the body is not a JSON object"
        raise ValueError(msg)  # noqa: TRY004  it is no argument's type
    return value


def _checked_kinds(kinds: Collection[Kind] | None) -> frozenset[str]:
    if kinds is None:
        return frozenset(_KINDS)
    if isinstance(kinds, str) or not isinstance(kinds, Collection):
        msg = f"kinds takes a list of kinds of events, not {type(kinds).__name__}"
        raise TypeError(msg)
    if not all(isinstance(kind, str) for kind in kinds):
        msg = "kinds takes the names of kinds of events"
        raise TypeError(msg)
    if unknown := set(kinds) - set(_KINDS):
        msg = f"kinds contains {len(unknown)} that there are not: choose from {', '.join(_KINDS)}"
        raise ValueError(msg)
    return frozenset(kinds)


def _whole(value: int, what: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{what} takes an int, not {type(value).__name__}"
        raise TypeError(msg)
    if not least <= value <= most:
        msg = f"{what} takes {least} to {most}, not {value}"
        raise ValueError(msg)
    return value


def _word(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    plain = bool(text) and all(char.isalnum() or char in "._-:+/%()" for char in text)
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
