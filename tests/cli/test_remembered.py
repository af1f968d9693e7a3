"""What a second command keeps of the first one's choices, and how each is taken back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stackwright.cli import main

from tests.cli.commands import Run
from tests.planning_requests import HOSTS

PROD = ("configure-gpu", "--env=prod")
CPU_HOST, GPU_HOST = "cpu-small", "2x-rtx3090-nvlink"


def values(project: Path, environment: str = "prod") -> dict[str, str | None]:
    """Return the rendered settings of an environment."""
    return dict(dotenv_values(project / f"envs/.env.{environment}", interpolate=False))


def plan_of(run: Run, *words: str, host: str) -> dict[str, Any]:
    """Return the plan of prod as `plan --json` prints it."""
    ran = run("plan", "--env=prod", "--json", *words, host=host)
    assert ran.code == 0, ran.err
    document: dict[str, Any] = ran.json
    return document


def test_a_second_command_keeps_model_and_port(run: Run, project: Path) -> None:
    """The sequence that every fix line prints, and which the how-tos teach."""
    assert run(*PROD, "--model=Qwen/Qwen3-0.6B", "--set=GATEWAY_PORT=8080", host=CPU_HOST).code == 0
    ran = run(*PROD, "--set=VLLM_MAX_MODEL_LEN=4096", host=CPU_HOST)
    assert ran.code == 0
    kept = values(project)
    assert [kept[key] for key in ("VLLM_MODEL", "GATEWAY_PORT", "VLLM_MAX_MODEL_LEN")] == [
        "Qwen/Qwen3-0.6B",
        "8080",
        "4096",
    ]
    assert "prod: kept from before: --model Qwen/Qwen3-0.6B --set GATEWAY_PORT=8080" in ran.err
    assert "prod: VLLM_MAX_MODEL_LEN: auto → 4096\n" in ran.err
    assert "GATEWAY_PORT:" not in ran.err
    shown = plan_of(run, host=CPU_HOST)["settings"]
    assert {key: setting["value"] for key, setting in shown.items()} == kept
    assert {shown[key]["origin"] for key in ("VLLM_MODEL", "GATEWAY_PORT", "VLLM_MAX_MODEL_LEN")} == {"remembered"}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (["--model=Qwen/Qwen3-0.6B"], ["--model=Qwen/Qwen3-4B"], "VLLM_MODEL: Qwen/Qwen3-0.6B → Qwen/Qwen3-4B"),
        (["--set=GATEWAY_PORT=8080"], ["--set=GATEWAY_PORT=8081"], "GATEWAY_PORT: 8080 → 8081"),
        (["--set=GATEWAY_PORT=8080"], ["--unset=GATEWAY_PORT"], "GATEWAY_PORT: 8080 → 4002"),
        (["--set=GATEWAY_PORT=8080"], ["--reset"], "GATEWAY_PORT: 8080 → 4002"),
        (["cpu"], ["auto"], "GPU_COUNT: (none) → 2"),
        (["single"], ["--unset=mode"], "VLLM_TENSOR_PARALLEL_SIZE: 1 → 2"),
        (["--arg=--max-log-len=7"], ["--arg=--max-log-len=8"], "VLLM_ARG_MAX_LOG_LEN: 7 → 8"),
        (["--arg=--max-log-len=7"], ["--unset=arg"], "VLLM_ARG_MAX_LOG_LEN: 7 → (none)"),
        (["--arg=--max-log-len=7"], ["--unset=--max-log-len"], "VLLM_ARG_MAX_LOG_LEN: 7 → (none)"),
        (["--model=Qwen/Qwen3-0.6B"], ["--unset=model"], "VLLM_MODEL: Qwen/Qwen3-0.6B → "),
    ],
)
def test_what_changes_is_said(first: list[str], second: list[str], said: str, run: Run) -> None:
    model = [] if any("model" in word for word in (*first, *second)) else ["--model=Qwen/Qwen3-0.6B"]
    host = GPU_HOST
    assert run(*PROD, *first, *model, host=host).code == 0
    ran = run(*PROD, *second, *(model if "--reset" in second else []), host=host)
    assert ran.code == 0, ran.err
    assert f"prod: {said}" in ran.err


def test_what_several_environments_share_is_said_once(run: Run) -> None:
    assert run("configure-gpu", "--set=LITELLM_NUM_WORKERS=2", host=CPU_HOST).code == 0
    ran = run("configure-gpu", "--set=LITELLM_NUM_WORKERS=3", "--set=REDIS_IMAGE=redis:x", host=CPU_HOST)
    assert ran.err.count("dev, staging, prod: LITELLM_NUM_WORKERS: 2 → 3\n") == 1


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (["single"], []),
        (["--objective=latency"], []),
        (["--engine=vllm==0.32.0"], ["--set=GATEWAY_PORT=9"]),
        (["--model=Qwen/Qwen3-0.6B"], []),
        (["--model=Qwen/Qwen3-0.6B", "--arg=--chat-template-content-format=openai"], ["--set=GATEWAY_PORT=9"]),
        (["cpu", "--model=Qwen/Qwen3-0.6B", "--set=VLLM_CPU_KVCACHE_SPACE=2"], []),
    ],
)
def test_every_kind_of_choice_is_kept(words: list[str], again: list[str], run: Run, project: Path) -> None:
    assert run(*PROD, *words, host=GPU_HOST).code == 0
    before = values(project)
    assert run(*PROD, *again, host=GPU_HOST).code == 0
    after = values(project)
    pinned = dict(word.removeprefix("--set=").split("=") for word in again)
    assert {**after, **pinned} == {**before, **pinned}


def test_a_folder_is_kept_wherever_the_next_command_is_given(
    run: Run, project: Path, around: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stackwright.models.smoke_model import write_smoke_model

    write_smoke_model(around / "mine")
    monkeypatch.chdir(around)
    assert run(*PROD, "--model=./mine", host=CPU_HOST).code == 0
    (around / "elsewhere").mkdir()
    monkeypatch.chdir(around / "elsewhere")
    assert run(*PROD, host=CPU_HOST).code == 0
    assert values(project)["VLLM_MODEL"] == str(around / "mine")


def test_the_files_newer_word_wins_and_is_said(run: Run, project: Path) -> None:
    """A file that said so all the time does not: the command line beat it then, and still does."""
    assert run(*PROD, "--set=GATEWAY_PORT=8080", "--model=Qwen/Qwen3-0.6B", host=CPU_HOST).code == 0
    assert run(*PROD, host=CPU_HOST).code == 0
    assert values(project)["GATEWAY_PORT"] == "8080"
    wishes = project / "envs/prod.yaml"
    text = wishes.read_text(encoding="utf-8").replace("port: 4002", "port: 4500").replace("model: null", "model: smoke")
    wishes.write_text(text, encoding="utf-8")
    ran = run(*PROD, host=CPU_HOST)
    assert ran.code == 0
    assert values(project)["GATEWAY_PORT"] == "4500"
    assert "envs/prod.yaml now says gateway.port: 4500, which replaces the earlier `--set GATEWAY_PORT=8080`" in ran.err
    assert "envs/prod.yaml now says model: smoke, which replaces the earlier `--model Qwen/Qwen3-0.6B`" in ran.err
    assert "prod: GATEWAY_PORT: 8080 → 4500\n" in ran.err
    assert "replaces" not in run(*PROD, host=CPU_HOST).err


def test_another_hosts_choices_are_not_used_and_not_lost(run: Run, project: Path) -> None:
    assert run(*PROD, "--set=GATEWAY_PORT=8080", host=GPU_HOST).code == 0
    ran = run(*PROD, host=CPU_HOST)
    assert values(project)["GATEWAY_PORT"] == "4002"
    assert "prod: what was chosen for another host is not used for this one" in ran.err
    assert "`configure-gpu prod --set GATEWAY_PORT=8080`" in ran.err
    assert "another host" not in run(*PROD, host=CPU_HOST).err
    assert run(*PROD, host=GPU_HOST).code == 0
    assert values(project)["GATEWAY_PORT"] == "8080"


def test_taking_back_names_the_host_that_it_was_chosen_for(
    run: Run, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it, the command would plan for this machine, and forget nothing of that host."""
    assert run(*PROD, "--set=GATEWAY_PORT=8080", host=GPU_HOST).code == 0
    where = f"--out {project} --host {HOSTS / GPU_HOST / 'host.yaml'}"
    assert main([*PROD, *where.split()]) == 0
    err = capsys.readouterr().err
    assert re.search(rf"forget it: `\S*configure-gpu prod --reset {re.escape(where)}`", err) is not None


