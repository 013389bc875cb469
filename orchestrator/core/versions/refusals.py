"""Why a run can't be migrated by a plan: one class for each reason, each with its sentence and what to do.

The rules are Camunda's and Mendix's, as far as there is the like of them here; docs/migrate.md lists them with the
sentences. A refusal names keys, kinds and types, and never a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Refusal:
    """`key`: the activity that it is about, "" where it is about the run. `says`: what is so, of this run."""

    says: str
    key: str = ""

    title: ClassVar[str] = "refused"
    """What runs that are refused for one reason are called together."""
    remedy: ClassVar[str] = ""
    passes: ClassVar[bool] = False
    """True where time alone may change it: apply the plan again."""

    def __str__(self) -> str:
        return f"{self.says}. {self.remedy}" if self.remedy else self.says


class OtherVersion(Refusal):
    """The run is of another process, or stands on another version than the plan says."""

    __slots__ = ()
    title = "run of another version"
    remedy = "Make a plan for its version"


class RunEnded(Refusal):
    """What has ended keeps its version."""

    __slots__ = ()
    title = "run has ended"
    remedy = "Start it anew on the new version with `perennial restart`"


class WorkInFlight(Refusal):
    """A worker has claimed a stage, or holds the run's turn."""

    __slots__ = ()
    title = "work in flight"
    remedy = "Apply the plan again when that is done"
    passes = True


class KindChange(Refusal):
    """The new version has something of another kind under the key."""

    __slots__ = ()
    title = "kind change"
    remedy = "Map it to something of its own kind, or remove it and insert the new one"


class NameChange(Refusal):
    """The new version has another stage, approval or signal under the same key."""

    __slots__ = ()
    title = "another name under one key"
    remedy = "Map the key to itself if it is the same thing"


class ScopeChange(Refusal):
    """What is open would come into a branch of a gather, out of one, or into another."""

    __slots__ = ()
    title = "scope change"
    remedy = "Wait until it is done, or remove it, so that it is asked anew"


class Merge(Refusal):
    """Two activities of the run are mapped to one key."""

    __slots__ = ()
    title = "merge of what is active"
    remedy = "Map one of them, and remove the other"


class Split(Refusal):
    """One activity of the run is mapped to several keys."""

    __slots__ = ()
    title = "split of what is active"
    remedy = "Map it to one key, and insert the others with run or skip"


class KeyCollision(Refusal):
    """Something else of the run has the key that the plan gives away."""

    __slots__ = ()
    title = "key collision"
    remedy = "Map or remove what has that key"


class InsertedBehind(Refusal):
    """The new version has something before what the run has already come to."""

    __slots__ = ()
    title = "insertion behind the cursor"
    remedy = "Say under `insert` whether to `run` or to `skip` it"


class MovedAhead(Refusal):
    """What is done stands after the place where the run is, in the new version, or nowhere in it."""

    __slots__ = ()
    title = "executed stage moved ahead"
    remedy = (
        "Say `skip` under `insert` to keep its result for then, `run` to do it again, or remove it"
    )


class NotAsked(Refusal):
    """The new version doesn't ask for what the run has."""

    __slots__ = ()
    title = "not in the new version"
    remedy = "Map it to its new key, or remove it"


class OtherArguments(Refusal):
    """What is done was called with other arguments than the new version gives."""

    __slots__ = ()
    title = "done with other arguments"
    remedy = "Say `keep` to take its result all the same, or remove it and insert it with `run`"


class TimerUndecided(Refusal):
    """The new version has other times for what is open, and the plan doesn't say which hold."""

    __slots__ = ()
    title = "timer without decision"
    remedy = "Say `timers: keep` (absolute due times stand) or `timers: restart` (from now on)"


class VotesUndecided(Refusal):
    """People have voted on what is open and has changed, and the plan doesn't say what becomes of the votes."""

    __slots__ = ()
    title = "votes without decision"
    remedy = "Say `votes: keep` or `votes: discard`"


class QuorumDecides(Refusal):
    """With the new version's quorum the votes that are there would decide at once."""

    __slots__ = ()
    title = "quorum would decide at once"
    remedy = "Say `votes: discard`, or wait for the decision"


class DataUnfit(Refusal):
    """The input, a result or an inserted answer does not fit the types of the new version."""

    __slots__ = ()
    title = "data that fails its type"
    remedy = "Give the new input under `data`, or let the type take the recorded form too"


class LacksCode(Refusal):
    """This program lacks a stage of the new version."""

    __slots__ = ()
    title = "lacks code"
    remedy = "Run this command with the app that has it"


class FlowBreaks(Refusal):
    """The new version's flow raises what no process should."""

    __slots__ = ()
    title = "flow breaks"
    remedy = "Mend it"


class NotProven(Refusal):
    """The journal that the plan makes contradicts the new version all the same."""

    __slots__ = ()
    title = "contradiction"
    remedy = "Name what differs under `map`, `insert` or `remove`"


class UnknownKeys(Refusal):
    """The plan names a key that neither of the two versions has. Of the plan, not of a run."""

    __slots__ = ()
    title = "unknown keys"
    remedy = "Correct it"


ALL: tuple[type[Refusal], ...] = tuple(Refusal.__subclasses__())
"""Each reason there is."""
