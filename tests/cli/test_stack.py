"""`validate-environment`, `start-environment`, `stop-environment`, `status`, `key`: without anything being started."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest

from tests.cli.commands import CPU, Ran, Run, image
from tests.integration.project import free_port
from tests.planning_requests import HOSTS
from tests.schemas import make_schemas, problems

STATUS = ("status", "dev", "--runtime=processes")


@pytest.mark.subprocess
def test_status_of_a_stack_that_does_not_run(run: Run) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    ran = run(*STATUS)
    assert (ran.code, ran.err) == (0, "start it: `start-environment dev`\n")
    lines = ran.out.splitlines()
    assert lines[0] == "  dev · processes · http://127.0.0.1:4000"
    assert lines[1:6] == ["  other generations: 1 written", "", "services", "  engine   absent", "  gateway  absent"]
    assert lines[-2:] == ["drift", "  nothing runs"]
    told = run(*STATUS, "--json").json
    assert (told["environment"], told["runtime"], told["generation"]) == ("dev", "processes", None)
    assert [each["number"] for each in told["generations"]] == [1]
    assert [(each["name"], each["phase"]) for each in told["services"]] == [("engine", "absent"), ("gateway", "absent")]
    assert (told["gpus"], told["drift"], told["services"][0]["since"]) == ([], [], None)
    assert told["processor"]["memory_bytes"] > 0
    assert [model["name"] for model in told["models"]] == ["smoke"]
    schema = make_schemas()["status"]
    assert list(problems(told, schema, schema)) == []


@pytest.mark.subprocess
def test_stopping_what_does_not_run_is_harmless(run: Run) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    for _ in range(2):
        ran = run("stop-environment", "dev")
        assert (ran.code, ran.out) == (0, "")
        assert ran.err == "runtime: processes (no container engine answers)\ndev: nothing was running\n"


@pytest.mark.subprocess
def test_stopping_goes_on_where_its_record_cannot_be_written(run: Run, project: Path) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    record = project / "compose" / "generated" / "dev" / ".command.json"
    record.symlink_to("/dev/full")
    ran = run("stop-environment", "dev")
    warning, *_, stopped = ran.err.splitlines()
    assert warning == f"warning: {record}: cannot be written: No space left on device; going on without it"
    assert (ran.code, stopped) == (0, "dev: nothing was running")


@pytest.mark.subprocess
@pytest.mark.parametrize("command", ["status", "stop-environment", "validate-environment", "start-environment"])
def test_compose_without_an_engine_is_exit_6(command: str, run: Run, project: Path) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    before = image(project)
    ran = run(command, "dev", "--runtime=compose")
    assert (ran.code, ran.out) == (6, "")
    assert ran.told == (
        "no container engine answers",
        "start Docker, or use `--runtime processes`",
    )
    assert image(project) == before


@pytest.mark.subprocess
def test_a_taken_port_is_told_with_every_other_finding(run: Run, project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(*CPU, f"--set=GATEWAY_PORT={port}").code == 0
        (project / "envs/.env.dev").chmod(0o644)
        before = image(project)
        for command in (("validate-environment",), ("start-environment",), ("validate-environment", "--json")):
            ran = run(command[0], "dev", "--runtime=processes", *command[1:])
            assert ran.code == 5
            where = "`findings`" if "--json" in command else "above"
            assert ran.err.endswith(f"error: dev: 2 errors found, see {where}\n")
            if "--json" in command:
                assert [finding["check"] for finding in ran.json["findings"]] == [
                    "file-mode",
                    "port-taken",
                    "engine-unasked",
                ]
                assert list(ran.json["findings"][0]) == ["check", "severity", "found", "expected", "fix"]
            else:
                assert f"error: port-taken: 127.0.0.1:{port}: Address already in use" in ran.err
    assert image(project) == before


@pytest.mark.subprocess
@pytest.mark.parametrize("command", ["status", "stop-environment", "validate-environment", "start-environment"])
@pytest.mark.parametrize(
    "local", ["COMPOSE_PROJECT_NAME=../..", "COMPOSE_PROJECT_NAME=", "GATEWAY_PORT=http", "GATEWAY_BIND=evil.example"]
)
def test_a_name_that_leads_elsewhere_is_followed_by_no_command(
    command: str, local: str, run: Run, project: Path, around: Path
) -> None:
    """The project's name is the name of a folder, which stopping removes."""
    assert run(*CPU, host="cpu-small").code == 0
    (project / "envs/.env.dev.local").write_text(local + "\n", encoding="utf-8")
    before = image(around)
    ran = run(command, "dev", "--runtime=processes")
    assert (ran.code, ran.out) == (5, "")
    assert f"error: {local.partition('=')[0]}: found `{local.partition('=')[2]}`, allowed: " in ran.err
    assert image(around) == before


