"""The alerts: when each fires, a sentence, and where docs/how-to/monitoring.md tells how to mend it. Pure.

Each has a test of its own (tests/integration/monitoring/test_alerts.py): a series at which it fires, and one at which
it does not.
"""

from __future__ import annotations

from stackwright.domain.monitoring import Alert, Need, Urgency

_REQUESTS = "litellm_proxy_total_requests_metric_total"

ALERTS: tuple[Alert, ...] = (
    Alert(
        name="EngineDown",
        when='up{job="engine"} == 0',
        lasts="1m",
        urgency=Urgency.CRITICAL,
        says="{{ $labels.service }} has not answered for a minute",
        heading="An engine is down",
    ),
    Alert(
        name="ServiceDown",
        when='up{job!="engine"} == 0',
        lasts="1m",
        urgency=Urgency.CRITICAL,
        says="{{ $labels.service }} has not answered for a minute",
        heading="A service is down",
    ),
    Alert(
        name="EngineRestarts",
        when="sum by (service) (changes(engine:started[1h])) > 2",
        lasts="0m",
        urgency=Urgency.CRITICAL,
        says="{{ $labels.service }} began anew {{ $value }} times in an hour",
        heading="A service restarts again and again",
    ),
    Alert(
        name="GatewayRestarts",
        # The workers of one start begin one after another, and the first scrape may see any of them.
        when="sum by (service) (changes(stackwright_gateway_started_seconds[1h])) > 5",
        lasts="0m",
        urgency=Urgency.CRITICAL,
        says="workers of {{ $labels.service }} began anew {{ $value }} times in an hour",
        heading="A service restarts again and again",
    ),
    Alert(
        name="QueueGrows",
        when=(
            "(sum by (model) (stackwright_gateway_waiting) > 4) and"
            " (deriv(sum by (model) (stackwright_gateway_waiting)[10m:1m]) > 0)"
        ),
        lasts="5m",
        urgency=Urgency.WARNING,
        says="{{ $value }} requests wait for {{ $labels.model }}, and there are more and more",
        heading="The queue grows",
    ),
    Alert(
        name="CacheFull",
        when="(max by (model) (engine:cache_usage) > 0.95) and (sum by (model) (engine:waiting) > 0)",
        lasts="5m",
        urgency=Urgency.WARNING,
        says="the KV cache of {{ $labels.model }} is {{ $value | humanizePercentage }} full, and requests wait for it",
        heading="The KV cache is full",
    ),
    Alert(
        name="RequestsFail",
        when=(
            f'sum(rate({_REQUESTS}{{status_code=~"5.."}}[5m])) / sum(rate({_REQUESTS}[5m])) > 0.05'
            f' and sum(increase({_REQUESTS}{{status_code=~"5.."}}[5m])) > 5'
        ),
        lasts="2m",
        urgency=Urgency.CRITICAL,
        says="{{ $value | humanizePercentage }} of the requests are answered 5xx",
        heading="Requests fail",
    ),
    Alert(
        name="FirstTokenSlow",
        # Ten seconds: whoever reads along has given up by then (Nielsen, Response Times: The 3 Important Limits, 1993).
        when="histogram_quantile(0.95, sum by (le, model) (rate(engine:first_token_bucket[5m]))) > 10",
        lasts="5m",
        urgency=Urgency.WARNING,
        says="5 of 100 requests to {{ $labels.model }} wait more than {{ $value | humanizeDuration }} for a token",
        heading="The first token comes late",
    ),
    Alert(
        name="GpuDriverSilent",
        when="stackwright_gpu_driver_answers == 0",
        lasts="1m",
        urgency=Urgency.CRITICAL,
        says="the NVIDIA driver does not answer",
        heading="A GPU has a fault",
        needs=Need.GPUS,
    ),
    Alert(
        name="GpuLost",
        when="stackwright_gpu_answers == 0",
        lasts="1m",
        urgency=Urgency.CRITICAL,
        says="GPU {{ $labels.gpu }} does not answer",
        heading="A GPU has a fault",
        needs=Need.GPUS,
    ),
    Alert(
        name="GpuSlowed",
        # A power limit is what the GPU is told to keep to; heat and the board's own brakes are not.
        when='stackwright_gpu_slowed{reason!="power limit",reason!="sync boost"} == 1',
        lasts="5m",
        urgency=Urgency.WARNING,
        says="GPU {{ $labels.gpu }} is slowed: {{ $labels.reason }}",
        heading="A GPU is slowed",
        needs=Need.GPUS,
    ),
    Alert(
        name="GpuFault",
        when="increase(stackwright_gpu_xid_errors_total[10m]) > 0",
        lasts="0m",
        urgency=Urgency.CRITICAL,
        says="the driver tells of a fault (XID) of GPU {{ $labels.gpu }}",
        heading="A GPU has a fault",
        needs=Need.GPUS,
    ),
    Alert(
        name="GpuMemoryErrors",
        when="increase(stackwright_gpu_ecc_errors_total[1h]) > 0 or stackwright_gpu_rows_broken == 1",
        lasts="0m",
        urgency=Urgency.CRITICAL,
        says="GPU {{ $labels.gpu }} has memory errors that cannot be corrected",
        heading="A GPU has a fault",
        needs=Need.GPUS,
    ),
    Alert(
        name="NvlinkLost",
        when="stackwright_gpu_nvlinks - stackwright_gpu_nvlinks_up > 0",
        lasts="1m",
        urgency=Urgency.CRITICAL,
        says="{{ $value }} NVLinks of GPU {{ $labels.gpu }} are down that were up",
        heading="An NVLink is lost",
        needs=Need.NVLINK,
    ),
    Alert(
        name="DiskNearlyFull",
        when="min by (device, mountpoint) (node_filesystem_avail_bytes / node_filesystem_size_bytes) < 0.1",
        lasts="5m",
        urgency=Urgency.WARNING,
        says="{{ $value | humanizePercentage }} of {{ $labels.mountpoint }} are free",
        heading="A disk is nearly full",
    ),
    Alert(
        name="CertificateEnds",
        when="min(stackwright_certificate_ends_seconds) - time() < 14 * 86400",
        lasts="0m",
        urgency=Urgency.WARNING,
        says="the gateway's certificate ends in {{ $value | humanizeDuration }}",
        heading="The certificate ends",
    ),
    Alert(
        name="WrongKeys",
        when='sum(increase(stackwright_gateway_refused_total{status="401"}[10m])) > 100',
        lasts="0m",
        urgency=Urgency.WARNING,
        says="{{ $value }} requests with a wrong key in ten minutes: somebody guesses, or a key was taken away",
        heading="Many wrong keys",
    ),
)
