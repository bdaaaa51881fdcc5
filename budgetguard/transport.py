"""HTTP transports that set a request's credits aside before it leaves: for httpx and for httpx2.

What a request costs, and what a reply says about it, the provider's `wire` knows. A hold belongs to
the logical call: a retry by an SDK finds the hold of the attempt whose outcome is unknown.
"""

import importlib
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from budgetguard import nested
from budgetguard.credits import cost as to_cost
from budgetguard.discreet import discreet
from budgetguard.errors import BudgetGuardError
from budgetguard.events import logger
from budgetguard.guard import Guard, check_guard
from budgetguard.hold import Hold, NoHold
from budgetguard.likeness import seen_as
from budgetguard.origin import check_base_url
from budgetguard.plain import check_plain
from budgetguard.problem import retry_after
from budgetguard.redirects import KEY, Course, Onward, followers, is_redirect
from budgetguard.requirement import check_terms
from budgetguard.retries import Parked, mark_of
from budgetguard.routes import Routes
from budgetguard.streams import watched
from budgetguard.switch import SWITCH
from budgetguard.wire import DID_NOTHING, PAYMENT_REQUIRED, Price, Prices, Terms, Wire, read
from budgetguard.wrong import other

if TYPE_CHECKING:
    # Of neither library's transports, and taken for either's by type checkers.
    from typing import Any as _Base

    from budgetguard.clock import Instant
    from budgetguard.requirement import Requirement
else:
    _Base = object

OnRefusal: TypeAlias = Literal["answer", "raise"]

_RETRY_COUNT = "x-stainless-retry-count"
_MOST_READ = 8 * 1024 * 1024
_PASSED_BY = "requests to %s are not guarded: this transport guards those to %s"
_ASKED_BY_CLIENTS = {"__enter__", "__aenter__", "handle_request", "handle_async_request"}
_LIBRARIES = ("httpx", "httpx2")
_PORTS = {"https": 443, "http": 80}
# A websocket begins with a GET to the same place (RFC 6455, 3 and 4.1).
_PLAIN = {"wss": "https", "ws": "http"}


class _Transport(_Base):  # type: ignore[misc]
    """What both transports are made of."""

    _kind: str
    _base: str
    _sends: str

    @discreet
    def __init__(
        self,
        guard: Guard,
        *,
        transport: Any = None,
        prices: Prices | None = None,
        base_url: str | None = None,
        on_refusal: OnRefusal = "answer",
    ) -> None:
        if isinstance(transport, type) or not (
            transport is None or hasattr(transport, self._sends)
        ):
            msg = f"transport takes an object with {self._sends}, not {_described(transport)}"
            raise TypeError(msg)
        self._made = {} if transport is None else {"behind": transport}
        self._traffic = _Traffic(guard, prices, base_url, on_refusal)

    if not TYPE_CHECKING:  # who checks types takes it for either library's already

        @property
        def __class__(self) -> type:
            """Of each library's kind of transport, for those who compose transports and check."""
            kind = type(self)
            return seen_as(kind, _LIBRARIES, kind._base)  # noqa: SLF001  its own

    def __getattr__(self, name: str) -> Any:
        msg = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name in _ASKED_BY_CLIENTS:
            msg += ": Client takes a GuardTransport, AsyncClient an AsyncGuardTransport"
        raise AttributeError(msg, name=name, obj=self)

    @property
    def _inner(self) -> Any:
        return self._made.get("behind")

    def _behind(self, request: Any) -> Any:
        """The transport that sends; made on first use, of the library that the request is of."""
        if self._inner is None:
            # Atomic, and no lock, which a fork could leave locked: of two, one is never used.
            self._made.setdefault("behind", getattr(_library(request), self._kind)())
        return self._inner


