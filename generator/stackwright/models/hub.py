"""Look a model up on a hub that speaks Hugging Face's protocol: its description and the headers of its weights.

Touches the network (`HF_ENDPOINT`) and Hugging Face's cache. The weights themselves are never fetched: of each file
only the first bytes are asked for, and a server that would send all of it is left at once. The token is found by
huggingface_hub itself (`HF_TOKEN`, `HF_TOKEN_PATH`, or the file that its login writes) and never passes through here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from stackwright.domain.tensors import TensorHeader
from stackwright.errors import UsageError
from stackwright.models.cache import HubCache, find_snapshot, keep_headers, load_headers
from stackwright.models.folder import CONFIG, INDEX, MODULES, SINGLE, check_shard, parse_index, read_json
from stackwright.models.safetensors import LENGTH_BYTES, header_length, parse_header

# 97 % of all headers are shorter (huggingface_hub 2.4.0, hf_api.py, parse_safetensors_file_metadata), so one request
# does.
FIRST_BYTES = 100_000
TIMEOUT_S = 10.0
AT_ONCE = 8


class HubFiles(Struct, frozen=True, kw_only=True):
    """What the hub says of one model: the folder of the downloaded files and the tensors, None without safetensors."""

    snapshot: Path
    tensors: tuple[TensorHeader, ...] | None


def read_hub(hub_id: str, cache: HubCache, endpoint: str | None, origin: str) -> HubFiles:
    """Fetch config.json, modules.json and the headers of the weights of one model; what is cached is not fetched again.

    Args:
        endpoint: the hub's address; None for `HF_ENDPOINT`, or huggingface.co where that is not set.
        origin: where the id stands, as a refusal tells it.

    Raises:
        UsageError: there is no such model, it is kept back, the hub cannot be reached, or what it sends is damaged.
    """
    from huggingface_hub.errors import EntryNotFoundError

    _quieten()
    with _refusals(hub_id, endpoint, origin):
        _knock(hub_id, endpoint)
        snapshot = _download_config(hub_id, cache, endpoint, origin).parent
        commit = snapshot.name
        with contextlib.suppress(EntryNotFoundError):
            _download(hub_id, MODULES, cache, endpoint, revision=commit)
        tensors = load_headers(hub_id, commit, cache)
        if tensors is None:
            tensors = _fetch_headers(hub_id, commit, cache, endpoint)
            if tensors is not None:
                keep_headers(hub_id, commit, tensors, cache)
    return HubFiles(snapshot=snapshot, tensors=tensors)


def fetch_config(hub_id: str, cache: HubCache, endpoint: str | None = None) -> None:
    """Fetch config.json alone where nothing of the model is cached; a folder of this host has its own.

    `endpoint` as for `read_hub`.

    Raises:
        UsageError: as `read_hub`.
    """
    if hub_id.startswith("/") or find_snapshot(hub_id, cache) is not None:
        return
    _quieten()
    with _refusals(hub_id, endpoint, hub_id):
        _knock(hub_id, endpoint)
        _download(hub_id, CONFIG, cache, endpoint, revision=None)


def fetch_file(hub_id: str, name: str, cache: HubCache, origin: str) -> Path:
    """Return one file of a repository, fetched where the cache has none of it.

    Raises:
        UsageError: as `read_hub`, or the repository has no such file.
    """
    snapshot = find_snapshot(hub_id, cache)
    if snapshot is not None and (snapshot / name).is_file():
        return snapshot / name
    _quieten()
    with _refusals(hub_id, None, origin, name):
        _knock(hub_id, None)
        return _download(hub_id, name, cache, None, revision=None)


def _download_config(hub_id: str, cache: HubCache, endpoint: str | None, origin: str) -> Path:
    """Fetch config.json; of a repository without one, say what it is. Raises UsageError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return _download(hub_id, CONFIG, cache, endpoint, revision=None)
    except EntryNotFoundError:
        from stackwright.models.kinds import refuse_kind

        found = HfApi(endpoint=endpoint).model_info(hub_id, timeout=TIMEOUT_S)
        files = [file.rfilename for file in found.siblings or ()]
        # `base_model:owner/name`, and `base_model:quantized:owner/name` beside it.
        bases = [tag.rpartition(":")[2] for tag in found.tags or () if tag.startswith("base_model:")]
        base = bases[0] if bases else None
        if refusal := refuse_kind(origin, hub_id, files, base):
            raise refusal from None
        raise


