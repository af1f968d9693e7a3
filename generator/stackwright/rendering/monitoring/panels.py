"""The dashboards: what each panel shows, as questions to Prometheus. Pure.

`engine:waiting` stands for the name that the plan's engine has for it. A panel is left out where what it `needs` does
not run, and where the engine does not tell what it asks for: a panel without data is a defect.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

OVER = "$__rate_interval"
"""Grafana's own: at least four scrapes (Grafana documentation, Prometheus template variables)."""


class Need(StrEnum):
    """What a plan has to have for a panel or an alert to mean something."""

    TURNS = "turns"
    GPUS = "gpus"
    NVLINK = "nvlink"
    SLICES = "slices"
    WHOLE_GPUS = "whole GPUs"
    DCGM = "dcgm"
    RETRIEVAL = "retrieval"
    MULTIMODAL = "multimodal"


class Unit(StrEnum):
    """Grafana's names of units (packages/grafana-data, valueFormats/categories.ts)."""

    COUNT = "short"
    RATE = "reqps"
    PER_SECOND = "cps"
    SECONDS = "s"
    DAYS = "d"
    BYTES = "bytes"
    BYTES_PER_SECOND = "binBps"
    SHARE = "percentunit"
    WATTS = "watt"
    CELSIUS = "celsius"
    HERTZ = "hertz"
    YES_NO = "bool_yes_no"


class Query(Struct, frozen=True, kw_only=True):
    """A question to Prometheus, and what Grafana calls each of its series."""

    text: str
    legend: str


class Panel(Struct, frozen=True, kw_only=True):
    """One panel. `says` is what its reader learns, in a sentence."""

    title: str
    says: str
    unit: Unit
    queries: tuple[Query, ...]
    needs: Need | None = None


