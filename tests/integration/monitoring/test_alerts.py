"""Every alert by Prometheus' own evaluation: series at which it fires, with what a person reads, and at which not.

`promtool test rules` runs Prometheus' own evaluation over series that are written down here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from msgspec.structs import replace
from stackwright.rendering.monitoring import alerts_of, planned_bytes
from stackwright.rendering.monitoring.prometheus import render_rules

from tests.monitored import ALERTS
from tests.planning_requests import plan_for, recorded

TOTAL = 'litellm_proxy_total_requests_metric_total{requested_model="m",status_code="%s"}'


class Case(Struct, frozen=True):
    """One alert. `fires` are series at which it does, `silent` those at which it does not, both at minute `at`.

    In promtool's notation: `0+1x60` is a value that grows by one a minute, for an hour.
    """

    fires: dict[str, str]
    silent: dict[str, str]
    labels: dict[str, str]
    summary: str
    at: int = 30


CASES = {
    "EngineDown": Case(
        {'up{job="engine",service="engine-2"}': "1x20 0x10"},
        {'up{job="engine",service="engine-2"}': "1x29 0"},
        {"job": "engine", "service": "engine-2"},
        "engine-2 has not answered for a minute",
    ),
    "ServiceDown": Case(
        {'up{job="gateway",service="gateway"}': "0x60"},
        {'up{job="engine",service="engine"}': "0x60", 'up{job="gateway",service="gateway"}': "1x60"},
        {"job": "gateway", "service": "gateway"},
        "gateway has not answered for a minute",
    ),
    "EngineRestarts": Case(
        {'process_start_time_seconds{job="engine",service="engine"}': "1x5 2x5 _x3 3x5 4x20"},
        {'process_start_time_seconds{job="engine",service="engine"}': "1x5 2x5 3x30"},
        {"service": "engine"},
        "engine began anew 3 times in an hour",
    ),
    "GatewayRestarts": Case(
        {'stackwright_gateway_started_seconds{service="gateway"}': "1+1x60"},
        {'stackwright_gateway_started_seconds{service="gateway"}': "1+1x4 5x60"},
        {"service": "gateway"},
        "workers of gateway began anew 30 times in an hour",
    ),
    "QueueGrows": Case(
        {'stackwright_gateway_waiting{model="m"}': "0+1x60"},
        {'stackwright_gateway_waiting{model="m"}': "40-1x60"},
        {"model": "m"},
        "30 requests wait for m, and there are more and more",
    ),
    "CacheFull": Case(
        {
            'vllm:kv_cache_usage_perc{model="m"}': "0.97x60",
            'vllm:num_requests_waiting{model="m"}': "2x60",
        },
        {'vllm:kv_cache_usage_perc{model="m"}': "1x60", 'vllm:num_requests_waiting{model="m"}': "0x60"},
        {"model": "m"},
        "the KV cache of m is 97% full, and requests wait for it",
    ),
    "RequestsFail": Case(
        {TOTAL % "200": "0+9x60", TOTAL % "503": "0+3x60"},
        {TOTAL % "200": "0+99x60", TOTAL % "503": "0+1x60", TOTAL % "400": "0+90x60"},
        {},
        "25% of the requests are answered 5xx",
    ),
    "FirstTokenSlow": Case(
        {
            'vllm:time_to_first_token_seconds_bucket{model="m",le="10"}': "0x60",
            'vllm:time_to_first_token_seconds_bucket{model="m",le="20"}': "0+10x60",
            'vllm:time_to_first_token_seconds_bucket{model="m",le="+Inf"}': "0+10x60",
        },
        {
            'vllm:time_to_first_token_seconds_bucket{model="m",le="10"}': "0+10x60",
            'vllm:time_to_first_token_seconds_bucket{model="m",le="20"}': "0+10x60",
            'vllm:time_to_first_token_seconds_bucket{model="m",le="+Inf"}': "0+10x60",
        },
        {"model": "m"},
        "5 of 100 requests to m wait more than 19.5s for a token",
    ),
    "GpuDriverSilent": Case(
        {"stackwright_gpu_driver_answers": "1x20 0x20"},
        {"stackwright_gpu_driver_answers": "0x28 1x20"},
        {},
        "the NVIDIA driver does not answer",
    ),
    "GpuLost": Case(
        {'stackwright_gpu_answers{gpu="1"}': "1x20 0x20"},
        {'stackwright_gpu_answers{gpu="1"}': "1x60"},
        {"gpu": "1"},
        "GPU 1 does not answer",
    ),
    "GpuSlowed": Case(
        {'stackwright_gpu_slowed{gpu="0",reason="heat"}': "1x60"},
        {
            'stackwright_gpu_slowed{gpu="0",reason="heat"}': "0x60",
            'stackwright_gpu_slowed{gpu="0",reason="power limit"}': "1x60",
        },
        {"gpu": "0", "reason": "heat"},
        "GPU 0 is slowed: heat",
    ),
    "GpuFault": Case(
        {'stackwright_gpu_xid_errors_total{gpu="0"}': "0x25 1x20"},
        {'stackwright_gpu_xid_errors_total{gpu="0"}': "0x10 1x50"},
        {"gpu": "0"},
        "the driver tells of a fault (XID) of GPU 0",
    ),
    "GpuMemoryErrors": Case(
        {'stackwright_gpu_ecc_errors_total{gpu="0"}': "4x10 5x50", 'stackwright_gpu_rows_broken{gpu="0"}': "0x60"},
        {'stackwright_gpu_ecc_errors_total{gpu="0"}': "4x60", 'stackwright_gpu_rows_broken{gpu="0"}': "0x60"},
        {"gpu": "0"},
        "GPU 0 has memory errors that cannot be corrected",
    ),
    "NvlinkLost": Case(
        {'stackwright_gpu_nvlinks{gpu="0"}': "4x60", 'stackwright_gpu_nvlinks_up{gpu="0"}': "4x20 3x40"},
        {'stackwright_gpu_nvlinks{gpu="0"}': "4x60", 'stackwright_gpu_nvlinks_up{gpu="0"}': "4x60"},
        {"gpu": "0"},
        "1 NVLinks of GPU 0 are down that were up",
    ),
    "DiskNearlyFull": Case(
        {
            'node_filesystem_avail_bytes{device="/dev/sda",mountpoint="/models"}': "8x60",
            'node_filesystem_size_bytes{device="/dev/sda",mountpoint="/models"}': "100x60",
        },
        {
            'node_filesystem_avail_bytes{device="/dev/sda",mountpoint="/models"}': "12x60",
            'node_filesystem_size_bytes{device="/dev/sda",mountpoint="/models"}': "100x60",
        },
        {"device": "/dev/sda", "mountpoint": "/models"},
        "8% of /models are free",
    ),
    "CertificateEnds": Case(
        {"stackwright_certificate_ends_seconds": "866400x60"},
        {"stackwright_certificate_ends_seconds": " ".join(["+Inf"] * 60)},
        {},
        "the gateway's certificate ends in 10d 0h 10m 0s",
    ),
    "WrongKeys": Case(
        {'stackwright_gateway_refused_total{status="401"}': "0+20x60"},
        {
            'stackwright_gateway_refused_total{status="401"}': "0+5x60",
            'stackwright_gateway_refused_total{status="429"}': "0+100x60",
        },
        {},
        "200 requests with a wrong key in ten minutes: somebody guesses, or a key was taken away",
    ),
    "DocumentsWait": Case(
        {'retrieval_waiting_documents{state="queued"}': "7x60", 'retrieval_documents_total{result="done"}': "5x60"},
        {'retrieval_waiting_documents{state="queued"}': "7x60", 'retrieval_documents_total{result="done"}': "5+1x60"},
        {},
        "7 documents wait, and none has been ingested for a quarter of an hour",
        at=40,
    ),
    "JobsWait": Case(
        {
            'stackwright_multimodal_jobs{state="queued"}': "2x60",
            'stackwright_multimodal_jobs{state="done"}': "9x60",
            'stackwright_multimodal_jobs_ended_total{outcome="done"}': "9x60",
        },
        {
            'stackwright_multimodal_jobs{state="queued"}': "0x60",
            'stackwright_multimodal_jobs{state="done"}': "9x60",
            'stackwright_multimodal_jobs_ended_total{outcome="done"}': "9x60",
        },
        {},
        "2 jobs wait, and none has ended for a quarter of an hour",
        at=40,
    ),
    "JobsDead": Case(
        {'stackwright_multimodal_jobs{state="dead"}': "0x20 3x40"},
        {'stackwright_multimodal_jobs{state="dead"}': "3x20 0x40"},
        {},
        "3 jobs have failed too often and wait for a person",
    ),
}


def asked(name: str, series: dict[str, str], at: int, expected: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one test in promtool's form."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": row, "values": values} for row, values in series.items()],
        "alert_rule_test": [{"eval_time": f"{at}m", "alertname": name, "exp_alerts": expected}],
    }


def test_every_alert_fires_where_it_should_and_nowhere_else(tmp_path: Path) -> None:
    plan = replace(plan_for(recorded("2x-rtx3090-nvlink")), additions=("retrieval", "multimodal"))
    alerts = {alert.name: alert for alert in alerts_of(plan)}
    assert set(CASES) == set(alerts) == {alert.name for alert in ALERTS}
    (tmp_path / "rules.yml").write_text(render_rules(alerts.values(), planned_bytes(plan)), encoding="utf-8")
    tests: list[dict[str, Any]] = []
    for name, case in CASES.items():
        alert = alerts[name]
        fires = {
            "exp_labels": {"severity": alert.urgency.value, **case.labels},
            "exp_annotations": {"summary": case.summary, "runbook": alert.link},
        }
        tests += [asked(name, case.fires, case.at, [fires]), asked(name, case.silent, case.at, [])]
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "tests.yml"]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
