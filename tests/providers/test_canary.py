"""The key is searched for wherever a program may print something by accident."""

import copy
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import httpx
import pytest
from hostile import CASES, KEY, Case, Server, http, predev

from budgetguard._core.errors import BalanceUnavailable, ConfigurationError
from budgetguard._io.connections import make_client
from budgetguard._io.credentials import Secret
from budgetguard.providers import AnchorBrowser, HTTPBalance, OpenRouter, PreDev, Provider
from budgetguard.providers.registry import VENDORS, Vendor

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def _currency(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an account at another address than the vendor's, nobody knows it."""
    monkeypatch.setenv("MOONSHOT_CURRENCY", "USD")


def exceptions(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it is chained to."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if current is not None and current not in seen:
            seen.append(current)
            waiting += [current.__cause__, current.__context__]
            waiting += getattr(current, "exceptions", ())
    yield from seen


def library_frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    """The frames that are not this test's own, which of sequence knows the key."""
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(HERE):
            yield trace
        trace = trace.tb_next


def reachable(root: object, depth: int = 6) -> Iterator[object]:
    """What `vars`, containers and slots that are no secret's lead to."""
    seen: set[int] = set()
    waiting = [(root, depth)]
    while waiting:
        thing, left = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | Secret):
            continue
        seen.add(id(thing))
        yield thing
        if left == 0:
            continue
        inner: list[object] = []
        if isinstance(thing, dict):
            inner += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            inner += thing
        if hasattr(thing, "__dict__"):
            inner += vars(thing).values()
        inner += [getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ())]
        waiting += [(value, left - 1) for value in inner]


def leaks(root: object) -> list[str]:
    """The types of all that shows the key, in its repr or as bytes."""
    return [type(thing).__name__ for thing in reachable(root) if shows(thing)]


def shows(thing: object) -> bool:
    """Whether the key can be read off it."""
    text = thing.decode("latin-1") if isinstance(thing, bytes | bytearray) else repr(thing)
    return KEY in text


def check(error: BaseException) -> None:
    """Neither the error, nor its chain, frames, dump or printed traceback show the key."""
    for each in exceptions(error):
        assert KEY not in f"{each} {each!r} {each.args!r}"
        assert leaks(vars(each)) == []
        trace = each.__traceback__
        for frame in library_frames(trace):
            assert leaks(dict(frame.tb_frame.f_locals)) == [], frame.tb_frame.f_code.co_qualname
        first = next(library_frames(trace), None)
        report = traceback.TracebackException(type(each), each, first, capture_locals=True)
        assert KEY not in "".join(report.format())
        assert KEY.encode() not in pickle.dumps(each)
        assert KEY not in repr(vars(copy.copy(each)))


