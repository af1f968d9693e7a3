"""The table of metrics: what each says, who shows it, and where that is known from. Pure.

Dashboards and rules name these and no others (tests/rendering/test_monitoring.py), and the reference page is made of
them. An engine's metrics stand under what they mean, `engine:waiting`: the names are the engine's own
(`EngineMetrics`).
"""

from __future__ import annotations

from stackwright.domain.monitoring import Job, Metric, metric_rows

ENGINE = "engine:"
"""What stands before the meaning of an engine's metric."""

_ENGINE = "EngineMetrics of the engine: generator/stackwright/engines/NAME/engine.py"
_LITELLM = "LiteLLM 1.108.0 types/integrations/prometheus.py"
_OURS = "compose/gateway/figures.py"
_KEYS = "compose/gateway/keys.py"
_EXPORTER = "compose/monitoring/gpu_exporter.py"
_TURNS = "compose/engine/switching/switch.py"
_PROMETHEUS = "Prometheus 2.42, its own /metrics"
_REDIS = "redis_exporter 1.45, README"
_NODE = "node_exporter 1.5, README"
_DCGM = "NVIDIA/dcgm-exporter, etc/dcp-metrics-included.csv (4.5.3)"


METRICS: tuple[Metric, ...] = (
    *metric_rows(
        Job.PROMETHEUS,
        _PROMETHEUS,
        {
            "up": "1 where the last scrape of a service was answered, else 0; of every job",
            "ALERTS": "Alerts that wait for their time or fire",
            "prometheus_tsdb_storage_blocks_bytes": "Bytes that Prometheus keeps on the disk",
            "prometheus_tsdb_head_series": "Series that Prometheus keeps in memory",
        },
    ),
    *metric_rows(
        Job.ENGINE,
        _ENGINE,
        {
            f"{ENGINE}started": "When the engine's server began, in Unix time",
            f"{ENGINE}running": "Requests that an engine works on",
            f"{ENGINE}waiting": "Requests that wait inside of an engine",
            f"{ENGINE}prompt_tokens": "Tokens read",
            f"{ENGINE}generation_tokens": "Tokens written",
            f"{ENGINE}cache_usage": "Share of the KV cache that is in use, 0 to 1",
            f"{ENGINE}cache_queries": "Tokens that were looked for in the cache of earlier prompts",
            f"{ENGINE}cache_hits": "Tokens that were found there",
            f"{ENGINE}preemptions": "Requests that were put back because the KV cache was full",
            f"{ENGINE}first_token": "Seconds from a request to its first token",
            f"{ENGINE}between_tokens": "Seconds between two tokens of an answer",
            f"{ENGINE}queue_seconds": "Seconds that a request waited inside of an engine",
            f"{ENGINE}request_seconds": "Seconds from a request to the end of its answer",
        },
    ),
    *metric_rows(
        Job.ENGINE,
        _TURNS,
        {
            "stackwright_model_loaded": "1 where a model that takes turns is loaded",
            "stackwright_model_requests_waiting": "Requests that wait for their model's turn",
            "stackwright_model_loads_total": "How often a model was loaded",
        },
    ),
    *metric_rows(
        Job.GATEWAY,
        _LITELLM,
        {
            "litellm_proxy_total_requests_metric_total": "Requests for a model, by status",
            "litellm_request_total_latency_metric": "Seconds from a request to the end of its answer, at the gateway",
            "litellm_llm_api_time_to_first_token_metric": "Seconds from the question to a stream's first token",
            "litellm_overhead_latency_metric": "Seconds that the gateway itself takes for a request",
            "litellm_in_flight_requests": "Requests that are open at the gateway",
        },
    ),
    *metric_rows(
        Job.GATEWAY,
        _OURS,
        {
            "stackwright_gateway_refused_total": "Requests that were refused before a model was asked, by status",
            "stackwright_gateway_waiting": "Requests that wait for their turn at the gateway",
            "stackwright_gateway_working": "Queue slots in use",
            "stackwright_gateway_processor_seconds": "Processor time of all workers, ended ones included",
            "stackwright_gateway_memory_bytes": "Memory of all workers",
            "stackwright_gateway_started_seconds": "When the youngest worker began, in Unix time",
            "stackwright_certificate_ends_seconds": "When the certificate ends, in Unix time; +Inf without one",
            "stackwright_replica_up": "1 where a replica gets requests, 0 where it is left out",
            "stackwright_replica_open_requests": "Requests that a replica works on, as the gateway counts them",
            "stackwright_replica_hangs": "How often a replica was silent and then broke off",
        },
    ),
    *metric_rows(
        Job.GATEWAY,
        _KEYS,
        {
            "stackwright_key_requests_total": "Answered requests, by key and model",
            "stackwright_key_prompt_tokens_total": "Tokens read, by key and model",
            "stackwright_key_completion_tokens_total": "Tokens written, by key and model",
            "stackwright_key_refused_total": "Requests beyond a limit of their key",
        },
    ),
    *metric_rows(
        Job.REDIS,
        _REDIS,
        {
            "redis_up": "1 where Redis answers",
            "redis_memory_used_bytes": "Memory that Redis has in use",
            "redis_connected_clients": "Connections to Redis",
            "redis_commands_processed_total": "Commands that Redis has run",
        },
    ),
    *metric_rows(
        Job.HOST,
        _NODE,
        {
            "node_cpu_seconds_total": "Processor time of the machine, by mode",
            "node_load1": "Programs that run or wait for a processor, mean of a minute",
            "node_memory_MemTotal_bytes": "Memory of the machine",
            "node_memory_MemAvailable_bytes": "Memory that a new program could have",
            "node_filesystem_size_bytes": "Size of a file system",
            "node_filesystem_avail_bytes": "Free room of a file system",
            "node_disk_read_bytes_total": "Bytes read from a disk",
            "node_disk_written_bytes_total": "Bytes written to a disk",
        },
    ),
    *metric_rows(
        Job.GPU,
        _EXPORTER,
        {
            "stackwright_gpu_driver_answers": "1 where the driver answers",
            "stackwright_gpu_answers": "1 where a GPU answers, 0 where it is lost",
            "stackwright_gpu_memory_bytes": "Memory of a GPU",
            "stackwright_gpu_memory_used_bytes": "Memory of a GPU that is in use",
            "stackwright_gpu_busy_ratio": "Share of the time in which a kernel ran, 0 to 1",
            "stackwright_gpu_power_watts": "Power that a GPU takes",
            "stackwright_gpu_power_limit_watts": "Power that a GPU may take",
            "stackwright_gpu_temperature_celsius": "Temperature of a GPU",
            "stackwright_gpu_clock_hertz": "Clock of a GPU's multiprocessors",
            "stackwright_gpu_slowed": "1 where this reason keeps the clocks low",
            "stackwright_gpu_xid_errors_total": "Faults that the driver told of (XIDs) since the exporter's start",
            "stackwright_gpu_last_xid": "NVIDIA's number of the last fault; 0: none",
            "stackwright_gpu_ecc_errors_total": "Uncorrected memory errors since the driver was loaded",
            "stackwright_gpu_rows_broken": "1 where a row of memory could not be replaced",
            "stackwright_gpu_nvlinks": "NVLinks of a GPU that were up at some time since the exporter's start",
            "stackwright_gpu_nvlinks_up": "NVLinks of a GPU that are up",
            "stackwright_gpu_nvlink_bytes_total": "Bytes over all NVLinks of a GPU, by direction",
            "stackwright_gpu_nvlink_errors_total": "Errors of all NVLinks of a GPU, by kind",
            "stackwright_gpu_slice_memory_bytes": "Memory of a MIG slice",
            "stackwright_gpu_slice_memory_used_bytes": "Memory of a MIG slice that is in use",
            "stackwright_gpu_planned_memory_bytes": "Memory of a GPU that the plan gives to engines; a recording rule",
        },
    ),
    *metric_rows(
        Job.DCGM,
        _DCGM,
        {
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "Share of the time in which the compute engine was active",
            "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": "Share of the time in which the tensor cores were active",
            "DCGM_FI_PROF_DRAM_ACTIVE": "Share of the time in which memory was read or written",
        },
    ),
)
