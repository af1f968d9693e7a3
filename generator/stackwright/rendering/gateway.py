"""LiteLLM's configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stackwright.domain.catalog import order_release
from stackwright.domain.plan import Plan, ServedModel
from stackwright.domain.role import Role
from stackwright.domain.service import SettingRef
from stackwright.engines import engine_named
from stackwright.rendering.numbered import key_of
from stackwright.rendering.quoting import quote_yaml
from stackwright.services.gateway import LIMITS

_TEXT = frozenset("chat/completions completions responses messages messages/count_tokens".split())
ENDPOINTS = {
    Role.CHAT: _TEXT,
    Role.VISION: _TEXT,
    Role.EMBEDDING: frozenset({"embeddings", "rerank"}),  # vectors are ranked by their likeness, too
    Role.RERANK: frozenset({"rerank"}),
    Role.TRANSCRIPTION: frozenset({"audio/transcriptions", "audio/translations"}),
}
# What LiteLLM calls a model that does not write in conversations.
_MODES = {Role.EMBEDDING: "embedding", Role.RERANK: "rerank", Role.TRANSCRIPTION: "audio_transcription"}


_HEAD = """\
# Rendered by Stackwright for {environment}: LiteLLM's configuration, the same for both runtimes.
# Do not edit: `configure-gpu` writes it anew. Addresses and secrets come from the process environment.
model_list:"""
_ROUTER = """\
# Timeout and cooldown: REQUEST_TIMEOUT and DEFAULT_COOLDOWN_TIME_SECONDS in the process environment.
router_settings:
  routing_strategy: os.environ/GATEWAY_ROUTING_STRATEGY
  num_retries: 2
  retry_policy: {TimeoutErrorRetries: 0} # no retry after a timeout"""
_REDIS_AND_REST = """\
  redis_host: os.environ/REDIS_HOST
  redis_port: os.environ/REDIS_PORT
  redis_password: os.environ/REDIS_PASSWORD
litellm_settings:
  callbacks: [prometheus, hooks.hooks]
  drop_params: true
  telemetry: false
general_settings:
  cancel_on_disconnect: true"""
_HEALTH_OF_REPLICAS = """\
  # What compose/gateway/health.py finds of each replica; forgotten after so many seconds.
  enable_health_check_routing: true
  health_check_staleness_threshold: 30"""
_KEYS = """\
  custom_auth: hooks.check_key
  master_key: os.environ/LITELLM_MASTER_KEY"""


def render_gateway(plan: Plan) -> str:
    """Return LiteLLM's configuration. Replicas of one model share its name: LiteLLM makes a group of them."""
    several_replicas = len(plan.replicas) > len({replica.model for replica in plan.replicas})
    aliases = [(alias, model.name) for model in plan.models for alias in model.aliases]
    lines = [_HEAD.format(environment=plan.environment.value), *_models(plan), *_cloud(plan), _ROUTER]
    lines += _chains("fallbacks", {fallback.model: fallback.to for fallback in plan.gateway.fallbacks})
    lines += _chains("context_window_fallbacks", {each.model: each.longer for each in plan.gateway.fallbacks})
    if aliases:
        lines += [
            "  model_group_alias:",
            *(f"    {quote_yaml(alias)}: {quote_yaml(model)}" for alias, model in aliases),
        ]
    lines += [_REDIS_AND_REST, *((_HEALTH_OF_REPLICAS,) if several_replicas else ()), _KEYS]
    return "\n".join(lines) + "\n"


def _models(plan: Plan) -> Iterator[str]:
    for model in plan.models:
        for name in (model.name, *(adapter.name for adapter in model.attached.adapters)):
            for replica in model.replicas:
                yield from _model(plan, model, name, replica.url_variable)


def _model(plan: Plan, model: ServedModel, name: str, address: str) -> Iterator[str]:
    """Yield the entry of one replica under the model's own name, or that of an adapter."""
    yield f"  - model_name: {quote_yaml(name)}"
    yield "    litellm_params:"
    yield f"      model: {quote_yaml(f'{engine_named(model.engine.name).gateway_prefix}/{name}')}"
    yield f"      api_base: {quote_yaml(f'os.environ/{address}')}"
    yield "      api_key: os.environ/ENGINE_KEY"
    yield "    model_info:"
    if model.role in _MODES:
        yield f"      mode: {quote_yaml(_MODES[model.role])}"
    yield (
        "      allowed_fails: 1 # the second failure within the cooldown takes the replica out, if there is another one"
    )
    if name != model.name:
        yield f"      base: {quote_yaml(model.name)} # an adapter: its requests wait in the model's own queue"
    if direct := _direct(plan, model):
        yield f"      direct: [{', '.join(direct)}] # what the engine answers in the client's own form"
    yield "      limits: # compose/gateway/models.py reads them"
    yield from (f"        {word}: os.environ/{key}" for word, key in _limits(plan, model).items())


def _cloud(plan: Plan) -> Iterator[str]:
    for cloud in plan.gateway.cloud:
        yield "  # Used only if `fallbacks` or a client names it: the prompt then leaves this host."
        yield f"  - model_name: {quote_yaml(cloud.name)}"
        yield "    litellm_params:"
        yield f"      model: {quote_yaml(cloud.model)}"
        if cloud.address:
            yield f"      api_base: {quote_yaml(cloud.address)}"
        yield f"      api_key: {quote_yaml(f'os.environ/{cloud.secret}')}"


def _chains(word: str, chains: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if chains:
        yield f"  {word}:"
    for model, substitutes in chains.items():
        yield f"    - {quote_yaml(model)}:"
        yield from (f"        - {quote_yaml(each)}" for each in substitutes)
        if not substitutes:
            yield "        [] # without it, LiteLLM would send requests that are too long to the fallbacks above"


def _direct(plan: Plan, model: ServedModel) -> list[str]:
    """Return the endpoints of a model's role that the planned release of its engine answers itself."""
    release = order_release(plan.engine.version)
    endpoints = engine_named(model.engine.name).endpoints
    own = [name for name in endpoints if name in ENDPOINTS[model.role]]
    return [name for name in own if release >= order_release(endpoints[name])]


def _limits(plan: Plan, model: ServedModel) -> dict[str, str]:
    # Where another model takes a longer context, the longest input is that one's: LiteLLM hands it on.
    chains = (fallback.longer for fallback in plan.gateway.fallbacks if fallback.model == model.name)
    longer = next((chain[0] for chain in chains if chain), None)
    whose = {"input_tokens": longer or model.name}
    return {word: key_of(plan, SettingRef(key=key, model=whose.get(word, model.name))) for word, key in LIMITS.items()}
