"""A data set's questions and chains in the formats that are imported: files of rows with the images beside them.

What a format has no place for is counted by name and told, never guessed. Chains for LLaMA-Factory and TRL are
`vigorl_lib.data.sharegpt` and `vigorl_lib.data.trl`; here is the published code's own form of them.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vigorl_lib.data.chain_export import ImageFiles, messages, tellable
from vigorl_lib.data.drafts import text_answer
from vigorl_lib.data.formats import CONVERSATIONS, JSONL, PARQUET, RL
from vigorl_lib.data.records import example_to_record
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.grammar import MULTI_TURN
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.domain.wire import IMAGE_PLACEHOLDER
from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore

EXPORT_FORMATS = (JSONL, PARQUET, CONVERSATIONS, RL)

PARQUET_BYTES = 256 << 20
"""A Parquet file is closed when its images are of so many bytes."""

_UNTOLD = ("choices", "evidence", "distractors", "region", "accepted", "task", "tags")
"""Fields that the published formats have no place for."""

Row = dict[str, Any]


@dataclass(slots=True)
class ExportedQuestions:
    """How many were written, how many could not be told at all, and how often which field was left behind."""

    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)


def export_examples(
    storage: Storage,
    examples: Iterable[Example],
    format: str,
    target: Storage,
    split: str,
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ExportedQuestions:
    """Write examples as `<split>.jsonl` of `target` with `images/`, or as `<split>-00000.parquet` and so on.

    Raises DataError (FORMAT_UNKNOWN), ObjectNotFound, CorruptObject.
    """
    if format not in EXPORT_FORMATS:
        raise DataError(
            f"expected a format out of {', '.join(EXPORT_FORMATS)}, found {format!r}", reason="FORMAT_UNKNOWN"
        )
    report = ExportedQuestions()
    files = _Files(ImageStore(storage, cache_bytes=0), target)
    rows = _rows(examples, format, files, report, on_progress)
    if format == PARQUET:
        for number, part in enumerate(_parts(rows)):
            target.write(f"{split}-{number:05d}.parquet", _parquet(part))
    else:
        target.write(f"{split}.jsonl", b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    return report


def _rows(
    examples: Iterable[Example],
    format: str,
    files: _Files,
    report: ExportedQuestions,
    on_progress: Callable[[int], None],
) -> Iterator[Row]:
    for done, example in enumerate(examples, start=1):
        row = _row(example, format, files, report)
        if row is not None:
            report.written += 1
            yield row
        on_progress(done)


def _parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows of one Parquet file each, which is in memory while it is written."""
    part: list[Row] = []
    size = 0
    for row in rows:
        part.append(row)
        size += sum(len(cell["bytes"]) for cell in row["images"])
        if size >= PARQUET_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def export_reference_chains(
    storage: Storage, chains: Sequence[Trajectory], answers: Mapping[str, str], target: Storage, name: str
) -> tuple[list[str], int]:
    """Write chains in format C: those of one turn as `<name>.json`, those with crops as `<name>_multiturn.parquet`.

    `answers` are the gold answers by example. Returns the files, and how many chains were left out because the format
    cannot show a turn without training on it.
    """
    kept, left_out = tellable(chains)
    files = ImageFiles(target, ImageStore(storage), "chains")
    single = [chain for chain in kept if chain.mode != MULTI_TURN.name]
    several = [chain for chain in kept if chain.mode == MULTI_TURN.name]
    written = []
    if single:
        records = [_chain_record(chain, answers, _chain_images(files, chain)) for chain in single]
        written.append(f"{name}.json")
        target.write(written[-1], json.dumps(records, ensure_ascii=False, indent=1).encode())
    if several:
        written.append(f"{name}_multiturn.parquet")
        rows = [{"messages": _chain_messages(chain), "images": _chain_images(files, chain)} for chain in several]
        target.write(written[-1], _chain_parquet(rows))
    return written, left_out


