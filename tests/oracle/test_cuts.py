"""The oracle bites: with a guard of the engine cut out, some of the first seeds contradict what was predicted.

These eight show that the adversary is awake; tests/guards cuts out every guard, each over a test of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest

from orchestrator.core.journal import Activity
from orchestrator.engine import inline_steps, stage, turn
from orchestrator.store import activities, approvals, commit, turns
from orchestrator.store.statement import Statement
from tests.oracle.adversary import Theatre
from tests.oracle.tasks import BEGINNING

SEEDS_MAX = 60


@dataclass(frozen=True)
class Cut:
    """Text of a statement, and what stands there when it is cut out."""

    module: ModuleType
    statement: str
    text: str
    instead: str = "true"

    def __call__(self, patch: pytest.MonkeyPatch) -> None:
        found = getattr(self.module, self.statement)
        sql = found.sql if isinstance(found, Statement) else found
        assert self.text in sql, (
            f"{self.statement} has no {self.text!r} any more: name its cut anew"
        )
        cut = sql.replace(self.text, self.instead)
        kept = replace(found, sql=cut) if isinstance(found, Statement) else cut
        patch.setattr(self.module, self.statement, kept)


def facts_first(patch: pytest.MonkeyPatch) -> None:
    """Inline steps are called on what isn't recorded yet."""
    take_turn = turn.take_turn

    def eager(*args: Any, **options: Any) -> Any:
        return take_turn(*args, **{**options, "may_perform": True})

    patch.setattr(turn, "take_turn", eager)


def errors_of_the_record_are_kept_from_authors(patch: pytest.MonkeyPatch) -> None:
    """What Postgres says while a step is recorded comes out of `step` as its error."""

    class Never(Exception):
        pass

    patch.setattr(stage, "SQLAlchemyError", Never)
    patch.setattr(inline_steps, "SQLAlchemyError", Never)


def the_order_of_facts(patch: pytest.MonkeyPatch) -> None:
    """Answers come in the order in which a flow has asked, and not in that of the facts."""
    patch.setattr(Activity, "place", property(lambda it: (0, BEGINNING, it.ordinal, it.key)))


def still_ours(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(turn, "_still_ours", lambda *_: True)


CLAIMED = "AND a.attempt = fence.settled_attempt\n        AND a.state = 'claimed'"

CUTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], ...]] = {
    "the attempt fence of a settlement": (
        Cut(commit, "_FENCE_WITH_ATTEMPT", turns.ATTEMPT_HOLDS),
        Cut(commit, "SETTLED", CLAIMED, ""),
        Cut(turns, "_RECORD_SETTLEMENT", CLAIMED, ""),
        Cut(turns, "_RECORD_SETTLEMENT", turns.ATTEMPT_HOLDS),
        still_ours,
    ),
    "the memory of a stage's steps": (
        Cut(activities, "_CLAIM", "a.parent_key IS NULL OR a.parent_key = claimed.key", "false"),
    ),
    "the revision check": (
        Cut(commit, "_FENCE_ALONE", "r.revision = t.revision"),
        Cut(commit, "_FENCE_WITH_ATTEMPT", "r.revision = t.revision"),
    ),
    "facts before steps": (facts_first,),
    "the order of facts": (the_order_of_facts,),
    "errors of the record are no author's": (errors_of_the_record_are_kept_from_authors,),
    "the outbox row of a stage": (
        Cut(commit, "_HANDED_OFF", "ON h.run_id = fence.run_id", "ON false"),
    ),
    "when it is too late": (Cut(approvals, "_DECIDE", "perennial.now() < p.deadline"),),
}


FIRST_SEEDS = {"errors of the record are no author's": 110, "when it is too late": 70}
"""Where the search begins for what is missed by one seed in a hundred or so; else at the first."""


@pytest.fixture(scope="module")
def theatre(database):
    with Theatre(database) as theatre:
        yield theatre


@pytest.fixture(autouse=True)
def composed_anew() -> Iterator[None]:
    """Statements of a commit are composed once and kept: with what was cut out, or without."""
    commit._statement_of.cache_clear()
    yield
    commit._statement_of.cache_clear()


@pytest.mark.parametrize("name", CUTS)
def test_without_its_guard_some_seed_contradicts_the_prediction(theatre, monkeypatch, name):
    for cut in CUTS[name]:
        cut(monkeypatch)
    first = FIRST_SEEDS.get(name, 1)
    for seed in range(first, first + SEEDS_MAX):
        if found := theatre.play(seed).contradictions:
            print(f"seed {seed}: {found[0]}")
            return
    pytest.fail(f"{SEEDS_MAX} seeds, and none of them misses {name}")
