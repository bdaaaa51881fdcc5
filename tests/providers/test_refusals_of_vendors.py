"""Every built-in vendor refuses calls, each in its own way: what a guarded transport makes of it."""

import logging
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from budgetguard import Guard, InsufficientCredits
from budgetguard.providers.registry import VENDORS
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import GuardTransport

CALLS = 40
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 7}


class Spending(NamedTuple):
    """One request that costs credits; `base` is what the provider's base URL has after the vendor's.

    `options` are arguments that the provider needs besides.
    """

    path: str
    body: dict[str, Any]
    base: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


SPENDING = {
    "browseruse": Spending("/api/v4/runs", {"task": "Find it"}),
    "firecrawl": Spending("/v2/scrape", {"url": "https://example.com"}),
    "openrouter": Spending("/chat/completions", {"model": "sandbox/parrot", **CHAT}),
    "deepseek": Spending("/chat/completions", {"model": "deepseek-flash", **CHAT}),
    "moonshot": Spending(
        "/v1/chat/completions", {"model": "kimi-k3", **CHAT}, options={"currency": "USD"}
    ),
    "tavily": Spending("/search", {"query": "Hello"}),
    "elevenlabs": Spending("/v1/text-to-speech/voice", {"text": "Hello"}),
}
# The status of our own refusals, where it is not 402.
OURS = {"tavily": 432}
# The two whose APIs are at the sandbox's root answer with these statuses.
AT_ROOT = {
    "predev": (Spending("/fast-spec", {"input": "A shop"}), (402,)),
    "anchorbrowser": (Spending("/v1/sessions", {}), (402, 403)),
}


def kinds(name: str) -> list[str]:
    """What the sandbox's vendor can refuse with."""
    return list(Sandbox().vendor(name).refusals())


def cases(kind: str) -> list[Any]:
    """Every refusal of that kind, of every vendor below a prefix."""
    return [
        pytest.param(name, each, id=f"{name}-{each}")
        for name in SPENDING
        for each in kinds(name)
        if each.startswith(kind)
    ]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Accounts of 100, whatever their unit is."""
    with Sandbox(100) as sandbox:
        yield sandbox


def guarded(sandbox: Sandbox, name: str, key: str | None = None) -> tuple[Guard, httpx.Client]:
    """A guard of a vendor's account, and a client that goes by it; with a balance."""
    vendor, spending = sandbox.vendor(name), SPENDING[name]
    base_url = vendor.url + spending.base
    provider: Any = VENDORS[name].make(
        key or vendor.key, base_url=base_url, account="the one", **spending.options
    )
    guard = Guard(provider)
    guard.balance()
    headers = {vendor.key_header: vendor.key_prefix + (key or vendor.key)}
    client = httpx.Client(transport=GuardTransport(guard), base_url=base_url, headers=headers)
    return guard, client


def post(client: httpx.Client, name: str) -> httpx.Response:
    """The vendor's spending request."""
    return client.post(SPENDING[name].path, json=SPENDING[name].body)


def test_every_vendor_is_tried() -> None:
    """Also one that is built in later."""
    assert SPENDING.keys() | AT_ROOT.keys() == VENDORS.keys()


@pytest.mark.parametrize(("name", "kind"), cases("exhausted"))
def test_of_forty_calls_one_reaches_an_empty_account(
    name: str, kind: str, sandbox: Sandbox, clock: HandClock
) -> None:
    """Whatever it answers, and although its balance endpoint goes on saying 100 within `lag`."""
    vendor = sandbox.vendor(name)
    guard, client = guarded(sandbox, name)
    vendor.refuse_with = kind
    step = guard.provider.lag * 0.9 / CALLS
    with client:
        answers = []
        for _ in range(CALLS):
            answers.append(post(client, name).status_code)
            clock.advance(step)
    assert vendor.requests.arrived == 1
    assert answers == [vendor.refusals()[kind].status] + [OURS.get(name, 402)] * (CALLS - 1)
    assert guard.balance(max_age=0).credits == 0


