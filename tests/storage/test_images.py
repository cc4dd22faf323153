"""Images by content: headers, limits, digests and the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pictures import encoded, huge_png
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.image import digest
from vigorl_lib.errors import CorruptObject, DataError, ObjectNotFound
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore, probe


def test_an_image_comes_back_by_its_digest(storage: Storage) -> None:
    data = encoded(30, 20, "JPEG")
    image = ImageStore(storage).put(data)
    assert (image.sha256, image.media_type, image.size) == (digest(data), "image/jpeg", Size(30, 20))
    fresh = ImageStore(storage)
    got = fresh.get(image.sha256)
    assert (got.data, got.media_type, got.size) == (data, "image/jpeg", Size(30, 20))
    assert image.sha256 in fresh
    assert ImageStore(storage).load(image.without_data()).data == data


def test_an_unknown_digest_is_not_found(storage: Storage) -> None:
    with pytest.raises(ObjectNotFound):
        ImageStore(storage).get("0" * 64)


def test_changed_bytes_are_refused(storage: Storage) -> None:
    image = ImageStore(storage).put(encoded(4, 4))
    key = next(key for key in storage.list("images/") if not key.endswith(".json"))
    storage.write(key, encoded(4, 4, color=9))
    with pytest.raises(CorruptObject) as caught:
        ImageStore(storage).get(image.sha256)
    assert caught.value.reason == "IMAGE_CORRUPT"


@pytest.mark.parametrize(("orientation", "size"), [(1, Size(30, 20)), (3, Size(30, 20)), (6, Size(20, 30))])
def test_the_size_is_that_after_exif_orientation(orientation: int, size: Size) -> None:
    assert probe(encoded(30, 20, "JPEG", orientation=orientation)).size == size


@pytest.mark.parametrize("data", [b"", b"no image", encoded(4, 4)[:12], huge_png(0, 5)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        probe(data)
    assert caught.value.reason == "IMAGE_UNREADABLE"


@pytest.mark.parametrize("side", [101, 20_000, 60_000, 2**30])
def test_a_huge_image_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(DataError) as caught:
        probe(huge_png(side, side), max_pixels=10_000)
    assert caught.value.reason == "IMAGE_TOO_LARGE"


def test_a_wrong_media_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        ImageStore(FolderStorage(tmp_path)).put(encoded(4, 4), "image/jpeg")
    assert caught.value.reason == "IMAGE_MEDIA_TYPE"


def test_the_cache_holds_the_last_used_within_its_bytes(tmp_path: Path) -> None:
    files = [encoded(4, 4, color=color) for color in range(3)]
    store = ImageStore(FolderStorage(tmp_path), cache_bytes=2 * len(files[0]) + 10)
    first, second = (store.put(data).sha256 for data in files[:2])
    store.get(first)
    third = store.put(files[2]).sha256
    for path in (tmp_path / "images").rglob("*"):
        if path.is_file():
            path.unlink()
    assert store.get(first).data == files[0]
    assert store.get(third).data == files[2]
    with pytest.raises(ObjectNotFound):
        store.get(second)
