"""Looks at the machine: NVML, /proc and /sys, and the container engine become one Host.

Touches the world read-only, through `nvml`, `other_gpus`, `cpu`, `limits` and `containers`; `topology` and every
parser are pure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from stackwright.detect.containers import ContainerProbe, EngineAnswer, describe_containers
from stackwright.detect.cpu import probe_cpu, probe_memory, probe_operating_system
from stackwright.detect.fact import Missing, Unread, describe, read_file
from stackwright.detect.limits import read_limits
from stackwright.detect.mig import add_without_peers, make_slices
from stackwright.detect.network import find_network
from stackwright.detect.nvml import NvmlAnswers, probe_nvml
from stackwright.detect.other_gpus import probe_other_gpus
from stackwright.detect.topology import make_driver, make_gpus, make_links, make_p2p
from stackwright.domain.host import HOST_SCHEMA, Host

NO_ANSWERS = NvmlAnswers(driver_version="", cuda_version=0, gpus=(), pairs=())


class Detection(Struct, frozen=True, kw_only=True):
    """A host, with one sentence for whatever could not be read of it or is granted only in part.

    `notable`: those of them that every plan tells, since it is made of less than the machine has; the doctor tells all.
    """

    host: Host
    warnings: tuple[str, ...]
    notable: tuple[str, ...] = ()


def detect_host(root: Path = Path("/"), *, meanwhile: Callable[[], object] | None = None) -> Detection:
    """Detect this machine. Reads only; never fails: what cannot be read is None in the host and a warning.

    `root` stands for `/` when /proc and /sys are read; NVML and the container engine are asked of the machine that
    runs this. `meanwhile` is work that needs no host, done while the container engine makes up its answer.
    """
    engine = ContainerProbe()
    try:
        engine.start(os.environ)
        if meanwhile is not None:
            meanwhile()
        missing: list[Missing] = []
        answers = probe_nvml(root)
        known = NO_ANSWERS if answers is None or isinstance(answers, Unread) else answers
        driver = make_driver(answers, read_file(root, "/proc/driver/nvidia/version"), missing)
        gpus = make_gpus(known, missing)
        links, p2p = make_links(known, gpus, missing), make_p2p(known, missing)
        slices = make_slices(known, gpus, missing)
        limits = read_limits(root)
        cpu, cpu_limits = probe_cpu(root, limits, missing)
        memory_bytes, memory_limits = probe_memory(root, limits, missing)
        system = probe_operating_system(root, missing)
        others = probe_other_gpus(root, missing)
        answer = engine.finish()
    except BaseException:
        engine.cancel()
        raise
    containers, engine_warnings = describe_containers(answer, root, os.environ)
    daemon = answer.proxies if isinstance(answer, EngineAnswer) else {}
    host = Host(
        schema=HOST_SCHEMA,
        cpu=cpu,
        memory_bytes=memory_bytes,
        os=system,
        driver=driver,
        gpus=(*gpus, *slices),
        links=links,
        p2p=add_without_peers(p2p, len(slices)),
        containers=containers,
        network=find_network(os.environ, root, daemon),
        other_gpus=others,
    )
    return _with_warnings(host, missing, (*cpu_limits, *memory_limits), engine_warnings)


def _with_warnings(
    host: Host, missing: Sequence[Missing], limited: tuple[str, ...], engine_warnings: Iterable[str]
) -> Detection:
    decisive = (row for row in missing if row.fact not in _MINOR)
    return Detection(
        host=host,
        warnings=(*describe(missing), *limited, *engine_warnings),
        notable=(*describe(decisive), *limited),
    )


# A plan is the same without them.
_MINOR = frozenset({"NUMA nodes", "NUMA node", "VRAM"})
