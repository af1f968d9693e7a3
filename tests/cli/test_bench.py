"""`stackwright bench` against a gateway on loopback, with a stand-in for vLLM's generator that really asks it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.project.folder import load_stack
from stackwright.runtime.provision import MARK, environment_folder

from tests.cli.commands import CPU, Run
from tests.watching.gateway import KEY, Gateway

pytestmark = pytest.mark.subprocess
FAKE = Path(__file__).parents[1] / "fakes" / "bench"
QUICK = ("--runtime=processes", "--concurrency=1,2", "--requests=2", "--rounds=2")
WAIT_S = 60.0


class _Patient(Gateway):
    """A gateway that does not mind clients who leave."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet."""


def counted(tokens: int) -> tuple[int, str]:
    """Return a completion that says how long its prompt was."""
    return 200, json.dumps({"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": tokens}})


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Give a gateway whose model counts two tokens for each word, and four for its template."""
    with _Patient().serving() as server:
        server.replies["completion"] = [counted(8 * 2 + 4), counted(72 * 2 + 4)]
        yield server


@pytest.fixture
def state(around: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the state folder."""
    monkeypatch.setenv("STACKWRIGHT_STATE", str(around / "state"))
    return around / "state"


@pytest.fixture
def configured(run: Run, project: Path, gateway: Gateway, state: Path) -> Path:
    """Give a project whose gateway is the stand-in, and whose engine has the stand-in of the generator."""
    assert run(*CPU, f"--set=GATEWAY_PORT={gateway.server_address[1]}", host="cpu-small").code == 0
    (project / "envs/.secrets/dev/litellm_master_key").write_text(KEY, encoding="ascii")
    stack = load_stack(EnvironmentPaths(root=project, state=state, environment=Environment.DEV))
    assert stack is not None
    engine = stack.service(stack.plan.replicas[0].name)
    assert engine is not None
    assert engine.as_process.recipe is not None
    folder = environment_folder(state, engine.as_process.recipe)
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={FAKE} exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    (folder / MARK).touch()
    return project


def kept(state: Path) -> list[Any]:
    """Return the stored results."""
    return [json.loads(file.read_text()) for file in sorted((state / "bench").glob("*.json"))]


