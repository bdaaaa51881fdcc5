"""What type checkers see of transports and of guarded SDKs. Checked, never run."""

from decimal import Decimal
from typing import assert_type

import httpx
import httpx2
from anchorbrowser import AsyncAnchorbrowser

from budgetguard import BudgetGuardError, Guard, PreDev, learned
from budgetguard.browser import browser_session
from budgetguard.integrations import anchorbrowser, guarded
from budgetguard.providers import BillingReply
from budgetguard.providers.billing import Prices
from budgetguard.transport import AsyncGuardTransport, GuardTransport

guard = Guard(PreDev())

# Of neither library's types, and taken by both.
httpx.Client(transport=GuardTransport(guard))
httpx2.Client(transport=GuardTransport(guard, prices={("POST", "/deep-spec"): 50}))
httpx.AsyncClient(transport=AsyncGuardTransport(guard))
httpx2.AsyncClient(transport=AsyncGuardTransport(guard, on_refusal="raise"))


async def cached(error: BudgetGuardError, request: httpx.Request) -> httpx.Response:
    """Supplies a reply."""
    return httpx.Response(200, request=request)


httpx.AsyncClient(transport=AsyncGuardTransport(guard, on_refusal=cached))


def cost_of(reply: BillingReply) -> Decimal:
    """What a reply says."""
    return Decimal(reply.last("usage")["cost"])


prices: Prices = {
    ("POST", "/chat"): {"cost": 5, "actual": cost_of},
    ("POST", "/search"): {"cost": learned(5), "actual": lambda reply: reply.body["cost"]},
    ("POST", "/runs"): lambda request: {"min": 2, "actual": cost_of},
}
httpx.Client(transport=GuardTransport(guard, prices=prices, send_cap=True))

client = AsyncAnchorbrowser()
assert_type(anchorbrowser.guarded(client, guard), AsyncAnchorbrowser)
assert_type(guarded(client, guard, {"sessions.create_session": 1}), AsyncAnchorbrowser)


async def work() -> str:
    """A session's handle is typed."""
    async with browser_session(client, guard, 5) as session:
        return session.id
