"""pre.dev's SDK behind `guarded()`: submitted work that nobody asks about, and calls without a reply."""

import gc
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from accounts import TASKS, OpenSandbox, Outcomes, impatient, predev_guard
from followed import BATCH, BEGUN, LIST, STATUS, at_rest, elapsed, follower
from predev_api import PredevAPI, PredevAPIError

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard._core.status_schedule import AT_ONCE, LEFT_ALONE, SILENCE
from budgetguard._engine.binding import binding_of
from budgetguard.integrations.predev import guarded
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.sandbox import Sandbox

Scene = tuple[Sandbox, Guard, Any, Outcomes, Callable[..., None]]
Begin = Callable[..., Scene]


@pytest.fixture
def begin(open_sandbox: OpenSandbox, clock: HandClock) -> Begin:
    """Open a sandbox; give it with a guard of its account, the client, what is heard, and time."""

    def begin(credits: float = 100, **options: Any) -> Scene:
        clock.set_wall(BEGUN)
        sandbox, outcomes = open_sandbox(credits), Outcomes()
        guard = predev_guard(sandbox, on_event=outcomes)
        api = guarded(PredevAPI(sandbox.predev_key, sandbox.url), guard, **options)
        return sandbox, guard, api, outcomes, elapsed(clock, guard)

    return begin


def status_requests(sandbox: Sandbox) -> int:
    """How often the status of a spec was requested."""
    return sandbox.requests[STATUS]


def test_work_that_nobody_polls_is_settled_at_its_real_cost(begin: Begin) -> None:
    """It is asked about now and then, charged as it goes, and never kept."""
    sandbox, guard, api, outcomes, elapse = begin()
    api.deep_spec_async("A shop")
    elapse(sandbox, 120)
    [work] = follower(guard)._by_path.values()
    assert work.hold.state == "open"
    assert 0 < work.hold.charged_micro <= sandbox.predev.charged * 10**6
    elapse(sandbox, 300)
    assert outcomes.kinds == ["settled"]
    assert status_requests(sandbox) + 3 >= 420 / 60
    assert status_requests(sandbox) <= 420 / 30
    guard.balance(max_age=0)
    assert guard.available == 100 - sandbox.predev.charged == sandbox.predev.balance
    before = status_requests(sandbox)
    elapse(sandbox, 600, step=60)
    assert status_requests(sandbox) == before


def test_a_client_that_was_dropped_is_no_reason_to_keep(begin: Begin) -> None:
    """Specs and a batch are followed without it."""
    sandbox, guard, api, outcomes, elapse = begin()
    api.deep_spec_async("A shop")
    api.fast_spec_async("A club")
    api.browser_agent(TASKS, run_async=True)
    gc.disable()
    try:
        del api  # there is no cycle for the collector to find
        elapse(sandbox, 400)
    finally:
        gc.enable()
    assert outcomes.kinds == ["settled"] * 3
    assert sandbox.requests[BATCH] > 0
    guard.balance(max_age=0)
    assert guard.available == sandbox.predev.balance


def test_work_that_the_program_polls_is_left_alone(begin: Begin) -> None:
    """Each of its replies postpones ours; when they stop, ours begin."""
    sandbox, _, api, outcomes, elapse = begin()
    id = api.deep_spec_async("A shop")["specId"]
    sandbox.fault("/spec-status/*", body={"status": "processing", "creditsUsed": 3})
    polls = 0
    for _ in range(40):
        elapse(sandbox, 25, step=25)
        api.get_spec_status(id)
        polls += 1
        assert status_requests(sandbox) == polls
    elapse(sandbox, LEFT_ALONE - 1)
    assert status_requests(sandbox) == polls
    elapse(sandbox, 2)
    assert status_requests(sandbox) == polls + 1
    assert outcomes.kinds == []


def test_a_list_that_the_program_requests_counts_as_asking(begin: Begin) -> None:
    """Its entry is a reply about that work, too."""
    sandbox, _, api, _, elapse = begin()
    api.deep_spec_async("A shop")
    for _ in range(4):
        elapse(sandbox, 25, step=25)
        api.list_specs()
    assert status_requests(sandbox) == 0