def test_a_pin_that_no_longer_holds_is_refused_with_the_way_out(run: Run, project: Path) -> None:
    """A GPU that is gone: the same machine with one of its two."""
    device = plan_of(run, host=GPU_HOST)["host"]["gpus"][1]["uuid"]
    assert run(*PROD, f"--set=NVIDIA_VISIBLE_DEVICES={device}", host=GPU_HOST).code == 0
    text = (project / "compose/generated/prod/inputs.json").read_text(encoding="utf-8")
    gone = "GPU-00000000-0000-0000-0000-000000000000"
    recorded = json.loads(text)
    recorded["choices"][0]["pins"]["NVIDIA_VISIBLE_DEVICES"] = gone
    (project / "compose/generated/prod/inputs.json").write_text(json.dumps(recorded), encoding="utf-8")
    ran = run(*PROD, host=GPU_HOST)
    assert ran.code == 4
    assert gone in ran.err
    assert "`--unset KEY` forgets one" in ran.told[1]
    assert run(*PROD, "--unset=NVIDIA_VISIBLE_DEVICES", host=GPU_HOST).code == 0


@pytest.mark.parametrize(
    ("choices", "code"),
    [
        ({"pins": {"VLLM_GONE_IN_THIS_RELEASE": "1"}}, 2),
        ({"pins": {"LITELLM_NUM_WORKERS": "http"}}, 2),
        ({"engine": "vllm", "release": "0.0.1"}, 4),
        ({"engine": "gone"}, 2),
        ({"models": ["/nowhere/at/all"]}, 2),
    ],
)
def test_a_choice_that_this_release_does_not_know_is_no_dead_end(
    choices: dict[str, Any], code: int, run: Run, project: Path
) -> None:
    assert run(*PROD, host=CPU_HOST).code == 0
    file = project / "compose/generated/prod/inputs.json"
    recorded = json.loads(file.read_text(encoding="utf-8"))
    recorded["choices"][0] |= choices
    file.write_text(json.dumps(recorded), encoding="utf-8")
    ran = run(*PROD, host=CPU_HOST)
    assert ran.code == code
    assert "kept from before" in ran.told[1]
    assert "--reset" in ran.told[1]
    key = next(iter(choices.get("pins", {"engine" if "engine" in choices else "model": ""})))
    assert run(*PROD, f"--unset={key}", host=CPU_HOST).code == 0


