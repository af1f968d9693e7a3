"""What a model of the stack is asked for."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """How clients use a model; `vision` is chat with images in the messages."""

    CHAT = "chat"
    VISION = "vision"
    EMBEDDING = "embedding"
    RERANK = "rerank"

    @property
    def generates(self) -> bool:
        """Whether the model writes text; else it turns text into vectors or scores, which the engine calls pooling."""
        return self in (Role.CHAT, Role.VISION)
