"""Published weights: in files of a bounded size, marker last, old versions deleted, repeated publishing harmless."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vigorl_lib.models.weights import fetch_weights
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training import weights
from vigorl_lib.training.weights import current_weights, publish_weights, published_versions

# 400, 800, 200 and 4,000 bytes.
TENSORS = {f"w{number}": torch.randn(size) for number, size in enumerate((100, 200, 50, 1000))}


@pytest.mark.parametrize(("limit", "files"), [(1 << 20, 1), (1300, 3), (1, 4)])
def test_a_version_is_cut_into_files_and_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, files: int
) -> None:
    monkeypatch.setattr(weights, "SHARD_BYTES", limit)
    layout = RunLayout(open_storage(str(tmp_path)), "run")
    publish_weights(layout, 1, TENSORS, keep=2)
    folder = tmp_path / layout.weight_version(1)
    assert len(list(folder.glob("*.safetensors"))) == files
    wanted = current_weights(layout)
    assert wanted is not None
    found = fetch_weights(wanted.uri)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_old_versions_are_deleted_and_published_ones_are_left_alone(tmp_path: Path) -> None:
    layout = RunLayout(open_storage(str(tmp_path)), "run")
    for version in (1, 2, 3):
        publish_weights(layout, version, TENSORS, keep=2)
    assert published_versions(layout) == [2, 3]
    publish_weights(layout, 2, {"w0": torch.zeros(1)}, keep=2)
    wanted = current_weights(layout)
    assert wanted is not None
    assert wanted.version == 3
    assert fetch_weights(f"{layout.storage.uri}/{layout.weight_version(2)}").keys() == TENSORS.keys()


def test_a_version_whose_writing_was_killed_is_written_again(tmp_path: Path) -> None:
    layout = RunLayout(open_storage(str(tmp_path)), "run")
    stray = tmp_path / layout.weight_version(1) / "model-00001-of-00009.safetensors"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half")
    publish_weights(layout, 1, TENSORS, keep=2)
    assert not stray.exists()
    wanted = current_weights(layout)
    assert wanted is not None
    assert fetch_weights(wanted.uri).keys() == TENSORS.keys()
