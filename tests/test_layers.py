"""The package's own imports: they run one way, and keep away from what is heavy or optional."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import budgetguard
from budgetguard.providers.registry import VENDORS

ROOT = Path(budgetguard.__file__).parent
HEAVY = ("httpx", "anyio", "asyncio", "wrapt", "cachetools", "trio", "pytest", "starlette", "rich")
# One row a layer, lowest first. A module imports from its own layer and from those above it in this
# table, and from nowhere else: also for types alone, and also when it is first used.
LAYERS = (
    ("_version",),
    ("_core",),
    ("routes",),
    ("_io",),
    ("stores",),
    ("providers",),
    ("_engine",),
    ("listeners",),
    ("_decorators",),
    ("budget", "requirement"),
    ("guard",),
    ("_costs",),
    ("guard_pool", "defaults"),
    ("decorator",),
    ("testing", "transport", "asgi", "integrations", "browser"),
    ("_cli",),
    ("__main__",),
    ("",),
)
# Of the core, what knows of this process: the switch, who is inside the library, and the log.
IMPURE = {f"budgetguard._core.{name}" for name in ("activation", "reentrancy", "events")}
# Imported when they are first needed, and so free to import what they need at once.
LATE = ("budgetguard.integrations", "budgetguard._decorators.proxies")
LOCKS = ("Lock", "Event", "Condition", "Semaphore", "BoundedSemaphore", "Barrier")
PLACES = {
    "starlette": ("budgetguard.testing.sandbox",),
    "uvicorn": ("budgetguard.testing.sandbox",),
    "rich": ("budgetguard._cli.demo_screen",),
    "pytest": ("budgetguard.testing.plugin",),
    "wrapt": (
        "budgetguard._decorators.wrappers",
        "budgetguard._decorators.proxies",
        "budgetguard.integrations",
    ),
    "cachetools": ("budgetguard.guard_pool",),
    "fastapi": ("budgetguard.asgi._fastapi",),
    "predev_api": ("budgetguard.integrations.predev",),
    "requests": ("budgetguard.integrations.firecrawl", "budgetguard.integrations.tavily"),
    "urllib3": ("budgetguard.integrations._requests",),
    "tavily": ("budgetguard.integrations.tavily",),
    "anchorbrowser": ("budgetguard.integrations.anchorbrowser",),
    "browser_use_sdk": ("budgetguard.integrations.browseruse",),
    "firecrawl": ("budgetguard.integrations.firecrawl",),
    "langchain": ("budgetguard.integrations.langchain",),
    "langchain_core": ("budgetguard.integrations.langchain",),
    "agents": ("budgetguard.integrations.openai_agents",),
    "fastmcp": ("budgetguard.integrations.fastmcp",),
    "mcp": (
        "budgetguard.integrations._mcp_tools",
        "budgetguard.integrations.fastmcp",
        "budgetguard.integrations.mcp",
    ),
    "mcp_types": (
        "budgetguard.integrations._mcp_tools",
        "budgetguard.integrations.fastmcp",
        "budgetguard.integrations.mcp",
    ),
    "crewai": ("budgetguard.integrations.crewai",),
    "pydantic": (
        "budgetguard.integrations.crewai",
        "budgetguard.integrations.fastmcp",
        "budgetguard.integrations.mcp",
    ),
    "pydantic_ai": ("budgetguard.integrations.pydantic_ai",),
}


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def is_for_types(node: ast.AST) -> bool:
    """Whether `node` is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(
    node: ast.AST, *, deferred: bool = True, types: bool = True
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules that `node` imports, with the names asked of each.

    Among them those for when a function is called (`deferred`), and those for `types` alone.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, ()) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are written in full"
            assert child.module is not None
            yield child.module, tuple(alias.name for alias in child.names)
        elif is_for_types(child) and not types:
            continue
        elif deferred or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, deferred=deferred, types=types)


def needs(name: str) -> set[str]:
    """The modules of the package that one of its modules imports, whenever and for whatever."""
    found: set[str] = set()
    for module, names in imports(TREES[name]):
        inner = {f"{module}.{part}" for part in names} & TREES.keys()
        found |= inner or {module} & TREES.keys()
    return found - {name}


