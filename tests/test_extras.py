"""An integration whose framework is not there says which extra has it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# The first package that each of them asks for.
NEEDS = {
    "predev": "requests",
    "anchorbrowser": "anchorbrowser",
    "langchain": "langchain",
    "openai_agents": "agents",
    "pydantic_ai": "pydantic_ai",
    "crewai": "crewai",
    "fastmcp": "fastmcp",
    "mcp": "mcp",
    "fastapi": "fastapi",
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
    """And the package, which may be called otherwise."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(NEEDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said.keys() == NEEDS.keys()
    for module, words in said.items():
        assert NEEDS[module] in words
        assert words.endswith(f': pip install "budgetguard-preflight[{module.replace("_", "-")}]"')


def test_the_extras_are_there() -> None:
    """What an error tells to install can be installed."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package has none")
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {module.replace("_", "-") for module in NEEDS} <= extras.keys()
