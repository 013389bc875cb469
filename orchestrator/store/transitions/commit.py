"""The commit of a turn: one statement, one transaction, composed of only the parts that this turn needs.

    turns → fence → settled, cancelled, opened, consumed, armed, asked, disarmed, handed off, told

Every part hangs on the fence: if a fact has raised the revision since the turn read it, if another
worker holds the turn, or if the attempt was handed out again, nothing at all is written. (docs/adr/0002)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from orchestrator.store.batched import batch_verb, if_many, whose_run_is_free
from orchestrator.store.parts import (
    APPEND_HISTORY,
    HAND_OFF,
    NO_HOLDER,
    NO_TURN,
    RAISED,
    REPLACES,
    SENT_AT_ONCE,
    a_turn_of,
    close_everything,
)
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions import children, correlations
from orchestrator.store.transitions.cancel import CANCELLED, GIVEN_BACK, cancelled_rows
from orchestrator.store.transitions.commit_content import Committed, TurnCommit
from orchestrator.store.transitions.commit_rows import (
    ACTIVITIES,
    APPROVALS,
    HANDOFFS,
    HISTORY,
    SIGNALS,
    TIMERS,
    TURNS,
)
from orchestrator.store.transitions.commit_values import (
    activity_row,
    approval_row,
    history_row,
    taken_signals,
    turn_row,
)
from orchestrator.store.transitions.settle import ATTEMPT_HOLDS, SETTLED
from orchestrator.store.transitions.timers import ArmedTimer, timer_rows
from orchestrator.store.transitions.turns import TURN_IS_FREE

# The end of a child waits for its parent: among several runs it is left out, as one that is locked.
_OF_MANY = whose_run_is_free("""
            AND NOT (t.closes AND parent_key IS NOT NULL)  /* guard: a child ends in a statement of its own */
""")


def _turns(of_which: str) -> str:
    return f"""
turns AS MATERIALIZED (
    SELECT t.* FROM {TURNS.called("t")}{of_which}
)"""


# What its flow says of it is said anew at each replay: it is the same, or more. A null takes an attribute away.
_SAID = """,
        status_text = coalesce(t.status_text, r.status_text),
        attributes = CASE WHEN t.attributes IS NULL THEN r.attributes ELSE (r.attributes || t.attributes::jsonb)
            - ARRAY(SELECT e.key FROM jsonb_each(t.attributes::jsonb) e WHERE e.value = 'null') END"""


# The fence of every turn: the revision it read, a turn that is free, a run that moves, and, when it
# carries a stage's result, the attempt that earned it. What grows is found by `ANY(ARRAY(...))`, here and
# below: a plan that was made while the table was empty does so too (docs/adr/0014).
def _fence(attempt_holds: str = "true", *, starts_children: bool = False) -> str:
    may_start = f"\n        AND {children.ARE_AS_CHECKED}" if starts_children else ""
    return f"""
fence AS (
    UPDATE perennial.run r SET
        revision = {RAISED}, status = t.status, turn_losses = 0,
        turn_revision = CASE WHEN t.goes_on THEN {NO_TURN} ELSE {RAISED} END,
        previous_stage = CASE WHEN r.stage IS DISTINCT FROM t.stage THEN r.stage ELSE r.previous_stage END,
        stage = t.stage, waiting_for = t.waiting_for, output = t.output::jsonb, error = t.error,
        started_at = coalesce(r.started_at, perennial.now()), last_progress_at = perennial.now(),
        closed_at = CASE WHEN t.closes THEN perennial.now() END,
        active_milliseconds = r.active_milliseconds + t.active_milliseconds,
        {NO_HOLDER},
        outstanding = t.outstanding, outstanding_revision = {RAISED}, children = r.children + t.children{_SAID}
    FROM turns t
    WHERE r.id = t.run_id
        AND r.id = ANY(ARRAY(SELECT run_id FROM turns))  /* guard: plans made early, of runs */
        AND r.revision = t.revision  /* guard: revision check */
        AND r.status IN ('running', 'waiting')  /* guard: rest of a paused run */
        AND {TURN_IS_FREE}  /* guard: turn exclusivity */
        AND {attempt_holds}  /* guard: attempt fence */{may_start}
    RETURNING t.*, r.revision AS recorded_revision, r.depth
)"""


_FENCES = {
    (has_attempt, starts, says): fence if says else fence.replace(_SAID, "")
    for has_attempt in (False, True)
    for starts in (False, True)
    for fence in (_fence(ATTEMPT_HOLDS if has_attempt else "true", starts_children=starts),)
    for says in (False, True)
}
"""By whether it carries a stage's result, whether it starts children, and whether its flow says how its run is."""


