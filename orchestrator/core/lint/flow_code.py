"""Which functions of a module are code of a flow: processes, what is given their Flow, and what these call.

What a flow hands to flow.step or flow.stage is not: that is done once, and recorded.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from orchestrator.core.lint.names import Names

Function = ast.FunctionDef | ast.AsyncFunctionDef

_TAKES_FLOW_CODE = ("map", "scope", "parallel", "gather", "first")
"""Methods of Flow that call a function of the flow's own."""


class FlowCode:
    """`functions`: those of a module that are, each with the names that its Flow has there."""

    def __init__(self, tree: ast.Module, names: Names) -> None:
        self._names = names
        named: defaultdict[str, list[Function]] = defaultdict(list)
        for node in ast.walk(tree):
            if isinstance(node, Function):
                named[node.name].append(node)
        every = [node for nodes in named.values() for node in nodes]
        stages = [node for node in every if self.is_decorated(node, "stage")]
        self.stages = {node.name for node in stages}
        self.functions: dict[Function, frozenset[str]] = {}
        waiting = [node for node in every if self._flow_of(node) is not None]
        while waiting:
            node = waiting.pop()
            if node in self.functions or node in stages:
                continue
            flow = self._flow_of(node)
            self.functions[node] = frozenset(() if flow is None else (flow,))
            for called in self._calls(node):
                waiting += named.get(called, ())

    def is_decorated(self, node: Function, by: str) -> bool:
        """Whether it stands under a decorator of ours of that name."""
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if self._names.of(called) in (by, f"orchestrator.{by}"):
                return True
        return False

    def _flow_of(self, node: Function) -> str | None:
        """The parameter that is a Flow. None: it is given none."""
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if self.is_decorated(node, "process") and arguments:
            return arguments[0].arg
        for argument in arguments:
            if argument.annotation is not None and _text(argument.annotation) == "Flow":
                return argument.arg
        return None

    def _calls(self, function: Function) -> Iterator[str]:
        """Names of functions of the module that it calls, or lets its flow call."""
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute) and node.func.attr in _TAKES_FLOW_CODE:
                yield from (each.id for each in node.args if isinstance(each, ast.Name))


def _text(annotation: ast.expr) -> str:
    """`Flow`, also as text and as `orchestrator.Flow`."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value.rpartition(".")[2]
    if isinstance(annotation, ast.Attribute):
        return annotation.attr
    return annotation.id if isinstance(annotation, ast.Name) else ""
