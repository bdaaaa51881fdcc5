#!/usr/bin/env bash
# elevenlabs 2.78.0 with httpx 0.28.1: what the SDK sends again after a 503 is not what it sent first, if the
# request is a form. Its second attempt has the file but none of the form's fields, so that
# speech_to_text.convert() asks for no model; a request without a file has nothing at all in it. So a retry
# cannot be recognised by its content, and a failure of the vendor's reaches the program as whatever it
# answers to the lesser request. `request_options={"max_retries": 0}` avoids it.
#
# Seen, as what each of both attempts had: "file: fields and file, then file", "address: fields, then
# nothing", the same for both clients. Exits with 1 otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet elevenlabs==2.78.0 httpx==0.28.1
cat > "$folder/retry.py" <<'PY'
import asyncio
import sys

import httpx
from elevenlabs import AsyncElevenLabs, ElevenLabs

FILE = {"file": b"sound"}
ADDRESS = {"source_url": "https://example.com/a.mp3"}
ANSWER = {"language_code": "en", "language_probability": 1, "text": "x", "words": []}
SENT = []


def answer(request, content):
    parts = {"fields": b'name="model_id"', "file": b'name="file"'}
    SENT.append(" and ".join(each for each, mark in parts.items() if mark in content) or "nothing")
    status = 503 if len(SENT) == 1 else 200
    return httpx.Response(status, json=ANSWER, headers={"retry-after": "0"})


async def answer_later(request):
    return answer(request, await request.aread())


def plain(options):
    http = httpx.Client(transport=httpx.MockTransport(lambda each: answer(each, each.read())))
    ElevenLabs(api_key="k", httpx_client=http).speech_to_text.convert(**options)


def awaiting(options):
    async def call():
        http = httpx.AsyncClient(transport=httpx.MockTransport(answer_later))
        client = AsyncElevenLabs(api_key="k", httpx_client=http)
        await client.speech_to_text.convert(**options)

    asyncio.run(call())


def seen(call, name, options):
    SENT.clear()
    call({"model_id": "scribe_v1", **options})
    words = f"{name}: {', then '.join(SENT)}"
    print(f"{call.__name__}: {words}")
    return words


expected = ["file: fields and file, then file", "address: fields, then nothing"]
found = [
    [seen(call, "file", FILE), seen(call, "address", ADDRESS)] for call in (plain, awaiting)
]
sys.exit(found != [expected, expected])
PY
"$folder/venv/bin/python" "$folder/retry.py"
