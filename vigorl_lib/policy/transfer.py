"""Tensors from a learner to the workers of one replica: the store where they meet, and a gloo group between them.

Each transfer has a store and a group of its own, which end with it, so nothing is left over from a peer that has
gone. The replica writes the number of its workers to the store once it is ready; the learner is rank 0. A digest
follows the last tensor: a stream that breaks off, or that was read differently than sent, is no transfer. Which
replicas are told, and when, is `vigorl_lib.training.transfer`; how an engine takes the tensors in is
`vigorl_lib.policy.vllm_transfer`. With NCCL only the store is used from here.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from vigorl_lib.policy.base import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

WORKERS = "workers"
"""Key of the store: how many workers of the replica will join, written once they are ready."""
DTYPES = frozenset({"float32", "bfloat16", "float16"})
SENDER = 0


def open_store(timeout_s: float) -> TCPStore:
    """The learner's end; `port` says where it listens, on all addresses of this machine."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore("0.0.0.0", 0, None, True, timedelta(seconds=timeout_s), wait_for_workers=False)  # noqa: S104


def join_store(address: str, port: int, timeout_s: float) -> TCPStore:
    """A replica's end. Raises torch's DistError, a RuntimeError, if nobody listens there in time."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(address, port, None, False, timedelta(seconds=timeout_s))


def local_address(host: str, port: int) -> str:
    """The address of this machine that `host` answers to. Raises OSError for an unknown host."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        # Sends nothing; it only chooses a route.
        probe.connect(address)
        return str(probe.getsockname()[0])


def spec_of(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


class GlooGroup:
    """One member's end of a group that broadcasts from rank 0; every wait ends at its deadline."""

    def __init__(self, group: Any, timeout_s: float) -> None:
        self._group: Any = group
        self._end = time.monotonic() + timeout_s

    @classmethod
    def join(cls, store: Store, rank: int, size: int, *, address: str, timeout_s: float) -> GlooGroup:
        """Meets the others; `address` is this machine's own. Raises RuntimeError if they do not come in time."""
        from torch.distributed import distributed_c10d

        gloo: Any = distributed_c10d.ProcessGroupGloo
        # torch has no public way to say which address a group uses; left alone, it takes that of the host's name.
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=address)]
        options._timeout = timedelta(seconds=timeout_s)
        return cls(gloo(distributed_c10d.PrefixStore("gloo", store), rank, size, options), timeout_s)

    def send(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Rank 0 only. Raises RuntimeError if a peer is gone or the deadline has passed."""
        digest = hashlib.sha256()
        for name, tensor in tensors:
            values = tensor.detach().cpu().contiguous()
            self._pass(values, digest, spec_of(name, values))
        self._broadcast(_as_tensor(digest.digest()))

    def receive(self, specs: Sequence[TensorSpec]) -> list[tuple[str, Tensor]]:
        """The tensors on this machine's memory. Raises RuntimeError if the sender is gone, is late, or sent others."""
        import torch

        digest = hashlib.sha256()
        tensors = []
        for spec in specs:
            values = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
            self._pass(values, digest, spec)
            tensors.append((spec.name, values))
        told = torch.empty(digest.digest_size, dtype=torch.uint8)
        self._broadcast(told)
        if bytes(told.tolist()) != digest.digest():
            raise RuntimeError("the tensors that came are not those that were sent: their digests differ")
        return tensors

    def close(self) -> None:
        # A group that lives until the interpreter ends aborts the process there, if a peer has gone.
        self._group = None

    def _pass(self, values: Tensor, digest: hashlib._Hash, spec: TensorSpec) -> None:
        import torch

        # Bytes, because gloo does not know every type of number.
        raw = values.reshape(-1).view(torch.uint8)
        self._broadcast(raw)
        digest.update(repr(spec).encode())
        digest.update(raw.numpy().data)

    def _broadcast(self, raw: Tensor) -> None:
        assert self._group is not None, "the group is closed"
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise RuntimeError("the transfer has not ended in time")
        self._group.broadcast(raw, SENDER).wait(timedelta(seconds=left_s))


@contextmanager
def gloo_group(store: Store, rank: int, size: int, *, address: str, timeout_s: float) -> Iterator[GlooGroup]:
    """`GlooGroup.join`, closed after the block."""
    group = GlooGroup.join(store, rank, size, address=address, timeout_s=timeout_s)
    try:
        yield group
    finally:
        group.close()


def _as_tensor(data: bytes) -> Tensor:
    import torch

    return torch.tensor(list(data), dtype=torch.uint8)
