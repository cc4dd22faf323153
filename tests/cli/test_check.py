"""`vigorl check` against real servers on loopback: what works is said to work, what does not is named."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fixtures_s3 import s3_environment
from tests.rpc.test_tls import Authority
from tests.services.conftest import serving
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.config import ServerConfig
from vigorl_lib.rpc.server import running
from vigorl_lib.storage.config import S3Settings
from vigorl_services.environment.__main__ import EnvironmentServiceConfig
from vigorl_services.environment.__main__ import build as build_environment
from vigorl_services.evaluation.__main__ import EvaluationServiceConfig
from vigorl_services.evaluation.__main__ import build as build_evaluation
from vigorl_services.policy.__main__ import PolicyServiceConfig
from vigorl_services.policy.__main__ import build as build_policy
from vigorl_services.reward.__main__ import RewardServiceConfig
from vigorl_services.reward.__main__ import build as build_reward
from vigorl_services.search.__main__ import SearchServiceConfig
from vigorl_services.search.__main__ import build as build_search

LINE = re.compile(r"(ok  |fail)  (.+?) +([0-9.]+) ms  (.*)")


class Installation:
    """The services of one installation; `section` is what `vigorl up` prints of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.services = str(root), ServicesConfig()
        self.reward = AsyncExitStack()

    @property
    def section(self) -> str:
        return json.dumps(self.services.model_dump(mode="json", exclude_unset=True))


@pytest.fixture
async def installed(tiny_folder: Path, tmp_path: Path) -> AsyncIterator[Installation]:
    found = Installation(tmp_path)
    root = str(tmp_path)
    async with AsyncExitStack() as stack, found.reward:
        enter = stack.enter_async_context
        model = PolicyConfig(name="student", model=str(tiny_folder))
        script = PolicyConfig(
            name="scripted-teacher", engine="scripted", model=str(tiny_folder), scripted=ScriptedConfig(root=root)
        )
        await asyncio.to_thread(_scenes, root)
        parts = ServicesConfig(
            policies={
                policy.name: await enter(serving(build_policy, PolicyServiceConfig(policy=policy, root=root)))
                for policy in (model, script)
            },
            environment=await enter(serving(build_environment, EnvironmentServiceConfig(root=root))),
            reward=await found.reward.enter_async_context(serving(build_reward, RewardServiceConfig())),
        )
        search = await enter(serving(build_search, SearchServiceConfig(root=root, services=parts)))
        evaluation = await enter(serving(build_evaluation, EvaluationServiceConfig(root=root, services=parts)))
        found.services = parts.model_copy(update={"search": search, "evaluation": evaluation})
        yield found


def _scenes(root: str) -> None:
    from vigorl_lib.data.datasets_synthetic import make_synthetic
    from vigorl_lib.storage.base import open_storage

    make_synthetic(open_storage(root), "visual-search", {"train": 1}, seed=0)


