"""Multi-turn chains as the published code makes them: single-turn chains cut at their points, crops put in afterwards.

Each sentence that cites a place for the first time becomes a turn that zooms there; its text was written by a teacher
that had seen no crop. The last turn is always the same sentence and the answer: what stood between the last zoom
and the answer is dropped. With a chance of 0.2 the first zoom moves to a later place. Points are rescaled to an image
of 2.70 to 2.85 megapixels and cut to whole numbers. For comparison with `vigorl_lib.search.linearize`, whose
multi-turn chains come from thoughts that saw their crops.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vigorl_lib.domain.geometry import Point, ResizeRule, Size
from vigorl_lib.domain.grammar import MULTI_TURN, Answer, Turn, Zoom, find_points, map_points, render_point, render_turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, Trajectory, TurnRecord
from vigorl_lib.domain.wire import FORCED_ANSWER_THOUGHT, observation_text
from vigorl_lib.environment.base import Environment
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.errors import DataError
from vigorl_lib.prompts import Prompt
from vigorl_lib.storage.images import ImageStore

PIXELS = ResizeRule(28, 2_700_000, 2_850_000)
MAX_ZOOMS = 5
SHUFFLE_SHARE = 0.2

_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True, slots=True)
class Step:
    """Text up to the end of the sentence that cites a place for the first time."""

    thought: str
    point: Point


def cut(text: str) -> list[Step]:
    """The zooms of a single-turn chain's text. A place that was seen, or comes after five, only adds its text."""
    steps: list[Step] = []
    seen: set[Point] = set()
    gathered, cursor, looked = "", 0, 0
    for point in find_points(text):
        # Spelled canonically by `rescaled`, so every point is found again, in order.
        looked = text.index(render_point(point), looked) + 1
        end = _SENTENCE_END.search(text, looked)
        stop = max(cursor, end.end() if end else len(text))
        gathered, cursor = gathered + text[cursor:stop], stop
        if point in seen or len(steps) == MAX_ZOOMS:
            continue
        seen.add(point)
        steps.append(Step(gathered.strip(), point))
        gathered = ""
    return steps


def rescaled(text: str, old: Size, new: Size) -> str:
    """The text with its points moved from one size of the image to another, per axis, cut to whole numbers."""

    def move(point: Point) -> Point:
        return Point(int(point.x * new.width / old.width), int(point.y * new.height / old.height))

    return map_points(text, move)


def shuffled(steps: Sequence[Step], rng: random.Random) -> list[Step]:
    """With a chance of 0.2 the first step stands before a later one, which may be the second: then nothing moves."""
    if len(steps) < 2 or rng.random() >= SHUFFLE_SHARE:
        return list(steps)
    place = rng.randrange(1, len(steps))
    return [*steps[1:place], steps[0], *steps[place:]]


async def with_crops(
    chains: Sequence[Trajectory],
    prompt: Prompt,
    zoom: ZoomConfig,
    environment: Environment,
    images: ImageStore,
    seed: int,
) -> list[Trajectory]:
    """Multi-turn chains of single-turn ones; crops go into `images`. A chain that points off its image is dropped."""
    made = []
    for chain in chains:
        rng = random.Random(derive_seed(seed, "crops", chain.trajectory_id))
        image = images.load(next(image for segment in chain.segments for image in segment.images))
        try:
            made.append(await _chain(chain, image, prompt, zoom, environment, images, rng))
        except DataError as error:
            if error.reason != "POINT_OUTSIDE":
                raise
    return made


async def _chain(
    chain: Trajectory,
    image: Image,
    prompt: Prompt,
    zoom: ZoomConfig,
    environment: Environment,
    images: ImageStore,
    rng: random.Random,
) -> Trajectory:
    size = PIXELS.model_size(image.size)
    old = chain.model_size or image.size
    turn = chain.turns[0].turn
    steps = shuffled(cut(rescaled(turn.thought, old, size)), rng)
    opening = chain.segments[0]
    segments = [Segment(Origin.PROMPT, (Message(Role.SYSTEM, (prompt.text,)), *opening.messages[1:]))]
    records = []
    before, after = observation_text(zoom.observation, dot=zoom.dot)
    for step in steps:
        crop, shown = await environment.crop(image, step.point, config=zoom, resize=PIXELS)
        assert shown.data is not None
        kept = replace(images.put(shown.data), data=None)
        record = _record(Turn(step.thought, find_points(step.thought), Zoom(step.point)))
        records.append(replace(record, crop=crop, crop_image=kept))
        segments += [_said(record), Segment(Origin.OBSERVATION, (Message(Role.USER, (before, kept, after)),))]
    answer = rescaled(chain.answer or "", old, size)
    records.append(_record(Turn(FORCED_ANSWER_THOUGHT, (), Answer(answer))))
    segments.append(_said(records[-1]))
    tree, _, name = chain.trajectory_id.rpartition("/")
    return replace(
        chain,
        trajectory_id=f"{tree}/crops.{name.replace('.', '-')}",
        mode=MULTI_TURN.name,
        segments=tuple(segments),
        turns=tuple(records),
        model_size=size,
    )


def _record(turn: Turn) -> TurnRecord:
    return TurnRecord(turn, render_turn(turn.thought, turn.action), "stop")


def _said(record: TurnRecord) -> Segment:
    return Segment(Origin.DEMONSTRATION, (Message(Role.ASSISTANT, (record.text,)),), trained=True)
