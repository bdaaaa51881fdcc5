"""The provider is down for ten minutes: it is left alone, found again, and nobody is misled."""

import pytest
from interpreter import LONG
from outage import AFTER, DOWN, STALE_FOR, Outage

RATE = 1_000 if LONG else 20
SEEDS = range(20)


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
@pytest.mark.parametrize("cold", [False, True], ids=["known before", "never known"])
def test_ten_minutes_down(cold: bool, hangs: bool) -> None:
    """At most 40 attempts, noticed again within 60 s, and not one decision on a balance too old.

    With BUDGETGUARD_LONG=1 at a thousand decisions a second.
    """
    outage = Outage(0, RATE, cold=cold, hangs=hangs).run()
    assert 10 <= outage.attempts <= 40
    assert outage.noticed_after <= 60
    assert outage.wrong == 0
    assert outage.allowed_unknown == outage.insufficient == 0
    assert outage.admitted + outage.unknown == (DOWN + AFTER) * RATE + (not cold)
    # Cold, everybody is refused for ten minutes; else from `stale_for` on.
    refused_for = DOWN if cold else DOWN - (STALE_FOR - 200)
    assert refused_for * RATE <= outage.unknown <= (refused_for + AFTER) * RATE


def test_allowed_when_unknown() -> None:
    """With `if_unknown="allow"` all are let in, and those without a balance are told of as such."""
    outage = Outage(0, RATE, terms={"if_unknown": "allow"}).run()
    assert outage.unknown == 0
    assert outage.admitted == (DOWN + AFTER) * RATE + 1
    assert outage.allowed_unknown == outage.wrong >= (DOWN - 400) * RATE
    assert outage.attempts <= 40


def test_refused_callers_do_not_ask_more_often() -> None:
    """Callers who cannot be paid for want a look each, and get the answer of the one at hand."""
    outage = Outage(0, RATE, credits=0).run()
    assert outage.attempts <= 40
    assert outage.admitted == 0
    assert outage.insufficient >= 390 * RATE


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
def test_whatever_the_jitter(hangs: bool) -> None:
    """The same holds for any luck of the backoff's draw."""
    runs = [Outage(seed, 2, cold=seed % 2 == 0, hangs=hangs).run() for seed in SEEDS]
    assert max(run.attempts for run in runs) <= 40
    assert max(run.noticed_after for run in runs) <= 60
    assert sum(run.wrong for run in runs) == 0
