"""The processes runtime with real vLLM, LiteLLM and supervisor: no container engine, no registry, no hub but our own.

The tests of the first part share one stack and run in the order written: those that end services come last.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from stackwright.models.smoke_model import SENTENCE, write_smoke_model
from stackwright.runtime.process_groups import programs_with, read_groups
from stackwright.units import GIB

from tests.integration.fake_hub import serve_hub
from tests.integration.load import check_load
from tests.integration.project import CHECKOUT, Project, plain_projects, wait_until
from tests.integration.test_cpu_cache import forecast_cache, read_cache

MakeProject = Callable[..., Project]


@pytest.fixture(scope="module")
def own_state(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a state folder that remembers no start; it shares only the virtual environments."""
    state = tmp_path_factory.mktemp("state")
    (state / "venvs").symlink_to(state_folder / "venvs")
    yield state
    (state / "venvs").unlink()


@pytest.fixture(scope="module")
def make_project(own_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeProject]:
    """Give a maker of project folders without a container engine; what they started is gone after the module."""
    yield from plain_projects(own_state, tmp_path_factory)


@pytest.fixture(scope="module")
def project(make_project: MakeProject) -> Project:
    """Give a project for this machine's CPU."""
    return make_project()


@pytest.fixture(scope="module")
def first_start(project: Project) -> subprocess.CompletedProcess[str]:
    """Bring the stack up with one command and give how that ended."""
    return start(project)


@pytest.fixture(scope="module")
def started(first_start: subprocess.CompletedProcess[str]) -> str:
    """Bring the stack up and give what that printed on its standard output."""
    return first_start.stdout


