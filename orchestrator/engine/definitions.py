"""Find the definition that moves a run: in the code this program has, or, declarative, in the record.

A run stands on a revision of its version, and is moved by the content of that revision alone. (docs/adr/0045)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from orchestrator.core.compiled import way_of_compiled
from orchestrator.core.declarative import process_from_spec
from orchestrator.core.definition import Process, Registry
from orchestrator.core.versions.content import is_content_of
from orchestrator.errors import CodeDiffers, UnknownProcess
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import processes
from orchestrator.store.transitions.processes import Revision

READ_AGAIN_SECONDS = 1.0
"""What the record says of a version is read again, where it doesn't help, no more often than this."""


class Definitions:
    """A revision that a run stands on never changes, so what was found once is kept."""

    def __init__(self, registry: Registry, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._monotonic = monotonic
        self._found: dict[tuple[str, int, int], Process] = {}
        self._read: dict[tuple[str, int], tuple[float, Sequence[Revision]]] = {}

    def find(
        self, connection: AnyConnection, name: str, version: int, code_revision: int | None = None
    ) -> Process:
        """The process. `code_revision` None: the code at hand, whichever it is; or what is current in the record.

        Raises UnknownProcess or UnknownStage: another worker may have what this one lacks. CodeDiffers, which is one
        of them: this program's code of the version is not that of the revision.
        """
        own = self._registry.processes.get((name, version))
        if code_revision is None:
            return own or self._in_record(connection, name, version, None)
        found = self._found.get((name, version, code_revision))
        # A program may define anew: what was found to be the content was another object then.
        if found is not None and (found is own or found.kind == "declarative"):
            return found
        found = self._in_record(connection, name, version, code_revision)
        self._found[name, version, code_revision] = found
        return found

    def revisions_at_hand(self, connection: AnyConnection, name: str, version: int) -> list[int]:
        """The revisions of that version whose runs this program can move, as far as its code is concerned."""
        known = self._revisions(connection, name, version, None)
        return sorted(each.code_revision for each in known if self._is_here(name, version, each))

    def current_at_hand(self, connection: AnyConnection, name: str, version: int) -> int | None:
        """The revision that is current, if this program has its content."""
        return next(
            (
                each.code_revision
                for each in self._revisions(connection, name, version, None)
                if each.is_current and self._is_here(name, version, each)
            ),
            None,
        )

    def _is_here(self, name: str, version: int, revision: Revision) -> bool:
        own = self._registry.processes.get((name, version))
        return revision.kind == "declarative" or (own is not None and _is_content(own, revision))

    def _in_record(
        self, connection: AnyConnection, name: str, version: int, code_revision: int | None
    ) -> Process:
        known = self._revisions(connection, name, version, code_revision)
        revision = next(
            (
                each
                for each in known
                if (
                    each.is_current
                    if code_revision is None
                    else each.code_revision == code_revision
                )
            ),
            None,
        )
        own = self._registry.processes.get((name, version))
        if (
            own is not None
            and revision is not None
            and _is_content(own, revision)  # guard: a run is moved by the code that it stands on
        ):
            return own
        if revision is not None and revision.spec is not None:
            return process_from_spec(
                revision.spec, name=name, version=version, registry=self._registry
            )
        if own is None:
            message = f"this worker has no process {name!r} version {version}"
            raise UnknownProcess(message)
        raise CodeDiffers(
            f"this worker's code of {name} version {version} is not what was deployed as its revision"
            f" {code_revision}, on which the run stands. Start workers with that code; or, if this code is meant,"
            f" `perennial deploy --amend`{_why_unknown(own, revision)}"
        )

    def _revisions(
        self, connection: AnyConnection, name: str, version: int, wanted: int | None
    ) -> Sequence[Revision]:
        """Those of the version, as they were read. One that was not among them is new: it is read at once."""
        now = self._monotonic()
        read_at, known = self._read.get((name, version), (-math.inf, ()))
        found = next((each for each in known if each.code_revision == wanted), None)
        is_enough = found is not None and self._is_here(name, version, found)
        is_new = found is None and wanted is not None
        if is_enough or (
            not is_new
            and now - read_at < READ_AGAIN_SECONDS  # guard: revisions are not read at each message
        ):
            return known
        known = tuple(processes.read_revisions(connection, name, version))
        self._read[name, version] = now, known
        return known


def _why_unknown(own: Process, revision: Revision | None) -> str:
    """Whether the two can't be compared at all: a compiled form is of one Python alone."""
    if revision is None or own.fingerprint_by_way.keys() & revision.fingerprints.keys():
        return ""
    if "program" in own.fingerprint_by_way:
        return ""
    return (
        f". This install has no source, and no deployment has recorded the {way_of_compiled()}: deploy once by this"
        " Python with the source, or install the source"
    )


def _is_content(own: Process, revision: Revision) -> bool:
    return is_content_of(own, revision.fingerprint, revision.fingerprints)
