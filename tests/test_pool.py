"""GuardPool: one guard per key, as many as needed, and none forgotten that still counts."""

import gc
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from budgetguard import Guard, GuardPool, InsufficientCredits
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


class Maker:
    """Makes guards, and remembers for which keys; it keeps no guard alive."""

    def __init__(self, **options: Any) -> None:
        self.made: list[str] = []
        self.options = options

    def __call__(self, key: str) -> Guard:
        """A guard of 100 credits."""
        self.made.append(key)
        return Guard(FakeProvider(100), **self.options)


def touch(pool: GuardPool[str], keys: str) -> None:
    """Ask for each key, and drop what comes."""
    for key in keys:
        assert isinstance(pool[key], Guard)
    gc.collect()


pytestmark = pytest.mark.usefixtures("clock", "few_to_collect")


def test_a_guard_is_made_on_first_use_and_kept() -> None:
    """Nothing is made before it is asked for, and nothing twice."""
    maker = Maker()
    pool = GuardPool(maker)
    assert (len(pool), maker.made) == (0, [])
    a = pool["a"]
    assert pool["b"] is not a
    assert pool["a"] is a
    assert (len(pool), maker.made) == (2, ["a", "b"])


def test_keys_may_be_anything_hashable() -> None:
    """Equal keys are one key; a key without a hash is a TypeError."""
    pool: GuardPool[Any] = GuardPool(lambda _: Guard(FakeProvider()))
    assert pool["a", 1] is pool["a", 1.0]
    assert pool[None] is pool[None]
    with pytest.raises(TypeError, match="must be hashable, and a list is not"):
        pool[[]]


def test_the_least_recently_used_goes_first() -> None:
    """Asking for a guard makes it recent."""
    maker = Maker()
    pool = GuardPool(maker, maxsize=2)
    touch(pool, "abac")
    assert (len(pool), maker.made) == (2, ["a", "b", "c"])
    touch(pool, "a")
    assert maker.made == ["a", "b", "c"]
    touch(pool, "b")
    assert maker.made == ["a", "b", "c", "b"]


def test_a_guard_that_went_is_not_kept_alive() -> None:
    """The pool holds on to nothing that it let go."""
    pool = GuardPool(Maker(), maxsize=1)
    gone = weakref.ref(pool["a"])
    touch(pool, "b")
    assert gone() is None
    assert len(pool) == 1


def test_a_guard_that_somebody_references_is_handed_out_again() -> None:
    """Two guards of one key never exist at once."""
    maker = Maker()
    pool = GuardPool(maker, maxsize=1)
    mine = pool["a"]
    touch(pool, "b")
    assert pool["a"] is mine
    assert maker.made == ["a", "b"]


@pytest.mark.parametrize("by", ["function", "block"])
def test_what_a_guard_decorates_references_it(by: str) -> None:
    """A function or a block that was made with a guard keeps it the one of its key."""
    maker = Maker()
    pool = GuardPool(maker, maxsize=1)
    if by == "function":
        user: Any = pool["a"].require_credits(min=5)(lambda: "done")
    else:
        user = pool["a"].require_credits(min=5)
    touch(pool, "bca")
    assert maker.made == ["a", "b", "c"]
    del user


def test_a_guard_with_an_open_hold_is_kept() -> None:
    """The account of a call that runs is not forgotten, and is found again."""
    maker = Maker()
    pool = GuardPool(maker, maxsize=1)
    hold = pool["a"].acquire(60)
    touch(pool, "bc")
    assert len(pool) == 2
    with pytest.raises(InsufficientCredits):
        pool["a"].acquire(60)
    assert maker.made == ["a", "b", "c"]
    hold.release()
    touch(pool, "bc")
    assert len(pool) == 1


@pytest.mark.parametrize(
    ("end", "young"), [("settle", 5.0), ("keep", 35.0)], ids=["lag", "linger and lag"]
)
def test_a_guard_with_a_young_debit_is_kept(clock: HandClock, end: str, young: float) -> None:
    """Until a balance could show what was spent, the ledger remains; then they may go."""
    maker = Maker(lag=5, linger=30)
    pool = GuardPool(maker, maxsize=1)
    getattr(pool["a"].acquire(60), end)()
    clock.advance(young - 0.25)
    touch(pool, "bc")
    assert len(pool) == 2
    assert pool["a"].available == 40
    touch(pool, "d")
    clock.advance(0.25)
    touch(pool, "e")
    assert len(pool) == 1
    touch(pool, "a")
    assert maker.made == ["a", "b", "c", "d", "e", "a"]


def test_a_guard_with_a_debit_that_is_young_no_more_goes(clock: HandClock) -> None:
    """The exact end of a debit's time is late enough."""
    pool = GuardPool(Maker(lag=5), maxsize=1)
    pool["a"].acquire(60).settle()
    clock.advance(5)
    touch(pool, "b")
    assert len(pool) == 1


