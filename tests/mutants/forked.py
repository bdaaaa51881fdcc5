"""Runs pytest again and again, each time in a fork of a process that has imported what tests stand on.

Starting an interpreter and importing pytest, HTTP clients and servers costs more than most tests do.
Each line on stdin is a JSON list: seconds of patience, then pytest's arguments. The answer is a line
with pytest's exit code, or `null` where the time was not enough. The package itself and its tests are
imported in the fork.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time

import pytest

# Nobody's plugin is rewritten any more, so `--assert=plain`.
_STAND_ON = ("anyio", "trio", "hypothesis.stateful", "httpx", "httpx2", "starlette", "uvicorn")
_STAND_ON += ("fastapi", "wrapt", "cachetools", "rich", "coverage")


def main() -> None:
    """Serve until stdin ends."""
    for name in _STAND_ON:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        patience, *arguments = json.loads(line)
        print(json.dumps(_run(patience, arguments)), file=answers, flush=True)


def _run(patience: float, arguments: list[str]) -> int | None:
    child = os.fork()
    if not child:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        code = pytest.main(["--assert=plain", *arguments])
        # Threads and loops that a mutant left behind are nobody's business.
        os._exit(int(code))
    until = time.monotonic() + patience
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end_group(child)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    _end_group(child)
    os.waitpid(child, 0)
    return None


def _end_group(child: int) -> None:
    """The fork's own group: programs that its tests started are in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