@pytest.mark.parametrize("name", AT_ROOT)
def test_of_forty_calls_one_reaches_an_empty_account_at_the_root(
    name: str, sandbox: Sandbox, clock: HandClock
) -> None:
    """The same for the two vendors that were there first, for each of their statuses."""
    spending, statuses = AT_ROOT[name]
    key = sandbox.predev_key if name == "predev" else sandbox.anchor_key
    for status in statuses:
        sandbox.fault(spending.path, status=status)
        guard = Guard(VENDORS[name].make(key, base_url=sandbox.url, account=str(status)))
        guard.balance()
        before = sandbox.requests["POST", spending.path]
        transport = GuardTransport(guard)
        with httpx.Client(transport=transport, base_url=sandbox.url) as client:
            for _ in range(CALLS):
                client.post(spending.path, json=spending.body)
                clock.advance(guard.provider.lag * 0.9 / CALLS)
        assert sandbox.requests["POST", spending.path] - before == 1
        sandbox.clear_faults()


@pytest.mark.parametrize("name", SPENDING)
def test_no_log_shows_a_key(
    name: str, sandbox: Sandbox, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With every logger at DEBUG, whether a call is carried out, refused by the vendor or by the guard."""
    del clock
    caplog.set_level(logging.DEBUG)
    vendor = sandbox.vendor(name)
    guard, client = guarded(sandbox, name)
    vendor.refuse_with = None
    with client:
        assert post(client, name).is_success
        vendor.refuse_with = "exhausted"
        bodies = [post(client, name).text for _ in range(2)]
    with pytest.raises(InsufficientCredits) as caught:
        guard.acquire(1000)
    shown = [repr(guard.provider), *bodies, str(caught.value), repr(vars(caught.value))]
    # The client's own loggers show the headers of its requests at DEBUG only masked, or not at all.
    assert vendor.key not in "".join([*shown, caplog.text])
    assert vendor.key.encode() not in pickle.dumps(caught.value)


@pytest.mark.parametrize(("name", "kind"), cases("busy"))
def test_a_busy_vendor_is_left_alone_as_long_as_it_says(
    name: str, kind: str, sandbox: Sandbox, clock: HandClock
) -> None:
    """The next call gets in right after that, and the balance is untouched meanwhile."""
    vendor = sandbox.vendor(name)
    vendor.retry_after = 20
    guard, client = guarded(sandbox, name)
    vendor.refuse_with = kind
    clock.advance(10)
    with client:
        assert post(client, name).status_code == vendor.refusals()[kind].status
        vendor.refuse_with = None
        clock.advance(19)
        refused = post(client, name)
        assert (refused.status_code, refused.headers["retry-after"]) == (402, "1")
        assert guard.balance().credits == 100
        assert guard.available == 100
        clock.advance(1)
        assert post(client, name).is_success
    assert vendor.requests.arrived == 2


@pytest.mark.parametrize(("name", "kind"), cases("key_limit"))
def test_a_keys_limit_stops_that_key_alone(
    name: str, kind: str, sandbox: Sandbox, clock: HandClock
) -> None:
    """Of forty calls with it one arrives; the account's other key goes on."""
    vendor = sandbox.vendor(name)
    _, first = guarded(sandbox, name)
    _, second = guarded(sandbox, name, vendor.other_key)
    vendor.refuse_with = kind
    with first, second:
        for _ in range(CALLS):
            post(first, name)
            clock.advance(0.1)
        assert vendor.requests.arrived == 1
        if kind != "key_limit":  # that one refuses one key alone
            vendor.refuse_with = None
        assert post(second, name).is_success


@pytest.mark.parametrize(("name", "kind"), cases("not_credits"))
def test_what_is_not_about_credits_changes_nothing(
    name: str, kind: str, sandbox: Sandbox, clock: HandClock
) -> None:
    """The next call is let in, and nothing is held for the refused one."""
    del clock
    vendor = sandbox.vendor(name)
    guard, client = guarded(sandbox, name)
    vendor.refuse_with = kind
    with client:
        assert post(client, name).status_code == vendor.refusals()[kind].status
        assert guard.available == 100
        vendor.refuse_with = None
        assert post(client, name).is_success
