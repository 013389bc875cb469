"""The command: `python -m tests.nemesis`, or `make nemesis`."""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.nemesis.faults import FAULTS
from tests.nemesis.load import Load
from tests.nemesis.report import Memory, judge, show
from tests.nemesis.storm import Storm
from tests.nemesis.theatre import Theatre

SETTLE_SECONDS = 180.0
LOOK_SECONDS = 0.5


def main(  # noqa: PLR0917 - typer makes an option of each
    seconds: Annotated[float, typer.Option(help="How long the fleet is hurt.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the faults and of the programs.")] = 1,
    workers: Annotated[int, typer.Option(help="Celery workers.")] = 2,
    pool: Annotated[str, typer.Option(help="Their pool: prefork or solo.")] = "prefork",
    open_runs: Annotated[int, typer.Option(help="So many runs are open at once.")] = 100,
    faults: Annotated[str, typer.Option(help="Which, by commas; or `all`, or `none`.")] = "all",
    keep: Annotated[Path | None, typer.Option(help="Keep the workers' logs there.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the counts there, as JSON.")] = None,
) -> None:
    """Hurt a real fleet under load, then hold every run against what was predicted of it.

    Exit code 1 if anything was lost, done twice, or got stuck. The seed gives the programs and the
    order of the faults; what they meet is the machine's own timing.
    """
    chosen = _chosen(faults)
    console = Console()
    folder = keep or Path(tempfile.mkdtemp(prefix="perennial-nemesis-"))
    folder.mkdir(parents=True, exist_ok=True)
    theatre = Theatre(folder, workers=workers, pool=pool)
    load, memory = Load(theatre, seed=seed, open_max=open_runs), Memory()
    storm = Storm(theatre, chosen, random.Random(seed))
    try:
        for slot in theatre.slots:
            theatre.start(slot)
        load.begin()
        console.print(
            f"seed {seed}, {seconds:.0f} s, faults: {', '.join(chosen) or 'none'}; logs: {folder}"
        )
        _blow(storm, load, memory, seconds, console)
        theatre.heal()
        is_settled = _settle(load, console)
        load.end()
        outcome = judge(theatre, load)
    finally:
        theatre.close()
    show(console, outcome, load, memory, storm)
    if report is not None:
        report.write_text(
            json.dumps(
                {**asdict(outcome), "faults": storm.counts, "seed": seed}, indent=2, default=str
            )
        )
    if not (outcome.is_good and is_settled):
        console.print(f"[red]Again: python -m tests.nemesis --seed {seed} --seconds {seconds:.0f}")
        raise typer.Exit(1)


def _chosen(faults: str) -> list[str]:
    names = {"all": list(FAULTS), "none": []}.get(faults, faults.split(","))
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        message = f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}"
        raise typer.BadParameter(message)
    return names


def _blow(storm: Storm, load: Load, memory: Memory, seconds: float, console: Console) -> None:
    """Hurt for so long, and show how it stands."""
    began = time.monotonic()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        bar = progress.add_task("", total=seconds)
        while (now := time.monotonic()) < began + seconds:
            storm.go_on(now)
            storm.theatre.keep()
            memory.note(now, storm.theatre.memory())
            told = f"{len(load.ended)} runs ended, {len(load.open)} open, {storm.counts.total()} faults"
            progress.update(bar, completed=now - began, description=told)
            storm.theatre.pause(LOOK_SECONDS)
    storm.end()
    for trouble in storm.troubles:
        console.print(f"[yellow]the nemesis stumbled: {trouble}")


def _settle(load: Load, console: Console) -> bool:
    """With everything healed, every run comes to its end. False: some did not in time."""
    give_up_at = time.monotonic() + SETTLE_SECONDS
    with console.status("everything is healed; the rest comes to its end"):
        while load.open and time.monotonic() < give_up_at:
            threading.Event().wait(0.2)
    return not load.open


if __name__ == "__main__":
    typer.run(main)
