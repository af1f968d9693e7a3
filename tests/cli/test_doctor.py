"""`stackwright doctor` on the real files: what it names, its exit codes, the fix applied, and the archive."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import asdict
from stackwright.diagnosis.redaction import REDACTED
from stackwright.project.lock import NAME, Work

from tests.cli.commands import CPU, Run, image
from tests.integration.project import free_port

KV = (
    "(EngineCore pid=24) ValueError: To serve at least one request with the model's max seq len (2048), (4.0 "
    "GiB KV cache is "
    "needed, which is larger than the available KV cache memory (1.0 GiB). Based on the available memory, the "
    "estimated "
    "maximum model length is 1024. Try increasing `gpu_memory_utilization`\n"
)
ANYWHERE = pytest.mark.subprocess


@pytest.fixture
def configured(run: Run, project: Path) -> Path:
    """Give a project folder with dev configured for the processor, and the folder of its failed start."""
    assert run(*CPU, host="cpu-small").code == 0
    return project


@pytest.fixture
def failed(configured: Path, around: Path) -> Path:
    """Leave the log of a start that failed, as `start-environment` does; return its folder."""
    folder = around / "home/.local/share/stackwright/failures/stackwright-dev"
    folder.mkdir(parents=True)
    (folder / "engine.log").write_text(KV, encoding="utf-8")
    assert (configured / "envs").is_dir()
    return folder


@ANYWHERE
def test_nothing_wrong_is_said(run: Run, configured: Path) -> None:
    assert run(*CPU, f"--set=GATEWAY_PORT={free_port()}", host="cpu-small").code == 0
    ran = run("doctor", "dev", "--runtime=processes")
    assert (ran.code, ran.out) == (0, "")
    *_, stopped, last = ran.err.splitlines()
    assert stopped == "dev: nothing runs; start it: `start-environment dev`"
    (look,) = run("doctor", "dev", "--runtime=processes", "--json").json["environments"]
    assert look["at_rest"] == stopped
    assert last == "nothing else found wrong: dev"
    assert configured.exists()


@ANYWHERE
def test_a_start_that_was_cut_off_is_told(run: Run, configured: Path) -> None:
    """Its record is what a killed command leaves; `status` and the next command tell of it, too."""
    assert run(*CPU, f"--set=GATEWAY_PORT={free_port()}", host="cpu-small").code == 0
    work = Work(command="start-environment", pid=4194304, since=0.0, starting=True, runtime="processes")
    (configured / "compose/generated/dev" / NAME).write_text(json.dumps(asdict(work)) + "\n", encoding="utf-8")
    ran = run("doctor", "dev", "--runtime=processes")
    assert ran.code == 0
    *_, told, last = ran.err.splitlines()
    assert "`start-environment` (process 4194304) was interrupted, begun while nothing ran" in told
    assert "continue with `start-environment dev`, or stop with `stop-environment dev`; that was at 19" in told
    assert last == "nothing else found wrong: dev"


@ANYWHERE
def test_without_anything_configured_the_machine_is_looked_at(run: Run, project: Path) -> None:
    ran = run("doctor")
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "nothing found wrong: this machine (nothing is configured)"
    assert not project.exists()


@ANYWHERE
def test_a_failed_start_is_named_with_its_fix(run: Run, failed: Path) -> None:
    ran = run("doctor", "--runtime=processes")
    assert ran.code == 7
    first, said, fix, see = ran.out.splitlines()
    assert first.startswith("dev: engine: the KV cache is too small for one request")
    assert first.endswith("1024 tokens fit [kv-cache-too-small]")
    assert said.startswith("  said: ValueError: To serve at least one request")
    assert fix == "  fix: `configure-gpu dev --set VLLM_MAX_MODEL_LEN=1024`"
    assert see.startswith("  see: https://")
    assert ran.told == (
        "1 failure named, see above",
        "plan again with the fix: `stackwright doctor dev --apply`",
    )
    assert failed.exists()


@ANYWHERE
def test_json_is_one_document(run: Run, failed: Path) -> None:
    ran = run("doctor", "dev", "--runtime=processes", "--json")
    (look,) = ran.json["environments"]
    (failure,) = look["failures"]
    assert ran.code == 7
    assert (look["environment"], look["runtime"], look["unreadable"]) == ("dev", "processes", None)
    assert (failure["service"], failure["rule"]) == ("engine", "kv-cache-too-small")
    assert failure["settings"] == {"VLLM_MAX_MODEL_LEN": "1024"}
    assert look["failed_s_ago"] >= 0
    assert look["at_rest"] is None
    assert failed.exists()


@ANYWHERE
def test_a_failure_that_no_rule_knows_is_told_in_its_own_words(run: Run, failed: Path) -> None:
    (failed / "engine.log").write_text("could not find the needle\n", encoding="utf-8")
    ran = run("doctor", "dev", "--runtime=processes")
    assert ran.code == 7
    assert ran.out == "dev: engine: no known failure; its log says: could not find the needle\n"


@ANYWHERE
def test_an_exception_that_no_rule_knows_is_quoted_without_a_guess_at_its_cause(run: Run, failed: Path) -> None:
    (failed / "engine.log").write_text("Traceback\nValueError: never seen before\n", encoding="utf-8")
    ran = run("doctor", "dev", "--runtime=processes")
    assert ran.code == 7
    assert ran.out.splitlines()[:2] == [
        "dev: engine: the program stops and says why: ValueError: never seen before [program-refused]",
        "  said: ValueError: never seen before",
    ]


@ANYWHERE
def test_a_damaged_plan_is_said_beside_the_others(run: Run, configured: Path) -> None:
    (configured / "compose/generated/dev/plan.json").write_text("{", encoding="utf-8")
    ran = run("doctor", "--runtime=processes", "--json")
    (look,) = ran.json["environments"]
    assert ran.code == 5
    assert "cannot be read as JSON" in look["unreadable"]["message"]


@ANYWHERE
def test_a_wrong_value_is_found_by_the_checks(run: Run, configured: Path) -> None:
    (configured / "envs/.env.dev.local").write_text("GATEWAY_PORTS=4\n", encoding="utf-8")
    ran = run("doctor", "dev", "--runtime=processes", "--json")
    (look,) = ran.json["environments"]
    assert ran.code == 5
    assert "env-unknown-key" in [finding["check"] for finding in look["findings"]]


@ANYWHERE
def test_an_environment_that_is_not_configured_is_said(run: Run, configured: Path) -> None:
    ran = run("doctor", "prod")
    assert ran.code == 5
    assert ran.told[0] == f"prod is not configured in {configured}"
    assert ran.err.count("is not configured in") == 1


@ANYWHERE
def test_a_fix_that_is_a_setting_is_applied(run: Run, failed: Path, project: Path) -> None:
    wishes = (project / "envs/dev.yaml").read_bytes()
    assert run(*CPU, "--set=LITELLM_NUM_WORKERS=3", host="cpu-small").code == 0
    later = (project / "compose/generated/dev/plan.json").stat().st_mtime + 1
    os.utime(failed / "engine.log", (later, later))
    ran = run("doctor", "dev", "--apply", "--runtime=processes")
    env = (project / "envs/.env.dev").read_text(encoding="utf-8")
    assert ran.code == 0
    assert "+VLLM_MAX_MODEL_LEN='1024'" in ran.out or "+VLLM_MAX_MODEL_LEN=1024" in ran.out
    assert "VLLM_MAX_MODEL_LEN=1024" in env.replace("'", "")
    assert "LITELLM_NUM_WORKERS=3" in env.replace("'", ""), "an earlier pin is kept"
    assert "the next commands keep it; to take it back: `" in ran.err
    assert "configure-gpu dev --unset VLLM_MAX_MODEL_LEN" in ran.err
    assert run("configure-gpu", "--env=dev", host="cpu-small").code == 0
    assert (project / "envs/dev.yaml").read_bytes() == wishes, "a hand-written file is left alone"


@ANYWHERE
def test_what_no_setting_mends_is_not_applied(run: Run, failed: Path, project: Path) -> None:
    (failed / "engine.log").write_text(
        "CUDA error: no kernel image is available for execution on the device\n", "utf-8"
    )
    before = image(project)
    ran = run("doctor", "dev", "--apply", "--runtime=processes")
    assert (ran.code, ran.told[0]) == (2, "dev: no finding that a setting fixes")
    assert image(project) == before


def test_apply_needs_an_environment(run: Run) -> None:
    ran = run("doctor", "--apply")
    assert (ran.code, ran.told[0]) == (2, "--apply needs an environment")


@ANYWHERE
def test_the_archive_holds_what_a_report_needs_and_no_secret(
    run: Run, failed: Path, project: Path, around: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret planted in every input: each secret file, variables, wishes, the local file, logs, the rendered
    files.
    """
    planted = {"env": "hf_plantedInTheShell00", "local": "planted-in-the-local-file", "wish": "planted-in-the-wishes"}
    monkeypatch.setenv("HF_TOKEN", planted["env"])
    monkeypatch.setenv("USER", "wilhelmina")
    monkeypatch.setenv("SOME_PASSWORD", "planted in a variable")
    keys = [path.read_text("utf-8") for path in (project / "envs/.secrets").rglob("*") if path.is_file()]
    secrets = [*planted.values(), "planted in a variable", *filter(None, keys)]
    assert len(secrets) >= 8
    with (project / "envs/dev.yaml").open("a", encoding="utf-8") as wishes:
        wishes.write(f"# token: {planted['wish']}\n")
    (project / "envs/.env.dev.local").write_text(f"# HF_TOKEN={planted['local']}\n", encoding="utf-8")
    noise = "\n".join(f"{secret} Bearer {secret} http://wilhelmina:{secret}@hub {around}/home" for secret in secrets)
    for path in (failed / "engine.log", failed / "gateway.log", project / "compose/generated/dev/gateway.yaml"):
        path.write_text(KV + noise, encoding="utf-8")
    target = around / "report.tar.gz"
    ran = run("doctor", "dev", "--runtime=processes", f"--bundle={target}")
    texts = unpack(target)
    assert ran.code == 7
    assert target.stat().st_mode & 0o777 == 0o600
    assert {"README.txt", "versions.txt", "host.yaml", "dev/doctor.json", "dev/plan.json", "dev/env.dev"} <= set(texts)
    assert {"dev/failed-start/engine.log", "dev/failed-start/gateway.log", "dev/override.yaml"} <= set(texts)
    assert not any(".secrets" in name for name in texts)
    whole = "\n".join(texts.values())
    assert [secret for secret in (*secrets, "wilhelmina", f"{around}/home") if secret in whole] == []
    assert REDACTED in texts["dev/failed-start/engine.log"]
    assert "estimated maximum model length is 1024" in texts["dev/failed-start/engine.log"]
    assert json.loads(texts["dev/doctor.json"])["failures"][0]["rule"] == "kv-cache-too-small"


