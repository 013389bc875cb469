"""A command that lists, shows one by its name, and has verbs: `incidents`, `incidents CAUSE`, `incidents note …`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

ONE = "show"
"""The command that a name leads to which is no command's."""


class ListOrOne(TyperGroup):
    """Alone it lists; what is no command of its is the name of one thing, which it shows."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command that is meant, and what is left for it."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = [ONE, *args]
        found: tuple[Any, Any, list[str]] = super().resolve_command(ctx, args)
        return found
