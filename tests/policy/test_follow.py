"""A replica comes to the version that storage wants by itself."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.rpc.fakes import FakePolicy
from tests.weights import want
from vigorl_lib.errors import PolicyError
from vigorl_lib.policy import follow
from vigorl_lib.policy.base import PolicyInfo
from vigorl_lib.policy.follow import follow_weights
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.current import CURRENT


class Replica(FakePolicy):
    """Refuses updates while `refusal` says why."""

    refusal: PolicyError | None = None

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        assert (uri.rpartition("/")[2], run_id) == (str(version), "run-1")
        if self.refusal is not None:
            raise self.refusal
        return await super().update_weights(version=version, uri=uri, run_id=run_id)


async def test_it_takes_each_version_that_is_wanted_and_says_once_why_it_cannot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Replica(version=0)
    storage = open_storage(str(tmp_path))
    for version in (1, 2, 3):
        storage.write(f"{version}/model.safetensors", b"weights")
        commit.commit(storage, str(version), {})
    monkeypatch.setattr(follow, "MAX_PAUSE_S", 0.02)

    async def until(version: int) -> None:
        async with asyncio.timeout(5):
            while policy.version < version:  # noqa: ASYNC110 - a poll is what is tested
                await asyncio.sleep(0.005)

    with caplog.at_level(logging.WARNING):
        async with follow_weights(policy, str(tmp_path), "run-1", every_s=0.01):
            await asyncio.sleep(0.03)
            want(storage, "2", 2)
            await until(2)
            policy.refusal = PolicyError("no room", reason="UPDATE_FAILED", infrastructure=True)
            want(storage, "3", 3)
            await asyncio.sleep(0.1)
            assert policy.version == 2
            policy.refusal = None
            await until(3)
            (tmp_path / CURRENT).write_text("torn")
            await asyncio.sleep(0.05)
            want(storage, "1", 1)
            await asyncio.sleep(0.05)
            assert policy.version == 3
    said = [record.getMessage() for record in caplog.records if "not loaded" in record.getMessage()]
    assert sum("no room" in line for line in said) == 1
    assert sum("CURRENT" in line for line in said) == 1