def unpack(target: Path) -> dict[str, str]:
    """Return the texts of an archive by their paths in its one folder; nothing in it leads out of that."""
    with tarfile.open(target, "r:gz") as archive:
        members = archive.getmembers()
        assert all(member.isfile() and member.name.startswith("stackwright-report/") for member in members)
        assert not any(".." in member.name.split("/") for member in members)
        texts = {member.name: archive.extractfile(member) for member in members}
        return {name.removeprefix("stackwright-report/"): file.read().decode() for name, file in texts.items() if file}


@ANYWHERE
def test_an_archive_is_never_written_over_a_file(run: Run, configured: Path, around: Path) -> None:
    mine = around / "mine.tar.gz"
    mine.write_text("mine", encoding="utf-8")
    ran = run("doctor", "dev", "--runtime=processes", f"--bundle={mine}")
    assert (ran.code, ran.told) == (2, (f"{mine} exists already", "choose another file with --bundle FILE"))
    assert mine.read_text(encoding="utf-8") == "mine"
    assert configured.exists()


@ANYWHERE
@pytest.mark.parametrize("where", ["none/report.tar.gz", "home"])
def test_an_archive_that_cannot_be_written_is_said(run: Run, configured: Path, around: Path, where: str) -> None:
    (around / "home").mkdir(exist_ok=True)
    ran = run("doctor", "dev", "--runtime=processes", f"--bundle={around / where}")
    assert ran.code == 2
    assert str(around / where) in ran.told[0]
    assert configured.exists()


