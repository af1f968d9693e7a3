"""What a name means that is neither a catalog name nor a hub id: an address, another program's name. Touches nothing.

An address of the hub is taken as the repository that it names; what another program calls a model is told as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from stackwright.errors import UsageError, closest

HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
# What stands before owner/name on the hub where it is no model (huggingface_hub 2.4.0, constants.py, REPO_TYPES).
_NO_MODELS = {"datasets": "a data set", "spaces": "a Space", "collections": "a collection", "papers": "a paper"}
_MODELSCOPE = ("modelscope.cn", "www.modelscope.cn", "modelscope.ai", "www.modelscope.ai")
_OLLAMA = ("ollama.com", "www.ollama.com", "registry.ollama.ai")
# `llama3.1:8b`, `library/qwen3:8b-q4_K_M`; what `ollama run` and `ollama pull` are given.
_OLLAMA_NAME = re.compile(r"(?:library/)?([a-z0-9][a-z0-9._-]*)(?::([a-zA-Z0-9][a-zA-Z0-9._-]*))?")
_OLLAMA_COMMAND = re.compile(r"ollama(?:\s+(?:run|pull|serve|show)\s+|/|://)(\S+)")
_QUANTIZATION = re.compile(r"(?i)^(i?q[0-9]|f16|bf16|f32)")


def plain_name(name: str, known: Iterable[str], origin: str, mirror: str | None = None) -> str:
    """Return the hub id that an address names; any other name as it is.

    Args:
        known: names of the catalog, of which one may be meant.
        origin: where the name stands, as a refusal tells it.
        mirror: the hub's address where HF_ENDPOINT names another.

    Raises:
        UsageError: it names a model in a way that this release does not take; one sentence with the next step.
    """
    text = name.strip()
    if command := _OLLAMA_COMMAND.fullmatch(text):
        raise _ollama(command[1], known, origin)
    if re.match(r"(?i)hf://", text):
        return _repository(text[5:], origin)
    try:
        address = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError:  # an opening bracket without its end
        return name
    host = (address.hostname or "").lower() if "/" in text else ""
    if host in HUB_HOSTS or (mirror and host == urlsplit(mirror).hostname and "://" in text):
        return _repository(address.path, origin)
    if host in _MODELSCOPE:
        raise _modelscope(address.path, origin)
    if host in _OLLAMA:
        raise _ollama(address.path.strip("/"), known, origin)
    if "://" in text:
        raise UsageError(
            f"{origin}: an address of {host or 'no host'}, where no model hub is known",
            hint="name a Hugging Face id (owner/name), or download the model and name its folder",
        )
    if re.fullmatch(r"[^/\s]+:[^/\s]+|library/\S+", text) and _OLLAMA_NAME.fullmatch(text):
        raise _ollama(text, known, origin)
    return name


def _repository(path: str, origin: str) -> str:
    """Return owner/name of `/owner/name`, also with `/tree/main`, `/blob/main/…` or `/resolve/main/…` behind it."""
    parts = [part for part in path.split("?", maxsplit=1)[0].split("#", maxsplit=1)[0].split("/") if part]
    if parts and parts[0] == "models":
        parts = parts[1:]
    if parts and parts[0] in _NO_MODELS:
        raise UsageError(f"{origin}: {_NO_MODELS[parts[0]]}, not a model", hint="name a model: owner/name")
    if len(parts) < 2:
        raise UsageError(f"{origin}: the address names no repository", hint="name a model: owner/name")
    owner, last = parts[:2]
    repository, _, tag = last.partition(":")
    repository, _, revision = repository.partition("@")
    where, file = parts[2:4], parts[-1] if len(parts) > 4 else ""
    if tag or file.lower().endswith(".gguf"):
        raise gguf_refusal(f"{origin}: {file or f'{repository}:{tag}'}", None)
    if len(where) == 2 and where[0] in ("tree", "blob", "resolve", "raw", "commit"):
        revision = where[1]
    if revision and revision != "main":
        raise UsageError(
            f"{origin}: the address names the version {revision[:60]}",
            hint=f"`--model {owner}/{repository} --arg=--revision={revision[:60]}`; the forecast reads the newest",
        )
    return f"{owner}/{repository}"


def gguf_refusal(what: str, original: str | None) -> UsageError:
    """Return the refusal of weights in GGUF; `original` is the model that they were made of, where they tell."""
    model = original or "OWNER/NAME"
    return UsageError(
        f"{what}: GGUF weights, which are llama.cpp's: engines here serve safetensors",
        hint=f"name the model that it was made of: `--model {model}`; `stackwright fit --model {model}` says what fits",
    )


def _ollama(name: str, known: Iterable[str], origin: str) -> UsageError:
    if re.match(r"(?i)(hf\.co|huggingface\.co)/", name):
        return gguf_refusal(f"{origin}: {name[:80]}", None)
    match = _OLLAMA_NAME.fullmatch(name.lower())
    family, tag = (match[1], match[2] or "") if match else (name, "")
    size = "-".join(part for part in tag.split("-") if not _QUANTIZATION.match(part) and part != "latest")
    squashed = {re.sub(r"[^a-z0-9]", "", row.lower()): row for row in known if "/" not in row}
    wanted = re.sub(r"[^a-z0-9]", "", f"{family}{size}")
    near = squashed.get(wanted) or squashed.get(closest(wanted, squashed) or "")
    instead = f"`--model {near}`" if near else "its name on Hugging Face, owner/name"
    return UsageError(
        f"{origin}: a name of Ollama's, whose files are llama.cpp's: engines here serve safetensors",
        hint=f"name the same model of the catalog or of Hugging Face: {instead}",
    )


def _modelscope(path: str, origin: str) -> UsageError:
    parts = [part for part in path.split("/") if part]
    parts = parts[1:] if parts and parts[0] == "models" else parts
    if len(parts) < 2:
        return UsageError(f"{origin}: the address names no repository", hint="name a model: owner/name")
    model = f"{parts[0]}/{parts[1]}"
    return UsageError(
        f"{origin}: a model of ModelScope, which this release does not download from",
        hint=(
            f"`modelscope download --model {model} --local_dir {parts[1]}`, then `--model ./{parts[1]}`; "
            f"or try the same name on Hugging Face: `--model {model}`"
        ),
    )
