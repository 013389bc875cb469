"""What a turn cancels, as parts of its commit: the activities that its flow needs no more, with all that hangs on them.

    CANCELLED    open activities end, their approvals are withdrawn, and their handoffs called off
    GIVEN_BACK   signals that a deadline gave to a cancelled wait are waited for again

Their timers are disarmed by the commit, as those of all that is not awaited.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from uuid import UUID

from orchestrator.core.outcome import TurnOutcome
from orchestrator.store.parts import CLOSED_APPROVAL, WITHDRAW
from orchestrator.store.rowset import RowSet

_KEYS = RowSet("cancelled", "run_id uuid, key text, why text, gives_back boolean")

# What a flow needs no more, since a race or a block is over without it. Activities go before their handoffs, as in a
# claim (lock order), hence the look at `dropped`.
CANCELLED = f"""
no_more AS MATERIALIZED (
    SELECT c.* FROM fence JOIN {_KEYS.called("c")} ON c.run_id = fence.run_id
), dropped AS (
    UPDATE perennial.activity a SET state = 'cancelled', settled_at = perennial.now(),
        error = jsonb_build_object('type', 'Cancelled', 'message', no_more.why)
    FROM no_more WHERE a.run_id = no_more.run_id AND a.key = no_more.key
        AND a.run_id = ANY(ARRAY(SELECT run_id FROM fence))
        AND a.state IN ('pending', 'claimed', 'retrying')
    RETURNING a.key
), withdrawn AS (
    {WITHDRAW}
    FROM no_more WHERE p.run_id = no_more.run_id AND p.key = no_more.key
        AND p.run_id = ANY(ARRAY(SELECT run_id FROM fence))
        AND p.state NOT IN {CLOSED_APPROVAL}
), emptied AS (
    DELETE FROM perennial.outbox o USING no_more
    WHERE o.run_id = no_more.run_id AND o.key = no_more.key
        AND o.run_id = ANY(ARRAY(SELECT run_id FROM fence))
        AND (SELECT count(*) FROM dropped) >= 0
)"""

# A deadline has given a cancelled wait a signal before this turn came to cancel it: the signal is buffered again, in
# its place. What is settled never changes, nor a consumed signal: they are taken out, and written anew.
GIVEN_BACK = """
unconsumed AS MATERIALIZED (
    SELECT t.* FROM fence, LATERAL perennial.take_out_signals(fence.run_id, ARRAY(
        SELECT no_more.key FROM no_more WHERE no_more.run_id = fence.run_id AND no_more.gives_back)) t
), buffered AS (
    INSERT INTO perennial.signal (id, run_id, name, signal_id, payload, sender, received_at, received_revision)
    SELECT id, run_id, name, signal_id, payload, sender, received_at, received_revision FROM unconsumed
), unsettled AS MATERIALIZED (
    SELECT t.* FROM fence, LATERAL perennial.take_out_activities(fence.run_id, ARRAY(
        SELECT no_more.key FROM no_more WHERE no_more.run_id = fence.run_id AND no_more.gives_back)) t
), rewritten AS (
    INSERT INTO perennial.activity (run_id, key, scope, ordinal, kind, name, state, attempt, policy, asked, opened_at,
        settled_at, error)
    SELECT u.run_id, u.key, u.scope, u.ordinal, u.kind, u.name, 'cancelled', u.attempt, u.policy, u.asked, u.opened_at,
        perennial.now(), jsonb_build_object('type', 'Cancelled', 'message', no_more.why)
    FROM unsettled u JOIN no_more ON no_more.run_id = u.run_id AND no_more.key = u.key
)"""


def cancelled_rows(turns: Iterable[tuple[UUID, TurnOutcome]]) -> dict[str, str]:
    """The parameter of these parts. Most turns cancel nothing, and their statement asks for nothing of this."""
    rows = [
        {"run_id": run_id, "key": key, "why": why, "gives_back": gives_back}
        for run_id, outcome in turns
        for key, why, gives_back in _no_more_needed(outcome)
    ]
    return _KEYS.of(rows) if rows else {}


def _no_more_needed(outcome: TurnOutcome) -> Iterator[tuple[str, str, bool]]:
    yield from ((each.key, each.why, False) for each in outcome.cancelled)
    yield from ((key, "cancelled before its signal came", True) for key in outcome.given_back)
