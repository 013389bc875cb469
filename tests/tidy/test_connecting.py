"""Nothing connects to Postgres but through the one reader of its address."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONNECTS = re.compile(r"\b(create_engine|create_async_engine|psycopg\.connect|make_url)\(")

ALLOWED = {
    "addresses.py",  # the reader itself
    "fleet/heartbeat_helper.py",  # a process that is given what the reader has read, and imports nothing of ours
    "embedded/postgres.py",  # a server that it has started itself, by its socket's directory
}


def test_addresses_are_read_in_one_place():
    package = ROOT / "orchestrator"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if CONNECTS.search(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED
