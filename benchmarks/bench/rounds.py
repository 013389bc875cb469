"""Measurements in turns: every round takes each once, and begins with another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.bench.options import Options


def in_turns(
    options: Options, measurements: Mapping[str, Callable[[], float]], *, unit: str
) -> dict[str, list[float]]:
    """The samples of each, a round's in each one's same place."""
    names = [name for name in measurements if options.wants(name)]
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        turn = number % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            options.console.print(f"round {number + 1} of {options.rounds}: {name}", end=" ")
            found = measurements[name]()
            samples[name].append(found)
            options.console.print(f"[dim]{found:,.1f} {unit}[/]", highlight=False)
    return samples
