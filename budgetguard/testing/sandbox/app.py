"""The ASGI application: it counts each request, then applies a fault or routes the request."""

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from budgetguard.testing.sandbox import anchor_api, control, predev_api
from budgetguard.testing.sandbox.faults import Fault
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.world import World

Reset = Callable[[Scope], None]


def build(world: World, reset: Reset) -> ASGIApp:
    """Make the application for this world; `reset(scope)` resets a request's connection."""
    routes = [*predev_api.routes(world), *anchor_api.routes(world)]
    routes += [route for vendor in world.vendors.values() for route in vendor.routes()]
    provider = Starlette(
        routes=[*routes, *control.routes(world)],
        exception_handlers={Refusal: _refused, HTTPException: partial(_no_such_route, world)},
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if path.startswith(control.PREFIX):
            await provider(scope, receive, send)
            return
        full = (route.path for route in routes if route.matches(scope)[0] is Match.FULL)
        world.count(method, next(full, path))
        if world.latency:
            await asyncio.sleep(world.latency)
        fault = world.faults.take(method, path)
        if fault is None:
            await provider(scope, receive, send)
        else:
            documented = world.error_body(path, fault.status or 200)
            await _spoil(fault, documented, provider, reset, (scope, receive, send))

    return app


async def _refused(_: Request, error: Exception) -> Response:
    refusal = cast("Refusal", error)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _no_such_route(world: World, request: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)
    body = world.error_body(request.url.path, refusal.status_code)
    return JSONResponse(body, refusal.status_code, refusal.headers)


async def _spoil(
    fault: Fault,
    documented: Mapping[str, Any],
    provider: ASGIApp,
    reset: Reset,
    request: tuple[Scope, Receive, Send],
) -> None:
    scope, receive, send = request
    await asyncio.sleep(fault.latency)
    if fault.reset:
        reset(scope)
    if fault.reset or fault.hang:
        # If this returned before the connection is closed, uvicorn would answer with a 500.
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    if fault.answers:
        status, headers, body = fault.answer(documented)
    elif fault.reshapes:
        status, headers, body = await _collect(provider, scope, receive)
    else:
        await provider(scope, receive, send)
        return
    headers, body = fault.reshape(headers, body)
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    if fault.drip is not None:
        for byte in body:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            await asyncio.sleep(fault.drip)
        body = b""
    await send({"type": "http.response.body", "body": body})


async def _collect(
    provider: ASGIApp, scope: Scope, receive: Receive
) -> tuple[int, dict[str, str], bytes]:
    started: MutableMapping[str, Any] = {}
    body = bytearray()

    async def keep(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            body.extend(message.get("body", b""))

    await provider(scope, receive, keep)
    headers = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in started["headers"]
    }
    return started["status"], headers, bytes(body)
