"""Reading a command line: one plain sentence for what is wrong, and a guess at what was meant.

The value of a wrong argument is never printed, unless it is a number: it may be a key.
"""

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, NoReturn

from budgetguard._cli.output import ExitCode, failure, print_failure
from budgetguard._core.amounts import cost, to_credits
from budgetguard.providers.registry import VENDORS, one_of

# argparse's messages, and ours. Nothing else of a message is printed: it may quote an argument.
_REWORDED = {
    r"argument COMMAND: invalid choice: .*": "There is no such command",
    r"the following arguments are required: COMMAND": "A command is missing",
    r"the following arguments are required: (.*)": r"\1 is missing",
    r"argument --provider: invalid choice: .*": f"--provider must be {one_of(list(VENDORS))}",
    r"argument (\S+): expected one argument": r"\1 needs a value after it",
    r"argument (\S+): ignored explicit argument .*": r"\1 takes no value",
    r"argument (\S+): invalid int value: .*": r"\1 needs a whole number",
    r"argument (\S+): expected (.*)": r"\1 needs \2",
}

_NUMBER = re.compile(r"[-+]?[0-9]{1,12}(\.[0-9]{1,6})?")
_ANY = "..."
MOST_WORKERS = 64
# How alike an unknown option is to one of ours if it is a misspelling, and not a key.
_ALIKE = 0.75


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence each, or JSON if `--json` is among the arguments.

    `given` are the arguments, `commands` all parsers of the program by the name of their command.
    """

    def __init__(
        self, *, given: Sequence[str], commands: "dict[str, Parser]", **kwargs: Any
    ) -> None:
        # An abbreviation that is clear today may be ambiguous tomorrow.
        super().__init__(allow_abbrev=False, **kwargs)
        self._given = given
        self._commands = commands

    @property
    def options(self) -> Collection[str]:
        """The names of its options."""
        return self._option_string_actions.keys()

    def read(self) -> argparse.Namespace:
        """The options that were given; raises SystemExit with `USAGE` if they are wrong."""
        options, rest = self.parse_known_args(self._given)
        if rest:
            self._fail(_not_understood(rest, self._names()))
        return options

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and what may have been meant; raises SystemExit with `USAGE`."""
        self._fail(_reworded(message))

    def _fail(self, reason: str) -> NoReturn:
        names = self._names()
        command = next((each for each in self._given if each in names), None)
        guess = _guess(self._given, names)
        if command is not None and _begins_with_options_of(names[command], self._given):
            reason = f"The options of {command} are written after it."
        elif guess is not None:
            reason += f". Did you mean {guess}?"
        else:
            reason += "."
            if "command" in reason:
                reason += f" The commands are {', '.join(names)}."
        as_json = any(each.partition("=")[0] == "--json" for each in self._given)
        if not as_json:
            program = "budgetguard" if command is None else f"budgetguard {command}"
            reason += f" See {program} --help."
        print_failure(failure("usage", reason), as_json=as_json)
        raise SystemExit(ExitCode.USAGE)

    def _names(self) -> dict[str, Collection[str]]:
        return {name: parser.options for name, parser in self._commands.items()}


def amount(text: str) -> Decimal:
    """An amount of credits, for argparse."""
    try:
        return to_credits(cost(text, "it"))
    except ValueError:
        msg = "expected a number of credits from 0 to 10^12"
        raise argparse.ArgumentTypeError(msg) from None


def worker_count(text: str) -> int:
    """A number of workers, for argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        msg = f"expected a number of workers from 1 to {MOST_WORKERS}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _reworded(message: str) -> str:
    for theirs, ours in _REWORDED.items():
        match = re.fullmatch(theirs, message, re.DOTALL)
        if match is not None:
            return match.expand(ours)
    return "The arguments are not understood"


def _not_understood(rest: Sequence[str], commands: Mapping[str, Collection[str]]) -> str:
    """How to describe the arguments that are left over; what may be a key is not quoted."""
    options = {name for names in commands.values() for name in names}
    quoted = [_quoted(each, {*commands, *VENDORS}, options) for each in rest]
    if any(each != _ANY for each in quoted):
        return f"These arguments are not understood: {' '.join(quoted)}"
    several = f"are {len(rest)} arguments" if len(rest) > 1 else "is one argument"
    return f"There {several} too many"


def _quoted(argument: str, words: Collection[str], options: Collection[str]) -> str:
    if argument in words or _NUMBER.fullmatch(argument):
        return argument
    name, equals, value = argument.partition("=")
    if not get_close_matches(name, options, n=1, cutoff=_ALIKE):
        return _ANY
    return name + equals + (value if _NUMBER.fullmatch(value) else _ANY * bool(value))


def _begins_with_options_of(options: Collection[str], given: Sequence[str]) -> bool:
    return given[0].startswith("--") and given[0].partition("=")[0] in {*options} - {"--help"}


def _guess(given: Sequence[str], commands: Mapping[str, Collection[str]]) -> str | None:
    """The command, option or provider that is closest to the first one that does not exist."""
    command = next((each for each in given if each in commands), None)
    if command is None:
        known = {name for options in commands.values() for name in options}
        unknown = [each for each in given if each not in known]
        words = [each for each in unknown if not each.startswith("-")] or unknown
        return _closest(next(iter(words), ""), [*commands, "--help", "--version"])
    options = commands[command]
    for each, after in zip(given, [*given[1:], ""], strict=True):
        name, _, value = each.partition("=")
        if name.startswith("--") and name not in options:
            return _closest(name, options)
        if name == "--provider" and (value or after) not in VENDORS:
            return _closest(value or after, VENDORS)
    return None


def _closest(word: str, words: Collection[str]) -> str | None:
    return next(iter(get_close_matches(word.lower(), words, n=1)), None)