def answer_text(example: Example) -> str:
    """The gold answer as the published formats write it: text, or a box `(x1, y1, x2, y2)` in whole pixels."""
    box = example.truth.box
    if example.truth.kind is not AnswerKind.POINT or box is None:
        return example.truth.answer
    return f"({round(box.x0)}, {round(box.y0)}, {round(box.x1)}, {round(box.y1)})"


def _row(example: Example, format: str, files: _Files, report: ExportedQuestions) -> Row | None:
    record = example_to_record(example)
    if format == PARQUET:
        return record | {"images": [files.cell(image) for image in example.images]}
    if format == JSONL:
        return record | {"images": [files.name(image) for image in example.images]}
    if format == CONVERSATIONS and len(example.images) > 1:
        report.left_out["several images"] += 1
        return None
    report.lost.update(name for name in _UNTOLD if name in record)
    answer = answer_text(example)
    if text_answer(answer, None)["kind"] != example.truth.kind:
        report.lost["kind"] += 1
    box = example.truth.box
    if box is not None:
        whole = all(float(edge).is_integer() for edge in (box.x0, box.y0, box.x1, box.y1))
        report.lost["box"] += example.truth.kind is not AnswerKind.POINT
        report.lost["fractions of a pixel"] += example.truth.kind is AnswerKind.POINT and not whole
    question = f"{IMAGE_PLACEHOLDER}\n" * len(example.images) + example.question
    names = [files.name(image) for image in example.images]
    if format == RL:
        return {"id": example.example_id, "problem": question, "answer": answer, "images": names}
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": example.example_id, "image": names[0], "conversations": said}


@dataclass(slots=True)
class _Files:
    """Images of the data set, as files of the target or as cells; each file is written once."""

    store: ImageStore
    target: Storage
    written: set[str] = field(default_factory=set)

    def name(self, image: Image) -> str:
        name = f"images/{image.sha256}.{image.media_type.removeprefix('image/')}"
        if name not in self.written:
            self.target.write(name, self._data(image))
            self.written.add(name)
        return name

    def cell(self, image: Image) -> dict[str, Any]:
        suffix = image.media_type.removeprefix("image/")
        return {"bytes": self._data(image), "path": f"{image.sha256}.{suffix}"}

    def _data(self, image: Image) -> bytes:
        data = self.store.load(image).data
        assert data is not None
        return data


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa

    texts, box = pa.list_(pa.string()), pa.list_(pa.float64())
    types = {
        **dict.fromkeys(("id", "question", "answer", "kind", "task"), pa.string()),
        **dict.fromkeys(("choices", "accepted"), texts),
        **dict.fromkeys(("evidence", "distractors", "region"), pa.list_(box)),
        "box": box,
        "images": pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "tags": pa.map_(pa.string(), pa.string()),
    }
    told = [{name: row.get(name) for name in types} | {"tags": list(row.get("tags", {}).items())} for row in rows]
    return _table(told, pa.schema(list(types.items())))


def _chain_parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return _table(rows, pa.schema([("messages", pa.list_(message)), ("images", pa.list_(pa.string()))]))


def _table(rows: Sequence[Row], schema: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    # Small groups, so that a reader of rows with images need not hold many.
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd", row_group_size=100)
    return buffer.getvalue()


def _chain_record(chain: Trajectory, answers: Mapping[str, str], names: Sequence[str]) -> Row:
    return {
        "id": chain.trajectory_id,
        "metadata": {},
        "messages": _chain_messages(chain),
        "images": list(names),
        "gt_answer": answers.get(chain.example_id, chain.answer or ""),
    }


def _chain_messages(chain: Trajectory) -> list[dict[str, str]]:
    return [
        {
            "role": message.role.value,
            "content": "".join(part if isinstance(part, str) else IMAGE_PLACEHOLDER for part in message.parts),
        }
        for message in messages(chain)
    ]


def _chain_images(files: ImageFiles, chain: Trajectory) -> list[str]:
    return [f"{files.prefix}/{name}" for name in files.names(chain)]
