"""Settings for the ranks' communication: none without a reason."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.host import Gpu, Host, Link, LinkKind
from stackwright.engines.vllm.communication import DISABLE_CUSTOM_ALL_REDUCE, choose_communication

from tests.planning_requests import gpu, recorded


def host_of(count: int, nvlinks: tuple[tuple[int, int], ...] = (), peers: bool | None = True) -> Host:
    """Compose a host of so many equal GPUs."""
    gpus: tuple[Gpu, ...] = tuple(gpu(index) for index in range(count))
    links = tuple(Link(a=a, b=b, kind=LinkKind.NVLINK, lanes=4, version=3) for a, b in nvlinks)
    matrix = tuple(tuple(True if a == b else peers for b in range(count)) for a in range(count))
    return replace(recorded("cpu-large"), gpus=gpus, links=links, p2p=matrix)


MESH = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@pytest.mark.parametrize(
    ("host", "ranks", "disabled", "words"),
    [
        pytest.param(host_of(1), 1, False, "one rank", id="one"),
        pytest.param(host_of(2, ((0, 1),)), 2, False, "NVLink between every pair", id="NVLink pair"),
        pytest.param(host_of(2), 2, False, "peer access over PCIe", id="PCIe pair with peer access"),
        pytest.param(host_of(2, peers=False), 2, True, "no peer access", id="GeForce pair without peer access"),
        pytest.param(host_of(4, MESH), 4, False, "NVLink between every pair", id="mesh of four"),
        pytest.param(
            host_of(4, ((0, 1), (2, 3))), 4, True, "needs NVLink between every pair", id="two pairs asked to be one"
        ),
        pytest.param(host_of(4), 4, True, "needs NVLink between every pair", id="four over PCIe"),
        pytest.param(host_of(3, ((0, 1), (0, 2), (1, 2))), 3, True, "does not support 3 ranks", id="three"),
    ],
)
def test_the_kernel_is_off_only_where_vllm_would_turn_it_off(
    host: Host, ranks: int, disabled: bool, words: str
) -> None:
    """vLLM's own rule, and a reason each."""
    chosen = choose_communication(host, host.gpus[:ranks])
    assert chosen.arguments == ((DISABLE_CUSTOM_ALL_REDUCE,) if disabled else ())
    assert words in chosen.reason
    assert chosen.warnings == ()


def test_unknown_peer_access_is_said_and_left_to_vllm() -> None:
    """Unknown is not absent."""
    host = host_of(2, peers=None)
    chosen = choose_communication(host, host.gpus)
    assert chosen.arguments == ()
    assert len(chosen.warnings) == 1


def test_a_denied_direction_counts() -> None:
    """Peer access is needed both ways."""
    host = host_of(2)
    one_way = replace(host, p2p=((True, True), (False, True)))
    assert choose_communication(one_way, one_way.gpus).arguments == (DISABLE_CUSTOM_ALL_REDUCE,)
