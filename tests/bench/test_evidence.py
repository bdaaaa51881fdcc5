"""Each piece of evidence that others spend shows in a scenario: taken out, one of these fails."""

import pytest
from scenarios import OFTEN_GIVEN_UP, OTHERS, PROVEN, SCENARIOS, UNPROVEN
from ways import DEFAULT, DISTRUSTING, TRUSTING, WAYS
from workload import MINUTE, Outcome, Scenario, World

_, _, IN_BURSTS, TWO_PROCESSES = PROVEN
_, TOPPED_UP, *_ = UNPROVEN

pytestmark = pytest.mark.usefixtures("few_to_collect")


def run(scenario: Scenario, seed: int, way: str = DEFAULT) -> Outcome:
    """One account under one form of the guard."""
    return World(scenario, seed).run(WAYS[way])


def proof(scenario: Scenario, seed: int) -> float:
    """When the default guard first came to believe that others spend, in minutes."""
    found = run(scenario, seed).first_proof
    assert found is not None
    return found / MINUTE


def test_a_balance_lower_than_all_that_is_held_proves_it_at_once() -> None:
    """The second balance, of the sixth minute, shows a second process."""
    assert proof(TWO_PROCESSES, 0) < 6


def test_what_calls_turn_out_to_have_cost_proves_it_earlier() -> None:
    """The third balance does; without what the calls of the second one cost in the end, the fifth."""
    assert proof(IN_BURSTS, 1) < 11


def test_the_providers_own_refusal_proves_it() -> None:
    """No balance does before the account is empty, because it was topped up a few minutes ago."""
    assert proof(TOPPED_UP, 2) > 20


def test_a_call_that_was_given_up_may_explain_what_was_charged() -> None:
    """It may go on being charged until a balance shows all of it."""
    assert run(OFTEN_GIVEN_UP, 0).false_proofs == 0


def test_the_belief_saves_calls() -> None:
    """Once it is proven that others spend, the default lets as few calls die as sole_spender=False."""
    died = {way: run(OTHERS, 0, way).died for way in (DEFAULT, DISTRUSTING, TRUSTING)}
    assert died[DEFAULT] <= died[DISTRUSTING] < died[TRUSTING]


@pytest.mark.parametrize(
    "scenario",
    [each for each in SCENARIOS if not each.alone and each.workers <= 16],
    ids=lambda each: each.name,
)
def test_no_more_is_promised_than_others_spent(scenario: Scenario) -> None:
    """Nor more than was committed; both hold before any proof too."""
    assert run(scenario, 0).unexplained <= 0
