"""The processor, the memory and the kernel, as far as this process may use them.

Touches /proc and /sys below a root folder; read-only. Every parser is pure: text in, value or None out. In a container
or a pod the kernel still shows the whole machine, so CPU affinity and control-group limits are applied: a plan for 128
threads where 4 are granted would not start. Formats: Linux's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst,
proc(5), Documentation/ABI/stable/sysfs-devices-node.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from stackwright.detect.fact import Missing, Unread, known, plain_text, read_file, take, whole_number
from stackwright.detect.limits import ResourceLimits, parse_cpu_list
from stackwright.domain.host import Cpu, OperatingSystem
from stackwright.units import format_bytes

FLAGS = (
    # x86-64: what llama.cpp, engines' CPU kernels and oneDNN choose their code by, weakest first.
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    # Arm, by the kernel's names: Neon, half precision, dot product, 8-bit matrix multiply, bfloat16, scalable vectors.
    *("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svebf16", "sme"),
)
"""The instruction sets that matter to engines, in the order of the snapshot."""


# Docker makes the first in every container (moby daemon/initlayer), Podman the second (podman-run(1)), and a kubelet
# mounts the third into every pod that does not ask it not to; looked up 2026-11-29.
_MARKS = {
    "/.dockerenv": "docker",
    "/run/.containerenv": "podman",
    "/var/run/secrets/kubernetes.io/serviceaccount/namespace": "kubernetes",
}


class Processor(Struct, frozen=True, kw_only=True):
    """One logical CPU of /proc/cpuinfo. `core` is (package, core) where the kernel says it."""

    number: int
    core: tuple[int, int] | None
    fields: Mapping[str, str]


def probe_cpu(root: Path, limits: ResourceLimits, missing: list[Missing]) -> tuple[Cpu, tuple[str, ...]]:
    """Describe what this process may use of the processor, with a sentence for every limit that was applied."""
    text = take(read_file(root, "/proc/cpuinfo"), missing, "CPU", "model, cores, threads and flags")
    processors = parse_cpuinfo(text or "")
    usable = usable_processors(processors, limits)
    threads = granted(len(usable), limits.cpus) if usable else None
    cores = _count_cores(root, usable)
    if text is not None:
        _note_gaps(processors, cores, missing)
    cpu = Cpu(
        model=parse_model(processors),
        cores=None if cores is None else granted(cores, limits.cpus),
        threads=threads,
        numa_nodes=_count_nodes(root, usable, missing),
        flags=parse_flags(processors),
    )
    return cpu, _describe_limits(len(processors), len(usable), limits)


def probe_memory(root: Path, limits: ResourceLimits, missing: list[Missing]) -> tuple[int | None, tuple[str, ...]]:
    """Return the bytes of memory that this process may use, with a sentence where that is not all of it."""
    text = take(read_file(root, "/proc/meminfo"), missing, "memory", "size")
    total = parse_meminfo(text or "").get("MemTotal")
    if text is not None and total is None:
        missing.append(Missing(subject="memory", fact="size", words="/proc/meminfo has no MemTotal"))
    # cgroup v1 writes a number near 2**63 for no limit.
    if total is None or limits.memory_bytes is None or limits.memory_bytes >= total:
        return total, ()
    granted_text, total_text = format_bytes(limits.memory_bytes), format_bytes(total)
    return limits.memory_bytes, (f"memory: the control group limits this process to {granted_text} of {total_text}",)


def probe_operating_system(root: Path, missing: list[Missing]) -> OperatingSystem:
    """Return the kernel's release, whether it is the Windows Subsystem for Linux's, and what this system runs in."""
    kernel = take(plain_text(read_file(root, "/proc/sys/kernel/osrelease")), missing, "kernel", "release")
    # A kernel built by the user may not carry the name; WSL's interpreter for Windows programs gives it away.
    interop = not isinstance(read_file(root, "/proc/sys/fs/binfmt_misc/WSLInterop"), Unread)
    wsl = (True if interop else None) if kernel is None else interop or "microsoft" in kernel.lower()
    return OperatingSystem(kernel=kernel, wsl=wsl, container=_read_container(root))


def _read_container(root: Path) -> str | None:
    """Return what this system runs in, such as `lxc`; None where it runs in nothing.

    systemd 257 writes the name down (`container` in its container interface); without it, the files that a runtime
    leaves in every container, and last other numbers for users than the machine's own (user_namespaces(7)).
    """
    for file in ("/run/systemd/container", "/run/host/container-manager"):
        if (name := known(plain_text(read_file(root, file)))) is not None:
            return name
    for file, name in _MARKS.items():
        if not isinstance(read_file(root, file), Unread):
            return name
    users = known(read_file(root, "/proc/self/uid_map"))
    return None if users is None or users.split() == ["0", "0", str(2**32 - 1)] else "user-namespace"


def parse_cpuinfo(text: str) -> tuple[Processor, ...]:
    """Split /proc/cpuinfo into processors; paragraphs without a number (Arm's summary) are left out."""
    processors: list[Processor] = []
    fields: dict[str, str] = {}
    for line in [*text.splitlines(), ""]:
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
        elif not line.strip() and fields:
            number = _number(fields.get("processor"))
            if number is not None:
                core = _pair(_number(fields.get("physical id")), _number(fields.get("core id")))
                processors.append(Processor(number=number, core=core, fields=fields))
            fields = {}
    return tuple(processors)


def parse_model(processors: tuple[Processor, ...]) -> str | None:
    """Return the processor's name; Arm kernels give none."""
    for processor in processors[:1]:
        for key in ("model name", "cpu"):  # the second is POWER's
            name = plain_text(processor.fields.get(key, ""))
            if not isinstance(name, Unread):
                return name
    return None


def parse_flags(processors: tuple[Processor, ...]) -> tuple[str, ...]:
    """Return which of FLAGS every processor has: on Arm, big and little cores may differ."""
    sets = [frozenset(p.fields.get("flags", p.fields.get("features", "")).split()) for p in processors]
    return tuple(flag for flag in FLAGS if sets and all(flag in flags for flags in sets))


def parse_meminfo(text: str) -> dict[str, int]:
    """Read the lines `Name:  123 kB` into bytes; others are passed over."""
    values = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB" and words[0].endswith(":"):
            kib = whole_number(words[1])
            if not isinstance(kib, Unread) and kib >= 0:
                values[words[0].removesuffix(":")] = kib * 1024
    return values


def usable_processors(processors: tuple[Processor, ...], limits: ResourceLimits) -> tuple[Processor, ...]:
    """Return the processors that this process may run on.

    All of them where the affinity is unknown, or names none of them (a container's /proc/cpuinfo may be renumbered).
    """
    allowed = tuple(p for p in processors if limits.affinity is None or p.number in limits.affinity)
    return allowed or processors


def granted(count: int, cpus: float | None) -> int:
    """Bound a count of CPUs by a quota of CPU time: whole CPUs, at least one."""
    return count if cpus is None else max(1, min(count, int(cpus)))


def _count_cores(root: Path, usable: tuple[Processor, ...]) -> int | None:
    """Count distinct (package, core); Arm's and some hypervisors' /proc/cpuinfo leaves that to /sys."""
    cores = [p.core if p.core is not None else _read_core(root, p.number) for p in usable]
    return len(set(cores)) if cores and all(core is not None for core in cores) else None


def _read_core(root: Path, number: int) -> tuple[int, int] | None:
    folder = f"/sys/devices/system/cpu/cpu{number}/topology"
    package, core = (whole_number(read_file(root, f"{folder}/{name}")) for name in ("physical_package_id", "core_id"))
    return None if isinstance(package, Unread) or isinstance(core, Unread) else (package, core)


def _count_nodes(root: Path, usable: tuple[Processor, ...], missing: list[Missing]) -> int | None:
    """Count the NUMA nodes with CPUs for this process; memory-only nodes (a Grace Hopper's GPU) do not count."""
    online = take(read_file(root, "/sys/devices/system/node/online"), missing, "CPU", "NUMA nodes")
    nodes = parse_cpu_list(online or "")
    if online is not None and not nodes:
        missing.append(Missing(subject="CPU", fact="NUMA nodes", words="/sys/devices/system/node/online is malformed"))
    mine = frozenset(p.number for p in usable)
    count = 0
    for node in sorted(nodes or ()):
        text = take(read_file(root, f"/sys/devices/system/node/node{node}/cpulist"), missing, "CPU", "NUMA nodes")
        if text is None:
            return None
        cpus = parse_cpu_list(text) or frozenset()
        count += bool(cpus & mine if mine else cpus)
    if nodes and not count:
        missing.append(Missing(subject="CPU", fact="NUMA nodes", words="no NUMA node holds a CPU of this process"))
    return count or None


def _note_gaps(processors: tuple[Processor, ...], cores: int | None, missing: list[Missing]) -> None:
    """Note which facts a readable /proc/cpuinfo did not hold."""
    if not processors:
        missing.append(Missing(subject="CPU", fact="threads", words="/proc/cpuinfo lists no processor"))
    elif cores is None:
        missing.append(Missing(subject="CPU", fact="cores", words="neither /proc/cpuinfo nor /sys lists them"))
    if processors and parse_model(processors) is None:
        missing.append(Missing(subject="CPU", fact="model", words="/proc/cpuinfo names none"))
    if processors and not any(key in processors[0].fields for key in ("flags", "features")):
        missing.append(Missing(subject="CPU", fact="flags", words="/proc/cpuinfo names none"))


def _describe_limits(threads: int, usable: int, limits: ResourceLimits) -> tuple[str, ...]:
    sentences = []
    if usable < threads:
        sentences.append(f"CPU: this process may use {usable} of {threads} threads")
    if limits.cpus is not None and usable and granted(usable, limits.cpus) < usable:
        sentences.append(f"CPU: the control group limits this process to {limits.cpus:g} of {usable} threads")
    return tuple(sentences)


def _number(text: str | None) -> int | None:
    number = whole_number(text or "")
    return None if isinstance(number, Unread) or number < 0 else number


def _pair(package: int | None, core: int | None) -> tuple[int, int] | None:
    return None if package is None or core is None else (package, core)
