"""Reads what clients send: JSON, and forms with a file."""

import json
from email.parser import BytesParser
from typing import Any

from starlette.requests import Request


async def json_object(request: Request) -> dict[str, Any] | None:
    """The JSON object in the body. An empty body is an empty object, anything else None."""
    try:
        body = await request.json() if await request.body() else {}
        # Half a surrogate pair is text in JSON, but no reply could repeat it.
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


async def form(request: Request) -> tuple[dict[str, list[str]], str | None] | None:
    """The fields of a multipart form and the name of its file, or None if it is no such form.

    This uses the mail parser of the standard library: Starlette's form parser would need one more
    package.
    """
    kind = request.headers.get("content-type", "")
    head = f"content-type: {kind}\r\n\r\n".encode("latin-1")
    parsed = BytesParser().parsebytes(head + await request.body())
    if parsed.get_content_type() != "multipart/form-data" or not parsed.is_multipart():
        return None
    fields: dict[str, list[str]] = {}
    file = None
    for part in parsed.walk():
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None:
            file = part.get_filename()
        elif isinstance(name, str):
            content = part.get_payload(decode=True)
            given = content.decode("utf-8", "replace") if isinstance(content, bytes) else ""
            fields.setdefault(name, []).append(given)
    return fields, file
