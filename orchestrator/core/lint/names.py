"""What a name of a module stands for, as its imports say."""

from __future__ import annotations

import ast


class Names:
    """`datetime.now` is `datetime.datetime.now` where the module has `from datetime import datetime`."""

    def __init__(self, tree: ast.Module) -> None:
        self._origins: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    self._origins[bound] = alias.name if alias.asname else bound
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    self._origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def of(self, node: ast.expr) -> str | None:
        """Dotted, from the root of a module that is imported; a bare name that isn't is itself. None: it is no name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        if node.id not in self._origins and parts:
            return None  # an object of the module's own
        return ".".join([self._origins.get(node.id, node.id), *reversed(parts)])
