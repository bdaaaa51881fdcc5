"""A course of requests written once, carried out by plain code or by code that awaits.

A course is a generator: it yields what is to be asked, or how long to wait, and is sent the answer or
thrown the failure. What interrupts plain code (Ctrl-C) becomes a failure of that one request, so that
a session's end is not left half-way; a cancellation does not even end that. Both are raised again
once the course is over.
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

from budgetguard.clock import SYSTEM, Clock
from budgetguard.durations import seconds
from budgetguard.waiting import HEARS_AFTER

T = TypeVar("T")

# So much longer than `within` plain code waits: the client's own time-out, which says more, is first.
_GRACE = 0.25


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; its answer is waited for no longer than `within` seconds."""

    request: Callable[..., Any]
    within: float

    def send(self) -> Any:
        """Make the request, or what has to be awaited for it."""
        return self.request(timeout=self.within)

    def answer(self) -> Any:
        """The answer, for plain code; raises TimeoutError where it is not whole in time.

        It is read on a thread of its own, because httpx's time-outs count anew with every byte; one
        that drips on is left to that.
        """
        answer: Future[Any] = Future()
        reading = partial(copy_context().run, _read, self, answer)
        try:
            Thread(target=reading, name="budgetguard request", daemon=True).start()
        except RuntimeError:  # there are no more threads, or the interpreter is ending
            return self.send()
        left = self.within + _GRACE
        try:
            # Not by a clock, which somebody may have stopped. In parts: see `budgetguard.waiting`.
            while left > 0:
                if wait([answer], min(left, HEARS_AFTER)).done:
                    return answer.result()
                left -= HEARS_AFTER
        finally:
            del answer  # its error's traceback holds this frame
        raise TimeoutError(self._late())

    async def aanswer(self) -> Any:
        """`answer`, for code that awaits."""
        with anyio.move_on_after(self.within):
            return await self.send()
        raise TimeoutError(self._late())

    def _late(self) -> str:
        return f"the answer was not there within {self.within:g} s"


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds to let pass."""

    seconds: float


Step: TypeAlias = Ask | Pause
Course: TypeAlias = Generator[Step, Any, T]


class Interrupted(Exception):
    """The request was given up half-way: whether it was carried out is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How hard a deletion is tried: `tries` times, within so many seconds altogether.

    No answer is waited for longer than `each` seconds, however slowly it drips. The first pause is
    `first_pause` seconds, each further one twice as long. `sleep` and `asleep` pass the pauses, `clock`
    measures them. Raises TypeError or ValueError for figures that cannot be.
    """

    tries: int = 5
    within: float = 30.0
    each: float = 10.0
    first_pause: float = 0.5
    sleep: Callable[[float], object] = time.sleep
    asleep: Callable[[float], Awaitable[object]] = anyio.sleep
    clock: Clock = SYSTEM

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
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
    """What was given, or the default; raises TypeError for what is no Patience."""
    if given is None:
        return Patience()
    if not isinstance(given, Patience):
        msg = f"patience takes a Patience, not {type(given).__name__}: Patience(tries=5) makes one"
        raise TypeError(msg)
    return given


class Tries:
    """The tries of one deletion: iterating gives the pause before each, until none is left."""

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
        """A request that has what is left of the time; raises TimeoutError where nothing is."""
        left = self._left()
        if left <= 0:
            msg = f"{self._patience.within:g} s have passed"
            raise TimeoutError(msg)
        return Ask(partial(request, *args, **kwargs), min(left, self._patience.each))

    def _left(self) -> float:
        return self._until - self._patience.clock.monotonic()


def run(course: Course[T], patience: Patience) -> T:
    """Carry a course out. The first Ctrl-C or exit is put off to its end, the second ends it at once."""
    progress = _Progress(course)
    while (step := progress.step()) is not None:
        try:
            answer = patience.sleep(step.seconds) if isinstance(step, Pause) else step.answer()
        except BaseException as error:  # noqa: BLE001  raised again by `failed`, or after the course
            progress.failed(error)
        else:
            progress.answered(answer)
    return progress.value


async def arun(course: Course[T], patience: Patience) -> T:
    """Carry a course out, awaiting: cancellations are put off to its end, as is the first Ctrl-C."""
    progress = _Progress(course, anyio.get_cancelled_exc_class())
    # This keeps anyio's and trio's cancellation away, not what asyncio's `task.cancel()` throws in.
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
    except BaseException as error:  # noqa: BLE001  raised where it is waited for
        answer.set_exception(error)
    finally:
        del answer  # as above


async def _take(step: Step, patience: Patience) -> Any:
    if isinstance(step, Pause):
        return await patience.asleep(step.seconds)
    return await step.aanswer()


async def _apart(taken: Coroutine[Any, Any, Any], progress: "_Progress[Any]") -> Any:
    """Take a step in a task of its own, which a cancellation of this one does not reach."""
    task = asyncio.ensure_future(taken)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():  # the loop is shut down: all tasks are
                raise
            progress.put_off(error)


class _Progress(Generic[T]):
    """How far a course has come, and what interrupted it; `cancelled` may do so any number of times."""

    def __init__(self, course: Course[T], cancelled: type[BaseException] | tuple[()] = ()) -> None:
        self._course = course
        self._cancelled = cancelled
        self._interrupt: BaseException | None = None
        self._resume = partial(course.send, None)

    def step(self) -> Step | None:
        """What to do next; None once the course is over, and `value` what it came to."""
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
        self._resume = partial(self._course.send, answer)

    def put_off(self, interrupt: BaseException) -> None:
        """Raise this once the course is over, and raise it now if it is not the first."""
        again = self._interrupt is not None and not isinstance(interrupt, self._cancelled)
        # A coroutine that is closed must not await again.
        if again or isinstance(interrupt, GeneratorExit):
            self._course.close()
            raise interrupt
        self._interrupt = interrupt

    def failed(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self.put_off(error)
            error = Interrupted(type(error).__name__)
        self._resume = partial(self._course.throw, error)
