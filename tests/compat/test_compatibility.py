"""What released checkpoints depend on, byte for byte: prompts, observations, forced answer, crops, limits.

The expected bytes are spelled here once more, as the reference's description gives them, and share no constant with
the library.
"""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as PILImage
from PIL import ImageDraw

from tests.rollout.support import WordPolicy, answer, question, said, stepping, zoom
from vigorl_lib.config import load
from vigorl_lib.domain import wire
from vigorl_lib.domain.geometry import Point, ResizeRule
from vigorl_lib.domain.grammar import MULTI_TURN, SINGLE_TURN, Answer, Zoom, parse_turn, render_turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.evaluation.benchmarks import BENCHMARKS
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.loading import load_renderer
from vigorl_lib.prompts import load_prompt
from vigorl_lib.recipes.check import sequence_tokens
from vigorl_lib.recipes.schema import RECIPES, Recipe
from vigorl_lib.rollout.run import run_to_end
from vigorl_lib.search.config import LinearizeConfig
from vigorl_lib.search.drafts import Draft, exchanges
from vigorl_lib.search.linearize import demonstrate
from vigorl_lib.storage.images import probe
from vigorl_services.policy.__main__ import PolicyServiceConfig

COMPAT = sorted(path.stem for path in RECIPES.glob("compat-*.yaml"))
MULTI = ("compat-visual-search", "compat-visual-search-sft", "compat-web-grounding-multiturn")

BAKED = "You look at an image.\\n Think <think> here </think>."
"""A system prompt as the released ones are: with the two characters backslash and n where a line break was meant."""
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    + BAKED
    + "<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)

IMG = "<|vision_start|><|image_pad|><|vision_end|>"
PLAIN = "Here is the crop of the image centered on the coordinate:"
DOTTED = "Here is the crop of the image centered on the coordinate, with a red dot at the coordinate location:"
FORCED = "<think> Based on all the information I've gathered, I'll now provide my final answer. </think>\n<answer>"


def recipe(name: str, *overrides: str) -> Recipe:
    return load(Recipe, name, folder=RECIPES, overrides=overrides, environment={})