class GuardTransport(_Transport):
    """Guards the requests of `httpx.Client(transport=GuardTransport(guard))`, and of httpx2's.

    `transport` is what sends, by default a new `HTTPTransport()`; settings that a client has for
    its own transport (verify, proxies, HTTP/2) are to be given to that one. `prices` maps (method,
    path pattern) to a cost in credits, to the arguments of `require_credits` in a mapping, or to a
    callable given the request that returns one of these, or None for nothing; default are the
    provider's, such as `PreDev.prices`. Callables in a mapping are given the request too. `slots`,
    `actual` and `release_on` are refused.
    Guarded are requests to the origin of `base_url`, by default the provider's, websockets (`ws://`,
    `wss://`) among them: these are priced by a key for GET, which they begin with, or for WEBSOCKET.
    All others pass untouched, the first one told in the log at INFO, and those that a client's own
    `proxy` or `mounts` take come not this way.

    A refusal is a reply that never left: 402 (503 where the balance is unknown) in the provider's own
    shape, which SDKs do not retry. With `on_refusal="raise"` it is the BudgetGuardError, which openai
    lets through; anthropic and anchorbrowser take it for a broken connection, try again, and raise an
    APIConnectionError whose `__cause__` it is (2026-11). A call is settled when its reply has been read
    to its end, at what the reply says, or else at its cost; kept when it broke off, timed out or goes
    on behind the reply, a websocket's included; released where no connection was made or the provider
    refused it. A 402 for want of credits marks the guard exhausted. Takes no slots.

    A redirected request and the one that follows it, by whichever client or by hand, are one call. 307
    and 308 did nothing: its credits are released, and held anew for what follows, at the first price
    where its own path or origin has none. After 301, 302 and 303 what follows goes by the hold that
    there is, which is kept, 65 s later, if nothing does.

    An instance is one of `httpx.BaseTransport` and of `httpx2.BaseTransport` to `isinstance`.

    Raises TypeError, ValueError or ConfigurationError for arguments that cannot be.
    """

    _kind = "HTTPTransport"
    _base = "BaseTransport"
    _sends = "handle_request"

    def handle_request(self, request: Any) -> Any:
        """Send a request, if its credits can be set aside."""
        inner, call = self._behind(request), self._traffic.call(request)
        if call is None:
            return inner.handle_request(request)
        try:
            if call.is_priced_by_content:
                request.read()
            requirement = call.requirement()
            if requirement is not None:
                call.begin(requirement.open(call.operation, (request,)))
        except BudgetGuardError as error:
            return call.refused(error)
        with call:
            response = inner.handle_request(request)
        return call.received(response)

    def close(self) -> None:
        """Close the transport behind; calls whose outcome is unknown are kept."""
        self._traffic.parked.keep_all()
        if self._inner is not None:
            self._inner.close()

    def __enter__(self) -> Self:
        if self._inner is not None:
            self._inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._traffic.parked.keep_all()
        if self._inner is not None:
            self._inner.__exit__(kind, error, traceback)


