"""Servers for the benchmarks, which empty what they stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console

from benchmarks.bench.fleet import Stand
from benchmarks.bench.options import Options
from tests.conftest import spare_the_disk


@pytest.fixture(scope="session")
def options(tmp_path_factory) -> Options:
    return Options(
        rounds=1,
        quick=True,
        folder=tmp_path_factory.mktemp("bench"),
        console=Console(quiet=True),
        runs=4,
        worker_counts=(1,),
    )


@pytest.fixture(scope="session")
def stand(options) -> Iterator[Stand]:
    with Stand.open(options) as stand:
        spare_the_disk(stand.servers.urls)
        yield stand
