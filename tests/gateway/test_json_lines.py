"""The gateway's log as JSON: an object a line, whoever writes it and in however many pieces."""

from __future__ import annotations

import io
import json
import threading

from json_lines import JsonLines, as_object


def test_what_is_no_object_becomes_one_and_an_object_stays() -> None:
    written = io.StringIO()
    lines = JsonLines(written)
    print("gateway: request 1", "failed", file=lines)
    print('{"message": "by LiteLLM"}', file=lines)
    lines.write("half")
    lines.write(" a line\n\n[1]\n{broken\n")

    told = [json.loads(line) for line in written.getvalue().splitlines()]
    messages = ["gateway: request 1 failed", "by LiteLLM", "half a line", "[1]", "{broken"]
    assert [row["message"] for row in told] == messages
    assert as_object('{"a": 1}') == '{"a": 1}'


def test_two_threads_do_not_mix_their_lines() -> None:
    written = io.StringIO()
    lines = JsonLines(written)
    lines.write("mine, ")
    other = threading.Thread(target=lines.write, args=("theirs\n",))
    other.start()
    other.join()
    lines.write("too\n")

    assert [json.loads(line)["message"] for line in written.getvalue().splitlines()] == ["theirs", "mine, too"]
