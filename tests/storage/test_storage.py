"""What every storage promises, shown on a folder and on a real S3 server."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr
from urllib3.connection import HTTPConnection

from vigorl_lib.errors import ConfigError, ObjectNotFound, StorageError
from vigorl_lib.storage.base import Checksum, Storage, open_storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.s3 import S3Storage, settings_from_environment

WRITERS = 16


def test_what_was_written_is_read_and_can_be_replaced(storage: Storage) -> None:
    storage.write("a/b.bin", b"first")
    storage.write("a/b.bin", b"second")
    assert storage.read("a/b.bin") == b"second"
    assert storage.exists("a/b.bin")
    assert storage.checksum("a/b.bin") == Checksum(6, hashlib.sha256(b"second").hexdigest())


def test_a_missing_object_is_told_as_such(storage: Storage) -> None:
    storage.write("a/b", b"")
    for key in ("nothing", "a", "a/c"):
        assert not storage.exists(key)
        with pytest.raises(ObjectNotFound) as caught:
            storage.read(key)
        assert (caught.value.reason, caught.value.infrastructure) == ("OBJECT_NOT_FOUND", False)
    with pytest.raises(ObjectNotFound):
        storage.checksum("nothing")


def test_list_takes_a_prefix_of_the_string_and_is_sorted(storage: Storage) -> None:
    for key in ("runs/b/2", "runs/b/10", "runs/a", "runs-old/x"):
        storage.write(key, b".")
    assert storage.list() == ["runs-old/x", "runs/a", "runs/b/10", "runs/b/2"]
    assert storage.list("runs/") == ["runs/a", "runs/b/10", "runs/b/2"]
    assert storage.list("runs/b/1") == ["runs/b/10"]
    assert storage.list("none/") == []


def test_delete_is_repeatable_and_leaves_no_empty_folder(storage: Storage) -> None:
    storage.write("a/b/c", b".")
    storage.delete("a/b/c")
    storage.delete("a/b/c")
    assert storage.list() == []
    folder = storage.local_path("a")
    assert folder is None or not folder.exists()


def test_create_writes_only_where_nothing_is(storage: Storage) -> None:
    assert storage.create("claims/x", b"mine")
    assert not storage.create("claims/x", b"yours")
    assert storage.read("claims/x") == b"mine"


def test_of_sixteen_racing_writers_one_wins(storage: Storage) -> None:
    start = threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        start.wait()
        return storage.create("claims/race", b"%d" % number)

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, range(WRITERS)))
    assert sum(won) == 1
    assert storage.read("claims/race") == b"%d" % won.index(True)
    assert storage.list() == ["claims/race"]


def test_a_folder_goes_up_and_comes_down_unchanged(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    (source / "config.json").write_bytes(b"{}")
    (source / "deep" / "weights.bin").write_bytes(os.urandom(3 << 20))
    storage.upload_folder(source, "models/m")
    assert storage.list("models/m/") == ["models/m/config.json", "models/m/deep/weights.bin"]
    storage.download_folder("models/m", target)
    for name in ("config.json", "deep/weights.bin"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    with pytest.raises(ObjectNotFound):
        storage.download_folder("models/none", target)


def test_check_passes_and_leaves_nothing(storage: Storage) -> None:
    storage.check()
    assert storage.list() == []


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../b", "a//b", "./a", "a/.tmp-x"])
def test_a_key_cannot_leave_the_root(storage: Storage, key: str) -> None:
    with pytest.raises(StorageError) as caught:
        storage.write(key, b"")
    assert caught.value.reason == "KEY_INVALID"


def test_a_uri_opens_the_storage_it_names(tmp_path: Path, s3_settings: S3Settings) -> None:
    assert open_storage(f"file://{tmp_path}/a%20b").local_path("x") == tmp_path / "a b" / "x"
    assert open_storage(str(tmp_path)).uri == str(tmp_path)
    s3 = open_storage("s3://tests/some/prefix/", s3_settings)
    assert (s3.uri, s3.local_path("x")) == ("s3://tests/some/prefix", None)
    for uri in ("https://example.com/x", "file://host/x", "s3:///x", "s3://B_/x"):
        with pytest.raises(ConfigError) as caught:
            open_storage(uri)
        assert caught.value.reason == "STORAGE_URI"


def test_settings_come_from_the_environment_and_the_secret_does_not_print() -> None:
    names = {"ENDPOINT": "minio:9000", "ACCESS_KEY": "me", "SECRET_KEY": "hush", "SECURE": "false"}
    settings = settings_from_environment({f"VIGORL_S3__{name}": value for name, value in names.items()})
    assert (settings.endpoint, settings.secure) == ("minio:9000", False)
    assert settings.secret_key.get_secret_value() == "hush"
    assert "hush" not in repr(settings) + settings.model_dump_json()
    with pytest.raises(ConfigError) as caught:
        settings_from_environment({})
    assert caught.value.reason == "S3_SETTINGS_MISSING"
    with pytest.raises(ConfigError, match="endpoint"):
        settings_from_environment({"VIGORL_S3__ENDPOINT": "http://minio:9000"})


def test_a_file_where_a_folder_is_needed_is_told(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.write("a", b"")
    with pytest.raises(StorageError) as caught:
        storage.write("a/b", b"")
    assert caught.value.reason == "KEY_CONFLICT"


def test_a_killed_write_leaves_no_object(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    (tmp_path / ".tmp-0123").write_bytes(b"half")
    assert storage.list() == []


def test_wrong_keys_are_no_infrastructure_fault(s3_settings: S3Settings) -> None:
    wrong = s3_settings.model_copy(update={"secret_key": SecretStr("wrong")})
    storage = S3Storage("tests", "x", wrong)
    for act in (lambda: storage.write("k", b""), lambda: storage.create("k", b""), storage.check):
        with pytest.raises(StorageError, match="VIGORL_S3__SECRET_KEY") as caught:
            act()
        assert (caught.value.reason, caught.value.infrastructure) == ("STORAGE_ACCESS_DENIED", False)


def test_a_missing_bucket_is_named(s3_settings: S3Settings) -> None:
    storage = S3Storage("no-such-bucket", "x", s3_settings)
    # This server makes a bucket when it is written to, so only reading can show the error.
    for act in (lambda: storage.read("k"), storage.check, storage.list):
        with pytest.raises(StorageError, match="no-such-bucket") as caught:
            act()
        assert caught.value.reason == "BUCKET_MISSING"


def test_an_unreachable_endpoint_is_an_infrastructure_fault(unused_tcp_port: int) -> None:
    storage = S3Storage("tests", "x", S3Settings(endpoint=f"127.0.0.1:{unused_tcp_port}", secure=False))
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        storage.read("k")
    assert (caught.value.reason, caught.value.infrastructure) == ("STORAGE_UNAVAILABLE", True)


def test_a_writer_that_dies_between_head_and_body_leaves_nothing(
    s3_storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_storage.create("another", b"")
    send = HTTPConnection.send

    def head_alone(connection: HTTPConnection, data: bytes) -> None:
        send(connection, data)
        time.sleep(0.1)
        connection.sock.shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(HTTPConnection, "send", head_alone)
        with pytest.raises(StorageError):
            s3_storage.create("cut", b"content")
    time.sleep(0.5)
    assert not s3_storage.exists("cut")
    assert s3_storage.create("cut", b"content")
    assert s3_storage.read("cut") == b"content"


class _IgnoresConditions(BaseHTTPRequestHandler):
    """An S3 endpoint that answers every PUT with success, as some do."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


def test_an_endpoint_that_ignores_the_condition_is_refused() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _IgnoresConditions) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            storage = S3Storage("bucket", "", S3Settings(endpoint=f"127.0.0.1:{server.server_port}", secure=False))
            with pytest.raises(StorageError) as caught:
                storage.create("claim", b"")
            assert (caught.value.reason, caught.value.infrastructure) == ("CONDITIONAL_WRITE_UNSUPPORTED", False)
        finally:
            server.shutdown()
            thread.join()
