"""Through a real nginx, set as the example of an ingress sets it: paths, hosts, TLS, token, large messages.

nginx is not part of the project: the tests are skipped where it is not on the PATH.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.chart.test_routes import NGINX, ROUTES
from tests.cli.test_context import TOKEN, search_service, vigorl
from tests.rpc.fakes import FakePolicy, ask, served
from tests.rpc.test_tls import Authority
from vigorl_lib.errors import RemoteError
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.rpc.channels import Connections
from vigorl_lib.rpc.config import ClientConfig, ServerConfig
from vigorl_lib.storage.images import probe

HOST, STUDENT = "vigorl.example.com", "student.example.com"
TEMPLATE = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  ssl_certificate {certificate}; ssl_certificate_key {key};
  client_max_body_size {body}; grpc_read_timeout {timeout}s; grpc_send_timeout {timeout}s;
  server {{
    listen 127.0.0.1:{port} ssl http2; server_name vigorl.example.com;
    location /vigorl.search.v1.SearchService {{ grpc_pass grpcs://{search}; }}
  }}
  server {{
    listen 127.0.0.1:{port} ssl http2; server_name student.example.com;
    location /vigorl.policy.v1.PolicyService {{ grpc_pass grpc://{policy}; }}
  }}
}}
"""


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority.create("ours", tmp_path)


@asynccontextmanager
async def ingress(folder: Path, ours: Authority, search: str, policy: str, *, body: str = "") -> AsyncIterator[str]:
    """The address of nginx with the example's annotations."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("no nginx on the PATH")
    from cryptography import x509

    annotations = next(yaml.safe_load_all((ROUTES / "ingress-nginx.yaml").read_text()))["metadata"]["annotations"]
    certificate, key = ours.issue(HOST, x509.DNSName(STUDENT))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"certificate": certificate, "key": key, "port": port, "search": search, "policy": policy}
    values["body"] = body or annotations[f"{NGINX}/proxy-body-size"]
    values["timeout"] = annotations[f"{NGINX}/proxy-read-timeout"]
    (folder / "nginx.conf").write_text(TEMPLATE.format(folder=folder, **values))
    child = await asyncio.create_subprocess_exec(
        program, "-p", str(folder), "-c", str(folder / "nginx.conf"), stderr=subprocess.DEVNULL
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        child.terminate()
        await child.wait()


async def test_solve_goes_through_one_host_to_the_search_service_with_tls_and_token(
    tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIGORL_CONTEXTS", str(tmp_path / "contexts.yaml"))
    certificate, key = ours.issue("vigorl-search.team.svc")
    server = ServerConfig(tls_certificate=certificate, tls_key=key, drain_s=1.0)
    (tmp_path / "token").write_text(TOKEN)
    Image.new("RGB", (200, 150), (9, 9, 200)).save(tmp_path / "picture.png")
    async with (
        served(FakePolicy()) as policy,
        search_service(tmp_path, server, policy) as search,
        ingress(tmp_path, ours, search, policy) as address,
    ):
        question: list[str | Path] = ["solve", "--image", tmp_path / "picture.png", "--question", "What?"]
        reach: list[str | Path] = ["--target", address, "--tls-ca", ours.path, "--authority", HOST]
        question += ["--set", "policy=fake", *reach]
        done = await asyncio.to_thread(vigorl, *question, "--token-file", tmp_path / "token")
        assert done.exit_code == 0, (done.output, done.exception)
        assert "answer: " in done.output
        refused = await asyncio.to_thread(vigorl, *question)
        assert isinstance(refused.exception, RemoteError)
        assert refused.exception.reason == "TOKEN_INVALID", "the services' own refusal comes through"


@pytest.mark.parametrize(("body", "passes"), [("", True), ("1m", False)], ids=["example", "nginx's own"])
async def test_a_large_image_needs_the_examples_body_size(
    body: str, passes: bool, tmp_path: Path, ours: Authority
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    image = probe((tmp_path / "noise.png").read_bytes())
    config = ClientConfig(tls_ca=ours.path, authority=STUDENT, timeout_s=20.0)
    async with (
        served(FakePolicy(), cache_bytes=64 << 20) as policy,
        ingress(tmp_path, ours, policy, policy, body=body) as address,
    ):
        connections = Connections(config, token="")
        client = PolicyClient(address, connections=connections)
        try:
            assert (await ask(client, "small")).completions
            if passes:
                assert (await ask(client, image)).completions
            else:
                with pytest.raises(RemoteError):
                    await ask(client, image)
        finally:
            await client.close()
            await connections.close()
