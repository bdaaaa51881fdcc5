"""What the pages show is run: their Python and `budgetguard` blocks, their outputs, their links.

Every page is one program: its blocks share a namespace and a sandbox of their own. A comment right
before a block says what is special about it:

- `<!-- run: sandbox credits=60 -->`: from here on with a new sandbox, made with these options;
- `<!-- run: anchorbrowser -->`: the environment holds that provider's key instead of pre.dev's;
- `<!-- run: raises InsufficientCredits -->`: the block ends with this exception;
- `<!-- output -->`: before a text block: what the block before it prints, `...` for anything;
- `<!-- no-run: reason -->`: not run.

Of the console blocks, `budgetguard ...` and `echo $?` are run, and other commands are left alone.
Functions called `test_...` are run as pytest would. A page may use `client` without saying that it
is pre.dev's.
"""

import ast
import contextlib
import inspect
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from predev_api import PredevAPI

import budgetguard
import budgetguard.integrations
import budgetguard.testing
from budgetguard import AnchorBrowser, PreDev, cli
from budgetguard.clock import SYSTEM
from budgetguard.loop import Runtime
from budgetguard.process import runtime_of
from budgetguard.testing.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
PACKAGE = Path(budgetguard.__file__).parent
PAGES = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()
]
LANGUAGES = {"python", "console", "text", "toml", "ini", "json"}

# Where the pages say that a sandbox listens; the tests' own is on any free port.
WRITTEN_URL = "http://127.0.0.1:8402"
PATIENCE = 30.0

# Where calls are made: the reference shows something of each, but for what others stand on.
PLACES = (
    "budgetguard.transport",
    "budgetguard.routes",
    "budgetguard.asgi",
    "budgetguard.browser",
    *sorted(
        f"budgetguard.integrations.{file.stem}"
        for file in (PACKAGE / "integrations").glob("[!_]*.py")
    ),
)
INSIDE = {f"budgetguard.integrations.{name}" for name in ("answers", "fastapi", "objects")}

