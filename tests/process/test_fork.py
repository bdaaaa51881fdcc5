"""A forked child starts without a balance and without its parent's holds, and harms nobody."""

import multiprocessing
import os

import pytest
from interpreter import FORKING, LONG, Script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

HEAD = """
import gc, os, sys, threading
from budgetguard._engine.binding import binding_of
from budgetguard._engine.binding import binding_of
from budgetguard import Guard, GuardPool, require_credits, set_default_guard
from budgetguard.testing import FakeProvider

def in_child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

provider = FakeProvider(100)
guard = Guard(provider)
"""


def test_a_child_starts_afresh(script: Script) -> None:
    """No balance, no holds; it refreshes for itself, and its holds have ids of their own."""
    script(
        HEAD
        + """
hold = guard.acquire(40)

def child():
    assert guard.available is None
    mine = guard.acquire(70)
    assert guard.available == 30
    assert mine.id != hold.id
    hold.settle(5)
    assert hold.state == "settled"
    assert guard.available == 30
    mine.release()
    assert guard.available == 100

in_child(child)
assert guard.available == 60
assert hold.state == "open"
assert provider.requests == 1
hold.settle(5)
assert guard.available == 95
""",
        flags=FORKING,
    )


def test_a_child_keeps_what_was_learned(script: Script) -> None:
    """What calls cost is as true there; what it learns itself is its own."""
    script(
        HEAD
        + """
from budgetguard import learned

def call():
    return guard.acquire(cost=learned(50), name="spec")

def next_amount():
    hold = call()
    hold.release()
    return hold.amount

for _ in range(20):
    call().settle(1)
running = call()

def child():
    assert next_amount() == 1
    running.charged(0.9)
    running.settle(3)
    for _ in range(20):
        call().settle(2)
    assert next_amount() == 2

in_child(child)
assert guard.estimate("spec").settlements == 20
assert next_amount() == 1
running.release()
""",
        flags=FORKING,
    )


def test_ids_differ_between_children(script: Script) -> None:
    """Two children forked from one state give different ids."""
    told = script(
        HEAD
        + """
guard.balance()
hold = guard.acquire(1)

def child():
    with guard.acquire(1) as mine:
        os.write(1, (mine.id + "\\n").encode())

in_child(child)
in_child(child)
print(hold.id)
""",
        flags=FORKING,
    ).split()
    assert len(set(told)) == 3


def test_locks_that_others_hold_are_no_matter(script: Script) -> None:
    """A fork while other threads hold the account's lock, or make a guard, leaves no child stuck."""
    script(
        HEAD
        + """
guard.balance()
holding, done = threading.Semaphore(0), threading.Event()

def hold_account():
    with binding_of(guard).account.lock:
        holding.release()
        done.wait(60)

def make(key):
    if key == "slow":
        holding.release()
        done.wait(60)
    return Guard(FakeProvider(100))

pool = GuardPool(make)
threads = [threading.Thread(target=hold_account), threading.Thread(target=lambda: pool["slow"])]
for thread in threads:
    thread.start()
    holding.acquire()

def child():
    hold = guard.acquire(10)
    assert guard.available == 90
    pool["other"].acquire(10).release()
    hold.release()

in_child(child)
done.set()
for thread in threads:
    thread.join()
assert guard.available == 100
""",
        flags=FORKING,
    )


