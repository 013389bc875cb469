"""Measure Perennial beside what it replaces; every part is a module that says what it measures.

python -m benchmarks.bench chain steps --quick
"""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.bench import dbos_side, machine, report
from benchmarks.bench.figures import Figure
from benchmarks.bench.options import Options
from orchestrator.embedded import EmbeddedServers

FOLDER = Path(__file__).resolve().parents[2] / ".bench"
ROUNDS, QUICK_ROUNDS = 5, 3
FILE_COLUMNS = 100


class Part(StrEnum):
    """What can be measured, in the order of the performance page."""

    CHAIN = "chain"
    STEPS = "steps"
    START = "start"
    LATENCY = "latency"
    TIMERS = "timers"
    PARKED = "parked"
    RETAINED = "retained"
    SCALING = "scaling"
    ASYNCHRONOUS = "asynchronous"
    MANY = "many"


class Pool(StrEnum):
    """Celery's."""

    SOLO = "solo"
    PREFORK = "prefork"
    THREADS = "threads"
    GEVENT = "gevent"


def main(
    parts: Annotated[list[Part] | None, typer.Argument(help="What to measure; none: all.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, few rounds.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help=f"Of each; {ROUNDS}, or {QUICK_ROUNDS} if quick.")
    ] = None,
    pool: Annotated[Pool, typer.Option(help="Of the workers.")] = Pool.SOLO,
    runs: Annotated[int | None, typer.Option(min=1, help="In place of a part's size.")] = None,
    workers: Annotated[list[int] | None, typer.Option(help="Only with so many workers.")] = None,
    side: Annotated[
        list[str] | None, typer.Option(help="Only this side (safe, celery, …); may be said again.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="For logs and what is compared with.")] = FOLDER,
    json_path: Annotated[Path | None, typer.Option("--json", help="Keep all figures here.")] = None,
) -> None:
    """Measure, and say what is met and what falls short."""
    console, output = Console(stderr=True), Console()
    if not output.is_terminal:
        output.width = FILE_COLUMNS
    options = Options(
        rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
        quick=quick,
        folder=folder,
        console=console,
        pool=pool,
        runs=runs,
        worker_counts=tuple(workers) if workers else (1, 2),
        sides=tuple(side or ()),
    )
    with EmbeddedServers.temporary() as servers:
        about = machine.describe(servers)
    for name, value in about.items():
        console.print(f"[dim]{name}: {value}[/]", highlight=False, soft_wrap=True)
    figures: list[Figure] = []
    for part in parts or list(Part):
        console.rule(part)
        found = import_module(f"benchmarks.bench.part_{part}").measure(options)
        figures += found
        output.print(report.table_of(part, found))
        if json_path is not None:
            about["dbos"] = dbos_side.version_of_dbos(options)
            report.write_json(
                json_path, about, figures, rounds=options.rounds, quick=quick, pool=pool
            )
    missed = [figure.name for figure in figures if figure.is_met is False]
    if missed:
        console.print(f"not met: {'; '.join(missed)}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
