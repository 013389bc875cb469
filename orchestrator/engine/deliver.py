"""Facts from outside reach a run: signals and answers; decisions.py has those of people. No flow code runs here."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.checks import check_words, composed
from orchestrator.core.kinds.signal import correlated
from orchestrator.core.run import RunStatus
from orchestrator.engine.signal_forms import SignalForms
from orchestrator.errors import (
    PayloadError,
    RunClosed,
    RunNotFound,
    TooManySignals,
)
from orchestrator.store.reads import finding
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import correlations, outside, signals

CHANGES_MAX = 3
"""How often a decision is tried again that was refused and then is not: this person was asked in between."""


def signal(
    connection: AnyConnection,
    run_id: UUID,
    name: str,
    payload: Any,
    *,
    signal_id: str | None,
    by: str,
    forms: SignalForms,
) -> bool:
    """Buffer a signal for the run. False: one with this `signal_id` came before.

    Where a wait of this name is open that says what it takes, a payload that doesn't fit it is refused. `forms`:
    what the sender knows of such waits, and learns.

    Raises RunNotFound, RunClosed, PayloadError, TooManySignals.
    """
    name, by = composed(name), composed(by)
    signal_id = None if signal_id is None else composed(signal_id)
    for words, what in (
        (name, "a signal's name"),
        (signal_id, "a signal's id"),
        (by or None, "a sender"),
    ):
        if words is not None:
            check_words(words, what=what, where="signal")
    text = codec.encode(payload, what=f"signal {name}")
    sender = by or "producer"
    fits = forms.fitted_by(name, text)
    for looks in range(CHANGES_MAX):
        taken = signals.signal_run_if_open(
            connection,
            run_id,
            name=name,
            payload=text,
            signal_id=signal_id,
            sender=sender,
            fits=fits,
            unseen=looks == CHANGES_MAX - 1,  # the flow looks too, and sets aside what does not fit
        )
        if taken is True:
            return True
        if taken is False:
            break
        problems = forms.learn(name, taken).problems(codec.parse(text))
        if problems:  # guard: a signal is looked at where it is sent
            message = (
                f"signal {name} doesn't fit what run {run_id} waits for: {'; '.join(problems)}. "
                "Nothing was recorded: send it in that form"
            )
            raise PayloadError(message)
        fits = taken.digest
    _refuse_if_closed(connection, run_id, f"signal {name!r} has nobody to reach")
    if (held := signals.why_no_room(connection, run_id, signal_id)) is not None:
        raise TooManySignals(
            f"run {run_id} holds {held}. Signal {name!r} was not recorded: send it again once the run's flow has taken"
            " some"
        )
    return False


def signal_by_correlation(
    connection: AnyConnection,
    name: str,
    payload: Any,
    *,
    correlation: str,
    signal_id: str | None,
    keep_seconds: float,
    by: str,
    forms: SignalForms,
) -> bool:
    """Send a signal to whichever run awaits it by that key; it is kept if none does. False: it came before.

    Raises PayloadError, TooManySignals, DefinitionError.
    """
    full = correlated(name, correlation)
    signal_id = None if signal_id is None else composed(signal_id)
    text = codec.encode(payload, what=f"signal {full}")
    for _ in range(CHANGES_MAX):
        meeting = correlations.meeting_of(connection, full, signal_id)
        if meeting.is_known:
            return False
        if meeting.run_id is not None:
            with suppress(RunClosed):
                return signal(
                    connection,
                    meeting.run_id,
                    full,
                    payload,
                    signal_id=signal_id,
                    by=by,
                    forms=forms,
                )
            continue
        if meeting.is_full:
            raise TooManySignals(
                f"signal {name!r} with correlation {correlation!r} is kept {correlations.KEPT_MAX} times or in"
                f" {correlations.KEPT_BYTES_MAX:,} bytes, and no run has taken one. This one was not recorded: send"
                " it again once a run waits for it"
            )
        if correlations.keep_if_unclaimed(
            connection,
            full,
            payload=text,
            signal_id=signal_id,
            sender=composed(by) or "producer",
            keep_seconds=keep_seconds,
            claims=meeting.claims,
        ):
            return True
    raise TooManySignals(
        f"what awaits signal {name!r} with correlation {correlation!r} changed {CHANGES_MAX} times while it was sent."
        " It was not recorded: send it again"
    )


def answer(connection: AnyConnection, run_id: UUID, key: str, value: Any, *, by: str) -> bool:
    """Answer the wait of that key, of a kind that takes answers from outside. False: it is over, or takes none.

    Raises RunNotFound, RunClosed, PayloadError.
    """
    key, by = composed(key), composed(by)
    check_words(key, what="a wait's key", where="answer")
    check_words(by, what="who answers (`by`)", where="answer")
    text = codec.encode(value, what=f"answer to {key}")
    if outside.answer_wait_if_open(connection, run_id, key, answer=text, by=by):
        return True
    _refuse_if_closed(connection, run_id, f"{key!r} needs no answer any more")
    return False


def _refuse_if_closed(connection: AnyConnection, run_id: UUID, so: str) -> None:
    """Raises RunNotFound, RunClosed."""
    status = finding.status_of(connection, run_id)
    if status is None:
        raise RunNotFound(f"there is no run {run_id}")
    if RunStatus(status).is_closed:
        raise RunClosed(f"run {run_id} is {status}; {so}")
