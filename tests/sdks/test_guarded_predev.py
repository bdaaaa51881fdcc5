"""pre.dev's SDK behind `guarded()`, against the sandbox: what is held, and what becomes of it."""

import gc
import inspect
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest
from accounts import (
    AT_ONCE,
    DONE,
    TASKS,
    Elapse,
    OpenSandbox,
    Outcomes,
    anchor_guard,
    impatient,
    predev_guard,
)
from predev_api import InsufficientCreditsError, PredevAPI, PredevAPIError
from predev_api.exceptions import QueueFullError, SubscriptionRequiredError

from budgetguard import Guard, InsufficientCredits, PreDev, learned
from budgetguard._core.activation import ACTIVATION
from budgetguard._engine.binding import binding_of
from budgetguard.integrations.predev import guarded
from budgetguard.testing import FakeProvider
from budgetguard.testing.sandbox import Sandbox

Begin = Callable[..., tuple[Sandbox, Guard, Any]]
Balanced = Callable[[Sandbox, Guard], None]

CLEAR = PreDev.linger + PreDev.lag

SPENDS = {"fast_spec", "deep_spec", "fast_spec_async", "deep_spec_async", "browser_agent"}
FREE = {
    "get_spec_status",
    "list_specs",
    "find_specs",
    "get_credits_balance",
    "get_browser_agent",
    "list_browser_agents",
    "browser_agent_status",
}


def running(guard: Guard) -> int:
    """How many calls run, once all finished ones are charged."""
    account = binding_of(guard).account
    account.flush()
    return account.ledger.running


def sdk(
    sandbox: Sandbox,
    guard: Guard,
    base_url: str | None = None,
    *,
    follow: bool = True,
    **costs: Any,
) -> Any:
    """Make pre.dev's client, guarded; whose replies are no objects, whatever its types say."""
    api = PredevAPI(sandbox.predev_key, base_url or sandbox.url)
    return guarded(api, guard, costs=costs, follow=follow)


@pytest.fixture
def begin(open_sandbox: OpenSandbox) -> Begin:
    """Open a sandbox; give it with a guard of its account, and pre.dev's client behind it."""

    def begin(
        credits: float | str,
        on_event: Outcomes | None = None,
        *,
        follow: bool = True,
        **options: Any,
    ) -> tuple[Sandbox, Guard, Any]:
        sandbox = open_sandbox(credits, **options)
        guard = predev_guard(sandbox, on_event=on_event)
        return sandbox, guard, sdk(sandbox, guard, follow=follow)

    return begin


@pytest.fixture
def balanced(elapse: Elapse) -> Balanced:
    """Compare the guard's ledger with the provider's records: no hold is open, and nothing was promised twice."""

    def balanced(sandbox: Sandbox, guard: Guard) -> None:
        assert guard.available is not None
        assert running(guard) == 0
        assert guard.available <= sandbox.predev.balance
        assert sandbox.predev.lowest_balance >= 0
        assert sandbox.predev.died == 0
        if sandbox.state()["predev"]["running"] == 0:
            elapse_all(sandbox, guard, elapse)
            assert guard.available == sandbox.predev.balance

    return balanced


def elapse_all(sandbox: Sandbox, guard: Guard, elapse: Elapse) -> None:
    """Wait until a balance shows everything that was spent."""
    elapse(sandbox, CLEAR)
    guard.balance(max_age=0)


@pytest.fixture
def full() -> Iterator[str]:
    """Give a base URL at which connections are neither taken nor refused."""
    with socket.socket() as busy, socket.socket() as first, socket.socket() as second:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(busy.getsockname())
        yield f"http://127.0.0.1:{busy.getsockname()[1]}"


def test_every_method_of_the_sdk_is_known() -> None:
    """An SDK's newer version cannot bring a method that spends and that nobody has priced."""
    api, guard = PredevAPI("key"), Guard(FakeProvider(0))
    public = {
        name
        for name in dir(PredevAPI)
        if not name.startswith("_") and callable(getattr(PredevAPI, name))
    }
    assert public == SPENDS | FREE
    through: Any = guarded(api, guard)
    needs: dict[str, Any] = {"browser_agent": TASKS}
    for name in SPENDS:
        with pytest.raises(InsufficientCredits, match=rf"^PredevAPI\.{name} needs"):
            getattr(through, name)(needs.get(name, "A shop"))


@pytest.mark.parametrize(
    ("name", "cost"), [("fast_spec", PreDev.FAST_SPEC), ("deep_spec", PreDev.DEEP_SPEC)]
)
def test_a_spec_is_held_and_settled(
    open_sandbox: OpenSandbox,
    elapse: Elapse,
    pool: ThreadPoolExecutor,
    balanced: Balanced,
    name: str,
    cost: int,
) -> None:
    """Its highest cost while it is written, what it used from then on."""
    sandbox = open_sandbox(100)
    guard = predev_guard(sandbox)
    spec = pool.submit(getattr(sdk(sandbox, guard), name), input_text="A shop")
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    assert guard.available == 100 - cost
    elapse(sandbox, DONE)
    used = spec.result()["creditsUsed"]
    assert guard.available == 100 - used
    balanced(sandbox, guard)


