"""Settings: from arguments first, then the environment (`PERENNIAL_…`). Read when asked, never at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.errors import SettingsError

if TYPE_CHECKING:
    from orchestrator.addresses import DatabaseAddress


__all__ = ["Settings", "SettingsError", "with_psycopg"]


class Settings(BaseSettings):
    """Where the servers are, and how patient the fleet is.

    Every field is `PERENNIAL_<NAME>`; `database_schema` is `PERENNIAL_SCHEMA`.
    """

    model_config = SettingsConfigDict(
        env_prefix="PERENNIAL_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # it may be a URL with a password
        validate_by_name=True,
        validate_by_alias=True,
    )

    database_url: SecretStr | None = Field(
        None, description="Postgres, as a SQLAlchemy or libpq URL."
    )
    database_pooler: Literal["session", "transaction"] | None = Field(
        None,
        description="What lends sessions to us, where a pooler stands before Postgres. Found out, if not set.",
    )
    database_schema: str = Field(
        "perennial",
        validation_alias="PERENNIAL_SCHEMA",
        description="The schema of Postgres that the record is in. Two apps on one database need two.",
    )
    broker_url: SecretStr | None = Field(
        None, description="Celery's broker; Redis or Valkey also carries timers."
    )
    namespace: str = Field("perennial", description="Prefix of our keys in Redis.")

    heartbeat_seconds: float = Field(2.0, gt=0, description="A working process says so this often.")
    dead_after_seconds: float = Field(
        6.0, gt=0, description="A working process this silent is dead."
    )
    sweep_seconds: float = Field(
        2.0, gt=0, description="How often a worker looks for what was left undone."
    )
    relay_after_seconds: float = Field(
        5.0, gt=0, description="An unclaimed handoff is sent again after this."
    )
    timer_grace_seconds: float = Field(
        2.0, gt=0, description="A timer this late is fired without its message."
    )
    timeout_grace_seconds: float = Field(
        10.0, ge=0, description="After a stage's timeout, for Celery to end it."
    )
    horizon_seconds: float = Field(
        6 * 3600.0, gt=0, description="Timers due within this are in Redis's index."
    )
    eager_seconds: float = Field(
        0.25,
        ge=0,
        validation_alias=AliasChoices("PERENNIAL_EAGER_SECONDS", "PERENNIAL_IN_PLACE_SECONDS"),
        description="So long a worker goes on with runs without messages between their stages. 0: never.",
    )
    async_stages_max: int = Field(
        1000,
        ge=1,
        description="So many `async def` stages a worker's process awaits side by side.",
    )
    child_depth_max: int = Field(
        16,
        ge=1,
        description="So many runs may stand above one: its parent, that one's parent, and so on.",
    )
    batch_size: int = Field(
        500, ge=1, le=10_000, description="Rows of each kind that are done before looking up again."
    )

    @field_validator("database_url", "broker_url", mode="before")
    @classmethod
    def _text_of(cls, given: Any) -> Any:
        """SQLAlchemy's own URLs too; an empty variable names nothing."""
        if hasattr(given, "render_as_string"):
            return given.render_as_string(hide_password=False)
        return None if isinstance(given, str) and not given.strip() else given

    @field_validator("database_schema", mode="before")
    @classmethod
    def _plain_name(cls, given: Any) -> Any:
        """It stands in SQL. An empty variable names none."""
        from orchestrator.store.schema import SCHEMA, checked

        return checked(given.strip() or SCHEMA) if isinstance(given, str) else given

    @property
    def keys_prefix(self) -> str:
        """What our keys in Redis begin with: the index of timers is one record's."""
        is_usual = self.database_schema == type(self).model_fields["database_schema"].default
        # guard: each schema has an index of timers
        return self.namespace if is_usual else f"{self.namespace}:{self.database_schema}"

    def database_address(self) -> DatabaseAddress:
        """Where the database is, for everything that connects. Raises SettingsError."""
        from orchestrator.addresses import DatabaseAddress

        if self.database_url is None:
            message = "no database is named: set PERENNIAL_DATABASE_URL, or run `perennial up` for an embedded one"
            raise SettingsError(message)
        return DatabaseAddress.of(self.database_url.get_secret_value())

    def database(self) -> str:
        """The database's URL, for SQLAlchemy's psycopg driver. Raises SettingsError."""
        return self.database_address().url.render_as_string(hide_password=False)

    def broker(self) -> str:
        """The broker's URL, as Celery reads it. Raises SettingsError."""
        from orchestrator.addresses import broker_url

        if self.broker_url is None:
            message = "no broker is named: set PERENNIAL_BROKER_URL, or run `perennial up` for an embedded one"
            raise SettingsError(message)
        return broker_url(self.broker_url.get_secret_value())


def with_psycopg(url: str) -> str:
    """Any Postgres URL, as SQLAlchemy's psycopg driver takes it. Raises SettingsError."""
    from orchestrator.addresses import DatabaseAddress

    return DatabaseAddress.of(url).url.render_as_string(hide_password=False)
