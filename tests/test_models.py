"""Names to directories: embedded, on this disk, in the hub's cache, on a hub: a server of the tests' own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rerankd import models
from rerankd.errors import ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CROSS_ENCODER = {
    "config.json": b'{"architectures": ["BertForSequenceClassification"], "model_type": "bert"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": b"weights",
    "README.md": b"not wanted",
    "pytorch_model.bin": b"not wanted",
    "onnx/model.onnx": b"not wanted",
    "other/model.safetensors": b"not wanted",
}
NEEDED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


class Hub:
    """What huggingface_hub asks of a hub, over real HTTP on this machine."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        parts = path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        org, name, *rest = parts[2:] if api else parts
        files = self.repositories.get(f"{org}/{name}")
        if f"{org}/{name}" == "org/gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b"gated"
        if files is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"no such repository"
        if rest[:1] == ["revision"] and rest[1] not in ("main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"no such revision"
        if api and rest[:1] == ["tree"]:
            return 200, {}, json.dumps([_tree_entry(path, data) for path, data in files.items()]).encode()
        if api:
            siblings = [{"rfilename": path} for path in files]
            info = {"id": f"{org}/{name}", "modelId": f"{org}/{name}", "sha": COMMIT, "siblings": siblings}
            return 200, {}, json.dumps(info | {"private": False, "tags": [], "downloads": 0}).encode()
        data = files["/".join(rest[2:])]
        headers = {"ETag": f'"{_blob_id(data)}"', "X-Repo-Commit": COMMIT}
        return 200, headers, data

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.requests.append(self.path)
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _tree_entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.stop()


class Home:
    """A process of its own for each question, because huggingface_hub reads its environment when imported."""

    def __init__(self, directory: Path, endpoint: str) -> None:
        self.directory = directory
        self.endpoint = endpoint

    def ask(self, expression: str, **environ: str) -> Any:
        """The value of an expression on `models`, or the text of the ModelError that it raises."""
        program = (
            "import json, sys\n"
            "from rerankd import models\n"
            "from rerankd.errors import ModelError\n"
            "def plain(c): return [c.name, str(c.directory), list(c.aliases), c.revision]\n"
            f"try: print(json.dumps({expression}))\n"
            "except ModelError as error: print(json.dumps(str(error)))\n"
        )
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RERANKD_"))}
        mine |= {"HF_HOME": str(self.directory), "HF_ENDPOINT": self.endpoint, "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**mine, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environ},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def resolve(self, name: str, **environ: str) -> Any:
        return self.ask(f"plain(models.resolve({name!r}))", **environ)


@pytest.fixture
def home(tmp_path: Path, hub: Hub) -> Home:
    return Home(tmp_path / "home", hub.endpoint)


# ---- without a hub ----------------------------------------------------------------------------------------


def test_the_embedded_model() -> None:
    (checkpoint,) = models.embedded()
    assert checkpoint == models.resolve("mini-en") == models.resolve(models.DEFAULT)
    assert checkpoint.name == "mini-en"
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(os.listdir(checkpoint.directory))


def test_a_directory_is_served_by_its_last_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "org" / "my-model"
    directory.mkdir(parents=True)
    wanted = models.Checkpoint("my-model", directory.resolve())
    assert models.resolve(str(directory)) == models.resolve(f"{directory}/") == wanted
    monkeypatch.chdir(tmp_path)
    # A directory here goes before a hub's model of the same name.
    assert models.resolve("org/my-model") == models.resolve("./org/my-model") == wanted
    monkeypatch.chdir(directory)
    assert models.resolve(".") == wanted


def test_the_embedded_name_goes_before_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mini-en").mkdir()
    monkeypatch.chdir(tmp_path)
    assert models.resolve("mini-en") == models.embedded()[0]
    assert models.resolve("./mini-en").directory == (tmp_path / "mini-en").resolve()


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match="is a file; give the directory that holds the checkpoint"):
        models.resolve(str(file))


@pytest.mark.parametrize("name", ["", "nowhere", "./no/where", "/no/where", "a/b/c", "org/", "../../x/y z"])
def test_what_is_no_name_at_all(name: str) -> None:
    with pytest.raises(ModelError, match="is neither an embedded model, nor a directory here, nor a hub id"):
        models.resolve(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mini_en", "mini-en"),
        ("bge-reranker-base", "BAAI/bge-reranker-base"),
        ("bge-reranker", "BAAI/bge-reranker-base"),
    ],
)
def test_a_near_miss_is_told(name: str, meant: str) -> None:
    with pytest.raises(ModelError, match=f"did you mean {meant}"):
        models.resolve(name)


