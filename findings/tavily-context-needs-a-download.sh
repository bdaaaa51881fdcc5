#!/usr/bin/env bash
# tavily-python 0.8.5 with requests 2.34.2 and tiktoken 0.14.0: `get_search_context()` makes the search
# first, which is paid for, and then counts tokens with a tokenizer that tiktoken downloads from another
# host. Where that host is not reachable, the search is charged and its results are lost: the method raises
# a ConnectionError, the same class as if Tavily had never been reached. A caller that tries again pays
# again.
#
# Seen: "ConnectionError after 1 search, for openaipublic.blob.core.windows.net". Exits with 1 otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tavily-python==0.8.5 requests==2.34.2 tiktoken==0.14.0
cat > "$folder/context.py" <<'PY'
import json
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer

import requests
from tavily import TavilyClient

SEARCHES = []


class Tavily(BaseHTTPRequestHandler):
    def do_POST(self):
        SEARCHES.append(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps({"results": [{"url": "https://example.com", "content": "x"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Tavily)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = TavilyClient("tvly-not_a_real_key", api_base_url=f"http://127.0.0.1:{server.server_port}")
words = "answered"
try:
    client.get_search_context("x")
except requests.ConnectionError as error:
    host = urllib.parse.urlsplit(error.request.url).hostname
    words = f"ConnectionError after {len(SEARCHES)} search, for {host}"
print(words)
sys.exit(words != "ConnectionError after 1 search, for openaipublic.blob.core.windows.net")
PY
# Nothing but loopback is reachable: a proxy that nobody serves stands for an air-gapped machine.
HTTPS_PROXY=http://127.0.0.1:9 NO_PROXY=127.0.0.1 TIKTOKEN_CACHE_DIR="$folder/none" \
    "$folder/venv/bin/python" -W ignore "$folder/context.py"
