"""A storage with a tiny model and a small synthetic data set, made once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vigorl_lib.data.datasets_synthetic import make_synthetic
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.storage.base import Storage, open_storage

DATASET = "visual-search"
CAPTIONS = f"datasets/{DATASET}/captions.parquet"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("training")
    build_tiny(root / "tiny", seed=0)
    make_synthetic(open_storage(str(root)), DATASET, {"train": 8}, 0, captions=40)
    return root


@pytest.fixture
def storage(made: Path, tmp_path: Path) -> Storage:
    shutil.copytree(made, tmp_path / "root")
    return open_storage(str(tmp_path / "root"))
