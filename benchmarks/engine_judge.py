"""Puts the planner's plans to vLLM's own configuration code, and counts what that refuses.

    python benchmarks/engine_judge.py --wheels FOLDER [--answers FILE] [--host NAME …] [--release X.Y.Z …] [--each]

Every checkpoint of the catalog × recorded host × environment and objective × the two newest releases: the plan is made
(or refused, which is counted), and the argument list of its replicas is put to the release's published CUDA wheel. That
needs no GPU: the wheel's Python files lie over the CPU engine's environment, tests/fakes/nvml answers for the GPUs of
the replica, and benchmarks/judge/ stands in for what is compiled. Where the configuration is made, one rank's model is
built on the `meta` device: its layers say whether the split divides them, and which attention backend takes them.

The objectives are those of prod: dev and staging differ from it in the share of memory alone. Asked once is what
differs in more than room: of plans with the same sort of GPUs, model and split, the one with the longest context. GPUs
are of one sort where all that the configuration asks of them is the same.

It takes half an hour and more: `--answers` keeps each answer as it comes, a line of JSON each, and what it holds is not
asked again; a whole run leaves in it what was asked of today's plans.

Writes benchmarks/results/engine_judge.json and ends with 1 where a plan is refused. Touches that file,
`--answers`, a temporary folder, and `--wheels`, where pip lays missing wheels.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules beside it only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.environment import Environment
from stackwright.domain.host import Gpu
from stackwright.domain.model_facts import CatalogLlm, Checkpoint
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode, Replica
from stackwright.engines.protocol import EngineNeeds
from stackwright.errors import NoPlanError
from stackwright.models.checkpoint import checkpoint_config
from stackwright.planning.planner import make_plan
from stackwright.planning.request import PlanRequest
from stackwright.units import GIB

from tests.fakes.nvml import build_fake_nvml
from tests.planning_requests import HOST_NAMES, recorded, request

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "engine_judge.json"
ANSWERS = HERE / "results" / "engine_answers.jsonl.gz"
CONFIGS = HERE / "cases" / "engine_configs.yaml"
ASK_ENGINE = HERE.parent / "generator" / "stackwright" / "engines" / "vllm" / "ask_engine.py"
# The wheels whose Python files the stand-in needs beside vLLM's own: what the CPU engine's environment leaves out.
BESIDE = ("torchvision==0.28.0", "triton==3.7.1")
# The compiled modules of 0.32.0 and 0.33.0, which become empty ones (their wheels' lists of files).
COMPILED = (
    "_moe_C_stable_libtorch _C cumem_allocator spinloop fs_io_C _deepselect_C _flashkda_C _flashmla_C "
    "_flashmla_extension_C _qutlass_C vllm_flash_attn/_vllm_fa2_C vllm_flash_attn/_vllm_fa3_C"
).split()
# Flags whose values change nothing but how much room there is, or a name: such questions are one.
ROOM = ("--max-model-len", "--max-num-seqs", "--max-num-batched-tokens")
# The reasoning parser looks into the tokenizer, which the stand-in has of no model.
SILENT = ("--served-model-name", "--gpu-memory-utilization", "--reasoning-parser")

# What no answer of the stand-in tells, with the reason; the result names it.
NOT_JUDGED = {
    "memory": "nothing is allocated: whether it fits is the forecast's business (benchmarks/forecast.py)",
    "tool-call and reasoning parsers": "the server looks them up when it starts; catalog/parsers.yaml has the names",
    "bfloat16 below compute capability 8.0": "the worker refuses it, not the configuration (v1/worker/gpu_worker.py)",
    "kernels": "compiled modules are empty: a kernel that refuses a shape when it is first called is not heard",
    "names of the weights": "config.json is rebuilt from the catalog and engine_configs.yaml; no weights are loaded",
}

# What the engine is known to refuse, by the words that it has for it: a judge that takes these takes anything. Asked of
# eight GPUs of compute capability 9.0.
CONTROLS = (
    ("google/gemma-3-1b-it", "--dtype float16", r"does not support float16"),
    ("Qwen/Qwen3-8B", "--max-model-len 1000000", r"max_model_len \(1000000\) is greater than"),
    ("Qwen/Qwen3-8B", "--tensor-parallel-size 3", r"must be divisible by tensor parallel size"),
    ("Qwen/Qwen3-4B-FP8", "--tensor-parallel-size 8", r"is not divisible by .*block"),
    ("Qwen/Qwen3-8B", "--quantization bitsandbytes", r"Unknown quantization method: bitsandbytes"),
)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU as the engine asks NVML for it."""

    name: str
    memory_bytes: int
    capability: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """One argument list on some GPUs; `hub_id` is the checkpoint that `--model` stands for."""

    release: str
    devices: tuple[Device, ...]
    hub_id: str
    arguments: tuple[str, ...]

    @property
    def room(self) -> tuple[int, ...]:
        """The context, requests and tokens of a step, 0 where the engine is to find them."""
        given = dict(zip(self.arguments, self.arguments[1:], strict=False))
        return tuple(int(value) if value != "auto" else 0 for value in (given.get(flag, "0") for flag in ROOM))

    @property
    def key(self) -> str:
        """What the answer hangs on, as one word."""
        gpus = ", ".join(f"{gpu.name} {gpu.memory_bytes} {gpu.capability}" for gpu in self.devices)
        return f"{self.release} | {gpus} | {self.hub_id} | {' '.join(self.arguments)}"

    @property
    def rest(self) -> tuple[object, ...]:
        """What differs in more than room."""
        words = iter(self.arguments)
        kept = [word for word in words if not (word in ROOM and next(words))]
        return (self.release, self.devices, self.hub_id, tuple(kept))


