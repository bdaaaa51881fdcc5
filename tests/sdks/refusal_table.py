"""How SDKs take a transport's refusals and their vendors' failures: a table, made on request.

    python tests/sdks/refusal_table.py > table.md

Each SDK that is installed makes one spending call per case, against a stub on loopback; the others are left
out, and named on stderr. Where an SDK takes an httpx client, or has one as an attribute, a GuardTransport is
in it. Any other SDK gets the same bytes from the stub, as a transport would answer them.

Nothing waits: in this process, `time.sleep` and `asyncio.sleep` move the clocks on at once, `time.time` and
the guard's own among them. All options of the SDKs are their defaults.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any, Literal

import httpx

from budgetguard import Guard, providers
from budgetguard.testing import FakeProvider, HandClock, hand_clock
from budgetguard.transport import AsyncGuardTransport, GuardTransport
from budgetguard.transport._retries import PATIENCE

KEY = "sdk_table_not_a_real_key"
MARK = "x-stainless-retry-count"
PRICE = 50
# What a call may take if an SDK repeats it for ever.
MOST = 200
UNKNOWN = 424
FAILURES: dict[str, int | None] = {"503": 503, "502": 502, "429": 429, "cut": None}
_HELLO = [{"role": "user", "content": "Hello"}]
_OPTION = "an option"
_ATTRIBUTE = "an attribute"


@dataclass
class Reply:
    """What the stub answers: with `status` None it cuts the connection."""

    status: int | None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


class Stub:
    """A server on loopback that gives one reply to all requests, and notes them."""

    def __init__(self) -> None:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                stub.answer(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.reply = Reply(200)
        self.marks: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Read a request, and answer it or hang up."""
        handler.rfile.read(int(handler.headers.get("content-length", 0)))
        self.marks.append(handler.headers.get(MARK))
        status = self.reply.status if len(self.marks) <= MOST else 418
        if status is None:
            handler.close_connection = True
            return
        handler.send_response(status)
        for name, value in ({"content-type": "application/json"} | self.reply.headers).items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(self.reply.body)))
        handler.end_headers()
        handler.wfile.write(self.reply.body)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class Counted(GuardTransport):
    """A GuardTransport that counts the requests that reach it."""

    seen = 0

    def handle_request(self, request: Any) -> Any:
        """Count it, and go on."""
        self.seen += 1
        return super().handle_request(request)


class CountedAsync(AsyncGuardTransport):
    """An AsyncGuardTransport that counts the requests that reach it."""

    seen = 0

    async def handle_async_request(self, request: Any) -> Any:
        """Count it, and go on."""
        self.seen += 1
        return await super().handle_async_request(request)


