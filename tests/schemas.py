"""The JSON Schemas of docs/reference/schemas: made from the records that read and write those documents.

Beside them a validator for the words that msgspec's schemas are made of. Touches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields
from stackwright.domain.host import HOST_SCHEMA, Host
from stackwright.domain.load import LOAD_SCHEMA, LoadResult
from stackwright.domain.plan import PLAN_SCHEMA, Gateway, Memory, Plan, PlannedEngine, Replica, ServedModel
from stackwright.domain.role import Role
from stackwright.domain.running import StackStatus
from stackwright.domain.service import ServiceState
from stackwright.domain.wishes import WISHES_SCHEMA, Wishes
from stackwright.project.generations import Generation

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def derive(name: str, base: type[Struct], left_out: tuple[str, ...] = (), **other: Any) -> type[Struct]:
    """Return a record with the fields of another, some left out, some of another kind, some more, all required."""
    kept = [(one.name, other.pop(one.name, one.type)) for one in fields(base) if one.name not in left_out]
    return msgspec.defstruct(name, [*kept, *other.items()], kw_only=True, namespace={"__doc__": base.__doc__})


def plan_document() -> type[Struct]:
    """Return the record of what rendering/plan_document.py writes."""
    group = msgspec.defstruct(
        "Group",
        [("model", str), ("role", Role), ("aliases", tuple[str, ...]), ("exclusive", str | None), ("pinned", bool)],
        namespace={"__doc__": "A model as the gateway groups its replicas."},
    )
    gateway = derive("GatewayDocument", Gateway, models=tuple[str, ...], groups=tuple[group, ...])  # type: ignore[valid-type]
    model = derive("ModelDocument", ServedModel, replicas=tuple[str, ...], forecast=Memory | None)
    return derive(
        "PlanDocument",
        Plan,
        gateway=gateway,
        models=tuple[model, ...],  # type: ignore[valid-type]
        engine=PlannedEngine,
        replicas=tuple[Replica, ...],
    )


def status_document() -> type[Struct]:
    """Return the record of what `status --json` prints."""
    service = derive("ServiceDocument", ServiceState, since=str | None, since_s=float | None)
    return derive("StatusDocument", StackStatus, services=tuple[service, ...], generations=tuple[Generation, ...])  # type: ignore[valid-type]


def make_schemas() -> dict[str, dict[str, Any]]:
    """Return each document's schema by its name."""
    made = {
        "host": make_schema(Host, "A host snapshot: `stackwright detect -o FILE`, `--host FILE`", HOST_SCHEMA),
        "wishes": make_schema(Wishes, "Wishes: envs/common.yaml, envs/ENV.yaml", WISHES_SCHEMA),
        "plan": make_schema(plan_document(), "A plan: `stackwright plan --json`, plan.json", PLAN_SCHEMA),
        "status": make_schema(status_document(), "A running stack: `stackwright status --json`"),
        "bench": make_schema(LoadResult, "A load test: a stored result, `result` in `bench --json`", LOAD_SCHEMA),
    }
    for name in ("host", "wishes"):
        for record in made[name]["$defs"].values():
            if "properties" in record:
                record["additionalProperties"] = False
    return {**made, "wishes": file_of_wishes(made["wishes"])}


def make_schema(kind: type[Struct], title: str, number: int | None = None) -> dict[str, Any]:
    """Return the schema of a record, its own texts on one line; `number`: of the format."""
    document: dict[str, Any] = msgspec.json.schema(kind)
    for record in document["$defs"].values():
        if "description" in record:
            record["description"] = " ".join(record["description"].replace("None", "null").split())
    if number is not None:
        document["$defs"][kind.__name__]["properties"]["schema"] = {"const": number}
    return {"$schema": DIALECT, "title": title, **document}


