"""How values of the record are read: one that Python can't hold stands clamped, or as unreadable, and fails nobody.

    register(adapters)  times and JSON, in every statement of ours (store.session)
    moment(text)        a time that travels within JSON

Postgres holds years from 4713 BC to 294276, and `infinity`; Python the years 1 to 9999. One such row must not
keep a list, a sweep or a turn of other runs from being read.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

import psycopg
from psycopg import abc
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import Format
from psycopg.types.json import set_json_loads

from orchestrator.core import jsonb
from orchestrator.core.checks import EARLIEST, LATEST

_OID = psycopg.adapters.types["timestamptz"].oid


class _ClampingLoader(Loader):
    """Psycopg's own, and what it can't read is clamped."""

    own: ClassVar[type[abc.Loader]]

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        # One is made for each result: `Loader.__init__` keeps what only that other one needs.
        self._load = self.own(oid, context).load

    def load(self, data: Buffer) -> Any:
        """The moment, or the nearest that Python holds."""
        try:
            return self._load(data)
        except (psycopg.DataError, ValueError, OverflowError):
            return clamped(bytes(data).decode())


def register(adapters: AdaptersMap) -> None:
    """From here on whatever the record holds is read with these."""
    own = adapters.get_loader(_OID, Format.TEXT)  # the one in C, where that is installed
    adapters.register_loader(_OID, type("ClampingLoader", (_ClampingLoader,), {"own": own}))
    set_json_loads(jsonb.loads, adapters)


def moment(text: str) -> datetime:
    """A time as JSON has it."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return clamped(text)


def clamped(text: str) -> datetime:
    """The nearest moment that can be shown, of a text that Python can't read as a time."""
    return EARLIEST if text.startswith("-") or text.endswith("BC") else LATEST
