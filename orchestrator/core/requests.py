"""What a flow asks for in one pass: each request gets its place, and is held against what the journal has there.

    requests = Requests(process, registry, journal, run_id=…)
    requests.request(name, key, ask)   the key and the ordinal of what the flow asks for
    requests.refuse_forgotten()        at the end: the journal may hold nothing that wasn't asked for
    requests.parked                    the first contradiction, whatever the flow has made of it

Keys are unique in a run, ordinals in a scope: what stands at the same place must be of the same kind, name and
arguments (DESIGN rule 4). What a migration has put AHEAD has a key and no place yet (docs/adr/0049).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, NoReturn
from uuid import UUID
from zlib import crc32

from orchestrator.core import attributes
from orchestrator.core.argument_digests import different_arguments, digest_of
from orchestrator.core.branches import Branches, TurnAbandoned, TurnOver
from orchestrator.core.checks import check_key, check_name, check_words, composed
from orchestrator.core.contradictions import explain_contradiction
from orchestrator.core.definition import Process, Registry, Stage
from orchestrator.core.gatherings import Block
from orchestrator.core.journal import AHEAD, SCOPE, Activity, is_within
from orchestrator.core.kinds.base import Ask, NewActivity, Request
from orchestrator.core.kinds.origin import ORIGIN_KEY
from orchestrator.core.kinds.patch import key_of, new_patch
from orchestrator.core.kinds.peek import Peek
from orchestrator.core.outcome import NextChapter, Said
from orchestrator.core.unawaited import NEVER_AWAITED, Unawaited
from orchestrator.core.undo_lists import Compensation, UndoList
from orchestrator.core.undoing import Undoing
from orchestrator.errors import BranchCancelled, DefinitionError, UnknownStage

REQUESTS_PER_TURN_MAX = 10_000
"""More activities than this in one run is a runaway loop (DESIGN rule 9)."""


class StageIsMissing(TurnAbandoned):
    """This worker lacks a stage that the flow asks for by name: `stage`."""

    stage = ""


class ContinuedAsNew(BaseException):
    """The flow is over, and begins anew. Not for flow code to catch; its `finally` blocks run, and may await."""


class _Parked(TurnOver):
    """The flow contradicts its journal, or runs away: its run is an incident. Not for flow code to catch."""


class Requests:
    """The recorder of one pass of a flow (`core.pending.Recorder`). `branches` is set before the flow begins."""

    __slots__ = (
        "_draws",
        "_gathers",
        "_names",
        "_ordinals",
        "_places",
        "_process",
        "_registry",
        "_run_id",
        "_said_attributes",
        "_said_status",
        "_salt",
        "ahead",
        "asked",
        "branches",
        "entries",
        "fails_by",
        "is_buffered",
        "next_chapter",
        "opened",
        "parked",
        "parked_as",
        "patches",
        "recorded_scopes",
        "unawaited",
        "undoing",
    )

    branches: Branches
    fails_by: Callable[[BaseException], bool]
    """Whether the flow's run fails, where the flow raises that."""
    is_buffered: Callable[[str], bool]
    """Whether the flow has come past a signal of that name which no wait has taken."""

    def __init__(
        self, process: Process, registry: Registry, journal: Sequence[Activity], *, run_id: UUID
    ) -> None:
        self._process, self._registry, self._run_id = process, registry, run_id
        self._salt = crc32(run_id.bytes)
        self._draws: dict[str, int] = {}
        self.entries: dict[str, Activity] = {}
        """The journal, by key."""
        self.asked: dict[str, Request] = {}
        self.opened: dict[str, NewActivity] = {}
        """What is asked for and the journal lacks."""
        self.unawaited = Unawaited()
        self.undoing = Undoing(self)
        self.parked: str | None = None
        """Why the run is to be parked, whatever its flow makes of that."""
        self.parked_as = "contradiction"
        self.ahead: list[Activity] = []
        """What a migration has left to be asked for later."""
        self.patches: dict[str, bool] = {}
        """What `patched` has answered, by keys."""
        self._places: dict[tuple[str, int], Activity] = {}
        self._said_attributes: dict[str, str] | None = None
        self._said_status: str | None = None
        self.next_chapter: NextChapter | None = None
        self._names: dict[str, int] = {}
        self._ordinals: dict[str, int] = {}
        self._gathers: set[str] = set()
        self.recorded_scopes: set[str] = set()
        """What stands in them isn't asked for any more."""
        for activity in journal:
            if activity.parent_key is None:
                self.enter(activity)
                if activity.kind is SCOPE and activity.is_settled:
                    self.recorded_scopes.add(activity.key)
                if activity.ordinal == AHEAD:
                    self.ahead.append(activity)

    def enter(self, activity: Activity) -> None:
        """What the journal has there."""
        self.entries[activity.key] = activity
        if activity.ordinal != AHEAD:
            self._places[activity.scope, activity.ordinal] = activity

    # -- what flows ask (Recorder) -----------------------------------------------------------

    def request(self, name: str, key: str | None, ask: Ask) -> Request:
        """Give a request its key and ordinal, and hold it against the journal."""
        if self.branches.is_over:
            raise TurnOver
        if len(self.asked) >= REQUESTS_PER_TURN_MAX:
            self._park(
                f"the flow asked for more than {REQUESTS_PER_TURN_MAX} activities: split the work over runs"
            )
        if not ask.is_handed_off:  # else its name was looked at when it was defined
            check_words(name, what="a name", where=self._process.where)
        request = Request(
            self._free_key(key or ask.key_of(name), named=key is not None),
            self.branches.scope,
            self._next_ordinal(),
            ask.kind,
            name,
            ask,
            digest_of(ask, self._salt),
        )
        self.asked[request.key] = request
        self._hold_against_journal(request)
        if request.key not in self.entries and not ask.is_inline:
            self.opened[request.key] = ask.open(request)
        return request

    def patched(self, name: str) -> bool:
        """Whether the run has come here with this code first: marked so, or now. One answer for each name and scope.

        It has not where its journal has, of this scope or one inside it, what the flow hasn't asked for yet.
        """
        if self.branches.is_over:
            raise TurnOver
        scope = self.branches.scope
        key = key_of(name, scope)
        if key not in self.patches:
            check_name("a patch's", name, self._process.where)
            self.patches[key] = (
                key in self.entries
                or not self._has_come_further(scope)  # guard: a patch of a run that is further
            )
            if self.patches[key] and key not in self.entries:
                self.opened[key] = new_patch(name, scope, self.now)
        return self.patches[key]

    def peek(self, name: str) -> bool:
        """Whether a signal of that name is there: as recorded, or as the flow has come to them."""
        if self.branches.is_over:
            raise TurnOver
        found = Peek(self.is_buffered(name), self.now)
        request = self.request(name, None, found)
        entry = self.entries.get(request.key)
        return found.found if entry is None else entry.result is True

    def continue_as_new(self, value: Any, version: int | None) -> NoReturn:
        """The flow begins anew, once what cleans up has ended."""
        if self.branches.is_over:
            raise TurnOver
        if not self.branches.is_in_flow_itself:
            raise DefinitionError(
                "flow.continue_as_new is called in a branch: it ends the flow, and the other branches with it",
                where=self._process.where,
                remedy="Let the branch return, and call it in the flow itself.",
            )
        self.next_chapter = NextChapter(value, version)
        raise ContinuedAsNew

    def say_attributes(self, named: Mapping[str, Any]) -> None:
        """What the run is, from here on; what was said last counts."""
        self._refuse_in_recorded_scope("attributes")
        self._said_attributes = attributes.written(named, self._said_attributes or {})

    def say_status(self, text: str) -> None:
        """How the run is, in a sentence."""
        self._refuse_in_recorded_scope("status")
        self._said_status = attributes.status_text(text)

    def said(self) -> Said | None:
        """All that the flow has said. None: nothing."""
        if self._said_attributes is None and self._said_status is None:
            return None
        texts = self._said_attributes
        return Said(None if texts is None else attributes.as_object(texts), self._said_status)

    def _refuse_in_recorded_scope(self, what: str) -> None:
        """It isn't replayed once it is recorded: then what it says would be lost, or count less than what was said
        before.
        """
        scope = self.branches.scope
        while scope:
            request = self.asked.get(scope)
            # guard: a recorded scope says nothing
            if request is not None and request.kind == SCOPE:
                raise DefinitionError(
                    f"flow.{what} is called inside scope {scope}, whose result is recorded and which isn't replayed",
                    where=self._process.where,
                    remedy="Call it before or after the scope, by what the scope returns.",
                )
            scope = scope.rpartition("/")[0]

    def draw(self, name: str) -> bytes:
        """32 bytes of this run's own, the next of that name in the current scope; the same at each replay."""
        path = f"{self.branches.scope}/{name}"
        count = self._draws[path] = self._draws.get(path, 0) + 1
        origin = self.entries.get(ORIGIN_KEY)
        of = self._run_id if origin is None else UUID(origin.result)
        return sha256(of.bytes + f"{path}#{count}".encode()).digest()

    def _has_come_further(self, scope: str) -> bool:
        inside = f"{scope}/" if scope else ""
        return any(
            entry.key not in self.asked
            and entry.ordinal != AHEAD
            and (entry.scope == scope or entry.scope.startswith(inside))
            and not self._is_in_recorded_scope(entry)
            for entry in self.entries.values()
        )

    def _is_in_recorded_scope(self, entry: Activity) -> bool:
        return bool(self.recorded_scopes) and is_within(entry.scope, self.recorded_scopes)

    def gather_key(self, key: str | None, name: str = "gather") -> str:
        """The key of several branches together: a head for their keys. `name`: where the author gives none."""
        if self.branches.is_over:
            raise TurnOver
        found = self._free_key(key or name, named=key is not None)
        self._gathers.add(found)
        return found

    def enter_block(self, request: Request) -> Block:
        """The code that runs now is under that deadline, until it leaves the block."""
        return self.branches.enter_block(request)

    def leave_block(self, block: Block) -> None:
        """It is under it no longer."""
        self.branches.leave_block(block)

    def enter_scope(self, scope: str) -> str:
        """What the code that runs now asks for stands in that scope. Returns the one of before."""
        return self.branches.enter_scope(scope)

    def leave_scope(self, before: str) -> None:
        """It stands in the one of before again."""
        self.branches.leave_scope(before)

    # -- what can be undone ------------------------------------------------------------------

    @property
    def undo_lists(self) -> dict[str, UndoList]:
        """Of the blocks in which code stands, by its scope."""
        return self.branches.undo_lists

    @property
    def scope(self) -> str:
        """Of the code that runs now."""
        return self.branches.scope

    def note_undoable(self, request: Request, compensation: Compensation) -> None:
        """It can be undone."""
        self.undoing.note(request, compensation)

    def enter_undo(self) -> UndoList:
        """The code that runs now is in a block that is undone when it fails."""
        return self.undoing.enter()

    def leave_undo(self, holds: UndoList) -> None:
        """It is in it no longer."""
        if not self.branches.is_over:
            self.undoing.leave(holds)

    def add_undo(self, holds: UndoList, stage: Stage[..., Any], arguments: dict[str, Any]) -> None:
        """That is to be called when the block fails."""
        self.undoing.add(holds, stage, arguments)

    async def undo(self, holds: UndoList, error: BaseException) -> None:
        """Undo what a block has done that is left by that error. One that would park the run undoes nothing."""
        if self.branches.is_over:
            return
        is_cancelled = issubclass(type(error), BranchCancelled) and not self.undoing.is_given_up
        if is_cancelled or self.fails_by(error):
            await self.branches.undo(self.undoing.undo(holds))

    def stage_of_task(self, task: Any) -> Stage[..., Any] | None:
        """The registered stage that this Celery task was made. None: it is none, or no task."""
        return self._registry.stage_of_task(task)

    def find_stage(self, name: str) -> Stage[..., Any]:
        """The registered stage of that name. Abandons the turn where this worker lacks it."""
        try:
            return self._registry.stage(name)
        except UnknownStage as error:  # guard: a missing stage leaves the run
            missing = StageIsMissing(str(error))
            missing.stage = name
            raise missing from None

    @property
    def now(self) -> datetime:
        """The time of the last fact that the code now running has seen."""
        return self.branches.times[self.branches.scope]

    # -- places in the journal ---------------------------------------------------------------

    def _free_key(self, wanted: str, *, named: bool) -> str:
        wanted = composed(wanted)
        if named:
            check_key(wanted, where=self._process.where)
        scope = self.branches.scope
        path = f"{scope}/{wanted}" if scope else wanted
        count = self._names[path] = self._names.get(path, 0) + 1
        if count == 1 and path not in self.asked and path not in self._gathers:
            return path
        if named:
            raise DefinitionError(
                f"key {path!r} is used twice",
                where=self._process.where,
                remedy="Keys are unique in a run.",
            )
        return f"{path}#{max(count, 2)}"

    def _next_ordinal(self) -> int:
        scope = self.branches.scope
        ordinal = self._ordinals[scope] = self._ordinals.get(scope, 0) + 1
        return ordinal

    def _hold_against_journal(self, request: Request) -> None:
        recorded = self._places.get((request.scope, request.ordinal))
        entry = self.entries.get(request.key)
        if entry is not None and entry.ordinal == AHEAD and recorded is None:
            recorded = entry
        if recorded is None and entry is None:
            return
        if (
            recorded is entry
            and entry is not None
            and (entry.kind, entry.name) == (request.kind, request.name)
        ):
            if entry.asked is None or entry.asked == request.asked:
                return
            if not different_arguments(entry.asked, request.asked):
                return
        self._park(self._diff(request.scope))  # guard: a contradiction parks

    def open_ahead(self) -> list[str]:
        """What a migration has left open for later keeps its deadlines."""
        return [
            entry.key
            for entry in self.ahead
            if not entry.is_settled and entry.key not in self.asked
        ]

    # -- what parks a run --------------------------------------------------------------------

    def refuse_forgotten(self) -> None:
        """Park the run if its journal holds what the flow hasn't asked for."""
        for activity in self.entries.values():
            if (
                activity.key not in self.asked
                and activity.ordinal != AHEAD
                and not self._is_in_recorded_scope(activity)
                and not is_within(activity.scope, self.undoing.scopes)
            ):
                self._park(self._diff(activity.scope))

    def refuse_unawaited(self) -> None:
        """Park the run if its flow has come to its end and forgot to await."""
        if (forgotten := self.unawaited.forgotten(self.branches.abandoned)) is not None:
            self.refuse(NEVER_AWAITED, forgotten)

    def refuse(self, kind: str, why: str) -> NoReturn:
        """Park the run for what its flow does wrong, whatever the flow makes of that."""
        if self.parked is None:
            self.parked_as = kind
        self._park(why)

    def _park(self, why: str) -> NoReturn:
        """From here on the flow asks in vain: the first contradiction is the one to tell."""
        if self.parked is None:
            self.parked = why
        self.branches.is_over = True
        raise _Parked(why)

    def _diff(self, scope: str) -> str:
        return explain_contradiction(scope, self.entries.values(), self.asked.values())