class AsyncGuardTransport(_Transport):
    """GuardTransport, for `AsyncClient`; on asyncio and trio."""

    _kind = "AsyncHTTPTransport"
    _base = "AsyncBaseTransport"
    _sends = "handle_async_request"

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request, if its credits can be set aside."""
        inner, call = self._behind(request), self._traffic.call(request)
        if call is None:
            return await inner.handle_async_request(request)
        try:
            if call.is_priced_by_content:
                await request.aread()
            requirement = call.requirement()
            if requirement is not None:
                call.begin(await requirement.aopen(call.operation, (request,)))
        except BudgetGuardError as error:
            return call.refused(error)
        with call:
            response = await inner.handle_async_request(request)
        return call.received(response)

    async def aclose(self) -> None:
        """Close the transport behind; calls whose outcome is unknown are kept."""
        self._traffic.parked.keep_all()
        if self._inner is not None:
            await self._inner.aclose()

    async def __aenter__(self) -> Self:
        if self._inner is not None:
            await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._traffic.parked.keep_all()
        if self._inner is not None:
            await self._inner.__aexit__(kind, error, traceback)


class _Traffic:
    """What is the same for all requests: guard, prices, origin, and calls that may be tried again."""

    def __init__(
        self, guard: Guard, prices: Prices | None, base_url: str | None, on_refusal: OnRefusal
    ) -> None:
        check_guard(guard)
        if on_refusal not in {"answer", "raise"}:
            msg = f"on_refusal must be 'answer' or 'raise', not {other(on_refusal)}"
            raise ValueError(msg)
        provider = guard.provider
        prices = getattr(provider, "prices", None) if prices is None else prices
        url = getattr(provider, "base_url", None) if base_url is None else base_url
        if prices is None or url is None:
            lacking = "prices" if prices is None else "base_url"
            msg = f"{guard.asker.provider} has no {lacking} of its own: pass {lacking}="
            raise TypeError(msg)
        if not prices:
            msg = 'prices names no request: {("POST", "/deep-spec"): 50}'
            raise ValueError(msg)
        self.guard = guard
        self.wire: Wire = getattr(provider, "wire", None) or Wire()
        self.raises = on_refusal == "raise"
        self.parked = Parked(guard)
        self._routes: Routes[Price] = Routes(prices)
        for (method, path), price in prices.items():
            if callable(price):
                check_plain(price, f"the price of {method} {path}")
            else:
                _requirement(guard, price, f"{method} {path}")
        self._origin, self._below = _origin(check_base_url(url))
        self._address = url
        self._has_said = False

    def call(self, request: Any) -> "_Call | None":
        """The call that a request makes or goes on with; None where it is none of the provider's."""
        if SWITCH.passive:
            return None
        onward = self._onward(request)
        if onward is not None and onward.waiting is not None:
            return _Call(onward.traffic, request, onward.course, onward.waiting.hold)
        path = self._path(request.url)
        price = None if path is None else self._price(request, path)
        if onward is not None and price is None:
            # It is the call all the same, though it is carried out elsewhere.
            return _Call(onward.traffic, request, onward.course)
        if path is None:
            self._passed_by(request.url)
            return None
        return _Call(self, request, Course(f"{request.method} {path}", path, price))

    def _onward(self, request: Any) -> Onward | None:
        """What a request goes by that follows a redirect; nobody else goes by it then."""
        onward: Onward | None = request.extensions.pop(KEY, None)
        # Not the request itself that was redirected, sent once more.
        if onward is not None and onward.answered() is not request:
            waiting = onward.waiting
            if waiting is None or onward.traffic.parked.claim(waiting):
                return onward
        by_hand = self.parked.take(request, again=False)
        return None if by_hand is None else replace(by_hand.onward, waiting=by_hand)

    def _path(self, url: Any) -> str | None:
        """What an address is below the base URL; None where it is not."""
        scheme, path = str(_PLAIN.get(url.scheme, url.scheme)), url.path
        is_below = path == self._below or path.startswith(f"{self._below}/")
        if (scheme, url.host, url.port or _PORTS.get(scheme)) != self._origin or not is_below:
            return None
        return str(path.removeprefix(self._below))

    def _price(self, request: Any, path: str) -> Price | None:
        upgrade = request.headers.get("upgrade", "").lower()
        is_websocket = request.url.scheme in _PLAIN or upgrade == "websocket"
        also = ("WEBSOCKET",) if is_websocket else ()
        return self._routes.find((request.method, *also), path)

    def _passed_by(self, url: Any) -> None:
        """Say once that a request is none of this guard's: its address may be mistaken."""
        if not self._has_said:
            self._has_said = True
            logger.info(_PASSED_BY, f"{url.scheme}://{url.netloc.decode()}", self._address)


