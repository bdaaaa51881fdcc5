"""A signal's handler, or a finalizer, that comes while its own thread changes an account's ledger.

It must not wait: reads are answered from what is known, what can be done later is, and the rest is
a RuntimeError. The account reads the clock under its lock, and there these tests come in.
"""

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from staging import Caller, let_run, queue_up

from budgetguard import Event, Guard, GuardPool, set_default_guard
from budgetguard._core.reentrancy import CHANGING
from budgetguard._engine.binding import binding_of
from budgetguard.defaults import DEFAULT
from budgetguard.testing import FakeProvider, HandClock

PATIENCE = 20.0


class Scene:
    """An account in the middle of a change, and the guard that a handler then uses."""

    def __init__(self, clock: HandClock, whose: str) -> None:
        self.provider = FakeProvider(100)
        self.guard = Guard(self.provider)
        self.changing = self.guard if whose == "its own" else Guard(FakeProvider(1000))
        self.hold = self.guard.acquire(30)
        self.decorated = self.guard.require_credits(min=10)(lambda: "ran")
        self.checked = self.guard.require_credits(min=10, cost=0)(lambda: "ran")
        assert [self.decorated(), self.checked(), self.decorated()] == ["ran"] * 3
        self.pool: GuardPool[str] = GuardPool(lambda _: Guard(FakeProvider(7)))
        self.pooled = self.pool["known"]
        self.changing.balance()
        self._clock = clock
        clock.advance(0)

    def amid(self, handler: Callable[[], object]) -> object:
        """What the handler returns or raises that comes in the middle of a change."""
        outcome: list[object] = []
        now, me = self._clock.now, threading.get_ident()

        def interrupted() -> Any:
            if threading.get_ident() == me and not outcome:
                outcome.append(None)
                try:
                    outcome[0] = handler()
                except BaseException as error:
                    outcome[0] = error
            return now()

        self._clock.now = interrupted  # type: ignore[method-assign]
        try:
            binding_of(self.changing).account.overdue()
        finally:
            self._clock.now = now  # type: ignore[method-assign]
        self._clock.advance(0)
        return outcome[0]


@pytest.fixture(params=["its own", "another"])
def scene(clock: HandClock, request: pytest.FixtureRequest) -> Scene:
    """The change is of the handler's own account, or of another one."""
    return Scene(clock, request.param)


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """Where it hangs after all, say where."""
    import faulthandler

    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def refused(outcome: object, operation: str) -> bool:
    """Whether that is the error of a call that would have had to wait."""
    begins = f"{operation} was called by a signal handler or a finalizer (__del__) that interrupted"
    return type(outcome) is RuntimeError and str(outcome).startswith(begins)


def test_reads_are_answered(scene: Scene) -> None:
    """From what is known."""
    assert scene.amid(lambda: scene.guard.available) == 50
    assert scene.amid(lambda: scene.guard.balance().credits) == 100
    assert scene.amid(lambda: scene.pool["known"]) is scene.pooled
    assert scene.amid(lambda: len(scene.pool)) == 1
    assert scene.provider.requests == 1


@pytest.mark.parametrize(
    ("way", "operation"),
    [
        (lambda scene: scene.guard.acquire(51), "acquire()"),
        (lambda scene: scene.guard.acquire(51, wait=5), "acquire()"),
        (lambda scene: scene.guard.aacquire(51).send(None), "aacquire()"),
        (lambda scene: scene.guard.require_credits(min=51).__enter__(), "this block"),
        (lambda scene: scene.guard.require_credits(min=51)(print)(), "print"),
        (lambda scene: scene.hold.extend(1), "acquire()"),
        (lambda scene: scene.guard.balance(max_age=0), "balance()"),
        (lambda scene: scene.guard.abalance(max_age=0).send(None), "balance()"),
        (lambda scene: scene.pool["unknown"], "A pool's guard"),
        (lambda _: DEFAULT(), "The default guard"),
    ],
)
def test_what_would_wait_is_refused(
    scene: Scene, clock: HandClock, way: Callable[[Scene], object], operation: str
) -> None:
    """With a sentence, and nothing is held for it."""
    set_default_guard(None)
    clock.advance(1)
    assert refused(scene.amid(lambda: way(scene)), operation)
    assert scene.guard.available == 50
    assert scene.guard.acquire(1).amount == 1


def test_the_fast_path_is_refused_too(scene: Scene) -> None:
    """In the middle of a change of its own account, whose ledger may be half changed."""
    own = scene.changing is scene.guard
    name = "Scene.__init__.<locals>.<lambda>"
    outcome = scene.amid(scene.decorated)
    assert refused(outcome, name) if own else outcome == "ran"
    assert scene.amid(scene.checked) == "ran"
    assert scene.decorated() == "ran"
    assert scene.guard.available == (40 if own else 30)


