"""The share of all mutants of the ledger, its debits and the policy that their tests find, by mutmut.

    python tests/mutants/score.py               takes about ten minutes; needs mutmut
    python tests/mutants/score.py --keep DIR    works in DIR, and leaves it there

Mutates a copy, and tthere these three modules alone. Prints what survived, as differences. Exits 1
below 90 %. A mutant that ends in a timeout is killed, one that no test reaches has survived.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTATED = [
    "budgetguard/_core/debits.py",
    "budgetguard/_core/branch.py",
    "budgetguard/_core/head.py",
    "budgetguard/_core/ledger.py",
    "budgetguard/_core/snapshot.py",
    "budgetguard/_core/policy.py",
]
TESTS = [
    "tests/test_debits.py",
    "tests/test_ledger.py",
    "tests/test_policy.py",
    "tests/test_refusals.py",
    "tests/guard/test_available.py",
]
AIM = 90
# Exit codes as mutmut notes them: a test failed, or pytest itself; or the time was up.
_KILLED = {1, 3, 24, -24, 36, 152, 255}
_NO_TEST = 33
# Not `-m mutmut`: mutants report to the module `mutmut.__main__`, which would be there twice.
_MUTMUT = "from mutmut.__main__ import cli; cli()"
_CONFIG = f"""
[tool.mutmut]
source_paths = ["budgetguard"]
only_mutate = {json.dumps(MUTATED)}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "unshrunk"]
pytest_add_cli_args_test_selection = {json.dumps(TESTS)}
use_git_change_detection = false
"""


def main() -> int:
    """Make the copy, have mutmut run, and read what it noted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="a directory that does not exist yet")
    keep = parser.parse_args().keep
    if keep is not None:
        return _score(keep.resolve())
    with tempfile.TemporaryDirectory() as directory:
        return _score(Path(directory) / "copy")


def _score(copy: Path) -> int:
    for name in ("budgetguard", "tests"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (copy / "pyproject.toml").write_text(project + _CONFIG, encoding="utf-8")
    began = time.monotonic()
    _mutmut(copy, "run", "--max-children", "1")
    seconds = time.monotonic() - began
    notes: dict[str, int | None] = {}
    for module in MUTATED:
        meta = (copy / "mutants" / f"{module}.meta").read_text(encoding="utf-8")
        notes |= json.loads(meta)["exit_code_by_key"]
    if not notes or None in notes.values():
        print("mutmut did not come to its end")
        return 2
    left = [name for name, note in notes.items() if note not in _KILLED]
    for name in left:
        shown = _mutmut(copy, "show", name, capture=True).splitlines()
        print(f"{'reached by no test' if notes[name] == _NO_TEST else 'survived'}: {name}")
        print(*(line for line in shown if line[:1] in {"+", "-"} and line[1:2] == " "), sep="\n")
    killed = len(notes) - len(left)
    share = 100 * killed / len(notes)
    print(f"{killed} of {len(notes)} mutants killed: {share:.1f} % in {seconds / 60:.0f} min")
    return int(share < AIM)


def _mutmut(copy: Path, *args: str, capture: bool = False) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", _MUTMUT, *args],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=True,
    )
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
