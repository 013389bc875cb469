"""`client.processes`: what may be started."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.core.checks import check_sought
from orchestrator.core.definition import Process
from orchestrator.core.versions.plans import Plan, read_plan
from orchestrator.core.views import DeployedVersion, ProcessEvent
from orchestrator.engine.check import Checked, check
from orchestrator.engine.context import EngineContext
from orchestrator.engine.deploy import Deployed
from orchestrator.engine.deploy import deploy as deploy_definitions
from orchestrator.engine.operations import amend, versions
from orchestrator.engine.operations import migrate as migrations
from orchestrator.engine.operations.amend import Amended, Amendment, Others
from orchestrator.engine.operations.migrate import (
    AppliedMigration,
    MigrationPreview,
)
from orchestrator.engine.operations.propose import MigrationProposal, propose
from orchestrator.engine.operations.undo_migration import UndoneMigration, undo
from orchestrator.engine.start import Starts
from orchestrator.errors import ProcessChanged, StalePreview
from orchestrator.store.reads.deployments import deployed_versions, history_of_process


class Processes:
    """The definitions in the record."""

    def __init__(self, context: EngineContext, starts: Starts) -> None:
        self._context, self._starts = context, starts

    def deploy(self, *processes: Process, by: str = "") -> list[Deployed]:
        """Record definitions, all or none. Raises ProcessChanged where a version has other content."""
        try:
            with self._context.transaction() as connection:
                deployed = deploy_definitions(connection, processes, by=by)
        except ProcessChanged as refusal:
            told = amend.in_a_sentence(self._context, processes, refusal.where)
            raise ProcessChanged(
                refusal.problem, where=refusal.where, remedy=f"{refusal.remedy} {told}".strip()
            ) from None
        self._starts.learn(processes)
        return deployed

    def list(self, process: str | None = None) -> list[DeployedVersion]:
        """The versions that are deployed: open runs by revision, who serves them, and which one new runs take."""
        check_sought(process, what="the process of a list")
        with self._context.reading() as connection:
            return deployed_versions(connection, process)

    def history(self, process: str, *, limit: int = 100) -> Sequence[ProcessEvent]:
        """What was deployed, amended, set as current and retired of a process, by whom and why: the newest first."""
        check_sought(process, what="the process of a history")
        with self._context.reading() as connection:
            return history_of_process(connection, process, limit=limit)

    def set_current(
        self, process: str, version: int | None, *, by: str = "", reason: str = ""
    ) -> None:
        """New runs take that version. None: the newest that a living worker can run, as by default.

        Raises UnknownProcess, and VersionRefused for a version that is retired.
        """
        check_sought(process, what="set_current")
        with self._context.connection() as connection:
            versions.set_current(connection, process, version, by=by, reason=reason)

    def retire(
        self,
        process: str,
        version: int,
        *,
        even_the_last: bool = False,
        by: str = "",
        reason: str = "",
    ) -> None:
        """No new run takes that version; those that are there go on, as long as a worker has its code.

        Raises UnknownProcess, and VersionRefused for one that is retired, or is the only one that isn't.
        """
        check_sought(process, what="retire")
        with self._context.connection() as connection:
            versions.retire(
                connection, process, version, by=by, reason=reason, even_the_last=even_the_last
            )

    def unretire(self, process: str, version: int, *, by: str = "", reason: str = "") -> None:
        """New runs may take it again. Raises UnknownProcess, and VersionRefused for one that isn't retired."""
        check_sought(process, what="unretire")
        with self._context.connection() as connection:
            versions.unretire(connection, process, version, by=by, reason=reason)

    def check(
        self,
        *candidates: Process,
        process: str | None = None,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> Checked:
        """Replay all open runs against the code of this program, and say what would become of each. Writes nothing.

        `candidates`: definitions to check in place of those that are registered or deployed. `process`: runs of
        this process alone. `progress` is called with how many runs have been checked so far.
        """
        return check(self._context, candidates, process=process, progress=progress)

    # -- migration ---------------------------------------------------------------------------

    def propose_migration(
        self,
        process: str,
        *candidates: Process,
        from_version: int,
        to: int,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> MigrationProposal:
        """A plan drawn from two versions and from how open runs stand, to be read and edited. Writes nothing.

        `candidates`: definitions in place of those that are registered or deployed. Raises UnknownProcess.
        """
        return propose(
            self._context,
            process,
            from_version=from_version,
            to=to,
            candidates=candidates,
            progress=progress,
        )

    def preview_migration(
        self, plan: Plan | str, *, progress: Callable[[int], None] = lambda _count: None
    ) -> MigrationPreview:
        """What a plan (or its text) would do with each open run of its version, by the code of this program.

        Writes nothing. `progress` is called with how many runs were looked at. Raises DefinitionError, UnknownProcess.
        """
        return migrations.preview(self._context, _plan(plan), progress=progress)

    def migrate(
        self,
        plan: Plan | str,
        seen: MigrationPreview | str,
        *,
        by: str = "",
        reason: str = "",
        progress: Callable[[int], None] = lambda _count: None,
    ) -> AppliedMigration:
        """Move the runs of a preview (`seen`, or its digest) to the plan's version, each in one transaction.

        Whoever is stopped calls it again, with the same digest. Raises StalePreview, UnknownProcess, CodeDiffers.
        """
        return migrations.apply(
            self._context, _plan(plan), seen, by=by, reason=reason, progress=progress
        )

    def undo_migration(
        self,
        plan: Plan | str,
        *,
        by: str = "",
        reason: str = "",
        progress: Callable[[int], None] = lambda _count: None,
    ) -> UndoneMigration:
        """Move back the runs that a plan (or its id) has moved, and that have made no step since.

        Raises PerennialError: it has moved none.
        """
        plan_id = plan if isinstance(plan, str) else plan.id
        return undo(self._context, plan_id, by=by, reason=reason, progress=progress)

    # -- amendment ---------------------------------------------------------------------------

    def needs_amendment(self, process: Process) -> bool:
        """Whether runs have used its version with other content, or open ones stand on an earlier revision of it."""
        return amend.is_due(self._context, process)

    def preview_amendment(
        self,
        process: Process,
        *,
        others: str = Others.STAY,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> Amendment:
        """What an amendment of its version by this process would do with each open run. Writes nothing.

        `others`: what becomes of runs that can't go on with it. "stay": they stand on the revision that they have,
        and workers with that code move them. "park": they are incidents. Raises UnknownProcess: it isn't deployed.
        """
        return amend.preview(self._context, process, others=Others(others), progress=progress)

    def amend(
        self,
        process: Process,
        *,
        shown: Amendment | None = None,
        digest: str | None = None,
        others: str = Others.STAY,
        by: str = "",
        reason: str = "",
        progress: Callable[[int], None] = lambda _count: None,
    ) -> Amended:
        """Make this process a revision of its version, and move the open runs that go on with it.

        `shown`: the preview that was confirmed; or its `digest`, which must be what a preview says now. Without
        either, what it says now is done. Called again after a crash, it goes on where it was. Raises StalePreview,
        UnknownProcess.
        """
        if shown is None:
            shown = self.preview_amendment(process, others=others)
            if digest is not None and digest != shown.digest:  # guard: what was confirmed is done
                raise StalePreview(
                    f"stale preview: what would happen now has the digest {shown.digest}, not {digest}. Look again,"
                    " then confirm that",
                    digest=shown.digest,
                )
        done = amend.apply(self._context, process, shown, by=by, reason=reason, progress=progress)
        self._starts.learn([process])
        return done


def _plan(plan: Plan | str) -> Plan:
    return read_plan(plan) if isinstance(plan, str) else plan
