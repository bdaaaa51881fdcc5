"""A vendor that is not built in, described by HTTPBalance alone: real costs and its own refusals."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from budgetguard import Guard
from budgetguard.providers import HTTPBalance
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox, Vendor
from budgetguard.transport import GuardTransport

LAG = 5
PRICE = 2
ASK = {"question": "What is it?", "cost": 0.5}


@pytest.fixture
def acme(sandbox: Sandbox, clock: HandClock) -> Vendor:
    """Give the sandbox's Acme, with 100 dollars in its account."""
    del clock
    return sandbox.vendor("acme")


def provider_of(acme: Vendor, key: str | None = None, **options: Any) -> HTTPBalance:
    """Give Acme as a user would describe it."""
    return HTTPBalance(
        f"{acme.url}/v1/balance",
        left="wallet.left",
        unit="USD",
        headers={"authorization": f"Bearer {key or acme.key}"},
        base_url=acme.url,
        prices={("POST", "/v1/answers"): PRICE},
        cost="usage.cost",
        exhausted={403: "fault.code = WALLET_EMPTY"},
        busy={429: "fault.code = SLOW_DOWN"},
        key_limit={401: "fault.code = KEY_SPENT"},
        lag=LAG,
        **options,
    )


class Caller:
    """A program that asks Acme over a guarded client."""

    def __init__(self, acme: Vendor, key: str | None = None, **options: Any) -> None:
        self.guard = Guard(provider_of(acme, key, **options))
        self._client = httpx.Client(
            transport=GuardTransport(self.guard),
            base_url=acme.url,
            headers={"authorization": f"Bearer {key or acme.key}"},
            timeout=10,
        )

    def ask(self, **changes: Any) -> int:
        """One question; gives the status of the reply."""
        return self._client.post("/v1/answers", json=ASK | changes).status_code

    def close(self) -> None:
        """Close the client."""
        self._client.close()


@pytest.fixture
def caller(acme: Vendor, clock: HandClock) -> Iterator[Caller]:
    """Give a program that knows of its 100 dollars."""
    caller = Caller(acme)
    assert caller.guard.balance().unit == "USD"
    clock.advance(1)
    yield caller
    caller.close()


def test_a_call_is_settled_at_what_it_cost(acme: Vendor, caller: Caller) -> None:
    """Which its reply says; two dollars were held."""
    assert caller.ask() == 200
    assert caller.guard.available == Decimal("99.5")
    assert acme.account.balance == Decimal("99.5")


def test_forty_calls_against_an_empty_account(
    acme: Vendor, caller: Caller, clock: HandClock
) -> None:
    """One of them reaches the vendor, whose balance goes on saying 100, and none after it."""
    acme.refuse_with = "exhausted"
    statuses = [caller.ask()]
    for _ in range(39):
        statuses.append(caller.ask())
        clock.advance(0.1)
    assert statuses[0] == 403
    assert set(statuses[1:]) == {402}
    assert acme.requests.arrived == 1
    acme.refuse_with = None
    # What is requested a lag later is believed.
    clock.advance(LAG + 1)
    assert caller.ask() == 200


def test_a_busy_vendor_is_left_alone_for_as_long_as_it_says(
    acme: Vendor, caller: Caller, clock: HandClock
) -> None:
    """The balance is untouched, and the next call gets in afterwards."""
    acme.refuse_with, acme.retry_after = "busy", 7
    assert caller.ask() == 429
    acme.refuse_with = None
    assert [caller.ask() for _ in range(5)] == [402] * 5
    assert acme.requests.arrived == 1
    assert caller.guard.available == 100
    clock.advance(7.1)
    assert caller.ask() == 200


def test_a_keys_own_limit_stops_that_key(acme: Vendor, clock: HandClock) -> None:
    """The account's other keys go on."""
    one, other = (Caller(acme, key, account="ours") for key in (acme.key, acme.other_key))
    one.guard.balance()
    clock.advance(1)
    acme.refuse_with = "key_limit"
    assert [one.ask() for _ in range(3)] == [401, 402, 402]
    assert [other.ask() for _ in range(3)] == [200] * 3
    assert one.guard.available == other.guard.available == Decimal("98.5")
    one.close()
    other.close()


def test_any_other_refusal_changes_nothing(acme: Vendor, caller: Caller) -> None:
    """As where the request is wrong: nothing was spent, and the next call goes on."""
    assert [caller.ask(cost="none") for _ in range(3)] == [400] * 3
    assert caller.guard.available == 100
    assert caller.ask() == 200


def test_a_vendor_in_five_lines(acme: Vendor) -> None:
    """With the default base URL, which is where the balance is, and the default refusal, a 402."""
    headers = {"authorization": f"Bearer {acme.key}"}
    prices = {("POST", "/acme/v1/answers"): PRICE}
    url = f"{acme.url}/v1/balance"
    guard = Guard(HTTPBalance(url, left="wallet.left", unit="USD", headers=headers, prices=prices))
    with httpx.Client(transport=GuardTransport(guard), headers=headers, timeout=10) as client:
        assert client.post(f"{acme.url}/v1/answers", json=ASK).status_code == 200
    # Nothing says where the reply has the cost: it is what was held.
    assert guard.available == 98


def test_the_balance_may_need_another_key_than_the_calls(acme: Vendor) -> None:
    """The transport sends neither: the client has its own."""
    guard = Guard(provider_of(acme, acme.other_key))
    with httpx.Client(transport=GuardTransport(guard), base_url=acme.url, timeout=10) as client:
        assert client.post("/v1/answers", json=ASK).status_code == 401
        client.headers["authorization"] = f"Bearer {acme.key}"
        assert client.post("/v1/answers", json=ASK).status_code == 200
