"""The grammar of the expressions in which users say where a figure is: `data.limit - data.used`.

The grammar, in which white space has no meaning outside quotes:

    expression = ["-"] term {("+" | "-") term}
    term       = number | path | "(" expression ")" | "min" "(" expression {"," expression} ")"
               | "sum" "(" path ")" | "unlimited" "(" path ")"
    path       = name {"." name | "[" index "]" | "[" name "=" text "]" | "[*]"}
    name       = letters, digits and _, not beginning with a digit; or in quotes
    text       = letters, digits and _ . : - ; or in quotes
    number     = digits ["." digits]; index = digits
    quotes     = "..." or '...', in which a backslash stands before a quote or a backslash

- `data.left`: the field `left` of the object in the field `data`.
- `"rate-limits".left`: a name with other characters. `"min"(...)` is not a function; `min` is a field
  wherever no parenthesis follows it.
- `tasks[0].left`: the first item of a list.
- `balances[currency=USD].amount`: the one item whose field `currency` is the text USD, or that number.
  None, or more than one, is an error.
- `sum(balances[units=usd].amount)`, `sum(packs[*].left)`: the sum over all those items, or over all items.
  None is an error.
- `min(data.left, key.limit - key.used)`: the least of several.
- `unlimited(key.limit)`: a field in which null means that there is no limit. It cannot be subtracted.
- `-data.debt`, `data.left - 100`: signs and numbers. An expression has at least one field.
"""

import re
from decimal import Decimal
from typing import Final, NoReturn

from budgetguard._core.errors import ConfigurationError
from budgetguard.providers._field_expressions import (
    BARE_NAME,
    BARE_TEXT,
    LARGEST,
    MOST_DIGITS,
    EveryItem,
    FieldExpression,
    FieldPath,
    FigureTerm,
    LeastTerm,
    NumberTerm,
    PathStep,
    PickedItem,
    ReplyCondition,
    SumTerm,
    Term,
)

ALLOWED: Final = (
    'Allowed are paths (data.left, list[0].left, list[currency=USD].left, "odd-name".left), numbers, '
    "+, -, parentheses, min(..., ...), sum(path) and unlimited(path)."
)

_LONGEST = 1000
_DEEPEST = 20
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_INDEX = re.compile(r"[0-9]{1,6}(?![0-9])")
_QUOTED = re.compile(r'"(?:[^"\\]|\\["\\\'])*"|\'(?:[^\'\\]|\\["\\\'])*\'')
_ESCAPED = re.compile(r"\\(.)")
_SPACE = re.compile(r"\s*")
_FUNCTIONS = ("min", "sum", "unlimited")


def parse_expression(text: str, what: str) -> FieldExpression:
    """The expression in `text`; raises TypeError if it is not a str, and ConfigurationError if it is not one.

    Errors call it `what`, and give the position, but never the text, which may be a key.
    """
    parser = _Parser(text, what)
    root = parser.expression(0, positive=True)
    parser.end()
    if next(root.paths(), None) is None:
        parser.refuse("it has no field", at=0)
    return FieldExpression(root)


def parse_path(text: str, what: str) -> FieldPath:
    """The path in `text`, without `[*]`; raises as `parse_expression` does."""
    parser = _Parser(
        text, what, allowed='Allowed is one path, such as data.renews_at or "renews-at".'
    )
    path = parser.path(every=False)
    parser.end()
    return path


def parse_condition(text: str, what: str) -> ReplyCondition:
    """The condition in `text`; raises as `parse_expression` does."""
    allowed = 'Allowed are "path = text" and "path ~ text", such as error.code = NO_CREDITS.'
    parser = _Parser(text, what, allowed=allowed)
    path = parser.path(every=False)
    contains = parser.takes("~")
    if not contains:
        parser.expect("=", "= or ~")
    value = parser.text("the text that the field must be or contain")
    parser.end()
    return ReplyCondition(path, value, contains)


