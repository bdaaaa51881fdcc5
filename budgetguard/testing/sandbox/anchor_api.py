"""Anchor Browser's routes, as its API reference documents them (2026-11)."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from budgetguard.testing.sandbox import anchor_tasks_api
from budgetguard.testing.sandbox.account import micro, number
from budgetguard.testing.sandbox.anchor_route import Answer, Answers, body, text
from budgetguard.testing.sandbox.clock import EPOCH, date
from budgetguard.testing.sandbox.pages import PNG
from budgetguard.testing.sandbox.replies import anchor, anchor_flat
from budgetguard.testing.sandbox.session_batches import addresses
from budgetguard.testing.sandbox.world import ANCHOR_KEY, PROJECT_ID, World

_CREDITS = "/v1/projects/{project_id}/credits"
_PAGE_SIZES = (10, 20, 50)


def routes(world: World) -> list[Route]:
    """Anchor Browser's routes for this world."""

    def route(method: str, path: str, answer: Answer) -> Route:
        error = anchor_flat if path == _CREDITS else anchor

        async def endpoint(request: Request) -> Response:
            if request.headers.get("anchor-api-key") != ANCHOR_KEY:
                raise error(401, "Invalid or missing API key.")
            return await answer(world, request)

        return Route(path, endpoint, methods=[method])

    answers = {**_ANSWERS, **anchor_tasks_api.ANSWERS}
    return [route(method, path, answer) for (method, path), answer in answers.items()]


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
    return _data(data)


async def _create(world: World, request: Request) -> Response:
    session = world.browsers.create(await body(request))
    return _data({"id": session.operation.id, **addresses(session)})


async def _create_async(world: World, request: Request) -> Response:
    batch = world.session_batches.submit("request", 1, await body(request))
    return _data({"request_id": batch.id, "status": "pending", "session_id": None})


async def _async_status(world: World, request: Request) -> Response:
    with world.clock.settled():
        batch = world.session_batches.find(request.path_params["request_id"])
        waits = batch.status == "pending"
        data: dict[str, Any] = {
            "request_id": batch.id,
            "status": "ready" if batch.status == "completed" else batch.status,
            "created_at": date(batch.created),
            "progress": {"current_phase": "provisioning" if waits else "ready"},
        }
        if not waits:
            data["session"] = batch.items[0].body()
        return _data(data)


async def _session(world: World, request: Request) -> Response:
    with world.clock.settled():
        session = world.browsers.find(request.path_params["session_id"])
        if session is None:
            raise anchor(404, "Session not found.")
        return _data(world.browsers.body(session))


async def _history(world: World, request: Request) -> Response:
    page, limit = request.query_params.get("page", "1"), request.query_params.get("limit", "10")
    if not page.isdecimal() or int(page) < 1 or limit not in map(str, _PAGE_SIZES):
        raise anchor(400, "page starts at 1, and limit is 10, 20 or 50.")
    tags = {*filter(None, request.query_params.get("tags", "").split(","))}
    return _data(world.browsers.page(int(page), int(limit), tags))


async def _statuses(world: World, request: Request) -> Response:
    tags = {*filter(None, request.query_params.get("tags", "").split(","))}
    with world.clock.settled():
        items = [
            {
                "session_id": session.operation.id,
                "status": session.status,
                "tags": session.tags,
                "created_at": date(session.created),
            }
            for session in world.browsers.all()
            if tags <= {*session.tags}
        ]
    return _data({"count": len(items), "items": items})


async def _usage(world: World, _: Request) -> Response:
    return JSONResponse(world.browsers.usage())


async def _delete(world: World, request: Request) -> Response:
    world.browsers.delete(request.path_params["session_id"])
    return _data({"status": "success"})


async def _delete_all(world: World, _: Request) -> Response:
    world.browsers.delete_all()
    return _data({"status": "success"})


async def _goto(world: World, request: Request) -> Response:
    text(await body(request), "url")
    with world.clock.settled():
        world.browsers.running(request.path_params["session_id"])
    return JSONResponse({"status": "success"})


