"""The embedded engine in a process of its own: same answers, same refusals, and an end that everyone hears of."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.embedded import open_embedded
from tests.models.support import flat_image, observation, prompt, said, scene_image
from vigorl_lib.domain.trajectory import Origin, Segment
from vigorl_lib.errors import PolicyError, StorageError
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.weights import write_weights
from vigorl_lib.policy.base import PolicyState, Sampling
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.transformers import TransformersPolicy
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAMPLED = Sampling(max_tokens=12, stop=())
LONG = Sampling(max_tokens=900, stop=())


@pytest.fixture(scope="module")
def config(tiny_folder: Path) -> PolicyConfig:
    return PolicyConfig(model=str(tiny_folder), trainable_by="run-1", max_batch=16, max_queued=16)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def policy(config: PolicyConfig) -> AsyncIterator[TransformersPolicy]:
    policy = await asyncio.to_thread(TransformersPolicy.open, config)
    yield policy
    await policy.close()


def zoomed() -> tuple[Segment, ...]:
    thought = said(Origin.DEMONSTRATION, "<think> Look. </think>")
    return prompt(scene_image(3)), thought, observation(flat_image(112, 84))


async def until_taken(policy: TransformersPolicy) -> None:
    """Until the process has been told of some work and has had time to begin it."""
    async with asyncio.timeout(10):
        while not policy._worker._waiting:  # noqa: ASYNC110 - filled by another thread
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.2)


async def test_it_samples_and_scores_as_in_a_thread(policy: TransformersPolicy, config: PolicyConfig) -> None:
    here = await asyncio.to_thread(open_embedded, config)
    expected = await here.generate(zoomed(), seeds=[1, 2], sampling=SAMPLED)
    found = await policy.generate(zoomed(), seeds=[1, 2], sampling=SAMPLED)
    assert found.prompt == expected.prompt
    assert found.policy == expected.policy
    for one, other in zip(found.completions, expected.completions, strict=True):
        assert (one.text, one.token_ids, one.finish_reason) == (other.text, other.token_ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert found.queue_seconds >= 0.0
    assert found.engine_seconds > 0.0
    scored, wanted = await policy.score(found.prompt), await here.score(expected.prompt)
    for segment, other in zip(scored.segments, wanted.segments, strict=True):
        assert segment.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    await here.close()


async def test_a_stream_comes_token_by_token_over_the_pipe(policy: TransformersPolicy) -> None:
    whole = await policy.generate(zoomed(), seeds=[1], sampling=SAMPLED)
    start, *deltas, end = [event async for event in policy.stream(zoomed(), seed=1, sampling=SAMPLED)]
    assert start.prompt == whole.prompt
    assert end.completion == whole.completions[0]
    assert [delta.token_ids for delta in deltas] == [(token,) for token in end.completion.token_ids]
    assert "".join(delta.text for delta in deltas) == end.completion.text


async def test_what_the_process_refuses_is_told_as_it_was_raised_there(
    policy: TransformersPolicy, tmp_path: Path
) -> None:
    jobs = [policy.generate((prompt(scene_image(1)),), seeds=[0, 1], sampling=LONG) for _ in range(40)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert 0 < len(refused) < 40
    assert {(type(error), error.reason, error.infrastructure) for error in refused} == {
        (PolicyError, "OVERLOADED", True)
    }
    with pytest.raises(StorageError) as caught:
        await policy.update_weights(version=1, uri=str(tmp_path / "none"), run_id="run-1")
    assert caught.value.reason == "NOT_COMMITTED"


async def test_a_caller_who_leaves_frees_the_engine_at_once(policy: TransformersPolicy) -> None:
    task = asyncio.create_task(policy.generate((prompt(scene_image(1)),), seeds=range(16), sampling=LONG))
    await until_taken(policy)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begin = time.monotonic()
    await policy.generate((prompt(scene_image(1)),), seeds=[0], sampling=SAMPLED)
    assert time.monotonic() - begin < 2.0
    assert not policy._worker._waiting


async def test_new_weights_are_read_by_the_process(
    policy: TransformersPolicy, config: PolicyConfig, tmp_path: Path
) -> None:
    (tmp_path / "000003").mkdir()
    state = load_model(config.model).model.state_dict()
    write_weights({name: tensor * 1.5 for name, tensor in state.items()}, tmp_path / "000003")
    commit.commit(open_storage(str(tmp_path)), "000003", {"version": 3})
    before = await policy.generate((prompt(scene_image(1)),), seeds=[1], sampling=SAMPLED)
    info = await policy.update_weights(version=3, uri=str(tmp_path / "000003"), run_id="run-1")
    after = await policy.generate((prompt(scene_image(1)),), seeds=[1], sampling=SAMPLED, min_policy_version=3)
    assert info.version == after.completions[0].policy_version == 3
    assert before.completions[0].policy_version == 0
    assert after.completions[0].token_ids != before.completions[0].token_ids


async def test_weights_that_nobody_waits_for_any_more_are_loaded_and_known(
    policy: TransformersPolicy, config: PolicyConfig, tmp_path: Path
) -> None:
    (tmp_path / "000004").mkdir()
    write_weights(load_model(config.model).model.state_dict(), tmp_path / "000004")
    commit.commit(open_storage(str(tmp_path)), "000004", {"version": 4})
    before = (await policy.info()).version
    running = asyncio.create_task(policy.generate((prompt(scene_image(1)),), seeds=range(16), sampling=LONG))
    await until_taken(policy)
    update = asyncio.create_task(policy.update_weights(version=4, uri=str(tmp_path / "000004"), run_id="run-1"))
    async with asyncio.timeout(10):
        while await policy.state() is not PolicyState.UPDATING:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.001)
    update.cancel()
    with pytest.raises(asyncio.CancelledError):
        await update
    assert {completion.policy_version for completion in (await running).completions} == {before}
    after = await policy.generate((prompt(scene_image(1)),), seeds=[0], sampling=SAMPLED)
    assert after.completions[0].policy_version == (await policy.info()).version == 4


async def test_a_checkpoint_that_cannot_be_read_is_told_by_the_one_who_opens(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(PolicyError) as caught:
        await asyncio.to_thread(TransformersPolicy.open, PolicyConfig(model=str(tmp_path / "broken")))
    assert caught.value.reason == "CHECKPOINT_INVALID"


async def test_a_process_that_ends_at_once_is_told_by_the_one_who_opens(
    config: PolicyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with pytest.raises(PolicyError, match="ended with code 1 while it loaded") as caught:
        await asyncio.to_thread(TransformersPolicy.open, config)
    assert caught.value.reason == "ENGINE_FAILED"


async def test_stopping_finishes_what_is_in_flight(config: PolicyConfig) -> None:
    policy = await asyncio.to_thread(TransformersPolicy.open, config)
    running = asyncio.create_task(policy.generate((prompt(scene_image(1)),), seeds=range(16), sampling=LONG))
    await until_taken(policy)
    process = policy._worker._process
    await policy.close()
    assert len((await running).completions) == 16
    assert process.returncode == 0
    with pytest.raises(PolicyError) as caught:
        await policy.generate((prompt(scene_image(1)),), seeds=[0], sampling=SAMPLED)
    assert caught.value.reason == "ENGINE_CLOSED"


async def test_a_process_that_hangs_does_not_answer_and_is_killed_by_the_end(
    config: PolicyConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr("vigorl_lib.policy.worker_process.STOP_S", 0.5)
    policy = await asyncio.to_thread(TransformersPolicy.open, config)
    assert await policy.state() is PolicyState.SERVING
    process = policy._worker._process
    # One that is stopped does not hear of the end of its parent.
    request.addfinalizer(process.kill)
    os.kill(process.pid, signal.SIGSTOP)
    async with asyncio.timeout(10):
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(policy.state(), 0.5)
    # More than the pipe holds, so that those who write wait too.
    waiting = [asyncio.create_task(policy.generate(zoomed(), seeds=[0], sampling=SAMPLED)) for _ in range(16)]
    await asyncio.sleep(0.5)
    begin = time.monotonic()
    waiting[0].cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(policy.state(), 0.5)
    assert time.monotonic() - begin < 2.0, "neither a caller who leaves nor a check holds up the event loop"
    await asyncio.wait_for(policy.close(), 10)
    assert process.returncode == -signal.SIGKILL
    assert "did not stop within" in caplog.text
    results = await asyncio.wait_for(asyncio.gather(*waiting[1:], return_exceptions=True), 5)
    assert {getattr(result, "reason", None) for result in results} <= {"ENGINE_FAILED", "ENGINE_CLOSED"}


async def test_kill_9_of_the_process_is_told_to_whoever_waits_and_whoever_comes(
    config: PolicyConfig, caplog: pytest.LogCaptureFixture
) -> None:
    policy = await asyncio.to_thread(TransformersPolicy.open, config)
    running = asyncio.create_task(policy.generate((prompt(scene_image(1)),), seeds=range(16), sampling=LONG))
    await until_taken(policy)
    os.kill(policy._worker._process.pid, signal.SIGKILL)
    for call in (running, policy.generate((prompt(scene_image(1)),), seeds=[0], sampling=SAMPLED)):
        with pytest.raises(PolicyError) as caught:
            await asyncio.wait_for(call, 5)
        assert (caught.value.reason, caught.value.infrastructure) == ("ENGINE_FAILED", True)
    assert await policy.state() is PolicyState.FAILED
    assert "has ended with code -9" in caplog.text
    await policy.close()
