"""What a person gives the engine beyond its settings: from the command line or the file to both runtimes, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from stackwright.project.folder import load_stack

from tests.cli.commands import CPU, Run
from tests.planning_requests import paths_of
from tests.runtime.test_programs import programs_of_stack
from tests.test_layers import PACKAGE

CROPS = '{"num_crops": 4}'
GIVEN = ("--arg", "--chat-template-content-format=openai", "--arg", f"mm-processor-kwargs={CROPS}")


def with_models(project: Path, models: str, gateway: str = "") -> None:
    """Write a development environment with these models, and more lines below `gateway:`."""
    shipped = (PACKAGE.parents[1] / "envs" / "dev.yaml").read_text(encoding="utf-8")
    (project / "envs").mkdir(parents=True, exist_ok=True)
    text = shipped.replace("gateway:", f"gateway:\n{gateway}") + f"models: {models}\n"
    (project / "envs" / "dev.yaml").write_text(text, encoding="utf-8")


def command_of(project: Path, engine: str = "engine") -> list[str]:
    """Return an engine's command in the rendered override."""
    text = (project / "compose/generated/dev/override.yaml").read_text(encoding="utf-8")
    command: list[str] = yaml.safe_load(text)["services"][engine]["command"]
    return command


def behind(words: list[str] | tuple[str, ...], flag: str) -> str:
    """Return the word behind a flag."""
    return words[words.index(flag) + 1]


def test_a_flag_reaches_both_runtimes_and_can_be_changed_in_the_local_file(run: Run, project: Path) -> None:
    ran = run(*CPU, "cpu", *GIVEN, "--arg=--no-enable-prefix-caching", "--json", host="cpu-small")
    assert ran.code == 0
    plan = ran.json["plans"]["dev"]
    key = "VLLM_ARG_CHAT_TEMPLATE_CONTENT_FORMAT"
    assert plan["settings"][key]["value"] == "openai"
    assert (plan["settings"][key]["source"], plan["settings"][key]["origin"]) == ("--arg", "pinned")
    assert plan["models"][0]["settings"][key]["value"] == "openai"
    words = command_of(project)
    assert behind(words, "--chat-template-content-format") == f"${{{key}:?}}"
    assert behind(words, "--mm-processor-kwargs") == "${VLLM_ARG_MM_PROCESSOR_KWARGS:?}"
    assert "--no-enable-prefix-caching" in words
    (project / "envs/.env.dev.local").write_text(f"{key}=string\n", encoding="utf-8")
    stack = load_stack(paths_of(project))
    assert stack is not None
    engine = programs_of_stack(stack)["engine"].arguments
    assert behind(engine, "--chat-template-content-format") == "string"
    assert behind(engine, "--mm-processor-kwargs") == CROPS
    assert "--no-enable-prefix-caching" in engine


def test_a_switch_cannot_be_changed_in_the_local_file(run: Run, project: Path) -> None:
    words = (*CPU, "cpu", "--arg=--enable-prefix-caching", "--arg=--enable-log-requests")
    assert run(*words, host="cpu-small").code == 0
    local = project / "envs/.env.dev.local"
    for key in ("VLLM_ENABLE_PREFIX_CACHING", "VLLM_ARG_ENABLE_LOG_REQUESTS"):
        local.write_text(f"{key}=false\n", encoding="utf-8")
        ran = run(*words, host="cpu-small")
        assert ran.code == 5
        assert f"error: env-derived: {key}=false; expected true, derived from the rest of the plan\n" in ran.err


@pytest.mark.parametrize(
    "args",
    [
        f"{{chat-template-content-format: openai, mm-processor-kwargs: {CROPS}, enable-prefix-caching: false}}",
        f"[--chat-template-content-format, openai, '--mm-processor-kwargs={CROPS}', --no-enable-prefix-caching]",
        f"[--chat_template_content_format openai, '--mm-processor-kwargs {CROPS}', --no-enable-prefix-caching]",
        "[--chat-template-content-format=openai, --mm-processor-kwargs.num_crops=4, --no-enable-prefix-caching]",
    ],
)
def test_the_file_takes_them_by_name_or_as_words(args: str, run: Run, project: Path) -> None:
    with_models(project, f"[{{name: smoke, args: {args}}}]")
    ran = run("plan", "cpu", "--env=dev", "--json", host="cpu-small")
    assert ran.code == 0
    settings = ran.json["settings"]
    assert json.loads(settings["VLLM_ARG_MM_PROCESSOR_KWARGS"]["value"]) == {"num_crops": 4}
    assert settings["VLLM_ENABLE_PREFIX_CACHING"]["value"] == "false"
    given = settings["VLLM_ARG_CHAT_TEMPLATE_CONTENT_FORMAT"]
    assert (given["value"], given["origin"]) == ("openai", "wished")
    assert given["source"] == f"{project}/envs/dev.yaml: models[0].args"


