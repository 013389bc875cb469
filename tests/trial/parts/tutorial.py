"""The bare wheel in a fresh environment, and the tutorial to the letter: its Python, and each of its commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.trial.ground import ROOT, Failed, Ground, Venv, check

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def tutorial(ground: Ground) -> str:
    """Everything that the page says, in its order."""
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    module = "\n".join(code for language, code in blocks if language == "python")
    commands = [
        line
        for language, code in blocks
        if language == "sh"
        for line in code.splitlines()
        if line.strip()
    ]
    installs = [line for line in commands if line.startswith("pip install ")]
    check(len(installs) == 1, f"the page installs by one line, and not by {installs}")
    venv = _installed(ground, installs[0])
    space = ground.space("tutorial", {"trip.py": module})
    environment = ground.environment(
        HOME=str(space), PATH=f"{venv.folder / 'bin'}:/usr/sbin:/usr/bin:/bin"
    )
    done = []
    for command in (line for line in commands if line not in installs):
        first, *words = shlex.split(command)
        if words[-1:] == ["up"]:
            up = ground.start(
                [venv.path(first), *words], cwd=space, environment=environment, log="up"
            )
            log = space / "up.log"

            def is_up(log: Path = log) -> bool:
                return "Perennial is up" in log.read_text(encoding="utf-8", errors="replace")

            ground.wait_for(is_up, "`perennial up`", log=log)
            check(up.poll() is None, "`perennial up` has ended")
        else:
            said = ground.run([venv.path(first), *words], cwd=space, environment=environment)
            done.append((command, said))
    results = [said for command, said in done if " result " in f" {command} "]
    check(
        any("seat to Lisbon, room in Lisbon" in said for said in results),
        f"the run's result is {results}",
    )
    return f"{len(done)} commands of the page, and its {module.count('def test_')} tests"


def _installed(ground: Ground, line: str) -> Venv:
    """As the page installs it, with this tree's wheel for the published one."""
    _, _, *packages = shlex.split(line)
    ours = [package for package in packages if package.startswith("celery-perennial")]
    if len(ours) != 1:
        raise Failed(f"`{line}` doesn't install celery-perennial")
    extras = ours[0].partition("[")[2].rstrip("]")
    return ground.venv(*(package for package in packages if package not in ours), extras=extras)
