"""Budgets and labels around requests: who is refused, what is counted, and that all of it ends."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import anyio
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from budgetguard import Budget, BudgetExceeded, Guard, Hold, set_active
from budgetguard.asgi import GuardMiddleware, require
from budgetguard.testing import FakeProvider

START = {"type": "http.response.start", "status": 200, "headers": []}
LAST = {"type": "http.response.body", "body": b"last"}
GONE = {"type": "http.disconnect"}
CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}
LIVE = {"type": "websocket", "path": "/live", "headers": []}
RULES: dict[Any, Any] = {("*", "/paid"): 10, ("WEBSOCKET", "/live"): 10}


async def answers(_: Any, __: Any, send: Any) -> None:
    """An app that answers every request."""
    await send(START)
    await send(LAST)


def of_user(guard: Guard, name: str, limit: int = 25) -> Budget:
    """One user's budget, to enter or to read."""
    return guard.budget(limit, name="user", key=name, per="day")


def by_user(guard: Guard, limit: int = 25) -> Any:
    """A callable that gives the budget of a request's user."""

    def budget(scope: Any) -> Budget:
        return of_user(guard, dict(scope["headers"])[b"user"].decode(), limit)

    return budget


def figures(budget: Budget) -> tuple[int, int, int]:
    """What is spent, held and left."""
    return int(budget.spent), int(budget.held), int(budget.left)


def user(name: str) -> dict[str, Any]:
    """The part of a scope that names a user."""
    return {"headers": [(b"user", name.encode())]}


