"""`perennial up`: servers, tables, processes, workers and Flower by one command."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.addresses import masked
from orchestrator.cli.definitions import read_processes
from orchestrator.cli.failures import CommandRefused, FleetFailed
from orchestrator.cli.leftovers import began, end_leftovers, forget, remember
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import (
    DEFAULT_DATA_DIR,
    EMPTY_APP,
    URLS_FILE,
    App,
    Json,
    Session,
    examples,
    os_user,
    session_of,
)
from orchestrator.cli.supervisor import (
    OUR_SIGNALS,
    RELOAD,
    Program,
    Supervisor,
    stop_signals,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from rich.console import RenderableType

    from orchestrator.core.definition import Process

commands = typer.Typer()

FLOWER_PORT = 5555
FLOWER_COLUMNS = "name,args,state,result,kwargs,received,runtime,uuid,worker"
"""Of its list. A run has its business key where arguments stand, who can act until when, and what it waits for."""
WORKERS_MAX = 64
READY_SECONDS_MAX = 60


@dataclass(frozen=True)
class Fleet:
    """What `up` runs, as it tells it. `queues`: None where the app itself says what to consume."""

    app: Any
    app_name: str
    database_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    flower_port: int | None
    processes: Sequence[tuple[str, int]]
    queues: Sequence[str] | None
    data_dir: Path
    files: Sequence[Path] = ()
    example: str | None = None
    """An input of the first process, to copy."""

    @property
    def flower_url(self) -> str | None:
        """Where Flower is; this machine's own address only."""
        return f"http://127.0.0.1:{self.flower_port}" if self.flower_port else None

    @property
    def flower_password_file(self) -> Path | None:
        """What Flower asks for; the file is its owner's alone."""
        from orchestrator.embedded.private import FLOWER_PASSWORD_FILE

        return self.data_dir / FLOWER_PASSWORD_FILE if self.flower_port else None

    def document(self, pids: dict[str, int]) -> dict[str, Any]:
        """The --json form; passwords are in the file of mode 0600 alone."""
        from orchestrator.embedded.private import FLOWER_USER

        return {
            "database_url": masked(self.database_url),
            "broker_url": masked(self.broker_url),
            "flower_url": self.flower_url,
            "flower_user": FLOWER_USER if self.flower_port else None,
            "flower_password_file": self.flower_password_file,
            "app": self.app_name,
            "processes": [{"name": name, "version": version} for name, version in self.processes],
            "pids": pids,
            "urls_file": str(self.data_dir / URLS_FILE),
        }


@commands.command(
    rich_help_panel="Try it",
    epilog=examples(
        "perennial up",
        "perennial up --app shop.celery",
        "perennial up --app shop.celery processes/access-request.yaml",
        "perennial up --workers 4 --data-dir /var/tmp/perennial",
        "perennial --database-url postgresql+psycopg://app@db/app --broker-url redis://redis/0 up",
        json_shape='once all is ready: {"database_url", "broker_url", "flower_url", "flower_user", '
        '"flower_password_file", "app", "processes", "pids", "urls_file"}',
    ),
)
def up(
    context: typer.Context,
    *,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="YAML processes to deploy.", show_default=False),
    ] = None,
    _app: App = None,
    workers: Annotated[
        int, typer.Option(min=1, max=WORKERS_MAX, help="Celery worker processes.")
    ] = 2,
    concurrency: Annotated[int, typer.Option(min=1, help="Pool processes of each worker.")] = 2,
    flower: Annotated[bool, typer.Option(help="Run Flower too.")] = True,
    flower_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Flower's port.", show_default=f"{FLOWER_PORT}, or a free one"
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where data and logs stay between starts.",
            show_default=".perennial",
            file_okay=False,
        ),
    ] = None,
    _json: Json = False,
) -> None:
    """Run everything here: Postgres, Valkey, workers and Flower. Ctrl-C stops it, the data stays.

    The app's processes are deployed, and those of each YAML FILE. Without an app there are no stages yet, and all
    else runs. With --database-url and
    --broker-url (or their variables) it uses those servers and starts none.
    """
    session = session_of(context)
    if bool(session.database_url) != bool(session.broker_url):
        missing = "--broker-url" if session.database_url else "--database-url"
        raise CommandRefused(
            f"{missing} is missing: name both servers, or neither to have them started here."
        )
    session.data_dir = data_dir or session.data_dir
    printer = Printer(session)
    supervisor = Supervisor(
        partial(printer.note, style="yellow"), partial(remember, session.data_dir)
    )
    with ExitStack() as cleanup:
        cleanup.enter_context(stop_signals(_nothing))  # left last: nothing cuts the cleanup short
        with stop_signals(_interrupt):
            _own(session.data_dir, cleanup)
            end_leftovers(session.data_dir, partial(printer.note, style="yellow"))
            _take_app_there_is(session, printer)
            _find_servers(session, printer, cleanup)
            fleet = _prepare(
                session, files or [], _flower_port(flower_port, printer, wanted=flower)
            )
            give_broker(fleet.app, fleet.broker_url, partial(printer.note, style="yellow"))
            with stop_signals(supervisor.ask_to_stop):
                try:
                    for program in _programs(fleet, workers=workers, concurrency=concurrency):
                        supervisor.start(program)
                    names = _worker_names(workers)
                    signal.signal(RELOAD, lambda *_: supervisor.ask_to_start_anew(names))
                    _write_urls(fleet, cleanup)
                    _tell_when_ready(fleet, workers, supervisor, printer)
                    supervisor.watch()
                finally:
                    printer.note("Stopping ... (once more to kill)", "dim")
                    supervisor.stop()
                    forget(session.data_dir)
    printer.note(f"Stopped. What there is to keep is in {session.data_dir}.", "dim")