def test_no_lock_stays_taken_wherever_the_others_are(script: Script) -> None:
    """A thread that is stopped at any line of ours as another forks: the child can do all there is."""
    script(
        HEAD
        + """
import signal, sys, time

package = os.path.dirname(sys.modules["budgetguard"].__file__)
pool = GuardPool(lambda _: Guard(FakeProvider(100)))
set_default_guard(None)
os.environ["PREDEV_API_KEY"] = "a-key-of-some-length"
lines, stopped, go_on = 0, threading.Event(), threading.Event()

def watch(stop_at):
    # Stops the thread at the given line of ours, counted from its start.
    count = 0
    def line(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(package):
            return None
        count += 1
        if count == stop_at:
            stopped.set()
            go_on.wait(60)
        return line
    return line, lambda: count

def everything(provider, key):
    guard = Guard(provider)
    work = guard.require_credits(min=1)(lambda: "ran")
    assert [work(), work()] == ["ran", "ran"]
    guard.acquire(1, wait=1).settle()
    guard.balance(max_age=0)
    pool[key]
    require_credits(min=1)
    guard.available
    provider.charge(1)
    guard.close()

def once(stop_at):
    stopped.clear(), go_on.clear()
    tracing, counted = watch(stop_at)
    def run():
        sys.settrace(tracing)
        everything(provider, f"key {stop_at}")
        sys.settrace(None)
        stopped.set()
    thread = threading.Thread(target=run)
    thread.start()
    stopped.wait(60)
    def child():
        signal.alarm(60)
        everything(provider, f"key {stop_at}")
        everything(FakeProvider(100), "other")
    in_child(child)
    go_on.set()
    thread.join()
    return counted()

in_all = once(10**9)
assert in_all > 500, in_all
for stop_at in range(1, in_all, in_all // """
        + ("300" if LONG else "25")
        + """):
    once(stop_at)
""",
        flags=FORKING,
    )


def test_a_fork_while_the_fast_path_is_opened(script: Script) -> None:
    """The child's calls of that function are guarded, and go the fast path as ever."""
    script(
        HEAD
        + """
from budgetguard._engine import binding as module

opening, done = threading.Event(), threading.Event()
open_for = module.open_for

def slowly(*args):
    opening.set()
    done.wait(60)
    open_for(*args)

@guard.require_credits(min=1)
def work():
    return "ran"

module.open_for = slowly
thread = threading.Thread(target=work)
thread.start()
opening.wait(60)
module.open_for = open_for

def child():
    assert [work(), work(), work()] == ["ran"] * 3
    assert guard.available == 97

in_child(child)
done.set()
thread.join()
""",
        flags=FORKING,
    )


@pytest.mark.parametrize("cost", ["10", "lambda **_: 10"], ids=["fast path", "slow path"])
def test_a_fork_inside_a_guarded_call(script: Script, cost: str) -> None:
    """The end of the parent's call in the child changes nothing there, and nothing here."""
    script(
        HEAD
        + f"""
inside = []

@guard.require_credits(min={cost})
def work(fork=False):
    if not fork:
        return 0
    inside.append(os.fork())
    return inside[-1]

@guard.require_credits(min={cost})
def steps():
    inside.append(os.fork())
    yield inside[-1]

work()
guard.balance(max_age=0)
for run in (lambda: work(fork=True), lambda: list(steps())[0]):
    before = guard.available
    pid = run()
    if pid == 0:
        assert guard.available is None
        guard.balance()
        assert guard.available == 100
        work()
        assert guard.available == 90
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert guard.available == before - 10, (before, guard.available)
""",
        flags=FORKING,
    )


def test_a_child_that_exits_in_order(script: Script) -> None:
    """A child that runs its exit handlers leaves the parent's loop alone, and says nothing."""
    script(
        HEAD
        + """
guard.balance()
pid = os.fork()
if pid == 0:
    guard.balance()
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
guard.balance(max_age=0)
assert provider.requests == 2
""",
        flags=FORKING,
    )


def test_a_hundred_forks(script: Script) -> None:
    """A hundred children one after the other, each spending by its own refresh."""
    script(
        HEAD
        + """
hold = guard.acquire(60)

def child():
    guard.acquire(60).settle()
    assert guard.available == 40

for _ in range(100):
    in_child(child)
assert guard.available == 40
assert provider.requests == 1
""",
        flags=FORKING,
    )


