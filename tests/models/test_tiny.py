"""The tiny model: its folder, its tokenizer, and its vision tower in batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
)

from vigorl_lib.data import synthetic
from vigorl_lib.domain import grammar, wire
from vigorl_lib.domain.geometry import Point, Size
from vigorl_lib.models import tiny_tokenizer
from vigorl_lib.models.tiny import RESIZE, build_tiny
from vigorl_lib.models.vision_batch import BatchedVisionAttention, PatchProjection, batch_equal_windows

TOKENIZER = tiny_tokenizer.build_tokenizer()
WHERE = synthetic.tile_sentence("red", Point(38, 66))
TURNS = (
    grammar.render_turn(WHERE, grammar.Zoom(Point(38, 66))),
    grammar.render_turn(f"{wire.BACKTRACK_PHRASE} {WHERE}", grammar.Zoom(Point(2, 110))),
    grammar.render_turn(synthetic.DOT_AT_SENTENCE.format(point="(38, 66)", answer="pink"), grammar.Answer("pink")),
    grammar.render_turn(f"{WHERE} {synthetic.DOT_SENTENCE.format(answer='cyan')}", grammar.Answer("cyan")),
    f"{wire.FORCED_ANSWER_PREFIX} white {wire.ANSWER_CLOSE}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny(path, seed=3)
    return path


def test_the_folder_loads_with_the_auto_classes_of_hugging_face(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model) is Qwen2_5_VLForConditionalGeneration
    assert 400_000 < sum(parameter.numel() for parameter in model.parameters()) < 600_000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode(TURNS[0]) == TOKENIZER.encode(TURNS[0])
    config = AutoConfig.from_pretrained(folder)
    assert config.text_config.vocab_size == len(tokenizer)
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_the_embeddings_are_untied(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_weights_follow_from_the_seed_alone(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    for name, seed in (("same", 3), ("other", 4)):
        build_tiny(tmp_path / name, seed=seed)
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's random state must not change"
    weights = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize("size", [(448, 448), (112, 112), (56, 56), (640, 427), (30, 1000), (3000, 2000)])
def test_the_image_processor_takes_any_photo_and_agrees_with_the_resize_rule(
    folder: Path, size: tuple[int, int]
) -> None:
    processor = AutoImageProcessor.from_pretrained(folder)
    batch = processor(images=[PILImage.new("RGB", size)], return_tensors="pt")
    _, rows, columns = batch["image_grid_thw"][0].tolist()
    assert Size(columns * 14, rows * 14) == RESIZE.model_size(Size(*size))


def test_a_message_is_written_in_chatml(folder: Path) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "\nWhy?"}]
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": content}]
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>\nWhy?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )


@given(st.text())
@settings(max_examples=500)
def test_any_text_is_spelled_exactly(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("text", TURNS)
def test_a_dialogue_is_short_and_its_tokens_are_the_only_ones_that_spell_it(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.encode(TOKENIZER.decode(ids), add_special_tokens=False) == ids
    assert len(ids) <= 30


@pytest.mark.parametrize("seed", range(12))
def test_the_words_of_every_scene_are_whole_tokens(seed: int) -> None:
    scene = synthetic.make_scene(seed)
    assert len(TOKENIZER.encode(scene.question, add_special_tokens=False)) == 3
    assert len(TOKENIZER.encode(f" {scene.answer}", add_special_tokens=False)) == 1
    assert len(TOKENIZER.encode(synthetic.make_caption(seed).text, add_special_tokens=False)) <= 12


def test_a_turn_never_shares_a_last_token_with_another_kind_of_turn() -> None:
    last = [TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode(text, add_special_tokens=False))[-1] for text in TURNS]
    assert [token.endswith("</tool_call>") for token in last] == [True, True, False, False, False]
    assert [token.endswith("</answer>") for token in last] == [False, False, True, True, True]


@pytest.mark.parametrize("number", [0, 7, 38, 100, tiny_tokenizer.LARGEST_NUMBER])
def test_a_coordinate_is_one_token_and_the_same_on_both_axes(number: int) -> None:
    ids = TOKENIZER.encode(f"({number}, {number})", add_special_tokens=False)
    assert ids.count(TOKENIZER.convert_tokens_to_ids(str(number))) == 2


def test_control_tokens_are_special_and_the_tags_are_not() -> None:
    assert set(tiny_tokenizer.CONTROL_TOKENS) <= set(TOKENIZER.all_special_tokens) | {
        str(token) for token in TOKENIZER.added_tokens_decoder.values() if token.special
    }
    ids = TOKENIZER.encode(f"{TURNS[0]}<|im_end|>", add_special_tokens=False)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == TURNS[0]


def test_every_piece_of_the_response_language_is_one_token() -> None:
    for piece in tiny_tokenizer.fixed_pieces():
        assert len(TOKENIZER.encode(piece, add_special_tokens=False)) == 1, piece


@pytest.mark.parametrize("grids", [[(8, 8)] * 3, [(8, 8), (4, 4), (8, 8), (2, 6)], [(10, 4)]])
def test_the_batched_vision_tower_gives_the_stock_features_and_gradients(
    folder: Path, grids: list[tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    # A still image: both frames of a patch are equal.
    patches = sum(rows * columns for rows, columns in grids)
    pixels = torch.randn(patches, 3, 1, 14 * 14).expand(-1, -1, 2, -1).reshape(patches, -1)
    grid = torch.tensor([(1, rows, columns) for rows, columns in grids])

    def features(*, batched: bool) -> tuple[Tensor, Tensor]:
        model = AutoModelForImageTextToText.from_pretrained(folder)
        # A window smaller than an image, so that windows of several lengths occur.
        model.model.visual.fullatt_block_indexes = [1]
        model.model.visual.window_size = 56
        if batched:
            batch_equal_windows(model)
        output = model.model.visual(pixels, grid).pooler_output
        output.square().mean().backward()
        gradient = model.model.visual.patch_embed.proj.weight.grad
        assert gradient is not None
        return output.detach(), gradient

    stock, batched = features(batched=False), features(batched=True)
    torch.testing.assert_close(batched[0], stock[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(batched[1], stock[1], rtol=1e-4, atol=1e-5)


def test_batching_changes_only_the_vision_tower_and_no_weight_name(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    names = list(model.state_dict())
    batch_equal_windows(model)
    assert list(model.state_dict()) == names
    assert sum(isinstance(module, BatchedVisionAttention) for module in model.modules()) == 2
    assert isinstance(model.model.visual.patch_embed.proj, PatchProjection)


def test_the_tokenizer_is_a_plain_fast_tokenizer() -> None:
    assert isinstance(TOKENIZER, PreTrainedTokenizerFast)
