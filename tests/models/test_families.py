"""Every declared family against its own template, image processor, positions and generation."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage

from tests.models import families
from tests.models.support import flat_image, observation, prompt, said, scene_image
from vigorl_lib.domain.geometry import Frame
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.families import FAMILIES, IMAGE_PAD, family_of, find_family
from vigorl_lib.models.inputs import TokenSequence, collate
from vigorl_lib.models.loading import LoadedModel, describe, load_model
from vigorl_lib.models.vision_batch import BatchedVisionAttention
from vigorl_lib.policy.base import Completion, FinishReason, Sampling
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.transformers import TransformersPolicy
from vigorl_lib.policy.worker import EngineWorker

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
GREEDY = Sampling(temperature=0.0, max_tokens=16, stop=())
PREFILL = "<think> The red tile is at ("
HARD_SIZES = [(448, 448), (90, 120), (640, 427), (30, 200), (12, 40), (33, 31), (1000, 1000)]


@dataclass(frozen=True)
class Case:
    """One family's checkpoint, as the engine loads it and as transformers does."""

    folder: Path
    loaded: LoadedModel
    own: Any


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    families.build(request.param, folder)
    own = families.shapes()[request.param].model.from_pretrained(folder).eval()
    return Case(folder, load_model(str(folder)), own)


@pytest.fixture(scope="module")
def engine(case: Case) -> Iterator[TransformersPolicy]:
    config = PolicyConfig(model=str(case.folder), max_batch=16)
    policy = TransformersPolicy(EngineWorker(case.loaded, config), config)
    yield policy
    policy._worker.stop()


def conversations() -> dict[str, tuple[Segment, ...]]:
    scene, crop = scene_image(1), flat_image(112, 84, "red")
    pair = Message(Role.USER, (scene, "Left or ", flat_image(90, 120), "right?"))
    zoomed = (prompt(scene), said(Origin.DEMONSTRATION, "<think> Look. </think>"), observation(crop))
    return {
        "text without system": (Segment(Origin.PROMPT, (Message(Role.USER, ("What color is it?",)),)),),
        "one image": (prompt(scene),),
        "two images without system": (Segment(Origin.PROMPT, (pair,)),),
        "after an observation": zoomed,
        "prefilled": (*zoomed, said(Origin.FORCED, PREFILL)),
    }


