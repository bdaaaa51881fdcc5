"""A program that forks processes which spend from a shared account, as it is told, without a new interpreter.

    python nursery.py PLACE ACCOUNT FOLDER

`PLACE` is the path of a store's file, or what `store_place` makes of a store in a server. It reads a JSON object a line, and answers each with one. A process that it started writes what became of
its calls to `FOLDER/<pid>` when it ends in order, which it does on SIGTERM.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

from paid_provider import PaidAccount
from store_place import guard_settings, server_place

# What a first refresh imports: a child that is forked meanwhile could never import it.
import budgetguard._io.connections
import budgetguard._io.refresh_attempts  # noqa: F401
from budgetguard import BalanceUnavailable, Event, Guard, InsufficientCredits
from budgetguard._engine import membership
from budgetguard._io import loop

# A process that ends in order tells the store so, however busy the machine is.
loop._FAREWELL = loop._EXIT_PATIENCE = 60.0

# Set once its calls are to end, in each process its own.
STOP = threading.Event()
THREADS = 3
LONGEST_WORK = 0.05
# Events of the account that tests ask about, where a store's server may be away.
TOLD = ("store_lost", "store_back", "regrouped", "lease_lost")
# The machine may be busy with other tests.
GRACE = 5.0


class Spending:
    """A guard of the account, and calls that cost a little."""

    def __init__(self, path: str, account: str) -> None:
        self.account = PaidAccount(account)
        self.told: Counter[str] = Counter()
        settings = guard_settings(path)
        self.place = server_place(path)
        if self.place is not None:
            settings["on_event"] = self.hear
            membership.FIRST_RETRY = self.place.first_retry
            membership.LONGEST_RETRY = 10 * self.place.first_retry
        self.guard = Guard(self.account, recheck_after=0.05, **settings)

    def hear(self, event: Event) -> None:
        """Count what the account tells."""
        if event.kind in TOLD:
            self.told[event.kind] += 1

    def call(self, random: Random) -> None:
        """One call, if there is enough for it. Where nothing else holds callers up, counts those that are late."""
        began = time.monotonic()
        cost, wait = random.randint(1, 4), random.choice((0.0, 0.3))
        self._call(random, cost, wait)
        if self.place is not None:
            most = wait + self.place.patience + LONGEST_WORK + GRACE
            if time.monotonic() > began + most:
                self.told["late"] += 1

    def _call(self, random: Random, cost: int, wait: float) -> None:
        try:
            with self.guard.require_credits(min=cost, wait=wait):
                self.account.work(cost, random.uniform(0, LONGEST_WORK))
            self.told["spent"] += cost
        except InsufficientCredits:
            self.told["refused"] += 1
            time.sleep(random.uniform(0, 0.02))
        except BalanceUnavailable as error:
            self.told[error.reason] += 1
            time.sleep(random.uniform(0, 0.1))

    def threads(self, seed: str) -> list[threading.Thread]:
        """Threads that call until they are told to stop."""

        def spend(number: int) -> None:
            random = Random(f"{seed} {number}")
            while not STOP.is_set():
                self.call(random)

        threads = [threading.Thread(target=spend, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        return threads


def spend(spending: Spending, seed: str) -> None:
    """Call until SIGTERM comes."""
    threads = spending.threads(seed)
    signal.sigwait({signal.SIGTERM})
    STOP.set()
    for thread in threads:
        thread.join()


def spend_and_fork(spending: Spending, seed: str, forks: int) -> None:
    """Fork in the middle of calls, again and again; the children call, too, and end in two ways."""
    random, threads = Random(seed), spending.threads(seed)
    for number in range(forks):
        time.sleep(random.uniform(0, 0.05))
        pid = os.fork()
        if not pid:
            for _ in range(3):
                spending.call(random)
            if number % 2:
                os._exit(0)
            # Ends in order; the parent's threads are not here.
            return
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    STOP.set()
    for thread in threads:
        thread.join()


def take(spending: Spending, credits: int, wait: float) -> None:
    """Hold so many credits at once, for which it may have to wait; tells when it had them, too."""
    end = time.monotonic() + wait
    try:
        # The account may just have been topped up, which a balance of a moment ago does not show.
        while True:
            try:
                spending.guard.balance(max_age=0)
                spending.guard.acquire(credits, wait=wait).release()
                break
            except BalanceUnavailable:
                # A server that is busy with other tests.
                if spending.place is None or time.monotonic() >= end:
                    raise
                time.sleep(0.1)
        spending.told["took"] = credits
        spending.told["at"] = int(1000 * time.monotonic())
    except InsufficientCredits as error:
        spending.told[str(error)] += 1


ACTS: dict[str, Callable[..., None]] = {"spend": spend, "fork": spend_and_fork, "take": take}


def in_a_child(path: str, account: str, folder: str, act: str, *args: Any) -> int:
    """Fork a process that does something; gives its pid."""
    pid = os.fork()
    if not pid:
        os.close(0)
        os.close(1)
        spending = Spending(path, account)
        ACTS[act](spending, *args)
        Path(folder, str(os.getpid())).write_text(json.dumps(spending.told), encoding="utf-8")
        # As any program ends; the nursery's loop is not here.
        sys.exit(0)
    return pid


def fill(path: str) -> None:
    """Use all the room on the disk that the file is on."""
    with Path(path).with_name("filler").open("wb", buffering=0) as file:
        for size in (2**20, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


def main() -> None:
    """Do what each line says."""
    path, account, folder = sys.argv[1:]
    if server_place(path) is not None:
        # Only for speed: each child would import it anew.
        import redis.asyncio  # noqa: F401
    # In all threads of all children, too: it waits until the main thread asks for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for line in sys.stdin:
        act, *args = json.loads(line)
        answer: object = None
        if act == "reap":
            answer = os.waitstatus_to_exitcode(os.waitpid(args[0], 0)[1])
        elif act == "fill":
            fill(path)
        elif act == "empty":
            Path(path).with_name("filler").unlink()
        else:
            answer = in_a_child(path, account, folder, act, *args)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
