"""Firecrawl's SDK behind `guarded()`, against the sandbox: what is held, sent and settled."""

import copy
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

import anyio
import httpx
import pytest
from accounts import Elapse, OpenSandbox, Outcomes
from followed import elapsed
from needed import need

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard._core.activation import ACTIVATION
from budgetguard._engine.binding import binding_of
from budgetguard.providers import Firecrawl
from budgetguard.providers.billing import Unpriced
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.testing.sandbox.vendors.firecrawl import Firecrawl as Account
from budgetguard.transport import GuardTransport

need("firecrawl")
import firecrawl  # noqa: E402
import requests  # noqa: E402
from firecrawl.v2 import FirecrawlClient  # noqa: E402
from firecrawl.v2.client_async import AsyncFirecrawlClient  # noqa: E402
from firecrawl.v2.types import PDFParser  # noqa: E402
from firecrawl.v2.utils.error_handler import (  # noqa: E402
    FirecrawlError,
    PaymentRequiredError,
    RateLimitError,
    handle_response_error,
)

from budgetguard.integrations.firecrawl import guarded  # noqa: E402

SITE = "https://example.com"
CRAWL = ("POST", "/v2/crawl")
JSON = {"type": "json", "prompt": "The price"}
CLEAR = Firecrawl.linger + Firecrawl.lag


class Scene(NamedTuple):
    """An account in the sandbox, a guard of it, what is heard, and the guarded client."""

    sandbox: Sandbox
    account: Account
    guard: Guard
    outcomes: Outcomes
    sdk: Any


Begin = Callable[..., Scene]


@pytest.fixture
def begin(open_sandbox: OpenSandbox) -> Begin:
    """Open a sandbox; give it with the rest of the scene. `kind` is the SDK's client."""

    def begin(
        credits: float = 100,
        kind: Any = firecrawl.Firecrawl,
        options: dict[str, Any] | None = None,
        clock: str = "manual",
        **more: Any,
    ) -> Scene:
        given: dict[str, Any] = {"speed": 1e6} if clock == "real" else {}
        sandbox = open_sandbox(credits, clock=clock, **given)
        account = sandbox.vendor("firecrawl")
        assert isinstance(account, Account)
        # At the root, because the sync client drops the path.
        guard = Guard(
            Firecrawl(account.key, base_url=sandbox.url), on_event=(outcomes := Outcomes())
        )
        client = kind(account.key, api_url=sandbox.url, backoff_factor=0, **options or {})
        return Scene(sandbox, account, guard, outcomes, guarded(client, guard, **more))

    return begin


def running(guard: Guard) -> int:
    """How many holds are open."""
    account = binding_of(guard).account
    account.flush()
    return account.ledger.running


def test_every_page_is_settled_at_its_real_cost(begin: Begin, elapse: Elapse) -> None:
    """Scrapes and searches say what they cost; a map costs its price. Nothing is held longer."""
    sandbox, account, guard, outcomes, sdk = begin(200)
    page = sdk.scrape(f"{SITE}/a.pdf", formats=["markdown", JSON])
    assert page.metadata.credits_used == 7
    sdk.scrape(SITE)
    sdk.map(SITE)
    assert len(sdk.search("shops", limit=3, scrape_options={"formats": ["markdown"]}).web) == 3
    assert outcomes.settled_at == [7, 1, 1, 5]
    assert running(guard) == 0
    assert account.account.charged == 14
    assert guard.available == 186
    elapse(sandbox, CLEAR)
    assert guard.balance(max_age=0).credits == 186 == guard.available


@pytest.mark.anyio
async def test_the_async_client(begin: Begin) -> None:
    """The same for the client that uses httpx, which runs on both loops while it does not wait."""
    scene = begin(200, firecrawl.AsyncFirecrawl)
    page = await scene.sdk.scrape(f"{SITE}/a.pdf", formats=["markdown", JSON])
    assert page.metadata.credits_used == 7
    await scene.sdk.map(SITE)
    assert (await scene.sdk.get_credit_usage()).remaining_credits == 192
    assert scene.outcomes.settled_at == [7, 1]
    assert running(scene.guard) == 0
    assert scene.guard.available == 192


def test_what_the_credits_do_not_cover_is_not_sent(begin: Begin) -> None:
    """A crawl without a limit needs credits for 10,000 pages, whatever the site has."""
    scene = begin(100)
    with pytest.raises(
        InsufficientCredits, match=r"^POST /v2/crawl needs 10000 credits"
    ) as refused:
        scene.sdk.crawl(SITE)
    assert refused.value.needed == 10_000
    scene.account.account.spend(100)
    scene.guard.balance(max_age=0)
    with pytest.raises(InsufficientCredits, match=r"^POST /v2/scrape needs 1 credit"):
        scene.sdk.scrape(SITE)
    assert scene.account.requests == (0, 0, 0)


