"""The models: whole and readable where they are on this host, in reach and ours to have where they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from stackwright.catalog.load import load_llms
from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.host import is_offline
from stackwright.domain.machine import HubAnswer, ModelFiles, Seen, Unseen
from stackwright.domain.plan import Plan
from stackwright.engines import engine_named
from stackwright.models.cache import find_cache
from stackwright.models.files import inspect_cache, inspect_folder
from stackwright.models.reach import ask_hub
from stackwright.models.read import HubAccess, read_model
from stackwright.project.credentials import HUB_TOKEN, find_hub_token
from stackwright.runtime import Stack
from stackwright.services import outside
from stackwright.validation.check import Check, Later, Machine, Observation, Subject, safely
from stackwright.validation.compose_config import MERGED, engine_variables

# Certificates and signed addresses bear this much (RFC 7519's "a few minutes" of leeway, section 4.1.4).
CLOCK_LEEWAY_S = 300


def check_model(plan: Plan, location: str, files: Seen[ModelFiles]) -> Iterator[Finding]:
    """Find a model that is damaged, incomplete, or closed to the stack's user."""
    if isinstance(files, Unseen):
        yield not_checked("the model's files", files.why, plan.environment.value)
        return
    another = f"choose another: `configure-gpu {plan.environment.value} --model …`"
    if files.problem is not None and not location.startswith("/"):
        fix = f"remove it and download it again: `rm -r {files.folder}`"
        yield error("model-incomplete", found=files.problem, expected="complete files", fix=fix)
    elif files.problem is not None:
        kind = "model-missing" if files.problem.startswith("no ") else "model-incomplete"
        expected = "a model folder" if kind == "model-missing" else "every file of the index, complete"
        yield error(kind, found=files.problem, expected=expected, fix=f"download the model again, or {another}")
    if files.unreadable is not None:
        yield error(
            "model-unreadable",
            found=f"{files.unreadable} is not readable for the stack's user",
            expected="files readable for STACKWRIGHT_UID",
            fix=f"`chmod -R go+rX {files.folder}`",
        )


