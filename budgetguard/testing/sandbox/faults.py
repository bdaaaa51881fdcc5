"""Faults on request: what goes wrong on the wire between a client and the provider."""

import gzip
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from budgetguard.wrong import shown

_STATUSES = range(200, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to answer badly, for the paths that match `pattern` (as in `fnmatch`).

    - `method`: only this one; `times`: for so many requests (`None`: until cleared).
    - `latency`: real seconds before anything else; `hang`: no answer at all; `reset`: the
      connection is reset.
    - `status`, `headers`, `body`, `content_type`, `retry_after`, `redirect` make an answer of
      their own; `body` is sent as it is when bytes or text, as JSON when it is anything else;
      without one the answer is the body documented for that status.
    - `gzip`, `size` (padded with spaces to so many bytes) and `drip` (real seconds between two
      bytes) change how the answer is sent, the provider's own one included.
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
        """Refuse what could not be sent."""
        if self.times is not None and self.times < 1:
            msg = f"times is a count of requests or None, not {shown(self.times)}"
            raise ValueError(msg)
        if self.status is not None and self.status not in _STATUSES:
            msg = f"status is an HTTP status from 200 to 599, not {shown(self.status)}"
            raise ValueError(msg)

    def matches(self, method: str, path: str) -> bool:
        """Whether this fault is meant for that request."""
        return self.method in (None, method) and fnmatchcase(path, self.pattern)

    @property
    def answers(self) -> bool:
        """Whether the provider's own answer is not wanted."""
        own = (self.status, self.body, self.content_type, self.retry_after, self.redirect)
        return any(each is not None for each in own)

    @property
    def reshapes(self) -> bool:
        """Whether the provider's own answer has to be taken apart."""
        return bool(self.headers) or self.gzip or self.size is not None or self.drip is not None

    def answer(self, documented: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the fault's own answer."""
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
        """The headers and bytes that go out, whoever's answer it is."""
        if self.size is not None:
            body = body.ljust(self.size)
        headers = headers | {name.lower(): value for name, value in self.headers.items()}
        if self.gzip:
            body = gzip.compress(body, mtime=0)
            headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(body))
        return headers, body


class Faults:
    """The faults in force. The one asked for first comes first, until its `times` are used up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Put a fault behind those already there."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Take all faults back; requests that hang go on hanging."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, counted as used."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.matches(method, path):
                    if fault.times == 1:
                        del self._faults[index]
                    elif fault.times is not None:
                        self._faults[index] = replace(fault, times=fault.times - 1)
                    return fault
        return None
