"""What is compared runs, counts all that was started, and is put side by side. Nothing looks at a rate."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from sqlalchemy import text

from benchmarks.bench import dbos_side, part_chain, part_scaling, part_start, part_steps, throughput
from benchmarks.bench.fleet import Stand
from benchmarks.bench.rounds import in_turns


def test_celerys_side_ends_every_chain_it_has_started(stand, monkeypatch):
    monkeypatch.setattr(throughput, "WARM_UP", 2)
    assert throughput.plain_per_second(stand, count=3, workers=1) > 0
    assert stand.redis().llen("bench:done") == 3


STUB = """
import dataclasses
import sys
print("ready", flush=True)
for line in sys.stdin:
    count = int(line.split()[1])
    print(100 if sys.argv[2] == "executor-0" else 101, 102 if count < 20 else 200, flush=True)
"""


def test_dboss_side_adds_up_its_processes(stand, monkeypatch, tmp_path):
    """Spoken with a stand-in: DBOS itself is installed by whoever measures."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(dbos_side, "PROGRAM", stub)
    found = dbos_side.runs_per_second(stand, Path(sys.executable), count=10, processes=2, threads=1)
    assert found == pytest.approx(10 / 2)


def test_rounds_take_each_side_once_and_begin_with_another(options, monkeypatch):
    told: list[str] = []
    sides = {name: lambda name=name: told.append(name) or len(told) for name in "abc"}
    samples = in_turns(dataclasses.replace(options, rounds=2), sides, unit="")
    assert told == list("abcbca")
    assert samples == {"a": [1, 6], "b": [2, 4], "c": [3, 5]}


def test_a_side_that_is_not_asked_for_is_left_out(options):
    sides = {name: lambda: 1.0 for name in ("safe", "celery", "dbos")}
    samples = in_turns(dataclasses.replace(options, sides=("safe", "dbos")), sides, unit="")
    assert samples == {"safe": [1.0], "dbos": [1.0]}
    names = [figure.name for figure in part_steps.compare(samples, "1 × solo")]
    assert names == [
        "safe, 1 × solo",
        "dbos, 1 × solo",
        "safe ÷ dbos, 1 × solo",
        "safe ÷ dbos in one thread, 1 × solo",
    ]


def test_a_ratio_is_of_one_round():
    samples = {
        "safe": [10.0, 20.0],
        "celery": [20.0, 10.0],
        "dedicated": [30.0, 30.0],
        "dbos": [1.0, 2.0],
        "dbos, threads": [2.0, 1.0],
    }
    found = {figure.name: figure for figure in part_chain.compare(samples, "1 × solo")}
    assert found["safe ÷ celery, 1 × solo"].samples == (0.5, 2.0)
    assert found["safe ÷ celery, 1 × solo"].is_met
    assert found["dedicated ÷ dbos, 1 × solo"].samples == (15.0, 15.0)


def test_each_way_to_start_has_started_all_it_was_asked_to(stand, monkeypatch):
    counted: list[tuple[int, int]] = []

    @contextmanager
    def counting(stand: Stand):
        with producer(stand) as (client, engine):
            yield client, engine
            with engine.connect() as connection:
                runs = connection.execute(text("SELECT count(*) FROM perennial.run")).scalar_one()
                orders = connection.execute(text("SELECT count(*) FROM orders")).scalar_one()
            counted.append((runs, orders))

    producer = part_start._producer
    monkeypatch.setattr(part_start, "_producer", counting)
    monkeypatch.setattr(part_start, "WARM_UP", 1)
    rates = [way() for way in part_start._ways(stand, 3).values()]
    assert all(rate > 0 for rate in rates)
    assert counted == [(4, 0), (4, 0), (4, 0), (4, 0), (1, 3), (31, 0), (4, 3), (1, 3)]


def test_every_fleet_is_measured_on_both_sides_and_compared(options, monkeypatch):
    asked: list[tuple[str, int, str, int, tuple[str, ...]]] = []

    def rate(side: str, *, workers: int, pool: str, concurrency: int, arguments: tuple[str, ...]):
        asked.append((side, workers, pool, concurrency, arguments))
        return 10.0 * workers

    monkeypatch.setattr(part_scaling, "find_spec", lambda _: None)
    monkeypatch.setattr(part_scaling.Stand, "open", lambda _: nullcontext())
    monkeypatch.setattr(
        throughput, "perennial_per_second", lambda _s, _p, *, count, **fleet: rate("ours", **fleet)
    )
    monkeypatch.setattr(
        throughput, "plain_per_second", lambda _s, *, count, **fleet: rate("theirs", **fleet)
    )
    two = dataclasses.replace(options, worker_counts=(1, 2))
    found = {figure.name: figure.samples for figure in part_scaling.measure(two)}
    assert len(asked) == 2 * (3 * 2 + 1)
    assert ("ours", 1, "solo", 1, ("-E",)) in asked
    assert found["perennial ÷ celery, 2 × threads -c 4"] == (1.0,)
    assert found["perennial: 2 workers ÷ 1, solo"] == (2.0,)
    assert found["celery: events on ÷ off"] == (1.0,)
