"""The sandbox as a server: starting, stopping, several at once, with every kind of caller."""

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from budgetguard.testing.sandbox import Sandbox

Client = Callable[..., httpx.Client]
HOUR = 3600.0


def test_requests_by_route(client: Client, manual: Sandbox) -> None:
    """Requests are counted by method and route, and balances over all three endpoints."""
    http = client(manual)
    for path in (
        "/credits-balance",
        "/v1/billing",
        "/v1/projects/sandbox-project/credits",
        "/spec-status/one",
        "/spec-status/two",
        "/nowhere",
    ):
        http.get(path)
    assert manual.requests == {
        ("GET", "/credits-balance"): 1,
        ("GET", "/v1/billing"): 1,
        ("GET", "/v1/projects/{project_id}/credits"): 1,
        ("GET", "/spec-status/{spec_id}"): 2,
        ("GET", "/nowhere"): 1,
    }
    assert manual.balance_requests == 3


def test_wrong_method(client: Client, manual: Sandbox) -> None:
    """A method that a route does not have is a 405 in the provider's shape."""
    assert client(manual).delete("/fast-spec").status_code == 405
    assert client(manual).put("/v1/sessions").json()["error"]["code"] == 405


def test_top_up_over_http(client: Client, manual: Sandbox) -> None:
    """Accounts are topped up over HTTP, both or the one named."""
    http = client(manual)
    assert http.post("/_sandbox/top-up", json={"credits": 5}).status_code == 200
    body = http.post("/_sandbox/top-up", json={"credits": 2.5, "provider": "predev"}).json()
    assert (body["predev"]["balance"], body["anchor"]["balance"]) == (107.5, 105)
    for wrong in ({}, {"credits": -1}, {"credits": 1, "provider": "other"}):
        assert http.post("/_sandbox/top-up", json=wrong).status_code == 400


def test_state_over_http(client: Client, manual: Sandbox) -> None:
    """The state is one JSON object, the same over HTTP as from Python."""
    http = client(manual)
    http.post("/fast-spec", json={"input": "x", "async": True})
    manual.advance(HOUR)
    state = http.get("/_sandbox/state").json()
    assert state == manual.state()
    assert state["predev"]["finished"] == 1
    assert state["predev"]["operations"][0]["charged"] == state["predev"]["charged"]
    assert state["requests"] == {"POST /fast-spec": 1}


def test_several_at_once(client: Client) -> None:
    """Sandboxes share nothing."""
    with Sandbox(credits=1) as one, Sandbox(credits=2) as two:
        assert one.url != two.url
        one.predev.top_up(5)
        seen = [client(each).get("/credits-balance").json() for each in (one, two)]
        assert [each["creditsRemaining"] for each in seen] == [6, 2]
        assert (one.balance_requests, two.balance_requests) == (1, 1)


def test_leaving_ends_open_requests(client: Client) -> None:
    """Requests that hang, wait, drip or are not read do not keep a sandbox from stopping."""
    outcomes: list[httpx.TransportError] = []

    def ask(path: str) -> None:
        try:
            client(sandbox).post(path, json={"input": "x"})
        except httpx.TransportError as error:
            outcomes.append(error)

    with Sandbox(clock="manual") as sandbox:
        sandbox.fault("/hang", hang=True)
        sandbox.fault("/late", latency=HOUR)
        sandbox.fault("/drip", drip=HOUR)
        sandbox.fault("/huge", size=50_000_000)
        paths = ("/hang", "/late", "/drip", "/deep-spec")
        threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        with client(sandbox).stream("GET", "/huge") as unread:
            assert sandbox.wait_until(lambda: sandbox.requests.total() == len(paths) + 1)
            sandbox.__exit__(None, None, None)
            assert unread.status_code == 404
    for thread in threads:
        thread.join()
    assert len(outcomes) == len(paths)


def test_the_state_does_not_change_afterwards(client: Client) -> None:
    """After the end nothing more is charged, and the state can still be read."""
    with Sandbox(speed=1) as sandbox:
        client(sandbox).post("/deep-spec", json={"input": "x", "async": True})
    first = sandbox.state()
    assert first["predev"]["running"] == 1
    assert sandbox.state() == first


def test_used_once() -> None:
    """A sandbox cannot be entered twice."""
    with Sandbox() as sandbox:
        pass
    with pytest.raises(RuntimeError, match="used once"), sandbox:
        pass


