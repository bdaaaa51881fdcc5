"""A redirected call is one call: by whichever client, by hand, to wherever it leads."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
from web import Web

from budgetguard import Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.transport import GuardTransport

pytestmark = pytest.mark.anyio

HERE = "https://a.example"
THERE = "https://b.example"
LINGER = 300


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """Give a guard of 60 credits, which knows of them: two calls at 50 are one too many."""
    del clock
    guard = Guard(FakeProvider(60, linger=LINGER, lag=5))
    guard.balance()
    return guard


class Service:
    """A service at two origins that answers by (method, address), and remembers what it was asked."""

    def __init__(self, web: Web, answers: dict[tuple[str, str], tuple[int, str]]) -> None:
        self.asked: list[str] = []
        self._web = web
        self._answers = answers

    def __call__(self, request: Any) -> Any:
        """Answer: a location for a redirect, a text for all else."""
        self.asked.append(f"{request.method} {request.url}")
        status, said = self._answers[request.method, str(request.url)]
        if status == 0:
            raise self._web.library.ConnectError(said)
        headers = {"location": said} if 300 < status < 400 else {}
        body = json.dumps({} if headers else {"said": said})
        return self._web.library.Response(status, headers=headers, content=body)


async def begin(
    web: Web, guard: Guard, answers: dict[tuple[str, str], tuple[int, str]], **options: Any
) -> Service:
    """Open the client over such a service."""
    service = Service(web, answers)
    behind = web.library.MockTransport(service)
    prices = {("POST", "/spec"): 50, ("POST", "/spec/"): 50}
    await web.open(guard, **{"transport": behind, "base_url": HERE, "prices": prices} | options)
    return service


def figures(guard: Guard) -> tuple[Any, int, int, int]:
    """What is available, and what is held, settled and kept, in micro-credits."""
    binding_of(guard).account.flush()
    ledger = binding_of(guard).account.ledger
    return guard.available, ledger.held, ledger.settled.total, ledger.kept.total


async def send(web: Web, request: Any) -> Any:
    """Send a request that was made before."""
    answer = web.client.send(request)
    return await answer if web.awaiting else answer


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("how", ["followed", "the next request", "by hand"])
async def test_what_did_nothing_is_admitted_once(
    web: Web, guard: Guard, status: int, how: str
) -> None:
    """Its credits are there again at once, for the request that is to be sent instead."""
    answers = {
        ("POST", f"{HERE}/spec/"): (status, "/spec"),
        ("POST", f"{HERE}/spec"): (200, "done"),
    }
    service = await begin(web, guard, answers)
    follows = how == "followed"
    reply = await web.send("POST", f"{HERE}/spec/", json={}, follow_redirects=follows)
    if not follows:
        assert figures(guard) == (60, 0, 0, 0)
        next_one = reply.next_request
        if how == "by hand":
            next_one = web.client.build_request("POST", f"{HERE}/spec", json={})
        reply = await send(web, next_one)
    assert (reply.status_code, len(service.asked)) == (200, 2)
    assert figures(guard) == (10, 0, 50_000_000, 0)


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize("how", ["followed", "the next request", "by hand", "read first"])
async def test_what_may_be_done_goes_on_by_its_hold(
    web: Web, guard: Guard, status: int, how: str
) -> None:
    """The one that follows needs no second one, however it is sent, and settles the first."""
    answers = {
        ("POST", f"{HERE}/spec"): (status, "/specs/1"),
        ("GET", f"{HERE}/specs/1"): (200, "x"),
    }
    prices = {("POST", "/spec"): 50, ("GET", "/specs/*"): 50}
    service = await begin(web, guard, answers, prices=prices)
    follows = how == "followed"
    reply = await web.send("POST", f"{HERE}/spec", json={}, follow_redirects=follows)
    if not follows:
        assert figures(guard) == (10, 50_000_000, 0, 0)
        if how == "by hand":
            reply = await web.send(
                "GET", reply.headers["location"].replace("/specs", f"{HERE}/specs")
            )
        else:
            reply = await send(web, reply.next_request)
    assert (reply.status_code, service.asked[1]) == (200, f"GET {HERE}/specs/1")
    assert figures(guard) == (10, 0, 50_000_000, 0)


async def test_by_hand_the_same_once_more(web: Web, guard: Guard) -> None:
    """A POST to the address that a 302 names is of the same call, with the same content."""
    answers = {("POST", f"{HERE}/spec/"): (302, "/spec"), ("POST", f"{HERE}/spec"): (200, "x")}
    service = await begin(web, guard, answers)
    await web.send("POST", f"{HERE}/spec/", json={"x": 1})
    other = await web.send("POST", f"{HERE}/spec", json={"x": 2})
    assert (other.status_code, len(service.asked)) == (402, 1)
    same = await web.send("POST", f"{HERE}/spec", json={"x": 1})
    assert (same.status_code, figures(guard)) == (200, (10, 0, 50_000_000, 0))
    assert (await web.send("POST", f"{HERE}/spec", json={"x": 1})).status_code == 402


@pytest.mark.parametrize(
    ("status", "answer", "kept"),
    [(303, 404, 50), (302, 0, 50), (303, 500, 50), (303, 402, 50), (307, 404, 0), (307, 0, 0)],
)
async def test_what_follows_may_fail(
    web: Web, guard: Guard, status: int, answer: int, kept: int
) -> None:
    """That the second request was turned away does not prove that the first was not carried out."""
    method = "POST" if status == 307 else "GET"
    answers = {
        ("POST", f"{HERE}/spec/"): (status, "/spec"),
        (method, f"{HERE}/spec"): (answer, "x"),
    }
    await begin(web, guard, answers)
    try:
        await web.send("POST", f"{HERE}/spec/", json={}, follow_redirects=True)
    except web.library.ConnectError:
        assert answer == 0
    _, held, settled, now_kept = figures(guard)
    assert (held, settled, now_kept) == (0, 0, kept * 1_000_000)


@pytest.mark.parametrize("status", [301, 303, 307, 308])
async def test_to_another_origin(web: Web, guard: Guard, status: int) -> None:
    """Nobody else prices what is carried out there: it is the call that was let in here."""
    method = "POST" if status in {307, 308} else "GET"
    answers = {
        ("POST", f"{HERE}/spec"): (status, f"{THERE}/new/spec"),
        (method, f"{THERE}/new/spec"): (200, "x"),
    }
    await begin(web, guard, answers)
    reply = await web.send("POST", f"{HERE}/spec", json={}, follow_redirects=True)
    assert (reply.status_code, figures(guard)) == (200, (10, 0, 50_000_000, 0))
    reply = await web.send("POST", f"{HERE}/spec", json={}, follow_redirects=True)
    assert (reply.status_code, figures(guard)) == (402, (10, 0, 50_000_000, 0))


async def test_a_redirect_to_what_is_free_costs_what_it_did(web: Web, guard: Guard) -> None:
    """Below the same base URL, a path without a price is no way around one."""
    answers = {("POST", f"{HERE}/spec"): (308, "/v2/spec"), ("POST", f"{HERE}/v2/spec"): (200, "x")}
    await begin(web, guard, answers)
    await web.send("POST", f"{HERE}/spec", json={}, follow_redirects=True)
    assert figures(guard) == (10, 0, 50_000_000, 0)


async def test_a_chain(web: Web, guard: Guard) -> None:
    """Once something may have been done, no later redirect takes that back."""
    answers = {
        ("POST", f"{HERE}/spec"): (303, "/a"),
        ("GET", f"{HERE}/a"): (307, "/b"),
        ("GET", f"{HERE}/b"): (302, f"{THERE}/c"),
        ("GET", f"{THERE}/c"): (404, "x"),
    }
    service = await begin(web, guard, answers)
    await web.send("POST", f"{HERE}/spec", json={}, follow_redirects=True)
    assert (len(service.asked), figures(guard)) == (4, (10, 0, 0, 50_000_000))


async def test_what_only_shows_did_nothing(web: Web, guard: Guard) -> None:
    """A GET that was sent elsewhere and turned away there has cost nothing."""
    answers = {("GET", f"{HERE}/spec"): (302, "/a"), ("GET", f"{HERE}/a"): (404, "x")}
    await begin(web, guard, answers, prices={("GET", "/spec"): 50})
    await web.send("GET", f"{HERE}/spec", follow_redirects=True)
    assert figures(guard) == (60, 0, 0, 0)


@pytest.mark.parametrize("close", [False, True], ids=["in time", "by the client's end"])
async def test_what_nobody_follows_is_kept(
    web: Web, guard: Guard, clock: HandClock, close: bool
) -> None:
    """Its outcome is as unknown as that of any call that broke off."""
    await begin(web, guard, {("POST", f"{HERE}/spec"): (302, "/a")})
    await web.send("POST", f"{HERE}/spec", json={})
    assert figures(guard) == (10, 50_000_000, 0, 0)
    if close:
        await web.close()
    else:
        clock.advance(65)
    assert figures(guard) == (10, 0, 0, 50_000_000)


async def test_one_request_follows(web: Web, guard: Guard) -> None:
    """Sent twice, or with the redirected request itself sent again, it is a call of its own."""
    answers = {("POST", f"{HERE}/spec"): (302, "/a"), ("GET", f"{HERE}/a"): (200, "x")}
    await begin(web, guard, answers, prices={("POST", "/spec"): 50, ("GET", "/a"): 50})
    first = web.client.build_request("POST", f"{HERE}/spec", json={})
    following = (await send(web, first)).next_request
    assert (await send(web, first)).status_code == 402
    assert (await send(web, following)).status_code == 200
    assert (await send(web, following)).status_code == 402
    assert figures(guard) == (10, 0, 50_000_000, 0)


async def test_a_retry_after_what_followed_failed(web: Web, guard: Guard) -> None:
    """An SDK sends the first request again: it goes by the hold of the attempt before."""
    answers = {("POST", f"{HERE}/spec"): (303, "/a"), ("GET", f"{HERE}/a"): (500, "x")}
    await begin(web, guard, answers)
    count = {"x-stainless-retry-count": "0"}
    await web.send("POST", f"{HERE}/spec", json={}, headers=count, follow_redirects=True)
    assert figures(guard) == (10, 50_000_000, 0, 0)
    answers["GET", f"{HERE}/a"] = (200, "x")
    count = {"x-stainless-retry-count": "1"}
    reply = await web.send("POST", f"{HERE}/spec", json={}, headers=count, follow_redirects=True)
    # What the attempt before may have cost is counted as well.
    assert (reply.status_code, figures(guard)) == (200, (-40, 0, 50_000_000, 50_000_000))


@pytest.mark.parametrize("status", [307, 308])
async def test_did_nothing_and_names_no_place(web: Web, guard: Guard, status: int) -> None:
    """There is nothing to follow, and nothing was spent."""
    service = await begin(web, guard, {})

    def answer(_: Any) -> Any:
        return web.library.Response(status)

    web.transport._made["behind"] = web.library.MockTransport(answer)
    await web.send("POST", f"{HERE}/spec", json={})
    assert (service.asked, figures(guard)) == ([], (60, 0, 0, 0))


@pytest.mark.parametrize("location", ["", "https://[", "http://a.example:port/"])
async def test_a_location_that_is_none(web: Web, guard: Guard, location: str) -> None:
    """The reply is the client's to judge; nobody knows what was done."""
    await begin(web, guard, {("POST", f"{HERE}/spec"): (302, location)})
    with contextlib.suppress(web.library.RemoteProtocolError):
        await web.send("POST", f"{HERE}/spec", json={})
    await web.close()
    assert figures(guard)[2:] == (0, 50_000_000)


