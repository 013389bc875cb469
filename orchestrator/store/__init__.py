"""The record in Postgres.

    transitions   what writes; the order of locks is said there
    reads         what only reads: for a turn, and for people
    schema        tables, rules, migrations, rights, and the schema of Postgres that a record lives in
    parts         the parts that statements are composed of, each once
    statement     a named statement, on whoever's connection; `batched`: its form for many runs
    session       what a connection is like; `callers`: one that a producer has brought
    driver        the private doors of SQLAlchemy and psycopg, named once

Verbs take a connection, change what they say and never commit: the engine, or the producer whose
transaction it is, owns that. Hot verbs are one statement each, so that on an autocommit connection
one transition is one transaction and one round trip.
"""
