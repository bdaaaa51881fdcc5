"""pre.dev's SDK, guarded as its users would, against the sandbox."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any

import pytest
import requests
from accounts import AT_ONCE, DONE, TASKS, Elapse, OpenSandbox, impatient, predev_guard
from predev_api import InsufficientCreditsError, PredevAPI, PredevAPIError
from predev_api.exceptions import AuthenticationError, RateLimitError
from urllib3.exceptions import NewConnectionError

from budgetguard import (
    BudgetGuardError,
    Guard,
    InsufficientCredits,
    PreDev,
    require_credits,
)
from budgetguard.testing.sandbox import Sandbox

# After this, a balance shows what a kept hold really cost.
CLEAR = PreDev.linger + PreDev.lag


class NotSent(Exception):
    """The request never reached pre.dev."""


def never_sent(error: PredevAPIError) -> bool:
    """Whether no connection was made; a ConnectionError alone may also be one that broke later."""
    cause = error.__cause__
    reason = cause.args[0] if isinstance(cause, requests.ConnectionError) else None
    return isinstance(getattr(reason, "reason", None), NewConnectionError)


def out_of_credits(error: PredevAPIError) -> bool:
    """Whether this is a 402: typed for browser agents, a plain error for specs."""
    return isinstance(error, InsufficientCreditsError) or "status 402" in str(error)


def sdk(sandbox: Sandbox) -> PredevAPI:
    """Make pre.dev's client."""
    return PredevAPI(sandbox.predev_key, sandbox.url)


def guarded_deep_spec(guard: Guard, api: PredevAPI, **options: Any) -> Callable[[str], Any]:
    """Guard deep specs, with what a user does about the SDK's errors."""

    @guard.require_credits(
        min=PreDev.DEEP_SPEC,
        actual=lambda spec: spec["creditsUsed"],
        release_on=(NotSent, AuthenticationError, RateLimitError),
        name="deep_spec",
        **options,
    )
    def deep_spec(prompt: str) -> Any:
        try:
            return api.deep_spec(prompt)
        except PredevAPIError as error:
            if out_of_credits(error):
                guard.mark_exhausted()
            if never_sent(error):
                raise NotSent from error
            raise

    return deep_spec


def test_specs_are_settled_at_what_they_cost(
    open_sandbox: OpenSandbox, elapse: Elapse, pool: ThreadPoolExecutor
) -> None:
    """While a spec runs its highest cost is held, then what it really cost is counted."""
    sandbox = open_sandbox(100)
    guard = predev_guard(sandbox)
    deep_spec = guarded_deep_spec(guard, sdk(sandbox))
    spec = pool.submit(deep_spec, "A shop")
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    assert guard.available == 100 - PreDev.DEEP_SPEC
    elapse(sandbox, DONE)
    used = spec.result()["creditsUsed"]
    assert 0 < used == sandbox.predev.charged
    assert guard.available == 100 - used
    elapse(sandbox, PreDev.lag)
    guard.balance(max_age=0)
    assert guard.available == 100 - used


def test_a_crowd_is_let_in_as_far_as_the_credits_go(
    open_sandbox: OpenSandbox, elapse: Elapse, pool: ThreadPoolExecutor
) -> None:
    """Of ten threads at once four fit; the others are refused before anything is sent."""
    sandbox = open_sandbox(249)
    guard = predev_guard(sandbox)
    deep_spec = guarded_deep_spec(guard, sdk(sandbox))
    calls = [pool.submit(deep_spec, "A shop") for _ in range(10)]
    assert sandbox.wait_until(lambda: sandbox.predev.running == 4)
    # The four cannot be done: their provider's time stands still.
    refused = list(islice(as_completed(calls), 6))
    elapse(sandbox, DONE)
    errors = [call.exception() for call in refused]
    assert all(isinstance(error, InsufficientCredits) and error.retryable for error in errors)
    assert all(call.result()["success"] for call in set(calls) - set(refused))
    assert sandbox.requests["POST", "/deep-spec"] == sandbox.predev.finished == 4
    assert guard.available == 249 - sandbox.predev.charged


