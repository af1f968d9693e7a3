"""What the program beside an engine has noted: its hangs, and GPUs that went. Touches its file, for reading.

compose/engine/heartbeat/heartbeat.py writes it into the engine's cache folder, where it outlives the engine.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from stackwright.domain.service import Part, Service, SettingRef
from stackwright.runtime import Stack
from stackwright.services.words import word_text

FILE = "ENGINE_HEARTBEAT_FILE"
TOLD_FOR_S = 24 * 3600
"""How long a hang is worth a word beside a service that runs again."""


class Hang(Struct, frozen=True, kw_only=True):
    """One hang: when it was seen, in seconds of the epoch, and what was seen."""

    at: float
    why: str
    silent_s: float = 0.0


class Heartbeat(Struct, frozen=True, kw_only=True):
    """The notes about one engine, the latest hang last; `gpus`: what is wrong with its GPUs now."""

    hung: tuple[Hang, ...] = ()
    gpus: tuple[str, ...] = ()

    def tell(self, now_s: float) -> str | None:
        """Return one line about the last day; None where there is nothing to say."""
        recent = [hang for hang in self.hung if 0 <= now_s - hang.at < TOLD_FOR_S]
        lines = [f"GPU fault: {'; '.join(self.gpus)}"] if self.gpus else []
        if recent:
            at = datetime.fromtimestamp(recent[-1].at, tz=UTC).astimezone().strftime("%H:%M")
            times = "hung" if len(recent) == 1 else f"hung {len(recent)} times, last"
            lines.append(f"{times} at {at}: {recent[-1].why}")
        return "; ".join(lines) or None


NOTHING = Heartbeat()


def read_heartbeat(stack: Stack, service: Service) -> Heartbeat:
    """Return what is noted about a service; nothing where nobody watches it, or its file cannot be read."""
    word = service.environment.get(FILE)
    if word is None:
        return NOTHING

    def name(part: Part) -> str:
        return stack.value(part) if isinstance(part, SettingRef) else str(part)

    try:
        told: Any = msgspec.json.decode(Path(word_text(word, name)).read_bytes())
        return msgspec.convert(told, Heartbeat)
    except (OSError, msgspec.MsgspecError):
        return NOTHING
