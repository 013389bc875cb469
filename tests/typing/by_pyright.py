"""What pyright finds, in its strict mode: nothing in right uses, and in wrong uses each line that is said to be wrong.

`make check` runs it. basedpyright is pyright with its Node from PyPI; of its own rules none is on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

NOT_PYRIGHTS = ("unused-awaitable",)
"""What mypy alone can find."""


def found() -> list[tuple[str, int, str]]:
    """Each error: the file, the line, and what it says."""
    settings = {
        "include": [str(HERE / "right_uses.py"), str(HERE / "wrong_uses.py")],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "venvPath": str(Path(sys.prefix).parent),
        "venv": Path(sys.prefix).name,
        "extraPaths": [str(ROOT)],
    }
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory) / "pyrightconfig.json"
        project.write_text(json.dumps(settings), encoding="utf-8")
        command = [sys.executable, "-m", "basedpyright", "-p", str(project), "--outputjson"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"pyright has failed: {done.stdout}{done.stderr}")
    return [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in told["generalDiagnostics"]
        if each["severity"] == "error"
    ]


def expected() -> set[tuple[str, int]]:
    """The lines of wrong uses."""
    lines = (HERE / "wrong_uses.py").read_text(encoding="utf-8").splitlines()
    return {
        ("wrong_uses.py", number)
        for number, line in enumerate(lines, start=1)
        if "# E: " in line and not line.endswith(NOT_PYRIGHTS)
    }


def main() -> None:
    """Exit code 1, and what differs."""
    errors, wrong = found(), expected()
    problems = [
        f"{file}:{line}: {says}" for file, line, says in errors if (file, line) not in wrong
    ]
    missed = wrong - {(file, line) for file, line, _ in errors}
    problems += [f"{file}:{line}: is wrong, and pyright passes it" for file, line in sorted(missed)]
    if problems:
        sys.exit("\n".join(problems))
    print(f"pyright: right uses pass, and {len(wrong)} wrong ones are refused.")


if __name__ == "__main__":
    main()
