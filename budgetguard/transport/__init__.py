"""HTTP transports for httpx and httpx2 that set a request's credits aside before it is sent.

The provider's `billing` gives what a request costs and what a reply says about that. A hold belongs to
the logical call: if an SDK retries an attempt whose outcome is unknown, the retry continues its hold.
"""

import importlib
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.amounts import cost as to_cost
from budgetguard._core.amounts import to_credits
from budgetguard._core.argument_types import other
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.clock import Instant
from budgetguard._core.errors import BudgetGuardError
from budgetguard._core.events import logger
from budgetguard._core.problem_document import retry_after
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.binding import binding_of
from budgetguard._engine.follower import may_search
from budgetguard._engine.hold import Hold, NullHold, cause_of
from budgetguard._engine.learned_spec import declare
from budgetguard._io.base_url import check_base_url
from budgetguard.guard import Guard, check_guard
from budgetguard.providers._account import check_flag
from budgetguard.providers.billing import (
    DID_NOTHING,
    OK,
    REFUSED,
    BillingReply,
    Outcome,
    Prices,
    read,
    said_by,
)
from budgetguard.transport._body import BodyEnd, watched
from budgetguard.transport._followed import WorkOfReplies
from budgetguard.transport._likeness import seen_as
from budgetguard.transport._prices import PriceTable, RequestPrice
from budgetguard.transport._redirects import KEY, Onward, RequestChain, followers, is_redirect
from budgetguard.transport._repeats import (
    Attempt,
    Failures,
    Place,
    current_place,
    is_failure,
    mark_read,
)
from budgetguard.transport._retries import Parked, mark_of

if TYPE_CHECKING:
    # It derives from neither library's transports, but type checkers accept it as either.
    from typing import Any as _Base

    from budgetguard._engine.call_spec import CallSpec
    from budgetguard._engine.follower import Sending
else:
    _Base = object

AnswerOrRaise: TypeAlias = Literal["answer", "raise"]

_RETRY_COUNT = "x-stainless-retry-count"
_MOST_READ = 8 * 1024 * 1024
_PASSED_BY = "requests to %s are not guarded: this transport guards those to %s"
_ASKED_BY_CLIENTS = {"__enter__", "__aenter__", "handle_request", "handle_async_request"}
_LIBRARIES = ("httpx", "httpx2")
_PORTS = {"https": 443, "http": 80}
# A websocket begins with a GET to the same place (RFC 6455, 3 and 4.1).
_PLAIN = {"wss": "https", "ws": "http"}
_MAY_UPGRADE = {"GET", "CONNECT"}


class _Transport(_Base):  # type: ignore[misc]
    """What both transports share."""

    _kind: str
    _base: str
    _sends: str

    @clean_traceback
    def __init__(
        self,
        guard: Guard,
        *,
        transport: Any = None,
        prices: Prices | None = None,
        base_url: str | None = None,
        on_refusal: AnswerOrRaise = "answer",
        follow: bool = True,
        send_cap: bool = False,
    ) -> None:
        if isinstance(transport, type) or not (
            transport is None or hasattr(transport, self._sends)
        ):
            msg = f"transport takes an object with {self._sends}, not {_described(transport)}"
            raise TypeError(msg)
        self._made = {} if transport is None else {"behind": transport}
        self._traffic = _Traffic(
            guard, prices, base_url, on_refusal, follow=follow, send_cap=send_cap
        )

    if not TYPE_CHECKING:  # type checkers accept it already, see _Base

        @property
        def __class__(self) -> type:
            """A class that passes for each library's transports, for code that checks types."""
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
        """The transport that sends; made on first use, from the library that the request belongs to."""
        if self._inner is None:
            # Atomic, without a lock, which a fork could leave locked. Of two, one is never used.
            self._made.setdefault("behind", getattr(_library(request), self._kind)())
        return self._inner