class Dashboard(Struct, frozen=True, kw_only=True):
    """One page of panels; `name` is its file's and Grafana's uid."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _query(text: str, legend: str) -> Query:
    return Query(text=text, legend=legend)


def _quantiles(
    histogram: str, by: str, legend: str, shares: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> tuple[Query, ...]:
    """Ask for quantiles of a histogram, by the labels that tell its series apart."""
    return tuple(
        _query(
            f"histogram_quantile({share}, sum by (le, {by}) (rate({histogram}_bucket[{OVER}])))",
            f"{legend}, {share:.0%}",
        )
        for share in shares
    )


def _rates(metric: str, by: str, legend: str) -> Query:
    return _query(f"sum by ({by}) (rate({metric}[{OVER}]))", legend)


_REQUESTS = "litellm_proxy_total_requests_metric_total"

HEALTH = Dashboard(
    name="stackwright-health",
    title="Service health",
    panels=(
        Panel(
            title="Services that answer",
            says="1 where the last scrape was answered",
            unit=Unit.YES_NO,
            queries=(_query("min by (job, service) (up)", "{{service}}"),),
        ),
        Panel(
            title="Alerts that fire",
            says="Each has a sentence and a page in Prometheus, under Alerts",
            unit=Unit.COUNT,
            queries=(_query('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"),),
        ),
        Panel(
            title="Restarts in the last hour",
            says="How often an engine or a worker of the gateway began anew",
            unit=Unit.COUNT,
            queries=(
                _query("sum by (service) (changes(engine:started[1h]))", "{{service}}"),
                _query("sum by (service) (changes(stackwright_gateway_started_seconds[1h]))", "{{service}}"),
            ),
        ),
        Panel(
            title="Requests",
            says="Requests per second, by model",
            unit=Unit.RATE,
            queries=(_rates(_REQUESTS, "requested_model", "{{requested_model}}"),),
        ),
        Panel(
            title="Failed requests",
            says="Share of the requests that were answered 5xx",
            unit=Unit.SHARE,
            queries=(
                _query(
                    f'(sum(rate({_REQUESTS}{{status_code=~"5.."}}[{OVER}])) or vector(0))'
                    f" / sum(rate({_REQUESTS}[{OVER}]))",
                    "5xx",
                ),
            ),
        ),
        Panel(
            title="First token",
            says="95 of 100 requests had their first token in this time",
            unit=Unit.SECONDS,
            queries=_quantiles("engine:first_token", "model", "{{model}}", (0.95,)),
        ),
        Panel(
            title="Waiting requests",
            says="At the gateway, and inside of the engines",
            unit=Unit.COUNT,
            queries=(
                _query("sum by (model) (stackwright_gateway_waiting)", "{{model}}, gateway"),
                _query("sum by (model) (engine:waiting)", "{{model}}, engine"),
            ),
        ),
        Panel(
            title="Certificate",
            says="Days until the gateway's certificate ends; infinite without one",
            unit=Unit.DAYS,
            queries=(_query("(min(stackwright_certificate_ends_seconds) - time()) / 86400", "days left"),),
        ),
        Panel(
            title="Disk of Prometheus",
            says="What is kept on the disk; MONITORING_DISK_GIB bounds it",
            unit=Unit.BYTES,
            queries=(_query("prometheus_tsdb_storage_blocks_bytes", "blocks"),),
        ),
        Panel(
            title="Series of Prometheus",
            says="What is kept in memory",
            unit=Unit.COUNT,
            queries=(_query("prometheus_tsdb_head_series", "series"),),
        ),
    ),
)

MODELS = Dashboard(
    name="stackwright-models",
    title="Models",
    panels=(
        Panel(
            title="Tokens",
            says="Tokens per second, read and written",
            unit=Unit.PER_SECOND,
            queries=(
                _rates("engine:prompt_tokens", "model", "{{model}}, in"),
                _rates("engine:generation_tokens", "model", "{{model}}, out"),
            ),
        ),
        Panel(
            title="Time to the first token",
            says="From the request's arrival at the engine",
            unit=Unit.SECONDS,
            queries=_quantiles("engine:first_token", "model", "{{model}}"),
        ),
        Panel(
            title="Time between tokens",
            says="Between two tokens of one answer",
            unit=Unit.SECONDS,
            queries=_quantiles("engine:between_tokens", "model", "{{model}}"),
        ),
        Panel(
            title="Time of a request",
            says="From its arrival at the engine to the end of its answer",
            unit=Unit.SECONDS,
            queries=_quantiles("engine:request_seconds", "model", "{{model}}"),
        ),
        Panel(
            title="Requests at the engine",
            says="Requests that it works on, and that wait inside of it",
            unit=Unit.COUNT,
            queries=(
                _query("sum by (model, service) (engine:running)", "{{model}} on {{service}}, running"),
                _query("sum by (model, service) (engine:waiting)", "{{model}} on {{service}}, waiting"),
            ),
        ),
        Panel(
            title="Time in the engine's queue",
            says="What a request waited inside of the engine",
            unit=Unit.SECONDS,
            queries=_quantiles("engine:queue_seconds", "model", "{{model}}", (0.5, 0.95)),
        ),
        Panel(
            title="KV cache in use",
            says="At 100 % further requests wait, or running ones are put back",
            unit=Unit.SHARE,
            queries=(_query("max by (model, service) (engine:cache_usage)", "{{model}} on {{service}}"),),
        ),
        Panel(
            title="Prompts found in the cache",
            says="Share of the tokens read that needed no computing",
            unit=Unit.SHARE,
            queries=(
                _query(
                    f"sum by (model) (rate(engine:cache_hits[{OVER}]))"
                    f" / sum by (model) (rate(engine:cache_queries[{OVER}]))",
                    "{{model}}",
                ),
            ),
        ),
        Panel(
            title="Requests put back",
            says="Preemptions per second: the KV cache was full, and work is done twice",
            unit=Unit.PER_SECOND,
            queries=(_rates("engine:preemptions", "model, service", "{{model}} on {{service}}"),),
        ),
        Panel(
            title="Loaded model",
            says="1 where a model that takes turns is loaded",
            unit=Unit.YES_NO,
            queries=(_query("max by (model) (stackwright_model_loaded)", "{{model}}"),),
            needs=Need.TURNS,
        ),
        Panel(
            title="Requests that wait for their model's turn",
            says="Each switch takes as long as loading the model",
            unit=Unit.COUNT,
            queries=(_query("sum by (model) (stackwright_model_requests_waiting)", "{{model}}"),),
            needs=Need.TURNS,
        ),
        Panel(
            title="Switches in the last hour",
            says="How often each model was loaded",
            unit=Unit.COUNT,
            queries=(_query("sum by (model) (increase(stackwright_model_loads_total[1h]))", "{{model}}"),),
            needs=Need.TURNS,
        ),
    ),
)

GATEWAY = Dashboard(
    name="stackwright-gateway",
    title="Gateway and keys",
    panels=(
        Panel(
            title="Requests by status",
            says="Requests for a model, by status",
            unit=Unit.RATE,
            queries=(_rates(_REQUESTS, "requested_model, status_code", "{{requested_model}}, {{status_code}}"),),
        ),
        Panel(
            title="Refused requests",
            says="Refused before a model was asked: 401 is a wrong key, 429 a limit",
            unit=Unit.RATE,
            queries=(_rates("stackwright_gateway_refused_total", "status", "{{status}}"),),
        ),
        Panel(
            title="Time of a request",
            says="From the request to the end of its answer, as clients see it",
            unit=Unit.SECONDS,
            queries=_quantiles("litellm_request_total_latency_metric", "requested_model", "{{requested_model}}"),
        ),
        Panel(
            title="Time to a stream's first token",
            says="From the question to the engine; streams alone",
            unit=Unit.SECONDS,
            queries=_quantiles("litellm_llm_api_time_to_first_token_metric", "requested_model", "{{requested_model}}"),
        ),
        Panel(
            title="The gateway's own time",
            says="What it takes of each request beside queue and engine",
            unit=Unit.SECONDS,
            queries=_quantiles("litellm_overhead_latency_metric", "model_group", "{{model_group}}", (0.5, 0.99)),
        ),
        Panel(
            title="Open requests",
            says="Requests that have no end yet",
            unit=Unit.COUNT,
            queries=(_query("sum(litellm_in_flight_requests)", "open"),),
        ),
        Panel(
            title="Queue",
            says="Requests that wait, and queue slots in use",
            unit=Unit.COUNT,
            queries=(
                _query("sum by (model) (stackwright_gateway_waiting)", "{{model}}, waiting"),
                _query("sum by (model) (stackwright_gateway_working)", "{{model}}, working"),
            ),
        ),
        Panel(
            title="Processor time",
            says="Processors that all workers keep busy; a worker has one at most",
            unit=Unit.COUNT,
            queries=(_query(f"sum(rate(stackwright_gateway_processor_seconds[{OVER}]))", "processors"),),
        ),
        Panel(
            title="Memory",
            says="Memory of all workers",
            unit=Unit.BYTES,
            queries=(_query("sum(stackwright_gateway_memory_bytes)", "workers"),),
        ),
        Panel(
            title="Replicas",
            says="1 where a replica gets requests",
            unit=Unit.YES_NO,
            queries=(_query("min by (model, replica) (stackwright_replica_up)", "{{model}} at {{replica}}"),),
        ),
        Panel(
            title="Requests at each replica",
            says="As the gateway counts them",
            unit=Unit.COUNT,
            queries=(
                _query("sum by (model, replica) (stackwright_replica_open_requests)", "{{model}} at {{replica}}"),
            ),
        ),
        Panel(
            title="Hangs in the last day",
            says="How often a replica was silent and then broke off",
            unit=Unit.COUNT,
            queries=(_query("sum by (replica) (increase(stackwright_replica_hangs[1d]))", "{{replica}}"),),
        ),
        Panel(
            title="Requests by key and model",
            says="Answered requests per second",
            unit=Unit.RATE,
            queries=(_rates("stackwright_key_requests_total", "key, model", "{{key}}, {{model}}"),),
        ),
        Panel(
            title="Tokens by key and model",
            says="Tokens per second, read and written",
            unit=Unit.PER_SECOND,
            queries=(
                _rates("stackwright_key_prompt_tokens_total", "key, model", "{{key}}, {{model}}, in"),
                _rates("stackwright_key_completion_tokens_total", "key, model", "{{key}}, {{model}}, out"),
            ),
        ),
        Panel(
            title="Requests beyond a limit",
            says="Answered 429, by key",
            unit=Unit.RATE,
            queries=(_rates("stackwright_key_refused_total", "key", "{{key}}"),),
        ),
    ),
)

GPUS = Dashboard(
    name="stackwright-gpus",
    title="GPUs",
    panels=(
        Panel(
            title="Memory, planned and in use",
            says="The plan's part does not count what other programs hold",
            unit=Unit.BYTES,
            queries=(
                _query("sum by (gpu, uuid) (stackwright_gpu_memory_used_bytes)", "GPU {{gpu}}, in use"),
                _query("sum by (uuid) (stackwright_gpu_planned_memory_bytes)", "{{uuid}}, planned"),
                _query("sum by (gpu, uuid) (stackwright_gpu_memory_bytes)", "GPU {{gpu}}, all"),
            ),
            needs=Need.GPUS,
        ),
        Panel(
            title="Busy",
            says="Share of the time in which a kernel ran; a GPU that is cut into slices does not tell it",
            unit=Unit.SHARE,
            queries=(_query("max by (gpu) (stackwright_gpu_busy_ratio)", "GPU {{gpu}}"),),
            needs=Need.WHOLE_GPUS,
        ),
        Panel(
            title="Power",
            says="What each GPU takes, and may take",
            unit=Unit.WATTS,
            queries=(
                _query("sum by (gpu) (stackwright_gpu_power_watts)", "GPU {{gpu}}"),
                _query("sum by (gpu) (stackwright_gpu_power_limit_watts)", "GPU {{gpu}}, limit"),
            ),
            needs=Need.GPUS,
        ),
        Panel(
            title="Temperature",
            says="Of the GPU's chip",
            unit=Unit.CELSIUS,
            queries=(_query("max by (gpu) (stackwright_gpu_temperature_celsius)", "GPU {{gpu}}"),),
            needs=Need.GPUS,
        ),
        Panel(
            title="Clock",
            says="Of the multiprocessors; low where there is nothing to do",
            unit=Unit.HERTZ,
            queries=(_query("max by (gpu) (stackwright_gpu_clock_hertz)", "GPU {{gpu}}"),),
            needs=Need.GPUS,
        ),
        Panel(
            title="Slowed",
            says="Why clocks are lower than they could be; a power limit is no fault",
            unit=Unit.YES_NO,
            queries=(_query("max by (gpu, reason) (stackwright_gpu_slowed)", "GPU {{gpu}}, {{reason}}"),),
            needs=Need.GPUS,
        ),
        Panel(
            title="Faults in the last day",
            says="GPUs that do not answer, and faults that the driver told of (XIDs)",
            unit=Unit.COUNT,
            queries=(
                _query("sum by (gpu) (increase(stackwright_gpu_xid_errors_total[1d]))", "GPU {{gpu}}, XIDs"),
                _query("max by (gpu) (stackwright_gpu_last_xid)", "GPU {{gpu}}, number of the last XID"),
                _query("1 - min by (gpu) (stackwright_gpu_answers)", "GPU {{gpu}}, lost"),
            ),
            needs=Need.GPUS,
        ),
        Panel(
            title="Memory errors",
            says="Uncorrected since the driver was loaded; 0 too where a GPU counts none",
            unit=Unit.COUNT,
            queries=(
                _query(
                    "max by (gpu) (stackwright_gpu_ecc_errors_total) or max by (gpu) (stackwright_gpu_answers * 0)",
                    "GPU {{gpu}}",
                ),
                _query(
                    "max by (gpu) (stackwright_gpu_rows_broken) or max by (gpu) (stackwright_gpu_answers * 0)",
                    "GPU {{gpu}}, row that cannot be replaced",
                ),
            ),
            needs=Need.GPUS,
        ),
        Panel(
            title="NVLink traffic",
            says="Over all links of a GPU",
            unit=Unit.BYTES_PER_SECOND,
            queries=(_rates("stackwright_gpu_nvlink_bytes_total", "gpu, direction", "GPU {{gpu}}, {{direction}}"),),
            needs=Need.NVLINK,
        ),
        Panel(
            title="NVLinks that are up",
            says="A link that was up and is not any more is a fault",
            unit=Unit.COUNT,
            queries=(
                _query("sum by (gpu) (stackwright_gpu_nvlinks_up)", "GPU {{gpu}}"),
                _query("sum by (gpu) (stackwright_gpu_nvlinks - stackwright_gpu_nvlinks_up)", "GPU {{gpu}}, lost"),
            ),
            needs=Need.NVLINK,
        ),
        Panel(
            title="NVLink errors",
            says="Per second; replays cost speed, recoveries stop the link",
            unit=Unit.PER_SECOND,
            queries=(_rates("stackwright_gpu_nvlink_errors_total", "gpu, kind", "GPU {{gpu}}, {{kind}}"),),
            needs=Need.NVLINK,
        ),
        Panel(
            title="MIG slices",
            says="Memory in use, and all of it",
            unit=Unit.BYTES,
            queries=(
                _query("sum by (gpu, slice) (stackwright_gpu_slice_memory_used_bytes)", "GPU {{gpu}}, {{slice}}"),
                _query("sum by (gpu, slice) (stackwright_gpu_slice_memory_bytes)", "GPU {{gpu}}, {{slice}}, all"),
            ),
            needs=Need.SLICES,
        ),
        Panel(
            title="What computes",
            says="DCGM's profiling: compute, tensor cores and memory",
            unit=Unit.SHARE,
            queries=(
                _query("avg by (gpu) (DCGM_FI_PROF_GR_ENGINE_ACTIVE)", "GPU {{gpu}}, compute"),
                _query("avg by (gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)", "GPU {{gpu}}, tensor cores"),
                _query("avg by (gpu) (DCGM_FI_PROF_DRAM_ACTIVE)", "GPU {{gpu}}, memory"),
            ),
            needs=Need.DCGM,
        ),
    ),
)

HOST = Dashboard(
    name="stackwright-host",
    title="Machine and Redis",
    panels=(
        Panel(
            title="Processors in use",
            says="Processors that are busy, of those that there are",
            unit=Unit.COUNT,
            queries=(
                _query(f'sum(rate(node_cpu_seconds_total{{mode!~"idle|iowait"}}[{OVER}]))', "busy"),
                _query('count(count by (cpu) (node_cpu_seconds_total{mode="idle"}))', "all"),
                _query("max(node_load1)", "load"),
            ),
        ),
        Panel(
            title="Memory",
            says="What a new program could have, and all of it",
            unit=Unit.BYTES,
            queries=(
                _query("max(node_memory_MemAvailable_bytes)", "available"),
                _query("max(node_memory_MemTotal_bytes)", "all"),
            ),
        ),
        Panel(
            title="Free room on disks",
            says="Share of each file system that is free",
            unit=Unit.SHARE,
            queries=(
                _query(
                    "min by (device, mountpoint) (node_filesystem_avail_bytes / node_filesystem_size_bytes)",
                    "{{mountpoint}}",
                ),
            ),
        ),
        Panel(
            title="Disks",
            says="Bytes per second, read and written",
            unit=Unit.BYTES_PER_SECOND,
            queries=(
                _rates("node_disk_read_bytes_total", "device", "{{device}}, read"),
                _rates("node_disk_written_bytes_total", "device", "{{device}}, written"),
            ),
        ),
        Panel(
            title="Redis",
            says="Whether it answers, and how many connections it has",
            unit=Unit.COUNT,
            queries=(
                _query("min(redis_up)", "answers"),
                _query("max(redis_connected_clients)", "connections"),
            ),
        ),
        Panel(
            title="Redis memory",
            says="What its data takes",
            unit=Unit.BYTES,
            queries=(_query("max(redis_memory_used_bytes)", "in use"),),
        ),
        Panel(
            title="Redis commands",
            says="Commands per second",
            unit=Unit.PER_SECOND,
            queries=(_query(f"sum(rate(redis_commands_processed_total[{OVER}]))", "commands"),),
        ),
    ),
)

_ASKED = 'endpoint=~"POST /v1/(search|chat/completions)"'
_JOB_SECONDS = f"sum(rate(stackwright_multimodal_job_seconds_total[{OVER}]))"
_JOBS_ENDED = f"sum(rate(stackwright_multimodal_jobs_ended_total[{OVER}]))"

DOCUMENTS = Dashboard(
    name="stackwright-documents",
    title="Documents and media",
    panels=(
        Panel(
            title="Documents that wait",
            says="Not ingested yet: queued, or at work",
            unit=Unit.COUNT,
            queries=(_query("sum by (state) (retrieval_waiting_documents)", "{{state}}"),),
            needs=Need.RETRIEVAL,
        ),
        Panel(
            title="Documents and passages",
            says="Documents whose ingest has ended, and passages stored, per second",
            unit=Unit.PER_SECOND,
            queries=(
                _rates("retrieval_documents_total", "result", "documents, {{result}}"),
                _query(f"sum(rate(retrieval_passages_total[{OVER}]))", "passages"),
            ),
            needs=Need.RETRIEVAL,
        ),
        Panel(
            title="Time of a search",
            says="Seconds to an answer; of chats too, with the model's own time",
            unit=Unit.SECONDS,
            queries=tuple(
                _query(
                    f"histogram_quantile({share}, sum by (le, endpoint)"
                    f" (rate(retrieval_request_seconds_bucket{{{_ASKED}}}[{OVER}])))",
                    f"{{{{endpoint}}}}, {share:.0%}",
                )
                for share in (0.5, 0.95)
            ),
            needs=Need.RETRIEVAL,
        ),
        Panel(
            title="Requests for documents",
            says="Requests per second, by endpoint and status",
            unit=Unit.RATE,
            queries=(_rates("retrieval_requests_total", "endpoint, status", "{{endpoint}}, {{status}}"),),
            needs=Need.RETRIEVAL,
        ),
        Panel(
            title="Database",
            says="Size of rows, text and vectors; originals come on top",
            unit=Unit.BYTES,
            queries=(_query("max(retrieval_database_bytes)", "database"),),
            needs=Need.RETRIEVAL,
        ),
        Panel(
            title="Jobs",
            says="Pictures, sound, video and PDF files by state; dead ones wait for a person",
            unit=Unit.COUNT,
            queries=(_query("sum by (state) (stackwright_multimodal_jobs)", "{{state}}"),),
            needs=Need.MULTIMODAL,
        ),
        Panel(
            title="Ended jobs",
            says="Per second, by outcome, and attempts: more of these where jobs are tried again",
            unit=Unit.PER_SECOND,
            queries=(
                _rates("stackwright_multimodal_jobs_ended_total", "outcome", "{{outcome}}"),
                _query(f"sum(rate(stackwright_multimodal_attempts_total[{OVER}]))", "attempts"),
            ),
            needs=Need.MULTIMODAL,
        ),
        Panel(
            title="Time of a job",
            says="Mean of the jobs that ended",
            unit=Unit.SECONDS,
            queries=(_query(f"{_JOB_SECONDS} / {_JOBS_ENDED}", "mean"),),
            needs=Need.MULTIMODAL,
        ),
        Panel(
            title="Restarts of job workers in the last day",
            says="A file that ends its worker costs one job",
            unit=Unit.COUNT,
            queries=(_query("sum(increase(stackwright_multimodal_worker_restarts_total[1d]))", "restarts"),),
            needs=Need.MULTIMODAL,
        ),
        Panel(
            title="Files of jobs",
            says="On the disk; MULTIMODAL_DISK_MIB bounds them",
            unit=Unit.BYTES,
            queries=(_query("max(stackwright_multimodal_kept_bytes)", "files"),),
            needs=Need.MULTIMODAL,
        ),
    ),
)

DASHBOARDS = (HEALTH, MODELS, GATEWAY, GPUS, HOST, DOCUMENTS)
