"""Requests for the planner, as the tests make them: fixed folders and user, so that what is planned is the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stackwright.catalog.load import load_catalog
from stackwright.detect.snapshot import read_snapshot
from stackwright.domain.environment import Environment
from stackwright.domain.host import Gpu, Host
from stackwright.domain.plan import Mode, Plan
from stackwright.models.read import SMOKE, HubAccess, name_llm, read_model
from stackwright.planning.planner import make_plan
from stackwright.planning.request import Folders, Request
from stackwright.project.folder import read_wishes

HOSTS = Path(__file__).parent / "hosts"
HOST_NAMES = tuple(sorted(folder.name for folder in HOSTS.iterdir() if (folder / "host.yaml").is_file()))
FOLDERS = Folders(hf_home="/cache/huggingface", vllm_cache="/cache/vllm")
FIRST_MODEL = "Qwen/Qwen3-0.6B"
# A cache that is not there: what a person has downloaded must not change what the tests see.
NOWHERE = HubAccess(home=Path("/nonexistent"), online=False)
SMOKE_FOLDER = Path("/state/models/smoke")


def recorded(name: str) -> Host:
    """Return one recorded host."""
    return read_snapshot(HOSTS / name / "host.yaml")


def request(
    host: Host,
    environment: Environment = Environment.PROD,
    *,
    mode: Mode | None = None,
    model: str | None = None,
    pins: Mapping[str, str] | None = None,
) -> Request:
    """Return a request for `host` with the wishes of the shipped envs/<env>.yaml."""
    name = model or (SMOKE if mode is Mode.CPU or not host.gpus else FIRST_MODEL)
    facts = read_model(name, load_catalog().llms, SMOKE_FOLDER, NOWHERE)
    return Request(
        host=host,
        environment=environment,
        mode=mode,
        wishes=read_wishes(Path("/nonexistent"), environment),
        llm=name_llm(facts),
        origin=f"--model {name}",
        facts=facts,
        pins=pins or {},
        folders=FOLDERS,
        uid=1000,
        gid=1000,
    )


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
