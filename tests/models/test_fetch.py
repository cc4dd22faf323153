"""A model is fetched once, whole, and is the one that was asked for; a killed fetch goes on."""

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

from tests.fixtures_s3 import s3_environment
from vigorl_lib.errors import ConfigError, CorruptObject, ObjectNotFound, StorageError
from vigorl_lib.models.fetch import digest_of, fetch_model, fetched, upload_model, wait_for_model
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.s3 import S3Storage

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 3000, "deep/vocab.txt": b"words"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write(folder, FILES)
    (folder / ".hidden").write_bytes(b"not part of a model")
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".")}


def test_the_digest_is_what_coreutils_print(source: Path) -> None:
    command = "find * -type f ! -name COMMITTED | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=source, capture_output=True, text=True, check=True).stdout
    assert digest_of(str(source)) == f"sha256:{printed.split()[0]}"


def test_a_model_is_fetched_whole_and_then_found(source: Path, tmp_path: Path) -> None:
    target, seen = tmp_path / "cache" / "model", []
    digest = digest_of(str(source))
    model = fetch_model(str(source), target, digest=digest, on_file=seen.append)
    assert contents(target) == FILES
    assert model.digest == digest
    assert model.size_bytes == sum(map(len, FILES.values()))
    assert sorted(seen) == sorted(FILES)
    seen.clear()
    assert fetch_model(str(source), target, digest=digest, on_file=seen.append) == model
    assert seen == [], "nothing is fetched twice"
    assert wait_for_model(target, digest, 0.0) == model
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_killed_fetch_goes_on_with_the_file_that_it_was_at(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"

    def die(name: str) -> None:
        if name == "model.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model(str(source), target, on_file=die)
    assert not target.exists(), "nobody sees half a model"
    seen: list[str] = []
    fetch_model(str(source), target, on_file=seen.append)
    assert seen == ["model.safetensors"]
    assert contents(target) == FILES


def test_another_digest_is_refused_and_the_next_try_begins_anew(source: Path, tmp_path: Path) -> None:
    target, good = tmp_path / "model", digest_of(str(source))
    with pytest.raises(CorruptObject) as caught:
        fetch_model(str(source), target, digest=f"sha256:{'0' * 64}")
    assert caught.value.reason == "MODEL_CORRUPT"
    assert caught.value.metadata["found"] == good
    assert not target.exists()
    assert fetch_model(str(source), target, digest=good).digest == good


def test_a_folder_that_holds_another_model_is_left_alone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    fetch_model(str(source), target)
    with pytest.raises(ConfigError) as caught:
        fetch_model(str(source), target, digest=f"sha256:{'0' * 64}")
    assert caught.value.reason == "MODEL_FOLDER_TAKEN"
    with pytest.raises(ConfigError):
        fetch_model(str(tmp_path / "other"), source)
    assert contents(target) == FILES


def test_a_file_that_was_cut_short_is_found(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    fetch_model(str(source), target)
    (target / "model.safetensors").write_bytes(b"w")
    with pytest.raises(CorruptObject, match="expected 3000 bytes, found 1"):
        fetched(target)


def test_waiting_ends_when_nobody_fetches(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        wait_for_model(tmp_path / "model", f"sha256:{'0' * 64}", 0.0)
    assert caught.value.reason == "MODEL_MISSING"


def test_a_bucket_gives_the_same_model_and_its_marker_is_believed(
    source: Path, tmp_path: Path, s3_storage: S3Storage, s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment(s3_settings).items():
        monkeypatch.setenv(name, value)
    uri, digest = f"{s3_storage.uri}/models/m", digest_of(str(source))
    with pytest.raises(ObjectNotFound):
        fetch_model(uri, tmp_path / "none")
    for name, data in FILES.items():
        s3_storage.write(f"models/m/{name}", data)
    assert digest_of(uri) == digest
    assert fetch_model(uri, tmp_path / "first", digest=digest).digest == digest
    commit.commit(s3_storage, "models/m", {})
    assert digest_of(uri) == digest, "a marker is not part of the model"
    s3_storage.write("models/m/model.safetensors", b"x" * 3000)
    with pytest.raises(CorruptObject) as caught:
        fetch_model(uri, tmp_path / "second")
    assert caught.value.metadata["expected"] == digest
    assert contents(tmp_path / "first") == FILES


def test_an_uploaded_model_comes_back_the_same_and_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "storage" / "models" / "m"
    digest = upload_model(source, str(place))
    assert upload_model(source, str(place)) == digest == digest_of(str(place))
    assert fetch_model(str(place), tmp_path / "back").digest == digest
    (source / "config.json").write_text("[]")
    with pytest.raises(ConfigError) as caught:
        upload_model(source, str(place))
    assert caught.value.reason == "MODEL_FOLDER_TAKEN"
    assert contents(tmp_path / "back") == FILES == {k: v for k, v in contents(place).items() if k != "COMMITTED"}
    with pytest.raises(ObjectNotFound):
        upload_model(tmp_path / "nothing", str(tmp_path / "storage" / "x"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("s3://b/m", "sha256:12", ""), "DIGEST_INVALID"),
        (("hf://Qwen/Qwen2.5-VL-3B-Instruct", "", "main"), "REVISION_INVALID"),
        (("hf://Qwen/Qwen2.5-VL-3B-Instruct", "", ""), "REVISION_INVALID"),
        (("hf://Qwen", "", "0" * 40), "STORAGE_URI"),
        (("models/m", "", "0" * 40), "REVISION_INVALID"),
    ],
)
def test_what_cannot_be_pinned_is_refused(arguments: tuple[str, str, str], reason: str, tmp_path: Path) -> None:
    source, digest, revision = arguments
    with pytest.raises(ConfigError) as caught:
        fetch_model(source, tmp_path / "m", digest=digest, revision=revision)
    assert caught.value.reason == reason


REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB_FILES = {**FILES, "pytorch_model.bin": b"the same weights again", "README.md": b"words"}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as a download of one revision asks for."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == f"/api/models/team/vlm/tree/{REVISION}":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in HUB_FILES.items()
            ]
            self._answer(json.dumps(tree).encode())
        elif path.startswith(lead := f"/team/vlm/resolve/{REVISION}/"):
            data = HUB_FILES[path.removeprefix(lead)]
            self._answer(data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": REVISION})
        else:
            self._missing()

    def _answer(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _missing(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run_fetch(*arguments: str, endpoint: str, offline: str = "0") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the Hub's client reads its settings when it is imported."""
    command = [sys.executable, "-m", "vigorl_lib.cli.main", "models", "fetch", *arguments]
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


def test_a_revision_of_the_hub_is_fetched_through_its_own_client(hub: str, source: Path, tmp_path: Path) -> None:
    target, digest = tmp_path / "model", digest_of(str(source))
    arguments = ["hf://team/vlm", str(target), "--revision", REVISION, "--digest", digest]
    result = run_fetch(*arguments, endpoint=hub)
    assert result.returncode == 0, result.stderr
    assert contents(target) == FILES, "one format of the weights, and no prose"
    assert digest in result.stdout


def test_a_refusal_of_the_hub_and_no_way_to_it_are_told_in_one_line(hub: str, tmp_path: Path) -> None:
    missing = ["hf://team/none", str(tmp_path / "m"), "--revision", REVISION]
    result = run_fetch(*missing, endpoint=hub)
    assert result.returncode == 1
    assert "the Hub answered with status 404" in result.stderr
    result = run_fetch(*missing, endpoint=hub, offline="1")
    assert result.returncode == 1
    assert "HF_HUB_OFFLINE" in result.stderr
    assert "Traceback" not in result.stderr


def test_storage_gives_one_file_without_its_neighbours(source: Path, tmp_path: Path) -> None:
    storage = open_storage(str(source))
    storage.download("deep/vocab.txt", tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_bytes() == b"words"
    with pytest.raises(ObjectNotFound):
        storage.download("none", tmp_path / "none")