_FENCE = re.compile(
    r"^(?:(?P<pad> *)<!-- (?P<marker>[^\n]*?) -->\n)?"
    r"(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<title>.+?)(?: +\{#(?P<id>[\w.-]+)\})?$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^::: (?P<name>[\w.]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    verb: str
    words: tuple[str, ...]

    @property
    def where(self) -> str:
        """The block's place, as editors open it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Give the fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        verb, _, words = (match["marker"] or "").partition(":")
        yield Block(
            page=page,
            line=text.count("\n", 0, match.start("text")) + 1,
            language=match["language"],
            text=dedent(match["text"]),
            verb=verb.strip(),
            words=tuple(words.split()),
        )


class Program:
    """A page as it runs: a namespace, a sandbox, and what was printed last."""

    def __init__(self, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stack = stack
        self._patch = monkeypatch
        self._names: dict[str, Any] = {"__name__": "__docs__"}
        self._printed = ""
        self._code = 0
        self._sandbox: Sandbox | None = None
        monkeypatch.setenv("NO_PROXY", "*")
        self._log_in("PREDEV_API_KEY", Sandbox.predev_key)

    def run(self, block: Block) -> None:
        """Run one block, or check it against what the one before it printed."""
        if block.verb == "no-run":
            assert block.words, f"{block.where}: no-run wants a reason"
            return
        if block.verb == "output":
            self._compare(block.text, self._printed, block.where)
            return
        assert block.verb in {"", "run"}, f"{block.where}: unknown marker {block.verb!r}"
        wanted = self._prepare(block.words)
        if block.language == "python":
            self._execute(block, wanted)
        elif block.language == "console":
            self._enter(block)

    def _prepare(self, words: tuple[str, ...]) -> str | None:
        wanted = None
        options: dict[str, Any] = {}
        rest = iter(words)
        for word in rest:
            if word == "raises":
                wanted = next(rest)
            elif word == "anchorbrowser":
                self._log_in("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
            elif word != "sandbox":
                name, value = word.split("=")
                options[name] = int(value)
        if self._sandbox is None or "sandbox" in words:
            self._open(options)
        return wanted

    def _open(self, options: dict[str, Any]) -> None:
        self._sandbox = self._stack.enter_context(
            Sandbox(**{"credits": 1000, "speed": 36000, **options})
        )
        for provider in (PreDev, AnchorBrowser):
            self._patch.setitem(provider.__init__.__kwdefaults__, "base_url", self._url)
        self._patch.setattr(PredevAPI.__init__, "__defaults__", (self._url,))
        self._patch.setenv("ANCHORBROWSER_BASE_URL", self._url)
        self._names["client"] = PredevAPI(Sandbox.predev_key)

    @property
    def _url(self) -> str:
        assert self._sandbox is not None
        return self._sandbox.url

    def _log_in(self, variable: str, key: str) -> None:
        for name in ("PREDEV_API_KEY", "ANCHORBROWSER_API_KEY"):
            self._patch.delenv(name, raising=False)
        self._patch.setenv(variable, key)

    def _execute(self, block: Block, wanted: str | None) -> None:
        text = block.text.replace(WRITTEN_URL, self._url)
        # Padded, so that a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + text, str(block.page), "exec", dont_inherit=True)
        printed = io.StringIO()
        raised = None
        with contextlib.redirect_stdout(printed):
            try:
                exec(code, self._names)
            except Exception as error:
                if type(error).__name__ != wanted:
                    raise
                raised = error
            self._test()
        self._printed = printed.getvalue()
        if wanted is not None:
            assert raised is not None, f"{block.where}: {wanted} was not raised"
            self._printed += f"{wanted}: {raised}\n"

    def _test(self) -> None:
        """Run the tests that the page shows, each once; they may ask for the clock."""
        for title in [each for each in self._names if each.startswith("test_")]:
            test = self._names.pop(title)
            if inspect.signature(test).parameters:
                with budgetguard.testing.hand_clock() as clock:
                    test(budgetguard_clock=clock)
            else:
                test()

    def _enter(self, block: Block) -> None:
        entries = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:] or block.text.splitlines()
        for entry in entries:
            command, _, shown = entry.partition("\n")
            printed = self._command(shlex.split(command.replace(WRITTEN_URL, self._url)))
            if shown.strip():
                self._compare(shown, printed, block.where)

    def _command(self, words: list[str]) -> str:
        if words == ["echo", "$?"]:
            return f"{self._code}\n"
        if words[0] != "budgetguard":
            return ""
        words = words[1 : words.index("&&") if "&&" in words else None]
        if words[0] == "sandbox":
            return _greeting(words)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                self._code = cli.main(words)
            except SystemExit as ended:
                self._code = int(ended.code or 0)
        return printed.getvalue()

    def _compare(self, shown: str, printed: str, where: str) -> None:
        flags = ELLIPSIS | NORMALIZE_WHITESPACE
        printed = printed.replace(self._url, WRITTEN_URL) if self._sandbox else printed
        assert OutputChecker().check_output(shown, printed, flags), (
            f"{where}: the page shows\n{shown}\nand printed was\n{printed}"
        )


def _greeting(words: list[str]) -> str:
    """Give the first line of `budgetguard sandbox`, which would run for ever."""
    if "--port" in words:
        words[words.index("--port") + 1] = "0"
    command = [sys.executable, "-m", "budgetguard", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
        finally:
            server.terminate()
    return re.sub(r"http://127\.0\.0\.1:\d+", WRITTEN_URL, first)


def anchors(page: Path) -> set[str]:
    """Give the ids that links may point to: headings, and the names of the reference."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found = {match["id"] or _slug(match["title"]) for match in _HEADING.finditer(text)}
    return found | {match["name"] for match in _DIRECTIVE.finditer(text)}


def _slug(title: str) -> str:
    plain = re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


def name(page: Path) -> str:
    """Give the page's id in the tests' names."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks run from top to bottom and print what it shows."""
    with contextlib.ExitStack() as stack:
        runtime = Runtime(SYSTEM)
        stack.enter_context(runtime_of(runtime))
        stack.callback(runtime.stop)
        program = Program(stack, monkeypatch)
        for block in blocks(page):
            program.run(block)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_of_a_known_kind(page: Path) -> None:
    """No block escapes the run by being called something else."""
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.where}: {block.language!r}"
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(list(blocks(page)))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links between pages name a file and an anchor that are there."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in _LINK.finditer(text):
        target, _, anchor = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{name(page)} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_name_on_the_index_is_explained(page: Path) -> None:
    """Whoever reads how to install also reads that `budgetguard` there is somebody else's."""
    text = page.read_text(encoding="utf-8")
    if "pip install" in text:
        assert "`pip install budgetguard`" in text
        assert "budgetguard-preflight" in text


def test_the_reference_has_every_public_name() -> None:
    """The reference is complete, and shows nothing else."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    shown = {match["name"] for match in _DIRECTIVE.finditer(text)}
    public = {f"budgetguard.{each}" for each in budgetguard.__all__ if not each.startswith("__")}
    shown = {re.sub(r"\.clock\.hand_clock$", ".hand_clock", each) for each in shown}
    testing = {f"budgetguard.testing.{each}" for each in budgetguard.testing.__all__}
    sandbox = {
        f"budgetguard.testing.sandbox.{each}"
        for each in ("Account", "Fault", "Operation", "Sandbox", "serve")
    }
    integrations = {f"budgetguard.integrations.{each}" for each in budgetguard.integrations.__all__}
    placed = {name for name in shown if name.startswith(PLACES)} - integrations
    assert shown - placed == public | testing | sandbox | integrations
    for name in placed:
        module, _, title = name.rpartition(".")
        assert title in defined(module), name
    assert {name.rpartition(".")[0] for name in placed} == set(PLACES) - INSIDE


def defined(module: str) -> set[str]:
    """The classes and functions of a module or package, read without importing it."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return {node.name for tree in trees for node in tree.body if isinstance(node, kinds)}


def test_the_defaults_are_the_guards_own() -> None:
    """The table of defaults says what the signature says."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
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
