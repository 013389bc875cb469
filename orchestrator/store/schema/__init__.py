"""The schema of Postgres that a record lives in: `perennial`, or another by setting, so that two share a database.

    in_schema(sql, schema)   one of our texts, for that schema
    options_in(schema)       the options of an engine whose statements are in it
    schema_of(engine)        which one that is

Our texts name `perennial`, and are sent as they stand wherever that is the record's schema. For another they are
made once, and kept beside (store.statement). A schema belongs to an engine or a client, not to a program: two
clients of one program may have two. (docs/adr/0037)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SCHEMA = "perennial"
"""Where nothing else is set."""

NOTIFY_CHANNEL = "perennial_outbox"
"""Where Postgres tells relays that a producer's transaction left a handoff. With a run's id: that it was ended,
paused or resumed, which who watches the fleet wants to know. Each other schema has a channel of its own."""

IN_SCHEMA = "perennial_schema"
"""An execution option of engines whose record is in another schema."""

LENGTH_MAX = 40
"""Postgres cuts names at 63 bytes, and the channel's begins with ours."""

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)

TABLES = (
    "activity",
    "approval",
    "approval_vote",
    "callback",
    "cause",
    "correlation",
    "history",
    "migration",
    "operation",
    "operation_run",
    "outbox",
    "process",
    "process_history",
    "process_revision",
    "run",
    "schema_version",
    "signal",
    "timer",
    "worker",
)
GONE = ("schedule",)
"""Tables that only former migrations name."""
FUNCTIONS = (
    "break_rule",
    "end_chapter",
    "now",
    "owns",
    "place_fact",
    "refuse",
    "refuse_if_run_is_closed",
    "refuse_if_run_leaves_open",
    "refuse_if_turn_is_held",
    "see_to_children",
    "take_out_activities",
    "take_out_approvals",
    "take_out_signals",
    "take_out_votes",
    "tell_parent",
)

# What is in a schema, and its indexes: not Celery's tasks (`perennial.fire`) nor settings of a session
# (`perennial.now`), which are called the same in each.
_NAMED = re.compile(
    rf"\b{SCHEMA}\.(?=(?:{'|'.join((*TABLES, *GONE))})(?:_\w+)?\b|(?:{'|'.join(FUNCTIONS)})\()",
    re.ASCII,
)


def checked(name: str) -> str:
    """The name, if a record may live in a schema that is called so. Raises ValueError, which says why not.

    It stands in texts of SQL: so it is plain, and in lower case, as Postgres reads it without quotes.
    """
    why = ""
    if not _PLAIN.fullmatch(name):
        why = "it is made of a to z, 0 to 9 and _, and begins with no digit"
    elif len(name) > LENGTH_MAX:
        why = f"it has {LENGTH_MAX} characters at most"
    elif name == "public":
        why = (
            "there an app's own tables are, and ours have plain names (run, process, worker);"
            " whoever works on the record is granted all functions of its schema"
        )
    elif name.startswith("pg_") or name == "information_schema":
        why = "that is one of Postgres' own"
    if why:
        raise ValueError(f"no record can be in a schema {name!r}: {why}")
    return name


def in_schema(sql: str, schema: str) -> str:
    """One of our texts, which name `perennial`, for that schema."""
    if schema == SCHEMA:
        return sql
    checked(schema)  # guard: a schema's name is looked at
    there = _NAMED.sub(f'"{schema}".', sql)
    # guard: each schema has a channel
    there = there.replace(f"'{NOTIFY_CHANNEL}'", f"'{channel_of(schema)}'")
    return there.replace(f"SCHEMA = '{SCHEMA}'", f"SCHEMA = '{schema}'")


def channel_of(schema: str) -> str:
    """Where the relays of that schema's record listen."""
    return NOTIFY_CHANNEL if schema == SCHEMA else f"{NOTIFY_CHANNEL}_{schema}"


def options_in(schema: str) -> dict[str, Any]:
    """Execution options: our statements are in that schema, and so are queries of `store.schema.tables`."""
    if schema == SCHEMA:
        return {}
    return {IN_SCHEMA: checked(schema), "schema_translate_map": {SCHEMA: schema}}


def schema_of(whose: Engine | Connection) -> str:
    """The schema of an engine's, or a connection's, record."""
    found: str = whose.get_execution_options().get(IN_SCHEMA, SCHEMA)
    return found
