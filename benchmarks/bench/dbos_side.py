"""DBOS, installed beside us and never a dependency of ours, on the same Postgres."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.bench.figures import Figure, ratio
from benchmarks.bench.fleet import Stand
from benchmarks.bench.options import Options

PROGRAM = Path(__file__).with_name("dbos_program.py")
WARM_UP = 20
SHARE = 5
"""DBOS gets one run in so many, or its side would take most of the time; its rate is steady."""
THREADS = 8
"""Of 1, 2, 4, 8, 16 and 32, the best or next to it, for one process and for two."""
ONE_BY_ONE, THREADED = "dbos", "dbos, threads"
END_SECONDS = 20


def install_dbos(options: Options) -> Path:
    """The Python of a virtual environment that has DBOS, made once in the options' folder."""
    folder = options.folder / "dbos"
    python, mark = folder / "bin" / "python", folder / ".installed"
    if not mark.exists():
        options.console.print("installing DBOS into a virtual environment of its own ...")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        quietly = ("--quiet", "--quiet", "--disable-pip-version-check", "--no-input")
        subprocess.run([str(python), "-m", "pip", "install", *quietly, "dbos"], check=True)
        mark.touch()
    return python


def version_of_dbos(options: Options) -> str | None:
    """What was installed, if it was."""
    python = options.folder / "dbos" / "bin" / "python"
    if not python.exists():
        return None
    code = "from importlib.metadata import version; print(version('dbos'))"
    return subprocess.check_output([str(python), "-c", code], text=True).strip()


def sides(
    stand: Stand, python: Path, *, count: int, processes: int
) -> dict[str, Callable[[], float]]:
    """Both ways to run many in a process: one after the other, and handed to its threads all at once."""
    of = partial(
        runs_per_second, stand, python, count=max(count // SHARE, processes), processes=processes
    )
    return {ONE_BY_ONE: partial(of, threads=1), THREADED: partial(of, threads=THREADS)}


def ratios_to_dbos(
    part: str, of: str, samples: Mapping[str, Sequence[float]], *, ours: str, at_least: float
) -> list[Figure]:
    """To the faster of its two ways, which the bound is about, and to a process that has one thread too."""
    mine, one_by_one = samples.get(ours), samples.get(ONE_BY_ONE)
    ways = [samples[way] for way in (ONE_BY_ONE, THREADED) if way in samples]
    best = [max(rates) for rates in zip(*ways, strict=True)]
    return [
        *ratio(part, f"{ours} ÷ dbos, {of}", mine, best, at_least=at_least),
        *ratio(part, f"{ours} ÷ dbos in one thread, {of}", mine, one_by_one),
    ]


def runs_per_second(
    stand: Stand, python: Path, *, count: int, processes: int, threads: int
) -> float:
    """Workflows of five steps, each process its share of them: first start to last completion."""
    with stand.database(is_ours=False) as url, ExitStack() as stack:
        programs = []
        for number in range(processes):  # one after the other: the first one makes the schema
            log = stack.enter_context((stand.logs / f"dbos-{number}.log").open("w"))
            programs.append(
                stack.enter_context(_program(python, url, f"executor-{number}", threads, log))
            )
        for program in programs:
            _ask(program, WARM_UP)
        for program in programs:
            _answer(program)
        stand.administer("CHECKPOINT")
        for program in programs:
            _ask(program, count // processes)
        times = [_answer(program) for program in programs]
    took = max(ended for _, ended in times) - min(began for began, _ in times)
    return (count // processes) * processes / took


@contextmanager
def _program(
    python: Path, url: str, executor: str, threads: int, log: object
) -> Iterator[subprocess.Popen[str]]:
    """One process, launched; it ends when its input does."""
    plain = url.replace("postgresql+psycopg://", "postgresql://")
    with subprocess.Popen(
        [str(python), str(PROGRAM), plain, executor, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    ) as program:
        try:
            line = program.stdout.readline()
            assert line == "ready\n", f"DBOS did not start: see {log.name}"
            yield program
            program.stdin.close()
            program.wait(END_SECONDS)
        finally:
            program.kill()


def _ask(program: subprocess.Popen[str], count: int) -> None:
    program.stdin.write(f"run {count}\n")
    program.stdin.flush()


def _answer(program: subprocess.Popen[str]) -> tuple[float, float]:
    began, ended = program.stdout.readline().split()
    return float(began), float(ended)
