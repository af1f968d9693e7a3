"""A plan in ten to twenty lines that a person can judge, written from its JSON (docs/reference has the format)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

GIB = 2**30


def summarize(plan: Mapping[str, Any]) -> str:
    """Return the summary of a plan JSON document."""
    gateway = plan["gateway"]
    published = f"{gateway['bind']}:{gateway['port']}, {gateway['routing_strategy']}"
    rows = [
        ("plan", f"{plan['environment']}, {plan['mode']} mode"),
        *describe_host(plan["host"]),
        *(row for index in range(len(gateway["models"])) for row in describe_model(plan, index)),
        ("gateway", f"litellm {gateway['version']}, {plan['workers']['litellm']} workers on {published}"),
        *(("fallback", f"{each['model']} → {', '.join(each['to'])}") for each in gateway["fallbacks"]),
        *(("warning", text) for text in plan["warnings"] or ("none",)),
    ]
    return "".join(f"{name:<10} {text}\n" for name, text in rows)


def describe_host(host: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what the machine has."""
    cpu, driver = host["cpu"], host["driver"]
    yield "host", f"{cpu['model']}, {cpu['cores']} cores, {cpu['numa_nodes']} NUMA nodes, {gib(host['memory_bytes'])}"
    if driver:
        yield "driver", driver["error"] or f"{driver['version']}, CUDA {driver['cuda']}"
    for (name, memory), count in Counter((gpu["name"], gpu["memory_bytes"]) for gpu in host["gpus"]).items():
        yield "has", f"{count} × {name}, {gib(memory)}"
    links = Counter(link["kind"] for link in host["links"])
    if links:
        yield "links", ", ".join(f"{count} × {kind}" for kind, count in links.items())


def describe_model(plan: Mapping[str, Any], index: int) -> Iterator[tuple[str, str]]:
    """Say how one model is served: on what, by what, with which limits."""
    group = plan["gateway"]["groups"][index]
    replicas = [replica for replica in plan["replicas"] if replica["model"] == group["model"]]
    first = replicas[0]

    def value(key: str) -> str:
        """Return the model's own setting, whose key ends in the model's number from the second on."""
        own = f"{key}_{index + 1}" if index else key
        return str((plan["settings"].get(own) or plan["settings"][key])["value"])

    def limit(key: str) -> str:
        """Return a number that the engine is told, or takes by itself; on a processor it has no such setting."""
        setting = plan["settings"].get(f"{key}_{index + 1}" if index else key)
        if setting is None:
            return "as the engine likes"
        return f"{setting['value']}{' (its own)' if setting['origin'] == 'engine' else ''}"

    def argument(flag: str) -> str:
        """Return what the engine is told."""
        told = first["args"]
        return str(told[told.index(flag) + 1]) if flag in told else "as the engine likes"

    also = f", also called {', '.join(group['aliases'])}" if group["aliases"] else ""
    turns = f", in turns: {group['exclusive']}{' (pinned)' if group['pinned'] else ''}" if group["exclusive"] else ""
    yield "model", f"{group['model']} for {group['role']}{also}{turns}"
    yield "  on", name_gpus(plan["host"], replicas)
    yield "  engine", f"{plan['engine']['name']} in {value('VLLM_IMAGE')}"
    yield "  split", f"TP {first['tensor_parallel']}, PP {first['pipeline_parallel']}, replicas {len(replicas)}"
    batch = f"at once {limit('VLLM_MAX_NUM_SEQS')}, tokens a step {limit('VLLM_MAX_NUM_BATCHED_TOKENS')}"
    yield "  serves", f"context {argument('--max-model-len')}, {batch}"
    queue = f"{value('GATEWAY_MAX_CONCURRENT_REQUESTS')} at work, {value('GATEWAY_MAX_QUEUED_REQUESTS')} waiting"
    yield "  lets in", f"{queue}, input tokens {value('GATEWAY_MAX_INPUT_TOKENS')} (0: any)"
    yield from describe_memory(first["memory"])


def name_gpus(host: Mapping[str, Any], replicas: Iterable[Mapping[str, Any]]) -> str:
    """Name the GPUs of each replica by their numbers, and what they are."""
    gpus = {gpu["uuid"]: gpu for gpu in host["gpus"]}
    used = {
        replica["name"]: [gpus[uuid] for uuid in replica["gpu_uuids"]] for replica in replicas if replica["gpu_uuids"]
    }
    if not used:
        return "the processor"
    places = ", ".join(f"{name}: GPU {'+'.join(str(gpu['index']) for gpu in own)}" for name, own in used.items())
    kinds = dict.fromkeys(gpu["name"] for own in used.values() for gpu in own)
    return f"{places} ({', '.join(kinds)})"


def describe_memory(memory: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Say what the forecast says for each GPU, or for the whole machine."""
    if memory is None:
        yield "  memory", "no forecast"
        return
    parts = ("weights", "activation", "cuda_graph", "overhead", "kv_cache")
    shares = ", ".join(f"{part.replace('_', ' ')} {memory[f'{part}_bytes'] / GIB:.2f}" for part in parts)
    yield "  memory", f"{gib(memory['budget_bytes'])} of {gib(memory['total_bytes'])}: {shares}"
    cache = f"{memory['kv_cache_tokens']} tokens, {memory['max_concurrency']} × the context"
    yield "  forecast", f"{memory['verdict']}, ±{gib(memory['uncertainty_bytes'])}; cache of {cache}"


def gib(count: int | None) -> str:
    """Write bytes as GiB; None where that is not known."""
    return "an unknown size" if count is None else f"{count / GIB:.2f} GiB"
