"""A paused account admits nothing, whoever pauses it, until the last of them resumes it."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from staging import let_run, queue_up, under_way, waiting

from budgetguard import (
    Event,
    Guard,
    GuardPool,
    InsufficientCredits,
    Paused,
    learned,
    set_active,
)
from budgetguard._core.pause import note_name
from budgetguard._engine.account import Account
from budgetguard._io import pause_file
from budgetguard.testing import FakeProvider, HandClock

WHY = "the key may have leaked"


class Files:
    """The directory for pauses, as `budgetguard pause` and others leave it."""

    def __init__(self, here: Path) -> None:
        self.here = here

    def pause(self, provider: FakeProvider, reason: str = WHY) -> None:
        """Do what the command does."""
        pause_file.write(provider.fingerprint, reason)

    def resume(self, provider: FakeProvider) -> None:
        """Do what the other command does."""
        assert pause_file.remove(provider.fingerprint)

    def of(self, provider: FakeProvider) -> Path:
        """The file of that account."""
        return self.here / note_name(provider.fingerprint)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A directory of the test's own, which is not there yet."""
    monkeypatch.setenv("BUDGETGUARD_PAUSE_DIR", str(tmp_path / "pauses"))
    return Files(tmp_path / "pauses")


@pytest.fixture
def provider() -> FakeProvider:
    """An account with 100 credits, and 5 slots."""
    return FakeProvider(100, max_concurrency=5)


