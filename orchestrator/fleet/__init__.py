"""The fleet: Celery and Redis around the engine.

install    make a Celery app a member: its stages become tasks, its workers run the services
member     one process of the fleet: composes the engine with messages, lazily and after any fork
publisher  handoffs and events on Celery's broker
timer_index  delayed messages: an index in Redis, moved onto queues by one Lua script
services   what runs beside the tasks in every worker: timer dispatcher and maintenance
compat     the private doors of Celery, kombu and billiard, each named once
"""

from __future__ import annotations

from orchestrator.fleet.install import install

__all__ = ["install"]
