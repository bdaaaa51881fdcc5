"""What is asked of the guards, and which of it was missed.

What holds for every run is asked of any number of seeds. Two ways are compared by how many of
their calls died, or by what they wasted, only from `ENOUGH` seeds on: up to `ALL` of them only what
is worse by more than twice its standard error counts as missed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from decision_rows import Row, Table, margin_of_sum
from scenarios import (
    ALONE,
    GIVEN_UP,
    LARGE_STEP,
    OFTEN_GIVEN_UP,
    OTHERS,
    PROVEN,
    SMALL_STEP,
    TOP_UPS,
)
from ways import ADVICE, DEFAULT, DISTRUSTING, OURS, TRUSTING
from workload import Scenario

ENOUGH = 10
ALL = 40

# Wrong refusals, in percent of decisions.
AIM = 0.5
AIM_TOP_UPS = 4.0
AIM_STEPPED = 1.0

# The most by which the default may ask more often than `sole_spender=False` does.
MORE_REQUESTS = 1.1

# How many times more calls die by the advice on a provider's page; of few seeds, no fewer.
BETTER_THAN_ADVICE = 5

# Rounding: amounts are floats here, whole micro-credits inside.
EXACT = 1e-6

# With one remedy alone, but for what it cannot see: what a call cost that was given up, or what was
# charged as somebody paid.
REMEDIES = {
    f"{DISTRUSTING}, charged()": ("given up",),
    TRUSTING: ("given up", "top-ups"),
    f"{TRUSTING}, charged()": (),
    f"{DEFAULT}, charged()": (),
}


def missed(table: Table) -> list[str]:
    """The aims that were missed, in words; those of ways that were not measured are left out."""
    return [
        *_unsafe(table),
        *_refused_too_much(table),
        *_worse_than_distrusting(table),
        *_remedies(table),
        *_asks_more(table),
    ]


def _unsafe(table: Table) -> Iterator[str]:
    """Of each form of the guard: nothing is overspent by itself, and nothing promised without a reason."""
    for scenario, rows in table.items():
        for name in OURS:
            row = rows.get(name)
            if row is None:
                continue
            where = f"{scenario.name}: {name}"
            if scenario.alone and (row.died or row.overspent):
                yield f"{where}: {row.died} died, {row.overspent:g} overspent"
            if row.unexplained > EXACT:
                yield f"{where}: {row.unexplained:g} credits were promised that others did not spend"
            if row.false_proofs:
                yield f"{where}: {row.false_proofs} times taken for not alone, and nobody spent"
    rows = table.get(OTHERS, {})
    for name in (DISTRUSTING, f"{DISTRUSTING}, charged()"):
        if name in rows and ADVICE in rows:
            died, advised = rows[name].died, rows[ADVICE].died
            better = BETTER_THAN_ADVICE if rows[name].seeds >= ENOUGH else 1
            if died * better > advised:
                yield f"{OTHERS.name}: {name}: {died} died, {advised} by the page's advice"


def _refused_too_much(table: Table) -> Iterator[str]:
    """Of the default, where nobody else spends."""
    for scenario in ALONE:
        yield from _too_wrong(table, scenario, AIM)
    yield from _too_wrong(table, LARGE_STEP, AIM_STEPPED)
    # Some runs lose much and most hardly anything: one run tells nothing.
    yield from _too_wrong(table, SMALL_STEP, AIM_STEPPED, seeds=ENOUGH)
    yield from _too_wrong(table, TOP_UPS, AIM_TOP_UPS, seeds=ENOUGH)
    for scenario in (GIVEN_UP, OFTEN_GIVEN_UP, TOP_UPS):
        rows = table.get(scenario, {})
        if DEFAULT in rows and TRUSTING in rows:
            row, other = rows[DEFAULT], rows[TRUSTING]
            if row.wrong > other.wrong + 2 * other.wrong_margin + EXACT:
                yield (
                    f"{scenario.name}: {DEFAULT}: {row.wrong:.2f} % wrong, "
                    f"{other.wrong:.2f} % with sole_spender=True"
                )


def _too_wrong(table: Table, scenario: Scenario, aim: float, *, seeds: int = 1) -> Iterator[str]:
    row = table.get(scenario, {}).get(DEFAULT)
    if row is not None and row.seeds >= seeds and row.wrong >= aim:
        yield f"{scenario.name}: {DEFAULT}: {row.wrong:.2f} % wrong, {aim:g} % allowed"


def _worse_than_distrusting(table: Table) -> Iterator[str]:
    """Of the default, where others spend and there is time to prove it."""
    for scenario in PROVEN:
        rows = table.get(scenario, {})
        if DEFAULT not in rows:
            continue
        row = rows[DEFAULT]
        if len(row.first_proofs) < row.seeds:
            without = row.seeds - len(row.first_proofs)
            yield f"{scenario.name}: {DEFAULT}: no proof that others spend in {without} runs"
        other = rows.get(DISTRUSTING)
        if other is None or row.seeds < ENOUGH:
            continue
        for what, ours, theirs in _compared(row, other):
            more = [one - another for one, another in zip(ours, theirs, strict=True)]
            margin = margin_of_sum(more)
            if sum(more) > (2 * margin if row.seeds < ALL else EXACT):
                yield (
                    f"{scenario.name}: {DEFAULT}: {sum(ours):g} {what}, {sum(theirs):g} with "
                    f"sole_spender=False: {sum(more):.0f} ± {margin:.0f} more"
                )


def _compared(row: Row, other: Row) -> Iterator[tuple[str, Sequence[float], Sequence[float]]]:
    one, another = row.outcomes, other.outcomes
    yield "died", [each.died for each in one], [each.died for each in another]
    yield "credits wasted", [each.wasted for each in one], [each.wasted for each in another]
    yield "refused wrongly", row.each_refused_wrongly, other.each_refused_wrongly


def _remedies(table: Table) -> Iterator[str]:
    for name, blind in REMEDIES.items():
        share = wrong_share(table, name, without=blind)
        if share is not None and share >= AIM:
            yield f"{name}: {share:.2f} % wrong where nobody else spends"


def wrong_share(table: Table, name: str, *, without: tuple[str, ...] = ()) -> float | None:
    """One way's wrong refusals where nobody else spends, in percent of all decisions there.

    Over all such scenarios but those with one of these words in their names; None if it was not
    measured.
    """
    rows = [
        rows[name]
        for scenario, rows in table.items()
        if name in rows and scenario.alone and not any(words in scenario.name for words in without)
    ]
    if not rows:
        return None
    decisions = sum(row.decisions for row in rows)
    return 100 * sum(row.refused_wrongly for row in rows) / decisions


@dataclass(frozen=True)
class Requests:
    """Balance requests of one way, over all scenarios."""

    mean: float
    """Per 1,000 decisions, as a mean of the scenarios."""
    pooled: float
    """Per 1,000 of all decisions together: where most are made counts most."""
    total: int


def requests(table: Table, name: str) -> Requests | None:
    """What one way asked where the default and `sole_spender=False` were measured too."""
    rows = [rows[name] for rows in table.values() if {DEFAULT, DISTRUSTING, name} <= set(rows)]
    if not rows:
        return None
    total = sum(row.balance_requests for row in rows)
    return Requests(
        mean=sum(row.requests for row in rows) / len(rows),
        pooled=1000 * total / sum(row.decisions for row in rows),
        total=total,
    )


def asks_more(table: Table) -> list[str]:
    """The scenarios in which the default asks more often by a tenth, in words."""
    return [
        f"{scenario.name}: {rows[DEFAULT].requests:.0f} instead of {rows[DISTRUSTING].requests:.0f}"
        for scenario, rows in table.items()
        if DEFAULT in rows and DISTRUSTING in rows
        if rows[DEFAULT].requests > MORE_REQUESTS * rows[DISTRUSTING].requests
    ]


def _asks_more(table: Table) -> Iterator[str]:
    ours, theirs = requests(table, DEFAULT), requests(table, DISTRUSTING)
    if ours is not None and theirs is not None and ours.mean > MORE_REQUESTS * theirs.mean:
        yield (
            f"{ours.mean:.0f} balance requests per 1,000 decisions, as a mean of the scenarios, and "
            f"{theirs.mean:.0f} with sole_spender=False"
        )
