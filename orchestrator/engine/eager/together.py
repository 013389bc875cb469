"""Going on together: one worker advances many runs side by side, and what they ask of Postgres is asked at once.

    advance_together   `advance_in_place` for each; one statement does for all what each alone would need its own for

Each run goes the way it goes alone, on a stack of its own (a greenlet). Where it asks Postgres for something that
can be asked for many, it waits until the others ask too, or enough of them: while Postgres is at work for
these, the rest go on. Nothing else is done in turns: what an author has written, a stage or an inline step, is
called and comes back before anything else happens in this thread.

While one run is in a call the others wait. So only a call that is known to be short is made before all of them:
a stage that isn't is handed off by a message, and a run whose inline step isn't is handed back, unless it is
the last one. What was called and isn't recorded yet waits `WITHHELD_SECONDS_MAX` at most before another call is
made: a worker that dies repeats those calls too. (docs/adr/0014)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from greenlet import getcurrent, greenlet
from sqlalchemy import Connection

from orchestrator.core.kinds.base import NewActivity
from orchestrator.engine.context import EngineContext, Others
from orchestrator.engine.database_errors import is_a_servers_trouble, is_refused
from orchestrator.engine.eager.in_place import InPlace, advance_in_place
from orchestrator.engine.inline_steps import HandedBack
from orchestrator.store.activities import Claim
from orchestrator.store.statement import Meanwhile, Statement
from orchestrator.store.together import Answer, Ask, Together

log = logging.getLogger(__name__)

ASKED_TOGETHER_MAX = 20
"""So many ask in one statement: more would save little, and keep the last of them waiting."""

TOGETHER_MAX = 2 * ASKED_TOGETHER_MAX
"""So many runs go on together: while Postgres answers one half, the other goes on."""

WITHHELD_SECONDS_MAX = 0.005
"""What was called waits no longer to be recorded when another call is to be made."""


def advance_together(context: EngineContext, run_ids: Sequence[UUID], in_place: InPlace) -> None:
    """Advance each of them. What fails fails alone; the first failure is raised when all have ended."""
    seconds = context.settings.in_place_seconds
    if len(run_ids) == 1 or not seconds:
        for run_id in run_ids:
            advance_in_place(context, run_id, in_place)
        return
    crew = Crew(context, until=context.stopwatch() + seconds)
    among, together = context.among(crew), InPlaceTogether(in_place, crew)
    with context.identity.holding():
        crew.go(
            [
                partial(advance_in_place, among, run_id, together)
                for run_id in dict.fromkeys(run_ids)
            ]
        )


@dataclass(slots=True, eq=False)
class _Member:
    """One that goes on: its stack, and what it has asked for."""

    stack: greenlet
    verb: Together[Any, Any] | None = None
    ask: Any = None
    kind: Hashable = None
    """Those of one kind are asked in one statement."""
    asked_at: float = 0.0
    answer: Any = None
    failure: BaseException | None = None


class Crew(Others):
    """Several that go on together, in one thread; `enough` of them ask Postgres without waiting for the rest."""

    def __init__(
        self, context: EngineContext, *, until: float, enough: int = ASKED_TOGETHER_MAX
    ) -> None:
        self._context, self._stopwatch = context, context.stopwatch
        self._until, self._enough = until, enough
        self._members: dict[greenlet, _Member] = {}
        self._ready: deque[_Member] = deque()
        self._asking: list[_Member] = []
        self._aside: deque[_Member] = deque()
        self._failures: list[Exception] = []
        self._driver = getcurrent()

    def go(self, deeds: Sequence[Callable[[], None]]) -> None:
        """Do all of them, from the stack that this crew was made on."""
        for deed in deeds:
            self._join(deed)
        try:
            while self._members:
                self._do_next()
        except BaseException as end:
            self._end_all(end)  # guard: a crew ends with its worker
            raise
        self._raise_first()

    def _raise_first(self) -> None:
        failures, self._failures = self._failures, []
        try:
            for failure in failures[1:]:
                if not is_a_servers_trouble(failure):
                    log.error("another of the runs that went on together failed", exc_info=failure)
                failure.__traceback__ = None
            if failures:
                raise failures[0]
        finally:
            del failures  # see `_wait_as`

    # -- for members -------------------------------------------------------------------------

    def ask(self, verb: Together[Ask, Answer], ask: Ask) -> Answer:
        """Wait for the others, and go with them."""
        member = self._members[getcurrent()]
        member.verb, member.ask, member.kind = verb, ask, (verb, verb.kind(ask))
        member.asked_at = self._stopwatch()
        self._asking.append(member)
        self._wait_as(member)
        answer: Answer = member.answer
        return answer

    def rows(self, statement: Statement, parameters: dict[str, object]) -> Sequence[Any]:
        """At once, on a connection of its own."""
        with self._context.connection() as connection:
            return statement.rows(connection, **parameters)

    def may_call(self, name: str) -> bool:
        """Whether the others can wait for a call of it: it is short here, and their time isn't over."""
        return len(self._members) == 1 or (
            self._context.pace.is_short(name)  # guard: others wait for short calls alone
            and self._stopwatch() < self._until  # guard: a crew's time
        )

    def may_lose(self, name: str) -> bool:
        """Whether another attempt follows if this worker dies in some other run's call."""
        is_last = len(self._members) == 1
        return is_last or self._context.registry.stage(name).retry.allows_another(1)

    def step_aside(self, name: str) -> None:
        """Before a call that others shouldn't wait for. HandedBack: let another worker make it."""
        if self.may_call(name):
            return
        member = self._members[getcurrent()]
        self._aside.append(member)
        self._wait_as(member)

    def _wait_as(self, member: _Member) -> None:
        """Until this member's turn comes again. Raises what has come of its wait."""
        self._driver.switch()
        failure, member.failure = member.failure, None
        if failure is not None:
            # Its traceback leads here: in a circle it would stay until a collection of garbage.
            try:
                raise failure
            finally:
                del failure

    # -- in turns ----------------------------------------------------------------------------

    def _join(self, deed: Callable[[], None]) -> None:
        stack = greenlet(self._doing(deed))
        stack.gr_context = copy_context()  # guard: a context of one's own
        member = self._members[stack] = _Member(stack)
        self._ready.append(member)

    def _doing(self, deed: Callable[[], None]) -> Callable[[], None]:
        def do() -> None:
            try:
                deed()
            except Exception as failure:  # noqa: BLE001 - it is raised when all have ended
                self._failures.append(failure)
            finally:
                del self._members[getcurrent()]

        return do

    def _do_next(self) -> None:
        self._go_on()
        if self._asking:
            self._answer_next()
        elif self._aside:
            self._keep_one()

    def _go_on(self) -> None:
        """Everyone who can, until it is time to ask Postgres."""
        while self._ready and not self._is_time_to_ask():
            self._ready.popleft().stack.switch()

    def _is_time_to_ask(self) -> bool:
        """Enough have asked, or the first of them has waited for long."""
        if not self._asking:
            return False
        waited = self._stopwatch() - self._asking[0].asked_at
        return (
            len(self._asking) >= self._enough
            or waited >= WITHHELD_SECONDS_MAX  # guard: what is withheld is recorded soon
        )

    def _keep_one(self) -> None:
        """All that are left would rather be alone: one stays, and the others go back to the fleet."""
        kept = self._aside.popleft()
        for member in self._aside:
            member.failure = HandedBack()
        self._ready += [*self._aside, kept]
        self._aside.clear()

    def _answer_next(self) -> None:
        """Ask what has waited longest, and all that fits to it."""
        asking, self._asking = self._asking, []
        kind = asking[0].kind
        group: list[_Member] = []
        for member in asking:
            (group if member.kind == kind else self._asking).append(member)
        self._answer(group)
        self._ready += group

    def _answer(self, group: Sequence[_Member]) -> None:
        verb = group[0].verb
        assert verb is not None  # noqa: S101 - they ask
        try:
            with self._connection(verb, group) as connection:
                answers = verb.many(connection, [member.ask for member in group])
        except Exception as error:  # noqa: BLE001 - theirs to judge
            if len(group) > 1 and is_refused(error):  # guard: a refusal is one run's
                for member in group:  # whose fault it is shows when each asks alone
                    self._answer([member])
                return
            for member in group:
                member.failure = error
        else:
            for member, answer in zip(group, answers, strict=True):
                member.answer, member.failure = answer, None
                if len(group) > 1 and verb.is_left_out(answer):  # guard: who is left out asks alone
                    self._answer([member])

    @contextmanager
    def _connection(
        self, verb: Together[Any, Any], group: Sequence[_Member]
    ) -> Iterator[Connection | Meanwhile]:
        """One on which the others go on while Postgres is at work, if any can, and it does no harm.

        A statement of many waits for no lock. And who goes on may need a connection too: there must be one left.
        """
        can_others = bool(self._ready) and not self._is_time_to_ask()
        is_harmless = (
            len(group) > 1  # guard: nobody goes on while one is asked for alone
            and verb.is_short  # guard: nobody goes on while runs are loaded
        )
        if (
            can_others
            and is_harmless
            and self._context.spare.acquire(blocking=False)  # guard: a connection to spare
        ):
            try:
                with self._context.connection() as connection:
                    yield Meanwhile(connection, self._go_on)
            finally:
                self._context.spare.release()
        else:
            with self._context.connection() as connection:
                yield connection

    def _end_all(self, end: BaseException) -> None:
        """This worker is being ended: so are they, wherever they stand."""
        for stack in list(self._members):
            try:
                stack.throw(end)
            except BaseException:
                log.debug("a run that went on with others ended with them", exc_info=True)


@dataclass(frozen=True, slots=True)
class InPlaceTogether:
    """An `InPlace` among others."""

    alone: InPlace
    crew: Crew

    def may_take(self, stage: NewActivity) -> bool:
        """As alone, and only what others can wait for, and what may be lost with any of them."""
        name = stage.request.name
        return (
            self.crew.may_call(name)
            and self.crew.may_lose(name)  # guard: what is tried once waits for nobody
            and self.alone.may_take(stage)
        )

    def perform(self, claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        """As alone."""
        return self.alone.perform(claim, work)
