"""The record in Postgres: tables, named statements, migrations.

Verbs take a connection, change what they say and never commit: the engine, or the producer whose
transaction it is, owns that. Hot verbs are one statement each, so that on an autocommit connection
one transition is one transaction and one round trip.

Lock order, everywhere: run, then activity, then timer, approval, signal, outbox. A claim takes no run
lock, and takes its activity before its outbox row.

The private doors of SQLAlchemy and psycopg are named once, in `driver`.
"""