@pytest.fixture
def guard(clock: HandClock, files: Files, provider: FakeProvider) -> Guard:
    """A guard with a balance."""
    del clock, files
    guard = Guard(provider)
    guard.balance()
    return guard


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with each call that leaves the fast path."""
    seen: list[None] = []
    ask = Account.ask

    def noted(self: Account, *args: Any) -> Any:
        seen.append(None)
        return ask(self, *args)

    monkeypatch.setattr(Account, "ask", noted)
    return seen


def refused(call: Callable[[], object]) -> Paused:
    """The error of a call that is refused because of a pause."""
    with pytest.raises(Paused) as caught:
        call()
    return caught.value


def test_a_paused_account_refuses_with_the_reason(guard: Guard) -> None:
    """The error says who paused it and why, and how it goes on."""
    guard.pause(WHY)
    error = refused(lambda: guard.acquire(1))
    assert (error.provider, error.reason, error.by) == ("fake", WHY, "guard")
    assert (error.status_code, error.retryable, error.retry_after) == (503, True, None)
    assert str(error) == (
        "The account at fake is paused by guard.pause(): the key may have leaked. "
        "No call is admitted until guard.resume() is called."
    )
    guard.resume()
    assert guard.acquire(1).state == "open"


@pytest.mark.parametrize(
    "need",
    [
        {"min": 1},
        {"min": 50, "cost": 0},
        {"cost": 0},
        {"slots": 1},
        {"cost": learned(5), "actual": lambda _: 1},
    ],
    ids=["credits", "a check", "nothing", "slots", "learned"],
)
def test_whatever_a_call_needs(guard: Guard, provider: FakeProvider, need: dict[str, Any]) -> None:
    """Also where nothing would be spent; no balance is requested for it."""
    work = guard.require_credits(**need)(lambda: "ran")
    assert work() == "ran"
    before = provider.requests
    guard.pause()
    refused(work)
    refused(work)
    assert provider.requests == before
    guard.resume()
    assert work() == "ran"


@pytest.mark.parametrize("need", [{"min": 1}, {"min": 1, "cost": 0}], ids=["credits", "a check"])
def test_the_fast_path_is_closed_and_opened_again(
    guard: Guard, slow: list[None], need: dict[str, Any]
) -> None:
    """A decorated function and a block, which both had found it."""
    work = guard.require_credits(**need)(lambda: "ran")
    block = guard.require_credits(**need)
    for _ in range(2):
        work()
        with block:
            pass
    slow.clear()
    work()
    with block:
        pass
    assert slow == []
    guard.pause()
    refused(work)
    refused(block.__enter__)
    guard.resume()
    slow.clear()
    work()
    with block:
        pass
    assert slow == []


def test_all_guards_of_the_account_in_this_process(guard: Guard, provider: FakeProvider) -> None:
    """Pausing one pauses the other, which may resume both; another account goes on."""
    twin, other = Guard(provider), Guard(FakeProvider(100))
    twin.pause(WHY)
    refused(lambda: guard.acquire(1))
    refused(lambda: Guard(provider).acquire(1))
    other.acquire(1).release()
    guard.resume()
    twin.acquire(1).release()


def test_before_there_is_a_balance(files: Files, clock: HandClock, provider: FakeProvider) -> None:
    """Nothing is requested, and what is unknown does not matter."""
    del files, clock
    guard = Guard(provider, if_unknown="allow")
    guard.pause()
    refused(lambda: guard.acquire(1))
    assert provider.requests == 0
    assert guard.balance().credits == 100


def test_who_waits_for_a_refresh_is_refused_at_once(
    files: Files, clock: HandClock, provider: FakeProvider
) -> None:
    """The refresh goes on without it."""
    del files
    provider.on_fetch = anyio.sleep_forever
    guard = Guard(provider)
    (caller,) = queue_up(guard, [lambda: guard.acquire(1)])
    under_way(clock, provider, 1)
    guard.pause(WHY)
    assert isinstance(caller.outcome(), Paused)


def test_running_calls_go_on(guard: Guard) -> None:
    """They are charged, settled and released as always; more is not held for them."""
    first, second = guard.acquire(30), guard.acquire(20)
    guard.pause()
    first.charged(5)
    error = refused(lambda: first.extend(1))
    assert error.by == "guard"
    first.settle(10)
    second.release()
    assert guard.available == 90
    guard.resume()


def test_a_refused_extension_starts_no_refresh(
    guard: Guard, clock: HandClock, provider: FakeProvider
) -> None:
    """It would tell nothing."""
    hold = guard.acquire(10)
    guard.pause()
    refused(lambda: hold.extend(1))
    clock.advance(10)
    assert provider.requests == 1
    guard.resume()
    hold.extend(1)
    assert hold.amount == 11


def test_a_learned_hold_grows_while_paused(guard: Guard) -> None:
    """It is no admission, and what is running is expected to cost as much as before."""
    for _ in range(20):
        guard.acquire(cost=learned(5), name="spec").settle(4)
    hold = guard.acquire(cost=learned(5), name="spec")
    before = hold.amount
    guard.pause()
    hold.charged(before)
    assert guard.available is not None
    assert hold.amount > before
    hold.settle(before)


def test_callers_that_wait_are_admitted_in_order_when_it_is_resumed(guard: Guard) -> None:
    """A pause blocks nobody's place: they wait for no refresh, and are then decided as usual."""
    guard.pause()
    callers = queue_up(
        guard, [lambda amount=amount: guard.acquire(amount, wait=30) for amount in (60, 30, 20)]
    )
    guard.resume()
    assert [callers[number].outcome().amount for number in (0, 1)] == [60, 30]
    assert waiting(guard) == 1
    callers[0].outcome().release()
    assert callers[2].outcome().amount == 20


def test_a_wait_runs_out(guard: Guard, clock: HandClock, provider: FakeProvider) -> None:
    """Then the caller is refused because of the pause, not for lack of credits; nothing was requested."""
    guard.pause(WHY)
    one, other = queue_up(
        guard, [lambda: guard.acquire(1, wait=3), lambda: guard.acquire(1000, wait=4)]
    )
    clock.advance(3)
    assert one.outcome().reason == WHY
    clock.advance(1)
    assert other.outcome().reason == WHY
    assert provider.requests == 1


def test_who_would_never_fit_is_told_so_after_the_pause(guard: Guard, clock: HandClock) -> None:
    """By one refresh, as usual, and not when its wait is over."""
    guard.pause()
    (caller,) = queue_up(guard, [lambda: guard.acquire(1000, wait=300)])
    guard.resume()
    clock.advance(5)
    assert isinstance(caller.outcome(), InsufficientCredits)


