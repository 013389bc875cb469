"""Which version new runs take, and which take none any more: a team's word, kept with who said it, when and why."""

from __future__ import annotations

from difflib import get_close_matches

from orchestrator.core import codec
from orchestrator.core.checks import check_words, composed
from orchestrator.errors import UnknownProcess, VersionRefused
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import processes, serving

NAMES_MAX = 1_000


def set_current(
    connection: AnyConnection, name: str, version: int | None, *, by: str, reason: str = ""
) -> None:
    """New runs take that version from here on. None: the newest that is served, as by default.

    Raises UnknownProcess, and VersionRefused for a version that is retired.
    """
    by, reason = _said(by, reason)
    if version is None:
        _known(connection, name, None)
        serving.unset_current(connection, name, by=by, reason=reason)
    elif not serving.set_current(connection, name, version, by=by, reason=reason):
        said = _known(connection, name, version)
        raise VersionRefused(
            f"{name} version {version} was retired{_by(said.retired_by)}: no new run takes it. "
            f"`perennial processes retire {name} {version} --undo` takes that back"
        )


def retire(
    connection: AnyConnection,
    name: str,
    version: int,
    *,
    by: str,
    reason: str = "",
    even_the_last: bool = False,
) -> None:
    """No new run takes that version; those that are there go on. It isn't the current one any more, if it was.

    Raises UnknownProcess, and VersionRefused for one that is retired, or the last of its process that isn't.
    """
    by, reason = _said(by, reason)
    if serving.retire(connection, name, version, by=by, reason=reason, even_the_last=even_the_last):
        return
    said = _known(connection, name, version)
    if said.retired_at is not None:
        raise VersionRefused(f"{name} version {version} is retired already{_by(said.retired_by)}")
    raise VersionRefused(
        f"{name} version {version} is the only version that new runs can take: without it `start` refuses "
        f"{name}. Deploy another version first, or say that you mean it (`--force`)"
    )


def unretire(
    connection: AnyConnection, name: str, version: int, *, by: str, reason: str = ""
) -> None:
    """New runs may take that version again. Raises UnknownProcess, and VersionRefused for one that isn't retired."""
    by, reason = _said(by, reason)
    if not serving.unretire(connection, name, version, by=by, reason=reason):
        _known(connection, name, version)
        raise VersionRefused(f"{name} version {version} is not retired")


def _said(by: str, reason: str) -> tuple[str, str]:
    """Who and why, as history keeps them. Raises for words that the record doesn't take."""
    if by:
        check_words(by, what="an operator", where="by")
    return composed(by), codec.readable(reason)


def _known(connection: AnyConnection, name: str, version: int | None) -> serving.Said:
    """What is said of it. Raises UnknownProcess."""
    versions = serving.read_versions(connection, name)
    if not versions:
        meant = get_close_matches(name, processes.names_of(connection, limit=NAMES_MAX), n=1)
        asked = f" Did you mean {meant[0]!r}?" if meant else ""
        raise UnknownProcess(f"no process {name!r} is deployed.{asked}")
    if version is None:
        return next(iter(versions.values()))
    if version not in versions:
        known = ", ".join(map(str, versions))
        raise UnknownProcess(f"{name} version {version} is not deployed; deployed: {known}")
    return versions[version]


def _by(who: str) -> str:
    return f" by {who}" if who else ""
