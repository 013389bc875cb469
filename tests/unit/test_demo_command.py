"""`python -m demo`: what `make demo` types."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

from demo import main
from demo.__main__ import Fault


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def test_the_faults_are_those_of_the_demonstration():
    assert {fault.value for fault in Fault} == set(get_args(main.Fault))


def test_its_help_has_an_example_and_no_password():
    told = demo("--help", PERENNIAL_DATABASE_URL="postgresql://a:hunter2@db/x")
    assert told.returncode == 0
    assert "$ python -m demo --fault" in told.stdout
    assert "hunter2" not in told.stdout


def test_a_refusal_is_one_line_without_the_password():
    told = demo("--database-url", "postgresql://a:hunter2@127.0.0.1:1/x", "--json")
    assert told.returncode == 1
    assert told.stderr.count("\n") == 2, told.stderr  # the log's line, and the refusal
    assert "hunter2" not in told.stderr + told.stdout
