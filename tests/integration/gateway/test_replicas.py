"""Two replicas of one model: one dies under load, clients notice nothing, and it gets its share again when it is back.

The GPUs are stand-ins, as in test_gpu_compose.py, and a quick engine has vLLM's place; Compose, LiteLLM and Redis are
real.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.nvml import build_fake_nvml, environment
from tests.integration.conftest import MakeProject
from tests.integration.faults.traffic import clients
from tests.integration.project import CHECKOUT, Project, wait_until

ANSWERS = CHECKOUT / "tests" / "hosts" / "2x-rtx3090-nvlink" / "nvml.txt"
REPLICAS = ("engine", "engine-2")
# Enough for a random choice between two to have met both: the chance of missing one is 2 to the minus 19.
ROUND = 20

pytestmark = pytest.mark.usefixtures("gpu_requests")


@pytest.fixture(scope="module")
def stack(
    make_project: MakeProject, quick_pins: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """Give a project whose stack runs a replica on each of two GPUs."""
    project = make_project(**environment(build_fake_nvml(tmp_path_factory.mktemp("nvml")), ANSWERS))
    project.configure("multi", "--objective=throughput", "--model=smoke", *quick_pins)
    project.start()
    yield project
    project.stop()


def answered(stack: Project, replica: str) -> float:
    """Return how many requests a replica has answered since it started; 0 where it does not say."""
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
    done = stack.run(["docker", "exec", stack.container(replica), "python3", "-c", ask])
    rows = [line for line in done.stdout.splitlines() if line.startswith("vllm:request_success_total{")]
    return sum(float(row.split()[-1]) for row in rows)


def test_no_request_fails_when_a_replica_dies_and_comes_back(stack: Project) -> None:
    lost = REPLICAS[1]
    with clients(stack) as traffic:
        traffic.wait_for(more=ROUND)
        assert [answered(stack, replica) > 0 for replica in REPLICAS] == [True, True]
        stack.docker("kill", stack.container(lost))
        traffic.wait_for(more=ROUND)
        with stack.held():
            stack.docker("start", stack.container(lost))
            traffic.wait_for(more=ROUND)
        wait_until(lambda: answered(stack, lost) or None)
        traffic.wait_for(more=ROUND)
    print(traffic.words())
    assert traffic.failed == 0, traffic.words()
