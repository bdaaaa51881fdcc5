"""A vendor that is not built in, guarded in five lines and in thirty, over real sockets."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import ModuleType
from typing import Any

import httpx
import pytest
from pages import DOCS, blocks

from budgetguard import BalanceUnavailable, Guard, InsufficientCredits, require_credits
from budgetguard.providers import HTTPBalance, HTTPProvider
from budgetguard.testing import HandClock, check_provider
from budgetguard.testing.sandbox import Sandbox, Vendor
from budgetguard.transport import AsyncGuardTransport, GuardTransport

PAGE = DOCS / "how-to" / "your-vendor.md"
[SOURCE] = [block.text for block in blocks(PAGE) if block.words == ("acme.py",)]
LINES = 30
# The same without a class.
SHORT = """\
provider = HTTPBalance(f"{url}/v1/balance", headers={"authorization": f"Bearer {key}"}, lag=5,
    left="wallet.left", unit="USD", cost="usage.cost", prices={("POST", "/v1/answers"): 2},
    base_url=url, name="Acme", account=account, exhausted={403: "fault.code = WALLET_EMPTY"},
    busy={429: "fault.code = SLOW_DOWN"}, key_limit={401: "fault.code = KEY_SPENT"},
)
"""

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def acme() -> Iterator[Any]:
    """The module that the page tells readers to save."""
    module = ModuleType("acme_of_the_page")
    sys.modules[module.__name__] = module
    exec(SOURCE, vars(module))
    yield module
    del sys.modules[module.__name__]


@pytest.fixture(params=["thirty lines", "five lines"])
def make(request: pytest.FixtureRequest, acme: Any) -> Make:
    """Make a provider of Acme's account, by the page's class or without one."""

    def by_class(key: str, url: str, account: str | None = None) -> Any:
        return acme.Acme(key, base_url=url, account=account)

    def without(key: str, url: str, account: str | None = None) -> Any:
        names = {"HTTPBalance": HTTPBalance, "key": key, "url": url, "account": account}
        exec(SHORT, names)
        return names["provider"]

    return by_class if request.param == "thirty lines" else without


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An account of 100 dollars at Acme, whose time stands still."""
    with Sandbox(credits=100, clock="manual") as sandbox:
        yield sandbox


@pytest.fixture
def vendor(sandbox: Sandbox) -> Vendor:
    """Acme's side of it."""
    return sandbox.vendor("acme")


@pytest.fixture
def guard(make: Make, vendor: Vendor, clock: HandClock) -> Guard:
    """A guard of Acme's account, which knows of its credits."""
    del clock
    guard = Guard(make(vendor.key, vendor.url))
    guard.balance()
    return guard


def client(guard: Guard, key: str, **options: Any) -> httpx.Client:
    """Acme's client, guarded."""
    return httpx.Client(
        base_url=guard.provider.base_url,
        headers={"authorization": f"Bearer {key}"},
        transport=GuardTransport(guard, **options),
        trust_env=False,
    )


def statuses(http: httpx.Client, calls: int, **body: Any) -> Counter[int]:
    """How many calls were answered with which status."""
    replies = [http.post("/v1/answers", json={"question": "Why?", **body}) for _ in range(calls)]
    return Counter(reply.status_code for reply in replies)


def test_it_is_as_short_as_the_page_says() -> None:
    """Blank lines not counted."""
    assert len(SHORT.splitlines()) == 5
    assert len([line for line in SOURCE.splitlines() if line.strip()]) <= LINES


def test_it_passes_the_check(acme: Any) -> None:
    """As the page's own test says."""
    reply = {"wallet": {"left": 42.5, "currency": "USD"}}
    check_provider(acme.Acme, reply=reply, credits="42.5")
    assert issubclass(acme.Acme, HTTPProvider)


