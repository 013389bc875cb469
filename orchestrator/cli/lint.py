"""`perennial lint`: what the text of modules shows to be wrong with their flows. Nothing of them is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import Json, examples, session_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.core.lint.module import Finding

commands = typer.Typer()

_PASSED_OVER = frozenset((".venv", "venv", "node_modules", "site-packages", "__pycache__"))


@commands.command(
    rich_help_panel="Processes",
    epilog=examples(
        "perennial lint shop.processes",
        "perennial lint src/",
        json_shape='{"files", "functions", "allowed", "findings": [{"file", "line", "column", "rule", "what", '
        '"function", "why", "instead"}]}',
    ),
)
def lint(
    context: typer.Context,
    *,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE|PATH...",
            help="A module as it is imported, a file, or a directory with all that is in it.",
            show_default=False,
        ),
    ],
    _json: Json = False,
) -> None:
    """Find what a flow must not do: read the clock, roll dice, call the outside, wait in its own way.

    A flow is replayed from its journal, so between two awaits it only decides. Looked at are processes, functions that
    take a Flow, and what these call in the same file; stages and steps may do what they like. The text is read, and
    nothing is imported or run.

    What is fine all the same is allowed on its line, with the reason: `# perennial: allow it is for a log line`.
    Ends with 1 if anything is found. What the text doesn't show, a test does: ProcessTester(always_replay=True).
    """
    from orchestrator.core.lint.module import lint as read

    session = session_of(context)
    findings: list[Finding] = []
    files = functions = allowed = 0
    for path in dict.fromkeys(path for target in targets for path in _files_of(target)):
        try:
            module = read(path.read_text(encoding="utf-8"), str(path))
        except (SyntaxError, UnicodeDecodeError, ValueError) as error:
            raise CommandRefused(f"{path} can't be read as Python: {error}") from None
        files += 1
        functions += module.functions
        allowed += module.allowed
        findings += module.findings
    document = {
        "files": files,
        "functions": functions,
        "allowed": allowed,
        "findings": [_document(each) for each in findings],
    }
    looked_at = f"{functions} function(s) of flows in {files} file(s)"
    Printer(session).emit(document, lambda: _page(findings, looked_at, allowed))
    if findings:
        raise typer.Exit(1)


def _files_of(target: str) -> Iterator[Path]:
    path = Path(target)
    if path.is_dir():
        yield from (
            each
            for each in sorted(path.rglob("*.py"))
            if not _PASSED_OVER & set(each.relative_to(path).parts)
        )
        return
    if path.is_file():
        yield path
        return
    found = _module(target)
    if found is None:
        raise CommandRefused(
            f"there is no file, directory or module {target!r} here: give a path, or a module as it is imported "
            "from this directory"
        )
    yield from _files_of(str(found))


def _module(name: str) -> Path | None:
    """Where it stands, found as `import` does, and not imported: neither it nor the packages that it is in."""
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    inner = Path(*name.split("."))
    for root in ("", *sys.path):
        for found in (Path(root) / inner / "__init__.py", (Path(root) / inner).with_suffix(".py")):
            if found.is_file():
                return found.parent if found.name == "__init__.py" else found
    return None


def _document(found: Finding) -> dict[str, object]:
    return {
        "file": found.file,
        "line": found.line,
        "column": found.column,
        "rule": str(found.rule),
        "what": found.what,
        "function": found.function,
        "why": found.why,
        "instead": found.instead,
    }


def _page(findings: list[Finding], looked_at: str, allowed: int) -> RenderableType:
    page = text("")
    explained = set()
    for found in findings:
        page.append(text(f"{found.file}:{found.line}:{found.column}", "bold"))
        page.append(text(f"  {found.rule}", "red"))
        page.append(text(f"  {found.what}\n"))
        if found.rule not in explained:
            explained.add(found.rule)
            page.append(text(f"    why      {found.why}\n", "dim"))
            page.append(text(f"    instead  {found.instead}\n"))
    page.append(
        text(
            f"{len(findings)} found, {allowed} allowed" if findings or allowed else "nothing found"
        )
    )
    page.append(text(f", in {looked_at}"))
    return page