@pytest.mark.anyio
async def test_the_async_client_does_not_send_it_either(begin: Begin) -> None:
    """The refusal is the guard's own error, not one of the SDK's."""
    scene = begin(0, firecrawl.AsyncFirecrawl)
    with pytest.raises(InsufficientCredits, match=r"^POST /v2/search needs 2 credits"):
        await scene.sdk.search("shops")
    assert scene.account.requests == (0, 0, 0)


def test_a_crawl_that_the_program_polls(begin: Begin) -> None:
    """Each of its replies moves what was charged out of the hold, and the last one settles it."""
    sandbox, account, guard, outcomes, sdk = begin(100)
    crawl = sdk.start_crawl(SITE, limit=20)
    assert guard.available == 80
    # The first is 2 s after the submission, and each page takes as long.
    for page in (1, 2):
        sandbox.advance(account.page_seconds)
        assert sdk.get_crawl_status(crawl.id).completed == page
        assert guard.available == 80
    assert outcomes.kinds == []
    sandbox.advance(60)
    assert sdk.get_crawl_status(crawl.id).credits_used == 12
    assert outcomes.settled_at == [12]
    assert guard.available == 88 == account.account.balance


def test_a_crawl_and_a_batch_that_are_waited_for(begin: Begin) -> None:
    """The methods that wait poll by themselves: their jobs are settled when they return."""
    _, account, guard, outcomes, sdk = begin(100, clock="real")
    assert len(sdk.crawl(SITE, limit=20, poll_interval=0).data) == 12
    batch = sdk.batch_scrape([SITE, f"{SITE}/a"], formats=[JSON], poll_interval=0)
    assert batch.credits_used == 10
    assert outcomes.settled_at == [12, 10]
    assert running(guard) == 0
    assert guard.available == 78 == account.account.balance


def test_a_crawl_that_nobody_polls_is_followed(begin: Begin, clock: HandClock) -> None:
    """The library asks for its status, and is sent no pages but one."""
    clock.set_wall(1_793_491_200)
    sandbox, account, guard, outcomes, sdk = begin(100)
    sdk.start_crawl(SITE, limit=20)
    elapsed(clock, guard)(sandbox, 120)
    assert outcomes.settled_at == [12]
    assert guard.available == 88
    assert sandbox.requests["GET", "/v2/crawl/{id}"] >= 1
    assert account.requests == (1, 1, 0)


def test_without_following_a_crawl_is_kept(begin: Begin, clock: HandClock) -> None:
    """Nobody asks, so nothing says when it is over."""
    sandbox, _, guard, outcomes, sdk = begin(100, follow=False)
    sdk.start_crawl(SITE, limit=20)
    elapsed(clock, guard)(sandbox, 120)
    assert outcomes.kinds == ["kept"]
    assert guard.available == 80
    assert sandbox.requests["GET", "/v2/crawl/{id}"] == 0


def test_what_is_held_is_sent_as_the_limit(begin: Begin) -> None:
    """With `send_cap`, a crawl gets as many pages as were held, and a PDF too."""
    prices: Any = {
        **Firecrawl.prices,
        CRAWL: {"min": 12},
        ("POST", "/v2/scrape"): 2,
    }
    scene = begin(12, send_cap=True, prices=prices)
    crawl = scene.sdk.start_crawl(SITE, scrape_options={"formats": ["markdown", JSON]})
    assert scene.sdk.get_crawl_status(crawl.id).total == 2
    page = begin(12, send_cap=True, prices=prices).sdk.scrape(f"{SITE}/a.pdf")
    assert page.metadata.credits_used == 2


def test_without_a_cap_the_request_is_the_programs_own(begin: Begin) -> None:
    """The limit is what the program said, and the cost may exceed what is held."""
    scene = begin(100, prices={CRAWL: 5})
    crawl = scene.sdk.start_crawl(SITE, limit=7)
    assert scene.sdk.get_crawl_status(crawl.id).total == 7


def test_prices_are_those_of_the_guards_provider(begin: Begin) -> None:
    """Or those that are given; a request without a price is not held."""
    scene = begin(100, prices={CRAWL: 5})
    scene.sdk.scrape(SITE)
    assert scene.outcomes.kinds == []

    class Dearer(Firecrawl):
        prices: ClassVar = {("POST", "/v2/scrape"): 50}

    provider = Dearer(scene.account.key, base_url=scene.sandbox.url)
    client = firecrawl.Firecrawl(scene.account.key, api_url=scene.sandbox.url)
    guard = Guard(provider, floor=60)
    with pytest.raises(InsufficientCredits, match="needs 50 credits"):
        guarded(client, guard).scrape(SITE)


