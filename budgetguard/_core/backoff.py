"""The pause after failed refreshes: exponential backoff with full jitter.

It applies between the attempts of one refresh, and continues from one refresh to the next.
"""

from collections.abc import Callable

FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0
SHORTEST_DELAY = 0.001
_MOST_DOUBLINGS = 10


def backoff(
    failures: int, retry_after: float | None, jitter: Callable[[float, float], float]
) -> float:
    """Seconds until the next attempt after `failures` in a row: random, below a bound that doubles.

    `jitter` draws a number between two others. The result is at least `retry_after`, up to
    `LONGEST_DELAY`.
    """
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, _MOST_DOUBLINGS))
    delay = max(jitter(0.0, longest), SHORTEST_DELAY)
    return max(delay, min(retry_after or 0.0, LONGEST_DELAY))
