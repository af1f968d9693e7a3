"""Flags that a person gives vLLM beside what a plan writes: which setting carries each, and what speaks against it.

A flag that decides on memory becomes the setting that the forecast counts; one that the plan writes is refused with the
setting that decides on it; any other has a setting of its own, `VLLM_ARG_…`. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping

from stackwright.domain.arguments import flag_of_key, key_of_flag, read_flags
from stackwright.domain.catalog import ArgumentTable, Catalog
from stackwright.domain.plan import Adapter, Setting
from stackwright.domain.setting_spec import MAX_VALUE_LENGTH, problem_with
from stackwright.engines.protocol import EngineTask
from stackwright.engines.vllm.settings import (
    ARGUMENT_PREFIX,
    ATTACHED_SETTINGS,
    CHAT_TEMPLATE,
    KEYS,
    LORA_MODULES,
    OPTIONAL_SETTINGS,
    SETTINGS,
    STREAM_INTERVAL,
)
from stackwright.errors import UsageError, did_you_mean

# The short names of 0.32.0's parser (engine/arg_utils.py), and those that older releases had for flags of today.
_OTHER_NAMES = {
    "-q": "--quantization",
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-dp": "--data-parallel-size",
    "-ep": "--enable-expert-parallel",
    "-sc": "--speculative-config",
    "-cc": "--compilation-config",
    "-ac": "--attention-config",
    "-asc": "--api-server-count",
}
SPECULATIVE = "VLLM_SPECULATIVE_CONFIG"
# Judgement, 2026-11-29: each slot takes memory for its rank; adapters beyond the slots wait in the processor's memory
# (0.32.0 config/lora.py, max_loras and max_cpu_loras).
MOST_SLOTS = 8
_OPTIONAL = {spec.flag: spec for spec in (*OPTIONAL_SETTINGS, *ATTACHED_SETTINGS, STREAM_INTERVAL)}
_WRITTEN = {spec.flag: spec for spec in SETTINGS if spec.flag is not None and spec.flag not in _OPTIONAL}
_INSTEAD = {
    KEYS.model: "name the model with `--model`",
    KEYS.served_name: "write models[].served_name in envs/<env>.yaml",
}
_GATEWAY = "the gateway is what clients ask: gateway.bind and gateway.port in envs/<env>.yaml"
_KEYS = "keys are files in envs/.secrets/<env>/: `stackwright keys add NAME ENV` makes one"
_COPIES = "the plan makes one replica for each group of GPUs, and the gateway shares requests among them"
_ONE_HOST = "a plan is for one host"
_TLS = "the gateway has the certificate (docs/how-to/publish.md)"
# What the stack decides, or what would undo its protection: the flag, why it is refused, and what does it instead.
_REFUSED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("--spec-method", "--spec-model", "--spec-tokens"),
        ("the forecast reads the whole of it", "`--speculative-config` with method, model and num_speculative_tokens"),
    ),
    **dict.fromkeys(("--host", "--port", "--uds"), ("the engine listens inside the stack alone", _GATEWAY)),
    "--api-key": ("a key on a command line can be read by every user of the host", _KEYS),
    "--hf-token": ("a token on a command line can be read by every user of the host", "export HF_TOKEN"),
    "--config": ("a file of flags is checked by nobody", "write its flags into models[].args"),
    "--lora-modules": ("adapters have a place of their own", "write models[].lora in envs/<env>.yaml"),
    "--enable-auto-tool-choice": ("the plan writes it with the parser", "`--set VLLM_TOOL_CALL_PARSER=…`"),
    "--tool-parser": ("the plan writes the parser", "`--set VLLM_TOOL_CALL_PARSER=…`"),
    "--task": ("the plan writes it for the role", "write models[].role in envs/<env>.yaml"),
    "--runner": ("the plan writes it for the role", "write models[].role in envs/<env>.yaml"),
    "--device": ("the mode decides", "`configure-gpu cpu`, `single` or `multi`"),
    "--device-ids": ("the plan chooses the GPUs", "`--set NVIDIA_VISIBLE_DEVICES=…`"),
    "--download-dir": ("it is no folder of the stack", "set HF_HOME: all environments share it"),
    **dict.fromkeys(
        (
            "--data-parallel-size",
            "--data-parallel-size-local",
            "--data-parallel-rank",
            "--data-parallel-start-rank",
            "--data-parallel-address",
            "--data-parallel-rpc-port",
            "--data-parallel-backend",
            "--data-parallel-hybrid-lb",
            "--data-parallel-external-lb",
        ),
        (_COPIES, "remove it; `fit --data-parallel-size N` forecasts such a server"),
    ),
    **dict.fromkeys(
        ("--nnodes", "--node-rank", "--master-addr", "--master-port", "--headless"), (_ONE_HOST, "remove it")
    ),
    "--distributed-executor-backend": ("the plan decides how its ranks talk", "remove it"),
    "--disable-custom-all-reduce": ("the plan writes it where the GPUs need it", "remove it"),
    **dict.fromkeys(
        ("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs", "--enable-ssl-refresh"),
        ("the engine is reached inside the stack alone", _TLS),
    ),
    "--root-path": ("health checks and the gateway ask the root", "remove it"),
    "--help": ("it only prints", "docs/how-to/engine-arguments.md"),
}
_RUNS_CODE = "runs code that comes with it, with all that the engine may do"
# What is taken, and what a person should know of it.
_WARNED: Mapping[str, str] = {
    "--trust-remote-code": "runs Python code that comes with the model, with all that the engine may do",
    **dict.fromkeys(
        (
            "--middleware",
            "--logits-processors",
            "--tool-parser-plugin",
            "--reasoning-parser-plugin",
            "--worker-cls",
            "--worker-extension-cls",
            "--io-processor-plugin",
            "--scheduler-cls",
        ),
        _RUNS_CODE,
    ),
    "--allowed-local-media-path": "every client can have files of this folder read, by a file:// URL",
    "--enable-log-requests": "prompts stand in the engine's log",
    "--hf-overrides": "changes the model's configuration: the forecast counts the architecture of it alone",
    "--model-impl": "another implementation: the forecast does not count what it takes",
    "--kv-transfer-config": "moves the KV cache elsewhere: the forecast does not count it",
    "--compilation-config": "changes graphs and compilation: the forecast does not count it",
    "--revision": "another version of the model: the forecast has read the newest",
}


def route_arguments(given: Iterable[object] | Mapping[str, object], where: str) -> dict[str, str]:
    """Return the settings that carry the flags: each key with its text.

    Raises:
        UsageError: a word is no flag, a flag stands twice, is decided by the stack, or has a value that no file holds.
    """
    settings: dict[str, str] = {}
    for name, text in read_flags(given, where).items():
        flag = _OTHER_NAMES.get(name, name)
        if not flag.startswith("--"):
            raise UsageError(f"{where}: found `{flag}`", hint="write the whole name of the flag, `--like-this`")
        _refuse_decided(flag, text, where)
        spec = _OPTIONAL.get(flag)
        key = spec.key if spec else key_of_flag(flag, ARGUMENT_PREFIX)
        problem = problem_with(spec, text) if spec else _problem(text)
        if problem:
            raise UsageError(f"{where}: {flag}: found `{text[:80]}`, allowed: {problem}")
        if key in settings:
            raise UsageError(f"{where}: {flag} stands twice", hint="keep one of them")
        settings[key] = text
    return settings


def _problem(text: str) -> str | None:
    from stackwright.domain.setting_spec import Kind, SettingSpec

    return problem_with(SettingSpec(key="", section="", kind=Kind.TEXT, meaning=""), text)


def _refuse_decided(flag: str, text: str, where: str) -> None:
    if flag in _REFUSED:
        why, instead = _REFUSED[flag]
        raise UsageError(f"{where}: {flag} cannot be given: {why}", hint=instead)
    spec = _WRITTEN.get(flag)
    if spec is None:
        return
    value = text if len(text) <= MAX_VALUE_LENGTH and problem_with(spec, text) is None else "…"
    raise UsageError(
        f"{where}: {flag} is written by the plan: the setting {spec.key} decides",
        hint=_INSTEAD.get(spec.key, f"`--set {spec.key}={value}`, or `settings: {{{spec.key}: {value}}}` in its file"),
    )


def argument_settings(task: EngineTask, catalog: Catalog, release: str) -> dict[str, Setting]:
    """Return the settings of the flags that a person gives and a plan does not write.

    Raises:
        UsageError: the release has no such flag, or it does not take the value.
    """
    given = {key: text for key, text in task.pins.items() if key.startswith(ARGUMENT_PREFIX)}
    if not given:
        return {}
    for key, text in given.items():
        where = f"{task.written[key]}: " if key in task.written else ""
        _check(flag_of_key(key, ARGUMENT_PREFIX), text, catalog, release, where)
    return {
        key: Setting(value=text, reason="a flag of the engine, given by the user", source="--arg")
        for key, text in sorted(given.items())
    }


def _check(flag: str, text: str, catalog: Catalog, release: str, where: str) -> None:
    """Refuse a flag that the release lacks, or its value; `where` names the place of its file, empty for `--arg`."""
    span = catalog.flags().flags.get(flag)
    if span is None and catalog.flags().has(flag, release) is not True:
        known = [name for name in catalog.flags().flags if catalog.flags().has(name, release) is not False]
        close = did_you_mean(flag, known)
        raise UsageError(
            f"{where}vLLM {release} has no flag {flag[:60]}",
            hint=close or "`vllm serve --help=all` of the release lists them",
        )
    if span is not None and catalog.flags().has(flag, release) is False:
        there = f"from {span[0]}" + (f" to {span[1]}" if span[1] else "")
        raise UsageError(
            f"{where}vLLM {release} has no flag {flag}: releases {there} have it",
            hint="remove it, or request another release with --engine",
        )
    if problem := problem_with_argument(catalog.arguments(), flag, text, release):
        close = did_you_mean(text, catalog.arguments().kinds[flag].choices)
        raise UsageError(
            f"{where}{flag}: found `{text[:80]}`, allowed: {problem}", hint=close or f"write another value for {flag}"
        )


def problem_with_argument(table: ArgumentTable, flag: str, text: str, release: str) -> str | None:
    """Return what a release allows for a flag if `text` is not; None if it is, or nobody knows."""
    known = table.kinds.get(flag)
    if known is None or release not in table.sampled:
        return None
    switch = text in ("true", "false")
    if known.kind == "switch":
        return None if switch else "a switch: no value"
    if known.choices:
        wrong = [word for word in (text.split() if known.listed else [text]) if word not in known.choices]
        return f"one of {', '.join(known.choices)}" if wrong else None
    if switch and known.kind != "text":
        return f"a value: {_KINDS[known.kind]}"
    return _CHECKS[known.kind](text)


_KINDS = {"whole": "a whole number", "number": "a number", "json": "JSON", "text": "a text"}


def _check_whole(text: str) -> str | None:
    return None if all(word.lstrip("+-").isdecimal() for word in text.split()) else _KINDS["whole"]


def _check_number(text: str) -> str | None:
    try:
        float(text)
    except ValueError:
        return _KINDS["number"]
    return None


def _check_json(text: str) -> str | None:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return 'JSON, such as {"key": 1}'
    return None


_OBJECT = re.compile(r"\s*\{\s*[\"']")
_CHECKS: Mapping[str, Callable[[str], str | None]] = {
    "whole": _check_whole,
    "number": _check_number,
    "json": _check_json,
    # What begins as a JSON object is one: flags that take one are declared as text, too.
    "text": lambda text: _check_json(text) if _OBJECT.match(text) else None,
}


# Flags whose value is a file or folder of the host where it is an absolute path.
_PATHS = frozenset(
    key_of_flag(flag, ARGUMENT_PREFIX)
    for flag in (
        "--tokenizer",
        "--hf-config-path",
        "--allowed-local-media-path",
        "--tool-parser-plugin",
        "--reasoning-parser-plugin",
    )
)


def host_files(values: Mapping[str, str]) -> tuple[str, ...]:
    """Return the absolute paths that settings name: a template, adapters, a draft model, plugins."""
    named = [values[key] for key in (CHAT_TEMPLATE, *sorted(_PATHS)) if key in values]
    named += [word.partition("=")[2] for word in values.get(LORA_MODULES, "").split()]
    drafter = json.loads(values.get(SPECULATIVE, "{}")).get("model")
    named += [drafter] if isinstance(drafter, str) else []
    return tuple(dict.fromkeys(path for path in named if path.startswith("/")))


def adapter_settings(adapters: tuple[Adapter, ...]) -> dict[str, str]:
    """Return the settings that serve adapters: a slot in the batch for each, at most eight, and the largest rank.

    Raises:
        UsageError: a rank is beyond what vLLM takes.
    """
    if not adapters:
        return {}
    ranks = sorted(int(choice) for choice in _OPTIONAL["--max-lora-rank"].choices)
    largest = max(adapters, key=lambda adapter: adapter.rank)
    rank = next((choice for choice in ranks if choice >= largest.rank), None)
    if rank is None:
        raise UsageError(
            f"lora.{largest.name}: found rank {largest.rank}, allowed: at most {ranks[-1]}",
            hint="merge it into its model with PEFT's merge_and_unload, and serve the folder",
        )
    return {
        "VLLM_ENABLE_LORA": "true",
        "VLLM_MAX_LORAS": str(min(len(adapters), MOST_SLOTS)),
        "VLLM_MAX_LORA_RANK": str(rank),
        LORA_MODULES: " ".join(f"{adapter.name}={adapter.location}" for adapter in adapters),
    }


def argument_warnings(pins: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a person should know of the flags that were given."""
    given = {flag_of_key(key, ARGUMENT_PREFIX): text for key, text in pins.items() if key.startswith(ARGUMENT_PREFIX)}
    return tuple(f"{flag} {_WARNED[flag]}" for flag, text in given.items() if flag in _WARNED and text != "false")
