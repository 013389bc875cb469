"""One module: what is found in the code of its flows, less what its author allows."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from orchestrator.core.lint.flow_code import FlowCode
from orchestrator.core.lint.names import Names
from orchestrator.core.lint.reading import Reader
from orchestrator.core.lint.rules import ADVICE, Rule

_ALLOWED = re.compile(r"#\s*perennial:\s*allow\b[\s:,-]*(?P<reason>.*)")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One mistake: where, in which function, what stands there, why it is wrong, and what to write instead."""

    file: str
    line: int
    column: int
    rule: Rule
    what: str
    function: str = ""

    @property
    def why(self) -> str:
        """Why it is wrong in a flow."""
        return ADVICE[self.rule].why

    @property
    def instead(self) -> str:
        """What to write instead."""
        return ADVICE[self.rule].instead


@dataclass(frozen=True, slots=True)
class Module:
    """What was found, and how much was looked at. `allowed`: so many findings have a reason beside them."""

    findings: tuple[Finding, ...]
    functions: int
    allowed: int


def lint(source: str, file: str) -> Module:
    """Read a module's text. Raises SyntaxError where it isn't Python's."""
    tree = ast.parse(source, file)
    names = Names(tree)
    code = FlowCode(tree, names)
    state = _changeable(tree)
    found: set[Finding] = set()
    for function, flows in code.functions.items():
        reader = Reader(function, names, flows=flows, stages=code.stages, state=state)
        found |= {
            Finding(file, place.lineno, place.col_offset + 1, rule, what, function.name)
            for place, rule, what in reader.found()
            if isinstance(place, ast.expr | ast.stmt | ast.ExceptHandler)
        }
    findings, allowed = [], 0
    lines = source.splitlines()
    for each in sorted(found):
        comment = _ALLOWED.search(lines[each.line - 1])
        if comment is None:
            findings.append(each)
        elif comment["reason"].strip():
            allowed += 1
        else:
            what = f"{each.what} is allowed without a reason"
            findings.append(
                Finding(file, each.line, each.column, Rule.NO_REASON, what, each.function)
            )
    return Module(tuple(_once(findings)), len(code.functions), allowed)


def is_allowed(line: str) -> bool:
    """Whether its author says that this line is fine, and why."""
    comment = _ALLOWED.search(line)
    return comment is not None and bool(comment["reason"].strip())


def _once(findings: list[Finding]) -> list[Finding]:
    """A function within another is read with both: each mistake is told once."""
    told: dict[tuple[int, int, Rule], Finding] = {}
    for each in findings:
        told.setdefault((each.line, each.column, each.rule), each)
    return list(told.values())


def _changeable(tree: ast.Module) -> set[str]:
    """Names that the module itself binds to what can change."""
    found = set()
    for node in tree.body:
        target: ast.expr | None = None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        if isinstance(target, ast.Name) and _can_change(value):
            found.add(target.id)
    return found


def _can_change(value: ast.expr) -> bool:
    if isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
        return True
    return isinstance(value, ast.Call) and (
        isinstance(value.func, ast.Name)
        and value.func.id in ("list", "dict", "set", "deque", "defaultdict", "Counter")
    )
