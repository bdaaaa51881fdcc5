"""Anchor Browser's routes for tools and tasks, as its API reference documents them (2026-11)."""

from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from budgetguard.testing.sandbox.anchor_route import Answers, body, identifier, text
from budgetguard.testing.sandbox.clock import date
from budgetguard.testing.sandbox.pages import PDF, PNG
from budgetguard.testing.sandbox.replies import anchor
from budgetguard.testing.sandbox.web_tasks import MOST_STEPS, Kind, Task
from budgetguard.testing.sandbox.world import World

_FAILED = "The task failed: insufficient credits for its next step."


async def _perform(world: World, request: Request) -> Response:
    given = await body(request)
    prompt = text(given, "prompt")
    most = given.get("max_steps", MOST_STEPS)
    if type(most) is not int or most < 1:
        raise anchor(400, "max_steps is a positive number.")
    session = request.query_params.get("sessionId") or None
    task = world.web_tasks.start("workflow", prompt, session, most)
    if given.get("async") is True:
        return _data({"status": "running", "workflow_id": task.operation.id})
    await task.bell.until(lambda: task.ended is not None)
    if task.failed:
        raise anchor(500, _FAILED)
    return _data({"result": task.result})


async def _perform_status(world: World, request: Request) -> Response:
    with world.clock.settled():
        task = _found(world, "workflow", request, "workflow_id")
        if task.ended is None:
            return _data({"status": "RUNNING"})
        if task.failed:
            return _data({"status": "FAILED", "error": _FAILED})
        return _data({"status": "COMPLETED", "result": task.result})


async def _fetch(world: World, request: Request) -> Response:
    url = text(await body(request), "url")
    world.pages.open("fetch_webpage", None, proxied=True)
    return HTMLResponse(f"<!doctype html><title>Sandbox</title><p>{len(url)} characters of URL")


async def _screenshot(world: World, request: Request) -> Response:
    await _page(world, request, "screenshot")
    return Response(PNG, media_type="image/png")


async def _pdf(world: World, request: Request) -> Response:
    await _page(world, request, "page_pdf")
    return Response(PDF, media_type="application/pdf")


async def _page(world: World, request: Request, tool: str) -> None:
    given = await body(request)
    session = request.query_params.get("sessionId") or None
    if session is None:
        text(given, "url")
    world.pages.open(tool, session)


async def _run(world: World, request: Request) -> Response:
    given = await body(request)
    if not isinstance(given.get("input_params", {}), dict):
        raise anchor(400, "input_params is an object.")
    subject = request.path_params["task_id"]
    task = world.web_tasks.start("run", subject, identifier(given, "session_id"))
    return JSONResponse(_run_body(task, "queued"))


async def _run_status(world: World, request: Request) -> Response:
    with world.clock.settled():
        return JSONResponse(_run_body(_found(world, "run", request, "run_id"), "running"))


def _run_body(task: Task, unfinished: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"run_id": task.operation.id, "status": _status(task, unfinished)}
    if task.session_id is not None:
        shown["session_id"] = task.session_id
    if task.failed:
        shown["error"] = _FAILED
    elif task.ended is not None:
        shown["result"] = task.result
    return shown


async def _generate(world: World, request: Request) -> Response:
    given = await body(request)
    text(given, "taskPrompt")
    task = world.web_tasks.start("generation", text(given, "taskName"), None)
    id = task.operation.id
    return JSONResponse({"id": id, "status": "generating", "taskId": id})


async def _generation_status(world: World, request: Request) -> Response:
    with world.clock.settled():
        task = _found(world, "generation", request, "task_id")
        status = "generating" if task.ended is None else "failed" if task.failed else "ready"
        error = {"error": _FAILED} if task.failed else {}
        return JSONResponse({"id": task.operation.id, "status": status, **error})


async def _run_legacy(world: World, request: Request) -> Response:
    given = await body(request)
    name = request.path_params.get("task_name")
    subject = text(given, "taskId") if name is None else str(uuid5(NAMESPACE_OID, name))
    try:
        UUID(subject)
    except ValueError:
        raise anchor(400, "taskId is a UUID.") from None
    task = world.web_tasks.start("execution", subject, identifier(given, "sessionId"))
    shown: dict[str, Any] = {"success": True, "async": given.get("async") is True}
    shown |= {"message": "Task started", "taskId": subject}
    if shown["async"]:
        return _data({**shown, "executionResultId": task.operation.id})
    await task.bell.until(lambda: task.ended is not None)
    shown |= {"message": "Task executed", "executionTime": task.milliseconds}
    if task.failed:
        return _data({**shown, "success": False, "message": _FAILED, "error": _FAILED})
    return _data({**shown, "output": task.result["answer"]})


async def _executions(world: World, request: Request) -> Response:
    with world.clock.settled():
        found = world.web_tasks.executions(request.path_params["task_id"])
        page = {"page": 1, "limit": max(1, len(found)), "total": len(found), "totalPages": 1}
        return _data({"results": [_execution_body(task) for task in found], "pagination": page})


async def _execution(world: World, request: Request) -> Response:
    with world.clock.settled():
        return _data(_execution_body(_found(world, "execution", request, "execution_id")))


def _execution_body(task: Task) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": task.operation.id,
        "taskVersionId": str(uuid5(NAMESPACE_OID, task.subject)),
        "version": "latest",
        "status": _status(task, "running"),
        "startTime": date(task.created),
    }
    if task.ended is not None:
        shown["executionTime"] = task.milliseconds
        shown |= {"errorMessage": _FAILED} if task.failed else {"output": task.result["answer"]}
    return shown


def _status(task: Task, unfinished: str) -> str:
    if task.ended is None:
        return unfinished
    return "failure" if task.failed else "success"


def _found(world: World, kind: Kind, request: Request, name: str) -> Task:
    return world.web_tasks.find(kind, request.path_params[name])


def _data(data: dict[str, Any]) -> Response:
    return JSONResponse({"data": data})


ANSWERS: Answers = {
    ("POST", "/v1/tools/perform-web-task"): _perform,
    ("GET", "/v1/tools/perform-web-task/{workflow_id}/status"): _perform_status,
    ("POST", "/v1/tools/fetch/webpage"): _fetch,
    ("POST", "/v1/tools/screenshot"): _screenshot,
    ("POST", "/v1/tools/page-pdf"): _pdf,
    ("POST", "/v2/tasks/generate"): _generate,
    ("POST", "/v2/tasks/{task_id}/run"): _run,
    ("GET", "/v2/tasks/runs/{run_id}/status"): _run_status,
    ("GET", "/v2/tasks/{task_id}/generation-status"): _generation_status,
    ("POST", "/v1/task/run"): _run_legacy,
    ("POST", "/v1/task/run/{task_name}"): _run_legacy,
    ("GET", "/v1/task/{task_id}/executions"): _executions,
    ("GET", "/v1/task/{task_id}/executions/{execution_id}"): _execution,
}