@pytest.mark.parametrize("submitted", [False, True], ids=["waits", "submits"])
def test_a_learned_cost(
    open_sandbox: OpenSandbox, elapse: Elapse, pool: ThreadPoolExecutor, submitted: bool
) -> None:
    """It replaces the upper bound; status requests let it grow, and the last one teaches the cost."""
    sandbox = open_sandbox(500)
    guard = predev_guard(sandbox, fresh_for=86_400)
    name = "deep_spec_async" if submitted else "deep_spec"
    guard.balance()
    api = sdk(sandbox, guard, **{name: learned(4)})
    used = []
    for _ in range(2):
        before, largest = guard.available, guard.estimate(f"PredevAPI.{name}").largest
        assert before is not None
        if submitted:
            id = api.deep_spec_async("A shop")["specId"]
            assert before - guard.available == max(4, largest or 0)
            elapse(sandbox, DONE / 5)
            so_far = api.get_spec_status(id)["creditsUsed"]
            assert before - guard.available == max(4, largest or 0, Decimal(str(so_far)) * 5 / 4)
            elapse(sandbox, DONE)
            used.append(api.get_spec_status(id)["creditsUsed"])
        else:
            spec = pool.submit(api.deep_spec, "A shop")
            assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
            assert before - guard.available == max(4, largest or 0)
            elapse(sandbox, DONE)
            used.append(spec.result()["creditsUsed"])
    found = guard.estimate(f"PredevAPI.{name}")
    assert (found.settlements, found.largest) == (2, Decimal(str(max(used))))
    assert guard.estimate("PredevAPI.fast_spec").cost == PreDev.FAST_SPEC


@pytest.mark.parametrize("used", [None, "N/A", True, -1, float("nan"), 1e13], ids=str)
@pytest.mark.parametrize(
    ("call", "route", "field", "cost"),
    [
        (lambda api: api.deep_spec("A shop"), "/deep-spec", "creditsUsed", 50),
        (lambda api: api.browser_agent(TASKS), "/browser-agent", "totalCreditsUsed", 2),
    ],
    ids=["spec", "browser"],
)
def test_a_cost_that_makes_no_sense(
    open_sandbox: OpenSandbox,
    used: object,
    call: Callable[[Any], Any],
    route: str,
    field: str,
    cost: int,
) -> None:
    """The caller gets the reply, and it counts at what was held."""
    sandbox = open_sandbox(100)
    sandbox.fault(route, body={"status": "completed", field: used})
    guard = predev_guard(sandbox)
    assert call(sdk(sandbox, guard))["status"] == "completed"
    assert guard.available == 100 - cost
    assert running(guard) == 0


def test_a_crowd_goes_as_far_as_the_credits(
    begin: Begin, elapse: Elapse, pool: ThreadPoolExecutor, balanced: Balanced
) -> None:
    """Ten threads share one client: four fit, the others are refused before anything is sent."""
    sandbox, guard, api = begin(249)
    calls = [pool.submit(api.deep_spec, "A shop") for _ in range(10)]
    assert sandbox.wait_until(lambda: sandbox.predev.running == 4)
    for refused in islice(as_completed(calls), 6):
        assert isinstance(refused.exception(), InsufficientCredits)
    elapse(sandbox, DONE)
    assert sum(call.exception() is None for call in calls) == 4
    assert sandbox.requests["POST", "/deep-spec"] == sandbox.predev.finished == 4
    balanced(sandbox, guard)


@pytest.mark.parametrize("name", ["fast_spec", "deep_spec"])
def test_submitted_and_polled(
    open_sandbox: OpenSandbox,
    elapse: Elapse,
    balanced: Balanced,
    name: str,
) -> None:
    """Each poll moves what was charged out of the hold, and the last one settles it."""
    sandbox = open_sandbox(100)
    guard = predev_guard(sandbox, sole_spender=False)
    cost = {"fast_spec": 10, "deep_spec": 50}[name]
    api = sdk(sandbox, guard)
    id = getattr(api, f"{name}_async")("A shop")["specId"]
    polls = 0
    while True:
        elapse(sandbox, 20)
        spec = api.get_spec_status(spec_id=id)
        if spec["status"] == "completed":
            break
        elapse(sandbox, PreDev.lag)
        guard.balance(max_age=0)
        # Only what was charged after the balance request was sent is counted twice.
        assert guard.available == 100 - cost - (sandbox.predev.charged - spec["creditsUsed"])
        polls += 1
    assert polls
    assert api.get_spec_status(id)["creditsUsed"] == sandbox.predev.charged
    balanced(sandbox, guard)


