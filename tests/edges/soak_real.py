"""Threads and event loops that spend for minutes from a sandbox, a server in a process of its own."""

import asyncio
import contextlib
import gc
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from random import Random
from typing import Any

import httpx
from soaked import Figures

from budgetguard import BudgetGuardError, Guard, PreDev
from budgetguard._engine.binding import binding_of
from budgetguard.testing.sandbox import FAST_SPEC

SPEED = 600
EVERY = 30.0
COST = FAST_SPEC.credits[1]
FAULTS: list[dict[str, Any]] = [
    {"status": 500, "times": 3},
    {"status": 429, "retry_after": 1, "times": 2},
    {"hang": True, "times": 1},
    {"reset": True, "times": 2},
    {"drip": 0.2, "times": 1},
    {"body": "<html>", "times": 1},
    {"size": 100_000, "times": 1},
]


class Failed(Exception):
    """What a call raises whose cost nobody knows."""


class Soak:
    """`minutes` of callers from four threads, two asyncio loops and a trio loop."""

    def __init__(self, minutes: float, seed: int) -> None:
        self.minutes = minutes
        self.random = Random(seed)
        self.counts: Counter[str] = Counter()
        self.figures = Figures()
        self.done = threading.Event()

    def run(self) -> int:
        """Run to the end; 1 when something is broken."""
        command = [sys.executable, "-m", "budgetguard", "sandbox", "--port", "0"]
        command += ["--credits", "2000", "--speed", str(SPEED)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                return self._run(server)
            finally:
                server.terminate()

    def _run(self, server: "subprocess.Popen[str]") -> int:
        assert server.stdout is not None
        words = ""
        while "ANCHORBROWSER_BASE_URL" not in words:
            words += server.stdout.readline()
        self.url = re.findall(r"Sandbox at (\S+),", words)[0]
        self.key = re.findall(r"PREDEV_API_KEY=(\S+)", words)[0]
        provider = PreDev(self.key, base_url=self.url)
        terms: dict[str, Any] = {"lag": 1, "linger": 2, "recheck_after": 1, "timeout": 2}
        self.guard = Guard(provider, fresh_for=5, stale_for=15, **terms)
        self.plain = Guard(self._ask, fresh_for=2, lag=0)
        self.call = self.guard.require_credits(min=COST, actual=lambda spec: spec["creditsUsed"])
        callers = [threading.Thread(target=self._thread, args=(Random(n),)) for n in range(4)]
        callers += [
            threading.Thread(target=lambda n=n: asyncio.run(self._loop(Random(n))))  # type: ignore[misc]
            for n in range(2)
        ]
        callers.append(threading.Thread(target=self._trio))
        for caller in callers:
            caller.start()
        begun = time.monotonic()
        warm = False
        while (past := time.monotonic() - begun) < self.minutes * 60:
            time.sleep(min(EVERY, self.minutes * 60 - past))
            self._weather()
            if warm or past >= min(60, self.minutes * 6):
                warm = True
                self._tell(time.monotonic() - begun)
        self._tell(time.monotonic() - begun)
        self.done.set()
        for caller in callers:
            caller.join()
        return self.figures.verdict(self._left())

    def _tell(self, seconds: float) -> None:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        self.figures.take(f"{seconds:4.0f} s: {counts}")

    def _left(self) -> int:
        """What is held or pending once everything ended and could be booked."""
        self._control("faults", method="DELETE")
        gc.collect()
        for _ in range(8):
            time.sleep(1)
            for guard in (self.guard, self.plain):
                with contextlib.suppress(BudgetGuardError):
                    guard.balance(max_age=0)
        books = [binding_of(guard).account.ledger for guard in (self.guard, self.plain)]
        there = json.loads(self._control("state"))["predev"]["balance"]
        if self.guard.available != there:
            self.figures.troubles.append(f"{self.guard.available} available, {there} there")
        return sum(book.held + book.pending + book.running for book in books)

    def _weather(self) -> None:
        """Every so often somebody pays, and the balance's replies go wrong for a while."""
        self._control("top-up", {"credits": self.random.choice([500, 2_000]), "provider": "predev"})
        fault = self.random.choice(FAULTS)
        self._control("faults", {"pattern": "/credits-balance", **fault})
        if self.random.random() < 0.2:
            self.guard.mark_exhausted()

    def _control(self, path: str, body: dict[str, Any] | None = None, method: str = "") -> bytes:
        method = method or ("GET" if body is None else "POST")
        request = urllib.request.Request(
            f"{self.url}/_sandbox/{path}",
            json.dumps(body).encode() if body is not None else None,
            {"content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return bytes(reply.read())

    def _ask(self) -> int:
        return 1_000

    def _count(self, what: str) -> None:
        self.counts[what] += 1

    # Callers from threads.

    def _thread(self, random: Random) -> None:
        with httpx.Client(base_url=self.url, headers=self._headers(), timeout=30) as client:

            @self.call
            def spec(fail: bool) -> Any:
                reply = client.post("/fast-spec", json={"input": "a spec"})
                self._check(reply)
                if fail:
                    raise Failed
                return reply.json()

            while not self.done.wait(random.uniform(0, 0.05)):
                try:
                    match random.randrange(10):
                        case 0:
                            spec(fail=random.random() < 0.2)
                        case 1:
                            with self.guard.require_credits(min=COST, wait=1) as hold:
                                hold.settle(0)
                        case 2:
                            cycle: list[Any] = [self.guard.acquire(COST)]
                            cycle.append(cycle)
                        case 3:
                            self.guard.acquire(COST, wait=0.5).release()
                        case 4:
                            self.guard.balance(max_age=random.choice([1, 60]))
                        case _:
                            self.plain.acquire(5).settle(0)
                    self._count("in threads")
                except (BudgetGuardError, Failed) as error:
                    self._count(type(error).__name__)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def _check(self, reply: httpx.Response) -> None:
        if reply.status_code != 200:
            self.figures.troubles.append(f"an admitted call was answered {reply.status_code}")

    # Callers from event loops.

    async def _loop(self, random: Random) -> None:
        async with httpx.AsyncClient(
            base_url=self.url, headers=self._headers(), timeout=30
        ) as client:

            @self.call
            async def spec() -> Any:
                reply = await client.post("/fast-spec", json={"input": "a spec"})
                self._check(reply)
                return reply.json()

            async def caller() -> None:
                while not self.done.is_set():
                    await asyncio.sleep(random.uniform(0, 0.2))
                    try:
                        async with asyncio.timeout(random.choice([0.02, 0.1, 5])):
                            match random.randrange(4):
                                case 0:
                                    await spec()
                                case 1:
                                    async with self.guard.require_credits(min=COST, wait=1) as hold:
                                        await asyncio.sleep(0.01)
                                        hold.release()
                                case 2:
                                    await self.guard.abalance(max_age=random.choice([1, 60]))
                                case _:
                                    (await self.plain.aacquire(5, wait=1)).settle(0)
                        self._count("in loops")
                    except (BudgetGuardError, TimeoutError) as error:
                        self._count(type(error).__name__)

            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(caller())

    def _trio(self) -> None:
        import trio

        async def main() -> None:
            while not self.done.is_set():
                await trio.sleep(0.05)
                with trio.move_on_after(1):
                    try:
                        async with self.guard.require_credits(min=COST, wait=2) as hold:
                            await trio.sleep(0.01)
                            hold.release()
                        self._count("in trio")
                    except BudgetGuardError as error:
                        self._count(type(error).__name__)

        trio.run(main)
