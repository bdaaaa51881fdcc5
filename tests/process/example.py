"""How an example is run: as a user would, in an interpreter of its own."""

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def ended(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run an example to its end, however that is; a warning is an error there."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run(name: str, *arguments: str) -> str:
    """Run an example, which must not fail nor complain; give what it printed."""
    done = ended(name, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def costs(output: str) -> Decimal:
    """Add up what an example says that its specs cost."""
    return sum((Decimal(each) for each in re.findall(r"for ([\d.]+) credits", output)), Decimal(0))
