"""The sample of an operation's settlements, and what is held by it."""

from random import Random

import pytest

from budgetguard._core.cost_sample import ENOUGH, LATELY, SAMPLE, CostFigures, CostSample
from budgetguard._core.estimate import more_calls

START = 1000


def sample_of(*costs: int, missed: bool = False) -> CostSample:
    """A sample with these settlements, in order of time."""
    sample = CostSample()
    for cost in costs:
        sample.add(cost, missed=missed)
    return sample


@pytest.mark.parametrize("settled", [0, 1, ENOUGH - 1])
def test_start_is_held_until_enough_was_settled(settled: int) -> None:
    """A few cheap calls prove nothing."""
    assert sample_of(*[1] * settled).figures.to_hold(START, 0.95) == START


def test_a_start_that_was_too_low_gives_way_at_once() -> None:
    """What was seen to cost more needs no statistics."""
    assert sample_of(1, START + 7).figures.to_hold(START, 0.5) == START + 7


def test_enough_settlements_replace_start() -> None:
    """From then on the quantile counts, below start or above it."""
    assert sample_of(*[3] * ENOUGH).figures.to_hold(START, 0.95) == 3
    assert sample_of(*[3000] * ENOUGH).figures.to_hold(START, 0.95) == 3000


@pytest.mark.parametrize(
    ("settled", "quantile", "held"),
    [(100, 0.5, 50), (100, 0.95, 95), (100, 0.991, 100), (100, 1, 100), (50, 0.91, 46)],
)
def test_the_quantile_goes_by_rank(settled: int, quantile: float, held: int) -> None:
    """Of n settlements in order, the one at position `ceil(quantile * n)`."""
    costs = list(range(1, settled + 1))
    Random(7).shuffle(costs)
    # Nothing happened lately that is not in the rest.
    figures = CostFigures(costs=tuple(sorted(costs)), lately=(0,))
    assert figures.to_hold(START, quantile) == held


@pytest.mark.parametrize("quantile", [0.5, 0.8, 0.95])
def test_the_next_call_costs_no_more_in_that_share_of_cases(quantile: float) -> None:
    """But for `1 / (n + 1)`, whatever the distribution: here one with a long tail. 2 % are chance."""
    random = Random(12)
    covered = 0
    for _ in range(4000):
        *seen, following = (int(1000 * random.paretovariate(1.2)) for _ in range(51))
        covered += following <= sample_of(*seen).figures.to_hold(START, quantile)
    assert covered / 4000 >= quantile - 1 / 51 - 0.02


def test_dearer_calls_count_as_soon_as_they_are_frequent_lately() -> None:
    """200 cheap calls do not outvote what happens now; a single outlier does not count."""
    cheap = [1] * 200
    few = LATELY - int(0.95 * LATELY)
    assert sample_of(*cheap, 90).figures.to_hold(START, 0.95) == 1
    assert sample_of(*cheap, *[90] * (few + 1)).figures.to_hold(START, 0.95) == 90


def test_cheaper_calls_count_once_the_dear_ones_are_forgotten() -> None:
    """The sample is bounded: it is of the last settlements alone."""
    dear = [90] * SAMPLE
    assert sample_of(*dear, *[1] * (SAMPLE // 2)).figures.to_hold(START, 0.95) == 90
    after = sample_of(*dear, *[1] * SAMPLE).figures
    assert (after.to_hold(START, 0.95), after.largest, len(after.costs)) == (1, 1, SAMPLE)


def test_figures_are_computed_once_for_each_settlement() -> None:
    """And again after one, also at the same cost."""
    sample = sample_of(5)
    before = sample.figures
    assert sample.figures is before
    sample.add(5, missed=False)
    assert len(sample.figures.costs) == 2


@pytest.mark.parametrize(
    ("charged", "grown"), [(0, 0), (79, 0), (80, 300), (100, 300), (239, 300), (240, 300)]
)
def test_a_hold_grows_from_four_fifths_to_the_largest_cost(charged: int, grown: int) -> None:
    """Of 100, with 300 the largest cost seen."""
    assert 100 + sample_of(300, 20).growth(100, charged) == (grown or 100)


@pytest.mark.parametrize(("charged", "grown"), [(239, 300), (260, 325), (320, 400)])
def test_beyond_the_largest_cost_a_hold_grows_by_a_quarter(charged: int, grown: int) -> None:
    """More than what was charged, so that the next part is still covered."""
    assert 300 + sample_of(300, 20).growth(300, charged) == grown


@pytest.mark.parametrize(
    ("misses", "of", "quantile", "suspicious"),
    [
        (4, 5, 0.95, False),
        (5, 5, 0.95, True),
        (12, 200, 0.95, False),
        (20, 200, 0.95, True),
        (100, 200, 0.5, False),
        (5, 200, 1, True),
    ],
)
def test_misses_are_compared_with_what_the_quantile_allows(
    misses: int, of: int, quantile: float, suspicious: bool
) -> None:
    """Few misses are chance, and a low quantile asks for many."""
    sample = sample_of(*[1] * (of - misses))
    for _ in range(misses):
        sample.add(2, missed=True)
    assert sample.figures.misses_too_often(quantile) is suspicious


@pytest.mark.parametrize(
    ("available", "least", "cost", "cap", "calls"),
    [
        (None, 0, 5, 100, None),
        (23, 0, 5, 100, 4),
        (25, 0, 5, 100, 5),
        (4, 0, 5, 100, 0),
        (-4, 0, 5, 100, 0),
        (25, 20, 5, 100, 2),
        (25, 0, 5, 4, 0),
        (25, 20, 0, 100, float("inf")),
        (19, 20, 0, 100, 0),
        (-1, 0, 0, 100, float("inf")),
        (float("inf"), 20, 5, float("inf"), float("inf")),
        (10**18 + 1, 0, 10, float("inf"), 10**17),
    ],
)
def test_more_calls(
    available: float | None, least: int, cost: int, cap: float, calls: float | None
) -> None:
    """Each needs the larger of `least` and `cost`, and takes `cost`."""
    assert more_calls(available, least, cost, cap) == calls
