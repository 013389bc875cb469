"""`python -m tests.guards`: cut each guard out, and show which test goes red. See `make guards`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from orchestrator.embedded import EmbeddedServers
from tests.conftest import migrated, spare_the_disk
from tests.guards.cutting import ROOT, GuardsAreNotReady, Verdict, Workshop
from tests.guards.guards import GUARDS, Guard

errors = Console(stderr=True)


def main(
    only: Annotated[str, typer.Option(help="Only guards with these words in their name.")] = "",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table for the documentation.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="How many guards are tried at once.")] = (
        os.cpu_count() or 2
    ),
) -> None:
    """Cut each guard out of a copy of the source. Fails if any can be removed unnoticed."""
    guards = [guard for guard in GUARDS if only in guard.name]
    try:
        verdicts = _play(guards, jobs)
    except GuardsAreNotReady as unready:
        errors.print(
            f"The named tests must pass before anything is cut out:\n{unready}", markup=False
        )
        raise typer.Exit(2) from None
    if markdown:
        print(as_markdown(verdicts))
    else:
        Console().print(_table(verdicts))
    unnoticed = [verdict for verdict in verdicts if verdict.problem]
    for verdict in unnoticed:
        errors.print(f"[red]{verdict.guard.name}[/] can be removed unnoticed:")
        errors.print(verdict.problem, markup=False)
    errors.print(f"{len(verdicts) - len(unnoticed)} of {len(verdicts)} guards are guarded.")
    raise typer.Exit(1 if unnoticed else 0)


def _play(guards: list[Guard], jobs: int) -> list[Verdict]:
    """In the order of the list, whichever comes first."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    with (
        Progress(*columns, console=errors) as progress,
        EmbeddedServers.temporary() as servers,
        migrated(servers.urls) as template,
        ThreadPoolExecutor(jobs) as pool,
    ):
        spare_the_disk(servers.urls)
        told = progress.add_task("all tests, nothing cut out", total=len(guards))
        with Workshop.open(guards, servers.urls, template, jobs=jobs) as workshop:
            played = {pool.submit(workshop.play, guard): guard for guard in guards}
            for future in as_completed(played):
                progress.update(told, advance=1, description=f"without: {played[future].name}")
            return [future.result() for future in played]


def _table(verdicts: list[Verdict]) -> Table:
    table = Table("guard")
    table.add_column("test", overflow="fold")
    table.add_column("red")
    for verdict in verdicts:
        guard = verdict.guard
        for number, test in enumerate(guard.tests):
            name = guard.name if number == 0 else ""
            table.add_row(name, test, "yes" if test in verdict.reds else "[red]NO[/]")
    return table


def as_markdown(verdicts: list[Verdict]) -> str:
    """Guard → test, with what it protects and where it stands."""
    rows = ["| guard | what it protects | cut out of | goes red |", "|---|---|---|---|"]
    for verdict in verdicts:
        guard = verdict.guard
        tests = "<br>".join(f"`{test}`" for test in guard.tests)
        rows.append(f"| {guard.name} | {guard.protects} | `{guard.file_in(ROOT)}` | {tests} |")
    return "\n".join(rows)


if __name__ == "__main__":
    typer.run(main)
