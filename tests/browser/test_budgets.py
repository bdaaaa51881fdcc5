"""A browser session takes from the budget around it, from its request to its confirmed end."""

from typing import Any

import pytest

from budgetguard import AnchorBrowser, BudgetExceeded
from budgetguard.browser import browser_session

MINUTES = 5
HELD = AnchorBrowser.BROWSER + AnchorBrowser.BROWSER_HOUR * (MINUTES + 1) / 60


def open_one(scene: Any) -> Any:
    """Open a session with the scene's client, guard, journal and patience."""
    return browser_session(
        scene.client, scene.guard, MINUTES, journal=scene.journal, patience=scene.patience
    )


def test_a_session_takes_from_its_budget(scene: Any) -> None:
    """Its longest life is held, and what it was open for is spent; the next one is not requested."""
    with scene.guard.budget(HELD, name="visits") as visits:
        with open_one(scene) as session:
            assert (visits.held, visits.left) == (HELD, 0)
            scene.elapse(150)
        assert visits.held == 0
        assert 0 < visits.spent < HELD
        assert session.hold.state == "settled"
        requested = scene.creations
        with pytest.raises(BudgetExceeded) as refused, open_one(scene):
            pass
        assert refused.value.budget == "visits"
    assert scene.creations == requested
    with open_one(scene):
        pass
