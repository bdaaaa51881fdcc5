"""What every framework's tests play: tools that note, work that goes wrong, and a model's reading."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from staging import Caller, under_way, until

from budgetguard import Guard
from budgetguard.testing import FakeProvider, HandClock

Kept = Callable[[Guard, int], None]


def too_little(needed: int, available: int) -> str:
    """The refusal's text when the balance is too low, right after a refresh."""
    return (
        f"BUDGET: needs {needed} credits, {available} available (as of just now). "
        "Do not retry; ask for a top-up: https://example.com/top-up"
    )


REFUSED = too_little(120, 100)
TOO_LITTLE = too_little(50, 20)
FIGURES = {
    "error": "insufficient_credits",
    "needed": 50,
    "available": 20,
    "retry_after": None,
    "top_up_url": "https://example.com/top-up",
}
COULD_NOT = "BUDGET: deep_spec was not run because the credits for it could not be set aside"
NOT_AGAIN = "Do not retry with the same arguments."
WITHHELD = f"{COULD_NOT}. {NOT_AGAIN}"
UNKNOWN = (
    "BUDGET: the balance at fake is not known, so nothing was started. "
    "Do not retry; continue without this tool, and tell the user."
)
MISSPELLED = "costs names 'deep_spek', but no tool has that name. Did you mean deep_spec?"


def reads_of_want(printed: str) -> bool:
    """Whether an example's model reads one refusal: of 50 credits, where 22 are left."""
    [refusal] = re.findall(r"BUDGET: .*", printed)
    words = (
        r"BUDGET: needs 50 credits, 22 available \(as of (just now|\d+ s ago)\)\. "
        r"Do not retry; ask for a top-up: https://example\.com/top-up"
    )
    return re.fullmatch(words, refusal) is not None


class Worker:
    """What a tool does: it notes its calls and what was available while they ran."""

    def __init__(self, guard: Guard, work: Callable[[str], Any] = str.upper) -> None:
        self.guard = guard
        self.work = work
        self.ran: list[str] = []
        self.available: list[Any] = []

    def call(self, prompt: str) -> Any:
        self.ran.append(prompt)
        self.available.append(self.guard.available)
        return self.work(prompt)

    async def acall(self, prompt: str) -> Any:
        await asyncio.sleep(0)
        return self.call(prompt)


class Serving:
    """Two tools for a server, which note what ran; `during` is awaited while deep_spec runs."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.during: Callable[[], Awaitable[Any]] = anyio.lowlevel.checkpoint

    async def deep_spec(self, prompt: str) -> dict[str, Any]:
        self.ran.append(f"deep_spec {prompt}")
        return {"used": 8, "seen": str(await self.during())}

    def fast_spec(self, prompt: str) -> str:
        self.ran.append(f"fast_spec {prompt}")
        return f"outline of {prompt}"


def text(result: Any) -> str:
    """What a model reads of a server's answer."""
    [block] = result.content
    return str(block.text)


def ways_to_price(used: Callable[[Any], int]) -> list[Any]:
    """Costs of which 30 credits are held while the tool runs, and what is left of 100 then.

    `used` reads the 8 credits in its result.
    """
    return [
        pytest.param(30, 70, id="a number"),
        pytest.param(lambda prompt: 29 + len(prompt), 70, id="of the arguments"),
        pytest.param({"min": 50, "cost": 30}, 70, id="min and cost"),
        pytest.param({"min": 30, "actual": used}, 92, id="actual"),
        pytest.param({"min": 30, "actual": lambda _: 1 / 0}, 70, id="an actual that raises"),
    ]


def no_price_for(prompt: str) -> int:
    """Raise where a cost is asked for."""
    msg = f"no price for {prompt}"
    raise LookupError(msg)


def breaks(_: str) -> str:
    """Raise when the tool is at work."""
    msg = "the connection broke"
    raise OSError(msg)


async def endless(prompt: str) -> str:
    """Work for ever."""
    await asyncio.Event().wait()
    return prompt


def cancelled_at_work(
    run: Callable[[Callable[[str], Coroutine[Any, Any, str]]], Coroutine[Any, Any, Any]],
) -> None:
    """Run what has a tool do the work that it is given, and cancel it once the tool is at it."""

    async def main() -> None:
        begun = asyncio.Event()

        async def work(prompt: str) -> str:
            begun.set()
            return await endless(prompt)

        running = asyncio.create_task(run(work))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())


