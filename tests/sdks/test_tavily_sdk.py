"""Tavily's own SDK against the sandbox: the awaiting client behind a transport, the plain one guarded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import requests
from followed import BEGUN, elapsed
from needed import need

from budgetguard import Event, Guard, InsufficientCredits, set_active
from budgetguard.providers import ElevenLabs, Tavily
from budgetguard.providers.billing import Unpriced
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import AsyncGuardTransport

need("tavily")
from tavily import (  # noqa: E402
    AsyncTavilyClient,
    BadRequestError,
    InvalidAPIKeyError,
    TavilyClient,
)
from tavily.errors import ForbiddenError, UsageLimitExceededError  # noqa: E402

from budgetguard.integrations.tavily import guarded  # noqa: E402

URLS = [f"https://example.com/{at}" for at in range(20)]
RESULT = ("GET", "/tavily/research/{id}")


class Account:
    """The sandbox's account, its guard, and what becomes of the holds."""

    def __init__(self, sandbox: Sandbox, clock: HandClock) -> None:
        clock.set_wall(BEGUN)
        self.sandbox = sandbox
        self.vendor: Any = sandbox.vendor("tavily")
        self.ends: list[tuple[str, Any]] = []
        self.held: list[Any] = []
        provider = Tavily(self.vendor.key, base_url=self.vendor.url)
        self.guard = Guard(provider, on_event=self._note)
        self.guard.balance()
        self._elapse = elapsed(clock, self.guard)

    def _note(self, event: Event) -> None:
        if event.kind in {"settled", "released", "kept", "exhausted"}:
            self.ends.append((event.kind, event.credits))
        if event.kind == "admitted":
            self.held.append(event.credits)

    def elapse(self, seconds: float) -> None:
        """Let it pass, at the provider first."""
        self._elapse(self.sandbox, seconds)

    def leave(self, credits: int) -> None:
        """Let somebody else spend all but these, as the guard knows."""
        self.vendor.account.spend(self.vendor.account.balance - credits)
        self.elapse(1)
        self.guard.balance(max_age=0)

    def plain(self, key: str | None = None) -> TavilyClient:
        """The SDK's plain client."""
        return TavilyClient(key or self.vendor.key, api_base_url=self.vendor.url)


@pytest.fixture
def account(open_sandbox: Callable[..., Sandbox], clock: HandClock) -> Account:
    """Give one with 300 credits."""
    return Account(open_sandbox(300), clock)


@pytest.fixture
async def awaiting(account: Account, anyio_backend: str) -> AsyncIterator[AsyncTavilyClient]:
    """Give the awaiting client, behind a transport."""
    del anyio_backend
    transport = AsyncGuardTransport(account.guard)
    url = account.vendor.url
    async with httpx.AsyncClient(base_url=url, transport=transport) as http:
        yield AsyncTavilyClient(account.vendor.key, client=http)


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], int, int]] = [
    ("search", ("x",), {}, 1, 1),
    ("search", ("x",), {"search_depth": "advanced"}, 2, 2),
    ("search", ("x",), {"include_usage": True}, 1, 1),
    ("extract", (URLS[:6],), {"include_usage": True}, 2, 1),
    ("extract", (URLS[:4],), {}, 1, 1),
    ("extract", ("https://no.invalid",), {}, 1, 0),
    ("map", ("x",), {"include_usage": True}, 5, 0),
    ("map", ("x",), {}, 5, 1),
    ("crawl", ("x",), {"limit": 5, "include_usage": True}, 2, 1),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "args", "options", "held", "cost"), CALLS)
async def test_the_awaiting_client(
    account: Account,
    awaiting: AsyncTavilyClient,
    name: str,
    args: Any,
    options: Any,
    held: int,
    cost: int,
) -> None:
    """Each call is held at the most that it can cost, and settled at the credits of its reply."""
    await getattr(awaiting, name)(*args, **options)
    assert (account.held, account.ends) == ([held], [("settled", cost)])


