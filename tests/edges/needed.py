"""Programs and libraries of others that the edges are met with, from the extra `edges`."""

import importlib.util
import os

import pytest


def need(*names: str) -> None:
    """Skip a module's tests where a package is not installed; with BUDGETGUARD_CI=1, fail."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return
    words = f"not installed: {', '.join(missing)} (of the extra `edges`)"
    if os.environ.get("BUDGETGUARD_CI") == "1":
        pytest.fail(words)
    pytest.skip(words, allow_module_level=True)
