"""One process in two releases: the second has version 2 of it, and a stage that the first hasn't got."""

from __future__ import annotations

from orchestrator import Flow, Registry, hours, process, stage


def release(number: int) -> Registry:
    """What an app of that release registers."""
    registry = Registry()

    @stage(registry=registry)
    def take_order(name: str) -> str:
        """Both releases have it."""
        return name

    @process(name="order", version=1, registry=registry)
    async def order(flow: Flow, name: str) -> str:
        """As it was."""
        taken = await flow.stage(take_order, name)
        decision = await flow.approval("boss", assign=["bob"], timeout=hours(48))
        await flow.stage(take_order, decision.outcome, key="end")
        return taken

    if number == 2:

        @stage(registry=registry)
        def review_order(name: str) -> str:
            """What is new."""
            return f"{name}, reviewed"

        @process(name="order", version=2, registry=registry)
        async def newer_order(flow: Flow, name: str) -> str:
            """A stage of its own before the approval, and another after it."""
            taken = await flow.stage(take_order, name)
            reviewed = await flow.stage(review_order, taken)
            decision = await flow.approval("boss", assign=["bob"], timeout=hours(48))
            await flow.stage(review_order, decision.outcome, key="end")
            return reviewed

    return registry
