"""Where a redirect leads, and what it says of the request that it answers (RFC 9110, 15.4).

A client that follows it makes a new request of the old one, with the old one's extensions: there it
is marked, whatever its origin. Who follows by hand sends one to the address that was named.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from budgetguard.retries import Waiting, mark, mark_of
from budgetguard.wire import DID_NOTHING, Price

if TYPE_CHECKING:
    import weakref

KEY = "budgetguard.redirect"

_MAYBE_DONE = frozenset({301, 302, 303})
_REDIRECTS = DID_NOTHING | _MAYBE_DONE
# Requests that ask to be shown something: their redirects did nothing either.
_SHOWN = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Course:
    """The call that a request is part of, by the request that it began with.

    `attempt` is that one's mark, once it was answered. With `maybe_done` a request before this one
    may have been carried out: nothing that this one is answered proves that nothing was spent.
    """

    operation: str
    path: str
    price: Price | None
    attempt: bytes = b""
    maybe_done: bool = False

    def after(self, request: Any, status: int) -> "Course":
        """The course of what follows this request, which was answered so."""
        done = status in _MAYBE_DONE and request.method not in _SHOWN
        return replace(
            self,
            attempt=self.attempt or mark_of(request),
            maybe_done=self.maybe_done or done,
        )


@dataclass(frozen=True, slots=True)
class Onward:
    """What a request that follows a redirect goes by: the hold that waits for it, or a price."""

    traffic: Any
    course: Course
    answered: "weakref.ref[Any]"
    waiting: Waiting | None = None


def is_redirect(response: Any) -> bool:
    """Whether a reply sends its client elsewhere."""
    return response.status_code in _REDIRECTS and "location" in response.headers


def followers(request: Any, response: Any) -> tuple[bytes, ...]:
    """The marks of what may follow by hand: to be shown what is there, or the same once more."""
    try:
        url = request.url.join(response.headers["location"])
    except Exception:  # noqa: BLE001  no address; each library has an error of its own for that
        return ()
    return mark("GET", url), mark("HEAD", url), mark_of(request, to=url)
