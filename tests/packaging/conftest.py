"""The wheel, built once for the tests of this folder, without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network: the build backend is one of our development tools."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", str(directory), str(ROOT)),
    ]
    built = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = directory.glob("*.whl")
    return path
