"""Rules over the model: whole and readable where it is on this host, in reach and ours to have where it is not. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.machine import HubAnswer, ModelFiles, Seen, Unseen
from stackwright.domain.plan import Plan
from stackwright.engines import engine_named

# Certificates and signed addresses bear this much (RFC 7519's "a few minutes" of leeway, section 4.1.4).
CLOCK_LEEWAY_S = 300


def check_model(plan: Plan, location: str, files: Seen[ModelFiles]) -> Iterator[Finding]:
    """Find a model that is damaged, incomplete, or closed to the stack's user."""
    if isinstance(files, Unseen):
        yield not_checked("the model's files", files.why, plan.environment.value)
        return
    another = f"`configure-gpu --env {plan.environment.value} --model …` names another"
    if files.problem is not None and not location.startswith("/"):
        fix = f"remove it and download it again: `rm -r {files.folder}`"
        yield error("model-incomplete", found=files.problem, expected="every file whole", fix=fix)
    elif files.problem is not None:
        kind = "model-missing" if files.problem.startswith("no ") else "model-incomplete"
        expected = "a model folder" if kind == "model-missing" else "every file of the index, whole"
        yield error(kind, found=files.problem, expected=expected, fix=f"fetch the model again, or {another}")
    if files.unreadable is not None:
        yield error(
            "model-unreadable",
            found=f"{files.unreadable} may not be read by the stack's user",
            expected="files that STACKWRIGHT_UID may read",
            fix=f"`chmod -R go+rX {files.folder}`",
        )


def check_length(
    plan: Plan, env: Mapping[str, str], longest_tokens: int | None, variables: frozenset[str]
) -> Iterator[Finding]:
    """Find a context that is longer than the model's own, which the engine refuses.

    `longest_tokens` is None where the model's config.json is not at hand or sets no bound; `variables` are those that the
    engine is given, of which one may make it take any length; nothing here ever sets that.
    """
    engine, name = engine_named(plan.engine.name), plan.environment.value
    keys, wanted = engine.keys, env[engine.keys.context]
    if longest_tokens is None or not wanted.isdecimal() or engine.length_variable in variables:
        return
    if int(wanted) > longest_tokens:
        yield error(
            "model-length",
            found=f"{keys.context}={wanted}, where {env[keys.model][:120]} takes {longest_tokens} tokens",
            expected=f"{longest_tokens} or less: beyond it the engine does not start",
            fix=f"lower it in envs/.env.{name}.local, or `configure-gpu --env {name} --set {keys.context}={longest_tokens}`",
        )


def check_hub(
    plan: Plan, location: str, hub: Seen[HubAnswer] | None, *, gated: bool | None, has_token: bool, offline: bool
) -> Iterator[Finding]:
    """Find a model that is still to be downloaded and cannot be.

    Args:
        hub: what the hub answered; None where it was not asked, as everything is here or it must not be.
        gated: the catalog's word on whether the hub asks for a token.
        offline: HF_HUB_OFFLINE forbids to ask.
    """
    token = f"write a token that may read it into envs/.secrets/{plan.environment.value}/hf_token (or set HF_TOKEN)"
    if offline:
        yield error(
            "model-missing",
            found=f"{location} is not whole in the cache, and HF_HUB_OFFLINE forbids to download it",
            expected="the model in HF_HOME",
            fix=f"`unset HF_HUB_OFFLINE`, or `hf download {location}` where the hub is in reach",
        )
    elif gated and not has_token:
        found = f"{location} is given only to those who asked its publisher, and there is no token"
        yield error("model-gated", found=found, expected="a hub token", fix=f"ask at the model's page, then {token}")
    elif isinstance(hub, Unseen):
        fix = f"set HF_ENDPOINT to a hub in reach, or `configure-gpu --env {plan.environment.value} --model FOLDER`"
        yield error("model-unreachable", found=hub.why, expected=f"a hub that has {location}", fix=fix)
    elif hub is not None:
        yield from _judge(plan, location, hub, token, has_token=has_token)


def _judge(plan: Plan, location: str, hub: HubAnswer, token: str, *, has_token: bool) -> Iterator[Finding]:
    refused = f"{hub.hub} answered {hub.status} for {location}"
    if hub.gated or hub.status == 403:
        why = "this token may not read it" if has_token else "it wants a token"
        yield error(
            "model-gated", found=f"{refused}: {why}", expected="access", fix=f"ask at {hub.hub}/{location}; {token}"
        )
    elif hub.status in (401, 404):
        fix = (
            f"`configure-gpu --env {plan.environment.value} --model …` with the right name; for a private model {token}"
        )
        yield error("model-unknown", found=refused, expected="a model of that name", fix=fix)
    elif hub.status >= 400:
        fix = f"`validate-environment {plan.environment.value}` asks again; HF_ENDPOINT names another hub"
        yield error("model-unreachable", found=refused, expected="an answer below 400", fix=fix)
    if hub.ahead_s is not None and abs(hub.ahead_s) > CLOCK_LEEWAY_S:
        way = "behind" if hub.ahead_s > 0 else "ahead of"
        yield warning(
            "clock",
            found=f"this machine's clock is {abs(hub.ahead_s):.0f} s {way} {hub.hub}'s",
            expected=f"a clock within {CLOCK_LEEWAY_S} s: certificates and signed downloads are refused otherwise",
            fix="`sudo timedatectl set-ntp true`",
        )
