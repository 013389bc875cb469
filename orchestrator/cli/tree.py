"""`perennial tree`: a run, the children that it has started, theirs, and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.tree import Tree

from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import Json, Run, examples, session_of
from orchestrator.cli.wording import status_text
from orchestrator.core.run import RunStatus

if TYPE_CHECKING:
    from rich.text import Text

    from orchestrator.core.views import FamilyMember, RunTree

commands = typer.Typer()


@commands.command(
    rich_help_panel="Runs",
    epilog=examples(
        "perennial tree permit-17",
        json_shape='{"run": {"id", "process", "version", "business_key", "status", "waiting_for", "parent_id", '
        '"parent_key", "on_parent_end"}, "children": [the same again], "is_cut"}',
    ),
)
def tree(context: typer.Context, run: Run, _json: Json = False) -> None:
    """A run with its children, and theirs: who waits for whom, and how each stands."""
    session = session_of(context)
    with session.client() as client:
        found = client.operations.tree(run)
    Printer(session).emit(found, lambda: tree_of(found))


def tree_of(found: RunTree) -> Tree:
    """As people see it: what is asked for at the top, even where it has a parent."""
    head = _line(found.run)
    if found.run.parent_id is not None:
        head += text(f"  (child of {found.run.parent_id})", "dim")
    drawn = Tree(head)
    _draw(drawn, found)
    if found.is_cut:
        drawn.add(text("… and more: ask for the tree of one of these", "dim"))
    return drawn


def _draw(drawn: Tree, found: RunTree) -> None:
    for child in found.children:
        _draw(drawn.add(_line(child.run)), child)


def _line(run: FamilyMember) -> Text:
    line = text(f"{run.process} v{run.version}", "bold") + text(f"  {run.business_key or run.id}  ")
    line += status_text(run.status)
    if run.waiting_for and not run.status.is_closed:
        line += text(f", waits for {run.waiting_for}")
    if run.parent_id is not None and run.parent_key is None:
        line += text("  not awaited", "dim")
    if run.status is RunStatus.INCIDENT:
        line += text(f"  perennial show {run.business_key or run.id}", "cyan")
    return line
