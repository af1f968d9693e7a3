"""What LiteLLM's service and configuration become: names, fallbacks, clouds and settings of the gateway. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stackwright.domain.catalog import REFUSED_HOLES, holes_of
from stackwright.domain.cloud import CloudModel
from stackwright.domain.image_pins import is_moving, release_of
from stackwright.domain.setting_spec import problem_with
from stackwright.engines.vllm.importing.compose import ContainerService
from stackwright.engines.vllm.importing.engine_wishes import EngineWishes, Surroundings
from stackwright.engines.vllm.importing.gateway_file import Deployment, GatewayFile
from stackwright.engines.vllm.importing.notes import Fate, Note, Taken
from stackwright.engines.vllm.importing.tree import Node, Spot
from stackwright.engines.vllm.importing.words import Located
from stackwright.planning.cloud import problem_with_cloud
from stackwright.planning.gateway import problem_with_name
from stackwright.settings import declared_settings

_LOCAL = (
    "localhost",
    "127.0.0.1",
    "0.0.0.0",
    "host.docker.internal",
    "172.17.0.1",
    "gateway.docker.internal",
)  # what is compared, not bound
_SETTINGS: Mapping[str, str] = {
    "routing_strategy": "GATEWAY_ROUTING_STRATEGY",
    "request_timeout": "GATEWAY_REQUEST_TIMEOUT_S",
    "timeout": "GATEWAY_REQUEST_TIMEOUT_S",
    "cooldown_time": "GATEWAY_COOLDOWN_S",
}
_NO_DATABASE = "no database: keys, limits and counts are files (docs/how-to/keys.md)"
_OWN_REDIS = "the stack brings its own Redis"
_WATCHED = "a replica that fails twice is skipped; other errors are retried twice (docs/how-to/fallbacks.md)"
_WHY_NOT: Mapping[str, str] = {
    **dict.fromkeys(
        ("database_url", "store_model_in_db", "disable_spend_logs", "database_connection_pool_limit"), _NO_DATABASE
    ),
    **dict.fromkeys(("redis_host", "redis_port", "redis_url", "cache", "cache_params"), _OWN_REDIS),
    **dict.fromkeys(("num_retries", "allowed_fails", "retry_after", "retry_policy", "allowed_fails_policy"), _WATCHED),
    "drop_params": "requests go to the engines as they are",
    "telemetry": "the stack sends none",
    "context_window_fallbacks": "a fallback with a longer context also gets what is too long for the first",
    "rpm": "limits belong to keys here (docs/how-to/keys.md)",
    "tpm": "limits belong to keys here (docs/how-to/keys.md)",
}
_OTHERWISE = "the stack writes the gateway's file itself, without it"


class GatewayReader:
    """Goes through the gateway's service and file, and collects what it takes and says."""

    def __init__(
        self, engines: tuple[EngineWishes, ...], services: tuple[ContainerService, ...], around: Surroundings
    ) -> None:
        self.engines = engines
        self.services = services
        self.around = around
        self.notes: list[Note] = []
        self.taken: list[Taken] = []
        self.aliases: dict[str, list[Located]] = {}
        self.model_of: dict[str, str] = {}
        for engine in engines:
            for name in engine.clients if engine.model else ():
                self.model_of.setdefault(name.text, engine.model.text if engine.model else "")

    def say(self, at: Spot, fate: Fate, subject: str, why: str) -> None:
        self.notes.append(Note(at=at, fate=fate, subject=subject[:100], why=why))

    def read_file(self, file: GatewayFile) -> None:
        """Translate a configuration."""
        clouds = [deployment for deployment in file.deployments if not self._read_deployment(deployment)]
        for alias, to in file.aliases.items():
            self._alias(alias, self.model_of.get(to.text), to.at, f"model_group_alias {alias}: {to.text}")
        self._chains(file, {cloud.name: cloud for cloud in clouds})
        for key, node in file.settings.items():
            self._setting(key, node)
        for unread in file.unread:
            self.say(unread.at, Fate.DROPPED, unread.text, _OTHERWISE)

    def _read_deployment(self, deployment: Deployment) -> bool:
        """Translate an entry that an engine of the files answers; return False where that is for a cloud to do."""
        for other in deployment.other:
            self.say(other.at, Fate.DROPPED, f"{deployment.name}: {other.text}", _WHY_NOT.get(other.text, _OTHERWISE))
        if "*" in deployment.name or "*" in deployment.model:
            self.say(deployment.at, Fate.DROPPED, deployment.name, "a name with `*`: each model is named here")
            return True
        engine = self._engine_at(deployment)
        if engine is None:
            return self._without_engine(deployment)
        if deployment.bare_key and deployment.key_at is not None:
            self.say(
                deployment.key_at,
                Fate.DROPPED,
                f"{deployment.name}: api_key",
                "the stack makes the engine's key itself",
            )
        if engine.model is None:
            self.say(
                deployment.at, Fate.DROPPED, deployment.name, f"its engine {engine.setup.service.name} was not taken"
            )
            return True
        self._check_name(deployment, engine)
        self._alias(deployment.name, engine.model.text, deployment.at, f"model_name {deployment.name}")
        return True

    def _engine_at(self, deployment: Deployment) -> EngineWishes | None:
        for engine in self.engines:
            service = engine.setup.service
            inner = inner_port(engine)
            if deployment.host in service.names:
                if deployment.port != inner and deployment.base is not None:
                    why = f"{service.name} listens on {inner}, and nothing answers on {deployment.port}"
                    self.say(deployment.base.at, Fate.BROKEN, f"api_base {deployment.base.text}", why)
                return engine
            if deployment.host in _LOCAL and deployment.port in _published(service, inner):
                return engine
        return None

    def _without_engine(self, deployment: Deployment) -> bool:
        other = next((service for service in self.services if deployment.host in service.names), None)
        if other is not None:
            why = f"{other.name} is no vLLM engine; what speaks OpenAI's protocol can be a fallback (gateway.cloud)"
            self.say(deployment.at, Fate.DROPPED, deployment.name, why)
            return True
        inside = deployment.base is not None and (deployment.host is None or "." not in deployment.host)
        if deployment.provider in ("hosted_vllm", "vllm") or (deployment.host or "") in _LOCAL or inside:
            told = deployment.base.text if deployment.base else "without api_base"
            why = f"no engine of these files is at {told}; another machine's can be a fallback (gateway.cloud)"
            self.say(deployment.at, Fate.DROPPED, deployment.name, why)
            return True
        return False

    def _check_name(self, deployment: Deployment, engine: EngineWishes) -> None:
        names = [name.text for name in engine.clients]
        if names and deployment.model not in names:
            why = f"the engine answers 404: it calls its model {', '.join(names)}"
            self.say(deployment.at, Fate.BROKEN, f"model {deployment.model}", why)

    def _alias(self, name: str, model: str | None, at: Spot, said: str) -> None:
        if model is None:
            self.say(at, Fate.DROPPED, said, "it stands for nothing that was taken")
        elif self.model_of.setdefault(name, model) != model:
            why = f"{self.model_of[name]} has this name; one name is one model here, with as many replicas as fit"
            self.say(at, Fate.DROPPED, said, why)
        elif problem := problem_with_name(name):
            self.say(at, Fate.DROPPED, said, f"allowed: {problem}")
        else:
            self.aliases.setdefault(model, []).append(Located(text=name, at=at, lines=((at.line, said),)))

    def _chains(self, file: GatewayFile, clouds: Mapping[str, Deployment]) -> None:
        asked: set[str] = set()
        for name, to in file.fallbacks:
            said = f"fallbacks {name.text}: {', '.join(to)}"
            model = self.model_of.get(name.text)
            known = [each for each in to if each in self.model_of or (each in clouds and self._cloud(clouds[each]))]
            if model is None or not known:
                self.say(name.at, Fate.DROPPED, said, "it names nothing that was taken")
                continue
            asked |= set(known)
            self.taken.append(Taken(path=("gateway", "fallbacks", name.text), value=known, at=name.at, subject=said))
        for cloud, deployment in clouds.items():
            if cloud in asked:
                entry = self._cloud(deployment)
                self.taken.append(
                    Taken(path=("gateway", "cloud"), value=[entry], at=deployment.at, subject=f"model_name {cloud}")
                )
                self._cloud_key(deployment)
            else:
                why = "nothing falls back to it: a cloud only stands in for a model here (docs/how-to/fallbacks.md)"
                problem = problem_with_cloud(_cloud_model(deployment))
                if problem is not None and problem[0] == "model":
                    why = f"LiteLLM's {deployment.provider} is no provider that can stand in (docs/how-to/fallbacks.md)"
                elif problem is not None and any(cloud in to for _, to in file.fallbacks):
                    why = f"its {problem[0]} cannot be taken: {problem[1].rpartition('allowed: ')[2]}"
                self.say(deployment.at, Fate.DROPPED, cloud, why)
                self._cloud_key(deployment, only_bare=True)

    def _cloud(self, deployment: Deployment) -> dict[str, str] | None:
        cloud = _cloud_model(deployment)
        if problem_with_cloud(cloud) is not None or problem_with_name(cloud.name):
            return None
        address = {"address": cloud.address} if cloud.address else {}
        return {"name": cloud.name, "model": cloud.model, "key": cloud.key, **address}

    def _cloud_key(self, deployment: Deployment, *, only_bare: bool = False) -> None:
        if deployment.key_at is None or (only_bare and not deployment.bare_key):
            return
        where = f"install -m 600 /dev/stdin envs/.secrets/ENV/{_cloud_model(deployment).secret}"
        why = "not copied" if only_bare else f"once the environment is configured, paste it into its file: `{where}`"
        self.say(deployment.key_at, Fate.SECRET, f"{deployment.name}: api_key", why)

    def _setting(self, key: str, node: Node) -> None:
        said = (
            f"{key}: {node.text[:60]}"
            if node.text is not None and not self.around.secret(f"{key}={node.text}")
            else key
        )
        if key == "master_key":
            why = "clients show the stack's own: `stackwright key ENV`; to keep yours, write it into " + _MASTER
            self.say(node.at, Fate.SECRET, key, why)
        elif node.text is not None and self.around.secret(f"{key}={node.text}"):
            self.say(node.at, Fate.SECRET, key, "not copied")
        elif key in _SETTINGS and node.text is not None:
            self.pin(_SETTINGS[key], node.text, node.at, said)
        else:
            self.say(node.at, Fate.DROPPED, said, _WHY_NOT.get(key, _OTHERWISE))

    def pin(self, key: str, text: str, at: Spot, said: str) -> None:
        """Take a setting of the gateway, where its value is one."""
        spec = declared_settings().by_key[key]
        text = re.sub(r"\.0+$", "", text)
        problem = problem_with(spec, text)
        if problem is not None:
            self.say(at, Fate.DROPPED, said, f"allowed as {key}: {problem}")
            return
        value: Any = int(text) if text.isdecimal() else text
        self.taken.append(Taken(path=("settings", key), value=value, at=at, subject=said))

    def read_service(self, service: ContainerService, file: GatewayFile | None) -> None:
        """Translate LiteLLM's own service: its port and workers."""
        self._check_image(service)
        words = [word.text for word in service.words]
        for position, word in enumerate(service.words):
            name, _, inline = word.text.partition("=")
            if name == "--num_workers" and (inline or position + 1 < len(words)):
                value = inline or words[position + 1]
                self.pin("LITELLM_NUM_WORKERS", value, word.at, f"--num_workers {value}")
        published = [port for port in service.ports if port.host is not None]
        if published:
            first = published[0]
            self.taken.append(
                Taken(
                    path=("gateway", "port"),
                    value=first.host,
                    at=first.at,
                    subject=f"port {first.host}:{first.container}",
                )
            )
            self._check_bound(service, file)
        for variable, told in service.variables.items():
            secret = self.around.secret(f"{variable}=0123456789") or self.around.secret(told.text)
            if variable == "LITELLM_MASTER_KEY":
                why = "clients show the stack's own: `stackwright key ENV`; to keep yours, write it into " + _MASTER
                self.say(told.at, Fate.SECRET, variable, why)
            elif secret:
                self.say(told.at, Fate.SECRET, variable, "not copied")
            else:
                self.say(told.at, Fate.DROPPED, variable, _NO_DATABASE if "DATABASE" in variable else _OTHERWISE)

    def _check_bound(self, service: ContainerService, file: GatewayFile | None) -> None:
        first = next(port for port in service.ports if port.host is not None)
        if first.is_local:
            return
        keyed = "LITELLM_MASTER_KEY" in service.variables or (file is not None and "master_key" in file.settings)
        said = f"port {first.host} on {first.reach}"
        if keyed:
            self.say(first.at, Fate.DROPPED, said, "127.0.0.1 alone, until you publish it: docs/how-to/publish.md")
        else:
            why = "answers everybody who reaches this machine, without a key; here: 127.0.0.1, and a key"
            self.say(first.at, Fate.UNSAFE, said, why)

    def _check_image(self, service: ContainerService) -> None:
        image = service.image
        if image is None:
            return
        own = self.around.catalog.service("gateway").version
        version, digest = release_of(image.text), image.text.partition("@")[2]
        advisories = [row for row in self.around.catalog.advisories() if row.program == "litellm"]
        recalled = next(
            (row for row in advisories if digest in row.digests or (row.floating and is_moving(image.text))), None
        )
        grave = (
            [hole for hole in holes_of("litellm", version, tuple(advisories)) if hole.kind in REFUSED_HOLES]
            if version
            else []
        )
        bad = recalled or (grave[0] if grave else None)
        if bad is not None:
            self.say(image.at, Fate.UNSAFE, image.text, f"{bad.id}: {bad.summary}; here: LiteLLM {own}")
        else:
            self.say(
                image.at,
                Fate.DROPPED,
                image.text,
                f"the stack's gateway is LiteLLM {own}; its image can be pinned (LITELLM_IMAGE)",
            )


