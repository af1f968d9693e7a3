"""What an engine's load generator measured, as rounds."""

from __future__ import annotations

import json
from typing import Any

from stackwright.domain.load import Round, percentiles_of
from stackwright.errors import NotHealthyError
from stackwright.runtime import ClientAnswer

_KINDS_OF_ERRORS = 3


def read_rounds(generator: str, answer: ClientAnswer, key: str) -> tuple[Round, ...]:
    """Return what each round measured. Raises NotHealthyError where the generator did not come to its end."""
    if answer.code is None:
        raise NotHealthyError(f"a round did not end: {answer.err}", hint="send fewer: `--requests 10`")
    try:
        found = json.loads(answer.out.strip().splitlines()[-1] if answer.code == 0 else "null")
        return tuple(map(_round_of, found))
    except (ValueError, LookupError, TypeError):
        lines = [line.strip() for line in answer.err.replace(key, "…").splitlines() if line.strip()]
        said = lines[-1][:300] if lines else f"it ended with {answer.code} and no word"
        raise NotHealthyError(f"{generator} failed: {said}", hint=None) from None


def _round_of(found: Any) -> Round:
    answered = [number for number, length in enumerate(found["output_lens"]) if length > 0]
    failed = [number for number, length in enumerate(found["output_lens"]) if length <= 0]
    kinds = dict.fromkeys(_last_line(found["errors"][number]) for number in failed)
    return Round(
        requests=len(answered) + len(failed),
        failed=len(failed),
        duration_s=float(found["duration"]),
        input_tokens=sum(found["input_lens"][number] for number in answered),
        output_tokens=sum(found["output_lens"][number] for number in answered),
        first_token=percentiles_of([found["ttfts"][number] for number in answered]),
        between_tokens=percentiles_of([gap for number in answered for gap in found["itls"][number]]),
        whole_answer=percentiles_of([found["latencies"][number] for number in answered]),
        errors=tuple(kinds)[:_KINDS_OF_ERRORS],
    )


def _last_line(text: str | None) -> str:
    """Return the line of a traceback that says what happened."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"