def test_those_who_wait_come_in_as_others_cost_less(
    open_sandbox: OpenSandbox, pool: ThreadPoolExecutor
) -> None:
    """With `wait`, the difference between the highest cost and the real one lets others in."""
    sandbox = open_sandbox(300, **AT_ONCE)
    guard = predev_guard(sandbox)
    deep_spec = guarded_deep_spec(guard, sdk(sandbox), wait=60)
    specs = list(pool.map(deep_spec, ["A shop"] * 8))
    assert sum(spec["creditsUsed"] for spec in specs) == sandbox.predev.charged
    assert sandbox.predev.finished == 8
    assert sandbox.predev.died == sandbox.predev.refused == 0
    assert guard.available == sandbox.predev.balance


@pytest.mark.parametrize(
    ("used", "counted"),
    [
        (7, "7"),
        (7.0, "7"),
        (7.25, "7.25"),
        (0.1 + 0.2, "0.300001"),
        (0, "0"),
        (64.5, "64.5"),
    ],
)
def test_credits_used_of_any_number(open_sandbox: OpenSandbox, used: float, counted: str) -> None:
    """Whole, fractional, binary noise, nothing, more than was held: taken to the micro-credit."""
    sandbox = open_sandbox(100)
    sandbox.fault("/deep-spec", body={"status": "completed", "creditsUsed": used})
    guard = predev_guard(sandbox)
    assert guarded_deep_spec(guard, sdk(sandbox))("A shop")["creditsUsed"] == used
    assert guard.available == 100 - Decimal(counted)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"creditsUsed": None},
        {"creditsUsed": "N/A"},
        {"creditsUsed": True},
        {"creditsUsed": -1},
        {"creditsUsed": float("nan")},
        {"creditsUsed": 1e13},
    ],
    ids=str,
)
def test_credits_used_that_make_no_sense(open_sandbox: OpenSandbox, body: dict[str, Any]) -> None:
    """The call keeps its result, and counts at its highest cost."""
    sandbox = open_sandbox(100)
    sandbox.fault("/deep-spec", body={"status": "completed"} | body)
    guard = predev_guard(sandbox)
    spec = guarded_deep_spec(guard, sdk(sandbox))("A shop")
    assert spec["status"] == "completed"
    assert set(spec) == {"status"} | set(body)
    assert guard.available == 100 - PreDev.DEEP_SPEC


def test_refused_by_the_provider_half_way(
    open_sandbox: OpenSandbox, elapse: Elapse, pool: ThreadPoolExecutor
) -> None:
    """A 402 tells the guard that the credits are gone: the next calls are refused unsent."""
    sandbox = open_sandbox(150)
    guard = predev_guard(sandbox)
    deep_spec = guarded_deep_spec(guard, sdk(sandbox))
    spec = pool.submit(deep_spec, "A shop")
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    sandbox.predev.spend(149)  # somebody else, unguarded
    elapse(sandbox, DONE)
    error = spec.exception()
    assert isinstance(error, PredevAPIError)
    assert "402" in str(error)
    with pytest.raises(InsufficientCredits, match="itself refused a call") as refused:
        deep_spec("Another")
    assert refused.value.balance == 0
    assert refused.value.pending == PreDev.DEEP_SPEC
    sandbox.predev.top_up(200)
    elapse(sandbox, 5)
    assert guard.balance(max_age=0).credits == sandbox.predev.balance
    assert guard.available == sandbox.predev.balance - PreDev.DEEP_SPEC
    elapse(sandbox, CLEAR)
    guard.balance(max_age=0)
    assert guard.available == sandbox.predev.balance
    assert sandbox.requests["POST", "/deep-spec"] == 1


def test_refused_by_the_provider_and_topped_up_by_less(
    open_sandbox: OpenSandbox, elapse: Elapse
) -> None:
    """After a 402 a balance that is not higher than before counts once it is sent late enough."""
    sandbox = open_sandbox(150)
    sandbox.fault("/deep-spec", status=402, times=1)
    guard = predev_guard(sandbox)
    deep_spec = guarded_deep_spec(guard, sdk(sandbox), cost=50, linger=0, lag=0)
    with pytest.raises(PredevAPIError, match="402"):
        deep_spec("A shop")
    with pytest.raises(InsufficientCredits, match="itself refused a call"):
        deep_spec("A shop")
    elapse(sandbox, PreDev.lag)
    assert guard.balance(max_age=0).credits == 150
    assert guard.available == 150