async def check(
    *arguments: str, environment: dict[str, str] | None = None
) -> tuple[int, dict[str, tuple[str, str]], str]:
    """Exit code, verdict and remark by step, and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vigorl_lib.cli.main", "check", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode is not None
    steps = {m[2]: (m[1].strip(), m[4]) for line in out.decode().splitlines() if (m := LINE.fullmatch(line))}
    return process.returncode, steps, err.decode()


async def test_an_installation_that_works_passes_every_step(installed: Installation) -> None:
    code, steps, err = await check("--set", f"services={installed.section}", "--root", installed.root)
    assert code == 0, (steps, err)
    assert list(steps) == [
        "health policy student",
        "health policy scripted-teacher",
        "health environment",
        "health reward",
        "health search",
        "health evaluation",
        "storage round trip",
        "crop",
        "generate student",
        "generate scripted-teacher",
        "score",
        "solve student",
        "solve scripted-teacher",
    ]
    assert {verdict for verdict, _ in steps.values()} == {"ok"}
    assert steps["crop"][1] == "224x224 px"
    assert "tokens of" in steps["generate student"][1]
    assert "not asked" in steps["generate scripted-teacher"][1], "a script knows no other picture"
    assert "its own scenes" in steps["solve scripted-teacher"][1]
    assert not (Path(installed.root) / "checks").exists(), "what was written is gone again"


async def test_a_context_or_single_targets_say_what_to_check(installed: Installation, tmp_path: Path) -> None:
    search = installed.services.search
    code, steps, _ = await check("--target", search)
    assert (code, list(steps)) == (0, ["health search", "solve student"])
    contexts = tmp_path / "contexts.yaml"
    contexts.write_text(f"current: mine\ncontexts:\n  mine: {{evaluation: '{installed.services.evaluation}'}}\n")
    known = {"VIGORL_CONTEXTS": str(contexts)}
    code, steps, _ = await check(environment=known)
    assert (code, list(steps)) == (0, ["health evaluation"])
    code, steps, _ = await check("--target", f"reward={installed.services.reward}", environment=known)
    assert (code, list(steps)) == (0, ["health reward", "score"])


async def test_each_failure_is_named_and_hides_no_other_step(installed: Installation, tmp_path: Path) -> None:
    await installed.reward.aclose()
    shut = tmp_path / "file"
    shut.write_text("no folder")
    soon = "services.client.quick_timeout_s=1"
    code, steps, _ = await check("--set", f"services={installed.section}", "--set", soon, "--root", str(shut))
    assert code == 1
    failed = {name for name, (verdict, _) in steps.items() if verdict == "fail"}
    assert failed == {"health reward", "score", "storage round trip"}
    assert steps["score"][1].startswith(("UNAVAILABLE: ", "DEADLINE_EXCEEDED: "))
    assert str(shut) in steps["storage round trip"][1]


async def test_a_way_in_that_routes_no_health_checks_is_no_failure() -> None:
    import grpc.aio

    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    code, steps, _ = await check("--target", f"reward=127.0.0.1:{port}")
    await server.stop(0)
    assert steps["health reward"] == (
        "ok",
        f"127.0.0.1:{port} answers and serves no health checks, as a gateway does: not asked",
    )
    assert steps["score"][0] == "fail", "what is behind it is tried all the same"
    assert code == 1


async def test_a_server_that_is_still_loading_is_up_and_not_ready(tiny_folder: Path) -> None:
    import grpc.aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_health.v1._async import HealthServicer

    server, health = grpc.aio.server(), HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    code, steps, _ = await check("--set", f"services.evaluation=127.0.0.1:{port}")
    await server.stop(0)
    assert code == 1
    assert steps["health evaluation"] == (
        "fail",
        f"NOT_SERVING: 127.0.0.1:{port} answers NOT_SERVING: it is up and not ready",
    )


async def test_tls_and_the_token_are_those_of_any_other_command(tmp_path: Path) -> None:
    authority = Authority.create("authority", tmp_path)
    certificate, key = authority.issue("reward")
    config = RewardServiceConfig(server=ServerConfig(tls_certificate=certificate, tls_key=key))
    client = {"tls_ca": str(authority.path), "authority": "reward"}
    async with running(config.server, lambda: build_reward(config), token="secret") as address:
        section = f"services={json.dumps({'reward': address, 'client': client})}"
        code, steps, _ = await check("--set", section, environment={"VIGORL_AUTH__TOKEN": "secret"})
        assert (code, {verdict for verdict, _ in steps.values()}) == (0, {"ok"})
        code, steps, _ = await check("--set", section, environment={"VIGORL_AUTH__TOKEN": "wrong"})
    assert code == 1
    assert steps["health reward"][0] == "ok", "probes have no token"
    assert steps["score"][1].startswith("TOKEN_INVALID: ")


async def test_a_bucket_is_written_to_and_a_wrong_key_is_told(s3_settings: S3Settings) -> None:
    environment = s3_environment(s3_settings)
    code, steps, _ = await check("--root", "s3://tests/check", environment=environment)
    assert (code, steps["storage round trip"]) == (0, ("ok", "s3://tests/check"))
    environment["VIGORL_S3__SECRET_KEY"] = "wrong"
    code, steps, _ = await check("--root", "s3://tests/check", environment=environment)
    assert code == 1
    assert steps["storage round trip"][1].startswith("STORAGE_ACCESS_DENIED: ")


async def test_nothing_to_check_is_wrong_input(tmp_path: Path) -> None:
    code, _, err = await check(environment={"VIGORL_CONTEXTS": str(tmp_path / "none.yaml")})
    assert code == 2
    assert "nothing to check" in err