def test_what_has_no_upper_bound_is_not_sent(begin: Begin) -> None:
    """An extraction needs a price; the one method that hides errors has it as the cause of its own."""
    scene = begin(100)
    with (
        pytest.warns(DeprecationWarning, match="maintenance mode"),
        pytest.raises(Unpriced, match="the largest cost of an extraction"),
    ):
        scene.sdk.start_extract([SITE], prompt="The price")
    with pytest.raises(Unpriced, match="a monitor"):
        scene.sdk.update_monitor("m1", name="Shops")
    with pytest.raises(FirecrawlError, match="a scrape with alexandria") as refused:
        scene.sdk.scrape_alexandria({"provider": "a", "capability": "b"})
    assert isinstance(refused.value.__cause__, Unpriced)
    assert sum(scene.sandbox.requests.values()) == 0


@pytest.mark.parametrize("fault", [{"reset": True}, {"status": 502}, {"status": 504}])
def test_a_lost_reply_is_no_second_request(fault: dict[str, Any], begin: Begin) -> None:
    """The SDK would send it three times; the guard has it sent once, and keeps its credits."""
    scene = begin(100, options={"max_retries": 3})
    scene.sandbox.fault("/v2/crawl", **fault)
    with pytest.raises((requests.ConnectionError, FirecrawlError)):
        scene.sdk.start_crawl(SITE, limit=30)
    assert scene.account.requests.arrived == 1
    assert scene.outcomes.kinds == ["kept"]
    assert scene.guard.available == 70


@pytest.mark.anyio
# httpx leaves a generator of its own to trio where a request is not read to its end.
@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
@pytest.mark.parametrize("fault", [{"reset": True}, {"status": 502}])
async def test_neither_is_it_for_the_async_client(fault: dict[str, Any], begin: Begin) -> None:
    """Its errors are those of httpx, as without a guard."""
    scene = begin(100, firecrawl.AsyncFirecrawl, options={"max_retries": 3})
    scene.sandbox.fault("/v2/crawl", **fault)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, FirecrawlError)):
        await scene.sdk.start_crawl(SITE, limit=30)
    assert scene.account.requests.arrived == 1
    assert scene.outcomes.kinds == ["kept"]


def test_a_url_with_a_path(open_sandbox: OpenSandbox) -> None:
    """The sync client drops it and the async one keeps it: what each sends is guarded, and sent once."""
    sandbox = open_sandbox(100)
    account = sandbox.vendor("firecrawl")
    sandbox.fault("*/v2/crawl", status=502)
    provider = Firecrawl(account.key, base_url=account.url)
    guard = Guard(provider, on_event=(outcomes := Outcomes()))
    sync: Any = firecrawl.Firecrawl(account.key, api_url=account.url, backoff_factor=0)
    with pytest.raises(FirecrawlError):
        guarded(sync, guard).start_crawl(SITE, limit=20)
    assert account.requests.arrived == sandbox.requests[CRAWL] == 1

    async def main() -> None:
        client: Any = firecrawl.AsyncFirecrawl(account.key, api_url=account.url, backoff_factor=0)
        with pytest.raises(FirecrawlError):
            await guarded(client, guard).start_crawl(SITE, limit=30)
        await client.v2.async_http_client.close()

    anyio.run(main)
    assert account.requests.arrived == 2
    assert outcomes.kinds == ["kept", "kept"]


def test_requests_without_a_price_are_sent_again(begin: Begin) -> None:
    """The SDK's own retries of a status request stay."""
    scene = begin(100)
    crawl = scene.sdk.start_crawl(SITE, limit=2)
    scene.sandbox.fault("/v2/crawl/*", status=502, times=2)
    assert scene.sdk.get_crawl_status(crawl.id).status == "scraping"
    assert scene.sandbox.requests["GET", "/v2/crawl/{id}"] == 3


def test_a_time_out_of_the_sdk(begin: Begin) -> None:
    """It is the SDK's own error, and the outcome is unknown."""
    scene = begin(100, options={"timeout": 0.2})
    scene.guard.balance()
    scene.sandbox.fault("/v2/scrape", hang=True)
    with pytest.raises(requests.ReadTimeout):
        scene.sdk.scrape(SITE)
    assert scene.outcomes.kinds == ["kept"]


