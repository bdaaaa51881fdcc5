"""What the pages show is run, block by block, exactly as the copy button copies it.

Each Python block is a program of its own, run in an interpreter of its own. The environment holds what
`budgetguard sandbox` prints, as it does for a reader who pasted that. A console block holds commands
alone, which bash runs; a variable that they export is there for the blocks after it. A block that
starts `budgetguard sandbox` starts a sandbox with those options, and until a page has one, a sandbox
runs with the default options. A block that names the URL of a Redis server is given that of a real one.

A comment right before a block says what is special about it:

- `<!-- output -->`: before a text block: what the block before it prints, `...` for anything;
- `<!-- no-run: reason -->`: not run;
- `<!-- file: name.py -->`: the name under which it is saved, so that blocks after it can import it.

A Python block that defines functions called `test_...` is run by pytest.
"""

import ast
import codeop
import contextlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

import pytest
import redis_servers
from pages import PAGES, Block, blocks, name

from budgetguard.testing.sandbox import Sandbox

# Where the pages say that a sandbox listens; the tests' own is on any free port.
WRITTEN_URL = "http://127.0.0.1:8402"
# Likewise for a server of a store.
WRITTEN_REDIS = "redis://localhost:6379"
PATIENCE = 60.0
LANGUAGES = {"python", "console", "text", "toml", "ini", "json"}

# A spec that takes minutes there is ready in milliseconds.
SPEED = 36_000.0
OPTIONS = {
    "--credits": "credits",
    "--max-browsers": "max_concurrent_browsers",
    "--lag": "lag",
    "--cost-limit": "cost_limit",
}
IGNORED = {"--port", "--speed"}

OURS = re.compile(r"PREDEV_|ANCHORBROWSER_|BUDGETGUARD(?!_CI)")
# CrewAI's pins clash with the other frameworks': its page is run where it is installed.
APART = {"crewai"}


