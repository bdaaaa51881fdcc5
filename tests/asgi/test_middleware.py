"""Requests that are admitted, refused and ended, on either loop and behind a real server."""

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio
import httpx
import jsonschema
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from budgetguard import (
    Balance,
    ConfigurationError,
    Guard,
    GuardPool,
    InsufficientCredits,
    InvalidCredentials,
    learned,
    set_active,
    set_default_guard,
)
from budgetguard._core.problem_document import SCHEMA, document
from budgetguard.asgi import GuardMiddleware
from budgetguard.testing import FakeProvider

START = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
LAST = {"type": "http.response.body", "body": b"last"}
REQUEST = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}
CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}
RULES: dict[Any, Any] = {("*", "/paid/**"): 10, ("WEBSOCKET", "/live"): 60}


def sending(*messages: dict[str, Any], error: BaseException | None = None) -> Any:
    """An app that sends these, then raises or returns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    return app


def problem(call: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The document that refused a call, and its headers."""
    start, body = call.sent
    assert start["type"].endswith("http.response.start")
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    members = json.loads(body["body"])
    assert headers["content-type"] == "application/problem+json"
    assert headers["content-length"] == str(len(body["body"]))
    assert members["status"] == start["status"]
    return members, headers


def test_a_document_says_the_unit_and_the_renewal() -> None:
    """As JSON has them."""
    renews = datetime(2026, 12, 1, tzinfo=UTC)
    guard = Guard(lambda: Balance(credits="0.5", unit="USD", renews_at=renews))
    with pytest.raises(InsufficientCredits) as caught:
        guard.acquire(1)
    found = document(caught.value)
    assert (found["unit"], found["renews_at"]) == ("USD", "2026-12-01T00:00:00+00:00")
    jsonschema.validate(found, SCHEMA)


