#!/usr/bin/env bash
# predev-api 1.1.0 (PyPI), with requests 2.34.2; read and run November 2026.
#
# An event stream is UTF-8 by its specification, and servers mostly send `Content-Type:
# text/event-stream` without a charset. `browser_agent(..., stream=True)` goes by
# `iter_lines(decode_unicode=True)`, and requests takes any text/* without a charset for ISO-8859-1: of
# a stream's data everything beyond ASCII arrives garbled, while the same batch without stream=True
# arrives right. Nothing is raised.
#
# Output seen:
#   streamed: 'CafÃ©', at once: 'Café'
#
# Exits 0 while that is so, 1 when the stream arrives right.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet predev-api==1.1.0 requests==2.34.2

NO_PROXY='*' "$folder/venv/bin/python" - <<'PYTHON'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from predev_api import PredevAPI

RESULT = {"results": [{"data": {"name": "Café"}}], "totalCreditsUsed": 0.1}
BODY = json.dumps(RESULT, ensure_ascii=False)


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        streamed = asked.get("stream")
        body = f"event: done\ndata: {BODY}\n\n" if streamed else BODY
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = PredevAPI("key", f"http://127.0.0.1:{server.server_port}")
tasks = [{"url": "https://example.com"}]
[done] = api.browser_agent(tasks, stream=True)
streamed = done["data"]["results"][0]["data"]["name"]
at_once = api.browser_agent(tasks)["results"][0]["data"]["name"]
print(f"streamed: {streamed!r}, at once: {at_once!r}")
sys.exit(0 if (streamed, at_once) == ("CafÃ©", "Café") else 1)
PYTHON