@dataclass(kw_only=True)
class Tally:
    """What was planned: outcomes by (host, release), and who asked each question."""

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    askers: dict[Question, Counter[tuple[str, str]]] = field(default_factory=dict)


def main() -> int:
    """Plan, ask, write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the wheels; missing ones are downloaded")
    parser.add_argument("--answers", type=Path, default=ANSWERS, help="file of answers, read and added to")
    parser.add_argument("--host", action="append", help="a folder of tests/hosts; all of them by default")
    parser.add_argument("--release", action="append", help="the two newest of the catalog by default")
    parser.add_argument("--model", action="append", help="a checkpoint's hub id; all of the catalog by default")
    parser.add_argument("--each", action="store_true", help="print every answer")
    given = parser.parse_args()
    releases = given.release or [release.version for release in load_catalog().engines[:2]]
    tally = plan_all(given.host or HOST_NAMES, releases, given.model)
    questions = widest(tally.askers)
    print(f"{sum(tally.outcomes.values())} requests, {len(tally.askers)} argument lists, {len(questions)} questions")
    controls = control_questions(releases)
    with tempfile.TemporaryDirectory() as folder:
        answers = ask_all([*questions, *controls], Path(folder), given.wheels, given.answers)
    whole = not (given.host or given.release or given.model)
    if whole:
        rewrite_answers(given.answers, answers)
    check_controls({question: (answers.pop(question), words) for question, words in controls.items()})
    if given.each:
        for question, answer in answers.items():
            print(
                json.dumps([question.release, question.devices[0].name, question.hub_id, *question.arguments, answer])
            )
    document = summarize(tally, answers)
    if whole:
        RESULT.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for refusal in document["refusals"]:
        print(json.dumps(refusal, ensure_ascii=False))
    print(f"{document['refused']} refusals of {len(document['refusals'])} sorts")
    return 1 if document["refusals"] else 0


def plan_all(hosts: Iterable[str], releases: Sequence[str], models: Sequence[str] | None) -> Tally:
    """Plan for every host, two at a time."""
    whole = Tally()
    with ProcessPoolExecutor(max_workers=2) as pool:
        for part in pool.map(plan_host, [(name, releases, models) for name in hosts]):
            whole.outcomes.update(part.outcomes)
            for question, askers in part.askers.items():
                whole.askers[question] = whole.askers.get(question, Counter()) + askers
    return whole


def plan_host(task: tuple[str, Sequence[str], Sequence[str] | None]) -> Tally:
    """Plan every checkpoint for one host, every environment, objective and release."""
    name, releases, models = task
    tally = Tally()
    checkpoints = [point.hub_id for row in load_catalog().llms() for point in row.checkpoints]
    wishes = [*((Environment.PROD, objective) for objective in (None, *Objective))]
    wishes += [(environment, None) for environment in Environment if environment is not Environment.PROD]
    for hub_id in models or checkpoints if recorded(name).gpus else ():
        # Reading a model costs as much as a tenth of a plan.
        read = {environment: request(recorded(name), environment, model=hub_id) for environment in Environment}
        for environment, objective in wishes:
            for release in releases:
                needs = EngineNeeds(exact=release)
                plan_one(tally, name, replace(read[environment], objective=objective, needs=needs))
    return tally


def plan_one(tally: Tally, name: str, asked: PlanRequest) -> None:
    """Plan once, and add the questions of the plan's replicas, or the refusal."""
    release = asked.needs.exact or ""
    try:
        plan = make_plan(asked, load_catalog())
    except NoPlanError:
        tally.outcomes[name, release, "refused by the planner"] += 1
        return
    if plan.mode is Mode.CPU:
        tally.outcomes[name, release, "planned for the processor"] += 1
        return
    tally.outcomes[name, release, "planned"] += 1
    by_uuid = {gpu.uuid: gpu for gpu in asked.host.gpus if gpu.uuid is not None}
    for question in {ask_for(replica, by_uuid, release) for replica in plan.replicas}:
        tally.askers.setdefault(question, Counter())[name, release] += 1