class Reader:
    """Somebody who pastes a page's blocks into a terminal, one after the other."""

    def __init__(self, stack: contextlib.ExitStack, home: Path) -> None:
        self._stack = stack
        self._home = home
        self._environment = {
            name: value for name, value in os.environ.items() if not OURS.match(name)
        }
        self._environment |= {
            "NO_PROXY": "*",
            "COLUMNS": "100",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONDONTWRITEBYTECODE": "1",
            # Not the user's own.
            "BUDGETGUARD_PAUSE_DIR": str(home / "pauses"),
        }
        self._url = self._redis = ""
        self._printed = ""

    def paste(self, block: Block) -> None:
        """Run one block, or check it against what the one before it printed."""
        if block.verb == "no-run":
            assert block.words, f"{block.where}: no-run needs a reason"
            return
        if block.verb == "output":
            self._compare(block)
            return
        assert block.verb in {"", "file"}, f"{block.where}: unknown marker {block.verb!r}"
        if block.language == "console" and block.text.startswith("budgetguard sandbox"):
            self._start(shlex.split(block.text)[2:])
            self._printed = _greeting(block.text)
        elif block.language in {"python", "console"}:
            if not self._url:
                self._start([])
            self._printed = self._run(block)

    def _start(self, words: list[str]) -> None:
        given = dict(zip(words[::2], words[1::2], strict=True))
        options = {
            OPTIONS[word]: float(value) for word, value in given.items() if word not in IGNORED
        }
        for whole in {"max_concurrent_browsers"} & options.keys():
            options[whole] = int(options[whole])
        sandbox = Sandbox(**{"credits": 1000, "speed": SPEED, **options})  # type: ignore[arg-type]
        self._stack.enter_context(sandbox)
        self._url = sandbox.url
        self._environment |= {
            "PREDEV_API_KEY": sandbox.predev_key,
            "PREDEV_BASE_URL": sandbox.url,
            "ANCHORBROWSER_API_KEY": sandbox.anchor_key,
            "ANCHORBROWSER_BASE_URL": sandbox.url,
        }

    def _run(self, block: Block) -> str:
        text = block.text
        if WRITTEN_REDIS in text:
            redis_servers.driver()
            self._redis = f"redis://localhost:{redis_servers.redis_server()}"
            text = text.replace(WRITTEN_REDIS, self._redis)
        if block.language == "python":
            [saved] = block.words if block.verb == "file" else [f"snippet_{block.line}.py"]
            script = self._home / saved
            script.write_text(text, encoding="utf-8")
            command = [sys.executable, str(script)]
            if re.search(r"^(async )?def test_", block.text, re.MULTILINE):
                command = [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    str(script),
                ]
        else:
            variables = self._home / "variables"
            text = text.replace(WRITTEN_URL, self._url)
            command = ["bash", "-c", f"{text}\nended=$?; env -0 >{variables}; exit $ended"]
        done = subprocess.run(
            command,
            cwd=self._home,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{block.where}:\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, f"{block.where}:\n{done.stderr}"
        if block.language == "console":
            pairs = (each.partition("=") for each in variables.read_text().split("\0") if each)
            self._environment = {name: value for name, _, value in pairs}
        return done.stdout

    def _compare(self, block: Block) -> None:
        flags = ELLIPSIS | NORMALIZE_WHITESPACE
        printed = self._printed.replace(self._url, WRITTEN_URL) if self._url else self._printed
        assert OutputChecker().check_output(block.text, printed, flags), (
            f"{block.where}: the page shows\n{block.text}\nand printed was\n{printed}"
        )


def _greeting(text: str) -> str:
    """Give what `budgetguard sandbox` prints at its start, after which it runs until Ctrl-C."""
    words = shlex.split(text)[1:]
    if "--port" in words:
        words[words.index("--port") + 1] = "0"
    else:
        words += ["--port", "0"]
    command = [sys.executable, "-m", "budgetguard", *words]
    printed = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                printed += line
                if line.startswith("export ANCHORBROWSER_BASE_URL"):
                    break
        finally:
            server.terminate()
    return re.sub(r"http://127\.0\.0\.1:\d+", WRITTEN_URL, printed)


def lacking(page: Path) -> set[str]:
    """Give the packages that a page's blocks import and that are not installed here."""
    names, saved = set(), set()
    for block in blocks(page):
        if block.language == "python" and block.verb != "no-run":
            saved |= {word.removesuffix(".py") for word in block.words if block.verb == "file"}
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.Import):
                    names |= {each.name.partition(".")[0] for each in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names.add((node.module or "").partition(".")[0])
    return {each for each in names - saved if importlib.util.find_spec(each) is None}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    """Each block of a page runs as it stands and prints what the page shows."""
    if missing := lacking(page):
        words = f"not installed: {', '.join(sorted(missing))}"
        if os.environ.get("BUDGETGUARD_CI") == "1" and not missing <= APART:
            pytest.fail(words)
        pytest.skip(words)
    with contextlib.ExitStack() as stack:
        reader = Reader(stack, tmp_path)
        for block in blocks(page):
            reader.paste(block)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_can_be_pasted(page: Path) -> None:
    """Also into the interpreter's prompt, where a blank line ends a statement; and into a shell."""
    for block in blocks(page):
        if block.language == "python":
            for statement in statements(block.text):
                try:
                    codeop.compile_command(statement, symbol="single")
                except SyntaxError as error:
                    pytest.fail(f"{block.where}: {error} in\n{statement}")
        elif block.language == "console":
            assert not re.search(r"^[$>] ", block.text, re.MULTILINE), block.where


def statements(text: str) -> Iterator[str]:
    """Give what the interpreter's prompt takes for one statement each, as the lines come in."""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        lines.append(line)
        typed = "\n".join(lines)
        try:
            done = codeop.compile_command(typed, symbol="single") is not None
        except SyntaxError:
            done = True
        if done:
            yield typed
            lines = []
    assert not lines, f"unfinished: {lines}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_of_a_known_kind(page: Path) -> None:
    """No block escapes the run by being called something else."""
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.where}: {block.language!r}"
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(list(blocks(page)))
