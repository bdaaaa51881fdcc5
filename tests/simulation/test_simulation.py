"""The simulation in short; `python tests/simulation/run.py --seeds 200` is the long form."""

import pytest
from scenario import Broken, Simulation


@pytest.mark.parametrize("first", range(0, 40, 4))
def test_nothing_breaks(first: int) -> None:
    """No seed overspends, leaks a hold, or ends with other books than the provider's."""
    for seed in range(first, first + 4):
        Simulation(seed, steps=300).run()


def test_the_same_seed_is_the_same_trace() -> None:
    """A failing seed can be run again: the trace is the same, line by line."""
    first, second = Simulation(4, steps=300), Simulation(4, steps=300)
    first.run()
    second.run()
    assert first.trace == second.trace
    assert len(first.trace) > 300


@pytest.mark.parametrize("terms", [{"lag": 0}, {"linger": 0}], ids=["lag", "linger"])
def test_it_finds_a_guard_that_is_too_trusting(terms: dict[str, float]) -> None:
    """Without lag, or linger, some seed overspends: the simulation can fail."""
    with pytest.raises(Broken, match="S1: overspent"):
        for seed in range(200):
            Simulation(seed, steps=300, **terms).run()
