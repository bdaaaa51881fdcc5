"""A sequence of requests written once, and run by sync or async code.

A sequence is a generator: it yields a request, or a pause, and is sent the answer or thrown the error. In
sync code, an interruption (Ctrl-C) becomes an error of the current request only, so that the end of a
session is not left half-way; a cancellation does not even interrupt the request. Both are raised again
once the sequence is over.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, wait
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Generic, TypeAlias, TypeVar

import anyio

from budgetguard._core.clock import SYSTEM, Clock
from budgetguard._core.durations import seconds
from budgetguard._engine.waiters import SIGNAL_CHECK

T = TypeVar("T")

# Sync code waits this much longer, so that the client's own time-out, which says more, comes first.
_GRACE = 0.25


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, whose answer may take at most `within` seconds."""

    request: Callable[..., Any]
    within: float

    def send(self) -> Any:
        """Send the request; returns the answer, or an awaitable of it."""
        return self.request(timeout=self.within)

    def answer(self) -> Any:
        """The answer, for sync code; raises TimeoutError if it is not complete in time.

        It is read on a thread of its own, because httpx's time-outs restart with every byte; if an answer
        keeps dripping, that thread is abandoned to it.
        """
        answer: Future[Any] = Future()
        reading = partial(copy_context().run, _read, self, answer)
        try:
            Thread(target=reading, name="budgetguard request", daemon=True).start()
        except RuntimeError:  # no more threads are available, or the interpreter is exiting
            return self.send()
        left = self.within + _GRACE
        try:
            # Not by a clock, which a test may have frozen. In parts: see `budgetguard._engine.waiters`.
            while left > 0:
                if wait([answer], min(left, SIGNAL_CHECK)).done:
                    return answer.result()
                left -= SIGNAL_CHECK
        finally:
            del answer  # its error's traceback holds this frame
        raise TimeoutError(self._late())

    async def aanswer(self) -> Any:
        """`answer`, for async code."""
        with anyio.move_on_after(self.within):
            return await self.send()
        raise TimeoutError(self._late())

    def _late(self) -> str:
        return f"no complete answer came within {self.within:g} s"


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of so many seconds."""

    seconds: float


Step: TypeAlias = Ask | Pause
RequestSteps: TypeAlias = Generator[Step, Any, T]


class Interrupted(Exception):
    """The request was interrupted: whether it was carried out is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a deletion is tried: `tries` times, within `within` seconds in total.

    Each answer may take at most `each` seconds, however slowly it arrives. The first pause between two tries
    is `first_pause` seconds, and each further pause is twice as long. `sleep` and `asleep` carry out the
    pauses, and `clock` measures the time. Raises TypeError or ValueError for invalid values.
    """

    tries: int = 5
    within: float = 30.0
    each: float = 10.0
    first_pause: float = 0.5
    sleep: Callable[[float], object] = time.sleep
    asleep: Callable[[float], Awaitable[object]] = anyio.sleep
    clock: Clock = SYSTEM

    def __post_init__(self) -> None:
        """Reject invalid values."""
        if isinstance(self.tries, bool) or not isinstance(self.tries, int):
            msg = f"tries takes an int, not {type(self.tries).__name__}"
            raise TypeError(msg)
        if self.tries < 1:
            msg = f"tries must be at least 1, not {self.tries}"
            raise ValueError(msg)
        seconds(self.within, "within", positive=True)
        seconds(self.each, "each", positive=True)
        seconds(self.first_pause, "first_pause")


def checked_patience(given: Patience | None) -> Patience:
    """The given value, or the default; raises TypeError if it is not a Patience."""
    if given is None:
        return Patience()
    if not isinstance(given, Patience):
        msg = f"patience takes a Patience, not {type(given).__name__}: Patience(tries=5) makes one"
        raise TypeError(msg)
    return given


class Tries:
    """The tries of one deletion: iteration yields the pause before each, until none is left."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._until = patience.clock.monotonic() + patience.within

    def __iter__(self) -> Iterator[Pause]:
        yield Pause(0)
        for number in range(self._patience.tries - 1):
            pause = self._patience.first_pause * 2**number
            if pause >= self._left():
                return
            yield Pause(pause)

    def ask(self, request: Callable[..., Any], *args: Any, **kwargs: Any) -> Ask:
        """A request limited to the time that is left; raises TimeoutError if none is left."""
        left = self._left()
        if left <= 0:
            msg = f"the {self._patience.within:g} s of patience.within are over"
            raise TimeoutError(msg)
        return Ask(partial(request, *args, **kwargs), min(left, self._patience.each))

    def _left(self) -> float:
        return self._until - self._patience.clock.monotonic()