def test_nobody_there(nobody: str, clock: HandClock) -> None:
    """Nothing was sent, so nothing is held; the error is that of the SDK's HTTP client."""
    del clock
    guard = Guard(FakeProvider(10), on_event=(outcomes := Outcomes()))
    sdk: Any = firecrawl.Firecrawl("fc-not_a_real_key", api_url=nobody, backoff_factor=0)
    with pytest.raises(requests.ConnectionError):
        guarded(sdk, guard).scrape(SITE)

    async def main() -> None:
        sdk: Any = firecrawl.AsyncFirecrawl("fc-not_a_real_key", api_url=nobody)
        with pytest.raises(httpx.ConnectError):
            await guarded(sdk, guard).scrape(SITE)
        await sdk.v2.async_http_client.close()

    anyio.run(main)
    assert outcomes.kinds == ["released"] * 2
    assert guard.available == 10


def test_firecrawls_own_refusals(begin: Begin) -> None:
    """They are the SDK's errors; after a 402, nothing else is sent."""
    scene = begin(100)
    scene.account.refuse_with = "not_credits_rate"
    with pytest.raises(RateLimitError):
        scene.sdk.scrape(SITE)
    assert scene.guard.available == 100
    scene.account.refuse_with = "exhausted"
    with pytest.raises(PaymentRequiredError):
        scene.sdk.scrape(SITE)
    assert scene.outcomes.kinds == ["released", "exhausted", "released"]
    for _ in range(3):
        with pytest.raises(InsufficientCredits):
            scene.sdk.scrape(SITE)
    assert scene.account.requests.arrived == 2


def test_uploads_and_indexes(begin: Begin) -> None:
    """A file is held like a long PDF, and a paper search is paid by its results."""
    scene = begin(100)
    scene.sandbox.fault(
        "/v2/parse", body={"success": True, "data": {"metadata": {"creditsUsed": 3}}}
    )
    scene.sdk.parse(b"%PDF-", filename="a.pdf")
    papers = {"success": True, "results": [{"paperId": str(each)} for each in range(11)]}
    scene.sandbox.fault("/v2/search/research/papers", body=papers)
    scene.sdk.search_papers("credits")
    assert scene.outcomes.settled_at == [3, 4]


def test_requests_by_hand(open_sandbox: OpenSandbox, clock: HandClock) -> None:
    """A guarded httpx client of its own follows a crawl, below the URL's path, and gets refusals the SDK can read."""
    clock.set_wall(1_793_491_200)
    sandbox = open_sandbox(30)
    account = sandbox.vendor("firecrawl")
    guard = Guard(Firecrawl(account.key, base_url=account.url), on_event=(outcomes := Outcomes()))
    with httpx.Client(
        transport=GuardTransport(guard, send_cap=True),
        base_url=account.url,
        headers={"authorization": f"Bearer {account.key}"},
    ) as client:
        client.post("/v2/crawl", json={"url": SITE, "limit": 20})
        refused: Any = client.post("/v2/batch/scrape", json={"urls": [SITE] * 11})
    assert refused.status_code == 402
    said = r"Failed to start batch scrape\. POST /v2/batch/scrape needs 11 credits, and 10 are available"
    with pytest.raises(PaymentRequiredError, match=said):
        handle_response_error(refused, "start batch scrape")
    elapsed(clock, guard)(sandbox, 120)
    assert outcomes.settled_at == [12]
    assert account.requests == (1, 1, 0)


