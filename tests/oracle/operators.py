"""Operators: they let runs go another way, at any moment, and note what they were told is done.

    operators.act(run)    one verb on one of its activities, or on the run; what it did, in words
    operators.copies      what forks have made, each with the run that it was made of

The engine says whether a verb makes sense now. Where it does, the prediction follows: an end that was given is the
activity's end (`run.by_hand`), and what goes on again may be called again (`run.operated`). Where it must not, it
must be refused; and what is done under one operation's id is done once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from orchestrator import Client
from orchestrator.errors import OperationRefused
from tests.oracle.check import Operated
from tests.oracle.predict import Hand, predict
from tests.oracle.programs import Program
from tests.oracle.world import Player

ACTIVITIES = """
SELECT a.key, a.kind, a.state, a.opened_at, r.status FROM perennial.run r LEFT JOIN perennial.activity a
    ON a.run_id = r.id AND a.parent_key IS NULL
WHERE r.id = %(run_id)s ORDER BY a.ordinal, a.key
"""

EVENTS = {
    "skip": "skipped",
    "complete": "completed by hand",
    "fail": "failed by hand",
    "retry": "retried",
    "rewind": "rewound",
    "fork": "forked",
}
WEIGHTS = {"skip": 3.0, "complete": 3.0, "fail": 2.0, "retry": 2.0, "rewind": 3.0, "fork": 1.5}
AGAIN_MAX = 3
"""So often a run is let go on again, or goes back."""

COPIES_MAX = 2
"""Of all runs of a play."""

CLOSED = ("completed", "failed", "cancelled", "expired")


class Run(Protocol):
    """Of a play."""

    run_id: UUID
    program: Program
    player: Player
    troubles: list[str]
    by_hand: dict[str, Hand]
    operated: Operated


@dataclass(frozen=True)
class Copied:
    """What a fork has made."""

    run_id: UUID
    program: Program
    player: Player
    by_hand: dict[str, Hand]
    operated: Operated


class Operators:
    """Of one seed."""

    def __init__(self, client: Client, seed: int, rows: Callable[..., Sequence[Any]]) -> None:
        self.client, self.rows = client, rows
        self.chance = random.Random(f"operators {seed}")
        self.count = 0
        self.copies: list[Copied] = []

    def act(self, run: Run) -> str | None:
        """One verb, on one activity. None: it was refused."""
        found = self.rows(ACTIVITIES, run_id=run.run_id)
        verbs = dict(WEIGHTS)
        if run.operated.told["retried"] + run.operated.told["rewound"] >= AGAIN_MAX:
            del verbs["retry"], verbs["rewind"]
        if len(self.copies) >= COPIES_MAX:
            del verbs["fork"]
        if found[0].status == "failed" and "retry" in verbs:
            verbs["retry"] *= 5
        (verb,) = self.chance.choices(list(verbs), list(verbs.values()))
        activity = self.chance.choice(found)
        if activity.key is None and verb != "retry":
            return None
        self.count += 1
        hand = self.hand_for(verb, activity.kind)
        try:
            result = self.say(verb, run, activity.key, hand)
        except OperationRefused as refusal:
            self.look_at_refusal(verb, run, found, refusal)
            return None
        if verb == "fork":
            self.note_copy(run, activity, found, result)
        else:
            self.look(verb, run, activity, found, result.preview)
            self.note(verb, run, activity.key, hand, result.preview)
        return f"{verb} {'' if verb == 'retry' else activity.key}"

    def hand_for(self, verb: str, kind: str | None) -> Hand:
        if verb == "fail":
            return Hand(error=f"Told{self.count}")
        results = {"sleep": None, "signal": 10_000 + self.count}
        return Hand(results.get(kind or "", f"by hand {self.count}"))

    def say(self, verb: str, run: Run, key: str, hand: Hand) -> Any:
        """At times twice, by one who has seen no answer."""
        operations, which = self.client.operations, f"operation {self.count}"
        options: dict[str, Any] = {"by": "an operator", "operation": which}
        match verb:
            case "retry":
                again = lambda: operations.retry(run.run_id, **options)  # noqa: E731
            case "rewind":
                again = lambda: operations.rewind(  # noqa: E731
                    run.run_id, key, even_if_completed=True, **options
                )
            case "fork":
                again = lambda: operations.fork(run.run_id, at=key, **options)  # noqa: E731
            case "fail":
                again = lambda: operations.fail(  # noqa: E731
                    run.run_id, key, error="it was told to", error_type=hand.error, **options
                )
            case _:
                again = lambda: getattr(operations, verb)(  # noqa: E731
                    run.run_id, key, result=hand.result, **options
                )
        result = again()
        if self.chance.random() < 0.3:
            second = again()
            if second.is_applied or second.new_run_id != result.new_run_id:
                run.troubles.append(f"{verb} {key} was applied twice under one id")
        return result

    # -- what is said of it -----------------------------------------------------------------------

    @staticmethod
    def look(verb: str, run: Run, activity: Any, found: Sequence[Any], preview: Any) -> None:
        """What must be refused was; and what goes on again is what has failed, or lies behind."""
        opened = {each.key: each for each in found}
        gone = set(preview.change.removed)
        if verb == "rewind":
            before = [key for key in gone if opened[key].opened_at < activity.opened_at]
            if activity.key not in gone or before:
                run.troubles.append(f"rewind to {activity.key} took out {sorted(gone)}")
            return
        open_ends = ("failed", "timed_out", "cancelled")
        if [key for key in gone if opened[key].state not in open_ends]:
            run.troubles.append(f"{verb} took out {sorted(gone)} of {opened}")
        if verb == "retry" and found[0].status == "failed":
            failed_by = predict(run.program, by_hand=run.by_hand).failed_by
            # Of what an author raises in a rescue, the engine finds what was caught there.
            if not failed_by <= gone:
                run.troubles.append(f"retry took out {sorted(gone)}; it failed by {failed_by}")
        if verb != "retry" and (
            activity.state in ("done", "claimed") or activity.kind == "approval"
        ):
            run.troubles.append(f"{verb} of {activity.key}, which is {activity.state}, was taken")

    @staticmethod
    def look_at_refusal(
        verb: str, run: Run, found: Sequence[Any], refusal: OperationRefused
    ) -> None:
        """A run that has failed by an activity can be retried."""
        if verb != "retry" or found[0].status != "failed":
            return
        if predict(run.program, by_hand=run.by_hand).failed_by:
            run.troubles.append(f"retry was refused: {refusal}")

    @staticmethod
    def note(verb: str, run: Run, key: str, hand: Hand, preview: Any) -> None:
        """From here on the prediction is another."""
        change, operated = preview.change, run.operated
        operated.former |= predict(run.program, by_hand=run.by_hand).work
        operated.told[EVENTS[verb]] += 1
        again = {*change.removed, *(each.key for each in change.replaced)}
        operated.again.update(again)
        for gone in change.removed:
            run.by_hand.pop(gone, None)
        if verb in ("skip", "complete", "fail"):
            run.by_hand[key] = hand
        operated.kept -= {
            each for each in operated.kept if each in again or each.rpartition("/")[0] in again
        }
        run.player.is_asked_again(change.removed)
        if str(preview.status) in CLOSED:
            operated.reopened += 1
            run.player.has_ended = False

    def note_copy(self, run: Run, at: Any, found: Sequence[Any], result: Any) -> None:
        """A run more, of the same program. What it has kept was settled before the point, and it has its end."""
        opened = {each.key: each for each in found}
        kept = set(result.preview.copy.kept)
        for key in kept & opened.keys():
            if (
                opened[key].state in ("pending", "claimed", "retrying", "cancelled")
                or key == at.key
            ):
                run.troubles.append(f"a copy from {at.key} kept {key}: {opened[key]}")
        for key, each in opened.items():
            is_settled = each.state in ("done", "failed", "timed_out")
            if is_settled and each.opened_at < at.opened_at and key not in kept:
                run.troubles.append(f"a copy from {at.key} has not kept {key}: {each}")
        run.operated.told["forked"] += 1
        operated = Operated(told=Counter(["forked"]), kept=kept, is_copy=True)
        self.copies.append(
            Copied(
                result.new_run_id,
                run.program,
                run.player.of_copy(result.new_run_id, kept),
                {key: hand for key, hand in run.by_hand.items() if key in kept},
                operated,
            )
        )
