"""The FastAPI dependency: when it refuses, what becomes of its hold, and what the documentation says."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import httpx
import jsonschema
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from budgetguard import Guard, Hold
from budgetguard.asgi import REFUSALS, GuardMiddleware, require


@pytest.fixture(params=["alone", "with the middleware"])
def app(request: pytest.FixtureRequest) -> FastAPI:
    """An app, with and without the middleware that tells how responses went."""
    app = FastAPI(responses=REFUSALS)
    if request.param != "alone":
        app.add_middleware(GuardMiddleware)
    return app


@pytest.fixture
def alone(app: FastAPI) -> bool:
    """Whether the app is without the middleware."""
    return not app.user_middleware


def answer(done: Any) -> tuple[int, dict[bytes, bytes], Any]:
    """Status, headers and JSON of a call."""
    return done.sent[0]["status"], dict(done.sent[0]["headers"]), json.loads(done.body)


@pytest.mark.anyio
class TestByHand:
    """No server: the app is called on asyncio and on trio."""

    async def test_declared_data(self, app: FastAPI, guard: Guard, told: Any, call: Any) -> None:
        """An endpoint that is declared to return data is settled at cost when it has."""

        @app.get("/paid", dependencies=[Depends(require(guard, min=10))])
        async def paid(x: int = 1) -> dict[str, int]:
            assert told.kinds() == ["admitted"]
            return {"x": x}

        assert answer(await call(app))[::2] == (200, {"x": 1})
        assert told.kinds() == ["admitted", "settled"]
        assert told.events[-1].operation.endswith("<locals>.paid")
        assert guard.available == 90

    async def test_a_sync_endpoint_settles(
        self, app: FastAPI, guard: Guard, told: Any, call: Any
    ) -> None:
        """The hold is a parameter's value, and what the endpoint says stands."""

        @app.get("/paid")
        def paid(hold: Annotated[Hold, Depends(require(guard, min=10, name="spec"))]) -> Any:
            hold.settle(3)

        assert answer(await call(app))[::2] == (200, None)
        assert told.kinds() == ["admitted", "settled"]
        assert told.events[-1].operation == "spec"
        assert guard.available == 97

    @pytest.mark.parametrize("kind", ["undeclared", "any", "response", "generator"])
    async def test_undeclared(
        self, app: FastAPI, guard: Guard, told: Any, call: Any, alone: bool, kind: str
    ) -> None:
        """What may go on as a stream is kept, unless the middleware saw it end."""

        def undeclared():  # type: ignore[no-untyped-def]  # noqa: ANN202
            return {}

        def response() -> StreamingResponse:
            return StreamingResponse(iter([b"{}"]))

        def any_() -> Any:
            return response()

        async def generator() -> AsyncIterator[int]:
            yield 1

        endpoint = {"any": any_} | {
            each.__name__: each for each in (undeclared, response, generator)
        }
        app.get("/paid", dependencies=[Depends(require(guard, min=10))])(endpoint[kind])
        assert answer(await call(app))[0] == 200
        assert told.kinds() == ["admitted", "kept" if alone else "settled"]

    async def test_a_generator_of_no_declared_item(
        self, app: FastAPI, guard: Guard, told: Any, call: Any, alone: bool
    ) -> None:
        """A generator endpoint goes on as a stream, whatever it is declared to return."""

        def paid():  # type: ignore[no-untyped-def]  # noqa: ANN202
            yield b"1"

        app.get(
            "/paid", dependencies=[Depends(require(guard, min=10))], response_model=dict[str, int]
        )(paid)
        await call(app)
        assert told.kinds() == ["admitted", "kept" if alone else "settled"]

    @pytest.mark.parametrize("status", [404, 500])
    async def test_an_endpoint_that_raises(
        self, app: FastAPI, guard: Guard, told: Any, call: Any, status: int
    ) -> None:
        """Its exception reaches the dependency, and the hold is kept."""

        @app.get("/paid", dependencies=[Depends(require(guard, min=10))])
        async def paid() -> dict[str, int]:
            raise HTTPException(status)

        assert answer(await call(app))[0] == status
        assert told.kinds() == ["admitted", "kept"]

    async def test_an_endpoint_that_breaks(
        self, app: FastAPI, guard: Guard, told: Any, make_call: Any, scope: Any
    ) -> None:
        """What no handler takes is kept, and so is a result that is not what was declared."""

        @app.get("/paid", dependencies=[Depends(require(guard, min=10))])
        async def paid(*, wrong: bool = False) -> dict[str, int]:
            if wrong:
                return "no dict"  # type: ignore[return-value]
            raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011
            await make_call(app, scope()).run()
        with pytest.raises(Exception, match="validation"):
            await make_call(app, scope(query_string=b"wrong=1")).run()
        assert told.kinds() == ["admitted", "kept"] * 2

    @pytest.mark.parametrize(
        ("release_on", "end"), [((), "kept"), (RequestValidationError, "released")]
    )
    async def test_a_request_that_does_not_fit(
        self, app: FastAPI, guard: Guard, told: Any, call: Any, release_on: Any, end: str
    ) -> None:
        """It is kept, as other dependencies may have spent, unless it is said to be free."""

        @app.get("/paid", dependencies=[Depends(require(guard, min=10, release_on=release_on))])
        async def paid(x: int) -> dict[str, int]:
            raise AssertionError

        assert answer(await call(app))[0] == 422
        assert told.kinds() == ["admitted", end]

    @pytest.mark.parametrize("around", [True, False], ids=["with the middleware", "alone"])
    @pytest.mark.parametrize(("raised", "end"), [(KeyError, "kept"), (LookupError, "released")])
    async def test_what_a_handler_makes_a_response_of(
        self, guard: Guard, told: Any, call: Any, raised: Any, end: str, around: bool
    ) -> None:
        """The dependency hears what the endpoint raised, before any handler does."""
        app = FastAPI()
        if around:
            app.add_middleware(GuardMiddleware)

        @app.exception_handler(LookupError)
        async def answered(_: Any, __: Exception) -> JSONResponse:
            return JSONResponse({"error": "busy"}, 429)

        class Free(LookupError):
            """Nothing was charged."""

        needs = require(guard, min=10, release_on=Free)

        @app.get("/paid", dependencies=[Depends(needs)])
        async def paid() -> dict[str, int]:
            raise KeyError if raised is KeyError else Free

        assert answer(await call(app))[0] == 429
        assert told.kinds() == ["admitted", end]

    @pytest.mark.parametrize("status", [200, 404, 500])
    async def test_middleware_that_holds_the_response_back(
        self, guard: Guard, told: Any, call: Any, status: int
    ) -> None:
        """It is sent when the dependency's block has long ended, and decides all the same."""

        def late(app: Any) -> Any:
            async def late(scope: Any, receive: Any, send: Any) -> None:
                messages: list[Any] = []

                async def collect(message: Any) -> None:
                    messages.append(message)

                await app(scope, receive, collect)
                assert told.kinds() == ["admitted"]
                for message in messages:
                    await send(message)

            return late

        app = FastAPI()
        app.add_middleware(late)
        app.add_middleware(GuardMiddleware)

        @app.get("/paid", dependencies=[Depends(require(guard, min=10), scope="function")])
        async def paid() -> PlainTextResponse:
            return PlainTextResponse("done", status)

        await call(app)
        assert told.kinds() == ["admitted", "kept" if status == 500 else "settled"]

    async def test_what_breaks_after_the_endpoint(
        self, guard: Guard, told: Any, make_call: Any, scope: Any
    ) -> None:
        """Middleware that fails over a response that it was given leaves the hold kept."""

        def broken(app: Any) -> Any:
            async def broken(scope: Any, receive: Any, send: Any) -> None:
                await app(scope, receive, send)
                raise ValueError

            return broken

        app = FastAPI()
        app.add_middleware(broken)
        app.add_middleware(GuardMiddleware)

        @app.get("/paid", dependencies=[Depends(require(guard, min=10))])
        async def paid() -> dict[str, int]:
            return {}

        with pytest.raises(ValueError):  # noqa: PT011
            await make_call(app, scope()).run()
        assert told.kinds() == ["admitted", "kept"]

    async def test_in_a_dependency_of_a_router_and_overridden(
        self, app: FastAPI, guard: Guard, told: Any, call: Any
    ) -> None:
        """Another dependency may need it, and a test puts another in its place."""
        credits = require(guard, min=10, name="spec")

        def budget(hold: Annotated[Hold, Depends(credits)]) -> str:
            return f"{hold.amount} for {hold.operation}"

        router = APIRouter(dependencies=[Depends(budget)])

        @router.get("/paid")
        async def paid(given: Annotated[str, Depends(budget)]) -> dict[str, str]:
            return {"given": given}

        app.include_router(router)
        assert answer(await call(app))[2] == {"given": "10 for spec"}
        assert told.kinds() == ["admitted", "settled"]
        app.dependency_overrides[budget] = lambda: "nothing"
        app.dependency_overrides[credits] = lambda: None
        assert answer(await call(app))[2] == {"given": "nothing"}
        assert told.kinds() == ["admitted", "settled"]

    async def test_used_twice_in_one_request(
        self, app: FastAPI, guard: Guard, told: Any, call: Any
    ) -> None:
        """One dependency object holds once per request, wherever it is named."""
        credits = Depends(require(guard, min=10))

        @app.get("/paid", dependencies=[credits])
        async def paid(hold: Annotated[Hold, credits]) -> dict[str, str]:
            return {"state": hold.state}

        assert answer(await call(app))[2] == {"state": "open"}
        assert told.kinds() == ["admitted", "settled"]

    async def test_callables_are_given_the_scope(
        self, app: FastAPI, guard: Guard, told: Any, call: Any
    ) -> None:
        """So a guard and a cost can go by the request."""
        credits = require(lambda scope: guard, min=lambda scope: len(scope["path"]))

        @app.get("/paid", dependencies=[Depends(credits)])
        async def paid() -> dict[str, int]:
            return {}

        await call(app)
        assert guard.available == 95

    @pytest.mark.parametrize("cost", [lambda _: 1 / 0, lambda _: None])
    async def test_a_cost_that_fails(
        self, app: FastAPI, guard: Guard, call: Any, cost: Any
    ) -> None:
        """The endpoint is not called."""

        @app.get("/paid", dependencies=[Depends(require(guard, min=cost))])
        async def paid() -> dict[str, int]:
            raise AssertionError

        with pytest.raises((ZeroDivisionError, TypeError)):
            await call(app)

    async def test_a_refusal(
        self, app: FastAPI, guard: Guard, told: Any, call: Any, scope: Any
    ) -> None:
        """It is the problem document that the documentation describes."""

        @app.get("/paid", dependencies=[Depends(require(guard, min=50, name="spec"))])
        async def paid() -> dict[str, int]:
            return {}

        @app.get("/slots", dependencies=[Depends(require(guard, slots=3))])
        async def slots() -> dict[str, int]:
            raise AssertionError

        async with guard.require_credits(min=60):
            for path, status in (("/paid", 402), ("/slots", 429)):
                got, headers, document = answer(await call(app, scope(path)))
                assert got == status == document["status"]
                assert headers[b"content-type"] == b"application/problem+json"
                assert (b"retry-after" in headers) == ("retry_after" in document)
                documented = app.openapi()["paths"][path]["get"]["responses"][str(status)]
                schema = documented["content"]["application/problem+json"]["schema"]
                jsonschema.validate(document, {**schema, "additionalProperties": False})
        assert told.kinds() == ["admitted", "refused", "refused", "settled"]

    @pytest.mark.parametrize("key", [402, StarletteHTTPException, HTTPException])
    async def test_the_apps_own_handler(
        self, app: FastAPI, guard: Guard, call: Any, key: Any
    ) -> None:
        """An app that answers its HTTP errors in a way of its own answers refusals so, too."""

        @app.exception_handler(key)
        async def mine(_: Any, error: Any) -> JSONResponse:
            return JSONResponse({"mine": error.detail}, error.status_code, error.headers)

        @app.get("/paid", dependencies=[Depends(require(guard, min=500))])
        async def paid() -> dict[str, int]:
            raise AssertionError

        status, headers, document = answer(await call(app))
        assert status == 402
        assert headers[b"content-type"] == b"application/json"
        assert "needs 500 credits" in document["mine"]

    async def test_a_websocket_that_can_only_be_closed(
        self, app: FastAPI, guard: Guard, call: Any
    ) -> None:
        """A server that cannot answer the handshake closes it, with code 1008 and a reason."""

        @app.websocket("/live", dependencies=[Depends(require(guard, min=500))])
        async def live(websocket: WebSocket) -> None:
            raise AssertionError

        live_scope = {"type": "websocket", "path": "/live", "query_string": b"", "headers": []}
        done = await call(app, live_scope, {"type": "websocket.connect"})
        [close] = done.sent
        assert (close["type"], close["code"]) == ("websocket.close", 1008)
        assert "needs 500 credits" in close["reason"]


