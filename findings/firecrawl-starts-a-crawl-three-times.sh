#!/usr/bin/env bash
# firecrawl-py 4.55.0 (PyPI), with requests 2.32.5 and httpx 0.28.1; read and run November 2026.
#
# `HttpClient.post` sends a request again after every `requests.RequestException`, a read timeout
# included, and so does its async counterpart: three times in all, unless `max_retries` says otherwise.
# The request that starts a crawl, a batch or an agent is no exception, and it carries no idempotency
# key: if the API has accepted it and its reply comes late, one `start_crawl()` starts three crawls, each
# of up to 10,000 pages, and the caller gets the id of none.
#
# Output seen:
#   sync: crawls started: 3, idempotency keys: 0, the caller gets a ReadTimeout
#   async: crawls started: 3, idempotency keys: 0, the caller gets a ReadTimeout
#   sync, max_retries=1: crawls started: 1, idempotency keys: 0, the caller gets a ReadTimeout
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet firecrawl-py==4.55.0 requests==2.32.5 httpx==0.28.1

cat > "$folder/run.py" <<'PYTHON'
import asyncio
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from firecrawl import AsyncFirecrawl, Firecrawl

started, keys = [], []


class Late(BaseHTTPRequestHandler):
    """Accepts each crawl, and replies after the client's timeout."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        started.append(self.path)
        if self.headers["x-idempotency-key"]:
            keys.append(self.headers["x-idempotency-key"])
        time.sleep(1)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Late)
threading.Thread(target=server.serve_forever, daemon=True).start()
at = {
    "api_key": "fc-key",
    "api_url": f"http://127.0.0.1:{server.server_port}",
    "timeout": 0.3,
    "backoff_factor": 0,
}


def counted(how, start):
    started.clear()
    keys.clear()
    try:
        start()
        seen = "reply"
    except Exception as error:
        seen = type(error).__name__
    print(f"{how}: crawls started: {len(started)}, idempotency keys: {len(keys)}, the caller gets a {seen}")
    return len(started), len(keys), seen


found = [
    counted("sync", lambda: Firecrawl(**at).start_crawl("https://example.com")),
    counted("async", lambda: asyncio.run(AsyncFirecrawl(**at).start_crawl("https://example.com"))),
    counted(
        "sync, max_retries=1",
        lambda: Firecrawl(**at, max_retries=1).start_crawl("https://example.com"),
    ),
]
server.shutdown()
sys.exit(0 if found == [(3, 0, "ReadTimeout"), (3, 0, "ReadTimeout"), (1, 0, "ReadTimeout")] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
