"""A pre-flight budget guard for APIs that are paid by credits.

Before each call it checks the cached balance and sets credits aside while the call runs. If they are
too few, it raises InsufficientCredits before anything is spent.
"""

from budgetguard._core.activation import set_active
from budgetguard._core.approval import ApprovalRequest
from budgetguard._core.balance import Balance
from budgetguard._core.errors import (
    ApprovalDenied,
    BalanceUnavailable,
    BudgetExceeded,
    BudgetGuardError,
    ConcurrencyLimit,
    ConfigurationError,
    HoldClosed,
    InsufficientCredits,
    InvalidCredentials,
    Paused,
)
from budgetguard._core.estimate import Estimate
from budgetguard._core.events import Event
from budgetguard._core.learned_cost import learned
from budgetguard._engine.hold import Hold
from budgetguard._version import __version__
from budgetguard.budget import Budget
from budgetguard.decorator import require_credits
from budgetguard.defaults import set_default_guard
from budgetguard.guard import Guard
from budgetguard.guard_pool import GuardPool
from budgetguard.providers import AnchorBrowser, PreDev

__all__ = [
    "AnchorBrowser",
    "ApprovalDenied",
    "ApprovalRequest",
    "Balance",
    "BalanceUnavailable",
    "Budget",
    "BudgetExceeded",
    "BudgetGuardError",
    "ConcurrencyLimit",
    "ConfigurationError",
    "Estimate",
    "Event",
    "Guard",
    "GuardPool",
    "Hold",
    "HoldClosed",
    "InsufficientCredits",
    "InvalidCredentials",
    "Paused",
    "PreDev",
    "__version__",
    "learned",
    "require_credits",
    "set_active",
    "set_default_guard",
]
