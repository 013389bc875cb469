"""docs/run-states.md draws what `MOVES` says and what the database allows."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import CheckConstraint

from orchestrator.core.run import CLOSED, MOVES, MOVING, REENTRIES, RunStatus
from orchestrator.store.schema.tables import run

PAGE = Path(__file__).parents[2] / "docs" / "run-states.md"
END = "[*]"


class Drawing:
    """A mermaid state diagram: arrows, and boxes that hold states or other boxes."""

    def __init__(self, text: str) -> None:
        self.arrows: list[tuple[str, str]] = []
        self.inside: dict[str, set[str]] = {}
        self.first: dict[str, str] = {}
        boxes: list[str] = []
        for line in text.splitlines():
            if opened := re.match(r'\s*state ".*" as (\w+) \{', line):
                self._hold(boxes, opened[1])
                boxes.append(opened[1])
            elif line.strip() == "}":
                boxes.pop()
            elif arrow := re.match(r"\s*(\S+) --> (\w+|\[\*\])", line):
                self._draw(boxes, *arrow.groups())

    def _draw(self, boxes: list[str], origin: str, target: str) -> None:
        if origin == END and boxes:
            self.first[boxes[-1]] = target
        else:
            self.arrows.append((origin, target))
        for state in {origin, target} - {END}:
            self._hold(boxes, state)

    def _hold(self, boxes: list[str], state: str) -> None:
        if boxes:
            self.inside.setdefault(boxes[-1], set()).add(state)

    def states_in(self, name: str) -> set[str]:
        if name not in self.inside:
            return {name}
        return {state for inner in self.inside[name] for state in self.states_in(inner)}

    def entered_by(self, name: str) -> str:
        return self.entered_by(self.first[name]) if name in self.first else name

    def moves(self) -> set[tuple[str, str]]:
        """Every arrow between two statuses, with the boxes opened."""
        return {
            (state, self.entered_by(target))
            for origin, target in self.arrows
            for state in self.states_in(origin)
        }


def drawing() -> Drawing:
    found = re.search(
        r"```mermaid\n(stateDiagram-v2\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found, "run-states.md has no stateDiagram-v2"
    return Drawing(found[1])


def check(name: str) -> str:
    (found,) = (
        str(constraint.sqltext)
        for constraint in run.constraints
        if isinstance(constraint, CheckConstraint) and constraint.name == name
    )
    return found


def test_the_arrows_are_the_moves_that_the_code_allows():
    drawn = drawing().moves()
    allowed = {
        (str(origin), str(target))
        for table in (MOVES, REENTRIES)
        for origin, targets in table.items()
        for target in targets
    }
    starts, ends = {(END, "running")}, {(str(status), END) for status in CLOSED}
    assert drawn == allowed | starts | ends


def test_the_boxes_hold_what_their_names_say():
    assert drawing().states_in("moving") == set(MOVING)
    assert drawing().states_in("open") == set(RunStatus) - CLOSED


def test_the_database_knows_the_same_statuses():
    assert set(re.findall(r"'(\w+)'", check("run_status_check"))) == set(RunStatus)
    assert set(re.findall(r"'(\w+)'", check("run_closed_check"))) == CLOSED
