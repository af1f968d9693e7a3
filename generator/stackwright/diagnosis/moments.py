"""What in a service's log can be the cause of its fall: its last runs alone, and nothing that a request caused. Pure.

A gateway logs a traceback for what a client has sent wrongly, and serves on; and both runtimes append the next run to
the same log. Such lines are of another moment, or of another program, than a failure that is looked into.
"""

from __future__ import annotations

import re
from itertools import chain

from stackwright.engines import ENGINES

# What a service writes first in each run that comes so far: LiteLLM's name in blocks, and Redis's own words.
_BEGINS = (
    re.compile(r"^.*██╗     ██╗████████╗███████╗", re.MULTILINE),
    re.compile(r"^.*\bRedis is starting\b", re.MULTILINE),
)
# LiteLLM 1.108.0, proxy/common_request_processing.py, `_handle_llm_api_exception`; its Router, and Starlette.
_OF_REQUEST = re.compile(
    r"litellm_call_id=|_handle_llm_api_exception\(\)|Exception in ASGI application|\): Exception occured\b"
)
_RECORD = re.compile(
    r"^(?:[0-9]{2}:[0-9]{2}:[0-9]{2} - LiteLLM[\w ]{0,20}:|(?:INFO|WARNING|ERROR|CRITICAL):\s|.*██)", re.MULTILINE
)
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_ENDS = re.compile(r"^[A-Za-z_][\w.]{0,200}(?:Error|Exception|Exit|Interrupt|Timeout|Warning)\b")


def last_runs(text: str, count: int) -> str:
    """Return what the last `count` runs of a service wrote; the whole where so many cannot be told apart."""
    patterns = chain(_BEGINS, (engine.start_log.banner for engine in ENGINES.values()))
    starts = sorted(found.start() for pattern in patterns for found in pattern.finditer(text))
    return text[text.rfind("\n", 0, starts[-count]) + 1 :] if len(starts) >= count else text


def without_requests(text: str) -> str:
    """Leave out what the gateway wrote about single requests that failed: the record and its chain of tracebacks."""
    kept: list[str] = []
    request = ended = chained = False
    for line in text.split("\n"):
        if _RECORD.match(line):
            request, ended, chained = _OF_REQUEST.search(line) is not None, False, False
        elif request and line.startswith(_CHAINED):
            chained = True
        elif request and line == _TRACEBACK:
            # A second one that does not follow from the first is of something else.
            request, chained = not ended or chained, False
        elif request and _ENDS.match(line):
            ended = True
        if not request:
            kept.append(line)
    return "\n".join(kept)
