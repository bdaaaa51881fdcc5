#!/usr/bin/env bash
# openrouter 1.3.84 with httpx 0.28.1, anyio 4.16.0 and trio 0.35.0: the SDK's asynchronous methods take any
# httpx.AsyncClient, which runs on trio as well, but they call asyncio.to_thread for their hooks. So on
# trio each of them raises before a request is made, and the error does not name trio.
#
# Seen: RuntimeError: no running event loop, with 0 requests sent; on asyncio the same call sends 1.
# Exits with 1 when it behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openrouter==1.3.84 httpx==0.28.1 anyio==4.16.0 trio==0.35.0
cat > "$folder/call.py" <<'PY'
import sys

import anyio
import httpx
from openrouter import OpenRouter

SENT = []
ANSWER = {
    "id": "gen-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "system_fingerprint": None,
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
    ],
}


def answer(request):
    SENT.append(request.url)
    return httpx.Response(200, json=ANSWER)


async def call():
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = OpenRouter(api_key="k", async_client=http)
        messages = [{"role": "user", "content": "Hello"}]
        await client.chat.send_async(model="m", messages=messages)


def said(backend):
    before = len(SENT)
    try:
        anyio.run(call, backend=backend)
        words = "answered"
    except RuntimeError as error:
        words = f"RuntimeError: {error}"
    print(f"{backend}: {words}, {len(SENT) - before} requests sent")
    return words, len(SENT) - before


expected = [("answered", 1), ("RuntimeError: no running event loop", 0)]
sys.exit([said("asyncio"), said("trio")] != expected)
PY
"$folder/venv/bin/python" "$folder/call.py"
