"""What a declarative process may say: the shape of its YAML, and what is wrong with another.

`read_grammar` checks shape alone; whether names mean anything is declarative_binding.py's to say.
A new key is a new field here, with a `description` that completes "Write ...". A spec leaves out
what has its default, so a new optional key changes no fingerprint.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from orchestrator.core.calendars import BusinessTime, Calendar, read_duration
from orchestrator.core.checks import check_name, check_queue
from orchestrator.core.declarative_source import Source, YamlPath, read_yaml
from orchestrator.core.durations import hours
from orchestrator.errors import DefinitionError

STAGES_MAX = 1000
"""The most stages and approvals of one process."""

HOURS_MIN = 0.000001
"""The shortest duration, 3.6 milliseconds."""

HOURS_MAX = 876_000
"""The longest duration, 100 years of 365 days."""

VERSION_MAX = 2**31 - 1
"""The largest version, Postgres's largest integer."""

Written = Annotated[str, Field(max_length=100)]
"""A duration in words, read by `read_duration`."""

Hours = Annotated[float, Field(ge=HOURS_MIN, le=HOURS_MAX, allow_inf_nan=False)]

_HOURS = "hours above 0 and up to 100 years, such as"


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_nothing(cls, value: Any) -> Any:
        """A key that was left blank is a slip, even where the key may be left out."""
        if value is None:
            raise ValueError("nothing")
        return value


class Timers(_Words):
    """The defaults of every approval of the process."""

    approval_timeout_hours: Hours | None = Field(
        default=None,
        description=f"{_HOURS} `approval_timeout_hours: 48` or 0.5",
    )
    escalation_after_hours: Hours | None = Field(
        default=None,
        description=f"{_HOURS} `escalation_after_hours: 24` or 0.5",
    )
    timeout: Written | None = Field(
        default=None,
        description="a duration such as `timeout: 2 business days`, `16 business hours` or `48h`",
    )
    escalation: Written | None = Field(
        default=None,
        description="a duration such as `escalation: 1 business day`, `8 business hours` or `24h`",
    )

    @property
    def approval_timeout(self) -> timedelta | BusinessTime | None:
        """How long people have to decide."""
        return _duration(self.timeout, self.approval_timeout_hours)

    @property
    def escalation_after(self) -> timedelta | BusinessTime | None:
        """When more people are asked."""
        return _duration(self.escalation, self.escalation_after_hours)


class WorkingTime(_Words):
    """Whose working time it is that business days and hours are counted in."""

    zone: str = Field(description="a time zone, such as `zone: Europe/Amsterdam`")
    hours: str = Field(
        default="Mo-Fr 09:00-17:00",
        description="days and spans, such as `hours: Mo-Th 09:00-17:00; Fr 09:00-14:00`",
    )
    holidays: str | None = Field(
        default=None,
        description="a country, or with its part, such as `holidays: NL` or DE-BY",
    )

    @property
    def calendar(self) -> Calendar:
        """Called as its process."""
        return Calendar("its process", self.zone, self.hours, self.holidays)


class DeclarativeSpec(_Words):
    """What is deployed: the process without its name and version."""

    stages: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=STAGES_MAX)] = (
        Field(
            description="a list of registered stages and approvals, "
            f"such as `stages: [validate-request, provision-access]` (at most {STAGES_MAX})"
        )
    )
    timers: Timers = Field(
        default=Timers(),
        description="hours by name, such as `timers: {approval_timeout_hours: 48}`",
    )
    calendar: WorkingTime | None = Field(
        default=None,
        description="whose working time counts, such as `calendar: {zone: Europe/Amsterdam, holidays: NL}`",
    )
    queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$")] | None = Field(
        default=None, description="the name of a Celery queue, such as `queue: iam`"
    )
    expires_after_hours: Hours | None = Field(
        default=None,
        description=f"{_HOURS} `expires_after_hours: 720`",
    )

    @property
    def expires_after(self) -> timedelta | None:
        """When a run that has not ended is closed."""
        return _timedelta(self.expires_after_hours)

    def as_spec(self) -> dict[str, Any]:
        """As plain JSON, without what has its default: the same for the same meaning."""
        return DeclarativeSpec.model_dump(
            self, mode="json", include=set(DeclarativeSpec.model_fields), exclude_defaults=True
        )


