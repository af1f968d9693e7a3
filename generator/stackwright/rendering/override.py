"""What the override template shows, and the check of what came out. Pure."""

from __future__ import annotations

from stackwright.domain.plan import Plan, Replica
from stackwright.domain.turns import Turn, format_turns
from stackwright.engines import engine_named
from stackwright.errors import StackError
from stackwright.rendering.environment import summarize
from stackwright.rendering.gateway import further_limits
from stackwright.rendering.numbered import flat_settings, number_of, written_key
from stackwright.rendering.quoting import literal_for_compose
from stackwright.settings import SWITCHING, bind_arguments, declared_settings


def override_context(plan: Plan, *, gateway_digest: str) -> dict[str, object]:
    """Return the template's values: one service per replica, and the gateway's addresses of the further ones.

    `gateway_digest` is the SHA-256 of the gateway's file.
    """
    port = engine_named(plan.engine.name).port
    return {
        "gateway_digest": gateway_digest,
        "environment": plan.environment.value,
        "summary": summarize(plan),
        "replicas": [_service(plan, replica, first=position == 0) for position, replica in enumerate(plan.engines)],
        "further": [
            (replica.name, {"variable": replica.url_variable, "value": f"http://{replica.name}:{port}/v1"})
            for replica in plan.engines[1:]
        ],
        "limits": further_limits(plan),
        "cloud_secrets": plan.gateway.cloud_secrets,
    }


def check_override(text: str, plan: Plan) -> None:
    """Parse the rendered override and compare it with the plan.

    Raises:
        StackError: they differ, which is a fault of the template, not of the user.
    """
    import yaml

    # libyaml's loader takes a tenth of the time: the text is ours.
    services = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["services"]
    for replica in plan.engines:
        service = services[replica.name]
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        found = tuple(uuid for device in devices for uuid in device["device_ids"])
        if found != plan.gpus_of(replica) or tuple(service["command"]) != _command(plan, replica):
            raise StackError(f"the rendered override does not say what the plan says about {replica.name}")


def _service(plan: Plan, replica: Replica, *, first: bool) -> dict[str, object]:
    number, flat = number_of(plan, plan.model(replica.model)), flat_settings(plan)
    loaded = plan.turns(replica)
    keys = engine_named(plan.engine.name).keys
    locations = (plan.model(turn.model).settings[keys.model].value for turn in loaded)
    own = {
        word: f"${{{written_key(key, number)}:?}}"
        for word, key in (("image", keys.image), ("shm_size", keys.shared_memory))
        if number > 1 and written_key(key, number) in flat
    }
    places = plan.core_range(replica)
    return {
        "name": replica.name,
        "extends": not first,
        "own": own,
        "command": _command(plan, replica),
        "environment": {**_variables(plan, replica), **({"ENGINE_PLACES": places} if places else {})},
        # The folder has the same path inside as outside, so that one location is true in both runtimes.
        "model_folders": tuple(
            dict.fromkeys(literal_for_compose(location) for location in locations if location.startswith("/"))
        ),
        "device_ids": plan.gpus_of(replica),
        "after": [each.name for each in plan.before(replica)],
    }


def _command(plan: Plan, replica: Replica) -> tuple[str, ...]:
    """Return what the service is started with: the engine's arguments, or those of all that take turns in it."""
    loaded = plan.turns(replica)
    if len(loaded) == 1:
        return _arguments(plan, replica)
    turns = tuple(
        Turn(
            name=literal_for_compose(each.model),
            arguments=_arguments(plan, each),
            environment=_variables(plan, each),
            pinned=plan.model(each.model).pinned,
        )
        for each in loaded
    )
    return (format_turns(turns, **{word: f"${{{key}}}" for word, key in SWITCHING.items()}),)


def _arguments(plan: Plan, replica: Replica) -> tuple[str, ...]:
    number = number_of(plan, plan.model(replica.model))
    flags = engine_named(plan.engine.name).flags
    return bind_arguments(replica.args, flags, lambda key: f"${{{written_key(key, number)}}}", literal_for_compose)


def _variables(plan: Plan, replica: Replica) -> dict[str, str]:
    number = number_of(plan, plan.model(replica.model))
    return {
        name: f"${{{written_key(name, number)}}}" if name in declared_settings().by_key else literal_for_compose(value)
        for name, value in replica.env
    }
