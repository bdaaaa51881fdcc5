"""gunicorn on loopback with a few workers, and requests that each of them answers."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from budgetguard.testing.sandbox import Sandbox

WORKERS = 4
PATIENCE = 60
# Since 3.12 a fork beside threads is a DeprecationWarning; it is what this is about. gunicorn
# leaves the sockets that it was given as fd:// to the collector.
FLAGS = ("-W", "error", "-W", "ignore::DeprecationWarning", "-W", "ignore::ResourceWarning")


@contextmanager
def gunicorn(
    tmp_path: Path,
    sandbox: Sandbox,
    application: str,
    *flags: str,
    workers: int = WORKERS,
    **environment: str,
) -> Iterator[tuple[str, int]]:
    """Serve an application on loopback; it has to end in order and in silence."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = subprocess.Popen(
            [
                *(sys.executable, *FLAGS, "-m", "gunicorn", *flags, "--no-control-socket"),
                *("--workers", str(workers), "--bind", f"fd://{listener.fileno()}"),
                *("--worker-tmp-dir", str(tmp_path), "--log-level", "warning"),
                application,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[listener.fileno()],
            start_new_session=True,
            cwd=Path(__file__).parent,
            env={
                **os.environ,
                "PREDEV_API_KEY": sandbox.predev_key,
                "PREDEV_BASE_URL": sandbox.url,
                **environment,
            },
        )
        try:
            yield listener.getsockname()
            server.send_signal(signal.SIGTERM)
            words, _ = server.communicate(timeout=PATIENCE)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.communicate()
        assert (words, server.returncode) == ("", 0)


def ask_all(address: tuple[str, int]) -> list[dict[str, Any]]:
    """What each worker tells: they are asked at once, and none is free before all have answered."""
    with ExitStack() as stack:
        callers = [
            stack.enter_context(socket.create_connection(address, timeout=PATIENCE))
            for _ in range(WORKERS)
        ]
        for caller in callers:
            caller.sendall(b"POST / HTTP/1.0\r\ncontent-length: 1\r\n\r\n")
        replies = [stack.enter_context(caller.makefile("rb")) for caller in callers]
        answers = [answer(reply) for reply in replies]
        for caller, reply in zip(callers, replies, strict=True):
            caller.sendall(b".")
            assert reply.read() == b""
    return answers


def answer(reply: BinaryIO) -> dict[str, Any]:
    """The line that comes while the reply goes on."""
    assert reply.readline() == b"HTTP/1.0 200 OK\r\n"
    while reply.readline().strip():
        pass
    told: dict[str, Any] = json.loads(reply.readline())
    return told
