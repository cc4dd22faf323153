"""Sends new weights from the learner straight to the replicas of a policy, without storage between.

It only hurries: what replicas should hold is what `vigorl_lib.training.weights` publishes, and a replica that got
nothing here finds it there. Replicas are served one after the other, so that the others go on answering, each in a
group of its own: one that is gone costs its own deadline and nobody else's weights. Who listens there is
`vigorl_lib.policy.vllm_weights`, what passes between is `vigorl_lib.policy.transfer`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vigorl_lib.errors import ConfigError, PolicyError, VigorlError
from vigorl_lib.policy.base import PolicyInfo, WeightTransfer
from vigorl_lib.policy.client import PolicyClient, Tell
from vigorl_lib.policy.transfer import SENDER, WORKERS, gloo_group, local_address, open_store, spec_of
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.weights import current_weights

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from vigorl_lib.rollout.wiring import ServicesConfig

log = logging.getLogger(__name__)

Backend = Literal["nccl", "gloo"]
_POLL_S = 0.005
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class WeightSender:
    """To which policy a learner sends its weights; `timeout_s` is for one replica, its drain included.

    Raises ConfigError (ADMIN_TARGET_MISSING).
    """

    services: ServicesConfig
    policy: str
    backend: Backend
    run_id: str
    timeout_s: float = 300.0
    _failed: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    """Replicas that failed: how often in a row, and from which version on they are tried again."""

    def __post_init__(self) -> None:
        if not self.services.policy_admin.get(self.policy):
            raise ConfigError(
                f"weight_transfer {self.backend} needs to know where policy {self.policy!r} takes new weights; set "
                f"services.policy_admin.{self.policy}",
                reason="ADMIN_TARGET_MISSING",
            )

    def send(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Send all replicas a version, and wait until they have it. Blocks; for a thread without an event loop.

        Raises PolicyError (TRANSFER_FAILED, and what replicas refuse with): the first failure, once every replica has
        had its turn. ConfigError (TRANSFER_UNAVAILABLE).
        """
        asyncio.run(self._send(version, tensors))

    async def _send(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        from vigorl_lib.rpc.channels import Connections

        admin = self.services.policy_admin[self.policy]
        # The call ends after our own deadline, which knows what to say.
        config = self.services.client.model_copy(update={"timeout_s": self.timeout_s + _GRACE_S})
        connections = Connections(config)
        client = PolicyClient(admin, self.policy, admin=admin, connections=connections)
        try:

            async def send(target: str, tell: Tell) -> PolicyInfo:
                return await self._send_to(target, version, tensors, tell)

            await client.transfer_weights(version=version, run_id=self.run_id, send=send)
        finally:
            await client.close()
            await connections.close()

    async def _send_to(self, target: str, version: int, tensors: Mapping[str, Tensor], tell: Tell) -> PolicyInfo:
        """Send to one replica; after failures in a row it is left to storage for 1, 3, 7 … versions."""
        failures, again = self._failed.get(target, (0, version))
        if version < again:
            raise PolicyError(
                f"{target} failed {failures} times in a row and is left to storage until version {again}",
                reason="TRANSFER_FAILED",
                infrastructure=True,
                target=target,
            )
        try:
            info = await send_to_replica(tensors, target, tell, backend=self.backend, timeout_s=self.timeout_s)
        except VigorlError:
            self._failed[target] = failures + 1, version + 2 ** (failures + 1)
            raise
        self._failed.pop(target, None)
        return info


def hurry_weights(sender: WeightSender, layout: RunLayout, version: int, tensors: Mapping[str, Tensor]) -> None:
    """Send a version that is about to be published; one that is published already is left alone. Blocks.

    A replica that is gone, late or fails is a line in the log and no more: it will find the version in storage.
    Raises what replicas refuse with for good (WRONG_RUN, NOT_SUPPORTED, WEIGHTS_MISMATCH …), ConfigError.
    """
    current = current_weights(layout)
    if current is not None and version <= current.version:
        return
    begin = time.monotonic()
    try:
        sender.send(version, tensors)
    except VigorlError as error:
        if not error.infrastructure:
            raise
        log.warning("version %d was not sent to every replica: %s: %s", version, error.reason, error.message)
    else:
        log.info("version %d sent to every replica in %.2f s", version, time.monotonic() - begin)


async def send_to_replica(
    tensors: Mapping[str, Tensor], target: str, tell: Tell, *, backend: Backend, timeout_s: float
) -> PolicyInfo:
    """Send all tensors to the replica behind `target`, and return what it then is.

    `tell` makes the call that takes the replica there; a replica that has the version already asks for nothing.
    Raises PolicyError (TRANSFER_FAILED) within `timeout_s`, and what `tell` raises.
    """
    host, _, port = target.rpartition(":")
    store = open_store(timeout_s)
    transfer = WeightTransfer(
        backend=backend,
        address=local_address(host.strip("[]"), int(port)),
        port=store.port,
        tensors=tuple(spec_of(name, tensor) for name, tensor in tensors.items()),
        timeout_s=timeout_s,
        nccl_unique_id=_nccl_unique_id() if backend == "nccl" else b"",
    )
    telling = asyncio.ensure_future(tell(transfer))
    try:
        async with asyncio.timeout(timeout_s):
            while not telling.done() and not store.check([WORKERS]):  # noqa: ASYNC110 - a store has no event
                await asyncio.sleep(_POLL_S)
            if not telling.done():
                size = 1 + int(store.get(WORKERS))
                broadcast = _over_nccl if backend == "nccl" else _over_gloo
                await _in_daemon(lambda: broadcast(tensors.items(), store, size, transfer))
            return await telling
    except VigorlError:
        raise
    except (TimeoutError, RuntimeError) as error:
        raise PolicyError(
            f"{target} did not take the weights within {timeout_s:g} s ({error or 'no answer'}); it finds them in "
            "storage once they are published",
            reason="TRANSFER_FAILED",
            infrastructure=True,
            target=target,
        ) from error
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


def _over_gloo(tensors: Iterable[tuple[str, Tensor]], store: TCPStore, size: int, transfer: WeightTransfer) -> None:
    with gloo_group(store, SENDER, size, address=transfer.address, timeout_s=transfer.timeout_s) as group:
        group.send(tensors)


def _over_nccl(tensors: Iterable[tuple[str, Tensor]], store: TCPStore, size: int, transfer: WeightTransfer) -> None:
    """As vLLM's own engine `nccl` expects it: packed, over a communicator of vLLM's."""
    import torch
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer
    from vllm.utils.nccl import unpinned_nccl_env

    device = torch.device("cuda", torch.cuda.current_device())
    with unpinned_nccl_env():
        group = PyNcclCommunicator.from_unique_id_bytes(
            transfer.nccl_unique_id, rank=SENDER, world_size=size, device=device
        )
    try:
        packed_nccl_broadcast_producer(
            iter(tensors), group, src=SENDER, post_iter_func=lambda item: item[1].detach().to(device).contiguous()
        )
    finally:
        group.destroy()


def _nccl_unique_id() -> bytes:
    """Raises ConfigError (TRANSFER_UNAVAILABLE)."""
    try:
        from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

        return bytes(NCCLLibrary().ncclGetUniqueId())
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"weight_transfer nccl needs vLLM and NCCL beside the learner, which cannot be loaded ({error}); install "
            "vigorl[vllm] there, or set weight_transfer none",
            reason="TRANSFER_UNAVAILABLE",
        ) from error


async def _in_daemon(work: Callable[[], None]) -> None:
    """Run `work` in a thread that nobody joins: a broadcast to a replica that hangs may never return."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, failure)

    threading.Thread(target=run, name="weight-transfer", daemon=True).start()
    await done