@pytest.mark.anyio
class TestByHand:
    """No server: the app is called on asyncio and on trio."""

    async def test_a_complete_response_is_settled_at_cost(
        self, guard: Guard, told: Any, call: Any
    ) -> None:
        """The app's messages go through as they are, and one call is paid."""
        done = await call(GuardMiddleware(sending(START, PART, LAST), guard, RULES))
        assert done.sent == [START, PART, LAST]
        assert told.kinds() == ["admitted", "settled"]
        assert guard.available == 90
        assert told.events[-1].operation == "* /paid/**"

    async def test_a_learned_rule(self, guard: Guard, call: Any) -> None:
        """It learns by the rule's name what the app settled, and nothing else."""
        costs = [3, None, 5]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            cost = costs.pop(0)
            if cost is not None:
                scope["budgetguard.hold"].settle(cost)
            await sending(START, LAST)(scope, receive, send)

        rules = {("*", "/paid/**"): learned(10)}
        while costs:
            await call(GuardMiddleware(app, guard, rules))
        found = guard.estimate("* /paid/**")
        assert (found.settlements, found.largest, found.cost) == (2, 5, 10)

    @pytest.mark.parametrize("status", [201, 302, 404, 422, 499])
    async def test_below_500_is_settled(
        self, guard: Guard, told: Any, call: Any, status: int
    ) -> None:
        """A client's mistake may be found when credits were spent already."""
        await call(GuardMiddleware(sending({**START, "status": status}, LAST), guard, RULES))
        assert told.kinds() == ["admitted", "settled"]

    @pytest.mark.parametrize(
        "messages",
        [
            [{**START, "status": 500}, LAST],
            [{**START, "status": 503}, LAST],
            [START, PART],
            [START],
            [],
        ],
    )
    async def test_an_unknown_outcome_is_kept(
        self, guard: Guard, told: Any, call: Any, messages: Any
    ) -> None:
        """Nobody knows what a server error or half a response has cost."""
        await call(GuardMiddleware(sending(*messages), guard, RULES))
        assert told.kinds() == ["admitted", "kept"]

    @pytest.mark.parametrize(
        "last",
        [
            {"type": "http.response.pathsend", "path": "/file"},
            {"type": "http.response.zerocopysend", "file": 3},
        ],
    )
    async def test_files_that_the_server_sends(
        self, guard: Guard, told: Any, call: Any, last: Any
    ) -> None:
        """A server's own ways of sending a file complete a response, too."""
        await call(GuardMiddleware(sending(START, last), guard, RULES))
        assert told.kinds() == ["admitted", "settled"]

    @pytest.mark.parametrize("messages", [[], [START, PART], [START, LAST]])
    async def test_an_app_that_raises(
        self, guard: Guard, told: Any, call: Any, messages: Any
    ) -> None:
        """What it raises goes on, and the hold is kept, also after the response."""
        with pytest.raises(ValueError, match="broken"):
            await call(
                GuardMiddleware(sending(*messages, error=ValueError("broken")), guard, RULES)
            )
        assert told.kinds() == ["admitted", "kept"]

    async def test_an_app_that_is_cancelled(self, guard: Guard, told: Any, call: Any) -> None:
        """A response that was cut off is kept."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            cancel.cancel()
            await anyio.lowlevel.checkpoint()

        with anyio.CancelScope() as cancel:
            await call(GuardMiddleware(app, guard, RULES))
        assert told.kinds() == ["admitted", "kept"]

    async def test_a_send_that_fails(
        self, guard: Guard, told: Any, scope: Any, make_call: Any
    ) -> None:
        """A server that says that the client has gone is believed, whatever the app makes of it."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            try:
                await send(PART)
            except OSError:
                await send(LAST)

        call = make_call(GuardMiddleware(app, guard, RULES), scope())
        call.fail_at = 1
        with pytest.raises(OSError, match="gone"):
            await call.run()
        assert told.kinds() == ["admitted", "kept"]

        async def silent(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            with suppress(OSError):
                await send(LAST)

        call = make_call(GuardMiddleware(silent, guard, RULES), scope())
        call.fail_at = 1
        await call.run()
        assert told.kinds() == ["admitted", "kept"] * 2

    async def test_an_app_that_is_told_of_the_hang_up(
        self, guard: Guard, told: Any, call: Any
    ) -> None:
        """It may end in good order, and even complete its response: the client did not hear it."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            seen.append(await receive())
            seen.append(await receive())
            await send(LAST)

        seen: list[Any] = []
        await call(GuardMiddleware(app, guard, RULES), None, REQUEST, GONE)
        assert seen == [REQUEST, GONE]
        assert told.kinds() == ["admitted", "kept"]

    async def test_gone_after_the_last_part(self, guard: Guard, told: Any, call: Any) -> None:
        """Servers say that a client has gone when there is nothing more to receive."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(START)
            await send(LAST)
            incoming.append(GONE)
            assert await receive() == GONE

        done = None
        incoming: Any = None

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            nonlocal incoming
            incoming = receive.__self__.incoming
            await GuardMiddleware(app, guard, RULES)(scope, receive, send)

        done = await call(outer, None, REQUEST)
        assert done.sent == [START, LAST]
        assert told.kinds() == ["admitted", "settled"]

    @pytest.mark.parametrize(
        ("incoming", "end"), [([REQUEST], "settled"), ([REQUEST, GONE], "kept")]
    )
    async def test_what_was_received_early(
        self, guard: Guard, told: Any, call: Any, incoming: Any, end: Any
    ) -> None:
        """What is asked of the server before the last part is there when the app receives."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send(LAST)
            assert [await receive() for _ in incoming] == incoming

        await call(GuardMiddleware(app, guard, RULES), None, *incoming)
        assert told.kinds() == ["admitted", end]

    async def test_a_server_that_never_lets_one_wait(
        self, guard: Guard, told: Any, call: Any
    ) -> None:
        """Receiving early has an end, also where there is always something to receive."""

        async def receive() -> Any:
            return REQUEST

        async def outer(scope: Any, _: Any, send: Any) -> None:
            await GuardMiddleware(sending(START, LAST), guard, RULES)(scope, receive, send)

        done = await call(outer)
        assert done.sent == [START, LAST]
        assert told.kinds() == ["admitted", "settled"]

    async def test_a_server_that_cannot_be_asked(self, guard: Guard, told: Any, call: Any) -> None:
        """What receiving early raises, the app did not ask for: its response goes on."""

        async def outer(scope: Any, _: Any, send: Any) -> None:
            async def receive() -> Any:
                raise ValueError

            await GuardMiddleware(sending(START, LAST), guard, RULES)(scope, receive, send)

        assert (await call(outer)).sent == [START, LAST]
        assert told.kinds() == ["admitted", "kept"]

    async def test_an_app_that_listens_meanwhile(self, guard: Guard, told: Any, call: Any) -> None:
        """Where the app is receiving itself, nobody else does."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
                await send(START)
                await send(LAST)
                tasks.cancel_scope.cancel()

        receiving: list[str] = []

        async def outer(scope: Any, _: Any, send: Any) -> None:
            async def receive() -> Any:
                receiving.append("once")
                await anyio.sleep_forever()

            await GuardMiddleware(app, guard, RULES)(scope, receive, send)

        await call(outer)
        assert receiving == ["once"]
        assert told.kinds() == ["admitted", "settled"]

    async def test_told_of_the_end_while_the_last_part_is_sent(
        self, guard: Guard, told: Any, call: Any
    ) -> None:
        """A server's word that there is nothing more may come before its send returns."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
                await send(START)
                await send(LAST)

        async def outer(scope: Any, _: Any, send: Any) -> None:
            complete = anyio.Event()

            async def receive() -> Any:
                await complete.wait()
                return GONE

            async def sending(message: Any) -> None:
                await send(message)
                if message is LAST:
                    complete.set()
                    await anyio.wait_all_tasks_blocked()

            await GuardMiddleware(app, guard, RULES)(scope, receive, sending)

        await call(outer)
        assert told.kinds() == ["admitted", "settled"]

    async def test_a_hold_in_the_apps_hands(self, guard: Guard, told: Any, call: Any) -> None:
        """The app settles, charges and releases, and what it said stands."""

        def app(end: Any, *after: Any) -> Any:
            async def app(scope: Any, receive: Any, send: Any) -> None:
                end(scope["budgetguard.hold"])
                await sending(*after)(scope, receive, send)

            return app

        await call(GuardMiddleware(app(lambda hold: hold.settle(3), START), guard, RULES))
        await call(GuardMiddleware(app(lambda hold: hold.release(), START, LAST), guard, RULES))
        await call(GuardMiddleware(app(lambda hold: hold.charged(4), START, LAST), guard, RULES))
        kinds: list[Any] = [(event.kind, event.credits) for event in told.events]
        assert [end for end in kinds if end[0] in {"settled", "released"}] == [
            ("settled", 3),
            ("released", 10),
            ("settled", 10),
        ]
        assert guard.available == 87

    async def test_the_scope_of_the_server_is_left_alone(
        self, guard: Guard, call: Any, scope: Any
    ) -> None:
        """The hold is in a copy."""
        own = scope()
        before = dict(own)
        await call(GuardMiddleware(sending(START, LAST), guard, RULES), own)
        assert own == before

    async def test_refused_before_the_app(
        self, guard: Guard, told: Any, call: Any, scope: Any
    ) -> None:
        """The answer is a problem document, and nothing is called, read or held."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError

        refusing = GuardMiddleware(
            app, guard, {("POST", "/paid"): {"min": "150.5", "name": "spec"}}
        )
        done = await call(refusing, scope(method="POST"), REQUEST)
        document, headers = problem(done)
        assert len(done.incoming) == 1
        assert document == {
            "type": "urn:budgetguard:insufficient-credits",
            "title": "Insufficient credits",
            "status": 402,
            "detail": document["detail"],
            "operation": "spec",
            "provider": "fake",
            "needed": 150.5,
            "available": 100,
            "unit": "credits",
            "top_up_url": "https://example.com/top-up",
            "retryable": False,
        }
        assert document["detail"].startswith("spec needs 150.5 credits, and 100 are available")
        assert headers["cache-control"] == "no-store"
        assert "retry-after" not in headers
        assert told.kinds() == ["refused"]

    async def test_retry_after_is_rounded_up(self, guard: Guard, call: Any) -> None:
        """Where open calls make up the shortfall it is there, in seconds, whole in the header."""
        async with guard.require_credits(min=95):
            document, headers = problem(await call(GuardMiddleware(sending(), guard, RULES)))
        assert document["retryable"]
        assert (document["needed"], document["available"]) == (10, 5)
        assert headers["retry-after"] == str(math.ceil(document["retry_after"]))
        assert float(headers["retry-after"]) > 0

    async def test_too_many_sessions(self, guard: Guard, call: Any) -> None:
        """A slot that is not there is a 429."""
        paid = {("*", "/paid"): {"slots": 2}}
        async with guard.require_credits(slots=1):
            document, _ = problem(await call(GuardMiddleware(sending(), guard, paid)))
        assert document["status"] == 429
        assert (document["needed"], document["limit"], document["in_use"]) == (2, 2, 1)
        assert document["type"] == "urn:budgetguard:too-many-sessions"

    async def test_a_balance_that_is_not_known(self, clock: Any, call: Any) -> None:
        """It admits nobody: a 503 that says when to come again."""
        provider = FakeProvider(100)
        provider.failure = ConnectionError("no route")
        middleware = GuardMiddleware(sending(), Guard(provider), RULES)
        with anyio.fail_after(20):
            document, headers = problem(await _while_turning(clock, call(middleware)))
        assert document["status"] == 503
        assert document["type"] == "urn:budgetguard:balance-unavailable"
        assert document["provider"] == "fake"
        assert int(headers["retry-after"]) >= 1

    async def test_a_paused_account(self, guard: Guard, call: Any) -> None:
        """A 503 with the reason; nobody knows when to come again."""
        guard.pause("the key may have leaked")
        document, headers = problem(await call(GuardMiddleware(sending(), guard, RULES)))
        assert (document["status"], document["title"]) == (503, "Paused")
        assert document["type"] == "urn:budgetguard:paused"
        assert "the key may have leaked" in document["detail"]
        assert document["retryable"]
        assert "retry-after" not in headers

    async def test_when_to_come_again_is_never_at_once(self, clock: Any, call: Any) -> None:
        """A client that is told 0 seconds would ask in a tight loop."""
        guard = Guard(FakeProvider(100, max_concurrency=1), recheck_after=0)
        async with guard.require_credits(slots=1):
            paid = {("*", "/paid"): {"slots": 1}}
            document, headers = problem(await call(GuardMiddleware(sending(), guard, paid)))
        assert document["retry_after"] == 0
        assert headers["retry-after"] == "1"

    async def test_a_key_that_is_wrong(self, clock: Any, call: Any) -> None:
        """To wait does not help: nobody is told to."""

        class Denying:
            name = "denying"

            async def fetch(self, _: Any) -> Any:
                raise InvalidCredentials(provider="denying", reason="it answered 401")

        refusal = await call(GuardMiddleware(sending(), Guard(Denying()), RULES))
        document, headers = problem(refusal)
        assert document["status"] == 503
        assert "it answered 401" in document["detail"]
        assert not document["retryable"]
        assert "retry-after" not in headers
        assert "retry_after" not in document

    async def test_a_refused_head_has_no_body(self, guard: Guard, call: Any, scope: Any) -> None:
        """It has the headers that a GET would have."""
        rules = {("GET", "/paid"): 200}
        done = await call(GuardMiddleware(sending(), guard, rules), scope(method="HEAD"))
        assert done.body == b""
        assert dict(done.sent[0]["headers"])[b"content-length"] != b"0"
        assert done.sent[0]["status"] == 402

    async def test_a_refusal_from_within(self, guard: Guard, told: Any, call: Any) -> None:
        """What a guarded function in the app raises is answered, if the response did not begin."""

        @guard.require_credits(min=500)
        async def spend() -> None: ...

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for message in scope["messages"]:
                await send(message)
            await spend()

        scope = {"type": "http", "method": "GET", "path": "/free", "messages": []}
        document, _ = problem(await call(GuardMiddleware(app), scope))
        assert document["status"] == 402
        with pytest.raises(InsufficientCredits):
            await call(GuardMiddleware(app), {**scope, "messages": [START]})
        await call(GuardMiddleware(app, guard, RULES), {**scope, "path": "/paid"})
        assert told.kinds() == ["refused", "refused", "admitted", "refused", "kept"]

    @pytest.mark.parametrize(
        ("path", "more"),
        [
            ("/paid", {}),
            ("//paid", {}),
            ("/PAID/", {}),
            ("/paid", {"method": "pAtCh"}),
            ("/api/paid", {"root_path": "/api"}),
            ("/api/paid", {"root_path": "/api/"}),
            ("/paid", {"root_path": "/api"}),
            ("/paid", {"root_path": "/pai"}),
            ("/paid", {"root_path": "/paid"}),
            ("/other", {"raw_path": b"/paid"}),
            ("/api/other", {"raw_path": b"/api/%70aid", "root_path": "/api"}),
            ("/paid", {"raw_path": None}),
            ("/paid\n", {}),
            ("/api/paid\n", {"root_path": "/api"}),
        ],
    )
    async def test_whatever_way_the_path_comes(
        self, guard: Guard, told: Any, call: Any, scope: Any, path: Any, more: Any
    ) -> None:
        """Below its root, as a whole and raw: a rule for it holds."""
        await call(GuardMiddleware(sending(START, LAST), guard, RULES), scope(path, **more))
        assert told.kinds() == ["admitted", "settled"]

    async def test_an_encoded_slash(self, guard: Guard, told: Any, call: Any, scope: Any) -> None:
        """For a router that splits the raw path, a slash that is encoded is within a segment."""
        own = scope("/items/a/b", raw_path=b"/items/a%2Fb")
        await call(GuardMiddleware(sending(START, LAST), guard, {("*", "/items/*"): 10}), own)
        assert told.kinds() == ["admitted", "settled"]

    @pytest.mark.parametrize("root_path", ["", "/api"])
    async def test_an_exception_before_a_rule_for_all(
        self, guard: Guard, told: Any, call: Any, scope: Any, root_path: str
    ) -> None:
        """It holds for an app that is mounted, too, and lets nothing else pass."""
        rules: Any = {("GET", "/health"): None, ("*", "/**"): 10}
        middleware = GuardMiddleware(sending(START, LAST), guard, rules)
        for path in ("/health", "/spec", "/health/", "/%68ealth/"):
            await call(middleware, scope(root_path + path, root_path=root_path))
        assert told.kinds() == ["admitted", "settled"] * 3

    async def test_no_path_at_all(self, guard: Guard, told: Any, call: Any, scope: Any) -> None:
        """A gateway may write the root as nothing."""
        middleware = GuardMiddleware(sending(START, LAST), guard, {("*", "/**"): 10})
        await call(middleware, scope("", raw_path=b""))
        assert told.kinds() == ["admitted", "settled"]

    @pytest.mark.parametrize(
        ("scope", "rules"),
        [
            ({"path": "/free", "method": "GET"}, RULES),
            ({"path": "/paid", "method": "OPTIONS"}, {("OPTIONS", "/**"): None} | RULES),
            ({"path": "/paid", "method": "GET"}, {("*", "/paid"): lambda scope: None}),
        ],
    )
    async def test_free_requests(
        self, guard: Guard, told: Any, call: Any, scope: Any, rules: Any
    ) -> None:
        """What no rule prices is let through, and the guard does not hear of it."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert "budgetguard.hold" not in scope
            await sending(START, LAST)(scope, receive, send)

        done = await call(GuardMiddleware(app, guard, rules), {"type": "http", **scope})
        assert done.sent == [START, LAST]
        assert told.kinds() == []

    async def test_a_callable_says_the_cost(
        self, guard: Guard, told: Any, call: Any, scope: Any
    ) -> None:
        """It is given the scope."""

        def cost(scope: Any) -> str | None:
            assert scope["type"] == "http"
            return scope["query_string"].decode() or None

        middleware = GuardMiddleware(sending(START, LAST), guard, {("*", "/paid"): cost})
        await call(middleware, scope(query_string=b"12.5"))
        await call(middleware, scope(query_string=b""))
        assert [event.credits for event in told.events if event.kind == "settled"] == [
            Decimal("12.5")
        ]

    @pytest.mark.parametrize("cost", [lambda _: 1 / 0, lambda _: -1, lambda _: "much", lambda: 1])
    async def test_a_callable_that_fails(self, guard: Guard, call: Any, cost: Any) -> None:
        """No request gets past it."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError

        with pytest.raises((ZeroDivisionError, ValueError, TypeError)):
            await call(GuardMiddleware(app, guard, {("*", "/paid"): cost}))
        assert guard.available in {None, 100}

    async def test_a_guard_for_each_request(
        self, clock: Any, told: Any, call: Any, scope: Any
    ) -> None:
        """A callable finds the guard, given the scope; where it fails nobody is let in."""
        pool: GuardPool[str] = GuardPool(lambda _: Guard(FakeProvider(10), on_event=told))
        middleware = GuardMiddleware(
            sending(START, LAST), lambda scope: pool[scope["tenant"]], RULES
        )
        await call(middleware, scope(tenant="a"))
        await call(middleware, scope(tenant="b"))
        assert [pool[tenant].available for tenant in "ab"] == [0, 0]
        with pytest.raises(KeyError):
            await call(middleware, scope())
        with pytest.raises(TypeError, match="must return a Guard"):
            await call(GuardMiddleware(sending(), lambda scope: None, RULES), scope())  # type: ignore[arg-type,return-value]

    async def test_the_default_guard(self, guard: Guard, told: Any, call: Any) -> None:
        """Without a guard it is the one that require_credits takes; a lack of it is no refusal."""
        middleware = GuardMiddleware(sending(START, LAST), rules=RULES)
        with pytest.raises(ConfigurationError):
            await call(middleware)
        set_default_guard(guard)
        await call(middleware)
        assert told.kinds() == ["admitted", "settled"]

    async def test_switched_off(self, guard: Guard, told: Any, call: Any) -> None:
        """Apps run as if unguarded, and find a hold that does nothing."""
        set_active(False)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope["budgetguard.hold"].settle(7)
            await sending(START, LAST)(scope, receive, send)

        await call(GuardMiddleware(app, guard, {("*", "/paid"): lambda _: 1 / 0}))
        await call(GuardMiddleware(sending(), guard, RULES))
        assert told.kinds() == []

    async def test_other_scopes_pass(self, guard: Guard, call: Any) -> None:
        """Lifespan and what is not known yet reach the app as they came."""

        async def app(*given: Any) -> None:
            seen.append(given)

        seen: list[Any] = []
        for kind in ("lifespan", "pubsub"):
            own = {"type": kind, "path": "/paid"}
            done = await call(GuardMiddleware(app, guard, RULES), own)
            given, receive, send = seen.pop()
            assert given is own
            assert (receive, send) == (done.receive, done.send)

    async def test_a_websocket_is_held_for_until_the_app_returns(
        self, guard: Guard, told: Any, call: Any
    ) -> None:
        """It is settled when the app returns, and kept when it raises."""
        live = {"type": "websocket", "path": "/live"}
        await call(GuardMiddleware(sending(ACCEPT), guard, RULES), live)
        assert guard.available == 40
        free = {"type": "websocket", "path": "/free"}
        await call(GuardMiddleware(sending(ACCEPT), guard, RULES), free)
        failing = sending(ACCEPT, error=ValueError("broken"))
        paid = {"type": "websocket", "path": "/paid"}
        with pytest.raises(ValueError, match="broken"):
            await call(GuardMiddleware(failing, guard, RULES), paid)
        assert told.kinds() == ["admitted", "settled", "admitted", "kept"]

    async def test_a_refused_websocket(self, guard: Guard, call: Any) -> None:
        """It is answered as a request where the server can do that, else closed before it opens."""
        rules = {("WEBSOCKET", "/live"): {"min": 150, "name": "a live session, é" * 9}}
        middleware = GuardMiddleware(sending(ACCEPT), guard, rules)
        live = {"type": "websocket", "path": "/live"}
        able = {**live, "extensions": {"websocket.http.response": {}}}
        done = await call(middleware, able, CONNECT)
        assert [m["type"].removeprefix("websocket.http.response.") for m in done.sent] == [
            "start",
            "body",
        ]
        document, _ = problem(done)
        assert document["status"] == 402
        for scope in (live, {**live, "extensions": None}):
            done = await call(middleware, scope, CONNECT)
            [close] = done.sent
            assert (close["type"], close["code"]) == ("websocket.close", 1008)
            assert 100 < len(close["reason"].encode()) <= 123
            assert not done.incoming


async def _while_turning(clock: Any, work: Any) -> Any:
    """Turn the clock while something that backs off is awaited."""
    done = None

    async def run() -> None:
        nonlocal done
        done = await work
        turning.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.CancelScope() as turning:
            while True:
                clock.advance(1)
                await anyio.lowlevel.checkpoint()
    return done


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ({}, ValueError),
        ({"POST /paid": 10}, TypeError),
        ({("POST", "paid"): 10}, ValueError),
        ({("PSOT", "/paid"): 10}, ValueError),
        ({("POST", "/paid"): -1}, ValueError),
        ({("POST", "/paid"): True}, TypeError),
        ({("POST", "/paid"): []}, TypeError),
        ({("POST", "/paid"): {}}, TypeError),
        ({("POST", "/paid"): {"min": 1, "much": 2}}, TypeError),
        ({("POST", "/paid"): {"min": 1, "actual": len}}, TypeError),
    ],
)
def test_rules_that_cannot_be(guard: Guard, rules: Any, error: type[Exception]) -> None:
    """They are refused when the app is built, not at a request."""
    with pytest.raises(error):
        GuardMiddleware(sending(), guard, rules)