def run(sequence: RequestSteps[T], patience: Patience) -> T:
    """Run a sequence. The first Ctrl-C or exit is deferred to its end; a second one ends it at once."""
    progress = _Progress(sequence)
    while (step := progress.step()) is not None:
        try:
            answer = patience.sleep(step.seconds) if isinstance(step, Pause) else step.answer()
        except BaseException as error:  # noqa: BLE001  raised again by `failed`, or at the end
            progress.failed(error)
        else:
            progress.answered(answer)
    return progress.value


async def arun(sequence: RequestSteps[T], patience: Patience) -> T:
    """Run a sequence in async code: cancellations are deferred to its end, and so is the first Ctrl-C."""
    progress = _Progress(sequence, anyio.get_cancelled_exc_class())
    # This shields from anyio's and trio's cancellation, but not from asyncio's `task.cancel()`.
    with anyio.CancelScope(shield=True):
        while (step := progress.step()) is not None:
            try:
                if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
                    answer = await _apart(_take(step, patience), progress)
                else:
                    answer = await _take(step, patience)
            except BaseException as error:  # noqa: BLE001  as above
                progress.failed(error)
            else:
                progress.answered(answer)
    return progress.value


def _read(ask: Ask, answer: "Future[Any]") -> None:
    try:
        answer.set_result(ask.send())
    except BaseException as error:  # noqa: BLE001  raised in the thread that waits for it
        answer.set_exception(error)
    finally:
        del answer  # as above


async def _take(step: Step, patience: Patience) -> Any:
    if isinstance(step, Pause):
        return await patience.asleep(step.seconds)
    return await step.aanswer()


async def _apart(taken: Coroutine[Any, Any, Any], progress: "_Progress[Any]") -> Any:
    """Run a step in a task of its own, which a cancellation of the current task does not reach."""
    task = asyncio.ensure_future(taken)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():  # the loop is shutting down and cancels all tasks
                raise
            progress.put_off(error)


class _Progress(Generic[T]):
    """The state of a sequence, and what interrupted it; `cancelled` may do so any number of times."""

    def __init__(
        self, sequence: RequestSteps[T], cancelled: type[BaseException] | tuple[()] = ()
    ) -> None:
        self._sequence = sequence
        self._cancelled = cancelled
        self._interrupt: BaseException | None = None
        self._resume = partial(sequence.send, None)

    def step(self) -> Step | None:
        """The next step; None once the sequence is over, with its result in `value`."""
        try:
            return self._resume()
        except StopIteration as done:
            if self._interrupt is None:
                self.value: T = done.value
                return None
        except Exception:
            if self._interrupt is None:
                raise
        raise self._interrupt

    def answered(self, answer: Any) -> None:
        self._resume = partial(self._sequence.send, answer)

    def put_off(self, interrupt: BaseException) -> None:
        """Raise this once the sequence is over; raise it now if it is not the first."""
        again = self._interrupt is not None and not isinstance(interrupt, self._cancelled)
        # A coroutine that is closed must not await again.
        if again or isinstance(interrupt, GeneratorExit):
            self._sequence.close()
            raise interrupt
        self._interrupt = interrupt

    def failed(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self.put_off(error)
            error = Interrupted(type(error).__name__)
        self._resume = partial(self._sequence.throw, error)
