from __future__ import annotations

from pathlib import Path

import pytest

from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.folder import FolderStorage


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each back end in turn: what holds for one holds for the other."""
    if request.param == "folder":
        return FolderStorage(tmp_path / "root")
    s3: Storage = request.getfixturevalue("s3_storage")
    return s3