def ask_for(replica: Replica, by_uuid: Mapping[str, Gpu], release: str) -> Question:
    """Return the question of one replica: its container sees its own GPUs alone."""
    words = iter(replica.args)
    kept = [word for word in words if not (word in SILENT and next(words))]
    gpus = [by_uuid[uuid] for uuid in replica.gpu_uuids]
    devices = (sort_of(gpu) for gpu in gpus)
    return Question(release=release, devices=tuple(devices), hub_id=replica.model, arguments=tuple(kept))


def sort_of(gpu: Gpu) -> Device:
    """Return a GPU that stands for all that the configuration cannot tell from this one.

    It asks for the capability, for 70 and 160 GiB of memory, and whether it is an A100 (0.33.0 engine/arg_utils.py,
    get_batch_defaults).
    """
    large = next((size for size in (160, 70) if (gpu.memory_bytes or 0) >= size * GIB), 16)
    kind = "A100" if "a100" in (gpu.name or "").lower() else "GPU"
    return Device(name=f"NVIDIA {kind}", memory_bytes=large * GIB, capability=gpu.compute_capability or "0.0")


def widest(questions: Iterable[Question]) -> list[Question]:
    """Return of those that differ in room alone the one with the longest context, the most requests and tokens."""
    chosen: dict[tuple[object, ...], Question] = {}
    for question in questions:
        chosen[question.rest] = max(question, chosen.get(question.rest, question), key=lambda each: each.room)
    return list(chosen.values())


def control_questions(releases: Iterable[str]) -> dict[Question, str]:
    """Return the questions to which the engine is known to say no, each with its words."""
    devices = (Device(name="NVIDIA GPU", memory_bytes=70 * GIB, capability="9.0"),) * 8
    return {
        Question(release=release, devices=devices, hub_id=hub_id, arguments=("--model", hub_id, *flags.split())): words
        for release in releases
        for hub_id, flags, words in CONTROLS
    }


def check_controls(controls: Mapping[Question, tuple[Mapping[str, Any], str]]) -> None:
    """End where the engine does not refuse what it must."""
    for question, (answer, words) in controls.items():
        said = refusal_of(answer) or "nothing"
        if not re.search(words, said):
            raise SystemExit(f"{question.release} says {said} of {' '.join(question.arguments)}, and not {words}")


def ask_all(questions: Sequence[Question], folder: Path, wheels: Path, kept: Path) -> dict[Question, dict[str, Any]]:
    """Ask every question that `kept` has no answer to, in groups as one process takes them; two processes at a time."""
    known = read_answers(kept) if kept.exists() else {}
    answers = {question: known[question.key] for question in questions if question.key in known}
    groups = groups_of(question for question in questions if question not in answers)
    if groups:
        write_models(folder / "models")
        (folder / "nvml").mkdir()
        build_fake_nvml(folder / "nvml")
    for release in {group[0].release for group in groups}:
        lay_out_site(release, folder / release, wheels)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for group, said in pool.map(lambda group: (group, ask_group(group, folder, kept)), groups):
            answers.update(zip(group, said, strict=True))
    return answers


def groups_of(questions: Iterable[Question]) -> list[list[Question]]:
    """Return the questions of each release and sort of GPUs together."""
    groups: dict[tuple[object, ...], list[Question]] = defaultdict(list)
    for question in questions:
        alike = len(set(question.devices)) == 1
        groups[question.release, question.devices[0] if alike else question.devices].append(question)
    return list(groups.values())


def read_answers(kept: Path) -> dict[str, dict[str, Any]]:
    """Return the answers of a file, by the key of their question."""
    with gzip.open(kept, "rt", encoding="utf-8") as file:
        return dict(json.loads(line) for line in file)


