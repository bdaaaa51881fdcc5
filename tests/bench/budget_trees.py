"""Who holds the numbers: one tree of budgets under budgetguard and under four other packages.

    python tests/bench/budget_trees.py

An account of 1,000; in it a run of 100; in the run two sub-agents of 40 each, which share what the run
has, or have it carved out. In each of the three, 200 calls of 1 at once: none returns before all 600
have been asked for. At most 100 may run, and at most 40 in a sub-agent.

The other packages are installed into a temporary environment, with the versions below, and each is
used as its own documentation says (see `tree_packages.py`). Exits with 1 if budgetguard misses a number;
what the others do is told and not judged.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tree_crowds import CALLS, tried
from tree_packages import AGENTS, LIMITS, PACKAGES

OTHERS = {"shekel": "1.2.0", "floe-guard": "0.25.2", "agentbudget": "0.4.0", "runcycles": "0.5.3"}
TIMEOUT = 300
LINE = "{:<12} {:<8} {:<8} {:>5} {:>5} {:>5} {:>5}  {:<32} {:>8} {:>5}"


def environment(folder: Path) -> Path:
    """Install the other packages there; give its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pinned = [f"{name}=={version}" for name, version in OTHERS.items()]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pinned]
    if subprocess.run(install, check=False, stderr=subprocess.DEVNULL).returncode:
        sys.exit(f"pip could not install {', '.join(pinned)}.")
    return python


def in_process(python: Path | str, name: str) -> dict[str, Any]:
    """Try one package in a process of that Python."""
    command = [python, __file__, "--only", name]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        why = f"no end after {TIMEOUT} s"
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().rpartition("\n")[2]
    else:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    return {"rows": [], "notes": [f"failed: {why}"], "ratio": None}


def exceeded(ran: dict[str, int]) -> dict[str, int]:
    """By how much each limit was exceeded, of those that were."""
    used = {**ran, "run": sum(ran.values())}
    return {node: used[node] - limit for node, limit in LIMITS.items() if used[node] > limit}


def as_it_should_be(row: dict[str, Any]) -> bool:
    """Whether 100 ran and were counted, 40, 40 and 20 where carved, and nothing is still held."""
    ran = row["ran"]
    if not (sum(ran.values()) == row["counted"] == LIMITS["run"]) or exceeded(ran) or row["held"]:
        return False
    return row["tree"] != "carved" or all(ran[name] == LIMITS[name] for name in AGENTS)


def show(name: str, found: dict[str, Any]) -> None:
    """Print what happened under one package."""
    for row in found["rows"]:
        ran = row["ran"]
        of = [name, row["tree"], row["where"]]
        calls = [ran["run"], *(ran[each] for each in AGENTS), sum(ran.values())]
        over = ", ".join(f"{node} by {by}" for node, by in exceeded(ran).items()) or "none"
        held = "never" if row["held"] is None else f"{row['held']:g}"
        print(LINE.format(*of, *calls, over, f"{row['counted']:g}", held))
    if not found["rows"]:
        print(name)
    for how in dict.fromkeys(f"{row['tree']}: {row['how']}" for row in found["rows"]):
        print(f"    {how}")
    for note in found["notes"]:
        print(f"    {note}")
    print()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PACKAGES, help="one package, in this Python, as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(tried(options.only)))
        return
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder))
        found = {"budgetguard": in_process(sys.executable, "budgetguard")}
        found |= {name: in_process(python, name) for name in OTHERS}
    print(f"Python {sys.version.split()[0]}; {CALLS} calls of 1 at once in each of the three\n")
    heads = ["package", "tree", "calls in", "run", *AGENTS, "all"]
    print(LINE.format(*heads, "limits exceeded", "counted", "held"))
    for name, each in found.items():
        show(name, each)
    print("run: the run's own calls. all: those in it. counted: what the package says it spent.")
    print("held: what is still held afterwards; never: nothing is held while a call runs.\n")
    print("a call in the inner of two budgets in an account, over a bare call")
    for name, each in found.items():
        figure = "-" if each["ratio"] is None else f"{each['ratio']:.0f}"
        print(f"  {name:<12} {OTHERS.get(name, 'this one'):<9} {figure:>4}")
    ours = found["budgetguard"]["rows"]
    sys.exit(not (ours and all(map(as_it_should_be, ours))))


if __name__ == "__main__":
    main()
