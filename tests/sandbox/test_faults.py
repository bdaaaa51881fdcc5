"""Faults on request, from Python and over HTTP."""

import gzip
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from budgetguard.testing.sandbox import Sandbox

Client = Callable[..., httpx.Client]
BALANCE = "/credits-balance"
CREDITS = "/v1/projects/sandbox-project/credits"


@pytest.mark.parametrize(
    ("path", "status"),
    [(BALANCE, 400), (BALANCE, 401), (BALANCE, 500), (CREDITS, 404), (CREDITS, 500)],
)
def test_documented_errors(client: Client, manual: Sandbox, path: str, status: int) -> None:
    """A status without a body of its own is answered with the body its page describes."""
    manual.fault(path, status=status)
    assert client(manual).get(path).status_code == status


@pytest.mark.parametrize("status", [402, 403, 429, 500, 503])
@pytest.mark.parametrize("path", ["/fast-spec", "/browser-agent", "/v1/sessions"])
def test_every_path_has_an_error_body(
    client: Client, manual: Sandbox, path: str, status: int
) -> None:
    """Where a page gives no words, the body still has the provider's shape."""
    manual.fault("*", status=status)
    reply = client(manual).post(path)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["code"] == status) if path.startswith("/v1/") else isinstance(error, str)


def test_times_and_order(client: Client, manual: Sandbox) -> None:
    """Faults are used up in the order they were asked for; all requests are counted."""
    http = client(manual, checked=False)
    manual.fault(BALANCE, status=500, times=2)
    manual.fault("/credits-*", status=503, times=1)
    manual.fault(BALANCE, method="POST", status=501)
    seen = [http.get(BALANCE).status_code for _ in range(4)]
    assert seen == [500, 500, 503, 200]
    assert manual.requests["GET", BALANCE] == manual.balance_requests == 4


def test_until_cleared(client: Client, manual: Sandbox) -> None:
    """Without `times` a fault remains until faults are cleared, and affects its path alone."""
    http = client(manual)
    manual.fault(BALANCE, status=500)
    assert [http.get(BALANCE).status_code for _ in range(3)] == [500] * 3
    assert http.get(CREDITS).status_code == 200
    manual.clear_faults()
    assert http.get(BALANCE).status_code == 200


@pytest.mark.parametrize("wait", [7, "Wed, 04 Nov 2026 00:00:00 GMT"])
def test_retry_after(client: Client, manual: Sandbox, wait: int | str) -> None:
    """A fault with `retry_after` alone is a 429, in seconds or with a date."""
    manual.fault(BALANCE, retry_after=wait)
    reply = client(manual, checked=False).get(BALANCE)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, str(wait))


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"\xff\x00", b"\xff\x00"),
        ("NaN", b"NaN"),
        ("", b""),
        ({"success": True}, b'{"success": true}'),
        ([], b"[]"),
        (0, b"0"),
    ],
)
def test_bodies(client: Client, manual: Sandbox, body: object, sent: bytes) -> None:
    """Bytes and text are sent as they are, anything else as JSON."""
    manual.fault(BALANCE, body=body, content_type="text/html", headers={"X-Fault": "yes"})
    reply = client(manual, checked=False).get(BALANCE)
    assert (reply.status_code, reply.content) == (200, sent)
    assert (reply.headers["content-type"], reply.headers["x-fault"]) == ("text/html", "yes")


def test_redirect(client: Client, manual: Sandbox) -> None:
    """A redirect can lead anywhere, and a client that follows it gets an ordinary reply."""
    manual.fault(BALANCE, redirect="/elsewhere", times=1)
    manual.fault("/elsewhere", redirect="https://example.com/", status=308)
    http = client(manual, checked=False)
    first = http.get(BALANCE)
    assert (first.status_code, first.headers["location"]) == (302, "/elsewhere")
    assert http.get("/elsewhere").status_code == 308


def test_gzip_and_size(client: Client, manual: Sandbox) -> None:
    """The provider's own reply can be padded and compressed, and is still the same JSON."""
    http = client(manual)
    plain = http.get(BALANCE).json()
    manual.fault(BALANCE, gzip=True, size=1_000_000)
    with client(manual, checked=False).stream("GET", BALANCE) as reply:
        raw = b"".join(reply.iter_raw())
    assert len(raw) < 10_000
    assert len(gzip.decompress(raw)) == 1_000_000
    assert http.get(BALANCE).json() == plain


