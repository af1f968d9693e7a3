"""Models on a hub: a small one on loopback, asked by the real huggingface_hub."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from stackwright.domain.llm import LlmSource
from stackwright.domain.model_facts import ModelFacts, WeightFormat
from stackwright.domain.role import Role
from stackwright.domain.tensors import TensorHeader
from stackwright.errors import UsageError
from stackwright.models.cache import find_cache, find_snapshot
from stackwright.models.config import parse_config
from stackwright.models.hub import fetch_config
from stackwright.models.read import HubAccess, read_model

from tests.integration.fake_hub import COMMIT, Hub, serve_hub
from tests.models.checkpoints import write_model
from tests.models.test_folder import CONFIG, FIRST, SECOND, SHARDS

NAME = "someone/Tiny-Model"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep this machine's own token and cache out of what is tested."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "unused"))
    # The library reads the variable when it is imported, which another test may have caused while it was set.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def read(hub: Hub, home: Path, *, online: bool = True) -> ModelFacts:
    """Read the hub's model with the cache in `home`."""
    return read_model(NAME, (), None, HubAccess(endpoint=hub.url, home=home, online=online))


def refusal(hub: Hub, home: Path) -> UsageError:
    """Read a model that is to be refused, in one sentence."""
    with pytest.raises(UsageError) as refused:
        read(hub, home)
    assert "\n" not in refused.value.message
    return refused.value


@pytest.mark.parametrize("shards", [{"model.safetensors": [*FIRST, *SECOND]}, SHARDS], ids=["one file", "shards"])
def test_headers_are_read_and_kept(tmp_path: Path, shards: dict[str, list[TensorHeader]]) -> None:
    home = tmp_path / "home"
    with serve_hub(write_model(tmp_path / "m", CONFIG, shards), NAME) as hub:
        facts = read(hub, home)
        asked = len(hub.requests)
        assert read(hub, home) == facts
        assert len(hub.requests) == asked
    assert (facts.name, facts.source, facts.location) == (NAME, LlmSource.HUB, NAME)
    assert facts.tensors == (*FIRST, *SECOND)
    assert facts.weight_bytes == 64 + 32 + 64
    assert facts.config == parse_config(CONFIG)
    assert facts.format is WeightFormat.BF16
    # The hub is gone, and a cache that may not be asked to go online answers all the same.
    assert read(hub, home, online=False) == facts


def test_what_says_that_a_model_embeds_is_read_too(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", write_model(tmp_path / "m", CONFIG, {"model.safetensors": FIRST})
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling"}]')
    with serve_hub(folder, NAME) as hub:
        assert read(hub, home).role is Role.EMBEDDING
    assert read(hub, home, online=False).role is Role.EMBEDDING


def test_the_weights_stay_on_the_hub(tmp_path: Path) -> None:
    home, large = tmp_path / "home", [TensorHeader(name="w", dtype="U8", shape=(3_000_000,))]
    with serve_hub(write_model(tmp_path / "m", CONFIG, {"model.safetensors": large}), NAME) as hub:
        assert read(hub, home).weight_bytes == 3_000_000
    assert sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) < 100_000


def test_a_header_longer_than_the_first_request(tmp_path: Path) -> None:
    many = [TensorHeader(name=f"model.layers.{n}.weight", dtype="U8", shape=(2,)) for n in range(3000)]
    with serve_hub(write_model(tmp_path / "m", CONFIG, {"model.safetensors": many}), NAME) as hub:
        assert read(hub, tmp_path / "home").tensors == tuple(many)


def test_a_damaged_header(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, {"model.safetensors": FIRST})
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with serve_hub(folder, NAME) as hub:
        assert "a header of 18446744073709551615 bytes" in refusal(hub, tmp_path / "home").message


def test_a_file_cut_short_on_the_hub(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, {"model.safetensors": FIRST})
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    with serve_hub(folder, NAME) as hub:
        message = refusal(hub, tmp_path / "home").message
    assert message == (
        f"{NAME}/model.safetensors: the hub has {len(whole) - 1} bytes, but the header says {len(whole)}"
    )


def test_a_damaged_cache_is_read_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME) as hub:
        facts = read(hub, home)
        (kept,) = home.glob(f"assets/stackwright/*/headers/{COMMIT}.json")
        for damage in ("{", '{"schema": 1}', '{"schema": 1, "tensors": [["w", "Q4", [1]]]}', '{"schema": 0}', "[]"):
            kept.write_text(damage, encoding="utf-8")
            assert read(hub, home) == facts
            assert json.loads(kept.read_text(encoding="utf-8"))["schema"] == 1


def test_no_safetensors(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, {})
    with serve_hub(folder, NAME) as hub:
        facts = read(hub, tmp_path / "home")
    assert (facts.tensors, facts.weight_bytes) == (None, None)
    assert facts.notes == ("no safetensors on the hub: the weights are estimated from the shape",)


