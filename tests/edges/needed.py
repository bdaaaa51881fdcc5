"""Packages that some tests need and most users do not have; an extra in pyproject.toml has each."""

import importlib.util
import os

import pytest


def need(*names: str) -> None:
    """Skip a module's tests where a package is not installed; with BUDGETGUARD_CI=1, fail."""
    missing = [name for name in names if not _is_there(name)]
    if not missing:
        return
    words = f"not installed: {', '.join(missing)} (see the extras in pyproject.toml)"
    if os.environ.get("BUDGETGUARD_CI") == "1":
        pytest.fail(words)
    pytest.skip(words, allow_module_level=True)


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even what it is a part of
        return False
