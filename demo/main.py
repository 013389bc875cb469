"""`run_demo`: read the log, ask the oracle, let people and fleet at it, compare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo.failures import DemoFailed
from demo.fleet import Child, DemoFleet
from demo.log import ReadLog, read_log
from demo.oracle import expect
from demo.plan import (
    GAVE_UP_STATUS,
    LATEST_HOURS,
    PYTHON_PROCESS,
    PlannedRun,
    TakenDecision,
    plan_runs,
    read_lines,
    write_lines,
)
from demo.record import read_record
from demo.reference import Directory, declarative_process, directory
from demo.report import Report, log_line
from demo.verdict import judge
from orchestrator.addresses import DatabaseAddress
from orchestrator.client import Client
from orchestrator.core.declarative import load_process
from orchestrator.core.definition import default_registry
from orchestrator.core.run import RunStatus
from orchestrator.embedded import ServerUrls
from orchestrator.embedded.private import FLOWER_PASSWORD_FILE, FLOWER_USER
from orchestrator.settings import Settings
from orchestrator.store.schema import migrate, options_in

Fault = Literal["kill-worker", "flush-redis"]

SAMPLE_HOUR_SECONDS = 0.25
LOG_HOUR_SECONDS = 0.5

ARRIVALS_PER_SECOND = 15
ARRIVAL_SECONDS_MIN = 8.0

GRACE_SECONDS = 60.0
"""How much longer than people and deadlines need the demo may take before it gives up."""

LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What may be chosen.

    `log`: an XES log, None for the bundled sample. `hour_seconds`: how long an hour of the log
    takes, None for 0.25 (sample) or 0.5. `faults`: done to the fleet mid-run, in order. `keep`:
    leave everything running, with Flower, until Ctrl-C. `data_dir`: the demo works in
    `<data_dir>/demo`, and empties that first. The two URLs go together, and name an empty database.
    """

    log: Path | None = None
    hour_seconds: float | None = None
    workers: int = 2
    concurrency: int = 2
    database_url: str | None = field(default=None, repr=False)
    broker_url: str | None = field(default=None, repr=False)
    faults: tuple[Fault, ...] = ()
    keep: bool = False
    json: bool = False
    data_dir: Path = Path(".perennial")

    @property
    def urls(self) -> ServerUrls | None:
        """The given servers; None for embedded ones. Raises DemoFailed where one URL is missing."""
        if self.database_url and self.broker_url:
            return ServerUrls(self.database_url, self.broker_url)
        if self.database_url or self.broker_url:
            raise DemoFailed("give both a database URL and a broker URL, or neither")
        return None

    @property
    def pace(self) -> float:
        """The hour_seconds in force."""
        if self.hour_seconds is not None:
            return self.hour_seconds
        return SAMPLE_HOUR_SECONDS if self.log is None else LOG_HOUR_SECONDS


def run_demo(options: DemoOptions) -> int:
    """Run the demo and print what came of it: 0 if every run that can be judged ended as it must.

    Raises LogError, DemoFailed or EmbeddedServerError.
    """
    console = Console(stderr=options.json, markup=False, highlight=False)
    log = read_log(options.log)
    console.print(log_line(log), style="dim")
    fleet = DemoFleet(
        options.data_dir / "demo",
        urls=options.urls,
        concurrency=options.concurrency,
        flower=options.keep,
    )
    if "flush-redis" in options.faults and not fleet.embedded:
        raise DemoFailed(
            "the demo empties no Redis but its own: leave the URLs away for that fault"
        )
    with _terminated_as_interrupted(), fleet:
        report = _replay(options, console, fleet, log)
        document = json.dumps(report.document(), indent=2)
        (fleet.home / "report.json").write_text(document, encoding="utf-8")
        if options.json:
            print(document)
        else:
            console.print(report.pages())
        _tell_where_to_look(options, console, fleet)
        if options.keep:
            with suppress(KeyboardInterrupt):
                Event().wait()
    return 0 if report.verdict.agrees else 1


def _replay(options: DemoOptions, console: Console, fleet: DemoFleet, log: ReadLog) -> Report:
    console.print(f"Starting the servers and {options.workers} workers ...", style="dim")
    urls = fleet.start_servers()
    with _environment(urls), Client(urls.database_url) as client:
        services = _prepare(client, urls, hour_seconds=options.pace)
        fleet.start_workers(options.workers)
        plan = plan_runs(log.requests, hour_seconds=options.pace)
        taken_path = fleet.home / "taken.jsonl"
        people = _send_people(fleet, plan, taken_path, hour_seconds=options.pace)
        with _progress(console, shown=not options.json) as progress:
            faults = _watch(client, fleet, people, progress, options.faults, total=len(plan))
        expectations = [expect(request) for request in log.requests]
        record = read_record(client, services.effects())
    taken = list(read_lines(taken_path, TakenDecision))
    return Report.of(
        log,
        expectations,
        record,
        taken,
        judge(expectations, record, taken, hour_seconds=options.pace),
        hour_seconds=options.pace,
        faults=faults,
    )


