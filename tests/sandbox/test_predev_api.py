"""pre.dev's side of the sandbox, over a real socket."""

import json
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import jsonschema
import pytest

from budgetguard.testing.sandbox import DEEP_SPEC, FAST_SPEC, Sandbox
from budgetguard.testing.sandbox.specs import Kind

Client = Callable[..., httpx.Client]
HOUR = 3600.0
TASK = {"url": "https://example.com"}


def submit(http: httpx.Client, path: str = "/deep-spec") -> str:
    """Submit a spec asynchronously and return its id."""
    reply = http.post(path, json={"input": "A shop", "async": True}).raise_for_status().json()
    assert reply == {"specId": reply["specId"], "status": "pending"}
    return str(reply["specId"])


def status(http: httpx.Client, id: str) -> dict[str, Any]:
    """Return what /spec-status says."""
    body: dict[str, Any] = http.get(f"/spec-status/{id}").raise_for_status().json()
    return body


def test_balance(client: Client) -> None:
    """The balance endpoint reports the account, also in parts of a credit."""
    with Sandbox(credits=42) as sandbox:
        body = client(sandbox).get("/credits-balance").json()
        assert body == {"success": True, "creditsRemaining": 42}
    with Sandbox(credits="42.5") as sandbox:
        # The page's text says number, its OpenAPI description integer.
        assert client(sandbox, checked=False).get("/credits-balance").text.endswith(":42.5}")
        with pytest.raises(jsonschema.ValidationError):
            client(sandbox).get("/credits-balance")


@pytest.mark.parametrize(
    "headers",
    [{"authorization": ""}, {"authorization": "Bearer wrong"}, {"authorization": "Basic abc"}],
)
def test_unauthorized(client: Client, manual: Sandbox, headers: dict[str, str]) -> None:
    """Without the key every endpoint answers 401 and starts nothing."""
    http = client(manual, **headers)
    for path in ("/credits-balance", "/spec-status/x", "/browser-agent/x"):
        assert http.get(path).status_code == 401
    for path in ("/fast-spec", "/deep-spec", "/browser-agent"):
        reply = http.post(path, json={})
        assert (reply.status_code, reply.json()["error"]) == (401, "Unauthorized")
    assert not manual.predev.operations


def test_either_header_authorizes(client: Client, manual: Sandbox) -> None:
    """The key may come as x-api-key."""
    http = client(manual, authorization="", **{"x-api-key": manual.predev_key})
    assert http.get("/credits-balance").status_code == 200


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/fast-spec", b"{}"),
        ("/fast-spec", b'{"input": " "}'),
        ("/deep-spec", b'{"input": 7}'),
        ("/deep-spec", b"[" * 60_000),
        ("/deep-spec", b"\xff"),
        ("/browser-agent", b'{"tasks": []}'),
        ("/browser-agent", b'{"tasks": [{}]}'),
        ("/browser-agent", b'{"tasks": [{"url": "x"}], "concurrency": 21}'),
    ],
)
def test_bad_requests(client: Client, manual: Sandbox, path: str, content: bytes) -> None:
    """An invalid request is a 400 in the documented shape, and costs nothing."""
    reply = client(manual).post(path, content=content)
    assert reply.status_code == 400
    assert set(reply.json()) == {"error", "message"}
    assert manual.predev.charged == 0


@pytest.mark.parametrize("path", ["/spec-status/none", "/browser-agent/none", "/nowhere"])
def test_not_found(client: Client, manual: Sandbox, path: str) -> None:
    """Unknown ids and paths are 404."""
    assert client(manual).get(path).status_code == 404


@pytest.mark.parametrize(("path", "kind"), [("/fast-spec", FAST_SPEC), ("/deep-spec", DEEP_SPEC)])
def test_spec_is_booked_per_inference(client: Client, path: str, kind: Kind) -> None:
    """The balance falls inference by inference, and creditsUsed says by how much."""
    with Sandbox(credits=100, clock="manual") as sandbox:
        http = client(sandbox)
        id = submit(http, path)
        assert status(http, id)["status"] == "pending"
        seen = [Decimal(0)]
        while (body := status(http, id))["status"] != "completed":
            sandbox.advance(1)
            assert sandbox.predev.balance == 100 - sandbox.predev.charged
            assert http.get("/credits-balance").json()["creditsRemaining"] == sandbox.predev.balance
            seen.append(sandbox.predev.charged)
        assert seen == sorted(seen)
        assert len(set(seen)) == kind.inferences + 1
        assert kind.credits[0] <= body["creditsUsed"] == seen[-1] <= kind.credits[1]
        assert kind.seconds[0] <= len(seen) - 1 <= kind.seconds[1]
        assert (sandbox.predev.finished, sandbox.predev.died) == (1, 0)
        assert sandbox.predev.wasted == 0


