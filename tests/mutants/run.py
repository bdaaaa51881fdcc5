"""Apply each mutant to a copy, run the tests that have to find it, and tell which did not.

    python tests/mutants/run.py                 all, one after the other
    python tests/mutants/run.py --only lag      those with "lag" in their name

Exits 1 if one survives. Takes about ten seconds a mutant.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PATIENCE = 300


def main() -> int:
    """Run the mutants that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a part of the name")
    chosen = [each for each in MUTANTS if parser.parse_args().only in each.name]
    survivors = []
    for number, mutant in enumerate(chosen, 1):
        killed = _is_killed(mutant)
        print(
            f"{number}/{len(chosen)} {'killed  ' if killed else 'SURVIVED'} {mutant.name}",
            flush=True,
        )
        if not killed:
            survivors.append(mutant.name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed")
    return int(bool(survivors))


def _is_killed(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for name in ("budgetguard", "tests"):
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", copy)
        source = copy / "budgetguard" / mutant.file
        text = source.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            msg = f"{mutant.name}: found {text.count(mutant.old)} times in {mutant.file}"
            raise SystemExit(msg)
        source.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        # Also for the programs that tests start, the copy comes before an installed package.
        environment = {**os.environ, "PYTHONPATH": directory}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, *mutant.tests.split()],
                cwd=copy,
                env=environment,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        return done.returncode == 1


if __name__ == "__main__":
    sys.exit(main())
