"""For the tests of programs that use budgetguard: fakes, and a clock turned by hand.

The sandbox, a real HTTP server that speaks both providers' APIs, is in
`budgetguard.testing.sandbox` and needs the extra of that name.
"""

from budgetguard.testing.clock import HandClock, hand_clock
from budgetguard.testing.fake import FakeProvider, OutOfCredits

__all__ = ["FakeProvider", "HandClock", "OutOfCredits", "hand_clock"]
