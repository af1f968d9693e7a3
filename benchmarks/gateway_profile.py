"""Where one worker of the gateway spends its time on a small request, part by part.

    py-spy record --pid WORKER --format raw --rate 200 --duration 12 --output FILE  (while gateway.py asks)
    python benchmarks/gateway_profile.py FILE

Each sample belongs to one part: to the innermost of its calls that PARTS names. Threads that wait are left out.
Reads FILE; writes benchmarks/results/gateway_profile.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

RESULT = Path(__file__).resolve().parent / "results" / "gateway_profile.json"

PARTS = {
    "logging, cost and metrics after the answer": (
        *("async_success_handler", "dispatch_success_handlers", "async_log_success_event", "litellm/integrations/"),
        *("update_response_metadata", "logging_worker.py", "post_call_success_hook"),
    ),
    "preparing the call, reading the engine's answer": (
        *("client.<locals>.wrapper", "_resolve_dispatched_chat_response", "litellm/llms/", "transformation.py"),
        *("litellm/chat_completions/", "completion (litellm/main.py", "llm_http_handler.py"),
    ),
    "router: choosing, counting, retrying": ("Router.", "litellm/router_", "cooldown"),
    "key check and what LiteLLM does around it": ("user_api_key_auth", "litellm/proxy/auth/", "hooks.py"),
    "request data and hooks before the call": ("_pre_call", "pre_call_hook", "litellm_pre_call_utils.py"),
    "the request to the engine": ("AsyncHTTPHandler.post", "httpx/", "aiohttp/", "httpcore/", "aiohttp_transport.py"),
    "Redis": ("redis/", "redis_batch.py", "redis_cache.py"),
    "FastAPI's dependencies besides the key check": ("solve_dependencies",),
    "the endpoint itself": ("chat_completion", "common_request_processing.py", "route_llm_request.py"),
    "middlewares and FastAPI": (
        "starlette/",
        "fastapi/",
        "litellm/proxy/middleware/",
        "_middleware.py",
        "front.py",
        "admission.py",
    ),
}
"""What names each part in a call as py-spy writes it: a function's name, or where it stands."""

REST = "event loop, HTTP parsing, the rest"
WAITING = ("wait (threading.py", "Condition.wait (threading.py", "_worker (concurrent/futures/thread.py")


def part_of(calls: list[str]) -> str:
    """Return the part that a sample belongs to; `calls` from the outermost to the innermost."""
    for call in reversed(calls):
        for part, names in PARTS.items():
            if any(name in call for name in names):
                return part
    return REST


def main() -> int:
    """Count, write the result and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("samples", type=Path)
    counted: Counter[str] = Counter()
    for line in parser.parse_args().samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        calls = stack.split(";")
        if not calls[-1].startswith(WAITING):
            counted[part_of(calls)] += int(count)
    total = counted.total()
    shares = {part: round(100 * count / total, 1) for part, count in counted.most_common()}
    text = json.dumps({"samples": total, "percent": shares}, indent=2) + "\n"
    RESULT.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
