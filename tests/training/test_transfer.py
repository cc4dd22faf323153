"""When a learner sends its weights straight to the replicas; that they arrive is in tests/policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.rpc.fakes import FakePolicy
from tests.training.test_grpo import RUN, grpo_config, train
from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.gen.vigorl.policy.v1 import policy_service_pb2 as pb
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.transfer import WeightSender, hurry_weights
from vigorl_lib.training.weights import current_weights, publish_weights
from vigorl_services.policy.server import PolicyAdminServer

SERVICES = ServicesConfig(policy_admin={"student": "127.0.0.1:1"})
WEIGHTS = {"w": torch.zeros(2)}


class Recorder(WeightSender):
    """Sends nothing, and knows what was published when it was asked to."""

    def __init__(self, layout: RunLayout, failure: PolicyError | None = None) -> None:
        super().__init__(SERVICES, "student", "gloo", RUN)
        object.__setattr__(self, "layout", layout)
        object.__setattr__(self, "failure", failure)
        object.__setattr__(self, "sent", [])

    def send(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        current = current_weights(self.layout)
        self.sent.append((version, 0 if current is None else current.version))
        if self.failure is not None:
            raise self.failure


def test_a_run_sends_each_version_before_it_publishes_it(storage: Storage) -> None:
    sender = Recorder(RunLayout(storage, RUN))
    train(grpo_config(steps=2), storage, sender=sender)
    assert sender.sent == [(1, 0), (2, 1)]


def test_a_published_version_is_not_sent_again(tmp_path: Path) -> None:
    layout = RunLayout(open_storage(str(tmp_path)), RUN)
    publish_weights(layout, 3, WEIGHTS, keep=2)
    sender = Recorder(layout)
    for version in (2, 3, 4):
        hurry_weights(sender, layout, version, WEIGHTS)
    assert sender.sent == [(4, 3)]


def test_a_replica_that_is_gone_stops_nothing_and_one_that_refuses_for_good_does(tmp_path: Path) -> None:
    layout = RunLayout(open_storage(str(tmp_path)), RUN)
    gone = PolicyError("gone", reason="TRANSFER_FAILED", infrastructure=True)
    hurry_weights(Recorder(layout, gone), layout, 1, WEIGHTS)
    with pytest.raises(PolicyError) as caught:
        hurry_weights(Recorder(layout, PolicyError("no", reason="WRONG_RUN")), layout, 1, WEIGHTS)
    assert caught.value.reason == "WRONG_RUN"


def test_a_replica_that_nobody_listens_at_is_a_typed_failure_within_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        WeightSender(SERVICES, "student", "gloo", RUN, timeout_s=0.5).send(1, WEIGHTS)
    assert caught.value.reason == "TRANSFER_FAILED"


def test_a_replica_that_failed_is_not_waited_for_with_every_version() -> None:
    sender = WeightSender(SERVICES, "student", "gloo", RUN, timeout_s=0.2)
    tried = []
    for version in range(1, 8):
        with pytest.raises(PolicyError) as caught:
            sender.send(version, WEIGHTS)
        tried.append("left to storage" not in caught.value.message)
    assert tried == [True, False, True, False, False, False, True]


def test_a_policy_without_an_admin_address_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError) as caught:
        WeightSender(ServicesConfig(), "student", "gloo", RUN)
    assert caught.value.reason == "ADMIN_TARGET_MISSING"


async def test_an_engine_that_reads_storage_only_refuses_a_transfer() -> None:
    request = pb.UpdateWeightsRequest(policy="fake", version=1, run_id=RUN, transfer=pb.WeightTransfer(backend="gloo"))
    with pytest.raises(PolicyError) as caught:
        await PolicyAdminServer(FakePolicy(), "fake").UpdateWeights(request, None)
    assert caught.value.reason == "NOT_SUPPORTED"
