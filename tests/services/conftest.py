"""A small world for services: a data set in a folder, a tiny model, and services that run in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.data.datasets_synthetic import make_synthetic
from vigorl_lib.domain.example import Example
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rpc.server import Service, ServiceSection, running
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore

DATASET = "visual-search"

ZOOM = ZoomConfig(window_model_px=21, shown_px=84, max_turns=4)
TASK = TaskConfig(family="synthetic_search", mode="multi_turn", max_turn_tokens=24, max_tokens=200, zoom=ZOOM)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage with four examples."""
    folder = tmp_path_factory.mktemp("root")
    make_synthetic(open_storage(str(folder)), DATASET, {"train": 4}, seed=0)
    return folder


@pytest.fixture(scope="session")
def examples(root: Path) -> list[Example]:
    storage = open_storage(str(root))
    return read_dataset(storage, ImageStore(storage), DATASET, "train")


@asynccontextmanager
async def serving(
    build: Callable[[Any], AbstractAsyncContextManager[Service]], config: ServiceSection
) -> AsyncIterator[str]:
    """The address of a service, built as its process builds it."""
    async with running(config.server, lambda: build(config)) as address:
        yield address
