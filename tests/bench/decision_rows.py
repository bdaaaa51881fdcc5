"""What became of many runs, as rows of Markdown tables, with margins of error.

A margin is one standard error over the seeds: of a sum, or of a share of all decisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median, stdev
from typing import TypeAlias

from workload import MINUTE, Outcome, Scenario


@dataclass(frozen=True)
class Row:
    """One way in one scenario, a run for each seed; shares are percent of decisions."""

    outcomes: tuple[Outcome, ...]

    @property
    def seeds(self) -> int:
        """How many runs."""
        return len(self.outcomes)

    @property
    def decisions(self) -> int:
        """Decisions of all runs."""
        return max(sum(each.refusals.decisions for each in self.outcomes), 1)

    @property
    def refused_wrongly(self) -> int:
        """Wrong refusals of all runs."""
        return sum(self.each_refused_wrongly)

    @property
    def each_refused_wrongly(self) -> list[int]:
        """Wrong refusals of each run."""
        return [each.refusals.wrong for each in self.outcomes]

    @property
    def wrong(self) -> float:
        """The share of wrong refusals."""
        return 100 * self.refused_wrongly / self.decisions

    @property
    def wrong_margin(self) -> float:
        """Its standard error; 0 for a single run."""
        share = self.wrong / 100
        decisions = [each.refusals.decisions for each in self.outcomes]
        rests = [
            wrong - share * all_
            for wrong, all_ in zip(self.each_refused_wrongly, decisions, strict=True)
        ]
        return 100 * margin_of_sum(rests) / self.decisions

    @property
    def hindsight(self) -> float:
        """The share of refusals that were wrong by the provider's own books."""
        return 100 * sum(each.refusals.in_hindsight for each in self.outcomes) / self.decisions

    @property
    def late(self) -> float:
        """The share of wrong refusals among the decisions on the last fifth of the account."""
        decisions = max(sum(each.late.decisions for each in self.outcomes), 1)
        return 100 * sum(each.late.wrong for each in self.outcomes) / decisions

    @property
    def died(self) -> int:
        """Calls that the provider ended half-way."""
        return sum(each.died for each in self.outcomes)

    @property
    def died_margin(self) -> float:
        """Its standard error; 0 for a single run."""
        return margin_of_sum([each.died for each in self.outcomes])

    @property
    def finished(self) -> int:
        """Calls that came to their end."""
        return sum(each.finished for each in self.outcomes)

    @property
    def wasted(self) -> float:
        """Credits that the calls that died had cost."""
        return sum(each.wasted for each in self.outcomes)

    @property
    def overspent(self) -> float:
        """The furthest below zero that the account came, in credits."""
        return max(each.overspent for each in self.outcomes)

    @property
    def requests(self) -> float:
        """Balance requests per 1,000 decisions."""
        return 1000 * self.balance_requests / self.decisions

    @property
    def balance_requests(self) -> int:
        """Balance requests of all runs."""
        return sum(each.requests for each in self.outcomes)

    @property
    def overpromised(self) -> Outcome:
        """The run that promised the most beyond what the account held."""
        return max(self.outcomes, key=lambda each: each.overpromised)

    @property
    def unexplained(self) -> float:
        """The most promised beyond that for which others or what was committed do not account."""
        return max(each.unexplained for each in self.outcomes)

    @property
    def first_proofs(self) -> list[float]:
        """When others were first believed to spend, in minutes, for the runs in which they were."""
        return [each.first_proof / MINUTE for each in self.outcomes if each.first_proof is not None]

    @property
    def false_proofs(self) -> int:
        """How often they were although nobody else had spent."""
        return sum(each.false_proofs for each in self.outcomes)


Table: TypeAlias = dict[Scenario, dict[str, Row]]


def margin_of_sum(values: Sequence[float]) -> float:
    """The standard error of the sum of one figure for each seed; 0 for a single one."""
    return sqrt(len(values)) * stdev(values) if len(values) > 1 else 0.0


def show(table: Table) -> None:
    """Print it as Markdown, the ways below one another."""
    for scenario, rows in table.items():
        print(f"\n## {scenario.name[0].upper()}{scenario.name[1:]}\n")
        print(
            "| way | finished | died | wasted | overspent | wrong refusals | of the last 20 % "
            "| in hindsight | longest | unknown | requests per 1,000 |"
        )
        print("|---|" + "---:|" * 10)
        for name, row in rows.items():
            died = f"{row.died}{_plus_minus(row.died_margin, 0)}"
            wrong = f"{row.wrong:.2f}{_plus_minus(row.wrong_margin, 2)} %"
            longest = max(each.longest for each in row.outcomes)
            unknown = sum(each.unknown for each in row.outcomes)
            print(
                f"| {name} | {row.finished} | {died} | {row.wasted:.0f} | {row.overspent:.1f} "
                f"| {wrong} | {row.late:.2f} % | {row.hindsight:.2f} % "
                f"| {longest:.0f} s | {unknown} | {row.requests:.0f} |"
            )


def show_beliefs(table: Table, ways: Sequence[str]) -> None:
    """Print what guards promised beyond what there was, and when they believed others to spend."""
    print("\n## Promised beyond what the account held, and the first proof that others spend\n")
    print("| scenario | way | promised beyond | others spent | committed | first proof | false |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for scenario, rows in table.items():
        for name in ways:
            if name not in rows or (scenario.alone and not rows[name].first_proofs):
                continue
            row, worst, proofs = rows[name], rows[name].overpromised, rows[name].first_proofs
            first = f"{median(proofs):.1f} min, {len(proofs)} of {row.seeds}" if proofs else "-"
            print(
                f"| {scenario.name} | {name} | {worst.overpromised:.0f} | {worst.by_others:.0f} "
                f"| {worst.committed:.0f} | {first} | {row.false_proofs} |"
            )


def _plus_minus(margin: float, digits: int) -> str:
    return f" ± {margin:.{digits}f}" if round(margin, digits) else ""
