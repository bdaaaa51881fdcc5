"""Failures of the HTTP library requests, as far as they tell whether anything was sent."""

from urllib3.exceptions import ConnectTimeoutError


def never_connected(error: BaseException | None) -> bool:
    """Whether an error of requests says that no connection was made, so that nothing was sent.

    Its ConnectionError alone may also come from a connection that broke later. urllib3's class covers
    connections that were refused or timed out, and names that were not found.
    """
    reason = error.args[0] if isinstance(error, OSError) and error.args else None
    return isinstance(getattr(reason, "reason", None), ConnectTimeoutError)
