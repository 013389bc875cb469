"""The trial: what a new user does, done to the letter, before each release. `make try`, or `python -m tests.trial`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.trial.ground import Failed, Ground, NotRun
from tests.trial.parts import PARTS

COLOURS = {"ok": "green", "failed": "red", "not run": "yellow"}


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Which: {', '.join(PARTS)}. All, if none is named.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep environments and logs there.")] = None,
) -> None:
    """Try the product as its users do, part by part. Exit code 1 if any part failed.

    A part whose needs are not on this machine is `not run`, which is not `ok`.
    """
    console = Console()
    chosen = parts or list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        console.print(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
        raise typer.Exit(2)
    outcomes: list[tuple[str, str, float, str]] = []
    with Ground(keep) as ground:
        for name in chosen:
            console.print(f"[bold]{name}[/] …")
            began = time.monotonic()
            outcome, said = _outcome(name, ground)
            ground.end_processes()
            outcomes.append((name, outcome, time.monotonic() - began, said))
            console.print(f"[{COLOURS[outcome]}]{outcome}[/] {name}", highlight=False)
            console.print(said, markup=False, highlight=False)
    table = Table("part", "outcome", "seconds", "what")
    for name, outcome, seconds, said in outcomes:
        first, *_ = said.splitlines() or [""]
        table.add_row(name, f"[{COLOURS[outcome]}]{outcome}[/]", f"{seconds:.0f}", first)
    console.print(table)
    if any(outcome == "failed" for _, outcome, _, _ in outcomes):
        raise typer.Exit(1)


def _outcome(name: str, ground: Ground) -> tuple[str, str]:
    try:
        return "ok", PARTS[name](ground)
    except NotRun as why:
        return "not run", str(why)
    except Failed as why:
        return "failed", str(why)
    except Exception as error:  # noqa: BLE001 - one part must not keep the others from being tried
        return "failed", f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    typer.run(main)
