"""A process without a store says once that it may be one of several workers, where that is certain."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from interpreter import FORKING, PATIENCE, Script

from budgetguard.testing.sandbox import Sandbox

HEAD = """
import logging, os, sys
from budgetguard import Guard
from budgetguard.testing import FakeProvider

class Shown(logging.Handler):
    def emit(self, record):
        print(record.levelname, record.getMessage(), flush=True)

def spend(guard):
    for _ in range(2):
        with guard.require_credits(min=1):
            pass

logging.getLogger("budgetguard").addHandler(Shown())
logging.getLogger("budgetguard").setLevel(logging.INFO)
"""
SAID = (
    "INFO This process {}, and its guard of fake has no store. If other workers spend from that account, none "
    "of them sees what the others hold: docs/how-to/workers.md says how they share it."
)
UVICORN_APP = """
import logging, os
from budgetguard import Guard, PreDev

logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
guard = Guard(PreDev())

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await guard.abalance()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


def test_a_process_on_its_own_says_nothing(script: Script) -> None:
    """Neither does one whose environment has a server's name, nor one that a guard was never used in."""
    environment = {"SERVER_SOFTWARE": "gunicorn/27.0", "WEB_CONCURRENCY": "4"}
    assert script(HEAD + "\nspend(Guard(FakeProvider(100)))\n", **environment) == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forked_children(script: Script) -> None:
    """A child that has its parent's guards says it once; one with guards of its own does not."""
    printed = script(
        HEAD
        + """
provider, other = FakeProvider(100), FakeProvider(100)
guard = Guard(provider)
for spends in (lambda: spend(guard), lambda: spend(Guard(provider)), lambda: spend(Guard(other))):
    pid = os.fork()
    if not pid:
        spends()
        sys.stdout.flush()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print("next", flush=True)
spend(guard)
""",
        flags=FORKING,
    )
    said = SAID.format("was forked from one that has guards of the same account")
    assert printed.splitlines() == [said, "next", said, "next", "next"]


def test_multiprocessing_says_nothing(script: Script) -> None:
    """A child that was spawned may be the only one that spends, and nobody can tell what its parent has."""
    printed = script(
        HEAD
        + """
import multiprocessing

def child():
    spend(Guard(FakeProvider(100)))

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
    print(process.exitcode)
"""
    )
    assert printed == "0"


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn(workers: int, tmp_path: Path) -> None:
    """A worker of several says it; a single one does not."""
    if importlib.util.find_spec("uvicorn") is None:
        pytest.skip("uvicorn is not installed")
    (tmp_path / "application.py").write_text(UVICORN_APP)
    with Sandbox(credits=100) as sandbox:
        command = (sys.executable, "-m", "uvicorn", "application:app", "--port", "0")
        with subprocess.Popen(
            [*command, "--workers", str(workers)],
            cwd=tmp_path,
            env={
                **os.environ,
                "PREDEV_API_KEY": sandbox.predev_key,
                "PREDEV_BASE_URL": sandbox.url,
                "NO_PROXY": "*",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as server:
            assert server.stdout is not None
            lines: list[str] = []
            started = 0
            for line in server.stdout:
                lines.append(line)
                started += "Application startup complete" in line
                if started == workers:
                    server.terminate()
            assert server.wait(PATIENCE) in {0, -15}, lines
    said = [
        line for line in lines if line.startswith("budgetguard This process runs under uvicorn")
    ]
    assert len(said) == (workers if workers > 1 else 0), lines


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_celery(script: Script) -> None:
    """A process of Celery's pool says it; one of billiard alone does not."""
    if importlib.util.find_spec("celery") is None:
        pytest.skip("celery is not installed")
    printed = script(
        HEAD
        + """
import billiard

def child():
    spend(Guard(FakeProvider(100)))
    sys.stdout.flush()

for module in ("billiard", "celery"):
    __import__(module)
    process = billiard.Process(target=child)
    process.start()
    process.join()
    print(module, process.exitcode, flush=True)
child()
""",
        flags=("-W", "ignore"),
    )
    assert printed.splitlines() == ["billiard 0", SAID.format("runs under Celery"), "celery 0"]
