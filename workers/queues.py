"""The queues the reference fleet serves: the default one, and every queue that a stage or process names."""

from __future__ import annotations

from kombu.entity import Queue

from orchestrator import Registry


def queues_of(registry: Registry, default: str) -> list[Queue]:
    """One direct queue each: a worker without `-Q` serves them all."""
    named = {stage.queue for stage in registry.stages.values()} | {
        process.queue for process in registry.processes.values()
    }
    return [Queue(name, routing_key=name) for name in sorted({default, *filter(None, named)})]