class _Parser:
    """Reads one text from left to right."""

    def __init__(self, text: object, what: str, allowed: str = ALLOWED) -> None:
        if not isinstance(text, str):
            msg = f"{what} takes a str, not {type(text).__name__}"
            raise TypeError(msg)
        self._text = text
        self._what = what
        self._allowed = allowed
        self._at = 0
        if len(text) > _LONGEST:
            self.refuse(f"it is longer than {_LONGEST} characters", at=_LONGEST)

    def refuse(self, problem: str, at: int | None = None) -> NoReturn:
        """Raise the error about what is found here, or at the given place."""
        position = (self._at if at is None else at) + 1
        msg = f"{self._what}, at character {position}: {problem}. {self._allowed}"
        raise ConfigurationError(msg)

    def expression(self, depth: int, *, positive: bool) -> Term:
        """A sum of terms, or a single one."""
        if depth > _DEEPEST:
            self.refuse(f"it is nested more than {_DEEPEST} deep")
        adds = not self.takes("-")
        terms = [(adds, self._term(depth, positive=positive == adds))]
        while (adds := self.takes("+")) or self.takes("-"):
            terms.append((adds, self._term(depth, positive=positive == adds)))
        if len(terms) == 1 and terms[0][0]:
            return terms[0][1]
        return SumTerm(tuple(terms))

    def path(self, *, every: bool, wanted: str = "a field name") -> FieldPath:
        """A path; with `every`, `[*]` is allowed."""
        steps: list[PathStep] = [self._name(wanted)]
        while True:
            if self.takes("."):
                steps.append(self._name("a field name after the dot"))
            elif self.takes("["):
                steps.append(self._item(every=every))
                self.expect("]", "]")
            else:
                return FieldPath(tuple(steps))

    def text(self, wanted: str) -> str:
        """A text, with or without quotes."""
        quoted = self._quoted()
        return self._match(BARE_TEXT, wanted) if quoted is None else quoted

    def takes(self, symbol: str) -> bool:
        """Whether a symbol comes next, which is then behind."""
        self._skip()
        if not self._text.startswith(symbol, self._at):
            return False
        self._at += len(symbol)
        return True

    def expect(self, symbol: str, wanted: str) -> None:
        """Take a symbol that has to come next."""
        if not self.takes(symbol):
            self._expected(wanted)

    def end(self) -> None:
        """Check that nothing comes next."""
        self._skip()
        if self._at < len(self._text):
            self._expected("the end")

    def _term(self, depth: int, *, positive: bool) -> Term:
        self._skip()
        start = self._at
        if self.takes("("):
            inner = self.expression(depth + 1, positive=positive)
            self.expect(")", ")")
            return inner
        if found := _NUMBER.match(self._text, self._at):
            self._at = found.end()
            return self._number(found[0], start)
        function = self._function()
        if function is None:
            return FigureTerm(self.path(every=False, wanted="a field name, a number or ("))
        if function == "min":
            return self._least(depth, positive=positive)
        if function == "unlimited" and not positive:
            self.refuse("unlimited(...) cannot be subtracted", at=start)
        path = self.path(every=function == "sum")
        self.expect(")", ")")
        return FigureTerm(path, every=function == "sum", unlimited=function == "unlimited")

    def _least(self, depth: int, *, positive: bool) -> LeastTerm:
        terms = [self.expression(depth + 1, positive=positive)]
        while self.takes(","):
            terms.append(self.expression(depth + 1, positive=positive))
        self.expect(")", ", or )")
        return LeastTerm(tuple(terms))

    def _function(self) -> str | None:
        """The name of the function whose parenthesis was opened; None before a path."""
        name = BARE_NAME.match(self._text, self._at)
        if name is None:
            return None
        start, self._at = self._at, name.end()
        if not self.takes("("):
            self._at = start
            return None
        if name[0] not in _FUNCTIONS:
            self.refuse("there is no such function", at=start)
        return name[0]

    def _number(self, digits: str, start: int) -> NumberTerm:
        if BARE_NAME.match(self._text, self._at):
            self.refuse("a name that begins with a digit has to be in quotes", at=start)
        number = Decimal(digits)
        if len(digits) > MOST_DIGITS or number.adjusted() >= LARGEST:
            self.refuse("the number is too long", at=start)
        return NumberTerm(number)

    def _item(self, *, every: bool) -> PathStep:
        self._skip()
        start = self._at
        if self.takes("*"):
            if not every:
                self.refuse("[*] is allowed only in sum(...)", at=start)
            return EveryItem()
        if index := _INDEX.match(self._text, self._at):
            self._at = index.end()
            return int(index[0])
        name = self._name("the number of an item, or a field name and = and its text")
        self.expect("=", "=")
        return PickedItem(name, self.text("the text that the field must be"))

    def _name(self, wanted: str) -> str:
        quoted = self._quoted()
        return self._match(BARE_NAME, wanted) if quoted is None else quoted

    def _quoted(self) -> str | None:
        self._skip()
        found = _QUOTED.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
            return _ESCAPED.sub(r"\1", found[0][1:-1])
        if self._text[self._at : self._at + 1] in {'"', "'"}:
            self.refuse("the quotes are not closed, or contain a backslash before something else")
        return None

    def _match(self, pattern: re.Pattern[str], wanted: str) -> str:
        self._skip()
        found = pattern.match(self._text, self._at)
        if found is None:
            self._expected(wanted)
        self._at = found.end()
        return found[0]

    def _skip(self) -> None:
        if found := _SPACE.match(self._text, self._at):
            self._at = found.end()

    def _expected(self, wanted: str) -> NoReturn:
        self._skip()
        here = self._text[self._at : self._at + 1]
        # One sign is no key.
        found = f"{here!r}" if here.isprintable() and not here.isalnum() else "something else"
        self.refuse(f"expected {wanted}, found {found if here else 'the end'}")
