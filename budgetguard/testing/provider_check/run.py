"""Gives a provider one reply after the other, by itself and through a guard, and notes what it does."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

import httpx

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.amounts import exact
from budgetguard._core.balance import Balance
from budgetguard._core.errors import BudgetGuardError
from budgetguard.guard import Guard
from budgetguard.testing.provider_check import canary
from budgetguard.testing.provider_check.cases import ReplyCase
from budgetguard.testing.provider_check.wire import Wire
from budgetguard.testing.virtual_time import VirtualLoop, guards_on

_PATIENCE: Final = 60
"""Virtual seconds after which a fetch that has not ended is cancelled, and until it has to be over then."""

_LEAST: Final = "0.000001"


@dataclass(frozen=True, slots=True)
class Observation:
    """What a provider did when it was given a case.

    `outcome` is what `fetch` returned or raised, None if it had to be cancelled; `ended` is False if even that
    did not end it. `refusal` is the error of a call that a guard refused, None if it admitted it. `shown` are
    the places where the key could be read.
    """

    case: ReplyCase
    outcome: Balance | BaseException | None
    ended: bool
    refusal: BaseException | None
    followed: bool
    gave_key_away: bool
    read_on: bool
    requests: int
    unknown: str | None
    shown: tuple[str, ...]


def run(
    provider: Any, key: str, example: ReplyCase, cases: Iterable[ReplyCase]
) -> list[Observation]:
    """What `provider` does with each case, beginning with `example`.

    Runs in a thread of its own, because the caller's may have a running event loop. No time passes: the loop's
    clock is moved to whatever is due next.
    """
    seen: list[Observation] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                runner.run(_observe_all(provider, key, example, cases, seen.append))
        except BaseException as error:  # noqa: BLE001  it is raised in the caller's thread
            raised.append(error)

    with _guards_active():
        thread = Thread(target=work, name="budgetguard-check", daemon=True)
        thread.start()
        thread.join()
    if raised:
        raise raised[0]
    return seen


async def _observe_all(
    provider: Any,
    key: str,
    example: ReplyCase,
    cases: Iterable[ReplyCase],
    add: Callable[[Observation], None],
) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    # What a provider leaves behind that cannot be cancelled is reported as a fault, and no more.
    loop.set_exception_handler(lambda _, __: None)
    wire = Wire(example, key)
    async with httpx.AsyncClient(
        transport=wire,
        timeout=None,  # noqa: S113  as with the client of a guard
        follow_redirects=False,
        trust_env=False,
    ) as client:
        with guards_on(loop, client, seed=0), canary.all_logs() as log:
            for case in (example, *cases):
                wire.begin(case)
                client.cookies.clear()
                log.clear()
                add(await _observe(provider, key, case, client, wire, log))


async def _observe(
    provider: Any, key: str, case: ReplyCase, client: httpx.AsyncClient, wire: Wire, log: list[str]
) -> Observation:
    outcome, ended = await _fetch(provider, client)
    asked = len(wire.sent)
    events: list[object] = []
    refusal = await _admit(provider, events.append)
    shown = [*canary.shown_in(refusal, key)] if refusal is not None else []
    shown += ["an event" for event in events if [*canary.shown_by(event, key)]]
    if isinstance(outcome, Balance) and [*canary.shown_by(outcome, key)]:
        shown.append("the balance")
    shown += {f"a log record of {line.partition(':')[0]}" for line in log if key in line}
    return Observation(
        case,
        outcome,
        ended,
        refusal,
        followed=bool(wire.followed),
        gave_key_away=any(each.with_key for each in wire.followed),
        read_on=wire.read_on,
        requests=asked,
        unknown=wire.unknown,
        shown=tuple(dict.fromkeys(shown)),
    )


async def _fetch(
    provider: Any, client: httpx.AsyncClient
) -> tuple[Balance | BaseException | None, bool]:
    async def fetch() -> Any:
        return await provider.fetch(client)

    task = asyncio.create_task(fetch())
    await asyncio.wait({task}, timeout=_PATIENCE)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_PATIENCE)
    if not task.done():
        return None, False
    if task.cancelled():
        return None, True
    return task.exception() or _balance(task.result()), True


def _balance(answer: Any) -> Balance | BaseException:
    """What a guard makes of the result of a fetch."""
    if isinstance(answer, Balance):
        return answer
    try:
        return Balance(credits=exact(answer, "the balance"))
    except (TypeError, ValueError) as error:
        return error


async def _admit(provider: Any, on_event: Callable[[object], None]) -> BaseException | None:
    guard = Guard(_Apart(provider), on_event=on_event)
    try:
        async with guard.require_credits(min=_LEAST, name="check_provider") as hold:
            hold.release()
    except BudgetGuardError as error:
        return error
    finally:
        guard.close()
    return None


class _Apart:
    """The provider without its identity, so that each guard has an account of its own."""

    fingerprint = None

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.fetch = provider.fetch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


@contextmanager
def _guards_active() -> Iterator[None]:
    """Within the block, guards refuse calls, even if the program has switched them off."""
    before = ACTIVATION.save()
    ACTIVATION.read_environment()
    if ACTIVATION.passive or ACTIVATION.observe:
        ACTIVATION.set_active(True)
    try:
        yield
    finally:
        ACTIVATION.restore(before)
