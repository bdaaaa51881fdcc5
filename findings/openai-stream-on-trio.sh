#!/usr/bin/env bash
# openai 3.57.0 with trio 0.35.0 and httpx 0.28.1: a chat stream that was read to its end inside
# `async with` still leaves an async generator of the SDK half-way. The loop that decodes events
# stops at "data: [DONE]" and drops its generator without closing it, so trio tells of it with a
# ResourceWarning, in a program that did everything right. asyncio says nothing.
#
# Seen: ResourceWarning: Async generator 'openai._streaming.AsyncStream._iter_events' was garbage
# collected before it had been exhausted. Exits with 1 when no such warning comes any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openai==3.57.0 trio==0.35.0 httpx==0.28.1
cat > "$folder/stream.py" <<'PY'
import gc
import json
import sys
import warnings

import httpx
import openai
import trio

CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}],
}
EVENTS = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"


def answer(request):
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=EVENTS)


async def main():
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = openai.AsyncOpenAI(api_key="k", http_client=http)
        messages = [{"role": "user", "content": "Hello"}]
        create = client.chat.completions.create
        async with await create(model="m", messages=messages, stream=True) as stream:
            parts = [chunk.choices[0].delta.content async for chunk in stream]
        assert parts == ["Hi"], parts
        del stream
        gc.collect()


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    trio.run(main)
told = [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]
print("\n".join(told))
sys.exit(0 if any("openai._streaming.AsyncStream" in words for words in told) else 1)
PY
"$folder/venv/bin/python" "$folder/stream.py"