class TestServed:
    """uvicorn on a real socket."""

    def test_when_a_stream_is_settled(self, guard: Guard, told: Any, serve: Any, gate: Any) -> None:
        """Not when the endpoint returns, but when its stream and background tasks have ended."""
        app = FastAPI()
        app.add_middleware(GuardMiddleware)
        kinds: list[list[str]] = []

        async def parts() -> AsyncIterator[bytes]:
            yield b"first,"
            await gate.passed()
            yield b"second"

        @app.get("/paid", dependencies=[Depends(require(guard, min=10))])
        async def paid(tasks: BackgroundTasks) -> StreamingResponse:
            tasks.add_task(lambda: kinds.append(told.kinds()))
            return StreamingResponse(parts(), background=tasks)

        url = f"http://127.0.0.1:{serve(app)}/paid"
        with httpx.stream("GET", url, trust_env=False) as stream:
            delivered = stream.iter_raw()
            assert next(delivered) == b"first,"
            assert told.kinds() == ["admitted"]
            gate.open()
            assert b"".join(delivered) == b"second"
        told.wait("settled")
        assert kinds == [["admitted"]]

    @pytest.mark.parametrize("how", ["response", "endpoint", "sync"])
    def test_hanging_up_half_way(
        self, app: FastAPI, guard: Guard, told: Any, serve: Any, hang_up: Any, how: str, gate: Any
    ) -> None:
        """A stream that was not received to its end is kept, with the middleware and without."""
        credits = Depends(require(guard, min=10))

        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            await anyio.sleep_forever()

        def sync_parts() -> Iterator[bytes]:
            yield b"first"
            gate.wait()
            yield b"second"

        @app.get("/response", dependencies=[credits])
        async def response() -> Any:
            return StreamingResponse(parts())

        @app.get("/sync", dependencies=[credits])
        def sync() -> StreamingResponse:
            return StreamingResponse(sync_parts())

        app.get("/endpoint", dependencies=[credits], response_class=StreamingResponse)(parts)
        hang_up(serve(app), f"/{how}", b"first")
        gate.open()
        told.wait("kept")
        assert told.kinds() == ["admitted", "kept"]

    def test_hanging_up_before_the_response(
        self, guard: Guard, told: Any, serve: Any, hang_up: Any, gate: Any, gone: Any
    ) -> None:
        """The middleware sees that nobody is there when the response is complete."""
        app = FastAPI()
        app.add_middleware(GuardMiddleware)

        @app.get("/paid", dependencies=[Depends(require(guard, min=10))])
        async def paid() -> dict[str, int]:
            await gate.passed()
            return {}

        hang_up(serve(gone(app, gate)), "/paid", ready=lambda: told.wait("admitted"))
        told.wait("kept")

    def test_a_stream_and_a_task_that_break(
        self, app: FastAPI, guard: Guard, told: Any, serve: Any
    ) -> None:
        """What is raised after the endpoint returned reaches the dependency, too."""
        credits = Depends(require(guard, min=10))

        def parts() -> Iterator[bytes]:
            yield b"first"
            raise ValueError

        def task() -> None:
            raise ValueError

        @app.get("/stream", dependencies=[credits])
        async def stream() -> StreamingResponse:
            return StreamingResponse(parts())

        @app.get("/task", dependencies=[credits])
        async def with_task(tasks: BackgroundTasks) -> dict[str, int]:
            tasks.add_task(task)
            return {}

        url = f"http://127.0.0.1:{serve(app)}"
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/stream", trust_env=False)
        assert httpx.get(f"{url}/task", trust_env=False).status_code == 200
        told.wait("kept", 2)
        assert told.kinds() == ["admitted", "kept"] * 2

    def test_with_rules_around(self, guard: Guard, told: Any, serve: Any) -> None:
        """Both guard the one call: it is held twice, as the documentation warns."""
        app = FastAPI()
        app.add_middleware(GuardMiddleware, guard=guard, rules={("GET", "/*"): 30})

        @app.get("/paid")
        async def paid(hold: Annotated[Hold, Depends(require(guard, min=10))]) -> PlainTextResponse:
            return PlainTextResponse(str(guard.available))

        url = f"http://127.0.0.1:{serve(app)}/paid"
        assert httpx.get(url, trust_env=False).text == "60"
        told.wait("settled", 2)

    def test_websockets(self, app: FastAPI, guard: Guard, told: Any, serve: Any) -> None:
        """One is held for until its endpoint returns; a second is refused with the document."""

        @app.websocket("/live", dependencies=[Depends(require(guard, min=60))])
        async def live(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text(await websocket.receive_text())

        url = f"ws://127.0.0.1:{serve(app, ws='auto')}/live"
        with connect(url, proxy=None) as socket:
            with pytest.raises(InvalidStatus) as refused:
                connect(url, proxy=None)
            assert refused.value.response.status_code == 402
            assert json.loads(refused.value.response.body or b"")["needed"] == 60
            socket.send("hello")
            assert socket.recv(timeout=20) == "hello"
        told.wait("settled")
        assert told.kinds() == ["admitted", "refused", "settled"]


def test_everything_documented_is_documented_for_routers_too(guard: Guard) -> None:
    """The mapping is for an app, a router or an endpoint, and is not changed by either."""
    before = json.dumps({str(status): each for status, each in REFUSALS.items()})
    app = FastAPI()

    @app.post("/a", dependencies=[Depends(require(guard, min=1))], responses=REFUSALS)
    async def a() -> None: ...

    @app.post("/b")
    async def b() -> None: ...

    paths = app.openapi()["paths"]
    assert paths["/a"]["post"]["responses"].keys() == {"200", "402", "403", "429", "503"}
    assert paths["/b"]["post"]["responses"].keys() == {"200"}
    assert json.dumps({str(status): each for status, each in REFUSALS.items()}) == before
