"""A guard before the requests of a web service, for any ASGI framework and server.

`GuardMiddleware` prices requests by method and path; `require` is the same for one FastAPI
endpoint. Nothing here needs a framework, until `require` is called.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard import problem
from budgetguard.credits import Amount
from budgetguard.decorator import require_credits
from budgetguard.discreet import discreet
from budgetguard.exchange import EXCHANGE, Exchange, Scope, Send, answers_websockets
from budgetguard.hold import Hold
from budgetguard.listening import Receive
from budgetguard.plain import check_plain
from budgetguard.requirement import check_terms
from budgetguard.routes import Routes

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.requirement import Requirement

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Price: TypeAlias = Amount | Mapping[str, Any] | Callable[[Scope], Amount | None]

HOLD = "budgetguard.hold"
"""Where in the scope a guarded request's Hold is."""

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
        "content": {problem.MEDIA_TYPE: {"schema": problem.SCHEMA}},
    }
    for status, description in (
        (402, "Too few credits are available"),
        (429, "Too many sessions are open"),
        (503, "The balance is not known"),
    )
}
"""What an endpoint behind `require` may answer besides its own: for FastAPI's `responses=`."""


class GuardMiddleware:
    """An ASGI app that admits requests to another one only if their credits are there.

    `rules` says of `(method, path pattern)` what a request may cost: a number of credits, a
    callable that is given the scope and returns one (None lets the request pass), or the arguments
    of `require_credits` in a mapping (not `actual` and `release_on`, of which it could not hear), whose
    callables are given the scope too. A rule whose value
    is None lets requests pass that a later one would price. `Routes` says what a pattern matches;
    of several rules that do, the first decides. `guard` is a Guard, or a callable given the scope
    that returns one; default is that of `require_credits`.

    Matched is the path below `root_path`, as Starlette routes it, or as a whole, so a rule holds
    for an app that is mounted, too; where neither finds a price, the raw path. A rule for GET holds
    for HEAD, unless HEAD has one of its own for the same path, and `*` for every method, a browser's
    OPTIONS before a request to another origin included. What an app routes by anything else, such
    as a method in a header, needs a rule for the path it comes by.

    A request is admitted before the app is called and any of its body is read. A refused one is
    answered with a problem document (RFC 9457) of status 402, 429 or 503, with `Retry-After` where
    waiting may help; a refused websocket likewise where the server supports that, else it is closed
    with code 1008. So is a refusal answered that the app lets through before it began to respond to
    a request. The document says what is lacking, the account's balance included. Middleware that
    adds headers to responses, such as those of CORS, is to be added after this one, around it.

    The hold is at `scope["budgetguard.hold"]`, for the app to settle, release or charge. It ends
    when the app returns, after background tasks, if not before:

    - settled at cost, where a response below 500 was completed, or a websocket's app returned. This
      holds for 4xx too, as a client's mistake may be found when credits were spent already. Where
      it was not, say so: `release()`.
    - kept, where the app raised or was cancelled, answered 500 or above, or did not complete its
      response, or where the client had gone by then. A server may leave the app without a word of
      that; so before a response's last part is sent, it is asked. Under trio, and inside a
      BaseHTTPMiddleware of Starlette's, only what the app heard itself counts.

    Without `rules` it guards nothing, answers refusals from within the app, and tells `require` how
    responses went. Lifespan and other scopes pass untouched. A callable that raises lets no request
    through. Raises TypeError or ValueError for rules that cannot be.
    """

    @discreet
    def __init__(
        self,
        app: App,
        guard: "Guard | Callable[[Scope], Guard] | None" = None,
        rules: Mapping[tuple[str, str], Price | None] | None = None,
    ) -> None:
        if guard is not None and rules is None:
            msg = "GuardMiddleware without rules guards nothing: pass rules= too, or no guard"
            raise TypeError(msg)
        self._app = app
        self._routes = Routes({} if rules is None else _requirements(guard, rules))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            await self._respond(scope, Exchange(receive, send))
        elif scope["type"] == "websocket":
            await self._converse(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _respond(self, scope: Scope, exchange: Exchange) -> None:
        inner = {**scope, EXCHANGE: exchange}
        try:
            with exchange:
                hold = await self._admit(scope["method"], scope)
                if hold is not None:
                    exchange.watch(hold)
                    inner[HOLD] = hold
                await self._app(inner, exchange.receive, exchange.send)
        except problem.ERRORS as error:
            if exchange.status is not None:
                raise
            await _answer(exchange.send, "http.response", error, bare=scope["method"] == "HEAD")

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            hold = await self._admit("WEBSOCKET", scope)
        except problem.ERRORS as error:
            await receive()
            if answers_websockets(scope):
                await _answer(send, "websocket.http.response", error)
            else:
                code, reason = problem.closing(error)
                await send({"type": "websocket.close", "code": code, "reason": reason})
            return
        if hold is None:
            await self._app(scope, receive, send)
            return
        with hold:
            await self._app({**scope, HOLD: hold}, receive, send)

    async def _admit(self, method: str, scope: Scope) -> Hold | None:
        found = (self._routes.find(method, *paths) for paths in _readings(scope))
        requirement = next((each for each in found if each is not None), None)
        if requirement is None:
            return None
        try:
            return await requirement.aopen(args=(scope,))
        except _Free:
            return None


@discreet
def require(
    guard: "Guard | Callable[[Scope], Guard] | None" = None,
    *,
    min: Amount | Callable[[Scope], Amount] | None = None,
    cost: Amount | Callable[[Scope], Amount] | None = None,
    slots: int = 0,
    wait: float = 0,
    lag: float | None = None,
    linger: float | None = None,
    release_on: tuple[type[BaseException], ...] | type[BaseException] = (),
    name: str | None = None,
) -> Callable[..., AsyncIterator[Hold]]:
    """A FastAPI dependency that admits a request only if its credits are there; gives its Hold.

    `Depends(require(guard, min=50))`, as a parameter or among `dependencies=`. The arguments are
    those of `require_credits`, whose callables are given the ASGI scope; `name` is by default the
    endpoint's qualified name. Credits are set aside after the request's body was read, and before
    FastAPI looks at the endpoint's own parameters.

    A refusal is an HTTPException of FastAPI's with the problem document for its answer, unless
    the app has a handler of its own for HTTPException or the status; a websocket is refused as by
    `GuardMiddleware`. FastAPI takes no documentation from dependencies: pass `responses=REFUSALS` to
    the app, a router or the endpoint.

    The hold ends after the response was sent, streams and background tasks included, if the
    endpoint has not ended it:

    - released, where something raised one of `release_on`. With `RequestValidationError` there, a
      request that does not fit the endpoint costs nothing; say so if no other dependency spends.
    - kept, where the endpoint, its stream or a background task raised anything else, an
      HTTPException too, or was cancelled.
    - With `GuardMiddleware` around (`app.add_middleware(GuardMiddleware)`, no rules needed), kept or
      settled at cost as it says.
    - Without, a dependency cannot learn whether a stream was heard to its end. So it is settled at
      cost only where the endpoint is declared to return data (a return type or `response_model`
      that is no Response) or is a websocket's. Else it is kept.

    Raises ImportError without FastAPI, TypeError or ValueError for arguments that cannot be.
    """
    from budgetguard.integrations.fastapi import dependency

    return dependency(
        require_credits(
            min,
            cost=cost,
            slots=slots,
            wait=wait,
            lag=lag,
            linger=linger,
            release_on=release_on,
            name=name,
            guard=guard,
        )
    )


class _Free(Exception):
    """A rule's callable says that this request costs nothing."""


def _requirements(
    guard: "Guard | Callable[[Scope], Guard] | None",
    rules: Mapping[tuple[str, str], Price | None],
) -> "dict[tuple[str, str], Requirement | None]":
    if not isinstance(rules, Mapping):
        msg = f"rules takes a mapping of (method, path) to prices, not {type(rules).__name__}"
        raise TypeError(msg)
    if not rules:
        msg = 'rules names no request: {("POST", "/deep-spec"): 50}'
        raise ValueError(msg)
    # First, so that notes name what is known to be a method and a path.
    Routes(rules)
    return {key: _requirement(guard, key, price) for key, price in rules.items()}


def _requirement(
    guard: "Guard | Callable[[Scope], Guard] | None", key: tuple[str, str], price: Price | None
) -> "Requirement | None":
    if price is None:
        return None
    if isinstance(price, Mapping):
        terms = dict(price)
    else:
        terms = {"min": _priced(price) if callable(price) else price}
    name = " ".join(key)
    try:
        _check_heard(terms)
        return require_credits(**{"guard": guard, "name": name, **terms})
    except (TypeError, ValueError) as error:
        error.add_note(f"in the rule for {name}")
        raise


def _check_heard(terms: Mapping[str, Any]) -> None:
    """Refuse what no rule can hear of."""
    check_terms({name: term for name, term in terms.items() if name != "guard"})
    if "actual" in terms:
        msg = "actual= is given a function's result, and a request has none: use hold.settle(cost)"
        raise TypeError(msg)
    if "until" in terms:
        msg = (
            "until= is about a function's result, and a request has none: its hold lasts to its end"
        )
        raise TypeError(msg)
    if "release_on" in terms:
        msg = (
            "a rule takes no release_on: what the app's handlers make a response of is not raised "
            'here. Call scope["budgetguard.hold"].release() there, or guard the endpoint by '
            "require(..., release_on=...), which sees what it raised."
        )
        raise TypeError(msg)


def _priced(price: Callable[[Scope], Amount | None]) -> Callable[[Scope], Amount]:
    check_plain(price, "a cost")

    def cost(scope: Scope) -> Amount:
        amount = price(scope)
        if amount is None:
            raise _Free
        return amount

    return cost


def _readings(scope: Scope) -> Iterator[list[str]]:
    """The paths that an app may route by, below its root and as a whole: decoded, then raw."""
    root = scope.get("root_path", "").rstrip("/")
    raw = (scope.get("raw_path") or b"").decode("latin-1")
    for path in dict.fromkeys((scope["path"], raw or scope["path"])):
        below = path[len(root) :]
        is_below = root and path.startswith(root) and below[:1] in {"", "/"}
        yield [below, path] if is_below else [path]


async def _answer(send: Send, prefix: str, error: problem.Refusal, *, bare: bool = False) -> None:
    body = problem.body(error)
    headers = {**problem.headers(error), "content-length": str(len(body))}
    await send(
        {
            "type": f"{prefix}.start",
            "status": error.status_code,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": f"{prefix}.body", "body": b"" if bare else body})
