"""Which servers a command talks to."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

RUNNING = "postgresql+psycopg://of@running/up"


@pytest.fixture
def asked(perennial, client):
    """The URLs that clients were opened with."""
    urls: list[str] = []
    perennial.session.open_client = lambda url: urls.append(url) or client
    return urls


def write_urls(directory, pid: int) -> None:
    directory.mkdir()
    content = {"database_url": RUNNING, "broker_url": "redis://x", "flower_url": None, "pid": pid}
    (directory / "urls.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_flag_wins_over_the_environment(perennial, asked):
    perennial("--database-url", "postgresql://flag/x", "ps", PERENNIAL_DATABASE_URL="of the env")
    assert asked == ["postgresql://flag/x"]


def test_without_a_url_a_running_up_is_found(perennial, asked, tmp_path):
    write_urls(tmp_path / ".perennial", os.getpid())
    assert perennial("ps", PERENNIAL_DATABASE_URL=None).exit_code == 0
    write_urls(tmp_path / "elsewhere", os.getpid())
    perennial("--data-dir", "elsewhere", "ps", PERENNIAL_DATABASE_URL=None)
    assert asked == [RUNNING, RUNNING]


def test_an_up_that_died_is_not_believed(perennial, asked, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_urls(tmp_path / ".perennial", gone.pid)
    told = perennial("ps", PERENNIAL_DATABASE_URL=None)
    assert told.exit_code == 2
    assert "perennial up" in told.stderr
    assert asked == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', '{"pid": {}}'])
def test_a_broken_urls_file_is_no_running_up(perennial, asked, tmp_path, content):
    (tmp_path / ".perennial").mkdir()
    (tmp_path / ".perennial" / "urls.json").write_text(content, encoding="utf-8")
    assert perennial("ps", PERENNIAL_DATABASE_URL=None).exit_code == 2
    assert asked == []
