"""Data sets: manifests last, digests checked, splits apart; the synthetic one is made once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.pictures import encoded
from vigorl_lib.data import datasets_synthetic
from vigorl_lib.data.datasets import (
    read_dataset,
    read_dataset_chains,
    read_manifest,
    write_dataset,
    write_dataset_chains,
)
from vigorl_lib.data.datasets_synthetic import make_synthetic
from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.image import digest
from vigorl_lib.domain.trajectory import Origin
from vigorl_lib.errors import ConfigError, CorruptObject, DataError
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore, probe
from vigorl_lib.storage.s3 import S3Storage


def some_examples(*ids: str) -> list[Example]:
    return [
        Example(name, "How red is it?", (probe(encoded(6, 5, color=n)),), GroundTruth(str(n)))
        for n, name in enumerate(ids)
    ]


@pytest.fixture
def images(storage: FolderStorage) -> ImageStore:
    return ImageStore(storage)


def test_a_split_comes_back_with_its_pixels(storage: FolderStorage, images: ImageStore) -> None:
    written = some_examples("a", "b", "c")
    write_dataset(storage, images, "mine", "train", iter(written), created_from={"by": "test"})
    read = read_dataset(storage, ImageStore(storage), "mine", "train")
    assert read == written
    assert [example.images[0].data for example in read] == [example.images[0].data for example in written]
    assert read_dataset(storage, images, "mine", "train", limit=2) == written[:2]
    bare = read_dataset(storage, images, "mine", "train", with_images=False)
    assert bare == written
    assert bare[0].images[0].data is None
    part = read_manifest(storage, "mine").splits["train"]
    assert (part.count, part.created_from) == (3, {"by": "test"})


def test_a_bucket_holds_a_data_set_just_as_well(s3_storage: S3Storage) -> None:
    written = some_examples("a", "b")
    write_dataset(s3_storage, ImageStore(s3_storage), "mine", "train", written)
    assert read_dataset(s3_storage, ImageStore(s3_storage), "mine", "train") == written


def test_a_text_may_hold_any_line_break(storage: FolderStorage, images: ImageStore) -> None:
    """U+2028 and NEL inside a question once ended its line for a reader that split on every line break."""
    picture = probe(encoded(4, 4))
    written = [Example("a", "one\u2028two\x85three\r\nfour", (picture,), GroundTruth("x"))]
    write_dataset(storage, images, "mine", "train", written)
    assert read_dataset(storage, images, "mine", "train") == written


def test_splits_share_no_id(storage: FolderStorage, images: ImageStore) -> None:
    write_dataset(storage, images, "mine", "train", some_examples("a", "b"))
    with pytest.raises(DataError, match="share the id 'b'"):
        write_dataset(storage, images, "mine", "test", some_examples("b", "c"))
    with pytest.raises(DataError, match="occurs twice"):
        write_dataset(storage, images, "mine", "test", some_examples("c", "c"))
    assert list(read_manifest(storage, "mine").splits) == ["train"]


def test_the_same_again_is_quiet_and_other_content_is_refused(storage: FolderStorage, images: ImageStore) -> None:
    write_dataset(storage, images, "mine", "train", some_examples("a"))
    write_dataset(storage, images, "mine", "train", some_examples("a"))
    with pytest.raises(DataError) as caught:
        write_dataset(storage, images, "mine", "train", some_examples("a", "b"))
    assert caught.value.reason == "DATASET_EXISTS"


def test_a_split_without_its_manifest_does_not_exist(storage: FolderStorage, images: ImageStore) -> None:
    write_dataset(storage, images, "mine", "train", some_examples("a"))
    storage.delete("datasets/mine/manifest-0001.json")
    with pytest.raises(DataError, match="no data set 'mine'"):
        read_dataset(storage, images, "mine", "train")
    write_dataset(storage, images, "mine", "train", some_examples("a"))
    assert len(read_dataset(storage, images, "mine", "train")) == 1


def test_processes_that_add_splits_at_the_same_time_all_succeed(storage: FolderStorage) -> None:
    """A manifest that is read, changed and written back loses the part of whoever was in between."""
    names = [f"part-{number}" for number in range(12)]
    together = Barrier(len(names))

    def add(name: str) -> None:
        own = FolderStorage(storage.root)
        together.wait()
        write_dataset(own, ImageStore(own), "mine", name, some_examples(f"{name}-a", f"{name}-b"))

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(add, names))
    assert sorted(read_manifest(storage, "mine").splits) == sorted(names)
    assert all(len(read_dataset(storage, ImageStore(storage), "mine", name)) == 2 for name in names)


def test_of_two_splits_with_one_id_that_race_one_is_refused(storage: FolderStorage) -> None:
    together = Barrier(2)

    def add(name: str) -> str:
        together.wait()
        try:
            write_dataset(storage, ImageStore(storage), "mine", name, some_examples("a"))
        except DataError as error:
            return error.reason
        return "written"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(add, ("train", "test"))) == ["DUPLICATE_ID", "written"]
    assert len(read_manifest(storage, "mine").splits) == 1


def test_chains_of_other_content_under_the_same_name_are_refused(storage: FolderStorage, images: ImageStore) -> None:
    make_synthetic(storage, "scenes", {"train": 2}, 0, captions=5)
    chains = read_dataset_chains(storage, "scenes", "captions")
    before = storage.list()
    write_dataset_chains(storage, "scenes", "captions", chains)
    assert storage.list() == before
    with pytest.raises(DataError) as caught:
        write_dataset_chains(storage, "scenes", "captions", chains[:2])
    assert caught.value.reason == "DATASET_EXISTS"
    assert len(read_dataset_chains(storage, "scenes", "captions")) == 5


def test_changed_records_are_found_on_read(storage: FolderStorage, images: ImageStore) -> None:
    write_dataset(storage, images, "mine", "train", some_examples("a"))
    data = storage.read("datasets/mine/train.jsonl")
    storage.write("datasets/mine/train.jsonl", data.replace(b"How", b"Who"))
    with pytest.raises(CorruptObject):
        read_dataset(storage, images, "mine", "train")


def test_an_unknown_name_is_told_with_those_that_exist(storage: FolderStorage, images: ImageStore) -> None:
    write_dataset(storage, images, "mine", "train", some_examples("a"))
    with pytest.raises(DataError, match=r"no data set 'main'.*; found: mine"):
        read_dataset(storage, images, "main", "train")
    with pytest.raises(DataError, match="no split 'test'; found: train"):
        read_dataset(storage, images, "mine", "test")


COUNTS = {"train": 6, "validation": 4, "test": 4}


def test_synthetic_splits_are_balanced_and_share_no_picture(storage: FolderStorage, images: ImageStore) -> None:
    make_synthetic(storage, "scenes", COUNTS, 0)
    seen: set[str] = set()
    for split, count in COUNTS.items():
        read = read_dataset(storage, images, "scenes", split)
        assert [example.tags["size"] for example in read].count("small") == count / 2
        pictures = {example.images[0].sha256 for example in read}
        assert len(pictures) == count
        assert not pictures & seen
        seen |= pictures
        for example in read:
            assert example.truth.evidence[0].center not in [box.center for box in example.truth.distractors]


def test_another_seed_gives_other_scenes(storage: FolderStorage, images: ImageStore) -> None:
    make_synthetic(storage, "a", {"train": 2}, 0)
    make_synthetic(storage, "b", {"train": 2}, 1)
    a, b = (read_dataset(storage, images, name, "train") for name in "ab")
    assert {e.images[0] for e in a}.isdisjoint(e.images[0] for e in b)


def test_captions_are_chains_with_stored_pictures(storage: FolderStorage, images: ImageStore) -> None:
    make_synthetic(storage, "scenes", {"train": 2}, 0, captions=10, caption_prompt="Describe it.")
    chains = read_dataset_chains(storage, "scenes", "captions", images)
    assert len({chain.segments[0].images[0] for chain in chains}) == 10
    prompt, caption = chains[0].segments
    assert (prompt.origin, caption.origin, caption.token_ids) == (Origin.PROMPT, Origin.DEMONSTRATION, None)
    assert [message.text for message in prompt.messages] == ["Describe it.", ""]
    assert "scripted" in chains[0].policy
    assert prompt.images[0].data is not None
    assert "tile is at (" in caption.text


def test_a_call_that_was_cut_off_ends_with_the_same_bytes(
    storage: FolderStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception):
        pass

    def cut(done: int, total: int) -> None:
        if done == COUNTS["train"] + COUNTS["validation"] + 2:
            raise Cut

    with pytest.raises(Cut):
        make_synthetic(storage, "scenes", COUNTS, 3, captions=3, on_progress=cut)
    assert set(read_manifest(storage, "scenes").splits) == {"train", "validation"}
    seen: list[tuple[int, int]] = []
    make_synthetic(storage, "scenes", COUNTS, 3, captions=3, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(done, 17) for done in range(11, 18)]
    whole = FolderStorage(tmp_path / "whole")
    make_synthetic(whole, "scenes", COUNTS, 3, captions=3)
    assert {key: digest(storage.read(key)) for key in storage.list()} == {
        key: digest(whole.read(key)) for key in whole.list()
    }
    monkeypatch.setattr(datasets_synthetic, "make_scene", None)
    make_synthetic(storage, "scenes", COUNTS, 3, captions=3)


def test_other_counts_under_the_same_name_are_refused(storage: FolderStorage) -> None:
    make_synthetic(storage, "scenes", {"train": 2}, 0)
    with pytest.raises(DataError) as exists:
        make_synthetic(storage, "scenes", {"train": 3}, 0)
    assert exists.value.reason == "DATASET_EXISTS"
    with pytest.raises(ConfigError) as unknown:
        make_synthetic(storage, "scenes", {"trian": 3}, 0)
    assert unknown.value.reason == "SPLIT_UNKNOWN"
