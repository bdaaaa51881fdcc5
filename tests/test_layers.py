"""The package's own imports: they run one way, and stay away from what is heavy or optional."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import budgetguard

ROOT = Path(budgetguard.__file__).parent
HEAVY = ("httpx", "anyio", "asyncio", "wrapt", "cachetools", "trio", "pytest", "starlette", "rich")
PURE = {"errors", "credits", "clock", "durations", "balance", "ledger", "policy"}
LOCKS = ("Lock", "Event", "Condition", "Semaphore", "BoundedSemaphore", "Barrier")
PLACES = {
    "starlette": ("budgetguard.testing.sandbox",),
    "uvicorn": ("budgetguard.testing.sandbox",),
    "rich": ("budgetguard.demo_screen",),
    "pytest": ("budgetguard.testing.plugin",),
    "wrapt": ("budgetguard.wrapping", "budgetguard.integrations"),
    "cachetools": ("budgetguard.pool",),
    "fastapi": ("budgetguard.integrations.fastapi",),
    "predev_api": ("budgetguard.integrations.predev",),
    "requests": ("budgetguard.integrations.predev",),
    "anchorbrowser": ("budgetguard.integrations.anchorbrowser",),
    "langchain": ("budgetguard.integrations.langchain",),
    "langchain_core": ("budgetguard.integrations.langchain",),
    "agents": ("budgetguard.integrations.openai_agents",),
    "fastmcp": ("budgetguard.integrations.fastmcp",),
    "mcp": ("budgetguard.integrations.fastmcp", "budgetguard.integrations.mcp"),
    "mcp_types": ("budgetguard.integrations.fastmcp", "budgetguard.integrations.mcp"),
    "crewai": ("budgetguard.integrations.crewai",),
    "pydantic": ("budgetguard.integrations.crewai", "budgetguard.integrations.mcp"),
    "pydantic_ai": ("budgetguard.integrations.pydantic_ai",),
}


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def is_for_types(node: ast.AST) -> bool:
    """Whether `node` is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST, *, deferred: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules that are imported when `node` is run, with the names asked of each."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, ()) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are written in full"
            assert child.module is not None
            yield child.module, tuple(alias.name for alias in child.names)
        elif is_for_types(child):
            continue
        elif deferred or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, deferred=deferred)


def needs(name: str, *, deferred: bool = False) -> set[str]:
    """The modules of the package that one of its modules imports."""
    found: set[str] = set()
    for module, names in imports(TREES[name], deferred=deferred):
        inner = {f"{module}.{part}" for part in names} & TREES.keys()
        found |= inner or {module} & TREES.keys()
    return found - {name}


def test_there_is_something_to_look_at() -> None:
    """The package was found, the parts that are named here included."""
    assert {f"budgetguard.{name}" for name in PURE} <= TREES.keys()


def test_imports_run_one_way() -> None:
    """No two modules need each other in order to be imported."""
    order = list(TopologicalSorter({name: needs(name) for name in TREES}).static_order())
    assert order.index("budgetguard.ledger") < order.index("budgetguard.policy")
    assert order.index("budgetguard.policy") < order.index("budgetguard.account")
    assert order.index("budgetguard.account") < order.index("budgetguard.guard")


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_core_rests_on_itself(name: str) -> None:
    """Ledger, policy and what they are written in know of no thread, loop, guard or provider."""
    full = f"budgetguard.{name}"
    assert {need.removeprefix("budgetguard.") for need in needs(full, deferred=True)} <= PURE
    outside = {module.split(".")[0] for module, _ in imports(TREES[full], deferred=True)}
    assert outside - {"budgetguard"} <= sys.stdlib_module_names - {
        "asyncio",
        "contextvars",
        "logging",
        "os",
        "socket",
        "threading",
    }


@pytest.mark.parametrize("name", ["ledger", "policy"])
def test_the_pure_parts_read_no_clock(name: str) -> None:
    """Time comes in as an argument."""
    outside = {module for module, _ in imports(TREES[f"budgetguard.{name}"], deferred=True)}
    assert not outside & {"time", "datetime"}


@pytest.mark.parametrize("name", sorted(TREES.keys() - {"budgetguard.__main__"}))
def test_nobody_imports_from_the_root(name: str) -> None:
    """Each name is imported from the module that it is written in."""
    for module, names in imports(TREES[name], deferred=True):
        if module == "budgetguard":
            assert {f"budgetguard.{part}" for part in names} <= TREES.keys(), names


@pytest.mark.parametrize(("package", "places"), PLACES.items(), ids=PLACES)
def test_optional_parts_are_imported_in_one_place(package: str, places: tuple[str, ...]) -> None:
    """What may be missing, or is slow to import, is asked for in one module or package."""
    users = {
        name
        for name in TREES
        for module, _ in imports(TREES[name], deferred=True)
        if module.split(".")[0] == package
    }
    assert users
    assert all(f"{user}.".startswith(tuple(f"{place}." for place in places)) for user in users)


@pytest.mark.parametrize("package", ["wrapt", "cachetools"])
def test_what_is_slow_to_import_is_imported_on_use(package: str) -> None:
    """A program pays for it when it first needs it, or asks for an integration."""
    for name, tree in TREES.items():
        at_once = {module.split(".")[0] for module, _ in imports(tree, deferred=False)}
        assert package not in at_once or name.startswith("budgetguard.integrations")


def test_importing_reaches_nothing_heavy_and_starts_nothing() -> None:
    """A bare import leaves the heavy modules alone, and no thread runs after it."""
    code = (
        "import sys, threading\n"
        "before = set(sys.modules)\n"
        "import budgetguard\n"
        f"print((set(sys.modules) - before) & {set(HEAVY)}, threading.active_count())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["set()", "1"]


def test_nobody_makes_a_lock_that_its_own_thread_may_wait_for() -> None:
    """A signal's handler, or a finalizer, would ask for a plain one that its thread has."""
    # A bell is taken twice on purpose; the sandbox is another process's, or a test's.
    apart = {"budgetguard.waiting"}
    makers = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).removeprefix("_thread.")
        in {*(f"threading.{kind}" for kind in LOCKS), "allocate_lock", "Lock", "Condition"}
        and not name.startswith("budgetguard.testing.")
    }
    assert makers == apart


def test_every_public_name_is_there() -> None:
    """What the package says it has, it has, in order."""
    assert budgetguard.__all__ == sorted(budgetguard.__all__)
    assert all(hasattr(budgetguard, name) for name in budgetguard.__all__)
