from __future__ import annotations

import json
from pathlib import Path

import pytest

from vigorl_lib.errors import ConfigError
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.run_config import write_run_config


def test_the_parts_of_a_run_lie_below_its_root(tmp_path: Path) -> None:
    layout = RunLayout(FolderStorage(tmp_path), "quickstart/sft")
    assert layout.checkpoint(120) == "runs/quickstart/sft/checkpoints/step-000120"
    assert layout.weight_version(7) == "runs/quickstart/sft/weights/000007"
    assert layout.search(3) == "runs/quickstart/sft/search/00003"


@pytest.mark.parametrize("run_id", ["", "../x", "a//b", "/a", "a b", "a/.hidden"])
def test_a_run_id_that_is_no_path_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunLayout(FolderStorage(tmp_path), run_id)
    assert caught.value.reason == "RUN_ID_INVALID"


def test_the_config_of_a_run_says_what_ran(tmp_path: Path) -> None:
    layout = RunLayout(FolderStorage(tmp_path), "a")
    write_run_config(layout, {"seed": 3})
    written = json.loads(layout.storage.read(layout.config))
    assert written["settings"] == {"seed": 3}
    assert {"python", "vigorl", "pillow"} <= written["versions"].keys()
