"""Requests that are sent again without a header that says so: one call, if it can be nobody else's."""

import gc
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from web import AWAITING, Web

from budgetguard import Event, Guard, learned
from budgetguard._engine.binding import binding_of
from budgetguard.providers import BillingReply
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import GuardTransport, _repeats

pytestmark = [
    pytest.mark.anyio,
    # The libraries leave generators of their own to trio where a reply is not read to its end.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]

HERE = "https://a.example"
URL = f"{HERE}/spec"
ASKED = {"input": "A web shop"}
RETRY = "x-stainless-retry-count"


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """Give a guard of 60 credits, which knows of them: two calls at 50 are one too many."""
    del clock
    guard = Guard(FakeProvider(60, linger=300, lag=5))
    guard.balance()
    return guard


class Body:
    """A body for clients of both kinds, which breaks off with an error if one is given."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        """Begin."""
        yield b'{"id":\n'
        if self._error is not None:
            raise self._error
        yield b"1}"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Begin."""
        for part in self:
            yield part


class Service:
    """A service whose replies are given: a status, the name of an error, or "broken" for half a body."""

    def __init__(self, web: Web, *answers: int | str) -> None:
        self.asked: list[str] = []
        self.answers = list(answers)
        self._library = web.library

    def __call__(self, request: Any) -> Any:
        """Give the next one; after the last, all is well."""
        self.asked.append(f"{request.method} {request.url.path}")
        library, answer = self._library, self.answers.pop(0) if self.answers else 200
        if isinstance(answer, str) and answer != "broken":
            raise getattr(library, answer)(answer)
        error = library.ReadError("the connection was cut") if answer == "broken" else None
        status = 200 if isinstance(answer, str) else answer
        headers = {"location": "/spec"} if 300 < status < 400 else {}
        kind = type("BothBody", (Body, library.SyncByteStream, library.AsyncByteStream), {})
        return library.Response(status, headers=headers, stream=kind(error))


async def begin(web: Web, guard: Guard, *answers: int | str, **options: Any) -> Service:
    """Open the client over such a service."""
    service = Service(web, *answers)
    prices = {("POST", "/spec"): 50, ("POST", "/spec/"): 50, ("POST", "/other"): 50}
    behind = web.library.MockTransport(service)
    await web.open(guard, **{"transport": behind, "base_url": HERE, "prices": prices} | options)
    return service


async def attempt(web: Web, url: str = URL, **options: Any) -> int | str:
    """Send the request; its status, or the name of its error."""
    try:
        reply = await web.send("POST", url, **{"json": ASKED} | options)
    except web.library.TransportError as error:
        return type(error).__name__
    return int(reply.status_code)


def figures(guard: Guard) -> tuple[Any, int, int, int]:
    """What is available; what is held, settled and kept, in credits."""
    binding_of(guard).account.flush()
    ledger = binding_of(guard).account.ledger
    rest = (ledger.held, ledger.settled.total, ledger.kept.total)
    return (guard.available, *(each // 1_000_000 for each in rest))


FAILURES = [500, 503, "ReadTimeout", "WriteError", "RemoteProtocolError", "broken"]


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_repeat_is_never_refused(web: Web, guard: Guard, failure: int | str) -> None:
    """An outage is no lack of credits: the first attempt is kept, and the next one is held on top."""
    service = await begin(web, guard, failure)
    assert await attempt(web) == ("ReadError" if failure == "broken" else failure)
    assert figures(guard) == (10, 0, 0, 50)
    assert await attempt(web) == 200
    assert figures(guard) == (-40, 0, 50, 50)
    assert len(service.asked) == 2


async def test_a_repeat_is_no_way_around_a_pause(web: Web, guard: Guard) -> None:
    """It is refused as any call, and so is what comes after the pause, as a call of its own."""
    service = await begin(web, guard, 503)
    assert await attempt(web) == 503
    guard.pause()
    assert await attempt(web) == 424
    assert len(service.asked) == 1
    guard.resume()
    assert await attempt(web) == 402
    assert figures(guard) == (10, 0, 0, 50)


async def test_a_repeat_holds_while_it_runs(web: Web, guard: Guard) -> None:
    """Its price is held on top of the attempt before."""
    service = await begin(web, guard, 503)
    await attempt(web)
    seen: list[Any] = []
    service.answers = [200]
    plain = service.__call__

    def looking(request: Any) -> Any:
        seen.append(figures(guard))
        return plain(request)

    web.transport._made["behind"].handler = looking
    await attempt(web)
    assert seen == [(-40, 50, 0, 50)]


@pytest.mark.parametrize("status", [408, 409, 425, 202])
async def test_after_another_reply_it_is_another_call(web: Web, guard: Guard, status: int) -> None:
    """What is kept after these is not sent again, or not by itself."""
    service = await begin(web, guard, status)
    assert await attempt(web) == status
    assert await attempt(web) == 402
    assert len(service.asked) == 1


@pytest.mark.parametrize("failure", [429, "ConnectError"])
async def test_what_cost_nothing_is_admitted_as_any_call(
    web: Web, guard: Guard, failure: int | str
) -> None:
    """Nothing is held of it, so the next attempt gets what others have not taken meanwhile."""
    service = await begin(web, guard, failure, failure)
    for _ in range(2):
        assert await attempt(web) == failure
        assert figures(guard) == (60, 0, 0, 0)
    with guard.acquire(20):
        assert await attempt(web) == 402
    assert len(service.asked) == 2


async def test_a_429_whose_cost_is_not_known(web: Web, clock: HandClock) -> None:
    """If the billing keeps it, its repeat is one as after any other failure."""

    class Keeps(FakeProvider):
        def cost_of(self, reply: BillingReply) -> str | None:
            return "keep" if reply.status == 429 else None

    guard = Guard(Keeps(60, linger=300))
    guard.balance()
    await begin(web, guard, 429)
    assert [await attempt(web) for _ in range(2)] == [429, 200]
    assert figures(guard) == (-40, 0, 50, 50)


@pytest.mark.parametrize("other", ["method", "address", "query", "content", "none"])
async def test_another_request_is_another_call(web: Web, guard: Guard, other: str) -> None:
    """It is the same call where method, address and content are the same."""
    options: dict[str, Any] = {
        "method": {"url": URL},
        "address": {"url": f"{HERE}/other"},
        "query": {"url": f"{URL}?again=1"},
        "content": {"json": {"input": "Another"}},
        "none": {"json": None},
    }[other]
    prices = {(method, "/**"): 50 for method in ("POST", "PUT")}
    await begin(web, guard, 503, prices=prices)
    await attempt(web)
    if other == "method":
        assert (await web.send("PUT", URL, json=ASKED)).status_code == 402
    else:
        assert await attempt(web, **options) == 402
    assert await attempt(web) == 200


class Sends(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport that sends a request's stream on, as a connection does: it does not store the content."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def handle_request(self, request: Any) -> Any:
        for _ in request.stream:
            pass
        return self._service(request)

    async def handle_async_request(self, request: Any) -> Any:
        async for _ in request.stream:
            pass
        return self._service(request)


async def test_what_was_streamed_is_not_recognized(web: Web, guard: Guard) -> None:
    """Its content was not read, so nobody knows whether it is the same, or the same as none."""

    async def parts() -> Any:
        yield b"x"

    def content() -> Any:
        return parts() if web.awaiting else iter([b"x"])

    service = Service(web, 503)
    await begin(web, guard, transport=Sends(service))
    assert await attempt(web, json=None, content=content()) == 503
    assert await attempt(web, json=None, content=content()) == 402
    assert await attempt(web, json=None) == 402
    assert len(service.asked) == 1


async def test_a_repeat_comes_within_65_s(web: Web, guard: Guard, clock: HandClock) -> None:
    """After that it is another call."""
    await begin(web, guard, 503, 503)
    await attempt(web)
    clock.advance(64.9)
    assert await attempt(web) == 503
    clock.advance(65)
    assert await attempt(web) == 402


async def test_each_failure_admits_one_repeat(web: Web, guard: Guard) -> None:
    """Once it has succeeded, an equal call is another one."""
    service = await begin(web, guard, 503, 500)
    assert [await attempt(web) for _ in range(3)] == [503, 500, 200]
    assert figures(guard) == (-90, 0, 50, 100)
    assert await attempt(web) == 402
    assert len(service.asked) == 3


async def test_a_program_that_repeats_for_ever_is_refused_at_last(web: Web, guard: Guard) -> None:
    """Each attempt may cost its price: after ten repeats the next one is decided as any call."""
    service = await begin(web, guard, *[503] * 30)
    seen = [await attempt(web) for _ in range(20)]
    assert seen == [503] * 11 + [402] * 9
    assert len(service.asked) == 11


# Two calls at once.


async def run_elsewhere(web: Web, work: Callable[[], Any]) -> Any:
    """Run async work in another task, or in another thread for plain clients; its result."""
    if not web.awaiting:

        def run() -> Any:
            return anyio.run(work)

        with ThreadPoolExecutor(1) as threads:
            return threads.submit(run).result(20)
    found = []

    async def note() -> None:
        found.append(await work())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(note)
    return found[0]


async def test_another_task_or_thread_is_another_caller(web: Web, guard: Guard) -> None:
    """It repeats nothing: neither while the other one lives, nor with its id after it."""
    service = await begin(web, guard, 503)
    await attempt(web)
    assert await run_elsewhere(web, lambda: attempt(web)) == 402
    assert await attempt(web) == 200
    assert len(service.asked) == 2


async def test_whoever_failed_and_ended_is_repeated_by_nobody(web: Web, guard: Guard) -> None:
    """Tasks and threads that come later may have its id."""
    await begin(web, guard, 503)
    assert await run_elsewhere(web, lambda: attempt(web)) == 503
    gc.collect()
    for _ in range(50):
        assert await run_elsewhere(web, lambda: attempt(web)) == 402
    assert await attempt(web) == 402
    assert not web.transport._traffic.failures._failures


class Meeting:
    """A service that replies when so many requests are with it, in threads or in tasks."""

    def __init__(self, web: Web, guard: Guard, number: int, status: int) -> None:
        self.held: list[int] = []
        self.asked = 0
        self._web = web
        self._guard = guard
        self._number = number
        self._status = status
        self._barrier = threading.Barrier(number, self._note)
        self._met = anyio.Event()

    def _note(self) -> None:
        self.held.append(figures(self._guard)[1])

    def _reply(self) -> Any:
        return self._web.library.Response(self._status, json={})

    def plain(self, _: Any) -> Any:
        """Reply to a thread."""
        self.asked += 1
        self._barrier.wait(20)
        return self._reply()

    async def awaiting(self, _: Any) -> Any:
        """Reply to a task."""
        self.asked += 1
        if self.asked % self._number == 0:
            self._note()
            self._met.set()
            self._met = anyio.Event()
        else:
            await self._met.wait()
        return self._reply()


async def all_at_once(web: Web, number: int, work: Callable[[], Any]) -> list[Any]:
    """The results of as many tasks or threads, each of which runs this work."""
    if not web.awaiting:
        with ThreadPoolExecutor(number) as threads:
            return [
                each.result(20) for each in [threads.submit(anyio.run, work) for _ in range(number)]
            ]
    found = []

    async def note() -> None:
        found.append(await work())

    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(note)
    return found


async def test_equal_calls_at_once_always_hold_twice(web: Web, clock: HandClock) -> None:
    """Each repeats its own attempt alone, and no hold is shared."""
    guard = Guard(FakeProvider(100, linger=300, lag=5))
    guard.balance()
    meeting = Meeting(web, guard, 2, 503)
    behind = web.library.MockTransport(meeting.awaiting if web.awaiting else meeting.plain)
    await begin(web, guard, transport=behind)

    async def work() -> list[int | str]:
        return [await attempt(web) for _ in range(3)]

    assert await all_at_once(web, 2, work) == [[503] * 3] * 2
    assert meeting.held == [100] * 3
    assert figures(guard) == (-200, 0, 0, 300)


async def test_a_call_in_flight_is_not_repeated(web: Web, guard: Guard) -> None:
    """An equal one beside it holds for itself, and is refused if that is too much."""
    beside: list[int | str] = []

    def plain(_: Any) -> Any:
        with ThreadPoolExecutor(1) as threads:
            beside.append(threads.submit(anyio.run, attempt, web).result(20))
        return web.library.Response(503, json={})

    async def awaiting(_: Any) -> Any:
        beside.append(await run_elsewhere(web, lambda: attempt(web)))
        return web.library.Response(503, json={})

    behind = web.library.MockTransport(awaiting if web.awaiting else plain)
    await begin(web, guard, transport=behind)
    assert await attempt(web) == 503
    assert beside == [402]


async def test_a_reply_that_is_still_read_is_in_flight(web: Web, guard: Guard) -> None:
    """A failure is repeated once it is over; an equal call in the same task holds for itself."""
    await begin(web, guard, 503)
    async with web.stream("POST", URL, json=ASKED) as lines:
        assert figures(guard)[1] == 50
        assert await attempt(web) == 402
        del lines
    assert figures(guard) == (10, 0, 0, 50)
    assert await attempt(web) == 200


@pytest.mark.parametrize("way", AWAITING, indirect=True)
async def test_the_task_that_sent_it_counts(web: Web, guard: Guard) -> None:
    """Whoever reads its reply, the repeat comes from where the attempt came from."""
    await begin(web, guard, 503)
    request = web.client.build_request("POST", URL, json=ASKED)
    reply = await web.client.send(request, stream=True)
    await run_elsewhere(web, reply.aread)
    assert await run_elsewhere(web, lambda: attempt(web)) == 402
    assert await attempt(web) == 200


@pytest.mark.parametrize("way", AWAITING, indirect=True)
async def test_a_plain_client_in_a_task(web: Web, guard: Guard) -> None:
    """Tasks share their thread, and are different callers all the same."""
    plain = Web(web.library, awaiting=False)
    await begin(plain, guard, 503)

    async def send() -> int | str:
        return await attempt(plain)

    assert await run_elsewhere(web, send) == 503
    assert await attempt(plain) == 402
    assert await run_elsewhere(web, send) == 402
    await plain.close()


# Other ways of ending.


@pytest.mark.parametrize("status", [302, 303, 307, 308])
async def test_a_redirected_call_is_repeated_from_its_beginning(
    web: Web, guard: Guard, status: int
) -> None:
    """A client sends the first request again, which is redirected again: it is one repeat."""
    prices = {(method, path): 50 for method in ("POST", "GET") for path in ("/spec", "/spec/")}
    service = await begin(web, guard, status, 503, status, prices=prices)
    url = f"{HERE}/spec/"
    assert await attempt(web, url, follow_redirects=True) == 503
    assert figures(guard) == (10, 0, 0, 50)
    assert await attempt(web, url, follow_redirects=True) == 200
    assert figures(guard) == (-40, 0, 50, 50)
    assert [each.split()[1] for each in service.asked] == ["/spec/", "/spec"] * 2


async def test_a_redirected_stream_is_not_recognized(web: Web, guard: Guard) -> None:
    """Neither is a request without content taken for it."""

    async def parts() -> Any:
        yield b"x"

    content: Any = parts() if web.awaiting else iter([b"x"])
    await begin(web, guard, transport=Sends(Service(web, 303, 503)))
    url = f"{HERE}/spec/"
    assert await attempt(web, url, json=None, content=content, follow_redirects=True) == 503
    assert await attempt(web, url, json=None) == 402


async def test_what_the_provider_refused_is_not_repeated(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """A refusal for lack of credits counts as one, whatever its status is."""
    await web.open(predev, key=Sandbox.predev_key)
    sandbox.fault(
        "/v1/responses",
        status=503,
        body='event: error\ndata: {"error": {"code": "insufficient_credits"}}\n\n',
        content_type="text/event-stream",
    )
    url = f"{sandbox.url}/v1/responses"
    assert await attempt(web, url) == 503
    assert await attempt(web, url) == 402
    assert sandbox.requests["POST", "/v1/responses"] == 1


async def test_work_that_is_searched_for(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """The attempt whose reply was lost is held while it is searched for, and the repeat on top."""
    await web.open(predev, key=Sandbox.predev_key, timeout=10)
    rest = predev.acquire(45)
    sandbox.fault("/deep-spec", reset=True, times=1)
    url = f"{sandbox.url}/deep-spec"
    assert await attempt(web, url) in {"ReadError", "RemoteProtocolError"}
    assert figures(predev) == (5, 95, 0, 0)
    assert await attempt(web, url) == 200
    assert figures(predev)[1] == 95
    rest.release()


async def test_a_reply_that_says_what_it_cost(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """Its outcome is known, so the next request is decided as any call."""
    headers = {"x-predev-credits-charged": "1"}
    sandbox.fault("/v1/responses", status=503, body={}, headers=headers)
    await web.open(predev, key=Sandbox.predev_key)
    url = f"{sandbox.url}/v1/responses"
    assert await attempt(web, url) == 503
    with predev.acquire(98):
        assert await attempt(web, url) == 402


async def test_a_learned_price(web: Web, guard: Guard) -> None:
    """A repeat is not refused where the price is learned either."""
    await begin(web, guard, 503, prices={("POST", "/spec"): learned(50)})
    assert [await attempt(web) for _ in range(2)] == [503, 200]
    assert figures(guard) == (-40, 0, 50, 50)


async def test_a_free_request_is_none(web: Web, guard: Guard) -> None:
    """Nothing was held for it, and nothing is remembered."""
    await begin(web, guard, 503, prices={("POST", "/spec"): lambda _: None})
    await attempt(web)
    assert not web.transport._traffic.failures._failures


async def test_marks_go_first(web: Web, guard: Guard) -> None:
    """A request with a retry header is recognized by that, and by nothing else."""
    await begin(web, guard, 503)
    await attempt(web)
    assert await attempt(web, headers={RETRY: "1"}) == 402
    assert await attempt(web, headers={RETRY: "0"}) == 402
    assert await attempt(web) == 200


async def test_a_marked_attempt_is_not_repeated_without_its_mark(web: Web, guard: Guard) -> None:
    """Its hold waits for a request with the header."""
    await begin(web, guard, 503)
    assert await attempt(web, headers={RETRY: "0"}) == 503
    assert await attempt(web) == 402
    assert await attempt(web, headers={RETRY: "1"}) == 200


async def test_a_transport_that_was_closed_expects_nothing(web: Web, guard: Guard) -> None:
    """Whoever uses it again begins anew."""
    await begin(web, guard, 503)
    await attempt(web)
    web.transport.close() if not web.awaiting else await web.transport.aclose()
    assert await attempt(web) == 402


async def test_a_repeat_without_a_usable_balance(web: Web, clock: HandClock) -> None:
    """It is admitted at once, whatever is known."""
    events: list[Event] = []
    provider = FakeProvider(60, linger=300, lag=5)
    guard = Guard(provider, stale_for=10, fresh_for=10, on_event=events.append)
    guard.balance()
    await begin(web, guard, 503)
    await attempt(web)
    clock.advance(20)
    provider.failure = ValueError("no balance")
    assert await attempt(web) == 200
    kinds = [event.kind for event in events if event.operation]
    assert kinds == ["admitted", "kept", "allowed_unknown", "settled"]


async def test_few_failures_are_remembered(
    web: Web, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten first: its repeat is decided as any call."""
    monkeypatch.setattr(_repeats, "_MOST_FAILURES", 3)
    guard = Guard(FakeProvider(4, linger=300))
    guard.balance()
    await begin(web, guard, *[503] * 4, prices={("POST", "/spec"): 1})
    for number in range(4):
        await attempt(web, json=number)
    assert [await attempt(web, json=number) for number in (0, 1, 3)] == [402, 200, 200]


def test_a_child_repeats_nothing_of_its_parent(guard: Guard) -> None:
    """A fork gives it another ledger, in which nothing was kept."""
    answers = [503, 200]
    behind = httpx.MockTransport(lambda _: httpx.Response(answers.pop(0), json={}))
    transport = GuardTransport(guard, transport=behind, base_url=HERE, prices={("POST", "/a"): 50})
    with httpx.Client(transport=transport) as client:
        client.post(f"{HERE}/a")
        failures = transport._traffic.failures
        [failure] = failures._failures
        assert failure.ledger is binding_of(guard).account.ledger
        binding_of(guard).account.forget()
        request = client.build_request("POST", f"{HERE}/a")
        assert failures.take(request) is None
    assert json.dumps(answers) == "[200]"
