"""A hand-written command line of vLLM: where its server begins in it, and the flags behind. Pure.

As vLLM's own parser reads it (0.33.0 utils/argparse_utils.py, FlexibleArgumentParser, and engine/arg_utils.py; read
2026-11-29): `_` in a flag is `-`, `--flag=value` is `--flag value`, `--flag.key value` sets one key of a JSON object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

MODULES = ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.api_server", "vllm.entrypoints.cli.main")
IMAGE = re.compile(r"(^|[/_.-])vllm([/_.:@-]|$)")
"""An image of vLLM's, or of a fork: its name has the word."""
NO_ENGINE = re.compile(r"production-stack|vllm-router|semantic-router|litellm")
_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-q": "--quantization",
    "-O": "--optimization-level",
    "-cc": "--compilation-config",
    "-ac": "--attention-config",
}
# What takes no value: BooleanOptionalAction, which has `--no-…` too.
_SWITCH = re.compile(
    r"--(no-|enable-|disable-|trust-remote-code$|enforce-eager$|async-scheduling$|skip-tokenizer-init$)"
)
_VALUED = re.compile(r"--(disable-log-requests-|disable-cascade-attn-)")
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKmMgGtT])")
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class WrittenFlag(Struct, frozen=True, kw_only=True):
    """A flag as the parser sees it. `word`: which of the words it stands in, from 0; no `values`: a switch."""

    name: str
    values: tuple[str, ...]
    word: int


class WrittenLaunch(Struct, frozen=True, kw_only=True):
    """A launch: the model behind `serve`, None where it is in a flag, the word it stands in, and the flags."""

    model: str | None
    model_word: int
    flags: tuple[WrittenFlag, ...]


def server_begins(words: Sequence[str]) -> int | None:
    """Return where the server's own words begin: behind `vllm serve`, or its module; None where neither stands."""
    for position, word in enumerate(words):
        follower = words[position + 1] if position + 1 < len(words) else ""
        if word.rpartition("/")[2] == "vllm" and follower == "serve":
            return position + 2
        if word in MODULES and position and words[position - 1] == "-m":
            return position + 1 + (follower == "serve")
    return None


def read_launch(words: Sequence[str]) -> WrittenLaunch:
    """Read the words behind the server's name."""
    model, model_word = None, 0
    flags: list[WrittenFlag] = []
    position = 0
    while position < len(words):
        word, here = words[position], position
        position += 1
        name, inline = _flag(word)
        if name is None:
            if model is None and word:
                model, model_word = word, here
            continue
        values: list[str] = [] if inline is None else [inline]
        if inline is None and not (_SWITCH.match(name) and not _VALUED.match(name)):
            while position < len(words) and _flag(words[position])[0] is None:
                values.append(words[position])
                position += 1
        elif inline is None and position < len(words) and words[position].lower() in ("true", "false"):
            values.append(words[position])
            position += 1
        flags.append(WrittenFlag(name=name, values=tuple(values), word=here))
    return WrittenLaunch(model=model, model_word=model_word, flags=tuple(flags))


def _flag(word: str) -> tuple[str | None, str | None]:
    """Return a flag in its long form, and what stands behind its `=`; a name of None where a word is no flag."""
    if re.fullmatch(r"-O\.?[0-3]", word):
        return "--optimization-level", word[-1]
    if not re.match(r"--?[A-Za-z]", word):
        return None, None
    head, equals, value = word.partition("=")
    if not head.startswith("--"):
        return (_SHORT[head], value if equals else None) if head in _SHORT else (head, value if equals else None)
    first, dot, rest = head.partition(".")
    return first.replace("_", "-") + dot + rest, value if equals else None


def whole_number(text: str) -> str:
    """Write out a whole number as the engine reads it: `32k` is 32000, `32K` 32768; anything else stays."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    return str(int(float(match[1]) * {**_DECIMAL, **_BINARY}[match[2]]))


TASKS: Mapping[str, str] = {"embed": "embedding", "embedding": "embedding", "score": "rerank"}
"""The values of `--task`, `--convert` and `--runner` that are roles of a model here."""