def test_a_gated_model_without_a_token(tmp_path: Path) -> None:
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME, token="hf_of_someone") as hub:
        refused = refusal(hub, tmp_path / "home")
    assert refused.message == f"--model {NAME}: access to this model must be requested"
    assert refused.hint is not None
    assert refused.hint.startswith(f"request it at {hub.url}/{NAME}, then set HF_TOKEN")


@pytest.mark.parametrize("way", ["HF_TOKEN", "HF_TOKEN_PATH"])
def test_a_gated_model_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "HF_TOKEN":
        monkeypatch.setenv(way, "hf_of_someone")
    else:
        # Read when the library is imported; the file that a login writes is the same thing.
        (tmp_path / "token").write_text("hf_of_someone\n", encoding="ascii")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME, token="hf_of_someone") as hub:
        assert read(hub, tmp_path / "home").tensors == (*FIRST, *SECOND)
    assert not [
        file for file in (tmp_path / "home").rglob("*") if file.is_file() and b"hf_of_someone" in file.read_bytes()
    ]


def test_no_such_model(tmp_path: Path) -> None:
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), "someone/else") as hub:
        refused = refusal(hub, tmp_path / "home")
    assert refused.message == f"--model {NAME}: {hub.url} has no such model, or this token has no access"


def test_no_config_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with serve_hub(tmp_path / "m", NAME) as hub:
        refused = refusal(hub, tmp_path / "home")
    assert refused.message == f"--model {NAME}: has no config.json on {hub.url}"


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME) as hub:
        pass
    refused = refusal(hub, tmp_path / "home")
    assert refused.message.startswith(f"--model {NAME}: cannot reach {hub.url} (")
    assert refused.hint is not None
    assert "HF_ENDPOINT" in refused.hint


def test_offline_by_wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # HF_HUB_OFFLINE is read when the library is imported.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME) as hub:
        refused = refusal(hub, tmp_path / "home")
        assert hub.requests == []
    assert refused.message == f"--model {NAME}: not in the cache, and HF_HUB_OFFLINE forbids a lookup"


PROGRAM = """
import sys
from stackwright.models.read import read_model
facts = read_model(sys.argv[1], ())
print(facts.weight_bytes, "huggingface_hub" in sys.modules)
"""


@pytest.mark.subprocess
def test_the_hubs_own_variables_are_honoured(tmp_path: Path) -> None:
    """A fresh interpreter, since the library reads its variables once; the second look does not even import it."""
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_of_someone",
        "PYTHONPATH": str(ROOT / "generator"),
    }
    command = [sys.executable, "-c", PROGRAM, NAME]
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME, token="hf_of_someone") as hub:
        for imported in (True, False):
            done = subprocess.run(
                command, env={**environment, "HF_ENDPOINT": hub.url}, capture_output=True, text=True, check=False
            )
            assert (done.stdout, done.stderr) == (f"160 {imported}\n", "")
        # Nothing but the model is asked for: no telemetry, no list of agent programs.
        assert [request for request in hub.requests if NAME not in request] == []


def test_offline_and_never_seen(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither in the catalog nor in the cache"):
        read_model(NAME, (), None, HubAccess(home=tmp_path / "home", online=False))


@contextmanager
def serve_answers(status: int) -> Iterator[str]:
    """Serve a hub that knows config.json and answers `status` to everything else, with an endless body where 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            known = self.path.endswith("/config.json")
            content = b"{}" if known else b"\0" * 1_000_000
            missing = self.path.endswith((".index.json", "/modules.json"))
            self.send_response(200 if known else 404 if missing else status)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"1"')
            if missing:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (200, "the hub answered 200 to a range request, expected 206"),
        (503, "answered 503"),
        (416, "answered 416"),
    ],
)
def test_a_hub_that_will_not_give_a_part(tmp_path: Path, status: int, sentence: str) -> None:
    with serve_answers(status) as url, pytest.raises(UsageError) as refused:
        read_model(NAME, (), None, HubAccess(endpoint=url, home=tmp_path / "home"))
    assert sentence in refused.value.message
    assert refused.value.hint is not None


def test_the_config_alone_is_fetched_once(tmp_path: Path) -> None:
    cache = find_cache({}, tmp_path / "home")
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME) as hub:
        fetch_config(NAME, cache, hub.url)
        asked = len(hub.requests)
        fetch_config(NAME, cache, hub.url)
        assert len(hub.requests) == asked
    snapshot = find_snapshot(NAME, cache)
    assert snapshot is not None
    assert [path.name for path in snapshot.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("file", "message", "hint"),
    [
        ("x-Q4_K_M.gguf", "GGUF weights", "`--model OWNER/NAME`"),
        ("adapter_config.json", "a LoRA adapter, not a whole model", f"lora: {{Tiny-Model: {NAME}}}"),
        ("params.json", "Mistral's own layout (params.json)", "Hugging Face's layout"),
    ],
)
def test_a_repository_without_config_is_told_by_its_files(tmp_path: Path, file: str, message: str, hint: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / file).write_text("{}", encoding="utf-8")
    with serve_hub(tmp_path / "m", NAME) as hub:
        refused = refusal(hub, tmp_path / "home")
    assert message in refused.message
    assert hint in (refused.hint or "")
