"""Start runs: one statement, in the producer's own transaction if it likes.

request = ask("access-request", [...], keys=["REQ-1"], ...)    what is asked
starts.start(request)                            in one statement
starts.start_all(request, connection)            in one statement
starts.restart(run_id, ...)                      a run that has ended, once more

An input is checked by what this client knows of the process (engine/inputs.py). Where the record knows another
schema by now, Postgres starts nothing and answers with that one: the input is checked again, and asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.core import codec
from orchestrator.core.attributes import given
from orchestrator.core.checks import (
    KEY_LENGTH_MAX,
    check_delay,
    check_sought,
    check_words,
    composed,
)
from orchestrator.core.definition import Process
from orchestrator.core.durations import Duration, seconds_or_none
from orchestrator.core.run import RunStatus
from orchestrator.core.schemas import InputSchema, input_schema_of
from orchestrator.core.views import Started
from orchestrator.engine.context import EngineContext
from orchestrator.engine.inputs import Contract, Contracts
from orchestrator.errors import (
    InvalidInput,
    PayloadError,
    PerennialError,
    RunCompleted,
    RunNotClosed,
    RunNotFound,
    UnknownProcess,
)
from orchestrator.store.reads.started import read_to_restart, started_of_id
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import processes, serving
from orchestrator.store.transitions.processes import InputOf
from orchestrator.store.transitions.start import NewRun, Terms, restart_run, start_runs

RUNS_PER_CALL_MAX = 10_000
"""The most runs one `start_many` takes: one statement must stay a reasonable message."""

CHECKS_MAX = 5
"""So often an input is checked anew, each time because the process was deployed at that very moment."""

NAMES_MAX = 1_000
"""So many names of processes are looked at for one that may have been meant."""

IfClosed = Literal["existing", "again", "always"]
"""What a start does with a business key whose run has ended: answer with that run; start anew if it didn't
complete; start anew in any case."""

_AGAIN_AFTER: dict[str, tuple[str, ...]] = {
    "existing": (),
    "again": (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.EXPIRED),
    "always": (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.EXPIRED, RunStatus.COMPLETED),
}

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class StartRequest:
    """Runs that may be started: of the version that new runs take, or of `version`. `checked`: what they fit."""

    process: str
    version: int | None
    runs: Sequence[NewRun]
    checked: InputOf
    again_after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartCall:
    """Runs that are asked for, a run for each input. `definition`: the process itself, where that was given."""

    process: str
    version: int | None
    definition: Process | None
    inputs: Sequence[Any]
    ids: Sequence[UUID]
    keys: Sequence[str | None]
    terms: Terms
    again_after: tuple[str, ...]

    def by(self, contract: Contract, definition: Process | None) -> StartRequest:
        """What may be started by that contract. Raises InvalidInput and PayloadError."""
        return StartRequest(
            self.process,
            self.version,
            [
                NewRun(run_id, key, contract.written(value, definition), self.terms)
                for run_id, key, value in zip(self.ids, self.keys, self.inputs, strict=True)
            ],
            contract.takes,
            self.again_after,
        )


def ask(
    process: str | Process,
    inputs: Sequence[Any],
    *,
    keys: Sequence[str | None],
    version: int | None,
    attributes: Mapping[str, Any] | None,
    expires_in: Duration | None,
    if_closed: IfClosed,
    by: str,
) -> StartCall:
    """A run for each input, which isn't checked yet. Raises PayloadError."""
    if len(inputs) > RUNS_PER_CALL_MAX:
        raise PayloadError(
            f"{len(inputs)} runs in one call; the bound is {RUNS_PER_CALL_MAX}. Start them in parts."
        )
    if len(inputs) != len(keys):
        raise PayloadError(
            f"{len(inputs)} inputs, but {len(keys)} keys: give one key for each input"
        )
    if if_closed not in _AGAIN_AFTER:
        raise PayloadError(
            f"if_closed is one of {', '.join(map(repr, get_args(IfClosed)))}, not {if_closed!r}"
        )
    definition = process if isinstance(process, Process) else None
    name = definition.name if definition is not None else str(process)
    if definition is None:
        check_sought(name, what="the process of a start")
    terms = Terms(
        given(attributes, what=f"attributes of a run of {name}"), _seconds(expires_in), _actor(by)
    )
    return StartCall(
        name,
        definition.version if definition is not None else version,
        definition,
        inputs,
        [uuid7() for _ in inputs],
        [_checked_key(key) for key in keys],
        terms,
        _AGAIN_AFTER[if_closed],
    )