class _Call:
    """One request on its way; as a context manager, around the sending of it."""

    def __init__(
        self, traffic: _Traffic, request: Any, course: Course, hold: Hold | None = None
    ) -> None:
        self.operation = course.operation
        self.hold: Hold = NoHold(self.operation, 0) if hold is None else hold
        self._goes_on = hold is not None
        self._traffic = traffic
        self._request = request
        self._course = course
        self._sent: Instant = traffic.guard.runtime.clock.now()

    @property
    def is_priced_by_content(self) -> bool:
        """Whether the price depends on the request, which then has to be there as a whole."""
        price = self._course.price
        if self._goes_on or price is None:
            return False
        return callable(price) or (
            isinstance(price, Mapping) and any(map(callable, price.values()))
        )

    def requirement(self) -> "Requirement | None":
        """What there is to be admitted; None where it is nothing, or goes by a hold that there is."""
        if self._goes_on:
            return None
        price = self._course.price
        terms = price(self._request) if callable(price) else price
        if terms is None:
            return None
        if self._request.headers.get(_RETRY_COUNT, "0") != "0":
            earlier = self._traffic.parked.take(self._request, again=True)
            if earlier is not None:
                earlier.hold.keep_attempt()
                self.hold = earlier.hold
                return None
        return _requirement(self._traffic.guard, terms, self.operation)

    def begin(self, hold: Hold) -> None:
        """The call was let in."""
        # Its reply is read later, and other calls may be made before that.
        nested.step_out(hold)
        self.hold = hold

    def refused(self, error: BudgetGuardError) -> Any:
        """The reply that stands for a refusal, or the refusal itself."""
        if self._traffic.raises:
            raise error
        headers = {"x-should-retry": "false", **retry_after(error)}
        body = self._traffic.wire.refusal(self._course.path, error)
        response = _library(self._request).Response
        return response(error.status_code, headers=headers, json=body, request=self._request)

    def __enter__(self) -> None:
        self._sent = self._traffic.guard.runtime.clock.now()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        library = _library(self._request)
        never_made = library.ConnectError, library.ConnectTimeout, library.PoolTimeout
        if isinstance(error, (*never_made, library.ProxyError)) and not self._course.maybe_done:
            self._end("release")
        elif not isinstance(error, library.TransportError) or not self._park():
            self.hold.finish(error)

    def received(self, response: Any) -> Any:
        """A reply begins: it is watched to its end, if that says anything about credits."""
        traffic = self._traffic
        remaining = traffic.wire.remaining(response.headers)
        if remaining is not None:
            traffic.guard.account.offer(remaining, self._sent)
        unpriced = isinstance(self.hold, NoHold)
        if unpriced and response.status_code != PAYMENT_REQUIRED:
            return response
        if is_redirect(response):
            self._sent_on(response)
            return response
        return watched(response, _library(self._request), partial(self._over, response), _MOST_READ)

    def _sent_on(self, response: Any) -> None:
        """The provider names another place; what follows there goes on with this call."""
        traffic, request, status = self._traffic, self._request, response.status_code
        course = self._course.after(request, status)
        onward = Onward(traffic, course, weakref.ref(request))
        if status in DID_NOTHING and not course.maybe_done:
            self._end("release")
        elif self.hold.state == "open":
            marks = followers(request, response)
            onward = replace(onward, waiting=traffic.parked.put(self.hold, *marks, onward=onward))
        request.extensions[KEY] = onward

    def _over(self, response: Any, complete: bool, content: bytes | None) -> None:  # noqa: FBT001
        """The reply has come to its end, or nobody reads on."""
        try:
            status, headers = response.status_code, response.headers
            asked = self._request.content if self.is_priced_by_content else None
            path = self._course.path
            reply = read(path, status, headers, content, complete=complete, asked=asked)
            wire = self._traffic.wire
            if wire.exhausted(reply):
                self._traffic.guard.mark_exhausted()
            end = wire.end(reply)
            if end == "release" and self._course.maybe_done:
                end = "keep"
            if end == "keep" and _may_be_tried_again(reply.status) and self._park():
                return
            self._end(end)
        except Exception:  # noqa: BLE001
            # The reply is the caller's all the same.
            logger.exception("the reply to %s could not be read; its hold is kept", self.operation)
            self.hold.finish(RuntimeError())

    def _park(self) -> bool:
        """Set the hold aside for a retry, where one may come."""
        if isinstance(self.hold, NoHold) or _RETRY_COUNT not in self._request.headers:
            return False
        self._traffic.parked.put(self.hold, self._course.attempt or mark_of(self._request))
        return True

    def _end(self, end: Any) -> None:
        hold = self.hold
        if hold.state != "open":
            return
        if end == "keep":
            hold.keep()
        elif end == "release":
            hold.release()
        else:
            hold.settle_micro(hold.micro if end == "cost" else to_cost(end, "the reply's credits"))


def _requirement(guard: Guard, terms: Terms, operation: str) -> "Requirement":
    terms = terms if isinstance(terms, Mapping) else {"min": terms}
    try:
        return guard.require_credits(**_heard(terms))
    except (TypeError, ValueError) as error:
        error.add_note(f"in the price of {operation}")
        raise


def _heard(terms: Mapping[str, Any]) -> Mapping[str, Any]:
    check_terms(terms)
    if "slots" in terms:
        msg = "a transport takes no slots: a session outlives the request that opens it"
        raise TypeError(msg)
    for unheard in {"actual", "release_on", "until"} & terms.keys():
        msg = f"a transport takes no {unheard}: the provider's wire says what a reply means"
        raise TypeError(msg)
    return terms


def _described(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def _may_be_tried_again(status: int) -> bool:
    """Whether SDKs made by Stainless send a request again after this reply (openai 3.54, 2026-11)."""
    return status in {408, 409, 429} or status >= 500  # noqa: PLR2004


def _library(request: Any) -> Any:
    """The one of httpx and httpx2 that a request is of, also by a class derived from its own."""
    modules = (kind.__module__.partition(".")[0] for kind in type(request).__mro__)
    return importlib.import_module(next(each for each in modules if each in _LIBRARIES))


def _origin(base_url: str) -> tuple[tuple[str, str, int | None], str]:
    """Scheme, host and port of a checked base URL, and the path that all its requests are below."""
    import httpx

    url = httpx.URL(base_url)
    port = url.port or _PORTS[url.scheme]
    return (url.scheme, url.host, port), url.path.rstrip("/")
