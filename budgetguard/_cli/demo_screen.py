"""What the demo shows: a table that fills while it runs, and two sentences when it is done."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from budgetguard._cli.output import print_answer, print_note

Figures: TypeAlias = dict[str, int | float]
"""Of one run, as in the JSON output."""

Results: TypeAlias = dict[str, Figures]
"""Of each of the `RUNS`."""

Show: TypeAlias = Callable[[Figures], None]

RUNS = ("unguarded", "guarded")
RUNS_OF_SEVERAL = (*RUNS, "together")

# The head of each run's column, where there are several workers.
_HEADS = {"unguarded": "unguarded", "guarded": "guarded alone", "together": "guarded together"}

# What is counted, in words, and whether any of it is a loss.
_ROWS = (
    ("finished", "Finished", False),
    ("refused", "Refused by the guard, before any cost", False),
    ("refused_by_provider", "Refused by the provider (402 or 429) at the start", False),
    ("died", "Died half-way", True),
    ("credits_spent", "Credits spent", False),
    ("credits_wasted", "Credits wasted on calls that died", True),
    ("lowest_balance", "Lowest balance of an account", False),
    ("balance_requests", "Balance requests", False),
    ("seconds", "Simulated seconds until the last call ended", False),
)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all runs have in common; `patience` and `retry_after` are seconds.

    `server` is where the workers' store is; None for one in memory.
    """

    calls: int
    minutes: int
    credits: int
    patience: float
    retry_after: float
    seed: int
    workers: int = 1
    server: str | None = None

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs, by the names that they have in the results."""
        return RUNS if self.workers == 1 else RUNS_OF_SEVERAL


class Screen:
    """Progress goes to standard error, the final screen to standard output."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._results: Results = {}
        console = Console(stderr=True)
        self._live = Live(console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def follow(self, run: str) -> Show:
        """A function that shows the figures of one run so far."""
        if self._live is None:
            print_note(f"{run}: {self._conditions.calls} calls ...")

        def show(figures: Figures) -> None:
            self._results[run] = figures
            if self._live is not None:
                self._live.update(table(self._conditions, self._results))

        return show

    def show(self, results: Results) -> None:
        """Print the final screen."""
        console = Console()
        with console.capture() as printed:
            console.print(final(self._conditions, results))
        print_answer(printed.get().removesuffix("\n"))


def final(conditions: Conditions, results: Results) -> RenderableType:
    """The table of all runs, what was seen, and what to try next."""
    if conditions.workers > 1:
        page = "workers.md" if conditions.server is None else "many-machines.md"
        return Group(
            table(conditions, results),
            "",
            seen_together(results),
            "",
            f"Next: docs/how-to/{page} has the three lines that a worker needs.",
        )
    return Group(
        table(conditions, results),
        "",
        seen(results["unguarded"], results["guarded"]),
        "",
        "Next: run `budgetguard sandbox --credits 120`, paste what it prints into another terminal, and follow "
        "docs/tutorial.md there.",
    )


def table(conditions: Conditions, results: Results) -> Table:
    """All runs side by side, as far as their figures are known."""
    runs, workers = conditions.runs, conditions.workers
    by = f" by {workers} workers" if workers > 1 else ""
    made = Table(
        title=f"{conditions.calls} calls in {conditions.minutes} minutes{by}, seed {conditions.seed}",
        box=SIMPLE_HEAD,
        caption=_caption(conditions),
        caption_justify="left",
    )
    made.add_column()
    for run in runs:
        made.add_column(run if workers == 1 else _HEADS[run], justify="right", min_width=9)
    start = f"{conditions.credits} + {conditions.credits}"
    made.add_row("Credits at the start, pre.dev + Anchor Browser", *[start] * len(runs))
    for key, words, is_loss in _ROWS:
        cells = [results.get(run, {}).get(key) for run in runs]
        made.add_row(words, *(_cell(cell, is_loss=is_loss) for cell in cells))
    return made


def seen(unguarded: Figures, guarded: Figures) -> str:
    """What the figures say, in two sentences that hold whichever way they fall."""
    more = guarded["finished"] - unguarded["finished"]
    compared = f"{abs(more)} {'more' if more > 0 else 'fewer'} than" if more else "as many as"
    at_no_cost = " at no cost" * bool(guarded["refused"])
    return (
        f"Without the guard {_lost(unguarded)}, and with it {_lost(guarded)}. "
        f"With the guard {_calls(guarded['finished'])} finished, {compared} without it, "
        f"and the guard refused {_calls(guarded['refused'])}{at_no_cost}."
    )


def seen_together(results: Results) -> str:
    """What the figures of several workers say, whichever way they fall."""
    alone, together = results["guarded"], results["together"]
    unseen = ", because no worker sees what the others hold" * bool(alone["died"])
    return (
        f"Without a guard {_lost(results['unguarded'])}. With a guard in each worker's own memory "
        f"{_lost(alone)}{unseen}. With one store for all "
        f"{_lost(together)}: {_calls(together['finished'])} finished, and the guards refused "
        f"{_calls(together['refused'])}."
    )


def _caption(conditions: Conditions) -> str:
    patience, again = f"{conditions.patience:g} s", f"{conditions.retry_after:g} s"
    if conditions.workers > 1:
        store = (
            "The store is the real one's head in memory, 5 ms away, because a file has no simulated time."
            if conditions.server is None
            else f"The store is the real one in the server at {conditions.server}, which is told the "
            "simulated time, and 5 ms away."
        )
        return (
            "Each call begins at the same moment in all three runs, at the same worker, and has the same "
            f"cost and {patience} of patience: a call that the provider refuses at the start is sent again "
            f"every {again}, and a guard may let a call wait. The guards are the real ones: alone with "
            f"sole_spender=False, because others spend too; together with a store. {store} The sandbox's "
            "accounts and API are the real ones; time is simulated, and no network is used for them."
        )
    return (
        "Each call begins at the same moment on both sides and has the same cost, and both sides "
        f"have {patience} of patience for it: a call that the provider refuses at the start is "
        f"sent again every {again}, and the guard may let a call wait. The guard is the real one "
        "with its default settings, and so are the sandbox's accounts and API; time is simulated, "
        "and no network is used."
    )


def _cell(figure: float | None, *, is_loss: bool) -> str:
    if figure is None:
        return ""
    return f"[{'red' if figure else 'green'}]{figure}" if is_loss else f"{figure}"


def _lost(run: Figures) -> str:
    if not run["died"]:
        return "no call died half-way"
    wasted = f"{run['credits_wasted']} of the {run['credits_spent']} credits spent"
    return f"{_calls(run['died'])} died half-way and wasted {wasted}"


def _calls(number: float) -> str:
    return f"{number or 'no'} call{'s' * (number != 1)}"
