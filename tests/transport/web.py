"""Both HTTP libraries' clients, plain and awaiting, behind one face."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

from budgetguard import Guard
from budgetguard.transport import AsyncGuardTransport, GuardTransport

AWAITING = [f"{each} on {loop}" for each in ("httpx", "httpx2") for loop in ("asyncio", "trio")]
WAYS = ["httpx", "httpx2", *AWAITING]


class Web:
    """One library's client over a guard's transport; requests are awaited, whichever kind it is."""

    def __init__(self, library: Any, *, awaiting: bool) -> None:
        self.library = library
        self.awaiting = awaiting
        self.client: Any = None
        self.transport: Any = None
        self._stack = AsyncExitStack()

    async def open(
        self,
        guard: Guard,
        *,
        key: str = "",
        timeout: float = 10,  # noqa: ASYNC109  the client's
        **options: Any,
    ) -> None:
        """Make the client; what was open is closed at the end of the test."""
        # For replies alone: a connection on a busy machine may take longer.
        patience = self.library.Timeout(10, read=timeout)
        headers = {"authorization": f"Bearer {key}", "anchor-api-key": key} if key else {}
        if self.awaiting:
            self.transport = AsyncGuardTransport(guard, **options)
            self.client = self.library.AsyncClient(
                transport=self.transport, headers=headers, timeout=patience
            )
            await self._stack.enter_async_context(self.client)
        else:
            self.transport = GuardTransport(guard, **options)
            self.client = self.library.Client(
                transport=self.transport, headers=headers, timeout=patience
            )
            self._stack.enter_context(self.client)

    async def send(self, method: str, url: str, **options: Any) -> Any:
        """One request, its reply read."""
        answer = self.client.request(method, url, **options)
        return await answer if self.awaiting else answer

    async def library_post(self, url: str, **options: Any) -> Any:
        """One request by somebody else, whose client has no guard."""
        async with self.library.AsyncClient() as client:
            return await client.post(url, **options)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, **options: Any
    ) -> AsyncIterator[AsyncIterator[str]]:
        """One request, its reply's lines as they come."""
        if self.awaiting:
            async with (
                self.client.stream(method, url, **options) as response,
                aclosing(response.aiter_lines()) as lines,
            ):
                yield lines
        else:
            with self.client.stream(method, url, **options) as response:
                async with aclosing(_awaited(response.iter_lines())) as lines:
                    yield lines

    async def close(self) -> None:
        """Close the client, and with it the transport."""
        await self._stack.aclose()


async def _awaited(lines: Iterator[str]) -> AsyncIterator[str]:
    for line in lines:
        yield line