def _opened(*refusals: tuple[str, str]) -> str:
    """`refusals`: SQL, which lines are settled at once, since another run has their key, and the error of these."""
    state, result, error, settled_at = "o.state", "o.result::jsonb", "o.error", "o.settled_at"
    for is_refused, why in refusals:
        state = f"CASE WHEN {is_refused} THEN 'failed' ELSE {state} END"
        result = f"CASE WHEN {is_refused} THEN NULL ELSE {result} END"
        error = f"CASE WHEN {is_refused} THEN {why} ELSE {error} END"
        settled_at = f"CASE WHEN {is_refused} THEN perennial.now() ELSE {settled_at} END"
    return f"""
opened AS (
    INSERT INTO perennial.activity (run_id, key, scope, ordinal, kind, name, state, attempt, queue, policy,
        timeout_seconds, asked, input, result, error, settled_at, settled_revision, worker_id, claimed_at)
    SELECT o.run_id, o.key, o.scope, o.ordinal, o.kind, o.name, {state}, o.attempt, o.queue, o.policy,
        o.timeout_seconds, o.asked, o.input::jsonb, {result}, {error}, {settled_at},
        CASE WHEN {settled_at} IS NOT NULL THEN coalesce(o.settled_revision, fence.recorded_revision) END, o.worker_id,
        CASE WHEN o.state = 'claimed' THEN perennial.now() END
    FROM fence JOIN {ACTIVITIES.called("o")} ON o.run_id = fence.run_id
    RETURNING run_id, key, claimed_at
)"""


_CLAIMED = correlations.claimed(ACTIVITIES.called("o"))
_REFUSED_CLAIM = (correlations.IS_REFUSED, correlations.WHY_REFUSED)
_REFUSED_CHILD = (children.IS_REFUSED, children.WHY_REFUSED)

_OPENED = _opened()
_OPENED_AS_CLAIMED = f"{_CLAIMED},{_opened(_REFUSED_CLAIM)}"
_OPENED_WITH_CHILDREN = f"{children.STARTED},{_opened(_REFUSED_CHILD)}"
_OPENED_AS_BOTH = f"{_CLAIMED},{children.STARTED},{_opened(_REFUSED_CLAIM, _REFUSED_CHILD)}"
_OPENINGS = {
    (False, False): _OPENED,
    (True, False): _OPENED_AS_CLAIMED,
    (False, True): _OPENED_WITH_CHILDREN,
    (True, True): _OPENED_AS_BOTH,
}
"""By whether a wait among what is opened claims a correlation key, and whether a child is started."""

_TAKEN_AT = """(SELECT opened.claimed_at FROM opened WHERE opened.run_id = fence.run_id
    AND opened.claimed_at IS NOT NULL)"""

_CONSUMED = f"""
consumed AS (
    UPDATE perennial.signal s SET consumed_key = c.key
    FROM fence JOIN {SIGNALS.called("c")} ON c.run_id = fence.run_id
    WHERE s.id = c.signal_id AND s.run_id = fence.run_id
    RETURNING s.id
), answered AS (
    UPDATE perennial.activity a SET state = 'done', result = s.payload, settled_at = s.received_at,
        settled_revision = coalesce(s.received_revision, fence.recorded_revision)
    FROM fence JOIN {SIGNALS.called("c")} ON c.run_id = fence.run_id
    JOIN perennial.signal s ON s.id = c.signal_id
    WHERE a.run_id = fence.run_id AND a.key = c.key AND a.state = 'pending'
    RETURNING a.key
)"""

