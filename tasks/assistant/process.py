"""An assistant that acts for a person: it thinks in stages, and what it wants to do waits for a yes, however long.

Each answer of the model is recorded once. A crash, a deploy, a week until somebody agrees: the conversation goes on
where it was, and no tool is called twice for it.
"""

from __future__ import annotations

from orchestrator import ActivityFailed, Fail, Flow, Retry, days, process, stage
from tasks.assistant.model import the_model
from tasks.assistant.models import Message, Reply, Request, ToolCall
from tasks.assistant.tools import TOOLS

REPLIES_MAX = 20
ANSWER_WITHIN = days(7)


@stage(retry=Retry(max_attempts=6, delay_seconds=2), timeout_seconds=120)
def ask_model(conversation: list[Message]) -> Reply:
    """Its next reply. Costs money and may say something else next time: so it is recorded."""
    return the_model().reply(conversation, list(TOOLS))


@stage(timeout_seconds=60)
def use_tool(call: ToolCall) -> str:
    """What the tool came to."""
    return TOOLS[call.tool].function(**call.arguments)


@process(version=1)
async def assistant(flow: Flow, request: Request) -> str:
    """Ask the model, do what it wants and people allow, and tell it; until it has an answer."""
    conversation = [Message(by="person", text=request.question)]
    for _ in range(REPLIES_MAX):
        reply = await flow.stage(ask_model, conversation)
        if not reply.calls:
            return reply.answer
        for call in reply.calls:
            conversation.append(Message(by="model", text=call.question))
            outcome = await carry_out(flow, request.person, call)
            conversation.append(Message(by="tool", text=outcome))
    raise Fail(f"the model has no answer after {REPLIES_MAX} replies")


async def carry_out(flow: Flow, person: str, call: ToolCall) -> str:
    """What the model is told of it: the tool's word, an error, or that nobody agreed."""
    tool = TOOLS.get(call.tool)
    if tool is None:
        return f"there is no tool {call.tool}"
    if tool.needs_approval:
        decision = await flow.approval(call.question, assign=[person], timeout=ANSWER_WITHIN)
        if not decision.approved:
            return f"not done: {decision.reason or decision.outcome}"
    try:
        return await flow.stage(use_tool, call)
    except ActivityFailed as failed:
        return f"it failed: {failed.message}"
