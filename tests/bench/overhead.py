"""What a guarded call costs, as ratios to something else timed in the same run.

    python tests/bench/overhead.py

Decorated functions are compared to a bare wrapt pass-through, all other ways in to one hit of a fixed
window in the memory of `limits`, where that is installed, and a transport's requests to the mock
request below. Each figure is the median of many short loops, taken in turns with the baseline, so that
a machine whose speed drifts drifts for both. Needs nothing but the package itself; where other
packages' guards are installed (see `others.py`), they are timed beside it. Calls in budgets are compared
to the same call without one, by the median of 11 pairs.

    python tests/bench/overhead.py --only-budgets [--keys N]
"""

import argparse
import asyncio
import contextlib
import functools
import itertools
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import wrapt

sys.path.insert(0, str(Path(__file__).parent))

from others import guarded_by_others

from budgetguard import Guard
from budgetguard.integrations.tools import Tools
from budgetguard.testing import FakeProvider

CALLS = 2000
_HIT = "limits, hit"
_NO_ARGUMENTS: dict[str, Any] = {}


def plain(x: int) -> int:
    """What is guarded: nothing."""
    return x


async def plain_async(x: int) -> int:
    """The same, to await."""
    return x


@wrapt.decorator
def bare_wrapt(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    """The baseline."""
    return wrapped(*args, **kwargs)


def bare_wraps(function: Callable[..., Any]) -> Callable[..., Any]:
    """The least that a decorator can do."""

    @functools.wraps(function)
    def passed(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return passed


def lock_pair() -> Callable[[int], None]:
    """A lock, taken and given back."""
    lock = threading.Lock()

    def pair(_: int) -> None:
        with lock:
            pass

    return pair


def guard_of(credits: int) -> Guard:
    """A guard whose balance is known and young."""
    guard = Guard(FakeProvider(credits))
    guard.balance()
    return guard


def time_sync(function: Callable[[int], Any]) -> float:
    """Seconds a call."""
    started = time.perf_counter()
    for _ in range(CALLS):
        function(1)
    return (time.perf_counter() - started) / CALLS


def time_async(function: Callable[[int], Awaitable[Any]]) -> float:
    """Seconds a call, one after the other in one task."""

    async def loop() -> float:
        started = time.perf_counter()
        for _ in range(CALLS):
            await function(1)
        return (time.perf_counter() - started) / CALLS

    return asyncio.run(loop())


def time_threads(function: Callable[[int], Any]) -> float:
    """Seconds a call, with 8 threads that all call."""
    threads = [threading.Thread(target=time_sync, args=(function,)) for _ in range(8)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - started) / (8 * CALLS)


def time_tasks(function: Callable[[int], Awaitable[Any]]) -> float:
    """Seconds a call, with 1,000 tasks at once."""

    async def crowd() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(function(1) for _ in range(1000)))
        return (time.perf_counter() - started) / 1000

    return asyncio.run(crowd())


def compare(
    timer: Callable[[Any], float],
    baseline: Any,
    functions: dict[str, Any],
    rounds: int,
    named: str = "bare wrapt",
) -> None:
    """Print the median of each function's ratio to the baseline, timed right before it."""
    bases = [timer(baseline) for _ in range(rounds)]
    print(f"  {f'baseline: {named}':<40} 1.00   ({statistics.median(bases) * 1e9:.0f} ns)")
    for name, function in functions.items():
        ratios = []
        for _ in range(rounds):
            base = timer(baseline)
            ratios.append(timer(function) / base)
        print(f"  {name:<40} {statistics.median(ratios):.2f}")


def other_ways(guard: Guard) -> dict[str, Callable[[int], Any]]:
    """The ways in that give a Hold, or ask a callable."""
    tools = Tools(guard, {"spec": 1})

    def block(_: int) -> None:
        with guard.require_credits(min=1):
            pass

    def settled_at(_: int) -> None:
        guard.acquire(2).settle(1)

    def tool(_: int) -> None:
        tools.open("spec", _NO_ARGUMENTS).finish(None)

    amounts = itertools.cycle(range(1, 1000))
    return {
        "with guard.require_credits(min=1)": block,
        "acquire(1).settle()": lambda _: guard.acquire(1).settle(),
        "acquire(2).settle(1)": settled_at,
        "decorated, callable min": guard.require_credits(min=lambda x: x)(plain),
        "decorated, callable min, any amount": guard.require_credits(min=lambda _: next(amounts))(
            plain
        ),
        "a tool, through the tools' path": tool,
    }


def transport(guard: Guard, rounds: int) -> None:
    """Print what a guarded request costs more than the mock request below it, over that."""
    import httpx

    from budgetguard.transport import GuardTransport

    url = "https://api.example.com"
    below = httpx.MockTransport(lambda _: httpx.Response(200, json={"creditsUsed": 1}))
    above = GuardTransport(guard, transport=below, prices={("POST", "/spec"): 5}, base_url=url)

    def timed(through: Any) -> float:
        requests = [httpx.Request("POST", f"{url}/spec", json={}) for _ in range(100)]
        started = time.perf_counter()
        for request in requests:
            through.handle_request(request).read()
        return (time.perf_counter() - started) / len(requests)

    ratios = []
    for _ in range(rounds):
        base = timed(below)
        ratios.append(timed(above) / base - 1)
    print(f"  a request, more than the mock below it   {statistics.median(ratios):.2f}")


def with_open_holds(open_holds: int) -> Callable[[int], int]:
    """A guarded function whose guard has that many open holds."""
    guard = guard_of(10**9)
    function = guard.require_credits(min=1)(plain)
    function.holds = [guard.acquire(1) for _ in range(open_holds)]  # type: ignore[attr-defined]
    return function


def within(call: Callable[[int], int], *makes: Callable[[], Any]) -> Callable[[], float]:
    """A timer of a call inside blocks that are entered once, outermost first."""

    def timed() -> float:
        with contextlib.ExitStack() as stack:
            for make in makes:
                stack.enter_context(make())
            return time_sync(call)

    return timed


def each_within(call: Callable[[int], int], make: Callable[[], Any]) -> Callable[[], float]:
    """A timer of a call inside a block that is made and entered for it."""

    def in_its_own(_: int) -> None:
        with make():
            call(1)

    return lambda: time_sync(in_its_own)


def in_budgets(
    guard: Guard, call: Callable[[int], int], keys: int
) -> dict[str, Callable[[], float]]:
    """Timers of a call in budgets; all the keyed ones exist, with something spent in each."""
    other, numbers = guard_of(10**9), itertools.cycle(range(keys))
    one = functools.partial(guard.budget, 10**9)
    larger, carved = functools.partial(guard.budget, 10**10), functools.partial(one, share="carve")
    rolling = functools.partial(one, name="rolling", per=86_400)

    def of_next() -> Any:
        return guard.budget(10**9, name="user", key=next(numbers), per="day")

    for _ in range(keys):
        with of_next():
            call(1)
    known = f"per day, one of {keys:,} keys"
    return {
        "without a budget, once more": lambda: time_sync(call),
        "a budget of another account around it": within(call, lambda: other.budget(10**9)),
        "labels around it": within(call, lambda: guard.labels(user="ada")),
        "in one budget": within(call, one),
        "in three nested": within(call, one, one, one),
        "in one that is carved out of another": within(call, larger, carved),
        "in four nested": within(call, one, one, one, one),
        "in one that is carved out of the account": within(call, carved),
        known: within(call, of_next),
        "rolling": within(call, rolling),
        "one budget, entered for each call": each_within(call, one),
        f"{known}, entered for each call": each_within(call, of_next),
        "rolling, entered for each call": each_within(call, rolling),
    }


def budgets(keys: int, pairs: int = 11) -> None:
    """Print what a call costs in budgets, over the same call without one."""
    guard = guard_of(10**12)
    call = guard.require_credits(min=1)(plain)
    bases, medians = [], dict[str, float]()
    for name, timed in in_budgets(guard, call, keys).items():
        ratios = []
        for _ in range(pairs):
            bases.append(time_sync(call))
            ratios.append(timed() / bases[-1])
        medians[name] = statistics.median(ratios)
    base = f"({statistics.median(bases) * 1e9:.0f} ns)"
    print(f"  {'baseline: the same call without a budget':<60} 1.00   {base}")
    for name, ratio in medians.items():
        print(f"  {name:<60} {ratio:.2f}")


def memory() -> None:
    """What 3.6 million calls, 1,000 a second for an hour, leave behind."""
    from budgetguard.testing import hand_clock

    with hand_clock() as clock:
        function = Guard(FakeProvider(10**9, lag=5)).require_credits(min=1)(plain)
        function(1)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3600):
            for _ in range(1000):
                function(1)
            clock.advance(1)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    print(f"  3.6 million calls in a virtual hour: {grown / 1e6:+.2f} MB")


