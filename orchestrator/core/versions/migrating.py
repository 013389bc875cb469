"""`plan_for`: a run's journal as another version has it, or why there is none. Pure: nothing is called.

1. what the plan maps, removes and takes back is so in the journal
2. the new version's flow is driven over it, by keys alone (trial): each thing gets its new place
3. what the flow didn't come to: it stands ahead, as the plan says, or the run is refused
4. the journal that follows is replayed as any other: no contradiction, and it goes on
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.core import codec
from orchestrator.core.argument_digests import different_arguments
from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.definition import Process, Registry
from orchestrator.core.journal import AHEAD, Activity, ActivityKind, ActivityState
from orchestrator.core.kinds.base import Request
from orchestrator.core.kinds.origin import MARKS
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.replay import take_turn
from orchestrator.core.run import RunStatus
from orchestrator.core.versions import refusals as no
from orchestrator.core.versions.migrated import Migrated, Moved, Standing
from orchestrator.core.versions.plans import RUN, SKIP, Plan, Skip, in_chapter
from orchestrator.core.versions.refusals import Refusal
from orchestrator.core.versions.templates import TemplateUnfit, filled
from orchestrator.core.versions.trial import Trial, perform_nothing, try_on, why_unfit
from orchestrator.core.voting import Rule
from orchestrator.errors import PerennialError

ANOTHER_CALLER = "it was tried, and what it calls sees another idempotency key"

MakeInput = Callable[[Any], Any]
"""What a plan names under `data: {function: …}`: the former input in, the new one out."""


def plan_for(
    plan: Plan,
    run: Standing,
    process: Process,
    *,
    registry: Registry,
    make_input: MakeInput | None = None,
) -> Migrated | Refusal:
    """What the plan makes of that run. `process`: the new version's definition."""
    return _Migration(plan, run, process, registry, make_input).decided()


class _Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