def test_a_cost_that_would_have_to_be_awaited(guard: Guard) -> None:
    """A coroutine function as a cost is refused, as is a guard without rules; errors say whose."""

    async def cost(scope: Any) -> int:
        return 1

    with pytest.raises(ValueError, match="must not be negative") as said:
        GuardMiddleware(sending(), guard, {("POST", "/paid"): 1, ("GET", "/paid"): -1})
    assert said.value.__notes__ == ["in the rule for GET /paid"]
    with pytest.raises(TypeError, match="plain function"):
        GuardMiddleware(sending(), guard, {("POST", "/paid"): cost})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"takes no release_on: .*hold\"\]\.release\(\).*require\("):
        GuardMiddleware(sending(), guard, {("GET", "/paid"): {"min": 1, "release_on": OSError}})
    with pytest.raises(TypeError, match=r"a rule takes no on_refusal: .* problem document"):
        GuardMiddleware(sending(), guard, {("GET", "/paid"): {"min": 1, "on_refusal": print}})
    with pytest.raises(TypeError, match=r"it names 'mni'.*Did you mean min"):
        GuardMiddleware(sending(), guard, {("GET", "/paid"): {"mni": 1}})
    with pytest.raises(TypeError, match="guards nothing"):
        GuardMiddleware(sending(), guard)


