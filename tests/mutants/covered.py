"""A pytest plugin: notes in a JSON file which lines each test runs, and how long the test takes.

    python -m pytest -p covered --covered FILE --covered-in DIR

Lines that other threads run while a test does count as the test's.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to note it, and of which package."""
    parser.addoption("--covered", type=Path)
    parser.addoption("--covered-in", type=Path)


class Covered:
    """One run of the tests."""

    def __init__(self, file: Path, package: Path) -> None:
        self._file = file
        self._package = package
        self._seconds: dict[str, float] = {}
        self._coverage = coverage.Coverage(
            data_file=None, branch=False, include=[f"{package}/*"], config_file=False
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Run one test, its fixtures included."""
        self._coverage.switch_context(item.nodeid)
        began = time.perf_counter()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.perf_counter() - began

    def pytest_sessionstart(self) -> None:
        """Begin."""
        self._coverage.start()

    def pytest_sessionfinish(self) -> None:
        """Write what was found."""
        self._coverage.stop()
        data = self._coverage.get_data()
        lines: dict[str, dict[int, list[str]]] = defaultdict(dict)
        for name in data.measured_files():
            inside = str(Path(name).relative_to(self._package))
            for line, tests in data.contexts_by_lineno(name).items():
                lines[inside][line] = [test for test in tests if test]
        self._file.write_text(json.dumps({"lines": lines, "seconds": self._seconds}))


def pytest_configure(config: pytest.Config) -> None:
    """Take part where a file is named."""
    file, package = config.getoption("--covered"), config.getoption("--covered-in")
    if file is not None:
        config.pluginmanager.register(Covered(file, package.resolve()))