def file_of_wishes(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what one of the two files may be: a null, or nothing, leaves a key to the other."""
    whole = schema["$defs"]["Wishes"]
    own = {
        name: one if name == "schema" else {"anyOf": [{"type": "null"}, one]}
        for name, one in whole["properties"].items()
    }
    return {**schema, "$defs": {**schema["$defs"], "Wishes": {**whole, "properties": own, "required": ["schema"]}}}


TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}
# What says nothing of a value; any other word that is not known here is an error of this validator's.
NOTES = {"$schema", "$defs", "title", "description", "default"}


def problems(value: object, schema: Mapping[str, Any], whole: Mapping[str, Any], where: str = "$") -> Iterator[str]:
    """Yield what is wrong with a document; `whole`: the schema in which references are found."""
    for word, rule in schema.items():
        if word not in NOTES:
            yield from RULES[word](value, rule, schema, whole, where)


def _reference(value: object, rule: str, _: object, whole: Mapping[str, Any], where: str) -> Iterator[str]:
    yield from problems(value, whole["$defs"][rule.removeprefix("#/$defs/")], whole, where)


def _type(value: object, rule: str, _: object, __: object, where: str) -> Iterator[str]:
    if not isinstance(value, TYPES[rule]) or (isinstance(value, bool) and rule != "boolean"):
        yield f"{where}: no {rule}: {value!r}"


def _any_of(value: object, rule: list[Any], _: object, whole: Mapping[str, Any], where: str) -> Iterator[str]:
    found = [list(problems(value, option, whole, where)) for option in rule]
    if all(found):
        yield f"{where}: {' | '.join(said for each in found for said in each)}"


def _properties(
    value: object, rule: Mapping[str, Any], _: object, whole: Mapping[str, Any], where: str
) -> Iterator[str]:
    if isinstance(value, dict):
        for name in rule.keys() & value.keys():
            yield from problems(value[name], rule[name], whole, f"{where}.{name}")


def _further(
    value: object, rule: object, schema: Mapping[str, Any], whole: Mapping[str, Any], where: str
) -> Iterator[str]:
    further = value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ()
    for name in further:
        if rule is False:
            yield f"{where}: unknown key {name}"
        elif isinstance(rule, dict) and isinstance(value, dict):
            yield from problems(value[name], rule, whole, f"{where}.{name}")


def _items(
    value: object, rule: object, schema: Mapping[str, Any], whole: Mapping[str, Any], where: str
) -> Iterator[str]:
    if isinstance(value, list) and isinstance(rule, dict):
        for position, item in enumerate(value[len(schema.get("prefixItems", ())) :]):
            yield from problems(item, rule, whole, f"{where}[{position}]")


def _first_items(value: object, rule: list[Any], _: object, whole: Mapping[str, Any], where: str) -> Iterator[str]:
    if isinstance(value, list):
        for position, (item, one) in enumerate(zip(value, rule, strict=False)):
            yield from problems(item, one, whole, f"{where}[{position}]")


def _required(value: object, rule: list[str], _: object, __: object, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{where}: {name} is missing" for name in rule if name not in value)


def _one_of(value: object, rule: list[object], _: object, __: object, where: str) -> Iterator[str]:
    if not any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in rule):
        yield f"{where}: none of {rule}: {value!r}"


def _pattern(value: object, rule: str, _: object, __: object, where: str) -> Iterator[str]:
    if isinstance(value, str) and not re.search(rule, value):
        yield f"{where}: not as {rule}: {value!r}"


def _count(sign: int) -> Any:
    def check(value: object, rule: int, _: object, __: object, where: str) -> Iterator[str]:
        if isinstance(value, list) and sign * len(value) > sign * rule:
            yield f"{where}: {len(value)} items, where {rule} bound them"

    return check


RULES: Mapping[str, Any] = {
    "$ref": _reference,
    "type": _type,
    "anyOf": _any_of,
    "properties": _properties,
    "additionalProperties": _further,
    "items": _items,
    "prefixItems": _first_items,
    "required": _required,
    "enum": _one_of,
    "const": lambda value, rule, schema, whole, where: _one_of(value, [rule], schema, whole, where),
    "pattern": _pattern,
    "minItems": _count(-1),
    "maxItems": _count(1),
}
