"""Whatever a policy writes and however the environment is set: chains parse, and play to what they show."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from tests.search.support import RESIZE, TASK, ZOOM, WrittenPolicy, example, search_one, searching
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Point, Size
from vigorl_lib.domain.grammar import MODES, Answer, Zoom, parse_turn, render_turn
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.trajectory import Message, Origin, Segment, Trajectory
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.prompts import Prompt
from vigorl_lib.search.config import LinearizeConfig, SearchConfig
from vigorl_lib.search.linearize import ChainTask, linearize

SEARCH = SearchConfig(simulations=8, children=4, rollouts_per_child=2, dedup_radius_px=0, simulations_in_flight=3)
THOUGHTS = ["It is at ({x}, {y}).", "look  at ( {x} ,{y} ) <b>", "", "two\nlines (3, 4)", "it is (3,", "4) or (5,6)"]
MESSY = [
    "garbage",
    "<think> a <think> b (1,2) </think> <answer> pink </answer>",
    "no tags (3, 4) <answer> pink",
    "<think> q (3, 4) </think> so <answer> pink </answer> it is",
    '<think> out </think><tool_call>{"name": "search_coordinate", "arguments": {"coordinate": [999, 9]}}</tool_call>',
]


def picture() -> Example:
    """No two places of it look alike."""
    buffer = io.BytesIO()
    noise = random.Random(0).randbytes(448 * 448 * 3)
    PILImage.frombytes("RGB", (448, 448), noise).save(buffer, "PNG", compress_level=1)
    data = buffer.getvalue()
    return replace(example(), images=(Image(digest(data), "image/png", Size(448, 448), data),))


QUESTION = picture()


def rambling(seed: int) -> WrittenPolicy:
    rng = random.Random(seed)

    def write(prompt: Sequence[Segment], index: int) -> str:
        x, y = (rng.choice([rng.randrange(112), round(rng.uniform(0, 111), 2)]) for _ in range(2))
        thought = rng.choice(THOUGHTS).format(x=x, y=y)
        if rng.random() < 0.1:
            return rng.choice(MESSY)
        if rng.random() < 0.55:
            return render_turn(thought, Zoom(Point(x, y)))
        return render_turn(thought, Answer(rng.choice(["pink", "cyan"])))

    return WrittenPolicy(write)


async def chains_of(seed: int, rules: ZoomConfig, force_answer: bool) -> list[Trajectory]:
    task = TASK.model_copy(update={"zoom": rules, "force_answer": force_answer})
    tree, _ = await search_one(searching(rambling(seed), SEARCH, task=task), QUESTION)
    config = LinearizeConfig(
        max_chains_per_example=100,
        max_corrected_per_example=100,
        max_wrong_turns=2,
        max_turns=9,
        min_points=0,
        validation_share=0.0,
    )
    return linearize([tree], config, ChainTask(Prompt("s", "Think.", ""), rules=rules), seed=seed).train


async def played(texts: list[str], rules: ZoomConfig) -> list[Message]:
    environment = ZoomEnvironment(threads=1)
    image = QUESTION.images[0]
    strict = rules.model_copy(update={"strict": True})
    state = (await environment.start(image, mode="multi_turn", config=strict, resize=RESIZE)).state
    observed = []
    for text in texts:
        outcome = await environment.step(state, text, image)
        assert outcome.invalid is None
        state = outcome.state
        observed += [outcome.observation] if outcome.observation else []
    await environment.close()
    return observed


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    max_turns=st.integers(2, 4),
    on_invalid=st.sampled_from(["tell", "ignore", "stop"]),
    min_distance_px=st.sampled_from([0.0, 30.0]),
    strict=st.booleans(),
    force_answer=st.booleans(),
)
def test_chains_parse_and_play_to_what_they_show(
    seed: int, max_turns: int, on_invalid: str, min_distance_px: float, strict: bool, force_answer: bool
) -> None:
    rules = ZOOM.model_copy(
        update={
            "max_turns": max_turns,
            "on_invalid": on_invalid,
            "min_distance_px": min_distance_px,
            "strict": strict,
        }
    )

    async def check() -> None:
        for chain in await chains_of(seed, rules, force_answer):
            spoken = [segment.text for segment in chain.segments if segment.origin is Origin.DEMONSTRATION]
            assert [parse_turn(text, MODES[chain.mode]) for text in spoken] == [record.turn for record in chain.turns]
            if chain.mode == "multi_turn":
                shown = [s.messages[0] for s in chain.segments if s.origin is Origin.OBSERVATION]
                assert await played(spoken, rules) == shown

    asyncio.run(check())
