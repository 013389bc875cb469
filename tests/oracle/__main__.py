"""The command: `python -m tests.oracle`, or `make oracle`."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sqlalchemy import make_url

from orchestrator.testing.databases import fresh_database
from tests.harness import Database
from tests.oracle.adversary import Theatre
from tests.oracle.operators import EVENTS
from tests.oracle.programs import Family, Instruction, parts_of

SHOWN_MAX = 20


def main(
    seeds: Annotated[int, typer.Option(help="How many.")] = 1000,
    first: Annotated[int, typer.Option("--from", help="The first of them.")] = 1,
    seed: Annotated[int | None, typer.Option(help="This one alone, told step by step.")] = None,
    family: Annotated[
        str, typer.Option(help="Of which programs: first, wide, deep, or all, one after the other.")
    ] = "all",
) -> None:
    """Play random programs on a fleet that has everything go wrong, and hold each run against its prediction.

    Exit code 1 if anything contradicts one.
    """
    logging.disable(logging.CRITICAL)  # lost workers would tell of themselves
    console = Console()
    chosen = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    families: tuple[Family, ...] = get_args(Family)
    if family != "all":
        if family not in families:
            raise typer.BadParameter(f"{family!r} is none of {', '.join(families)}, all")
        families = tuple(each for each in families if each == family)
    bad: dict[tuple[Family, int], tuple[str, ...]] = {}
    parts: dict[Family, Counter[str]] = {each: Counter() for each in families}
    ends: dict[Family, Counter[str]] = {each: Counter() for each in families}
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
        bar = progress.add_task("seeds", total=len(chosen) * len(families))
        with Theatre(database) as theatre:
            for of, each in ((of, each) for of in families for each in chosen):
                play = theatre.play(each, family=of)
                for run in play.runs:
                    parts[of].update(part.kind for part in parts_of(run.program.body))
                    ends[of][run.end] += 1
                runs += len(play.runs)
                repeats += sum(run.verdict.repeats for run in play.runs)
                losses += sum(run.verdict.losses for run in play.runs)
                operated.update({verb: play.done[verb] for verb in (*EVENTS, "edit")})
                if play.contradictions:
                    bad[of, each] = tuple(play.contradictions)
                if seed is not None:
                    progress.console.print("\n".join(play.log), markup=False)
                progress.update(bar, advance=1, description=f"seeds, {len(bad)} bad")
        database.close()
    kinds = [str(each.model_fields["kind"].default) for each in _instructions()]
    table = Table("what the programs held", *families, title="")
    for kind in kinds:
        table.add_row(kind, *(str(parts[of][kind]) for of in families))
    table.add_section()
    for end in sorted({end for of in families for end in ends[of]}):
        table.add_row(f"runs that were {end}", *(str(ends[of][end]) for of in families))
    console.print(table)
    missing = [kind for kind in kinds if not any(parts[of][kind] for of in families)]
    if missing and seed is None:
        console.print(f"In no program of these seeds: {', '.join(missing)}.")
    console.print(
        f"{len(chosen)} seeds of {' and '.join(families)}, {runs} runs: {losses} attempts lost and handed out again, "
        f"{repeats} calls again, each cut off in its middle; {len(bad)} seeds contradict."
    )
    console.print(
        "What operators did: " + ", ".join(f"{verb} {times}" for verb, times in operated.items())
    )
    for (of, each), found in list(bad.items())[:SHOWN_MAX]:
        again = f"make oracle SEED={each} FAMILY={of}"
        console.print(f"{of} seed {each}: {found[0]}\n    again: {again}", markup=False)
    raise typer.Exit(1 if bad else 0)


def _instructions() -> tuple[Any, ...]:
    union, _ = get_args(Instruction)
    return get_args(union)


if __name__ == "__main__":
    typer.run(main)
