"""A completion told piece by piece."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.tiny import RESIZE
from vigorl_lib.models.tiny_tokenizer import build_tokenizer
from vigorl_lib.policy.base import Completion, FinishReason
from vigorl_lib.policy.pieces import Pieces

RENDERER = ChatRenderer(build_tokenizer(), RESIZE)
BYTES_OF_A_CHARACTER = RENDERER.encode("\N{EURO SIGN}")


@given(st.lists(st.integers(0, 420), min_size=1, max_size=12))
@example([*BYTES_OF_A_CHARACTER, 65])
@example(BYTES_OF_A_CHARACTER[:-1])
@example([*BYTES_OF_A_CHARACTER[:-1], *RENDERER.encode("It")])
@settings(max_examples=150, deadline=None)
def test_all_pieces_together_are_the_whole(token_ids: list[int]) -> None:
    whole = RENDERER.decode(token_ids)
    logprobs = tuple(-float(place) for place in range(len(token_ids)))
    pieces = Pieces(RENDERER)
    said = [pieces.add(*pair) for pair in zip(token_ids[:-1], logprobs, strict=False)]
    said.append(pieces.rest(Completion(whole, tuple(token_ids), logprobs, FinishReason.LENGTH, 0)))
    assert "".join(delta.text for delta in said) == whole
    assert [token for delta in said for token in delta.token_ids] == token_ids
    assert tuple(p for delta in said for p in delta.logprobs) == logprobs


def test_a_character_comes_with_its_last_byte() -> None:
    assert len(BYTES_OF_A_CHARACTER) > 1
    pieces = Pieces(RENDERER)
    *before, last = [pieces.add(token, 0.0).text for token in BYTES_OF_A_CHARACTER]
    assert (set(before), last) == ({""}, "\N{EURO SIGN}")
