"""Exported folders: whole, equal to what they were made of, and never more in memory than one shard."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.models.export import HEAD, SHARD_BYTES, export_model, module_name
from vigorl_lib.models.export_check import check_logprobs
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.models.weights import read_weights, shapes_of

SHARD = 300_000
NORM = "model.language_model.norm.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "base"
    build_tiny(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path) -> dict[str, Tensor]:
    """Weights of the language model as a trainer would hand them over, in fp32 and by the model's names."""
    state = load_model(str(base), device="cpu").model.state_dict()
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in state.items()
        if ".visual." not in name
    }


class Watched(Mapping[str, Tensor]):
    """Reads on access, and knows how many bytes of what it gave are alive."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self.alive = self.most = 0

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._weights[name].clone()
        self.alive += tensor.nbytes
        self.most = max(self.most, self.alive)
        weakref.finalize(tensor, self._gone, tensor.nbytes)
        return tensor

    def _gone(self, size: int) -> None:
        self.alive -= size

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def test_an_export_is_the_base_with_the_new_weights(base: Path, trained: dict[str, Tensor], tmp_path: Path) -> None:
    done = export_model(trained, str(base), tmp_path / "out")
    assert (done.tensors, done.changed) == (len(read_weights(base)), len(trained))
    found = load_model(str(tmp_path / "out"), device="cpu").model.state_dict()
    before = load_model(str(base), device="cpu").model.state_dict()
    assert all(torch.equal(found[name], trained.get(name, before[name])) for name in before)
    # A reader of the base reads the export: same names, same files besides the weights.
    assert list(shapes_of(tmp_path / "out")) == list(shapes_of(base))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in base.iterdir()}
    assert check_logprobs(tmp_path / "out", trained, str(base)) == 0.0


def test_no_more_than_a_shard_is_in_memory(base: Path, trained: dict[str, Tensor], tmp_path: Path) -> None:
    watched = Watched(trained)
    done = export_model(watched, str(base), tmp_path / "out", shard_bytes=SHARD)
    largest = max(tensor.nbytes for tensor in trained.values())
    whole = sum(tensor.nbytes for tensor in trained.values())
    # The tensor that opens the next shard is read before the full one is written.
    assert watched.most <= SHARD + largest < whole / 2
    assert watched.alive == 0
    assert len(done.files) > 3
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(done.files)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in read_weights(tmp_path / "out").values())
    found = load_model(str(tmp_path / "out"), device="cpu").model.state_dict()
    assert torch.equal(found[NORM], trained[NORM])


def test_another_type_is_written_into_files_and_configuration(
    base: Path, trained: dict[str, Tensor], tmp_path: Path
) -> None:
    export_model(trained, str(base), tmp_path / "out", dtype="bfloat16")
    assert {tensor.dtype for tensor in read_weights(tmp_path / "out").values()} == {torch.bfloat16}
    loaded = load_model(str(tmp_path / "out"), device="cpu").model
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.state_dict()[NORM], trained[NORM].bfloat16())
    assert check_logprobs(tmp_path / "out", trained, str(base)) == 0.0


def test_tied_weights_are_written_once(base: Path, trained: dict[str, Tensor], tmp_path: Path) -> None:
    tied = tmp_path / "tied"
    export_model({}, str(base), tied)
    config = json.loads((tied / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tied / "config.json").write_text(json.dumps(config))
    weights = {name: tensor for name, tensor in trained.items() if name != HEAD}
    # The base still has a head of its own, which would be stale.
    export_model(weights, str(tied), tmp_path / "out")
    assert HEAD not in shapes_of(tmp_path / "out")
    assert check_logprobs(tmp_path / "out", weights, str(tied)) == 0.0
    with pytest.raises(PolicyError, match="ties it"):
        export_model(trained, str(tied), tmp_path / "untied")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.language_model.extra": torch.ones(2)}, "unknown: model.language_model.extra"),
        ({NORM: torch.ones(7)}, r"is \(7,\) and should be \(96,\)"),
    ],
)
def test_weights_that_do_not_fit_leave_nothing(
    base: Path, trained: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor], told: str
) -> None:
    with pytest.raises(PolicyError, match=told):
        export_model(trained | change, str(base), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # What a failed export left beside is taken by the next one.
    export_model(trained, str(base), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_something_in_it_is_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        export_model({}, str(base), tmp_path)
    assert caught.value.reason == "MODEL_FOLDER_TAKEN"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_wrong_configuration_shows_in_the_log_probabilities(
    base: Path, trained: dict[str, Tensor], tmp_path: Path
) -> None:
    export_model(trained, str(base), tmp_path / "out")
    other = {**trained, NORM: 2 * trained[NORM]}
    with pytest.raises(PolicyError) as caught:
        check_logprobs(tmp_path / "out", other, str(base))
    assert caught.value.reason == "EXPORT_DIFFERS"


@pytest.mark.parametrize("name", ["model.visual.a.weight", "model.language_model.a.weight", HEAD])
def test_names_of_a_model_stay(name: str) -> None:
    assert module_name(name) == name
    assert SHARD_BYTES > SHARD
