"""What is measured on copies is true of runs: a copy has the same rows, and goes on by itself."""

from __future__ import annotations

from benchmarks.bench.copies import TABLES, copy_run
from benchmarks.bench.inline import Inline
from benchmarks.bench.waits import a_request, ask, registry
from orchestrator import RunStatus
from orchestrator.store.schema.tables import run

IDS = {"id", "run_id", "business_key", "asked"}


def rows_of(engine, table, run_id):
    owner = table.c.id if table is run else table.c.run_id
    wanted = [column for column in table.columns if column.name not in IDS]
    with engine.connect() as connection:
        found = connection.execute(table.select().with_only_columns(*wanted).where(owner == run_id))
        return sorted(map(repr, found))


def test_a_copy_has_the_rows_of_its_run_and_goes_on_like_it(stand, options):
    with stand.database() as url, Inline.open(url, registry) as inline:
        real = inline.run(ask, a_request(1), key="REQ-1")
        engine = inline.context.database
        copy_run(engine, real, 3, console=options.console)
        copies = [found.id for found in inline.client.list() if found.id != real]
        assert len(copies) == 3
        for copy in copies:
            for table in TABLES:
                assert rows_of(engine, table, copy) == rows_of(engine, table, real), table.name
        assert inline.client.get(copies[0]).next_timer_at == inline.client.get(real).next_timer_at
        inline.client.approve(copies[0], by="bob.smith")
        inline.go_on(copies[0])
        assert inline.status(copies[0]) is RunStatus.COMPLETED
        assert inline.client.result(copies[0]) is True
        assert inline.client.operations.counts() == {RunStatus.WAITING: 3, RunStatus.COMPLETED: 1}
