"""The same pass-through call under other packages' guards, for those of them that are installed.

None of them asks a provider for its balance: a rate limit, two circuit breakers, and two budgets of
their own whose reserve and commit are the nearest to hold and settle.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

Function = Callable[[int], Any]
PLENTY = 10**9


def guarded_by_others(plain: Function) -> tuple[dict[str, Function], list[str]]:
    """`plain` under each of them, and the names of those that are not installed."""
    found, missing = {}, []
    for name, guard in OTHERS.items():
        try:
            found[name] = guard(plain)
        except ModuleNotFoundError:
            missing.append(name)
    return found, missing


def limits(plain: Function) -> Function:
    """One hit of a fixed window in memory, before every call."""
    package = import_module("limits")
    window = import_module("limits.strategies").FixedWindowRateLimiter(
        import_module("limits.storage").MemoryStorage()
    )
    rate = package.RateLimitItemPerHour(PLENTY)

    def guarded(x: int) -> Any:
        if not window.hit(rate):
            raise RuntimeError
        return plain(x)

    return guarded


def pybreaker(plain: Function) -> Function:
    """A closed breaker."""
    return import_module("pybreaker").CircuitBreaker()(plain)


def circuitbreaker(plain: Function) -> Function:
    """A closed breaker."""
    return import_module("circuitbreaker").circuit(plain)


def spendguard(plain: Function) -> Function:
    """Check and reserve, call, commit."""
    # Its own __init__ downloads a tokenizer (0.1.0); the tracker needs none.
    package = sys.modules.setdefault("spendguard", ModuleType("spendguard"))
    package.__path__ = [str(Path(folder) / "spendguard") for folder in sys.path]
    tracker = import_module("spendguard.tracker").SpendTracker(PLENTY)

    def guarded(x: int) -> Any:
        reservation = tracker.check_and_reserve(1e-6)
        result = plain(x)
        tracker.commit(reservation, 1e-6)
        return result

    return guarded


def llm_cost_guard(plain: Function) -> Function:
    """Reserve, call, finalize."""
    package = import_module("llm_cost_guard.budget")
    budget = package.Budget("calls", PLENTY, action=package.BudgetAction.BLOCK)
    tracker = package.BudgetTracker([budget])

    def guarded(x: int) -> Any:
        reservation = tracker.reserve(1e-6)
        result = plain(x)
        tracker.finalize(reservation, 1e-6, 1e-6)
        return result

    return guarded


def pyrate_limiter(plain: Function) -> Function:
    """One try at a token bucket's worth, in memory."""
    package = import_module("pyrate_limiter")
    limiter = package.Limiter(package.InMemoryBucket([package.Rate(PLENTY, 3_600_000)]))

    def guarded(x: int) -> Any:
        if not limiter.try_acquire("calls", blocking=False):
            raise RuntimeError
        return plain(x)

    return guarded


def throttled(plain: Function) -> Function:
    """One look at a fixed window, in memory."""
    package = import_module("throttled")
    limiter = package.Throttled(key="calls", using="fixed_window", quota=package.per_hour(PLENTY))

    def guarded(x: int) -> Any:
        if limiter.limit().limited:
            raise RuntimeError
        return plain(x)

    return guarded


def floe_guard(plain: Function) -> Function:
    """Reserve a tool's price, call, settle."""
    budget = import_module("floe_guard").BudgetGuard(limit_usd=PLENTY)

    def guarded(x: int) -> Any:
        handle = budget.reserve_tool(1e-6)
        result = plain(x)
        budget.settle_tool("plain", 1e-6, reserved=handle)
        return result

    return guarded


OTHERS: dict[str, Callable[[Function], Function]] = {
    "limits, hit": limits,
    "pybreaker, closed": pybreaker,
    "circuitbreaker, closed": circuitbreaker,
    "spendguard, reserve and commit": spendguard,
    "llm-cost-guard, reserve and finalize": llm_cost_guard,
    "pyrate-limiter, try": pyrate_limiter,
    "throttled-py, limit": throttled,
    "floe-guard, reserve and settle a tool": floe_guard,
}
