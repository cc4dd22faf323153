"""The shared cache stays within its bytes, forgets the least recently used, and never the newest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.domain.cache import ByteCache


def test_the_least_recently_used_goes_first() -> None:
    cache: ByteCache[bytes] = ByteCache(3, len)
    for key in ("a", "b", "c"):
        cache.put(key, b"x")
    assert cache.get("a") == b"x"
    cache.put("d", b"x")
    assert [key in cache for key in "abcd"] == [True, False, True, True]


def test_the_newest_stays_even_alone_above_the_bound_and_zero_keeps_nothing() -> None:
    cache: ByteCache[bytes] = ByteCache(3, len)
    cache.put("a", b"x")
    assert cache.put("big", b"12345") == b"12345"
    assert "big" in cache
    assert "a" not in cache
    nothing: ByteCache[bytes] = ByteCache(0, len)
    nothing.put("a", b"x")
    assert "a" not in nothing


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.binary(min_size=1, max_size=5))), st.integers(5, 20))
def test_used_bytes_are_those_of_what_is_kept_and_within_the_bound(puts: list[tuple[str, bytes]], bound: int) -> None:
    cache: ByteCache[bytes] = ByteCache(bound, len)
    for key, value in puts:
        cache.put(key, value)
        assert cache.used_bytes <= bound
    kept = [cache.get(key) for key in "abcdef"]
    assert cache.used_bytes == sum(len(value) for value in kept if value is not None)
    cache.clear()
    assert cache.used_bytes == 0
