"""Requests for the planner, as the tests make them: fixed folders and user, so that what is planned is the same
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.detect.snapshot import read_snapshot
from stackwright.domain.environment import Environment, EnvironmentPaths, Folders
from stackwright.domain.host import Gpu, Host
from stackwright.domain.model_facts import CatalogLlm, Checkpoint
from stackwright.domain.plan import Mode, Plan, Replica, Setting
from stackwright.domain.wishes import Wishes
from stackwright.engines import default_engine
from stackwright.models.read import SMOKE, HubAccess, read_model
from stackwright.models.stored import name_llm, stored_facts
from stackwright.planning.planner import make_plan
from stackwright.planning.quantization import order_by_loss
from stackwright.planning.recommend import Checkpoints
from stackwright.planning.request import PlanRequest, User, WantedModel
from stackwright.project.folder import read_wishes
from stackwright.project.pins import read_pins
from stackwright.settings import declared_settings

HOSTS = Path(__file__).parent / "hosts"
HOST_NAMES = tuple(sorted(folder.name for folder in HOSTS.iterdir() if (folder / "host.yaml").is_file()))
FOLDERS = Folders(hf_home="/cache/huggingface", engine_caches={"vllm": "/cache/vllm"}, data="/data")
FIRST_MODEL = "Qwen/Qwen3-0.6B"
# A cache that is not there: what a person has downloaded must not change what the tests see.
NOWHERE = HubAccess(home=Path("/nonexistent"), online=False)
SMOKE_FOLDER = Path("/state/models/smoke")


@cache
def recorded(name: str) -> Host:
    """Return one recorded host."""
    return read_snapshot(HOSTS / name / "host.yaml")


def paths_of(root: Path, environment: Environment = Environment.DEV) -> EnvironmentPaths:
    """Return where an environment's files stand in a project folder, with the state folder in it."""
    return EnvironmentPaths(root=root, state=root / "state", environment=environment)


@cache
def shipped_wishes(environment: Environment) -> Wishes:
    """Return the wishes of the shipped envs/<env>.yaml."""
    return read_wishes(paths_of(Path("/nonexistent"), environment))


def request(
    host: Host,
    environment: Environment = Environment.PROD,
    *,
    mode: Mode | None = None,
    model: str | None = None,
    pins: Mapping[str, str] | None = None,
) -> PlanRequest:
    """Return a request for `host` with the wishes of the shipped envs/<env>.yaml."""
    name = model or (SMOKE if mode is Mode.CPU or not host.gpus else FIRST_MODEL)
    facts = read_model(name, load_catalog().llms(), SMOKE_FOLDER, NOWHERE)
    return PlanRequest(
        host=host,
        environment=environment,
        mode=mode,
        wishes=shipped_wishes(environment),
        models=(WantedModel(llm=name_llm(facts), facts=facts, wished_in=f"--model {name}"),),
        pins=read_pins({}, pins or {}, environment.value),
        folders=FOLDERS,
        user=User(uid=1000, gid=1000),
    )


def stored_model(row: CatalogLlm, checkpoint: Checkpoint) -> WantedModel:
    """Return a checkpoint as the catalog has it, whatever this machine has downloaded."""
    facts = stored_facts(row, checkpoint)
    return WantedModel(llm=name_llm(facts), facts=facts, wished_in=f"--model {facts.name}", role=row.role)


def stored_checkpoints(row: CatalogLlm) -> Checkpoints:
    """Return a model's checkpoints so, by the compute capability of the GPUs, the one that loses least first."""
    rules = default_engine().format_rules(load_catalog(), None)
    return lambda capability: [stored_model(row, each) for each in order_by_loss(rules, row, capability)]


def with_model(request: PlanRequest, **changes: object) -> PlanRequest:
    """Return a request whose one model is asked for otherwise."""
    (model,) = request.models
    return replace(request, models=(replace(model, **changes),))


def joined(*requests: PlanRequest) -> PlanRequest:
    """Return one request for the models of several that differ in nothing else."""
    return replace(requests[0], models=tuple(model for request in requests for model in request.models))


def with_replicas(plan: Plan, *replicas: Replica) -> Plan:
    """Return a plan of one model with other replicas."""
    return replace(plan, models=(replace(plan.models[0], replicas=replicas),))


def with_setting(plan: Plan, key: str, setting: Setting) -> Plan:
    """Return a plan of one model with one setting laid over its own, or over those that all share."""
    (model,) = plan.models
    if key in declared_settings().per_model:
        return replace(plan, models=(replace(model, settings={**model.settings, key: setting}),))
    return replace(plan, settings={**plan.settings, key: setting})


def with_engine(plan: Plan, **changes: str) -> Plan:
    """Return a plan whose models have an engine that differs in this."""
    engine = replace(plan.engine, **changes)
    return replace(plan, models=tuple(replace(model, engine=engine) for model in plan.models))


def plan_for(host: Host, environment: Environment = Environment.PROD, **wishes: object) -> Plan:
    """Plan for `host`, with the packaged catalog."""
    return make_plan(request(host, environment, **wishes), load_catalog())  # type: ignore[arg-type]


def gpu(
    index: int, *, name: str = "NVIDIA GeForce RTX 3090", gib: int = 24, used_gib: float = 0, capability: str = "8.6"
) -> Gpu:
    """Return a GPU for a composed host."""
    return Gpu(
        index=index,
        uuid=f"GPU-{index:08d}",
        name=name,
        memory_bytes=gib * 2**30,
        memory_used_bytes=int(used_gib * 2**30),
        compute_capability=capability,
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        numa_node=0,
        mig=False,
    )
