"""What is planned is taken by those who will read it: vLLM's own argument parser, and LiteLLM's own configuration
loader.

Both run in the environments that the processes runtime installs, so the releases are the ones that are served.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from stackwright.catalog.load import load_catalog, load_flags, load_parsers
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Adapter, Mode, Plan
from stackwright.domain.role import Role
from stackwright.engines.protocol import fields_of, pinned_fields
from stackwright.engines.vllm.engine import VLLM
from stackwright.engines.vllm.settings import OPTIONAL_SETTINGS
from stackwright.errors import NoPlanError
from stackwright.models.smoke_model import write_smoke_model
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime.provision import ensure
from stackwright.services.gateway import RECIPE as GATEWAY_RECIPE

from benchmarks.engine_judge import ASK_ENGINE, write_models
from tests.integration.gateway.tiny import write_ranker
from tests.planning.several import CASES as SEVERAL
from tests.planning.several import Asked, plan_of
from tests.planning_requests import HOST_NAMES, SMOKE_FOLDER, plan_for, recorded

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
for arguments in json.load(sys.stdin):
    print(json.dumps(vars(make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)), default=str))
"""
FLAGS = """
import json
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
print(json.dumps([option for action in parser._actions for option in action.option_strings]))
"""
PARSERS = """
import json
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
print(json.dumps([sorted(ToolParserManager.list_registered()), sorted(ReasoningParserManager.list_registered())]))
"""
LOAD = """
import asyncio, json, sys
from litellm.proxy.proxy_server import ProxyConfig
for path in json.load(sys.stdin):
    router, models, _ = asyncio.run(ProxyConfig().load_config(router=None, config_file_path=path))
    print(json.dumps([deployment["litellm_params"]["api_base"] for deployment in router.model_list]))
"""


# What the build for processors refuses that those for GPUs take.
OF_A_PROCESSOR: tuple[str, ...] = ()


def plans() -> list[Plan]:
    """Return every plan that the recorded hosts give, and one of a model that sees."""
    made = [plan_for(recorded("1x-h200"), model="Qwen/Qwen3-VL-8B-Instruct")]
    for name in HOST_NAMES:
        for environment in Environment:
            try:
                made.append(plan_for(recorded(name), environment))
            except NoPlanError:
                continue
    return made


def ask(python: Path, program: str, question: object, **variables: str) -> list[Any]:
    """Run `program` in another environment's Python with `question` on its input; return its JSON lines."""
    done = subprocess.run(
        [python, "-c", program],
        input=json.dumps(question),
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]