def test_real_costs(guard: Guard, vendor: Vendor) -> None:
    """A call holds its price, and then costs what its reply says."""
    seen: list[Any] = []

    class Watched(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(guard.available)
            return super().handle_request(request)

    with client(guard, vendor.key, transport=Watched()) as http:
        assert statuses(http, 3, cost=0.25) == {200: 3}
    assert seen == [98, Decimal("97.75"), Decimal("97.5")]
    assert guard.available == vendor.account.balance == Decimal("99.25")


@pytest.mark.anyio
async def test_real_costs_of_an_async_client(guard: Guard, vendor: Vendor) -> None:
    """By the async transport, on asyncio and trio."""
    async with httpx.AsyncClient(
        base_url=vendor.url,
        headers={"authorization": f"Bearer {vendor.key}"},
        transport=AsyncGuardTransport(guard),
        trust_env=False,
    ) as http:
        reply = await http.post("/v1/answers", json={"cost": 1.5})
    assert (reply.status_code, guard.available) == (200, Decimal("98.5"))


def test_an_answer_that_costs_more_than_its_price(guard: Guard, vendor: Vendor) -> None:
    """The money is gone, and counted."""
    with client(guard, vendor.key) as http:
        assert statuses(http, 1, cost=7) == {200: 1}
    assert guard.available == vendor.account.balance == 93


def test_no_call_without_credits_reaches_it(make: Make, vendor: Vendor, clock: HandClock) -> None:
    """What the account cannot pay is refused before it is sent, in dollars."""
    del clock
    vendor.account.spend(97)
    guard = Guard(make(vendor.key, vendor.url))
    with client(guard, vendor.key) as http:
        assert statuses(http, 10, cost=2) == {200: 1, 402: 9}
        reply = http.post("/v1/answers", json={})
    assert vendor.requests == (1, 1, 0)
    assert "needs 2 USD, and 1 USD is available" in reply.json()["error"]["message"]


def test_at_most_one_call_reaches_an_empty_account(guard: Guard, vendor: Vendor) -> None:
    """Although its balance endpoint goes on saying 100."""
    vendor.refuse_with = "exhausted"
    with client(guard, vendor.key) as http:
        assert statuses(http, 40) == {403: 1, 402: 39}
    assert vendor.requests == (1, 0, 1)
    assert vendor.account.reported == 100


def test_an_empty_account_is_tried_again_after_the_lag(
    guard: Guard, vendor: Vendor, clock: HandClock
) -> None:
    """A balance that was requested so much later counts again; a higher one counts at once."""
    vendor.refuse_with = "exhausted"
    with client(guard, vendor.key) as http:
        assert statuses(http, 3) == {403: 1, 402: 2}
        vendor.refuse_with = None
        clock.advance(guard.provider.lag)
        guard.balance(max_age=0)
        assert statuses(http, 1) == {200: 1}
        vendor.refuse_with = "exhausted"
        assert statuses(http, 3) == {403: 1, 402: 2}
        vendor.refuse_with = None
        vendor.account.top_up(50)
        clock.advance(0.001)
        guard.balance(max_age=0)
        assert statuses(http, 1) == {200: 1}


def test_a_busy_vendor_lets_the_next_call_in_when_it_says(
    guard: Guard, vendor: Vendor, clock: HandClock
) -> None:
    """As soon as Retry-After has passed, and the balance has not changed."""
    vendor.retry_after = 7
    vendor.refuse_with = "busy"
    with client(guard, vendor.key) as http:
        assert statuses(http, 40) == {429: 1, 402: 39}
        vendor.refuse_with = None
        assert guard.available == 100
        with pytest.raises(InsufficientCredits) as refused:
            guard.acquire(1)
        assert (refused.value.retryable, refused.value.retry_after) == (True, 7)
        clock.advance(6.999)
        assert statuses(http, 1) == {402: 1}
        clock.advance(0.001)
        assert statuses(http, 1) == {200: 1}
    assert vendor.requests == (2, 1, 1)


def test_a_key_limit_stops_one_key(make: Make, vendor: Vendor, clock: HandClock) -> None:
    """Another key of the same account goes on, and both spend the same credits."""
    del clock
    keys = (vendor.key, vendor.other_key)
    guards = [Guard(make(key, vendor.url, "team")) for key in keys]
    vendor.refuse_with = "key_limit"
    with client(guards[0], keys[0]) as limited, client(guards[1], keys[1]) as other:
        assert statuses(limited, 1) == {401: 1}
        assert statuses(limited, 20) == {402: 20}
        assert statuses(other, 5, cost=1) == {200: 5}
        assert statuses(limited, 1) == {402: 1}
    assert vendor.requests == (6, 5, 1)
    assert guards[0].available == guards[1].available == vendor.account.balance == 95


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_what_is_not_about_credits(
    sandbox: Sandbox, guard: Guard, vendor: Vendor, status: int
) -> None:
    """Its other errors let the next call in."""
    sandbox.fault("/acme/v1/answers", status=status, times=3)
    with client(guard, vendor.key) as http:
        assert statuses(http, 4) == {status: 3, 200: 1}
    assert vendor.requests == (4, 1, 0)


def test_the_decorator_takes_it(guard: Guard, vendor: Vendor) -> None:
    """As any other guard, in its unit."""

    @require_credits(min=60, guard=guard)
    def ask() -> str:
        return "42"

    assert ask() == "42"
    with pytest.raises(InsufficientCredits, match="needs 60 USD, and 40 USD is available"):
        ask()


@pytest.mark.parametrize(
    "wallet", [{"left": 5, "currency": "EUR"}, {"left": "many"}, {"left": None}]
)
def test_another_currency(sandbox: Sandbox, make: Make, wallet: dict[str, Any]) -> None:
    """Euros are no dollars, and nothing is admitted on what cannot be read."""
    vendor = sandbox.vendor("acme")
    sandbox.fault("/acme/v1/balance", body={"wallet": wallet})
    guard = Guard(make(vendor.key, vendor.url))
    with pytest.raises(BalanceUnavailable):
        guard.acquire(1)
