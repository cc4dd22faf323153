"""Rendering of conversations to token ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.support import SYSTEM, flat_image, observation, prompt, said
from vigorl_lib.domain.geometry import Point, ResizeRule
from vigorl_lib.domain.grammar import Answer, Zoom, render_turn
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, flat_token_ids
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.families import IMAGE_PAD
from vigorl_lib.models.tiny import RESIZE
from vigorl_lib.models.tiny_tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
RENDERER = ChatRenderer(TOKENIZER, RESIZE)
SCENE, CROP = flat_image(448, 448), flat_image(112, 84, "red")
QUESTION = "What color is the dot on the red tile?"
ZOOM = render_turn("The red tile is at (38, 66).", Zoom(Point(38, 66)))
ANSWER = render_turn("The dot at (38, 66) is pink.", Answer("pink"))

traps = ["<|im_end|>", "a<|image_pad|>b", "<|im_start|>system\n", "<think>", ZOOM]
texts = st.text(max_size=30) | st.sampled_from(traps)
images = st.sampled_from([SCENE, CROP])


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Segment, ...]:
    """A prompt, then turns by several authors with observations between; some turns are sampled ids already."""
    segments = [prompt(draw(images), draw(texts))]
    for _ in range(draw(st.integers(0, 3))):
        origin = draw(st.sampled_from([Origin.DEMONSTRATION, Origin.POLICY]))
        turn = said(origin, draw(texts))
        if origin is Origin.POLICY and draw(st.booleans()):
            ids = (*RENDERER.encode(turn.text), *([RENDERER.im_end] if draw(st.booleans()) else []))
            turn = replace(turn, token_ids=ids)
        segments += [turn, observation(draw(images))]
    if draw(st.booleans()):
        segments.append(said(Origin.FORCED, draw(texts)))
    return tuple(segments)


def test_whole_dialogue_equals_the_familys_own_template() -> None:
    segments = RENDERER.render([prompt(SCENE), said(Origin.DEMONSTRATION, ZOOM), observation(CROP)])
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"\n{QUESTION}"}]},
        {"role": "assistant", "content": ZOOM},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<observation>\n"},
                {"type": "image"},
                {"type": "text", "text": "</observation>"},
            ],
        },
    ]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    first, second, third = text.split(IMAGE_PAD)
    expanded = first + IMAGE_PAD * 16 + second + IMAGE_PAD * 12 + third
    assert list(flat_token_ids(segments)) == TOKENIZER.encode(expanded, add_special_tokens=False)


def test_without_a_system_message_the_checkpoints_own_default_stands_first() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        + tokenizer.chat_template
    )
    renderer = ChatRenderer(tokenizer, RESIZE)
    bare = Segment(Origin.PROMPT, (Message(Role.USER, ("Hello",)),))
    (rendered,) = renderer.render([bare])
    assert rendered.token_ids is not None
    expected = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert renderer.decode(rendered.token_ids) == expected
    (with_system,) = renderer.render([prompt(SCENE)])
    assert "Be kind" not in renderer.decode(with_system.token_ids or ())


@given(conversations(), st.data())
@settings(max_examples=60, deadline=None)
def test_rendering_piece_by_piece_equals_rendering_at_once(
    conversation: tuple[Segment, ...], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(conversation)))
    early = RENDERER.render(conversation[:cut])
    assert RENDERER.render((*early, *conversation[cut:])) == RENDERER.render(conversation)


@given(conversations())
@settings(max_examples=60, deadline=None)
def test_rendered_ids_are_never_touched_and_spans_lie_on_placeholders(conversation: tuple[Segment, ...]) -> None:
    rendered = RENDERER.render(conversation)
    for before, after in zip(conversation, rendered, strict=True):
        assert after.token_ids is not None
        if before.token_ids is not None:
            assert after is before
        covered = [i for span in after.image_spans for i in range(span.start, span.start + span.length)]
        assert covered == [i for i, token in enumerate(after.token_ids) if token == RENDERER.image_pad]
        assert [span.image for span in after.image_spans] == list(after.images)


@given(texts)
@settings(max_examples=60, deadline=None)
def test_text_of_others_never_becomes_a_control_token(text: str) -> None:
    ids = RENDERER.encode(text)
    assert RENDERER.decode(ids) == text
    assert not {*RENDERER.forbidden, RENDERER.im_end} & set(ids)


def test_an_observation_closes_the_turn_only_if_the_policy_did_not() -> None:
    open_turn = replace(said(Origin.POLICY, ANSWER), token_ids=tuple(RENDERER.encode(ANSWER)))
    closed_turn = replace(open_turn, token_ids=(*(open_turn.token_ids or ()), RENDERER.im_end))
    after_open = RENDERER.render([prompt(SCENE), open_turn, observation(CROP)])
    after_closed = RENDERER.render([prompt(SCENE), closed_turn, observation(CROP)])
    assert flat_token_ids(after_open) == flat_token_ids(after_closed)
    assert (after_open[2].token_ids or ())[0] == RENDERER.im_end


def test_a_demonstration_ends_with_the_end_of_turn_and_a_forced_prefix_does_not() -> None:
    _, taught = RENDERER.render([prompt(SCENE), said(Origin.DEMONSTRATION, ANSWER)])
    _, forced = RENDERER.render([prompt(SCENE), said(Origin.FORCED, "<think> So. </think>\n<answer>")])
    assert (taught.token_ids or ())[-1] == RENDERER.im_end
    assert RENDERER.im_end not in (forced.token_ids or ())


def test_every_control_token_but_the_end_of_turn_is_forbidden() -> None:
    names = {TOKENIZER.convert_ids_to_tokens(index) for index in RENDERER.forbidden}
    assert {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>"} <= names
    assert "<|im_end|>" not in names


def test_a_tokenizer_without_vision_tokens_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(PolicyError, match="control token") as caught:
        ChatRenderer(plain, ResizeRule())
    assert caught.value.reason == "CHECKPOINT_UNSUPPORTED"
