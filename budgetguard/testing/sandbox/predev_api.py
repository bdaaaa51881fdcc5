"""pre.dev's routes, as its API pages document them (2026-11)."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from budgetguard.testing.sandbox import gateway_api
from budgetguard.testing.sandbox.account import number
from budgetguard.testing.sandbox.batches import LIVE_TASKS, Batch
from budgetguard.testing.sandbox.reading import form, json_object
from budgetguard.testing.sandbox.replies import (
    gateway,
    is_gateway,
    predev,
    predev_out_of_credits,
)
from budgetguard.testing.sandbox.specs import DEEP_SPEC, FAST_SPEC, Kind
from budgetguard.testing.sandbox.world import PREDEV_KEY, World

# The documented `concurrency` of a batch is from 1 to 20; the default is 5.
_CONCURRENCY = range(1, 21)
_PAGE_SIZES = range(1, 101)


def routes(world: World) -> list[Route]:
    """pre.dev's routes for this world."""

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
        route("/list-specs", "GET", _list_specs),
        route("/find-specs", "GET", _find_specs),
        route("/browser-agent", "POST", _submit_batch),
        route("/browser-agent/{batch_id}", "GET", _batch_status),
        route("/list-browser-agents", "GET", _list_batches),
        route("/browser-agent-status", "GET", _queue),
        route("/v1/chat/completions", "POST", gateway_api.chat),
        route("/v1/messages", "POST", gateway_api.messages),
        route("/v1/models", "GET", gateway_api.models),
        route("/v1/generation", "GET", gateway_api.generation),
    ]


def _authorize(request: Request) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if given == PREDEV_KEY:
        return
    message = "Invalid API key" if given else "Invalid or missing Authorization header"
    if is_gateway(request.url.path):
        raise gateway(401, "unauthorized", message)
    raise predev(401, "Unauthorized", message)


async def _balance(world: World, _: Request) -> Response:
    remaining = number(world.predev.reported_micros())
    return JSONResponse({"success": True, "creditsRemaining": remaining})


async def _submit_spec(kind: Kind, world: World, request: Request) -> Response:
    prompt, file, at_once = await _spec_request(request)
    if not isinstance(prompt, str) or not prompt.strip():
        raise predev(400, "Bad Request", "input is required")
    spec = world.specs.submit(kind, prompt)
    spec.file = file
    if at_once:
        return JSONResponse({"specId": spec.operation.id, "status": "pending"})
    await spec.bell.until(lambda: spec.ended is not None)
    if spec.status == "failed":
        raise predev_out_of_credits()
    return JSONResponse(spec.body())


async def _spec_request(request: Request) -> tuple[object, str | None, bool]:
    """The prompt, the name of the uploaded file, and whether to reply at once."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        read = await form(request)
        if read is None:
            raise predev(400, "Bad Request", "The form cannot be read")
        fields, file = read
        return "".join(fields.get("input", [])), file, fields.get("async") == ["true"]
    body = await _json(request)
    return body.get("input"), None, body.get("async") is True


async def _spec_status(world: World, request: Request) -> Response:
    with world.clock.settled():
        spec = world.specs.find(request.path_params["spec_id"])
        if spec is None:
            raise predev(404, "Not Found", "Spec not found")
        return JSONResponse(spec.body())


async def _list_specs(world: World, request: Request) -> Response:
    return _listed_specs(world, request, re.compile(""))


async def _find_specs(world: World, request: Request) -> Response:
    try:
        query = re.compile(request.query_params["query"], re.IGNORECASE)
    except (KeyError, re.error):
        raise predev(400, "Bad Request", "query is a regular expression") from None
    return _listed_specs(world, request, query)


def _listed_specs(world: World, request: Request, query: re.Pattern[str]) -> Response:
    wanted = request.query_params
    with world.clock.settled():
        found = [
            spec.body()
            for spec in world.specs.all()
            if query.search(spec.prompt)
            and wanted.get("endpoint") in (None, spec.kind.endpoint)
            and wanted.get("status") in (None, spec.status)
        ]
    return _page("specs", found, request)


async def _list_batches(world: World, request: Request) -> Response:
    status = request.query_params.get("status")
    with world.clock.settled():
        found = [batch.body() for batch in world.batches.all()]
    return _page("batches", [it for it in found if status in (None, it["status"])], request)


def _page(name: str, found: list[dict[str, Any]], request: Request) -> Response:
    """One page of the entries: `limit` (default 20, at most 100) of them after `skip`."""
    limit, skip = (request.query_params.get(*it) for it in (("limit", "20"), ("skip", "0")))
    if not limit.isdecimal() or not skip.isdecimal() or int(limit) not in _PAGE_SIZES:
        raise predev(400, "Bad Request", "limit is from 1 to 100, and skip is 0 or more")
    end = int(skip) + int(limit)
    return JSONResponse(
        {name: found[int(skip) : end], "total": len(found), "hasMore": end < len(found)}
    )


async def _queue(world: World, _: Request) -> Response:
    running, pending = world.batches.queue()
    return JSONResponse(
        {
            "userId": "sandbox",
            "running": running,
            "claimed": 0,
            "pending": pending,
            "total": running + pending,
            "cap": LIVE_TASKS,
        }
    )


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
        # As documented, `totalCreditsUsed` is 0 here and not yet final.
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
        with_events = request.query_params.get("includeEvents") == "true"
        return JSONResponse(batch.body(with_events=with_events))


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
