"""A plan of migration: which runs go from which version to which, and what becomes of what they have recorded.

read_plan(text)    of YAML or JSON
written(plan)      as YAML, to be read and edited
Plan.id            a digest of its content: the same plan is applied to a run once

process: access-request
from: 1
to: 2
map: {wait-for-manager: wait-for-owner}     # old key: new key
insert: {scan: run, security: {skip: null}} # what the new version has behind the place where a run stands
remove: [legal]
keep: [price]                               # what is done with other arguments than the new version gives
timers: keep                                # or restart
votes: keep                                 # or discard
data: {amount: $.sum, currency: EUR}        # the new input; or {function: module:name}
on_error: leave                             # or park
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from io import StringIO
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML

from orchestrator.core.declarative_source import read_yaml
from orchestrator.errors import DefinitionError

Key = Annotated[str, Field(min_length=1, max_length=1000)]

RUN: Literal["run"] = "run"
SKIP: Literal["skip"] = "skip"

_CHAPTER = re.compile(r"[1-9]\d*#(/|$)")
"""How a key of a later chapter begins (`RunContext.root`); nothing that an author names does."""

ID_LETTERS = 12
"""So much of a digest is shown, and is enough to name a plan."""


class Skip(BaseModel):
    """It isn't done: its await has this answer. For an approval, `approved` or `rejected` is enough."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    skip: Any


Insertion = Literal["run", "skip"] | Skip


class Plan(BaseModel):
    """See the module. Keys are those of the journal (`perennial show`), before a `#` or a `/` all that follows.

    They are meant in each chapter of a run: where one is given with a chapter's head (`3#/review`), the head counts
    for nothing.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True
    )

    process: Key
    from_version: int = Field(alias="from", ge=1)
    to: int = Field(ge=1)
    map: dict[Key, Key | list[Key]] = {}
    insert: dict[Key, Insertion] = {}
    remove: list[Key] = []
    keep: list[Key] = []
    timers: Literal["keep", "restart"] | None = None
    votes: Literal["keep", "discard"] | None = None
    data: dict[str, Any] | None = None
    on_error: Literal["leave", "park"] = "leave"

    @field_validator("remove", "keep")
    @classmethod
    def _once(cls, keys: list[str]) -> list[str]:
        return sorted({in_chapter(key)[1] for key in keys})

    @field_validator("map", "insert")
    @classmethod
    def _of_any_chapter(cls, says: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for given, value in says.items():
            key = in_chapter(given)[1]
            meant = in_chapter(value)[1] if isinstance(value, str) else value
            if found.setdefault(key, meant) != meant:
                raise ValueError(
                    f"{key!r} is said twice, for two chapters: a plan is for all of them"
                )
        return found

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Plan:
        if self.to == self.from_version:
            raise ValueError("`from` and `to` are the same version")
        for what, others in (("removed", self.remove), ("inserted", list(self.insert))):
            both = sorted(set(self.map) & set(others)) if what == "removed" else []
            if both:
                raise ValueError(f"{both[0]!r} is both mapped and {what}")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what it says, however it is written."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def id(self) -> str:
        """The digest's beginning: what the plan is called."""
        return self.digest[:ID_LETTERS]

    # -- what it says of a key ---------------------------------------------------------------

    def new_key(self, key: str) -> str:
        """The key that the new version has for it: by the longest part of its path that is mapped."""
        chapter, rest = in_chapter(key)
        for head in heads_of(key):
            target = self.map.get(head)
            if isinstance(target, str):
                return chapter + target + rest[len(head) :]
        return key

    def is_mapped(self, key: str) -> bool:
        """Whether the plan names it, or a head of it, in `map`."""
        return any(head in self.map for head in heads_of(key))

    def split(self, key: str) -> list[str] | None:
        """The several keys that it is mapped to. None: it is not."""
        targets = (self.map.get(head) for head in heads_of(key))
        return next((target for target in targets if isinstance(target, list)), None)

    def is_removed(self, key: str) -> bool:
        """Whether it, or a head of it, is in `remove`."""
        return any(head in self.remove for head in heads_of(key))

    def is_kept(self, key: str) -> bool:
        """Whether its result holds, whatever it was called with: it, or a head of it, is in `keep`, or `*` is."""
        return "*" in self.keep or any(head in self.keep for head in heads_of(key))

    def insertion(self, key: str) -> Insertion | None:
        """What it says of a key of the new version that a run lacks."""
        return next((self.insert[head] for head in heads_of(key) if head in self.insert), None)


def in_chapter(key: str) -> tuple[str, str]:
    """What says a key's chapter (`3#/`; "" in the first one), and the rest."""
    head = _CHAPTER.match(key)
    return ("", key) if head is None else (head.group(), key[head.end() :])


def heads_of(key: str) -> list[str]:
    """The key, and each head of its path, longest first: `reviews/security#2`, `reviews/security`, `reviews`.

    Without the head that says its chapter.
    """
    key = in_chapter(key)[1]
    ends = [place for place, letter in enumerate(key) if letter in "/#" and place > 0]
    return [key, *(key[:end] for end in reversed(ends))]


def read_plan(text: str, *, source: str = "<plan>") -> Plan:
    """The plan that a YAML or JSON text says. Raises DefinitionError, in sentences."""
    value = read_yaml(text, source=source).value
    if not isinstance(value, Mapping):
        raise DefinitionError(
            "is no plan of migration", where=source, remedy="Begin with `process:`, `from:`, `to:`."
        )
    try:
        return Plan.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(dict.fromkeys(_sentence(each) for each in error.errors()))
        raise DefinitionError(
            f"is no plan of migration: {problems}",
            where=source,
            remedy="docs/migrate.md says what a plan may hold.",
        ) from None


def _sentence(error: Any) -> str:
    place = [str(part) for part in error["loc"] if part not in ("Skip", "str", "list[str]")]
    named = [part for part in place if not part.startswith(("literal[", "constrained", "list["))]
    where = f"`{'.'.join(named[:2])}` " if named else ""
    if error["type"] == "missing":
        return f"{where}is missing"
    if error["type"] == "extra_forbidden":
        return f"{where}is nothing that a plan says"
    if named and named[0] == "insert":
        return f"{where}must be `run`, `skip` or `{{skip: result}}`"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}{message[0].lower() + message[1:] if where else message}"


def written(plan: Plan) -> str:
    """As YAML."""
    content = plan.model_dump(mode="json", by_alias=True, exclude_none=False)
    kept = {
        name: value
        for name, value in content.items()
        if value not in ({}, [], None) or name in ("process", "from", "to")
    }
    yaml = YAML()
    yaml.default_flow_style = False
    out = StringIO()
    yaml.dump(kept, out)
    return out.getvalue()
