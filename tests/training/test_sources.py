"""Sources of chains: Parquet, JSONL and sharegpt of the same chains train alike."""

from __future__ import annotations

import json

import pytest

from tests.training.conftest import CAPTIONS
from tests.training.support import sft_values
from vigorl_lib.data.chains import read_chains
from vigorl_lib.data.sharegpt import export_sharegpt
from vigorl_lib.data.trajectory_records import trajectory_to_record
from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import ChainSource, SftConfig
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.sft import train_sft
from vigorl_lib.training.sources import read_source

EXPORTED, RECORDS = "exported/train.json", "exported/records.jsonl"


@pytest.fixture
def both(storage: Storage) -> Storage:
    chains = read_chains(storage, CAPTIONS)
    export_sharegpt(storage, ImageStore(storage), "exported", {"train": chains})
    lines = (json.dumps(trajectory_to_record(chain)) for chain in chains)
    storage.write(RECORDS, "\n".join(lines).encode())
    return storage


def losses(storage: Storage, run_id: str, chains: str) -> list[float]:
    values = sft_values(sources=[{"chains": chains}], steps=3, checkpoint={"every": 0})
    train_sft(SftConfig.model_validate(values), storage=storage, run_id=run_id, seed=3)
    return [record["loss"] for record in read_metrics(RunLayout(storage, run_id))]


def test_every_format_gives_the_same_losses(both: Storage) -> None:
    expected = losses(both, "parquet", CAPTIONS)
    assert losses(both, "records", RECORDS) == expected
    assert losses(both, "sharegpt", EXPORTED) == pytest.approx(expected, abs=1e-6)


def test_images_of_conversations_come_to_the_run_from_another_storage(both: Storage, tmp_path: object) -> None:
    here = open_storage(f"{tmp_path}/here")
    chains = read_source(here, ChainSource(chains=f"{both.uri}/{EXPORTED}", limit=2))
    assert len(chains) == 2
    images = [image for chain in chains for segment in chain.segments for image in segment.images]
    assert images
    assert all(image.data is None and image.sha256 in ImageStore(here) for image in images)


def test_modes_and_limits_choose(both: Storage) -> None:
    mode = read_chains(both, CAPTIONS)[0].mode
    assert len(read_source(both, ChainSource(chains=EXPORTED, modes=(mode,), limit=5))) == 5
    with pytest.raises(DataError, match="multi_turn"):
        read_source(both, ChainSource(chains=RECORDS, modes=("multi_turn",)))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"{}", "expected an array"),
        ("a.json", b"[", "expected JSON"),
        ("a.json", b"[3]", r"a.json\[0\]: expected a JSON object"),
        ("a.jsonl", b'{"version": 1}\n', "a.jsonl:1"),
    ],
)
def test_what_is_no_file_of_chains_is_refused_with_its_place(
    storage: Storage, name: str, data: bytes, message: str
) -> None:
    storage.write(name, data)
    with pytest.raises(DataError, match=message) as caught:
        read_source(storage, ChainSource(chains=name))
    assert caught.value.reason == "RECORD_INVALID"
