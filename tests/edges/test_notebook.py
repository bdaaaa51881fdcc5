"""Cells of a real IPython kernel, whose loop runs all the while."""

import os
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from needed import need

need("ipykernel", "jupyter_client")

from jupyter_client.manager import KernelManager

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

PATIENCE = 30
FIRST = """
import asyncio, socket, sys, threading, time
from budgetguard._engine.binding import binding_of
from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard.testing import FakeProvider

def tell_when_waiting(guard, address):
    main = threading.main_thread().ident
    def watch():
        while not binding_of(guard).account.wait_queue.queue:
            time.sleep(0.001)
        while sys._current_frames()[main].f_code.co_name not in {"wait", "select"}:
            time.sleep(0.001)
        socket.create_connection(address).close()
    threading.Thread(target=watch, daemon=True).start()

guard = Guard(FakeProvider(100))
loop = asyncio.get_running_loop()

# An interrupt cancels a cell that awaits, but ipykernel does not wake a loop that sleeps for it.
def beat():
    loop.call_later(0.01, beat)
beat()

@guard.require_credits(min=10)
def plain(x):
    assert loop.is_running()
    return x

@guard.require_credits(min=lambda x: 10, wait=1)
async def work(x):
    await asyncio.sleep(0)
    return x

@guard.require_credits(min=10)
async def steps():
    yield 1
    yield 2
"""


class Notebook:
    """A kernel and its client; `run` gives what a cell evaluates to."""

    def __init__(self, manager: KernelManager) -> None:
        self._manager = manager
        self.client: Any = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def start(self, cell: str) -> str:
        """Send a cell off."""
        return str(
            self.client.execute(
                textwrap.dedent(cell), user_expressions={"value": "value"}, stop_on_error=False
            )
        )

    def finish(self, sent: str) -> dict[str, Any]:
        """Wait for the reply to a cell."""
        while True:
            reply = self.client.get_shell_msg(timeout=PATIENCE)
            if reply["parent_header"]["msg_id"] == sent:
                return dict(reply["content"])

    def run(self, cell: str) -> str:
        """Run a cell that has to succeed; what it left in `value`."""
        reply = self.finish(self.start(f"value = None\n{textwrap.dedent(cell)}"))
        assert reply["status"] == "ok", reply
        return str(reply["user_expressions"]["value"]["data"]["text/plain"])

    def interrupt(self) -> None:
        """As the button does."""
        self._manager.interrupt_kernel()


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel that has to end in order and in silence."""
    home = tmp_path_factory.mktemp("kernel")
    manager = KernelManager(
        kernel_name="python3", transport="ipc", connection_file=str(home / "kernel.json")
    )
    words = home / "words"
    with words.open("w") as written:
        manager.start_kernel(
            env={**os.environ, "IPYTHONDIR": str(home), "JUPYTER_RUNTIME_DIR": str(home)},
            cwd=str(home),
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        process = manager.provisioner.process
        try:
            notebook = Notebook(manager)
            notebook.run(FIRST)
            yield notebook
            manager.request_shutdown()
            code = process.wait(PATIENCE)
            notebook.client.stop_channels()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            manager.cleanup_resources()
            manager.context.destroy()
    told = words.read_text()
    assert "Traceback" not in told
    assert "Error" not in told
    assert "Warning" not in told
    assert code == 0


def test_calls_of_every_kind(notebook: Notebook) -> None:
    """Plain calls, blocks and top-level awaits, in cells of one kernel."""
    assert notebook.run("value = plain(1)") == "1"
    assert notebook.run("value = await work(2)") == "2"
    assert notebook.run("value = [x async for x in steps()]") == "[1, 2]"
    cell = """
    with guard.require_credits(min=10) as hold:
        value = guard.available
    hold.state
    """
    assert notebook.run(cell) == "Decimal('60')"
    cell = """
    async with guard.require_credits(min=10) as hold:
        value = str(guard.available)
    """
    assert notebook.run(cell) == "'50'"
    cell = """
    value = guard.balance(max_age=0).credits, (await guard.abalance(max_age=0)).credits
    value = value, guard.available, guard.provider.requests
    """
    assert notebook.run(cell) == "((Decimal('100'), Decimal('100')), Decimal('100'), 3)"


def test_tasks_of_one_cell_go_on_in_the_next(notebook: Notebook) -> None:
    """A caller who waits in a task is served while another cell runs."""
    notebook.run("""
    queued = Guard(FakeProvider(100))
    hold = queued.acquire(60)
    task = asyncio.create_task(queued.aacquire(60, wait=600))
    """)
    assert notebook.run("await asyncio.sleep(0); value = task.done()") == "False"
    assert notebook.run("hold.release(); value = (await task).state") == "'open'"


@pytest.mark.parametrize(
    "cell",
    [
        "patient.acquire(10)",
        "await patient.aacquire(10)",
        "patient_plain()",
        "await patient_work()",
    ],
)
def test_an_interrupt_while_a_call_waits(notebook: Notebook, cell: str) -> None:
    """The cell ends at once, nothing is held by it, and the next call is served by the same look."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as waiting,
    ):
        server.settimeout(PATIENCE)
        waiting.settimeout(PATIENCE)
        notebook.run(f"""
        url = "http://127.0.0.1:{server.getsockname()[1]}"
        patient = Guard(PreDev("a-key-of-some-length", base_url=url), timeout=600)
        @patient.require_credits(min=10)
        def patient_plain():
            return "plain"
        @patient.require_credits(min=10)
        async def patient_work():
            return "work"
        tell_when_waiting(patient, {waiting.getsockname()})
        """)
        sent = notebook.start(cell)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(65536).startswith(b"GET /credits-balance ")
            waiting.accept()[0].close()
            notebook.interrupt()
            reply = notebook.finish(sent)
            assert reply["status"] == "error"
            assert reply["ename"] == ("CancelledError" if "await" in cell else "KeyboardInterrupt")
            body = b'{"success": true, "creditsRemaining": 100}'
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            assert notebook.run("value = patient.balance().credits") == "Decimal('100')"
            assert notebook.run("value = patient.available") == "Decimal('100')"
            notebook.run("patient.acquire(100).release()")
            both = notebook.run("value = patient_plain(), await patient_work()")
            assert both == "('plain', 'work')"
        assert notebook.run("value = plain(3), await work(4)") == "(3, 4)"