@pytest.fixture
def released(tiny_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint laid out as the released ones: the template that counts is beside the processor."""
    folder = shutil.copytree(tiny_folder, tmp_path / "released")
    stock = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": stock}))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


def written(renderer: ChatRenderer, segments: Sequence[Segment]) -> str:
    """The conversation as the checkpoint reads it, each image as one placeholder."""
    bare = [Segment(segment.origin, segment.messages) for segment in segments]
    ids = [token for segment in renderer.render(bare) for token in segment.token_ids or ()]
    return re.sub(r"(<\|image_pad\|>)+", "<|image_pad|>", renderer.decode(ids))


async def conversation(name: str, released: Path, *overrides: str) -> tuple[str, StopReason]:
    def write(prompt: Sequence[Segment], index: int) -> str:
        return " pink </answer>" if prompt[-1].origin is Origin.FORCED else zoom(20 + 20 * len(said(prompt)), 30)

    stepper = stepping(WordPolicy(write), recipe(name, *overrides).task)
    root = await stepper.start(question(), (0,))
    done = await run_to_end(stepper, root, trajectory_id="t", example_id="one")
    return written(load_renderer(str(released)), done.segments), done.stop


def called(x: int) -> str:
    call = f'{{"name": "search_coordinate", "arguments": {{"coordinate": [{x}, 30]}}}}'
    return f"<think> There ({x}, 30). </think>\n<tool_call>\n{call}\n</tool_call><|im_end|>\n<|im_start|>user\n"


@pytest.mark.parametrize(
    ("name", "overrides", "observation"),
    [
        ("compat-visual-search", (), f"<observation>\n{PLAIN}\n{IMG}</observation>"),
        ("compat-visual-search-sft", (), f"<observation>\n{PLAIN}\n{IMG}\n</observation>"),
        ("compat-visual-search", ("task.zoom.observation=eval",), f"<observation>\n{PLAIN}{IMG}\n</observation>"),
        ("compat-visual-search", ("task.zoom.observation=demo",), f"<observation>\n{PLAIN}\n</observation>{IMG}"),
        ("compat-web-grounding-multiturn", (), f"<observation>\n{DOTTED}\n{IMG}</observation>"),
        (
            "compat-web-grounding-multiturn",
            ("task.zoom.observation=sft",),
            f"<observation>\n{DOTTED}\n{IMG}\n</observation>",
        ),
        (
            "compat-web-grounding-multiturn",
            ("task.zoom.observation=eval",),
            f"<observation>\n{PLAIN}{IMG}\n</observation>",
        ),
    ],
)
async def test_a_multi_turn_conversation_is_written_as_the_reference_writes_it(
    name: str, overrides: tuple[str, ...], observation: str, released: Path
) -> None:
    text, stop = await conversation(name, released, *overrides)
    seen = f"{observation}<|im_end|>\n<|im_start|>assistant\n"
    assert text == (
        f"<|im_start|>system\n{BAKED}<|im_end|>\n<|im_start|>user\n{IMG}\nWhat is one?<|im_end|>\n"
        "<|im_start|>assistant\n" + "".join(called(x) + seen for x in (20, 40, 60, 80)) + f"{FORCED} pink </answer>"
    )
    assert stop is StopReason.ANSWERED


async def test_only_the_forced_answer_is_sampled_greedily() -> None:
    def write(prompt: Sequence[Segment], index: int) -> str:
        return " pink </answer>" if prompt[-1].origin is Origin.FORCED else zoom(20 + 20 * len(said(prompt)), 30)

    policy = WordPolicy(write)
    stepper = stepping(policy, recipe("compat-visual-search").task.model_copy(update={"temperature": 0.5}))
    await run_to_end(stepper, await stepper.start(question(), (0,)), trajectory_id="t", example_id="one")
    assert [call.sampling.temperature for call in policy.calls] == [0.5, 0.5, 0.5, 0.5, 0.0]


async def test_a_prompt_of_ours_takes_the_place_of_the_checkpoints(released: Path) -> None:
    text, _ = await conversation("compat-visual-search", released, "task.prompt_source=file")
    assert BAKED not in text
    assert text.startswith("<|im_start|>system\nYou answer a question")


@pytest.mark.parametrize("name", COMPAT)
async def test_no_compatible_recipe_sends_a_system_prompt(name: str) -> None:
    stepper = stepping(WordPolicy(lambda prompt, index: ""), recipe(name).task)
    (opening,) = (await stepper.start(question(), (0,))).segments
    assert [message.role for message in opening.messages] == [Role.USER]
    assert stepper.prompt.text == ""


async def test_chains_of_a_search_without_a_system_prompt_have_none_unless_one_is_named() -> None:
    turns = [zoom(20, 30), answer()]
    stepper = stepping(WordPolicy(lambda prompt, index: turns[len(said(prompt))]), recipe("compat-visual-search").task)
    root = await stepper.start(question(), (0,))
    done = await run_to_end(stepper, root, trajectory_id="t", example_id="one")
    draft = Draft(done, exchanges(done))
    roles = [
        [message.role for message in demonstrate(draft, LinearizeConfig(), prompt).segments[0].messages]
        for prompt in (None, load_prompt("visual_search", "multi_turn"))
    ]
    assert roles == [[Role.USER], [Role.SYSTEM, Role.USER]]


def test_a_line_about_steps_does_not_replace_the_checkpoints_prompt() -> None:
    with pytest.raises(ConfigError, match="checkpoint's prompt"):
        recipe("compat-spatial", "task.min_steps_from=3", "task.min_steps_to=7")


def test_a_template_beside_the_processor_goes_before_the_tokenizers(released: Path) -> None:
    (segment,) = load_renderer(str(released)).render([question_segment()])
    assert BAKED in load_renderer(str(released)).decode(segment.token_ids or ())
    (released / "chat_template.json").write_text("{}")
    with pytest.raises(PolicyError, match=r"chat_template\.json names no chat_template"):
        load_renderer(str(released))
    (released / "chat_template.json").unlink()
    (segment,) = load_renderer(str(released)).render([question_segment()])
    assert BAKED not in load_renderer(str(released)).decode(segment.token_ids or ())


def question_segment() -> Segment:
    return Segment(Origin.PROMPT, (Message(Role.USER, ("What?",)),))


def test_answers_in_the_shapes_of_released_checkpoints_are_read() -> None:
    single = parse_turn(
        "<think>\nThe lamp (10, 20). The chair (30, 40).\n</think>\n<answer> left </answer>", SINGLE_TURN
    )
    assert (single.action, [(p.x, p.y) for p in single.points]) == (Answer("left"), [(10, 20), (30, 40)])
    body = '{"name": "search_coordinate", "arguments": {"coordinate": [3, 4]}}'
    call = f"<think> so </think>\n<tool_call>\n{body}\n</tool_call>"
    assert parse_turn(call, MULTI_TURN).action == Zoom(Point(3, 4))
    assert render_turn("so", Zoom(Point(3, 4))) == call
    named_as_in_the_paper = call.replace("search_coordinate", "crop")
    assert parse_turn(named_as_in_the_paper, MULTI_TURN, strict=False).action == Zoom(Point(3, 4)), (
        "the name is not checked"
    )


def photograph(width: int, height: int) -> PILImage.Image:
    """Smooth, so that JPEG hardly changes it, and different everywhere."""
    y, x = np.indices((height, width))
    bands = [x * 255 // width, y * 255 // height, 128 + 60 * np.sin(x / 40) * np.cos(y / 30)]
    return PILImage.fromarray(np.stack(bands, axis=2).astype(np.uint8))


def reference_crop(picture: PILImage.Image, x: int, y: int, offset: int, side: int, dot: bool) -> PILImage.Image:
    """Clamp, cut, draw, stretch to whole tokens: the reference's crop, from its description."""
    left, top = max(0, x - offset), max(0, y - offset)
    right, bottom = min(picture.width, x + offset), min(picture.height, y + offset)
    crop = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    if dot:
        disc = (x - left - 7, y - top - 7, x - left + 7, y - top + 7)
        ImageDraw.Draw(crop).ellipse(disc, fill="red", outline="white", width=2)
    side = round(side / 28) * 28
    return crop.resize((side, side), PILImage.Resampling.BICUBIC)


@pytest.mark.parametrize("at", [(500, 300), (0, 0), (1203, 5), (1203, 839), (30, 700)])
@pytest.mark.parametrize(
    ("name", "offset", "side", "shown", "dot"),
    [
        ("compat-visual-search", 182, 672, 672, False),
        ("compat-web-grounding-multiturn", 100, 512, 504, True),
    ],
)
async def test_a_crop_is_the_references(
    name: str, offset: int, side: int, shown: int, dot: bool, at: tuple[int, int]
) -> None:
    picture, buffer = photograph(1204, 840), io.BytesIO()
    picture.save(buffer, "PNG")
    environment = ZoomEnvironment(threads=1)
    config = recipe(name).task.zoom
    _, cut = await environment.crop(probe(buffer.getvalue()), Point(*at), config=config, resize=ResizeRule())
    await environment.close()
    assert (cut.size.width, cut.size.height) == (shown, shown)
    differs = np.abs(pixels(cut) - np.asarray(reference_crop(picture, *at, offset, side, dot), dtype=np.int64))
    assert differs.mean() < 1.5, "all that differs is that ours travels as JPEG"
    # A dot that is missing, shifted or of another size is small in the mean of all.
    assert (differs > 100).mean() < 1e-3


def pixels(image: Image) -> np.ndarray:
    assert image.data is not None
    return np.asarray(PILImage.open(io.BytesIO(image.data)).convert("RGB"), dtype=np.int64)


@pytest.mark.parametrize("name", COMPAT)
def test_a_compatible_recipe_samples_and_stops_as_the_reference_evaluates(name: str) -> None:
    made = recipe(name)
    assert made.name == made.run_id == name
    assert (made.evaluation.temperature, made.evaluation.samples, made.task.max_turn_tokens) == (0.5, 1, 2048)
    assert made.task.point_frame == "model"
    assert made.evaluation.modes == (made.task.mode,)
    if name in MULTI:
        assert (made.task.top_p, made.task.zoom.max_turns, made.task.force_answer) == (0.99, 5, True)
    else:
        assert (made.task.top_p, made.task.mode, made.task.force_answer) == (1.0, "single_turn", False)


@pytest.mark.parametrize("name", COMPAT)
def test_the_largest_image_and_every_turn_at_its_longest_fit_into_the_context(name: str) -> None:
    made = recipe(name)
    turns = made.task.zoom.max_turns
    crop = (round(made.task.zoom.shown_px / 28)) ** 2 + made.task.observation_text_tokens
    assert made.task.max_tokens >= turns * 2048 + (turns - 1) * crop
    assert made.model.max_pixels == 3600**2
    assert sequence_tokens(made) <= made.model.max_length


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [
        ("compat-spatial", "sat2"),
        ("compat-spatial", "blink-joined"),
        ("compat-spatial", "robospatial"),
        ("compat-visual-search", "vstar"),
        ("compat-visual-search-sft", "vstar"),
        ("compat-web-action", "web-action"),
        ("compat-web-grounding", "screenspot-v2"),
        ("compat-web-grounding", "screenspot-pro"),
        ("compat-web-grounding-multiturn", "screenspot-pro"),
    ],
)
def test_a_benchmark_leaves_a_compatible_recipe_as_it_is(name: str, benchmark: str) -> None:
    made = recipe(name)
    (mode,) = made.evaluation.modes
    asked = BENCHMARKS[benchmark].task(mode, made.task)
    side = round(made.task.zoom.shown_px / 28) * 28
    zoom = made.task.zoom.model_copy(update={"shown_px": side} if name in MULTI else asked.zoom.model_dump())
    assert asked == made.task.model_copy(update={"prompt": mode, "zoom": zoom})