def start(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `start-environment dev`, which configures what is not configured yet."""
    done = project.command("start-environment", "dev", "--runtime=processes", *project.pins, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def remembered(project: Project) -> list[dict[str, Any]]:
    """Return the good starts that are remembered."""
    text = (Path(project.variables["STACKWRIGHT_STATE"]) / "starts.json").read_text(encoding="utf-8")
    starts: list[dict[str, Any]] = json.loads(text)["starts"]
    return starts


def paste(project: Project, printed: str) -> str:
    """Run the printed request as a person would, and return the words of the answer."""
    done = project.run(["bash", "-euc", printed])
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["choices"][0]["message"]["content"])


def run_folder(project: Project) -> Path:
    """Return where the runtime keeps what runs."""
    return Path(project.variables["STACKWRIGHT_STATE"]) / "run" / project.name


def supervisors(project: Project) -> list[int]:
    """Return the process ids of the project's supervisord."""
    return programs_with(str(run_folder(project) / "supervisord.conf"))


def leaders(project: Project) -> dict[str, int]:
    """Return the process id of each service's last start."""
    return {file.stem: read_groups(file)[-1].leader for file in run_folder(project).glob("*.groups")}


def group_members(leader: int) -> list[int]:
    """Return the living processes of one process group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        found += [int(entry.name)] if int(group) == leader and state != "Z" else []
    return found


def listening_addresses(pids: list[int]) -> set[str]:
    """Return the addresses on which these processes listen, as /proc/net writes them, ports left out."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    lines = [
        line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    return {words[1].partition(":")[0] for words in lines if words[3] == "0A" and words[9] in inodes}


def test_one_command_leads_to_an_answer(project: Project, started: str) -> None:
    assert paste(project, started) == SENTENCE


def test_a_good_start_is_told_of_and_remembered(
    project: Project, first_start: subprocess.CompletedProcess[str]
) -> None:
    for words in ("wrong key", "its models", "a completion of smoke", "a stream of smoke"):
        assert f" {words} (" in first_start.stderr
    (kept,) = remembered(project)
    assert kept["steps"]["starting"] > 1


def test_the_engine_prints_the_forecast_cache(project: Project, started: str) -> None:  # noqa: ARG001
    """Tokens and requests at once: equal, not near. Of two ranks that is shown in test_cpu_cache.py."""
    values = dotenv_values(project.folder / "envs" / ".env.dev")
    cache_bytes, length = int(values["VLLM_CPU_KVCACHE_SPACE"] or "") * GIB, int(values["VLLM_MAX_MODEL_LEN"] or "")
    log = Path(project.variables["STACKWRIGHT_STATE"]) / "logs" / project.name / "engine.log"
    printed = read_cache(log.read_text(encoding="utf-8"))
    model = Path(values["VLLM_MODEL"] or "")
    assert printed == forecast_cache(model, tensor_parallel=1, cache_bytes=cache_bytes, length=length)


def test_a_running_stack_is_compared_with_its_forecast(project: Project, started: str) -> None:  # noqa: ARG001
    done = project.command("fit", "--observed", "dev", "--json")
    assert done.returncode == 0, done.stderr
    compared: dict[str, Any] = json.loads(done.stdout)
    lines = {line["name"]: line for line in compared["lines"]}
    assert (compared["observed"]["outcome"], compared["verdict"]) == ("fit", "fits")
    assert [lines[name]["difference"] for name in ("KV cache", "KV cache tokens", "concurrency")] == [0, 0, 0]


def test_the_next_plan_knows_what_this_host_showed(project: Project, started: str) -> None:  # noqa: ARG001
    done = project.command("plan", "--env", "dev", "--json", *project.pins)
    reasons = [setting["reason"] for setting in json.loads(done.stdout)["settings"].values()]
    (why,) = [reason for reason in reasons if "measured on this host on 20" in reason]
    assert why.startswith("enough for a test; KV cache measured on this host on 20")


def test_answer_streams(project: Project, started: str) -> None:  # noqa: ARG001
    body = {"model": "smoke", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{project.port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {project.secrets['litellm_master_key']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        events = [line[6:] for line in response.read().decode().splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    parts = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(parts) == SENTENCE
    # A busy engine sends several tokens at once; one piece alone would mean that something on the way had waited.
    assert len([part for part in parts if part]) > 1


def test_only_the_key_opens_the_gateway(project: Project, started: str) -> None:  # noqa: ARG001
    keys = (project.secrets["litellm_master_key"], None, "sk-" + "0" * 64)
    assert [project.ask(key)[0] for key in keys] == [200, 401, 401]


def test_status_tells_every_service(project: Project, started: str) -> None:  # noqa: ARG001
    done = project.command("status", "dev", "--runtime=processes", "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["runtime"] == "processes"
    assert {service["name"] for service in told["services"]} >= {"engine", "gateway"}
    assert {service["phase"] for service in told["services"]} == {"healthy"}


def test_status_tells_how_the_stack_fares(project: Project, started: str) -> None:  # noqa: ARG001
    assert project.complete()
    told: dict[str, Any] = json.loads(project.command("status", "dev", "--json").stdout)
    assert (told["drift"], told["notes"], told["gpus"]) == ([], [], [])
    assert all(service["since"] for service in told["services"])
    (model,) = told["models"]
    assert (model["name"], model["waiting"]) == ("smoke", 0)
    assert model["generation_tokens_per_s"] > 0
    assert 0 < model["first_token"]["p50_s"] <= model["first_token"]["p99_s"]
    used = {service["name"]: service["memory_bytes"] for service in told["processor"]["services"]}
    assert used["engine"] > used["gateway"] > 0


def test_a_watch_in_a_pipe_goes_on_until_it_is_interrupted(project: Project, started: str) -> None:  # noqa: ARG001
    words = [sys.executable, "-m", "stackwright", "status", "dev", "--watch=0.5", f"--out={project.folder}"]
    with subprocess.Popen(words, cwd=CHECKOUT, env=project.variables, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        # The second page is the first that tells of an interval.
        assert any(line.startswith("models (last ") for line in iter(watch.stdout.readline, ""))
        watch.send_signal(signal.SIGINT)
        watch.stdout.read()
    assert watch.returncode == 0


def test_a_chat_through_a_pipe_is_answered(project: Project, started: str) -> None:  # noqa: ARG001
    words = [sys.executable, "-m", "stackwright", "chat", "dev", f"--out={project.folder}"]
    done = subprocess.run(
        words, cwd=CHECKOUT, env=project.variables, input="hi\n", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{SENTENCE}\n"), done.stderr


def test_load_is_measured(project: Project, started: str) -> None:  # noqa: ARG001
    check_load(project)


def test_logs_are_told_by_service(project: Project, started: str) -> None:  # noqa: ARG001
    done = project.command("logs", "dev", "--tail=3")
    assert done.returncode == 0, done.stderr
    assert {line.partition(" | ")[0].strip() for line in done.stdout.splitlines()} >= {"engine", "gateway"}
    assert [name for name, value in project.secrets.items() if value in done.stdout] == []
    assert "vLLM" in project.command("logs", "dev", "--tail=all", "engine").stdout


def test_an_edited_environment_file_is_drift(project: Project, started: str) -> None:  # noqa: ARG001
    local = project.folder / "envs" / ".env.dev.local"
    local.write_text("GATEWAY_MAX_QUEUED_REQUESTS=77\n", encoding="utf-8")
    try:
        told = json.loads(project.command("status", "dev", "--json").stdout)["drift"]
        refused = project.command("restart", "dev", "gateway")
    finally:
        local.unlink()
    assert {"what": "its settings have changed", "service": "gateway"} in told
    assert any("GATEWAY_MAX_QUEUED_REQUESTS=" in row["what"] and "→ 77" in row["what"] for row in told)
    assert (refused.returncode, "have changed since the start" in refused.stderr) == (6, True)


def test_a_frozen_engine_does_not_freeze_status(project: Project, started: str) -> None:  # noqa: ARG001
    group = leaders(project)["engine"]
    os.killpg(group, signal.SIGSTOP)
    try:
        told = json.loads(project.command("status", "dev", "--json").stdout)
    finally:
        os.killpg(group, signal.SIGCONT)
    phases = {service["name"]: service["phase"] for service in told["services"]}
    assert (phases["engine"], phases["gateway"]) == ("unhealthy", "healthy")
    assert told["models"][0]["running"] is None


def test_a_service_is_restarted_alone(project: Project, started: str) -> None:  # noqa: ARG001
    before = leaders(project)
    done = project.command("restart", "dev", "gateway")
    assert done.returncode == 0, done.stderr
    after = leaders(project)
    assert {name for name in before if before[name] != after[name]} == {"gateway"}
    assert project.complete()


def test_nothing_listens_beyond_this_machine(project: Project, started: str) -> None:  # noqa: ARG001
    pids = [pid for leader in leaders(project).values() for pid in group_members(leader)]
    # 127.0.0.1 and ::1, in the host's byte order.
    assert listening_addresses(pids + supervisors(project)) <= {"0100007F", "00000000000000000000000001000000"}
    assert len(pids) >= 4


def test_no_secret_is_in_a_command_line(project: Project, started: str) -> None:  # noqa: ARG001
    pids = [pid for leader in leaders(project).values() for pid in group_members(leader)] + supervisors(project)
    shown = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)
    assert len(project.secrets) >= 4
    assert [name for name, value in project.secrets.items() if value.encode() in shown] == []


def test_second_start_changes_nothing(project: Project, started: str) -> None:
    before, starts = leaders(project), remembered(project)
    assert start(project).stdout == started
    assert leaders(project) == before
    # The stack runs: looking at it once more is no start.
    assert remembered(project) == starts


def test_killed_engine_comes_back_without_its_orphans(project: Project, started: str) -> None:  # noqa: ARG001
    leader = leaders(project)["engine"]
    assert len(group_members(leader)) >= 3
    os.kill(leader, signal.SIGKILL)
    assert wait_until(lambda: leaders(project)["engine"] != leader)
    assert project.complete() != ""
    assert group_members(leader) == []


def test_stop_after_a_killed_supervisor_leaves_nothing(project: Project, started: str) -> None:  # noqa: ARG001
    running = leaders(project)
    (supervisor,) = supervisors(project)
    os.kill(supervisor, signal.SIGKILL)
    done = project.command("stop-environment", "dev", "--runtime=processes")
    assert done.returncode == 0, done.stderr
    assert [group_members(leader) for leader in running.values()] == [[] for _ in running]
    assert not run_folder(project).exists()


def test_gated_model_comes_from_the_hub_with_a_token(make_project: MakeProject, tmp_path: Path) -> None:
    write_smoke_model(tmp_path / "tiny")
    token = tmp_path / "token"
    token.write_text("hf_for_the_tests\n", encoding="utf-8")
    with serve_hub(tmp_path / "tiny", "acme/tiny", token="hf_for_the_tests") as hub:
        project = make_project(HF_ENDPOINT=hub.url, HF_TOKEN_PATH=str(token))
        answer = paste(project, start(project, "--model=acme/tiny").stdout)
        project.command("stop-environment", "dev", "--runtime=processes")
    assert answer == SENTENCE
    assert [asked for asked in hub.requests if asked.endswith("/model.safetensors") and asked.startswith("GET")]
    assert supervisors(project) == []


def test_gated_model_without_a_token_says_why(make_project: MakeProject, tmp_path: Path) -> None:
    write_smoke_model(tmp_path / "tiny")
    with serve_hub(tmp_path / "tiny", "acme/tiny", token="hf_for_the_tests") as hub:
        project = make_project(HF_ENDPOINT=hub.url, HF_TOKEN="", HF_TOKEN_PATH="")
        words = ["start-environment", "dev", "--runtime=processes", *project.pins, "--model=acme/tiny"]
        done = project.command(*words)
    # The planner asks the hub for the model's shape, so the refusal comes before anything is written or started.
    assert done.returncode == 2, done.stderr
    assert "error: --model acme/tiny: access to this model must be requested" in done.stderr
    assert "set HF_TOKEN" in done.stderr
    assert not (project.folder / "envs").exists()
    assert supervisors(project) == []
