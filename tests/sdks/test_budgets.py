"""A guarded SDK's calls go by the budget around them, to the end of the work that they began."""

import pytest
from accounts import AT_ONCE, OpenSandbox, predev_guard
from predev_api import PredevAPI

from budgetguard import BudgetExceeded
from budgetguard.integrations.predev import guarded
from budgetguard.testing.sandbox import Sandbox


def test_a_spec_takes_from_its_budget(open_sandbox: OpenSandbox) -> None:
    """Held at the most that it may cost, settled at what it did cost, and the next one is refused."""
    sandbox = open_sandbox(1000, **AT_ONCE)
    guard = predev_guard(sandbox)
    api = guarded(PredevAPI(Sandbox.predev_key, sandbox.url), guard)
    with guard.budget(60, name="run-42") as run:
        spec = api.deep_spec("A web shop")
        assert 10 < run.spent <= 50
        assert run.held == 0
        assert float(run.spent) == spec["creditsUsed"]
        with pytest.raises(BudgetExceeded) as refused:
            api.deep_spec("Another web shop")
        assert (refused.value.budget, refused.value.needed) == ("run-42", 50)
    assert sandbox.requests["POST", "/deep-spec"] == 1


def test_submitted_work_stays_held_after_its_block(
    open_sandbox: OpenSandbox,
) -> None:
    """The budget that it was submitted in counts it until its end."""
    sandbox = open_sandbox(1000)
    guard = predev_guard(sandbox)
    api = guarded(PredevAPI(Sandbox.predev_key, sandbox.url), guard, follow=False)
    with guard.budget(60, name="run-42") as run:
        work = api.deep_spec_async("A web shop")
        assert run.held == 50
        with pytest.raises(BudgetExceeded):
            api.deep_spec_async("Another web shop")
    sandbox.advance(300)
    api.get_spec_status(work["specId"])
    assert run.held == 0
    assert 10 < run.spent <= 50
