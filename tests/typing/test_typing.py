"""What type checkers find: one run of mypy --strict over the README, right uses and wrong uses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ERROR = re.compile(
    r"^(?P<file>[^:\n]+):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]$", re.MULTILINE
)
EXPECTED = re.compile(r"# E: ([\w-]+)$")


def test_mypy_passes_the_readme_and_right_uses_and_refuses_wrong_ones(tmp_path):
    """Strictly, and with `unused-awaitable`, which finds a forgotten `await` in an editor."""
    readme = tmp_path / "readme.py"
    readme.write_text("\n".join(BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))))
    command = [
        *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--hide-error-context"),
        *("--no-error-summary", "--enable-error-code", "unused-awaitable"),
        *("--disable-error-code", "import-untyped"),  # Celery's, in the README
        *("--cache-dir", str(ROOT / ".mypy_cache" / "uses")),
        *(str(readme), str(HERE / "right_uses.py"), str(HERE / "wrong_uses.py")),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = {
        (Path(error["file"]).name, int(error["line"]), error["code"])
        for error in ERROR.finditer(done.stdout)
    }
    lines = (HERE / "wrong_uses.py").read_text(encoding="utf-8").splitlines()
    expected = {
        ("wrong_uses.py", number, code)
        for number, line in enumerate(lines, start=1)
        for code in EXPECTED.findall(line)
    }
    assert found == expected, done.stdout + done.stderr
