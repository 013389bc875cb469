"""What is said of a figure."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks.bench import report
from benchmarks.bench.figures import Figure, percentile


def figure(*samples: float, **bound: float) -> Figure:
    return Figure("chain", "a rate", "runs/s", samples, **bound)


@pytest.mark.parametrize(
    ("found", "is_met", "verdict"),
    [
        (figure(1, 2, 9), None, ""),
        (figure(1, 2, 9, at_least=2), True, "met"),
        (figure(1, 2, 9, at_least=4), False, "50% short"),
        (figure(1, 2, 9, at_most=1), False, "100% over"),
        (figure(1, 2, 9, at_most=2), True, "met"),
    ],
)
def test_a_figure_is_its_median_and_keeps_its_bound_or_says_by_how_much_not(found, is_met, verdict):
    assert (found.median, found.spread) == (2, (1, 9))
    assert (found.is_met, found.verdict) == (is_met, verdict)


def test_a_percentile_is_a_value_that_was_seen():
    values = list(range(1, 101))
    assert [percentile(values, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7], 50) == 7


def test_figures_are_shown_and_kept(tmp_path):
    found = [figure(1, 2, 9, at_least=4)]
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(report.table_of("chain", found))
    shown = console.export_text()
    assert all(word in shown for word in ("a rate", "2 runs/s", "1 … 9", "≥ 4", "50% short"))
    report.write_json(tmp_path / "kept", {"processors": 2}, found, rounds=3)
    kept = json.loads((tmp_path / "kept").read_text())
    assert (kept["rounds"], kept["machine"]["processors"]) == (3, 2)
    assert kept["figures"][0]["samples"] == [1, 2, 9]