def ask_engine(python: Path, lists: Iterable[Sequence[str]]) -> list[dict[str, Any]]:
    """Ask the engine of another environment what it makes of argument lists; the hub is out of reach."""
    done = subprocess.run(
        [python, "-B", ASK_ENGINE],
        input=json.dumps([{"arguments": list(words), "environment": {}} for words in lists]),
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def at_home(words: Sequence[str], folder: Path) -> list[str]:
    """Return an argument list whose model is a folder of configurations, without weights or tokenizer."""
    name = "smoke" if words[1] == str(SMOKE_FOLDER) else words[1]
    return ["--model", str(folder / name), *words[2:], "--skip-tokenizer-init"]


@pytest.fixture(scope="module")
def every_plan() -> list[Plan]:
    """Give every plan once; none at all would make the tests below say nothing."""
    found = plans()
    assert {plan.mode for plan in found} == {"cpu", "single", "multi"}
    return found


def test_vllm_takes_every_argument_list(every_plan: list[Plan], state_folder: Path) -> None:
    """The parser accepts each flag and value, and understands what was meant."""
    cpu = next(plan for plan in every_plan if plan.engine.cuda is None)
    python = ensure(state_folder, VLLM.recipe(cpu.engine, on_gpus=False), lambda *_: None) / "bin" / "python"
    replicas = [replica for plan in every_plan for replica in plan.replicas]
    parsed = ask(python, PARSE, [replica.args for replica in replicas])
    understood = [(each["model"], each["served_model_name"], each["tensor_parallel_size"]) for each in parsed]
    wanted = [(replica.args[1], [replica.model], replica.tensor_parallel) for replica in replicas]
    assert understood == wanted
    assert [each["allowed_media_domains"] for each in parsed if each["allowed_media_domains"]] == [["nowhere.invalid"]]


# One value for each setting that a plan leaves to the engine.
PINNED = {
    "VLLM_DECODE_CONTEXT_PARALLEL_SIZE": "1",
    "VLLM_ENABLE_EXPERT_PARALLEL": "true",
    "VLLM_KV_CACHE_MEMORY_BYTES": "1073741824",
    "VLLM_QUANTIZATION": "fp8",
    "VLLM_BLOCK_SIZE": "32",
    "VLLM_ENABLE_PREFIX_CACHING": "false",
    "VLLM_MAMBA_CACHE_DTYPE": "float32",
    "VLLM_MAMBA_SSM_CACHE_DTYPE": "bfloat16",
    "VLLM_ENFORCE_EAGER": "true",
    "VLLM_MAX_CUDAGRAPH_CAPTURE_SIZE": "64",
    "VLLM_SPECULATIVE_CONFIG": '{"method": "ngram", "num_speculative_tokens": 2}',
    "VLLM_ENABLE_LORA": "true",
    "VLLM_MAX_LORAS": "4",
    "VLLM_MAX_LORA_RANK": "32",
    "VLLM_LANGUAGE_MODEL_ONLY": "true",
    "VLLM_MM_ENCODER_TP_MODE": "data",
    "VLLM_LIMIT_MM_PER_PROMPT": '{"image": 0, "video": 0}',
    "VLLM_CPU_OFFLOAD_GB": "3",
}


def test_vllm_understands_what_is_pinned_as_the_forecast_does(every_plan: list[Plan], state_folder: Path) -> None:
    """What its parser makes of the arguments fills the same fields as the pins do."""
    assert {spec.key for spec in OPTIONAL_SETTINGS} == set(PINNED)
    cpu = next(plan for plan in every_plan if plan.engine.cuda is None)
    python = ensure(state_folder, VLLM.recipe(cpu.engine, on_gpus=False), lambda *_: None) / "bin" / "python"
    plan = plan_for(recorded("1x-rtx3090"), model="Qwen/Qwen3-8B", pins=PINNED)
    [parsed] = ask(python, PARSE, [plan.replicas[0].args])
    texts = {
        name: json.dumps(value) if isinstance(value, dict | bool) else str(value) for name, value in parsed.items()
    }
    pinned = pinned_fields(VLLM.memory_settings, PINNED)
    understood = fields_of(VLLM.memory_settings, texts)
    assert {field: understood[field] for field in pinned} == pinned
    assert len(pinned) >= len(PINNED)


# Flags as a person may give them, and what the engine's own parser makes of them.
GIVEN = {
    "--chat-template-content-format=openai": ("chat_template_content_format", "openai"),
    '--mm-processor-kwargs={"num_crops": 4}': ("mm_processor_kwargs", {"num_crops": 4}),
    "--no-enable-prefix-caching": ("enable_prefix_caching", False),
    "--cudagraph-capture-sizes 1 2": ("cudagraph_capture_sizes", [1, 2]),
    "--seed=-1": ("seed", -1),
    "--chat-template=/a/b.jinja": ("chat_template", "/a/b.jinja"),
}


def test_vllm_reads_what_a_person_gives(every_plan: list[Plan], state_folder: Path) -> None:
    cpu = next(plan for plan in every_plan if plan.engine.cuda is None)
    python = ensure(state_folder, VLLM.recipe(cpu.engine, on_gpus=False), lambda *_: None) / "bin" / "python"
    adapter = Adapter(name="sql", location="/a/sql", rank=8)
    values = VLLM.route_arguments(list(GIVEN), "--arg") | VLLM.adapter_settings((adapter,))
    [parsed] = ask(python, PARSE, [VLLM.arguments(Mode.CPU, cpu_values(cpu) | values, Role.CHAT, load_catalog())])
    assert {name: parsed[name] for name, _ in GIVEN.values()} == dict(GIVEN.values())
    assert (parsed["enable_lora"], parsed["max_loras"], parsed["max_lora_rank"]) == (True, 1, 8)
    assert "name='sql', path='/a/sql'" in parsed["lora_modules"][0]


def cpu_values(plan: Plan) -> dict[str, str]:
    """Return the settings of a plan's model by their keys."""
    return {key: setting.value for key, setting in plan.models[0].settings.items()}


def test_every_release_has_what_is_given_to_it(every_plan: list[Plan]) -> None:
    """The recorded table of the plan's own release knows each flag and variable; there is no parser for GPU releases
    here.
    """
    table = load_flags()
    asked = {
        (plan.engine.version, name)
        for plan in every_plan
        for replica in plan.replicas
        for name in (*replica.args, *(variable for variable, _ in replica.env))
        if name.startswith(("--", "VLLM_"))
    }
    assert {version for version, _ in asked} > {"0.32.0"}
    assert [(version, name) for version, name in sorted(asked) if not table.has(name, version)] == []


def test_the_flag_table_is_what_the_parser_takes(every_plan: list[Plan], state_folder: Path) -> None:
    """For the release whose parser runs here, table and parser agree on every flag that any plan gives."""
    cpu = next(plan for plan in every_plan if plan.engine.cuda is None)
    python = ensure(state_folder, VLLM.recipe(cpu.engine, on_gpus=False), lambda *_: None) / "bin" / "python"
    [taken] = ask(python, FLAGS, None)
    recorded_flags = {name for name in load_flags().flags if load_flags().has(name, cpu.engine.version)}
    assert recorded_flags <= set(taken)
    given = {word for plan in every_plan for replica in plan.replicas for word in replica.args if word.startswith("--")}
    assert given <= set(taken)


def test_the_parser_table_is_what_the_engine_registers(every_plan: list[Plan], state_folder: Path) -> None:
    cpu = next(plan for plan in every_plan if plan.engine.cuda is None)
    python = ensure(state_folder, VLLM.recipe(cpu.engine, on_gpus=False), lambda *_: None) / "bin" / "python"
    table, version = load_parsers(), cpu.engine.version
    [registered] = ask(python, PARSERS, None)
    kinds = ("tool_call", "reasoning")
    assert registered == [sorted(table.names(kind, version)) for kind in kinds]


def test_vllm_takes_what_is_planned_for_models_that_do_not_write(
    every_plan: list[Plan], state_folder: Path, tmp_path: Path
) -> None:
    """It makes its whole configuration of the arguments for a GPU: an encoder's texts are never cut, so a step takes
    the longest.
    """
    cpu = next(plan for plan in every_plan if plan.engine.cuda is None)
    python = ensure(state_folder, VLLM.recipe(cpu.engine, on_gpus=False), lambda *_: None) / "bin" / "python"
    write_ranker(tmp_path / "ranker")
    write_smoke_model(tmp_path / "vectors")
    config = tmp_path / "ranker" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 4096}))
    asked = (("ranker", Role.RERANK), ("vectors", Role.EMBEDDING))
    made = [plan_of(recorded("1x-rtx5090"), Asked(name=str(tmp_path / name), role=role)) for name, role in asked]
    answers = ask_engine(python, [plan.replicas[0].args for plan in made])
    kept = ("runner", "score", "max_model_len", "max_num_batched_tokens")
    configured = [[answer["values"][name] for name in kept] for answer in answers]
    assert configured == [["pooling", "cross-encoder", 4096, 4096], ["pooling", "bi-encoder", 32768, 2048]]