def layer(name: str) -> int:
    """The row of a module in the table."""
    parts = name.split(".")
    room = parts[1] if len(parts) > 1 else ""
    return next(row for row, rooms in enumerate(LAYERS) if room in rooms)


def test_every_module_has_a_layer() -> None:
    """And every room that is named in the table is there."""
    rooms = {name.split(".")[1] if "." in name else "" for name in TREES}
    assert rooms == {room for rooms in LAYERS for room in rooms}


@pytest.mark.parametrize("name", TREES)
def test_imports_run_downwards(name: str) -> None:
    """A module needs nothing of a layer above its own."""
    assert {need for need in needs(name) if layer(need) > layer(name)} == set()


def test_no_modules_need_each_other() -> None:
    """There is an order in which each comes after all that it needs."""
    TopologicalSorter({name: needs(name) for name in TREES}).prepare()


def test_no_name_means_two_things() -> None:
    """A class or a type that other modules can use has a name of its own."""
    defined: dict[str, list[str]] = {}
    for module, tree in TREES.items():
        if module.startswith("budgetguard.testing.sandbox"):  # the provider's side, run by itself
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name, []).append(module)
            elif isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation):
                defined.setdefault(ast.unparse(node.target), []).append(module)
    twice = {name: where for name, where in defined.items() if len(where) > 1 and name[0] != "_"}
    # One for each framework, all of which are asked for by the framework's name.
    frameworks = twice.pop("BudgetMiddleware")
    assert all(module.startswith("budgetguard.integrations.") for module in frameworks)
    assert twice == {}


@pytest.mark.parametrize("name", [n for n in TREES if n.startswith("budgetguard._core.")])
def test_the_core_is_pure(name: str) -> None:
    """It knows of no thread, loop, file or environment, and of nothing outside the standard library."""
    outside = {module.split(".")[0] for module, _ in imports(TREES[name])}
    allowed = sys.stdlib_module_names - {"asyncio", "socket"}
    if name not in IMPURE:
        allowed -= {"contextvars", "logging", "os", "threading"}
    if name != "budgetguard._core.clock":
        # Time comes in as an argument.
        allowed -= {"time"}
    assert outside - {"budgetguard"} <= allowed


@pytest.mark.parametrize("name", sorted(TREES.keys() - {"budgetguard.__main__"}))
def test_nobody_imports_from_the_root(name: str) -> None:
    """Each name is imported from the module that it is written in."""
    for module, names in imports(TREES[name]):
        if module == "budgetguard":
            assert {f"budgetguard.{part}" for part in names} <= TREES.keys(), names


@pytest.mark.parametrize(("package", "places"), PLACES.items(), ids=PLACES)
def test_optional_parts_are_imported_in_one_place(package: str, places: tuple[str, ...]) -> None:
    """What may be missing, or is slow to import, is asked for in one module or package."""
    users = {
        name
        for name in TREES
        for module, _ in imports(TREES[name])
        if module.split(".")[0] == package
    }
    assert users
    assert all(f"{user}.".startswith(tuple(f"{place}." for place in places)) for user in users)


def test_vendors_are_named_in_their_own_places_alone() -> None:
    """Everything else works for any vendor, so nothing in it, not even a comment, names one."""
    own = ("providers", "integrations", "browser", "testing.sandbox", "_cli.demo", "_cli.sandbox")
    names = {name for each in VENDORS.values() for name in (each.name, each.module, each.kind)}
    named = re.compile("|".join(map(re.escape, names)), re.IGNORECASE)
    found = {
        module: set(named.findall(path.read_text()))
        for module, path in FILES.items()
        if not module.startswith(tuple(f"budgetguard.{place}" for place in own))
    }
    # The root exports the two that were there first.
    assert {module: names for module, names in found.items() if names} == {
        "budgetguard": {"AnchorBrowser", "PreDev"}
    }


@pytest.mark.parametrize("package", ["wrapt", "cachetools"])
def test_what_is_slow_to_import_is_imported_on_use(package: str) -> None:
    """A program pays for it when it first needs it, or asks for an integration."""
    for name, tree in TREES.items():
        at_once = {module.split(".")[0] for module, _ in imports(tree, deferred=False, types=False)}
        assert package not in at_once or name.startswith(LATE)


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
    apart = {"budgetguard._engine.waiters"}
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
