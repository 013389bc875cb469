"""Verbs that do the same for many runs in one statement: what each of them asks, and how asks meet.

    @batch_verb("hold_turn")
    def hold(connection, asks): ...

    hold(connection, ask)    on a connection: this one ask, in a statement of its own
    hold(batch, ask)         on a BatchConnection: it waits for the asks of the batch's other runs, and one statement
                             holds them all

Each ask has a fence of its own: what one run loses, the other runs keep, and no run knows of another. A statement
that holds many runs waits for none: a run that is locked is left out, and asked for alone. (docs/adr/0014)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from orchestrator.store.statement import StandIn

Call = TypeVar("Call")
Answer = TypeVar("Answer")


class BatchConnection(StandIn):
    """Stands where a connection does, for one run of a batch."""

    @abstractmethod
    def ask(self, verb: BatchVerb[Call, Answer], ask: Call) -> Answer:
        """The answer, when the other runs have asked for theirs or have nothing to ask."""


def whose_run_is_free(but: str = "") -> str:
    """After a recordset `t` of many. `but`: SQL, which runs are left out besides.

    Who waits for one run while it holds others makes a circle with a producer that holds that one and wants another.
    """
    return f""", LATERAL (
        SELECT FROM perennial.run WHERE id = t.run_id {but}FOR NO KEY UPDATE
            SKIP LOCKED  /* guard: no statement of many waits for one */
        ) its_run"""


WHOSE_RUN_IS_FREE = whose_run_is_free()


def if_many(asks: Sequence[Any]) -> str:
    """What keeps a statement from waiting: one that is alone may."""
    return WHOSE_RUN_IS_FREE if len(asks) > 1 else ""


@dataclass(frozen=True, slots=True)
class BatchVerb(Generic[Call, Answer]):
    """A verb of one statement, for one ask or for many.

    `many` answers in the order of the asks. `kind`: only asks of one kind fit into one statement.
    `is_left_out`: the answer may only mean that the run was locked. `is_short`: its answers fit into any buffer.
    """

    name: str
    many: Callable[[Any, Sequence[Call]], Sequence[Answer]]
    kind: Callable[[Call], Hashable] = lambda _ask: None
    is_left_out: Callable[[Answer], bool] = lambda _answer: False
    is_short: bool = True

    def __call__(self, connection: Any, ask: Call) -> Answer:
        """Perform it, on whatever connection it is."""
        if isinstance(connection, BatchConnection):
            return connection.ask(self, ask)
        return self.many(connection, [ask])[0]


def batch_verb(
    name: str,
    *,
    kind: Callable[[Call], Hashable] = lambda _ask: None,
    is_left_out: Callable[[Answer], bool] = lambda _answer: False,
    is_short: bool = True,
) -> Callable[[Callable[[Any, Sequence[Call]], Sequence[Answer]]], BatchVerb[Call, Answer]]:
    """Make a verb of what answers many asks in one statement."""
    return lambda many: BatchVerb(name, many, kind, is_left_out, is_short)