_MASTER = "envs/.secrets/ENV/keys/litellm_master_key"


def inner_port(engine: EngineWishes) -> int:
    """Return the port that an engine listens on in its container."""
    told = next((flag.values[0] for flag in engine.setup.launch.flags if flag.name == "--port" and flag.values), "8000")
    return int(told) if told.isdecimal() else 8000


def _published(service: ContainerService, inner: int) -> tuple[int, ...]:
    """Return the ports of the host that lead to an engine."""
    mode = service.other.get("network_mode")
    shared = (inner,) if mode is not None and mode.text == "host" else ()
    return (*shared, *(port.host for port in service.ports if port.host is not None and port.container == inner))


def _cloud_model(deployment: Deployment) -> CloudModel:
    """Return an entry as a model of a cloud; its key is named by the variable that holds it, else by the provider."""
    name = re.sub(r"_?(api)?_?(key|token)$", "", (deployment.key or deployment.provider).lower())
    key = re.sub(r"[^a-z0-9_]+", "_", name).strip("_")[:20] or "cloud"
    return CloudModel(
        name=deployment.name,
        model=f"{deployment.provider}/{deployment.model}",
        key=key if key[0].isalpha() else f"k_{key}"[:20],
        address=deployment.base.text if deployment.base is not None else None,
    )