def test_no_framework_is_imported() -> None:
    """Who uses the middleware alone needs none, nor anyio before a response."""
    code = (
        "import sys\n"
        "from budgetguard.asgi import GuardMiddleware, require\n"
        "print({'starlette', 'fastapi', 'anyio', 'wrapt', 'httpx'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class TestServed:
    """uvicorn on a real socket, with Starlette behind it."""

    def test_an_app_and_its_middleware(
        self, guard: Guard, told: Any, serve: Any, tmp_path: Any
    ) -> None:
        """A Starlette app takes it by add_middleware; files, mounts, HEAD and bodies go through."""
        (tmp_path / "file").write_bytes(b"x" * 100_000)

        async def echo(request: Request) -> JSONResponse:
            body = await request.body()
            request.scope["budgetguard.hold"].settle(len(body))
            return JSONResponse({"length": len(body)})

        app = Starlette(
            routes=[
                Route("/paid/echo", echo, methods=["POST"]),
                Route("/paid/file", lambda _: FileResponse(tmp_path / "file")),
                Mount(
                    "/sub",
                    Starlette(
                        routes=[Route("/paid", lambda _: PlainTextResponse("ok"))],
                        middleware=[Middleware(GuardMiddleware, guard=guard, rules=RULES)],
                    ),
                ),
            ]
        )
        app.add_middleware(GuardMiddleware, guard=guard, rules=RULES)
        url = f"http://127.0.0.1:{serve(app)}"
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert client.post("/paid/echo", content=b"x" * 9).json() == {"length": 9}
            assert len(client.get("/paid/file").content) == 100_000
            assert client.head("/paid/file").headers["content-length"] == "100000"
            assert client.get("/sub/paid").text == "ok"
            assert client.get("/paid/none").status_code == 404
            told.wait("settled", 5)
            assert guard.available == 100 - 9 - 10 - 10 - 10 - 10
            assert told.kinds().count("admitted") == 5
            # Starlette takes this for /paid/file.
            assert len(client.get("/paid/file%0A").content) == 100_000
            told.wait("settled", 6)
            assert guard.available == 41
            # The connection is of use after a refusal whose request had a body.
            assert guard.acquire(min=40)
            assert client.post("/paid/echo", content=b"x" * 9).status_code == 402
            assert client.get("/free").status_code == 404

    def test_lifespan(self, guard: Guard, serve: Any) -> None:
        """The app starts and stops."""
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "lifespan"
            for _ in range(2):
                kind = (await receive())["type"]
                seen.append(kind)
                await send({"type": f"{kind}.complete"})

        serve(GuardMiddleware(app, guard, RULES), lifespan="on")
        assert seen == ["lifespan.startup"]

    def test_exactly_as_many_as_the_budget_pays(
        self, guard: Guard, told: Any, serve: Any, gate: Any
    ) -> None:
        """Of 40 at once, 10 get in, and 30 are refused while these run."""

        async def slow(_: Request) -> PlainTextResponse:
            await gate.passed()
            return PlainTextResponse("done")

        app = GuardMiddleware(Starlette(routes=[Route("/paid", slow)]), guard, RULES)
        url = f"http://127.0.0.1:{serve(app)}/paid"
        limits = httpx.Limits(max_connections=40)
        with (
            httpx.Client(limits=limits, trust_env=False, timeout=30) as client,
            ThreadPoolExecutor(40) as pool,
        ):
            answers = [pool.submit(client.get, url) for _ in range(40)]
            told.wait("refused", 30)
            gate.open()
            statuses = sorted(answer.result().status_code for answer in answers)
        assert statuses == [200] * 10 + [402] * 30
        told.wait("settled", 10)
        assert guard.available == 0

    def test_refusals_while_others_stream(
        self, guard: Guard, told: Any, serve: Any, gate: Any
    ) -> None:
        """A stream goes on while others are refused, and is settled when it has ended."""

        async def parts() -> Any:
            yield b"first,"
            await gate.passed()
            yield b"second"

        app = Starlette(routes=[Route("/paid", lambda _: StreamingResponse(parts()))])
        rules = {("GET", "/paid"): 60}
        url = f"http://127.0.0.1:{serve(GuardMiddleware(app, guard, rules))}/paid"
        with httpx.Client(trust_env=False) as client, client.stream("GET", url) as stream:
            delivered = stream.iter_raw()
            assert next(delivered) == b"first,"
            refused = [client.get(url) for _ in range(3)]
            assert {answer.status_code for answer in refused} == {402}
            assert int(refused[0].headers["retry-after"]) > 0
            assert told.kinds() == ["admitted", "refused", "refused", "refused"]
            gate.open()
            assert b"".join(delivered) == b"second"
        told.wait("settled")

    def test_hanging_up_half_way(
        self, guard: Guard, told: Any, serve: Any, hang_up: Any, gate: Any
    ) -> None:
        """Starlette hears of it and stops the stream; the hold is kept."""
        stopped: list[BaseException] = []

        async def parts() -> Any:
            yield b"first"
            try:
                await anyio.sleep_forever()
            except BaseException as error:
                stopped.append(error)
                raise

        app = Starlette(routes=[Route("/paid", lambda _: StreamingResponse(parts()))])
        port = serve(GuardMiddleware(app, guard, RULES))
        hang_up(port, "/paid", b"first")
        told.wait("kept")
        assert len(stopped) == 1
        assert told.kinds() == ["admitted", "kept"]

    def test_hanging_up_on_an_app_that_does_not_listen(
        self, guard: Guard, told: Any, serve: Any, hang_up: Any, gate: Any, gone: Any
    ) -> None:
        """uvicorn swallows what is sent to nobody; the hold is kept all the same."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send(PART)
            await gate.passed()
            await send(PART)
            await send(LAST)

        port = serve(gone(GuardMiddleware(app, guard, RULES), gate))
        hang_up(port, "/paid", b"part")
        told.wait("kept")
        assert told.kinds() == ["admitted", "kept"]

    def test_hanging_up_before_the_response(
        self, guard: Guard, told: Any, serve: Any, hang_up: Any, gate: Any, gone: Any
    ) -> None:
        """An endpoint that answers a client who has gone is kept; one that settled is settled."""

        async def endpoint(request: Request) -> PlainTextResponse:
            await gate.passed()
            if request.url.path.endswith("settled"):
                request.scope["budgetguard.hold"].settle(3)
            return PlainTextResponse("too late")

        app = Starlette(routes=[Route("/paid/{rest:path}", endpoint)])
        port = serve(gone(GuardMiddleware(app, guard, RULES), gate))
        hang_up(port, "/paid/", ready=lambda: told.wait("admitted"))
        told.wait("kept")
        assert told.kinds() == ["admitted", "kept"]

    @pytest.mark.parametrize("outside", [True, False])
    def test_beside_other_middleware(
        self, guard: Guard, told: Any, serve: Any, hang_up: Any, *, outside: bool
    ) -> None:
        """Starlette's own, which receives and sends in ways of its own, goes on either side."""

        class Other(BaseHTTPMiddleware):
            async def dispatch(self, request: Request, call_next: Any) -> Response:
                response: Response = await call_next(request)
                response.headers["x-other"] = "1"
                return response

        async def echo(request: Request) -> StreamingResponse:
            body = await request.body()

            async def parts() -> Any:
                yield body
                if request.method == "GET":
                    await anyio.sleep_forever()

            return StreamingResponse(parts())

        both = [Middleware(Other), Middleware(GuardMiddleware, guard=guard, rules=RULES)]
        app = Starlette(
            routes=[
                Route("/paid", echo, methods=["POST", "GET"]),
                Route("/paid/unread", lambda _: PlainTextResponse("ok"), methods=["POST"]),
            ],
            middleware=both if outside else both[::-1],
        )
        port = serve(app)
        url = f"http://127.0.0.1:{port}/paid"
        with httpx.Client(trust_env=False) as client:
            for path, text in (("", "hello"), ("/unread", "ok")) * 2:
                answer = client.post(url + path, content=b"hello")
                assert (answer.text, answer.headers["x-other"]) == (text, "1")
        told.wait("settled", 4)
        hang_up(port, "/paid", b"\r\n\r\n")
        told.wait("kept")

    def test_background_tasks_run_inside(
        self, guard: Guard, told: Any, serve: Any, gate: Any
    ) -> None:
        """The hold is open until they have ended, and they may settle it."""

        async def later(request: Request) -> None:
            await gate.passed()
            if request.url.query:
                raise RuntimeError
            request.scope["budgetguard.hold"].settle(4)

        def endpoint(request: Request) -> PlainTextResponse:
            return PlainTextResponse("soon", background=BackgroundTask(later, request))

        app = Starlette(routes=[Route("/paid", endpoint)])
        port = serve(GuardMiddleware(app, guard, RULES))
        url = f"http://127.0.0.1:{port}/paid"
        assert httpx.get(url, trust_env=False).text == "soon"
        assert told.kinds() == ["admitted"]
        gate.open()
        told.wait("settled")
        assert guard.available == 96
        assert httpx.get(f"{url}?fail", trust_env=False).text == "soon"
        told.wait("kept")

    @pytest.mark.parametrize("protocol", ["websockets-sansio", "wsproto"])
    def test_websockets(self, guard: Guard, told: Any, serve: Any, protocol: str) -> None:
        """An admitted one talks, a second one is refused with the document."""

        async def live(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text(await websocket.receive_text())
            await websocket.close()

        app = Starlette(routes=[WebSocketRoute("/live", live)])
        port = serve(GuardMiddleware(app, guard, RULES), ws=protocol)
        with connect(f"ws://127.0.0.1:{port}/live", proxy=None) as socket:
            with pytest.raises(InvalidStatus) as refused:
                connect(f"ws://127.0.0.1:{port}//live", proxy=None)
            answer = refused.value.response
            assert answer.status_code == 402
            assert answer.headers["content-type"] == "application/problem+json"
            assert json.loads(answer.body or b"")["needed"] == 60
            socket.send("hello")
            assert socket.recv(timeout=20) == "hello"
        told.wait("settled")
        assert told.kinds() == ["admitted", "refused", "settled"]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_hypercorn(guard: Guard, told: Any, hang_up: Any, hypercorn: Any, loop: str) -> None:
    """Another server, on both loops: what Starlette hears of its client counts."""

    async def parts() -> Any:
        yield b"first"
        await anyio.sleep_forever()

    app = Starlette(
        routes=[
            Route("/paid/stream", lambda _: StreamingResponse(parts())),
            Route("/paid/text", lambda _: PlainTextResponse("ok")),
        ]
    )
    rules: Any = {("GET", "/paid/*"): 40}
    port = hypercorn(GuardMiddleware(app, guard, rules), loop)
    assert httpx.get(f"http://127.0.0.1:{port}/paid/text", trust_env=False).text == "ok"
    told.wait("settled")
    hang_up(port, "/paid/stream", b"first")
    told.wait("kept")
    assert httpx.get(f"http://127.0.0.1:{port}/paid/text", trust_env=False).status_code == 402
    assert told.kinds() == ["admitted", "settled", "admitted", "kept", "refused"]
