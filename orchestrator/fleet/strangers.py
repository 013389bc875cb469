"""Messages of another record: a worker that was forgotten on the same broker must not swallow what isn't its own.

Each handoff's message names the record that it is of (`store.reads.identity`). A worker of another one gives it back to
its queue, and then rests, the longer the more often it met it, so that those who are at work come to take it. It
says so, and after `RETURNS_MAX` returns lets it go: nobody else takes from that queue now, and the message's own fleet
sends it again from its outbox. A timer's message names the schema of its record, as its index does: Redis knows of no
more, and two databases may share it. A message that names neither is an older release's, and is taken. (docs/adr/0038)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, Task, uuid

from orchestrator.engine.troubles import Troubles
from orchestrator.fleet.compat import message_maker_of
from orchestrator.store.reads.identity import is_another
from orchestrator.store.schema import SCHEMA

RECORD_HEADER = "perennial_record"
SCHEMA_HEADER = "perennial_schema"
RETURNS_HEADER = "perennial_returns"

RETURNS_MAX = 32
"""So often a message is given back: over some six seconds."""

FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.25
"""This worker stands where it should not: better that it rests than that it has all messages in its hands."""

READ_AGAIN_SECONDS = 10.0
"""A server that was upgraded has a new identity: a worker that meets a stranger's message looks whether it is one."""


class OwnRecord:
    """Whose record this process moves: read once, when it is first needed, and kept."""

    def __init__(
        self,
        read: Callable[[], str],
        schema: Callable[[], str] = lambda: SCHEMA,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read`: its identity. `schema`: the one of Postgres that it is in."""
        self._read, self.schema, self._clock = read, schema, clock
        self._read_at = 0.0
        self.known = ""
        """Empty while it was not read."""

    def get(self) -> str:
        """Read it, if it is not known. Raises what Postgres says."""
        if not self.known:
            self._read_it()
        return self.known

    def is_stranger(self, theirs: str) -> bool:
        """Whether a message of that record is another's."""
        if not is_another(theirs, self.get()):
            return False
        if self._clock() - self._read_at > READ_AGAIN_SECONDS:
            self._read_it()
        return is_another(theirs, self.known)

    def _read_it(self) -> None:
        self.known, self._read_at = self._read(), self._clock()


def give_back_if_strange(task: Task | None, own: OwnRecord, troubles: Troubles) -> bool:
    """Whether the message that is worked on now is another record's; then it has been given back, or let go."""
    request = None if task is None else task.request
    if task is None or request is None:
        return False
    header, theirs = RECORD_HEADER, request.get(RECORD_HEADER)
    if isinstance(theirs, str):
        if not own.is_stranger(theirs):  # guard: whose record a message is of
            return False
        whose, ours = f"record {theirs}", own.known
    else:
        header, theirs = SCHEMA_HEADER, request.get(SCHEMA_HEADER)
        # guard: whose schema a timer's message is of
        if not isinstance(theirs, str) or theirs == own.schema():
            return False
        whose, ours = f"schema {theirs}", f"schema {own.schema()}"
    queue = str((request.delivery_info or {}).get("routing_key") or "")
    returns = int(request.get(RETURNS_HEADER) or 0)
    may_go_back = bool(queue) and returns < RETURNS_MAX
    is_back = may_go_back and _give_back(
        task.app,
        task.name,
        request.args,
        request.id,
        queue=queue,
        marks={header: theirs, RETURNS_HEADER: returns + 1},
    )
    what = "gives them back" if is_back else "lets them go, to be sent again by their own"
    troubles.meet(
        f"strange messages in {queue}",
        "this worker takes messages of another record's runs from queue %s, and %s: those runs are held up. "
        "Point it at their database and schema, or at another broker or queue, or stop it (%s is of %s, this "
        "worker moves %s)",
        queue,
        what,
        task.name,
        whose,
        ours,
        kind=what,
        level=logging.ERROR,
    )
    if is_back:
        _rest_after(returns)
    return True


def _rest_after(returns: int) -> None:
    """Leave what was given back to its own. It goes back first: who rested with it in hand would take it again."""
    if returns:
        _rest(rest_of(returns))


def rest_of(returns: int) -> float:
    """So many seconds a message that was given back so often before is left to its own."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** (returns - 1), LONGEST_PAUSE_SECONDS) if returns else 0


def _rest(seconds: float) -> None:
    """Nothing is held by then: no run waits here, and nothing is lost with this."""
    time.sleep(seconds)


def give_back_unknown(
    app: Celery, name: str, arguments: Sequence[object], *, queue: str, record: str, returns: int
) -> bool:
    """The same for another record's message whose task this worker hasn't got. False: it is let go.

    Rests for nothing: whoever calls it rests `rest_of(returns)` when nothing else waits.
    """
    if returns >= RETURNS_MAX:
        return False
    marks = {RECORD_HEADER: record, RETURNS_HEADER: returns + 1}
    return _give_back(app, name, arguments, uuid(), queue=queue, marks=marks)


def _give_back(
    app: Celery,
    name: str,
    arguments: Sequence[object],
    message_id: str,
    *,
    queue: str,
    marks: dict[str, Any],
) -> bool:
    """To the end of its queue, as it came. A broker that says no lets its own fleet send it again."""
    message = message_maker_of(app)(
        message_id, name, tuple(arguments), {}, ignore_result=True, origin="perennial"
    )
    try:
        with app.producer_pool.acquire(block=True) as producer:
            producer.publish(
                message.body,
                exchange="",
                routing_key=queue,
                headers=message.headers | marks,
                serializer="json",
                retry=False,
                **message.properties,
            )
    except Exception:  # noqa: BLE001 - brokers fail in many ways, and a message is a hint
        return False
    return True