def test_costs_follow_from_seed_and_order(client: Client) -> None:
    """Two sandboxes of one seed charge the same, and another seed something else."""

    def costs(seed: int) -> list[Decimal]:
        with Sandbox(credits=1000, clock="manual", seed=seed) as sandbox:
            http = client(sandbox)
            for path in ("/deep-spec", "/fast-spec", "/deep-spec"):
                submit(http, path)
            sandbox.advance(HOUR)
            return [each.charged for each in sandbox.predev.operations.values()]

    assert costs(7) == costs(7) != costs(8)


def test_synchronous_spec_waits_for_its_end(client: Client, manual: Sandbox) -> None:
    """A synchronous submission answers with the whole spec once it is done."""
    replies = []
    http = client(manual)
    thread = threading.Thread(
        target=lambda: replies.append(http.post("/fast-spec", json={"input": "A shop"}))
    )
    thread.start()
    assert manual.wait_until(lambda: manual.predev.running == 1)
    manual.advance(29)
    assert not replies
    manual.advance(HOUR)
    thread.join()
    assert replies[0].status_code == 200
    assert replies[0].json() == status(http, replies[0].json()["_id"])


def test_out_of_credits_half_way(client: Client) -> None:
    """An inference that cannot be paid ends the spec; what it had been charged is lost."""
    with Sandbox(credits=8, clock="manual") as sandbox:
        http = client(sandbox)
        id = submit(http)
        sandbox.advance(HOUR)
        body = status(http, id)
        assert body["status"] == "failed"
        assert "insufficient credits" in body["errorMessage"]
        assert 0 < body["creditsUsed"] == sandbox.predev.wasted == 8 - sandbox.predev.balance
        assert (sandbox.predev.died, sandbox.predev.finished) == (1, 0)
        assert sandbox.predev.lowest_balance >= 0


def test_out_of_credits_half_way_in_a_synchronous_call(client: Client) -> None:
    """A synchronous call whose spec dies answers with the documented 402."""
    with Sandbox(credits=8, speed=1e6) as sandbox:
        reply = client(sandbox).post("/deep-spec", json={"input": "A shop"})
        assert reply.status_code == 402
        body = reply.json()
        assert (body["error"], body["generationsAvailable"]) == ("Insufficient credits", 0)
        assert "code" not in body
        assert sandbox.predev.wasted > 0


def test_out_of_credits_at_the_start(client: Client) -> None:
    """With a balance of zero nothing starts, synchronously or not."""
    with Sandbox(credits=0) as sandbox:
        http = client(sandbox)
        for body in ({"input": "x"}, {"input": "x", "async": True}):
            assert http.post("/fast-spec", json=body).status_code == 402
        reply = http.post("/browser-agent", json={"tasks": [TASK] * 5})
        assert reply.status_code == 402
        assert reply.json() == {
            "error": "Need ~0.5 credits, have 0.00. Buy more to continue.",
            "code": "INSUFFICIENT_CREDITS",
            "actionUrl": "https://pre.dev/projects/key?upgrade=credits",
        }
        assert (sandbox.predev.refused, sandbox.predev.operations) == (3, {})


def test_overdraft_dips_by_less_than_one_inference(client: Client) -> None:
    """With overdraft the last inference runs and is then charged, even below zero."""
    lowest = []
    for seed in range(20):
        with Sandbox(credits=8, clock="manual", seed=seed, overdraft=True) as sandbox:
            submit(client(sandbox))
            sandbox.advance(HOUR)
            assert sandbox.predev.lowest_balance == sandbox.predev.balance
            lowest.append(sandbox.predev.balance)
    assert min(lowest) < 0


def test_generation_goes_on_without_its_client(client: Client, manual: Sandbox) -> None:
    """A spec is charged in full, even if its client gave up."""
    http = client(manual)
    with pytest.raises(httpx.ReadTimeout):
        http.post("/deep-spec", json={"input": "x"}, timeout=httpx.Timeout(5, read=0.01))
    assert manual.wait_until(lambda: manual.predev.running == 1)
    manual.advance(HOUR)
    assert manual.predev.finished == 1
    assert manual.predev.charged >= 10


def test_lag_hides_charges_for_a_while(client: Client) -> None:
    """The reported balance is the true one less what was charged in the last lag seconds."""
    with Sandbox(credits=100, clock="manual", lag=600) as sandbox:
        http = client(sandbox)
        submit(http)
        sandbox.advance(300)
        true = sandbox.predev.balance
        assert true < 100
        assert http.get("/credits-balance").json()["creditsRemaining"] == 100
        sandbox.predev.top_up(5)
        assert sandbox.predev.reported == 105
        sandbox.advance(600)
        assert sandbox.predev.reported == true + 5


