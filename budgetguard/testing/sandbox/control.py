"""The sandbox's own routes, for one that runs by itself: faults, refusals, top-ups, its state."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from budgetguard.testing.sandbox.faults import Fault
from budgetguard.testing.sandbox.reading import json_object
from budgetguard.testing.sandbox.world import World

PREFIX = "/_sandbox/"


def routes(world: World) -> list[Route]:
    """The routes below `/_sandbox/` for this world."""

    def route(method: str, path: str, answer: Callable[..., Awaitable[Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await answer(world, request)

        return Route(f"{PREFIX}{path}", endpoint, methods=[method])

    return [
        route("POST", "faults", _add_fault),
        route("DELETE", "faults", _clear_faults),
        route("POST", "refuse", _refuse),
        route("POST", "top-up", _top_up),
        route("GET", "state", _state),
    ]


async def _add_fault(world: World, request: Request) -> Response:
    try:
        world.faults.add(Fault(**(await json_object(request) or {})))
    except (TypeError, ValueError) as error:
        return _wrong(str(error))
    return JSONResponse({"success": True})


async def _clear_faults(world: World, _: Request) -> Response:
    world.faults.clear()
    return JSONResponse({"success": True})


async def _top_up(world: World, request: Request) -> Response:
    """Read `{"credits": n}`, for all accounts or for the one that `provider` names."""
    body = await json_object(request) or {}
    accounts = world.accounts
    provider = body.get("provider")
    try:
        for account in accounts.values() if provider is None else [accounts[provider]]:
            account.top_up(body.get("credits", ""))
    except (KeyError, TypeError):
        return _wrong(f"provider is one of {', '.join(accounts)}")
    except ValueError as error:
        return _wrong(str(error))
    return JSONResponse(world.state())


async def _refuse(world: World, request: Request) -> Response:
    """Read `{"provider": "acme", "with": "busy"}`; without `with`, nothing is refused any more."""
    body = await json_object(request) or {}
    try:
        world.vendors[body["provider"]].refuse_with = body.get("with")
    except (KeyError, TypeError):
        return _wrong(f"provider is one of {', '.join(world.vendors)}")
    except ValueError as error:
        return _wrong(str(error))
    return JSONResponse(world.state())


async def _state(world: World, _: Request) -> Response:
    return JSONResponse(world.state())


def _wrong(reason: str) -> Response:
    return JSONResponse({"error": reason}, 400)
