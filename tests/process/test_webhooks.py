"""Webhooks where a process ends or forks: what is queued is sent once, and holds nobody up."""

import os

import pytest
from interpreter import FORKING, Script

HEAD = """
import atexit, json, os, socket, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from budgetguard import Guard
from budgetguard.listeners import WebhookListener
from budgetguard.testing import FakeProvider

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""


def test_what_is_queued_is_sent_at_exit(script: Script) -> None:
    """Although nobody closed the listener."""
    assert (
        script(
            HEAD
            + """
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        print(json.loads(body)["type"], flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

def end():
    server.shutdown()
    server.server_close()

server = HTTPServer(("127.0.0.1", 0), Handler)
atexit.register(end)  # before the listener's own, and so after it
threading.Thread(target=server.serve_forever, daemon=True).start()
listener = WebhookListener(
    f"http://127.0.0.1:{server.server_port}/", secret=SECRET, kinds=["low", "settled"]
)
guard = Guard(FakeProvider(100), alert_below=50, on_event=listener)
guard.acquire(60).settle()
"""
        )
        == "budgetguard.low\nbudgetguard.settled"
    )


def test_a_receiver_that_hangs_does_not_hold_up_the_exit(script: Script) -> None:
    """It is waited for briefly, and nothing is said."""
    assert (
        script(
            HEAD
            + """
server = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{server.getsockname()[1]}/"
listener = WebhookListener(url, secret=SECRET, timeout=600)
guard = Guard(FakeProvider(100), alert_below=50, on_event=listener)
guard.acquire(60).settle()
connection, _ = server.accept()
connection.detach(), server.detach()
print("the end")
"""
        )
        == "the end"
    )


def test_many_receivers_that_hang_hold_up_the_exit_no_longer_than_one(script: Script) -> None:
    """The second that exit waits is for all listeners together."""
    waited = script(
        HEAD
        + """
slept, sleep = [], time.sleep
time.sleep = lambda seconds: (slept.append(seconds), sleep(seconds))
atexit.register(lambda: print(sum(slept)))  # before the listeners' own, and so after them
server = socket.create_server(("127.0.0.1", 0), backlog=8)
url = f"http://127.0.0.1:{server.getsockname()[1]}/"
listeners = [WebhookListener(url, secret=SECRET, timeout=600) for _ in range(8)]
guard = Guard(FakeProvider(100), alert_below=50, on_event=listeners)
guard.acquire(60).settle()
for _ in listeners:
    server.accept()[0].detach()
server.detach()
"""
    )
    assert float(waited) < 1.5


@pytest.mark.skipif(os.name == "nt", reason="closes files by their numbers")
def test_a_loop_that_was_broken_while_it_sent(script: Script) -> None:
    """A program that closes all files breaks it: the next event has everything sent by another loop."""
    assert (
        script(
            HEAD
            + """
import logging
logging.disable()
server = socket.create_server(("127.0.0.1", 0))
listener = WebhookListener(
    f"http://127.0.0.1:{server.getsockname()[1]}/", secret=SECRET, kinds=["settled"], timeout=600
)
guard = Guard(FakeProvider(100), on_event=listener)
guard.acquire(1, name="first").settle()
server.accept()[0].detach()
port = server.getsockname()[1]
server.detach()
os.closerange(3, 256)
while any(thread.name == "budgetguard" for thread in threading.enumerate()):
    time.sleep(0.01)

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        print(json.loads(body)["data"]["operation"], flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
guard.acquire(1, name="second").settle()
assert listener.flush(30)
server.shutdown()
server.server_close()
""",
            flags=("-W", "error", "-W", "ignore::ResourceWarning"),
        )
        == "first\nsecond"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_child_sends_its_own_events_alone(script: Script) -> None:
    """Its parent sends what was queued before; the child has a queue and a loop of its own."""
    assert (
        script(
            HEAD
            + """
server = socket.create_server(("127.0.0.1", 0))
listener = WebhookListener(
    f"http://127.0.0.1:{server.getsockname()[1]}/", secret=SECRET, kinds=["refused"], timeout=600
)
guard = Guard(FakeProvider(100), on_event=listener)

def refused(name):
    try:
        guard.acquire(1000, name=name)
    except Exception:
        pass

def answer():
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as sent:
        length = 0
        while (line := sent.readline().strip().lower()):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        operation = json.loads(sent.read(length))["data"]["operation"]
        connection.sendall(b"HTTP/1.1 204 No Content\\r\\nconnection: close\\r\\n\\r\\n")
    return operation

refused("the parent's")
pid = os.fork()
if pid == 0:
    assert listener.flush(0)
    refused("the child's")
    assert listener.flush(30)
    assert (listener.delivered, listener.failed) == (1, 0)
    os._exit(0)
operations = sorted([answer(), answer()])
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert listener.flush(30)
server.close()
print(operations, listener.delivered)
""",
            flags=FORKING,
        )
        == """["the child's", "the parent's"] 1"""
    )
