"""A pytest plugin: notes in a JSON file which lines each test runs, and how long the test takes.

    COVERED=FILE python -m pytest -p covered

Lines that other threads run while a test does count as the test's; those that run as a module is
imported are noted without a test. It begins as it is imported, before the package can be.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

_PACKAGE = Path.cwd() / "budgetguard"
_COVERAGE = coverage.Coverage(
    data_file=None, branch=False, include=[f"{_PACKAGE}/*"], config_file=False
)
_COVERAGE.start()


class Covered:
    """One run of the tests."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Run one test, its fixtures included."""
        _COVERAGE.switch_context(item.nodeid)
        began = time.perf_counter()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.perf_counter() - began

    def pytest_sessionfinish(self) -> None:
        """Write what was found."""
        _COVERAGE.stop()
        data = _COVERAGE.get_data()
        lines: dict[str, dict[int, list[str]]] = defaultdict(dict)
        for name in data.measured_files():
            inside = str(Path(name).relative_to(_PACKAGE))
            for line, tests in data.contexts_by_lineno(name).items():
                lines[inside][line] = [test for test in tests if test]
        self._file.write_text(json.dumps({"lines": lines, "seconds": self._seconds}))


def pytest_configure(config: pytest.Config) -> None:
    """Take part."""
    config.pluginmanager.register(Covered(Path(os.environ["COVERED"])))