class GuardTransport(_Transport):
    """Guards the requests of `httpx.Client(transport=GuardTransport(guard))`, and of httpx2's client.

    `transport` is the transport that sends, by default a new `HTTPTransport()`. A client's settings for its
    own transport (verify, proxies, HTTP/2) must be given to that one.

    `prices` maps (method, path pattern) to a cost in credits, to a mapping of arguments for
    `require_credits`, or to a callable that is given the request and returns one of these, or None if the
    request costs nothing. The default is the provider's own `prices`. Callables in a mapping are given the
    request too, except `actual`: it is given the complete reply, a `budgetguard.providers.BillingReply`, if
    that has status 2xx, and returns what the call cost. If it fails, that is logged and the hold is settled
    as without it. `until` and `release_on` are not accepted: the replies say what became of a call. `slots`
    is, if the transport follows work: the slots are taken until it has ended, see below.

    Requests to the origin of `base_url` (by default the provider's) are guarded, including websockets
    (`ws://`, `wss://`), which a key for WEBSOCKET prices, or one for GET, because they begin with a GET.
    Requests to other origins pass unchanged; the log reports the first one at INFO. Requests that the
    client sends through its own `proxy` or `mounts` do not reach this transport.

    With `send_cap`, what is held for a request is sent with it as the provider's own cap on its cost, if the
    provider's billing knows how (`capped`). The request's content is read completely for that, and replaced
    in a copy: a client that signs its content cannot be used with it.

    A refusal is a reply that is made here, with nothing sent: status 402 (424 if the balance is unknown), or
    what `Billing.refusal_status` says, in the provider's own shape, which SDKs do not retry. With `on_refusal="raise"` it is the BudgetGuardError
    itself. openai passes that on; others take it for a broken connection, such as anthropic, try again,
    and raise an APIConnectionError whose `__cause__` it is (2026-11).

    What happens to the hold:

    - It is settled when the reply has been read completely, at what the reply says, or else at its cost.
    - It remains open if work continues after the reply that the provider's billing can ask about, such as an
      asynchronous spec: until a reply says that the work has ended. You may request its status through this
      transport. If you have not done so for a while (30 to 60 s after the submission, or 120 s after the
      last reply), the library requests it itself every 30 to 60 s, in the background, with the provider's
      key, at the provider's base URL; also after the client was closed. With `follow=False` it does not.
    - It is kept if the reply broke off or timed out, or if other work continues after it, as with a
      websocket: the outcome is unknown, so the credits remain counted until a later balance shows what was
      charged. Work that the provider's billing can search for is searched for first.
    - It is released if no connection was made or the provider refused the request. A 402 for lack of
      credits marks the guard exhausted.

    A request that an SDK sends again after a failure is the same call. It is recognized by the SDK's header;
    or, without one, by its method, address and content, if it comes from the same task or thread within 65 s
    after an attempt that ended without a complete reply, or with status 429 or 5xx. The attempt before
    remains kept at its full price, and the next one is admitted whatever is available, ten times at most. So
    an equal call that your own code makes there and then may be one more than the balance allows. Two equal
    calls at once always hold twice. A streamed body is not recognized without the header.

    A redirected request and the request that follows it are one call, whichever client sends it, and also
    if you send it by hand. After 307 and 308 nothing was done: the credits are released, and held again for
    the next request, at the first request's price if its own path or origin has none. After 301, 302 and 303
    the next request continues the existing hold, which is kept if no request follows within 65 s.

    An instance passes `isinstance` checks for `httpx.BaseTransport` and for `httpx2.BaseTransport`.

    Raises TypeError, ValueError or ConfigurationError for invalid arguments.
    """

    _kind = "HTTPTransport"
    _base = "BaseTransport"
    _sends = "handle_request"

    def handle_request(self, request: Any) -> Any:
        """Send a request if its credits can be set aside."""
        inner, call = self._behind(request), self._traffic.call(request)
        if call is None:
            return inner.handle_request(request)
        try:
            if call.needs_content:
                request.read()
            spec = call.spec()
            if spec is not None:
                call.begin(spec.open(call.operation, (request,), forced=call.repeats))
            sent = call.to_send()
        except BudgetGuardError as error:
            return call.refused(error)
        with call:
            response = inner.handle_request(sent)
        return call.received(response)

    def close(self) -> None:
        """Close the transport that sends; holds of calls whose outcome is unknown are kept."""
        self._traffic.close()
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
        self._traffic.close()
        if self._inner is not None:
            self._inner.__exit__(kind, error, traceback)


