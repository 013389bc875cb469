"""The command: `python -m tests.oracle`, or `make oracle`."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import make_url

from orchestrator.testing.databases import fresh_database
from tests.harness import Database
from tests.oracle.adversary import Theatre
from tests.oracle.operators import EVENTS

SHOWN_MAX = 20


def main(
    seeds: Annotated[int, typer.Option(help="How many.")] = 1000,
    first: Annotated[int, typer.Option("--from", help="The first of them.")] = 1,
    seed: Annotated[int | None, typer.Option(help="This one alone, told step by step.")] = None,
) -> None:
    """Play random programs on a fleet that has everything go wrong, and hold each run against its prediction.

    Exit code 1 if anything contradicts one.
    """
    logging.disable(logging.CRITICAL)  # lost workers would tell of themselves
    console = Console()
    chosen = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    bad: dict[int, tuple[str, ...]] = {}
    runs = repeats = losses = 0
    operated: Counter[str] = Counter()
    with (
        fresh_database() as url,
        Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as progress,
    ):
        database = Database(str(make_url(url).database), url)
        bar = progress.add_task("seeds", total=len(chosen))
        with Theatre(database) as theatre:
            for each in chosen:
                play = theatre.play(each)
                runs += len(play.runs)
                repeats += sum(run.verdict.repeats for run in play.runs)
                losses += sum(run.verdict.losses for run in play.runs)
                operated.update({verb: play.done[verb] for verb in (*EVENTS, "edit")})
                if play.contradictions:
                    bad[each] = tuple(play.contradictions)
                if seed is not None:
                    progress.console.print("\n".join(play.log), markup=False)
                progress.update(bar, advance=1, description=f"seeds, {len(bad)} bad")
        database.close()
    console.print(
        f"{len(chosen)} seeds, {runs} runs: {losses} attempts lost and handed out again, "
        f"{repeats} calls again, each cut off in its middle; {len(bad)} seeds contradict."
    )
    console.print(
        "What operators did: " + ", ".join(f"{verb} {times}" for verb, times in operated.items())
    )
    for each, found in list(bad.items())[:SHOWN_MAX]:
        console.print(f"seed {each}: {found[0]}\n    again: make oracle SEED={each}", markup=False)
    raise typer.Exit(1 if bad else 0)


if __name__ == "__main__":
    typer.run(main)
