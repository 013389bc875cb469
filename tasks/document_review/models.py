"""What is reviewed, and what comes of it."""

from __future__ import annotations

from pydantic import BaseModel


class Document(BaseModel, frozen=True):
    """A text on its way to being published. `author` writes it, `reviewer` agrees to it."""

    title: str
    text: str
    author: str
    reviewer: str


class Published(BaseModel, frozen=True):
    """Where it can be read, and after how many rounds."""

    url: str
    rounds: int
