"""The events that wait to be sent to a webhook, and the task that sends them.

A caller only appends an event to a deque and, where nobody sends, has the private loop begin. No lock
is taken: whoever pops `_idle` starts the one task that sends, and the task puts it back. A task whose loop
was broken does not: whoever removes its entry in `_sending` takes its place.
"""

import atexit
import json
import os
import time
import weakref
from collections import deque
from datetime import UTC
from secrets import token_hex
from typing import TYPE_CHECKING

from budgetguard._core.event_fields import event_fields
from budgetguard._core.events import Event, logger
from budgetguard._core.webhook_signature import key_of, sign
from budgetguard._engine.account_registry import runtime
from budgetguard._engine.fork import hook, start_afresh_by
from budgetguard._io.base_url import Address
from budgetguard._io.credentials import Secret
from budgetguard._io.exit import EXIT

if TYPE_CHECKING:
    from budgetguard._io.webhook_request import Undelivered

FIRST_DELAY = 2.0
LONGEST_DELAY = 300.0
AT_EXIT = 1.0
"""How many seconds the interpreter's exit waits for what is still queued."""

_GROWTH = 4
_MOST_STEPS = 8
_MAX_BODY = 16 * 1024
_PAUSE = 0.01


class Outbox:
    """Sends events to one address, one after the other. Counts what became of them."""

    def __init__(
        self, address: Address, secret: Secret, timeout: float, attempts: int, max_queue: int
    ) -> None:
        self._address = address
        self._secret = secret
        self._timeout = timeout
        self._attempts = attempts
        self._max_queue = max_queue
        self.closed = False
        self.delivered = self.failed = self.dropped = 0
        self.forget()
        _OUTBOXES.add(self)

    def forget(self) -> None:
        """Begin with nothing queued, as a forked child does: its parent sends what it has queued."""
        self._queue: deque[Event] = deque()
        self._idle = [None]
        # Which of the process's loops the task runs on, while there is one.
        self._sending: list[int] = []
        self._failures = 0
        self._complaints: set[str] = set()
        self._registered = False

    @property
    def waiting(self) -> bool:
        """Whether events are queued or being sent."""
        return bool(self._queue) or not self._idle

    def put(self, event: Event) -> None:
        """Queue an event; drop it if the queue is full."""
        if self.closed:
            return
        if len(self._queue) >= self._max_queue:
            self.dropped += 1
            message = "The queue of webhooks to %s is full (%d events): new ones are dropped"
            self._complain(message, self._address.origin, self._max_queue)
            return
        self._queue.append(event)
        self._begin()

    def wait(self, timeout: float) -> bool:
        """Block until nothing is queued, at most `timeout` seconds; whether that is so."""
        until = time.monotonic() + timeout
        self._begin_again()
        while self.waiting and time.monotonic() < until:
            time.sleep(_PAUSE)
        return not self.waiting

    async def wait_async(self, timeout: float) -> bool:  # noqa: ASYNC109
        """The async form of `wait`."""
        import anyio

        until = time.monotonic() + timeout
        self._begin_again()
        while self.waiting and time.monotonic() < until:  # noqa: ASYNC110  another loop's
            await anyio.sleep(_PAUSE)
        return not self.waiting

    def _begin_again(self) -> None:
        """Send what waits although nobody sends, because no loop could be started, or one was broken."""
        if self._queue:
            self._begin()

    def _begin(self) -> None:
        hook()
        try:
            self._idle.pop()
        except IndexError:
            if not self._lost():  # a task is sending, and will see the event
                return
        here = runtime()
        self._sending.append(here.broken)
        try:
            here.submit(self._send_all)
        except (RuntimeError, OSError):  # no loop can be started: the next event tries again
            self._sending.clear()
            self._idle.append(None)
            return
        if not self._registered:
            self._registered = True
            # After the loop's own handler, so that it runs before that one.
            atexit.register(_at_exit, weakref.ref(self), os.getpid())

    def _lost(self) -> bool:
        """Whether the task that sends will never go on, and this caller is the one to replace it."""
        for number in self._sending[:1]:
            if number != runtime().broken:
                try:
                    self._sending.remove(number)
                except ValueError:  # another caller does
                    return False
                return True
        return False

    async def _send_all(self) -> None:
        queue, idle, sending = self._queue, self._idle, self._sending
        try:
            while queue:
                try:
                    await self._send(queue[0])
                finally:
                    # Afterwards, because it counts as queued until it is sent.
                    queue.popleft()
        finally:
            sending.clear()
            idle.append(None)
        if queue:  # appended since, by a caller who found a task sending
            self._begin()

    async def _send(self, event: Event) -> None:
        import anyio

        from budgetguard._io.webhook_request import post_webhook

        here = runtime()
        # The same for all attempts, so that a receiver can tell a repeat.
        identity, body = f"msg_{token_hex(16)}", body_of(event)
        missed: Undelivered | None = None
        for left in reversed(range(self._attempts)):
            key = key_of(self._secret.reveal(), "secret")
            headers = sign(key, identity, int(here.clock.wall()), body)
            missed = await post_webhook(here, self._address, headers, body, self._timeout)
            if missed is None:
                self.delivered += 1
                self._failures = 0
                self._complaints.clear()
                return
            self._failures += 1
            if not missed.again or not left:
                break
            bound = min(
                LONGEST_DELAY, FIRST_DELAY * _GROWTH ** min(self._failures - 1, _MOST_STEPS)
            )
            delay = here.jitter(0.0, bound)
            await anyio.sleep(max(delay, missed.retry_after or 0.0))
        assert missed is not None
        self.failed += 1
        message = (
            "A webhook to %s was given up: %s. Further ones are not logged until one is delivered"
        )
        self._complain(message, self._address.origin, missed.reason)

    def _complain(self, message: str, *args: object) -> None:
        """Log a message once, until an event is delivered."""
        if message not in self._complaints and not EXIT.begun:
            self._complaints.add(message)
            logger.warning(message, *args)


_OUTBOXES: weakref.WeakSet[Outbox] = weakref.WeakSet()
# By process, because a child may be forked while its parent exits.
_EXIT_UNTIL: dict[int, float] = {}


def body_of(event: Event) -> bytes:
    """The JSON that is sent for an event, at most 16 KiB: a larger one goes without its labels."""
    fields = event_fields(event)
    at = event.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    sent = {"type": f"budgetguard.{event.kind}", "timestamp": at, "data": fields}
    body = _json(sent)
    if len(body) > _MAX_BODY:
        fields.pop("labels", None)
        body = _json(sent)
    return body


def _json(value: object) -> bytes:
    # Escaped, a character may take three times as many bytes. Half a surrogate pair has no other form.
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="backslashreplace")


def _at_exit(outbox: "weakref.ref[Outbox]", pid: int) -> None:
    alive = outbox()
    if alive is not None and pid == os.getpid():
        # One deadline for all outboxes, however many receivers do not answer.
        until = _EXIT_UNTIL.setdefault(pid, time.monotonic() + AT_EXIT)
        alive.wait(max(until - time.monotonic(), 0.0))


def _forget_all() -> None:
    for outbox in list(_OUTBOXES):
        outbox.forget()


start_afresh_by(_forget_all)