@pytest.mark.parametrize("junk", ["", "[]", '{"choices": 7}', '{"choices": [{"mode": "tpu"}]}', '{"choices": [7]}'])
def test_a_record_that_cannot_be_read_is_said(junk: str, run: Run, project: Path) -> None:
    assert run(*PROD, host=CPU_HOST).code == 0
    (project / "compose/generated/prod/inputs.json").write_text(junk, encoding="utf-8")
    ran = run(*PROD, host=CPU_HOST)
    assert ran.code == 0
    assert "what was chosen for prod before is not known; name it again" in ran.err


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["--unset=GATEWAY_PROT"], "--unset: GATEWAY_PROT: unknown setting", "did you mean `GATEWAY_PORT`?"),
        (
            ["--unset=GATEWAY_PORT", "--set=GATEWAY_PORT=9"],
            "--unset GATEWAY_PORT: this command sets it as well",
            "leave one of the two out",
        ),
    ],
)
def test_wrong_words_are_refused(words: list[str], error: str, hint: str, run: Run) -> None:
    assert run(*PROD, *words, host=CPU_HOST).told == (error, hint)


SEQS, STEP = "VLLM_MAX_NUM_SEQS", "VLLM_MAX_NUM_BATCHED_TOKENS"


def tune(run: Run, project: Path, *words: str, **changes: str) -> None:
    """Configure prod, and have two settings remembered as a search leaves them."""
    assert run(*PROD, "--model=Qwen/Qwen3-0.6B", *words, host=GPU_HOST).code == 0
    inputs = project / "compose/generated/prod/inputs.json"
    document = json.loads(inputs.read_text(encoding="utf-8"))
    engine = plan_of(run, host=GPU_HOST)["engine"]
    one = {
        "reason": "measured: tokens/s 100.0 → 120.0 (+20.0%)",
        "measured": "2026-11-30",
        "model": "Qwen/Qwen3-0.6B",
        "engine": f"{engine['name']} {engine['version']}",
        **changes,
    }
    document["choices"][-1]["tuned"] = {SEQS: {"value": "64", **one}, STEP: {"value": "4096", **one}}
    inputs.write_text(json.dumps(document), encoding="utf-8")