def rewrite_answers(kept: Path, answers: Mapping[Question, Mapping[str, Any]]) -> None:
    """Leave in a file of answers those alone that were wanted, in order: the same answers are the same bytes."""
    lines = sorted(json.dumps([question.key, answer]) for question, answer in answers.items())
    kept.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def ask_group(group: Sequence[Question], folder: Path, kept: Path) -> list[dict[str, Any]]:
    """Ask the questions of one release in one process; each sees as many GPUs as its replica has."""
    release, devices = group[0].release, max((question.devices for question in group), key=len)
    answers = folder / f"{abs(hash((release, devices)))}.txt"
    answers.write_text(nvml_answers(devices), encoding="utf-8")
    asked = json.dumps({"ask_engine": str(ASK_ENGINE), "questions": [as_asked(question, folder) for question in group]})
    variables = {
        **os.environ,
        "PYTHONPATH": f"{folder / release}",
        "LD_LIBRARY_PATH": str(folder / "nvml"),
        "STACKWRIGHT_FAKE_NVML": str(answers),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        # Neither the wheels nor the environment have bytecode; without it a third of the time goes into compiling.
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    said = []
    with tempfile.TemporaryFile("w+") as questions, tempfile.TemporaryFile("w+") as words:
        questions.write(asked)
        questions.seek(0)
        command = [engine_python(), HERE / "judge" / "inside.py"]
        judge = subprocess.Popen(
            command, stdin=questions, stdout=subprocess.PIPE, stderr=words, env=variables, text=True
        )
        with judge:
            for question, line in zip(group, judge.stdout or (), strict=False):
                said.append(json.loads(line))
                keep(kept, question, said[-1])
        if len(said) != len(group):
            words.seek(0)
            raise RuntimeError(f"{len(said)} answers to {len(group)} questions: {words.read()[-4000:]}")
    return said


def as_asked(question: Question, folder: Path) -> dict[str, object]:
    """Return a question as benchmarks/judge/inside.py takes it."""
    model = str(folder / "models" / question.hub_id)
    arguments = (model if word == question.hub_id else word for word in question.arguments)
    seen = ",".join(map(str, range(len(question.devices))))
    return {"arguments": [*arguments, "--skip-tokenizer-init"], "environment": {"CUDA_VISIBLE_DEVICES": seen}}


def keep(kept: Path, question: Question, answer: Mapping[str, Any]) -> None:
    """Add an answer to the file of answers, whole even where two processes add at once."""
    with kept.open("ab") as file:
        file.write(gzip.compress((json.dumps([question.key, answer]) + "\n").encode(), mtime=0))


def nvml_answers(devices: Sequence[Device]) -> str:
    """Return what NVML says of some GPUs, for tests/fakes/nvml."""
    lines = ["system driver_version 580.95.05", "system cuda_version 13000"]
    for number, device in enumerate(devices):
        lines += [
            f"gpu {number} name {device.name}",
            f"gpu {number} uuid GPU-{number}",
            f"gpu {number} pci_bus_id 00000000:{number + 1:02X}:00.0",
            f"gpu {number} memory {device.memory_bytes} 0",
            f"gpu {number} compute_capability {device.capability}",
        ]
    return "".join(f"{line}\n" for line in lines)


def engine_python() -> Path:
    """Return the Python of the CPU engine's environment, which the testbed makes."""
    from stackwright.domain.plan import PlannedEngine
    from stackwright.engines.vllm.engine import VLLM
    from stackwright.engines.vllm.settings import CPU_RELEASE
    from stackwright.runtime.provision import ensure

    from tests.integration.testbed import state_folder

    engine = PlannedEngine(name="vllm", version=CPU_RELEASE, image="", cuda=None)
    return ensure(state_folder(), VLLM.recipe(engine, on_gpus=False), lambda *_: None) / "bin" / "python"


def lay_out_site(release: str, site: Path, wheels: Path) -> None:
    """Unpack what the stand-in takes of the wheels, and put its own modules where the compiled ones are."""
    site.mkdir()
    for wanted in (f"vllm=={release}", *BESIDE):
        name, _, version = wanted.partition("==")
        found = sorted(wheels.glob(f"{name}-{version}-*.whl"))
        if not found:
            subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", wheels, wanted], check=True)
            found = sorted(wheels.glob(f"{name}-{version}-*.whl"))
        with zipfile.ZipFile(found[0]) as wheel:
            # Of Triton alone something is compiled that its import needs.
            wheel.extractall(site, [each for each in wheel.namelist() if _wanted(each)])
    vllm = site / "vllm"
    for name in COMPILED:
        (vllm / f"{name}.py").write_text("", encoding="utf-8")
    (vllm / "third_party" / "deep_gemm" / "__init__.py").write_text("", encoding="utf-8")
    (vllm / "_C_stable_libtorch.py").write_bytes((HERE / "judge" / "extensions.py").read_bytes())


def _wanted(name: str) -> bool:
    compiled = name.endswith(".so") or ".so." in name
    return name.endswith("libtriton.so") or not (compiled or name.startswith("triton/backends/nvidia/bin"))


def write_models(folder: Path) -> None:
    """Write the config.json of every checkpoint of the catalog: what its row tells, and what else the engine needs."""
    document = yaml.safe_load(CONFIGS.read_text(encoding="utf-8"))
    for row in load_catalog().llms():
        for checkpoint in row.checkpoints:
            path = folder / checkpoint.hub_id / "config.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(whole_config(row, checkpoint, document)), encoding="utf-8")


def whole_config(row: CatalogLlm, checkpoint: Checkpoint, beside: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a checkpoint's configuration with what the catalog leaves out."""
    config: Mapping[str, Any] = checkpoint_config(row, checkpoint)
    for each in beside["rows"]:
        if row.name in each["names"]:
            config = lay_over(config, each["config"])
    usual = config.get("quantization_config")
    if usual is None or checkpoint.hub_id == row.hub_id or "modules_to_not_convert" not in usual:
        return config  # what names the modules that it quantizes leaves out nothing else
    # Routers, which the engine quantizes in no model; as a part of a name it would mean `gate_proj`, too.
    kept = [part for part in usual["modules_to_not_convert"] if part != "mlp.gate"]
    for each in beside["quantization"]:
        if checkpoint.hub_id.startswith(tuple(each["names"])) and checkpoint.format == each["format"]:
            kept = [*kept, *each["kept"]]
    return {**config, "quantization_config": {**usual, **left_out(usual["quant_method"], kept)}}


def left_out(method: str, kept: Sequence[str]) -> dict[str, object]:
    """Return what stays unquantized as a method names it, each as a part of a name; published files list whole ones."""
    if method == "gptq":
        return {"dynamic": {f"-:.*{part}.*": {} for part in kept}}
    form = {"modelopt": "*{}*", "compressed-tensors": "re:.*{}.*"}.get(method)
    return {"modules_to_not_convert": kept} if form is None else {"ignore": [form.format(part) for part in kept]}


def lay_over(config: Mapping[str, Any], over: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mapping with another laid over it, level by level."""
    both = {
        key: value for key, value in over.items() if isinstance(value, dict) and isinstance(config.get(key), Mapping)
    }
    return {**config, **over, **{key: lay_over(config[key], value) for key, value in both.items()}}


def refusal_of(answer: Mapping[str, Any]) -> str | None:
    """Return the words of a refusal, of the configuration or of the model that is built."""
    if answer["refused"]:
        return f"configuration: {answer['refused']}"
    return f"model: {answer['values']['model']} ({answer['values']['where']})" if answer["values"]["model"] else None


def summarize(tally: Tally, answers: Mapping[Question, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the result: plans by host and release, answers by release, every sort of refusal, and the backends."""
    plans: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for (host, release, outcome), count in sorted(tally.outcomes.items()):
        plans[host][release][outcome] = count
    sorts: dict[str, list[Question]] = defaultdict(list)
    backends: dict[str, Counter[str]] = defaultdict(Counter)
    accepted: Counter[str] = Counter()
    for question, answer in answers.items():
        words = refusal_of(answer)
        if words is not None:
            sorts[re.sub(r"\s+", " ", words)[:400]].append(question)
            continue
        accepted[question.release] += 1
        for backend in answer["values"]["backends"]:
            backends[question.devices[0].capability][backend] += 1
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "plans": plans,
        "argument_lists": len(tally.askers),
        "questions": dict(Counter(question.release for question in answers)),
        "accepted": dict(accepted),
        "refused": sum(map(len, sorts.values())),
        "refusals": [
            {"words": words, "questions": len(asked), **_examples(asked)} for words, asked in sorted(sorts.items())
        ],
        "refused as they must be": [f"{hub_id} {flags}: {words}" for hub_id, flags, words in CONTROLS],
        "not judged": NOT_JUDGED,
        "backends by compute capability": {key: dict(value) for key, value in sorted(backends.items())},
    }


def _examples(asked: Sequence[Question]) -> dict[str, object]:
    first = asked[0]
    return {
        "models": sorted({question.hub_id for question in asked}),
        "example": f"{first.release}, {len(first.devices)} × {first.devices[0].name}: {' '.join(first.arguments)}",
    }


if __name__ == "__main__":
    sys.exit(main())