@pytest.mark.parametrize(("name", "args", "options", "held", "cost"), CALLS)
def test_the_plain_client(
    account: Account, name: str, args: Any, options: Any, held: int, cost: int
) -> None:
    """The same through `guarded()`, which knows the request by the method's arguments."""
    getattr(guarded(account.plain(), account.guard), name)(*args, **options)
    assert (account.held, account.ends) == ([held], [("settled", cost)])


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_the_deprecated_methods_are_searches(
    account: Account, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the depth that each has by default; one fails after the search, which is paid nevertheless."""
    client = guarded(account.plain(), account.guard)
    client.qna_search("x")
    assert account.ends == [("settled", 2)]
    # The method downloads a tokenizer, here from where nobody answers.
    load = "tiktoken_ext.openai_public.load_tiktoken_bpe"
    monkeypatch.setattr(load, lambda *_, **__: requests.get(nobody, timeout=9))
    with pytest.raises(requests.ConnectionError):
        client.get_search_context("x")
    assert [end for end, _ in account.ends] == ["settled", "kept"]


@pytest.mark.anyio
async def test_our_refusal_of_the_awaiting_client(
    account: Account, awaiting: AsyncTavilyClient
) -> None:
    """A ForbiddenError that shows our sentence, as for the vendor's own limit."""
    account.leave(1)
    with pytest.raises(ForbiddenError, match="needs 2 credits, and 1 is available"):
        await awaiting.search("x", search_depth="advanced")
    with pytest.raises(BadRequestError, match="largest cost with this limit"):
        await awaiting.map("x", limit=-1)
    assert account.vendor.requests.arrived == 0


@pytest.mark.anyio
async def test_an_unknown_balance_of_the_awaiting_client(
    account: Account, awaiting: AsyncTavilyClient
) -> None:
    """The SDK has no class for it, and shows the status alone: the sentence is in the reply."""
    account.sandbox.fault("/tavily/usage", body={})
    account.elapse(1000)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await awaiting.search("x")
    assert (
        "key is missing from the provider's reply"
        in caught.value.response.json()["detail"]["error"]
    )
    assert account.vendor.requests.arrived == 0


def test_our_refusal_of_the_plain_client(account: Account) -> None:
    """The guard's own errors, as no request was made."""
    account.leave(1)
    client = guarded(account.plain(), account.guard)
    with pytest.raises(InsufficientCredits, match=r"TavilyClient\.search needs 2 credits"):
        client.search("x", search_depth="advanced")
    with pytest.raises(Unpriced, match="largest cost with this limit"):
        client.map("x", limit=-1)
    assert account.vendor.requests.arrived == 0


REFUSALS: list[tuple[str, type[Exception], int]] = [
    ("exhausted", ForbiddenError, 1),
    ("exhausted_paygo", ForbiddenError, 1),
    ("key_limit", ForbiddenError, 1),
    ("not_credits_rate", UsageLimitExceededError, 3),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "error", "sent"), REFUSALS)
async def test_the_vendors_refusals_of_the_awaiting_client(
    account: Account, awaiting: AsyncTavilyClient, kind: str, error: type[Exception], sent: int
) -> None:
    """A limit stops the account or the key; a rate limit does not."""
    account.vendor.refuse_with = kind
    for _ in range(3):
        with pytest.raises(error):
            await awaiting.search("x")
    assert account.vendor.requests == (sent, 0, sent)


@pytest.mark.parametrize(("kind", "error", "sent"), REFUSALS)
def test_the_vendors_refusals_of_the_plain_client(
    account: Account, kind: str, error: type[Exception], sent: int
) -> None:
    """The same, by the class and the text of the SDK's error; nothing is left held."""
    account.vendor.refuse_with = kind
    client = guarded(account.plain(), account.guard)
    for at in range(3):
        with pytest.raises(error if at < sent else InsufficientCredits):
            client.search("x")
    assert account.vendor.requests == (sent, 0, sent)
    assert [end for end, _ in account.ends if end != "exhausted"] == ["released"] * sent


@pytest.mark.parametrize(
    ("fault", "error", "end"),
    [
        ({"status": 500}, requests.HTTPError, "kept"),
        ({"status": 400}, BadRequestError, "released"),
        ({"status": 404}, requests.HTTPError, "released"),
        ({"status": 403, "body": {"detail": {"error": "no"}}}, ForbiddenError, "released"),
        ({"status": 201, "body": {}}, TypeError, "kept"),
    ],
)
def test_failures_of_the_plain_client(
    account: Account, fault: Any, error: type[Exception], end: str
) -> None:
    """What was refused cost nothing, of anything else that is not known."""
    account.sandbox.fault("/tavily/search", **fault)
    with pytest.raises(error):
        guarded(account.plain(), account.guard).search("x")
    assert account.ends[0][0] == end


def test_a_wrong_key_of_the_plain_client(account: Account) -> None:
    """It costs nothing."""
    with pytest.raises(InvalidAPIKeyError):
        guarded(account.plain("wrong"), account.guard).search("x")
    assert account.ends == [("released", 1)]


def test_a_402_of_the_plain_client(account: Account) -> None:
    """It is not documented, and lack of credits if it comes."""
    account.sandbox.fault("/tavily/search", status=402)
    with pytest.raises(requests.HTTPError):
        guarded(account.plain(), account.guard).search("x")
    assert {end for end, _ in account.ends} == {"exhausted", "released"}


def test_nobody_answers_the_plain_client(account: Account, nobody: str) -> None:
    """Nothing was sent."""
    with pytest.raises(requests.ConnectionError):
        guarded(TavilyClient("key", api_base_url=nobody), account.guard).search("x")
    assert account.ends == [("released", 1)]


