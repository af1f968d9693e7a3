"""How long the largest bodies keep a worker of the gateway from everything else.

    python benchmarks/bodies.py [CHECKOUT]

Bodies of up to 32 MiB, made to be dear, go through what the gateway does with them in its event loop: read, check,
write anew, and count the words where no engine tells tokens. Times are the processor's. With another CHECKOUT its
gateway is measured beside. Writes benchmarks/results/bodies.json, and ends with 1 where one takes more than MOST_S.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
RESULT = CHECKOUT / "benchmarks" / "results" / "bodies.json"
MIB = 2**20
MOST_S = 1.5
HEAD = b'{"model":"m","messages":['


def repeated(before: bytes, unit: bytes, after: bytes, count: int | None = None) -> bytes:
    """Return a body with so many units, else as many as 32 MiB hold."""
    return before + unit * (count or (32 * MIB - len(before) - len(after)) // len(unit)) + after


def make_bodies() -> dict[str, tuple[str, bytes]]:
    """Return each body with the endpoint that takes it. The last of each kind have as much as is let in."""
    chat, prompt, vectors = "chat/completions", "completions", "embeddings"
    numbers, texts = b'{"model":"m","prompt":[1', b'{"model":"m","input":["a"'
    message, part = b'{"role":"user","content":"a b"}', b'{"type":"text","text":"a"}'
    parts = HEAD + b'{"role":"user","content":[' + part
    fields = b'{"model":"m","messages":[{"role":"user","content":"a"}]'
    return {
        "a plain question": (chat, repeated(HEAD + message, b"", b"]}", 1)),
        "one text, 32 MiB": (chat, repeated(HEAD + b'{"role":"user","content":"', b"abcd efg", b'"}]}')),
        "numbers, 32 MiB": (prompt, repeated(numbers, b",1", b"]}")),
        "texts, 32 MiB": (vectors, repeated(texts, b',"a"', b"]}")),
        "messages, 1 million": (chat, repeated(HEAD + message, b"," + message, b"]}", 990_000)),
        "parts, 1 million": (chat, repeated(parts, b"," + part, b"]}]}", 990_000)),
        "lists of numbers, 1 million": (
            prompt,
            repeated(b'{"model":"m","prompt":[[1]', b",[1,2,3,4,5,6,7,8,9]", b"]}", 990_000),
        ),
        "fields, 2.5 million": (chat, fields + b"".join(b',"%d":1' % number for number in range(2_500_000)) + b"}"),
        "numbers, 2 million": (prompt, repeated(numbers, b",70000", b"]}", 1_999_990)),
        "texts, 2 million": (vectors, repeated(texts, b',"a"', b"]}", 1_999_990)),
        "messages, 249,000": (chat, repeated(HEAD + message, b"," + message, b"]}", 249_000)),
        "parts, 249,000": (chat, repeated(parts, b"," + part, b"]}]}", 249_000)),
        "lists of numbers, 249,000": (
            prompt,
            repeated(b'{"model":"m","prompt":[[1]', b",[1,2,3,4,5,6,7]", b"]}", 249_000),
        ),
        "fields, 499,000": (chat, fields + b"".join(b',"%d":1' % number for number in range(499_000)) + b"}"),
    }


def take(endpoint: str, body: bytes) -> str:
    """Do what the gateway does with a body; return how it ends."""
    import admission
    from lane import WITH_PREFIXES, encode, prefix_of

    try:
        fields = admission.parse_body(body)
        admission.check_shape(endpoint, fields)
        admission.refuse_oversized(fields, 0)
        admission.sequences_of(fields)
    except admission.RefusedError as refused:
        return f"400: {refused}"
    if endpoint in WITH_PREFIXES:
        prefix_of(fields)
    encode(fields, endpoint)
    admission.words_of(fields)
    return "read"


def measure(work: Callable[[], str]) -> tuple[float, str]:
    """Return the processor seconds of some work, and how it ended."""
    began = time.process_time()
    ended = work()
    seconds = time.process_time() - began
    return round(seconds, 6 if seconds < 0.001 else 2), ended


def measure_all() -> dict[str, Mapping[str, object]]:
    """Measure each body in the gateway that Python finds."""
    rows: dict[str, Mapping[str, object]] = {}
    take("chat/completions", b"{}")  # what is imported once
    for name, (endpoint, body) in make_bodies().items():
        seconds, ended = measure(lambda endpoint=endpoint, body=body: take(endpoint, body))  # type: ignore[misc]
        rows[name] = {"mib": round(len(body) / MIB, 1), "processor_s": seconds, "ends": ended}
    return rows


def measured_in(checkout: Path) -> dict[str, Mapping[str, object]]:
    """Measure a checkout's gateway, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "compose" / "gateway")}
    words = [sys.executable, __file__, "--measure"]
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Mapping[str, object]] = json.loads(done.stdout)
    return found


def main(words: list[str]) -> int:
    """Measure, write the result, and judge it."""
    if words == ["--measure"]:
        print(json.dumps(measure_all()))
        return 0
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    result = {"machine": machine, "bodies": (rows := measured_in(CHECKOUT))}
    if words:
        result["before"] = measured_in(Path(words[0]))
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return int(max(float(str(row["processor_s"])) for row in rows.values()) > MOST_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