class _Migration:
    def __init__(
        self,
        plan: Plan,
        run: Standing,
        process: Process,
        registry: Registry,
        make_input: MakeInput | None,
    ) -> None:
        self.plan, self.run, self.process, self.registry = plan, run, process, registry
        self.make_input = make_input
        self.former: dict[str, Activity] = {}
        """What the run has of its own, by the new keys."""
        self.old_keys: dict[str, str] = {}
        self.dropped: list[str] = []
        self.changes: list[str] = []

    def decided(self) -> Migrated | Refusal:
        try:
            return self._decide()
        except _Refused as refused:
            return refused.refusal

    def _decide(self) -> Migrated:
        self._refuse_what_may_not_move()
        self._map()
        context = self._with_new_input()
        trial, ahead = self._tried(context)
        moved = [self._moved(trial, entry, ahead) for entry in self._kept()]
        added = list(trial.added.values())
        journal = (*(each.activity for each in moved), *added)
        outcome = self._proved(context, journal)
        differs = [each for each in moved if self._differs(each)]
        has_new_input = context.input != self.run.context.input
        self.changes += [f"{each.describe()} is skipped" for each in added]
        self.changes += ["the input is another one"] if has_new_input else []
        return Migrated(
            journal=journal,
            outcome=outcome,
            input=context.input,
            moved=tuple(self._as_shown(differs, moved, has_new_input=has_new_input)),
            added=tuple(added),
            dropped=tuple(self.dropped),
            has_new_input=has_new_input,
            asks_turn=self._asks_turn(outcome),
            ends=str(outcome.status) if outcome.status.is_closed else "",
            changes=tuple(self.changes),
        )

    # -- who may move ------------------------------------------------------------------------

    def _refuse_what_may_not_move(self) -> None:
        run, plan, context = self.run, self.plan, self.run.context
        if run.status.is_closed:
            raise _Refused(no.RunEnded(f"the run is {run.status}"))
        if (context.process, context.version) != (plan.process, plan.from_version):
            raise _Refused(
                no.OtherVersion(
                    f"the run is of {context.process} version {context.version}, and the plan moves "
                    f"{plan.process} version {plan.from_version}"
                )
            )
        claimed = [each for each in run.journal if each.state is ActivityState.CLAIMED]
        if claimed:
            raise _Refused(
                no.WorkInFlight(f"a worker is at {claimed[0].describe()}", claimed[0].key)
            )
        if run.has_turn_held:
            raise _Refused(no.WorkInFlight("a worker is in the run's turn"))

    # -- the keys ----------------------------------------------------------------------------

    def _map(self) -> None:
        """Give each activity its new key; leave out what is removed."""
        for entry in self.run.journal:
            key = entry.key
            if self.plan.is_removed(key):
                self.dropped.append(key)
                self.changes.append(f"{entry.describe()} is removed")
                continue
            several = self.plan.split(key)
            if several is not None:
                raise _Refused(
                    no.Split(f"{entry.describe()} is mapped to {' and '.join(several)}", key)
                )
            new_key = self.plan.new_key(key)
            other = self.old_keys.get(new_key)
            if other is not None:
                self._refuse_two(new_key, other, key)
            self.former[new_key] = entry
            self.old_keys[new_key] = key

    def _refuse_two(self, new_key: str, one: str, other: str) -> None:
        says = f"{one} and {other} would both be {new_key}"
        both_mapped = self.plan.is_mapped(one) and self.plan.is_mapped(other)
        raise _Refused((no.Merge if both_mapped else no.KeyCollision)(says, new_key))

    def _kept(self) -> list[Activity]:
        """The journal by its new keys, without places."""
        return [
            replace(entry, key=key, scope=self.plan.new_key(entry.scope) if entry.scope else "")
            for key, entry in self.former.items()
        ]

    def _drop(self, key: str, why: str) -> None:
        entry = self.former.pop(key)
        self.dropped.append(self.old_keys.pop(key))
        self.changes.append(f"{entry.describe()} {why}")

    # -- the input ---------------------------------------------------------------------------

    def _with_new_input(self) -> RunContext:
        context, data = self.run.context, self.plan.data
        new = context.input
        try:
            if self.make_input is not None:
                new = self.make_input(new)
            elif data is not None:
                new = filled(data, new)
            if self.process.takes_input and new != context.input:
                what = f"input of {self.process.name} version {self.process.version}"
                new = codec.parse(codec.check_input(new, self.process.input_type, what=what))
        except TemplateUnfit as unfit:
            raise _Refused(no.DataUnfit(str(unfit))) from None
        except PerennialError as unfit:
            raise _Refused(no.DataUnfit(codec.readable(str(unfit)))) from None
        except Exception as error:  # noqa: BLE001 - whatever the plan's function raises
            says = f"the plan's function raised {type(error).__name__} for this run's input"
            raise _Refused(no.DataUnfit(says)) from None
        return replace(context, version=self.process.version, input=new)

    # -- the trial ---------------------------------------------------------------------------

    def _tried(self, context: RunContext) -> tuple[Trial, set[str]]:
        """The flow over the journal, and which keys of it stand ahead."""
        trial = self._try(context)
        leftover = [
            key
            for key, entry in self.former.items()
            if key not in trial.asked and entry.kind not in MARKS
        ]
        new = [
            request
            for key, request in trial.asked.items()
            if key not in self.former and key not in trial.added
        ]
        undecided = [each for each in new if self.plan.insertion(each.key) != RUN]
        if leftover and new:
            if undecided:
                first, behind = undecided[0], self.former[leftover[0]]
                stands = "done" if behind.is_settled else "open"
                says = f"{first.describe()} stands before {behind.describe()}, which is {stands}"
                raise _Refused(no.InsertedBehind(says, first.key))
            self.changes += [f"{each.describe()} is inserted" for each in new]
        ahead: set[str] = set()
        for key in leftover:
            self._leave(key, trial, ahead, is_behind_new=bool(new))
        return trial, ahead

    def _try(self, context: RunContext) -> Trial:
        trial = try_on(
            self.process,
            context,
            self._kept(),
            self.run.signals,
            registry=self.registry,
            may_be_renamed=lambda key: self.plan.is_mapped(self.old_keys.get(key, key)),
            skip_of=self._skip_of,
        )
        if trial.refusal is not None:
            raise _Refused(trial.refusal)
        return trial

    def _skip_of(self, key: str) -> Skip | None:
        insertion = self.plan.insertion(key)
        if insertion == SKIP:
            return Skip(skip=None)
        return insertion if isinstance(insertion, Skip) else None

    def _leave(self, key: str, trial: Trial, ahead: set[str], *, is_behind_new: bool) -> None:
        """What the new flow has not come to: it stands ahead, leaves the journal, or refuses the run."""
        entry, says = self.former[key], self.plan.insertion(key)
        where = f"version {self.process.version}"
        if entry.state is ActivityState.CANCELLED:
            self._drop(key, "was cancelled, and is left out")
        elif says == RUN:
            self._drop(key, "is done again")
        elif entry.is_settled and (says is not None or is_behind_new):
            if isinstance(says, Skip):
                self.former[key] = replace(entry, result=says.skip)
            ahead.add(key)
            self.changes.append(f"{entry.describe()} keeps its result for later")
        elif entry.is_settled and trial.outcome is not None and not trial.outcome.status.is_closed:
            says_so = (
                f"{entry.describe()} is done, and {where} does not ask for it where this run stands"
            )
            raise _Refused(no.MovedAhead(says_so, key))
        elif is_behind_new and _can_be_taken_back(entry):
            self._drop(key, "is taken back, and asked for again later")
        elif is_behind_new and entry.kind != ActivityKind.STAGE:
            ahead.add(key)
        else:
            stands = "done" if entry.is_settled else "open"
            raise _Refused(
                no.NotAsked(f"{entry.describe()} is {stands}, and {where} does not ask for it", key)
            )

    # -- one activity ------------------------------------------------------------------------

    def _moved(self, trial: Trial, entry: Activity, ahead: set[str]) -> Moved:
        old_key = self.old_keys[entry.key]
        if entry.key in ahead or entry.kind in MARKS:
            return Moved(old_key, _without_place(entry, old_key))
        request = trial.asked[entry.key]
        placed = replace(
            entry,
            scope=request.scope,
            ordinal=request.ordinal,
            name=request.name,
            asked=request.asked,
        )
        if entry.state is ActivityState.CANCELLED:
            return Moved(old_key, placed)
        if entry.is_settled:
            self._refuse_other_arguments(old_key, entry, request)
            unfit = why_unfit(request, placed)
            if unfit is not None:
                raise _Refused(unfit)
            return Moved(old_key, placed)
        if request.scope != entry.scope:
            says = (
                f"{entry.describe()} is open, and would come from {_place(entry.scope)} "
                f"to {_place(request.scope)}"
            )
            raise _Refused(no.ScopeChange(says, entry.key))
        return self._open_moved(old_key, entry, placed, request)

    def _refuse_other_arguments(self, old_key: str, entry: Activity, request: Request) -> None:
        """Work that is done was done for what it was given. What people or time have answered, they have answered."""
        if entry.asked is None or not request.ask.is_work:
            return
        others = different_arguments(entry.asked, request.asked)
        if others and not (self.plan.is_kept(old_key) or self.plan.is_kept(entry.key)):
            says = f"{entry.describe()} is done, and would be given another {' and another '.join(others)}"
            raise _Refused(no.OtherArguments(says, entry.key))

    def _open_moved(
        self, old_key: str, entry: Activity, placed: Activity, request: Request
    ) -> Moved:
        others = [] if entry.asked is None else different_arguments(entry.asked, request.asked)
        if request.ask.is_inline or not (others or entry.name != request.name):
            return Moved(old_key, placed)
        try:
            content = request.ask.open(request)
        except PerennialError as error:
            raise _Refused(no.DataUnfit(codec.readable(str(error)), entry.key)) from None
        times = [name for name in others if name in request.ask.timed_by]
        if times and self.plan.timers is None:
            says = f"{entry.describe()} is open, and has another {' and another '.join(times)}"
            raise _Refused(no.TimerUndecided(says, entry.key))
        restarts = bool(times) and self.plan.timers == "restart"
        moved = Moved(old_key, placed, content, restarts_timers=restarts)
        return moved if content.approval is None else self._asked_anew(moved, entry, others)

    def _asked_anew(self, moved: Moved, entry: Activity, others: list[str]) -> Moved:
        """An open approval, of which the new version says something else."""
        assert moved.content is not None  # noqa: S101 - its caller has made it
        ask, row = moved.content.approval, self.run.approvals.get(moved.old_key)
        assert ask is not None  # noqa: S101 - its caller has looked
        votes = row.votes if row is not None else 0
        if votes and self.plan.votes is None:
            raise _Refused(
                no.VotesUndecided(f"{entry.describe()} has {votes} vote(s)", moved.old_key)
            )
        if votes and self.plan.votes == "keep" and quorum_decides(votes, ask.rule):
            raise _Refused(
                no.QuorumDecides(
                    f"{votes} vote(s) on {entry.describe()} would be enough", moved.old_key
                )
            )
        said: list[str] = []
        assignees: tuple[str, ...] | None = None
        if "assign" in others:
            level = row.escalation_level if row is not None else 0
            escalated = [each for one in ask.escalations[:level] for each in one.assignees]
            assignees = tuple(dict.fromkeys([*ask.assignees, *escalated]))
            before = ", ".join(row.assignees) if row is not None else "others"
            said.append(f"it asks {', '.join(assignees)}, and asked {before} before")
        if moved.restarts_timers:
            said.append("its deadlines begin anew")
        asks_otherwise = bool(said)
        if entry.name != moved.activity.name:
            said.append(f"it is called {moved.activity.name}, and was {entry.name}")
        return replace(
            moved,
            assignees=assignees,
            drops_votes=self.plan.votes == "discard",
            what_changed="; ".join(said),
            asks_otherwise=asks_otherwise,
        )

    def _differs(self, moved: Moved) -> bool:
        former = next(each for each in self.run.journal if each.key == moved.old_key)
        if moved.activity.key != former.key or moved.activity.name != former.name:
            again = (
                f"; {ANOTHER_CALLER}"
                if _was_tried(former) and moved.activity.key != former.key
                else ""
            )
            self.changes.append(f"{former.describe()} is {moved.activity.describe()}{again}")
        if moved.what_changed:
            self.changes.append(f"{moved.activity.describe()}: {moved.what_changed}")
        return moved.content is not None or moved.activity != former

    def _as_shown(
        self, differs: list[Moved], moved: list[Moved], *, has_new_input: bool
    ) -> list[Moved]:
        """With a new input, whoever is asked was shown another one."""
        if not has_new_input:
            return differs
        seen = {each.old_key: each for each in differs}
        for each in moved:
            activity = each.activity
            if activity.kind == ActivityKind.APPROVAL and not activity.is_settled:
                said = "; ".join(filter(None, (each.what_changed, "the input is another one")))
                seen[each.old_key] = replace(each, what_changed=said, asks_otherwise=True)
        return list(seen.values())

    # -- the proof ---------------------------------------------------------------------------

    def _proved(self, context: RunContext, journal: Sequence[Activity]) -> TurnOutcome:
        """Replay the journal that was made, as a worker with the new version will."""
        try:
            outcome = take_turn(
                self.process,
                context,
                journal,
                self.run.signals,
                registry=self.registry,
                perform_step=perform_nothing,
                may_perform=False,
            )
        except TurnAbandoned as lack:
            raise _Refused(no.LacksCode(str(lack))) from None
        if outcome.status is RunStatus.INCIDENT:  # guard: a migration is proved by replay
            error = outcome.error or {}
            raise _Refused(no.NotProven(str(error.get("message"))))
        return outcome

    def _asks_turn(self, outcome: TurnOutcome) -> bool:
        return bool(
            self.run.status is RunStatus.INCIDENT
            or outcome.status.is_closed
            or outcome.opened
            or outcome.consumed
            or outcome.set_aside
            or outcome.goes_on
        )


def quorum_decides(votes: int, rule: Rule | None) -> bool:
    """Whether so many votes may be a decision by the new version's rule; without one the first is."""
    if rule is None:
        return votes >= 1
    return votes >= min(rule.needs, rule.needs if rule.rejects is None else rule.rejects)


def _was_tried(entry: Activity) -> bool:
    return entry.attempt > 1 and not entry.is_settled


def _can_be_taken_back(entry: Activity) -> bool:
    """A stage that nobody has begun."""
    return (
        entry.kind == ActivityKind.STAGE
        and entry.state is ActivityState.PENDING
        and entry.attempt == 1
    )


def _without_place(entry: Activity, old_key: str) -> Activity:
    """Ahead: whatever the flow asks it with. What is called as its key goes by the new one."""
    is_called_so = entry.key != old_key and entry.name == _last_of(old_key)
    name = _last_of(entry.key) if is_called_so else entry.name
    return replace(entry, ordinal=AHEAD, asked=None, name=name)


def _last_of(key: str) -> str:
    return key.rpartition("/")[2].partition("#")[0]


def _place(scope: str) -> str:
    branch = in_chapter(scope)[1]
    return f"branch {branch}" if branch else "the flow itself"
