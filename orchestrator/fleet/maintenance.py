"""What producers and lost processes left undone: a thread beside each worker sleeps in Postgres until there is some.

It publishes handoffs, sweeps now and then, and notes how this worker's own children ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from orchestrator.engine.comparing import Changed, changed_since_deployed
from orchestrator.engine.relay import relay
from orchestrator.engine.sweep import sweep
from orchestrator.fleet.child_exits import ChildExits
from orchestrator.fleet.member import Member
from orchestrator.fleet.refresh import Refresh
from orchestrator.fleet.registration import Registration
from orchestrator.store.parts import DEPLOYED
from orchestrator.store.schema import channel_of
from orchestrator.store.session import connection_arguments, set_up
from orchestrator.store.transitions.correlations import sweep_correlations
from orchestrator.store.transitions.workers import forget_old_workers

log = logging.getLogger(__name__)


class Maintenance:
    """Handoffs that producers leave, and whatever was left undone."""

    def __init__(
        self,
        member: Member,
        child_exits: ChildExits | None = None,
        look: Callable[[], None] | None = None,
        refresh: Refresh | None = None,
        registration: Registration | None = None,
    ) -> None:
        """`registration`: of the worker beside which this is; None beside none."""
        self._registration = registration
        self._member, self._child_exits, self._look = member, child_exits, look
        self._refresh = refresh
        self._listening: psycopg.Connection[Any] | None = None
        self._forget_countdown = 0
        self._differs: list[Changed] = []
        self._has_compared = self._is_deployed = False
        self._sweep_at = self._contact_since = 0.0

    def work(self) -> None:
        """Sleep until Postgres notifies, and relay a share; when its time has come, sweep, however busy it is.

        A full share means that there may be more. Then the next sweep comes at once: however much one kind
        of work there is, each kind gets its turn.
        """
        context = self._member.context
        if self._listening is None:
            self._listening = self._listen()
            self._contact_since = self._sweep_at = time.monotonic()
        if not self._has_compared:
            self._compare_with_what_is_deployed()
        if self._registration is not None:
            self._registration.look(self._listening, deployed=self._is_deployed)
            self._is_deployed = False
        left = max(0.0, self._sweep_at - time.monotonic())
        words = [each.payload for each in self._listening.notifies(timeout=left, stop_after=1)]
        is_notified = "" in words
        if str(DEPLOYED) in words:  # guard: a worker hears of a deploy
            self._has_compared, self._is_deployed = False, True
        if self._look is not None:
            self._look()
        if self._child_exits is not None:
            self._child_exits.note()  # before anything is judged
        share = relay(context, may_judge=self._may_judge()) if is_notified else 0
        if time.monotonic() >= self._sweep_at:
            share = max(share, sweep(context, may_judge=self._may_judge()).largest)
            self._forget_now_and_then()
            self._sweep_at = time.monotonic() + context.settings.sweep_seconds
        if share >= context.settings.batch_size:
            self._sweep_at = time.monotonic()
        if self._refresh is not None:
            changed = [UUID(word) for word in words if word and word != str(DEPLOYED)]
            self._refresh.look(self._listening, changed)

    def _compare_with_what_is_deployed(self) -> None:
        """At the worker's start and at each deploy: say where its code is not what is deployed. Each thing once."""
        changed = changed_since_deployed(self._member.context)
        self._has_compared = True
        for each in changed:
            if each not in self._differs:
                log.warning("%s", each.in_words, extra={"action": "compare-with-deployed"})
        self._differs = changed

    def reset(self) -> None:
        """After a failure: listen anew, and keep no connection that may be dead like that one."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._refresh is not None:
            self._refresh.lose()
        if self._registration is not None:
            self._registration.lose()
        self._member.context.dispose()  # guard: maintenance trusts no old connection

    def _may_judge(self) -> bool:
        """While Postgres was away nobody could beat: who has just come back may not judge who is dead."""
        contact_seconds = time.monotonic() - self._contact_since
        # guard: who has just come back does not judge
        return contact_seconds >= self._member.context.settings.dead_after_seconds

    def _listen(self) -> psycopg.Connection[Any]:
        connection = self._member.settings.database_address().connect(
            autocommit=True,
            application_name="perennial-maintenance",
            connect_timeout=10,
            keepalives_idle=30,
            **connection_arguments(),
        )
        set_up(connection, pooler=self._member.settings.database_pooler, needs_session=True)
        channel = sql.Identifier(channel_of(self._member.settings.database_schema))
        connection.execute(sql.SQL("LISTEN {}").format(channel))
        return connection

    def _forget_now_and_then(self) -> None:
        self._forget_countdown -= 1
        if self._forget_countdown <= 0:
            self._forget_countdown = 1000
            with self._member.context.reading() as connection:
                queues = forget_old_workers(connection)
                sweep_correlations(connection)
            if queues:  # of codes that nobody has any more
                app = self._member.app
                with app.connection_for_write() as broker, broker.channel() as channel:
                    for queue in queues:
                        channel.queue_purge(queue)  # in Redis an empty queue is none