@pytest.mark.parametrize("holding", ["for good", "now and then"])
def test_many_forks_while_the_lock_is_held(script: Script, holding: str) -> None:
    """No child is stuck, each has ids and jitter of its own, and the parent's holds remain as they were.

    With BUDGETGUARD_LONG=1 a thousand children rather than a hundred, half of them each way.
    """
    told = script(
        HEAD
        + f"""
import signal
held = [guard.acquire(30), guard.acquire(12)]
held[1].settle(5)
begun, done = threading.Semaphore(0), threading.Event()

def for_good():
    with binding_of(guard).account.lock:
        begun.release()
        done.wait(600)

def now_and_then():
    begun.release()
    while not done.is_set():
        guard.acquire(1).release()

mine = []

def tell():
    mine.append(guard.acquire(60))
    told = mine[-1].id, repr(binding_of(guard).account.runtime.jitter(0, 1))
    os.write(1, (" ".join(told) + "\\n").encode())

def child():
    signal.alarm(30)
    assert guard.available is None
    assert held[0].state == "open"
    tell()
    held[0].settle(1)
    assert guard.available == 40
    assert provider.requests == 2

threads = [threading.Thread(target={holding.replace(" ", "_")}, daemon=True) for _ in range({threads(holding)})]
for thread in threads:
    thread.start()
    begun.acquire()
for _ in range({500 if LONG else 50}):
    in_child(child)
done.set()
for thread in threads:
    thread.join()
assert [hold.state for hold in held] == ["open", "settled"]
assert guard.available == 65, guard.available
assert binding_of(guard).account.ledger.held == 30_000_000
assert provider.requests == 1
held[0].release()
assert guard.available == 95
tell()
""",
        flags=FORKING,
    ).split()
    assert len(told) == len(set(told)) == 2 * (501 if LONG else 51)


def threads(holding: str) -> int:
    """A lock that one thread holds for good is enough; in passing it takes some to meet a fork."""
    return 1 if holding == "for good" else 3


def test_forks_of_forks(script: Script) -> None:
    """A child's child starts afresh as well."""
    script(
        HEAD
        + """
def child(depth=5):
    assert guard.available is None
    hold = guard.acquire(60)
    if depth:
        in_child(lambda: child(depth - 1))
    assert guard.available == 40
    hold.release()

in_child(child)
""",
        flags=FORKING,
    )


def test_what_is_collected_in_a_child(script: Script) -> None:
    """A parent's open generator that a child collects changes nothing in the child."""
    script(
        HEAD
        + """
@guard.require_credits(min=10)
def steps():
    yield 1

def open_in_a_cycle():
    cycle = [steps()]
    next(cycle[0])
    cycle.append(cycle)

gc.disable()
open_in_a_cycle()
assert guard.available == 90

def child():
    gc.collect()
    assert guard.available is None
    guard.balance()
    assert guard.available == 100

in_child(child)
""",
        flags=FORKING,
    )


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(script: Script, method: str) -> None:
    """Guarded functions go to worker processes by name, whichever way those are started."""
    told = script(
        f"""
import multiprocessing
from budgetguard import Guard, require_credits
from budgetguard.testing import FakeProvider

guard = Guard(FakeProvider(100))

@guard.require_credits(min=10)
def work(x):
    return x, str(guard.available)

if __name__ == "__main__":
    work(0)
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        print(*pool.map(work, [1, 2], chunksize=1))
        pool.close()
        pool.join()
    print(guard.available)
""",
        flags=("-W", "ignore::DeprecationWarning") if method == "forkserver" else FORKING,
    )
    assert told.splitlines() == ["(1, '90') (2, '80')", "90"]


