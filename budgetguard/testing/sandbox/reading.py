"""Reading the JSON that clients send."""

from typing import Any

from starlette.requests import Request


async def json_object(request: Request) -> dict[str, Any] | None:
    """The body's JSON object, empty for an empty body; None for anything else."""
    try:
        body = await request.json() if await request.body() else {}
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
