"""The share of general mutants that the tests find, over a seeded sample of the modules around the ledger.

    python tests/mutants/sample.py                     600 mutants, seed 0; at most an hour
    python tests/mutants/sample.py --seed 7 --count 50

First all tests are run once, to see which lines each of them runs. A mutant is then shown to the
tests that run its line, the quickest first. Prints each survivor and each time-out as it is found.
Exits 1 below 85 %, 2 if the time was not enough. A mutant that ends in a time-out is killed, one that
no test reaches has survived.
"""

import argparse
import contextlib
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
import warnings
from pathlib import Path
from typing import Self

from general import General, mutants_of

ROOT = Path(__file__).parents[2]
MUTATED = [
    "_engine/account.py",
    "_core/queue_order.py",
    "_engine/wait_queue.py",
    "_engine/hold.py",
    "_decorators/wrappers.py",
    "_engine/call_spec.py",
    "_engine/reservation.py",
    "transport/__init__.py",
    "browser/_session.py",
]
TESTS = [
    "tests/test_queue_order.py",
    "tests/guard",
    "tests/wrapping",
    "tests/transport",
    "tests/browser",
    "tests/process",
    "tests/test_pool.py",
    "tests/test_switch.py",
    "tests/test_arguments.py",
]
# Not needed to find these, and slow; and what counts Python calls sees the coverage's own.
SKIPPED = [
    "tests/transport/test_sdks.py",
    "tests/browser/test_killed.py",
    "tests/browser/test_example.py",
]
AIM = 85
# A mutant is shown to as many tests as take so long together, then once more to the rest of them.
BUDGETS = (5.0, 20.0)
_SLACK = 25.0
ALWAYS = ["-q", "-p", "no:cacheprovider", "-p", "unshrunk", "--tb=no"]


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
        sample = _compiled(sample, copies[0])
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
        if not tests:
            # It is run as the module is imported, if at all: all that use the module may tell.
            tests = list(dict.fromkeys(test for tests in lines.values() for test in tests))
        return sorted(tests, key=lambda test: self.seconds.get(test, 0.0))


def _copy(copy: Path) -> Path:
    for name in ("budgetguard", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def _reach(copy: Path) -> Reach:
    noted = copy / "covered.json"
    options = ["-p", "covered", *(f"--ignore={each}" for each in SKIPPED)]
    command = [sys.executable, "-m", "pytest", *ALWAYS, *options, *TESTS]
    environment = {**_environment(copy), "COVERED": str(noted)}
    subprocess.run(command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, check=False)
    if not noted.exists():
        msg = "the tests came to no end"
        raise SystemExit(msg)
    reach = Reach(json.loads(noted.read_text()))
    # What fails without a mutant would kill each of them.
    with Runner(copy) as runner:
        code = runner.run(list(reach.seconds), 1800)
    if code != 0:
        msg = f"the tests do not pass as they are: pytest ended with {code}"
        raise SystemExit(msg)
    return reach


class Runner:
    """Runs tests against a copy, see `forked`."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "forked.py")],
            cwd=copy,
            env=_environment(copy),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, tests: list[str], patience: float, *options: str) -> int | None:
        """pytest's exit code, None where the time was not enough."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # In a file, as there may be more than a command line takes.
        listed = self.copy / "tests.txt"
        listed.write_text("\n".join(tests))
        arguments = [patience, *ALWAYS, *options, f"@{listed}"]
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _environment(copy: Path) -> dict[str, str]:
    # Also for the programs that tests start, the copy comes before an installed package.
    path = f"{copy}{os.pathsep}{Path(__file__).parent}"
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _compiled(sample: list[General], copy: Path) -> list[General]:
    """Without those that are no Python."""
    kept = []
    for mutant in sample:
        source = (copy / "budgetguard" / mutant.file).read_text(encoding="utf-8")
        with contextlib.suppress(SyntaxError), warnings.catch_warnings(action="ignore"):
            compile(mutant.applied(source), mutant.file, "exec")
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
        with Runner(copy) as runner:
            work_with(runner)

    def work_with(runner: Runner) -> None:
        while time.monotonic() < until:
            try:
                mutant = left.get_nowait()
            except queue.Empty:
                return
            survived = _survives(mutant, runner, reach)
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


def _survives(mutant: General, runner: Runner, reach: Reach) -> bool:
    path = runner.copy / "budgetguard" / mutant.file
    source = path.read_text(encoding="utf-8")
    path.write_text(mutant.applied(source), encoding="utf-8")
    tests = reach.tests(mutant)
    try:
        for budget in BUDGETS:
            chosen, tests = _within(tests, budget, reach.seconds)
            if not chosen:
                break
            code = runner.run(chosen, _SLACK + 3 * budget, "-x")
            if code is None:
                print(f"TIMED OUT {_described(mutant, reach)}", flush=True)
            if code != 0:
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


if __name__ == "__main__":
    sys.exit(main())
