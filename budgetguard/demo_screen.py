"""What the demo shows: progress while it runs, and a table when it is done."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_ROWS = (
    ("finished", "Calls finished", None),
    ("died", "Calls that died half-way", 0),
    ("credits_wasted", "Credits wasted on them", 0),
    ("refused", "Calls refused before they cost anything", None),
    ("credits_spent", "Credits spent", None),
    ("lowest_balance", "Lowest true balance", None),
    ("balance_requests", "Balance requests", None),
)


class Screen:
    """Progress goes to standard error, the table to standard output."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:>2.0f} of {task.total:.0f}"),
            TextColumn("[green]{task.fields[counts][finished]} finished"),
            TextColumn("[red]{task.fields[counts][cut off]} failed"),
            TextColumn("[yellow]{task.fields[counts][refused]} refused"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def follow(self, run: str) -> Callable[[dict[Any, int]], None]:
        """A line for one run; returns what shows its counts."""
        task = self._progress.add_task(
            run, total=self._calls, counts={"finished": 0, "cut off": 0, "refused": 0}
        )
        if self._progress.disable:
            sys.stderr.write(f"{run}: {self._calls} calls ...\n")

        def show(counts: dict[Any, int]) -> None:
            self._progress.update(task, completed=sum(counts.values()), counts=counts)

        return show

    def show(self, results: dict[str, Any]) -> None:
        """Print the table of both runs."""
        table = Table(title=f"{self._calls} calls, seed {results['seed']}")
        table.add_column("")
        table.add_column("unguarded", justify="right")
        table.add_column("guarded", justify="right")
        for key, label, wanted in _ROWS:
            cells = [results[run][key] for run in ("unguarded", "guarded")]
            shown = [
                f"[{'green' if cell == wanted else 'red'}]{cell}"
                if wanted is not None
                else f"{cell}"
                for cell in cells
            ]
            table.add_row(label, *shown)
        Console().print(table)