def test_browser_agents_refused_by_the_provider(open_sandbox: OpenSandbox) -> None:
    """For browser tasks the SDK has an error of its own for the 402."""
    sandbox = open_sandbox(10)
    guard = predev_guard(sandbox)
    guard.balance()
    sandbox.predev.spend(10)
    api = sdk(sandbox)
    with pytest.raises(InsufficientCreditsError), guard.require_credits(min=2):
        try:
            api.browser_agent(TASKS)
        except InsufficientCreditsError:
            guard.mark_exhausted()
            raise
    with pytest.raises(InsufficientCredits) as refused, guard.require_credits(min=2):
        pass
    assert refused.value.balance == 0
    assert sandbox.requests["POST", "/browser-agent"] == 1


@pytest.mark.parametrize("status", [400, 403, 500, 502])
def test_errors_of_the_sdk_keep_the_hold(
    open_sandbox: OpenSandbox, elapse: Elapse, status: int
) -> None:
    """What went wrong behind an error is not known: it counts until a late enough balance."""
    sandbox = open_sandbox(100)
    sandbox.fault("/deep-spec", status=status, times=1)
    guard = predev_guard(sandbox)
    deep_spec = guarded_deep_spec(guard, sdk(sandbox))
    with pytest.raises(PredevAPIError, match=str(status)):
        deep_spec("A shop")
    assert guard.available == 50
    elapse(sandbox, CLEAR - 1)
    guard.balance(max_age=0)
    assert guard.available == 50
    elapse(sandbox, 1)
    guard.balance(max_age=0)
    assert guard.available == 100


@pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (429, RateLimitError)])
def test_errors_that_prove_that_nothing_began(
    open_sandbox: OpenSandbox, status: int, error: type[Exception]
) -> None:
    """The SDK's own types for 401 and 429, named in release_on, give the credits back at once."""
    sandbox = open_sandbox(100)
    sandbox.fault("/deep-spec", status=status)
    guard = predev_guard(sandbox)
    with pytest.raises(error):
        guarded_deep_spec(guard, sdk(sandbox))("A shop")
    assert guard.available == 100


def test_a_refused_connection_releases(open_sandbox: OpenSandbox, nobody: str) -> None:
    """The SDK wraps it in an error like any other; its cause tells that nothing was sent."""
    sandbox = open_sandbox(100)
    guard = predev_guard(sandbox)
    deep_spec = guarded_deep_spec(guard, PredevAPI(sandbox.predev_key, nobody))
    with pytest.raises(NotSent) as caught:
        deep_spec("A shop")
    assert isinstance(caught.value.__cause__, PredevAPIError)
    assert guard.available == 100


def test_the_error_below_is_not_the_one_that_is_raised(
    open_sandbox: OpenSandbox, nobody: str
) -> None:
    """release_on goes by what is raised: requests' own error never arrives, so it keeps."""
    sandbox = open_sandbox(100)
    guard = predev_guard(sandbox)
    api = PredevAPI(sandbox.predev_key, nobody)
    with (
        pytest.raises(PredevAPIError) as caught,
        guard.require_credits(min=50, release_on=requests.ConnectionError),
    ):
        api.deep_spec("A shop")
    assert isinstance(caught.value.__cause__, requests.ConnectionError)
    assert guard.available == 50


def test_a_connection_that_breaks_later_keeps(open_sandbox: OpenSandbox) -> None:
    """It is a ConnectionError of requests too, and the provider may work on."""
    sandbox = open_sandbox(100)
    sandbox.fault("/deep-spec", reset=True)
    guard = predev_guard(sandbox)
    with pytest.raises(PredevAPIError) as caught:
        guarded_deep_spec(guard, sdk(sandbox))("A shop")
    assert isinstance(caught.value.__cause__, requests.ConnectionError)
    assert guard.available == 50


def arrived(sandbox: Sandbox, sent: int) -> bool:
    """Tell whether the provider began or refused as many specs as were sent."""
    return len(sandbox.predev.operations) + sandbox.predev.refused == sent


