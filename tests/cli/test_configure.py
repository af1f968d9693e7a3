"""`detect`, `plan` and `configure-gpu`: output whole, exit codes, and no file changed where one of them refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stackwright.cli import main

from tests.cli.commands import CPU, Run, image
from tests.planning_requests import HOSTS
from tests.test_layers import PACKAGE


@pytest.mark.parametrize(
    ("host", "mode", "error", "hint"),
    [
        (
            "cpu-small",
            "multi",
            "no usable GPU: found none",
            "use `configure-gpu cpu`, or install the NVIDIA driver",
        ),
        (
            "1x-rtx3090",
            "multi",
            "multi needs two or more equal GPUs, found 1× NVIDIA GeForce RTX 3090",
            "use `configure-gpu single` for the best one",
        ),
        (
            "mixed-3090-3060",
            "multi",
            "multi needs two or more equal GPUs, found 1× NVIDIA GeForce RTX 3090, 1× NVIDIA GeForce RTX 3060",
            "use `configure-gpu single` for the best one",
        ),
        (
            "nvml-mismatch",
            "auto",
            "no usable GPU: found NVML failing (",
            "reboot, or reload the kernel module, so that library and driver match; until then `configure-gpu cpu`",
        ),
        ("nvml-mismatch", "single", "no usable GPU: found NVML failing (", None),
        ("gpu-lost", "multi", "multi needs two or more equal GPUs, found ", None),
        ("a100-mig", "multi", "multi needs two or more equal GPUs, found ", None),
    ],
)
def test_what_the_host_lacks_is_exit_4_and_no_file(
    host: str, mode: str, error: str, hint: str | None, run: Run, around: Path
) -> None:
    """The sentence names what was found; nothing is written, not even for an environment that would do."""
    ran = run("configure-gpu", mode, host=host)
    assert (ran.code, ran.out) == (4, "")
    assert ran.told[0].startswith(error)
    assert hint is None or ran.told[1] == hint
    assert image(around) == {}


@pytest.mark.parametrize("host", ["nvml-mismatch", "a100-mig", "gpu-lost", "cpu-small", "8x-h100-nvswitch"])
def test_cpu_mode_needs_no_gpu_at_all(host: str, run: Run, project: Path) -> None:
    ran = run("configure-gpu", "cpu", host=host)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.count("smoke · vLLM ") == 3
    assert (project / "envs/.env.prod").is_file()


def refused(edit: str, folder: Path) -> None:
    """Put something in the way of one file of the last environment."""
    path = folder / edit
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine", encoding="utf-8")


@pytest.mark.parametrize(
    "obstacle",
    [
        "project",
        "project/envs",
        "project/compose",
        "project/compose/generated",
        "project/compose/generated/prod",
        "project/envs/.secrets",
        "project/envs/.secrets/prod",
        "home/.cache",
        "home/.cache/huggingface",
    ],
)
def test_a_file_in_the_place_of_a_folder_changes_no_file(obstacle: str, run: Run, around: Path) -> None:
    """Also where it stands in the way of the last environment, or of a cache, alone."""
    refused(obstacle, around)
    before = image(around)
    ran = run("configure-gpu", "cpu", host="cpu-small")
    assert (ran.code, ran.out) == (2, "")
    assert ran.told[0] == f"{around / obstacle}: cannot be written: not a folder"
    assert ran.told[1]
    assert image(around) == before


@pytest.mark.parametrize("name", ["HF_HOME", "VLLM_CACHE_ROOT"])
def test_a_cache_that_cannot_be_looked_into_changes_no_file(
    name: str, run: Run, around: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name longer than names may be fails the look itself, as a closed folder does for all but root."""
    monkeypatch.setenv(name, f"{around}/{'x' * 300}/cache")
    ran = run("configure-gpu", "cpu", host="cpu-small")
    assert (ran.code, ran.out) == (2, "")
    assert ran.told[0].startswith(f"{around}/{'x' * 300}")
    assert ran.told[0].endswith(": cannot be written: File name too long")
    assert image(around) == {}


