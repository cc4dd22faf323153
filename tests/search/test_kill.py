"""Processes that are killed with SIGKILL at every point of a search lose what was in flight and nothing else."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_s3 import BUCKET, s3_environment
from tests.search.killing import EXAMPLES, RUN
from vigorl_lib.search.archive import read_archive, read_run
from vigorl_lib.search.journal import read_trees
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.s3 import S3Storage
from vigorl_lib.storage.segments import read_segments

IDS = {example.example_id for example in EXAMPLES}
KINDS = ["root", "simulation", "simulation", "end"]
Case = dict[str, Any]

FOLDER_CASES: list[Case] = [
    {"point": point, "when": when, "occurrence": occurrence}
    for point, occurrence in (
        ("claim", 2),
        ("append", 1),
        ("append", 7),
        ("append", 16),
        ("close", 2),
        ("unlink", 2),
        ("adopt", 1),
        ("crop", 1),
        ("ended", 1),
        ("archive", 1),
    )
    for when in ("before", "after")
] + [{"point": "append", "when": "torn", "occurrence": occurrence} for occurrence in (1, 6, 16)]
BUCKET_CASES: list[Case] = [
    {"point": point, "when": when, "occurrence": occurrence}
    for point, occurrence in (("close", 1), ("close", 3), ("crop", 1), ("ended", 1), ("archive", 1))
    for when in ("before", "after")
]


def play(root: str, cases: list[Case], environment: dict[str, str] | None = None) -> list[dict[str, Any]]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.search.killing", root],
        input="".join(json.dumps(case) + "\n" for case in cases),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def check_whole(storage: Storage, case: Case) -> None:
    """Every example is finished once, by one unbroken chain of records, and the archive says what the journal says."""
    layout = RunLayout(storage, RUN)
    trees = list(read_trees(storage, layout.search()))
    assert Counter(tree.example_id for tree in trees) == Counter(IDS), case
    assert all(tree.end for tree in trees), case
    kinds: dict[str, list[str]] = {}
    for record in read_segments(storage, layout.search()):
        kinds.setdefault(record["tree"], []).append(record["kind"])
    assert list(kinds.values()) == [KINDS] * len(IDS), case
    archived = list(read_archive(storage, layout.trees))
    assert [tree.rollouts for tree in archived] == [tree.rollouts for tree in trees], case
    assert Counter(tree.example_id for tree in read_run(layout)) == Counter(IDS), case


def check_killed(outcome: dict[str, Any], case: Case) -> None:
    assert outcome["deaths"] == [signal.SIGKILL] * case.get("times", 1), (case, "the point was never reached")
    assert outcome["status"] == 0, case


def test_killed_at_each_point_a_search_in_a_folder_ends_whole(tmp_path: Path) -> None:
    outcomes = play(str(tmp_path), FOLDER_CASES)
    for number, (case, outcome) in enumerate(zip(FOLDER_CASES, outcomes, strict=True)):
        check_killed(outcome, case)
        check_whole(FolderStorage(tmp_path / f"{number:04d}"), case)
        if case["point"] == "append":
            # Every record that was acknowledged is there, and no half of one.
            assert outcome["kept"] == case["occurrence"] - (case["when"] != "after"), case


def test_killed_at_each_point_a_search_in_a_bucket_loses_its_open_segment_at_most(
    s3_settings: S3Settings, s3_storage: S3Storage
) -> None:
    root = s3_storage.uri
    assert root.startswith(f"s3://{BUCKET}/")
    outcomes = play(root, BUCKET_CASES, s3_environment(s3_settings))
    for number, (case, outcome) in enumerate(zip(BUCKET_CASES, outcomes, strict=True)):
        check_killed(outcome, case)
        if case["point"] == "close":
            closed = case["occurrence"] - (case["when"] == "before")
            assert outcome["kept"] == 4 * closed, case
        check_whole(open_storage(f"{root}/{number:04d}", s3_settings), case)


def random_cases(count: int, seed: int) -> list[Case]:
    rng = random.Random(seed)
    return [{"after_s": rng.uniform(0.0, 0.25), "pause_s": 0.01, "times": rng.randint(1, 4)} for _ in range(count)]


def check_random(count: int, root: str, settings: S3Settings | None = None) -> None:
    cases = random_cases(count, seed=count)
    outcomes = play(root, cases, s3_environment(settings) if settings else None)
    for number, (case, outcome) in enumerate(zip(cases, outcomes, strict=True)):
        assert outcome["status"] == 0, case
        check_whole(open_storage(f"{root}/{number:04d}", settings), case)


def test_killed_at_random_times_a_search_ends_whole(tmp_path: Path) -> None:
    check_random(5, str(tmp_path))


@pytest.mark.slow
def test_killed_at_many_random_times_a_search_in_a_folder_ends_whole(tmp_path: Path) -> None:
    check_random(150, str(tmp_path))


@pytest.mark.slow
def test_killed_at_many_random_times_a_search_in_a_bucket_ends_whole(
    s3_settings: S3Settings, s3_storage: S3Storage
) -> None:
    check_random(40, s3_storage.uri, s3_settings)
