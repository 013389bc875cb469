"""`Client`: what producer apps, approvers' tools and operators use. It needs Postgres alone.

asynchronous.py `AsyncClient`: the same verbs, awaited
client.py       producers and people: start, signal, cancel, approve, get, result
operations.py   `client.operations`: pause, resume, restart, counts
processes.py    `client.processes`: deploy
door.py         whose connection a verb runs on, and which run is meant
"""

from orchestrator.client.client import Client
from orchestrator.client.door import RunReference

__all__ = ["Client", "RunReference"]
