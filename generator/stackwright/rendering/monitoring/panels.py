"""The dashboards: what each panel shows, as questions to Prometheus. Pure.

`engine:waiting` stands for the name that the plan's engine has for it. A panel is left out where what it `needs` does
not run, and where the engine does not tell what it asks for: a panel without data is a defect.
"""

from __future__ import annotations

from msgspec import Struct

from stackwright.domain.monitoring import OVER, Need, Panel, Query, Unit, rates


class Dashboard(Struct, frozen=True, kw_only=True):
    """One page of panels; `name` is its file's and Grafana's uid."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _quantiles(
    histogram: str, by: str, legend: str, shares: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> tuple[Query, ...]:
    """Ask for quantiles of a histogram, by the labels that tell its series apart."""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by (le, {by}) (rate({histogram}_bucket[{OVER}])))",
            f"{legend}, {share:.0%}",
        )
        for share in shares
    )


_REQUESTS = "litellm_proxy_total_requests_metric_total"

HEALTH = Dashboard(
    name="stackwright-health",
    title="Service health",
    panels=(
        Panel(
            title="Services that answer",
            says="1 where the last scrape was answered",
            unit=Unit.YES_NO,
            queries=(Query("min by (job, service) (up)", "{{service}}"),),
        ),
        Panel(
            title="Alerts that fire",
            says="Each has a sentence and a page in Prometheus, under Alerts",
            unit=Unit.COUNT,
            queries=(Query('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"),),
        ),
        Panel(
            title="Restarts in the last hour",
            says="How often an engine or a worker of the gateway began anew",
            unit=Unit.COUNT,
            queries=(
                Query("sum by (service) (changes(engine:started[1h]))", "{{service}}"),
                Query("sum by (service) (changes(stackwright_gateway_started_seconds[1h]))", "{{service}}"),
            ),
        ),
        Panel(
            title="Requests",
            says="Requests per second, by model",
            unit=Unit.RATE,
            queries=(rates(_REQUESTS, "requested_model", "{{requested_model}}"),),
        ),
        Panel(
            title="Failed requests",
            says="Share of the requests that were answered 5xx",
            unit=Unit.SHARE,
            queries=(
                Query(
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
                Query("sum by (model) (stackwright_gateway_waiting)", "{{model}}, gateway"),
                Query("sum by (model) (engine:waiting)", "{{model}}, engine"),
            ),
        ),
        Panel(
            title="Certificate",
            says="Days until the gateway's certificate ends; infinite without one",
            unit=Unit.DAYS,
            queries=(Query("(min(stackwright_certificate_ends_seconds) - time()) / 86400", "days left"),),
        ),
        Panel(
            title="Disk of Prometheus",
            says="What is kept on the disk; MONITORING_DISK_GIB bounds it",
            unit=Unit.BYTES,
            queries=(Query("prometheus_tsdb_storage_blocks_bytes", "blocks"),),
        ),
        Panel(
            title="Series of Prometheus",
            says="What is kept in memory",
            unit=Unit.COUNT,
            queries=(Query("prometheus_tsdb_head_series", "series"),),
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
                rates("engine:prompt_tokens", "model", "{{model}}, in"),
                rates("engine:generation_tokens", "model", "{{model}}, out"),
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
                Query("sum by (model, service) (engine:running)", "{{model}} on {{service}}, running"),
                Query("sum by (model, service) (engine:waiting)", "{{model}} on {{service}}, waiting"),
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
            queries=(Query("max by (model, service) (engine:cache_usage)", "{{model}} on {{service}}"),),
        ),
        Panel(
            title="Prompts found in the cache",
            says="Share of the tokens read that needed no computing",
            unit=Unit.SHARE,
            queries=(
                Query(
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
            queries=(rates("engine:preemptions", "model, service", "{{model}} on {{service}}"),),
        ),
        Panel(
            title="Loaded model",
            says="1 where a model that takes turns is loaded",
            unit=Unit.YES_NO,
            queries=(Query("max by (model) (stackwright_model_loaded)", "{{model}}"),),
            needs=Need.TURNS,
        ),
        Panel(
            title="Requests that wait for their model's turn",
            says="Each switch takes as long as loading the model",
            unit=Unit.COUNT,
            queries=(Query("sum by (model) (stackwright_model_requests_waiting)", "{{model}}"),),
            needs=Need.TURNS,
        ),
        Panel(
            title="Switches in the last hour",
            says="How often each model was loaded",
            unit=Unit.COUNT,
            queries=(Query("sum by (model) (increase(stackwright_model_loads_total[1h]))", "{{model}}"),),
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
            queries=(rates(_REQUESTS, "requested_model, status_code", "{{requested_model}}, {{status_code}}"),),
        ),
        Panel(
            title="Refused requests",
            says="Refused before a model was asked: 401 is a wrong key, 429 a limit",
            unit=Unit.RATE,
            queries=(rates("stackwright_gateway_refused_total", "status", "{{status}}"),),
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
            queries=(Query("sum(litellm_in_flight_requests)", "open"),),
        ),
        Panel(
            title="Queue",
            says="Requests that wait, and queue slots in use",
            unit=Unit.COUNT,
            queries=(
                Query("sum by (model) (stackwright_gateway_waiting)", "{{model}}, waiting"),
                Query("sum by (model) (stackwright_gateway_working)", "{{model}}, working"),
            ),
        ),
        Panel(
            title="Processor time",
            says="Processors that all workers keep busy; a worker has one at most",
            unit=Unit.COUNT,
            queries=(Query(f"sum(rate(stackwright_gateway_processor_seconds[{OVER}]))", "processors"),),
        ),
        Panel(
            title="Memory",
            says="Memory of all workers",
            unit=Unit.BYTES,
            queries=(Query("sum(stackwright_gateway_memory_bytes)", "workers"),),
        ),
        Panel(
            title="Replicas",
            says="1 where a replica gets requests",
            unit=Unit.YES_NO,
            queries=(Query("min by (model, replica) (stackwright_replica_up)", "{{model}} at {{replica}}"),),
        ),
        Panel(
            title="Requests at each replica",
            says="As the gateway counts them",
            unit=Unit.COUNT,
            queries=(Query("sum by (model, replica) (stackwright_replica_open_requests)", "{{model}} at {{replica}}"),),
        ),
        Panel(
            title="Hangs in the last day",
            says="How often a replica was silent and then broke off",
            unit=Unit.COUNT,
            queries=(Query("sum by (replica) (increase(stackwright_replica_hangs[1d]))", "{{replica}}"),),
        ),
        Panel(
            title="Requests by key and model",
            says="Answered requests per second",
            unit=Unit.RATE,
            queries=(rates("stackwright_key_requests_total", "key, model", "{{key}}, {{model}}"),),
        ),
        Panel(
            title="Tokens by key and model",
            says="Tokens per second, read and written",
            unit=Unit.PER_SECOND,
            queries=(
                rates("stackwright_key_prompt_tokens_total", "key, model", "{{key}}, {{model}}, in"),
                rates("stackwright_key_completion_tokens_total", "key, model", "{{key}}, {{model}}, out"),
            ),
        ),
        Panel(
            title="Requests beyond a limit",
            says="Answered 429, by key",
            unit=Unit.RATE,
            queries=(rates("stackwright_key_refused_total", "key", "{{key}}"),),
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
                Query("sum by (gpu, uuid) (stackwright_gpu_memory_used_bytes)", "GPU {{gpu}}, in use"),
                Query("sum by (uuid) (stackwright_gpu_planned_memory_bytes)", "{{uuid}}, planned"),
                Query("sum by (gpu, uuid) (stackwright_gpu_memory_bytes)", "GPU {{gpu}}, all"),
            ),
            needs=Need.GPUS,
        ),
        Panel(
            title="Busy",
            says="Share of the time in which a kernel ran; a GPU that is cut into slices does not tell it",
            unit=Unit.SHARE,
            queries=(Query("max by (gpu) (stackwright_gpu_busy_ratio)", "GPU {{gpu}}"),),
            needs=Need.WHOLE_GPUS,
        ),
        Panel(
            title="Power",
            says="What each GPU takes, and may take",
            unit=Unit.WATTS,
            queries=(
                Query("sum by (gpu) (stackwright_gpu_power_watts)", "GPU {{gpu}}"),
                Query("sum by (gpu) (stackwright_gpu_power_limit_watts)", "GPU {{gpu}}, limit"),
            ),
            needs=Need.GPUS,
        ),
        Panel(
            title="Temperature",
            says="Of the GPU's chip",
            unit=Unit.CELSIUS,
            queries=(Query("max by (gpu) (stackwright_gpu_temperature_celsius)", "GPU {{gpu}}"),),
            needs=Need.GPUS,
        ),
        Panel(
            title="Clock",
            says="Of the multiprocessors; low where there is nothing to do",
            unit=Unit.HERTZ,
            queries=(Query("max by (gpu) (stackwright_gpu_clock_hertz)", "GPU {{gpu}}"),),
            needs=Need.GPUS,
        ),
        Panel(
            title="Slowed",
            says="Why clocks are lower than they could be; a power limit is no fault",
            unit=Unit.YES_NO,
            queries=(Query("max by (gpu, reason) (stackwright_gpu_slowed)", "GPU {{gpu}}, {{reason}}"),),
            needs=Need.GPUS,
        ),
        Panel(
            title="Faults in the last day",
            says="GPUs that do not answer, and faults that the driver told of (XIDs)",
            unit=Unit.COUNT,
            queries=(
                Query("sum by (gpu) (increase(stackwright_gpu_xid_errors_total[1d]))", "GPU {{gpu}}, XIDs"),
                Query("max by (gpu) (stackwright_gpu_last_xid)", "GPU {{gpu}}, number of the last XID"),
                Query("1 - min by (gpu) (stackwright_gpu_answers)", "GPU {{gpu}}, lost"),
            ),
            needs=Need.GPUS,
        ),
        Panel(
            title="Memory errors",
            says="Uncorrected since the driver was loaded; 0 too where a GPU counts none",
            unit=Unit.COUNT,
            queries=(
                Query(
                    "max by (gpu) (stackwright_gpu_ecc_errors_total) or max by (gpu) (stackwright_gpu_answers * 0)",
                    "GPU {{gpu}}",
                ),
                Query(
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
            queries=(rates("stackwright_gpu_nvlink_bytes_total", "gpu, direction", "GPU {{gpu}}, {{direction}}"),),
            needs=Need.NVLINK,
        ),
        Panel(
            title="NVLinks that are up",
            says="A link that was up and is not any more is a fault",
            unit=Unit.COUNT,
            queries=(
                Query("sum by (gpu) (stackwright_gpu_nvlinks_up)", "GPU {{gpu}}"),
                Query("sum by (gpu) (stackwright_gpu_nvlinks - stackwright_gpu_nvlinks_up)", "GPU {{gpu}}, lost"),
            ),
            needs=Need.NVLINK,
        ),
        Panel(
            title="NVLink errors",
            says="Per second; replays cost speed, recoveries stop the link",
            unit=Unit.PER_SECOND,
            queries=(rates("stackwright_gpu_nvlink_errors_total", "gpu, kind", "GPU {{gpu}}, {{kind}}"),),
            needs=Need.NVLINK,
        ),
        Panel(
            title="MIG slices",
            says="Memory in use, and all of it",
            unit=Unit.BYTES,
            queries=(
                Query("sum by (gpu, slice) (stackwright_gpu_slice_memory_used_bytes)", "GPU {{gpu}}, {{slice}}"),
                Query("sum by (gpu, slice) (stackwright_gpu_slice_memory_bytes)", "GPU {{gpu}}, {{slice}}, all"),
            ),
            needs=Need.SLICES,
        ),
        Panel(
            title="What computes",
            says="DCGM's profiling: compute, tensor cores and memory",
            unit=Unit.SHARE,
            queries=(
                Query("avg by (gpu) (DCGM_FI_PROF_GR_ENGINE_ACTIVE)", "GPU {{gpu}}, compute"),
                Query("avg by (gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)", "GPU {{gpu}}, tensor cores"),
                Query("avg by (gpu) (DCGM_FI_PROF_DRAM_ACTIVE)", "GPU {{gpu}}, memory"),
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
                Query(f'sum(rate(node_cpu_seconds_total{{mode!~"idle|iowait"}}[{OVER}]))', "busy"),
                Query('count(count by (cpu) (node_cpu_seconds_total{mode="idle"}))', "all"),
                Query("max(node_load1)", "load"),
            ),
        ),
        Panel(
            title="Memory",
            says="What a new program could have, and all of it",
            unit=Unit.BYTES,
            queries=(
                Query("max(node_memory_MemAvailable_bytes)", "available"),
                Query("max(node_memory_MemTotal_bytes)", "all"),
            ),
        ),
        Panel(
            title="Free room on disks",
            says="Share of each file system that is free",
            unit=Unit.SHARE,
            queries=(
                Query(
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
                rates("node_disk_read_bytes_total", "device", "{{device}}, read"),
                rates("node_disk_written_bytes_total", "device", "{{device}}, written"),
            ),
        ),
        Panel(
            title="Redis",
            says="Whether it answers, and how many connections it has",
            unit=Unit.COUNT,
            queries=(
                Query("min(redis_up)", "answers"),
                Query("max(redis_connected_clients)", "connections"),
            ),
        ),
        Panel(
            title="Redis memory",
            says="What its data takes",
            unit=Unit.BYTES,
            queries=(Query("max(redis_memory_used_bytes)", "in use"),),
        ),
        Panel(
            title="Redis commands",
            says="Commands per second",
            unit=Unit.PER_SECOND,
            queries=(Query(f"sum(rate(redis_commands_processed_total[{OVER}]))", "commands"),),
        ),
    ),
)

DASHBOARDS = (HEALTH, MODELS, GATEWAY, GPUS, HOST)
