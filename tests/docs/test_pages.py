"""The pages hang together: links, navigation, and a reference that has every public name."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, PAGES, ROOT, name, prose

import budgetguard
import budgetguard.integrations
import budgetguard.providers
import budgetguard.testing
from budgetguard.testing import FakeProvider

PACKAGE = Path(budgetguard.__file__).parent
REFERENCE = sorted((DOCS / "reference").glob("*.md"))

# Where calls are made: the reference shows something of each, but for what others stand on.
PLACES = (
    "budgetguard.providers",
    "budgetguard.providers.billing",
    "budgetguard.transport",
    "budgetguard.routes",
    "budgetguard.asgi",
    "budgetguard.browser",
    "budgetguard.listeners",
    "budgetguard.stores",
    "budgetguard.stores.members",
    *sorted(
        f"budgetguard.integrations.{file.stem}"
        for file in (PACKAGE / "integrations").glob("[!_]*.py")
    ),
)

# What a page may install from an index, beside a checkout of the project.
OTHERS = {"pytest"}

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<title>.+?)(?: +\{#(?P<id>[\w.-]+)\})?$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^::: (?P<name>[\w.]+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Give the ids that links may point to: headings, and the names of the reference."""
    text = prose(page)
    found = {match["id"] or _slug(match["title"]) for match in _HEADING.finditer(text)}
    return found | {match["name"] for match in _DIRECTIVE.finditer(text)}


def _slug(title: str) -> str:
    plain = re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links between pages name a file and an anchor that are there."""
    for match in _LINK.finditer(prose(page)):
        target, _, anchor = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{name(page)} links to {target}#{anchor}"


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "examples").rglob("*.py"))], ids=lambda page: page.stem
)
def test_no_page_leads_inside(page: Path) -> None:
    """Readers are shown public names alone, those of keys in a scope among them."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"budgetguard(?:\.\w+)*\._\w+", text) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_installed_is_there(page: Path) -> None:
    """The project is installed from a checkout, and `budgetguard` on an index is warned of."""
    text = page.read_text(encoding="utf-8")
    for installed in re.findall(r"pip install (?:-\S+ )*([^\s`]+)", text):
        if installed in {"budgetguard", "budget-guard-agents"}:
            assert "`budgetguard-preflight`" in text
        elif installed not in OTHERS:
            assert re.match(r"\"?\.", installed), f"{name(page)} installs {installed}"


def test_the_reference_has_every_public_name() -> None:
    """The reference is complete, and shows nothing else."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE)
    shown = {match["name"] for match in _DIRECTIVE.finditer(text)}
    public = {f"budgetguard.{each}" for each in budgetguard.__all__ if not each.startswith("__")}
    shown = {re.sub(r"\.clock\.hand_clock$", ".hand_clock", each) for each in shown}
    testing = {f"budgetguard.testing.{each}" for each in budgetguard.testing.__all__}
    sandbox = {
        f"budgetguard.testing.sandbox.{each}"
        for each in ("Account", "Fault", "Operation", "PaidRequests", "Sandbox", "Vendor", "serve")
    }
    integrations = {f"budgetguard.integrations.{each}" for each in budgetguard.integrations.__all__}
    placed = {each for each in shown if each.startswith(PLACES)} - integrations
    assert shown - placed == public | testing | sandbox | integrations
    for each in placed:
        module, _, title = each.rpartition(".")
        exports = module == "budgetguard.providers"
        assert title in (budgetguard.providers.__all__ if exports else defined(module)), each
    assert {each.rpartition(".")[0] for each in placed} == set(PLACES)
    titles = {each.rpartition(".")[2] for each in shown}
    classes = {
        each
        for each in budgetguard.providers.__all__
        if isinstance(getattr(budgetguard.providers, each), type)
    }
    assert classes <= titles


def defined(module: str) -> set[str]:
    """The classes and functions of a module or package, and its `__all__`, read without importing it."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    exported = [
        ast.literal_eval(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return {node.name for node in nodes if isinstance(node, kinds)} | set().union(*exported)


def test_the_defaults_are_the_guards_own() -> None:
    """The table of defaults says what the signature says."""
    text = (DOCS / "reference" / "guard.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (None|False|\d+|\"\w+\")", text, re.MULTILINE))
    parameters = inspect.signature(budgetguard.Guard).parameters.values()
    keywords = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    del keywords["store"], keywords["on_event"]
    assert {each: ast.literal_eval(default) for each, default in told.items()} == keywords


def test_every_page_is_in_the_navigation() -> None:
    """A page that nobody finds is no page."""
    configuration = ROOT / "zensical.toml"
    if not configuration.exists():
        pytest.skip("a source distribution has none")
    project = tomllib.loads(configuration.read_text(encoding="utf-8"))["project"]
    listed = set(_leaves(project["nav"]))
    there = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md"}
    assert there <= listed


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(each)


def test_a_guard_shows_what_is_documented_and_no_more() -> None:
    """Each public member of it has a docstring, and none is there by accident."""
    guard = budgetguard.Guard(FakeProvider())
    shown = {name for name in dir(guard) if not name.startswith("_")}
    assert shown == {
        *("abalance", "acquire", "aacquire", "aclose", "available", "balance", "close"),
        *("budget", "estimate", "labels", "mark_exhausted", "mark_refused", "provider"),
        "require_credits",
        *("pause", "resume"),
    }
    assert all(getattr(budgetguard.Guard, name).__doc__ for name in shown)
