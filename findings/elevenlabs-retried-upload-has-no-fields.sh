#!/usr/bin/env bash
# elevenlabs 2.78.0 (PyPI), with httpx 0.28.1; read and run November 2026.
#
# The SDK sends a request again after 408, 409, 429 and 5xx, twice by default. For a request that has a
# file and form fields, such as a transcription, only the file is sent again: `HttpClient.request` calls
# itself without `data`. So the second attempt has no `model_id`, which the API requires, and it cannot
# succeed: a short outage of the vendor ends in an error about the request. Whoever compares requests by
# their content (a proxy, a cache, a guard) sees two different ones. `AsyncHttpClient` does the same.
#
# Output seen:
#   plain: attempt 1 has file, model_id; attempt 2 has file; attempt 3 has file
#   async: attempt 1 has file, model_id; attempt 2 has file; attempt 3 has file
#
# Exits 0 while that is so, 1 when a retried upload has its fields, or is not retried.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet elevenlabs==2.78.0 httpx==0.28.1

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys

import httpx
from elevenlabs import AsyncElevenLabs, ElevenLabs
from elevenlabs.core import http_client
from elevenlabs.core.api_error import ApiError

# No pauses between attempts.
http_client._retry_timeout = lambda **_: 0
NAMES = ("file", "model_id")


def unavailable(request):
    body = request.content.decode()
    attempts.append([name for name in NAMES if f'name="{name}"' in body])
    return httpx.Response(503, json={})


async def unavailable_soon(request):
    await request.aread()
    return unavailable(request)


def show(kind):
    parts = (f"attempt {n} has {', '.join(found)}" for n, found in enumerate(attempts, 1))
    print(f"{kind}: {'; '.join(parts)}")
    return attempts == [["file", "model_id"], ["file"], ["file"]]


attempts = []
options = {"api_key": "not_a_real_key", "base_url": "http://127.0.0.1:9"}
upload = {"model_id": "scribe_v1", "file": b"sound"}
http = httpx.Client(transport=httpx.MockTransport(unavailable))
try:
    ElevenLabs(httpx_client=http, **options).speech_to_text.convert(**upload)
except ApiError:
    pass
plain = show("plain")


async def main():
    http = httpx.AsyncClient(transport=httpx.MockTransport(unavailable_soon))
    try:
        await AsyncElevenLabs(httpx_client=http, **options).speech_to_text.convert(**upload)
    except ApiError:
        pass


attempts = []
asyncio.run(main())
sys.exit(0 if show("async") and plain else 1)
PYTHON
