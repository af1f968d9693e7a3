"""What in a log can be the cause of a fall: not what a request caused, and not what an earlier run wrote."""

from __future__ import annotations

from pathlib import Path

from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.moments import last_runs, without_requests
from stackwright.diagnosis.pasted import judge_log
from stackwright.diagnosis.rules import diagnose_log

MALFORMED = (Path(__file__).parent / "logs" / "requests" / "gateway-malformed.txt").read_text(encoding="utf-8")
"""A client has sent `"messages": "hi"`."""
NO_FILE = """\
Traceback (most recent call last):
  File "/opt/gateway/lib/python3.11/site-packages/litellm/proxy/proxy_server.py", line 3021, in load_config
    raise Exception(f"Config file not found: {config_file_path}")
Exception: Config file not found: /etc/stackwright/gateway.yaml
"""
NO_GET = """\
Traceback (most recent call last):
  File "/opt/gateway/lib/python3.11/site-packages/litellm/proxy/proxy_server.py", line 3021, in load_config
    router_settings = config.get("router_settings", {})
AttributeError: 'str' object has no attribute 'get'
"""


def rules_of(text: str, kind: str = "gateway") -> list[str]:
    """Return the rules that match."""
    return [diagnosis.rule for diagnosis in diagnose_log(text, load_rules(), kind=kind)]


def rule_of_log(text: str) -> str | None:
    """Return the rule that names what a pasted log tells."""
    return judge_log(text, load_rules(), {})[0].rule


def test_a_malformed_request_is_no_broken_file() -> None:
    assert "has no attribute" in MALFORMED
    assert rules_of(MALFORMED) == []
    assert "has no attribute" not in without_requests(MALFORMED)
    assert "Proxy initialized with Config" in without_requests(MALFORMED)


def test_a_broken_file_after_a_malformed_request_is_one() -> None:
    """The gateway was started again; nothing but the traceback tells of it."""
    for broken in (NO_FILE, NO_GET):
        assert rules_of(without_requests(MALFORMED + broken)) == ["gateway-file"]
        assert rule_of_log(MALFORMED + broken) == "gateway-file"
        assert rule_of_log(broken) == "gateway-file"
    assert rule_of_log(MALFORMED) is None


def test_runs_are_told_apart() -> None:
    redis = "1:C 29 Nov 2026 12:00:00.000 * oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo\n"
    log = f"{redis}first\n{redis}second\n{redis}third\n"
    assert last_runs(log, 1) == f"{redis}third\n"
    assert last_runs(log, 2) == f"{redis}second\n{redis}third\n"
    assert last_runs(log, 4) == log
    assert last_runs("no mark at all", 1) == "no mark at all"
    assert last_runs(MALFORMED + MALFORMED, 1) == MALFORMED
