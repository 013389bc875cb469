"""Settings: from arguments first, then the environment (`PERENNIAL_…`). Read when asked, never at import."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.errors import PerennialError


class SettingsError(PerennialError):
    """A setting is missing or makes no sense."""


class Settings(BaseSettings):
    """Where the servers are, and how patient the fleet is. Every field is `PERENNIAL_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="PERENNIAL_", frozen=True, extra="ignore")

    database_url: SecretStr | None = Field(
        None, description="Postgres, as a SQLAlchemy or libpq URL."
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
    in_place_seconds: float = Field(
        0.25,
        ge=0,
        description="So long a worker goes on with runs without messages between their stages. 0: never.",
    )
    batch_size: int = Field(
        500, ge=1, le=10_000, description="Rows of each kind that are done before looking up again."
    )

    def database(self) -> str:
        """The database's URL, for SQLAlchemy's psycopg driver. Raises SettingsError."""
        if self.database_url is None:
            message = "no database is named: set PERENNIAL_DATABASE_URL, or run `perennial up` for an embedded one"
            raise SettingsError(message)
        return with_psycopg(self.database_url.get_secret_value())

    def broker(self) -> str:
        """The broker's URL. Raises SettingsError."""
        if self.broker_url is None:
            message = "no broker is named: set PERENNIAL_BROKER_URL, or run `perennial up` for an embedded one"
            raise SettingsError(message)
        return self.broker_url.get_secret_value()


def with_psycopg(url: str) -> str:
    """`postgres://` and `postgresql://` URLs, with the driver we use."""
    for prefix in ("postgres://", "postgresql://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url