@pytest.mark.parametrize("way", ["settle", "release", "keep"])
def test_ends_are_posted(scene: Scene, way: str) -> None:
    """And taken in by the change that was interrupted, or right after it."""
    assert scene.amid(getattr(scene.hold, way)) is None
    assert scene.hold.state == {"settle": "settled", "release": "released", "keep": "kept"}[way]
    binding_of(scene.guard).account.flush()
    assert binding_of(scene.guard).account.ledger.held == 0


@pytest.mark.parametrize("whose", ["its own", "another"])
def test_a_listener_is_called_outside_every_lock(clock: HandClock, whose: str) -> None:
    """A hold that a handler ends inside a change is reported once the change is over."""
    scene = Scene(clock, whose)
    told: list[tuple[str, bool]] = []

    def listen(event: Event) -> None:
        told.append((event.kind, threading.get_ident() in CHANGING))

    listened = Guard(scene.provider, on_event=listen)
    hold, other = listened.acquire(1), listened.acquire(1)
    told.clear()
    assert scene.amid(hold.settle) is None
    binding_of(listened).account.flush()
    assert told == [("settled", False)]
    refusal = scene.amid(lambda: listened.acquire(1))
    assert refused(refusal, "acquire()")
    assert told == [("settled", False)]
    other.settle()


def test_mark_exhausted_is_posted(scene: Scene) -> None:
    """No call is admitted after it."""
    assert scene.amid(scene.guard.mark_exhausted) is None
    assert scene.guard.available == -50


def test_a_guard_is_made(scene: Scene) -> None:
    """It shares the account, and gets later events."""
    events: list[Event] = []
    made: Any = scene.amid(lambda: Guard(scene.provider, on_event=events.append))
    assert isinstance(made, Guard)
    assert binding_of(made).account is binding_of(scene.guard).account
    assert made in {
        guard
        for guard in [made]
        if binding_of(guard).subscriber in binding_of(scene.guard).account.subscribers
    }
    hold = made.acquire(1)
    assert [event.kind for event in events] == ["admitted"]
    hold.release()


def test_a_guard_is_closed(scene: Scene, clock: HandClock) -> None:
    """And its waiters get an error."""
    caller = queue_up(scene.guard, [lambda: scene.guard.acquire(90, wait=30)])[0]
    assert scene.amid(scene.guard.close) is None
    assert isinstance(caller.outcome(), RuntimeError)
    clock.advance(0)


def test_a_finalizer_does_all_of_it(scene: Scene) -> None:
    """The same by the collector: what a `__del__` does, raising included, ends nothing."""
    told: list[object] = []

    class Session:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            told.append(scene.guard.available)
            scene.guard.mark_exhausted()
            scene.hold.release()
            Guard(scene.provider).close()
            try:
                scene.guard.acquire(60)
            except RuntimeError as error:
                told.append(type(error))

    gc.disable()  # or it may be collected before the change
    try:
        Session()
        scene.amid(gc.collect)
    finally:
        gc.enable()
    assert told == [50, RuntimeError]
    assert binding_of(scene.guard).account.ledger.held == 0