def test_a_literal_of_the_wire_is_spelled_in_its_module_alone() -> None:
    package = Path(wire.__file__).parents[1]
    literals = (*wire.TAGS, wire.TOOL_NAME, wire.IMAGE_PLACEHOLDER, wire.OBSERVATION_SENTENCE)
    literals += (wire.FORCED_ANSWER_THOUGHT, wire.PREVIOUS_THOUGHT, wire.BACKTRACK_PHRASE)
    spelled = {
        f"{path.relative_to(package)}: {text!r}"
        for path in package.rglob("*.py")
        if path.name != "wire.py"
        for text in texts(path)
        if any(literal in text for literal in literals)
    }
    assert spelled == set()


def texts(path: Path) -> list[str]:
    """String constants of a module, those of its f-strings too, but not its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told)
    return [node.value for node in constants if isinstance(node.value, str)]


def test_the_documented_service_has_room_for_what_the_recipes_ask() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    served = PolicyServiceConfig.model_validate(yaml.safe_load(block)).policy
    for made in map(recipe, COMPAT):
        assert (served.max_context_tokens, served.max_image_pixels) == (made.model.max_length, made.model.max_pixels)
        assert served.max_images >= made.task.zoom.max_turns


def test_every_published_model_has_its_recipe_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    sizes = ("3b", "7b")
    published = [
        *(f"ViGoRL-Multiturn-{size}-Visual-Search" for size in sizes),
        *(f"ViGoRL-Multiturn-MCTS-SFT-{size}-Visual-Search" for size in sizes),
        *(f"ViGoRL-{size}-{task}" for size in sizes for task in ("Web-Grounding", "Web-Action", "Spatial")),
        *(f"ViGoRL-MCTS-SFT-{size}-Spatial" for size in sizes),
        *("ViGoRL-Multiturn-3b-Web-Grounding", "ViGoRL-MCTS-SFT-3b-Web-Grounding"),
    ]
    named = {
        model: row for row in text.splitlines() if row.startswith("|") for model in published if f"`{model}`" in row
    }
    assert sorted(named) == sorted(published)
    assert {found[1] for row in named.values() if (found := re.search(r"`(compat-[a-z-]+)`", row))} == set(COMPAT)
