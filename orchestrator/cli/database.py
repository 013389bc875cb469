"""`perennial db`: the record's tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.addresses import masked
from orchestrator.cli.failures import ExitCode
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import Json, examples, session_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

commands = typer.Typer(
    no_args_is_help=True,
    help="The record's tables: make, upgrade, check. They are in schema PERENNIAL_SCHEMA, else `perennial`.",
)


@commands.command(
    epilog=examples(
        "perennial --database-url postgresql+psycopg://app@db/app db upgrade",
        json_shape='{"before", "after"}: revisions; before is null in an empty database',
    )
)
def upgrade(context: typer.Context, _json: Json = False) -> None:
    """Bring the tables to this release. Safe to run twice, and while workers work."""
    from orchestrator.store.schema import migrate

    session = session_of(context)
    url = session.database()
    with engine_of(url) as engine:
        before = migrate.current(engine)
        after = migrate.upgrade(engine)
    told = (
        f"is at {after}: nothing to do"
        if before == after
        else f"went from {before or 'nothing'} to {after}"
    )
    Printer(session).emit(
        {"before": before, "after": after}, lambda: text(f"{masked(url)}{_where()} {told}")
    )


@commands.command(
    epilog=examples(
        "perennial db current",
        json_shape='{"current", "head"}; current is null in an empty database',
    )
)
def current(context: typer.Context, _json: Json = False) -> None:
    """The revision the tables are at."""
    _compare(context)


@commands.command(
    epilog=examples("perennial db check && deploy-workers", json_shape='{"current", "head"}')
)
def check(context: typer.Context, _json: Json = False) -> None:
    """Exit 1 unless the tables are at this release's revision."""
    if not _compare(context):
        printer = Printer(session_of(context))
        if not printer.as_json:
            printer.note("`perennial db upgrade` brings them there.", "yellow")
        raise typer.Exit(ExitCode.REFUSED)


@commands.command(
    epilog=examples(
        "perennial db grants shop | psql --set ON_ERROR_STOP=1",
        json_shape='{"role", "statements"}',
    )
)
def grants(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="The role of workers and clients.")],
    _json: Json = False,
) -> None:
    """Print the least rights that a worker or a client needs, as SQL for the owner of the tables."""
    from orchestrator.store.schema.rights import grants_of

    statements = grants_of(role, _schema())
    Printer(session_of(context)).emit(
        {"role": role, "statements": statements},
        lambda: text("\n".join(f"{statement};" for statement in statements)),
    )


def _compare(context: typer.Context) -> bool:
    from orchestrator.store.schema import migrate

    session = session_of(context)
    with engine_of(session.database()) as engine:
        now, head = migrate.current(engine), migrate.head()
    told = (f"at {now}" if now else "there are no tables yet") + _where()
    Printer(session).emit(
        {"current": now, "head": head},
        lambda: text(told if now == head else f"{told}; this release needs {head}"),
    )
    return now == head


def _schema() -> str:
    from orchestrator.settings import Settings

    return Settings().database_schema


def _where() -> str:
    """Said where it isn't the usual one."""
    from orchestrator.store.schema import SCHEMA

    schema = _schema()
    return "" if schema == SCHEMA else f" (schema {schema})"


@contextmanager
def engine_of(database_url: str) -> Iterator[Engine]:
    """An engine for one command's few statements, in the schema that is set."""
    from sqlalchemy import NullPool

    from orchestrator.addresses import DatabaseAddress
    from orchestrator.store.schema import options_in

    engine = DatabaseAddress.of(database_url).engine(
        poolclass=NullPool, execution_options=options_in(_schema())
    )
    try:
        yield engine
    finally:
        engine.dispose()