class AsyncGuardTransport(_Transport):
    """GuardTransport for `AsyncClient`, on asyncio and trio."""

    _kind = "AsyncHTTPTransport"
    _base = "AsyncBaseTransport"
    _sends = "handle_async_request"

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request if its credits can be set aside."""
        inner, call = self._behind(request), self._traffic.call(request)
        if call is None:
            return await inner.handle_async_request(request)
        try:
            if call.needs_content:
                await request.aread()
            spec = call.spec()
            if spec is not None:
                call.begin(await spec.aopen(call.operation, (request,), forced=call.repeats))
            sent = call.to_send()
        except BudgetGuardError as error:
            return call.refused(error)
        with call:
            response = await inner.handle_async_request(sent)
        return call.received(response)

    async def aclose(self) -> None:
        """Close the transport that sends; holds of calls whose outcome is unknown are kept."""
        self._traffic.close()
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
        self._traffic.close()
        if self._inner is not None:
            await self._inner.__aexit__(kind, error, traceback)


class _Traffic:
    """What all requests share: the guard, prices, origin, and the calls that may be retried."""

    def __init__(
        self,
        guard: Guard,
        prices: Prices | None,
        base_url: str | None,
        on_refusal: AnswerOrRaise,
        *,
        follow: bool,
        send_cap: bool,
    ) -> None:
        check_guard(guard)
        if on_refusal not in {"answer", "raise"}:
            msg = f"on_refusal must be 'answer' or 'raise', not {other(on_refusal)}"
            raise ValueError(msg)
        provider = binding_of(guard).provider
        prices = provider.prices if prices is None else prices
        url = provider.base_url if base_url is None else base_url
        if prices is None or url is None:
            lacking = "prices" if prices is None else "base_url"
            msg = f"{provider.name} does not define {lacking}: pass {lacking}="
            raise TypeError(msg)
        if not isinstance(prices, Mapping):
            msg = (
                "prices takes a mapping of (method, path) to costs, such as "
                f'{{("POST", "/deep-spec"): 50}}, not {type(prices).__name__}'
            )
            raise TypeError(msg)
        if not prices:
            msg = 'prices is empty: pass {("POST", "/deep-spec"): 50}'
            raise ValueError(msg)
        self.guard = guard
        self.account = binding_of(guard).account
        self.billing = provider.billing
        # Elsewhere, the provider's own key and address would ask about other work.
        same = base_url is None or check_base_url(base_url) == provider.base_url
        follows = check_flag(follow, "follow") and same and provider.fetch_reply is not None
        self.followed = WorkOfReplies(provider, self.account) if follows else None
        self.raises = on_refusal == "raise"
        self.sends_cap = check_flag(send_cap, "send_cap")
        self.parked = Parked(guard)
        self.failures = Failures(guard)
        takes_slots = self.followed is not None and self.followed.finds_work
        self._prices = PriceTable(guard, prices, takes_slots=takes_slots)
        self._origin, self._below = _origin(check_base_url(url))
        self._address = url
        self._has_said = False

    def close(self) -> None:
        """No further attempt of any call will come."""
        self.parked.keep_all()
        self.failures.forget_all()

    def call(self, request: Any) -> "_Call | None":
        """The call that a request begins or continues; None if the request is not guarded."""
        if ACTIVATION.passive:
            return None
        onward = self._onward(request)
        if onward is not None and onward.waiting is not None:
            return _Call(onward.traffic, request, onward.chain, onward.waiting.hold)
        path = self._path(request.url)
        price = None if path is None else self._price(request, path)
        if onward is not None and price is None:
            # Still the same call, although another place carries it out.
            return _Call(onward.traffic, request, onward.chain)
        if path is None:
            self._passed_by(request.url)
            return None
        first = None if onward is None else onward.chain.first
        chain = RequestChain(f"{request.method} {path}", path, price, first=first)
        return _Call(self, request, chain)

    def _onward(self, request: Any) -> Onward | None:
        """The redirect that a request follows, if it does; no other request can continue it then."""
        onward: Onward | None = request.extensions.pop(KEY, None)
        # Unless it is the redirected request itself, sent once more.
        if onward is not None and onward.answered() is not request:
            waiting = onward.waiting
            if waiting is None or onward.traffic.parked.claim(waiting):
                return onward
        by_hand = self.parked.take(request, again=False)
        return None if by_hand is None else replace(by_hand.onward, waiting=by_hand)

    def _path(self, url: Any) -> str | None:
        """The path of an address below the base URL; None if it is elsewhere."""
        scheme, path = str(_PLAIN.get(url.scheme, url.scheme)), url.path
        is_below = path == self._below or path.startswith(f"{self._below}/")
        if (scheme, url.host, url.port or _PORTS.get(scheme)) != self._origin or not is_below:
            return None
        return str(path.removeprefix(self._below))

    def _price(self, request: Any, path: str) -> RequestPrice | None:
        if request.method not in _MAY_UPGRADE and request.url.scheme not in _PLAIN:
            return self._prices.find(request.method, path)
        # A list, from which the server chooses one (RFC 9110, 7.8).
        offered = map(str.strip, request.headers.get("upgrade", "").lower().split(","))
        is_websocket = request.url.scheme in _PLAIN or "websocket" in offered
        also = ("WEBSOCKET",) if is_websocket else ()
        return self._prices.find((request.method, *also), path)

    def _passed_by(self, url: Any) -> None:
        """Log once that a request is not guarded, because its address may be a mistake."""
        if not self._has_said:
            self._has_said = True
            logger.info(_PASSED_BY, f"{url.scheme}://{url.netloc.decode()}", self._address)


class _Call:
    """One request; as a context manager, the block in which it is sent."""

    def __init__(
        self, traffic: _Traffic, request: Any, chain: RequestChain, hold: Hold | None = None
    ) -> None:
        self.operation = chain.operation
        self.hold: Hold = NullHold(self.operation, 0) if hold is None else hold
        self._goes_on = hold is not None
        self._sending: Sending | None = None
        self._place: Place | None = None
        self._traffic = traffic
        self._request = request
        self._chain = chain

    @property
    def is_priced_by_content(self) -> bool:
        """Whether the price depends on the request's content, which must then be read completely."""
        price = self._chain.price
        return not self._goes_on and price is not None and price.by_content

    @property
    def needs_content(self) -> bool:
        """Whether the request must be read completely before it is sent."""
        caps = self._traffic.sends_cap and (self._goes_on or self._chain.price is not None)
        return caps or self.is_priced_by_content

    @property
    def repeats(self) -> bool:
        """Whether it was recognized as another attempt of a failed call, which must not be refused."""
        return self._chain.repeats

    def spec(self) -> "CallSpec | None":
        """The requirement to admit; None if the request costs nothing or continues an existing hold."""
        price, request = self._chain.price, self._request
        if self._goes_on or price is None:
            return None
        spec, parked = price.spec(request, self.operation), self._traffic.parked
        if spec is None:
            return None
        declare(spec, self.operation)
        if spec.actual is not self._chain.actual:
            self._chain = replace(self._chain, actual=spec.actual)
        if _RETRY_COUNT not in request.headers:
            failed = None if self._chain.first else self._traffic.failures.take(request)
            if failed is not None:
                self._chain = replace(self._chain, first=failed)
        elif parked and request.headers[_RETRY_COUNT] != "0":
            earlier = parked.take(request, again=True)
            if earlier is not None:
                earlier.hold.keep_attempt()
                self.hold = earlier.hold
                return None
        return spec

    def begin(self, hold: Hold) -> None:
        """The call was admitted."""
        # Its reply is read later, and other calls may come before that.
        nested.step_out(hold)
        self.hold = hold

    def to_send(self) -> Any:
        """The request as it is sent: with a cap on its cost, if that is wanted and the request takes one.

        A copy, because a client sends the original again, after a failure or to follow a redirect.
        """
        traffic, request, hold = self._traffic, self._request, self.hold
        if not traffic.sends_cap or not hold.micro or not request.content:
            return request
        try:
            content = traffic.billing.capped(self._chain.path, request.content, hold.amount)
            return request if content is None else _with_content(request, content)
        except BaseException:
            # Nothing was sent, unless by the request that this one follows.
            self._end("keep" if self._chain.maybe_done else "release")
            raise

    def refused(self, error: BudgetGuardError) -> Any:
        """The reply that represents a refusal; raises the refusal itself if that was requested."""
        if self._traffic.raises:
            raise error
        headers = {"x-should-retry": "false", **retry_after(error)}
        billing = self._traffic.billing
        body = said_by(error) | billing.refusal_body(error, self._chain.path)
        response = _library(self._request).Response
        status = billing.refusal_status(error)
        return response(status, headers=headers, json=body, request=self._request)

    def __enter__(self) -> None:
        account, followed = self._traffic.account, self._traffic.followed
        self._sent = Instant(account.monotonic(), account.wall())
        if isinstance(self.hold, NullHold):
            return
        if _RETRY_COUNT not in self._request.headers:
            # Now, because its reply may be read elsewhere, and closed by the garbage collector.
            self._place = current_place()
        if followed is not None:
            self._sending = followed.sending(self._chain.path, self._request)

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
        if isinstance(error, (*never_made, library.ProxyError)) and not self._chain.maybe_done:
            self._end("release")
        elif isinstance(error, library.TransportError) and self._park():
            return
        else:
            if not (may_search(error) and self._searched(cause_of(error))):
                self.hold.finish(error)
            if isinstance(error, library.TransportError):
                self._failed()

    def received(self, response: Any) -> Any:
        """A reply begins: its body is watched to the end if it can say anything about credits."""
        traffic = self._traffic
        status, headers = response.status_code, response.headers
        remaining = traffic.billing.remaining(BillingReply(self._chain.path, status, headers))
        if remaining is not None:
            traffic.account.offer(remaining, self._sent)
        unpriced, followed = isinstance(self.hold, NullHold), traffic.followed
        if unpriced and followed is not None and followed.knows(self._chain.path):
            told = partial(followed.told, self._chain.path, response)
            return watched(response, _library(self._request), told, _MOST_READ)
        if unpriced and status not in REFUSED:
            return response
        if is_redirect(response):
            self._sent_on(response)
            return response
        return watched(response, _library(self._request), partial(self._over, response), _MOST_READ)

    def _sent_on(self, response: Any) -> None:
        """The provider redirects the request: the request to the new place continues this call."""
        traffic, request, status = self._traffic, self._request, response.status_code
        chain = self._chain.after(request, status)
        onward = Onward(traffic, chain, weakref.ref(request))
        if status in DID_NOTHING and not chain.maybe_done:
            self._end("release")
        elif self.hold.state == "open":
            marks = followers(request, response)
            onward = replace(onward, waiting=traffic.parked.put(self.hold, *marks, onward=onward))
        request.extensions[KEY] = onward

    def _over(self, response: Any, how: BodyEnd, content: bytes | None) -> None:
        """The reply is complete, or nobody reads it any further."""
        try:
            status, headers = response.status_code, response.headers
            complete = how is BodyEnd.COMPLETE
            request_body = self._request.content if self.is_priced_by_content else None
            path = self._chain.path
            reply = read(
                path, status, headers, content, complete=complete, request_body=request_body
            )
            traffic = self._traffic
            billing = traffic.billing
            refusal = billing.classify(reply)
            if refusal is not None:
                traffic.guard.mark_refused(refusal)
            refused = refusal is not None and refusal.kind != "not_credits"
            end = billing.cost_of(reply)
            if end == "release" and self._chain.maybe_done:
                end = "keep"
            if end == "keep" and _may_be_tried_again(reply.status) and self._park():
                return
            if traffic.followed is not None and not isinstance(self.hold, NullHold):
                if end != "keep":
                    traffic.followed.claim(reply)
                elif traffic.followed.follow(self.hold, reply):
                    self._answered()
                    return
                elif self._searched(None):
                    self._failed_if(how, status, refused=refused)
                    return
            self._end(self._charged(reply, end))
            if end == "keep":
                self._failed_if(how, status, refused=refused)
        except Exception:  # noqa: BLE001
            # The caller still gets the reply.
            logger.exception(
                "the credits in the reply to %s could not be read; its hold is kept", self.operation
            )
            self.hold.finish(RuntimeError())

    def _park(self) -> bool:
        """Set the hold aside for a retry, if one may follow."""
        if isinstance(self.hold, NullHold) or _RETRY_COUNT not in self._request.headers:
            return False
        self._traffic.parked.put(self.hold, self._chain.attempt or mark_of(self._request))
        return True

    def _charged(self, reply: BillingReply, end: Outcome) -> Outcome:
        """What becomes of the hold: at the cost that `actual` reads in the reply, if the price has one."""
        actual = self._chain.actual
        settles = end not in {"keep", "release"} and reply.complete and reply.status in OK
        if actual is None or not settles:
            return end
        try:
            return to_credits(to_cost(actual(reply), "actual"))
        except Exception:  # noqa: BLE001  the reply is the caller's all the same
            logger.exception(
                "actual of %s failed; its hold is settled as without it", self.operation
            )
            return end

    def _failed_if(self, how: BodyEnd, status: int, *, refused: bool) -> None:
        """Expect a repeat if the outcome is unknown because the connection or the provider failed."""
        # What the provider refused for lack of credits must not be sent again without a decision.
        if not refused and (how is BodyEnd.BROKEN or is_failure(status)):
            self._failed()

    def _failed(self) -> None:
        """The same request may be sent again, by a client that does not mark it as a retry."""
        if self._place is not None:
            first = self._chain.first or Attempt(mark_read(self._request))
            self._traffic.failures.put(first, self._place)

    def _answered(self) -> None:
        """The work of this call is known, or will not be searched for."""
        if self._sending is not None:
            self._sending.end()

    def _searched(self, cause: str | None) -> bool:
        """Have the work of this call searched for, whose reply was lost; False if that is not possible."""
        followed, sending = self._traffic.followed, self._sending
        return (
            followed is not None
            and sending is not None
            and followed.search(self.hold, sending, cause)
        )

    def _end(self, end: Any) -> None:
        hold = self.hold
        self._answered()
        if hold.state != "open":
            return
        if end == "keep":
            hold.keep()
        elif end == "release":
            hold.release()
        else:
            hold.end_at(None if end == "cost" else to_cost(end, "the reply's credits"))


