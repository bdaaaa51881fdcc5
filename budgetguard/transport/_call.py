"""One request of a guarded client, from its price to the end of its reply; and what all requests share."""

import importlib
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.amounts import cost as to_cost
from budgetguard._core.amounts import to_credits
from budgetguard._core.clock import Instant
from budgetguard._core.errors import REFUSALS, BudgetGuardError
from budgetguard._core.events import logger
from budgetguard._core.on_refusal import OnRefusal, awaited, called, word_or_callable
from budgetguard._core.problem_document import retry_after
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.approval import NOTHING_APPROVED
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
    from budgetguard._engine.call_spec import CallSpec
    from budgetguard._engine.follower import Sending

OnRequestRefusal: TypeAlias = Literal["answer", "raise"] | Callable[[Any, Any], Any]
"""What becomes of a refused request: a word, or a callable (error, request) that returns a response."""

LIBRARIES = ("httpx", "httpx2")

_RETRY_COUNT = "x-stainless-retry-count"
_MOST_READ = 8 * 1024 * 1024
_PASSED_BY = "requests to %s are not guarded: this transport guards those to %s"
_PORTS = {"https": 443, "http": 80}
# A websocket begins with a GET to the same place (RFC 6455, 3 and 4.1).
_PLAIN = {"wss": "https", "ws": "http"}
_MAY_UPGRADE = {"GET", "CONNECT"}


class Traffic:
    """What all requests share: the guard, prices, origin, and the calls that may be retried."""

    def __init__(
        self,
        guard: Guard,
        prices: Prices | None,
        base_url: str | None,
        on_refusal: OnRequestRefusal,
        *,
        follow: bool,
        send_cap: bool,
    ) -> None:
        check_guard(guard)
        self._supply = word_or_callable(on_refusal, ("answer", "raise"))
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

    def supply(self, error: BudgetGuardError) -> OnRefusal | None:
        """The callable that supplies the response to a refused request, if the error is a refusal."""
        return self._supply if isinstance(error, REFUSALS) else None

    def close(self) -> None:
        """No further attempt of any call will come."""
        self.parked.keep_all()
        self.failures.forget_all()

    def call(self, request: Any) -> "RequestCall | None":
        """The call that a request begins or continues; None if the request is not guarded."""
        if ACTIVATION.passive:
            return None
        onward = self._onward(request)
        if onward is not None and onward.waiting is not None:
            return RequestCall(onward.traffic, request, onward.chain, onward.waiting.hold)
        path = self._path(request.url)
        price = None if path is None else self._price(request, path)
        if onward is not None and price is None:
            # Still the same call, although another place carries it out.
            return RequestCall(onward.traffic, request, onward.chain)
        if path is None:
            self._passed_by(request.url)
            return None
        first, approved = None, NOTHING_APPROVED
        if onward is not None:
            first = onward.chain.first
            # What was approved at another account is not approved here.
            approved = onward.chain.approved if onward.traffic is self else approved
        operation = f"{request.method} {path}"
        chain = RequestChain(operation, path, price, first=first, approved=approved)
        return RequestCall(self, request, chain)

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


class RequestCall:
    """One request; as a context manager, the block in which it is sent."""

    def __init__(
        self, traffic: Traffic, request: Any, chain: RequestChain, hold: Hold | None = None
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

    @property
    def approved(self) -> int:
        """The micro-credits that were approved for this call, before it was redirected."""
        return self._chain.approved

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
        """The reply to a refused request; raises the refusal itself if that was requested."""
        supply = self._traffic.supply(error)
        if supply is None:
            return self._answer(error)
        return self._supplied(called(supply, "a GuardTransport", error, self._request))

    async def arefused(self, error: BudgetGuardError) -> Any:
        """`refused`, for async clients."""
        supply = self._traffic.supply(error)
        if supply is None:
            return self._answer(error)
        return self._supplied(await awaited(supply, error, self._request))

    def _supplied(self, response: Any) -> Any:
        library = library_of(self._request)
        if not isinstance(response, library.Response):
            msg = (
                f"on_refusal of a transport must return a response: {library.__name__}.Response(200, "
                f"json=...), not {type(response).__name__}"
            )
            raise TypeError(msg)
        return response

    def _answer(self, error: BudgetGuardError) -> Any:
        if self._traffic.raises:
            raise error
        headers = {"x-should-retry": "false", **retry_after(error)}
        billing = self._traffic.billing
        body = said_by(error) | billing.refusal_body(error, self._chain.path)
        response = library_of(self._request).Response
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
        library = library_of(self._request)
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
            return watched(response, library_of(self._request), told, _MOST_READ)
        if unpriced and status not in REFUSED:
            return response
        if is_redirect(response):
            self._sent_on(response)
            return response
        return watched(
            response, library_of(self._request), partial(self._over, response), _MOST_READ
        )

    def _sent_on(self, response: Any) -> None:
        """The provider redirects the request: the request to the new place continues this call."""
        traffic, request, status = self._traffic, self._request, response.status_code
        chain = self._chain.after(request, status)
        onward = Onward(traffic, chain, weakref.ref(request))
        if status in DID_NOTHING and not chain.maybe_done:
            onward = replace(onward, chain=replace(chain, approved=self.hold.micro))
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
    return library_of(request).Request(
        request.method,
        request.url,
        headers=headers,
        content=content,
        extensions=request.extensions,
    )


def _may_be_tried_again(status: int) -> bool:
    """Whether SDKs made by Stainless retry a request after this reply (openai 3.54, 2026-11)."""
    return status in {408, 409, 429} or status >= 500  # noqa: PLR2004


def library_of(request: Any) -> Any:
    """The library, httpx or httpx2, that a request belongs to, also through a derived class."""
    kind = type(request)
    library = _BY_KIND.get(kind)
    if library is None:
        modules = (each.__module__.partition(".")[0] for each in kind.__mro__)
        library = importlib.import_module(next(each for each in modules if each in LIBRARIES))
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