@pytest.mark.parametrize("obstacle", ["project/envs/.env.prod", "project/compose/generated/prod/override.yaml"])
def test_a_folder_in_the_place_of_a_file_changes_no_file(obstacle: str, run: Run, around: Path) -> None:
    (around / obstacle).mkdir(parents=True)
    before = image(around)
    ran = run("configure-gpu", "cpu", host="cpu-small")
    assert (ran.code, ran.told) == (2, (f"{around / obstacle}: cannot be read: Is a directory", "move it away"))
    assert image(around) == before


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--out=~nobody-of-that-name/x"], "no folder to work in: Could not determine home directory"),
        (["--out=" + "x" * 300], "no folder to work in: File name too long"),
        (
            ["--model=" + "x" * 300],
            "--model " + "x" * 120 + ": not a Hugging Face id (owner/name), a folder, or a catalog name",
        ),
        (["--model=~nobody-of-that-name/x"], "--model ~nobody-of-that-name/x: no such folder"),
        (["--model=a\nb"], "--model a\\nb: not a Hugging Face id (owner/name), a folder, or a catalog name"),
        (["--set=VLLM_IMAGE=\udcff"], "--set: VLLM_IMAGE: found `\\udcff`, allowed: one line"),
    ],
    ids=["nobody", "long-folder", "long-model", "no-model", "two-lines", "no-text"],
)
def test_absurd_names_are_wrong_usage(
    words: list[str], error: str, around: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = image(around)
    code = main([*CPU, f"--host={HOSTS / 'cpu-small' / 'host.yaml'}", *words])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {error}")
    assert image(around) == before


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("HF_HOME", "/tmp/it's", "HF_HOME: found `/tmp/it's`"),
        ("HF_HOME", "/tmp/a\nVLLM_IMAGE=evil", "HF_HOME: found `/tmp/a\\nVLLM_IMAGE=evil`"),
        ("VLLM_CACHE_ROOT", "/a:/b", "VLLM_CACHE_ROOT: found `/a:/b`"),
        ("STACKWRIGHT_STATE", "/back\\slash", "VLLM_MODEL: found `/back\\slash/models/smoke`"),
    ],
)
def test_a_variable_that_no_file_can_hold_is_named(
    name: str, value: str, found: str, run: Run, around: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    ran = run(*CPU, host="cpu-small")
    assert ran.code == 2
    assert ran.told[0].startswith(found)
    assert ran.told[1] == "set STACKWRIGHT_STATE, HF_HOME or VLLM_CACHE_ROOT to another folder"
    assert image(around) == {}


def test_a_local_file_that_cannot_be_read_stops_before_anything_is_written(run: Run, project: Path) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    (project / "envs/.env.dev.local").write_text("A='open\n", encoding="utf-8")
    before = image(project)
    ran = run(*CPU, "--set=GATEWAY_PORT=4444", host="cpu-small")
    assert (ran.code, ran.out) == (5, "")
    assert f"error: {project}/envs/.env.dev.local:1: expected KEY=VALUE\n" in ran.err
    assert image(project) == before


def test_a_wrong_local_value_is_told_and_is_no_success(run: Run, project: Path) -> None:
    """The generated files are right all the same."""
    assert run(*CPU, host="cpu-small").code == 0
    (project / "envs/.env.dev.local").write_text("LITELLM_NUM_WORKERS=many\n", encoding="utf-8")
    ran = run(*CPU, "--set=GATEWAY_PORT=4444", host="cpu-small")
    assert (ran.code, ran.out) == (5, "")
    assert "error: env-value: LITELLM_NUM_WORKERS=many; expected a whole number from 1 to 256\n" in ran.err
    assert ran.err.endswith("error: 1 error found, see above\n")
    assert "GATEWAY_PORT=4444" in (project / "envs/.env.dev").read_text(encoding="utf-8")
    ran = run(*CPU, "--json", host="cpu-small")
    assert (ran.code, [finding["check"] for finding in ran.json["findings"]]) == (5, ["env-value"])


def with_two_models(project: Path, gateway: str) -> None:
    """Write a development environment with two models and more lines below `gateway:`."""
    shipped = (PACKAGE.parents[1] / "envs" / "dev.yaml").read_text(encoding="utf-8")
    models = "models: [{name: smoke}, {name: Qwen/Qwen3-0.6B, aliases: [other]}]\n"
    (project / "envs").mkdir(parents=True)
    text = shipped.replace("gateway:", f"gateway:\n{gateway}") + models
    (project / "envs" / "dev.yaml").write_text(text, encoding="utf-8")


def test_one_model_of_a_list_leaves_out_the_fallbacks_of_the_others(run: Run, project: Path) -> None:
    with_two_models(
        project, "  fallbacks: {smoke: [other], other: [away]}\n  cloud: [{name: away, model: openai/x, key: mine}]"
    )
    ran = run(*CPU, "--model=smoke", host="cpu-small")
    assert ran.code == 0
    assert "warning: envs/dev.yaml: gateway.fallbacks: skipped, since --model does not select them: other\n" in ran.err
    rendered = (project / "compose/generated/dev/gateway.yaml").read_text(encoding="utf-8")
    assert "fallbacks" not in rendered
    assert "away" not in rendered


def test_a_listed_model_is_found_by_whichever_of_its_names(run: Run, project: Path) -> None:
    """The list has its hub id, the command line its name in the catalog: the alias is kept."""
    with_two_models(project, "")
    ran = run("plan", "cpu", "--env=dev", "--json", "--model=qwen3-0.6b", host="cpu-small")
    (group,) = ran.json["gateway"]["groups"]
    assert (group["model"], group["aliases"]) == ("Qwen/Qwen3-0.6B", ["other"])


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("model: null", "model: größe", "model"),
        ("model: null", "model: null\nmodels: [{name: größe}]", "models[0].name"),
    ],
)
def test_a_model_that_means_nothing_is_named_with_file_and_key(
    old: str, new: str, place: str, run: Run, project: Path
) -> None:
    shipped = (PACKAGE.parents[1] / "envs" / "dev.yaml").read_text(encoding="utf-8")
    (project / "envs").mkdir(parents=True)
    (project / "envs" / "dev.yaml").write_text(shipped.replace(old, new), encoding="utf-8")
    ran = run(*CPU, host="cpu-small")
    assert ran.code == 2
    assert ran.told[0].startswith(f"{project}/envs/dev.yaml: {place}: größe: not a Hugging Face id")


