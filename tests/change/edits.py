"""The edits that a team makes while runs are open: each a change of `access.txt`, with the door that it takes.

`found`: what a check says of the runs at a place, where that isn't `unchanged`. `stay`: places whose runs end on the
code that they began with. `ends`: what each place comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.change.world import PLACES

BASE = (Path(__file__).parent / "access.txt").read_text()


class Door(StrEnum):
    """What an author does with an edit."""

    DEPLOY = "deploy"
    """It is the same content, or of stages alone."""
    AMEND = "deploy --amend"
    """Runs that go on move to it; the others stay with what they have."""
    VERSION = "another version"
    """Open runs stay with what they have; new ones take it."""
    MIGRATE = "migrate"
    """Another version, and open runs move to it by a plan."""


def as_before(place: str) -> str:
    """What a run comes to that nothing has changed."""
    return f"{place}0-2 is there"


@dataclass(frozen=True)
class Edit:
    """`changes`: what is replaced by what. `plan`: of a migration from 1 to 2."""

    name: str
    changes: Sequence[tuple[str, str]]
    door: Door
    found: Mapping[str, str] = field(default_factory=dict)
    stay: Sequence[str] = ()
    ends: Callable[[str], str] = as_before
    plan: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    """How often a stage has its effect in all runs of a place, where the edit adds or removes it."""

    @property
    def text_of_one_version(self) -> str:
        """The edited code, under the version that is deployed."""
        text = BASE
        for before, after in self.changes:
            assert before in text, f"{self.name}: {before!r} is not there"
            text = text.replace(before, after)
        return text

    @property
    def text(self) -> str:
        """The edited code, with the version that its door takes."""
        is_another = self.door in (Door.VERSION, Door.MIGRATE)
        return self.text_of_one_version.replace(
            "@process(version=1", f"@process(version={2 if is_another else 1}"
        )


def _at(found: str, *places: str) -> dict[str, str]:
    return dict.fromkeys(places, found)


ASKED = PLACES[:-1]
"""Where the first stage has been asked for."""
AT_MANAGER = PLACES[:5]
"""Where the first approval has been asked for."""
CONTRADICTION, UNREADABLE = "contradiction", "unreadable data"

_AUDIT = (
    "def level_of",
    (
        '@stage(registry=registry)\ndef audit(request: Request) -> None:\n    effect("audit", request.park)\n\n\n'
        "def level_of"
    ),
)
_GATHERED = """    scanned, _ = await flow.gather(
        flow.stage(scan, request), flow.approval("security", assign=["sam"])
    )
"""

EDITS = (
    Edit(
        "a bug fixed in a stage",
        [('account=f"{request.user}-{level}"', 'account=f"{request.user}/{level}"')],
        Door.DEPLOY,
        ends=lambda place: as_before(place) if place == "trial" else f"{place}0/2 is there",
    ),
    Edit(
        "a bug fixed in the flow behind the cursor",
        [("level_of(checked)", "level_of(checked) + 1")],
        Door.AMEND,
        found=_at(CONTRADICTION, "trial", "provision"),
        stay=("trial", "provision"),
        ends=lambda place: (
            as_before(place) if place in ("trial", "provision") else f"{place}0-3 is there"
        ),
    ),
    Edit(
        "a helper changed",
        [("return checked + 1", "return checked + 2")],
        Door.AMEND,
        found=_at(CONTRADICTION, "trial", "provision"),
        stay=("trial", "provision"),
        ends=lambda place: (
            as_before(place) if place in ("trial", "provision") else f"{place}0-3 is there"
        ),
    ),
    Edit(
        "only formatted",
        [
            (
                "    checked = await flow.stage(validate, request)\n",
                (
                    '    """What this process does."""\n    # first of all\n    is_valid = await flow.stage(\n'
                    "        validate,\n        request,\n    )\n"
                ),
            ),
            ("level_of(checked)", "level_of(is_valid)"),
        ],
        Door.DEPLOY,
    ),
    Edit(
        "a stage renamed that is done for most",
        [("def validate", "def check_request"), ("stage(validate", "stage(check_request")],
        Door.MIGRATE,
        found=_at(CONTRADICTION, *ASKED),
        plan={"map": {"validate": "check-request"}},
    ),
    Edit(
        "a stage renamed that is pending for some",
        [("def provision", "def grant_access"), ("stage(provision", "stage(grant_access")],
        Door.MIGRATE,
        found=_at(CONTRADICTION, "trial", "provision"),
        plan={"map": {"provision": "grant-access"}},
    ),
    Edit(
        "a stage inserted before where most stand",
        [
            _AUDIT,
            (
                '    await flow.sleep(days(1), key="cool-off")',
                '    await flow.stage(audit, request)\n    await flow.sleep(days(1), key="cool-off")',
            ),
        ],
        Door.MIGRATE,
        found=_at(CONTRADICTION, *PLACES[:6]),
        plan={"insert": {"audit": {"skip": None}}},
        calls={"validate": 1, "start": 1},
    ),
    Edit(
        "a stage inserted behind where all stand",
        [
            _AUDIT,
            (
                "    return await flow.stage(notify",
                "    await flow.stage(audit, request)\n    return await flow.stage(notify",
            ),
        ],
        Door.AMEND,
        calls=dict.fromkeys(PLACES, 1),
    ),
    Edit(
        "a stage removed",
        [(_GATHERED, '    await flow.approval("security", assign=["sam"])\n')],
        Door.VERSION,
        found=_at(CONTRADICTION, *PLACES[:4]),
        stay=PLACES,
    ),
    Edit(
        "the people of an approval changed while it is open",
        [('"manager", assign=["ann"]', '"manager", assign=["bob"]')],
        Door.MIGRATE,
        found=_at(CONTRADICTION, *AT_MANAGER),
    ),
    Edit(
        "the deadline of an approval changed while it is open",
        [("timeout=hours(48)", "timeout=hours(72)")],
        Door.MIGRATE,
        found=_at(CONTRADICTION, *AT_MANAGER),
        plan={"timers": "keep"},
    ),
    Edit(
        "the escalation of an approval changed while it is open",
        [("hours(24)", "hours(12)")],
        Door.MIGRATE,
        found=_at(CONTRADICTION, *AT_MANAGER),
        plan={"timers": "keep"},
    ),
    Edit(
        "a field added to the input",
        [("    park: str\n", "    park: str\n    urgent: bool = False\n")],
        Door.AMEND,
    ),
    Edit(
        "a field removed from the input",
        [("    user: str\n    park", "    park"), ("request.user", "request.park")],
        Door.VERSION,
        found=_at(CONTRADICTION, *ASKED),
        stay=PLACES,
        ends=lambda place: as_before(place) if place == "trial" else f"{place}-2 is there",
    ),
    Edit(
        "a field of the input renamed",
        [("    user: str\n", "    person: str\n"), ("request.user", "request.person")],
        Door.VERSION,
        found=_at(UNREADABLE, *PLACES),
        stay=PLACES,
    ),
    Edit(
        "a result type changed",
        [
            (
                "class Grant(BaseModel):\n    account: str",
                "class Grant(BaseModel):\n    login: str",
            ),
            ("Grant(account=", "Grant(login="),
            ("grant.account", "grant.login"),
        ],
        Door.AMEND,
        found=_at(UNREADABLE, "trial"),
        stay=("trial",),
    ),
)
