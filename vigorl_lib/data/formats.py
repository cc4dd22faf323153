"""The formats in which questions come, by name: what one row of each means, and how to tell which one a file is in.

Chains, which are whole conversations to train on, are `vigorl_lib.data.chain_files`. The two formats called `a` and `b`
are the ones of the published ViGoRL data (arXiv 2505.23678): conversations for search and evaluation, and questions
for reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vigorl_lib.data.drafts import Draft, Read, cell_pictures, lettered, text_answer
from vigorl_lib.data.fields import Fields
from vigorl_lib.data.records import FIELDS
from vigorl_lib.data.rows import first_row
from vigorl_lib.domain.example import AnswerKind
from vigorl_lib.domain.wire import IMAGE_PLACEHOLDER
from vigorl_lib.errors import DataError

JSONL, PARQUET, TABLE, FOLDER, CONVERSATIONS, RL = "jsonl", "parquet", "table", "hf-folder", "a", "b"
CHAINS, SHAREGPT = "c", "sharegpt"
QUESTION_FORMATS = (JSONL, PARQUET, TABLE, FOLDER, CONVERSATIONS, RL)
CHAIN_FORMATS = (CHAINS, SHAREGPT)
IMAGE_COLUMNS = ("image", "images", "file_name", "file_names")
USER_FIELDS = (*FIELDS, "image")


@dataclass(frozen=True, slots=True)
class Columns:
    """How the columns of somebody's table become ours.

    `names` gives their column for a field of ours ("" where a column that is called like ours is something else),
    `tags` the columns that become tags; `kind` is how answers are matched where the rows do not say.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    kind: AnswerKind | None = None

    def theirs(self, name: str) -> str:
        """Their column for a field of ours."""
        return self.names.get(name, name)

    def left_out(self, fields: Fields) -> list[str]:
        """The columns of a row that become nothing, as a reader of tables takes them."""
        taken = {self.theirs(name) for name in USER_FIELDS} | set(IMAGE_COLUMNS) | set(self.tags)
        return sorted(set(fields.values) - taken)


def reader(name: str, columns: Columns, split: str) -> Read:
    """What makes drafts of the rows of a format. Raises DataError (FORMAT_UNKNOWN)."""
    match name:
        case "jsonl" if columns == Columns():
            return read_record
        case "jsonl" | "parquet" | "table" | "hf-folder":
            return partial(read_columns, columns=columns, split=split)
        case "a":
            return partial(read_conversation, kind=columns.kind)
        case "b":
            return partial(read_rl, kind=columns.kind, split=split)
    raise DataError(
        f"expected a format out of {', '.join(QUESTION_FORMATS)}, found {name!r}", reason="FORMAT_UNKNOWN", format=name
    )


def read_record(fields: Fields) -> Draft:
    """Our own records, whose `image` or `images` are paths. A field that is not known is refused: people mistype."""
    fields.refuse_unknown(USER_FIELDS)
    if ("image" in fields) == ("images" in fields):
        raise fields.error("expected either 'image' (a path) or 'images' (a list of paths)")
    paths = [fields.text("image")] if "image" in fields else fields.items("images")
    for path in paths:
        if not isinstance(path, str):
            raise fields.error(f"images: expected paths as text, found {path!r}")
    record = {key: value for key, value in fields.values.items() if key not in ("image", "images")}
    if type(record.get("id")) is int:
        record["id"] = str(record["id"])
    return Draft(fields, record, tuple(paths))


def read_columns(fields: Fields, *, columns: Columns, split: str) -> Draft:
    """A table's row: our fields under their own or mapped names; other columns are left out.

    Images may be paths or cells with bytes; `choices` make the question a choice, whose `answer` may be a letter or a
    number; a row without `id` is called by its place.
    """
    for theirs in (*columns.names.values(), *columns.tags):
        if theirs and theirs not in fields.values:
            raise fields.error(f"no column {theirs!r}; found {', '.join(sorted(fields.values)) or 'none'}")
    values = {name: fields.values.get(columns.theirs(name)) for name in USER_FIELDS}
    record: dict[str, Any] = {name: value for name, value in values.items() if name not in ("image", "images")}
    record["id"] = _row_id(fields, record["id"], split)
    record["tags"] = _tags(fields, record["tags"], columns.tags)
    choices = record["choices"]
    if columns.kind is not None and record["kind"] is None:
        record["kind"] = columns.kind.value
    if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
        record["kind"] = record["kind"] or AnswerKind.CHOICE.value
        record["answer"] = lettered(fields, choices, record["answer"])
    if isinstance(record["answer"], int | float):
        record["answer"] = _spelled(record["answer"])
    return Draft(fields, {name: value for name, value in record.items() if value is not None}, _images(fields, columns))