def _interrupt() -> None:
    raise KeyboardInterrupt


def _nothing() -> None:
    pass


def _own(data_dir: Path, cleanup: ExitStack) -> None:
    """One `up` for a data directory: a kernel lock, which a crash lets go."""
    from orchestrator.embedded.claim import DirectoryClaim
    from orchestrator.embedded.private import private_directory

    try:
        private_directory(data_dir / "logs")
        (data_dir / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise FleetFailed(
            f"can't make the data directory {data_dir}: {error.strerror}. Give another --data-dir."
        ) from None
    claim = DirectoryClaim(data_dir)
    if not claim.take():
        raise FleetFailed(
            f"a `perennial up` runs on {data_dir} already, and `perennial ps` finds it. "
            "Stop it first, or give this one its own --data-dir."
        )
    cleanup.callback(claim.release)


def _take_app_there_is(session: Session, printer: Printer) -> None:
    """Where nobody has named an app, and the usual one isn't here: one without stages, for a first look."""
    from orchestrator.cli.apps import is_there, look_here

    look_here()
    if not session.names_app and not is_there(session.app):
        session.app, session.names_app = EMPTY_APP, True
        printer.note(
            "No app is named, so there are no stages yet: perennial up --app module:app", "yellow"
        )


def _find_servers(session: Session, printer: Printer, cleanup: ExitStack) -> None:
    """The servers that the session names, or embedded ones that it names from now on."""
    if not session.database_url:
        from orchestrator.embedded import EmbeddedServers

        printer.note("Starting Postgres and Valkey ...", "dim")
        servers = EmbeddedServers(session.data_dir)
        cleanup.callback(servers.stop)  # before the start: a signal must not leave one behind
        urls = servers.start()
        session.database_url, session.broker_url = urls.database_url, urls.broker_url


def _prepare(session: Session, files: Sequence[Path], flower_port: int | None) -> Fleet:
    """Tables, then the app and its processes."""
    from orchestrator.cli.apps import consumed_queues, load_app, registered_processes
    from orchestrator.cli.database import engine_of
    from orchestrator.cli.example import example_input
    from orchestrator.store.schema import migrate

    database_url = session.database()
    with engine_of(database_url) as engine:
        migrate.upgrade(engine)
    app = load_app(session)
    processes = [*read_processes(files), *registered_processes()]
    if processes:
        with session.client() as client:
            client.processes.deploy(*processes, by=os_user())
    return Fleet(
        app=app,
        app_name=session.app,
        database_url=database_url,
        broker_url=session.broker_url or "",
        flower_port=flower_port,
        processes=[(process.name, process.version) for process in processes],
        queues=consumed_queues(app, processes),
        data_dir=session.data_dir,
        files=files,
        example=example_input(_newest(processes)) if processes else None,
    )


def give_broker(app: Celery, url: str, note: Callable[[str], None]) -> None:
    """An app that names no broker gets this one, as Celery itself reads it: else it would look for RabbitMQ here.

    One that names another keeps it, and that is said: its workers hear nothing of what is started here.
    """
    own = app.conf.broker_url
    if not own:
        os.environ["CELERY_BROKER_URL"] = url
    elif own != url:
        note(
            f"The app's own broker is {masked(own)}, and its workers listen there, not to {masked(url)}. To use"
            " the one that runs here: broker=os.environ.get('PERENNIAL_BROKER_URL')"
        )


def _newest(processes: Sequence[Process]) -> Process:
    """Of the first one's name: what `start` starts."""
    same = [process for process in processes if process.name == processes[0].name]
    return max(same, key=lambda process: process.version)


def _flower_port(asked: int | None, printer: Printer, *, wanted: bool) -> int | None:
    """The port asked for, which must be free; else the usual one, or any. None: no Flower."""
    if not wanted:
        return None
    if find_spec("flower") is None:
        printer.note(
            "Flower is not installed, so there is none: pip install 'celery-perennial[flower]'.",
            "yellow",
        )
        return None
    for port in (asked,) if asked else (FLOWER_PORT, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise FleetFailed(f"port {asked} is taken. Give another --flower-port, or --no-flower.")


def _programs(fleet: Fleet, *, workers: int, concurrency: int) -> list[Program]:
    """The very lines one would type, with the URLs in the environment and so in no process list."""
    celery = (sys.executable, "-m", "celery", "-A", fleet.app_name)
    options = ["--concurrency", str(concurrency), "--loglevel", "INFO", "--task-events"]
    if fleet.queues is not None:
        options += ["--queues", ",".join(fleet.queues)]
    logs = fleet.data_dir / "logs"
    programs = [
        Program(
            name,
            (*celery, "worker", "--hostname", f"{name}@%h", *options),
            os.environ,
            logs / f"{name}.log",
        )
        for name in _worker_names(workers)
    ]
    if fleet.flower_port:
        arguments = (
            *celery,
            "flower",
            "--address=127.0.0.1",
            f"--port={fleet.flower_port}",
            f"--tasks-columns={FLOWER_COLUMNS}",
        )
        from orchestrator.embedded.private import flower_login

        log = logs / "flower.log"
        environment = {**os.environ, **flower_login(fleet.data_dir)}
        programs.append(Program("flower", arguments, environment, log, essential=False))
    return programs


def _worker_names(workers: int) -> list[str]:
    return [f"worker-{number}" for number in range(1, workers + 1)]


def _write_urls(fleet: Fleet, cleanup: ExitStack) -> None:
    """For the other commands; of mode 0600 since a real server's URL holds a password."""
    path = fleet.data_dir / URLS_FILE
    draft = path.with_suffix(f".{os.getpid()}")
    content = {
        "database_url": fleet.database_url,
        "broker_url": fleet.broker_url,
        "flower_url": fleet.flower_url,
        "app": fleet.app_name,
        "pid": os.getpid(),
        "began": began(os.getpid()),
        "files": [str(file.absolute()) for file in fleet.files],
        "queues": fleet.queues,
    }
    with os.fdopen(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        json.dump(content, file, indent=2)
    draft.replace(path)
    cleanup.callback(path.unlink, missing_ok=True)


def _tell_when_ready(fleet: Fleet, workers: int, supervisor: Supervisor, printer: Printer) -> None:
    """Tell what runs where, once every worker has given a sign of life (or none more will)."""

    def tell(answered: int) -> None:
        pids = supervisor.pids
        if answered == workers:
            supervisor.has_settled()
        printer.emit(fleet.document(pids), lambda: _page(fleet, pids, answered))

    def listen() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)  # they belong to the main thread
        supervisor.call(partial(tell, _await_workers(fleet.app, workers)))

    Thread(target=listen, name="await-workers", daemon=True).start()


def _await_workers(app: Any, workers: int) -> int:
    """Ask until all have answered; how many did."""
    missing = {f"{name}@{socket.gethostname()}" for name in _worker_names(workers)}
    for _ in range(READY_SECONDS_MAX):
        with suppress(Exception):  # the broker may be gone: the workers' logs say so
            asked = sorted(missing)
            for reply in app.control.ping(destination=asked, timeout=1, limit=len(asked)):
                missing -= reply.keys()
        if not missing:
            break
    return workers - len(missing)


def _page(fleet: Fleet, pids: dict[str, int], answered: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from orchestrator.cli.wording import command
    from orchestrator.embedded.private import FLOWER_USER

    workers = [f"{name} (pid {pid})" for name, pid in pids.items() if name != "flower"]
    silent = f"; {answered} of {len(workers)} answer so far" if answered < len(workers) else ""
    deployed = ", ".join(f"{name} v{version}" for name, version in fleet.processes)
    facts = {
        "database": masked(fleet.database_url),
        "broker": masked(fleet.broker_url),
        "Flower": (
            f"{fleet.flower_url}  (user {FLOWER_USER}, password in {fleet.flower_password_file})"
            if fleet.flower_port
            else "off"
        ),
        "workers": ", ".join(workers) + silent,
        "processes": deployed or "none yet: perennial deploy FILE",
        "logs": str(fleet.data_dir / "logs"),
    }
    is_default = fleet.data_dir == DEFAULT_DATA_DIR
    perennial = "perennial" if is_default else f"perennial --data-dir {quote(str(fleet.data_dir))}"
    process = quote(fleet.processes[0][0]) if fleet.processes else "PROCESS"
    given = f" --input {quote(fleet.example)}" if fleet.example is not None else ""
    return Group(
        text("Perennial is up.", "bold green") + text("  Ctrl-C stops all of it.", "dim"),
        Text(),
        *(command(value, label=f"  {name:<11}", style="") for name, value in facts.items()),
        Text(),
        Text("Next, in another terminal:", "dim"),
        command(f"  {perennial} start {process} --key first{given}"),
        command(f"  {perennial} show first"),
        command(f"  {perennial} ps"),
        command(f"  {perennial} approvals"),
        command(f"  {perennial} reload"),
    )
