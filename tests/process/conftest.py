"""Scripts run in an interpreter of their own, which has to end by itself, in order and in silence."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from interpreter import PATIENCE, STRICT, Script


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Run a script; returns what it printed, and fails on an exit code or any word on stderr."""

    def run(code: str, *, flags: tuple[str, ...] = STRICT, **environment: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(code))
        done = subprocess.run(
            [sys.executable, *flags, str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, **environment},
        )
        assert (done.stderr, done.returncode) == ("", 0)
        return done.stdout.strip()

    return run
