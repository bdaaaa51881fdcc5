"""A vendor that is not built in: what a guard and a transport ask of its provider."""

from decimal import Decimal
from typing import Any

import httpx
import pytest

from budgetguard import Balance, Guard
from budgetguard.providers import HTTPProvider, Provider
from budgetguard.providers.base import Profile
from budgetguard.providers.billing import Billing, BillingReply
from budgetguard.providers.registry import VENDORS
from budgetguard.testing import HandClock
from budgetguard.transport import GuardTransport

pytestmark = pytest.mark.usefixtures("clock")


class Acme(Provider):
    """One that says no more than it has to."""

    name = "Acme"

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        """Have 20 credits."""
        del client
        return Balance(credits=20)


class AcmeBilling(Billing):
    """Says in a header what a call cost."""

    def cost_of(self, reply: BillingReply) -> Any:
        """What the header says."""
        return Decimal(reply.headers["x-cost"])

    def remaining(self, reply: BillingReply) -> Decimal | None:
        """Of what the header says."""
        return Decimal(reply.headers["x-left"])


class Selling(Acme):
    """One that a transport can guard by itself."""

    base_url = "https://api.acme.example"
    prices = {("POST", "/work"): 5}  # noqa: RUF012  as users write it
    billing = AcmeBilling()
    lag = 30


def test_name_and_fetch_are_enough() -> None:
    """All else is as the class that it derives from says."""
    guard = Guard(Acme())
    assert guard.balance().credits == 20
    assert isinstance(guard.provider, Acme)
    known = Profile.of(guard.provider)
    assert (known.name, known.lag, known.linger, known.extra_credits) == ("Acme", 5, 0, 0)
    assert (known.base_url, known.prices, known.fingerprint) == (None, None, None)


def test_an_object_of_any_class_will_do() -> None:
    """Deriving from it is no condition, nor is any attribute."""

    class Bare:
        name = ""

        async def fetch(self, client: httpx.AsyncClient) -> Balance:
            del client
            return Balance(credits=3)

    assert Guard(Bare()).balance().credits == 3
    assert Profile.of(Bare()).name == "the provider"


def test_a_transport_goes_by_it(clock: HandClock) -> None:
    """Base URL, prices and what replies say are the provider's own."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert guard.available == 15
        return httpx.Response(200, headers={"x-cost": "2", "x-left": "18"}, request=request)

    guard = Guard(Selling())
    guard.balance()
    clock.advance(1)
    transport = GuardTransport(guard, transport=httpx.MockTransport(answer))
    with httpx.Client(transport=transport) as client:
        client.post("https://api.acme.example/work").read()
    # The balance that came along fell by what the call cost.
    assert guard.available == 18


def test_a_transport_says_what_it_lacks() -> None:
    """Of a provider without prices it has to be told them."""
    with pytest.raises(TypeError, match="Acme does not define prices: pass prices="):
        GuardTransport(Guard(Acme()))


@pytest.mark.parametrize("thing", [Acme, 5, "acme", None, object()])
def test_what_is_no_provider_is_refused(thing: Any) -> None:
    """By its type alone, and with what to write."""
    with pytest.raises(
        TypeError, match=r"Guard takes a provider.*not (the class |)\w+\."
    ) as caught:
        Guard(thing)
    assert "acme" not in str(caught.value)


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=VENDORS)
def test_what_is_built_in_is_a_provider(vendor: Any) -> None:
    """It says of itself whatever can be said."""
    provider: Provider = vendor.make("key")
    assert isinstance(provider, HTTPProvider)
    assert (provider.name, provider.variable) == (vendor.name, vendor.variable)
    known = Profile.of(provider)
    assert all([known.name, known.base_url, known.prices, known.fingerprint, known.top_up_url])
    assert known.billing is provider.billing