def test_each_of_several_models_has_its_own(run: Run, project: Path) -> None:
    first, second = "{name: smoke, args: {seed: 1}}", "{name: Qwen/Qwen3-0.6B, args: {seed: 2}, served_name: little}"
    with_models(project, f"[{first}, {second}]")
    assert run(*CPU, "cpu", host="cpu-small").code == 0
    assert behind(command_of(project), "--seed") == "${VLLM_ARG_SEED:?}"
    assert behind(command_of(project, "engine-2"), "--seed") == "${VLLM_ARG_SEED_2:?}"
    values = (project / "envs/.env.dev").read_text(encoding="utf-8")
    assert "VLLM_ARG_SEED=1\n" in values
    assert "VLLM_ARG_SEED_2=2\n" in values
    assert 'model_name: "little"' in (project / "compose/generated/dev/gateway.yaml").read_text(encoding="utf-8")
    ran = run(*CPU, "cpu", "--arg=--seed=3", host="cpu-small")
    assert ran.told == (
        "--arg: dev has 2 models, and it does not say which one it is for",
        "write models[].args in envs/dev.yaml",
    )


def test_the_command_line_beats_the_file(run: Run, project: Path) -> None:
    with_models(project, "[{name: smoke, args: {seed: 1, block-size: 16}}]")
    words = ("plan", "cpu", "--env=dev", "--json", "--arg=--seed=2", "--set=VLLM_BLOCK_SIZE=32")
    settings = run(*words, host="cpu-small").json["settings"]
    assert (settings["VLLM_ARG_SEED"]["value"], settings["VLLM_ARG_SEED"]["source"]) == ("2", "--arg")
    assert (settings["VLLM_BLOCK_SIZE"]["value"], settings["VLLM_BLOCK_SIZE"]["source"]) == ("32", "--set")


def test_models_in_turn_get_values_with_quotes_as_they_are(run: Run, project: Path) -> None:
    """The program that switches reads JSON that Compose fills in: a quotation mark from outside would end a text."""
    args = f"args: {{mm-processor-kwargs: {CROPS}, seed: 1}}"
    with_models(project, f"[{{name: smoke, exclusive: a, {args}}}, {{name: Qwen/Qwen3-0.6B, exclusive: a}}]")
    assert run(*CPU, "cpu", host="cpu-small").code == 0
    (document,) = command_of(project)
    told = json.loads(document.replace("$$", "$"))
    words = next(model["arguments"] for model in told["models"] if model["name"] == "smoke")
    assert behind(words, "--mm-processor-kwargs") == CROPS
    assert behind(words, "--seed") == "${VLLM_ARG_SEED:?}"


def test_a_wrong_flag_of_a_file_is_told_with_its_place(run: Run, project: Path) -> None:
    with_models(project, "[{name: smoke, args: {swap-space: 8}}]")
    ran = run(*CPU, "cpu", host="cpu-small")
    place = f"{project}/envs/dev.yaml: models[0].args"
    told = f"{place}: vLLM 0.32.0 has no flag --swap-space: releases from 0.6.3.post1 to 0.17.1 have it"
    assert (ran.code, ran.told[0]) == (2, told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--arg=--chat-template-contentformat=x",),
            ("vLLM 0.32.0 has no flag --chat-template-contentformat", "did you mean `--chat-template-content-format`?"),
        ),
        (
            ("--arg=--chat-template-content-format=x",),
            ("--chat-template-content-format: found `x`, allowed: one of auto, openai, string", None),
        ),
        (
            ("--arg=--max-num-partial-prefills=2",),
            ("vLLM 0.32.0 has no flag --max-num-partial-prefills: releases from 0.7.3 to 0.26.0 have it", None),
        ),
        (("--set=VLLM_EXTRA_ARGS=--seed 1",), ("--set: VLLM_EXTRA_ARGS: unknown setting", None)),
    ],
)
def test_a_wrong_flag_is_told_before_anything_is_written(
    words: tuple[str, ...], told: tuple[str, str | None], run: Run, project: Path
) -> None:
    ran = run(*CPU, "cpu", *words, host="cpu-small")
    assert ran.code == 2
    assert ran.told[0] == told[0]
    assert told[1] is None or ran.told[1] == told[1]
    assert not (project / "envs/.env.dev").exists()


def test_a_flag_of_the_engine_before_its_place_is_told_where_it_goes(run: Run) -> None:
    ran = run("plan", "--mm-processor-kwargs=x", host="cpu-small")
    assert ran.code == 2
    assert "`--arg=--mm-processor-kwargs`" in ran.told[1]


