"""vLLM's weight-transfer back end `gloo`: what a worker of an engine does when a learner sends it new weights.

Loaded by vLLM's factory in the engine's own processes, where the plugin registers it; the counterpart for GPUs, `nccl`,
is vLLM's own. All tensors are taken into memory and their digest is checked before the model is touched, so that a
learner that goes away in the middle changes nothing. When this runs is `vigorl_lib.policy.vllm_weights`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from vigorl_lib.policy.base import TensorSpec
from vigorl_lib.policy.transfer import GlooGroup, join_store, local_address

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class GlooInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Where the learner's store is, and which rank the first worker of the engine has in a group of `world_size`."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    timeout_s: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """What comes, in this order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class GlooWeightTransferEngine(WeightTransferEngine):  # type: ignore[misc]
    """Stages on `update_weights`, loads on `finish_weight_update`: vLLM calls the second once all workers have all."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group: GlooGroup | None = None
        self._staged: list[tuple[str, Tensor]] = []

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        parallel = self.parallel_config
        worker = parallel.data_parallel_index * parallel.world_size + parallel.rank
        master, port = init_info.master_address, init_info.master_port
        self._group = GlooGroup.join(
            join_store(master, port, init_info.timeout_s),
            init_info.rank_offset + worker,
            init_info.world_size,
            address=local_address(master, port),
            timeout_s=init_info.timeout_s,
        )

    def start_weight_update(self) -> None:
        self._staged = []

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class waits for an accelerator afterwards, and there may be none.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        if self._group is None:
            raise RuntimeError("expected init_transfer_engine before update_weights")
        parts = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        self._staged = self._group.receive([TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in parts])

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        staged, self._staged = self._staged, []
        initialize_layerwise_reload(self.model)
        self.model.load_weights(iter(staged))
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        self._staged = []
        if self._group is not None:
            self._group.close()
            self._group = None
