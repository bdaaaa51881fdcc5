"""FastAPI sees the parameters of guarded endpoints, and runs each as what it is."""

import functools
from typing import Annotated, Any

import httpx
import pytest
import text_annotations
from fastapi import Depends, FastAPI

from budgetguard import Guard

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Sync endpoints run in threads, which is anyio's business on either loop."""
    return "asyncio"


def make_app(guard: Guard) -> FastAPI:
    """An app whose endpoints are guarded, one of each kind."""
    app = FastAPI()
    require = guard.require_credits(min=10)

    @app.get("/sync")
    @require
    def sync(x: int, y: int = 2) -> dict[str, int]:
        return {"sum": x + y}

    @app.get("/async")
    @require
    async def asynchronous(x: int, y: int = 2) -> dict[str, int]:
        return {"sum": x + y}

    class Model:
        async def __call__(self, x: int, y: int = 2) -> dict[str, int]:
            return {"sum": x + y}

        @require
        async def method(self, x: int, y: int = 2) -> dict[str, int]:
            return {"sum": x + y}

    app.get("/object")(require(Model()))
    app.get("/method")(Model().method)
    app.get("/partial")(require(functools.partial(Model().__call__)))

    @require
    async def paid(x: int, y: int = 2) -> int:
        return x + y

    @app.get("/dependency")
    async def depending(total: Annotated[int, Depends(paid)]) -> dict[str, int]:
        return {"sum": total}

    text_annotations.add(app, require)
    return app


PATHS = [
    "/sync",
    "/async",
    "/object",
    "/method",
    "/partial",
    "/dependency",
    "/text/sync",
    "/text/async",
]


async def ask(guard: Guard, path: str) -> httpx.Response:
    """One request to the app."""
    transport = httpx.ASGITransport(app=make_app(guard))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.get(path)


@pytest.mark.parametrize("path", PATHS)
async def test_query_parameters_arrive(guard: Guard, path: str) -> None:
    """Parameters are read and converted, defaults apply, and one call is paid."""
    response = await ask(guard, f"{path}?x=4")
    assert (response.status_code, response.json()) == (200, {"sum": 6})
    assert guard.available == 90
    assert (await ask(guard, f"{path}?x=4&y=5")).json() == {"sum": 9}


@pytest.mark.parametrize("path", PATHS)
async def test_wrong_parameters_are_refused_for_free(guard: Guard, path: str) -> None:
    """A request that does not fit the signature is a 422, and is not paid."""
    response = await ask(guard, f"{path}?x=four")
    problem: dict[str, Any] = response.json()["detail"][0]
    assert (response.status_code, problem["loc"]) == (422, ["query", "x"])
    assert guard.available in {None, 100}
