"""The import of an integration whose framework is missing says which extra installs it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# The first package that each of them imports.
NEEDS = {
    "predev": "requests",
    "anchorbrowser": "anchorbrowser",
    "browseruse": "browser_use_sdk",
    "firecrawl": "firecrawl",
    "tavily": "tavily",
    "langchain": "langchain",
    "openai_agents": "agents",
    "pydantic_ai": "pydantic_ai",
    "crewai": "crewai",
    "fastmcp": "fastmcp",
    "mcp": "mcp",
}
PROGRAM = """
import importlib, json, sys
said = {}
for module, package in json.loads(sys.argv[1]).items():
    sys.modules[package] = None
    try:
        importlib.import_module(f"budgetguard.integrations.{module}")
    except ImportError as error:
        said[module] = str(error)
print(json.dumps(said))
"""


def test_the_error_names_the_extra() -> None:
    """And the missing package, whose name may differ, and a command that works in a checkout."""
    program = [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(NEEDS)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said.keys() == NEEDS.keys()
    for module, words in said.items():
        assert NEEDS[module] in words
        command = f'python -m pip install ".[{module.replace("_", "-")}]"'
        assert words.endswith(f". Install it from the checkout's top folder: {command}")
        assert "budgetguard-preflight" not in words


def test_the_extras_are_there() -> None:
    """Every extra that an error names exists."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package has none")
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {module.replace("_", "-") for module in NEEDS} <= extras.keys()
