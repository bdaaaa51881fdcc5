"""HTTP transports for httpx and httpx2 that set a request's credits aside before it is sent.

The provider's `billing` gives what a request costs and what a reply says about that. A hold belongs to
the logical call: if an SDK retries an attempt whose outcome is unknown, the retry continues its hold.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import BudgetGuardError
from budgetguard._core.on_refusal import check_awaits
from budgetguard.guard import Guard
from budgetguard.providers.billing import Prices
from budgetguard.transport._call import LIBRARIES, OnRequestRefusal, Traffic, library_of
from budgetguard.transport._likeness import seen_as

if TYPE_CHECKING:
    # It derives from neither library's transports, but type checkers accept it as either.
    from typing import Any as _Base
else:
    _Base = object

_ASKED_BY_CLIENTS = {"__enter__", "__aenter__", "handle_request", "handle_async_request"}


class _Transport(_Base):  # type: ignore[misc]
    """What both transports share."""

    _kind: str
    _base: str
    _sends: str
    _awaits: bool

    @clean_traceback
    def __init__(
        self,
        guard: Guard,
        *,
        transport: Any = None,
        prices: Prices | None = None,
        base_url: str | None = None,
        on_refusal: OnRequestRefusal = "answer",
        follow: bool = True,
        send_cap: bool = False,
    ) -> None:
        if isinstance(transport, type) or not (
            transport is None or hasattr(transport, self._sends)
        ):
            msg = f"transport takes an object with {self._sends}, not {_described(transport)}"
            raise TypeError(msg)
        if callable(on_refusal) and not self._awaits:
            check_awaits(on_refusal, "a GuardTransport")
        self._made = {} if transport is None else {"behind": transport}
        self._traffic = Traffic(
            guard, prices, base_url, on_refusal, follow=follow, send_cap=send_cap
        )

    if not TYPE_CHECKING:  # type checkers accept it already, see _Base

        @property
        def __class__(self) -> type:
            """A class that passes for each library's transports, for code that checks types."""
            kind = type(self)
            return seen_as(kind, LIBRARIES, kind._base)  # noqa: SLF001  its own

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
            self._made.setdefault("behind", getattr(library_of(request), self._kind)())
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
    as without it. `until` and `release_on` are not accepted: the replies say what became of a call; nor is `on_refusal`, which is an argument of the transport. `slots`
    is, if the transport follows work: the slots are taken until it has ended, see below.

    Requests to the origin of `base_url` (by default the provider's) are guarded, including websockets
    (`ws://`, `wss://`), which a key for WEBSOCKET prices, or one for GET, because they begin with a GET.
    Requests to other origins pass unchanged; the log reports the first one at INFO. Requests that the
    client sends through its own `proxy` or `mounts` do not reach this transport.

    With `send_cap`, what is held for a request is sent with it as the provider's own cap on its cost, if the
    provider's billing knows how (`capped`). The request's content is read completely for that, and replaced
    in a copy: a client that signs its content cannot be used with it.

    A refusal is a reply that is made here, with nothing sent: status 402 (424 if the balance is unknown or
    the account paused), or what `Billing.refusal_status` says, in the provider's own shape, which SDKs do not retry. With `on_refusal="raise"` it is the BudgetGuardError
    itself. openai passes that on; others take it for a broken connection, such as anthropic, try again,
    and raise an APIConnectionError whose `__cause__` it is (2026-11). A callable supplies the reply: it is given
    the error and the request, and returns a Response of the client's library. It runs with nothing held for the
    request, and may send other requests; what it raises is raised to the client. For an AsyncGuardTransport it
    may be async.

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
    _awaits = False

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
                forced, approved = call.repeats, call.approved
                call.begin(spec.open(call.operation, (request,), forced=forced, approved=approved))
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
    _awaits = True

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
                forced, approved = call.repeats, call.approved
                call.begin(
                    await spec.aopen(call.operation, (request,), forced=forced, approved=approved)
                )
            sent = call.to_send()
        except BudgetGuardError as error:
            return await call.arefused(error)
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


def _described(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