@pytest.mark.usefixtures("configured")
def test_a_sweep_is_measured_kept_and_drawn(
    run: Run, state: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    done = run("bench", "dev", *QUICK)
    assert done.code == 0, done.err
    [result] = kept(state)
    assert (result["schema"], result["model"], result["interrupted"]) == (1, "smoke", False)
    assert result["workload"]["preset"] == "chat"
    assert [(point["concurrency"], len(point["rounds"])) for point in result["points"]] == [(1, 2), (2, 2)]
    one = result["points"][0]["rounds"][0]
    assert one["first_token"] == {"p50": 100.0, "p95": 200.0, "p99": 200.0}
    assert one["between_tokens"] == {"p50": 20.0, "p95": 40.0, "p99": 40.0}
    assert (one["requests"], one["failed"], one["output_tokens"], one["duration_s"]) == (2, 0, 256, 1.0)
    # About 512 tokens, two for each word and four beside them.
    assert 500 < one["input_tokens"] <= 514
    assert gateway.kinds.count("stream") == 2 * 2 * 2
    assert "1 at once, round 1 of 2: 256 tokens/s, first token 100 ms" in done.err
    assert done.out.splitlines()[3].split()[:4] == ["load", "rounds", "requests/s", "tokens/s"]
    assert "tokens per second, with the range of the rounds" in done.out
    assert KEY not in done.out + done.err + json.dumps(result)
    assert "what a model said" not in json.dumps(result)


@pytest.mark.usefixtures("configured")
def test_a_document_has_the_result_and_its_spread(run: Run, state: Path) -> None:
    done = run("bench", "dev", *QUICK, "--json")
    assert done.json["result"] == kept(state)[0]
    assert done.json["summary"][0]["measures"]["output_tokens_per_s"] == {
        "middle": 256.0,
        "least": 256.0,
        "most": 256.0,
        "rounds": 2,
    }


@pytest.mark.usefixtures("configured")
def test_prompts_of_a_file_are_sent_in_turn(run: Run, state: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "one"}\n\n{"prompt": "two three", "more": 1}\n', encoding="utf-8")
    assert (
        run("bench", "dev", "--runtime=processes", f"--file={file}", "--rate=5", "--requests=3", "--rounds=1").code == 0
    )
    [result] = kept(state)
    assert result["workload"]["file"].startswith("mine.jsonl sha256:")
    assert result["points"][0]["rate"] == 5.0
    assert result["points"][0]["rounds"][0]["input_tokens"] == 1 + 2 + 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no prompt"),
        ("{\n", ":1: is not JSON"),
        ('{"prompt": "a"}\n{"text": "b"}\n', ":2: `prompt` must be a text"),
        ("[1]\n", ":1: `prompt` must be a text"),
    ],
)
@pytest.mark.usefixtures("configured")
def test_a_file_that_cannot_be_sent_is_refused(run: Run, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(content, encoding="utf-8")
    done = run("bench", "dev", "--runtime=processes", f"--file={file}")
    assert (done.code, done.told[0].partition("mine.jsonl")[2].lstrip(": ")) == (2, said.lstrip(": "))


@pytest.mark.usefixtures("configured")
def test_errors_are_counted_with_their_reason(run: Run, state: Path, gateway: Gateway) -> None:
    gateway.replies["stream"] = [(503, "busy")]
    done = run("bench", "dev", "--runtime=processes", "--concurrency=1", "--requests=2", "--rounds=1")
    assert done.code == 0
    [one] = kept(state)[0]["points"][0]["rounds"]
    assert (one["failed"], one["errors"], one["first_token"]["p50"]) == (2, ["Service Unavailable"], None)
    assert "2 of 2 failed: Service Unavailable" in done.err
    assert "2 of 2" in done.out
    assert "unknown" in done.out


def test_a_preset_that_does_not_fit_is_shortened(run: Run, configured: Path, state: Path) -> None:
    local = configured / "envs" / ".env.dev.local"
    local.write_text("VLLM_MAX_MODEL_LEN=2048\n", encoding="utf-8")
    done = run("bench", "dev", *QUICK, "--preset=agents")
    assert done.code == 0, done.err
    workload = kept(state)[0]["workload"]
    assert "warning: agents does not fit the context of smoke: shortened" in done.err
    assert workload["shortened"]
    assert workload["input_tokens"] + workload["output_tokens"] <= 2048
    assert 0 < workload["shared_tokens"] < workload["input_tokens"]


@pytest.mark.usefixtures("configured")
def test_a_stack_that_does_not_run_names_the_next_command(run: Run, gateway: Gateway) -> None:
    gateway.shutdown()
    gateway.server_close()
    done = run("bench", "dev", *QUICK)
    assert done.code == 7
    assert done.told[0].endswith("does not answer: Connection refused")
    assert done.told[1].startswith("`start-environment dev`")


class _Interrupting(list[Any]):
    """Notes what is asked; at the fourth streamed question a Ctrl-C comes, and that one gets no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def append(self, item: Any) -> None:
        super().append(item)
        if [kind for kind, *_ in self].count("stream") == 4:
            os.kill(os.getpid(), signal.SIGINT)
            self.released.wait(WAIT_S)


@pytest.mark.usefixtures("configured")
def test_ctrl_c_keeps_what_was_measured(run: Run, state: Path, gateway: Gateway) -> None:
    gateway.asked = asked = _Interrupting()
    try:
        done = run("bench", "dev", *QUICK)
    finally:
        asked.released.set()
    assert done.code == 130
    [result] = kept(state)
    assert (result["interrupted"], [len(point["rounds"]) for point in result["points"]]) == (True, [1])
    assert "1 at once" in done.out


@pytest.mark.usefixtures("configured")
def test_results_are_listed_and_compared(run: Run, state: Path) -> None:
    assert run("bench", "list", "dev").code == 2
    assert run("bench", "dev", *QUICK).code == 0
    [result] = kept(state)
    first = result["name"]
    assert first in run("bench", "list", "dev").out
    other = {**result, "name": "dev-20270101-000000"}
    for point in other["points"]:
        for one in point["rounds"]:
            one["duration_s"] *= 0.5
    (state / "bench" / "dev-20270101-000000.json").write_text(json.dumps(other), encoding="utf-8")
    same = run("bench", "compare", first, first)
    assert same.code == 0
    assert "B against A: 0 better, 0 worse, 20 noise" in same.out
    done = run("bench", "compare", first, "dev-20270101-000000", "--json")
    verdicts = {row["measure"]: (row["verdict"], row["change"]) for row in done.json["points"][0]["differences"]}
    assert verdicts["output_tokens_per_s"] == ("better", 1.0)
    assert verdicts["first_token_p50_ms"] == ("noise", 0.0)
    assert "no result `dev-2026`" in run("bench", "compare", "dev-2026", first).err


@pytest.mark.usefixtures("configured")
def test_a_page_is_written_of_a_result_and_of_two(run: Run, state: Path, tmp_path: Path) -> None:
    page = tmp_path / "load.html"
    done = run("bench", "dev", *QUICK, f"--html={page}")
    assert done.code == 0, done.err
    [result] = kept(state)
    assert f"<h1>Load: {result['name']}</h1>" in page.read_text(encoding="utf-8")
    assert f"report: {page}" in done.err
    assert run("bench", "compare", result["name"], result["name"], f"--html={page}").code == 0
    assert "20 noise" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("configured")
def test_no_load_is_put_on_where_the_page_could_not_be_written(run: Run, gateway: Gateway, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<html>mine</html>", encoding="utf-8")
    done = run("bench", "dev", *QUICK, f"--html={mine}")
    assert (done.code, done.told[0]) == (2, f"--html: {mine} is there already, and is no report of a load test")
    assert gateway.kinds == []


@pytest.mark.usefixtures("configured")
def test_what_was_sent_must_be_the_same(run: Run, state: Path) -> None:
    assert run("bench", "dev", *QUICK).code == 0
    [result] = kept(state)
    for name, change in (("dev-1", {"workload": {**result["workload"], "preset": "long"}}), ("dev-2", {"points": []})):
        (state / "bench" / f"{name}.json").write_text(json.dumps({**result, "name": name, **change}), encoding="utf-8")
    assert run("bench", "compare", "dev-1", result["name"]).told[0].startswith("these cannot be compared: A sent long")
    assert "no load in common" in run("bench", "compare", "dev-2", result["name"]).told[0]
    (state / "bench" / "dev-3.json").write_text('{"schema": 99}', encoding="utf-8")
    assert "schema: found 99, allowed: 1" in run("bench", "compare", "dev-3", result["name"]).told[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "bench: the following arguments are required: ENV"),
        (("compare", "a"), "bench: the following arguments are required: A, B"),
        (("dev", "prod"), "bench: found too many words: ENV"),
        (("dev", "--preset=chats"), "--preset: found `chats`, allowed: chat, long, batch, agents"),
        (("dev", "--concurrency=0"), "--concurrency: found `0`, allowed: a whole number, 1 to 100000"),
        (("dev", "--rate=nan"), "--rate: found `nan`, allowed: requests per second, 0.001 to 100000"),
        (("list", "dev", "--html=a.html"), "bench list: --html: a list has no page"),
        (("dev", "--html=-"), "--html: the page is written to a file"),
        (("dev", "--rounds=x"), "--rounds: found `x`, allowed: a whole number, 1 to 100000"),
    ],
)
def test_words_that_say_nothing_are_refused(run: Run, words: tuple[str, ...], said: str) -> None:
    done = run("bench", *words)
    assert (done.code, done.told[0]) == (2, said)