def _quieten() -> None:
    """Keep the library from drawing, warning, and telling the hub which program asks."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    constants.HF_HUB_DISABLE_TELEMETRY = True
    # An empty variable is none to everyone but the library, which would read the working folder as a token.
    constants.HF_TOKEN_PATH = constants.HF_TOKEN_PATH or str(Path(constants.HF_HOME) / "token")
    disable_progress_bars()
    hub_logging.set_verbosity(logging.ERROR)


def _knock(hub_id: str, endpoint: str | None) -> None:
    """Ask once whether the hub is in reach: the library would ask for half a minute before it gives up."""
    from huggingface_hub import get_session, hf_hub_url

    get_session().head(hf_hub_url(hub_id, CONFIG, endpoint=endpoint), timeout=TIMEOUT_S, follow_redirects=False)


def _download(hub_id: str, name: str, cache: HubCache, endpoint: str | None, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            hub_id, name, revision=revision, cache_dir=cache.models, endpoint=endpoint, etag_timeout=TIMEOUT_S
        )
    )


def _fetch_headers(hub_id: str, commit: str, cache: HubCache, endpoint: str | None) -> tuple[TensorHeader, ...] | None:
    """Return all tensors of one version of a model, None where it has no safetensors."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        index = read_json(_download(hub_id, INDEX, cache, endpoint, revision=commit))
    except EntryNotFoundError:
        try:
            return _fetch_header(hub_id, SINGLE, commit, endpoint)
        except EntryNotFoundError:
            return None
    shards = parse_index(index, f"{hub_id}/{INDEX}")
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        headers = pool.map(lambda shard: _fetch_header(hub_id, shard, commit, endpoint), shards)
        tensors: list[TensorHeader] = []
        for (shard, expected), header in zip(shards.items(), headers, strict=True):
            tensors += check_shard(expected, header, f"{hub_id}/{shard}")
    return tuple(tensors)


def _fetch_header(hub_id: str, file: str, commit: str, endpoint: str | None) -> tuple[TensorHeader, ...]:
    from huggingface_hub import hf_hub_url

    where = f"{hub_id}/{file}"
    url = hf_hub_url(hub_id, file, revision=commit, endpoint=endpoint)
    start, size = _fetch_range(url, 0, FIRST_BYTES - 1, where)
    length = header_length(start, where)
    text = start[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(text) < length:
        text += _fetch_range(url, LENGTH_BYTES + len(text), LENGTH_BYTES + length - 1, where)[0]
    header = parse_header(text, length, where)
    if size is not None and size != header.file_bytes:
        raise UsageError(f"{where}: the hub has {size} bytes, but the header says {header.file_bytes}")
    return header.tensors


def _fetch_range(url: str, first: int, last: int, where: str) -> tuple[bytes, int | None]:
    """Return bytes `first` to `last` of a file, fewer where it ends before, and the whole file's size where it is told.

    Raises:
        UsageError: the server does not answer range requests.
    """
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not in its __all__

    headers = {**build_hf_headers(), "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as response:
        if response.status_code >= 400:
            response.read()
            hf_raise_for_status(response)
        if response.status_code != 206:
            raise UsageError(
                f"{where}: the hub answered {response.status_code} to a range request, expected 206",
                hint="set another hub with HF_ENDPOINT, or download the model and name its folder",
            )
        content = bytearray()
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > last - first:
                break
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return bytes(content[: last - first + 1]), int(total) if total.isascii() and total.isdigit() else None


@contextlib.contextmanager
def _refusals(hub_id: str, endpoint: str | None, origin: str, wanted: str = CONFIG) -> Iterator[None]:
    """Turn every failure of the hub into a refusal of one sentence with the next step."""
    import httpx2
    from huggingface_hub import constants, errors

    hub = endpoint or constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError:
        raise UsageError(
            f"{origin}: access to this model must be requested",
            hint=f"request it at {hub}/{hub_id}, then set HF_TOKEN (or HF_TOKEN_PATH) to a token of that account",
        ) from None
    except errors.RepositoryNotFoundError:
        raise UsageError(
            f"{origin}: {hub} has no such model, or this token has no access",
            hint="check the name; for a private model set HF_TOKEN (or HF_TOKEN_PATH)",
        ) from None
    except errors.LocalEntryNotFoundError as failure:
        raise UsageError(f"{origin}: {_unreached(hub, failure.__cause__)}", hint=_OFFLINE_HINT) from None
    except errors.EntryNotFoundError:
        raise UsageError(
            f"{origin}: has no {wanted} on {hub}",
            hint="a model has config.json beside its weights: name another repository" if wanted == CONFIG else None,
        ) from None
    except errors.HFValidationError:
        raise UsageError(f"{origin}: not a valid hub model name", hint="expected owner/name") from None
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, httpx2.HTTPError, httpx2.InvalidURL) as failure:
        raise UsageError(f"{origin}: {_unreached(hub, failure)}", hint=_OFFLINE_HINT) from None
    except OSError as failure:
        raise UsageError(f"{origin}: the cache cannot be used: {failure.strerror or failure}") from None


_OFFLINE_HINT = "name a model folder or a catalog name, or set another hub with HF_ENDPOINT"


def _unreached(hub: str, failure: BaseException | None) -> str:
    """Return why a hub gave nothing, without addresses or tokens that the failure may carry."""
    status = getattr(getattr(failure, "response", None), "status_code", None)
    if status is not None:
        return f"{hub} answered {status}"
    if type(failure).__name__ == "OfflineModeIsEnabled":
        return "not in the cache, and HF_HUB_OFFLINE forbids a lookup"
    return f"cannot reach {hub} ({type(failure).__name__ if failure else 'offline'})"