def _with_content(request: Any, content: bytes) -> Any:
    """A request like this one, with other content."""
    if not isinstance(content, bytes):
        msg = f"capped must return bytes or None, not {type(content).__name__}"
        raise TypeError(msg)
    headers = request.headers.copy()
    headers.pop("transfer-encoding", None)
    headers["content-length"] = str(len(content))
    return _library(request).Request(
        request.method,
        request.url,
        headers=headers,
        content=content,
        extensions=request.extensions,
    )


def _described(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def _may_be_tried_again(status: int) -> bool:
    """Whether SDKs made by Stainless retry a request after this reply (openai 3.54, 2026-11)."""
    return status in {408, 409, 429} or status >= 500  # noqa: PLR2004


def _library(request: Any) -> Any:
    """The library, httpx or httpx2, that a request belongs to, also through a derived class."""
    kind = type(request)
    library = _BY_KIND.get(kind)
    if library is None:
        modules = (each.__module__.partition(".")[0] for each in kind.__mro__)
        library = importlib.import_module(next(each for each in modules if each in _LIBRARIES))
        _BY_KIND[kind] = library
    return library


# By the class of a request; there are only a few.
_BY_KIND: dict[type, Any] = {}


def _origin(base_url: str) -> tuple[tuple[str, str, int | None], str]:
    """The scheme, host and port of a checked base URL, and the path that all its requests begin with."""
    import httpx

    url = httpx.URL(base_url)
    port = url.port or _PORTS[url.scheme]
    return (url.scheme, url.host, port), url.path.rstrip("/")
