"""Figures, for people and for a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.bench.figures import Figure

TABLE_DIGITS = 4


def table_of(part: str, figures: Sequence[Figure]) -> Table:
    """One part's."""
    table = Table(title=part, title_justify="left")
    table.add_column("figure")
    for name in ("median", "spread", "bound"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for figure in figures:
        low, high = figure.spread
        style = {True: "green", False: "red", None: ""}[figure.is_met]
        name = f"{figure.name}\n[dim]{figure.note}[/]" if figure.note else figure.name
        table.add_row(
            name,
            f"{_short(figure.median)} {figure.unit}",
            f"{_short(low)} … {_short(high)}",
            _bound(figure),
            f"[{style}]{figure.verdict}[/]" if style else "",
        )
    return table


def write_json(
    path: Path, machine: dict[str, Any], figures: Sequence[Figure], **about: Any
) -> None:
    """Everything that was measured, with what it was measured on."""
    content = {
        **about,
        "machine": machine,
        "figures": [figure.as_json() for figure in figures],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def _short(number: float) -> str:
    """Four digits are more than a benchmark knows."""
    if abs(number) >= 10 ** (TABLE_DIGITS - 1):
        return f"{number:,.0f}"
    return f"{number:.{TABLE_DIGITS - 1}g}"


def _bound(figure: Figure) -> str:
    if figure.at_least is not None:
        return f"≥ {_short(figure.at_least)}"
    return f"≤ {_short(figure.at_most)}" if figure.at_most is not None else ""