def test_waiters_for_credits_stay_when_what_they_need_comes_free(guard: Guard) -> None:
    """A call that ends admits nobody while the account is paused."""
    running = guard.acquire(100)
    (caller,) = queue_up(guard, [lambda: guard.acquire(40, wait=30)])
    guard.pause()
    running.release()
    assert (waiting(guard), guard.available) == (1, 100)
    guard.resume()
    assert caller.outcome().amount == 40


@pytest.mark.anyio
async def test_tasks_wait_for_the_end_of_a_pause(guard: Guard) -> None:
    """On asyncio and trio, in order, until it is resumed."""
    admitted: list[int] = []
    guard.pause()

    async def call(number: int) -> None:
        async with guard.require_credits(min=100, wait=30) as hold:
            admitted.append(number)
            hold.settle(0)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(call, number)
            await let_run()
        assert (waiting(guard), admitted) == (5, [])
        guard.resume()
    assert admitted == [0, 1, 2, 3, 4]


@pytest.mark.anyio
async def test_a_cancelled_task_waits_no_more(guard: Guard) -> None:
    """And is not admitted afterwards."""
    guard.pause()
    with anyio.move_on_after(0):
        await guard.aacquire(1, wait=30)
    guard.resume()
    assert (waiting(guard), guard.available) == (0, 100)


def test_observing_never_refuses(
    files: Files, clock: HandClock, provider: FakeProvider, slow: list[None]
) -> None:
    """It says what enforcing would have done, at once, also for a call with `wait`."""
    del files, clock
    events: list[Event] = []
    guard = Guard(provider, mode="observe", on_event=events.append)
    guard.balance()
    guard.pause(WHY)
    events.clear()
    for wait in (0, 30):
        guard.acquire(1, wait=wait).release()
    assert [(event.kind, event.enforced) for event in events] == [
        ("refused", False),
        ("released", True),
    ] * 2
    assert len(slow) == 2


def test_switched_off_a_pause_has_no_effect(guard: Guard) -> None:
    """Until guards are on again."""
    guard.pause()
    set_active(False)
    assert guard.acquire(1).state == "open"
    set_active(True)
    refused(lambda: guard.acquire(1))


def test_listeners_hear_of_it_once(clock: HandClock, files: Files, provider: FakeProvider) -> None:
    """When the first pauses the account, and when the last resumes it."""
    events: list[Event] = []
    guard = Guard(provider, on_event=events.append)
    guard.balance()
    events.clear()
    guard.resume()
    guard.pause(WHY)
    guard.pause("for another reason")
    files.pause(provider, "by the command")
    clock.advance(0.5)
    guard.resume()
    assert refused(lambda: guard.acquire(1)).by == "command"
    files.resume(provider)
    clock.advance(0.5)
    assert [(event.kind, event.reason, event.operation) for event in events] == [
        ("paused", WHY, None),
        ("refused", None, "acquire()"),
        ("resumed", "by the command", None),
    ]


@pytest.mark.parametrize("reason", ["", " . ", "x" * 201, None, b"why"])
def test_wrong_reasons(guard: Guard, reason: Any) -> None:
    """The message names the type or the length, never the text."""
    with pytest.raises((TypeError, ValueError), match=r"reason takes") as caught:
        guard.pause(reason)
    assert "xx" not in str(caught.value)
    guard.acquire(1).release()


def test_a_reason_is_one_line(guard: Guard) -> None:
    """It is printed in terminals and logs, which nothing in it can steer."""
    guard.pause("  first\nsecond \x1b[2Jthird. ")
    assert refused(lambda: guard.acquire(1)).reason == "first second [2Jthird"


