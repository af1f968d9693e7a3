"""What the direct lane counts: LiteLLM's own metrics, under its names and labels, so that /metrics is one whole.

LiteLLM's Prometheus callback holds the metrics and knows which labels each has; the lane adds to them. The series of a
request are looked up once for each combination of labels.
"""

import hashlib
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lane import Answered, Replica
from models import Model
from trust import certificate_in

PROVIDER = "hosted_vllm"
MOST_SERIES = 4096
"""Combinations of labels that are kept: a client's address and program are among them."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What a request is counted under. `key`: the client's key, of which a digest is shown, as LiteLLM does."""

    key: str
    alias: str | None
    model: str
    path: str
    client: str | None
    program: str | None


class Figures:
    """The metrics of one worker."""

    def __init__(self, logger: Any, in_flight: Any) -> None:
        self._logger, self._in_flight = logger, in_flight
        self._series: dict[tuple[object, ...], dict[str, Any]] = {}

    def count_answer(
        self, labels: Labels, answered: Answered, *, arrived_s: float, ended_s: float, is_stream: bool
    ) -> None:
        """Count a request that was answered by one of our engines; moments by the monotonic clock."""
        replica = answered.replica
        if replica is None:
            return
        series = self._of(labels, replica, "200")
        prompt, completion = answered.prompt_tokens, answered.completion_tokens
        for name in _COUNTED:
            series[name].inc()
        series["litellm_input_tokens_metric"].inc(prompt)
        series["litellm_output_tokens_metric"].inc(completion)
        series["litellm_total_tokens_metric"].inc(prompt + completion)
        series["litellm_request_total_latency_metric"].observe(ended_s - arrived_s)
        series["litellm_llm_api_latency_metric"].observe(ended_s - answered.asked_s)
        before_s = answered.asked_s - arrived_s
        series["litellm_request_queue_time_seconds"].observe(before_s)
        series["litellm_overhead_latency_metric"].observe(max(before_s - answered.queued_s, 0.0))
        first_s = (answered.first_s or ended_s) - answered.asked_s
        if is_stream:
            series["litellm_llm_api_time_to_first_token_metric"].observe(first_s)
        if completion:
            took_s = first_s if is_stream else ended_s - answered.asked_s
            series["litellm_deployment_latency_per_output_token"].observe(took_s / completion)

    def count_failure(self, labels: Labels, status: int, kind: str) -> None:
        """Count a request that was refused or failed."""
        failed = self._of(labels, None, str(status), kind)
        failed["litellm_proxy_failed_requests_metric"].inc()
        failed["litellm_proxy_total_requests_metric"].inc()

    def count_refusal(self, status: int) -> None:
        """Count a request that was refused here, whoever sent it: a wrong key has no labels of its own."""
        _refusals().labels(status=str(status)).inc()

    def show_worker(self, models: Iterable[Model]) -> None:
        """Show how this worker fares: its queues, its work, and when the certificate ends."""
        metrics, seen = _worker_metrics(), set()
        for model in models:
            # An adapter waits in its model's own queue.
            if model.queue is None or id(model.queue) in seen:
                counts = (0, 0)
            else:
                counts = (model.queue.waiting, model.queue.working)
            seen.add(id(model.queue))
            for name, count in zip(("waiting", "working"), counts, strict=True):
                metrics[name].labels(model=model.name).set(count)
        metrics["processor_seconds"].set(time.process_time())
        metrics["memory_bytes"].set(_resident_bytes())
        metrics["started_seconds"].set(STARTED_S)
        metrics["certificate"].set(_certificate_ends())
        _refusals()

    def show_replicas(self, models: Iterable[Model]) -> None:
        """Show how each replica does, as this worker sees it."""
        for model in models:
            for replica in model.replicas:
                usable = replica.is_usable()
                values = (usable, replica.open, replica.silent_s(), replica.hangs, replica.hung_at_s)
                for metric, value in zip(_replica_metrics(), values, strict=True):
                    metric.labels(model=model.name, replica=replica.address).set(value)

    def note_open(self, change: int) -> None:
        """Count a request as open, by 1, or as ended, by -1; LiteLLM counts those that reach it."""
        if self._in_flight is not None:
            self._in_flight.inc(change)

    def _of(self, labels: Labels, replica: Replica | None, status: str, kind: str | None = None) -> dict[str, Any]:
        number = replica.number if replica is not None else None
        combination = (labels, number, status, kind)
        series = self._series.get(combination)
        if series is None:
            if len(self._series) >= MOST_SERIES:
                self._series.clear()
            series = self._series[combination] = self._look_up(labels, replica, status, kind)
        return series

    def _look_up(self, labels: Labels, replica: Replica | None, status: str, kind: str | None) -> dict[str, Any]:
        from litellm.integrations.prometheus import prometheus_label_factory  # noqa: TID251  # runs inside LiteLLM
        from litellm.types.integrations.prometheus import UserAPIKeyLabelValues  # noqa: TID251

        endpoint = labels.path.removeprefix("/v1").removeprefix("/v2")
        of_replica = {
            "model": labels.model,
            "litellm_model_name": labels.model,
            "model_group": labels.model,
            "model_id": replica.number if replica else None,
            "api_base": f"{replica.base}/v1{endpoint}" if replica else None,
            "api_provider": PROVIDER if replica else None,
        }
        values = UserAPIKeyLabelValues(
            hashed_api_key=hashlib.sha256(labels.key.encode()).hexdigest(),
            api_key_alias=labels.alias,
            requested_model=labels.model,
            status_code=status,
            exception_status=None if replica else status,
            exception_class=kind,
            route=labels.path,
            client_ip=labels.client,
            user_agent=labels.program,
            **(of_replica if replica else {}),
        )
        names = (*_COUNTED, *_MEASURED) if replica else _FAILED
        series = {}
        for name in names:
            labelled = prometheus_label_factory(
                supported_enum_labels=self._logger.get_labels_for_metric(metric_name=name), enum_values=values
            )
            series[name] = getattr(self._logger, _ATTRIBUTES.get(name, name)).labels(**labelled)
        return series