def test_another_client_of_the_account_hears_of_it_too(begin: Begin) -> None:
    """Whoever submitted the work: the hold belongs to the account."""
    sandbox, guard, api, outcomes, elapse = begin()
    id = api.deep_spec_async("A shop")["specId"]
    other = guarded(PredevAPI(sandbox.predev_key, sandbox.url), guard)
    sandbox.advance(300)
    assert other.get_spec_status(id)["status"] == "completed"
    assert outcomes.kinds == ["settled"]
    elapse(sandbox, 120)
    assert status_requests(sandbox) == 1


def test_with_follow_false_nothing_is_asked(begin: Begin) -> None:
    """Then the hold goes with the client, as the program's own replies do."""
    sandbox, guard, api, outcomes, elapse = begin(follow=False)
    api.deep_spec_async("A shop")
    elapse(sandbox, 400, step=60)
    assert (status_requests(sandbox), outcomes.kinds) == (0, [])
    with pytest.raises(PredevAPIError):
        sandbox.fault("/fast-spec", status=500)
        api.fast_spec("A shop")
    elapse(sandbox, 60)
    assert sandbox.requests[LIST] == 0
    del api
    assert guard.available is not None
    assert outcomes.kinds == ["kept", "kept"]


def test_what_predev_does_not_know_is_kept_at_once(begin: Begin) -> None:
    """A 404 is an answer: no reply will ever tell of the end."""
    sandbox, guard, api, outcomes, elapse = begin()
    sandbox.fault("/spec-status/*", status=404)
    api.deep_spec_async("A shop")
    elapse(sandbox, 60)
    assert (status_requests(sandbox), outcomes.kinds) == (1, ["kept"])
    with pytest.raises(InsufficientCredits, match=r"50 are unresolved for up to .* is not known"):
        guard.acquire(60)


@pytest.mark.parametrize("fault", [{"reset": True}, {"status": 503}, {"status": 401}], ids=str)
def test_a_provider_that_cannot_be_asked_is_left_alone_longer_and_longer(
    begin: Begin, fault: dict[str, Any]
) -> None:
    """All work of the account waits for one request; when nothing was heard for long, it is kept."""
    sandbox, _, api, outcomes, elapse = begin(1000)
    for _ in range(8):
        api.deep_spec_async("A shop")
    sandbox.fault("/spec-status/*", **fault)
    elapse(sandbox, PreDev.linger + SILENCE - 40)
    assert status_requests(sandbox) <= AT_ONCE + 6
    assert outcomes.kinds == []
    elapse(sandbox, 100)
    assert outcomes.kinds == ["kept"] * 8


def test_a_provider_that_can_be_asked_again(begin: Begin) -> None:
    """After an outage the work is followed on, and settled."""
    sandbox, guard, api, outcomes, elapse = begin()
    api.deep_spec_async("A shop")
    sandbox.fault("/spec-status/*", reset=True, times=2)
    elapse(sandbox, 600)
    assert outcomes.kinds == ["settled"]
    guard.balance(max_age=0)
    assert guard.available == sandbox.predev.balance


@pytest.mark.parametrize("body", [b"<html>", b"[]", {"status": "odd"}, b"9" * 9_000_000], ids=repr)
def test_replies_that_tell_nothing_are_not_believed(begin: Begin, body: Any) -> None:
    """Such work is asked about more and more rarely, and in the end kept."""
    sandbox, _, api, outcomes, elapse = begin()
    sandbox.fault("/spec-status/*", body=body)
    api.deep_spec_async("A shop")
    elapse(sandbox, PreDev.linger + SILENCE - 1, step=30)
    assert outcomes.kinds == []
    assert 1 < status_requests(sandbox) <= 6
    elapse(sandbox, 2)
    assert outcomes.kinds == ["kept"]


def test_work_without_an_end_is_given_up_after_a_day(begin: Begin) -> None:
    """Nothing holds for ever, whatever the provider says."""
    sandbox, _, api, outcomes, elapse = begin()
    sandbox.fault("/spec-status/*", body={"status": "processing", "creditsUsed": 3})
    api.deep_spec_async("A shop")
    elapse(sandbox, 86_400 - 300, step=300)
    assert outcomes.kinds == []
    elapse(sandbox, 600, step=300)
    assert outcomes.kinds == ["kept"]


