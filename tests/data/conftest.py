"""What the tests of data share."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigorl_lib.storage.folder import FolderStorage


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "root")
