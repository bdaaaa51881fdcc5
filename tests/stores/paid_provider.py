"""A provider with the one true balance, in the test's process; processes that spend ask it over a socket.

It books a call's work a moment after that is done, whether or not the process that asked still lives. And
it never refuses: if processes admit too much, the balance goes below zero, and `lowest` tells.
"""

import asyncio
import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from random import Random
from typing import Any, Self

from budgetguard import Balance

LAG = LINGER = 0.5
"""Seconds, several times what there ever is, because the machine may be busy."""

_LATEST, _LONGEST = 0.15, 0.15


class PaidProvider:
    """The account, behind a port on loopback."""

    def __init__(self, credits: int) -> None:
        self._changed = threading.Condition()
        self._random = Random(credits)
        self._works = 0
        self.credits = self.lowest = credits
        account = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(ConnectionError, ValueError):
                    for line in self.rfile:
                        self.wfile.write(account.answer(*line.decode().split()).encode() + b"\n")

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def answer(self, what: str, *words: str) -> str:
        """Tell the balance, or do a call's work: so many credits, in so many seconds."""
        if what == "work":
            cost, seconds = int(words[0]), float(words[1])
            assert seconds <= _LONGEST
            done = threading.Event()
            with self._changed:
                self._works += 1
            _later(seconds, done.set)
            _later(seconds + self._random.uniform(0, _LATEST), lambda: self._book(cost))
            done.wait(60)
        with self._changed:
            return str(self.credits)

    def _book(self, cost: int) -> None:
        with self._changed:
            self._works -= 1
            self.credits -= cost
            self.lowest = min(self.lowest, self.credits)
            self._changed.notify_all()

    def top_up(self, credits: int) -> None:
        with self._changed:
            self.credits += credits

    def rest(self) -> int:
        """Wait until all work is booked; gives the credits that are left."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._works, 60)
            return self.credits

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _later(seconds: float, act: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128


class PaidAccount:
    """The provider as a guard sees it, in any process."""

    name = fingerprint = "a paid account"
    extra_credits = 0
    lag, linger = LAG, LINGER

    def __init__(self, port: int) -> None:
        self.port = port

    async def fetch(self, _: Any) -> Balance:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"balance\n")
            return Balance(credits=int(await reader.readline()))
        finally:
            writer.close()

    def work(self, cost: int, seconds: float) -> None:
        """Have that much done, in that many seconds."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 60) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(f"work {cost} {seconds}\n".encode())
            assert answer.readline()
