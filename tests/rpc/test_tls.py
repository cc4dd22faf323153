"""TLS, mutual TLS and the token over it, with certificates made for the test."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rpc.fakes import FakePolicy, ask, served
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.errors import ConfigError, RemoteError
from vigorl_lib.policy.base import Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.rollout.wiring import ServicesConfig, connect
from vigorl_lib.rpc.channels import Connections
from vigorl_lib.rpc.config import ClientConfig, ServerConfig

SERVICE = "dns:///policy:50051"


@dataclass(frozen=True)
class Authority:
    """Signs certificates; writes them, their keys and its own certificate into `folder` as PEM."""

    name: str
    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, name: str, folder: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=None)
        unsigned = _unsigned(name, name, key).add_extension(basic, critical=True)
        authority = cls(name, folder, key, unsigned.sign(key, hashes.SHA256()))
        authority.path.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
        return authority

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def issue(self, name: str, *others: x509.GeneralName) -> tuple[Path, Path]:
        """Certificate and key of `name`, which is a DNS name of it too."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name), *others])
        certificate = _unsigned(name, self.name, key).add_extension(names, critical=False)
        paths = self.folder / f"{self.name}-{name}.pem", self.folder / f"{self.name}-{name}.key"
        paths[0].write_bytes(certificate.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return paths


def _unsigned(name: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, which)]) for which in (name, issuer))
    today = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(signer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(today - timedelta(hours=1)).not_valid_after(today + timedelta(hours=1))


@dataclass(frozen=True)
class World:
    ours: Authority
    strangers: Authority
    server: ServerConfig

    def client(self, *, trusts: Authority | None = None, is_from: Authority | None = None) -> ClientConfig:
        """The settings of a client that trusts one authority and has a certificate of another, or none."""
        certificate, key = is_from.issue("client") if is_from else (None, None)
        ca = (trusts or self.ours).path
        return ClientConfig(tls_ca=ca, tls_certificate=certificate, tls_key=key, timeout_s=20.0)

    def mutual(self) -> ServerConfig:
        return self.server.model_copy(update={"tls_client_ca": self.ours.path})


@pytest.fixture
def world(tmp_path: Path) -> World:
    ours, strangers = Authority.create("ours", tmp_path), Authority.create("strangers", tmp_path)
    certificate, key = ours.issue("policy", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    return World(ours, strangers, ServerConfig(tls_certificate=certificate, tls_key=key, drain_s=1.0))


async def answered(target: str, config: ClientConfig, *, token: str = "", addresses: Sequence[str] = ()) -> bool:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    connections = Connections(config, token=token)
    client = PolicyClient(target, connections=connections, resolve=resolve)
    try:
        return bool((await ask(client)).completions)
    finally:
        await client.close()
        await connections.close()


async def refused(*calls: asyncio.Task[bool]) -> None:
    """All at once, because each of them takes its five seconds to give up."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, RemoteError)
        assert outcome.reason == "UNAVAILABLE"


def start(target: str, config: ClientConfig, *, addresses: Sequence[str] = ()) -> asyncio.Task[bool]:
    return asyncio.create_task(answered(target, config, addresses=addresses))


async def test_a_server_is_believed_only_with_a_certificate_of_the_authority_that_the_client_trusts(
    world: World,
) -> None:
    async with served(FakePolicy(), world.server) as address:
        assert await answered(address, world.client())
        await refused(start(address, world.client(trusts=world.strangers)), start(address, ClientConfig()))


async def test_a_replica_behind_a_name_has_the_certificate_of_the_name(world: World) -> None:
    certificate, key = world.ours.issue("other")
    nameless = world.server.model_copy(update={"tls_certificate": certificate, "tls_key": key})
    async with served(FakePolicy(), world.server) as first, served(FakePolicy(), nameless) as impostor:
        assert await answered(SERVICE, world.client(), addresses=[first])
        assert await answered(SERVICE, world.client(), addresses=[impostor, first])
        assert await answered("dns:///other:1", world.client(), addresses=[impostor])
        await refused(
            start(SERVICE, world.client(), addresses=[impostor]),
            start("dns:///third:1", world.client(), addresses=[first]),
        )


async def test_mutual_tls_lets_in_only_clients_of_the_authority(world: World) -> None:
    async with served(FakePolicy(), world.mutual()) as address:
        assert await answered(address, world.client(is_from=world.ours))
        assert await answered(SERVICE, world.client(is_from=world.ours), addresses=[address])
        await refused(start(address, world.client()), start(address, world.client(is_from=world.strangers)))


async def test_the_token_is_asked_for_over_tls_too(world: World) -> None:
    async with served(FakePolicy(), world.mutual(), token="right") as address:
        config = world.client(is_from=world.ours)
        assert await answered(address, config, token="right")
        for token in ("wrong", ""):
            with pytest.raises(RemoteError) as caught:
                await answered(address, config, token=token)
            assert caught.value.reason == "TOKEN_INVALID"


async def test_tls_makes_a_listener_for_other_machines_respectable(world: World) -> None:
    async with served(FakePolicy(), world.server.model_copy(update={"listen": "0.0.0.0:0"})) as address:
        assert await answered(address.replace("0.0.0.0", "127.0.0.1"), world.client())


async def test_a_run_reaches_its_services_over_tls_by_its_recipe(world: World) -> None:
    async with served(FakePolicy(), world.mutual()) as address:
        client = world.client(is_from=world.ours)
        services = ServicesConfig(policies={"fake": address}, policy_admin={"fake": address}, client=client)
        async with connect(services, "fake") as wired:
            prompt = [Segment(Origin.PROMPT, (Message(Role.USER, ("hello",)),))]
            assert (await wired.policy.generate(prompt, seeds=[1], sampling=Sampling())).completions
            assert (await wired.policy.update_weights(version=5, uri="x", run_id="r")).version == 5


def test_half_a_certificate_is_a_wrong_setting(world: World) -> None:
    whole = world.client(is_from=world.ours).model_dump()
    for missing in ("tls_ca", "tls_certificate", "tls_key"):
        with pytest.raises(ValueError, match="tls_"):
            ClientConfig(**{**whole, missing: None})


async def test_a_certificate_that_cannot_be_read_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.pem") as caught:
        await answered("127.0.0.1:1", ClientConfig(tls_ca=tmp_path / "gone.pem"))
    assert caught.value.reason == "TLS_FILE_UNREADABLE"


async def test_probes_that_cannot_speak_tls_have_a_listener_for_health_and_nothing_else(world: World) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mutual = world.mutual().model_copy(update={"health_listen": f"127.0.0.1:{port}"})
    async with served(FakePolicy(), mutual), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        probe = health_pb2_grpc.HealthStub(channel)
        for name in ("", "liveness"):
            answer = await probe.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await channel.unary_unary("/vigorl.policy.v1.PolicyService/GetPolicyInfo")(b"", timeout=5)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_health_listener_on_a_taken_port_is_refused(world: World) -> None:
    async with served(FakePolicy()) as address:
        with pytest.raises(ConfigError) as refusal:
            async with served(FakePolicy(), ServerConfig(health_listen=address)):
                pass
        assert refusal.value.reason == "PORT_BUSY"