def start(
    connection: AnyConnection,
    request: StartRequest,
    *,
    lock_timeout_milliseconds: int | None = None,
) -> list[Started] | InputOf:
    """Start them, in one statement; the answers come in their order. Raises UnknownProcess.

    InputOf: nothing is started, the process takes something else. `lock_timeout_milliseconds`: as `start_runs` says.
    """
    if not request.runs:
        return []
    runs = _first_of_each_key(request.runs)
    answers = start_runs(
        connection,
        request.process,
        runs,
        version=request.version,
        checked=request.checked,
        again_after=request.again_after,
        lock_timeout_milliseconds=lock_timeout_milliseconds,
    )
    if answers is None:
        raise _unknown(connection, request.process, request.version)
    if isinstance(answers, InputOf) or len(runs) == len(request.runs):
        return answers
    found = {run.business_key or run.id: answer for run, answer in zip(runs, answers, strict=True)}
    return [found[run.business_key or run.id] for run in request.runs]


def _first_of_each_key(runs: Sequence[NewRun]) -> Sequence[NewRun]:
    if len(runs) == 1:
        return runs
    first_of_key = {run.business_key: run for run in reversed(runs)}
    return [
        run for run in runs if run.business_key is None or first_of_key[run.business_key] is run
    ]


class Starts:
    """A client's starts. Those of several threads may share a statement (engine.eager.starts)."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self.contracts = Contracts()

    def learn(self, deployed: Sequence[Process]) -> None:
        """What was deployed just now need not be asked for. Of a newer version the record will tell."""
        for process in deployed:
            takes = input_schema_of(process.input_type) if process.takes_input else InputSchema()
            known = InputOf(process.version, takes.digest, takes.schema)
            self.contracts.learn(process.name, process.version, known)
            newest = self.contracts.find(process.name, None)
            if newest is None or newest.takes.version <= process.version:
                self.contracts.learn(process.name, None, known)

    def start(self, asked: StartCall) -> Started:
        """Start the one run that is asked for, in a transaction of ours."""
        return self._checked(asked, None, self.start_one)

    def start_all(self, asked: StartCall, connection: AnyConnection | None = None) -> list[Started]:
        """Start all that are asked for, in one statement; on the caller's connection, in its transaction."""

        def start_them(checked: StartRequest) -> list[Started] | InputOf:
            with self._on(connection) as own:
                return start(own, checked)

        return self._checked(asked, connection, start_them) if asked.inputs else []

    def restart(
        self,
        run_id: UUID,
        connection: AnyConnection,
        *,
        version: int | None,
        even_if_completed: bool,
        by: str,
    ) -> Started:
        """Start a run that has ended once more, under its key; a second restart finds the first one's run.

        Raises RunNotFound, RunNotClosed, RunCompleted, InvalidInput.
        """

        def restart(checked: StartRequest) -> Started | InputOf | None:
            return restart_run(
                connection,
                checked.process,
                checked.runs[0],
                follows=run_id,
                version=checked.version,
                checked=checked.checked,
                again_after=checked.again_after,
            )

        for _ in range(CHECKS_MAX):
            old = read_to_restart(connection, run_id)
            if old is None:
                raise RunNotFound(f"there is no run {run_id}")
            if old.followed_by is not None:
                following = started_of_id(connection, old.followed_by)
                if following is not None:
                    return following
            status = RunStatus(old.status)
            again_after = _AGAIN_AFTER["always" if even_if_completed else "again"]
            if not status.is_closed:
                raise RunNotClosed(
                    f"run {old.business_key or run_id} is {status}: only a run that has ended is "
                    "started once more. `perennial cancel RUN` ends it"
                )
            if status not in again_after:
                raise RunCompleted(
                    f"run {old.business_key or run_id} has completed: to start it once more is to do "
                    "it twice. Say that you mean it (`even_if_completed`)"
                )
            terms = Terms(old.attributes, old.expires_in_seconds, _actor(by))
            asked = StartCall(
                old.process,
                version,
                None,
                [codec.parse(old.input)],
                [uuid7()],
                [old.business_key],
                terms,
                again_after,
            )
            started = self._checked(asked, connection, restart)
            if started is not None:
                return started
        raise PerennialError(f"run {run_id} changed at every try to start it once more; try again")

    def _checked(
        self,
        asked: StartCall,
        connection: AnyConnection | None,
        act: Callable[[StartRequest], Answer | InputOf],
    ) -> Answer:
        """Check the inputs, and act; once more where the process takes something else by now."""
        process, version = asked.process, asked.version
        contract, is_old = self.contracts.find(process, version), True
        for _ in range(CHECKS_MAX):
            if contract is None:
                contract, is_old = self._learn(asked, connection), False
            # That version as this program has it, if it has it.
            definition = asked.definition or self._context.registry.processes.get(
                (process, contract.takes.version)
            )
            try:
                request = asked.by(contract, definition)
            except InvalidInput:
                if not is_old:
                    raise
                contract = None  # what is known here may be old, and the record may take it
                continue
            answer = act(request)
            if not isinstance(answer, InputOf):
                return answer
            contract, is_old = self.contracts.learn(process, version, answer), False
        raise PerennialError(
            f"process {process!r} was deployed anew at every try to start it; try again"
        )

    def _learn(self, asked: StartCall, connection: AnyConnection | None) -> Contract:
        """Ask the record what the process takes."""
        with self._on(connection) as own:
            takes = processes.read_input(own, asked.process, asked.version)
            if takes is None:
                raise _unknown(own, asked.process, asked.version)
        return self.contracts.learn(asked.process, asked.version, takes)

    def start_one(self, request: StartRequest) -> Started | InputOf:
        """Start a run that fits, in a statement of its own."""
        with self._context.connection() as connection:
            answers = start(connection, request)
        return answers if isinstance(answers, InputOf) else answers[0]

    def _on(self, connection: AnyConnection | None) -> AbstractContextManager[AnyConnection]:
        return self._context.connection() if connection is None else nullcontext(connection)