def test_a_guard_with_a_waiting_caller_is_kept() -> None:
    """A caller that waits for a balance is still served by the one guard of its key."""
    asked, answer = threading.Event(), threading.Event()

    def balance() -> int:
        asked.set()
        assert answer.wait(10)
        return 100

    made: list[str] = []

    def make(key: str) -> Guard:
        made.append(key)
        return Guard(balance if key == "a" else FakeProvider(100))

    pool = GuardPool(make, maxsize=1)
    waits = binding_of(pool["a"]).account
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lambda: pool["a"].balance().credits)
        assert asked.wait(10)
        touch(pool, "bc")
        assert len(pool) == 2
        assert binding_of(pool["a"]).account is waits
        answer.set()
        assert waiting.result(10) == 100
    assert made == ["a", "b", "c"]


def test_a_kept_guard_takes_its_place_again_when_asked_for() -> None:
    """A busy guard that is used anew counts as recent, and pushes out another."""
    maker = Maker()
    pool = GuardPool(maker, maxsize=2)
    hold = pool["a"].acquire(10)
    touch(pool, "bc")
    assert len(pool) == 3
    touch(pool, "a")
    assert len(pool) == 2
    hold.release()
    touch(pool, "a")
    assert maker.made == ["a", "b", "c"]


def test_busy_guards_go_once_they_are_quiet() -> None:
    """The pool shrinks back to its size when it makes a new guard."""
    pool = GuardPool(Maker(), maxsize=2)
    holds = [pool[key].acquire(10) for key in "abcdef"]
    assert len(pool) == 6
    for hold in holds:
        hold.release()
    touch(pool, "g")
    assert len(pool) == 2


def test_threads_get_one_guard_of_each_key() -> None:
    """However many ask at once, a guard is made once."""
    maker = Maker()
    pool = GuardPool(maker)
    start = threading.Barrier(8)

    def ask(_: int) -> list[Guard]:
        start.wait()
        return [pool[key] for key in "abcdefgh"]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert maker.made == list("abcdefgh")
    assert all(answer == answers[0] for answer in answers)


def test_a_second_thread_waits_while_the_first_makes_the_guard() -> None:
    """Nothing can run between the lookup and the making."""
    inside, go = threading.Event(), threading.Event()
    made: list[str] = []

    def make(key: str) -> Guard:
        made.append(key)
        inside.set()
        assert go.wait(10)
        return Guard(FakeProvider())

    pool = GuardPool(make)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.__getitem__, "a")
        assert inside.wait(10)
        second = threads.submit(pool.__getitem__, "a")
        go.set()
        assert first.result(10) is second.result(10)
    assert made == ["a"]


def test_make_guard_may_ask_the_pool() -> None:
    """A guard that is made after another's does not lock itself out."""
    pool: GuardPool[str]

    def make(key: str) -> Guard:
        return Guard(pool["parent"].provider if key == "child" else FakeProvider())

    pool = GuardPool(make)
    assert binding_of(pool["child"]).account is binding_of(pool["parent"]).account


def test_what_make_guard_raises_reaches_the_caller() -> None:
    """Nothing is remembered of a failure: the next use tries again."""
    answers: list[Any] = [LookupError("no such customer"), "no guard", Guard(FakeProvider())]

    def make(_: str) -> Guard:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    pool = GuardPool(make)
    with pytest.raises(LookupError, match="no such customer"):
        pool["a"]
    with pytest.raises(TypeError, match="make_guard must return a Guard, not str"):
        pool["a"]
    assert len(pool) == 0
    assert isinstance(pool["a"], Guard)


def test_keys_are_never_shown() -> None:
    """A key may be a credential: neither the repr nor an error nor our frames tell it."""

    def make(key: str) -> Any:
        failing = key.endswith("1")
        del key
        if failing:
            raise LookupError
        return None

    pool: GuardPool[str] = GuardPool(make)
    for key, error in {"secret-1": LookupError, "secret-2": TypeError}.items():
        with pytest.raises(error) as caught:
            pool[key]
        ours = caught.value.__traceback__.tb_next if caught.value.__traceback__ else None
        told = traceback.TracebackException(
            type(caught.value), caught.value, ours, capture_locals=True
        )
        told.stack[:] = [frame for frame in told.stack if frame.filename != __file__]
        assert "secret" not in "".join(told.format())
    named: GuardPool[str] = GuardPool(Maker())
    named["secret-3"].acquire(1).release()
    assert repr(named) == "<GuardPool of 1 guards>"
    assert "secret" not in f"{named} {named['secret-3']!r}"


@pytest.mark.parametrize("make_guard", [None, "key", 3])
def test_make_guard_has_to_be_callable(make_guard: Any) -> None:
    """What cannot make guards is refused at once."""
    with pytest.raises(TypeError, match=f"make_guard takes .*, not {type(make_guard).__name__}"):
        GuardPool(make_guard)


@pytest.mark.parametrize(
    ("maxsize", "error"),
    [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError), (None, TypeError)],
)
def test_a_size_is_a_whole_number_from_one(maxsize: Any, error: type[Exception]) -> None:
    """A pool of no guards, or of half a guard, cannot be."""
    with pytest.raises(error, match="maxsize"):
        GuardPool(Maker(), maxsize=maxsize)


def test_the_default_size_is_1024() -> None:
    """As many guards are kept as the contract says."""
    provider = FakeProvider()
    pool: GuardPool[str] = GuardPool(lambda _: Guard(provider))
    for n in range(1025):
        pool[str(n)]
    assert len(pool) == 1024
