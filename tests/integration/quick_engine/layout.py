"""Lays the stand-in out where a start looks for vLLM: as a package, and as the environment of the processes runtime."""

from __future__ import annotations

import shutil
import sys
import venv
from pathlib import Path

from stackwright.domain.plan import PlannedEngine
from stackwright.engines.vllm.engine import VLLM
from stackwright.runtime.provision import MARK, environment_folder

CHECKOUT = Path(__file__).resolve().parents[3]
PACKAGES = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
FILES = {
    "vllm/entrypoints/openai/api_server.py": Path("tests/integration/quick_engine/server.py"),
    "vllm/benchmarks/serve.py": Path("tests/integration/quick_engine/serve.py"),
    "vllm/benchmarks/datasets.py": Path("tests/fakes/bench/vllm/benchmarks/datasets.py"),
    "tests/toy_engine/server.py": Path("tests/toy_engine/server.py"),
}


def texts() -> list[str]:
    """Return everything that the stand-in consists of."""
    return [(CHECKOUT / source).read_text(encoding="utf-8") for source in FILES.values()]


def lay_out(folder: Path) -> None:
    """Write the packages into a folder that Python looks in."""
    for name, source in FILES.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / source, target)
        for package in [parent for parent in target.parents if parent.is_relative_to(folder) and parent != folder]:
            (package / "__init__.py").touch()


def planned_engine() -> PlannedEngine:
    """Return the engine that a plan for the CPU has."""
    return PlannedEngine(name=VLLM.name, version=VLLM.processor_release() or "", image="", cuda=None)


def make_state(state: Path, gateway: Path) -> None:
    """Fill a state folder: the stand-in in the place of vLLM's virtual environment, and the real one of the gateway.

    The stand-in finds the gateway's packages as well: the program that loads models in turns needs one of them.
    """
    folder = make_engine(state)
    (folder / PACKAGES / "gateway.pth").write_text(f"{gateway / PACKAGES}\n", encoding="utf-8")
    (folder.parent / gateway.name).symlink_to(gateway)


def make_engine(state: Path) -> Path:
    """Put the stand-in in the place of vLLM's virtual environment; return the folder."""
    folder = environment_folder(state, VLLM.recipe(planned_engine(), on_gpus=False))
    venv.create(folder, symlinks=True)
    lay_out(folder / PACKAGES)
    (folder / MARK).touch()
    return folder
