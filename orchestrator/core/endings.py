"""How a pass over the journal ends, where it doesn't wait: the run completes, fails, or is parked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core import codec
from orchestrator.core.branches import Branches
from orchestrator.core.bugs import WHY_PARKED, explain, line_of
from orchestrator.core.cancellations import Cancellations
from orchestrator.core.definition import Process
from orchestrator.core.ending_early import EarlyEnd
from orchestrator.core.failures import type_of
from orchestrator.core.kinds.base import OUTCOMES, Answer, NewActivity, Request
from orchestrator.core.kinds.cancellation import CANCELLATION_KEY
from orchestrator.core.outcome import (
    ConsumedSignal,
    RunContext,
    SetAsideSignal,
    TurnOutcome,
    done_by,
    error_of_end,
    park,
    waiting_for,
)
from orchestrator.core.pending import FlowCoroutine
from orchestrator.core.run import RunStatus
from orchestrator.errors import BranchCancelled, PayloadError, PayloadMismatch

FLOW_HAS_ENDED = "its flow has ended"


class Endings(Cancellations):
    """A part of a pass."""

    __slots__ = ()

    process: Process
    run: RunContext
    early_end: EarlyEnd | None
    branches: Branches
    consumed: Mapping[str, ConsumedSignal]
    unfit: list[SetAsideSignal]

    def follow_up(self, ended: Answer) -> FlowCoroutine | None:
        """What goes on in the flow's place, now that its own code has ended so: it undoes what is to be undone."""
        undoing, error = self.requests.undoing, ended.error
        is_cancelled = self.early_end is not None
        if not (error is None or self.fails_by(error) or issubclass(type(error), BranchCancelled)):
            return None  # a bug parks the run: nothing is undone for it
        has_failed = error is not None or is_cancelled
        if not (undoing.of_run.entries if has_failed else undoing.let_go):
            return None
        if self.early_end is not None and not self.early_end.undoes:
            return None
        return self._undo_and_end(ended, has_failed=has_failed)

    async def _undo_and_end(self, ended: Answer, *, has_failed: bool) -> Any:
        for request in self.cancel_all(FLOW_HAS_ENDED):
            self.branches.tell_of_cancelled(request)
        undoing = self.requests.undoing
        await undoing.undo(undoing.of_run, only_let_go=not has_failed, ends=has_failed)
        if ended.error is not None:
            raise ended.error
        return ended.value

    def completed(self, value: Any) -> TurnOutcome:
        if self.early_end is not None:
            return self._ended_early(self.early_end, None)
        if self.requests.next_chapter is not None:
            return self.incident(
                "DefinitionError",
                "the flow has caught what flow.continue_as_new raises, and has ended: let it go through (an "
                "`except Exception` does)",
            )
        try:
            output = codec.encode(
                value, self.process.result_type, what=f"result of {self.run.process}"
            )
        except PayloadError as error:
            return self.incident(type(error).__name__, str(error))
        return self._closed(RunStatus.COMPLETED, output=output)

    def continued(self) -> TurnOutcome:
        """The next chapter begins: nothing that this one has opened, and hasn't recorded, is needed any more."""
        if CANCELLATION_KEY in self.entries:  # it has come by now, and there is no next chapter
            end = EarlyEnd.of_result(self.entries[CANCELLATION_KEY].result)
            return self._ended_early(end, None)
        if not self.entries and not self.consumed:  # guard: a chapter awaits something
            return self.incident(
                "DefinitionError",
                f"chapter {self.run.chapter} of the flow continues as new without having awaited anything, and so "
                "would the next one, for ever. Await something before flow.continue_as_new",
            )
        still_open = [
            each for each in self.entries.values() if each.is_open and each.key not in self.consumed
        ]
        children = [each.describe() for each in still_open if each.kind == "child"]
        if children:  # guard: a chapter leaves no child behind
            return self.incident(
                "DefinitionError",
                f"the flow continues as new while {', '.join(children)} is open: the next chapter would not hear "
                "of its end. Await it, or start it by flow.start_child, which nobody waits for",
            )
        still_open.sort(key=lambda each: (each.scope, each.ordinal))
        return TurnOutcome(
            status=RunStatus.RUNNING,
            consumed=tuple(self.consumed.values()),
            set_aside=tuple(self.unfit),
            next_chapter=self.requests.next_chapter,
            cut_short=tuple(each.describe() for each in still_open),
        )

    def ended_by(self, error: BaseException, *, at: str = "") -> TurnOutcome:
        """The run fails. `at`: the line that raised it, of what is no activity's failure."""
        if self.early_end is not None:
            return self._ended_early(self.early_end, error)
        names = {key: entry.name for key, entry in self.entries.items()}
        kept = error_of_end(error, process=self.run.process, names=names.get, at=at)
        return self._closed(RunStatus.FAILED, error=kept, raised=error)

    def _ended_early(self, end: EarlyEnd, error: BaseException | None) -> TurnOutcome:
        """Whatever its clean-up has come to, it ends as it was asked to."""
        return self._closed(end.status, error=end.error_after(error))

    def fails_by(self, error: BaseException) -> bool:
        """Whether the flow fails, where it raises that; else its run is parked, or the error is no end of its."""
        raised = type(error)  # its attributes, `__class__` too, may raise
        return issubclass(raised, OUTCOMES) or (
            self.process.on_error == "fail"
            and issubclass(raised, Exception)
            and not issubclass(raised, PayloadMismatch)
        )

    def ended_by_bug(self, error: BaseException) -> TurnOutcome:
        """The flow has raised what nobody expects of a flow: as its process says. What it can't read is no bug."""
        file = self.process.flow.__code__.co_filename
        is_mismatch = issubclass(type(error), PayloadMismatch)
        if self.process.on_error == "fail" and not is_mismatch:
            return self.ended_by(error, at=line_of(error, file=file))
        return self.incident(
            type_of(error),
            explain(error, file=file),
            raised=error,
            advice="" if is_mismatch else WHY_PARKED,
        )

    def _closed(
        self,
        status: RunStatus,
        *,
        output: str | None = None,
        error: dict[str, Any] | None = None,
        raised: BaseException | None = None,
    ) -> TurnOutcome:
        """The run ends: what it had asked for and nobody needs any more is not opened."""
        if waited := self._waited_for():
            return self._waits_for(waited)
        answered = tuple(activity for activity in self.newly_opened() if activity.is_done_as_made)
        return TurnOutcome(
            status=status,
            opened=answered,
            consumed=tuple(self.consumed.values()),
            set_aside=tuple(self.unfit),
            output=output,
            error=error,
            raised=raised,
        )

    def _waited_for(self) -> list[Request]:
        """What is still open that the end waits for."""
        asked = self.requests.asked.values()
        return [each for each in asked if each.ask.is_waited_for_at_the_end and self._is_open(each)]

    def _is_open(self, request: Request) -> bool:
        entry = self.entries.get(request.key)
        return request.key not in self.dropped and (entry is None or entry.is_open)

    def _waits_for(self, waited: list[Request]) -> TurnOutcome:
        """The flow has come to its end, and its run has not. What else is open is needed no more."""
        keys = {request.key for request in waited}
        for key, request in self.requests.asked.items():
            if key not in keys and self._is_open(request):
                self.dropped[key] = FLOW_HAS_ENDED
        return TurnOutcome(
            status=RunStatus.WAITING,
            opened=tuple(self.newly_opened()),
            consumed=tuple(self.consumed.values()),
            set_aside=tuple(self.unfit),
            cancelled=self.cancelled(),
            unsettled=tuple(keys),
            stage=waited[0].key,
            waiting_for=waiting_for(waited),
            has_ended=True,
        )

    def incident(
        self, kind: str, message: str, *, raised: BaseException | None = None, advice: str = ""
    ) -> TurnOutcome:
        return park(
            self.run,
            tuple(self.entries.values()),
            kind=kind,
            message=message,
            raised=raised,
            advice=advice,
        )

    def newly_opened(self) -> list[NewActivity]:
        """New activities; a wait whose signal was there already is recorded as done."""
        opened = [
            done_by(self.consumed[key], activity) if key in self.consumed else activity
            for key, activity in self.requests.opened.items()
        ]
        return self.without_cancelled(opened) if self.dropped else opened
