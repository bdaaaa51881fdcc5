"""Endpoints whose annotations are text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI


def add(app: FastAPI, require: Callable[[Any], Any]) -> None:
    """Add one endpoint of each kind."""

    @app.get("/text/sync")
    @require
    def sync(x: int, y: int = 2) -> dict[str, int]:
        return {"sum": x + y}

    @app.get("/text/async")
    @require
    async def asynchronous(x: int, y: int = 2) -> dict[str, int]:
        return {"sum": x + y}
