"""Processes that all write as fast as they can get the same share, and nobody waits long."""

import os
import sys
import time
from collections.abc import Callable

import pytest
from member_process import MemberProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no store in a file there")

# Shorter than what any comparison needs would not be, on a busy machine.
SECONDS = 10.0 if os.environ.get("BUDGETGUARD_LONG") else 2.0


def test_eight_writers_share_a_file(member: Callable[..., MemberProcess]) -> None:
    """Nobody gets less than a quarter of the mean. SQLite's own waiting gave one of eight next to nothing."""
    members = [member() for _ in range(8)]
    for each in members:
        each.do("join")
    for each in members:
        each.begin("beats", until=time.time() + SECONDS)
    told = [each.end()["beats"] for each in members]
    counts = [each["count"] for each in told]
    assert min(counts) > sum(counts) / len(counts) / 4, told
