"""A completion told piece by piece: the pieces alone, and as the embedded engine streams them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.embedded import open_embedded
from tests.models.support import flat_image, observation, prompt, said, scene_image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.tiny import RESIZE
from vigorl_lib.models.tiny_tokenizer import build_tokenizer
from vigorl_lib.policy.base import Completion, FinishReason, Sampling, StreamDelta, StreamEnd, StreamStart
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.decoding import Decoder, Group
from vigorl_lib.policy.pieces import TokenPieces
from vigorl_lib.policy.transformers import TransformersPolicy

RENDERER = ChatRenderer(build_tokenizer(), RESIZE)
BYTES_OF_A_CHARACTER = RENDERER.encode("\N{EURO SIGN}")

SAMPLED = Sampling(max_tokens=12, stop=())
LONG = Sampling(max_tokens=600, stop=("never said",))
CONVERSATIONS = [
    (prompt(scene_image(1)),),
    (Segment(Origin.PROMPT, (Message(Role.USER, ("What color is it?",)),)),),
    (prompt(scene_image(3)), said(Origin.DEMONSTRATION, "<think> Look. </think>"), observation(flat_image(112, 84))),
    (prompt(flat_image(56, 28), "A longer question by far?"),),
]


@pytest.fixture
async def policy(tiny_folder: Path) -> AsyncIterator[TransformersPolicy]:
    policy = await asyncio.to_thread(open_embedded, PolicyConfig(model=str(tiny_folder)))
    yield policy
    await policy.close()


@given(st.lists(st.integers(0, 420), min_size=1, max_size=12))
@example([*BYTES_OF_A_CHARACTER, 65])
@example(BYTES_OF_A_CHARACTER[:-1])
@example([*BYTES_OF_A_CHARACTER[:-1], *RENDERER.encode("It")])
@settings(max_examples=150, deadline=None)
def test_all_pieces_together_are_the_whole(token_ids: list[int]) -> None:
    whole = RENDERER.decode(token_ids)
    logprobs = tuple(-float(place) for place in range(len(token_ids)))
    pieces = TokenPieces(RENDERER)
    deltas = [pieces.add(*pair) for pair in zip(token_ids[:-1], logprobs, strict=False)]
    deltas.append(pieces.rest(Completion(whole, tuple(token_ids), logprobs, FinishReason.LENGTH, 0)))
    assert "".join(delta.text for delta in deltas) == whole
    assert [token for delta in deltas for token in delta.token_ids] == token_ids
    assert tuple(p for delta in deltas for p in delta.logprobs) == logprobs


def test_a_character_comes_with_its_last_byte() -> None:
    assert len(BYTES_OF_A_CHARACTER) > 1
    pieces = TokenPieces(RENDERER)
    *before, last = [pieces.add(token, 0.0).text for token in BYTES_OF_A_CHARACTER]
    assert (set(before), last) == ({""}, "\N{EURO SIGN}")


@pytest.mark.parametrize("stop", [(), ("a", "e", "i", "o", "u")], ids=["to the end", "stop string"])
async def test_a_stream_says_token_by_token_what_generate_says_whole(
    policy: TransformersPolicy, stop: tuple[str, ...]
) -> None:
    sampling = replace(SAMPLED, stop=stop)
    for seed, segments in enumerate(CONVERSATIONS):
        expected = await policy.generate(segments, seeds=[seed], sampling=sampling)
        start, *deltas, end = [event async for event in policy.stream(segments, seed=seed, sampling=sampling)]
        assert isinstance(start, StreamStart)
        assert (start.prompt, start.policy) == (expected.prompt, expected.policy)
        assert isinstance(end, StreamEnd)
        assert end.completion.token_ids == expected.completions[0].token_ids
        assert end.completion.text == expected.completions[0].text
        assert end.completion.logprobs == pytest.approx(expected.completions[0].logprobs, abs=1e-4)
        assert end.completion.finish_reason == expected.completions[0].finish_reason
        assert [delta.token_ids for delta in deltas] == [(token,) for token in end.completion.token_ids]
        assert [delta.logprobs for delta in deltas] == [(logprob,) for logprob in end.completion.logprobs]
        assert "".join(delta.text for delta in deltas) == end.completion.text


async def test_the_first_token_of_a_stream_comes_long_before_its_last(policy: TransformersPolicy) -> None:
    begun, first, *_, last = [time.monotonic() async for _ in policy.stream(CONVERSATIONS[0], seed=1, sampling=LONG)]
    assert first - begun < (last - begun) / 10


async def test_leaving_a_stream_frees_the_engine_at_once(
    policy: TransformersPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = 0
    draw = Decoder.draw

    def counting(self: Decoder) -> list[Group]:
        nonlocal drawn
        drawn += 1
        return draw(self)

    monkeypatch.setattr(Decoder, "draw", counting)
    async with aclosing(policy.stream(CONVERSATIONS[0], seed=1, sampling=LONG)) as events:
        async for event in events:
            if isinstance(event, StreamDelta):
                break
    async with asyncio.timeout(1):
        while policy._worker._decoder.rows:  # noqa: ASYNC110 - the worker is a thread and has no event of ours
            await asyncio.sleep(0.001)
    assert drawn < LONG.max_tokens / 2
