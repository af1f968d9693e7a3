"""Shows Prometheus how the GPUs are doing, as NVML tells it, at /metrics of the address and port that it is given.

    python3 gpu_exporter.py ADDRESS PORT

NVML is asked anew at each scrape; between two it collects the faults that come (XIDs), and each of their series is
there from the start, at 0. `stackwright status` reads through the same gpu_reading.py. Where NVML does not answer,
`stackwright_gpu_driver_answers` is 0 and it is tried again at the next scrape. Needs prometheus-client, which LiteLLM's
environment has; touches libnvidia-ml.so.1, read-only.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from gpu_reading import LANE_ERRORS, SLOWED, GpuFigures, NoAnswer, Readings
from nvml import Nvml, NvmlError
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PREFIX = "stackwright_gpu_"
GPU = ("gpu", "uuid")
Family = GaugeMetricFamily | CounterMetricFamily


class Gpus:
    """The GPUs of this machine, as a collector of prometheus-client."""

    def __init__(self) -> None:
        self._readings: Readings | None = None
        self._lock = threading.Lock()
        self._most_links: Counter[int] = Counter()
        self._uuids: dict[int, str] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield every family; called at each scrape."""
        with self._lock:
            found = self._read()
        answers = GaugeMetricFamily(f"{PREFIX}driver_answers", "1 where the driver answers")
        answers.add_metric((), float(not isinstance(found, NoAnswer)))
        yield answers
        if not isinstance(found, NoAnswer):
            yield from _families([self._remembered(gpu) for gpu in found], self._most_links)

    def _remembered(self, gpu: GpuFigures) -> GpuFigures:
        """Return a GPU with what was known of it before: its UUID where it is lost, and how many links were up."""
        self._most_links[gpu.index] = max(self._most_links[gpu.index], gpu.links.lanes_up)
        self._uuids[gpu.index] = gpu.uuid or self._uuids.get(gpu.index, "")
        return gpu._replace(uuid=self._uuids[gpu.index])

    def _read(self) -> tuple[GpuFigures, ...] | NoAnswer:
        """Ask every device; begin anew where the driver did not answer before, as after it was loaded again."""
        try:
            if self._readings is None:
                self._readings = Readings(Nvml(), events=True, counters=True)
        except (OSError, NvmlError) as failure:
            return NoAnswer(words=str(failure))
        found = self._readings.read()
        if isinstance(found, NoAnswer):
            self._readings = None
        return found


def _families(found: Sequence[GpuFigures], most_links: Counter[int]) -> Iterator[Metric]:
    plain: dict[str, tuple[str, Callable[[GpuFigures], float | int | bool | None]]] = {
        "answers": ("1 where a GPU answers, 0 where it is lost", lambda gpu: gpu.failure is None),
        "memory_bytes": ("Memory", lambda gpu: gpu.device.memory_bytes),
        "memory_used_bytes": ("Memory in use", lambda gpu: gpu.device.memory_used_bytes),
        "busy_ratio": ("Share of the time in which a kernel ran", lambda gpu: _share(gpu.device.busy_percent)),
        "power_watts": ("Power", lambda gpu: gpu.device.power_w),
        "power_limit_watts": ("Power that it may take", lambda gpu: gpu.device.power_limit_w),
        "temperature_celsius": ("Temperature of the chip", lambda gpu: gpu.device.temperature_c),
        "clock_hertz": ("Clock of the multiprocessors", lambda gpu: _hertz(gpu.device.clock_mhz)),
        "rows_broken": ("1 where a row of memory could not be replaced", lambda gpu: gpu.rows_broken),
        "last_xid": ("NVIDIA's number of the last fault; 0: none", lambda gpu: gpu.xids[-1] if gpu.xids else 0),
        "nvlinks": ("NVLinks that were up at some time", lambda gpu: most_links[gpu.index]),
        "nvlinks_up": ("NVLinks that are up", lambda gpu: gpu.links.lanes_up),
    }
    for name, (says, value) in plain.items():
        yield _family(GaugeMetricFamily(PREFIX + name, says, labels=GPU), found, value)
    xids = CounterMetricFamily(f"{PREFIX}xid_errors", "Faults that the driver told of (XIDs)", labels=GPU)
    yield _family(xids, found, lambda gpu: len(gpu.xids))
    ecc = CounterMetricFamily(f"{PREFIX}ecc_errors", "Uncorrected memory errors", labels=GPU)
    yield _family(ecc, found, lambda gpu: gpu.ecc_errors)
    yield from _labelled(found)


def _family(family: Family, found: Sequence[GpuFigures], value: Callable[[GpuFigures], float | None]) -> Metric:
    for gpu in found:
        known = value(gpu)
        if known is not None:
            family.add_metric(_labels(gpu), float(known))
    return family


def _labelled(found: Sequence[GpuFigures]) -> Iterator[Metric]:
    """Yield the families with a label beside the GPU's own."""
    slowed = GaugeMetricFamily(f"{PREFIX}slowed", "1 where this reason keeps the clocks low", labels=(*GPU, "reason"))
    traffic = CounterMetricFamily(f"{PREFIX}nvlink_bytes", "Bytes over all NVLinks", labels=(*GPU, "direction"))
    errors = CounterMetricFamily(f"{PREFIX}nvlink_errors", "Errors of all NVLinks", labels=(*GPU, "kind"))
    memory = GaugeMetricFamily(f"{PREFIX}slice_memory_bytes", "Memory of a MIG slice", labels=(*GPU, "slice", "name"))
    used = GaugeMetricFamily(f"{PREFIX}slice_memory_used_bytes", "Memory in use", labels=(*GPU, "slice", "name"))
    for gpu in found:
        own, links = _labels(gpu), gpu.links
        for reason in SLOWED.values() if gpu.device.slowed is not None else ():
            slowed.add_metric((*own, reason), float(reason in (gpu.device.slowed or ())))
        for direction, count in (("sent", links.sent_bytes), ("received", links.received_bytes)):
            if count is not None:
                traffic.add_metric((*own, direction), float(count))
        for kind in LANE_ERRORS.values():
            if kind in links.errors:
                errors.add_metric((*own, kind), float(links.errors[kind]))
        for each in gpu.slices:
            labels = (*own, each.uuid or "", each.name or "")
            if each.memory_bytes is not None and each.memory_used_bytes is not None:
                memory.add_metric(labels, float(each.memory_bytes))
                used.add_metric(labels, float(each.memory_used_bytes))
    yield from (slowed, traffic, errors, memory, used)


def _labels(gpu: GpuFigures) -> tuple[str, str]:
    return str(gpu.index), gpu.uuid or ""


def _share(percent: int | None) -> float | None:
    return None if percent is None else percent / 100


def _hertz(mhz: int | None) -> float | None:
    return None if mhz is None else mhz * 1e6


def main(address: str, port: int) -> None:
    """Serve until the process ends."""
    registry = CollectorRegistry()
    registry.register(Gpus())
    _, thread = start_http_server(port, address, registry)
    thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
