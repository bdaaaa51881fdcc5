"""Everything the sandbox's routes share: one clock, two accounts, the work, the counts."""

from collections import Counter
from typing import Any

from budgetguard.testing.sandbox.account import Account, Amount, number
from budgetguard.testing.sandbox.batches import Batches
from budgetguard.testing.sandbox.browsers import Browsers
from budgetguard.testing.sandbox.clock import Clock
from budgetguard.testing.sandbox.faults import Faults
from budgetguard.testing.sandbox.specs import Specs

# Plainly no keys of anybody: scanners for leaked secrets should pass them by.
PREDEV_KEY = "pdk_sandbox_not_a_real_key"
ANCHOR_KEY = "anchor_sandbox_not_a_real_key"
PROJECT_ID = "sandbox-project"

BALANCES = ("/credits-balance", "/v1/projects/{project_id}/credits", "/v1/billing")


class World:
    """Both providers, without the wire."""

    def __init__(
        self,
        credits: Amount,
        *,
        clock: Clock,
        seed: int,
        lag: float,
        overdraft: bool,
        max_concurrent_browsers: int,
        sessions_per_minute: int | None,
        browser_price: Amount,
        minute_price: Amount,
        cost_limit: Amount | None,
        tier: str,
    ) -> None:
        self.clock = clock
        self.tier = tier
        self.included = credits
        self.cost_limit = cost_limit
        self.predev = Account(credits, clock, lag=lag, overdraft=overdraft)
        self.anchor = Account(credits, clock, lag=lag, overdraft=overdraft, cost_limit=cost_limit)
        self.specs = Specs(self.predev, clock, seed)
        self.batches = Batches(self.predev, clock, seed)
        self.browsers = Browsers(
            self.anchor,
            clock,
            max_concurrent=max_concurrent_browsers,
            per_minute=sessions_per_minute,
            created_price=browser_price,
            minute_price=minute_price,
        )
        self.faults = Faults()
        self._requests: Counter[tuple[str, str]] = Counter()

    def count(self, method: str, template: str) -> None:
        """Note a request, whatever becomes of it."""
        with self.clock.settled():
            self._requests[method, template] += 1
            self.clock.tell()

    @property
    def requests(self) -> Counter[tuple[str, str]]:
        """How many requests came, by method and route."""
        with self.clock.settled():
            return self._requests.copy()

    @property
    def balance_requests(self) -> int:
        """How many times a balance was asked for, of either provider."""
        requests = self.requests
        return sum(requests["GET", template] for template in BALANCES)

    def state(self) -> dict[str, Any]:
        """All books as one JSON object."""
        with self.clock.settled() as now:
            return {
                "now": now,
                "predev": _books(self.predev),
                "anchor": _books(self.anchor),
                "requests": {f"{method} {path}": n for (method, path), n in self.requests.items()},
                "balance_requests": self.balance_requests,
            }


def _books(account: Account) -> dict[str, Any]:
    amounts = ("balance", "reported", "lowest_balance", "used", "charged", "wasted")
    counts = ("running", "finished", "died", "refused", "max_concurrency_seen")
    return {
        **{name: number(int(getattr(account, name).scaleb(6))) for name in amounts},
        **{name: getattr(account, name) for name in counts},
        "operations": [
            {
                "id": each.id,
                "kind": each.kind,
                "state": each.state,
                "charged": number(each.micros),
            }
            for each in account.operations.values()
        ],
    }