class DeclaredProcess(DeclarativeSpec):
    """All that stands under `process:`."""

    name: str = Field(description="a name, such as `name: access-request`")
    version: Annotated[int, Field(ge=1, le=VERSION_MAX)] = Field(
        default=1, description="a whole number from 1, such as `version: 2`"
    )


class _File(_Words):
    process: DeclaredProcess = Field(description="`process:`, and `name:` and `stages:` under it")


_WORDS_AT: dict[YamlPath, type[_Words]] = {
    (): _File,
    ("process",): DeclaredProcess,
    ("process", "timers"): Timers,
    ("process", "calendar"): WorkingTime,
}


def read_grammar(text: str, *, source: str) -> tuple[DeclaredProcess, Source]:
    """The process a YAML text declares, and where each part of it stands.

    Raises DefinitionError for everything that `read_yaml` refuses, and for every key that is
    unknown, missing or has a value it can't have.
    """
    read = read_yaml(text, source=source)
    if not isinstance(read.value, dict):
        raise DefinitionError(
            "the file declares no process",
            where=read.where(()),
            remedy=f"Write {_description(('process',))}.",
        )
    try:
        declared = _File.model_validate(read.value).process
    except ValidationError as error:
        # Unknown keys first: a misspelt key is also a missing one, and its line is the one to mend.
        found = sorted(
            error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden"
        )
        refuse(_explain(each, read) for each in found)
        raise
    check_name("process", declared.name, read.where(("process", "name")))
    check_queue(declared.queue, where=read.where(("process", "queue")))
    return declared, read


def refuse(problems: Iterable[DefinitionError]) -> None:
    """Raise the first problem, if there is any, with the others as its notes (PEP 678)."""
    found = list(problems)
    if not found:
        return
    first, *others = found
    for other in others:
        first.add_note(f"also {other}")
    raise first from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'timers'? `, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def _duration(written: str | None, number: float | None) -> timedelta | BusinessTime | None:
    return _timedelta(number) if written is None else read_duration(written)


def _timedelta(number: float | None) -> timedelta | None:
    return None if number is None else hours(number)


def _explain(error: ErrorDetails, read: Source) -> DefinitionError:
    path: YamlPath = error["loc"]
    where = read.where(path)
    if error["type"] == "extra_forbidden":
        return DefinitionError(
            f"unknown key {path[-1]!r}",
            where=where,
            remedy=_remedy_of_unknown(str(path[-1]), path[:-1]),
        )
    remedy = f"Write {_description(path)}."
    if error["type"] == "missing":
        return DefinitionError(f"`{_dotted(path)}` is missing", where=where, remedy=remedy)
    value = "nothing" if error["input"] is None else reprlib.repr(error["input"])
    return DefinitionError(f"`{_dotted(path)}` can't be {value}", where=where, remedy=remedy)


def _remedy_of_unknown(key: str, around: YamlPath) -> str:
    homes = [path for path, words in _WORDS_AT.items() if key in words.model_fields]
    if homes:
        home = _dotted(homes[0])
        return f"Indent it to stand under `{home}`." if home else "Move it to the left margin."
    known = _WORDS_AT[around].model_fields
    return f"{did_you_mean(key, known)}Known here: {', '.join(known)}."


def _description(path: YamlPath) -> str:
    """What to write there: the nearest field's own description."""
    for end in range(len(path), 0, -1):
        words = _WORDS_AT.get(path[: end - 1])
        field = words.model_fields.get(str(path[end - 1])) if words else None
        if field is not None and field.description:
            return field.description
    return str(_File.model_fields["process"].description)


def _dotted(path: Sequence[str | int]) -> str:
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return dotted.removeprefix(".")
