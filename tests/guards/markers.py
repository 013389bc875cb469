"""Where each guard stands: a marker at the end of its line; and what is marked cut out, by the marker's name.

    if losses >= TURN_LOSSES_MAX:  # guard: a step that kills its workers parks         Python
        AND r.revision = t.revision  /* guard: revision check */                         SQL
    redis.call('ZREM', KEYS[1], member)  -- guard: a timer is moved once                 Lua

In Python a marker marks the statement, the head of a block, the operand of `and` or `or` or the item of a list
of any kind that begins on its line; where the line is long, the marker stands above it. In SQL and Lua it marks
the line, and what brackets hold together with it.

    markers_in   each marker of a copy of the repository
    cut_out      a file of that copy without what one marker marks
    without      the same of a source alone

How it is cut says the list, in no words of the source:

    GONE         it vanishes: an `if` is never taken, an `except` catches nothing, a `with` is never left,
                 an operand decides nothing
    ALWAYS       its condition is true
    NEVER        no row passes: in SQL alone
    UNCHANGED    the column that it sets keeps its value: in SQL alone
    UNWRAPPED    what its call was given to call is called, and nothing else
    a literal    stands in its place, or in that of its value
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

HOUSE = "orchestrator"
_KINDS = {".py": r"#|/\*", ".lua": "--"}
_MARKER = r"(?P<sign>{signs}) guard: (?P<name>.+?)(?: \*/(?P<after>.*))?$"


class How(Enum):
    """How what is marked is cut."""

    GONE = auto()
    ALWAYS = auto()
    NEVER = auto()
    UNCHANGED = auto()
    UNWRAPPED = auto()


GONE, ALWAYS, NEVER, UNCHANGED, UNWRAPPED = How

Cut = How | str
"""A `str` is a literal."""


class CannotCut(Exception):
    """What is marked can't be cut in that way."""


@dataclass(frozen=True)
class Marker:
    """Where a guard stands."""

    name: str
    file: str
    line: int
    """What is marked begins there (in SQL: it ends there), from 1."""
    sign: str
    """`#`, `/*` or `--`: what it is written in."""


def markers_in(root: Path) -> dict[str, Marker]:
    """By name. Raises ValueError for two of one name."""
    found: dict[str, Marker] = {}
    for path in sorted((root / HOUSE).rglob("*")):
        if path.suffix in _KINDS:
            for marker in markers_of(path.read_text(), str(path.relative_to(root))):
                if other := found.get(marker.name):
                    raise ValueError(f"{marker.name}: in {other.file} and in {marker.file}")
                found[marker.name] = marker
    return found


def markers_of(source: str, file: str) -> Iterator[Marker]:
    pattern = re.compile(_MARKER.format(signs=_KINDS[Path(file).suffix]))
    if " guard: " in source:
        for number, line in enumerate(source.splitlines(), 1):
            if match := pattern.search(line):
                is_above = line.lstrip().startswith("# guard: ")
                yield Marker(match["name"], file, number + is_above, match["sign"])


def cut_out(root: Path, name: str, cut: Cut = GONE) -> Path:
    """Change its file in that copy of the repository. Raises KeyError, CannotCut."""
    marker = markers_in(root)[name]
    file = root / marker.file
    source = without(file.read_text(), marker, cut)
    file.unlink()  # the copy's name alone: the content may be shared with other copies
    file.write_text(source)
    return file


def without(source: str, marker: Marker, cut: Cut = GONE) -> str:
    """The source with what is marked cut out of it. Raises CannotCut."""
    return (_python if marker.sign == "#" else _lines)(source, marker, cut)


# -- SQL and Lua -------------------------------------------------------------------------------------


def _lines(source: str, marker: Marker, cut: Cut) -> str:
    """The line, and those before it until all that is closed on it is opened."""
    if cut in (ALWAYS, UNWRAPPED):
        raise CannotCut(f"{marker.name}: a line of {marker.file} can't be cut so ({cut})")
    lines = source.splitlines(keepends=True)
    first = last = marker.line - 1
    end = lines[last].index(f"{marker.sign} guard: {marker.name}")
    depth = _closed(lines[last][:end])
    while depth > 0:
        first -= 1
        depth += _closed(lines[first])
    start = len(lines[first]) - len(lines[first].lstrip())
    marked = "".join([*lines[first:last], lines[last][:end]])
    if '"""' in marked or depth:
        raise CannotCut(f"{marker.name}: more begins on its line than ends there")
    left = cut if isinstance(cut, str) else ""
    if cut is UNCHANGED:
        column, is_set, _ = marked.strip().partition(" = ")
        if not (is_set and column.isidentifier()):
            raise CannotCut(f"{marker.name}: line {marker.line} of {marker.file} sets no column")
        left = f"{column} = {column}"
    if cut is NEVER:
        left = marked.strip() + (" AND" if "WHERE" in marked else " WHERE") + " false"
    rest = lines[last][end:]
    lines[first : last + 1] = [f"{lines[first][:start]}{left}{'  ' if left else ''}{rest}"]
    return "".join(lines)


def _closed(text: str) -> int:
    return text.count(")") - text.count("(")


