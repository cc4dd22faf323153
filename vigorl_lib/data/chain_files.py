"""Files of chains from other tools (format C of the published code, sharegpt), with the questions that they answer.

`vigorl_lib.data.conversations` reads the conversation itself. Here it gets its turns, and an example (question, images,
gold answer) that all chains about the same question share. Points are pixels of the first image as it is stored. Which
window an observation shows is not told by the formats, so a turn has the picture that follows it and no crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from vigorl_lib.data.conversations import DEFAULT_MODE, read_conversation
from vigorl_lib.data.drafts import Draft, Pictures, text_answer
from vigorl_lib.data.fields import Fields
from vigorl_lib.data.rows import open_table
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.grammar import MODES, MULTI_TURN, SINGLE_TURN, Answer, Mode, parse_turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Origin, Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import DataError

POLICY = "imported"


@dataclass(frozen=True, slots=True)
class ReadChain:
    """A chain and the question that it answers; `where` is its file and number."""

    chain: Trajectory
    example: Example
    where: str


def read_chain_file(
    path: Path, pictures: Pictures, image_root: Path, on_progress: Callable[[int, int], None]
) -> Iterator[ReadChain | DataError]:
    """Every record of a JSON, JSONL or Parquet file, or what is wrong with it; image paths are below `image_root`."""
    table = open_table(path)
    for number, row in enumerate(table.rows, start=1):
        try:
            yield row if isinstance(row, DataError) else _read(row, f"{path.stem}-{number}", pictures, image_root)
        except DataError as error:
            yield error
        on_progress(number, table.count)


def _read(fields: Fields, name: str, pictures: Pictures, image_root: Path) -> ReadChain:
    given = fields.values.get("id")
    fields = Fields(fields.values | {"id": name if given is None else str(given)}, fields.where)
    said = read_conversation(fields, lambda path: pictures.image(fields, path, image_root))
    opening = said.segments[0]
    if not opening.images:
        raise fields.error("images: expected one in front of the first answer, found none")
    answers = [segment.text for segment in said.segments if segment.origin is Origin.DEMONSTRATION]
    example = _example(fields, opening.messages[-1].text.strip(), opening.images, answers[-1])
    if said.example_id != said.trajectory_id:
        example = replace(example, example_id=said.example_id)
    mode = MULTI_TURN if len(answers) > 1 else SINGLE_TURN
    if said.mode != DEFAULT_MODE:
        mode = MODES.get(said.mode, mode)
    turns = tuple(_turns(said.segments, mode))
    chain = replace(
        said,
        example_id=example.example_id,
        mode=mode.name,
        policy=said.policy or POLICY,
        turns=turns,
        stop=StopReason.ANSWERED if isinstance(turns[-1].turn.action, Answer) else StopReason.MAX_TURNS,
        model_size=opening.images[0].size,
    )
    return ReadChain(chain, example, fields.where)


def _turns(segments: tuple[Segment, ...], mode: Mode) -> Iterator[TurnRecord]:
    for segment, after in zip(segments, (*segments[1:], None), strict=True):
        if segment.origin is Origin.DEMONSTRATION:
            crop = next(iter(after.images), None) if after is not None else None
            yield TurnRecord(parse_turn(segment.text, mode, strict=False), segment.text, "stop", crop_image=crop)


def _example(fields: Fields, question: str, images: tuple[Image, ...], last: str) -> Example:
    """The question; where no gold answer is given, the chain's own one is it."""
    own = parse_turn(last, SINGLE_TURN, strict=False).action
    answer = fields.text("gt_answer", own.text if isinstance(own, Answer) else last).strip()
    told = [question, fields.text("gt_answer", ""), *(image.sha256 for image in images)]
    name = sha256("\n".join(told).encode()).hexdigest()[:16]
    record = {"id": name, "question": question, **text_answer(answer, None)}
    return Draft(fields, record, (), clip=True).example(images)