async def _picture(world: World, request: Request) -> Response:
    with world.clock.settled():
        world.browsers.running(request.path_params["session_id"])
    return Response(PNG, media_type="image/png")


async def _create_batch(world: World, request: Request) -> Response:
    given = await body(request)
    configuration = given.get("configuration", {})
    if not isinstance(configuration, dict):
        raise anchor(400, "configuration is an object.")
    batch = world.session_batches.submit("batch", given.get("count"), configuration)
    return _data(batch.summary())


async def _batches(world: World, request: Request) -> Response:
    status = request.query_params.get("status")
    with world.clock.settled():
        found = [it for it in world.session_batches.all() if status in (None, it.status)]
        shown = [
            {
                **batch.summary(),
                "completed_requests": batch.count("completed"),
                "failed_requests": batch.count("failed"),
            }
            for batch in found
        ]
    page = {"current_page": 1, "total_pages": 1, "total_records": len(shown)}
    page |= {"has_next": False, "has_prev": False}
    return _data({"batches": shown, "pagination": page})


async def _batch(world: World, request: Request) -> Response:
    with world.clock.settled():
        return _data(world.session_batches.find(request.path_params["batch_id"]).body())


async def _cancel_batch(world: World, request: Request) -> Response:
    if (await body(request)).get("status") != "cancelled":
        raise anchor(400, 'status is "cancelled".')
    id = request.path_params["batch_id"]
    ended = world.session_batches.end(id, cancel=True)
    return _data(
        {
            "batch_id": id,
            "status": "cancelled",
            "cancelled_sessions": ended,
            "message": f"{ended} sessions were ended.",
        }
    )


async def _delete_batch(world: World, request: Request) -> Response:
    id = request.path_params["batch_id"]
    ended = world.session_batches.end(id, cancel=False)
    return _data(
        {
            "batch_id": id,
            "deleted_sessions": ended,
            "failed_deletions": 0,
            "message": f"{ended} sessions were deleted.",
        }
    )


async def _retry_batch(world: World, request: Request) -> Response:
    id = request.path_params["batch_id"]
    failed_only = (await body(request)).get("retry_failed_only", True)
    with world.clock.settled():
        count = world.session_batches.retry(id, failed_only=failed_only is not False)
        status = world.session_batches.find(id).status
    return _data(
        {
            "batch_id": id,
            "status": status,
            "retried_sessions": count,
            "message": f"{count} sessions are retried.",
        }
    )


def _data(data: dict[str, Any]) -> Response:
    return JSONResponse({"data": data})


def _cost_limit(world: World) -> int | float | None:
    return None if world.cost_limit is None else number(micro(world.cost_limit))


_ANSWERS: Answers = {
    ("GET", _CREDITS): _project_credits,
    ("GET", "/v1/billing"): _billing,
    ("POST", "/v1/sessions"): _create,
    ("GET", "/v1/sessions"): _history,
    ("POST", "/v1/sessions/async"): _create_async,
    ("GET", "/v1/sessions/async/{request_id}/status"): _async_status,
    ("DELETE", "/v1/sessions/all"): _delete_all,
    ("GET", "/v1/sessions/all/status"): _statuses,
    ("GET", "/v1/sessions/history"): _usage,
    ("GET", "/v1/sessions/{session_id}"): _session,
    ("DELETE", "/v1/sessions/{session_id}"): _delete,
    ("POST", "/v1/sessions/{session_id}/goto"): _goto,
    ("GET", "/v1/sessions/{session_id}/screenshot"): _picture,
    ("POST", "/v1/batch-sessions"): _create_batch,
    ("GET", "/v1/batch-sessions"): _batches,
    ("GET", "/v1/batch-sessions/{batch_id}"): _batch,
    ("PATCH", "/v1/batch-sessions/{batch_id}"): _cancel_batch,
    ("DELETE", "/v1/batch-sessions/{batch_id}"): _delete_batch,
    ("POST", "/v1/batch-sessions/{batch_id}/retry"): _retry_batch,
}
