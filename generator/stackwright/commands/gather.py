"""Look at everything that the checks before a start need, what waits beside each other, into one `Evidence`.

Touches the machine read-only through detection, the model's files, the hub, and the container engine, which starts one
short-lived container where GPUs are to get into one. Whatever cannot be looked at becomes `Unseen` with its reason.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Generic, TypeVar

from stackwright.catalog.load import load_catalog, load_llms
from stackwright.commands.stack import UP
from stackwright.detect.capacity import SHARED_MEMORY, has_infiniband, look_at_disk, look_at_limits, look_at_memory
from stackwright.detect.gpu_state import look_at_gpus
from stackwright.detect.listener import find_listener
from stackwright.domain.host import Host
from stackwright.domain.machine import ContainerAnswer, Disk, GpuState, HubAnswer, ModelFiles, Seen, Unseen
from stackwright.domain.plan import Mode
from stackwright.errors import StackError
from stackwright.models.cache import find_cache
from stackwright.models.files import look_at_cache, look_at_folder
from stackwright.models.reach import ask_hub, is_offline
from stackwright.models.read import HubAccess, read_model
from stackwright.models.shape import parse_shape
from stackwright.project.credentials import HUB_TOKEN, find_hub_token
from stackwright.project.inputs import changed_inputs
from stackwright.runtime import Runtime, Stack
from stackwright.runtime.process_groups import members, read_groups
from stackwright.runtime.provision import (
    cpu_engine_recipe,
    environment_folder,
    gateway_recipe,
    gpu_engine_recipe,
    is_complete,
)
from stackwright.validation.capacity import CUDA_IMAGE_BYTES
from stackwright.validation.container import find_images_folder, find_missing_images, list_containers, look_from_inside
from stackwright.validation.evidence import Evidence, ModelSeen
from stackwright.validation.gpus import used_gpus
from stackwright.validation.live import newest_file_s

T = TypeVar("T")


class Later(Generic[T]):
    """Something that is looked at beside all else. A thread that does not end holds no command back."""

    def __init__(self, look: Callable[[], T]) -> None:
        """Begin to look."""
        self._look = look
        self._answer: Seen[T] = Unseen(why="not looked at")
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._answer = safely(self._look)

    def result(self) -> Seen[T]:
        """Wait for what was seen."""
        self._thread.join()
        return self._answer


def safely(look: Callable[[], T]) -> Seen[T]:
    """Look, and turn whatever goes wrong into its reason."""
    try:
        return look()
    except StackError as failure:
        return Unseen(why=failure.message)
    except Exception as failure:  # noqa: BLE001 a machine unlike any other must not take the other checks with it
        return Unseen(why=f"{type(failure).__name__}: {str(failure)[:160]}")


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """The model here and on its hub, as `Evidence` has it."""

    files: Seen[ModelFiles]
    longest_tokens: int | None = None
    gated: bool | None = None
    hub: Seen[HubAnswer] | None = None
    has_token: bool = False


@dataclass(frozen=True, kw_only=True)
class EngineView:
    """What the container engine has and does, as `Evidence` has it."""

    images: Seen[Disk] | None
    needs_cuda_image: bool
    container: Seen[ContainerAnswer] | None


def gather(stack: Stack, runtime: Runtime, host: Host) -> Evidence:
    """Look at everything once.

    Raises:
        RuntimeRefusedError: the runtime cannot say what runs.
    """
    from stackwright.runtime.compose import ComposeRuntime

    gpus = Later(look_at_gpus) if stack.plan.mode is not Mode.CPU else None
    models = [Later(partial(_look_at_model, stack, location)) for location in _locations(stack)]
    # Before a second thread uses the runtime: its client's package imports itself in circles.
    runs = any(state.phase in UP for state in runtime.services())
    merged = Later(runtime.merged) if isinstance(runtime, ComposeRuntime) else None
    engine = Later(lambda: _look_at_engine(stack, host, runs=runs)) if merged is not None else None
    states = () if gpus is None else gpus.result()
    own = safely(lambda: _find_own(stack, states, compose=merged is not None)) if runs else frozenset()
    views, inside = [_view(model.result()) for model in models], None if engine is None else engine.result()
    disks, wanted = _look_at_disks(stack, inside)
    return Evidence(
        stack=stack,
        host=host,
        compose=merged is not None,
        runs=runs,
        shell=os.environ,
        merged=None if merged is None else merged.result(),
        gpus=states,
        own=own,
        listener=_find_listener(stack),
        container=inside.container if isinstance(inside, EngineView) else inside,
        disks=disks,
        wanted=wanted,
        shared_memory=look_at_disk(SHARED_MEMORY),
        memory=look_at_memory(),
        limits=look_at_limits(),
        infiniband=has_infiniband(),
        model=views[0].files,
        longest_tokens=views[0].longest_tokens,
        hub=views[0].hub,
        gated=views[0].gated,
        has_token=any(each.has_token for each in views),
        offline=is_offline(os.environ),
        changed=safely(lambda: changed_inputs(stack.root, stack.plan.environment)),
        newest_file_s=newest_file_s(stack),
        now_s=time.time(),
        catalog=load_catalog(),
        further=_further(stack, views),
    )


def _find_listener(stack: Stack) -> str | None:
    found = safely(lambda: find_listener(int(stack.env["GATEWAY_PORT"])))
    return None if isinstance(found, Unseen) else found


def _view(seen: Seen[ModelView]) -> ModelView:
    return ModelView(files=seen) if isinstance(seen, Unseen) else seen


def _locations(stack: Stack) -> tuple[str, ...]:
    """Return what the engines load, model by model."""
    return tuple(values[stack.engine.keys.model] for values in stack.models)


def _further(stack: Stack, views: list[ModelView]) -> tuple[ModelSeen, ...]:
    """Return what was seen of the models after the first."""
    seen = zip(_locations(stack)[1:], views[1:], strict=True)
    return tuple(ModelSeen(location=name, files=each.files, hub=each.hub, gated=each.gated) for name, each in seen)


def _look_at_model(stack: Stack, location: str) -> ModelView:
    user = (int(stack.env["STACKWRIGHT_UID"]), int(stack.env["STACKWRIGHT_GID"]))
    home = Path(stack.env["HF_HOME"])
    facts = safely(lambda: read_model(location, load_llms(), access=HubAccess(home=home, online=False)))
    known = None if isinstance(facts, Unseen) else facts
    longest = None if known is None else safely(lambda: _longest_tokens(known.config))
    longest = None if isinstance(longest, Unseen) else longest
    if location.startswith("/"):
        files = look_at_folder(Path(location), *user)
        return ModelView(files=files, longest_tokens=longest, gated=False)
    files = look_at_cache(location, find_cache(os.environ, home), *user, known.weight_bytes if known else None)
    gated = known.gated if known else None
    token = _token(stack, home)
    asks = not (files.complete or files.problem or is_offline(os.environ) or (gated and not token))
    hub = ask_hub(location, os.environ, token) if asks else None
    return ModelView(files=files, longest_tokens=longest, gated=gated, hub=hub, has_token=bool(token))


def _longest_tokens(config: Mapping[str, object]) -> int | None:
    """Return the longest request that the engine takes: its own `model_max_length` may be beyond what it derives."""
    derived, own = parse_shape(config).max_positions, config.get("model_max_length")
    return max(derived, own if isinstance(own, int) else 0) or None if derived else None


def _token(stack: Stack, home: Path) -> str | None:
    """Return the hub's token that the engine will have: a start refreshes the secret file from the person's own."""
    found = safely(lambda: find_hub_token(os.environ, home))
    if isinstance(found, str):
        return found
    kept = safely(lambda: (stack.secrets / HUB_TOKEN).read_text(encoding="ascii").strip())
    return kept if isinstance(kept, str) and kept else None


def _look_at_engine(stack: Stack, host: Host, *, runs: bool) -> EngineView:
    """Ask which images are missing, and what a container with GPUs sees where the engine's image is not."""
    image = stack.engine.keys.image
    engines = dict.fromkeys(stack.values(replica)[image] for replica in stack.plan.engines)
    names = (*engines, stack.env["LITELLM_IMAGE"], stack.env["REDIS_IMAGE"])
    missing = find_missing_images(names)
    uuids = used_gpus(stack.plan)
    lacks_engine = isinstance(missing, Unseen) or stack.env[image] in missing
    container: Seen[ContainerAnswer] | None = None
    if isinstance(missing, Unseen) and uuids:
        container = missing
    elif uuids and not lacks_engine and not runs and host.containers.engine == "docker":
        container = look_from_inside(stack, uuids)
    images: Seen[Disk] | None = None
    if isinstance(missing, Unseen):
        images = missing
    elif missing:
        folder = find_images_folder()
        images = folder if isinstance(folder, Unseen) else look_at_disk(Path(folder))
    cuda = stack.plan.engine.cuda is not None and stack.env[image] == stack.plan.engine.image
    return EngineView(images=images, needs_cuda_image=cuda and lacks_engine, container=container)


