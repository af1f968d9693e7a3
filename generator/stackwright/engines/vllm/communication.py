"""How the ranks of one replica talk, and the few settings that this needs. Pure.

NCCL finds NVLink, PCIe peer access and shared memory by itself, and each of its switches takes a path away, so none
is set by default: `NCCL_P2P_DISABLE=1`, which many guides advise, turns NVLink off as well ("direct access between
GPUs, using NVLink or PCI": NCCL 2.30.7 user guide, env.rst). What remains is vLLM's own all-reduce kernel, whose rule
is followed here (vLLM 0.32.0, distributed/device_communicators/custom_all_reduce.py).
"""

from __future__ import annotations

from stackwright.domain.host import Gpu, Host, LinkKind
from stackwright.domain.topology import NVLINK_KINDS
from stackwright.engines.protocol import Communication

DISABLE_CUSTOM_ALL_REDUCE = "--disable-custom-all-reduce"
# custom_all_reduce.py, _SUPPORTED_WORLD_SIZES
CUSTOM_ALL_REDUCE_SIZES = frozenset({2, 4, 6, 8, 16})


def choose_communication(host: Host, group: tuple[Gpu, ...]) -> Communication:
    """Decide how the ranks on `group` (all of one replica) talk.

    The custom all-reduce kernel is switched off only where vLLM would switch it off itself, with a warning in its
    log: an unsupported number of ranks, more than two without NVLink between every pair, or no peer access.
    """
    if len(group) == 1:
        return Communication(arguments=(), reason="one rank: no communication")
    joined = _all_nvlink(host, group)
    peers = _peer_access(host, group)
    if len(group) not in CUSTOM_ALL_REDUCE_SIZES:
        return _without_kernel(f"vLLM's all-reduce kernel does not support {len(group)} ranks")
    if len(group) > 2 and not joined:
        return _without_kernel("with more than two ranks, vLLM's all-reduce kernel needs NVLink between every pair")
    if peers is False:
        return _without_kernel("no peer access between these GPUs: NCCL goes through host memory")
    if peers is None and not joined:
        sentence = "peer access between these GPUs is unknown; vLLM checks it at start"
        return Communication(arguments=(), reason="peer access unknown: left to vLLM's own check", warnings=(sentence,))
    how = "NVLink between every pair" if joined else "peer access over PCIe"
    return Communication(arguments=(), reason=f"{how}: NCCL and vLLM use it by default, so nothing is set")


def _without_kernel(reason: str) -> Communication:
    return Communication(arguments=(DISABLE_CUSTOM_ALL_REDUCE,), reason=reason)


def _all_nvlink(host: Host, group: tuple[Gpu, ...]) -> bool:
    kinds: dict[frozenset[int], LinkKind] = {frozenset((link.a, link.b)): link.kind for link in host.links}
    return all(kinds.get(pair) in NVLINK_KINDS for pair in _pairs(group))


def _peer_access(host: Host, group: tuple[Gpu, ...]) -> bool | None:
    """Return whether every pair has peer access both ways; None where one pair is unknown and none is denied."""
    place = {gpu.index: position for position, gpu in enumerate(host.gpus)}
    if len(host.p2p) != len(host.gpus):
        return None
    answers = [
        host.p2p[place[a]][place[b]] for pair in _pairs(group) for a, b in (sorted(pair), sorted(pair, reverse=True))
    ]
    if False in answers:
        return False
    return None if None in answers else True


def _pairs(group: tuple[Gpu, ...]) -> list[frozenset[int]]:
    return [frozenset((one.index, other.index)) for one in group for other in group if one.index < other.index]