def imports() -> None:
    """The import of the package against that of wrapt, as whole processes, in turns."""

    def once(module: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        return time.perf_counter() - started

    nothing, ours, wrapts = [], [], []
    for _ in range(15):
        nothing.append(once("sys"))
        ours.append(once("budgetguard"))
        wrapts.append(once("wrapt"))
    empty = statistics.median(nothing)
    ratio = (statistics.median(ours) - empty) / (statistics.median(wrapts) - empty)
    print(
        f"  import budgetguard / import wrapt: {ratio:.2f}, over an interpreter that imports nothing"
    )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--memory", action="store_true", help="the virtual hour too (a minute)")
    parser.add_argument("--only-budgets", action="store_true", help="only calls in budgets")
    parser.add_argument("--keys", type=int, default=10**6, help="how many keyed budgets there are")
    options = parser.parse_args()
    if options.only_budgets:
        print(
            f"Python {sys.version.split()[0]}, 11 pairs of {CALLS} calls\n\nin budgets, sync, a call"
        )
        budgets(options.keys)
        return
    guard = guard_of(10**9)
    hold, check = guard.require_credits(min=1), guard.require_credits(min=1, cost=0)
    actual = guard.require_credits(min=1, actual=lambda _: 1)
    slots = guard.require_credits(min=1, slots=1)
    listened = Guard(FakeProvider(10**9), on_event=lambda _: None)
    listened.balance()

    print(f"Python {sys.version.split()[0]}, {options.rounds} rounds of {CALLS} calls\n")
    print("decorated, sync, a call")
    functions = {
        "functools.wraps": bare_wraps(plain),
        "threading.Lock": lock_pair(),
        "time.monotonic": lambda _: time.monotonic(),
        "check only": check(plain),
        "hold and settle": hold(plain),
        "hold, settle at actual": actual(plain),
        "hold and settle, with on_event": listened.require_credits(min=1)(plain),
        "the slow path (slots=1)": slots(plain),
    }
    compare(time_sync, bare_wrapt(plain), functions, options.rounds)
    print("\ndecorated, async, a call")
    functions = {"check only": check(plain_async), "hold and settle": hold(plain_async)}
    compare(time_async, bare_wrapt(plain_async), functions, options.rounds)
    others, missing = guarded_by_others(plain)
    if _HIT in others:
        print("\nother ways in, sync, a call")
        compare(time_sync, others[_HIT], other_ways(guard), options.rounds, _HIT)
    print("\na transport, sync")
    transport(guard, options.rounds)
    print("\n8 threads, a call")
    in_threads = {"hold and settle": hold(plain)}
    compare(time_threads, bare_wrapt(plain), in_threads, -(-options.rounds // 4))
    one = time_sync(hold(plain))
    print(f"  over one thread                          {time_threads(hold(plain)) / one:.2f}")
    print("\n1,000 tasks, a call")
    compare(
        time_tasks, bare_wrapt(plain_async), {"hold and settle": hold(plain_async)}, options.rounds
    )
    # Last: what is alive is gone through by the collector now and then, in everybody's loops.
    print("\n100,000 holds open, sync, a call")
    crowded = {"hold and settle": with_open_holds(100_000)}
    compare(time_sync, bare_wrapt(plain), crowded, options.rounds)
    del crowded
    print("\nin budgets, sync, a call")
    budgets(options.keys)
    print("\nother packages, sync, a call")
    compare(time_sync, bare_wrapt(plain), others, options.rounds)
    if missing:
        print(f"  not installed: {', '.join(missing)}")
    print("\nother")
    imports()
    if options.memory:
        memory()


if __name__ == "__main__":
    main()
