"""What a long run is held against: threads, memory, and what is left in the books at its end."""

import gc
import sys
import threading
from pathlib import Path

MEGABYTE = 1_000_000
ALLOWED = 5.0
# Where a resident size cannot be read, its growth is not told.
STATM = Path("/proc/self/statm")
PAGE = 4096


def resident() -> float:
    """Megabytes that this process has in memory, garbage collected first."""
    gc.collect()
    if not STATM.exists():
        return 0.0
    return int(STATM.read_text().split()[1]) * PAGE / MEGABYTE


def threads() -> int:
    """Threads that stay; one for each look at a plain callable comes and goes."""
    return sum(thread.name != "budgetguard-call" for thread in threading.enumerate())


class Figures:
    """Taken now and then; the first is taken when everything has been in use for a while."""

    def __init__(self) -> None:
        self.sizes: list[float] = []
        self.threads: list[int] = []
        self.troubles: list[str] = []

    def take(self, words: str) -> None:
        """Measure, and print a line of it."""
        self.sizes.append(resident())
        self.threads.append(threads())
        self.say(f"{words}, {self.threads[-1]} threads, {self.sizes[-1]:.1f} MB")

    def say(self, words: str) -> None:
        """Print a line at once."""
        sys.stdout.write(f"{words}\n")
        sys.stdout.flush()

    def verdict(self, held: int) -> int:
        """Print the last line; 1 when something is broken."""
        growth = self.sizes[-1] - self.sizes[0]
        if growth > ALLOWED:
            self.troubles.append(f"memory grew by {growth:.1f} MB")
        if len(set(self.threads)) > 1:
            self.troubles.append(f"from {min(self.threads)} to {max(self.threads)} threads")
        if held:
            self.troubles.append(f"{held} micro-credits are held or pending for good")
        threads = "-".join(map(str, sorted({min(self.threads), max(self.threads)})))
        self.say(
            f"{threads} threads, memory {growth:+.1f} MB, {held} held at the end: "
            + ("; ".join(self.troubles) or "sound")
        )
        return int(bool(self.troubles))
