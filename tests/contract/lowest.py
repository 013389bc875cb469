"""The lowest version of each dependency that pyproject.toml promises, as constraints for pip.

    python -m tests.contract.lowest > constraints.txt     (`make test-lowest` does it)

What names no lowest version is left to whoever's it is to choose: billiard's is Celery's.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = ("binary", "embedded")
"""What users install beside; of tools for this repository alone nothing is promised."""


def promised(pyproject: str) -> list[str]:
    """What a wheel asks for, and what it asks for with these extras."""
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {})
    return [*project["dependencies"], *(each for name in EXTRAS for each in extras.get(name, ()))]


def lowest(requirements: Iterable[str]) -> Iterator[str]:
    """`name==version` of each that names a lowest version, once."""
    seen: set[str] = set()
    for each in map(Requirement, requirements):
        for specifier in each.specifier:
            constraint = f"{each.name}=={specifier.version}"
            if specifier.operator in (">=", "~=", "==") and constraint not in seen:
                seen.add(constraint)
                yield constraint


if __name__ == "__main__":
    sys.stdout.writelines(
        f"{each}\n" for each in lowest(promised((ROOT / "pyproject.toml").read_text()))
    )
