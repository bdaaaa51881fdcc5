"""Why a refresh failed. Needs no HTTP client, because that may be what could not be imported."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from budgetguard._core.errors import BalanceUnavailable, InvalidCredentials

AT_ONCE = 1e-6
"""The backoff, in seconds, where the provider is not at fault.

Waiters get the error, and the next caller starts a new attempt.
"""

_USED_UP = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_OURS = (ImportError, MemoryError, OSError, RuntimeError)


class Transient(BalanceUnavailable):
    """A failure that may be temporary: no connection, 5xx, or 429."""


class UsedUp(BalanceUnavailable):
    """No file, thread or memory is left for the request on this machine; the provider is not at fault."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a refresh failed. `delay` is the backoff in seconds before the next refresh."""

    reason: str
    cause: Exception | None
    denied: bool
    failures: int
    delay: float

    def error(self, provider: str, retry_after: float | None) -> BalanceUnavailable:
        """A new exception for one caller."""
        kind = InvalidCredentials if self.denied else BalanceUnavailable
        error = kind(provider=provider, reason=self.reason, retry_after=retry_after)
        error.__cause__ = self.cause
        return error


def not_made(error: BaseException, failures: int) -> Failure:
    """The failure of a refresh that never reached the provider, after `failures` earlier ones."""
    # The text of any other kind of error may quote a key.
    words = f": {error}" if isinstance(error, _OURS) and str(error) else ""
    cause = error if isinstance(error, Exception) else None
    reason = f"the request could not be made ({type(error).__name__}{words})"
    return Failure(reason, cause, denied=False, failures=failures, delay=AT_ONCE)


def used_up(error: BaseException) -> str | None:
    """What this machine has run out of, if that caused `error`; otherwise None."""
    for cause in causes(error):
        if isinstance(cause, MemoryError):
            return "this machine has no memory left (MemoryError)"
        # Subclasses excluded: errors of name resolution use error numbers of their own.
        if type(cause) is OSError and cause.errno in _USED_UP:
            return f"this machine has run out of something (OSError: {cause.strerror})"
        if isinstance(cause, RuntimeError) and "new thread" in str(cause):
            return f"this machine has no thread left (RuntimeError: {cause})"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and everything that led to it, including the members of groups."""
    seen: set[int] = set()
    left = [error]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        left.append(error.__cause__ or error.__context__)
        if isinstance(error, BaseExceptionGroup):
            left.extend(error.exceptions)
