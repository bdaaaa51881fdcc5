"""Every provider that is built in passes the check that users have for theirs."""

from collections.abc import Callable
from typing import Any

import pytest

from budgetguard.providers import AnchorBrowser, PreDev
from budgetguard.testing import check_provider

Make = Callable[[str], Any]

# One row for each provider that is built in: what makes it, its balance reply, and what its vendor
# documents about fields that may be null or left out.
OWN: list[Any] = [
    pytest.param(
        PreDev, {"reply": {"success": True, "creditsRemaining": 42.5}, "credits": 42.5}, id="predev"
    ),
    pytest.param(
        AnchorBrowser,
        {
            "reply": {
                "data": {
                    "credits": 7.5,
                    "credits_used": 3,
                    "tier": "free",
                    "max_concurrent_browsers": 5,
                    "cost_limit": 50,
                }
            },
            "credits": 7.5,
            "unlimited": ["data.cost_limit"],
            "optional": ["data.cost_limit", "data.credits_used", "data.max_concurrent_browsers"],
        },
        id="anchorbrowser",
    ),
    pytest.param(
        lambda key: AnchorBrowser(key, "p1"),
        {
            "reply": {"credits": 7.5, "tier": "free", "maxConcurrentBrowsers": 5, "cost_limit": 50},
            "credits": 7.5,
            "unlimited": ["cost_limit"],
            "optional": ["cost_limit", "maxConcurrentBrowsers"],
        },
        id="anchorbrowser-project",
    ),
]


@pytest.mark.parametrize(("make", "given"), OWN)
def test_built_in_providers_pass(make: Make, given: dict[str, Any]) -> None:
    """Each of them refuses whatever is no balance, and shows its key nowhere."""
    check_provider(make, **given)