@pytest.mark.subprocess
def test_an_environment_file_that_lost_its_lines_is_told_line_by_line(run: Run, project: Path) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    file = project / "envs/.env.dev"
    kept = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith(("HF_", "VLLM_"))]
    file.write_text("\n".join(kept) + "\n", encoding="utf-8")
    ran = run("validate-environment", "dev", "--runtime=processes", "--json")
    assert ran.code == 5
    checks = [finding["check"] for finding in ran.json["findings"]]
    assert set(checks) == {"env-missing-key", "file-edited"}
    assert run("start-environment", "dev", "--runtime=processes").code == 5


@pytest.mark.subprocess
def test_pinning_images_offers_no_flag_that_it_lacks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Docker there is nothing to pin by."""
    assert run("configure-gpu", "cpu", "--env=dev").code == 0
    monkeypatch.setenv("PATH", "/nonexistent")
    ran = run("pin-images", "dev")
    assert ran.code == 6
    assert "--runtime" not in ran.err


@pytest.mark.subprocess
def test_a_plan_for_other_gpus_is_not_started_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run("configure-gpu", "--env=dev", host="2x-rtx3090-nvlink").code == 0
    ran = run("start-environment", "dev", "--runtime=processes")
    assert ran.code == 5
    assert ran.err.count("error: gpu-missing: ") == 1
    assert ran.err.count("error: model-missing: ") == 1


@pytest.mark.subprocess
def test_a_warning_stops_nothing_unless_it_is_asked_to(run: Run, project: Path) -> None:
    """Wishes that changed since the files were rendered are told; a comment in them is no change."""
    assert run(*CPU, f"--set=GATEWAY_PORT={free_port()}").code == 0
    wishes = project / "envs/dev.yaml"
    wishes.write_text(wishes.read_text(encoding="utf-8") + "# a note\n", encoding="utf-8")
    check = ("validate-environment", "dev", "--runtime=processes", "--json")
    assert [each["check"] for each in run(*check, "--strict").json["findings"]] == ["engine-unasked"]
    wishes.write_text(wishes.read_text(encoding="utf-8").replace("port: 4000", "port: 4010"), encoding="utf-8")
    ran = run(*check)
    assert (ran.code, [(each["check"], each["severity"]) for each in ran.json["findings"]]) == (
        0,
        [("inputs-changed", "warning"), ("engine-unasked", "note")],
    )
    ran = run(*check, "--strict")
    assert (ran.code, [each["severity"] for each in ran.json["findings"]]) == (5, ["error", "note"])
    assert "changed since the files were rendered: envs/dev.yaml" in ran.json["findings"][0]["found"]
    assert run(*CPU).code == 0
    assert run(*check, "--strict").code == 0


@pytest.mark.subprocess
def test_a_damaged_record_of_inputs_is_told(run: Run, project: Path) -> None:
    assert run(*CPU, f"--set=GATEWAY_PORT={free_port()}").code == 0
    (project / "compose/generated/dev/inputs.json").write_bytes(b"[" * 100_000)
    ran = run("validate-environment", "dev", "--runtime=processes", "--json")
    assert ran.code == 0
    assert [each["check"] for each in ran.json["findings"]] == ["file-edited", "inputs-unknown", "engine-unasked"]


def test_the_key_is_printed_alone(run: Run, project: Path) -> None:
    assert run("configure-gpu", host="cpu-small").code == 0
    printed = {name: run("key", name).out for name in ("dev", "development", "staging", "prod", "production")}
    assert printed["dev"] == printed["development"]
    assert printed["prod"] == printed["production"]
    assert len(set(printed.values())) == 3
    key = (project / "envs/.secrets/dev/litellm_master_key").read_text(encoding="ascii")
    assert run("key", "dev") == Ran(code=0, out=key + "\n", err="")


def test_a_pair_of_gpus_is_drawn_from_a_snapshot(run_plain: Run) -> None:
    ran = run_plain("gpus", host="2x-rtx3090-nvlink")
    assert (ran.code, ran.err) == (0, "")
    assert "NVLink ×4        ╔═══════╗\nGPU              0       1\n" in ran.out
    told = run_plain("gpus", "--json", host="2x-rtx3090-nvlink").json
    assert [(pair["a"], pair["b"], pair["kind"], pair["split"]) for pair in told["pairs"]] == [(0, 1, "nvlink", True)]
    assert (told["islands"], told["placements"][0]["tensor_parallel"]) == ([[0, 1]], 2)


def test_gpus_behind_a_driver_that_fails_are_unknown_not_absent(run_plain: Run) -> None:
    told = run_plain("gpus", "--json", host="4x-t4-driver470").json
    assert told["placements"]
    assert told["refusal"].startswith("driver 470.256.02 supports CUDA up to 11.4, too little for any vllm image")
    assert "  but driver 470.256.02" in run_plain("gpus", host="4x-t4-driver470").out
    assert run_plain("gpus", host="nvml-mismatch").out.startswith("NVIDIA GPUs unknown: the driver does not answer\n")
    assert run_plain("gpus", host="cpu-small").out.startswith("no NVIDIA GPU\n")


def test_gpus_of_other_makers_are_named(run_plain: Run, around: Path) -> None:
    host = around / "amd"
    host.mkdir()
    row = "{maker: amd, name: Radeon RX 7900 XTX, architecture: gfx1100, memory_bytes: 25753026560, "
    row += "pci_bus_id: '0000:03:00.0', driver: amdgpu, integrated: false}"
    plain = (HOSTS / "cpu-small" / "host.yaml").read_text("utf-8")
    (host / "host.yaml").write_text(f"{plain}other_gpus:\n  - {row}\n", encoding="utf-8")
    found = "1× AMD Radeon RX 7900 XTX (gfx1100, 24.0 GiB)"
    assert run_plain("gpus", host=str(host)).out.startswith(f"no NVIDIA GPU\n\n{found}: not supported")
    assert run_plain("gpus", "--json", host=str(host)).json["other_gpus"][0]["maker"] == "amd"
    for words, told in (((), True), (("cpu",), False)):
        listed = run_plain("models", *words, "--role=rerank", host=str(host))
        assert (f"warning: this release does not support {found}: " in listed.err) is told
    refused = run_plain("plan", "dev", "--model=qwen3-32b", host=str(host))
    assert refused.code == 4
    assert f"; this release does not support {found}: outside Stackwright, use vLLM's ROCm image" in refused.err


@pytest.mark.parametrize(("architecture", "told"), [("gfx1151", True), ("gfx1103", False)])
def test_graphics_of_a_processor_are_named_where_a_build_serves_them(
    architecture: str, told: bool, run_plain: Run, around: Path
) -> None:
    host = around / "apu"
    host.mkdir()
    row = f"{{maker: amd, name: Radeon 8060S, architecture: {architecture}, memory_bytes: 536870912, "
    row += "pci_bus_id: '0000:c5:00.0', driver: amdgpu, integrated: true}"
    plain = (HOSTS / "cpu-small" / "host.yaml").read_text("utf-8")
    (host / "host.yaml").write_text(f"{plain}other_gpus:\n  - {row}\n", encoding="utf-8")
    planned = run_plain("plan", "dev", host=str(host))
    assert planned.code == 0
    assert ("Radeon 8060S (gfx1151, in the processor, with its memory)" in planned.err) is told


def test_the_addresses_are_told_without_the_key(run: Run, project: Path) -> None:
    port = free_port()
    assert run("configure-gpu", "staging", f"--set=GATEWAY_PORT={port}", host="cpu-small").code == 0
    ran = run("open", "staging")
    key = (project / "envs/.secrets/staging/litellm_master_key").read_text(encoding="ascii")
    assert (ran.code, ran.err) == (0, "nothing listens there yet; start it: `start-environment staging`\n")
    assert f"OpenAI API  http://127.0.0.1:{port}/v1  (a key)" in ran.out
    assert "key staging" in ran.out
    assert key not in ran.out
    told = run("open", "staging", "--json").json
    assert {row["url"]: row["needs"] for row in told["urls"]}[
        f"http://127.0.0.1:{port}/metrics/"
    ] == "the master key, or one for metrics only"
    with socket.create_server(("127.0.0.1", port)):
        assert run("open", "staging").err == ""


@pytest.mark.subprocess
@pytest.mark.parametrize("command", ["logs", "restart"])
def test_a_service_that_there_is_not_is_told_with_the_closest(command: str, run: Run) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    ran = run(command, "dev", "gatway", "--runtime=processes")
    assert (ran.code, ran.out) == (2, "")
    assert ran.told == ("dev has no service `gatway`", "did you mean `gateway`?")


@pytest.mark.subprocess
def test_nothing_is_restarted_where_nothing_runs(run: Run) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    ran = run("restart", "dev", "--runtime=processes")
    assert (ran.code, ran.out) == (6, "")
    assert ran.told == ("dev: nothing runs", "start it: `start-environment dev`")


@pytest.mark.subprocess
def test_logs_are_told_without_secrets_and_colours(run: Run, project: Path, around: Path) -> None:
    assert run(*CPU, "--set=COMPOSE_PROJECT_NAME=logged", host="cpu-small").code == 0
    key = (project / "envs/.secrets/dev/litellm_master_key").read_text(encoding="ascii")
    logs = around / "home" / ".local" / "share" / "stackwright" / "logs" / "logged"
    logs.mkdir(parents=True)
    (logs / "engine.log").write_text(f"one\n\x1b[32mkey is {key}\x1b[0m\nthree\n", encoding="utf-8")
    words = ("logs", "dev", "--runtime=processes")
    assert run(*words, "engine").out == "one\nkey is [redacted]\nthree\n"
    assert run(*words, "--tail=1").out == "engine  | three\n"
    (logs / "gateway.log").write_text(f"no time\n2026-11-30 05:00:00 {key}\nas old\n", encoding="utf-8")
    rows = [json.loads(line) for line in run(*words, "--json").out.splitlines()]
    assert rows[0] == {"service": "engine", "at": None, "line": "one"}
    assert [row["line"] for row in rows[3:]] == ["no time", "2026-11-30 05:00:00 [redacted]", "as old"]
    at = datetime(2026, 11, 30, 5).astimezone().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [row["at"] for row in rows[3:]] == [None, at, at]
    (logs / "gateway.log").unlink()
    empty = run(*words, "gateway")
    assert (empty.code, empty.out) == (0, "")
    assert empty.err == "dev: no lines; `stackwright status dev` says what runs\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("logs", "dev", "--since=soon"), "--since: found `soon`, allowed: a number and s, m, h or d"),
        (("logs", "dev", "--tail=few"), "--tail: found `few`, allowed: a number of lines, or all"),
        (("status", "dev", "--watch=0"), "--watch: found `0`, allowed: seconds, from 0.5 to 3600"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(words: tuple[str, ...], message: str, run: Run) -> None:
    ran = run(*words)
    assert (ran.code, ran.told[0]) == (2, message)


def test_a_chat_names_models_and_needs_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    unknown = run("chat", "dev", "--model=smok")
    assert (unknown.code, unknown.told) == (2, ("dev serves no model `smok`", "did you mean `smoke`?"))
    monkeypatch.setattr("sys.stdin", StringIO(" \n"))
    silent = run("chat", "dev")
    assert (silent.code, silent.told) == (2, ("nothing to say: stdin is empty", "`echo hi | stackwright chat dev`"))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("up", "start-environment"),
        ("down", "stop-environment"),
        ("ps", "status"),
        ("stat", "status"),
        ("chatt", "chat"),
    ],
)
def test_words_of_other_tools_are_understood(typed: str, meant: str, run: Run) -> None:
    assert run(typed, "dev").told == (f"unknown command `{typed}`", f"did you mean `{meant}`?")


def test_an_environment_that_cannot_be_stopped_replaces_nothing(run: Run, project: Path) -> None:
    """It is found before another one of them is stopped, and before anything is planned."""
    assert run("configure-gpu", "dev", host="cpu-small").code == 0
    ran = run("start-environment", "prod", "--replace=dev", "--replace=staging")
    assert ran.code == 5
    assert ran.told == (
        f"staging is not configured in {project}",
        "leave `--replace staging` out: nothing of it runs",
    )
    assert not (project / "envs/.env.prod").exists()
