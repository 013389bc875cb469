"""What tables are made of: their metadata, and the columns that many have."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Column, DateTime, Dialect, ForeignKey, MetaData, TypeDecorator, Uuid, text

from orchestrator.store.schema import SCHEMA


class Moment(TypeDecorator[datetime]):
    """A time with its zone, read in UTC, whichever zone a session has."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """As it is handed out."""
        del dialect
        return None if value is None else value.astimezone(UTC)


metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    },
)


def time(name: str, *, nullable: bool = True) -> Column[object]:
    """A moment, or none yet."""
    return Column(name, Moment, nullable=nullable)


def now(name: str) -> Column[object]:
    """The moment at which the row was made, by the record's clock."""
    return Column(name, Moment, nullable=False, server_default=text("perennial.now()"))


def run_id(*, primary_key: bool = False) -> Column[object]:
    """The run that the row is of, and goes with."""
    return Column(
        "run_id",
        Uuid,
        ForeignKey("perennial.run.id", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=False,
    )
