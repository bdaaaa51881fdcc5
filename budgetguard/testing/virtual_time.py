"""An event loop whose time passes only when there is nothing left to do, and guards on it."""

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from random import Random
from threading import get_ident

import httpx

from budgetguard._core.reentrancy import CALL_STATE, Inside
from budgetguard._engine.account_registry import runtime_of
from budgetguard._io.loop import Runtime
from budgetguard.testing.clock import HandClock


class _Selector(selectors.DefaultSelector):
    """Where a loop would wait for its next timer, the clock is turned to it at once."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Ctrl-C and nothing else comes from outside.
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout:
            self._clock.advance(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that goes by a virtual clock."""

    def __init__(self) -> None:
        self.clock = HandClock()
        super().__init__(_Selector(self.clock))

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self.clock.monotonic()


@contextmanager
def guards_on(loop: VirtualLoop, client: httpx.AsyncClient, seed: int) -> Iterator[None]:
    """Within the block, guards that are made run on this loop and ask through this client."""
    runtime = _VirtualRuntime(loop, client, seed)
    with runtime_of(runtime):
        try:
            yield
        finally:
            # From here on a guard starts no refresh, as at exit.
            runtime.stopping = True


class _VirtualRuntime(Runtime):
    """What guards run on: the program's own loop, and its HTTP client."""

    def __init__(self, loop: VirtualLoop, client: httpx.AsyncClient, seed: int) -> None:
        super().__init__(loop.clock)
        self.jitter = Random(seed).uniform  # noqa: S311  a simulation
        # Its alarms would turn the clock on where nothing else does.
        self.pause_watch = None
        self._made["loop"] = loop  # type: ignore[assignment]
        self._runs = True
        self._context.run(CALL_STATE.set, Inside(get_ident()))
        self._client = client

    def client(
        self,
        owner: object,  # noqa: ARG002
        *,
        trust_env: bool,  # noqa: ARG002
    ) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        """The program's own client, for every account."""
        return nullcontext(self._client)
