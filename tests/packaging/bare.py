"""An environment that holds the wheel and what it requires, and nothing that happens to be here too.

No network is asked: the distributions are those of this interpreter, linked. What a distribution requires is
read from its own metadata, as pip reads it; so what is imported and required by nobody is not there.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements_of(wheel: Path) -> list[Requirement]:
    """What the wheel itself asks for, in its extras too."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Metadata.from_email(archive.read(name), validate=False).requires_dist or []


def needed(requirements: list[Requirement], extras: set[str]) -> set[str]:
    """The names of all distributions that pip would install for it with these extras."""
    found: set[tuple[str, str]] = set()
    waiting = list(_wanted(requirements, extras))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in found:
                found.add((name, extra))
                asked = map(Requirement, metadata.requires(name) or ())
                waiting += _wanted(list(asked), {extra})
    return {name for name, _ in found}


def _wanted(requirements: list[Requirement], extras: set[str]) -> Iterator[Requirement]:
    for requirement in requirements:
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def link(names: set[str], site: Path) -> None:
    """Put what these distributions installed into a directory of packages."""
    for name in names:
        distribution = metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            target = site / top
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def environment(home: Path, wheel: Path, *extras: str) -> Path:
    """Make it in `home`; the path of its interpreter."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=60
    )
    (site,) = home.glob("lib/python*/site-packages")
    link(needed(requirements_of(wheel), set(extras)), site)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return home / "bin" / "python"
