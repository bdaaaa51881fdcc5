"""Apply each mutant to a copy, run the tests that have to find it, and tell which did not.

    python tests/mutants/run.py                 all, one after the other
    python tests/mutants/run.py --only lag      those with "lag" in their name

Prints the test that found it. Exits 1 if one survives, or if the text of one is not in the source
any more. Takes about three seconds a mutant.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PATIENCE = 300
_FAILED = re.compile(r"^(?:FAILED|ERROR) (?:tests/)?(.+?)(?: - .*)?$", re.MULTILINE)


def main() -> int:
    """Run the mutants that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a part of the name")
    chosen = [each for each in MUTANTS if parser.parse_args().only in each.name]
    survivors = []
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for name in ("budgetguard", "tests"):
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for number, mutant in enumerate(chosen, 1):
            found_by = _killer(mutant, copy)
            verdict = (
                f"killed   {mutant.name}: {found_by}" if found_by else f"SURVIVED {mutant.name}"
            )
            print(f"{number}/{len(chosen)} {verdict}", flush=True)
            if not found_by:
                survivors.append(mutant.name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed")
    return int(bool(survivors))


def _killer(mutant: Mutant, copy: Path) -> str | None:
    """The test that finds the mutant, None if it survives; leaves the copy as it was."""
    source = copy / "budgetguard" / mutant.file
    text = source.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        print(f"its text is {text.count(mutant.old)} times in {mutant.file}, and not once:")
        return None
    source.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return _first_failure(mutant.tests, copy)
    finally:
        source.write_text(text, encoding="utf-8")


def _first_failure(tests: str, copy: Path) -> str | None:
    # Also for the programs that tests start, the copy comes before an installed package. Bytecode
    # would be taken for the source's of the mutant before, where both are of one second and size.
    path = f"{copy}{os.pathsep}{Path(__file__).parent}"
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, "-p", "unshrunk", *tests.split()],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {PATIENCE} s"
    if done.returncode == 0:
        return None
    if done.returncode != 1:
        raise SystemExit(done.stdout + done.stderr)
    failed = _FAILED.search(done.stdout)
    return failed[1] if failed else "a failure"


if __name__ == "__main__":
    sys.exit(main())
