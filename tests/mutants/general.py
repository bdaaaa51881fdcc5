"""General single-line mutants of a module: what a slip of the hand could make of each expression.

A mutant replaces one expression or statement that stands on one line. Left alone are annotations,
docstrings, texts, assertions, imports, and what would only make None of a False.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_COMPUTED: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.FloorDiv: "*",
    ast.Div: "*",
    ast.Mod: "+",
    ast.Pow: "*",
    ast.BitOr: "&",
    ast.BitAnd: "|",
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_SKIPPED = (ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)


@dataclass(frozen=True, slots=True)
class General:
    """`file` with the text from `start` to `end` of line `line` replaced by `new`."""

    file: str
    line: int
    start: int
    end: int
    new: str

    def applied(self, source: str) -> str:
        """The source with this mutant in it."""
        lines = source.splitlines(keepends=True)
        # The parser's columns count bytes.
        text = lines[self.line - 1].encode()
        lines[self.line - 1] = (text[: self.start] + self.new.encode() + text[self.end :]).decode()
        return "".join(lines)


def mutants_of(file: str, path: Path) -> list[General]:
    """All mutants of a module, in the order of its lines."""
    source = path.read_text(encoding="utf-8")
    found = [
        General(file, node.lineno, node.col_offset, node.end_col_offset or 0, new)
        for node, new in _walk(ast.parse(source), source)
        if node.lineno == node.end_lineno
    ]
    return sorted(found, key=lambda each: (each.line, each.start, each.new))


def _walk(tree: ast.AST, source: str) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, _SKIPPED) or _is_for_types(child) or _is_text(child):
            continue
        if isinstance(child, ast.expr | ast.stmt):
            yield from ((child, new) for new in _replaced(child, source))
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk_body(child, source)
        elif isinstance(child, ast.AnnAssign):
            if child.value is not None:
                yield from _walk(ast.Expr(child.value), source)
        else:
            yield from _walk(child, source)


def _walk_body(
    function: ast.FunctionDef | ast.AsyncFunctionDef, source: str
) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """A function without its annotations and decorators."""
    defaults = [each for each in function.args.kw_defaults if each is not None]
    body = [*function.args.defaults, *defaults, *function.body]
    yield from _walk(
        ast.Module(
            [*(ast.Expr(each) if isinstance(each, ast.expr) else each for each in body)], []
        ),
        source,
    )  # type: ignore[list-item]


def _replaced(node: ast.expr | ast.stmt, source: str) -> Iterator[str]:  # noqa: C901, PLR0912  a case a kind
    text = ast.get_source_segment(source, node) if hasattr(node, "lineno") else None
    if text is None:
        return
    match node:
        case ast.Compare(ops=[op], left=left, comparators=[right]):
            yield f"({_text(left, source)} {_COMPARED[type(op)]} {_text(right, source)})"
        case ast.BoolOp(op=op, values=values):
            word = " or " if isinstance(op, ast.And) else " and "
            yield "(" + word.join(f"({_text(value, source)})" for value in values) + ")"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield f"bool({_text(operand, source)})"
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _COMPUTED:
            yield f"({_text(left, source)} {_COMPUTED[type(op)]} {_text(right, source)})"
        case ast.Constant(value=bool(value)):
            yield str(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield str(value + 1)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield f"({_text(orelse, source)} if {_text(test, source)} else {_text(body, source)})"
        case ast.Call(func=ast.Name(id=name)) if name in _NAMES:
            yield _NAMES[name] + text[len(name) :]
        case ast.Return(value=ast.expr() as value) if not _is_falsy(value):
            yield "return None"
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield "pass"
        case ast.Assign(value=value) if not _is_falsy(value):
            yield f"{text[: -len(_text(value, source))]}None"
        case ast.AugAssign(op=ast.Add()):
            yield text.replace("+=", "-=", 1)
        case ast.AugAssign(op=ast.Sub()):
            yield text.replace("-=", "+=", 1)
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
        case ast.Raise():
            yield "pass"


def _text(node: ast.expr, source: str) -> str:
    text = ast.get_source_segment(source, node)
    assert text is not None
    return text


def _is_falsy(node: ast.expr) -> bool:
    # False and None decide alike, and that False may be True is a mutant of its own.
    return isinstance(node, ast.Constant) and node.value in (None, False)


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
