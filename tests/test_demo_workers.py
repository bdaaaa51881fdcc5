"""`budgetguard demo --workers`: the same calls by several workers, whose guards are alone or share a store."""

import json
from collections.abc import Callable

import pytest

from budgetguard._cli import demo
from budgetguard._cli.demo_screen import Figures, seen_together
from budgetguard._cli.main import main

RUNS = ["unguarded", "guarded", "together"]
WAYS = ("finished", "died", "refused", "refused_by_provider")


def unseen(_: str) -> Callable[[Figures], None]:
    """Show the figures to nobody."""
    return lambda _: None


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_that_share_a_store_lose_nothing(seed: int) -> None:
    """Alone they do, as nobody sees what the others hold; a seed gives the same figures at every run."""
    first, again = (demo.compare(seed, unseen, 4) for _ in range(2))
    assert first == again
    assert list(first) == RUNS
    assert all(sum(first[run][way] for way in WAYS) == 60 for run in RUNS)
    alone, together = first["guarded"], first["together"]
    assert (together["died"], together["credits_wasted"], together["refused_by_provider"]) == (
        0,
        0,
        0,
    )
    assert min(alone["died"], alone["credits_wasted"]) > 0
    assert together["finished"] > alone["finished"]
    assert first["unguarded"] == demo.compare(seed, unseen)["unguarded"]


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The object has one run more, and says how many workers there were."""
    assert main(["demo", "--workers", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == [*RUNS, "seed", "credits", "patience", "workers"]
    assert printed["workers"] == 2
    assert len({tuple(printed[run]) for run in RUNS}) == 1


def test_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """People get three columns, and read what is simulated about the store."""
    assert main(["demo", "--workers", "3"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "60 calls in 10 minutes by 3 workers, seed 0" in said
    assert "The store is the real one's head in memory, 5 ms away" in said
    assert said.endswith("Next: docs/how-to/workers.md has the three lines that a worker needs.")


@pytest.mark.parametrize(
    ("died_alone", "because"), [(2, ", because no worker sees what the others hold"), (0, "")]
)
def test_what_was_seen(died_alone: int, because: str) -> None:
    """The sentences hold whichever way the figures fall."""
    runs: dict[str, Figures] = {
        "unguarded": {"finished": 2, "died": 0, "refused": 0},
        "guarded": {"died": died_alone, "credits_wasted": 3, "credits_spent": 9},
        "together": {"finished": 1, "died": 0, "refused": 2},
    }
    lost = "2 calls died half-way and wasted 3 of the 9 credits spent"
    assert seen_together(runs) == (
        "Without a guard no call died half-way. With a guard in each worker's own memory "
        f"{lost if died_alone else 'no call died half-way'}{because}. With one store for all no call "
        "died half-way: 1 call finished, and the guards refused 2 calls."
    )


@pytest.mark.parametrize("workers", ["0", "65", "x", "-1", "1.5"])
def test_a_wrong_number_of_workers(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one sentence, as for every wrong argument."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--workers={workers}"])
    assert ended.value.code == 2
    assert "--workers needs a number of workers from 1 to 64" in capsys.readouterr().err