def own_inputs(case: Case, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
    """The conversation by the family's template, image processor and rule for placeholders, without our code."""
    messages: list[dict[str, Any]] = []
    prefill, pictures = "", []
    for segment in segments:
        if segment.origin is Origin.FORCED:
            prefill = segment.text
            continue
        for message in segment.messages:
            parts = [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.parts
            ]
            messages.append({"role": message.role.value, "content": parts})
        pictures += [PILImage.open(io.BytesIO(image.data or b"")) for image in segment.images]
    tokenizer: Any = case.loaded.tokenizer
    processor: Any = case.loaded.image_processor
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)) + prefill
    inputs = dict(processor(images=pictures, return_tensors="pt")) if pictures else {}
    for grid in inputs.get("image_grid_thw", ()):
        text = text.replace(IMAGE_PAD, "<placeholder>" * int(grid.prod() // processor.merge_size**2), 1)
    ids = torch.tensor([tokenizer.encode(text.replace("<placeholder>", IMAGE_PAD), add_special_tokens=False)])
    kinds = ids.eq(tokenizer.convert_tokens_to_ids(IMAGE_PAD)).int()
    return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}


def own_logprobs(case: Case, inputs: dict[str, torch.Tensor], continuation: Sequence[int]) -> torch.Tensor:
    """Log-probs of a continuation by one plain forward pass of the stock model, on pixels."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([continuation])], dim=1)
    kinds = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, len(continuation), dtype=torch.int)], dim=1)
    case.own.model.rope_deltas = None
    with torch.no_grad():
        whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
        logits = case.own(**whole).logits[0, -len(continuation) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(continuation)[:, None])[:, 0]


@pytest.mark.parametrize("kind", conversations())
def test_ids_are_those_of_the_familys_template_and_processor(case: Case, kind: str) -> None:
    segments = conversations()[kind]
    ours = TokenSequence.of(case.loaded.renderer.render(segments))
    assert list(ours.token_ids) == own_inputs(case, segments)["input_ids"][0].tolist()


def test_only_the_older_families_bring_a_system_message_of_their_own(case: Case) -> None:
    (rendered,) = case.loaded.renderer.render(conversations()["text without system"])
    text = case.loaded.renderer.decode(rendered.token_ids or ())
    assert (families.DEFAULT_SYSTEM in text) == (case.loaded.family.name != "qwen3_vl")


@pytest.mark.parametrize("size", HARD_SIZES)
def test_an_image_has_as_many_tokens_as_the_familys_processor_gives_it(case: Case, size: tuple[int, int]) -> None:
    image = flat_image(*size)
    grid = case.loaded.image_processor(images=[PILImage.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0]
    view = case.loaded.resize.model_size(image.size)
    patch = case.loaded.family.patch_size
    assert [view.height // patch, view.width // patch] == grid[1:].tolist()
    assert case.loaded.resize.visual_tokens(image.size) == int(grid.prod()) // 4


def test_positions_are_those_of_the_models_own_function(case: Case) -> None:
    for segments in conversations().values():
        inputs = own_inputs(case, segments)
        expected, _ = case.own.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs.get("image_grid_thw"),
            attention_mask=inputs["attention_mask"],
        )
        sequence = TokenSequence.of(case.loaded.renderer.render(segments))
        batch = collate([sequence], padding=0, resize=case.loaded.resize, side="right")
        assert torch.equal(batch.position_ids, expected)
        assert batch.next_positions.tolist() == [int(expected.max()) + 1]


@pytest.mark.parametrize("kind", conversations())
async def test_greedy_tokens_and_logprobs_are_those_of_the_models_own_generate(
    case: Case, engine: TransformersPolicy, kind: str
) -> None:
    segments = conversations()[kind]
    inputs = own_inputs(case, segments)
    case.own.model.rope_deltas = None
    forbidden = list(case.loaded.renderer.forbidden)
    theirs = case.own.generate(**inputs, max_new_tokens=16, do_sample=False, suppress_tokens=forbidden)
    (ours,) = (await engine.generate(segments, seeds=[0], sampling=GREEDY)).completions
    assert list(ours.token_ids) == theirs[0, inputs["input_ids"].shape[1] :].tolist()
    expected = own_logprobs(case, inputs, ours.token_ids)
    assert torch.allclose(torch.tensor(ours.logprobs), expected, atol=1e-3)


async def test_a_batch_of_all_conversations_gives_what_each_gives_alone(case: Case, engine: TransformersPolicy) -> None:
    kinds = list(conversations().values())
    alone: list[Completion] = [(await engine.generate(one, seeds=[0], sampling=GREEDY)).completions[0] for one in kinds]
    together = await asyncio.gather(*(engine.generate(one, seeds=[0, 1], sampling=GREEDY) for one in kinds))
    for one, both in zip(alone, together, strict=True):
        for other in both.completions:
            assert other.token_ids == one.token_ids
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-3)


@pytest.mark.parametrize("grids", [[(8, 8)] * 3, [(8, 8), (4, 4), (8, 8), (2, 6)], [(10, 4)]])
def test_the_batched_vision_tower_gives_the_stock_features_and_gradients(
    case: Case, grids: list[tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    count, area = sum(rows * columns for rows, columns in grids), case.loaded.family.patch_size**2
    # Both frames of a still image are equal.
    patches = torch.randn(count, 3, 1, area).expand(-1, -1, 2, -1).flatten(1)
    grid = torch.tensor([(1, rows, columns) for rows, columns in grids])
    batched: Any = case.loaded.model
    towers = [case.own.model.visual, batched.model.visual]
    assert [isinstance(tower.blocks[0].attn, BatchedVisionAttention) for tower in towers] == [False, True]
    results = []
    for tower in towers:
        output = tower(patches, grid)
        levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        (gradient,) = torch.autograd.grad(sum(level.square().mean() for level in levels), tower.patch_embed.proj.weight)
        results.append([*(level.detach() for level in levels), gradient])
    for stock, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)


async def test_another_picture_changes_what_the_model_sees(engine: TransformersPolicy) -> None:
    scored = [await engine.score([prompt(image)]) for image in (flat_image(90, 120), flat_image(90, 120, "red"))]
    ends = [one.segments[0].logprobs[-1] for one in scored]
    assert abs(ends[0] - ends[1]) > 0.01, "else every comparison here would hold for a model that is blind"


async def test_scores_are_the_log_probs_of_a_plain_forward_pass(case: Case, engine: TransformersPolicy) -> None:
    segments = conversations()["after an observation"]
    (completion,) = (await engine.generate(segments, seeds=[0], sampling=GREEDY)).completions
    scored = await engine.score((*segments, said(Origin.FORCED, PREFILL)))
    tail = case.loaded.renderer.encode(PREFILL)
    inputs = own_inputs(case, segments)
    ids = torch.cat([inputs["input_ids"], torch.tensor([tail])], dim=1)
    kinds = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, len(tail), dtype=torch.int)], dim=1)
    case.own.model.rope_deltas = None
    with torch.no_grad():
        whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
        logprobs = torch.log_softmax(case.own(**whole).logits[0].float(), -1)
    expected = logprobs[:-1].gather(-1, ids[0, 1:, None])[-len(tail) :, 0]
    assert torch.allclose(torch.tensor(scored.segments[-1].logprobs), expected, atol=1e-3)
    assert completion.finish_reason in (FinishReason.LENGTH, FinishReason.END_OF_TURN)


async def test_the_engine_says_its_family_and_the_frame_of_its_points(case: Case, engine: TransformersPolicy) -> None:
    info = await engine.info()
    assert info.family == case.loaded.family.name
    assert info.point_frame is (Frame.MODEL if info.family == "qwen2_5_vl" else Frame.NORMALIZED)
    assert info.resize.factor == (32 if info.family == "qwen3_vl" else 28)


def test_pixel_limits_are_read_in_either_style(case: Case) -> None:
    family, resize = describe(str(case.folder))
    low, high = (4096, 24 * 1024) if family.name == "qwen3_vl" else (3136, 28 * 28 * 24)
    assert (resize.min_pixels, resize.max_pixels) == (low, high)


def test_a_family_that_is_not_declared_is_none_when_asked_and_refused_when_needed() -> None:
    assert {name: find_family({"model_type": name}) for name in NAMES} == FAMILIES
    headless = {"model_type": "qwen2_vl", "architectures": ["Qwen2VLModel"]}
    for config in ({"model_type": "llava"}, {}, headless):
        assert find_family(config) is None
        with pytest.raises(PolicyError) as caught:
            family_of(config)
        assert caught.value.reason == "CHECKPOINT_UNSUPPORTED"