def test_a_paused_guard_is_not_forgotten(files: Files, clock: HandClock) -> None:
    """Whatever else is dropped: neither from a pool, nor with its account's last guard."""
    del files, clock
    pool = GuardPool(lambda _: Guard(FakeProvider(100)), maxsize=1)
    pool["a"].pause(WHY)
    providers = [FakeProvider(100) for _ in range(200)]
    for provider in providers:
        Guard(provider).pause(WHY)
    gc.collect()
    assert pool["b"] is not pool["a"]
    refused(lambda: pool["a"].acquire(1))
    for provider in providers:
        refused(lambda provider=provider: Guard(provider).acquire(1))  # type: ignore[misc]


# The file of `budgetguard pause`.


def test_a_file_pauses_within_a_second(
    guard: Guard, clock: HandClock, files: Files, provider: FakeProvider, slow: list[None]
) -> None:
    """And no call looks for it: the private loop does, twice a second. So it ends, too."""
    work = guard.require_credits(min=1)(lambda: "ran")
    for _ in range(3):
        work()
        clock.advance(0.5)
    slow.clear()
    work()
    assert slow == []
    files.pause(provider)
    clock.advance(0.5)
    error = refused(work)
    assert (error.reason, error.by) == (WHY, "command")
    assert str(error) == (
        "The account at fake is paused by `budgetguard pause` on this machine: the key may have leaked. "
        "No call is admitted until `budgetguard resume` is run."
    )
    files.pause(provider, "another reason")
    clock.advance(0.5)
    assert refused(work).reason == "another reason"
    files.resume(provider)
    clock.advance(0.5)
    slow.clear()
    work()
    assert slow == []


def test_a_process_that_starts_while_paused_admits_nothing(
    clock: HandClock, files: Files, provider: FakeProvider
) -> None:
    """The file is looked for before the first balance is there to decide on."""
    del clock
    files.pause(provider)
    guard = Guard(provider)
    assert refused(lambda: guard.acquire(1)).reason == WHY
    assert refused(lambda: guard.acquire(0, cost=0)).reason == WHY


def test_a_process_that_starts_while_paused_and_knows_no_balance(
    clock: HandClock, files: Files, provider: FakeProvider
) -> None:
    """What is unknown is allowed, but what is paused is not."""
    del clock
    files.pause(provider)
    provider.failure = ValueError("no answer")
    guard = Guard(provider, if_unknown="allow")
    refused(lambda: guard.acquire(1))


def test_waiters_hear_of_the_file_as_well(
    guard: Guard, clock: HandClock, files: Files, provider: FakeProvider
) -> None:
    """They are admitted when it is gone."""
    files.pause(provider)
    clock.advance(0.5)
    (caller,) = queue_up(guard, [lambda: guard.acquire(10, wait=30)])
    files.resume(provider)
    clock.advance(0.5)
    assert caller.outcome().amount == 10


def test_the_process_and_the_file_are_resumed_apart(
    guard: Guard, clock: HandClock, files: Files, provider: FakeProvider
) -> None:
    """Each ends its own pause alone."""
    guard.pause("by the program")
    files.pause(provider, "by the command")
    clock.advance(0.5)
    files.resume(provider)
    clock.advance(0.5)
    assert refused(lambda: guard.acquire(1)).reason == "by the program"
    files.pause(provider, "by the command")
    clock.advance(0.5)
    guard.resume()
    assert refused(lambda: guard.acquire(1)).reason == "by the command"
    files.resume(provider)
    clock.advance(0.5)
    guard.acquire(1).release()


def empty(path: Path) -> None:
    """A file that was cut off."""
    path.write_bytes(b"")


def nonsense(path: Path) -> None:
    """Something else's file."""
    path.write_bytes(b"\xff{[")


def deep(path: Path) -> None:
    """A file that no parser finishes."""
    path.write_text("[" * 100_000)


def without_reason(path: Path) -> None:
    """A later version's, perhaps."""
    path.write_text('{"reason": 5}')


def link(path: Path) -> None:
    """A link to nowhere."""
    path.symlink_to(path.parent / "nowhere")


def folder(path: Path) -> None:
    """A directory in its place."""
    path.mkdir()


def pipe(path: Path) -> None:
    """A pipe, at which reading would wait for ever."""
    os.mkfifo(path)


