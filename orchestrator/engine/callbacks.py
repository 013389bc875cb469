"""Callbacks: what a stage hands to a partner, and what comes back. No flow code runs here; a turn is asked for."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from orchestrator.core import codec
from orchestrator.core.callback_token import TOKEN_LENGTH_MAX, hash_of, new_token
from orchestrator.core.checks import check_words, composed
from orchestrator.core.definition import Stage
from orchestrator.core.journal import ActivityState
from orchestrator.core.steps import key_at_first
from orchestrator.engine.context import EngineContext
from orchestrator.engine.stage_steps import RecordUnavailable
from orchestrator.engine.validation import Validator
from orchestrator.errors import CallbackRefused, DefinitionError, PayloadError
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import callbacks
from orchestrator.store.transitions.callbacks import CallbackStanding
from orchestrator.store.transitions.claim import Claim

_DONE = {
    ActivityState.DONE: "was completed",
    ActivityState.FAILED: "was failed, or fell silent,",
    ActivityState.TIMED_OUT: "timed out",
}


@dataclass(slots=True)
class TokensOfStage:
    """What one attempt of a stage hands on. Called with a callback's key: its token."""

    context: EngineContext
    run_id: UUID
    stage_key: str
    stage: Stage[..., Any]

    def __call__(self, key: str) -> str:
        fresh = new_token()
        try:
            with self.context.connection() as connection:
                token = callbacks.hand_token(
                    connection, self.run_id, key, self.stage_key, token=fresh, hashed=hash_of(fresh)
                )
        except SQLAlchemyError as error:
            raise RecordUnavailable(error) from error
        if token is None:
            raise DefinitionError(f"run {self.run_id} has no callback {key}")
        self.stage.hands_on_tokens = True
        return token


def forget_tokens(context: EngineContext, claim: Claim, stage: Stage[..., Any]) -> None:
    """The stage has done its work, and what it has handed on is needed no more.

    Where Postgres is away it stays until the callback ends: that is no reason to do the work again.
    """
    if stage.hands_on_tokens:
        with suppress(DBAPIError), context.connection() as connection:
            callbacks.forget_token(connection, claim.run.context.id, key_at_first(claim.key))


def complete(connection: AnyConnection, token: str, result: Any, *, by: str) -> UUID:
    """Answer the callback of that token with a result; the id of its run.

    Raises CallbackRefused: nobody knows the token, or it was used, or comes too late. PayloadError: the result is none
    that the flow takes; nothing was recorded then.
    """
    hashed, standing = _meant(connection, token)
    what = f"result of callback {standing.name}"
    text = codec.encode(result, what=what)
    if standing.takes is not None and standing.state == ActivityState.PENDING:
        problems = Validator(standing.takes).problems(codec.parse(text))
        if problems:
            message = (
                f"{what} is not what the flow takes: {'; '.join(problems)}. Nothing was recorded"
            )
            raise PayloadError(message)
    _answer(
        connection,
        hashed,
        standing,
        state=ActivityState.DONE,
        event="callback completed",
        by=by,
        result=text,
    )
    return standing.run_id


def fail(connection: AnyConnection, token: str, message: str, *, kind: str, by: str) -> UUID:
    """Answer the callback of that token with a failure; the id of its run. Raises CallbackRefused."""
    hashed, standing = _meant(connection, token)
    check_words(kind, what="a kind of failure", where="fail_callback")
    error = json.dumps({"type": composed(kind), "message": codec.readable(message)})
    _answer(
        connection,
        hashed,
        standing,
        state=ActivityState.FAILED,
        event="callback failed",
        by=by,
        error=error,
    )
    return standing.run_id


def heartbeat(connection: AnyConnection, token: str) -> UUID:
    """Put off the moment at which the callback is given up; the id of its run. Raises CallbackRefused."""
    hashed, standing = _meant(connection, token)
    if not callbacks.beat_if_pending(connection, hashed):
        raise _refusal(connection, hashed, standing)
    return standing.run_id


def _meant(connection: AnyConnection, token: str) -> tuple[str, CallbackStanding]:
    given: object = token
    if not isinstance(given, str) or not 0 < len(token) <= TOKEN_LENGTH_MAX:
        raise CallbackRefused(
            "that is no callback's token: it is the text that the partner was given"
        )
    hashed = hash_of(token)
    standing = callbacks.callback_of(connection, hashed)
    if standing is None:
        raise CallbackRefused(
            "no callback has this token: look whether all of it was copied; or its run was removed"
        )
    return hashed, standing


def _answer(
    connection: AnyConnection,
    hashed: str,
    standing: CallbackStanding,
    *,
    state: ActivityState,
    event: str,
    by: str,
    result: str | None = None,
    error: str | None = None,
) -> None:
    by = composed(by) or "partner"
    check_words(by, what="who answers (`by`)", where="callback")
    if not callbacks.answer_if_pending(
        connection,
        standing.run_id,
        hashed,
        state=state,
        result=result,
        error=error,
        event=event,
        by=by,
    ):
        raise _refusal(connection, hashed, standing)


def _refusal(connection: AnyConnection, hashed: str, seen: CallbackStanding) -> CallbackRefused:
    """Why the token counts no more."""
    now = callbacks.callback_of(connection, hashed) or seen
    which = f"callback {now.name or now.key} of run {now.run_id}"
    done = _DONE.get(ActivityState(now.state)) if now.state is not None else None
    if done is not None and now.settled_at is not None:
        return CallbackRefused(
            f"{which} {done} at {now.settled_at.isoformat(timespec='seconds')}: a token counts once, and nothing was"
            " recorded"
        )
    if now.is_closed:
        return CallbackRefused(f"run {now.run_id} is {now.status}; {which} has nobody to reach")
    return CallbackRefused(
        f"{which} was taken back by an operator: the stage that asks for it anew hands on another token"
    )
