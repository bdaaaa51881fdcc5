"""What Anchor Browser's routes share: their types, and how they read a request."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from budgetguard.testing.sandbox.reading import json_object
from budgetguard.testing.sandbox.replies import anchor
from budgetguard.testing.sandbox.world import World

Answer: TypeAlias = Callable[[World, Request], Awaitable[Response]]
Answers: TypeAlias = Mapping[tuple[str, str], Answer]
"""Handlers by method and path. Their order matters: the first match handles a request."""


async def body(request: Request) -> dict[str, Any]:
    """The JSON object in the request. Raises 400 for anything else."""
    given = await json_object(request)
    if given is None:
        raise anchor(400, "The body is not a JSON object.")
    return given


def text(given: Mapping[str, Any], name: str) -> str:
    """A required text. Raises 400 if it is missing."""
    value = given.get(name)
    if not isinstance(value, str) or not value.strip():
        raise anchor(400, f"{name} is required.")
    return value


def identifier(given: Mapping[str, Any], name: str) -> str | None:
    """An optional id. Raises 400 if it is not a text."""
    return None if given.get(name) is None else text(given, name)