@pytest.mark.parametrize(
    ("gateway", "problem"),
    [
        ("  fallbacks: {smoke: [nobody]}", "envs/dev.yaml: gateway.fallbacks: found `nobody`, allowed: "),
        (
            "  cloud: [{name: away, model: openai/x, key: mine}]",
            "envs/dev.yaml: gateway.cloud: `away` is in no fallback list",
        ),
        (
            "  cloud: [{name: away, model: openai/x, key: sk-proj-Secret}]",
            "envs/dev.yaml: gateway.cloud[0].key: found another value",
        ),
    ],
)
def test_wrong_fallbacks_are_wrong_usage_of_a_file(gateway: str, problem: str, run: Run, project: Path) -> None:
    with_two_models(project, gateway)
    ran = run(*CPU, host="cpu-small")
    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.told[0]
    assert "Secret" not in ran.err


def test_an_exported_variable_is_a_warning_while_configuring(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Compose would read it."""
    monkeypatch.setenv("GATEWAY_PORT", "1")
    ran = run(*CPU, host="cpu-small")
    assert ran.code == 0
    assert "warning: shell-overrides: GATEWAY_PORT is exported in this shell with another value" in ran.err


def test_configuring_again_changes_no_byte_and_no_time(run: Run, around: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hub token too, which is refreshed only where it differs."""
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert run("configure-gpu", host="2x-rtx3090-nvlink").code == 0
    before = image(around)
    ran = run("configure-gpu", host="2x-rtx3090-nvlink")
    assert (ran.code, ran.out) == (0, "")
    assert "nothing to change\n" in ran.err
    assert image(around) == before


def test_a_gpu_that_is_busier_than_before_changes_no_file(run: Run, around: Path, project: Path) -> None:
    """Memory in use passes by the minute."""
    host = HOSTS / "2x-rtx3090-nvlink" / "host.yaml"
    assert run("configure-gpu", f"--host={host}").code == 0
    before = image(project)
    busier = around / "busier.yaml"
    busier.write_text(host.read_text(encoding="utf-8").replace("memory_used_bytes: 2", "memory_used_bytes: 3"))
    assert run("configure-gpu", f"--host={busier}").code == 0
    assert image(project) == before


def test_the_differences_of_a_change_are_printed(run: Run, project: Path) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    ran = run(*CPU, "--diff", "--set=GATEWAY_PORT=4444", host="cpu-small")
    assert ran.code == 0
    changed = [line for line in ran.out.splitlines() if line.startswith(("-GATEWAY_PORT", "+GATEWAY_PORT"))]
    assert changed == ["-GATEWAY_PORT=4000", "+GATEWAY_PORT=4444"]
    assert "change envs/.env.dev\n" in ran.err
    assert "plan.json" not in ran.out
    assert "gateway.yaml" not in ran.err
    assert "GATEWAY_PORT=4444" in (project / "envs/.env.dev").read_text(encoding="utf-8")


@pytest.mark.parametrize("flags", [["--dry-run"], ["--dry-run", "--json"], ["--dry-run", "--explain"]])
def test_a_dry_run_touches_nothing_at_all(flags: list[str], run: Run, around: Path) -> None:
    assert run("configure-gpu", *flags, host="2x-rtx3090-nvlink").code == 0
    assert image(around) == {}


def test_a_dry_run_names_the_command_that_writes_only_where_there_is_something_to_write(run: Run) -> None:
    before = run(*CPU, "--dry-run", host="cpu-small")
    assert before.err.splitlines()[-1].startswith("to write them: ")
    assert run(*CPU, host="cpu-small").code == 0
    after = run(*CPU, "--dry-run", host="cpu-small")
    assert (after.code, after.err.splitlines()[-1]) == (0, "nothing to change")


def test_a_dry_run_over_an_edit_says_what_would_be(run: Run, project: Path) -> None:
    assert run(*CPU, host="cpu-small").code == 0
    with (project / "envs/.env.dev").open("a", encoding="utf-8") as file:
        file.write("# mine\n")
    before = image(project)
    ran = run(*CPU, "--dry-run", "--diff", host="cpu-small")
    assert (ran.code, "-# mine" in ran.out, "would change envs/.env.dev\n" in ran.err) == (0, True, True)
    assert image(project) == before


def test_json_of_the_asked_environment_alone(run: Run) -> None:
    ran = run("configure-gpu", "--env=staging", "--json", host="2x-rtx3090-nvlink")
    assert ran.code == 0
    assert list(ran.json["plans"]) == ["staging"]
    assert [file["status"] for file in ran.json["files"]] == ["new"] * 5
    assert [file["path"] for file in ran.json["files"]] == [
        "envs/.env.staging",
        "compose/generated/staging/override.yaml",
        "compose/generated/staging/gateway.yaml",
        "compose/generated/staging/plan.json",
        "compose/generated/staging/inputs.json",
    ]
    assert ran.json["findings"] == []
    settings = ran.json["plans"]["staging"]["settings"]
    assert settings["VLLM_TENSOR_PARALLEL_SIZE"]["value"] == "2"
    assert settings["VLLM_GPU_MEMORY_UTILIZATION"]["value"] == "0.85"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("plan multi --json", 4),
        ("configure-gpu multi --json", 4),
        ("fit --model nothing --json", 2),
        ("plan --jsno --json", 2),
        ("plna --json", 2),
    ],
)
def test_a_refusal_with_json_is_one_document(words: str, code: int, run: Run) -> None:
    """With the words on stderr as without."""
    ran = run(*words.split(), host="cpu-small")
    message, hint = ran.told
    assert ran.code == code
    assert ran.json == {"error": {"message": message, "hint": hint, "exit_code": code}}


