"""What a model of the stack is asked for."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """How clients use a model; `vision` is chat with images in the messages, `transcription` writes down speech."""

    CHAT = "chat"
    VISION = "vision"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    TRANSCRIPTION = "transcription"

    @property
    def generates(self) -> bool:
        """Whether clients have the model write: it completes prompts and conversations."""
        return self in (Role.CHAT, Role.VISION)

    @property
    def pools(self) -> bool:
        """Whether the model turns text into vectors or scores, which the engine calls pooling."""
        return self in (Role.EMBEDDING, Role.RERANK)
