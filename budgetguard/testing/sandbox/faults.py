"""Faults on request: what may go wrong between a client and a provider."""

import gzip
import json
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from budgetguard._core.argument_types import shown
from budgetguard.testing.sandbox.bounds import within

_STATUSES = range(200, 600)
_FAILURES = (500, 503)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A faulty reply to requests whose path matches `pattern` (as in `fnmatch`).

    Which requests it is for:

    - `pattern`: the path, such as `"/v1/sessions*"`.
    - `method`: only requests with this method; None means any.
    - `times`: only so many requests; None means all until the faults are cleared.

    What happens instead of the provider's reply:

    - `latency`: real seconds that pass before anything else.
    - `hang`: no reply is sent.
    - `reset`: the connection is reset.
    - `status`, `headers`, `body`, `content_type`, `retry_after`, `redirect`: the reply. Text and
      bytes in `body` are sent unchanged, anything else as JSON. Without `body`, the reply has
      the body that the provider documents for that status.

    How a reply is sent, the provider's own included:

    - `headers`: these are added.
    - `gzip`: the body is compressed.
    - `size`: the body is padded with spaces to this many bytes.
    - `drip`: real seconds between two bytes.
    """

    pattern: str
    method: str | None = None
    times: int | None = None
    latency: float = 0.0
    hang: bool = False
    reset: bool = False
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str | None = None
    retry_after: float | str | None = None
    redirect: str | None = None
    gzip: bool = False
    size: int | None = None
    drip: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be sent."""
        if self.times is not None and self.times < 1:
            msg = f"times is a positive number of requests or None, not {shown(self.times)}"
            raise ValueError(msg)
        if self.status is not None and self.status not in _STATUSES:
            msg = f"status is an HTTP status from 200 to 599, not {shown(self.status)}"
            raise ValueError(msg)

    def matches(self, method: str, path: str) -> bool:
        """Whether this fault is for that request."""
        return self.method in (None, method) and fnmatchcase(path, self.pattern)

    @property
    def answers(self) -> bool:
        """Whether this fault replaces the provider's reply."""
        own = (self.status, self.body, self.content_type, self.retry_after, self.redirect)
        return any(each is not None for each in own)

    @property
    def reshapes(self) -> bool:
        """Whether this fault changes the provider's reply."""
        return bool(self.headers) or self.gzip or self.size is not None or self.drip is not None

    def answer(self, documented: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the reply that this fault makes."""
        status = self.status or (302 if self.redirect else 429 if self.retry_after else 200)
        headers = {"content-type": self.content_type or "application/json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.redirect is not None:
            headers["location"] = self.redirect
        body = documented if self.body is None else self.body
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return status, headers, body

    def reshape(self, headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
        """The headers and the body to send, made from those of any reply."""
        if self.size is not None:
            body = body.ljust(self.size)
        headers = headers | {name.lower(): value for name, value in self.headers.items()}
        if self.gzip:
            body = gzip.compress(body, mtime=0)
            headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(body))
        return headers, body


class Faults:
    """The faults in force. The one that was added first applies first, until `times` is used up.

    Requests that match none of them fail at random: a share of `fail` gets a 500 or a 503. The
    `seed` decides which requests those are, in the order in which they arrive.
    """

    def __init__(self, fail: float, seed: int) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._fail = within(fail, 0, 1, "fail is a share of the requests")
        self._draw = random.Random(f"{seed}:fail")  # noqa: S311 - a simulation

    def add(self, fault: Fault) -> None:
        """Add a fault after the present ones."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults. Requests that hang already continue to hang."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault for this request, and count it as used."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.matches(method, path):
                    if fault.times == 1:
                        del self._faults[index]
                    elif fault.times is not None:
                        self._faults[index] = replace(fault, times=fault.times - 1)
                    return fault
            if self._draw.random() < self._fail:
                return Fault(pattern="*", status=self._draw.choice(_FAILURES))
        return None