def test_two_threads_that_are_interrupted_do_not_wait_for_each_other(clock: HandClock) -> None:
    """Each in the middle of one account, its handler at the other's."""
    guards = [Guard(FakeProvider(100)), Guard(FakeProvider(100))]
    holds = [guard.acquire(30) for guard in guards]
    both = threading.Barrier(2)
    now, once = clock.now, {"first", "second"}

    def interrupted() -> Any:
        name = threading.current_thread().name
        if name in once:
            once.remove(name)
            both.wait(PATIENCE)
            number = 0 if name == "first" else 1
            holds[1 - number].release()
            guards[1 - number].mark_exhausted()
            assert guards[1 - number].available is not None
        return now()

    clock.now = interrupted  # type: ignore[method-assign]
    threads = [
        threading.Thread(target=binding_of(guard).account.overdue, name=name)
        for guard, name in zip(guards, ["first", "second"], strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    clock.now = now  # type: ignore[method-assign]
    clock.advance(0)
    assert [binding_of(guard).account.ledger.held for guard in guards] == [0, 0]


def test_a_handler_that_wakes_its_own_thread(clock: HandClock) -> None:
    """The thread waits for credits; its handler gives them back, at any moment of that wait."""
    guard = Guard(FakeProvider(100))
    hold = guard.acquire(60)

    class Interrupted:
        """A decider whose waiter is interrupted right before it blocks."""

        overdue, abandon = binding_of(guard).account.overdue, binding_of(guard).account.abandon

        def monotonic(self) -> float:
            if hold.state == "open":
                hold.release()
            return binding_of(guard).account.monotonic()

    _, waiter = guard.require_credits(min=60, wait=30).spec.begin("it")
    assert not waiter.done
    waiter.wait(Interrupted())
    waiter.check()
    clock.advance(0)


class TestWhatAListenerStarts:
    """The mark that forbids guarded calls inside the library does not follow into what goes on."""

    @pytest.mark.parametrize("kind", ["admitted", "settled"])
    def test_a_task(self, clock: HandClock, kind: str) -> None:
        """On the caller's own thread and loop, with a copy of its context."""
        outcomes: list[object] = []

        async def work() -> None:
            with quiet.require_credits(min=5):
                outcomes.append(await decorated())

        def on_event(event: Event) -> None:
            if event.kind == kind:
                tasks.append(asyncio.get_running_loop().create_task(work()))

        guard, quiet = Guard(FakeProvider(100), on_event=on_event), Guard(FakeProvider(100))
        tasks: list[asyncio.Task[None]] = []

        @quiet.require_credits(min=1)
        async def decorated() -> str:
            return "ran"

        async def main() -> None:
            guard.balance()
            await decorated()
            (await guard.aacquire(10)).settle(5)
            await let_run()
            await asyncio.gather(*tasks)

        asyncio.run(main())
        assert outcomes == ["ran"]
        clock.advance(0)

    def test_a_thread(self, clock: HandClock) -> None:
        """That runs in a copy of the listener's context, and goes on beside it."""
        outcomes: list[object] = []
        quiet = Guard(FakeProvider(100))

        def on_event(event: Event) -> None:
            if event.kind == "released":
                context = contextvars.copy_context()
                caller = Caller(lambda: context.run(lambda: quiet.acquire(1).amount))
                outcomes.append(caller.outcome())

        guard = Guard(FakeProvider(100), on_event=on_event)
        guard.balance()
        quiet.balance()
        guard.acquire(10).release()
        assert outcomes == [1]
        clock.advance(0)

    @pytest.mark.parametrize("kind", ["fetch", "coroutine"])
    def test_a_thread_of_a_provider(self, clock: HandClock, kind: str) -> None:
        """As `anyio.to_thread` starts one, with a copy of the context."""
        quiet = Guard(FakeProvider(50))
        provider = FakeProvider(100)

        async def ask() -> int:
            await anyio.to_thread.run_sync(
                contextvars.copy_context().run, lambda: quiet.acquire(1).amount
            )
            return 100

        async def fetch() -> None:
            await ask()

        provider.on_fetch = fetch
        quiet.balance()
        guard = Guard(provider if kind == "fetch" else ask)
        assert guard.balance().credits == 100
        clock.advance(0)

    def test_a_task_of_a_provider_stays_inside(self, clock: HandClock) -> None:
        """It runs on the private loop, which a guarded call would keep waiting for itself."""
        outcomes: list[object] = []
        quiet = Guard(FakeProvider(50))

        async def work() -> None:
            try:
                quiet.acquire(1)
            except RuntimeError as error:
                outcomes.append(error)

        async def fetch() -> None:
            await asyncio.create_task(work())

        provider = FakeProvider(100)
        provider.on_fetch = fetch
        Guard(provider).balance()
        assert "inside budgetguard" in str(outcomes[0])
        clock.advance(0)


WAITS: dict[str, Callable[[Guard], object]] = {
    "balance": lambda guard: guard.balance(),
    "acquire": lambda guard: guard.acquire(1),
    "decorated": lambda guard: guard.require_credits(min=1)(lambda: None)(),
    "block": lambda guard: guard.require_credits(min=1).__enter__(),
}


@pytest.mark.parametrize("way", WAITS)
def test_right_before_a_refresh_is_launched(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that would wait for the refresh that its own thread is about to launch gets an error."""
    guard = Guard(FakeProvider(100), timeout=0.5)
    runtime = binding_of(guard).account.runtime
    submit, outcomes = runtime.submit, list[object]()

    def interrupted(work: Any) -> None:
        if not outcomes:
            outcomes.append(None)
            try:
                outcomes[0] = WAITS[way](guard)
            except BaseException as error:
                outcomes[0] = error
        submit(work)

    monkeypatch.setattr(runtime, "submit", interrupted)
    assert guard.balance().credits == 100
    assert isinstance(outcomes[0], RuntimeError)
    assert "signal handler" in str(outcomes[0])
    assert guard.available == 100
