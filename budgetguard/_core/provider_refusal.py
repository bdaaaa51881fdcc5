"""How a provider's refusal of a call is read: what it says about the account's credits."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

RefusalKind: TypeAlias = Literal["exhausted", "busy", "key_limit", "not_credits"]

LONGEST_RETRY = 3600.0
"""The longest pause, in seconds, that one refusal can impose: a longer one is cut to this."""

BUSY_FOR = 5.0
"""How long a provider counts as busy, in seconds, if its refusal does not say."""

KEY_LIMITED_FOR = 300.0
"""How long a key's own limit counts as reached, in seconds, if its refusal does not say."""


@dataclass(frozen=True, slots=True)
class ProviderRefusal:
    """A provider's refusal of a call; `retry_after` in seconds, None if it does not say.

    What a guard makes of it, by `kind`:

    - `"exhausted"`: the account's credits are used up. Counts as a balance of zero, requested now, until a
      higher balance arrives, or one that was requested `lag` later. A refresh starts.
    - `"busy"`: the credits are there, but calls in flight hold them.
      The balance does not change. For `retry_after` seconds (5 by default), a call with `wait` waits, and
      any other gets InsufficientCredits with `retryable=True`.
    - `"key_limit"`: the key has used up a limit of its own. Guards with this key are refused for
      `retry_after` seconds (300 by default), or until a higher balance arrives. Guards of the same
      `account=` with another key are not.
    - `"not_credits"`: something else, such as a rate limit or a wrong request. Changes nothing.

    `retry_after` is at most an hour; a longer one counts as an hour.
    """

    kind: RefusalKind
    retry_after: float | None = None

    def pause(self) -> float:
        """How many seconds the refusal counts, for `"busy"` and `"key_limit"`."""
        least = BUSY_FOR if self.kind == "busy" else KEY_LIMITED_FOR
        wait = least if self.retry_after is None else self.retry_after
        # The comparison is False for NaN, too.
        return min(wait, LONGEST_RETRY) if wait >= 0 else 0.0


EXHAUSTED: Final = ProviderRefusal("exhausted")
KEY_LIMIT: Final = ProviderRefusal("key_limit")
NOT_CREDITS: Final = ProviderRefusal("not_credits")


def busy(retry_after: float | None = None) -> ProviderRefusal:
    """The refusal of a provider that is busy for so many seconds."""
    return ProviderRefusal("busy", retry_after)


def key_limit(retry_after: float | None = None) -> ProviderRefusal:
    """The refusal of a key whose own limit is used up, for so many seconds."""
    return ProviderRefusal("key_limit", retry_after)
