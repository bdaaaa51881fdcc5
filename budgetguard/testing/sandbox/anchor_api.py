"""Anchor Browser's routes, as its API reference describes them (2026-11)."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from budgetguard.testing.sandbox.account import micro, number
from budgetguard.testing.sandbox.clock import EPOCH
from budgetguard.testing.sandbox.reading import json_object
from budgetguard.testing.sandbox.replies import Refusal, anchor, anchor_flat
from budgetguard.testing.sandbox.world import ANCHOR_KEY, PROJECT_ID, World

_Answer = Callable[[World, Request], Awaitable[Response]]
_CREDITS = "/v1/projects/{project_id}/credits"
_PAGE_SIZES = (10, 20, 50)


def routes(world: World) -> list[Route]:
    """Anchor Browser's routes over this world."""

    def route(path: str, method: str, answer: _Answer) -> Route:
        error: Callable[[int, str], Refusal] = anchor_flat if path == _CREDITS else anchor

        async def endpoint(request: Request) -> Response:
            if request.headers.get("anchor-api-key") != ANCHOR_KEY:
                raise error(401, "Invalid or missing API key.")
            return await answer(world, request)

        return Route(path, endpoint, methods=[method])

    return [
        route(_CREDITS, "GET", _project_credits),
        route("/v1/billing", "GET", _billing),
        route("/v1/sessions", "POST", _create),
        route("/v1/sessions", "GET", _history),
        route("/v1/sessions/all", "DELETE", _delete_all),
        route("/v1/sessions/{session_id}", "GET", _session),
        route("/v1/sessions/{session_id}", "DELETE", _delete),
    ]


async def _project_credits(world: World, request: Request) -> Response:
    if request.path_params["project_id"] != PROJECT_ID:
        raise anchor_flat(404, "Project not found.")
    return JSONResponse(
        {
            "credits": number(world.anchor.reported_micros()),
            "tier": world.tier,
            "maxConcurrentBrowsers": world.browsers.max_concurrent,
            "cost_limit": _cost_limit(world),
        }
    )


async def _billing(world: World, _: Request) -> Response:
    with world.clock.settled():
        credits = number(world.anchor.reported_micros())
        data = {
            "credits": credits,
            "credits_used": number(world.anchor.reported_used_micros()),
            "included_credits": number(micro(world.included)),
            "billing_period": f"{EPOCH:%Y-%m}",
            "tier": world.tier,
            "gifts_balance": credits,
            "max_concurrent_browsers": world.browsers.max_concurrent,
            "cost_limit": _cost_limit(world),
        }
    return JSONResponse({"data": data})


async def _create(world: World, request: Request) -> Response:
    configuration = await json_object(request)
    if configuration is None:
        raise anchor(400, "The body is not a JSON object.")
    session = world.browsers.create(configuration)
    id = session.operation.id
    # Nothing answers there: the sandbox has accounts and sessions, but no browsers.
    data = {
        "id": id,
        "cdp_url": f"ws://127.0.0.1:9/{id}",
        "live_view_url": f"http://127.0.0.1:9/{id}",
    }
    return JSONResponse({"data": data})


async def _session(world: World, request: Request) -> Response:
    with world.clock.settled():
        session = world.browsers.find(request.path_params["session_id"])
        if session is None:
            raise anchor(404, "Session not found.")
        return JSONResponse({"data": world.browsers.body(session)})


async def _history(world: World, request: Request) -> Response:
    page, limit = request.query_params.get("page", "1"), request.query_params.get("limit", "10")
    if not page.isdecimal() or int(page) < 1 or limit not in map(str, _PAGE_SIZES):
        raise anchor(400, "page starts at 1, and limit is 10, 20 or 50.")
    tags = {*filter(None, request.query_params.get("tags", "").split(","))}
    return JSONResponse({"data": world.browsers.page(int(page), int(limit), tags)})


async def _delete(world: World, request: Request) -> Response:
    world.browsers.delete(request.path_params["session_id"])
    return JSONResponse({"data": {"status": "success"}})


async def _delete_all(world: World, _: Request) -> Response:
    world.browsers.delete_all()
    return JSONResponse({"data": {"status": "success"}})


def _cost_limit(world: World) -> int | float | None:
    return None if world.cost_limit is None else number(micro(world.cost_limit))