def tuned(run: Run, project: Path, *words: str) -> tuple[dict[str, str], str]:
    """Configure again; return the tuned settings that are in force, and what was said."""
    ran = run(*PROD, *words, host=GPU_HOST)
    assert ran.code == 0, ran.err
    shown = plan_of(run, host=GPU_HOST)["settings"]
    assert {key: setting["value"] for key, setting in shown.items()} == values(project)
    return {key: one["value"] for key, one in shown.items() if one["origin"] == "tuned"}, ran.err


def test_what_was_tuned_is_kept_with_its_measurement(run: Run, project: Path) -> None:
    tune(run, project)
    found, said = tuned(run, project)
    assert found == {SEQS: "64", STEP: "4096"}
    assert f"prod: tuned: {SEQS}=64, {STEP}=4096 (forget one: `--unset KEY`)" in said
    shown = plan_of(run, host=GPU_HOST)["settings"][SEQS]
    assert (shown["reason"], shown["source"]) == (
        "measured: tokens/s 100.0 → 120.0 (+20.0%)",
        "`stackwright tune` on 2026-11-30",
    )
    assert "--max-num-seqs" in (project / "compose/generated/prod/override.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ((f"--set={SEQS}=32",), {STEP: "4096"}),
        ((f"--unset={STEP}",), {SEQS: "64"}),
        (("--reset", "--model=Qwen/Qwen3-0.6B"), {}),
        (("--set=GATEWAY_PORT=9",), {SEQS: "64", STEP: "4096"}),
    ],
)
def test_a_persons_word_beats_what_was_tuned(
    words: tuple[str, ...], left: dict[str, str], run: Run, project: Path
) -> None:
    tune(run, project)
    assert tuned(run, project, *words)[0] == left
    assert tuned(run, project)[0] == left


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--model=Qwen/Qwen3-4B",), "it was measured with another model or engine"),
        (("--objective=latency",), "something else is asked for now"),
        (("single",), "something else is asked for now"),
        (("cpu",), "something else is asked for now"),
    ],
)
def test_what_was_tuned_for_something_else_no_longer_counts(
    words: tuple[str, ...], why: str, run: Run, project: Path
) -> None:
    tune(run, project)
    found, said = tuned(run, project, *words)
    again = f"prod: tuned {SEQS}=64, {STEP}=4096 no longer counts: {why}; `stackwright tune prod` measures again"
    assert found == {}
    assert f"warning: {again}" in said
    assert "no longer counts" not in tuned(run, project)[1]


def test_what_no_longer_fits_is_computed_again(run: Run, project: Path) -> None:
    tune(run, project)
    inputs = project / "compose/generated/prod/inputs.json"
    text = inputs.read_text(encoding="utf-8").replace('"value": "64"', '"value": "65000"')
    inputs.write_text(text, encoding="utf-8")
    found, said = tuned(run, project)
    assert found == {}
    assert "no longer counts: " in said


