"""Requests as any person could make them on any machine, and what must hold of the plan that comes out.

`tests/planning/test_planner.py` and `benchmarks/plan_fuzz.py` both draw from here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog, load_drivers, load_flags, load_gpus
from stackwright.domain.environment import Environment
from stackwright.domain.hardware import GpuModel
from stackwright.domain.host import Driver, Gpu, Host
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode, Plan
from stackwright.domain.setting_spec import problem_with
from stackwright.errors import NoPlanError, StackError
from stackwright.models.read import SMOKE
from stackwright.planning.default_llm import with_default_llm
from stackwright.planning.planner import make_plan
from stackwright.rendering import RenderedFile, render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.settings import all_settings, declared_settings
from stackwright.units import MIB

from tests.planning_requests import HOST_NAMES, gpu, recorded, request
from tests.strategies import hosts

# One of each kind: none named, the smallest, dense, quantized, latent attention, hybrid, experts, vision, far too
# large.
MODELS = (
    None,
    SMOKE,
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-14B-AWQ",
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-Next-80B-A3B-Instruct-FP8",
    "Qwen/Qwen3-VL-8B-Instruct",
    "Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4",
    "Qwen/Qwen3-Coder-480B-A35B-Instruct",
)


class Example(Struct, frozen=True, kw_only=True):
    """One wish on one machine. `model` None: the planner is to choose."""

    host: Host
    environment: Environment
    mode: Mode | None
    objective: Objective | None
    model: str | None


class Outcome(Struct, frozen=True, kw_only=True):
    """What came out: the plan and its files, or the refusal."""

    plan: Plan | None = None
    files: tuple[RenderedFile, ...] = ()
    refusal: NoPlanError | None = None


def examples() -> st.SearchStrategy[Example]:
    """Every wish on every kind of machine."""
    return st.builds(
        Example,
        host=any_hosts(),
        environment=st.sampled_from(Environment),
        mode=st.sampled_from([None, *Mode]),
        objective=st.sampled_from([None, *Objective]),
        model=st.sampled_from(MODELS),
    )


def any_hosts() -> st.SearchStrategy[Host]:
    """Hosts that the snapshot schema allows, hosts with GPUs that are sold, and the recorded ones.

    Names that mean nothing end in a refusal early, so that drawn alone they would leave most of the planner untried.
    """
    return st.one_of(hosts(), sold_hosts(), sold_hosts(), st.sampled_from(HOST_NAMES).map(recorded))


@st.composite
def sold_hosts(draw: st.DrawFn) -> Host:
    """A host of any shape whose GPUs and driver are known models, each GPU free, partly in use or full."""
    kind = draw(st.sampled_from(load_gpus()))
    same = draw(st.booleans())
    host = draw(hosts(max_gpus=8, gpu=lambda index: _sold_gpus(index, (kind,) if same else load_gpus())))
    branches = load_drivers().branches
    # Mostly drivers of today: older ones end in a refusal early.
    driver = draw(st.sampled_from((None, *branches, *branches[-5:] * 5)))
    if driver is None or not host.gpus:
        return host
    return replace(host, driver=Driver(version=f"{driver.branch}.99.99", cuda=driver.cuda, error=None))


@st.composite
def _sold_gpus(draw: st.DrawFn, index: int, rows: Sequence[GpuModel]) -> Gpu:
    row = draw(st.sampled_from(rows))
    total = (row.nvml_memory_mib or row.memory_gb * 1000) * MIB
    sold = gpu(index, name=draw(st.sampled_from(row.names)), capability=row.compute_capability)
    used = draw(st.sampled_from([0, 0, 0, 300 * MIB, total // 2, total]))
    known = draw(st.sampled_from([True, True, True, False]))
    return replace(
        sold,
        memory_bytes=total if known else None,
        memory_used_bytes=used if known else None,
        mig=row.mig_instances > 0 and draw(st.booleans()),
    )


def work_out(example: Example) -> Outcome:
    """Plan and render one example. Any exception but a refusal is a failure of the caller's."""
    asked = request(example.host, example.environment, mode=example.mode, model=example.model)
    asked = replace(asked, objective=example.objective)
    try:
        if example.model is None:
            asked = with_default_llm(asked, load_catalog(), has_token=False)
        plan = make_plan(asked, load_catalog())
    except NoPlanError as refusal:
        return Outcome(refusal=refusal)
    return Outcome(plan=plan, files=render_plan(plan))


def faults(example: Example, outcome: Outcome) -> list[str]:
    """Return what is wrong with an outcome, in phrases; nothing where it is sound."""
    if outcome.refusal is not None:
        return list(_refusal_faults(outcome.refusal))
    assert outcome.plan is not None
    return [*_plan_faults(example.host, outcome.plan), *_flag_faults(outcome.plan), *_file_faults(outcome)]


def _refusal_faults(refusal: StackError) -> Iterator[str]:
    if not refusal.message or "\n" in refusal.message:
        yield f"the refusal is not one line: {refusal.message!r}"
    if not refusal.hint:
        yield f"no next step after: {refusal.message}"


