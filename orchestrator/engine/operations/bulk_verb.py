"""What a verb that may be said of many runs is: on which runs it acts, what it takes, how it is done to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.run import RunStatus
from orchestrator.core.selection import Selected
from orchestrator.engine.context import EngineContext
from orchestrator.errors import PerennialError


@dataclass(frozen=True, slots=True)
class VerbCall:
    """What an operator has asked for, of each run of a set."""

    by: str
    reason: str
    arguments: Mapping[str, Any]
    operation: UUID

    @property
    def actor(self) -> str:
        """As history names who, where a line of it has no place for the operation."""
        return f"{self.by} ({self.operation})"


Perform = Callable[[EngineContext, Connection, UUID, VerbCall], str]
"""Does it to one run, in the transaction of that connection; says what came of it. Raises PerennialError to refuse."""

Look = Callable[[EngineContext, Connection, UUID, VerbCall], tuple[str, ...]]
"""What it would do to one run. Writes nothing. Raises PerennialError where it would be refused."""


@dataclass(frozen=True, slots=True)
class BulkVerb:
    """`acts_on`: runs of these statuses; `by_default`: of these, where the filter names none."""

    name: str
    what: str
    acts_on: frozenset[RunStatus]
    by_default: frozenset[RunStatus]
    perform: Perform
    arguments: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    """Arguments that must be given."""
    look: Look | None = None
    """What it would do to one run, in sentences: a preview asks that of one run of each group."""
    check: Callable[[Mapping[str, Any]], object] | None = None
    """Makes something of the arguments; raises where nothing can be made of them."""

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that are given. Raises PerennialError for one that it doesn't take, or that is missing."""
        given = {name: value for name, value in arguments.items() if value is not None}
        if unknown := sorted(given.keys() - self.arguments):
            raise PerennialError(f"{self.name} of many runs takes no {', '.join(unknown)}")
        if missing := sorted(self.needs - given.keys()):
            raise PerennialError(f"{self.name} of many runs needs {' and '.join(missing)}")
        if self.check is not None:
            try:
                self.check(given)
            except (TypeError, ValueError) as error:
                raise PerennialError(f"{self.name} can make nothing of {given}: {error}") from None
        return given

    def refusal(self, run: Selected) -> str:
        """Why it would not act on that run; empty if it would."""
        if run.status in self.acts_on:
            return ""
        return f"it is {run.status}, and {self.name} acts on {' or '.join(sorted(self.acts_on))}"
