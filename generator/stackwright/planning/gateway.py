"""How the gateway chooses among replicas, how long it waits, and how much it lets in. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from stackwright.domain.host import Gpu
from stackwright.domain.plan import Fallback, Plan, ServedModel, Setting
from stackwright.domain.wishes import GatewayWishes
from stackwright.engines import engine_named
from stackwright.engines.protocol import Engine
from stackwright.errors import UsageError
from stackwright.planning.cloud import check_cloud
from stackwright.planning.switching import switch_s
from stackwright.services.gateway import MOST_SLOTS
from stackwright.units import MIB

DECISION = "docs/decisions/0031-gateway-limits.md"
HEALTH = "docs/decisions/0034-fallbacks-and-health.md"
BODIES = "docs/decisions/0036-door-and-workers.md"
LANE = "docs/decisions/0043-direct-lane.md"
REPLICAS = "docs/decisions/0061-replica-choice.md"
LITELLM = "LiteLLM 1.108.0"
UNLIMITED = "all clients share one key; see GATEWAY_MAX_CONCURRENT_REQUESTS"
REQUEST_TIMEOUT_S = 300
# LiteLLM's own default (constants.py, DEFAULT_COOLDOWN_TIME_SECONDS): a restarted replica is back within this time.
COOLDOWN_S = 5
# Kubernetes gives a pod as long by default (terminationGracePeriodSeconds, read on 2026-11-29).
DRAIN_S = 30
# Four requests wait behind each that runs: one that works for a fifth of the timeout still leaves the last of them its
# answer.
WAITING_PER_REQUEST = 4
# What Anthropic's API takes (docs, "Request size limits": 32 MB for messages, 2026-11-21): room for several pictures.
LEAST_BODY_BYTES = 32 * MIB
# Judgement: few tokens have more than ten bytes, and JSON writes up to six for one that is not ASCII.
BODY_BYTES_PER_TOKEN = 64


def gateway_settings(
    engine: Engine, groups: tuple[tuple[Gpu, ...], ...], values: Mapping[str, str], switches: int = 0
) -> dict[str, Setting]:
    """Return the gateway's routing and limits for replicas on these groups of GPUs, one empty group on a CPU.

    `values`: the engine's settings and the pins; a pin of one limit moves those that follow from it. `switches`: how
    many models may be loaded one after the other ahead of a request, where models take turns.
    """
    replicas = len(groups)
    context = values[engine.keys.context]
    requests = values.get(engine.keys.requests or "") or str(engine.processor_requests)
    working = min(replicas * int(requests), MOST_SLOTS)
    of_which = f"engine limit {replicas} × {requests}" if replicas > 1 else f"engine limit {requests}"
    working_in_force = int(values.get("GATEWAY_MAX_CONCURRENT_REQUESTS") or working)
    return {
        "GATEWAY_ROUTING_STRATEGY": choose_strategy(
            groups, caches=values.get(engine.keys.prefix_caching or "") != "false"
        ),
        "GATEWAY_DIRECT": _setting("on", "LiteLLM costs a request 9 ms of a processor, and each event 0.6 ms", LANE),
        "GATEWAY_REQUEST_TIMEOUT_S": _request_timeout(switches, switch_s(values)),
        "GATEWAY_COOLDOWN_S": _setting(
            str(COOLDOWN_S), "a replica that failed twice is skipped for this long", f"{LITELLM} constants.py"
        ),
        "GATEWAY_DRAIN_S": _setting(
            str(DRAIN_S), "open requests may end; new ones are refused", "Kubernetes: terminationGracePeriodSeconds"
        ),
        "GATEWAY_MAX_CONCURRENT_REQUESTS": _setting(
            str(working), f"{of_which}; further requests queue at the gateway", DECISION
        ),
        "GATEWAY_MAX_QUEUED_REQUESTS": _setting(
            str(min(WAITING_PER_REQUEST * working_in_force, MOST_SLOTS)),
            (
                f"{WAITING_PER_REQUEST} for each of {working_in_force} running: in time if a request takes a fifth "
                "of the timeout"
            ),
            DECISION,
        ),
        "GATEWAY_MAX_INPUT_TOKENS": _longest_input(context),
        "GATEWAY_MAX_BODY_BYTES": _longest_body(
            int(values.get("GATEWAY_MAX_INPUT_TOKENS") or _longest_input(context).value)
        ),
        "GATEWAY_KEY_REQUESTS_PER_MINUTE": _setting("0", UNLIMITED, DECISION),
        "GATEWAY_KEY_TOKENS_PER_MINUTE": _setting("0", UNLIMITED, DECISION),
    }


def _request_timeout(switches: int, each_s: int) -> Setting:
    """Return how long a request may take. `switches`: loads of models that may come before it, of `each_s` seconds."""
    why = "time in the queue and at work"
    of_which = (
        f"{each_s} s for a model switch" if switches == 1 else f"{each_s} s for each of {switches} model switches"
    )
    switching = f"; plus {of_which}" if switches else ""
    return _setting(str(REQUEST_TIMEOUT_S + switches * each_s), why + switching, DECISION)


def choose_strategy(groups: tuple[tuple[Gpu, ...], ...], *, caches: bool = True) -> Setting:
    """Choose how the gateway picks a replica. `caches`: whether engines keep what prompts begin with.

    The direct lane takes every other value than `least-busy` for: the one that has a prompt's beginning in its cache,
    unless it is busier than most.
    """
    if len(groups) > 1 and not caches:
        return _setting("least-busy", "no prefix caching: a replica is as good as another", REPLICAS)
    if len(groups) == 1:
        return _setting("simple-shuffle", "only one replica", f"{LITELLM} simple_shuffle.py")
    if len({tuple(gpu.name for gpu in group) for group in groups}) > 1:
        return _setting(
            "latency-based-routing",
            "the replicas' GPUs differ: faster ones get more requests",
            f"{LITELLM} router_strategy/lowest_latency.py",
        )
    return _setting("simple-shuffle", "equal replicas: a random choice", HEALTH)


def problem_with_name(name: str) -> str | None:
    """Return what is allowed if LiteLLM would read a name that clients ask for as more than a name; None if it is one.

    LiteLLM 1.108.0: a `*` matches any text, so that a misspelt name would go there (router.py, `_add_deployment`), and
    what begins with `os.environ/` is replaced by that variable's value (proxy_server.py, `_resolved_config_value`).
    """
    if "*" in name or name.startswith("os.environ/"):
        return "a name without `*` that does not begin with `os.environ/`"
    return None


def with_fallbacks(plan: Plan, wishes: GatewayWishes, *, named: bool = False) -> Plan:
    """Return the plan with the wished fallbacks, each name or alias resolved, and the models of a cloud among them.

    `named`: the command line named the models. What the environment says of others is then passed over with a warning.

    Raises:
        UsageError: a name is none of the plan's models, a model has two chains, would stand in for itself or for one
            that it cannot replace, or a model of a cloud stands in for none.
    """
    where = f"envs/{plan.environment.value}.yaml: gateway"
    served = {name: model.name for model in plan.models for name in (model.name, *model.aliases)}
    known = {**served, **{cloud.name: cloud.name for cloud in wishes.cloud}}
    absent: tuple[str, ...] = ()
    if named:
        wishes, absent = _without_absent(wishes, known)
    chains = _resolve_chains(wishes, served, known, where)
    for model, to in chains.items():
        _check_chain(plan, model, to, where)
    fallbacks = tuple(Fallback(model=model, to=to, longer=_longer(plan, model, to)) for model, to in chains.items())
    passed = f"{where}.fallbacks: skipped, since --model does not select them: {', '.join(absent)}"
    plan = replace(
        plan,
        gateway=replace(plan.gateway, fallbacks=fallbacks, cloud=wishes.cloud),
        warnings=(*plan.warnings, passed) if absent else plan.warnings,
    )
    check_cloud(plan)
    return plan


def _without_absent(wishes: GatewayWishes, known: Mapping[str, str]) -> tuple[GatewayWishes, tuple[str, ...]]:
    """Return the wishes without the names that are not `known` and the clouds that nothing asks then, and
    those names.
    """
    chains = {
        name: tuple(substitute for substitute in to if substitute in known)
        for name, to in wishes.fallbacks.items()
        if name in known
    }
    asked = {substitute for to in chains.values() for substitute in to}
    left = replace(
        wishes,
        fallbacks={name: to for name, to in chains.items() if to},
        cloud=tuple(cloud for cloud in wishes.cloud if cloud.name in asked),
    )
    names = dict.fromkeys(named for name, to in wishes.fallbacks.items() for named in (name, *to))
    return left, tuple(name for name in names if name not in known)


def _resolve_chains(
    wishes: GatewayWishes, served: Mapping[str, str], known: Mapping[str, str], where: str
) -> dict[str, tuple[str, ...]]:
    """Return, for each model, the models that stand in for it, all by their own names."""
    chains: dict[str, tuple[str, ...]] = {}
    for name, substitutes in wishes.fallbacks.items():
        model = _resolve(name, served, where)
        if model in chains:
            raise UsageError(
                (
                    f"{where}.fallbacks: found {model} twice, the second time as `{name[:80]}`, allowed: one list "
                    "per model"
                ),
                hint="join the lists: the gateway reads the first one only",
            )
        chains[model] = tuple(dict.fromkeys(_resolve(substitute, known, where) for substitute in substitutes))
    return chains


def _resolve(name: str, models: Mapping[str, str], where: str) -> str:
    if name in models:
        return models[name]
    allowed = ", ".join(dict.fromkeys(models.values()))
    raise UsageError(
        f"{where}.fallbacks: found `{name[:80]}`, allowed: {allowed}", hint="name models that this environment serves"
    )


def _check_chain(plan: Plan, model: str, to: tuple[str, ...], where: str) -> None:
    """Refuse a chain that leads to its own model, or through one that makes no text. A model of a cloud writes."""
    if model in to:
        raise UsageError(f"{where}.fallbacks: {model} cannot be its own fallback", hint="remove it from its own list")
    mute = next((served for served in plan.models if served.name in (model, *to) and not served.role.generates), None)
    if mute is not None:
        raise UsageError(
            f"{where}.fallbacks: found {mute.name}, which is for {mute.role.value}, allowed: chat models",
            hint="remove it: embeddings and scores of two models cannot be compared",
        )


def _longer(plan: Plan, model: str, to: tuple[str, ...]) -> tuple[str, ...]:
    """Return those with a longer context, the longest first.

    A cloud's is not known: what is too long never goes there.
    """
    lengths = {served.name: _context(served) for served in plan.models if served.name in (model, *to)}
    lengths = {name: lengths[name] for name in (model, *to) if name in lengths}
    return tuple(sorted((name for name in lengths if lengths[name] > lengths[model]), key=lambda name: -lengths[name]))


def _context(model: ServedModel) -> int:
    """Return the context of a model in tokens; 0 where the engine finds it."""
    setting = model.settings[engine_named(model.engine.name).keys.context]
    return 0 if setting.value == "auto" else int(setting.value)


def _longest_input(length: str) -> Setting:
    if length == "auto":
        return _setting("0", "the engine finds its length at start and refuses longer inputs", DECISION)
    longest = max(1, int(length) - 1)
    return _setting(str(longest), f"context of {int(length):,} minus one token for the answer", DECISION)


def _longest_body(tokens: int) -> Setting:
    """Return how long a request may be that brings so long an input."""
    if tokens * BODY_BYTES_PER_TOKEN <= LEAST_BODY_BYTES:
        return _setting(str(LEAST_BODY_BYTES), "room for images; longer requests are refused unread", BODIES)
    reason = f"{BODY_BYTES_PER_TOKEN} bytes for each of {tokens:,} tokens; longer requests are refused unread"
    return _setting(str(min(tokens * BODY_BYTES_PER_TOKEN, 2**31 - 1)), reason, BODIES)


def _setting(value: str, reason: str, source: str) -> Setting:
    return Setting(value=value, reason=reason, source=source)
