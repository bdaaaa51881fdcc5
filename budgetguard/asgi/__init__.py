"""A guard in front of a web service's requests, for any ASGI framework and server.

`GuardMiddleware` prices requests by method and path; `require` does the same for a single FastAPI
endpoint. Nothing here imports a framework until `require` is called.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard._core import problem_document as problem
from budgetguard._core.amounts import Amount
from budgetguard._core.approval import Approve
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.learned_cost import LearnedCost
from budgetguard._core.sync_callables import check_plain
from budgetguard._costs import terms_of
from budgetguard._engine.hold import Hold
from budgetguard.asgi._blocks import RequestBlocks, RequestBudget, RequestLabels
from budgetguard.asgi._disconnects import Receive
from budgetguard.asgi._response import EXCHANGE, Exchange, Scope, Send, answers_websockets
from budgetguard.decorator import require_credits
from budgetguard.routes import Routes

if TYPE_CHECKING:
    from budgetguard._engine.call_spec import CallSpec
    from budgetguard.guard import Guard

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
RuleCost: TypeAlias = Amount | LearnedCost | Mapping[str, Any] | Callable[[Scope], Amount | None]

HOLD = "budgetguard.hold"
"""The key in the scope under which a guarded request's Hold is stored."""

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
        "content": {problem.MEDIA_TYPE: {"schema": problem.SCHEMA}},
    }
    for status, description in (
        (402, "Too few credits are available"),
        (403, "The request was not approved"),
        (429, "Too many sessions are open"),
        (503, "The balance is not known, or the account is paused"),
    )
}
"""The answers that `require` adds to those of an endpoint: for FastAPI's `responses=`."""


class GuardMiddleware:
    """An ASGI app that admits a request to another app only if its credits can be set aside.

    `rules` maps `(method, path pattern)` to what a request may cost: a number of credits, a callable that is
    given the scope and returns one (or None, if the request costs nothing), or a mapping of arguments for
    `require_credits`, whose callables are given the scope too. The mapping cannot contain `actual` or
    `release_on`, because the middleware never sees what they need, nor `on_refusal`. A rule whose value is None exempts
    requests from later rules. `Routes` describes the patterns; the first rule that matches decides. `guard`
    is a Guard, or a callable that is given the scope and returns one; the default is that of
    `require_credits`.

    A pattern is matched against the path below `root_path`, as Starlette routes it, and against the whole
    path, so a rule also applies to a mounted app; if neither has a price, the raw path is tried. A rule for
    GET also applies to HEAD, unless the same path has a rule for HEAD. A rule for `*` applies to every
    method, including the OPTIONS request that a browser sends before a cross-origin request. If an app
    routes by anything else, such as a method in a header, write the rule for the path of the request.

    A request is admitted before the app is called and before any of its body is read. A refused request is
    answered with a problem document (RFC 9457) of status 402, 403, 429 or 503, with `Retry-After` if waiting may
    help. A refused websocket is answered in the same way if the server supports that, else closed with code
    1008. If the app itself raises a refusal before it has begun to respond, that is answered too. The
    document says what is missing, including the account's balance. Add middleware that sets response
    headers, such as CORS middleware, after this one, so that it is around it.

    The hold is at `scope["budgetguard.hold"]`: the app can settle it, release it or report charges. If
    the app does not do so, the hold is ended when the app returns, after background tasks:

    - Settled at cost, if a response below 500 was completed, or a websocket's app returned. This includes
      4xx, because a client's mistake may be found after credits were spent. If none were spent, call
      `release()`.
    - Kept, if the app raised or was cancelled, answered 500 or above, or did not complete its response, or
      if the client had disconnected by then: the outcome is unknown, so the credits remain counted until a
      later balance shows what was charged. Servers may not report a disconnect by themselves, so the
      middleware checks for one before it sends the last part of a response. Under trio, and inside a
      BaseHTTPMiddleware of Starlette's, only a disconnect that the app itself received counts.

    `budget` is a callable that is given the scope and returns the budget that the request is in, such as
    `guard.budget(100, name="user", key=user_of(scope), per="day")`, a list of such budgets (outermost
    first), or None. A budget bounds the request's own hold and every guarded call that the app makes for
    it, background tasks and tasks that outlive the response included. `labels` is a callable that is given
    the scope and returns a mapping, for the errors and events of these calls at `guard`'s account. Both
    work with and without `rules`, and for websockets too.

    Without `rules` it prices no request; it answers refusals that the app raises, and reports to `require`
    how responses went. Lifespan and other scopes pass unchanged. If a callable raises, the request is not
    admitted. Raises TypeError or ValueError for invalid rules, and TypeError for a `budget` or `labels` that
    is no plain callable.
    """

    @clean_traceback
    def __init__(
        self,
        app: App,
        guard: "Guard | Callable[[Scope], Guard] | None" = None,
        rules: Mapping[tuple[str, str], RuleCost | None] | None = None,
        *,
        budget: RequestBudget | None = None,
        labels: RequestLabels | None = None,
    ) -> None:
        if guard is not None and rules is None and budget is None and labels is None:
            msg = "GuardMiddleware guards nothing: pass rules=, budget= or labels= too, or no guard"
            raise TypeError(msg)
        self._app = app
        self._blocks = RequestBlocks(guard, budget, labels)
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
            async with AsyncExitStack() as stack:
                await self._blocks.enter(scope, stack)
                # Inside the budgets: its end ends the request's hold.
                stack.enter_context(exchange)
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
        async with AsyncExitStack() as stack:
            try:
                await self._blocks.enter(scope, stack)
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


