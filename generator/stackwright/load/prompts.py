"""What is sent: prompts of a wanted length made from plain words, or those of a file. Reads that file."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright.errors import UsageError
from stackwright.reading import read_bytes


class PromptShape(Struct, frozen=True, kw_only=True):
    """Lengths in tokens. `shared_tokens` of `input_tokens` begin several prompts: `groups` different beginnings."""

    input_tokens: int
    output_tokens: int
    shared_tokens: int = 0
    groups: int = 1


# Chosen here, 2026-11-29, as round sizes that tell the kinds of load apart; no measurement of users stands behind them.
PRESETS: Mapping[str, PromptShape] = {
    "chat": PromptShape(input_tokens=512, output_tokens=128),
    "long": PromptShape(input_tokens=8192, output_tokens=256),
    "batch": PromptShape(input_tokens=1024, output_tokens=64),
    "agents": PromptShape(input_tokens=2304, output_tokens=128, shared_tokens=2048, groups=4),
}
FILE_OUTPUT_TOKENS = 128
MOST_FILE_BYTES = 64 * 2**20
# Of the context that is left for the prompt: other words than those that were counted make a few tokens more.
_MARGIN = 0.95
_LEAST_INPUT = 16
WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea kid body "
    "information back parent face others level office door health person art war history party result change morning "
    "reason research girl guy moment air teacher force education"
).split()


class Scale(Struct, frozen=True, kw_only=True):
    """How a model counts words: tokens of each, and those that its chat template adds."""

    tokens_per_word: float
    overhead: float

    def words_for(self, tokens: int) -> int:
        """Return how many words make about so many tokens, one at least."""
        return max(1, int((tokens - self.overhead) / self.tokens_per_word))


def scale_from(few: tuple[int, int], many: tuple[int, int]) -> Scale:
    """Return the scale from two prompts, each as its words and the tokens that the model counted.

    A word is one token at least, whatever an engine counts: the gateway refuses what is too long by its words
    (compose/gateway/admission.py, refuse_oversized).
    """
    per_word = max((many[1] - few[1]) / (many[0] - few[0]), 1.0)
    return Scale(tokens_per_word=per_word, overhead=max(few[1] - few[0] * per_word, 0.0))


def shape_for(shape: PromptShape, context: int | None) -> PromptShape:
    """Return a shape that fits a model's context; None: unknown, which shortens nothing."""
    if context is None or shape.input_tokens + shape.output_tokens <= context:
        return shape
    output = min(shape.output_tokens, max(context // 4, 1))
    room = max(int((context - output) * _MARGIN), _LEAST_INPUT)
    most = min(shape.input_tokens, room)
    shared = shape.shared_tokens * most // shape.input_tokens
    return replace(shape, input_tokens=most, output_tokens=output, shared_tokens=shared)


def sample_text(words: int, seed: str) -> str:
    """Return so many words; the same for the same seed, on every machine."""
    chance = random.Random(seed)  # no secret is made from it
    return " ".join(WORDS[int(chance.random() * len(WORDS))] for _ in range(words))


def make_prompts(shape: PromptShape, scale: Scale, count: int, seed: str) -> list[str]:
    """Return prompts of a shape. Another seed shares no beginning, so that no cache holds one of an earlier round."""
    shared = scale.words_for(shape.shared_tokens) if shape.shared_tokens else 0
    own = max(scale.words_for(shape.input_tokens) - shared, 1)
    beginnings = [sample_text(shared, f"{seed} group {group}") for group in range(shape.groups)]
    return [
        f"{beginnings[number % shape.groups]} {sample_text(own, f'{seed} prompt {number}')}".strip()
        for number in range(count)
    ]


class PromptFile(Struct, frozen=True, kw_only=True):
    """The prompts of a file, and how a result names it: the file's own name and its digest."""

    prompts: tuple[str, ...]
    name: str

    def take(self, count: int, start: int) -> list[str]:
        """Return the next prompts, from the beginning again after the last."""
        return [self.prompts[(start + number) % len(self.prompts)] for number in range(count)]


def read_prompts(file: Path) -> PromptFile:
    """Read a file of JSON lines, each an object with `prompt`. Raises UsageError with the line that is wrong."""
    try:
        content = read_bytes(file, most=MOST_FILE_BYTES)
        lines = content.decode("utf-8").splitlines()
    except OSError as failure:
        raise UsageError(f"--file: {file}: {failure.strerror or failure}", hint="name a file of JSON lines") from None
    except UnicodeDecodeError:
        raise UsageError(f"--file: {file}: is not UTF-8 text", hint="write it in UTF-8") from None
    prompts = [_prompt_of(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UsageError(f"--file: {file}: has no prompt", hint=_EXAMPLE)
    return PromptFile(prompts=tuple(prompts), name=f"{file.name} sha256:{hashlib.sha256(content).hexdigest()[:12]}")


_EXAMPLE = 'a line for each prompt: `{"prompt": "…"}`'


def _prompt_of(line: str, where: str) -> str:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"--file: {where}: is not JSON", hint=_EXAMPLE) from None
    prompt = document.get("prompt") if isinstance(document, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(f"--file: {where}: `prompt` must be a text", hint=_EXAMPLE)
    return prompt


def usual_requests(load: Sequence[float | int | None]) -> int:
    """Return how many requests a round has: four for each that runs at once, or ten seconds' worth; ten at least."""
    concurrency, rate = load
    return max(10, 4 * int(concurrency or 0), round(10 * (rate or 0)))
