"""How much later an interpreter ends because of the private loop, in seconds.

python tests/edges/exit_time.py [--runs 7]

Each program tells the time as its last word; from there to its end counts, less what the same takes
in a program that made a guard and never used it. Exits 1 where one is delayed by more than 0.5 s, or
writes a word to stderr.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 60
ALLOWED = 0.5
HEAD = """
import contextlib, os, socket, sys, threading, time
import anyio, asyncio, httpx
from budgetguard import BalanceUnavailable, Guard, PreDev
from budgetguard.testing import FakeProvider

asked = threading.Event()
server = socket.create_server(("127.0.0.1", 0))
hanging = PreDev("a-key-of-some-length", base_url=f"http://127.0.0.1:{server.getsockname()[1]}")

def start(work):
    def run():
        with contextlib.suppress(BalanceUnavailable):
            work()
    threading.Thread(target=run, daemon=True).start()
"""
TAIL = """
server.detach()
sys.stdout.write(repr(time.monotonic()))
sys.stdout.flush()
"""
SHARED = """
import sqlite3, tempfile
from budgetguard.stores import SQLiteStore
# On a busy machine the store may still be tidying up.
folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
path = f"{folder.name}/credits.db"
shared = Guard(FakeProvider(100), store=SQLiteStore(path))
"""
UNUSED = "guard = Guard(hanging)"
WAYS = {
    "used, and idle": "guard = Guard(FakeProvider(100))\nguard.acquire(10).release()",
    "a fetch that hangs": """
guard = Guard(hanging, timeout=600)
start(guard.balance)
connection, _ = server.accept()
connection.recv(100)
connection.detach()
""",
    "a fetch that hangs, nobody waits": """
guard = Guard(hanging, timeout=600)
guard.mark_exhausted()
connection, _ = server.accept()
connection.recv(100)
connection.detach()
""",
    "a hundred callers wait": """
guard = Guard(hanging, timeout=600)
for _ in range(100):
    start(lambda: guard.acquire(1))
connection, _ = server.accept()
connection.recv(100)
connection.detach()
""",
    "twenty fetches hang": """
for number in range(20):
    guard = Guard(PreDev(f"a-key-of-some-length-{number}", base_url=hanging.base_url), timeout=600)
    guard.mark_exhausted()
    connection, _ = server.accept()
    connection.recv(100)
    connection.detach()
""",
    "a callable that hangs": """
def balance():
    asked.set()
    threading.Event().wait(600)
guard = Guard(balance, timeout=600)
guard.mark_exhausted()
asked.wait()
""",
    "a coroutine that hangs": """
async def balance():
    asked.set()
    await anyio.sleep(600)
guard = Guard(balance, timeout=600)
guard.mark_exhausted()
asked.wait()
""",
    "a coroutine that blocks the loop": """
async def balance():
    asked.set()
    threading.Event().wait(600)
guard = Guard(balance, timeout=600)
guard.mark_exhausted()
asked.wait()
""",
    "a coroutine that will not be cancelled": """
async def balance():
    asked.set()
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(600)
guard = Guard(balance, timeout=600)
guard.mark_exhausted()
asked.wait()
""",
    "a member of a store": SHARED
    + """
shared.acquire(10).release()
""",
    "a member with a call under way": SHARED
    + """
hold = shared.acquire(10)
""",
    "a member whose store is locked": SHARED
    + """
shared.acquire(10).release()
locks = sqlite3.connect(path, isolation_level=None, timeout=60)
locks.execute("BEGIN IMMEDIATE")
start(lambda: shared.acquire(95).release())
""",
    "twenty accounts in a locked store": SHARED
    + """
accounts = [Guard(FakeProvider(100), store=SQLiteStore(path)) for _ in range(20)]
for each in accounts:
    each.acquire(10).release()
locks = sqlite3.connect(path, isolation_level=None, timeout=60)
locks.execute("BEGIN IMMEDIATE")
""",
    "a name that is not resolved": """
def hang(*_, **__):
    asked.set()
    threading.Event().wait(600)
socket.getaddrinfo = hang
guard = Guard(PreDev("a-key-of-some-length", base_url="https://example.invalid"), timeout=600)
guard.mark_exhausted()
asked.wait()
""",
}


def main() -> int:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    print(f"Python {sys.version.split()[0]}: seconds more than without, {runs} runs")
    print(f"{'':40}{'median':>8}{'most':>8}  stderr")
    broken = False
    seconds(UNUSED)
    for way, code in WAYS.items():
        pairs = [(seconds(UNUSED), seconds(code)) for _ in range(runs)]
        extra = [used - unused for (unused, _), (used, _) in pairs]
        words = "".join(told for _, (_, told) in pairs)
        median, most = statistics.median(extra), max(extra)
        print(f"{way:40}{median:8.3f}{most:8.3f}  {words[:200] or 'empty'}", flush=True)
        broken = broken or median > ALLOWED or words != ""
    return int(broken)


def seconds(code: str) -> tuple[float, str]:
    """From the program's last word to its end, and what it wrote to stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + code + TAIL],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as program:
        try:
            told, words = program.communicate(timeout=PATIENCE)
            ended = time.monotonic()
        except subprocess.TimeoutExpired:
            program.kill()
            return float("inf"), "it did not end"
    return ended - float(told or "nan"), words


if __name__ == "__main__":
    sys.exit(main())