@contextmanager
def no_pauses(clock: HandClock) -> Iterator[None]:
    """Let this process's pauses pass at once, by all clocks that SDKs and the guard read."""
    sleep, now, asleep = time.sleep, time.time, asyncio.sleep
    passed = [0.0]

    def pause(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            sleep(seconds)
            return
        passed[0] += seconds
        clock.advance(seconds)

    async def pause_task(seconds: float, result: Any = None) -> Any:
        pause(seconds)
        await asleep(0)
        return result

    try:
        time.sleep, time.time = pause, lambda: now() + passed[0]
        asyncio.sleep = pause_task  # type: ignore[assignment]
        yield
    finally:
        time.sleep, time.time, asyncio.sleep = sleep, now, asleep


Call = Callable[[], Any]


@dataclass(frozen=True)
class SDK:
    """One SDK, and how it makes one spending call at `url`.

    `make` is given the URL, and the transport to use, or None for the SDK's own. `takes` says how a transport
    gets in: "an option", "an attribute" that is not public, or "" where there is no way. `vendor` names the
    built-in provider whose refusals have that vendor's shape, if there is one.
    """

    package: str
    make: Callable[[str, Any], Call]
    takes: str = ""
    vendor: str = ""
    way: Literal["", "async", "upload"] = ""

    @property
    def name(self) -> str:
        """What a row is called."""
        return f"{self.package}, {self.way}" if self.way else self.package

    @property
    def asynchronous(self) -> bool:
        """Whether the call is awaited."""
        return self.way == "async"


@dataclass(frozen=True)
class Outcome:
    """What one call led to: the SDK's requests, how many of them were sent, and the error's class and text.

    `marked` counts those with a header that says they are sent again.
    """

    requests: int
    sent: int
    marked: int
    error: str
    text: str


@dataclass(frozen=True)
class Row:
    """The results of one SDK: of both refusals, and of each failure by its name in FAILURES.

    `lacks` is that of a refusal for lack of credits, whose status is `status`; `unknown` that of one because
    the balance is not known.

    `guarded` are those of the same failures behind a guard with credits for one call.
    """

    sdk: SDK
    version: str
    status: int
    lacks: Outcome
    unknown: Outcome
    failures: dict[str, Outcome]
    guarded: dict[str, Outcome]


def outcome(stub: Stub, sdk: SDK, transport: Any) -> Outcome:
    """Make one call, and count what reached the stub, or the transport if there is one."""
    stub.marks.clear()
    error = text = ""
    try:
        if sdk.asynchronous:
            asyncio.run(sdk.make(stub.url, transport)())
        else:
            sdk.make(stub.url, transport)()
    except ImportError:
        raise
    except Exception as raised:
        error, text = type(raised).__name__, f"{raised} {getattr(raised, 'message', '')}"
    marked = sum(mark not in {None, "0"} for mark in stub.marks)
    requests = len(stub.marks)
    return Outcome(requests if transport is None else transport.seen, requests, marked, error, text)


def guard_of(sdk: SDK, credits: float, *, known: bool = True) -> Guard:
    """A guard with so many credits, or one whose balance is not available."""
    provider = FakeProvider(credits, linger=300)
    billing = getattr(getattr(providers, sdk.vendor, None), "billing", None)
    if billing is not None:
        provider.billing = billing  # type: ignore[attr-defined]
    guard = Guard(provider)
    if known:
        guard.balance()
    else:
        provider.failure = ValueError("no balance")
    return guard


def over(guard: Guard, url: str, *, asynchronous: bool = False) -> Any:
    """A transport that guards every POST there."""
    kind: Any = CountedAsync if asynchronous else Counted
    return kind(guard, base_url=url, prices={("POST", "/**"): PRICE})


def refusal(guard: Guard) -> Reply:
    """What a transport of this guard answers."""
    url = "https://api.example.com"
    with httpx.Client(transport=over(guard, url)) as client:
        made = client.post(f"{url}/v1/work", json={})
    return Reply(made.status_code, dict(made.headers), made.content)


def refused(sdk: SDK, stub: Stub, guard: Guard) -> Outcome:
    """One call that this guard refuses."""
    stub.reply = refusal(guard)
    if not sdk.takes:
        return outcome(stub, sdk, None)
    transport = over(guard, stub.url, asynchronous=sdk.asynchronous)
    found = outcome(stub, sdk, transport)
    assert not stub.marks, "a refused request was sent"
    return found


def measure(sdk: SDK, stub: Stub, clock: HandClock) -> Row:
    """All calls of one SDK."""
    failures, guarded = {}, {}
    lacks = refused(sdk, stub, guard_of(sdk, PRICE - 1))
    status = stub.reply.status
    unknown = refused(sdk, stub, guard_of(sdk, PRICE - 1, known=False))
    assert status is not None
    assert stub.reply.status == UNKNOWN
    for name, answer in FAILURES.items():
        stub.reply = Reply(answer)
        failures[name] = outcome(stub, sdk, None)
        if sdk.takes:
            # Without recognition, the second attempt would be refused.
            guard = guard_of(sdk, PRICE)
            transport = over(guard, stub.url, asynchronous=sdk.asynchronous)
            guarded[name] = outcome(stub, sdk, transport)
        clock.advance(2 * PATIENCE)
    return Row(sdk, version(sdk.package), status, lacks, unknown, failures, guarded)


def shows_words(row: Row) -> str:
    """Of which of the two refusals the error's text has the guard's own sentence in it."""
    shown = {
        row.status: f"needs {PRICE}" in row.lacks.text,
        UNKNOWN: "is not known" in row.unknown.text,
    }
    if all(shown.values()):
        return "yes"
    return " and ".join(f"{status} only" for status, found in shown.items() if found) or "no"


def recognized(row: Row) -> str:
    """How the transport recognizes that a request is sent again."""
    again = [name for name, found in row.failures.items() if found.requests > 1]
    if not again:
        return "sends nothing again"
    if not row.sdk.takes:
        return "no transport"
    if again == ["429"]:
        # Its hold is released, so the next request is admitted as any call.
        return "no need to"
    if all(row.guarded[name].sent == 1 for name in again if name != "429"):
        return "no"
    return "by its header" if all(row.failures[name].marked for name in again) else "by its content"


def counted(row: Row, name: str) -> str:
    """The requests of one call that fails like this, and how many of them a guard let through, if not all."""
    requests, guarded = row.failures[name].requests, row.guarded.get(name)
    if guarded is None or guarded.sent == requests:
        return str(requests)
    return f"{requests}, guarded {guarded.sent}"


def cells(row: Row) -> list[str]:
    """A row's texts."""
    asked = {row.lacks.requests, row.unknown.requests}
    return [
        f"{row.sdk.name} {row.version}",
        row.sdk.takes or "no",
        f"{row.status}, {UNKNOWN}",
        "/".join(map(str, sorted(asked))),
        f"`{row.lacks.error}`",
        shows_words(row),
        *(counted(row, name) for name in FAILURES),
        recognized(row),
    ]


def markdown(rows: list[Row]) -> str:
    """The table of some SDKs."""
    head = ["SDK", "a transport gets in by", "refusals", "asked", "error for lack of credits"]
    head += ["our sentence", *FAILURES, "its repeats are recognised"]
    lines = [head, ["---"] * len(head), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def over_it(client: Any, transport: Any) -> None:
    """Put a transport, if there is one, into an SDK's own client."""
    if transport is not None:
        client._transport = transport


# What each SDK calls. Imports are late, because few environments have all of them.


def _openai(url: str, transport: Any) -> Call:
    import httpx2
    import openai

    http = httpx2.Client(transport=transport)
    client = openai.OpenAI(api_key=KEY, base_url=f"{url}/v1", http_client=http)
    return partial(client.chat.completions.create, model="m", messages=_HELLO)  # type: ignore[call-overload]


def _anthropic(url: str, transport: Any) -> Call:
    import anthropic
    import httpx2

    http = httpx2.Client(transport=transport)
    client = anthropic.Anthropic(api_key=KEY, base_url=url, http_client=http)
    return partial(client.messages.create, model="m", max_tokens=9, messages=_HELLO)  # type: ignore[call-overload]


def _openrouter(url: str, transport: Any) -> Call:
    from openrouter import OpenRouter

    client = OpenRouter(api_key=KEY, server_url=url, client=httpx.Client(transport=transport))
    return partial(client.chat.send, model="m", messages=_HELLO)


def _elevenlabs(url: str, transport: Any) -> Call:
    from elevenlabs import ElevenLabs

    http = httpx.Client(transport=transport)
    client = ElevenLabs(api_key=KEY, base_url=url, httpx_client=http)
    return partial(client.text_to_speech.convert_with_timestamps, "voice", text="Hello")


def _elevenlabs_upload(url: str, transport: Any) -> Call:
    from elevenlabs import ElevenLabs

    http = httpx.Client(transport=transport)
    client = ElevenLabs(api_key=KEY, base_url=url, httpx_client=http)
    return partial(client.speech_to_text.convert, model_id="scribe_v1", file=b"sound")


def _deepgram(url: str, transport: Any) -> Call:
    from deepgram import DeepgramClient
    from deepgram.environment import DeepgramClientEnvironment

    client = DeepgramClient(
        api_key=KEY,
        httpx_client=httpx.Client(transport=transport),
        environment=DeepgramClientEnvironment(base=url, production=url, agent=url, agent_rest=url),
    )
    return partial(client.listen.v1.media.transcribe_url, url="https://example.com/a.wav")


def _apify(url: str, transport: Any) -> Call:
    from apify_client import ApifyClient
    from apify_client.http_clients import Httpx2HttpClient

    http = Httpx2HttpClient(token=KEY)
    over_it(http._httpx2_client, transport)
    client = ApifyClient.with_custom_http_client(token=KEY, api_url=url, http_client=http)
    return partial(client.actor("me/actor").start, run_input={"a": 1})


def _hyperbrowser(url: str, transport: Any) -> Call:
    from hyperbrowser import Hyperbrowser

    client = Hyperbrowser(api_key=KEY, base_url=url)
    over_it(client.transport.client, transport)
    return client.sessions.create


def _browser_use(url: str, transport: Any) -> Call:
    from browser_use_sdk.v3 import BrowserUse

    client = BrowserUse(KEY, base_url=url)
    over_it(client._http._client, transport)
    return partial(client.sessions.create, "Look")


def _fal(url: str, transport: Any) -> Call:
    from fal_client import SyncClient
    from fal_client import client as module

    module.RUN_URL_FORMAT = f"{url}/"
    client = SyncClient(key=KEY)
    over_it(client._client, transport)
    return partial(client.run, "fal-ai/flux", {"prompt": "x"})


def _replicate(url: str, transport: Any) -> Call:
    import replicate

    client = replicate.Client(api_token=KEY, base_url=url, transport=transport)
    return partial(client.predictions.create, version="v", input={"a": 1})


def _runwayml(url: str, transport: Any) -> Call:
    from runwayml import RunwayML

    http = httpx.Client(transport=transport)
    client = RunwayML(api_key=KEY, base_url=url, http_client=http)
    return partial(
        client.text_to_image.create, model="gen4_image", prompt_text="x", ratio="1920:1080"
    )


def _lumaai(url: str, transport: Any) -> Call:
    from lumaai import LumaAI

    http = httpx.Client(transport=transport)
    client = LumaAI(auth_token=KEY, base_url=url, http_client=http)
    return partial(client.generations.create, model="ray-2", prompt="x")


def _anchorbrowser(url: str, transport: Any) -> Call:
    from anchorbrowser import Anchorbrowser

    http = httpx.Client(transport=transport)
    client = Anchorbrowser(api_key=KEY, base_url=url, http_client=http)
    return client.sessions.create_session


def _firecrawl(url: str, _: Any) -> Call:
    from firecrawl import Firecrawl

    return partial(Firecrawl(api_key=KEY, api_url=url).scrape, "https://example.com")


def _tavily(url: str, _: Any) -> Call:
    from tavily import TavilyClient

    return partial(TavilyClient(KEY, api_base_url=url).search, "x")


def _linkup(url: str, _: Any) -> Call:
    from linkup import LinkupClient

    client = LinkupClient(api_key=KEY, base_url=url)
    return partial(client.search, "x", depth="standard", output_type="searchResults")


def _exa(url: str, _: Any) -> Call:
    from exa_py import Exa

    return partial(Exa(KEY, base_url=url).search, "x")


def _predev(url: str, _: Any) -> Call:
    from predev_api import PredevAPI

    return partial(PredevAPI(KEY, base_url=url).fast_spec, "x")


def _async_openrouter(url: str, transport: Any) -> Call:
    from openrouter import OpenRouter

    async def call() -> None:
        http = httpx.AsyncClient(transport=transport)
        client = OpenRouter(api_key=KEY, server_url=url, async_client=http)
        await client.chat.send_async(model="m", messages=_HELLO)

    return call


def _async_elevenlabs(url: str, transport: Any) -> Call:
    from elevenlabs import AsyncElevenLabs

    async def call() -> None:
        http = httpx.AsyncClient(transport=transport)
        client = AsyncElevenLabs(api_key=KEY, base_url=url, httpx_client=http)
        await client.text_to_speech.convert_with_timestamps("voice", text="Hello")

    return call


def _async_deepgram(url: str, transport: Any) -> Call:
    from deepgram import AsyncDeepgramClient
    from deepgram.environment import DeepgramClientEnvironment

    where = DeepgramClientEnvironment(base=url, production=url, agent=url, agent_rest=url)

    async def call() -> None:
        http = httpx.AsyncClient(transport=transport)
        client = AsyncDeepgramClient(api_key=KEY, httpx_client=http, environment=where)
        await client.listen.v1.media.transcribe_url(url="https://example.com/a.wav")

    return call


def _async_apify(url: str, transport: Any) -> Call:
    from apify_client import ApifyClientAsync
    from apify_client.http_clients import Httpx2HttpClientAsync

    async def call() -> None:
        http = Httpx2HttpClientAsync(token=KEY)
        over_it(http._httpx2_async_client, transport)
        client = ApifyClientAsync.with_custom_http_client(token=KEY, api_url=url, http_client=http)
        await client.actor("me/actor").start(run_input={"a": 1})

    return call


def _async_browser_use(url: str, transport: Any) -> Call:
    from browser_use_sdk.v3 import AsyncBrowserUse

    async def call() -> None:
        client = AsyncBrowserUse(KEY, base_url=url)
        over_it(client._http._client, transport)
        await client.sessions.create("Look")

    return call


def _async_fal(url: str, transport: Any) -> Call:
    from fal_client import AsyncClient
    from fal_client import client as module

    async def call() -> None:
        module.RUN_URL_FORMAT = f"{url}/"
        client = AsyncClient(key=KEY)
        http = await client._client
        over_it(http, transport)
        await client.run("fal-ai/flux", {"prompt": "x"})

    return call


SDKS = [
    SDK("openai", _openai, _OPTION),
    SDK("anthropic", _anthropic, _OPTION),
    SDK("anchorbrowser", _anchorbrowser, _OPTION, "AnchorBrowser"),
    SDK("runwayml", _runwayml, _OPTION),
    SDK("lumaai", _lumaai, _OPTION),
    SDK("openrouter", _openrouter, _OPTION, "OpenRouter"),
    SDK("openrouter", _async_openrouter, _OPTION, "OpenRouter", way="async"),
    SDK("elevenlabs", _elevenlabs, _OPTION, "ElevenLabs"),
    SDK("elevenlabs", _async_elevenlabs, _OPTION, "ElevenLabs", way="async"),
    SDK("elevenlabs", _elevenlabs_upload, _OPTION, "ElevenLabs", way="upload"),
    SDK("deepgram-sdk", _deepgram, _OPTION),
    SDK("deepgram-sdk", _async_deepgram, _OPTION, way="async"),
    SDK("replicate", _replicate, _OPTION),
    SDK("apify-client", _apify, _ATTRIBUTE),
    SDK("apify-client", _async_apify, _ATTRIBUTE, way="async"),
    SDK("browser-use-sdk", _browser_use, _ATTRIBUTE, "BrowserUse"),
    SDK("browser-use-sdk", _async_browser_use, _ATTRIBUTE, "BrowserUse", way="async"),
    SDK("fal-client", _fal, _ATTRIBUTE),
    SDK("fal-client", _async_fal, _ATTRIBUTE, way="async"),
    SDK("hyperbrowser", _hyperbrowser, _ATTRIBUTE),
    SDK("predev-api", _predev, "", "PreDev"),
    SDK("exa-py", _exa),
    SDK("firecrawl-py", _firecrawl, "", "Firecrawl"),
    SDK("linkup-sdk", _linkup),
    SDK("tavily-python", _tavily, "", "Tavily"),
]


def table(names: list[str]) -> str:
    """The table of these packages, or of all of them."""
    stub, rows = Stub(), []
    with hand_clock() as clock, no_pauses(clock):
        for sdk in SDKS:
            if names and sdk.package not in names:
                continue
            try:
                rows.append(measure(sdk, stub, clock))
            except ImportError as error:
                sys.stderr.write(f"{sdk.name} is left out: {error}\n")
    stub.close()
    return markdown(rows)


if __name__ == "__main__":
    # The SDKs' warnings about failed requests.
    logging.disable()
    os.environ["NO_PROXY"] = "127.0.0.1"
    sys.stdout.write(table(sys.argv[1:]))
