"""`vigorl data` as it is called: formats found by themselves, exit codes, one line for what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.hub_server import FakeHub, serving
from tests.pictures import encoded

ROWS = [
    {"id": "a", "image": "a.png", "question": "How red?", "answer": "not", "tags": {"room": "attic"}},
    {"id": "b", "image": "b.png", "question": "Where?", "kind": "point", "box": [1, 2, 9, 9]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate("ab"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(encoded(20, 10, color=number))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def vigorl(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vigorl_lib.cli.main", "data", *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False, timeout=120)


def test_files_go_in_are_checked_and_come_out(folder: Path) -> None:
    result = vigorl(folder, "import", "q.jsonl", "--images", "pictures", "--root", "root", "--name", "mine")
    assert result.returncode == 0, result.stderr
    assert "2 questions, 2 images in root, data set mine, split train (read as jsonl)" in result.stdout
    result = vigorl(folder, "check", "mine", "--root", "root", "--sheet", "sheet.html")
    assert (result.returncode, "nothing wrong" in result.stdout) == (0, True)
    assert (folder / "sheet.html").read_text().count("<article>") == 2
    result = vigorl(folder, "export", "mine", "--root", "root", "--format", "b", "--to", "out")
    assert "not told, because the format has no place for it: tags (1)" in result.stderr
    again = vigorl(folder, "import", "out/train.jsonl", "--root", "root", "--name", "again", "--split", "test")
    assert "(read as b)" in again.stdout
    shown = vigorl(folder, "show", "--root", "root", "--name", "again", "--split", "test")
    assert "b  20x10  Where?  → (1, 2, 9, 9)" in shown.stdout


def test_a_check_that_finds_something_exits_with_one(folder: Path) -> None:
    (folder / "pictures" / "b.png").unlink()
    result = vigorl(folder, "check", "q.jsonl", "--images", "pictures", "--samples", "0")
    assert result.returncode == 1
    assert result.stdout.splitlines()[0].startswith("q.jsonl:2: cannot read the image pictures/b.png")
    assert "1 problems (IMAGE_MISSING 1)" in result.stdout
    assert not (folder / "contact-sheet.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "q.jsonl", "--root", "r", "--name", "n", "--field", "qestion=x"], "--field: expected OURS=THEIRS"),
        (
            ["import", "q.jsonl", "--root", "r", "--name", "n"],
            "cannot read the image a.png: No such file or directory; images are looked for below . (--images)",
        ),
        (["check", "none.jsonl"], "cannot read none.jsonl"),
        (["check", "mine", "--root", "r"], "no data set 'mine'"),
        (["download", "screenspot-v3", "--to", "x"], "expected screenspot-v2"),
        (["download", "blink"], "--to"),
    ],
)
def test_wrong_input_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    result = vigorl(folder, *arguments)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    files = {"data/test-0.parquet": b"p" * 2_500_000, "data/notes.txt": b"words"}
    with serving(FakeHub(files)) as hub:
        yield hub


def test_a_download_is_shown_before_it_is_made_and_then_recorded(folder: Path, hub: FakeHub) -> None:
    program = (
        "from dataclasses import replace; from vigorl_lib.data import sources; found = sources.find_source; "
        "sources.find_source = lambda name: replace(found(name), repository='team/data'); "
        "from vigorl_lib.cli.main import main; main()"
    )

    def run(*more: str) -> str:
        command = [sys.executable, "-c", program, "data", "download", "realworldqa", "--to", "files", *more]
        environment = {**os.environ, "HF_ENDPOINT": hub.url}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    dry = run("--dry-run")
    assert re.search(r"team/data at 0123456789ab, licence mit\n +2\.5 MB  data/test-0\.parquet\n", dry)
    assert "2.5 MB to download into files/realworldqa" in dry
    assert not (folder / "files").exists()
    assert "vigorl benchmark import realworldqa files/realworldqa --root ROOT" in run()
    assert (folder / "files" / "realworldqa" / "data" / "test-0.parquet").stat().st_size == 2_500_000
    assert not (folder / "files" / "realworldqa" / "data" / "notes.txt").exists()
    assert "there already" in run()


def test_the_list_tells_size_and_licence(folder: Path) -> None:
    listed = vigorl(folder, "download", "--list").stdout
    assert "gsarch/vigorl_datasets: spatial_reasoning.tar, 11.2 GB, licence mit" in listed
