"""An evaluation that is told to stop, as Kubernetes tells a pod: a real process, a real bucket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.evaluation.support import scenes
from tests.fixtures_s3 import s3_environment
from tests.rollout.support import WordPolicy
from tests.services.conftest import serving
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.domain.grammar import Answer, render_turn
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.evaluation.run import read_records
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import add_PolicyServiceServicer_to_server
from vigorl_lib.rpc.server import Service, registrar
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.s3 import S3Storage
from vigorl_services.policy.__main__ import PolicyServiceConfig
from vigorl_services.policy.server import PolicyServer

NAME = "scripted-slow"
SCENES = scenes(4)


def delay(prompt: Sequence[Segment]) -> float:
    """One question is never answered."""
    asked = {image.sha256 for segment in prompt for image in segment.images}
    return 600.0 if SCENES[0].images[0].sha256 in asked else 0.0


@asynccontextmanager
async def served(policy: WordPolicy, storage: Storage) -> AsyncIterator[str]:
    @asynccontextmanager
    async def build(config: PolicyServiceConfig) -> AsyncIterator[Service]:
        register = registrar(add_PolicyServiceServicer_to_server, PolicyServer(policy, NAME, config.open_images()))
        yield Service("vigorl.policy.v1.PolicyService", register, probe=ready)

    async def ready() -> None:
        """Words always are."""

    engine = PolicyConfig(name=NAME, engine="scripted", model="none", scripted=ScriptedConfig(root=storage.uri))
    async with serving(build, PolicyServiceConfig(policy=engine)) as address:
        yield address


async def test_a_stopped_pod_leaves_what_it_measured(s3_storage: S3Storage, s3_settings: S3Settings) -> None:
    """In a bucket records are held for a minute or so; they must not go with the process."""
    write_dataset(s3_storage, ImageStore(s3_storage), "scenes", "test", SCENES)
    policy = WordPolicy(lambda prompt, index: render_turn("At (20, 20).", Answer("pink")), delay=delay)
    async with served(policy, s3_storage) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vigorl_lib.cli.main", "eval", "--root", s3_storage.uri, "--run-id", "r"),
            *("--policy", NAME, "--set", f"services={json.dumps({'policies': {NAME: address}})}"),
            *("--set", "dataset.name=scenes", "--set", "evaluation.modes=[multi_turn]"),
            env={**os.environ, **s3_environment(s3_settings)},
        )
        try:
            async with asyncio.timeout(60):
                while (len(policy.calls), policy.busy) != (len(SCENES), 1):
                    assert process.returncode is None, "it ended before it was told to"
                    await asyncio.sleep(0.1)
            # The last of the three answers is on its way to its record.
            await asyncio.sleep(1.0)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode != 0
    records = read_records(s3_storage, RunLayout(s3_storage, "r").evaluation(NAME, "multi_turn"))
    assert {record.example_id for record in records} == {example.example_id for example in SCENES[1:]}