@pytest.mark.anyio
class TestByHand:
    """No server: the app is called on asyncio and on trio."""

    async def test_a_request_that_exceeds_its_users_budget(
        self, guard: Guard, told: Any, call: Any, scope: Any
    ) -> None:
        """It is a 402 that names the budget, and neither the app nor other users feel it."""
        middleware = GuardMiddleware(answers, guard, RULES, budget=by_user(guard))
        for _ in range(2):
            assert (await call(middleware, scope(**user("ada")))).sent == [START, LAST]
        refused = await call(middleware, scope(**user("ada")))
        members = json.loads(refused.body)
        assert refused.sent[0]["status"] == members["status"] == 402
        assert "the budget user has 5 of 25 credits left" in members["detail"]
        assert (await call(middleware, scope(**user("bob")))).sent == [START, LAST]
        assert figures(of_user(guard, "ada")) == (20, 0, 5)
        assert figures(of_user(guard, "bob")) == (10, 0, 15)
        assert guard.available == 70
        assert told.kinds() == ["admitted", "settled"] * 2 + ["refused", "admitted", "settled"]

    async def test_several_budgets_and_none(self, guard: Guard, call: Any) -> None:
        """Each of a list bounds the request, outermost first; None bounds nothing."""
        entered: list[Budget] = []

        def two(_: Any) -> list[Budget]:
            entered[:] = [guard.budget(40, name="all"), guard.budget(30, share="carve")]
            return entered

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert figures(entered[0]) == (0, 30, 10)
            assert figures(entered[1]) == (0, 10, 20)
            await answers(scope, receive, send)

        await call(GuardMiddleware(app, guard, RULES, budget=two))
        assert [figures(each) for each in entered] == [(10, 0, 30), (10, 0, 0)]
        await call(GuardMiddleware(answers, guard, RULES, budget=lambda _: None))
        assert guard.available == 80

    async def test_a_budget_that_cannot_be_set_aside(self, guard: Guard, call: Any) -> None:
        """The account's refusal is answered like that of a rule."""

        def carved(_: Any) -> Budget:
            return guard.budget(200, name="run", share="carve")

        done = await call(GuardMiddleware(answers, budget=carved))
        assert done.sent[0]["status"] == 402
        assert "the budget run needs 200 credits" in json.loads(done.body)["detail"]
        assert guard.available == 100

    async def test_calls_without_a_rule(self, guard: Guard, call: Any) -> None:
        """Guarded calls of the app are bounded; what it lets through is answered."""
        spec = guard.require_credits(min=10, name="spec")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(3):
                async with spec:
                    pass
            await answers(scope, receive, send)

        done = await call(GuardMiddleware(app, budget=lambda _: of_user(guard, "ada")))
        assert json.loads(done.body)["detail"].startswith("spec needs 10 credits, and the budget")
        assert figures(of_user(guard, "ada")) == (20, 0, 5)

    @pytest.mark.parametrize("end", ["raises", "500", "gone"])
    async def test_an_unknown_outcome(
        self, guard: Guard, make_call: Any, scope: Any, end: str
    ) -> None:
        """A request that fails counts at its cost in the budget, and nothing remains held."""

        async def app(_: Any, receive: Any, send: Any) -> None:
            if end == "raises":
                msg = "broken"
                raise ValueError(msg)
            await send(START | {"status": 500 if end == "500" else 200})
            if end == "gone":
                assert await receive() == GONE
            await send(LAST)

        middleware = GuardMiddleware(app, guard, RULES, budget=by_user(guard))
        call = make_call(middleware, scope(**user("ada")), GONE)
        if end == "raises":
            with pytest.raises(ValueError, match="broken"):
                await call.run()
        else:
            await call.run()
        assert figures(of_user(guard, "ada")) == (10, 0, 15)
        guard.acquire(50).release()  # the budget of 25 was left

    async def test_a_request_that_is_cancelled(
        self, guard: Guard, make_call: Any, scope: Any
    ) -> None:
        """The same, for its own hold and for a call that was open."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async with guard.require_credits(min=5):
                tasks.cancel_scope.cancel()
                await anyio.sleep_forever()

        middleware = GuardMiddleware(app, guard, RULES, budget=by_user(guard))
        async with anyio.create_task_group() as tasks:
            await make_call(middleware, scope(**user("ada"))).run()
        assert figures(of_user(guard, "ada")) == (15, 0, 10)

    async def test_a_stream_is_inside(self, guard: Guard, call: Any, scope: Any) -> None:
        """So are the calls that are made while the response is sent, and those of background tasks."""
        exceeded = []

        async def parts() -> AsyncIterator[bytes]:
            for part in (b"a", b"b"):
                async with guard.require_credits(min=6):
                    yield part

        def later() -> None:
            try:
                guard.acquire(6)
            except BudgetExceeded as error:
                exceeded.append(error.budget)

        app = FastAPI()

        @app.get("/paid")
        async def endpoint(tasks: BackgroundTasks) -> StreamingResponse:
            tasks.add_task(later)
            return StreamingResponse(parts())

        middleware = GuardMiddleware(app, guard, RULES, budget=by_user(guard))
        done = await call(middleware, scope(**user("ada")), {"type": "http.request"})
        assert done.body == b"ab"
        assert exceeded == ["user"]
        assert figures(of_user(guard, "ada")) == (22, 0, 3)

    async def test_a_task_that_outlives_the_request(
        self, guard: Guard, call: Any, scope: Any
    ) -> None:
        """It remains bounded by the budget it was started in."""
        answered = anyio.Event()
        caught = []

        async def late() -> None:
            await answered.wait()
            try:
                await guard.aacquire(20)
            except BudgetExceeded as error:
                caught.append(error.available)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.start_soon(late)
            await answers(scope, receive, send)

        async with anyio.create_task_group() as tasks:
            await call(
                GuardMiddleware(app, guard, RULES, budget=by_user(guard)), scope(**user("ada"))
            )
            answered.set()
        assert caught == [15]

    async def test_inside_other_middleware(self, guard: Guard, call: Any, scope: Any) -> None:
        """Starlette's BaseHTTPMiddleware runs the app in another task, which is inside as well."""
        spec = guard.require_credits(min=20, name="spec")

        @spec
        def plain_endpoint(_: Request) -> PlainTextResponse:
            return PlainTextResponse("written")

        async def pass_on(request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            return response

        app = Starlette(
            routes=[Route("/free", plain_endpoint)],
            middleware=[
                Middleware(GuardMiddleware, budget=by_user(guard)),
                Middleware(BaseHTTPMiddleware, dispatch=pass_on),
            ],
        )
        asks = scope("/free", **user("ada"))
        request = {"type": "http.request", "body": b"", "more_body": False}
        assert (await call(app, asks, request)).body == b"written"
        assert (await call(app, asks, request)).sent[0]["status"] == 402
        assert figures(of_user(guard, "ada")) == (20, 0, 5)

    async def test_a_websocket(self, guard: Guard, call: Any) -> None:
        """Its own hold and the calls for its messages are bounded, and a refusal closes it."""
        budget = by_user(guard)
        asks = LIVE | user("ada")

        async def live(_: Any, __: Any, send: Any) -> None:
            await send(ACCEPT)
            guard.acquire(10).settle()

        middleware = GuardMiddleware(live, guard, RULES, budget=budget)
        assert (await call(middleware, asks, CONNECT)).sent == [ACCEPT]
        assert figures(of_user(guard, "ada")) == (20, 0, 5)
        [close] = (await call(middleware, asks, CONNECT)).sent
        assert close["code"] == 1008
        assert "the budget user has 5 of 25 credits left" in close["reason"]
        with pytest.raises(BudgetExceeded):
            await call(GuardMiddleware(live, budget=budget), asks, CONNECT)

    async def test_labels(self, guard: Guard, told: Any, call: Any, scope: Any) -> None:
        """They are those of the request's own hold, of the app's calls, and of refusals by a budget."""

        def labels(scope: Any) -> dict[str, str | int]:
            return {"user": dict(scope["headers"])[b"user"].decode(), "turn": 1}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            guard.acquire(30).settle()
            await answers(scope, receive, send)

        middleware = GuardMiddleware(app, guard, RULES, budget=by_user(guard), labels=labels)
        await call(middleware, scope(**user("ada")))
        said = [event for event in told.events if event.kind in {"admitted", "refused"}]
        assert [event.kind for event in said] == ["admitted", "refused"]
        assert [dict(event.labels) for event in said] == [{"user": "ada", "turn": "1"}] * 2
        told.events.clear()
        await call(GuardMiddleware(app, lambda _: guard, labels=labels), scope(**user("bob")))
        assert [dict(event.labels)["user"] for event in told.events] == ["bob", "bob"]

    async def test_a_callable_that_fails(self, guard: Guard, call: Any) -> None:
        """The request does not pass, and nothing is held."""

        def broken(_: Any) -> Any:
            raise LookupError

        async def coroutine() -> None:
            pass

        def awaitable(_: Any) -> Any:
            return coroutine()

        passed: list[Any] = []

        async def app(*_: Any) -> None:
            passed.append(1)

        for option in ("budget", "labels"):
            with pytest.raises(LookupError):
                await call(GuardMiddleware(app, guard, RULES, **{option: broken}))
            for wrong in (lambda _: "ada", lambda _: [guard, guard], awaitable):
                wrong_one: Any = {option: wrong}
                with pytest.raises(TypeError, match=f"{option} must return a"):
                    await call(GuardMiddleware(app, guard, RULES, **wrong_one))
        with pytest.raises(TypeError, match="takes str or int values"):
            await call(GuardMiddleware(app, guard, labels=lambda _: {"user": None}))  # type: ignore[dict-item]
        assert not passed
        assert guard.available in (None, 100)

    async def test_switched_off(self, guard: Guard, call: Any, scope: Any) -> None:
        """Budgets bound nothing then, as for other calls."""
        set_active(False)
        middleware = GuardMiddleware(answers, guard, RULES, budget=by_user(guard, 1))
        assert (await call(middleware, scope(**user("ada")))).sent == [START, LAST]

    async def test_concurrent_users(self, make_call: Any, scope: Any) -> None:
        """Of 30 requests for each of three users, exactly those run that each one's budget pays for."""
        guard = Guard(FakeProvider(1000))
        release = anyio.Event()
        running: Counter[str] = Counter()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            running[dict(scope["headers"])[b"user"].decode()] += 1
            await release.wait()
            await answers(scope, receive, send)

        middleware = GuardMiddleware(app, guard, RULES, budget=by_user(guard, 75))
        calls = [
            make_call(middleware, scope(**user(name)))
            for _ in range(30)
            for name in ("ada", "bob", "eve")
        ]
        async with anyio.create_task_group() as tasks:
            for each in calls:
                tasks.start_soon(each.run)
            while sum(bool(each.sent) for each in calls) < 69:
                await anyio.lowlevel.checkpoint()
            assert running == {"ada": 7, "bob": 7, "eve": 7}
            release.set()
        statuses = Counter(each.sent[0]["status"] for each in calls)
        assert statuses == {200: 21, 402: 69}
        assert {figures(of_user(guard, name, 75)) for name in running} == {(70, 0, 5)}
        assert guard.available == 1000 - 210


@pytest.mark.anyio
class TestDependencies:
    """A budget that a FastAPI dependency opens, for what needs FastAPI's own parameters."""

    @pytest.mark.parametrize("endpoint", ["async", "sync"])
    async def test_an_async_dependency(
        self, guard: Guard, call: Any, scope: Any, endpoint: str
    ) -> None:
        """It surrounds the endpoint, in FastAPI's threads too, and the dependencies after it."""

        async def budget(request: HTTPConnection) -> AsyncIterator[Budget]:
            async with of_user(guard, request.headers["user"]) as budget:
                yield budget

        spec = guard.require_credits(min=6, name="spec")
        app = FastAPI(dependencies=[Depends(budget)])
        app.add_middleware(GuardMiddleware)
        paid = Depends(require(guard, min=10))

        async def writes_async(hold: Annotated[Hold, paid]) -> str:
            with spec:
                return hold.state

        def writes(hold: Annotated[Hold, paid]) -> str:
            with spec:
                return hold.state

        app.get("/paid")(writes_async if endpoint == "async" else writes)
        request = {"type": "http.request", "body": b"", "more_body": False}
        asks = scope(**user("ada"))
        assert (await call(app, asks, request)).body == b'"open"'
        assert figures(of_user(guard, "ada")) == (16, 0, 9)
        refused = await call(app, asks, request)
        assert refused.sent[0]["status"] == 402
        assert "the budget user has 9 of 25 credits left" in json.loads(refused.body)["detail"]
        assert guard.available == 84

    async def test_a_sync_dependency(self, guard: Guard, call: Any, scope: Any) -> None:
        """FastAPI runs it in another thread, so what it opens surrounds nothing."""

        def budget() -> Iterator[None]:
            with of_user(guard, "ada"):
                yield

        app = FastAPI(dependencies=[Depends(budget)])

        @app.get("/paid")
        async def paid() -> None:
            (await guard.aacquire(10)).settle()

        await call(app, scope(), {"type": "http.request", "body": b"", "more_body": False})
        assert figures(of_user(guard, "ada")) == (0, 0, 25)


class TestServed:
    """A real server, whose clients are real."""

    def test_users_at_once(self, serve: Any) -> None:
        """Exact numbers for each user, with sync endpoints in the server's threads."""
        guard = Guard(FakeProvider(1000))
        app = FastAPI()
        app.add_middleware(GuardMiddleware, budget=by_user(guard, 55))

        @app.get("/free")
        def free() -> None:
            with guard.require_credits(min=10, name="spec"):
                pass

        port = serve(app)

        def ask(name: str) -> int:
            headers = {"user": name}
            return httpx.get(
                f"http://127.0.0.1:{port}/free", headers=headers, trust_env=False
            ).status_code

        with ThreadPoolExecutor(12) as pool:
            statuses = Counter(zip("ab" * 20, pool.map(ask, "ab" * 20), strict=True))
        assert statuses == {(name, 200): 5 for name in "ab"} | {(name, 402): 15 for name in "ab"}
        assert {figures(of_user(guard, name, 55)) for name in "ab"} == {(50, 0, 5)}


@pytest.mark.parametrize("option", ["budget", "labels"])
def test_what_is_no_plain_callable(guard: Guard, option: str) -> None:
    """It is refused when the app is built."""

    async def later(_: Any) -> Any:
        return None

    with pytest.raises(TypeError, match=f"{option} takes a callable that is given the scope, not"):
        GuardMiddleware(answers, **{option: "ada"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="plain function"):
        GuardMiddleware(answers, **{option: later})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="each request needs its own"):
        GuardMiddleware(answers, budget=guard.budget(10))  # type: ignore[arg-type]


def test_one_budget_object_for_all_requests(guard: Guard) -> None:
    """The second request is an error that says to make a new one."""
    budget = guard.budget(10, name="run")
    middleware = GuardMiddleware(answers, budget=lambda _: budget)

    async def send(_: Any) -> None:
        pass

    async def ask() -> None:
        await middleware({"type": "http", "method": "GET", "path": "/"}, send, send)  # type: ignore[arg-type]

    anyio.run(ask)
    with pytest.raises(RuntimeError, match="Make a new one for each block"):
        anyio.run(ask)
