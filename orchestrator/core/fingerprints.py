"""What a flow means: its syntax tree, without what changes nothing.

A docstring, a comment, a line that a formatter wraps, other quotes, another module or another name of the
function leave the meaning as it is; a constant, a call, a decorator of the author's own change it.

The tree is written out here and not by `ast.dump`, whose output differs between releases of Python (3.13 leaves
out empty fields, and 3.12 has fields that 3.11 lacks): a version that is deployed by one Python is the same
for another.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

_LEFT_OUT = frozenset({"ctx", "kind", "type_comment", "lineno"})
"""Fields that say how something was written, or what its place says already."""

_Function = ast.AsyncFunctionDef | ast.FunctionDef


def meaning_of(flow: Callable[..., Any], *, decorators: tuple[Any, ...] = ()) -> str:
    """SHA-256 of what the flow does; of its names and constants where it has no source.

    `decorators` are those whose arguments are recorded apart: they don't count.
    """
    tree = tree_of(flow, decorators=decorators)
    if tree is None:
        return sha256_of(_names_and_constants(flow))
    return sha256_of("".join(written(tree)))


def tree_of(
    function: Callable[..., Any], *, decorators: tuple[Any, ...] = ()
) -> ast.AsyncFunctionDef | ast.FunctionDef | None:
    """The function's syntax tree, without its name and those decorators. None: it has no source."""
    tree = _tree_of(function)
    if tree is None:
        return None
    names = getattr(inspect.unwrap(function), "__globals__", {})
    tree.name = ""
    tree.decorator_list = [
        node for node in tree.decorator_list if not _is_one_of(node, decorators, names)
    ]
    return tree


_READS_NAMES = frozenset({"locals", "vars", "eval", "exec", "dir"})
_SCOPES = (
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.DictComp,
    ast.FunctionDef,
    ast.GeneratorExp,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
)


def without_local_names(
    tree: ast.AsyncFunctionDef | ast.FunctionDef, *, its_arguments: bool
) -> ast.AST:
    """A copy whose local variables are called by the order in which they come: their names mean nothing.

    Not what a function within it, a comprehension, an import or a pattern binds as well: that is left as it is
    called. `its_arguments`: those too; not of a function that may be called by keyword.
    """
    if any(isinstance(each, ast.Name) and each.id in _READS_NAMES for each in ast.walk(tree)):
        return tree
    local: dict[str, None] = {}
    kept: set[str] = set()
    arguments = [each.arg for each in ast.walk(tree.args) if isinstance(each, ast.arg)]
    (local.update(dict.fromkeys(arguments)) if its_arguments else kept.update(arguments))
    for statement in tree.body:
        _bind(statement, local, kept)
    names = {
        name: str(place) for place, name in enumerate(each for each in local if each not in kept)
    }
    renamed: ast.AST = _Renamed(names).visit(copy.deepcopy(tree))
    return renamed


def _bind(node: ast.AST, local: dict[str, None], kept: set[str]) -> None:
    if isinstance(node, _SCOPES):
        kept.add(getattr(node, "name", ""))
        for each in ast.walk(node):
            if isinstance(each, ast.arg):
                kept.add(each.arg)
            elif isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
                kept.add(each.id)
            else:
                kept.update(_names_as_text(each))
        return
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        local[node.id] = None
    elif isinstance(node, ast.ExceptHandler) and node.name:
        local[node.name] = None
    kept.update(_names_as_text(node))
    for child in ast.iter_child_nodes(node):
        _bind(child, local, kept)


def _names_as_text(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Global | ast.Nonlocal):
        return node.names
    if isinstance(node, ast.alias):
        return [(node.asname or node.name).partition(".")[0]]
    if isinstance(node, ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    if isinstance(node, ast.MatchMapping):
        return [node.rest] if node.rest else []
    return []


class _Renamed(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self._names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        self.generic_visit(node)
        node.arg = self._names.get(node.arg, node.arg)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        self.generic_visit(node)
        node.name = self._names.get(node.name, node.name) if node.name else None
        return node


def source_of(function: Callable[..., Any]) -> str:
    """SHA-256 of the source's lines without blank and comment lines, as releases before 0.2 took it."""
    try:
        lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    except (OSError, TypeError):
        return sha256_of(_names_and_constants(function))
    return sha256_of(
        "\n".join(
            line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")
        )
    )


def text_of(function: Callable[..., Any]) -> str | None:
    """The source of a function as it stands in its file; None: there is none."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return None


def sha256_of(text: str) -> str:
    """In hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _names_and_constants(function: Callable[..., Any]) -> str:
    code = function.__code__
    return repr((code.co_names, [const for const in code.co_consts if not inspect.iscode(const)]))


def _tree_of(function: Callable[..., Any]) -> _Function | None:
    """None: it has no source, or none that stands by itself."""
    try:
        source = inspect.getsource(function)
        # Not dedented: that would change what stands in strings of several lines.
        is_within = source[:1].isspace()
        found = ast.parse(f"if 1:\n{source}" if is_within else source).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    if is_within and isinstance(found, ast.If):
        found = found.body[0]
    return found if isinstance(found, _Function) else None


def _is_one_of(node: ast.expr, decorators: tuple[Any, ...], names: dict[str, Any]) -> bool:
    """Whether a decorator is one of those, by whatever name it is imported."""
    called = node.func if isinstance(node, ast.Call) else node
    if isinstance(called, ast.Name) and called.id in names:
        found = names[called.id]
    elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        found = getattr(names.get(called.value.id), called.attr, None)
    else:  # it is imported within a function
        found = None
    if found is not None:
        return any(found is decorator for decorator in decorators)
    name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
    return any(name == decorator.__name__ for decorator in decorators)


def written(value: Any) -> Iterator[str]:
    """A tree as text: of two trees that mean the same, the same."""
    if isinstance(value, ast.Constant):
        yield f"{type(value.value).__name__} {_constant(value.value)}"
    elif isinstance(value, ast.AST):
        yield f"{type(value).__name__}("
        for name in value._fields:
            part = _meaning_of_field(value, name)
            if part is not None and part != []:
                yield f"{name}="
                yield from written(part)
                yield ","
        yield ")"
    elif isinstance(value, list):
        yield "["
        for part in value:
            yield from written(part)
            yield ";"
        yield "]"
    else:
        yield ascii(value)


def _constant(value: object) -> str:
    """The same in every release of Python: ascii() asks no table of characters, hex() has no bound."""
    return hex(value) if isinstance(value, int) else ascii(value)


def _meaning_of_field(node: ast.AST, name: str) -> Any:
    """What the field adds to the meaning; None: nothing."""
    part = getattr(node, name, None)
    if name in _LEFT_OUT:
        return None
    if isinstance(node, ast.JoinedStr):
        return _joined(node.values)
    if name == "format_spec" and isinstance(part, ast.JoinedStr) and not part.values:
        return None
    if isinstance(part, list):
        return [each for each in part if not _does_nothing(each)]
    return part


def _does_nothing(node: object) -> bool:
    """A docstring, `...`, or another constant that stands by itself."""
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string: what stands between its fields in one piece, however it was quoted."""
    joined: list[ast.expr] = []
    for value in values:
        before = joined[-1] if joined else None
        if isinstance(value, ast.Constant) and isinstance(before, ast.Constant):
            joined[-1] = ast.Constant(str(before.value) + str(value.value))
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            joined.append(value)
    return joined
