"""The way of a message from the private loop to a store's thread, and of the answer back."""

import asyncio
import contextlib

from budgetguard._core.clock import SYSTEM
from budgetguard._core.store_messages import Message, Reply
from budgetguard.stores import _store_errors as words
from budgetguard.stores._transactions import StoreAnswer, StoreLetter
from budgetguard.stores._worker import StoreListener, StoreWorker
from budgetguard.stores.base import StoreUnavailable

# The thread gives up a little earlier than the loop, because it knows why.
_SHARE = 0.9


class LoopDelivery:
    """A message whose answer a coroutine awaits, unless it has given up."""

    def __init__(self, listener: StoreListener, message: Message, timeout: float) -> None:
        self.letter = StoreLetter(listener.account, message)
        self.listener = listener
        self.timeout = timeout
        self.sent = SYSTEM.monotonic()
        self.deadline = self.sent + timeout * _SHARE
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[StoreAnswer] = self._loop.create_future()

    def finish(self, answer: StoreAnswer) -> None:
        """Take the answer; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._set, answer)

    async def answer(self, path: str) -> StoreAnswer:
        """The answer, or that there is none in time."""
        try:
            while not self._answer.done():
                left = self.sent + self.timeout - SYSTEM.monotonic()
                if left <= 0:
                    return StoreUnavailable(words.silent(path, self.timeout))
                # The loop may have a test's clock, while the disk has none: so the time is read again.
                await asyncio.wait([self._answer], timeout=left)
            return self._answer.result()
        finally:
            # If it has not begun yet, it need not begin.
            self.deadline = float("-inf")

    def _set(self, answer: StoreAnswer) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)


async def exchange(
    worker: StoreWorker, listener: StoreListener, message: Message, within: float
) -> Reply:
    """Have a message answered within so many seconds; raises StoreUnavailable."""
    delivery = LoopDelivery(listener, message, within)
    worker.send(delivery)
    answer = await delivery.answer(worker.path)
    if isinstance(answer, StoreUnavailable):
        # Each waiter has an exception of its own.
        raise StoreUnavailable(answer.reason) from answer.__cause__
    return answer
