"""Tests of other folders, run on a record in another schema, in a database where there is no schema `perennial`.

What is sent there and names `perennial` fails.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.embedded import ServerUrls
from tests.conftest import fresh, migrated
from tests.harness import Database

SCHEMA = "user"
"""A word of SQL's own, which has to be quoted."""


@pytest.fixture(scope="session")
def template_elsewhere(servers: ServerUrls) -> Iterator[str]:
    with migrated(servers, SCHEMA) as name:
        yield name


@pytest.fixture(scope="module")
def database(servers: ServerUrls, template_elsewhere: str) -> Iterator[Database]:
    with fresh(servers, template_elsewhere, SCHEMA) as database:
        yield database