def test_vllm_makes_its_configuration_of_every_golden_plan(
    every_plan: list[Plan], state_folder: Path, tmp_path: Path
) -> None:
    """Its own code checks lengths, formats, parsers and splits, as benchmarks/engine_judge.py asks the GPU builds."""
    cpu = next(plan for plan in every_plan if plan.engine.cuda is None)
    python = ensure(state_folder, VLLM.recipe(cpu.engine, on_gpus=False), lambda *_: None) / "bin" / "python"
    several = [plan_of(host, *models) for host, models in SEVERAL.values()]
    lists = {replica.args for plan in (*every_plan, *several) for replica in plan.replicas}
    write_models(tmp_path)
    write_smoke_model(tmp_path / "smoke")
    asked = [at_home(words, tmp_path) for words in sorted(lists)]
    refused = {answer["refused"] for answer in ask_engine(python, asked)} - {None}
    assert {words for words in refused if not re.search("|".join(OF_A_PROCESSOR), words)} == set()


def test_the_engine_says_why_it_refuses(every_plan: list[Plan], state_folder: Path, tmp_path: Path) -> None:
    """In its own words: those of its parser, of its configuration and of what it raises itself."""
    cpu = next(plan for plan in every_plan if plan.engine.cuda is None)
    python = ensure(state_folder, VLLM.recipe(cpu.engine, on_gpus=False), lambda *_: None) / "bin" / "python"
    write_smoke_model(tmp_path)
    asked = [["--model", str(tmp_path), *more] for more in (["--no-such-flag"], ["--quantization", "bitsandbytes"])]
    flag, quantization = (answer["refused"] for answer in ask_engine(python, asked))
    assert flag == "ask_engine.py: error: unrecognized arguments: --no-such-flag"
    assert quantization.startswith("Value error, Unknown quantization method: bitsandbytes")


def test_litellm_loads_every_gateway_file(every_plan: list[Plan], state_folder: Path, tmp_path: Path) -> None:
    """Its own loader makes a router with one deployment per replica, addresses taken from the environment."""
    paths = []
    for number, plan in enumerate(every_plan):
        text = next(file.text for file in render_plan(plan) if file.path.name == "gateway.yaml")
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    python = ensure(state_folder, GATEWAY_RECIPE, lambda *_: None) / "bin" / "python"
    addresses = {f"ENGINE_{number}_URL": f"http://engine-{number}:8000/v1" for number in range(2, 17)}
    loaded = ask(
        python,
        LOAD,
        [str(path) for path in paths],
        ENGINE_URL="http://engine:8000/v1",
        ENGINE_KEY="k",
        LITELLM_MASTER_KEY="sk-" + "0" * 64,
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        PYTHONPATH=str(Path(__file__).resolve().parents[2] / "compose" / "gateway"),
        **{key: setting.value for key, setting in flat_settings(every_plan[0]).items() if key.startswith("GATEWAY_")},
        **addresses,
    )
    assert loaded == [[f"http://{replica.name}:8000/v1" for replica in plan.replicas] for plan in every_plan]