def test_capture_sizes_are_counted(run: Run) -> None:
    """The forecast of graphs follows the sizes, as that of `fit` does."""

    def graphs(*words: str) -> Any:
        ran = run("plan", "single", "--env=prod", "--model=Qwen/Qwen3-8B", "--json", *words, host="1x-rtx3090")
        return ran.json["replicas"][0]["memory"]["cuda_graph_bytes"]

    few, many = graphs("--arg=--cudagraph-capture-sizes 1"), graphs()
    assert few < many


def with_adapter(folder: Path, rank: int = 8, further: Mapping[str, object] | None = None) -> Path:
    """Write an adapter's description, which is all that a plan reads of it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "base_model_name_or_path": "Qwen/Qwen3-0.6B"}
    (folder / "adapter_config.json").write_text(json.dumps(config | dict(further or {})), encoding="utf-8")
    return folder


def test_adapters_are_models_of_the_gateway_and_counted(run: Run, project: Path, around: Path) -> None:
    sql, german = with_adapter(around / "sql"), with_adapter(around / "german", 24)
    entry = f"{{name: Qwen/Qwen3-0.6B, aliases: [small], lora: {{sql: {sql}, german: {german}}}}}"
    with_models(project, f"[{entry}]")
    ran = run(*CPU, "cpu", "--json", host="cpu-small")
    assert ran.code == 0
    plan = ran.json["plans"]["dev"]
    settings = {key: setting["value"] for key, setting in plan["settings"].items()}
    assert settings["VLLM_ENABLE_LORA"] == "true"
    assert (settings["VLLM_MAX_LORAS"], settings["VLLM_MAX_LORA_RANK"]) == ("2", "32")
    words = command_of(project)
    position = words.index("--lora-modules")
    assert words[position + 1 : position + 3] == [f"sql={sql}", f"german={german}"]
    override = yaml.safe_load((project / "compose/generated/dev/override.yaml").read_text(encoding="utf-8"))
    mounts = {mount["source"]: mount.get("read_only") for mount in override["services"]["engine"]["volumes"]}
    assert mounts[str(sql)] is True
    assert mounts[str(german)] is True
    gateway = yaml.safe_load((project / "compose/generated/dev/gateway.yaml").read_text(encoding="utf-8"))
    entries = {entry["model_name"]: entry for entry in gateway["model_list"]}
    assert list(entries) == ["Qwen/Qwen3-0.6B", "sql", "german"]
    assert entries["sql"]["litellm_params"]["model"] == "hosted_vllm/sql"
    assert entries["sql"]["model_info"]["base"] == "Qwen/Qwen3-0.6B"
    assert plan["models"][0]["attached"]["adapters"][1] == {
        "name": "german",
        "location": str(german),
        "rank": 24,
        "base": "Qwen/Qwen3-0.6B",
    }
    stack = load_stack(paths_of(project))
    assert stack is not None
    engine = programs_of_stack(stack)["engine"].arguments
    assert f"german={german}" in engine


def test_adapters_take_memory_of_the_gpu(run: Run, project: Path, around: Path) -> None:
    adapter = with_adapter(around / "sql", 256, {"base_model_name_or_path": "Qwen/Qwen3-8B"})

    def cache(lora: str) -> int:
        with_models(project, f"[{{name: Qwen/Qwen3-8B{lora}}}]")
        ran = run("plan", "single", "--env=dev", "--json", host="1x-rtx3090")
        tokens: int = ran.json["replicas"][0]["memory"]["kv_cache_tokens"]
        return tokens

    assert cache(f", lora: {{sql: {adapter}}}") < cache("")


def test_a_draft_model_takes_memory_and_is_mounted(run: Run, project: Path, around: Path) -> None:
    """One that guesses by n-grams has no weights, and takes none."""

    def cache(config: str) -> int:
        words = ("plan", "single", "--env=dev", "--json", "--model=Qwen/Qwen3-8B")
        given = (f"--arg=--speculative-config={config}",) if config else ()
        tokens: int = run(*words, *given, host="1x-rtx3090").json["replicas"][0]["memory"]["kv_cache_tokens"]
        return tokens

    alone = cache("")
    assert cache('{"method": "draft_model", "model": "Qwen/Qwen3-0.6B", "num_speculative_tokens": 3}') < alone * 0.9
    assert cache('{"method": "ngram", "num_speculative_tokens": 3}') > alone * 0.9
    folder = around / "drafter"
    folder.mkdir()
    config = json.dumps({"method": "draft_model", "model": str(folder), "num_speculative_tokens": 3})
    assert run(*CPU, "cpu", f"--arg=--speculative-config={config}", host="cpu-small").code == 0
    override = (project / "compose/generated/dev/override.yaml").read_text(encoding="utf-8")
    assert f'source: "{folder}", target: "{folder}", read_only: true' in override


def test_template_volumes_image_and_network_are_rendered(run: Run, project: Path) -> None:
    entry = "{name: smoke, chat_template: envs/own.jinja, volumes: [/data/media, '/data/out:rw'], image: own/vllm:1}"
    with_models(project, f"[{entry}]", "  network: web")
    ran = run(*CPU, "cpu", host="cpu-small")
    assert ran.code == 0
    override = yaml.safe_load((project / "compose/generated/dev/override.yaml").read_text(encoding="utf-8"))
    engine, gateway = override["services"]["engine"], override["services"]["gateway"]
    assert behind(engine["command"], "--chat-template") == "${VLLM_CHAT_TEMPLATE:?}"
    mounts = {mount["source"]: mount.get("read_only", False) for mount in engine["volumes"]}
    assert mounts["${VLLM_CHAT_TEMPLATE:?}"] is True
    assert (mounts["/data/media"], mounts["/data/out"]) == (True, False)
    assert gateway["networks"] == ["gateway-network"]
    assert override["networks"] == {"gateway-network": {"external": True, "name": "${GATEWAY_NETWORK:?}"}}
    values = (project / "envs/.env.dev").read_text(encoding="utf-8")
    assert f"VLLM_CHAT_TEMPLATE={project}/envs/own.jinja\n" in values
    assert "VLLM_IMAGE=own/vllm:1\n" in values
    assert "GATEWAY_NETWORK=web\n" in values


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("lora: {sql: /nowhere/sql}", "models[0].lora.sql: /nowhere/sql: no adapter_config.json"),
        ("lora: {'a*': /x}", "models[0].lora: found `a*`, allowed: "),
        ("lora: {smoke: ADAPTER}", "models[0].name: smoke: the alias `smoke` is already its name"),
        ("lora: {sql: ADAPTER}, args: {lora-modules: x}", "models[0].args: --lora-modules cannot be given"),
        ("volumes: [data]", "models[0].volumes: found `data`, allowed: an absolute path without a colon"),
        ("volumes: ['/a:/b']", "models[0].volumes: found `/a:/b`, allowed: an absolute path without a colon"),
        ("served_name: '*'", "models[0].served_name: found `*`, allowed: "),
        ("args: {a: 1, a_: 2, ' ': 3}", "models[0].args: found ` `, allowed: the name of an engine flag"),
        ("args: [a, {b: 1}]", "models[0].args"),
    ],
)
def test_a_wrong_entry_is_told_with_its_place(entry: str, problem: str, run: Run, project: Path, around: Path) -> None:
    with_models(project, f"[{{name: smoke, {entry.replace('ADAPTER', str(with_adapter(around / 'adapter')))}}}]")
    ran = run(*CPU, "cpu", host="cpu-small")
    assert ran.code == 2
    assert problem in ran.err


@pytest.mark.parametrize(
    ("further", "problem"),
    [
        ({"peft_type": "IA3"}, "not a LoRA adapter (peft_type IA3, r 8)"),
        ({"use_dora": True}, "the engine does not serve adapters with DoRA"),
        ({"rank_pattern": {"q_proj": 513}}, "lora.sql: found rank 513, allowed: at most 512"),
    ],
)
def test_an_adapter_that_the_engine_refuses_is_refused_first(
    further: dict[str, object], problem: str, run: Run, project: Path, around: Path
) -> None:
    with_models(project, f"[{{name: smoke, lora: {{sql: {with_adapter(around / 'sql', 8, further)}}}}}]")
    ran = run(*CPU, "cpu", host="cpu-small")
    assert ran.code == 2
    assert problem in ran.told[0]


@pytest.mark.subprocess
def test_a_template_that_is_not_there_is_told_on_this_machine(run: Run, project: Path) -> None:
    with_models(project, "[{name: smoke, chat_template: own.jinja}]")
    ran = run(*CPU, "cpu")
    assert ran.told == (
        f"{project}/envs/dev.yaml: models[0].chat_template: {project}/own.jinja: no such file",
        "write a Jinja file there, or remove it",
    )


@pytest.mark.parametrize("door", ["--arg=--hf-overrides=", "--set=VLLM_ARG_HF_OVERRIDES="])
def test_overrides_that_make_a_reranker_count_through_every_door(door: str, run: Run) -> None:
    given = {"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"]}
    own = json.dumps({**given, "is_original_qwen3_reranker": True}, separators=(",", ":"))
    ran = run("plan", "dev", "--model=Qwen/Qwen3-0.6B", door + own, "--json", host="1x-h200")
    assert ran.code == 0, ran.err
    assert ran.json["models"][0]["role"] == "rerank"
