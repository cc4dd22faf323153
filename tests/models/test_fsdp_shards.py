"""Shards of another trainer: joined as they were cut, and nothing in them is ever run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vigorl_lib.errors import CorruptObject, DataError, ObjectNotFound
from vigorl_lib.models.export import HEAD, export_model
from vigorl_lib.models.export_check import check_logprobs
from vigorl_lib.models.fsdp_shards import FsdpShards
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.models.weights import read_weights


def write_shards(folder: Path, weights: dict[str, Tensor], world: int, *, copies: int = 1, mesh: Any = None) -> None:
    """The files that each rank of an FSDP trainer writes: real DTensors over a mesh of processes that are not there."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    shape, names = ((world,), ("fsdp",)) if copies == 1 else ((copies, world), ("ddp", "fsdp"))
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(world * copies):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world * copies)
        device_mesh = init_device_mesh("cpu", shape, mesh_dim_names=mesh or names)
        state: dict[str, Any] = {}
        for name, tensor in weights.items():
            step = math.ceil(tensor.shape[0] / world)
            part = tensor[rank % world * step : (rank % world + 1) * step].clone()
            cut = [*[Replicate()] * (len(shape) - 1), Shard(0)]
            state[name] = DTensor.from_local(
                part, device_mesh, cut, run_check=False, shape=tensor.shape, stride=tensor.stride()
            )
        torch.save(state, folder / f"model_world_size_{world * copies}_rank_{rank}.pt")
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "base"
    build_tiny(folder, seed=0)
    return folder


@pytest.mark.parametrize("copies", [1, 2])
def test_shards_become_the_model_that_was_cut(base: Path, tmp_path: Path, copies: int) -> None:
    weights = read_weights(base)
    actor = tmp_path / "actor"
    # Three ranks: most tensors do not divide evenly, some ranks have nothing of a small one.
    write_shards(actor, weights, 3, copies=copies)
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (actor / "huggingface").mkdir(exist_ok=True)
            (actor / "huggingface" / path.name).write_bytes(path.read_bytes())
    shards = FsdpShards(actor)
    done = export_model(shards, str(actor / "huggingface"), tmp_path / "out")
    assert done.tensors == len(weights)
    found = load_model(str(tmp_path / "out"), device="cpu").model.state_dict()
    before = load_model(str(base), device="cpu").model.state_dict()
    assert all(torch.equal(found[name], before[name]) for name in before)
    assert check_logprobs(tmp_path / "out", shards, str(actor / "huggingface")) == 0.0


def test_the_mesh_of_an_older_torch_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.device_mesh import DeviceMesh

    older = {"device_type": "cuda", "mesh": torch.arange(2), "mesh_dim_names": ("fsdp",), "_thread_id": None}
    monkeypatch.setattr(DeviceMesh, "__getstate__", lambda self: older)
    weights = torch.arange(15.0).reshape(5, 3)
    write_shards(tmp_path, {HEAD: weights}, 2)
    assert torch.equal(FsdpShards(tmp_path)[HEAD], weights)


def test_reading_shards_leaves_torch_as_it_was(tmp_path: Path) -> None:
    write_shards(tmp_path, {HEAD: torch.arange(12.0).reshape(4, 3)}, 2)
    before = set(map(str, torch.serialization.get_safe_globals()))
    assert torch.equal(FsdpShards(tmp_path)[HEAD], torch.arange(12.0).reshape(4, 3))
    assert set(map(str, torch.serialization.get_safe_globals())) == before


class Evil:
    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self._proof,)


def test_a_shard_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": Evil(tmp_path / "proof")}, tmp_path / "model_world_size_1_rank_0.pt")
    with pytest.raises(DataError, match="nothing of it was run") as caught:
        FsdpShards(tmp_path)
    assert caught.value.reason == "SHARDS_REFUSED"
    assert not (tmp_path / "proof").exists()


def test_a_mesh_with_tensor_parallelism_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, {HEAD: torch.ones(4, 3)}, 2, copies=2, mesh=("fsdp", "tp"))
    with pytest.raises(DataError, match=r"\('fsdp', 'tp'\)"):
        FsdpShards(tmp_path)[HEAD]


def test_a_missing_rank_and_a_cut_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match="W = \\[\\], none"):
        FsdpShards(tmp_path)
    write_shards(tmp_path, {HEAD: torch.ones(4, 3)}, 2)
    path = tmp_path / "model_world_size_2_rank_1.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorruptObject, match="not readable"):
        FsdpShards(tmp_path)
    path.unlink()
    with pytest.raises(ObjectNotFound, match="none of rank 1"):
        FsdpShards(tmp_path)