@pytest.mark.parametrize("words", ["status dev --json", "validate-environment dev --json", "keys add a dev --json"])
def test_what_is_not_configured_is_a_document_too(words: str, run: Run) -> None:
    assert run(*words.split()).json["error"]["hint"]


def test_a_document_that_is_printed_is_the_only_one(run: Run) -> None:
    """The answer of `fit` stands there, though it is a refusal."""
    ran = run("fit", "--json", "--model", "qwen3-32b", host="1x-rtx3060-12gb")
    assert (ran.code, ran.json["verdict"]) == (4, "does-not-fit")


def test_a_snapshot_is_planned_for_as_the_machine_was(run: Run, around: Path) -> None:
    """Out, in, and the same plan."""
    copy = around / "copy.yaml"
    shutil.copy(HOSTS / "2x-rtx3090-nvlink" / "host.yaml", copy)
    assert run("plan", "--json", f"--host={copy}").json == run("plan", "--json", host="2x-rtx3090-nvlink").json


@pytest.mark.subprocess
def test_detecting_needs_nothing_and_writes_where_it_was_told(around: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = around / "host.yaml"
    assert main(["detect", "-o", str(target)]) == 0
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", f"wrote {target}")
    assert main(["detect", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == [
        "schema",
        "cpu",
        "memory_bytes",
        "os",
        "driver",
        "gpus",
        "links",
        "p2p",
        "containers",
        "network",
        "other_gpus",
    ]
    assert main(["detect", "-o", str(around / "none" / "host.yaml")]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.subprocess
def test_detecting_writes_over_no_file_of_another_kind(around: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = around / "config.yaml"
    target.write_text("model_list: []\n")
    assert main(["detect", "-o", str(target)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output: {target} is there already, and is no snapshot")
    assert target.read_text() == "model_list: []\n"
    target.unlink()
    assert main(["detect", "-o", str(target)]) == 0
    assert main(["detect", "-o", str(target)]) == 0
