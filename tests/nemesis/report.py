"""What came of it. Every run is held against its prediction; what is counted is shown."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from tests.nemesis.load import Load
from tests.nemesis.storm import Storm
from tests.nemesis.theatre import Theatre
from tests.oracle.check import check, read_record
from tests.oracle.predict import predict

SHOWN_MAX = 20
LEFTOVERS = {
    "open runs": "SELECT count(*) FROM perennial.run WHERE closed_at IS NULL",
    "armed timers": "SELECT count(*) FROM perennial.timer WHERE state = 'armed'",
    "unsettled activities": "SELECT count(*) FROM perennial.activity WHERE settled_at IS NULL",
    "open approvals": "SELECT count(*) FROM perennial.approval WHERE state = 'open'",
    "handoffs": "SELECT count(*) FROM perennial.outbox",
}
WARM_UP_SECONDS = 20.0
LIFE_SECONDS_MIN = 60.0


@dataclass
class Memory:
    """MiB of each worker process over its life."""

    samples: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def note(self, at: float, found: dict[str, float]) -> None:
        """One look."""
        for name, mebibytes in found.items():
            self.samples[name].append((at, mebibytes))

    def growths(self) -> list[tuple[str, float, float, float, float]]:
        """Of each long life: who, minutes, MiB once warm, MiB halfway, MiB at its end."""
        found = []
        for name, samples in self.samples.items():
            born, died = samples[0][0], samples[-1][0]
            warm = [sample for sample in samples if sample[0] - born >= WARM_UP_SECONDS]
            if died - born >= LIFE_SECONDS_MIN and warm:
                minutes, (_, halfway) = (died - warm[0][0]) / 60, warm[len(warm) // 2]
                found.append((name, minutes, warm[0][1], halfway, warm[-1][1]))
        return found


@dataclass
class Outcome:
    """All counts; `is_good` is the verdict."""

    runs: int = 0
    stages: int = 0
    steps: int = 0
    repeats: int = 0
    losses: int = 0
    contradictions: list[str] = field(default_factory=list)
    lost_starts: int = 0
    leftovers: dict[str, int] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing twice, nothing stuck."""
        return not (self.contradictions or self.lost_starts or any(self.leftovers.values()))


def judge(theatre: Theatre, load: Load) -> Outcome:
    """Hold every run against its prediction."""
    outcome = Outcome(runs=len(load.ended))
    with theatre.engine.connect() as connection:
        for each in load.ended:
            run_id = each.player.run_id
            record = read_record(theatre.client, connection, run_id)
            prediction = predict(each.program, is_cancelled=each.player.is_cancelled)
            verdict = check(record, prediction, turns_lost=None, attempts_lost=None)
            outcome.repeats += verdict.repeats
            outcome.losses += verdict.losses
            outcome.contradictions += [
                f"run-{each.number} ({run_id}): {words}"
                for words in (*verdict.contradictions, *each.player.troubles)
            ]
        outcome.contradictions += [f"{run_id} is stuck" for run_id in load.open]
        outcome.stages = _count(connection, "kind = 'stage' AND state = 'done'")
        outcome.steps = _count(connection, "kind = 'step' AND state = 'done'")
        outcome.leftovers = {
            what: connection.execute(text(sql)).scalar_one() for what, sql in LEFTOVERS.items()
        }
        known = connection.execute(text("SELECT id FROM perennial.run")).scalars()
        outcome.lost_starts = len({each.player.run_id for each in load.ended} - set[UUID](known))
    return outcome


def show(console: Console, outcome: Outcome, load: Load, memory: Memory, storm: Storm) -> None:
    """For people."""
    table = Table(title="The nemesis", show_header=False)
    table.add_row(
        "faults", ", ".join(f"{name} {count}" for name, count in sorted(storm.counts.items()))
    )
    table.add_row("runs, each as predicted", str(outcome.runs))
    table.add_row("stages done", str(outcome.stages))
    table.add_row("steps done", str(outcome.steps))
    table.add_row("attempts lost and handed out again", str(outcome.losses))
    table.add_row("calls again, each cut off in its middle", str(outcome.repeats))
    table.add_row("workers that ended by themselves", str(storm.theatre.ended_alone))
    table.add_row("incidents resumed by the operator", str(load.incidents))
    table.add_row(
        "calls from outside that failed and were made again", str(load.refused_calls.total())
    )
    table.add_row("runs lost", str(outcome.lost_starts))
    table.add_row(
        "left over", ", ".join(f"{k} {v}" for k, v in outcome.leftovers.items() if v) or "nothing"
    )
    table.add_row("contradictions", str(len(outcome.contradictions)))
    console.print(table)
    for words in outcome.contradictions[:SHOWN_MAX]:
        console.print(f"[red]{words}")
    headings = ("worker process", "minutes", "MiB once warm", "MiB halfway", "MiB at its end")
    lives = Table(*headings, title="Memory")
    for name, *figures in memory.growths():
        lives.add_row(name, *(f"{figure:.1f}" for figure in figures))
    if lives.row_count:
        console.print(lives)


def _count(connection: object, where: str) -> int:
    return int(
        connection.execute(
            text(f"SELECT count(*) FROM perennial.activity WHERE {where}")
        ).scalar_one()  # type: ignore[attr-defined]
    )