def _unknown(connection: AnyConnection, process: str, version: int | None) -> UnknownProcess:
    """Says which name may have been meant, of those that are deployed."""
    retired = {
        number: said.retired_by
        for number, said in serving.read_versions(connection, process).items()
        if said.retired_at is not None
    }
    if retired and (version is None or version in retired):
        which = "each version" if version is None else f"version {version}"
        by = f" by {retired[version]}" if version is not None and retired[version] else ""
        undo = version or max(retired)
        return UnknownProcess(
            f"{which} of process {process!r} was retired{by}: no new run takes it. Deploy another version; or "
            f"`perennial processes retire {process} {undo} --undo` takes that back"
        )
    names = processes.names_of(connection, limit=NAMES_MAX)
    if version is not None and process in names:
        newest = processes.read_input(connection, process, None)
        known = f"; new runs take version {newest.version}" if newest else ""
        return UnknownProcess(
            f"no process {process!r} version {version} is deployed{known}; "
            "deploy it with `perennial deploy`"
        )
    meant = get_close_matches(process, names, n=1)
    asked = f" Did you mean {meant[0]!r}?" if meant else ""
    which = f"{process!r}" if version is None else f"{process!r} version {version}"
    return UnknownProcess(
        f"no process {which} is deployed; deploy it with `perennial deploy`.{asked}"
    )


def _seconds(expires_in: Duration | None) -> float | None:
    seconds = seconds_or_none(expires_in, what="expires_in")
    if seconds is not None:
        check_delay(seconds, what="expires_in")
    return seconds


def _actor(by: str) -> str:
    if by:
        check_words(by, what="a producer", where="start")
    return composed(by) or "producer"


def _checked_key(key: str | None) -> str | None:
    """One key for what looks the same."""
    key = composed(key) if key is not None else None
    if key is not None and not (0 < len(key) <= KEY_LENGTH_MAX and key.isprintable()):
        raise PayloadError(
            f"a business key has 1 to {KEY_LENGTH_MAX} printable characters: {key[:40]!r}"
        )
    return key
