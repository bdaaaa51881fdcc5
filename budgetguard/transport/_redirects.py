"""Where a redirect leads, and what it says about the request that it answers (RFC 9110, 15.4).

A client that follows a redirect builds the new request from the old one, with its extensions: a mark
there identifies the call, whatever the new origin. Code that follows by hand sends a request to the
address in the redirect.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from budgetguard._engine.approval import NOTHING_APPROVED
from budgetguard.providers.billing import DID_NOTHING
from budgetguard.transport._repeats import Attempt, mark_read
from budgetguard.transport._retries import Waiting, mark, mark_of

if TYPE_CHECKING:
    import weakref

    from budgetguard.transport._prices import RequestPrice

KEY = "budgetguard.redirect"

_MAYBE_DONE = frozenset({301, 302, 303})
_REDIRECTS = DID_NOTHING | _MAYBE_DONE
# Requests that only read: a redirect did nothing for them either.
_SHOWN = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class RequestChain:
    """The call that a request belongs to, identified by the call's first request.

    `attempt` is the mark of the first request, once it was answered. With `maybe_done`, a request before
    this one may have been carried out, so that no answer to this one proves that nothing was spent.
    `actual` reads the cost in the last reply, see `prices`. `first` is what a client without a retry header would send again: set where that is not this request,
    and where this request repeats another one. So many micro-credits are `approved`, for a request that
    a redirect sent on before anything was done.
    """

    operation: str
    path: str
    price: "RequestPrice | None"
    attempt: bytes = b""
    maybe_done: bool = False
    first: Attempt | None = None
    actual: Callable[[Any], Any] | None = None
    approved: int = NOTHING_APPROVED

    @property
    def repeats(self) -> bool:
        """Whether this is another attempt of a call that failed, as recognized without a header."""
        return self.first is not None and self.first.repeats > 0

    def after(self, request: Any, status: int) -> "RequestChain":
        """The chain as it continues after this request was answered with this status."""
        done = status in _MAYBE_DONE and request.method not in _SHOWN
        return replace(
            self,
            attempt=self.attempt or mark_of(request),
            maybe_done=self.maybe_done or done,
            first=self.first or Attempt(mark_read(request)),
        )


@dataclass(frozen=True, slots=True)
class Onward:
    """How a request that follows a redirect continues: with the hold that waits for it, or at a price."""

    traffic: Any
    chain: RequestChain
    answered: "weakref.ref[Any]"
    waiting: Waiting | None = None


def is_redirect(response: Any) -> bool:
    """Whether a reply sends its client to another address."""
    return response.status_code in _REDIRECTS and "location" in response.headers


def followers(request: Any, response: Any) -> tuple[bytes, ...]:
    """The marks of requests that may follow by hand: a GET or HEAD of the new address, or the same again."""
    try:
        url = request.url.join(response.headers["location"])
    except Exception:  # noqa: BLE001  an invalid address; each library raises its own error
        return ()
    return mark("GET", url), mark("HEAD", url), mark_of(request, to=url)