def test_port() -> None:
    """The sandbox uses the port that is given; a port in use is an error."""
    with Sandbox() as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"), Sandbox(port=port):
            pass
    with Sandbox(port=port) as second:
        assert second.url == first.url


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])
def test_loopback_only(host: str) -> None:
    """The sandbox listens on loopback addresses only."""
    with pytest.raises(ValueError, match=r"loopback|IPv4"):
        Sandbox(host=host)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6(client: Client) -> None:
    """The IPv6 loopback address works too."""
    with Sandbox(host="::1") as sandbox:
        assert sandbox.url.startswith("http://[::1]:")
        assert client(sandbox).get("/credits-balance").status_code == 200


def test_clock_is_one_of_two() -> None:
    """A misspelt clock is refused."""
    with pytest.raises(ValueError, match="manual"):
        Sandbox(clock="hand")  # type: ignore[arg-type]


def test_many_threads(client: Client) -> None:
    """Two hundred submissions from forty threads are each charged once, and in full."""
    with Sandbox(credits=2000, speed=1e4) as sandbox, ThreadPoolExecutor(40) as pool:
        # A client each: the threads of one pool close each other's connections now and then.
        post = partial(httpx.Client.post, url="/fast-spec", json={"input": "x"})
        clients = [client(sandbox) for _ in range(200)]
        replies = [reply.json() for reply in pool.map(post, clients)]
        used = sum(each["creditsUsed"] for each in replies)
        assert used == sandbox.predev.charged == 2000 - sandbox.predev.balance
        assert sandbox.predev.finished == 200


@pytest.mark.anyio
async def test_async_callers() -> None:
    """Sandboxes are made and used inside asyncio and trio."""
    with Sandbox(speed=1e6) as sandbox:
        key = {"authorization": f"Bearer {sandbox.predev_key}"}
        async with httpx.AsyncClient(base_url=sandbox.url, headers=key, trust_env=False) as http:
            reply = await http.post("/fast-spec", json={"input": "x"})
        assert reply.json()["creditsUsed"] == sandbox.predev.charged


def test_nothing_is_left_behind(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Stopping leaves no thread, no socket and no log record above INFO."""
    caplog.set_level(logging.WARNING)
    with Sandbox(clock="manual") as sandbox:
        sandbox.fault("/v1/sessions", hang=True)
        with pytest.raises(httpx.ReadTimeout):
            client(sandbox).post("/v1/sessions", timeout=httpx.Timeout(5, read=0.01))
        host, port = sandbox.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as half:
            request = f"POST /fast-spec HTTP/1.1\r\nhost: {host}\r\ncontent-length: 9\r\n"
            half.sendall(f"{request}x-api-key: {sandbox.predev_key}\r\n\r\n{{".encode())
            assert sandbox.wait_until(lambda: sandbox.requests["POST", "/fast-spec"] == 1)
        client(sandbox).get("/credits-balance")
    gc.collect()  # an unclosed socket warns when it is collected, and warnings are errors
    assert "budgetguard-sandbox" not in {thread.name for thread in threading.enumerate()}
    assert not [each for each in caplog.records if each.name.startswith("uvicorn")]


SERVE = "from budgetguard.testing.sandbox import serve; serve(credits=12)"


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_alone() -> None:
    """The stand-alone server prints what to paste, serves, and ends cleanly on Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        url = first.split()[2].rstrip(",")
        key = {"authorization": f"Bearer {Sandbox.predev_key}"}
        with httpx.Client(trust_env=False) as http:
            body = http.get(f"{url}/credits-balance", headers=key).json()
        assert body == {"success": True, "creditsRemaining": 12}
        process.send_signal(signal.SIGINT)
        out = process.stdout.read()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")
    assert f"export PREDEV_API_KEY={Sandbox.predev_key}" in out
    assert f"export ANCHORBROWSER_BASE_URL={url}" in out


MISSING = """
import sys
sys.modules["starlette"] = None
import budgetguard.testing.sandbox
"""


def test_import_without_the_extra() -> None:
    """Without starlette the import says what to install."""
    done = subprocess.run(
        [sys.executable, "-c", MISSING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'top folder: python -m pip install ".[sandbox]"' in done.stderr
