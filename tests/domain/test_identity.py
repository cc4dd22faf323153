from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.seeds import derive_seed

names = st.integers(-(2**40), 2**40) | st.text("abc/0123 ", max_size=8)
paths = st.lists(names, max_size=5).map(tuple)


def test_a_seed_is_the_same_number_on_every_machine() -> None:
    assert derive_seed(0, "search", "s000", 3) == 519_055_229
    assert derive_seed() == 1_910_006_305


@given(path=paths, other=paths)
def test_different_paths_have_different_seeds(path: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert 0 <= derive_seed(*path) < 2**31
    assert (derive_seed(*path) == derive_seed(*other)) == (path == other)


def test_a_number_and_its_spelling_and_another_grouping_are_other_names() -> None:
    assert len({derive_seed(1), derive_seed("1"), derive_seed(1, 1), derive_seed(11), derive_seed("1", "1")}) == 5


def test_an_image_is_its_bytes() -> None:
    data = b"not really a picture"
    with_bytes = Image(digest(data), "image/png", Size(3, 4), data)
    reference = Image(digest(data), "image/jpeg", Size(9, 9))
    assert with_bytes == reference
    assert hash(with_bytes) == hash(reference)
    assert with_bytes != Image(digest(b"another"), "image/png", Size(3, 4), data)
    assert with_bytes.without_data().data is None
    assert with_bytes.without_data() == with_bytes
    assert "not really" not in repr(with_bytes)


def test_a_digest_is_lower_case_sha256() -> None:
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