@ANYWHERE
def test_a_fix_that_the_local_file_would_undo_is_refused(run: Run, failed: Path, project: Path) -> None:
    local = project / "envs/.env.dev.local"
    local.write_text("VLLM_MAX_MODEL_LEN=2048\n", encoding="utf-8")
    before = image(project)
    ran = run("doctor", "dev", "--apply", "--runtime=processes")
    assert failed.exists()
    assert (ran.code, ran.told) == (
        2,
        (f"{local}: VLLM_MAX_MODEL_LEN=2048 overrides every pin", "set VLLM_MAX_MODEL_LEN=1024 there"),
    )
    assert image(project) == before


def test_a_log_is_judged_without_a_stack(run: Run, around: Path) -> None:
    log = around / "engine.log"
    log.write_text(f"VLLM_API_KEY=sk-abcdefghijklmnop\n{KV}", encoding="utf-8")
    ran = run("doctor", "--log", str(log), "--json")
    (judged,) = json.loads(ran.out)
    assert (ran.code, judged["rule"]) == (0, "kv-cache-too-small")
    assert set(judged) == {"cause", "fix", "source", "lines", "rule"}
    assert judged["fix"] == "`configure-gpu ENV --set VLLM_MAX_MODEL_LEN=1024`"


def test_a_log_in_which_nothing_fails_ends_well(run: Run, around: Path) -> None:
    log = around / "engine.log"
    log.write_text("INFO all is well\n", encoding="utf-8")
    assert run("doctor", "--log", str(log)).code == 0
    assert run("doctor", "--log", str(log), "--json").out.strip() == "[]"


@pytest.mark.parametrize("words", [("--log", "nowhere.log"), ("dev", "--log", "-", "--apply"), ("--log",)])
def test_a_log_that_cannot_be_judged_is_a_usage_error(run: Run, words: tuple[str, ...]) -> None:
    ran = run("doctor", *words)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
