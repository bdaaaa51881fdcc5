"""Firecrawl's SDK, with a guard before every request that costs credits."""

import copy
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import httpx

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._engine.binding import binding_of
from budgetguard.guard import check_guard
from budgetguard.integrations._extra import extra
from budgetguard.providers.billing import Prices
from budgetguard.providers.firecrawl.provider import Firecrawl
from budgetguard.routes import Routes
from budgetguard.transport import AsyncGuardTransport, GuardTransport

if TYPE_CHECKING:
    from budgetguard.guard import Guard

with extra("firecrawl"):
    import firecrawl
    import requests
    from firecrawl.v2.client import FirecrawlClient
    from firecrawl.v2.client_async import AsyncFirecrawlClient
    from firecrawl.v2.utils.http_client import HttpClient
    from firecrawl.v2.utils.http_client_async import AsyncHttpClient

    from budgetguard.integrations._requests import never_connected

C = TypeVar("C")

_WHOLE = (firecrawl.Firecrawl, firecrawl.AsyncFirecrawl)
_V2 = (FirecrawlClient, AsyncFirecrawlClient)
_SDK_CALL: Final = "budgetguard.sdk_call"
_ENCODED = frozenset({"content-encoding", "content-length", "transfer-encoding"})


@clean_traceback
def guarded(
    client: C,
    guard: "Guard",
    *,
    prices: Prices | None = None,
    send_cap: bool = False,
    follow: bool = True,
) -> C:
    """A client that refuses requests which its credits do not cover, and settles each at its real cost.

    `client` is a `Firecrawl`, an `AsyncFirecrawl`, or a client of its API v2. It is not changed; the copy
    that is returned sends through the same HTTP client. The guard is before each request, so it makes no
    difference which method sends it: `crawl`, `start_crawl` and the names of API v1 are held alike. What
    is refused raises a BudgetGuardError, as everywhere; `scrape_alexandria` alone raises a FirecrawlError
    whose `__cause__` it is.

    `prices`, `send_cap` and `follow` are those of `GuardTransport`, which describes what becomes of a hold.
    The default of `prices` is that of the guard's provider, or else `Firecrawl.prices`; give more as
    `prices={**Firecrawl.prices, ("POST", "/v2/extract"): 200}`. With `send_cap=True`, what is held is sent
    as the limit of a crawl, of a search, of an agent's credits and of a PDF's pages. For that, price a
    crawl at what you can spare: `{"min": 50, "lag": Firecrawl.JOB_LAG, "linger": Firecrawl.JOB_LINGER}`.

    A crawl is followed to its end by the requests for its status that this client sends, such as those of
    `crawl` itself, and by the library's own if there are none; the latter need the guard's provider to have
    the URL to which the client sends. If the provider is one of your own, its `billing` reads the replies:
    `Firecrawl.billing` is the one that knows them.

    A request that has a price is sent once, whatever the client's `max_retries` are: after a lost reply,
    the SDK would send it again, without an idempotency key, and start a second crawl (firecrawl-py 4.55,
    2026-11). If no connection was made, the hold is released, and you may call again.

    The client's v1 part (`client.v1`) is not guarded, and raises AttributeError here.

    Raises TypeError if `client` is none of these or is already guarded, if its version of the SDK has other
    HTTP clients than those of 4.55, or if the guard is for an account at another built-in provider;
    otherwise as `GuardTransport` does.
    """
    check_guard(guard, Firecrawl)
    if not isinstance(client, (*_WHOLE, *_V2)):
        msg = f"guarded() takes a client of firecrawl-py, not {_described(client)}"
        raise TypeError(msg)
    if isinstance(getattr(getattr(client, "_v2_client", client), "http_client", None), _HTTP):
        msg = f"this {type(client).__name__} is already guarded: pass the unguarded object"
        raise TypeError(msg)
    default = binding_of(guard).provider.prices or Firecrawl.billing.prices
    priced = default if prices is None else prices
    guarding = _Guarding(guard, priced, send_cap=send_cap, follow=follow)
    return cast("C", guarding.copied(client))


@dataclass(slots=True)
class _Guarding:
    """How the requests of one client are guarded."""

    guard: "Guard"
    prices: Prices
    send_cap: bool
    follow: bool

    def copied(self, client: Any) -> Any:
        """A copy of the client whose requests are guarded."""
        if isinstance(client, _V2):
            return self._copied_v2(client)
        inner = _part(client, "_v2_client", _V2)
        here, copied = self._copied_v2(inner), copy.copy(client)
        for name, value in vars(client).items():
            if value is inner:
                setattr(copied, name, here)
            elif getattr(value, "__self__", None) is inner:
                setattr(copied, name, MethodType(value.__func__, here))
        copied.v2 = type(client.v2)(here)
        # Its property would make an unguarded one.
        copied._v1 = _NoV1()  # noqa: SLF001
        return copied

    def _copied_v2(self, client: Any) -> Any:
        copied = copy.copy(client)
        copied.http_client = _GuardedHTTP(_part(client, "http_client", (HttpClient,)), self)
        if isinstance(client, AsyncFirecrawlClient):
            inner = _part(client, "async_http_client", (AsyncHttpClient,))
            copied.async_http_client = _AsyncGuardedHTTP(inner, self)
        return copied

    def transport(self, kind: Callable[..., Any], behind: object, base_url: str) -> Any:
        """The transport that guards what is sent to this URL."""
        return kind(
            self.guard,
            transport=behind,
            prices=self.prices,
            base_url=base_url,
            on_refusal="raise",
            send_cap=self.send_cap,
            follow=self.follow,
        )


