"""Tools for testing programs that use budgetguard: a fake provider and a manual clock.

The sandbox is a real HTTP server that serves both providers' APIs. It is in
`budgetguard.testing.sandbox` and needs the extra `sandbox`.
"""

from budgetguard.testing.clock import HandClock, hand_clock
from budgetguard.testing.fake import FakeProvider, OutOfCredits

__all__ = ["FakeProvider", "HandClock", "OutOfCredits", "hand_clock"]