def crowd_that_gives_up(
    sandbox: Sandbox, guard: Guard, elapse: Elapse, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Call every 15 s for an hour, each time giving up at once; return how many were sent."""
    impatient(monkeypatch, 10, 0.02)
    deep_spec = guarded_deep_spec(guard, sdk(sandbox))
    sent = 0
    for _ in range(240):
        try:
            deep_spec("A shop")
        except BudgetGuardError:
            pass
        except PredevAPIError as error:
            assert isinstance(error.__cause__, requests.ReadTimeout) or out_of_credits(error)  # noqa: PT017
            sent += 1
            assert sandbox.wait_until(partial(arrived, sandbox, sent))
        elapse(sandbox, 15)
    return sent


def test_clients_that_give_up_never_overspend(
    open_sandbox: OpenSandbox, elapse: Elapse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timed-out spec is still charged, and late: it remains held until the balance shows it."""
    sandbox = open_sandbox(400, lag=4)
    sent = crowd_that_gives_up(sandbox, predev_guard(sandbox), elapse, monkeypatch)
    assert sandbox.predev.died == sandbox.predev.refused == 0
    assert sandbox.predev.finished == sent
    assert 0 <= sandbox.predev.balance < PreDev.DEEP_SPEC


def test_without_lingering_they_would(
    open_sandbox: OpenSandbox, elapse: Elapse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `linger=0` the same crowd starts specs that die half-way."""
    sandbox = open_sandbox(400, lag=4)
    guard = predev_guard(sandbox, linger=0, lag=0)
    crowd_that_gives_up(sandbox, guard, elapse, monkeypatch)
    assert sandbox.predev.died > 0


def test_submitted_and_polled(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """What the status says is charged moves out of the hold, so that it is not counted twice."""
    sandbox = open_sandbox(100)
    guard, api = predev_guard(sandbox, sole_spender=False), sdk(sandbox)
    polls = 0
    with guard.acquire(min=PreDev.DEEP_SPEC, name="deep_spec_async") as hold:
        submitted: Any = api.deep_spec_async("A shop")
        spec = submitted
        while spec["status"] in {"pending", "processing"}:
            elapse(sandbox, 20)
            spec = api.get_spec_status(submitted["specId"])
            hold.charged(spec["creditsUsed"])
            elapse(sandbox, PreDev.lag)
            guard.balance(max_age=0)
            # Only what was charged after the balance request was sent is counted twice.
            assert guard.available == 50 - (sandbox.predev.charged - Decimal(spec["creditsUsed"]))
            polls += 1
        hold.settle(spec["creditsUsed"])
    assert polls > 3
    assert spec["status"] == "completed"
    assert hold.state == "settled"
    assert guard.available == 100 - sandbox.predev.charged


def test_submitted_and_failed(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """A spec that fails is a 200 with its cost in it: settled at that, and the account is empty."""
    sandbox = open_sandbox(100)
    guard, api = predev_guard(sandbox), sdk(sandbox)
    with guard.acquire(min=PreDev.DEEP_SPEC) as hold:
        submitted: Any = api.deep_spec_async("A shop")
        elapse(sandbox, 60)
        sandbox.predev.spend(100)
        elapse(sandbox, DONE)
        spec: Any = api.get_spec_status(submitted["specId"])
        assert spec["status"] == "failed"
        hold.settle(spec["creditsUsed"])
        guard.mark_exhausted()
    assert spec["creditsUsed"] == sandbox.predev.wasted > 0
    with pytest.raises(InsufficientCredits), guard.require_credits(min=10):
        pass


def test_polling_that_breaks_off_keeps(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """Who loses sight of a submitted spec keeps its hold: the spec goes on without him."""
    sandbox = open_sandbox(100)
    guard, api = predev_guard(sandbox), sdk(sandbox)
    with (
        pytest.raises(PredevAPIError, match="404"),
        guard.acquire(min=PreDev.DEEP_SPEC) as hold,
    ):
        api.deep_spec_async("A shop")
        api.get_spec_status("spec_of_somebody_else")
    assert hold.state == "kept"
    assert guard.available == 50
    elapse(sandbox, CLEAR)
    guard.balance(max_age=0)
    assert guard.available == sandbox.predev.balance == 100 - sandbox.predev.charged
    assert sandbox.predev.finished == 1


def test_a_hold_that_grows(open_sandbox: OpenSandbox) -> None:
    """A batch that turns out longer asks for more, and is refused more than there is."""
    sandbox = open_sandbox(10)
    guard, api = predev_guard(sandbox), sdk(sandbox)
    with guard.require_credits(min=2) as hold:
        stub: Any = api.browser_agent(TASKS, run_async=True)
        assert stub["totalCreditsUsed"] == 0  # a stub's figure is not final: not settled with
        hold.extend(2)
        with pytest.raises(InsufficientCredits):
            hold.extend(7)
        sandbox.advance(60)
        batch: Any = api.get_browser_agent(stub["id"])
        assert batch["status"] == "completed"
        hold.settle(batch["totalCreditsUsed"])
    assert guard.available == sandbox.predev.balance < 10


def test_browser_agents_as_a_stream(open_sandbox: OpenSandbox) -> None:
    """A guarded generator is settled at what it returns, with a need that goes by its arguments."""
    sandbox = open_sandbox(3, **AT_ONCE)
    guard, api = predev_guard(sandbox), sdk(sandbox)

    @guard.require_credits(min=lambda tasks: 0.5 * len(tasks), actual=lambda total: total)
    def browse(tasks: list[dict[str, str]]) -> Generator[Any, None, Any]:
        total = None
        for event in api.browser_agent(tasks, stream=True):
            if event["event"] == "done":
                total = event["data"]["totalCreditsUsed"]
            yield event
        return total

    events = [event["event"] for event in browse(TASKS)]
    assert events[-1] == "done"
    assert guard.available == sandbox.predev.balance < 3
    with pytest.raises(InsufficientCredits, match="needs 4 credits"):
        list(browse(TASKS * 2))
    assert sandbox.requests["POST", "/browser-agent"] == 1


def test_a_stream_left_half_way_keeps(open_sandbox: OpenSandbox, elapse: Elapse) -> None:
    """Closing a stream early does not stop the batch: its cost remains held."""
    sandbox = open_sandbox(10)
    guard, api = predev_guard(sandbox), sdk(sandbox)

    @guard.require_credits(min=2)
    def browse() -> Generator[Any, None, None]:
        yield from api.browser_agent(TASKS, stream=True)

    events = browse()
    assert next(events)["event"] == "task_event"
    events.close()
    assert guard.available == 8
    elapse(sandbox, CLEAR)
    guard.balance(max_age=0)
    assert guard.available == sandbox.predev.balance
    assert sandbox.predev.finished == 1


def test_the_clients_own_method(open_sandbox: OpenSandbox) -> None:
    """A bound method of the SDK is guarded in place, and keeps its signature."""
    sandbox = open_sandbox(60, **AT_ONCE)
    guard, api = predev_guard(sandbox), sdk(sandbox)
    need = guard.require_credits(min=50, actual=lambda spec: spec["creditsUsed"])
    api.deep_spec = need(api.deep_spec)
    spec: Any = api.deep_spec("A shop", current_context="Django")
    assert guard.available == 60 - spec["creditsUsed"]
    with pytest.raises(InsufficientCredits, match=r"PredevAPI\.deep_spec needs 50 credits"):
        api.deep_spec("A shop")


def test_a_subclass_of_the_client(open_sandbox: OpenSandbox) -> None:
    """Methods of a subclass are guarded, each instance by the guard that it carries."""

    def cost(client: "Guarded", endpoint: str, *_: Any, **__: Any) -> int:
        return PreDev.DEEP_SPEC if endpoint == "/deep-spec" else PreDev.FAST_SPEC

    class Guarded(PredevAPI):
        def __init__(self, key: str, base_url: str) -> None:
            super().__init__(key, base_url)
            self.guard = Guard(PreDev(key, base_url=base_url))

        @require_credits(
            min=cost,
            actual=lambda spec: spec["creditsUsed"],
            guard=lambda self, *_, **__: self.guard,
            name="pre.dev spec",
        )
        def _make_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._make_request(*args, **kwargs)

    sandbox = open_sandbox(20, **AT_ONCE)
    api = Guarded(sandbox.predev_key, sandbox.url)
    spec: Any = api.fast_spec("A shop")
    assert api.guard.available == 20 - spec["creditsUsed"]
    with pytest.raises(InsufficientCredits, match=r"pre\.dev spec needs 50 credits"):
        api.deep_spec("A shop")
    assert sandbox.requests["POST", "/deep-spec"] == 0
