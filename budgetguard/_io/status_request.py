"""One request about submitted work, within a deadline: its result, or why there is none."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from budgetguard._core.errors import BalanceUnavailable

if TYPE_CHECKING:
    from budgetguard._io.loop import Runtime

T = TypeVar("T")

DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Missed:
    """A request without a valid reply; `reason` never contains a key."""

    reason: str
    retry_after: float | None = None


async def ask_once(
    runtime: "Runtime", owner: object, request: Callable[[Any], Awaitable[T]], *, trust_env: bool
) -> T | Missed:
    """The result of `request`, which is given an HTTP client; any exception is a miss, as is 10 s without one."""
    with anyio.move_on_after(DEADLINE):
        try:
            async with runtime.client(owner, trust_env=trust_env) as client:
                return await request(client)
        except BalanceUnavailable as error:
            return Missed(error.reason, error.retry_after)
        except Exception as error:  # noqa: BLE001  its text may contain anything
            return Missed(f"the request raised {type(error).__name__}")
    return Missed(f"no answer within {DEADLINE:g} s")
