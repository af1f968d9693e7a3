"""GPU stacks under real Docker Compose on a machine without GPUs.

Two things stand in, each at the outermost boundary: a C library answers in the place of NVML, and the engine's GPU hook
does nothing. Detection, plan, files, Compose, the device requests, the gateway and the engine's own tensor parallelism
are real; the engine's kernels are those of its CPU build.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.fakes.nvml import build_fake_nvml, environment
from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.project import CHECKOUT

ANSWERS = CHECKOUT / "tests" / "hosts" / "2x-rtx3090-nvlink" / "nvml.txt"
UUIDS = ["GPU-3090aaaa-0001-4d1e-9f00-aaaaaaaaaaaa", "GPU-3090bbbb-0002-4d1e-9f00-bbbbbbbbbbbb"]
# Somebody without an account in any image, and not root.
UID = 4711

pytestmark = pytest.mark.usefixtures("gpu_requests")


@pytest.fixture(scope="module")
def two_gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the variables under which this machine has two linked GPUs."""
    return environment(build_fake_nvml(tmp_path_factory.mktemp("nvml")), ANSWERS)


def test_multi_serves_with_tensor_parallelism(
    make_project: MakeProject, images: Images, two_gpus: dict[str, str]
) -> None:
    project = make_project(**two_gpus)
    project.configure("multi", "--model=smoke", *images.pins(images.engine_for_two_gpus))
    project.start()
    engine = project.inspect("engine")
    assert requested_gpus(engine) == UUIDS
    assert words_after(engine["Args"], "--tensor-parallel-size") == ["2"]
    assert engine["HostConfig"]["ShmSize"] == 16 * 2**30
    assert "NCCL_P2P_DISABLE" not in str(engine["Config"]["Env"])
    assert project.complete()
    project.stop()
    assert project.remains("container") == project.remains("network") == []


def test_single_runs_by_hand_for_a_user_without_an_account(
    make_project: MakeProject, images: Images, two_gpus: dict[str, str], tmp_path: Path
) -> None:
    # The model is made below /tmp: folders keep their paths inside, and images let nobody but root into /root.
    caches = tmp_path / "vllm"
    caches.mkdir()
    project = make_project(**two_gpus, STACKWRIGHT_STATE=str(tmp_path), VLLM_CACHE_ROOT=str(caches))
    somebody = [f"--set=STACKWRIGHT_UID={UID}", f"--set=STACKWRIGHT_GID={UID}"] if os.geteuid() == 0 else []
    said = project.configure("single", "--all", "--model=smoke", *somebody, *images.pins(images.engine_for_one_gpu))
    if somebody:
        give_to(UID, project.folder)
        give_to(UID, caches)
    command = re.search(r"by hand: (.+)$", said, re.MULTILINE)
    assert command, said
    done = project.run(["bash", "-euc", command[1]])
    assert done.returncode == 0, done.stderr + project.logs()
    engine = project.inspect("engine")
    assert requested_gpus(engine) in ([UUIDS[0]], [UUIDS[1]])
    assert words_after(engine["Args"], "--tensor-parallel-size") in ([], ["1"])
    if somebody:
        assert engine["Config"]["User"] == f"{UID}:{UID}"
    assert project.complete()


def requested_gpus(container: dict[str, dict[str, list[dict[str, object]]]]) -> object:
    """Return the ids of the GPUs that Compose asked the engine for; there must be one request, for GPUs."""
    (request,) = container["HostConfig"]["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", 0, [["gpu"]])
    return request["DeviceIDs"]


def words_after(words: object, flag: str) -> list[str]:
    """Return the word after each occurrence of a flag."""
    assert isinstance(words, list)
    return [following for word, following in itertools.pairwise(words) if word == flag]


def give_to(uid: int, folder: Path) -> None:
    """Make somebody else the owner of all that is in a folder."""
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, uid, uid)