def test_a_child_does_not_extend_what_its_parent_holds(script: Script) -> None:
    """The credits would be held for ever in the child's ledger; the error says to acquire another hold."""
    script(
        HEAD
        + """
import anyio

def refused(extend):
    try:
        extend()
    except RuntimeError as error:
        assert "spec was opened in the process that this one was forked from" in str(error), error
        return True

hold = guard.acquire(40, name="spec")
extra = guard.acquire(5, name="spec")

def child():
    guard.balance()
    assert refused(lambda: hold.extend(10))
    assert refused(lambda: anyio.run(hold.aextend, 10))
    assert (hold.amount, guard.available) == (40, 100)
    mine = guard.acquire(60)
    mine.extend(40)
    assert guard.available == 0
    mine.settle(60)
    assert guard.available == 40
    extra.settle()
    try:
        extra.extend(1)
    except HoldClosed:
        pass
    else:
        raise AssertionError("extended what has ended")

in_child(child)
hold.extend(10)
assert guard.available == 45
hold.release()
extra.release()
assert guard.available == 100
""".replace("import anyio", "import anyio\nfrom budgetguard import HoldClosed"),
        flags=FORKING,
    )


def test_what_a_child_does_with_its_parents_hold_is_nobodys_news(script: Script) -> None:
    """It ends only in the parent's ledger: the child reports, logs and counts nothing."""
    script(
        HEAD
        + """
told = []
guard = Guard(FakeProvider(100), on_event=lambda event: told.append(event.kind))
holds = [guard.acquire(10) for _ in range(4)]
told.clear()

def child():
    holds.pop().settle()
    holds.pop().charged(5)
    holds.pop().keep()
    holds.clear()
    gc.collect()
    guard.balance()
    assert (guard.available, told) == (100, ["refreshed"]), told

in_child(child)
assert (guard.available, told) == (60, [])
""",
        flags=FORKING,
    )


def test_a_childs_calls_are_not_in_its_parents_budget(script: Script) -> None:
    """A block that the parent entered bounds calls there: in the child it is an error, not a second budget."""
    script(
        HEAD
        + """
def check_raises(call):
    try:
        call()
    except RuntimeError as error:
        assert "was forked from" in str(error)
    else:
        raise AssertionError("admitted")

other = Guard(FakeProvider(100))

def child():
    try:
        guard.acquire(1)
    except RuntimeError as error:
        assert str(error) == (
            "The budget run was entered in the process that this one was forked from, and bounds the "
            "calls there. Enter a budget of its own in the child."
        ), error
    else:
        raise AssertionError("admitted")
    with guard.budget(5) as own:
        call()
    assert own.spent == 1
    for block in (guard.labels(user="ada"), run.use()):
        try:
            block.__enter__()
        except RuntimeError as error:
            assert "Enter a budget of its own in the child" in str(error), error
        else:
            raise AssertionError(block)
    other.acquire(1).settle()

call = guard.require_credits(min=1)(lambda: None)
call()
with guard.labels(run="42"):
    guard.acquire(1).settle()

    def labelled():
        guard.acquire(1).settle()
        call()
    in_child(labelled)
with guard.budget(10, name="run") as run:
    call()
    in_child(child)
    in_child(lambda: check_raises(call))
    call()
assert (run.spent, run.held) == (2, 0)

def afresh():
    with guard.budget(10, name="run") as own:
        call()
        guard.acquire(9).settle()
    assert own.spent == 10
in_child(afresh)
""",
        flags=FORKING,
    )


def test_a_child_that_leaves_its_parents_block(script: Script) -> None:
    """Ends nothing that counts in the parent, tells no listener, and is free of the block after it."""
    script(
        HEAD
        + """
told = []
heard = Guard(provider, on_event=lambda event: told.append(event.kind))
for share in ("shared", "carve"):
    run = heard.budget(10, name="run", share=share)
    run.__enter__()
    told.clear()

    def child():
        run.__exit__(None, None, None)
        assert told == []
        heard.acquire(1).settle()
        with heard.budget(5, share="carve"):
            heard.acquire(5).settle()

    in_child(child)
    heard.acquire(10).settle()
    run.__exit__(None, None, None)
    assert (run.spent, run.held) == (10, 0)
assert heard.available == 80
""",
        flags=FORKING,
    )


