"""The two programs that measure in the same world, with one seed each."""

import given_up
import learned_costs
import pytest
from scenarios import GIVEN_UP

pytestmark = pytest.mark.usefixtures("few_to_collect")


def test_the_status_of_what_was_given_up_saves_refusals() -> None:
    """With it, hardly a call is refused wrongly; without it, many are."""
    without, asked = (
        given_up.measure(GIVEN_UP, 1, by_status=False, sole_spender="auto", follows=follows)
        for follows in (False, True)
    )
    assert asked["wrong"] < given_up.AIM_WRONG < without["wrong"]
    assert 0 < asked["asked"] <= given_up.AIM_ASKED


def test_learned_costs_overspend_nothing() -> None:
    """Calls that hold what is learned spend an account to its end, and none dies."""
    _, eight_workers = learned_costs.SCENARIOS
    found = learned_costs.measure(eight_workers, 0.95, 1)
    assert found.finished > 50
    assert found.died == found.overspent == 0