def _plan_faults(host: Host, plan: Plan) -> Iterator[str]:
    """Allowed values in their order; whole GPUs, of this host, none used twice."""
    if [spec.key for spec in all_settings() if spec.key in flat_settings(plan)] != list(flat_settings(plan)):
        yield "the settings are not in their order"
    for key, setting in flat_settings(plan).items():
        if problem := problem_with(declared_settings().by_key[key], setting.value):
            yield f"{key}={setting.value}: {problem}"
    used = [uuid for replica in plan.replicas for uuid in replica.gpu_uuids]
    if len(used) != len(set(used)):
        yield f"a GPU is used twice: {used}"
    if not set(used) <= {each.uuid for each in host.gpus}:
        yield f"a GPU that the host lacks: {used}"
    yield from _slice_faults(host, plan)
    for replica in plan.replicas:
        ranks = 0 if plan.mode is Mode.CPU else replica.tensor_parallel * replica.pipeline_parallel
        if len(replica.gpu_uuids) != ranks:
            yield f"{replica.name} has {len(replica.gpu_uuids)} GPUs for {ranks} ranks"
        if replica.memory is None and (plan.mode is not Mode.CPU or host.memory_bytes is not None):
            yield f"{replica.name} has no forecast"
        if replica.memory is not None and replica.memory.verdict == "does-not-fit":
            yield f"{replica.name} is planned, though it does not fit"


def _slice_faults(host: Host, plan: Plan) -> Iterator[str]:
    """No partitioned GPU, no slice that shares a replica, and of slices that share memory only one."""
    by_uuid = {each.uuid: each for each in host.gpus}
    groups = [[by_uuid[uuid] for uuid in replica.gpu_uuids if uuid in by_uuid] for replica in plan.replicas]
    if any(each.mig for group in groups for each in group):
        yield "a GPU with MIG on is used whole"
    if any(each.mig_slice for group in groups for each in group if len(group) > 1):
        yield "a MIG slice shares a replica"
    memories = [each.mig_slice for group in groups for each in group if each.mig_slice]
    if len(memories) != len(set(memories)):
        yield "two engines meet in one slice's memory"


def _flag_faults(plan: Plan) -> Iterator[str]:
    """Every flag and variable of the engine is one that its release has, as far as the recorded table tells."""
    for replica in plan.replicas:
        flags = [word for word in replica.args if word.startswith("--")]
        variables = [name for name, _ in replica.env if name.startswith("VLLM_")]
        for name in (*flags, *variables):
            if load_flags().has(name, plan.engine.version) is False:
                yield f"{plan.engine.name} {plan.engine.version} has no {name}"


def _file_faults(outcome: Outcome) -> Iterator[str]:
    """The files are four, and those in YAML and JSON parse."""
    import yaml

    if len(outcome.files) != 4:
        yield f"{len(outcome.files)} files"
    for file in outcome.files:
        reads: dict[str, Callable[[str], object]] = {".yaml": yaml.safe_load, ".json": json.loads}
        content: Any = reads.get(file.path.suffix, str)(file.text)
        if not content:
            yield f"{file.path} is empty"
        if file.path.name == "override.yaml" and outcome.plan is not None:
            yield from _override_faults(outcome.plan, content)


def _override_faults(plan: Plan, override: Any) -> Iterator[str]:
    """Compose would make of the override what was planned: every replica's words, variables and whole GPUs.

    The form is compose-spec's: lists of texts, and reservations by `device_ids` that name a driver and capabilities.
    """
    engines = {name: service for name, service in override["services"].items() if name.startswith("engine")}
    if set(engines) != {replica.name for replica in plan.replicas}:
        yield f"the override has {', '.join(engines)}"
        return
    for replica in plan.replicas:
        service = engines[replica.name]
        if tuple(_interpolated(word, plan) for word in service["command"]) != replica.args:
            yield f"{replica.name} would be started with {service['command']}"
        found = {name: _interpolated(text, plan) for name, text in service["environment"].items()}
        # What the network asks for, the notes of its heartbeat, and its cores are no matter of a replica.
        of_service = {"ENGINE_HEARTBEAT_FILE", "ENGINE_PLACES", "ENGINE_CORES"}
        further = found.keys() - dict(replica.env).keys() - of_service
        if not dict(replica.env).items() <= found.items() or (further and plan.host.network is None):
            yield f"{replica.name} would have {service['environment']}"
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
        podman = plan.host.containers.engine == "podman"  # it gives GPUs by CDI alone
        names = [f"nvidia.com/gpu={uuid}" if podman else uuid for uuid in replica.gpu_uuids]
        whole = [{"driver": "cdi" if podman else "nvidia", "capabilities": ["gpu"], "device_ids": names}]
        if devices != (whole if replica.gpu_uuids else None):
            yield f"{replica.name} would reserve {devices}"


def _interpolated(text: object, plan: Plan) -> str:
    """Put the settings into a text as Compose does; anything but a text is shown as what it is."""
    if not isinstance(text, str):
        return repr(text)
    return re.sub(
        r"\$(?:\$|\{(\w+)(?::\?)?\})", lambda found: flat_settings(plan)[found[1]].value if found[1] else "$", text
    )
