"""Submitted work that is followed, when its process ends or forks."""

import os

import pytest
from interpreter import FORKING, Script

HEAD = """
import gc, os, socket, sys, threading
from budgetguard import Guard, PreDev
from budgetguard._engine.binding import binding_of
from budgetguard._engine.follower import follower_of
from budgetguard._engine.submitted_work import Work
from budgetguard.providers.billing import WorkStatus
from budgetguard.testing import FakeProvider, hand_clock
"""


def test_an_exit_waits_for_no_status(script: Script) -> None:
    """A provider that accepts and never answers does not keep the program, and nothing is reported."""
    assert (
        script(
            HEAD
            + """
import httpx
from budgetguard.transport import GuardTransport

def answer(request):
    return httpx.Response(200, json={"specId": "s1", "status": "pending"})

server = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{server.getsockname()[1]}"
told = []
guard = Guard(PreDev("a-key-of-some-length", base_url=url), if_unknown="allow", timeout=1, on_event=told.append)
binding_of(guard).account.runtime.jitter = lambda least, most: 0.0
with httpx.Client(transport=GuardTransport(guard, transport=httpx.MockTransport(answer))) as client:
    client.post(url + "/deep-spec", json={"input": "A shop"})
connections = []
while True:
    connection, _ = server.accept()
    connections.append(connection)
    asked = connection.recv(100).split()[1].decode()
    if asked != "/credits-balance":
        break
print(asked, [event.kind for event in told if event.kind == "kept"])
[each.detach() for each in (*connections, server)]
"""
        )
        == "/spec-status/s1 []"
    )


def test_an_exit_waits_for_no_alarm(script: Script) -> None:
    """Work that is due in a minute is left to the provider."""
    assert (
        script(
            HEAD
            + """
guard = Guard(FakeProvider(100))
async def ask(client):
    raise AssertionError
assert follower_of(binding_of(guard).account).follow(Work(guard.acquire(40), "/jobs/1", ask))
print(guard.available)
"""
        )
        == "60"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_child_leaves_its_parents_work_alone(script: Script) -> None:
    """It neither asks about it nor ends its hold; the parent goes on, and the child follows its own."""
    script(
        HEAD
        + """
asked, told = [], []
def ask_of(path):
    async def ask(client):
        asked.append((os.getpid(), path))
        return WorkStatus(end="cost")
    return ask

with hand_clock() as clock:
    guard = Guard(FakeProvider(100), on_event=lambda event: told.append(event.kind))
    account = binding_of(guard).account
    hold = guard.acquire(40)
    follower_of(account).follow(Work(hold, "/jobs/1", ask_of("/jobs/1")))
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            before = len(told)
            assert account.follower is None
            account.runtime.jitter = lambda least, most: 0.0
            mine = guard.acquire(10)
            done = threading.Event()
            async def ask(client):
                done.set()
                return WorkStatus(end="cost")
            follower_of(account).follow(Work(mine, "/jobs/2", ask))
            assert done.wait(30)
            gc.collect()
            assert (asked, hold.state) == ([], "open")
            assert "kept" not in told[before:]
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    clock.advance(60)
    assert asked == [(os.getpid(), "/jobs/1")]
    assert hold.state == "settled"
""",
        flags=FORKING,
    )
