"""What every command shares: where the servers are, how to print, and the door to the Client.

A test passes its own `Session` as typer's context object.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.failures import CommandRefused, NothingToConnectTo

if TYPE_CHECKING:
    from orchestrator.client import Client

DEFAULT_APP = "workers.app"
EMPTY_APP = "orchestrator.cli.empty_app"
DEFAULT_DATA_DIR = Path(".perennial")
URLS_FILE = "urls.json"


def _open_client(database_url: str) -> Client:
    from orchestrator.client import Client

    return Client(database_url)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Session:
    """One call of the command line. `zone` None shows times in the machine's own time zone."""

    database_url: str | None = field(default=None, repr=False)
    broker_url: str | None = field(default=None, repr=False)
    app: str = DEFAULT_APP
    names_app: bool = False
    """Whether the caller has named the app."""
    data_dir: Path = DEFAULT_DATA_DIR
    as_json: bool = False
    run: str | None = None
    """The run that the command is about, as it was typed."""
    open_client: Callable[[str], Client] = field(default=_open_client, repr=False)
    now: Callable[[], datetime] = field(default=_utc_now, repr=False)
    zone: tzinfo | None = None

    def scrubbed(self, text: str) -> str:
        """A text that others have made, without the passwords of this call's servers."""
        from orchestrator.addresses import scrubbed

        running = running_urls(self.data_dir)
        named = (running.get("database_url"), running.get("broker_url"))
        return scrubbed(text, (self.database_url, self.broker_url, *named))

    def client(self) -> Client:
        """A Client of the database named by flag, environment or a running `perennial up`."""
        return self.open_client(self.database())

    def database(self) -> str:
        """The database's URL. Raises NothingToConnectTo."""
        found = self.database_url or running_urls(self.data_dir).get("database_url")
        if not found:
            raise NothingToConnectTo(
                f"no database is named, and no `perennial up` runs on {self.data_dir}. "
                "Start one with `perennial up`, or give --database-url or PERENNIAL_DATABASE_URL."
            )
        return found

    def environment(self) -> dict[str, str]:
        """The URLs as variables, for what reads them there: the Celery app and its workers."""
        from orchestrator.addresses import broker_url

        running = running_urls(self.data_dir) if not self.database_url else {}
        urls = {
            "PERENNIAL_DATABASE_URL": self.database_url or running.get("database_url"),
            "PERENNIAL_BROKER_URL": broker_url(self.broker_url)
            if self.broker_url
            else running.get("broker_url"),
        }
        return {name: url for name, url in urls.items() if url}


def session_of(context: typer.Context) -> Session:
    """The session of this call."""
    return context.ensure_object(Session)


@dataclass(frozen=True)
class RunningUp:
    """What a `perennial up` has written of itself. `began` tells its process from another that has the id later."""

    data_dir: Path
    pid: int
    began: str
    app: str
    files: list[Path]
    queues: list[str] | None
    database_url: str = field(repr=False)
    broker_url: str = field(repr=False)


def running_up(data_dir: Path) -> RunningUp | None:
    """The `perennial up` that runs on this folder, as far as it has got to say so."""
    content = _written_by_up(data_dir)
    try:
        return RunningUp(
            data_dir,
            content["pid"],
            content["began"],
            content["app"],
            [Path(each) for each in content["files"]],
            content["queues"],
            content["database_url"],
            content["broker_url"],
        )
    except KeyError:  # none, or one of an older release
        return None


def running_urls(data_dir: Path) -> dict[str, str]:
    """What a running `perennial up` wrote of itself; empty when none runs there."""
    content = _written_by_up(data_dir)
    return {name: value for name, value in content.items() if isinstance(value, str)}


def _written_by_up(data_dir: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((data_dir / URLS_FILE).read_text(encoding="utf-8"))
        os.kill(int(content["pid"]), 0)
    except PermissionError:  # another user's process: alive
        return content
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return content


def os_user() -> str:
    """Who is at the keyboard, as the record will name them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid-{os.getuid()}"


def read_json(text: str, *, what: str) -> Any:
    """JSON given as text, as `@file`, or as `-` for standard input. Raises CommandRefused."""
    source = what
    if text == "-":
        source, text = "standard input", typer.get_text_stream("stdin").read()
    elif text.startswith("@"):
        source = text[1:]
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CommandRefused(f"{what}: can't read {source}: {reason}") from None
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise CommandRefused(
            f"{source}: not JSON: {error}. Objects look like '{{\"days\": 3}}', a plain string "
            "like '\"yes\"'; @file reads a file and - reads standard input."
        ) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def examples(*lines: str, json_shape: str = "") -> str:
    """The foot of a command's --help: lines to copy, and the shape that --json prints."""
    shown = ["[bold]Examples[/bold]", *(f"[cyan]$ {_escape(line)}[/cyan]" for line in lines)]
    if json_shape:
        shown.append(f"[bold]--json[/bold] prints {_escape(json_shape)}")
    return "\n\n".join(shown)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _remember_json(context: typer.Context, value: bool) -> bool:
    session_of(context).as_json |= value
    return value


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document (ISO 8601 times); errors too, on stderr.",
        callback=_remember_json,
        is_eager=True,
    ),
]


def _remember_app(context: typer.Context, value: str | None) -> str | None:
    if value:
        session = session_of(context)
        session.app, session.names_app = value, True
    return value


App = Annotated[
    str | None,
    typer.Option(
        "--app",
        "-A",
        metavar="MODULE:APP",
        help="The Celery app that has the stages.",
        show_default="PERENNIAL_APP, else workers.app",
        callback=_remember_app,
    ),
]


def _note_run(context: typer.Context, value: str) -> str:
    session_of(context).run = value
    return value


def _note_run_if_given(context: typer.Context, value: str | None) -> str | None:
    return None if value is None else _note_run(context, value)


Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The run's id or its business key.",
        show_default=False,
        callback=_note_run,
    ),
]
RunOrQuery = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="The run's id or its business key; without it, the runs that the options mean.",
        show_default=False,
        callback=_note_run_if_given,
    ),
]
By = Annotated[
    str, typer.Option("--by", metavar="WHO", show_default="your user name", help="Who says so.")
]
