"""Any number of loops of any kind, in any thread: nothing of a guard is bound to one."""

from interpreter import Script

HEAD = """
import asyncio, gc, logging, os, threading
import trio
from budgetguard import Guard, InsufficientCredits
from budgetguard.testing import FakeProvider

# Under -X dev, asyncio tells of slow steps: first imports, and blocking calls made on purpose.
logging.getLogger("asyncio").setLevel(logging.ERROR)
provider = FakeProvider(10**6)
guard = Guard(provider)

@guard.require_credits(min=1)
async def work(x):
    return x

@guard.require_credits(min=lambda x: 1)
async def steps(x):
    yield x

@guard.require_credits(min=1)
def plain(x):
    return x

async def main():
    assert await work(1) == 1
    assert plain(2) == 2
    assert [x async for x in steps(3)] == [3]
    await guard.abalance(max_age=0)
    hold = await guard.aacquire(1)
    hold.settle()
"""


def test_a_hundred_loops_in_turn(script: Script) -> None:
    """A hundred times asyncio.run, and trio.run in between, with the same guard."""
    script(
        HEAD
        + """
for i in range(100):
    asyncio.run(main())
    if i % 5 == 0:
        trio.run(main)
assert provider.requests == 1 + 120, provider.requests
guard.balance(max_age=0)
assert guard.available == 10**6
"""
    )


def test_two_loops_in_two_threads(script: Script) -> None:
    """Loops that run at the same time share a guard, asyncio and trio."""
    script(
        HEAD
        + """
async def many():
    for _ in range(50):
        await main()

runs = [lambda: asyncio.run(many()), lambda: asyncio.run(many()), lambda: trio.run(many)]
threads = [threading.Thread(target=run) for run in runs]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
guard.balance(max_age=0)
assert guard.available == 10**6
"""
    )


def test_inside_a_running_loop(script: Script) -> None:
    """In a notebook a loop runs already: plain calls and awaits work from its cells."""
    script(
        HEAD
        + """
loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever)
thread.start()

async def cell():
    assert guard.balance().credits == 10**6
    with guard.require_credits(min=1) as hold:
        pass
    await main()

for _ in range(3):
    asyncio.run_coroutine_threadsafe(cell(), loop).result(60)
loop.call_soon_threadsafe(loop.stop)
thread.join()
loop.close()
"""
    )


def test_a_loop_closed_under_a_waiting_caller(script: Script) -> None:
    """A caller whose loop is closed before the answer takes nothing along, and breaks nothing."""
    script(
        HEAD
        + """
# That a task is lost is asyncio's own complaint about this test.
logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
asked, answer = threading.Event(), threading.Event()

def balance():
    asked.set()
    answer.wait(60)
    return 100

slow = Guard(balance)
loop = asyncio.new_event_loop()

async def wait(guard):
    await guard.aacquire(60)

task = loop.create_task(wait(slow))
loop.run_until_complete(asyncio.sleep(0))
assert asked.wait(60)
loop.close()
answer.set()
assert slow.balance().credits == 100
del task
gc.collect()
slow.acquire(60).release()
assert slow.available == 100, slow.available
"""
    )


def test_a_loop_stopped_under_many_waiting_callers(script: Script) -> None:
    """asyncio.run that ends by an error cancels those who wait, and no hold remains behind."""
    script(
        HEAD
        + """
small = Guard(FakeProvider(100))
hold = small.acquire(60)

async def wait():
    with small.require_credits(min=60, wait=600):
        raise AssertionError

async def fail():
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(wait_async())
        await asyncio.sleep(0)
        raise ZeroDivisionError

async def wait_async():
    async with small.require_credits(min=60, wait=600):
        raise AssertionError

for _ in range(10):
    try:
        asyncio.run(fail())
    except* ZeroDivisionError:
        pass
hold.release()
assert small.available == 100
small.acquire(100, wait=600).release()
"""
    )


def test_collection_anywhere(script: Script) -> None:
    """A dropped generator may be collected in the middle of anything, under any lock: no deadlock."""
    script(
        HEAD
        + """
import faulthandler, logging, random
faulthandler.dump_traceback_later(80, exit=True)
logging.getLogger("budgetguard").setLevel(logging.ERROR)  # of holds that are kept
choose = random.Random(7)
many = Guard(FakeProvider(10**6))

@many.require_credits(min=1)
def dropped():
    yield 1
    yield 2

@many.require_credits(min=1)
async def adropped():
    yield 1
    yield 2

@many.require_credits(min=1)
def short():
    return 1

@many.require_credits(min=lambda: 1)
def long():
    return 1

def drop(make):
    cycle = [make()]
    step = cycle[0]
    if hasattr(step, "__next__"):
        next(step)
    else:
        try:
            step.__anext__().send(None)
        except StopIteration:
            pass
    cycle.append(cycle)

many.balance()
for i in range(2_000):
    gc.set_threshold(choose.randrange(1, 60))
    drop(dropped)
    drop(adropped)
    short()
    long()
    many.available
gc.set_threshold(700)
gc.collect()
assert many.available == 10**6 - 4 * 2_000, many.available
"""
    )