def test_batch_of_browser_tasks(client: Client, manual: Sandbox) -> None:
    """Each task is charged its floor at submission and its meter when it succeeds."""
    http = client(manual)
    stub = http.post("/browser-agent", json={"tasks": [TASK] * 7, "async": True}).json()
    assert (stub["status"], stub["totalCreditsUsed"]) == ("processing", 0)
    assert manual.predev.charged == Decimal("0.7")
    manual.advance(HOUR)
    body = http.get(f"/browser-agent/{stub['id']}").json()
    assert (body["status"], body["completed"], body["total"]) == ("completed", 7, 7)
    assert {each["status"] for each in body["results"]} == {"SUCCESS"}
    used = sum(Decimal(str(each["creditsUsed"])) for each in body["results"])
    assert used == Decimal(str(body["totalCreditsUsed"])) == manual.predev.charged


def test_concurrency_of_a_batch(client: Client) -> None:
    """One browser takes its tasks one after the other, twenty take them at once."""
    ends = []
    for concurrency in (1, 20):
        with Sandbox(clock="manual") as sandbox:
            tasks = {"tasks": [TASK] * 20, "concurrency": concurrency, "async": True}
            client(sandbox).post("/browser-agent", json=tasks)
            seconds = 0
            while not sandbox.predev.finished:
                sandbox.advance(1)
                seconds += 1
            ends.append(seconds)
    assert ends[0] >= 200
    assert ends[1] <= 30


def test_batch_dies_half_way(client: Client) -> None:
    """A task that cannot be paid ends the batch with 402; the tasks still open end as errors."""
    with Sandbox(credits=1, speed=1e6) as sandbox:
        http = client(sandbox)
        reply = http.post("/browser-agent", json={"tasks": [TASK] * 9})
        assert (reply.status_code, reply.json()["code"]) == (402, "INSUFFICIENT_CREDITS")
        (operation,) = sandbox.predev.operations.values()
        body = http.get(f"/browser-agent/{operation.id}").json()
        assert "ERROR" in {each["status"] for each in body["results"]}
        assert sandbox.predev.wasted == operation.charged == Decimal(str(body["totalCreditsUsed"]))


def test_batch_bounds(client: Client) -> None:
    """More than 1,000 tasks are too large for a batch, and for all live batches together."""
    with Sandbox(credits=1000, clock="manual") as sandbox:
        http = client(sandbox)
        large = http.post("/browser-agent", json={"tasks": [TASK] * 1001})
        assert (large.status_code, large.json()["code"]) == (400, "BATCH_TOO_LARGE")
        tasks = {"tasks": [TASK] * 1000, "async": True}
        assert http.post("/browser-agent", json=tasks).status_code == 200
        full = http.post("/browser-agent", json={"tasks": [TASK]})
        assert (full.status_code, full.json()["code"]) == (429, "QUEUE_FULL")
        sandbox.advance(10 * HOUR)
        assert http.post("/browser-agent", json=tasks).status_code == 200


def frames(text: str) -> list[tuple[str, Any]]:
    """Read server-sent events."""
    first, *rest = text.strip().split("\n\n")
    assert first == ":ok"
    lines = [frame.split("\n") for frame in rest]
    return [(event[7:], json.loads(data[6:])) for event, data in lines]


def test_stream(client: Client) -> None:
    """A stream reports every task and ends with the whole batch."""
    with Sandbox(speed=1e6) as sandbox:
        reply = client(sandbox).post("/browser-agent", json={"tasks": [TASK] * 3, "stream": True})
        assert reply.headers["content-type"].startswith("text/event-stream")
        *before, (last, batch) = frames(reply.text)
        assert [event for event, _ in before].count("task_result") == 3
        assert last == "done"
        assert Decimal(str(batch["totalCreditsUsed"])) == sandbox.predev.charged


def test_stream_tells_as_it_goes(client: Client, manual: Sandbox) -> None:
    """A stream gives its frames when they happen."""
    tasks = {"tasks": [TASK] * 2, "stream": True}
    with client(manual).stream("POST", "/browser-agent", json=tasks) as reply:
        lines = reply.iter_lines()
        started = [next(lines) for _ in range(8)]
        assert started.count("event: task_event") == 2
        manual.advance(HOUR)
        assert [line for line in lines if line.startswith("event: ")] == [
            "event: task_result",
            "event: task_result",
            "event: done",
        ]


def test_stream_out_of_credits(client: Client) -> None:
    """A stream whose batch cannot be paid ends with an error frame."""
    with Sandbox(credits=1, speed=1e6) as sandbox:
        reply = client(sandbox).post("/browser-agent", json={"tasks": [TASK] * 9, "stream": True})
        event, data = frames(reply.text)[-1]
        assert (event, data["code"]) == ("error", "INSUFFICIENT_CREDITS")