# -- Python ------------------------------------------------------------------------------------------

_Block = ast.If | ast.While | ast.With | ast.ExceptHandler | ast.FunctionDef
_Item = tuple[ast.expr | ast.keyword, str]
"""And what stands for it when it is gone; nothing: it leaves its list."""


def _python(source: str, marker: Marker, cut: Cut) -> str:
    tree, line = ast.parse(source), marker.line
    nodes = list(ast.walk(tree))
    blocks = [
        node for node in nodes if isinstance(node, _Block) and node.lineno == line < _body(node)
    ]
    statements = [
        node
        for node in nodes
        if isinstance(node, ast.stmt) and not hasattr(node, "body") and node.lineno == line
    ]
    items = [item for item in _items(nodes) if item[0].lineno == line]
    text = _Text(source)
    if blocks:
        edit = _in_block(text, blocks[0], cut)
    elif statements:
        edit = _in_statement(text, statements[0], cut)
    elif items:
        # What ends there too comes first: an operand may be the first of several lines that are one.
        widest = max(items, key=lambda item: (_lines_of(item[0]) == 1, text.length(item[0])))
        edit = _in_item(text, *widest, cut)
    else:
        edit = None
    if edit is None:
        raise CannotCut(f"{marker.name}: line {line} of {marker.file} can't be cut so ({cut})")
    return text.with_(*edit)


def _body(block: _Block) -> int:
    return block.body[0].lineno


def _lines_of(item: ast.expr | ast.keyword) -> int:
    return (item.end_lineno or item.lineno) - item.lineno + 1


def _items(nodes: list[ast.AST]) -> Iterator[_Item]:
    for node in nodes:
        match node:
            case ast.BoolOp(op=ast.And()) | ast.comprehension():
                operands = node.values if isinstance(node, ast.BoolOp) else node.ifs
                yield from ((each, "True") for each in operands)
            case ast.BoolOp():
                yield from ((each, "False") for each in node.values)
            case ast.Call():
                yield from ((each, "") for each in [*node.args, *node.keywords])
            case ast.Tuple() | ast.List() | ast.Set():
                yield from ((each, "") for each in node.elts)


class _Text:
    """A source, by the places that `ast` gives."""

    def __init__(self, source: str) -> None:
        self._bytes = source.encode()
        self._lines = [0]
        for line in source.encode().splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def begin(self, node: ast.stmt | ast.expr | ast.keyword | ast.ExceptHandler) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def end(self, node: ast.stmt | ast.expr | ast.keyword) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def length(self, node: ast.expr | ast.keyword) -> int:
        return self.end(node) - self.begin(node)

    def after_comma(self, node: ast.expr | ast.keyword) -> int:
        """Of an item that has a line to itself; the formatter has put one there."""
        return self._bytes.index(b",", self.end(node)) + 1

    def of(self, node: ast.expr) -> str:
        return self._bytes[self.begin(node) : self.end(node)].decode()

    def with_(self, begin: int, end: int, instead: str) -> str:
        return (self._bytes[:begin] + instead.encode() + self._bytes[end:]).decode()


_Edit = tuple[int, int, str]


def _in_block(text: _Text, block: _Block, cut: Cut) -> _Edit | None:
    if isinstance(block, ast.If | ast.While) and cut in (GONE, ALWAYS):
        return text.begin(block.test), text.end(block.test), str(cut is ALWAYS)
    if cut is not GONE:
        return None
    if isinstance(block, ast.ExceptHandler):
        return None if block.type is None else (text.begin(block.type), text.end(block.type), "()")
    if isinstance(block, ast.With):
        entered = block.items[0]
        given = entered.optional_vars
        name = f"{given.id} := " if isinstance(given, ast.Name) else ""
        head = f"if [{name}({text.of(entered.context_expr)}).__enter__()]"
        return text.begin(block), text.end(given or entered.context_expr), head
    if isinstance(block, ast.FunctionDef):
        decorators = [text.begin(each) - 1 for each in block.decorator_list]
        return min([text.begin(block), *decorators]), text.end(block), "pass"
    return None


def _in_statement(text: _Text, statement: ast.stmt, cut: Cut) -> _Edit | None:
    if cut is GONE:
        return text.begin(statement), text.end(statement), "pass"
    value = getattr(statement, "value", None)
    return None if value is None else _in_value(text, value, cut)


def _in_item(text: _Text, item: ast.expr | ast.keyword, gone: str, cut: Cut) -> _Edit | None:
    if cut is not GONE:
        return _in_value(text, item.value if isinstance(item, ast.keyword) else item, cut)
    if gone:
        return text.begin(item), text.end(item), gone
    return text.begin(item), text.after_comma(item), ""


def _in_value(text: _Text, value: ast.expr, cut: Cut) -> _Edit | None:
    begin, end = text.begin(value), text.end(value)
    if isinstance(cut, str):
        return begin, end, cut
    if cut is UNWRAPPED and isinstance(value, ast.Call) and len(value.args) == 1:
        return begin, end, f"({text.of(value.args[0])})()"
    if cut is ALWAYS and isinstance(value, ast.IfExp):
        return text.begin(value.test), text.end(value.test), "True"
    return None
