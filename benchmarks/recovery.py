"""How long until work goes on after a fault: real workers, embedded servers, default settings.

    python benchmarks/recovery.py --rounds 2 --json recovery.json

Each round does each kind of harm once, at a random moment, to a fleet that is in the middle of its
work, and mends it again:

    kill         SIGKILL of a worker with its children      → its activities are running again
    kill-child   SIGKILL of one process of a worker's pool  → its activity is running again
    stall        SIGSTOP of a worker with its children      → its activities are running elsewhere
    flush        FLUSHALL                                   → timers fire, handoffs are taken
    redis        Redis killed, and started empty            → the same, from when it answers
    postgres     Postgres crashed, and started              → runs commit, from when it answers
    cut          every connection to Postgres ended         → runs commit
    cut-idle     the same while nothing runs                → the next run is at work

Workers, Postgres and this program are on one machine, and so all moments are by one clock. The faults
are in `recovery_faults.py`, the fleet in `recovery_fleet.py`, and its Celery app in `recovery_app.py`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from recovery_faults import BOUND_SECONDS, FAULTS, Fault, Samples
from recovery_fleet import WORKERS, Fleet
from rich.console import Console
from rich.table import Table

from orchestrator.embedded import EmbeddedServers

console = Console(stderr=True)


class Pool(StrEnum):
    """Of Celery's pools, the default, and the one without children."""

    PREFORK = "prefork"
    SOLO = "solo"


@dataclass
class Results:
    """Samples by fault and by what was waited for."""

    samples: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, fault: str, samples: Samples) -> None:
        """One round's."""
        for what, seconds in samples.items():
            self.samples[fault, what] += seconds

    def figures(self) -> list[dict[str, Any]]:
        """p50, p99 and the longest of each; a percentile is a sample that was seen (nearest rank)."""
        return [
            {
                "fault": fault,
                "until": what,
                "n": len(seconds),
                "p50_seconds": round(_percentile(seconds, 50), 2),
                "p99_seconds": round(_percentile(seconds, 99), 2),
                "max_seconds": round(max(seconds), 2),
                "bound_seconds": BOUND_SECONDS.get((fault, what)),
            }
            for (fault, what), seconds in self.samples.items()
        ]


def _percentile(seconds: list[float], percent: int) -> float:
    return sorted(seconds)[max(0, math.ceil(len(seconds) * percent / 100) - 1)]


def table_of(figures: list[dict[str, Any]], title: str) -> Table:
    """For people."""
    table = Table(title=title)
    for name in ("fault", "until"):
        table.add_column(name)
    for name in ("n", "p50", "p99", "max", "bound"):
        table.add_column(name, justify="right")
    for row in figures:
        bound = row["bound_seconds"]
        is_missed = bound is not None and row["p99_seconds"] >= bound
        p99 = f"[red]{row['p99_seconds']:.2f} s[/]" if is_missed else f"{row['p99_seconds']:.2f} s"
        table.add_row(
            row["fault"],
            row["until"],
            str(row["n"]),
            f"{row['p50_seconds']:.2f} s",
            p99,
            f"{row['max_seconds']:.2f} s",
            f"{bound:.0f} s" if bound is not None else "",
        )
    return table


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processors": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        **{name: version(name) for name in ("celery", "kombu", "redis", "psycopg")},
    }


def main(
    *,
    rounds: Annotated[int, typer.Option(help="How often each kind of harm is done.")] = 2,
    fault: Annotated[list[Fault] | None, typer.Option(help="Only this; may be said again.")] = None,
    pool: Annotated[Pool, typer.Option(help="Celery's.")] = Pool.PREFORK,
    concurrency: Annotated[int, typer.Option(help="Of each worker.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments of harm.")] = 1,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here too.")
    ] = None,
) -> None:
    """Do harm, and measure how long until work goes on."""
    chosen = {name: FAULTS[name] for name in fault or FAULTS}
    if pool is Pool.SOLO:
        concurrency = 1
        chosen.pop(Fault.KILL_CHILD, None)  # it has none
    chance, results = random.Random(seed), Results()
    about: dict[str, Any] = {
        "pool": pool,
        "concurrency": concurrency,
        "workers": WORKERS,
        "rounds": rounds,
    }
    about |= {"seed": seed, "machine": machine()}
    with (
        EmbeddedServers.temporary() as servers,
        tempfile.TemporaryDirectory(prefix="perennial-recovery-") as folder,
    ):
        fleet = Fleet(servers, Path(folder), pool=pool, concurrency=concurrency)
        try:
            for number in range(rounds):
                for name, harm in chosen.items():
                    console.print(f"round {number + 1} of {rounds}: {name}", end=" ")
                    samples = harm(fleet, chance)
                    results.add(name, samples)
                    worst = {what: f"{max(found):.2f}" for what, found in samples.items()}
                    console.print(str(worst), style="dim", soft_wrap=True)
            about["postgres"] = fleet.rows("SHOW server_version")[0][0]
            about["redis"] = fleet.redis().info("server")["redis_version"]
        finally:
            fleet.close()
    figures = results.figures()
    title = f"{WORKERS} workers, {pool}, -c {concurrency}; default settings; seed {seed}"
    Console().print(table_of(figures, title))
    if json_path is not None:
        json_path.write_text(json.dumps({**about, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
