"""`perennial lint` reads a module, runs nothing of it, and says what is wrong in it, why, and what to write."""

from __future__ import annotations

import json
from pathlib import Path

MODULE = """
from datetime import datetime
from orchestrator import Flow, process

raise SystemExit("a module is read, and not run")


@process(version=1)
async def order(flow: Flow) -> None:
    await flow.sleep(1)
    print(datetime.now())
    print(datetime.now())
    print(datetime.now())  # perennial: allow it is shown to nobody
"""


def test_lint_names_line_reason_and_remedy_and_ends_with_one(perennial, tmp_path, monkeypatch):
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("1 / 0", encoding="utf-8")
    (package / "orders.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    told = perennial("lint", "shop.orders")
    assert told.exit_code == 1
    assert told.stdout.splitlines() == [
        "shop/orders.py:11:11  clock  datetime.datetime.now(…)",
        "    why      a replay reads another time, and so decides otherwise",
        "    instead  flow.now, which is the same at each replay",
        "shop/orders.py:12:11  clock  datetime.datetime.now(…)",
        "2 found, 1 allowed, in 1 function(s) of flows in 1 file(s)",
    ]
    document = json.loads(perennial("lint", "shop", "shop.orders", "--json").stdout)
    assert [each["line"] for each in document["findings"]] == [11, 12]
    assert (document["files"], document["functions"], document["allowed"]) == (2, 1, 1)


def test_lint_of_what_is_fine_or_nowhere_or_no_python(perennial, tmp_path):
    fine = perennial("lint", str(Path(__file__).parents[2] / "tasks" / "access_request"))
    assert (fine.exit_code, fine.stdout) == (
        0,
        "nothing found, in 1 function(s) of flows in 5 file(s)\n",
    )
    nowhere = perennial("lint", "no.such.module")
    assert (nowhere.exit_code, "give a path, or a module" in nowhere.stderr) == (2, True)
    (tmp_path / "broken.py").write_text("async def (", encoding="utf-8")
    broken = perennial("lint", str(tmp_path))
    assert (broken.exit_code, "broken.py can't be read as Python" in broken.stderr) == (2, True)
