"""Anchor Browser's tools for one page: a screenshot, a PDF or the page itself."""

import base64
import random
from dataclasses import dataclass
from decimal import Decimal

from budgetguard.testing.sandbox.account import Account, micro
from budgetguard.testing.sandbox.browsers import Browsers, check_payable
from budgetguard.testing.sandbox.clock import Clock

# From a third-party reading of the pricing page (July 2026): 8 credits for a GB through proxies.
PROXY_MB = Decimal("0.008")
# How many MB are fetched for one page. Not documented.
_PAGE = (1, 10)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
PDF = b"%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"  # fmt: skip


@dataclass(slots=True)
class Pages:
    """All pages that were opened.

    A page is charged the creation of a browser and one minute of it. In a running session it costs
    nothing, because the session is charged already. `fetch_webpage` uses proxies, which are
    charged by the megabyte.
    """

    account: Account
    clock: Clock
    seed: int
    browsers: Browsers
    opened: int = 0

    def open(self, tool: str, session_id: str | None, *, proxied: bool = False) -> None:
        """Charge for a page. Raises 404 if the session is not running.

        Also raises 402 and 403, as for a session; for these tools, the pages do not document them.
        """
        with self.clock.settled() as now:
            if session_id is not None:
                self.browsers.running(session_id)
                return
            order = self.opened + 1
            draw = random.Random(f"{self.seed}:page:{order}")  # noqa: S311 - a simulation
            megabytes = draw.randint(*_PAGE) if proxied else 0
            micros = self.browsers.first_price + megabytes * micro(PROXY_MB)
            check_payable(self.account, micros)
            self.opened = order
            operation = self.account.begin(tool, f"page_{order:06d}")
            self.account.charge(operation, micros, now)
            self.account.end(operation, "finished")