def test_a_file_that_says_otherwise_later_beats_what_was_tuned(run: Run, project: Path) -> None:
    tune(run, project)
    wishes = project / "envs/prod.yaml"
    text = wishes.read_text(encoding="utf-8").replace("settings: {}", f"settings: {{{SEQS}: 16}}")
    wishes.write_text(text, encoding="utf-8")
    found, said = tuned(run, project)
    assert found == {STEP: "4096"}
    assert "the environment's file says otherwise now" in said
    assert values(project)[SEQS] == "16"


PINS = st.dictionaries(
    st.sampled_from(["GATEWAY_PORT", "LITELLM_NUM_WORKERS", "VLLM_MAX_MODEL_LEN", "VLLM_MAX_NUM_SEQS"]),
    st.integers(1, 4).map(lambda number: str(number * 512)),
)
WORDS = st.builds(
    lambda mode, model, objective, pins: [
        *([mode] if mode else []),
        *([f"--model={model}"] if model else []),
        *([f"--objective={objective}"] if objective else []),
        *(f"--set={key}={value}" for key, value in pins.items()),
    ],
    st.sampled_from(["", "cpu", "single"]),
    st.sampled_from(["", "Qwen/Qwen3-0.6B"]),
    st.sampled_from(["", "throughput", "latency"]),
    PINS,
)


@given(words=WORDS, host=st.sampled_from([CPU_HOST, GPU_HOST]))
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_configured_twice_is_the_same_plan(words: list[str], host: str, run: Run, project: Path) -> None:
    """Whatever was chosen: said once, it holds for the command after, and `plan` shows it."""
    first = run(*PROD, "--reset", *words, host=host)
    if first.code:
        return
    before = values(project)
    assert run(*PROD, host=host).code == 0
    assert values(project) == before
    shown = plan_of(run, host=host)["settings"]
    assert {key: setting["value"] for key, setting in shown.items()} == before


@pytest.mark.parametrize("host", ["1x-rtx3090", GPU_HOST, "mixed-3090-3060", "8x-h100-nvswitch"])
def test_all_environments_serve_one_model_unless_asked_otherwise(host: str, run: Run) -> None:
    """Chosen for the smallest share of them, and kept where a later pin would choose another."""
    plans = run("configure-gpu", "--json", host=host).json["plans"]
    (model,) = {plan["models"][0]["location"] for plan in plans.values()}
    longer = run(*PROD, "--set=VLLM_MAX_MODEL_LEN=2048", "--json", host=host)
    assert longer.json["plans"]["prod"]["models"][0]["location"] == model
    asked = run("configure-gpu", "--model=Qwen/Qwen3-0.6B", "--json", host=host)
    assert {plan["models"][0]["location"] for plan in asked.json["plans"].values()} == {"Qwen/Qwen3-0.6B"}


def test_gpus_that_a_kept_mode_leaves_idle_are_told(run: Run) -> None:
    """The way out of a broken driver is `cpu`; afterwards nobody thinks of it."""
    assert run(*PROD, "cpu", host=GPU_HOST).code == 0
    ran = run(*PROD, host=GPU_HOST)
    assert "prod: 2 GPUs idle, since `cpu` is kept from before; `configure-gpu prod auto` chooses anew" in ran.err
    assert "idle" not in run(*PROD, "auto", host=GPU_HOST).err


@pytest.mark.parametrize("emptied", [True, False])
def test_keys_that_are_made_anew_are_told(run: Run, project: Path, *, emptied: bool) -> None:
    """Clients hold the old ones."""
    words = "prod: its keys were gone, and are new: `stackwright key prod` prints the master key"
    assert words not in run(*PROD, host=CPU_HOST).err
    secrets = project / "envs" / ".secrets" / "prod"
    if emptied:
        (secrets / "litellm_master_key").resolve().write_text("")
    else:
        shutil.rmtree(secrets)
    assert words in run(*PROD, host=CPU_HOST).err
    assert words not in run(*PROD, host=CPU_HOST).err