# ---- with one ---------------------------------------------------------------------------------------------


def test_a_download_then_the_cache(hub: Hub, home: Home) -> None:
    hub.repositories["org/name"] = CROSS_ENCODER
    name, directory, aliases, revision = home.resolve("org/name")
    assert (name, aliases, revision) == ("org/name", ["name"], COMMIT)
    assert sorted(os.listdir(directory)) == NEEDED
    assert (Path(directory) / "model.safetensors").read_bytes() == b"weights"

    # From here on the cache is enough: the hub is not even asked.
    asked = len(hub.requests)
    assert asked > 0
    assert home.resolve("org/name") == [name, directory, aliases, revision]
    assert len(hub.requests) == asked
    assert home.resolve("org/name", HF_HUB_OFFLINE="1")[1] == directory
    assert home.ask("[plain(c) for c in models.cached()]") == [[name, directory, aliases, revision]]


def test_the_name_that_a_hosted_service_gives(hub: Hub, home: Home) -> None:
    hub.repositories["BAAI/bge-reranker-base"] = CROSS_ENCODER
    name, _, aliases, _ = home.resolve("@cf/baai/bge-reranker-base")
    assert name == "BAAI/bge-reranker-base"
    assert aliases == ["bge-reranker-base", "@cf/baai/bge-reranker-base"]


def test_a_revision(hub: Hub, home: Home) -> None:
    hub.repositories["org/name"] = CROSS_ENCODER
    assert home.resolve("org/name@v1")[3] == COMMIT
    assert home.resolve(f"org/name@{COMMIT}")[0] == "org/name"
    assert "'org/name' has no revision 'v9'" in home.resolve("org/name@v9")


def test_shards(hub: Hub, home: Home) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    files = {name: data for name, data in CROSS_ENCODER.items() if name != "model.safetensors"}
    hub.repositories["org/name"] = {
        **files,
        "model.safetensors.index.json": index,
        "model-1.safetensors": b"1",
        "model-2.safetensors": b"2",
    }
    directory = Path(home.resolve("org/name")[1])
    assert {"model-1.safetensors", "model-2.safetensors"} <= set(os.listdir(directory))
    # A snapshot that lacks a shard is no snapshot: it is completed.
    (directory / "model-2.safetensors").unlink()
    assert "is not in the local cache" in home.resolve("org/name", HF_HUB_OFFLINE="1")
    assert (Path(home.resolve("org/name")[1]) / "model-2.safetensors").read_bytes() == b"2"


def test_no_such_model(home: Home) -> None:
    said = home.resolve("org/nothing")
    assert f"there is no model 'org/nothing' on {home.endpoint}" in said
    assert "HF_TOKEN" in said


def test_a_gated_model(home: Home) -> None:
    said = home.resolve("org/gated")
    assert f"'org/gated' is gated: accept its terms on {home.endpoint}/org/gated, and set HF_TOKEN" in said


def test_a_repository_without_safetensors(hub: Hub, home: Home) -> None:
    hub.repositories["org/name"] = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b""}
    assert "'org/name' has no *.safetensors; rerankd serves safetensors" in home.resolve("org/name")


def test_no_network(hub: Hub, home: Home) -> None:
    hub.stop()
    said = home.resolve("org/name")
    assert "'org/name' is not in the local cache" in said
    assert f"{home.endpoint} can't be reached" in said
    assert "check the network, or give a checkpoint's directory, or use the embedded mini-en" in said


def test_offline(hub: Hub, home: Home) -> None:
    hub.repositories["org/name"] = CROSS_ENCODER
    said = home.resolve("org/name", HF_HUB_OFFLINE="1")
    assert "'org/name' is not in the local cache" in said
    assert "HF_HUB_OFFLINE forbids to download it" in said
    assert hub.requests == []


def test_only_cross_encoders_of_the_cache_are_listed(hub: Hub, home: Home) -> None:
    assert home.ask("models.cached()") == []
    hub.repositories["org/embedder"] = {**CROSS_ENCODER, "config.json": b'{"architectures": ["BertModel"]}'}
    hub.repositories["org/odd"] = {**CROSS_ENCODER, "config.json": b"[]"}
    hub.repositories["org/name"] = CROSS_ENCODER
    for name in hub.repositories:
        home.resolve(name)
    assert [found[0] for found in home.ask("[plain(c) for c in models.cached()]")] == ["org/name"]