class _NoV1:
    """Takes the place of the client of API v1, which has no HTTP client that could be guarded."""

    def __getattr__(self, name: str) -> Any:
        msg = (
            f"the guarded client has no v1.{name}: API v1 is not guarded. Use the client's own methods, "
            "which send to API v2, or make a client for v1 that is not guarded"
        )
        raise AttributeError(msg, name=name, obj=self)


class _SDKCall:
    """One request that the SDK's HTTP client is asked for; it is sent when the guard has admitted it."""

    def __init__(
        self,
        send: Callable[..., Any],
        endpoint: str,
        data: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> None:
        self._send = send
        self._endpoint = endpoint
        self._data = data
        self._options = options
        self.request: httpx.Request | None = None
        self.reply: Any = None
        self.error: Exception | None = None

    def send(self, request: httpx.Request) -> Any:
        """Send it, with the content of the request that was admitted."""
        data = self._data
        if data is not None:
            if request is not self.request:
                data = json.loads(request.content)
            return self._send(self._endpoint, data, **self._options)
        return self._send(self._endpoint, **self._options)


class _HTTP:
    """Takes the place of one of the SDK's HTTP clients, which sends what is admitted."""

    def __init__(self, inner: Any, guarding: _Guarding, base_url: str, kind: Any) -> None:
        self._inner = inner
        self._priced = Routes(guarding.prices)
        self._below = httpx.URL(base_url).path.rstrip("/")
        self._transport = guarding.transport(kind, self, base_url)

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            # A copy that is being made has none yet.
            raise AttributeError(name)
        # Such as its key, address and headers, which the SDK's functions ask for.
        return getattr(self._inner, name)

    def post(self, endpoint: str, data: Mapping[str, Any], **options: Any) -> Any:
        return self._sent("post", endpoint, data, options)

    def patch(self, endpoint: str, data: Mapping[str, Any], **options: Any) -> Any:
        return self._sent("patch", endpoint, data, options)

    def post_multipart(self, endpoint: str, **options: Any) -> Any:
        return self._sent("post_multipart", endpoint, None, options)

    def get(self, endpoint: str, **options: Any) -> Any:
        return self._sent("get", endpoint, None, options)

    def delete(self, endpoint: str, **options: Any) -> Any:
        return self._sent("delete", endpoint, None, options)

    def _sent(
        self, name: str, endpoint: str, data: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> Any:
        method = name.partition("_")[0].upper()
        url = self._url(endpoint)
        if self._priced.find(method, url.path.removeprefix(self._below)) is not None:
            options["retries"] = 1
        call = _SDKCall(getattr(self._inner, name), endpoint, data, options)
        content: dict[str, Any] = {} if data is None else {"json": dict(data)}
        call.request = httpx.Request(method, url, extensions={_SDK_CALL: call}, **content)
        return self._through(call)

    def _url(self, endpoint: str) -> httpx.URL:
        raise NotImplementedError

    def _through(self, call: _SDKCall) -> Any:
        raise NotImplementedError


class _GuardedHTTP(_HTTP):
    """For the SDK's client that uses requests."""

    def __init__(self, inner: Any, guarding: _Guarding) -> None:
        # This is the URL without its path, which the SDK drops (4.55, 2026-11).
        super().__init__(inner, guarding, str(_url_of(inner, "/")), GuardTransport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request that was admitted."""
        call: _SDKCall = request.extensions[_SDK_CALL]
        try:
            call.reply = reply = call.send(request)
        except requests.RequestException as error:
            call.error = error
            kind = httpx.ConnectError if never_connected(error) else httpx.ReadError
            raise kind(str(error), request=request) from error
        headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in reply.headers.items()
            if name.lower() not in _ENCODED
        ]
        return httpx.Response(
            reply.status_code, headers=headers, content=reply.content, request=request
        )

    def _url(self, endpoint: str) -> httpx.URL:
        return _url_of(self._inner, endpoint)

    def _through(self, call: _SDKCall) -> Any:
        try:
            self._transport.handle_request(call.request)
        except httpx.TransportError:
            if call.error is None:
                raise
            raise call.error from None
        return call.reply


class _AsyncGuardedHTTP(_HTTP):
    """For the SDK's client that uses httpx."""

    def __init__(self, inner: Any, guarding: _Guarding) -> None:
        self._client: httpx.AsyncClient = inner._client  # noqa: SLF001  it knows the base URL
        super().__init__(inner, guarding, str(self._client.base_url), AsyncGuardTransport)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request that was admitted."""
        call: _SDKCall = request.extensions[_SDK_CALL]
        reply: httpx.Response = await call.send(request)
        return reply

    def _url(self, endpoint: str) -> httpx.URL:
        return self._client.build_request("GET", _url_of(self._inner, endpoint)).url

    def _through(self, call: _SDKCall) -> Awaitable[Any]:
        sent: Awaitable[Any] = self._transport.handle_async_request(call.request)
        return sent


def _url_of(inner: Any, endpoint: str) -> httpx.URL:
    """Where the SDK's HTTP client sends a request; the async one gives a relative URL."""
    return httpx.URL(inner._build_url(endpoint))  # noqa: SLF001  it has no public method


def _part(client: Any, name: str, kinds: tuple[type, ...]) -> Any:
    """A part of a client that the SDK does not document; raises TypeError if it is of another kind."""
    part = getattr(client, name, None)
    if not isinstance(part, kinds):
        msg = (
            f"this version of firecrawl-py is not supported: {type(client).__name__}.{name} is "
            f"{_described(part)}, where 4.55 has {' or '.join(kind.__name__ for kind in kinds)}"
        )
        raise TypeError(msg)
    return part


def _described(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