def test_drip(client: Client, manual: Sandbox) -> None:
    """A dripping answer comes byte by byte, and whole in the end."""
    http = client(manual)
    whole = http.get(BALANCE).content
    manual.fault(BALANCE, drip=0)
    assert http.get(BALANCE).content == whole
    manual.clear_faults()
    manual.fault(BALANCE, drip=3600)
    with client(manual, checked=False).stream("GET", BALANCE) as reply:
        assert next(reply.iter_raw(1)) == whole[:1]


def test_latency_and_the_real_answer(client: Client, manual: Sandbox) -> None:
    """A reply that is delayed is the provider's own."""
    manual.fault(BALANCE, latency=0.001)
    assert client(manual).get(BALANCE).json()["creditsRemaining"] == 100
    manual.fault(CREDITS, latency=3600)
    with pytest.raises(httpx.ReadTimeout):
        client(manual).get(CREDITS, timeout=httpx.Timeout(5, read=0.01))


def test_hang(client: Client, manual: Sandbox) -> None:
    """A request that hangs gets no reply, and does no work."""
    manual.fault("/v1/sessions", hang=True, times=1)
    http = client(manual)
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/sessions", timeout=httpx.Timeout(5, read=0.01))
    assert manual.wait_until(lambda: manual.requests.total() == 1)
    assert not manual.anchor.operations
    assert http.post("/v1/sessions").status_code == 200


def test_reset(client: Client, manual: Sandbox) -> None:
    """A reset connection is an error to the client, and the next one is fine."""
    manual.fault(BALANCE, reset=True, times=1)
    http = client(manual)
    with pytest.raises(httpx.ReadError):
        http.get(BALANCE)
    assert http.get(BALANCE).status_code == 200


@pytest.mark.parametrize(
    ("fault", "error"),
    [({"statsu": 500}, TypeError), ({"status": 99}, ValueError), ({"times": 0}, ValueError)],
)
def test_faults_that_are_none(
    client: Client, manual: Sandbox, fault: dict[str, Any], error: type[Exception]
) -> None:
    """A misspelt or impossible fault is refused when it is added."""
    with pytest.raises(error):
        manual.fault(BALANCE, **fault)
    reply = client(manual).post("/_sandbox/faults", json={"pattern": BALANCE, **fault})
    assert reply.status_code == 400
    assert client(manual).get(BALANCE).status_code == 200


def test_faults_over_http(client: Client, manual: Sandbox) -> None:
    """Faults can be added over HTTP, and never affect the sandbox's own routes."""
    http = client(manual)
    fault = {"pattern": "*", "status": 500}
    assert http.post("/_sandbox/faults", json=fault).json() == {"success": True}
    assert http.get(BALANCE).status_code == 500
    assert http.delete("/_sandbox/faults").json() == {"success": True}
    assert http.get(BALANCE).status_code == 200
    assert http.post("/_sandbox/faults", json={}).status_code == 400
    assert set(manual.requests) == {("GET", BALANCE)}


def test_failures_by_chance(client: Client) -> None:
    """A share of the requests fails, the same ones for the same seed, and does nothing."""
    runs = []
    for seed in (1, 1, 2):
        with Sandbox(credits=100, clock="manual", fail=0.5, seed=seed) as sandbox:
            http = client(sandbox, checked=False)
            post = partial(http.post, "/fast-spec", json={"input": "x", "async": True})
            statuses = [post().status_code for _ in range(40)]
            assert len(sandbox.predev.operations) == statuses.count(200)
            runs.append(statuses)
    assert runs[0] == runs[1] != runs[2]
    assert set(runs[0]) == {200, 500, 503}
    with Sandbox(fail=1) as sandbox:
        assert client(sandbox, checked=False).get("/credits-balance").status_code in {500, 503}
        assert client(sandbox).get("/_sandbox/state").status_code == 200


def test_latency(client: Client) -> None:
    """Every reply is delayed: a client with a shorter time-out gets none."""
    with Sandbox(latency=3000) as sandbox:
        impatient = httpx.Timeout(5, read=0.01)
        with pytest.raises(httpx.ReadTimeout):
            client(sandbox).get("/credits-balance", timeout=impatient)
    with Sandbox(latency=0.001) as sandbox:
        assert client(sandbox).get("/credits-balance").status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        {"latency": -1},
        {"latency": float("nan")},
        {"fail": 1.5},
        {"fail": "0.5"},
        {"lag": -1},
        {"max_concurrent_browsers": -2},
    ],
)
def test_options_within_bounds(options: dict[str, Any]) -> None:
    """A number out of bounds is refused, by the name of its argument."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .* from"):
        Sandbox(**options)