_ARMED = f"""
armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, level, due_at, indexed)
    SELECT t.id, t.run_id, t.key, t.kind, t.level, d.due_at,
        d.due_at <= perennial.now() + %(horizon_seconds)s * interval '1 second'
    FROM fence JOIN {TIMERS.called("t")} ON t.run_id = fence.run_id,
        LATERAL (SELECT coalesce(t.at, perennial.now() + t.delay_seconds * interval '1 second') AS due_at) d
    RETURNING run_id, id, extract(epoch FROM due_at - perennial.now())::float8 AS remaining_seconds, indexed
)"""

_ARMED_ROWS = """(
    SELECT jsonb_agg(jsonb_build_object('id', armed.id, 'remaining_seconds', armed.remaining_seconds))
    FROM armed WHERE armed.run_id = fence.run_id AND armed.indexed)"""

_ASKED = f"""
asked AS (
    INSERT INTO perennial.approval (run_id, key, name, assignees, escalations, edition, rule, deadline)
    SELECT p.run_id, p.key, p.name, p.assignees, p.escalations, p.edition, p.rule,
        coalesce(p.deadline, perennial.now() + p.timeout_seconds * interval '1 second')
    FROM fence JOIN {APPROVALS.called("p")} ON p.run_id = fence.run_id
    RETURNING key
)"""

# Deadlines of what is settled are of no use any more.
_DISARMED = """
disarmed AS (
    UPDATE perennial.timer t SET state = 'cancelled'
    FROM fence WHERE t.run_id = fence.run_id
        AND t.run_id = ANY(ARRAY(SELECT run_id FROM fence))  /* guard: plans made early, of deadlines */
        AND t.state = 'armed' AND t.kind <> 'expiry'
        AND
            NOT t.key = ANY(fence.unsettled)  /* guard: a settled wait has no deadline */
    RETURNING t.run_id, t.id
)"""

_DISARMED_ROWS = (
    "(SELECT jsonb_agg(disarmed.id) FROM disarmed WHERE disarmed.run_id = fence.run_id)"
)

# This turn has seen every fact up to its revision, so every `advance` asked for is answered.
_SEEN = """
seen AS (
    DELETE FROM perennial.outbox o WHERE o.key = ''
        AND o.run_id = ANY(
            ARRAY  /* guard: plans made early, of the backlog */
            (SELECT run_id FROM fence)
        )  /* guard: advance kept until a turn */
)"""

# The turn stopped before an inline step to record what it stands on; the next one makes the call.
_GOES_ON = f"""
goes_on AS (
    {HAND_OFF}
    SELECT {a_turn_of("fence.run_id", "fence.queue")}, {SENT_AT_ONCE}
    FROM fence
    {REPLACES}
)"""

# A run that ends takes all that is open with it, but for what this turn settles.
_DROPPED = close_everything(
    but="""
        AND a.key IS DISTINCT FROM fence.settled_key AND NOT a.key = ANY(fence.consumed_keys)"""
)

_HANDED_OFF = f"""
handed_off AS (
    {HAND_OFF}
    SELECT h.run_id, h.key, h.attempt, h.task, h.queue, {SENT_AT_ONCE}
    FROM {HANDOFFS.called("h")}
    JOIN fence ON h.run_id = fence.run_id  /* guard: handoffs under the turn's fence */
    RETURNING key
)"""

_TOLD = f"""
told AS (
    {APPEND_HISTORY}
    SELECT h.run_id, h.actor, h.event, h.key, h.attempt, h.from_status, h.to_status, h.detail
    FROM fence JOIN {HISTORY.called("h")} ON h.run_id = fence.run_id
)"""