def read_conversation(fields: Fields, *, kind: AnswerKind | None = None) -> Draft | None:
    """Format A: `id`, `image` and `conversations`, of which the first two entries are question and answer.

    A row without `image` is skipped, as its own reader does.
    """
    if "image" not in fields:
        return None
    said = [turn.text("value") for turn in fields.objects("conversations")]
    if len(said) < 2:
        raise fields.error(f"conversations: expected a question and an answer, found {len(said)} entries")
    record = {"id": str(fields.values.get("id", "")), "question": _bare(said[0]), **text_answer(said[1].strip(), kind)}
    return Draft(fields, record, (fields.text("image"),), clip=True)


def read_rl(fields: Fields, *, kind: AnswerKind | None = None, split: str = "row") -> Draft:
    """Format B: `problem`, `answer`, `images`, and an `id` where there is one; other columns are left out."""
    record = {
        "id": _row_id(fields, fields.values.get("id"), split),
        "question": _bare(fields.text("problem")),
        **text_answer(fields.text("answer").strip(), kind),
    }
    return Draft(fields, record, cell_pictures(fields, "images"), clip=True)


def detect(path: Path, columns: Columns) -> str:
    """The format of a file or folder, by its first row unless columns are named.

    Raises DataError (FORMAT_UNKNOWN) that says what was found.
    """
    if path.is_dir():
        return FOLDER
    table = {".jsonl": JSONL, ".parquet": PARQUET}.get(path.suffix, TABLE)
    if columns.names:
        return table
    row = first_row(path)
    if row is None:
        # An empty file is told as such by whoever reads it.
        return JSONL
    if "messages" in row:
        return CHAINS
    if "conversations" in row:
        return SHAREGPT if "images" in row else CONVERSATIONS
    if "problem" in row:
        return RL
    if "question" in row:
        return table
    raise DataError(
        f"{path.name}: cannot tell the format of rows with the fields {', '.join(sorted(row.values)) or 'none'}; say "
        "which column is what, for example --field question=prompt --field image=picture, or name the --format",
        reason="FORMAT_UNKNOWN",
    )


def _images(fields: Fields, columns: Columns) -> tuple[Any, ...]:
    mapped = [columns.names[name] for name in ("image", "images") if name in columns.names]
    names = [name for name in (mapped or IMAGE_COLUMNS) if name in fields]
    if not names:
        raise fields.error(
            f"expected an image in {' or '.join(mapped or IMAGE_COLUMNS)}, found "
            f"{', '.join(sorted(fields.values)) or 'nothing'}; name its column with --field image=COLUMN",
            "IMAGE_MISSING",
        )
    return cell_pictures(fields, names[0])


def _row_id(fields: Fields, given: object, split: str) -> object:
    if given is None:
        file, _, number = fields.where.rpartition(":")
        return f"{split}-{Path(file).stem}-{number}"
    return _spelled(given) if isinstance(given, int | float) else given


def _tags(fields: Fields, given: object, names: tuple[str, ...]) -> dict[str, str]:
    try:
        # A map column comes from Parquet as a list of pairs.
        tags = dict(given) if isinstance(given, dict | list) else {}
        if given and not tags:
            raise ValueError
    except (ValueError, TypeError):
        raise fields.error(
            f"tags: expected names with values, found {given!r}; if that column is something else, leave it out with "
            "--field tags="
        ) from None
    tags |= {name: _spelled(fields.values[name]) for name in names if fields.values.get(name) is not None}
    return {str(name): _spelled(value) for name, value in tags.items() if value is not None}


def _spelled(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _bare(text: str) -> str:
    return text.replace(IMAGE_PLACEHOLDER, "").strip()
