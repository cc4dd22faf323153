"""The tiny model, built once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.tiny import build_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LoadedModel:
    """Do not change its weights."""
    return load_model(str(tiny_folder))
