"""Tools for testing programs that use budgetguard: a fake provider, a manual clock, checks of a provider.

The sandbox is a real HTTP server that serves both providers' APIs. It is in
`budgetguard.testing.sandbox` and needs the extra `sandbox`.
"""

from budgetguard.testing.clock import HandClock, hand_clock
from budgetguard.testing.fake import FakeProvider, OutOfCredits
from budgetguard.testing.provider_check.check import check_provider

__all__ = ["FakeProvider", "HandClock", "OutOfCredits", "check_provider", "hand_clock"]
