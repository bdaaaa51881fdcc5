"""The dependency behind `budgetguard.asgi.require`: the part of it that needs FastAPI."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any

from budgetguard._core import problem_document as problem
from budgetguard._core.errors import HoldClosed
from budgetguard._engine.hold import Hold
from budgetguard.asgi._response import EXCHANGE, Exchange, answers_websockets
from budgetguard.integrations._extra import extra

if TYPE_CHECKING:
    from budgetguard._engine.call_spec import CallSpec

with extra("fastapi"):
    from fastapi import HTTPException, Response, WebSocketException
    from fastapi.exception_handlers import http_exception_handler
    from fastapi.requests import HTTPConnection


class RefusedRequest(HTTPException):
    """A refused admission as an exception that FastAPI handles; `__cause__` is the original error."""

    def __init__(self, error: problem.AnyRefusal) -> None:
        headers = problem.headers(error)
        del headers["content-type"]
        super().__init__(error.status_code, detail=str(error), headers=headers)


def dependency(requirement: "CallSpec") -> Callable[[HTTPConnection], AsyncIterator[Hold]]:
    """A dependency that yields the hold of one request."""

    async def credits(connection: HTTPConnection) -> AsyncIterator[Hold]:
        scope = connection.scope
        try:
            hold = await requirement.aopen(_operation(scope), (scope,))
        except problem.ERRORS as error:
            raise _refusal(scope, error) from error
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is not None:
            exchange.watch(hold)
        try:
            yield hold
        except BaseException as error:
            hold.finish(error)
            raise
        if exchange is None:
            if not _is_done(scope):
                with suppress(HoldClosed):
                    hold.keep()
            hold.finish(None)

    return credits


def _refusal(scope: Any, error: problem.AnyRefusal) -> Exception:
    if scope["type"] == "websocket" and not answers_websockets(scope):
        code, reason = problem.closing(error)
        return WebSocketException(code, reason)
    # FastAPI answers {"detail": ...} to every HTTPException that has no handler in the app's table,
    # which Starlette stores in the scope. A handler of the app's own is left in place.
    handlers: dict[Any, Any] = scope.get("starlette.exception_handlers", ({},))[0]
    now = next((handlers[kind] for kind in RefusedRequest.__mro__ if kind in handlers), None)
    if now is http_exception_handler:
        handlers[RefusedRequest] = _answer
    return RefusedRequest(error)


async def _answer(_: HTTPConnection, refused: Exception) -> Response:
    error = refused.__cause__
    assert isinstance(error, problem.ERRORS)
    return Response(problem.body(error), error.status_code, problem.headers(error))


def _operation(scope: Any) -> str:
    return str(getattr(scope.get("endpoint"), "__qualname__", scope["path"]))


def _is_done(scope: Any) -> bool:
    """Whether an endpoint that returned has finished its work, with no stream left to send."""
    if scope["type"] == "websocket":
        return True
    endpoint, declared = scope.get("endpoint"), getattr(scope.get("route"), "response_model", None)
    streams = isgeneratorfunction(endpoint) or isasyncgenfunction(endpoint)
    return not streams and declared is not Any and declared not in (None, object)