def too_dear(guard: Guard) -> Callable[[str], str]:
    """A function with a guard of its own, which 100 credits do not let in."""

    @guard.require_credits(min=120, name="deep_spec")
    def deep_spec(prompt: str) -> str:
        return prompt

    return deep_spec


class Slow:
    """A plain tool, which an agent that awaits runs in a thread; it works until `go_on` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.error = error
        self.wake: Callable[[], Any] = str

    def call(self, prompt: str) -> str:
        """Write a specification."""
        self.begun.set()
        self.wake()
        assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return prompt

    async def has_begun(self) -> None:
        assert await anyio.to_thread.run_sync(self.begun.wait, 20)

    def outlast(self) -> None:
        """Let an hour pass on the running loop's clock once the tool is at work, and not before."""
        loop = asyncio.get_running_loop()
        time = loop.time
        loop.time = lambda: time() + 3600 * self.begun.is_set()  # type: ignore[method-assign]
        self.wake = lambda: loop.call_soon_threadsafe(str)

    async def give_up(self, run: Coroutine[Any, Any, Any]) -> None:
        """Run what calls the tool, and cancel it once the tool is at work."""
        running = asyncio.create_task(run)
        await self.has_begun()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


OUTCOMES = pytest.mark.parametrize(
    ("error", "release_on", "after"),
    [(None, (), 50), (OSError("broke"), (), 50), (OSError("refused"), OSError, 100)],
    ids=["returns", "raises", "raises what frees it"],
)


def works_on(
    clock: HandClock,
    provider: FakeProvider,
    slow: Slow,
    after: int,
    given_up: Callable[[Guard], Coroutine[Any, Any, None]],
) -> None:
    """Check that the 50 credits of `slow` remain held after its caller gave up, until its thread has finished.

    Of 100, `after` are left then. Nothing lingers, so that no refresh hides a hold that ended early.
    """
    guard = Guard(provider, linger=0, lag=0)
    guard.balance()

    async def main() -> None:
        await given_up(guard)
        clock.advance(10)
        assert (await guard.abalance(max_age=0)).credits == 100
        assert guard.available == 50
        if after == 50:
            provider.charge(50)
        slow.go_on.set()

    asyncio.run(main())
    until(lambda: refreshed(clock, guard).available == after)


def refreshed(clock: HandClock, guard: Guard) -> Guard:
    """The guard, some time later: what ended by now, in whichever thread, is seen by a balance."""
    clock.advance(10)
    guard.balance(max_age=0)
    return guard


def out_of_time(clock: HandClock, provider: FakeProvider, call: Callable[[], Any]) -> Any:
    """The result of a call whose balance request hangs until a guard's default time-out."""
    provider.on_fetch = anyio.sleep_forever
    caller = Caller(call)
    under_way(clock, provider, 1)
    clock.advance(10)
    return caller.outcome()


FIVE = [f"part {number}" for number in range(5)]


def three_at_once(provider: FakeProvider) -> Callable[[str], str]:
    """Work that costs 30 credits and finishes once three calls run at the same time."""
    together = threading.Barrier(3)

    def work(prompt: str) -> str:
        provider.charge(30)
        together.wait(20)
        return prompt

    return work


def check_three_of_five(texts: Sequence[str], ran: Sequence[str]) -> None:
    """Check what a model read of five such calls on 100 credits: three ran, two wait for them."""
    refused = [text for text in texts if text.startswith("BUDGET: needs 30 credits, ")]
    assert len(refused) == 2
    assert all("The rest is counted for other calls: wait " in text for text in refused)
    assert sorted(ran) == sorted(set(texts) - set(refused))
    assert len(ran) == 3


async def five_side_by_side(serving: Serving, call: Callable[[str], Awaitable[Any]]) -> list[Any]:
    """The answers to five calls of deep_spec, none of which finishes before two were refused."""
    two_refused = anyio.Event()
    serving.during = two_refused.wait
    answers: list[Any] = []

    async def answer(prompt: str) -> None:
        answers.append(await call(prompt))
        if sum(answer.is_error for answer in answers) == 2:
            two_refused.set()

    async with anyio.create_task_group() as group:
        for prompt in FIVE:
            group.start_soon(answer, prompt)
    return answers


def on_a_loop_of_its_own(run: Callable[[], Any]) -> Any:
    """Run what takes the thread's loop, and leaves it to be closed by whoever set it."""
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())
        return run()
