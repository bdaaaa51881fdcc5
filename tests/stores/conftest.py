"""Files in a directory of their own, and members in processes of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from member_process import Gone, MemberProcess, until

from budgetguard.stores._processes import PROCESS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store's file will be."""
    return tmp_path / "credits.db"


@pytest.fixture
def member(path: Path) -> Iterator[Callable[..., MemberProcess]]:
    """Start a member in a process of its own; killed at the end of the test."""
    started: list[MemberProcess] = []

    def start(**options: Any) -> MemberProcess:
        started.append(MemberProcess(path, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture(autouse=True)
def _files_closed() -> Iterator[None]:
    """No test leaves a file open in this process, or is seen by the next one as a living member."""
    yield
    for worker in list(PROCESS.workers.values()):
        for account, name in list(worker._open):
            worker.part(Gone(account, name))
    until(lambda: all(worker._file.connection is None for worker in PROCESS.workers.values()))
    PROCESS.workers.clear()