def _look_at_disks(stack: Stack, engine: Seen[EngineView] | None) -> tuple[dict[str, Seen[Disk]], Mapping[str, int]]:
    """Look where the stack writes, and add up what beside the model."""
    disks = {"files": look_at_disk(stack.root), "models": look_at_disk(Path(stack.env["HF_HOME"]))}
    wanted = {}
    if engine is None:
        disks["packages"] = look_at_disk(stack.state)
        wanted["packages"] = sum(_packages_bytes(stack))
    elif isinstance(engine, EngineView) and engine.images is not None:
        disks["images"] = engine.images
        wanted["images"] = CUDA_IMAGE_BYTES if engine.needs_cuda_image else 0
    return disks, wanted


def _packages_bytes(stack: Stack) -> Iterator[int]:
    """Yield the size of each virtual environment that is still to be made, with what is downloaded for it meanwhile."""
    engine_recipe = cpu_engine_recipe if stack.plan.mode is Mode.CPU else gpu_engine_recipe
    for recipe in (gateway_recipe, lambda: engine_recipe(stack.plan.engine)):
        made = safely(recipe)  # without packages for this engine, the start itself refuses
        if not isinstance(made, Unseen) and not is_complete(environment_folder(stack.state, made)):
            yield made.size_bytes * 3 // 2


def _find_own(stack: Stack, states: Seen[tuple[GpuState, ...]], *, compose: bool) -> Seen[frozenset[int]]:
    """Return which of the processes that NVML names are this stack's."""
    if isinstance(states, Unseen):
        return frozenset()
    named = {process.pid for state in states for process in state.processes or ()}
    if not compose:
        records = (stack.state / "run" / stack.name).glob("*.groups")
        return frozenset(named & {pid for path in records for group in read_groups(path) for pid in members(group)})
    containers = list_containers(stack) if named else ()
    if isinstance(containers, Unseen):
        return containers
    return frozenset(pid for pid in named if any(container in _control_group(pid) for container in containers))


def _control_group(pid: int) -> str:
    """Return where the kernel accounts a process: the path names its container."""
    text = safely(lambda: Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace"))
    return "" if isinstance(text, Unseen) else text