_COUNTED = (
    "litellm_proxy_total_requests_metric",
    "litellm_requests_metric",
    "litellm_deployment_success_responses",
    "litellm_deployment_total_requests",
)
_MEASURED = (
    "litellm_input_tokens_metric",
    "litellm_output_tokens_metric",
    "litellm_total_tokens_metric",
    "litellm_spend_metric",
    "litellm_request_total_latency_metric",
    "litellm_llm_api_latency_metric",
    "litellm_llm_api_time_to_first_token_metric",
    "litellm_request_queue_time_seconds",
    "litellm_overhead_latency_metric",
    "litellm_deployment_latency_per_output_token",
)
_FAILED = ("litellm_proxy_failed_requests_metric", "litellm_proxy_total_requests_metric")
_ATTRIBUTES = {
    "litellm_total_tokens_metric": "litellm_tokens_metric",
    "litellm_request_queue_time_seconds": "litellm_request_queue_time_metric",
}
"""Where the callback keeps a metric under another name than it shows."""


_OF_REPLICAS = (
    ("up", "1 where a replica gets requests, 0 where it is left out", "livemin"),
    ("open_requests", "Requests that a replica works on", "livesum"),
    ("silent_seconds", "How long a replica has told nothing while a stream is open; else 0", "livemax"),
    ("hangs", "How often a replica was silent for ten seconds and then broke off, since the gateway's start", "max"),
    ("hung_at_seconds", "When the last of those silences began, in Unix time; 0: never", "max"),
)
"""What is shown of each replica beside LiteLLM's metrics, and how several workers' values become one."""


@cache
def _replica_metrics() -> tuple[Any, ...]:
    """Return the metrics of replicas; made once, after start.sh has told whether there are several workers."""
    from prometheus_client import Gauge  # LiteLLM's own

    return tuple(
        Gauge(f"stackwright_replica_{name}", meaning, ("model", "replica"), multiprocess_mode=mode)
        for name, meaning, mode in _OF_REPLICAS
    )


STARTED_S = time.time()
REFUSED_WITH = (400, 401, 403, 404, 408, 413, 429, 503)
"""What a request is refused with here (front.py, admission.py, queueing.py): each has a series from the start, so that
its first one is an increase.
"""


@cache
def _refusals() -> Any:
    from prometheus_client import Counter  # LiteLLM's own

    counter = Counter("stackwright_gateway_refused", "Requests refused before a model was asked", ("status",))
    for status in REFUSED_WITH:
        counter.labels(status=str(status))
    return counter


_OF_WORKERS = (
    ("waiting", "Requests that wait for their turn", ("model",), "livesum"),
    ("working", "Queue slots in use", ("model",), "livesum"),
    # Ended workers count on: it never falls.
    ("processor_seconds", "Processor time of all workers", (), "sum"),
    ("memory_bytes", "Memory of all workers", (), "livesum"),
    ("started_seconds", "When the youngest worker began, in Unix time", (), "max"),
)
"""What is shown of the workers, under `stackwright_gateway_`, and how several workers' values become one."""


@cache
def _worker_metrics() -> dict[str, Any]:
    from prometheus_client import Gauge  # LiteLLM's own

    metrics = {
        name: Gauge(f"stackwright_gateway_{name}", says, labels, multiprocess_mode=mode)
        for name, says, labels, mode in _OF_WORKERS
    }
    says = "When the certificate ends, in Unix time; +Inf without one"
    metrics["certificate"] = Gauge("stackwright_certificate_ends_seconds", says, multiprocess_mode="min")
    return metrics


def _resident_bytes() -> int:
    """Return the memory of this process (proc(5), statm: pages, the second number)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _certificate_ends() -> float:
    """Return when the certificate that start.sh gives the server ends; never without one."""
    certificate = certificate_in(Path(os.environ.get("SECRETS_DIRECTORY", "/run/secrets")))
    return math.inf if certificate is None else _end_of(certificate.read_bytes())


@lru_cache(maxsize=1)
def _end_of(certificate: bytes) -> float:
    from cryptography.x509 import load_pem_x509_certificate  # LiteLLM's own

    return load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


@cache
def find_figures() -> Figures | None:
    """Return the figures of this worker; None where gateway.yaml has no Prometheus."""
    import litellm  # noqa: TID251  # runs inside LiteLLM
    from litellm.integrations.prometheus import PrometheusLogger  # noqa: TID251
    from litellm.proxy.middleware.in_flight_requests_middleware import (  # noqa: TID251
        InFlightRequestsMiddleware,
    )

    found = litellm.logging_callback_manager.get_custom_loggers_for_type(PrometheusLogger)
    return Figures(found[0], InFlightRequestsMiddleware._get_gauge()) if found else None
