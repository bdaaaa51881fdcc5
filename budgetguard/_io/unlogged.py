"""Keeps what a request and its reply may contain out of the logs of the HTTP client.

httpx logs every URL at INFO, with its query. httpcore logs the head of every reply at DEBUG, in which a
redirect repeats the query, and the text of errors, which quote lines of it (httpx 0.28.1, httpcore 1.0.9).
"""

from typing import Any, Final

import httpx


class UnloggedURL(httpx.URL):
    """A URL whose query is sent but not shown: `str()` and `repr()` end before it."""

    def __str__(self) -> str:
        return super().__str__().partition("?")[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


def with_query(request: httpx.Request, query: str) -> None:
    """Add a query to a request whose URL has none."""
    if query:
        # Set afterwards, because a request makes a plain URL of the one that it is given.
        request.url = UnloggedURL(f"{request.url}?{query}")


async def _forget(event: str, info: dict[str, Any]) -> None:
    """Called by httpcore before it logs an event with `info`; that of a start is used afterwards."""
    if not event.endswith(".started"):
        info.clear()


UNLOGGED: Final = {"trace": _forget}
"""The extensions of a request of which httpcore logs only the names of events."""
