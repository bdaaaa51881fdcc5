#!/usr/bin/env bash
# redis 8.1.0 (PyPI), the Python client, with its default settings; run on Linux, November 2026.
#
# A client that is made with nothing but a host and a port sends a command again when the connection breaks
# before the reply has arrived, up to ten times, whatever the command is. A server that has carried it out each
# time has then counted one `incr` eleven times, and the caller gets one plain number, as if nothing had
# happened. Where money is counted with INCRBY or DECRBY, or a script takes credits, each lost reply is charged.
# With `Retry(NoBackoff(), 0)` the same call is sent once, and raises.
#
# The server below is a few lines that speak enough of the protocol: it counts, and hangs up instead of replying
# as often as it is told to.
#
# Output seen:
#   defaults, 1 lost reply: returned 2, the server counted 2
#   defaults, 10 lost replies: returned 11, the server counted 11
#   no retries, 1 lost reply: raised ConnectionError, the server counted 1
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet redis==8.1.0

cat >"$folder/run.py" <<'PYTHON'
import socketserver
import threading

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


class Server(socketserver.ThreadingTCPServer):
    """Counts, and loses the first replies to that."""

    daemon_threads = True

    def __init__(self, loses):
        super().__init__(("127.0.0.1", 0), Connection)
        self.loses, self.count = loses, 0


class Connection(socketserver.StreamRequestHandler):
    """Reads commands as arrays of strings."""

    def handle(self):
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2])
            if words[0].upper() not in {b"INCR", b"INCRBY"}:
                self.wfile.write(b"-ERR unknown command\r\n" if words[0] == b"HELLO" else b"+OK\r\n")
                continue
            self.server.count += 1
            if self.server.count <= self.server.loses:
                return
            self.wfile.write(b":%d\r\n" % self.server.count)


def told(name, loses, **settings):
    """What one call gives, and how often the server has counted."""
    with Server(loses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        client = redis.Redis(host="127.0.0.1", port=port, protocol=2, **settings)
        try:
            outcome = f"returned {client.incr('spent')}"
        except redis.ConnectionError as error:
            outcome = f"raised {type(error).__name__}"
        client.close()
        server.shutdown()
        replies = "reply" if loses == 1 else "replies"
        return f"{name}, {loses} lost {replies}: {outcome}, the server counted {server.count}"


found = [
    told("defaults", 1),
    told("defaults", 10),
    told("no retries", 1, retry=Retry(NoBackoff(), 0)),
]
print(*found, sep="\n")
assert found == [
    "defaults, 1 lost reply: returned 2, the server counted 2",
    "defaults, 10 lost replies: returned 11, the server counted 11",
    "no retries, 1 lost reply: raised ConnectionError, the server counted 1",
], found
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
