"""pre.dev's routes, as its API pages describe them (2026-11)."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from budgetguard.testing.sandbox.account import number
from budgetguard.testing.sandbox.batches import Batch
from budgetguard.testing.sandbox.reading import json_object
from budgetguard.testing.sandbox.replies import predev, predev_out_of_credits
from budgetguard.testing.sandbox.specs import DEEP_SPEC, FAST_SPEC, Kind
from budgetguard.testing.sandbox.world import PREDEV_KEY, World

# The documented `concurrency` of a batch: 1 to 20, by default 5.
_CONCURRENCY = range(1, 21)


def routes(world: World) -> list[Route]:
    """pre.dev's routes over this world."""

    def route(path: str, method: str, answer: Callable[..., Awaitable[Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            _authorize(request)
            return await answer(world, request)

        return Route(path, endpoint, methods=[method])

    return [
        route("/credits-balance", "GET", _balance),
        route("/fast-spec", "POST", partial(_submit_spec, FAST_SPEC)),
        route("/deep-spec", "POST", partial(_submit_spec, DEEP_SPEC)),
        route("/spec-status/{spec_id}", "GET", _spec_status),
        route("/browser-agent", "POST", _submit_batch),
        route("/browser-agent/{batch_id}", "GET", _batch_status),
    ]


def _authorize(request: Request) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if not given:
        raise predev(401, "Unauthorized", "Invalid or missing Authorization header")
    if given != PREDEV_KEY:
        raise predev(401, "Unauthorized", "Invalid API key")


async def _balance(world: World, _: Request) -> Response:
    remaining = number(world.predev.reported_micros())
    return JSONResponse({"success": True, "creditsRemaining": remaining})


async def _submit_spec(kind: Kind, world: World, request: Request) -> Response:
    body = await _json(request)
    prompt = body.get("input")
    if not isinstance(prompt, str) or not prompt.strip():
        raise predev(400, "Bad Request", "input is required")
    spec = world.specs.submit(kind, prompt)
    if body.get("async") is True:
        return JSONResponse({"specId": spec.operation.id, "status": "pending"})
    await spec.bell.until(lambda: spec.ended is not None)
    if spec.status == "failed":
        raise predev_out_of_credits()
    return JSONResponse(spec.body())


async def _spec_status(world: World, request: Request) -> Response:
    with world.clock.settled():
        spec = world.specs.find(request.path_params["spec_id"])
        if spec is None:
            raise predev(404, "Not Found", "Spec not found")
        return JSONResponse(spec.body())


async def _submit_batch(world: World, request: Request) -> Response:
    body = await _json(request)
    tasks = body.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(map(_is_task, tasks)):
        raise predev(400, "Bad Request", "tasks is a list of objects, each with a url")
    concurrency = body.get("concurrency", 5)
    if type(concurrency) is not int or concurrency not in _CONCURRENCY:
        raise predev(400, "Bad Request", "concurrency is a number from 1 to 20")
    batch = world.batches.submit(tasks, concurrency)
    if body.get("stream") is True:
        return StreamingResponse(_frames(world, batch), media_type="text/event-stream")
    if body.get("async") is True:
        # A stub: its `totalCreditsUsed` of 0 is no final figure.
        stub = {"completed": 0, "results": [], "totalCreditsUsed": 0, "status": "processing"}
        return JSONResponse({"id": batch.operation.id, "total": len(tasks), **stub})
    await batch.bell.until(lambda: batch.done)
    if batch.refusal is not None:
        raise batch.refusal
    return JSONResponse(batch.body())


async def _batch_status(world: World, request: Request) -> Response:
    with world.clock.settled():
        batch = world.batches.find(request.path_params["batch_id"])
        if batch is None:
            raise predev(404, "Not Found", "Batch not found")
        return JSONResponse(batch.body())


async def _frames(world: World, batch: Batch) -> AsyncIterator[str]:
    yield ":ok\n\n"
    sent = 0
    while True:
        with world.clock.settled():
            frames, over = batch.frames[sent:], batch.done
        for event, data in frames:
            yield f"event: {event}\ndata: {json.dumps(data)}\n\n"
        if over:
            return
        sent += len(frames)
        await batch.bell.until(partial(_has_more, batch, sent))


def _has_more(batch: Batch, sent: int) -> bool:
    return len(batch.frames) > sent or batch.done


async def _json(request: Request) -> dict[str, Any]:
    body = await json_object(request)
    if body is None:
        raise predev(400, "Bad Request", "The sandbox reads JSON objects only")
    return body


def _is_task(task: object) -> bool:
    return isinstance(task, dict) and isinstance(task.get("url"), str)