def test_only_a_few_requests_are_under_way_at_once(begin: Begin, clock: HandClock) -> None:
    """Of fifty pieces of work that are due, the others wait for their turn, and all get one."""
    sandbox, guard, api, _, elapse = begin(5000)
    for _ in range(50):
        api.fast_spec_async("A shop")
    here, most = follower(guard), 0
    begin_one = here._begin

    def counted(work: Any) -> None:
        nonlocal most
        begin_one(work)
        most = max(most, here._asking)

    here._begin = counted  # type: ignore[method-assign]
    clock.advance(60)
    at_rest(guard)
    assert most == AT_ONCE
    assert status_requests(sandbox) == 50
    elapse(sandbox, 29)
    assert status_requests(sandbox) == 50


def test_a_closed_guard_asks_no_more(begin: Begin) -> None:
    """Its holds are kept at once."""
    sandbox, guard, api, outcomes, elapse = begin()
    api.deep_spec_async("A shop")
    elapse(sandbox, 60)
    asked = status_requests(sandbox)
    guard.close()
    assert outcomes.kinds == ["kept"]
    elapse(sandbox, 300)
    assert status_requests(sandbox) == asked


def test_the_costs_own_actual_reads_our_replies_too(begin: Begin) -> None:
    """It is given what the SDK would have given, numbers and all; and may not wait for credits."""
    seen: list[Any] = []

    def actual(spec: dict[str, Any]) -> float:
        seen.append(spec)
        return float(spec["creditsUsed"] * 1.5)

    sandbox, _, api, outcomes, elapse = begin(costs={"deep_spec_async": {"actual": actual}})
    api.deep_spec_async("A shop")
    elapse(sandbox, 400)
    [spec] = seen
    assert type(spec["creditsUsed"]) is int
    assert outcomes.settled_at == [Decimal(str(spec["creditsUsed"] * 1.5))]


def test_any_guard_will_do(open_sandbox: OpenSandbox, clock: HandClock) -> None:
    """The status is requested with the client's own key, at its own address."""
    sandbox = open_sandbox(100)
    guard = Guard(FakeProvider(60))
    api = guarded(PredevAPI(sandbox.predev_key, sandbox.url), guard)
    api.deep_spec_async("A shop")
    elapsed(clock, guard)(sandbox, 400)
    assert guard.available == 60 - sandbox.predev.charged


def test_a_failed_spec_without_a_figure_is_kept(begin: Begin) -> None:
    """As it is where the program asks."""
    sandbox, _, api, outcomes, elapse = begin()
    sandbox.fault("/spec-status/*", body={"status": "failed", "errorMessage": "?"})
    api.deep_spec_async("A shop")
    elapse(sandbox, 60)
    assert outcomes.kinds == ["kept"]


# Calls whose reply was lost.


def timed_out(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, name: str = "deep_spec", text: str = "A shop"
) -> None:
    """Call a method whose reply does not come in time, although its work begins."""
    sandbox, _, api, *_ = scene
    before = sandbox.predev.running
    with monkeypatch.context() as patch:
        impatient(patch, 10, 0.2)
        with pytest.raises(PredevAPIError, match="timed out"):
            getattr(api, name)(text)
    assert sandbox.wait_until(lambda: sandbox.predev.running == before + 1)