@pytest.mark.anyio
async def test_research_of_the_awaiting_client(
    account: Account, awaiting: AsyncTavilyClient
) -> None:
    """Held at the most of its model until its result is there, and settled at its credits."""
    task: Any = await awaiting.research("x", model="mini")
    assert account.guard.available == 300 - 110
    waiting = await awaiting.get_research(task["request_id"], include_usage=True)
    assert waiting["status"] == "in_progress"
    account.sandbox.advance(60)
    done = await awaiting.get_research(task["request_id"], include_usage=True)
    assert done["usage"] == {"credits": 20}
    assert account.ends == [("settled", 20)]
    assert account.guard.available == account.vendor.account.balance == 280


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_research_that_nobody_polls(account: Account, awaiting: AsyncTavilyClient) -> None:
    """The library asks for its result and for its credits."""
    await awaiting.research("x", model="pro")
    await asyncio.to_thread(account.elapse, 240)
    assert account.ends == [("settled", 80)]
    assert 1 <= account.sandbox.requests[RESULT] <= 4


def test_research_of_the_plain_client(account: Account) -> None:
    """By the results that the program asks for, with or without their credits."""
    client = guarded(account.plain(), account.guard)
    for usage, cost in ((True, 20), (None, 110)):
        account.ends.clear()
        task: Any = client.research("x", model="mini")
        assert client.get_research(task["request_id"], usage)["status"] == "in_progress"
        account.sandbox.advance(60)
        assert account.ends == []
        client.get_research(task["request_id"], usage)
        client.get_research(task["request_id"], usage)
        assert account.ends == [("settled", cost)]


def test_research_of_the_plain_client_that_nobody_polls(account: Account) -> None:
    """The library asks; unless it is told not to."""
    guarded(account.plain(), account.guard).research("x", model="mini")
    account.elapse(240)
    assert account.ends == [("settled", 20)]
    before = account.sandbox.requests[RESULT]
    client = guarded(account.plain(), account.guard, follow=False)
    client.research("x", model="mini")
    account.elapse(240)
    assert account.sandbox.requests[RESULT] == before
    del client
    # A hold that was dropped is booked by whoever uses the guard next.
    assert account.guard.available is not None
    assert [end for end, _ in account.ends] == ["settled", "kept"]


def test_what_follows_research_is_not_inside_it(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    """Its hold is open while other calls are made, which are not held twice."""
    caplog.set_level("DEBUG", logger="budgetguard")
    client = guarded(account.plain(), account.guard)
    client.research("x", model="mini")
    client.search("x")
    assert "held twice" not in caplog.text


def test_research_that_fails(account: Account) -> None:
    """What it cost is unknown, and remains counted until a balance shows it."""
    client = guarded(account.plain(), account.guard)
    task: Any = client.research("x", model="mini")
    account.vendor.account.spend(299)
    account.sandbox.advance(60)
    assert client.get_research(task["request_id"])["status"] == "failed"
    assert [end for end, _ in account.ends] == ["kept"]


def test_a_stream_of_research(account: Account) -> None:
    """Held until it ends; the sandbox answers with one part."""
    client = guarded(account.plain(), account.guard)
    stream: Any = client.research("x", model="mini", stream=True)
    assert account.guard.available == 190
    assert b"pending" in b"".join(stream)
    assert account.ends == [("settled", 110)]


def test_costs_of_ones_own(account: Account) -> None:
    """They override ours, and name further methods."""
    costs: dict[str, Any] = {
        "search": {"min": 7, "actual": lambda reply: len(reply["results"]) / 2},
        "feedback": 3,
    }
    client = guarded(account.plain(), account.guard, costs=costs)
    client.search("x")
    account.sandbox.fault("/tavily/feedback", status=200, body={})
    client.feedback(request_id="r")
    assert [float(credits) for _, credits in account.ends] == [0.5, 3]
    with pytest.raises(AttributeError, match="serch"):
        guarded(account.plain(), account.guard, costs={"serch": 1})


def test_switched_off(account: Account) -> None:
    """The calls are those of the client itself."""
    client = guarded(account.plain(), account.guard)
    set_active(False)
    task: Any = client.research("x", model="mini")
    client.search("x")
    set_active(True)
    account.sandbox.advance(60)
    client.get_research(task["request_id"])
    assert account.ends == []


def test_what_cannot_be_guarded(account: Account) -> None:
    """Another client, one that is guarded already, and a guard of another vendor."""
    client: Any = account.plain()
    with pytest.raises(TypeError, match=r"takes client=httpx\.AsyncClient"):
        guarded(AsyncTavilyClient("key"), account.guard)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="already guarded"):
        guarded(guarded(client, account.guard), account.guard)
    with pytest.raises(TypeError, match="ElevenLabs"):
        guarded(client, Guard(ElevenLabs("sk_not_a_real_key")))
    with pytest.raises(TypeError, match="follow takes True or False"):
        guarded(client, account.guard, follow="no")  # type: ignore[arg-type]
    guarded(client, Guard(FakeProvider(1)))