def test_many_threads_hear_of_the_end(
    begin: Begin, elapse: Elapse, pool: ThreadPoolExecutor, balanced: Balanced
) -> None:
    """A hold is settled once, and every caller gets the answer."""
    outcomes = Outcomes()
    sandbox, guard, api = begin(100, on_event=outcomes)
    id = api.deep_spec_async("A shop")["specId"]
    elapse(sandbox, DONE)
    specs = list(pool.map(api.get_spec_status, [id] * 16))
    assert {spec["status"] for spec in specs} == {"completed"}
    assert outcomes.kinds == ["settled"]
    balanced(sandbox, guard)


def test_the_end_is_heard_of_during_a_poll(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was told before that it goes on gets that answer, and the hold is settled once."""
    outcomes = Outcomes()
    sandbox, guard, api = begin(100, on_event=outcomes)
    id = api.deep_spec_async("A shop")["specId"]
    bodies = ({"status": "processing", "creditsUsed": 3}, {"status": "completed", "creditsUsed": 9})
    for body in bodies:
        sandbox.fault("/spec-status/*", times=1, body=body)

    def in_between(micro: int) -> Decimal:
        monkeypatch.undo()
        monkeypatch.setenv("NO_PROXY", "*")
        assert api.get_spec_status(id)["status"] == "completed"
        return Decimal(micro) / 10**6

    monkeypatch.setattr("budgetguard.integrations.predev.to_credits", in_between)
    assert api.get_spec_status(id)["status"] == "processing"
    assert outcomes.kinds == ["settled"]
    assert guard.available == 91


def test_a_poll_that_is_late_changes_nothing(begin: Begin, elapse: Elapse) -> None:
    """A stub of work that is over already, and work of somebody else, are passed on."""
    sandbox, guard, api = begin(100)
    id = api.fast_spec_async("A shop")["specId"]
    elapse(sandbox, DONE)
    used = api.get_spec_status(id)["creditsUsed"]
    sandbox.fault("/spec-status/*", body={"status": "processing", "creditsUsed": 3})
    assert api.get_spec_status(id)["status"] == "processing"
    assert api.get_spec_status("spec_of_somebody_else")["creditsUsed"] == 3
    assert guard.available == 100 - used


def test_a_list_settles_too(begin: Begin) -> None:
    """Entries that name their cost count like a poll; others, and strange replies, do not."""
    sandbox, guard, api = begin(100)
    first, second = (api.deep_spec_async("A shop")["specId"] for _ in range(2))
    sandbox.fault(
        "/list-specs", times=1, body={"specs": [{"_id": first, "status": "completed"}, None]}
    )
    sandbox.fault("/list-specs", body=["?"])
    entries = [
        {"_id": first, "status": "completed", "creditsUsed": 12},
        {"_id": second, "status": "processing", "creditsUsed": 7},
        {"_id": "spec_of_somebody_else", "status": "completed", "creditsUsed": 30},
    ]
    sandbox.fault("/find-specs", body={"specs": entries})
    api.list_specs()
    assert api.list_specs(limit=3) == ["?"]
    assert running(guard) == 2
    assert api.find_specs("shop")["specs"] == entries
    assert running(guard) == 1
    assert guard.available == 100 - 12 - 50


def test_failed_at_a_known_cost(begin: Begin, elapse: Elapse) -> None:
    """A spec that failed is a 200 with its cost in it."""
    sandbox, guard, api = begin(100)
    id = api.deep_spec_async("A shop")["specId"]
    elapse(sandbox, 60)
    sandbox.predev.spend(100)
    elapse(sandbox, DONE)
    spec = api.get_spec_status(id)
    assert spec["status"] == "failed"
    assert running(guard) == 0
    assert guard.available == 100 - spec["creditsUsed"]


def test_failed_at_an_unknown_cost(begin: Begin, elapse: Elapse) -> None:
    """What is known was charged, and the rest may have been."""
    outcomes = Outcomes()
    sandbox, guard, api = begin(100, on_event=outcomes)
    id = api.deep_spec_async("A shop")["specId"]
    for body in ({"status": "processing", "creditsUsed": 20}, {"status": "failed"}):
        sandbox.clear_faults()
        sandbox.fault("/spec-status/*", body=body)
        api.get_spec_status(id)
    assert outcomes.kinds == ["kept"]
    elapse(sandbox, PreDev.lag)
    guard.balance(max_age=0)
    assert guard.available == 100 - 30  # 20 of the 50 are the balance's to show by now


@pytest.mark.parametrize("submitted", ["spec", "batch"])
def test_what_predev_does_not_know_is_kept(
    begin: Begin, elapse: Elapse, balanced: Balanced, submitted: str
) -> None:
    """Nobody will hear of its end; an error of the server says nothing about it."""
    outcomes = Outcomes()
    sandbox, guard, api = begin(100, on_event=outcomes)
    if submitted == "spec":
        id, poll, route = api.deep_spec_async("A shop")["specId"], api.get_spec_status, "/spec-*"
    else:
        stub = api.browser_agent(TASKS, run_async=True)
        id, poll, route = stub["id"], api.get_browser_agent, "/browser-agent/*"
    for status, ended in ((500, []), (404, ["kept"]), (404, ["kept"])):
        sandbox.fault(route, status=status, body={"error": "No"}, times=1)
        with pytest.raises(PredevAPIError, match=str(status)):
            poll(id)
        assert outcomes.kinds == ended
    elapse(sandbox, DONE)
    assert poll(id)["status"] == "completed"
    balanced(sandbox, guard)


@pytest.mark.parametrize("fault", [{"reset": True}, {"status": 500}, {"body": b"<html>"}], ids=str)
@pytest.mark.parametrize("name", ["deep_spec", "deep_spec_async"])
def test_an_unknown_outcome_is_kept(
    begin: Begin, elapse: Elapse, balanced: Balanced, name: str, fault: dict[str, Any]
) -> None:
    """A spec may be written behind an error: its cost counts until a late enough balance."""
    outcomes = Outcomes()
    sandbox, guard, api = begin(100, on_event=outcomes, follow=False)
    sandbox.fault("/deep-spec", **fault)
    with pytest.raises(PredevAPIError):
        getattr(api, name)("A shop")
    assert outcomes.kinds == ["kept"]
    elapse(sandbox, CLEAR - 1)
    guard.balance(max_age=0)
    assert guard.available == 50
    balanced(sandbox, guard)


def test_a_submission_without_an_id_is_kept(open_sandbox: OpenSandbox) -> None:
    """Nobody could ask for it."""
    sandbox = open_sandbox(100)
    sandbox.fault("/deep-spec", body={"status": "pending"})
    outcomes = Outcomes()
    guard = predev_guard(sandbox, on_event=outcomes)
    assert sdk(sandbox, guard).deep_spec_async("A shop") == {"status": "pending"}
    assert outcomes.kinds == ["kept"]


def test_an_answer_that_is_not_final_is_followed(begin: Begin) -> None:
    """A reply that says that the work goes on is no settlement, asked for or not."""
    sandbox, guard, api = begin(100)
    sandbox.fault("/deep-spec", body={"_id": "s1", "status": "processing", "creditsUsed": 3})
    sandbox.fault("/spec-status/s1", body={"status": "completed", "creditsUsed": 40})
    api.deep_spec("A shop")
    assert guard.available == 50
    api.get_spec_status("s1")
    assert guard.available == 60


def test_a_timed_out_spec_is_charged_and_kept(
    begin: Begin, elapse: Elapse, balanced: Balanced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider works on for whoever gave up, so that nobody else gets those credits."""
    impatient(monkeypatch, 10, 0.05)
    sandbox, guard, api = begin(60)
    with pytest.raises(PredevAPIError, match="timed out"):
        api.deep_spec("A shop")
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    with pytest.raises(InsufficientCredits):
        api.deep_spec("A shop")
    elapse(sandbox, DONE)
    assert sandbox.predev.finished == 1
    balanced(sandbox, guard)


@pytest.mark.parametrize("name", ["deep_spec", "deep_spec_async", "browser_agent", "stream"])
@pytest.mark.parametrize("why", ["refused", "name", "timeout"])
def test_a_connection_that_was_never_made_releases(
    open_sandbox: OpenSandbox,
    monkeypatch: pytest.MonkeyPatch,
    nobody: str,
    full: str,
    why: str,
    name: str,
) -> None:
    """Nothing was sent: the credits are there for the next call at once."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    impatient(monkeypatch, 0.05, 10)
    sandbox = open_sandbox(100)
    guard = predev_guard(sandbox)
    guard.balance()
    if why == "name":
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    where = {"refused": nobody, "name": "http://api.invalid", "timeout": full}[why]
    api = sdk(sandbox, guard, where)
    with pytest.raises(PredevAPIError, match="Request failed"):
        if name == "stream":
            next(api.browser_agent(TASKS, stream=True))
        else:
            getattr(api, name)(TASKS if name == "browser_agent" else "A shop")
    assert guard.available == 100


BROWSER_GATE = {"error": "Need ~2 credits", "code": "INSUFFICIENT_CREDITS", "actionUrl": "?"}


@pytest.mark.parametrize(
    ("name", "status", "body", "outcomes"),
    [
        ("deep_spec", 401, None, ["released"]),
        ("deep_spec", 403, {"error": "Subscription required"}, ["released"]),
        ("deep_spec", 400, None, ["released"]),
        ("deep_spec", 429, None, ["released"]),
        ("deep_spec", 402, None, ["exhausted", "kept"]),
        ("deep_spec", 402, BROWSER_GATE, ["exhausted", "kept"]),
        ("deep_spec_async", 402, None, ["exhausted", "released"]),
        ("deep_spec", 404, None, ["kept"]),
        ("deep_spec", 503, None, ["kept"]),
        ("browser_agent", 402, BROWSER_GATE, ["exhausted", "released"]),
        ("browser_agent", 402, BROWSER_GATE | {"code": "SUBSCRIPTION_REQUIRED"}, ["released"]),
        ("browser_agent", 429, BROWSER_GATE | {"code": "QUEUE_FULL"}, ["released"]),
        ("browser_agent", 429, BROWSER_GATE | {"code": "RATE_LIMITED"}, ["released"]),
        ("browser_agent", 400, BROWSER_GATE | {"code": "BATCH_TOO_LARGE"}, ["released"]),
        ("browser_agent", 400, BROWSER_GATE | {"code": "NEW_CODE"}, ["kept"]),
        ("browser_agent", 503, None, ["kept"]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_an_error_says_of_the_hold(
    begin: Begin, name: str, status: int, body: object, outcomes: list[str], stream: bool
) -> None:
    """Refusals of a request release, lack of credits is told to the guard, all else is kept."""
    told = Outcomes()
    sandbox, guard, api = begin(100, on_event=told, follow=False)
    sandbox.fault("/*-spec", status=status, body=body)
    sandbox.fault("/browser-agent", status=status, body=body)
    with pytest.raises(PredevAPIError):
        if name == "browser_agent" and stream:
            list(api.browser_agent(TASKS, stream=True))
        else:
            getattr(api, name)(TASKS if name == "browser_agent" else "A shop")
    assert told.kinds == outcomes
    assert running(guard) == 0


def test_after_a_402_nothing_is_sent(
    begin: Begin, elapse: Elapse, pool: ThreadPoolExecutor
) -> None:
    """The provider was asked once; a top-up opens the guard again."""
    sandbox, guard, api = begin(150, follow=False)
    spec = pool.submit(api.deep_spec, "A shop")
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    sandbox.predev.spend(149)
    elapse(sandbox, DONE)
    assert "402" in str(spec.exception())
    with pytest.raises(InsufficientCredits, match="itself refused a call"):
        api.fast_spec("A shop")
    assert sandbox.requests["POST", "/fast-spec"] == 0
    sandbox.predev.top_up(200)
    elapse(sandbox, 5)
    guard.balance(max_age=0)
    elapse_all(sandbox, guard, elapse)
    assert guard.available == sandbox.predev.balance == 200 + 1 - sandbox.predev.charged


def test_a_batch_is_held_and_settled(
    open_sandbox: OpenSandbox,
    elapse: Elapse,
    pool: ThreadPoolExecutor,
    balanced: Balanced,
) -> None:
    """So much a task, then the batch's total."""
    sandbox = open_sandbox(10)
    guard = predev_guard(sandbox)
    batch = pool.submit(sdk(sandbox, guard).browser_agent, TASKS, concurrency=2)
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    assert guard.available == 10 - 4 * PreDev.BROWSER_TASK
    elapse(sandbox, DONE)
    total = Decimal(str(batch.result()["totalCreditsUsed"]))
    assert guard.available == 10 - total
    balanced(sandbox, guard)


def test_a_stubs_zero_is_not_final(begin: Begin, elapse: Elapse, balanced: Balanced) -> None:
    """A submitted batch is held until somebody hears that it is done."""
    sandbox, guard, api = begin(10)
    stub = api.browser_agent(TASKS, run_async=True)
    assert (stub["totalCreditsUsed"], stub["status"]) == (0, "processing")
    assert guard.available == 8
    begun = api.get_browser_agent(stub["id"], include_events=True)
    assert begun["totalCreditsUsed"] == 0.4
    assert running(guard) == 1
    elapse(sandbox, PreDev.lag)
    guard.balance(max_age=0)
    assert guard.available == 8
    elapse(sandbox, DONE)
    done = api.get_browser_agent(stub["id"])
    assert done["status"] == "completed"
    balanced(sandbox, guard)


def test_a_list_of_batches_settles_too(begin: Begin) -> None:
    """An entry that is completed is the end of its hold."""
    sandbox, guard, api = begin(10)
    id = api.browser_agent(TASKS, run_async=True)["id"]
    entry = {"id": id, "status": "completed", "totalCreditsUsed": 1.5}
    sandbox.fault("/list-browser-agents", body={"batches": [entry]})
    assert api.list_browser_agents(status="completed")["batches"] == [entry]
    assert guard.available == Decimal("8.5")


def test_a_stream_is_settled_by_its_last_event(begin: Begin, balanced: Balanced) -> None:
    """It is admitted at its first step, and over with `done`."""
    sandbox, guard, api = begin(3, **AT_ONCE)
    stream = api.browser_agent(TASKS, stream=True)
    assert sandbox.requests["POST", "/browser-agent"] == 0
    events = list(stream)
    assert [each["event"] for each in events].count("task_result") == 4
    total = Decimal(str(events[-1]["data"]["totalCreditsUsed"]))
    assert guard.available == 3 - total == sandbox.predev.balance
    with pytest.raises(InsufficientCredits):
        next(api.browser_agent(TASKS * 2, stream=True))
    assert sandbox.requests["POST", "/browser-agent"] == 1
    assert running(guard) == 0


def frames(*events: tuple[str, str]) -> bytes:
    """Give a body of server-sent events."""
    return "".join(f"event: {name}\ndata: {data}\n\n" for name, data in events).encode()


RESULT = ("task_result", '{"taskIndex": 0, "creditsUsed": 0.3}')


def test_results_move_from_held_to_spent(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """While a stream runs, a balance that includes its results does not count them twice."""
    sandbox = open_sandbox(10)
    done = ("done", '{"totalCreditsUsed": 0.7}')
    sandbox.fault("/browser-agent", body=frames(RESULT, RESULT, done))
    guard = predev_guard(sandbox)
    events = sdk(sandbox, guard).browser_agent(TASKS, stream=True)
    next(events)
    next(events)
    sandbox.predev.spend("0.6")
    elapse(sandbox, PreDev.lag)
    guard.balance(max_age=0)
    assert guard.available == 8
    assert next(events)["event"] == "done"
    assert guard.available == 10 - Decimal("0.7")
    assert list(events) == []


@pytest.mark.parametrize(
    ("last", "counted", "outcomes"),
    [
        (("done", '{"status": "completed"}'), 2, ["settled"]),
        (("done", '{"totalCreditsUsed": "N/A"}'), 2, ["settled"]),
        (("task_event", "{}"), 2, ["kept"]),
        (("task_event", "{"), 2, ["kept"]),
        (("error", '{"error": "?", "code": "INSUFFICIENT_CREDITS"}'), 2, ["exhausted", "kept"]),
        (("error", '{"error": "?", "code": "QUEUE_FULL"}'), 2, ["kept"]),
        (("error", '{"error": "?"}'), 2, ["kept"]),
    ],
    ids=str,
)
def test_how_a_stream_may_end(
    open_sandbox: OpenSandbox, last: tuple[str, str], counted: int, outcomes: list[str]
) -> None:
    """Without a total at its cost, without `done` kept: work had begun, whatever is said later."""
    sandbox = open_sandbox(10)
    sandbox.fault("/browser-agent", body=frames(RESULT, last))
    told = Outcomes()
    guard = predev_guard(sandbox, on_event=told)
    stream = sdk(sandbox, guard).browser_agent(TASKS, stream=True)
    try:
        list(stream)
    except (PredevAPIError, ValueError):
        assert "settled" not in outcomes
    assert told.kinds == outcomes
    assert running(guard) == 0
    if "exhausted" not in outcomes:
        assert guard.available == 10 - counted


@pytest.mark.parametrize("how", ["close", "throw", "drop"])
def test_a_stream_left_half_way_is_kept(
    open_sandbox: OpenSandbox,
    elapse: Elapse,
    balanced: Balanced,
    how: str,
) -> None:
    """Whoever leaves a stream early does not end the batch."""
    sandbox = open_sandbox(10)
    guard = predev_guard(sandbox)
    stream = sdk(sandbox, guard).browser_agent(TASKS, stream=True)
    assert next(stream)["event"] == "task_event"
    if how == "close":
        stream.close()
    elif how == "throw":
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)
    else:
        del stream
        gc.collect()
    assert guard.available == 8
    elapse(sandbox, DONE)
    balanced(sandbox, guard)


class Streaming(PredevAPI):  # type: ignore[misc]
    """A newer SDK, some of whose specs come bit by bit."""

    def deep_spec(self, input_text: str) -> Any:
        """Tell of the spec's progress, then of the spec."""
        yield {"event": "progress", "data": {"progress": 50}}
        yield {"event": "done", "data": super().deep_spec(input_text)}

    def fast_spec(self, input_text: str) -> Any:
        """Give a block in which the spec is made."""
        return Making(super().fast_spec, input_text)


class Making:
    """A block in which a spec is made."""

    def __init__(self, make: Callable[[str], Any], prompt: str) -> None:
        self._make = make
        self._prompt = prompt

    def __enter__(self) -> Any:
        return self._make(self._prompt)

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("how", ["exhausted", "closed", "dropped"])
def test_a_spec_that_is_streamed(open_sandbox: OpenSandbox, how: str) -> None:
    """Its hold goes with the stream: settled at its last figure, kept where it is left half-way."""
    sandbox = open_sandbox(100, **AT_ONCE)
    outcomes = Outcomes()
    guard = predev_guard(sandbox, on_event=outcomes)
    api: Any = guarded(Streaming(sandbox.predev_key, sandbox.url), guard)
    stream = api.deep_spec("A shop")
    assert next(stream)["event"] == "progress"
    assert (outcomes.kinds, guard.available) == ([], 50)
    if how == "exhausted":
        [done] = stream
        assert guard.available == 100 - Decimal(done["data"]["creditsUsed"])
    elif how == "closed":
        stream.close()
    else:
        del stream
        gc.collect()
    guard.balance(max_age=0)  # takes in what a finalizer told
    assert outcomes.kinds == ["settled" if how == "exhausted" else "kept"]
    never_begun = api.deep_spec("A club") if how == "exhausted" else None
    del never_begun
    guard.balance(max_age=0)
    assert outcomes.kinds[1:] == ["kept"] * (how == "exhausted")


@pytest.mark.parametrize("raised", [None, ZeroDivisionError])
def test_a_spec_in_a_block(open_sandbox: OpenSandbox, raised: type[Exception] | None) -> None:
    """What is lazy is held until it is left, and settled at what the block was given."""
    sandbox = open_sandbox(100, **AT_ONCE)
    outcomes = Outcomes()
    guard = predev_guard(sandbox, on_event=outcomes)
    api: Any = guarded(Streaming(sandbox.predev_key, sandbox.url), guard)
    try:
        with api.fast_spec("A shop") as spec:
            assert (outcomes.kinds, guard.available) == ([], 90)
            if raised is not None:
                raise raised
    except ZeroDivisionError:
        assert outcomes.kinds == ["kept"]
    else:
        assert outcomes.kinds == ["settled"]
        assert guard.available == 100 - Decimal(spec["creditsUsed"])


def test_a_stream_that_is_never_begun_holds_nothing(open_sandbox: OpenSandbox) -> None:
    """Neither is anything sent."""
    sandbox = open_sandbox(10)
    guard = predev_guard(sandbox)
    guard.balance()
    stream = sdk(sandbox, guard).browser_agent(TASKS, stream=True)
    stream.close()
    assert guard.available == 10
    assert sandbox.requests["POST", "/browser-agent"] == 0


def test_without_anybody_who_polls_the_holds_end_with_the_client(
    begin: Begin, elapse: Elapse, balanced: Balanced
) -> None:
    """They are kept, until a late enough balance shows what the work cost."""
    outcomes = Outcomes()
    sandbox, guard, api = begin(100, on_event=outcomes, follow=False)
    api.deep_spec_async("A shop")
    api.fast_spec_async("A shop")
    api.browser_agent(TASKS, run_async=True)
    assert running(guard) == 3
    gc.disable()
    try:
        del api  # there is no cycle for the collector to find
        assert guard.available == 100 - 50 - 10 - 2
        assert running(guard) == 0
    finally:
        gc.enable()
    elapse(sandbox, DONE)
    assert outcomes.kinds == ["kept"] * 3
    balanced(sandbox, guard)


def test_costs_of_ones_own(open_sandbox: OpenSandbox) -> None:
    """A number, a callable, or options; options that are left out keep their defaults."""
    sandbox = open_sandbox(100, **AT_ONCE)
    guard = Guard(FakeProvider(30))
    api = sdk(
        sandbox,
        guard,
        fast_spec=lambda text, **_: len(text),
        deep_spec={"cost": 20, "actual": lambda spec: 2 * spec["creditsUsed"], "name": "deep"},
        browser_agent=101,
        get_credits_balance=100,
    )
    with pytest.raises(InsufficientCredits, match=r"PredevAPI\.fast_spec needs 200 credits"):
        api.fast_spec("x" * 200, current_context="y")
    with pytest.raises(InsufficientCredits, match=r"PredevAPI\.browser_agent needs 101 credits"):
        api.browser_agent(TASKS)
    spec = api.deep_spec("A shop")
    assert guard.available == 30 - 2 * spec["creditsUsed"]
    with pytest.raises(InsufficientCredits, match=r"PredevAPI\.get_credits_balance needs 100"):
        api.get_credits_balance()


def test_a_cost_callable_that_fails_lets_nothing_through(open_sandbox: OpenSandbox) -> None:
    """The caller sees why."""
    sandbox = open_sandbox(100)
    guard = predev_guard(sandbox)
    api = sdk(sandbox, guard, deep_spec=lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        api.deep_spec("A shop")
    for tasks in (iter(TASKS), TASKS[0], None, "https://example.com"):
        with pytest.raises(TypeError, match="tasks takes a list of tasks, not"):
            api.browser_agent(tasks)
    with pytest.raises(TypeError, match="unexpected keyword"):
        api.fast_spec("A shop", colour="blue")
    assert not sandbox.requests


@pytest.mark.parametrize(
    ("api", "costs", "kind", "words"),
    [
        (PredevAPI, {}, TypeError, "guarded() takes a PredevAPI"),
        (None, {}, TypeError, "guarded() takes a PredevAPI, not None"),
        (PredevAPI("key"), {"deep_spek": 1}, AttributeError, "Did you mean deep_spec"),
        (PredevAPI("key"), {"headers": 1}, TypeError, "PredevAPI.headers is not a method"),
        (PredevAPI("key"), {"deep_spec": -1}, ValueError, "min must not be negative"),
        (PredevAPI("key"), {"deep_spec": {"mn": 1}}, TypeError, "mn"),
        (
            PredevAPI("key"),
            {"get_spec_status": 1},
            ValueError,
            "leave get_spec_status out of costs: free",
        ),
    ],
)
def test_what_cannot_be_guarded_is_said_at_once(
    api: Any, costs: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """A typo never becomes a method that spends unguarded."""
    with pytest.raises(kind) as said:
        guarded(api, Guard(FakeProvider(100)), costs=costs)
    assert words in str(said.value)


def test_the_guard_is_of_the_account_that_pays(open_sandbox: OpenSandbox) -> None:
    """Another provider's credits do not pay for these calls; other guards may be of any account."""
    sandbox = open_sandbox(100)
    other = anchor_guard(sandbox)
    api = PredevAPI(sandbox.predev_key, sandbox.url)
    with pytest.raises(TypeError, match=r"for an account at Anchor Browser.*pass Guard\(PreDev"):
        guarded(api, other)
    with pytest.raises(TypeError, match="this PredevAPI is already guarded"):
        guarded(guarded(api, predev_guard(sandbox)), predev_guard(sandbox))
    assert guarded(api, Guard(FakeProvider(100))).base_url == sandbox.url
    assert not sandbox.requests


def test_it_is_the_api_in_all_else(open_sandbox: OpenSandbox) -> None:
    """Its class, signatures and free methods are the SDK's, and the api itself is unchanged."""
    sandbox = open_sandbox(100)
    own = PredevAPI(sandbox.predev_key, sandbox.url)
    api = guarded(own, predev_guard(sandbox))
    assert isinstance(api, PredevAPI)
    assert inspect.signature(api.browser_agent) == inspect.signature(own.browser_agent)
    assert api.deep_spec.__doc__ == own.deep_spec.__doc__
    assert api.base_url == sandbox.url
    assert api.get_credits_balance().creditsRemaining == 100
    assert own.deep_spec == own.deep_spec


def test_switched_off_it_is_the_bare_api(begin: Begin) -> None:
    """Nothing is fetched, held, or settled."""
    sandbox, guard, api = begin(49, **AT_ONCE)
    ACTIVATION.set_active(False)
    api.get_spec_status(api.deep_spec_async("A shop")["specId"])
    sandbox.predev.top_up(9)
    assert [each["event"] for each in api.browser_agent(TASKS, stream=True)]
    assert sandbox.balance_requests == 0
    assert guard.available is None


def test_any_provider_will_do(open_sandbox: OpenSandbox) -> None:
    """The guard may fetch another account's balance, or none."""
    sandbox = open_sandbox(100, **AT_ONCE)
    provider = FakeProvider(60)
    guard = Guard(provider)
    api = sdk(sandbox, guard)
    used = api.deep_spec("A shop")["creditsUsed"]
    assert guard.available == 60 - used
    assert sandbox.balance_requests == 0
    sandbox.predev.spend(100)
    with pytest.raises(InsufficientCreditsError):
        api.browser_agent(TASKS)
    with pytest.raises(InsufficientCredits, match="itself refused a call"):
        api.browser_agent(TASKS)


def test_the_sdks_own_errors_come_through(open_sandbox: OpenSandbox) -> None:
    """Callers catch what they caught before."""
    sandbox = open_sandbox(100)
    api = sdk(sandbox, predev_guard(sandbox))
    for code, kind in (
        ("QUEUE_FULL", QueueFullError),
        ("SUBSCRIPTION_REQUIRED", SubscriptionRequiredError),
    ):
        sandbox.fault("/browser-agent", times=1, status=402, body={"error": "No.", "code": code})
        with pytest.raises(kind):
            api.browser_agent(TASKS)


def test_a_client_at_its_default_address_goes_where_the_environment_says(
    open_sandbox: OpenSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a guard that watches a sandbox would stand before calls to the real account."""
    sandbox = open_sandbox(credits=100, clock="real", speed=36000)
    monkeypatch.setenv("PREDEV_BASE_URL", sandbox.url)
    guarded(PredevAPI(sandbox.predev_key), Guard(PreDev(sandbox.predev_key))).fast_spec("A shop")
    assert sandbox.predev.charged > 0
    other = PredevAPI(sandbox.predev_key, "https://specs.example/v2")
    guarded(other, Guard(FakeProvider()))
    assert other.base_url == "https://specs.example/v2"
