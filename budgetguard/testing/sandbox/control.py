"""The sandbox's own routes, for a sandbox that runs by itself: faults, top-ups, its state."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from budgetguard.testing.sandbox.faults import Fault
from budgetguard.testing.sandbox.reading import json_object
from budgetguard.testing.sandbox.world import World

PREFIX = "/_sandbox/"


def routes(world: World) -> list[Route]:
    """The routes below `/_sandbox/` for this world."""

    async def add_fault(request: Request) -> Response:
        try:
            world.faults.add(Fault(**(await json_object(request) or {})))
        except (TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"success": True})

    async def clear_faults(_: Request) -> Response:
        world.faults.clear()
        return JSONResponse({"success": True})

    async def top_up(request: Request) -> Response:
        """Read `{"credits": n}`, for both accounts or for the one that `provider` names."""
        body = await json_object(request) or {}
        accounts = {"predev": world.predev, "anchorbrowser": world.anchor}
        provider = body.get("provider")
        try:
            for account in accounts.values() if provider is None else [accounts[provider]]:
                account.top_up(body.get("credits", ""))
        except KeyError:
            return JSONResponse({"error": f"provider is one of {', '.join(accounts)}"}, 400)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(world.state())

    async def state(_: Request) -> Response:
        return JSONResponse(world.state())

    return [
        Route(f"{PREFIX}faults", add_fault, methods=["POST"]),
        Route(f"{PREFIX}faults", clear_faults, methods=["DELETE"]),
        Route(f"{PREFIX}top-up", top_up, methods=["POST"]),
        Route(f"{PREFIX}state", state, methods=["GET"]),
    ]
