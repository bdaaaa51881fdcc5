"""The share of general mutants that the tests find, over a seeded sample of the modules around the ledger.

    python tests/mutants/sample.py                     600 mutants, seed 0; at most an hour
    python tests/mutants/sample.py --seed 7 --count 50

First all tests are run once, to see which lines each of them runs. A mutant is then shown to the
tests that run its line, the quickest first. Prints each survivor as it is found. Exits 1 below 85 %,
2 if the time was not enough. A mutant that ends in a time-out is killed, one that no test reaches has
survived.
"""

import argparse
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from general import General, mutants_of

ROOT = Path(__file__).parents[2]
MUTATED = [
    "account.py",
    "arrivals.py",
    "line.py",
    "hold.py",
    "gate.py",
    "transport.py",
    "browser/session.py",
]
TESTS = [
    "tests/test_arrivals.py",
    "tests/guard",
    "tests/wrapping",
    "tests/transport",
    "tests/browser",
    "tests/process",
    "tests/test_pool.py",
    "tests/test_switch.py",
]
# Not needed to find these, and slow; and what counts Python calls sees the coverage's own.
SKIPPED = [
    "tests/transport/test_sdks.py",
    "tests/browser/test_killed.py",
    "tests/browser/test_example.py",
]
AIM = 85
# A mutant is shown to as many tests as take so long together, then once more to the rest of them.
BUDGETS = (6.0, 40.0)
_SLACK = 25.0


def main() -> int:
    """Draw the sample, run it, and print what survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    began = time.monotonic()
    everything = [m for file in MUTATED for m in mutants_of(file, ROOT / "budgetguard" / file)]
    sample = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    with tempfile.TemporaryDirectory() as directory:
        copies = [_copy(Path(directory) / str(job)) for job in range(options.jobs)]
        reach = _reach(copies[0])
        print(
            f"{len(everything)} mutants, {len(sample)} drawn; which test runs which line is known",
            flush=True,
        )
        sample = _compiled(sample)
        survivors, shown = _show_all(sample, copies, reach, began + 60 * options.minutes)
    killed = shown - len(survivors)
    share = 100 * killed / max(shown, 1)
    minutes = (time.monotonic() - began) / 60
    print(f"{killed} of {shown} mutants killed: {share:.1f} % in {minutes:.0f} min")
    if shown < len(sample):
        print(f"the time was not enough for the other {len(sample) - shown}")
        return 2
    return int(share < AIM)


class Reach:
    """Which tests run a line, the quickest first."""

    def __init__(self, noted: dict[str, dict[str, object]]) -> None:
        self._lines: dict[str, dict[str, list[str]]] = noted["lines"]  # type: ignore[assignment]
        self.seconds: dict[str, float] = noted["seconds"]  # type: ignore[assignment]

    def tests(self, mutant: General) -> list[str]:
        """Their ids."""
        lines = self._lines.get(mutant.file, {})
        tests = lines.get(str(mutant.line), [])
        if not tests and str(mutant.line) in lines:
            # It is run as the module is imported: all that use the module may tell.
            tests = list(dict.fromkeys(test for tests in lines.values() for test in tests))
        return sorted(tests, key=lambda test: self.seconds.get(test, 0.0))


def _copy(copy: Path) -> Path:
    for name in ("budgetguard", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def _reach(copy: Path) -> Reach:
    noted = copy / "covered.json"
    options = ["-p", "covered", f"--covered={noted}", f"--covered-in={copy / 'budgetguard'}"]
    done = _pytest(copy, [*options, *TESTS, *(f"--ignore={each}" for each in SKIPPED)], 1800)
    if done is None or not noted.exists():
        msg = "the tests came to no end"
        raise SystemExit(msg)
    return Reach(json.loads(noted.read_text()))


def _compiled(sample: list[General]) -> list[General]:
    """Without those that are no Python."""
    kept = []
    for mutant in sample:
        source = (ROOT / "budgetguard" / mutant.file).read_text(encoding="utf-8")
        try:
            compile(mutant.applied(source), mutant.file, "exec")
        except SyntaxError:
            continue
        kept.append(mutant)
    return kept


def _show_all(
    sample: list[General], copies: list[Path], reach: Reach, until: float
) -> tuple[list[General], int]:
    """Show all mutants to their tests, a thread for each copy; who survived, and how many were shown."""
    left: queue.SimpleQueue[General] = queue.SimpleQueue()
    for mutant in sample:
        left.put(mutant)
    survivors: list[General] = []
    shown: list[General] = []

    def work(copy: Path) -> None:
        while time.monotonic() < until:
            try:
                mutant = left.get_nowait()
            except queue.Empty:
                return
            survived = _survives(mutant, copy, reach)
            shown.append(mutant)
            if survived:
                survivors.append(mutant)
                print(f"SURVIVED {_described(mutant, reach)}", flush=True)
            if len(shown) % 25 == 0:
                print(f"{len(shown)}/{len(sample)}, {len(survivors)} survived", flush=True)

    threads = [threading.Thread(target=work, args=(copy,)) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return survivors, len(shown)


def _survives(mutant: General, copy: Path, reach: Reach) -> bool:
    path = copy / "budgetguard" / mutant.file
    source = path.read_text(encoding="utf-8")
    path.write_text(mutant.applied(source), encoding="utf-8")
    tests = reach.tests(mutant)
    try:
        for budget in BUDGETS:
            chosen, tests = _within(tests, budget, reach.seconds)
            if not chosen:
                break
            done = _pytest(copy, ["-x", *chosen], _SLACK + 3 * budget)
            if done is None or done.returncode != 0:
                return False
    finally:
        path.write_text(source, encoding="utf-8")
    return True


def _within(
    tests: list[str], budget: float, seconds: dict[str, float]
) -> tuple[list[str], list[str]]:
    """The first tests, as many as take no longer than that together, and the rest."""
    spent = 0.0
    for number, test in enumerate(tests):
        spent += seconds.get(test, 0.0)
        if spent > budget and number:
            return tests[:number], tests[number:]
    return tests, []


def _described(mutant: General, reach: Reach) -> str:
    line = (
        (ROOT / "budgetguard" / mutant.file)
        .read_text(encoding="utf-8")
        .splitlines()[mutant.line - 1]
    )
    old = line.encode()[mutant.start : mutant.end].decode()
    tests = len(reach.tests(mutant))
    return f"{mutant.file}:{mutant.line} ({tests} tests): {old}  ->  {mutant.new}"


def _pytest(
    copy: Path, arguments: list[str], patience: float
) -> "subprocess.CompletedProcess[bytes] | None":
    # Also for the programs that tests start, the copy comes before an installed package.
    path = f"{copy}{os.pathsep}{Path(__file__).parent}"
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-q", "-p", "no:cacheprovider", "-p", "unshrunk", "--tb=no"]
    listed = copy / "arguments.txt"
    listed.write_text("\n".join(arguments))
    try:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options, f"@{listed}"],
            cwd=copy,
            env=environment,
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None


if __name__ == "__main__":
    sys.exit(main())
