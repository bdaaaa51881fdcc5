"""A pre-flight budget guard for APIs that are paid by credits.

Looks at the cached balance, sets credits aside while a call runs, and refuses with
InsufficientCredits before anything is spent.
"""

from budgetguard._version import __version__
from budgetguard.balance import Balance
from budgetguard.decorator import require_credits
from budgetguard.defaults import set_default_guard
from budgetguard.errors import (
    BalanceUnavailable,
    BudgetGuardError,
    ConcurrencyLimit,
    ConfigurationError,
    HoldClosed,
    InsufficientCredits,
    InvalidCredentials,
)
from budgetguard.events import Event
from budgetguard.guard import Guard
from budgetguard.hold import Hold
from budgetguard.pool import GuardPool
from budgetguard.providers import AnchorBrowser, PreDev
from budgetguard.switch import set_active

__all__ = [
    "AnchorBrowser",
    "Balance",
    "BalanceUnavailable",
    "BudgetGuardError",
    "ConcurrencyLimit",
    "ConfigurationError",
    "Event",
    "Guard",
    "GuardPool",
    "Hold",
    "HoldClosed",
    "InsufficientCredits",
    "InvalidCredentials",
    "PreDev",
    "__version__",
    "require_credits",
    "set_active",
    "set_default_guard",
]