def test_a_timed_out_spec_is_found_and_settled(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request names it, among others; then it is followed like submitted work."""
    scene = sandbox, guard, api, outcomes, elapse = begin(300)
    api.deep_spec_async("A club")
    timed_out(monkeypatch, scene, "fast_spec")
    timed_out(monkeypatch, scene)
    assert guard.available == 300 - 50 - 10 - 50
    elapse(sandbox, 9, step=9)
    assert sandbox.requests[LIST] == 0
    elapse(sandbox, 400)
    assert sandbox.requests[LIST] == 2
    assert outcomes.kinds == ["settled"] * 3
    guard.balance(max_age=0)
    assert guard.available == sandbox.predev.balance == 300 - sandbox.predev.charged


def test_a_reply_without_an_id_leads_to_a_search(begin: Begin) -> None:
    """A server error says nothing about the spec; here none was begun, so it is kept."""
    sandbox, guard, api, outcomes, elapse = begin()
    sandbox.fault("/deep-spec", status=500)
    with pytest.raises(PredevAPIError):
        api.deep_spec("A shop")
    assert outcomes.kinds == []
    elapse(sandbox, 30)
    assert outcomes.kinds == ["kept"]
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(60)
    assert refused.value.causes == {"PredevAPIError": 1}
    elapse(sandbox, PreDev.linger + PreDev.lag)
    guard.balance(max_age=0)
    assert (guard.available, sandbox.requests[LIST]) == (100, 1)


def test_two_that_could_be_it_are_no_match(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec that another program began with the same input may as well be the lost one."""
    scene = sandbox, _, _, outcomes, elapse = begin(200)
    PredevAPI(sandbox.predev_key, sandbox.url).deep_spec_async("A shop")
    timed_out(monkeypatch, scene)
    elapse(sandbox, 30)
    assert outcomes.kinds == ["kept"]
    assert status_requests(sandbox) == 0


def test_identical_calls_at_one_time_are_no_match(
    begin: Begin, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither can be told from the other, also where the list names one alone."""
    scene = sandbox, _, api, outcomes, elapse = begin(200)
    still = pool.submit(api.deep_spec, "A shop")
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    timed_out(monkeypatch, scene)
    sandbox.fault("/list-specs", body={"specs": [GOOD], "hasMore": False})
    sandbox.fault("/spec-status/s1", body=GOOD)
    elapse(sandbox, 30)
    so_far = list(outcomes.kinds)
    elapse(sandbox, 300)
    assert still.result()["status"] == "completed"
    assert (so_far, outcomes.kinds) == (["kept"], ["kept", "settled"])


def test_what_belongs_to_another_call_is_no_candidate(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two specs of one input, the one whose reply arrived leaves the other for the lost call."""
    scene = sandbox, _, api, outcomes, elapse = begin(200)
    api.deep_spec_async("A shop")
    timed_out(monkeypatch, scene)
    elapse(sandbox, 400)
    assert outcomes.kinds == ["settled", "settled"]


GOOD = {
    "_id": "s1",
    "created": "2026-11-01T00:00:01Z",
    "endpoint": "deep_spec",
    "input": "A shop",
    "status": "completed",
    "creditsUsed": 20,
}
OLD = GOOD | {"_id": "s0", "created": "2026-10-31T00:00:00Z"}


def lost_among(begin: Begin, body: Any) -> list[str]:
    """What becomes of a lost call, where this is what the list says."""
    sandbox, _, api, outcomes, elapse = begin()
    sandbox.fault("/deep-spec", status=500)
    sandbox.fault("/list-specs", body=body)
    sandbox.fault("/spec-status/s1", body=GOOD)
    with pytest.raises(PredevAPIError):
        api.deep_spec("A shop")
    elapse(sandbox, 30)
    assert sandbox.requests[LIST] == 1
    return outcomes.kinds


@pytest.mark.parametrize(
    "body",
    [
        {"specs": [GOOD], "hasMore": False},
        {"specs": [GOOD, OLD], "hasMore": True},
        {"specs": [GOOD | {"_id": "s2", "input": "A club"}, GOOD, OLD], "hasMore": False},
        {"specs": [GOOD | {"_id": "s2", "endpoint": "fast_spec"}, GOOD], "hasMore": False},
        {"specs": [GOOD | {"created": "2026-11-01T01:00:01+01:00"}], "hasMore": False},
    ],
    ids=str,
)
def test_a_list_that_names_one(begin: Begin, body: Any) -> None:
    """The lost call's own: the only one with its endpoint and its input, at its time."""
    assert lost_among(begin, body) == ["settled"]


@pytest.mark.parametrize(
    "body",
    [
        {"specs": [GOOD]},
        {"specs": [GOOD], "hasMore": True},
        {"specs": [OLD, GOOD, OLD], "hasMore": True},
        {"specs": [GOOD, {}], "hasMore": False},
        {"specs": [GOOD, None], "hasMore": False},
        {"specs": [GOOD, GOOD | {"_id": "s2"}], "hasMore": False},
        *(
            {"specs": [GOOD, {k: v for k, v in (GOOD | {"_id": "s2"}).items() if k != name}]}
            | {"hasMore": False}
            for name in ("_id", "created", "endpoint", "input")
        ),
        {"specs": [GOOD | {"created": "2026-11-01T00:00:01"}], "hasMore": False},
        {"specs": [GOOD | {"created": "yesterday"}], "hasMore": False},
        {"specs": [GOOD | {"created": "2026-10-31T23:58:00Z"}], "hasMore": False},
        {"specs": [GOOD | {"created": "2026-11-01T00:02:00Z"}], "hasMore": False},
        {"specs": [GOOD | {"input": "a shop"}], "hasMore": False},
        {"specs": [GOOD | {"endpoint": "fast_spec"}], "hasMore": False},
        {"specs": [], "hasMore": False},
        {"specs": "?"},
        [],
    ],
    ids=str,
)
def test_a_list_that_does_not(begin: Begin, body: Any) -> None:
    """Anything less than exactly one, or than a list that is complete: as without a search."""
    assert lost_among(begin, body) == ["kept"]


def test_a_list_that_cannot_be_had_is_given_up(begin: Begin) -> None:
    """The hold is kept within minutes, with few requests."""
    sandbox, _, api, outcomes, elapse = begin()
    sandbox.fault("*-spec*", status=503)
    with pytest.raises(PredevAPIError):
        api.deep_spec("A shop")
    elapse(sandbox, 119)
    assert outcomes.kinds == []
    elapse(sandbox, 2)
    assert outcomes.kinds == ["kept"]
    assert sandbox.requests[LIST] <= 3


def test_a_spec_with_a_file_is_not_searched_for(begin: Begin) -> None:
    """Its text alone does not tell which it is."""
    sandbox, _, api, outcomes, elapse = begin()
    sandbox.fault("/deep-spec", status=500)
    with pytest.raises(PredevAPIError):
        api.deep_spec("A shop", file=io.BytesIO(b"A shop"))
    assert outcomes.kinds == ["kept"]
    elapse(sandbox, 60)
    assert sandbox.requests[LIST] == 0


def test_a_spec_that_died_half_way_is_settled_at_what_it_used(
    begin: Begin, pool: ThreadPoolExecutor
) -> None:
    """Its 402 has no figure, the list names it, and its status has one."""
    sandbox, _, api, outcomes, elapse = begin(150)
    spec = pool.submit(api.deep_spec, "A shop")
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    sandbox.predev.spend(149)
    sandbox.advance(300)
    assert "402" in str(spec.exception())
    elapse(sandbox, 60)
    assert outcomes.kinds == ["exhausted", "settled"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_program_that_is_ended_starts_nothing(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """The hold is kept on the spot."""
    sandbox, guard, _, outcomes, _ = begin()

    class Interrupted(PredevAPI):  # type: ignore[misc]
        def deep_spec(self, input_text: str) -> Any:
            raise error

    api = guarded(Interrupted(sandbox.predev_key, sandbox.url), guard)
    with pytest.raises(error):
        api.deep_spec("A shop")
    assert outcomes.kinds == ["kept"]


def test_a_client_whose_key_would_go_unencrypted_is_not_followed(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so, and nothing else changes."""
    caplog.set_level("INFO", logger="budgetguard")
    _, guard, *_ = begin()
    api: Any = guarded(PredevAPI("a-key", "http://api.invalid"), guard)
    with pytest.raises(PredevAPIError):
        api.deep_spec("A shop")
    assert "Submitted work is not followed" in caplog.text
    assert "a-key" not in caplog.text
    assert binding_of(guard).account.follower is None


def test_follow_is_a_bool() -> None:
    """A text like "false" would count as true."""
    with pytest.raises(TypeError, match="follow takes True or False, not str"):
        guarded(PredevAPI("key"), Guard(FakeProvider(1)), follow="false")  # type: ignore[arg-type]
