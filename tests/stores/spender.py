"""A member of a shared account without an engine: it sends what a test tells it to, and checks the numbers.

Run as a program, it does so in a process of its own: it reads a JSON object a line, and answers with one.
"""

import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from budgetguard._core.balance import Balance
from budgetguard._core.clock import SYSTEM
from budgetguard._core.store_messages import NEVER, Join, Landing, Message, Need, Reply, Report
from budgetguard._engine.account_registry import runtime
from budgetguard.stores import SQLiteStore
from budgetguard.stores._processes import PROCESS
from budgetguard.stores.base import StoreUnavailable

ACCOUNT = "a" * 64
MICRO = 1_000_000


class Spender:
    """One account of one process in a store. Amounts are credits."""

    def __init__(self, path: str, account: str = ACCOUNT, *, timeout: float = 2) -> None:
        self.store = SQLiteStore(path, timeout=timeout)
        self.link = self.store.link(account, runtime())
        self.begin()

    def begin(self) -> None:
        """Begin a session, as a new member does."""
        self.number, self.epoch, self.seen, self.at = 0, "", NEVER, 0.0
        self.last: Message | None = None

    def send(self, **fields: Any) -> Reply:
        """Send the next message."""
        self.number += 1
        since = SYSTEM.monotonic() - self.at if self.at else 0.0
        self.last = Message(
            self.link.member, self.number, self.epoch, seen=self.seen, elapsed=since, **fields
        )
        return self.again()

    def again(self) -> Reply:
        """Send the last message once more."""
        assert self.last is not None
        reply = self.exchange(self.last)
        self.epoch, self.seen, self.at = reply.epoch, reply.view.now, SYSTEM.monotonic()
        return reply

    def exchange(self, message: Message) -> Reply:
        """One exchange on the private loop; raises what it raises."""
        answers: queue.SimpleQueue[Reply | BaseException] = queue.SimpleQueue()

        async def work() -> None:
            try:
                answers.put(await self.link.exchange(message))
            except BaseException as error:
                answers.put(error)

        runtime().submit(work)
        answer = answers.get(timeout=60)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def join(self, used: int = 0, keep: int = 0, want: int = 0) -> Reply:
        report = Report(
            used=used * MICRO, keep=keep * MICRO, want=want * MICRO, running=int(used > 0)
        )
        return self.send(join=Join(None), report=report)

    def beat(self, used: int = 0, keep: int = 0, want: int = 0, needs: Iterable[int] = ()) -> Reply:
        needed = tuple(
            Need(ticket, each * MICRO, each * MICRO, counts=True)
            for ticket, each in enumerate(needs)
        )
        report = Report(used=used * MICRO, keep=keep * MICRO, want=want * MICRO, needs=needed)
        return self.send(report=report)

    def look(self, credits: int) -> Reply:
        """Refresh: the balance is that many credits."""
        right = self.send(refresh_after=self.seen, refresh_timeout=1.0)
        assert right.refresh == "yours", right
        balance = Balance(credits=Decimal(credits))
        landing = Landing(right.epoch, right.refresh_number, balance=balance, wall=time.time())
        return self.send(landing=landing)

    def leave(self) -> Reply:
        return self.send(leave=True)


def told(reply: Reply) -> dict[str, Any]:
    """What tests ask of a reply, as JSON values."""
    view = reply.view
    return {
        "status": reply.status,
        "epoch": reply.epoch,
        "lease": reply.lease / MICRO,
        "granted": list(reply.granted),
        "refused": list(reply.refused),
        "members": view.members,
        "leased": view.leased / MICRO,
        "kept": view.kept / MICRO,
        "credits": None if view.snapshot is None else view.snapshot.credits / MICRO,
    }


def reason_of(work: Callable[[], object]) -> str:
    """Why the store is not available for it."""
    try:
        work()
    except StoreUnavailable as error:
        return error.reason
    raise AssertionError


def main(path: str, account: str = ACCOUNT, timeout: str = "2") -> None:
    """Do what standard input says, until it ends."""
    spender = Spender(path, account, timeout=float(timeout))
    for line in sys.stdin:
        order = json.loads(line)
        what = order.pop("do")
        answer: dict[str, Any] = {"member": spender.link.member}
        try:
            if what == "beats":
                answer["beats"] = beats(spender, **order)
            elif what == "close":
                spender.link.close()
            elif what == "stop_inside":
                stop_inside(spender)
            elif what == "begin":
                spender.begin()
            elif what == "touch":
                with open(path, "rb") as file:  # noqa: PTH123
                    file.read(1)
            else:
                answer |= told(getattr(spender, what)(**order))
        except StoreUnavailable as error:
            answer["unavailable"] = error.reason
        print(json.dumps(answer), flush=True)


def stop_inside(spender: Spender) -> None:
    """Have this process stopped in the next transaction, with all locks, right before its end."""
    file = PROCESS.workers[spender.store.path]._file
    commit = file.commit

    def stop_first() -> None:
        file.commit = commit  # type: ignore[method-assign]
        # To this very thread: it would go on for a moment if another one took the signal.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        commit()

    file.commit = stop_first  # type: ignore[method-assign]


def beats(spender: Spender, until: float) -> dict[str, Any]:
    """Send as many messages as go, one after the other, until that wall time; and how long each took."""
    took = []
    while time.time() < until:
        began = time.monotonic()
        spender.beat()
        took.append(time.monotonic() - began)
    return {"count": len(took), "longest": max(took), "late": sorted(took)[int(len(took) * 0.99)]}


if __name__ == "__main__":
    main(*sys.argv[1:])
