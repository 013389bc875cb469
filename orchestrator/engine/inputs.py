"""What a process takes, as its deployment says: checked wherever a run is started, whatever is imported there.

`Contract` is what a starter knows of a deployed process, and `Contracts` keeps what a client has learnt. A start
says by which schema its input was checked, and Postgres starts nothing by another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.core import codec
from orchestrator.core.schemas import input_schema_of
from orchestrator.engine.validation import Validator
from orchestrator.errors import InvalidInput
from orchestrator.store.transitions.processes import InputOf

if TYPE_CHECKING:
    from orchestrator.core.definition import Process

CONTRACTS_MAX = 1_000
"""So many are kept: a client that starts more processes learns again."""


@dataclass(frozen=True)
class Contract:
    """What a deployed version takes, as a starter knows it."""

    process: str
    takes: InputOf

    def written(self, value: Any, definition: Process | None) -> str:
        """`value` as JSON text, that the process takes. Raises InvalidInput and PayloadError.

        `definition`: this version as this program has it, if it has it. Where it takes what the deployed one
        takes, its own type has judged.
        """
        declared = definition.input_type if definition is not None else Any
        what = f"input of {self.process}"
        text = codec.check_input(value, declared, what=what)
        if self.takes.schema is not None and (
            definition is None or input_schema_of(declared).digest != self.takes.digest
        ):
            problems = self._validator.problems(codec.parse(text))
            if problems:
                given = "; none was given" if value is None else ""
                message = f"{what} version {self.takes.version}: {'; '.join(problems)}{given}"
                raise InvalidInput(message)
        return text

    @cached_property
    def _validator(self) -> Validator:
        return Validator(self.takes.schema or {})


class Contracts:
    """What this client knows of deployed processes. It may be old: each start is told so by the record."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | None], Contract] = {}

    def find(self, process: str, version: int | None) -> Contract | None:
        """What is known of that version, or of the newest (None)."""
        return self._known.get((process, version))

    def learn(self, process: str, version: int | None, takes: InputOf) -> Contract:
        """From here on this is known of that version, or of the newest (None)."""
        if len(self._known) >= CONTRACTS_MAX:
            self._known.clear()
        contract = self._known[process, version] = Contract(process, takes)
        return contract