@pytest.mark.skipif(os.name == "nt", reason="neither links nor pipes as here")
@pytest.mark.parametrize(
    "made",
    [empty, nonsense, deep, without_reason, link, folder, pipe],
    ids=lambda each: each.__name__,
)
def test_a_file_that_cannot_be_read_pauses_all_the_same(
    guard: Guard,
    clock: HandClock,
    files: Files,
    provider: FakeProvider,
    made: Callable[[Path], None],
) -> None:
    """Somebody put it there, and the name is not found by accident."""
    files.here.mkdir()
    made(files.of(provider))
    clock.advance(0.5)
    assert refused(lambda: guard.acquire(1)).reason == "the reason cannot be read"


def test_a_reason_in_a_file_is_cut_and_cleaned(
    guard: Guard, clock: HandClock, files: Files, provider: FakeProvider
) -> None:
    """Whoever wrote it."""
    files.here.mkdir()
    files.of(provider).write_text('{"reason": "a\\u001bb\\n' + "x" * 300 + '"}')
    clock.advance(0.5)
    reason = refused(lambda: guard.acquire(1)).reason
    assert (reason[:5], len(reason)) == ("a b x", 200)


@pytest.mark.parametrize("place", ["relative", "a file"])
def test_where_nobody_can_look_it_stays_as_it_was(
    guard: Guard,
    clock: HandClock,
    files: Files,
    provider: FakeProvider,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Paused if it was, and admitting if it was; one warning says what to set."""
    elsewhere = {"relative": "pauses", "a file": __file__}[place]
    monkeypatch.setenv("BUDGETGUARD_PAUSE_DIR", elsewhere)
    clock.advance(0.5)
    clock.advance(0.5)
    guard.acquire(1).release()
    assert [each for each in caplog.messages if "Set BUDGETGUARD_PAUSE_DIR" in each] == [
        caplog.messages[-1]
    ]
    monkeypatch.setenv("BUDGETGUARD_PAUSE_DIR", str(files.here))
    files.pause(provider)
    clock.advance(0.5)
    monkeypatch.setenv("BUDGETGUARD_PAUSE_DIR", elsewhere)
    clock.advance(0.5)
    refused(lambda: guard.acquire(1))


def test_an_account_without_guards_is_watched_again_with_the_next(
    clock: HandClock, files: Files, provider: FakeProvider
) -> None:
    """Nobody looks in between; the next guard does so at once, also where others are watched."""
    other = Guard(FakeProvider(100))
    other.balance()
    Guard(provider).balance()
    gc.collect()
    clock.advance(0.5)
    clock.advance(60)
    files.pause(provider)
    clock.advance(60)
    guard = Guard(provider)
    clock.advance(0)
    refused(lambda: guard.acquire(1))
    other.acquire(1).release()


def test_a_pause_ends_although_nobody_had_a_guard(
    clock: HandClock, files: Files, provider: FakeProvider
) -> None:
    """The next guard does not stay paused by a file that is gone."""
    files.pause(provider)
    refused(lambda: Guard(provider).acquire(1))
    gc.collect()
    clock.advance(0.5)
    files.resume(provider)
    guard = Guard(provider)
    clock.advance(0)
    assert guard.acquire(1).state == "open"


def test_an_account_without_an_identity_has_no_file(clock: HandClock, files: Files) -> None:
    """A plain callable's can be paused in its own process alone."""
    guard = Guard(lambda: 100)
    guard.acquire(1).release()
    clock.advance(1)
    guard.pause(WHY)
    refused(lambda: guard.acquire(1))
    assert not files.here.exists()


@pytest.mark.skipif(os.name == "nt", reason="other permissions")
def test_the_file_shows_nothing_of_the_account(files: Files, provider: FakeProvider) -> None:
    """Its name is no fingerprint, and nobody else may write beside it."""
    files.pause(provider)
    assert [each.name for each in files.here.iterdir()] == [files.of(provider).name]
    assert provider.fingerprint not in files.of(provider).name
    assert provider.fingerprint not in files.of(provider).read_text()
    assert files.here.stat().st_mode & 0o777 == 0o700