def test_a_child_has_keyed_budgets_of_its_own(script: Script) -> None:
    """Each process counts what it spends itself."""
    script(
        HEAD
        + """
@guard.budget(10, name="user", key=lambda user: user, per="day")
def serve(user):
    guard.acquire(6).settle()

serve("ada")

def child():
    serve("ada")
    try:
        serve("ada")
    except Exception as error:
        assert type(error).__name__ == "BudgetExceeded", error
    else:
        raise AssertionError("admitted")

in_child(child)
try:
    serve("ada")
except Exception as error:
    assert (error.spent, error.budget) == (6, "user"), error
else:
    raise AssertionError("admitted")
""",
        flags=FORKING,
    )


@pytest.mark.parametrize("share", ["shared", "carve"])
def test_a_child_cannot_use_the_budget_of_its_parents_block(script: Script, share: str) -> None:
    """Neither inside nor outside the block: both would spend all that is left of it."""
    script(
        HEAD
        + f"""
guard.balance()
run = guard.budget(30, name="run", share="{share}")
run.__enter__()
run.step_out()

def child():
    try:
        with run.use():
            guard.acquire(30).settle()
    except RuntimeError as error:
        assert "forked from" in str(error)
    else:
        raise AssertionError("it was used")
    guard.balance()
    assert guard.available == 100
    assert binding_of(guard).account.ledger.held == 0

in_child(child)
guard.balance(max_age=0)
with run.use():
    guard.acquire(30).settle()
run.__exit__(None, None, None)
assert guard.available == 70
""",
        flags=FORKING,
    )


@pytest.mark.parametrize(
    ("imports", "what"),
    [
        ("guard.balance()", "budgetguard._io.refresh_attempts"),
        ("guard.balance()", "budgetguard._io.connections"),
        ("guard.balance()", "httpcore"),
        ("import httpcore", "httpcore"),
        ("import httpcore", "httpcore._async"),
    ],
)
def test_a_fork_while_another_thread_imports(script: Script, imports: str, what: str) -> None:
    """A child can import what its first refresh needs; the lock of an import would never be released there."""
    script(
        HEAD
        + f"""
import signal
from budgetguard._engine import running_imports
# However slow the machine is.
running_imports._PATIENCE = 600
importing, forking = threading.Event(), threading.Event()

class Finder:
    def find_spec(self, name, *_):
        if name == {what!r} and not importing.is_set():
            importing.set()
            assert forking.wait(60)

def another():
    {imports}

sys.meta_path.insert(0, Finder())
# Before whatever the library does about forks.
os.register_at_fork(before=forking.set)
thread = threading.Thread(target=another)
thread.start()
assert importing.wait(60)

def child():
    signal.alarm(60)
    assert guard.balance().credits == 100

in_child(child)
thread.join()
""",
        flags=FORKING,
    )


def test_a_fork_waits_for_an_import_once(script: Script) -> None:
    """A module may serve requests while it is imported: a fork gives up on it, and so do all later ones."""
    script(
        HEAD
        + """
from importlib.util import spec_from_loader
from budgetguard._engine import running_imports

importing, done = threading.Event(), threading.Event()

class Served:
    def find_spec(self, name, *_):
        return spec_from_loader(name, self) if name == "serves" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        importing.set()
        done.wait(600)

def serve():
    import serves

sys.meta_path.insert(0, Served())
thread = threading.Thread(target=serve)
thread.start()
assert importing.wait(60)
running_imports._PATIENCE = 0.05
in_child(lambda: guard.acquire(1).settle())
# More than the script may take.
running_imports._PATIENCE = 10_000
in_child(lambda: guard.acquire(1).settle())
assert running_imports._NOT_WAITED_FOR
done.set()
thread.join()
in_child(lambda: guard.acquire(1).settle())
assert not running_imports._NOT_WAITED_FOR
""",
        flags=FORKING,
    )