def _prepare(client: Client, urls: ServerUrls, *, hour_seconds: float) -> Directory:
    """Tables, the stub directory, and both processes with their durations scaled."""
    engine = DatabaseAddress.of(urls.database_url).engine(
        execution_options=options_in(Settings().database_schema)
    )
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()
    if client.list(limit=1):
        raise DemoFailed("the database holds runs already; give the demo an empty one of its own")
    services = directory()  # and with it the stages that the process names
    text = declarative_process(hour_seconds=hour_seconds)
    declarative = load_process(text, source="access-request.yaml", registry=default_registry)
    client.processes.deploy(declarative, default_registry.process(PYTHON_PROCESS), by="demo")
    return services


def _send_people(
    fleet: DemoFleet, plan: Sequence[PlannedRun], taken: Path, *, hour_seconds: float
) -> Child:
    plan_path = fleet.home / "plan.jsonl"
    write_lines(plan_path, plan)
    arrival_seconds = max(ARRIVAL_SECONDS_MIN, len(plan) / ARRIVALS_PER_SECOND)
    give_up_after_seconds = arrival_seconds + 2 * LATEST_HOURS * hour_seconds + GRACE_SECONDS
    return fleet.start_people(
        *("--plan", str(plan_path), "--taken", str(taken)),
        *("--arrival-seconds", str(arrival_seconds)),
        *("--give-up-after-seconds", str(give_up_after_seconds)),
    )


def _watch(
    client: Client,
    fleet: DemoFleet,
    people: Child,
    progress: Progress,
    faults: Sequence[Fault],
    *,
    total: int,
) -> tuple[str, ...]:
    """Until the people go home. Faults come evenly over the runs' ends; returns what they did."""
    runs = progress.add_task("", total=total)
    due = [(total * nth / (len(faults) + 1), fault) for nth, fault in enumerate(faults, start=1)]
    done: list[str] = []
    is_over = False
    while not is_over:
        is_over = _has_ended(people, within_seconds=LOOK_SECONDS)
        fleet.check_alive()
        counts = client.operations.counts()
        closed = sum(number for status, number in counts.items() if status.is_closed)
        progress.update(runs, completed=closed, description=_described(counts))
        while due and closed >= due[0][0] and not is_over:
            _, fault = due.pop(0)
            done.append(fleet.kill_worker() if fault == "kill-worker" else fleet.flush_redis())
            progress.console.print(done[-1], style="yellow")
    if people.process.returncode not in (0, GAVE_UP_STATUS):
        raise people.failure(f"ended with status {people.process.returncode}")
    if people.process.returncode == GAVE_UP_STATUS:
        progress.console.print("Time was up before every run had ended.", style="red")
    elif due:
        raise DemoFailed(
            f"the runs ended before it was time to {due[0][1]}; give --hour-seconds more"
        )
    return tuple(done)


def _has_ended(child: Child, *, within_seconds: float) -> bool:
    try:
        child.process.wait(within_seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _progress(console: Console, *, shown: bool) -> Progress:
    return Progress(
        TextColumn("runs closed"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", style="dim"),
        console=console,
        disable=not shown,
    )


def _described(counts: Mapping[RunStatus, int]) -> str:
    """`312 waiting, 4 running`: where the open runs are."""
    return ", ".join(
        f"{number} {status}" for status, number in counts.items() if number and not status.is_closed
    )


def _tell_where_to_look(options: DemoOptions, console: Console, fleet: DemoFleet) -> None:
    console.print(
        f"\nThe whole report, the plan, what people did, and the logs: {fleet.home}", style="dim"
    )
    if options.keep:
        login = f"  (user {FLOWER_USER}, password in {fleet.home / FLOWER_PASSWORD_FILE})"
        told = (
            f"{fleet.flower_url}{login}" if fleet.flower_url else "not installed (extra `flower`)"
        )
        console.print(f"Flower: {told}", soft_wrap=True)
        database_url = fleet.urls.database_url if fleet.embedded else "..."
        console.print(
            f"The record: PERENNIAL_DATABASE_URL='{database_url}' perennial ps", soft_wrap=True
        )
        console.print("All of it runs until Ctrl-C.")
    elif fleet.embedded:
        again = f"perennial up --data-dir {fleet.home}"
        console.print(
            f"The record, with Flower: `{again}`; or run the demo with --keep.", style="dim"
        )


@contextmanager
def _environment(urls: ServerUrls) -> Iterator[None]:
    """The servers as settings: what `tasks/` reads them from."""
    settings = {
        "PERENNIAL_DATABASE_URL": urls.database_url,
        "PERENNIAL_BROKER_URL": urls.broker_url,
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that it stops what it started."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