def providers(url: str, left: str = "nowhere") -> list[Provider]:
    """All the ways of asking."""
    return [
        *(vendor.make(KEY, base_url=url) for vendor in VENDORS.values()),
        AnchorBrowser(KEY, "p1", base_url=url),
        OpenRouter("another", KEY, base_url=url),
        HTTPBalance(url, left=left, headers={"authorization": f"Bearer {KEY}"}),
        HTTPBalance(url, left=left, headers={"x-a": "b", "x-key": KEY}),
        HTTPBalance(url, left=left, params={"a": "b", "key": KEY}),
        HTTPBalance(f"{url}/left?a=b&key={KEY}", left=left),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_no_refusal_shows_the_key(
    case: Case,
    serve: Callable[..., Server],
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With every logger at DEBUG, and servers that echo the key in their replies."""
    caplog.set_level(logging.DEBUG)
    server = serve(case.wire)
    for provider in providers(server.url):
        with pytest.raises(BalanceUnavailable) as caught:
            await provider.fetch(client)
        check(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    assert "httpcore" in caplog.text
    assert KEY not in caplog.text
    assert not any(KEY in repr(vars(record)) for record in caplog.records)


@pytest.mark.anyio
async def test_no_failure_to_connect_shows_the_key(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    """Refused connections, closed clients, and a transport that quotes its request."""
    caplog.set_level(logging.DEBUG)
    server = serve(b"")
    url = server.url
    server.close()

    def quote(request: httpx.Request) -> httpx.Response:
        msg = f"Illegal header value {request.headers!r} {request.headers.raw!r}"
        raise httpx.LocalProtocolError(msg, request=request)

    def bug(request: httpx.Request) -> httpx.Response:
        raise ValueError(request.headers.raw)

    closed = make_client(trust_env=False)
    await closed.aclose()
    clients = [make_client(trust_env=False), closed]
    clients += [httpx.AsyncClient(transport=httpx.MockTransport(each)) for each in (quote, bug)]
    for client in clients:
        for provider in providers(url):
            with pytest.raises(BalanceUnavailable) as caught:
                await provider.fetch(client)
            check(caught.value)
        await client.aclose()
    assert KEY not in caplog.text


@pytest.mark.anyio
async def test_no_success_shows_the_key(
    serve: Callable[..., Server], client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if the provider names the plan after it."""
    caplog.set_level(logging.DEBUG)
    fields = f'"credits": 5, "tier": "Plan of {KEY}"'
    body = f'{{"success": true, "creditsRemaining": 5, {fields}, "data": {{{fields}}}}}'
    own = (PreDev, AnchorBrowser, HTTPBalance)
    url = serve(http(200, body)).url
    for provider in (each for each in providers(url, "data.credits") if isinstance(each, own)):
        balance = await provider.fetch(client)
        assert balance.tier in (None, "Plan of ***")
        assert KEY not in repr(balance)
        assert KEY.encode() not in pickle.dumps(balance)
    assert leaks(client) == []
    assert KEY not in caplog.text


ANYWHERE: list[Callable[[str], Provider]] = [
    *(vendor.make for vendor in VENDORS.values()),
    lambda key: OpenRouter("another", key),
    lambda key: AnchorBrowser(key, "p1"),
    lambda key: HTTPBalance("https://x.example", left="a", headers={"authorization": key}),
    lambda key: HTTPBalance("https://x.example", left="a", params={"key": key}),
    lambda key: HTTPBalance(f"https://x.example?key={key}", left="a"),
]


@pytest.mark.parametrize("make", ANYWHERE)
def test_no_provider_shows_its_key(make: Callable[[str], Provider]) -> None:
    """Neither its repr, nor what a debugger or a dump of its attributes would print."""
    provider = make(KEY)
    shown = [repr(provider), str(provider), f"{provider}", repr(vars(provider)), repr([provider])]
    assert KEY not in "".join(shown)
    assert leaks(provider) == []
    for dump in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="is a secret") as caught:
            dump(provider)
        check_frames_of_ours(caught.value)


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=VENDORS)
@pytest.mark.parametrize(
    "key", [f"Bearer {KEY}", f"{KEY}\n{KEY}", f"{KEY}\x00", f"{KEY}é", KEY.encode(), [KEY]]
)
def test_no_error_at_construction_shows_the_key(
    vendor: Vendor, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools that print locals along with a traceback print those of constructors too."""
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        vendor.make(key)
    check_frames_of_ours(caught.value)
    if isinstance(key, str) and "\x00" not in key:
        monkeypatch.setenv(vendor.variable, key)
        with pytest.raises(ConfigurationError) as caught:
            vendor.make()
        check_frames_of_ours(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "http://api.example"},
        {"base_url": "https://user@api.example"},
        {"extra_credits": -1},
        {"extra_credits": "many"},
        {"trust_env": "false"},
        {"project_id": "../x"},
        {"project_id": KEY + "/"},
    ],
)
def test_no_error_about_something_else_shows_the_key(wrong: dict[str, str]) -> None:
    """The key was given rightly, and another argument was not."""
    with pytest.raises((ConfigurationError, TypeError, ValueError)) as caught:
        AnchorBrowser(KEY, **wrong)  # type: ignore[arg-type]
    if KEY not in str(wrong):
        check_frames_of_ours(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.anyio
async def test_the_walk_finds_a_key_where_there_is_one(serve: Callable[..., Server]) -> None:
    """Otherwise none of the above would mean a thing."""
    async with httpx.AsyncClient() as client:
        response = await client.get(serve(http(500)).url, headers={"x": KEY})
        with pytest.raises(httpx.HTTPStatusError) as caught:
            response.raise_for_status()
    with pytest.raises(AssertionError):
        check(caught.value)
    assert leaks(PreDev(KEY)) == []
    assert leaks({"a": [predev(KEY)]}) != []


def check_frames_of_ours(error: BaseException) -> None:
    """The same for errors that cannot be pickled or come through other libraries."""
    for each in exceptions(error):
        assert KEY not in f"{each} {each!r} {each.args!r}"
        for frame in library_frames(each.__traceback__):
            if "budgetguard" in frame.tb_frame.f_code.co_filename:
                assert leaks(dict(frame.tb_frame.f_locals)) == []
