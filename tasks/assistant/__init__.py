"""An assistant whose tool calls need a person's approval.

process.py      the flow: ask the model, ask people, call tools
model.py        the model behind an interface, and a stub of it
tools.py        what it can do, and what of that needs a yes
test_assistant.py     a conversation that waits for days
"""

from tasks.assistant.process import assistant

__all__ = ["assistant"]