def _parts_of(commit: TurnCommit) -> tuple[str, ...]:
    """Only what this transition needs: a stage handed on costs six parts, not ten."""
    outcome = commit.outcome
    is_closed = outcome.status.is_closed  # then it takes along what it would cancel
    is_cancelling = bool(outcome.cancelled or outcome.given_back) and not is_closed
    claims = not is_closed and any(opened.claims for opened in outcome.opened)
    wanted = (
        (
            _FENCES[commit.settlement is not None, bool(commit.children), outcome.said is not None],
            True,
        ),
        (SETTLED, commit.settlement is not None),
        (CANCELLED, is_cancelling),
        (GIVEN_BACK, bool(outcome.given_back) and is_cancelling),
        (_OPENINGS[claims, bool(commit.children)], bool(outcome.opened)),
        (_CONSUMED, bool(outcome.consumed or outcome.set_aside)),
        (_ARMED, any(opened.timers for opened in outcome.opened)),
        (_ASKED, any(opened.approval is not None for opened in outcome.opened)),
        (_DISARMED, not is_closed and (is_cancelling or not commit.is_in_hand)),
        (_DROPPED, is_closed),
        (_SEEN, not is_closed and not outcome.goes_on and not commit.is_in_hand),
        (children.SEES_TO_CHILDREN, is_cancelling and commit.cancels_children),
        (_GOES_ON, outcome.goes_on),  # guard: advance of a turn that goes on
        (_HANDED_OFF, bool(commit.handoffs)),  # guard: outbox in the transaction
        (_TOLD, bool(commit.facts)),
    )
    return tuple(part for part, is_wanted in wanted if is_wanted)


@batch_verb("commit_turn", kind=_parts_of, is_left_out=lambda committed: committed is None)
def commit_turn_if_unchanged(
    connection: AnyConnection, commits: Sequence[TurnCommit]
) -> Sequence[Committed | None]:
    """Write the transition if the fence holds. None: somebody was faster, and nothing was written.

    Of several, in one transaction, those that lost their race are left out, and the others' are written.
    """
    statement = _statement_of(_parts_of(commits[0]), if_many(commits))
    rows = statement.rows(
        connection,
        **TURNS.of(turn_row(commit) for commit in commits),
        **ACTIVITIES.of(
            activity_row(commit, opened) for commit in commits for opened in commit.outcome.opened
        ),
        **SIGNALS.of(
            {"run_id": commit.run_id, "key": key, "signal_id": signal_id}
            for commit in commits
            for key, signal_id in taken_signals(commit.outcome)
        ),
        **cancelled_rows((commit.run_id, commit.outcome) for commit in commits),
        **_children_of(commits),
        **TIMERS.of(
            {"run_id": commit.run_id, **timer}
            for commit in commits
            for timer in timer_rows(commit.outcome.opened)
        ),
        **APPROVALS.of(
            approval_row(commit, opened, opened.approval)
            for commit in commits
            for opened in commit.outcome.opened
            if opened.approval is not None
        ),
        **HANDOFFS.of(
            {"run_id": commit.run_id, **handoff.as_row()}
            for commit in commits
            for handoff in commit.handoffs
        ),
        **HISTORY.of(history_row(commit, fact) for commit in commits for fact in commit.facts),
        relay_after=commits[0].relay_after,
        horizon_seconds=commits[0].horizon_seconds,
    )
    found = {row.run_id: row for row in rows}
    return [_committed(commit, found.get(commit.run_id)) for commit in commits]


def _children_of(commits: Sequence[TurnCommit]) -> dict[str, str]:
    """The parameter of those that start any."""
    if not commits[0].children:
        return {}
    return children.ROWS.of(
        child.as_row(commit.run_id) for commit in commits for child in commit.children
    )


def _committed(commit: TurnCommit, row: Any | None) -> Committed | None:
    if row is None:
        return None
    return Committed(
        armed=tuple(
            ArmedTimer(UUID(timer["id"]), timer["remaining_seconds"], commit.queue)
            for timer in row.armed or ()
        ),
        disarmed=tuple(UUID(timer_id) for timer_id in row.disarmed or ()),
        taken_at=row.taken_at,
    )


@cache
def _statement_of(parts: tuple[str, ...], form: str) -> Statement:
    turns = _turns(_OF_MANY if form else "")
    armed = _ARMED_ROWS if _ARMED in parts else "NULL::jsonb"
    disarmed = _DISARMED_ROWS if _DISARMED in parts or _DROPPED in parts else "NULL::jsonb"
    taken_at = (
        _TAKEN_AT if any(opened in parts for opened in _OPENINGS.values()) else "NULL::timestamptz"
    )
    return Statement(
        "commit_turn",
        f"WITH {turns}, {','.join(parts)} SELECT fence.run_id, {armed} AS armed,"
        f" {disarmed} AS disarmed, {taken_at} AS taken_at FROM fence",
    )