@clean_traceback
def require(
    guard: "Guard | Callable[[Scope], Guard] | None" = None,
    *,
    min: Amount | Callable[[Scope], Amount] | LearnedCost | None = None,
    cost: Amount | Callable[[Scope], Amount] | LearnedCost | None = None,
    slots: int = 0,
    wait: float = 0,
    lag: float | None = None,
    linger: float | None = None,
    release_on: tuple[type[BaseException], ...] | type[BaseException] = (),
    name: str | None = None,
    approve: Approve | None = None,
    approve_above: Amount | None = None,
) -> Callable[..., AsyncIterator[Hold]]:
    """A FastAPI dependency that admits a request only if its credits can be set aside; it yields the Hold.

    Use `Depends(require(guard, min=50))` as a parameter or among `dependencies=`. The arguments are those of
    `require_credits`; callables are given the ASGI scope, and `name` defaults to the endpoint's qualified
    name. Credits are set aside after the request's body is read, and before FastAPI validates the
    endpoint's own parameters.

    A refusal is an HTTPException of FastAPI's, answered with the problem document unless the app has its own
    handler for HTTPException or for the status; a websocket is refused as by `GuardMiddleware`. FastAPI does
    not document the answers of dependencies: pass `responses=REFUSALS` to the app, a router or the endpoint.

    If the endpoint does not end the hold, that happens after the response was sent, including streams and
    background tasks:

    - Released, if something raised one of `release_on`. With `RequestValidationError` there, a request that
      does not fit the endpoint costs nothing; use that only if no other dependency costs credits.
    - Kept, if the endpoint, its stream or a background task raised anything else (an HTTPException too) or
      was cancelled: the outcome is unknown, so the credits remain counted until a later balance shows what
      was charged.
    - Otherwise, with `GuardMiddleware` around the app (`app.add_middleware(GuardMiddleware)`, no rules
      needed): kept or settled at cost as described there.
    - Otherwise, without it, a dependency cannot find out whether the client received a whole stream. So the
      hold is settled at cost only for a websocket's endpoint, or for one that is declared to return data (a
      return type or `response_model` that is not a Response). For others it is kept.

    Raises ImportError without FastAPI, and TypeError or ValueError for invalid arguments.
    """
    from budgetguard.asgi._fastapi import dependency

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
            approve=approve,
            approve_above=approve_above,
            guard=guard,
        ).spec
    )


_NO_EFFECT = {
    "actual": "actual= is given a function's result, and a request has none: use hold.settle(cost)",
    "until": "until= is about a function's result: a request has none, its hold lasts as long as the request",
    "release_on": (
        "a rule takes no release_on: the app's handlers turn exceptions into responses before they "
        'reach this middleware. Call scope["budgetguard.hold"].release() in the app, or guard the '
        "endpoint with require(..., release_on=...), which sees its exceptions."
    ),
    "on_refusal": "a rule takes no on_refusal: a refused request is answered with a problem document",
}


class _Free(Exception):
    """Raised by a rule's callable if this request costs nothing."""


def _requirements(
    guard: "Guard | Callable[[Scope], Guard] | None",
    rules: Mapping[tuple[str, str], RuleCost | None],
) -> "dict[tuple[str, str], CallSpec | None]":
    if not isinstance(rules, Mapping):
        msg = f"rules takes a mapping of (method, path) to prices, not {type(rules).__name__}"
        raise TypeError(msg)
    if not rules:
        msg = 'rules is empty: pass {("POST", "/deep-spec"): 50}'
        raise ValueError(msg)
    # First, so that notes name only valid methods and paths.
    Routes(rules)
    return {key: _requirement(guard, key, price) for key, price in rules.items()}


def _requirement(
    guard: "Guard | Callable[[Scope], Guard] | None", key: tuple[str, str], price: RuleCost | None
) -> "CallSpec | None":
    if price is None:
        return None
    if not isinstance(price, Mapping) and callable(price):
        price = {"min": _priced(price)}
    name = " ".join(key)
    try:
        options = terms_of(price, _NO_EFFECT, also=("guard",))
        return require_credits(**{"guard": guard, "name": name, **options}).spec
    except (TypeError, ValueError) as error:
        error.add_note(f"in the rule for {name}")
        raise


def _priced(price: Callable[[Scope], Amount | None]) -> Callable[[Scope], Amount]:
    check_plain(price, "a cost")

    def cost(scope: Scope) -> Amount:
        amount = price(scope)
        if amount is None:
            raise _Free
        return amount

    return cost


def _readings(scope: Scope) -> Iterator[list[str]]:
    """The paths by which an app may route, below its root and in full: first decoded, then raw."""
    root = scope.get("root_path", "").rstrip("/")
    raw = (scope.get("raw_path") or b"").decode("latin-1")
    for path in dict.fromkeys((scope["path"], raw or scope["path"])):
        below = path[len(root) :]
        is_below = root and path.startswith(root) and below[:1] in {"", "/"}
        yield [below, path] if is_below else [path]


async def _answer(
    send: Send, prefix: str, error: problem.AnyRefusal, *, bare: bool = False
) -> None:
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