def check_length(
    plan: Plan, env: Mapping[str, str], longest_tokens: int | None, variables: frozenset[str]
) -> Iterator[Finding]:
    """Find a context that is longer than the model's own, which the engine refuses.

    `longest_tokens` is None where the model's config.json is not at hand or sets no bound; `variables` are those that
    the engine is given, of which one may make it take any length; nothing here ever sets that.
    """
    engine, name = engine_named(plan.engine.name), plan.environment.value
    keys, wanted = engine.keys, env[engine.keys.context]
    if longest_tokens is None or not wanted.isdecimal() or engine.length_variable in variables:
        return
    if int(wanted) > longest_tokens:
        yield error(
            "model-length",
            found=f"{keys.context}={wanted}, where {env[keys.model][:120]} takes {longest_tokens:,} tokens",
            expected=f"{longest_tokens:,} or less; the engine would not start",
            fix=(
                f"lower it in envs/.env.{name}.local, or `configure-gpu {name} --set {keys.context}={longest_tokens}`"
            ),
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
    token = f"write a token with access into envs/.secrets/{plan.environment.value}/hf_token (or set HF_TOKEN)"
    if offline:
        yield error(
            "model-missing",
            found=f"{location} is not completely cached, and HF_HUB_OFFLINE forbids a download",
            expected="the model in HF_HOME",
            fix=f"`unset HF_HUB_OFFLINE`, or `hf download {location}` while online",
        )
    elif gated and not has_token:
        found = f"{location} is gated, and there is no hub token"
        yield error(
            "model-gated", found=found, expected="a hub token", fix=f"request access on the model's page, then {token}"
        )
    elif isinstance(hub, Unseen):
        fix = _fix_of_unreached(plan.environment.value, hub.why.lower())
        yield error("model-unreachable", found=hub.why, expected=f"a hub with {location}", fix=fix)
    elif hub is not None:
        yield from _judge(plan, location, hub, token, has_token=has_token)


def _fix_of_unreached(name: str, why: str) -> str:
    if "certificate verify failed" in why:
        return f"`configure-gpu {name} --set {outside.CERTIFICATES}=FILE`, your network's authority as PEM"
    if "407" in why:
        return f"write user:password for the proxy into envs/.secrets/{name}/{outside.LOGIN}"
    return (
        f"set HF_ENDPOINT to a reachable hub, or `configure-gpu {name} --model FOLDER`; behind a proxy "
        f"`--set {outside.PROXY}=http://HOST:PORT`"
    )


def _judge(plan: Plan, location: str, hub: HubAnswer, token: str, *, has_token: bool) -> Iterator[Finding]:
    refused = f"{hub.hub} answered {hub.status} for {location}"
    if hub.gated or hub.status == 403:
        why = "this token has no access" if has_token else "it needs a token"
        yield error(
            "model-gated",
            found=f"{refused}: {why}",
            expected="access",
            fix=f"request access at {hub.hub}/{location}; {token}",
        )
    elif hub.status in (401, 404):
        fix = f"`configure-gpu {plan.environment.value} --model …` with the right name; for a private model {token}"
        yield error("model-unknown", found=refused, expected="a model of that name", fix=fix)
    elif hub.status >= 400:
        fix = f"check again with `validate-environment {plan.environment.value}`, or set another hub with HF_ENDPOINT"
        yield error("model-unreachable", found=refused, expected="an answer below 400", fix=fix)
    if hub.ahead_s is not None and abs(hub.ahead_s) > CLOCK_LEEWAY_S:
        way = "behind" if hub.ahead_s > 0 else "ahead of"
        yield warning(
            "clock",
            found=f"this machine's clock is {abs(hub.ahead_s):.0f} s {way} {hub.hub}'s",
            expected=f"a clock within {CLOCK_LEEWAY_S} s, for certificates and signed downloads",
            fix="`sudo timedatectl set-ntp true`",
        )


class InspectedModel(Struct, frozen=True, kw_only=True):
    """One model of a plan, here and on its hub; `location` is what the engine loads.

    Args:
        longest_tokens: the longest request that its config.json allows; None where it is not here or says nothing.
        gated: the catalog's word on whether the hub asks for a token.
        hub: the hub's answer; None where it was not asked.
    """

    location: str
    files: Seen[ModelFiles]
    longest_tokens: int | None = None
    gated: bool | None = None
    hub: Seen[HubAnswer] | None = None
    has_token: bool = False


def inspect_models(machine: Machine) -> tuple[InspectedModel, ...]:
    """Look at what the engines load, model by model, each beside the others."""
    stack = machine.stack
    locations = [values[stack.engine.keys.model] for values in stack.models]
    begun = [(location, Later(partial(_inspect_model, stack, location))) for location in locations]
    answers = [(location, later.result()) for location, later in begun]
    return tuple(
        InspectedModel(location=location, files=seen) if isinstance(seen, Unseen) else seen
        for location, seen in answers
    )


def _inspect_model(stack: Stack, location: str) -> InspectedModel:
    user = (int(stack.env["STACKWRIGHT_UID"]), int(stack.env["STACKWRIGHT_GID"]))
    home = Path(stack.env["HF_HOME"])
    facts = safely(lambda: read_model(location, load_llms(), access=HubAccess(home=home, online=False)))
    known = None if isinstance(facts, Unseen) else facts
    longest = None if known is None else known.config.longest_tokens
    if location.startswith("/"):
        files = inspect_folder(Path(location), *user)
        return InspectedModel(location=location, files=files, longest_tokens=longest, gated=False)
    files = inspect_cache(location, find_cache(os.environ, home), *user, known.weight_bytes if known else None)
    gated = known.gated if known else None
    token, variables = _token(stack, home), _variables(stack)
    asks = not (files.complete or files.problem or is_offline(variables) or (gated and not token))
    return InspectedModel(
        location=location,
        files=files,
        longest_tokens=longest,
        gated=gated,
        hub=ask_hub(location, variables, token) if asks else None,
        has_token=bool(token),
    )


def _variables(stack: Stack) -> dict[str, str]:
    """Return the variables of this shell with the stack's way out over them."""
    login = safely(lambda: (stack.secrets / outside.LOGIN).read_text(encoding="ascii").strip())
    way_out = outside.way_out(stack.env, login if isinstance(login, str) else "")
    return {**os.environ, **stack.env, **way_out}


def _token(stack: Stack, home: Path) -> str | None:
    """Return the hub's token that the engine will have: a start refreshes the secret file from the person's own."""
    found = safely(lambda: find_hub_token(os.environ, home))
    if isinstance(found, str):
        return found
    kept = safely(lambda: (stack.secrets / HUB_TOKEN).read_text(encoding="ascii").strip())
    return kept if isinstance(kept, str) and kept else None


def _check_models(on: Subject, models: tuple[InspectedModel, ...]) -> Iterator[Finding]:
    for model in models:
        yield from check_model(on.plan, model.location, model.files)


def _check_length(
    on: Subject, models: tuple[InspectedModel, ...], merged: Seen[dict[str, Any]] | None
) -> Iterator[Finding]:
    return check_length(on.plan, on.env, models[0].longest_tokens, engine_variables(on.plan, merged))


MODELS = Observation(take=inspect_models, waits=True)
# HF_HUB_OFFLINE forbids to ask the hub.
OFFLINE = Observation(take=lambda machine: is_offline(_variables(machine.stack)))


FILES = Check(
    name="model",
    about="the model's files: all of the index, complete, readable for the stack's user",
    findings=tuple("model-missing model-incomplete model-unreadable".split()),
    rule=_check_models,
    observations=(MODELS,),
)


LENGTH = Check(
    name="length",
    about="the set context length against the limit of the model's config.json",
    findings=tuple("model-length".split()),
    rule=_check_length,
    observations=(MODELS, MERGED),
)
