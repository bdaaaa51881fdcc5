"""What the sandbox's routes share: one clock, the accounts, their work and the counts."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from budgetguard.testing.sandbox.account import Account, Amount, number
from budgetguard.testing.sandbox.batches import Batches
from budgetguard.testing.sandbox.bounds import within
from budgetguard.testing.sandbox.browsers import Browsers
from budgetguard.testing.sandbox.clock import Clock
from budgetguard.testing.sandbox.faults import Faults
from budgetguard.testing.sandbox.gateway import Gateway
from budgetguard.testing.sandbox.pages import Pages
from budgetguard.testing.sandbox.replies import documented, phrase
from budgetguard.testing.sandbox.session_batches import SessionBatches
from budgetguard.testing.sandbox.specs import Specs
from budgetguard.testing.sandbox.vendors import VENDORS
from budgetguard.testing.sandbox.web_tasks import WebTasks

if TYPE_CHECKING:
    from budgetguard.testing.sandbox.vendor import Vendor

# Plainly not real keys, so that scanners for leaked secrets ignore them.
PREDEV_KEY = "pdk_sandbox_not_a_real_key"
ANCHOR_KEY = "anchor_sandbox_not_a_real_key"
PROJECT_ID = "sandbox-project"

_HOUR = 3600

BALANCES = ("/credits-balance", "/v1/projects/{project_id}/credits", "/v1/billing")


class World:
    """All providers, without their HTTP server."""

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
        latency: float,
        fail: float,
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
        self.session_batches = SessionBatches(self.browsers, clock)
        self.web_tasks = WebTasks(self.anchor, clock, seed, self.browsers)
        self.pages = Pages(self.anchor, clock, seed, self.browsers)
        self.gateway = Gateway(self.predev, clock, seed)
        self.latency = within(latency, 0, _HOUR, "latency is a number of real seconds")
        self.faults = Faults(fail, seed)
        self._requests: Counter[tuple[str, str]] = Counter()
        made = (
            each(credits, clock, self._requests, lag=lag, overdraft=overdraft) for each in VENDORS
        )
        self.vendors: dict[str, Vendor] = {vendor.name: vendor for vendor in made}

    @property
    def accounts(self) -> dict[str, Account]:
        """All accounts, by the names that a top-up takes."""
        further = {name: vendor.account for name, vendor in self.vendors.items()}
        return {"predev": self.predev, "anchorbrowser": self.anchor, **further}

    def error_body(self, path: str, status: int) -> dict[str, Any]:
        """The body that an error with this status has, in the shape of the path's provider."""
        for vendor in self.vendors.values():
            if vendor.owns(path):
                return vendor.error(status, phrase(status)).body
        return documented(path, status)

    def count(self, method: str, template: str) -> None:
        """Count a request, whatever its reply will be."""
        with self.clock.settled():
            self._requests[method, template] += 1
            self.clock.tell()

    @property
    def requests(self) -> Counter[tuple[str, str]]:
        """How many requests arrived, by method and route."""
        with self.clock.settled():
            return self._requests.copy()

    @property
    def balance_requests(self) -> int:
        """How many requests asked for a balance, at pre.dev or Anchor Browser."""
        requests = self.requests
        return sum(requests["GET", template] for template in BALANCES)

    def state(self) -> dict[str, Any]:
        """The state of all accounts as one JSON object."""
        with self.clock.settled() as now:
            return {
                "now": now,
                "predev": _figures(self.predev),
                "anchor": _figures(self.anchor),
                "vendors": {
                    name: {**vendor.state(), **_figures(vendor.account)}
                    for name, vendor in self.vendors.items()
                },
                "requests": {f"{method} {path}": n for (method, path), n in self.requests.items()},
                "balance_requests": self.balance_requests,
            }


def _figures(account: Account) -> dict[str, Any]:
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