def test_names_of_version_1(begin: Begin) -> None:
    """The methods that are called as in version 1 send to version 2, and are held; the old client is not there."""
    scene = begin(100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scene.sdk.scrape_url(SITE, params={"formats": ["markdown"]})
    assert scene.outcomes.settled_at == [1]
    with pytest.raises(AttributeError, match=r"no v1\.scrape_url: API v1 is not guarded"):
        scene.sdk.v1.scrape_url(SITE)


@pytest.mark.parametrize("kind", [firecrawl.Firecrawl, firecrawl.AsyncFirecrawl])
def test_no_method_is_left_out(kind: Any) -> None:
    """Whatever the client and its parts are bound to sends through the guard."""
    client = kind("fc-not_a_real_key")
    inner = client._v2_client
    through: Any = guarded(client, Guard(FakeProvider(0)))
    bound = {
        name: each.__self__ for name, each in vars(client).items() if hasattr(each, "__self__")
    }
    assert set(bound.values()) == {inner}
    assert {getattr(through, name).__self__ for name in bound} == {through._v2_client}
    parts = vars(through.v2).values()
    owners = {id(getattr(part, "__self__", part)) for part in parts}
    assert owners == {id(through._v2_client)}
    for name in ("http_client", "async_http_client"):
        theirs = getattr(inner, name, None)
        assert theirs is None or getattr(through._v2_client, name)._inner is theirs
    assert all(value is not inner for value in vars(through).values())


@pytest.mark.parametrize("kind", [FirecrawlClient, AsyncFirecrawlClient])
@pytest.mark.anyio
async def test_the_client_of_version_2_alone(kind: Any) -> None:
    """It can be guarded as well."""
    through: Any = guarded(kind("fc-not_a_real_key"), Guard(FakeProvider(0)))
    with pytest.raises(InsufficientCredits):
        refused = through.scrape(SITE)
        await refused


def test_the_client_itself_is_not_changed(begin: Begin) -> None:
    """It goes on without a guard, and so does its other copy's guard."""
    scene = begin(100)
    client: Any = firecrawl.Firecrawl(scene.account.key, api_url=scene.sandbox.url)
    before = dict(vars(client))
    guarded(client, scene.guard)
    assert vars(client) == before
    client.scrape(SITE)
    assert scene.outcomes.kinds == []
    copy.copy(scene.sdk).scrape(SITE)
    assert scene.outcomes.kinds == ["settled"]
    assert copy.copy(scene.sdk.v2.http_client).api_key == scene.account.key


def test_a_guard_that_is_switched_off(begin: Begin) -> None:
    """Requests pass."""
    scene = begin(100)
    ACTIVATION.set_active(False)
    scene.sdk.scrape(SITE)
    assert scene.outcomes.kinds == []
    assert scene.account.account.charged == 1


def test_a_guard_of_a_provider_of_yours(begin: Begin) -> None:
    """Its requests are held at Firecrawl's prices; the replies are read by that provider's billing."""
    scene = begin(100)
    guard = Guard(FakeProvider(8))
    client: Any = firecrawl.Firecrawl(scene.account.key, api_url=scene.sandbox.url)
    sdk = guarded(client, guard)
    sdk.scrape(SITE, formats=[JSON])
    assert guard.available == 3
    with pytest.raises(InsufficientCredits):
        sdk.scrape(SITE, formats=[JSON])


def test_wrong_arguments() -> None:
    """What is no client, is guarded already, or belongs to another account is refused at once."""
    client: Any = firecrawl.Firecrawl("fc-not_a_real_key")
    guard = Guard(FakeProvider(1))
    with pytest.raises(TypeError, match=r"takes a client of firecrawl-py, not the class Firecrawl"):
        guarded(firecrawl.Firecrawl, guard)
    with pytest.raises(TypeError, match=r"takes a client of firecrawl-py, not dict"):
        guarded({}, guard)
    for each in (client, client._v2_client):
        with pytest.raises(TypeError, match=r"is already guarded: pass the unguarded object"):
            guarded(guarded(each, guard), guard)
    other = Guard(PreDev("not_a_real_key"))
    with pytest.raises(TypeError, match=r"This guard is for an account at pre\.dev"):
        guarded(client, other)
    with pytest.raises(TypeError, match="guard takes a Guard, not FakeProvider"):
        guarded(client, FakeProvider(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prices is empty"):
        guarded(client, guard, prices={})


def test_another_version_of_the_sdk() -> None:
    """Where its parts are others, it is refused instead of being left unguarded."""
    client: Any = firecrawl.Firecrawl("fc-not_a_real_key")
    client._v2_client.http_client = object()
    said = r"firecrawl-py is not supported: FirecrawlClient.http_client is object, where 4.55 has HttpClient"
    with pytest.raises(TypeError, match=said):
        guarded(client, Guard(FakeProvider(1)))


def test_headers_of_a_reply_that_are_no_ascii(begin: Begin) -> None:
    """They are as HTTP allows."""
    scene = begin(100)
    scene.sandbox.fault("/v2/map", headers={"x-place": "Zürich"}, gzip=True, times=1)
    scene.sdk.map(SITE)
    assert scene.outcomes.settled_at == [Decimal(1)]


def test_a_pdfs_pages_are_held_as_the_sdk_sends_them(begin: Begin) -> None:
    """Its own option names are read in the request, not in the call."""
    scene = begin(7)
    with pytest.raises(InsufficientCredits, match="needs 8 credits"):
        scene.sdk.scrape(f"{SITE}/a.pdf", parsers=[PDFParser(max_pages=8)])
    scene.sdk.scrape(f"{SITE}/a.pdf", parsers=[PDFParser(max_pages=7)])
    assert scene.outcomes.settled_at == [3]