def test_two_transports_of_one_client(clock: HandClock) -> None:
    """What goes on at another guard's provider is the first one's call, settled in its ledger."""
    guards = [Guard(FakeProvider(60, linger=LINGER)), Guard(FakeProvider(60, linger=LINGER))]
    answers = {f"{HERE}/spec": httpx.Response(303, headers={"location": f"{THERE}/spec"})}

    def answer(request: httpx.Request) -> httpx.Response:
        return answers.get(str(request.url)) or httpx.Response(200, json={})

    behind = httpx.MockTransport(answer)
    mounts = {
        url: GuardTransport(guard, transport=behind, base_url=url, prices={("*", "/spec"): 50})
        for url, guard in zip((HERE, THERE), guards, strict=True)
    }
    with httpx.Client(mounts=mounts, follow_redirects=True) as client:
        assert client.post(f"{HERE}/spec", json={}).status_code == 200
    first, second = map(figures, guards)
    assert (first, second[1:]) == ((10, 0, 50_000_000, 0), (0, 0, 0))


@pytest.fixture
def sdk(guard: Guard) -> Callable[..., Any]:
    """An SDK's client, whose requests are answered as given."""
    openai = pytest.importorskip("openai")

    def make(answer: Callable[[Any], Any]) -> Any:
        transport = GuardTransport(
            guard,
            transport=httpx2.MockTransport(answer),
            base_url=HERE,
            prices={("POST", "/v1/**"): 50},
        )
        return openai.OpenAI(
            api_key="k",
            base_url=f"{HERE}/v1",
            http_client=httpx2.Client(transport=transport, follow_redirects=True),
        )

    return make


@pytest.mark.parametrize("status", [302, 308])
def test_by_an_sdk(sdk: Callable[..., Any], guard: Guard, status: int) -> None:
    """OpenAI's follows redirects, with its headers for retries: one call is one hold."""

    def answer(request: Any) -> Any:
        if request.url.path == "/v1/models/x":
            return httpx2.Response(status, headers={"location": f"{HERE}/v1/elsewhere"})
        return httpx2.Response(200, json={"id": "x", "object": "x", "deleted": True})

    with sdk(answer) as client:
        client.post("/models/x", cast_to=object, body={})
    assert figures(guard) == (10, 0, 50_000_000, 0)
