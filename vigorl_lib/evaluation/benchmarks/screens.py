"""Pointing at elements of screenshots: OS-ATLAS, ScreenSpot, ScreenSpot-V2, ScreenSpot-Pro and its low-resolution form.

Each set writes its boxes in a way of its own: OS-ATLAS in shares of the image (left, top, right, bottom), ScreenSpot
and ScreenSpot-V2 in pixels with width and height, ScreenSpot-Pro in pixels as two corners. The metric is the same for
all: the answer's point lies in the box. A point exactly on a right or lower edge, which the benchmarks' own scripts
count, is outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.evaluation.benchmarks.bundle import reader
from vigorl_lib.evaluation.benchmarks.files import Files, cell_image
from vigorl_lib.evaluation.benchmarks.questions import from_shares, from_xywh, point_example
from vigorl_lib.evaluation.benchmarks.spec import MULTI_TURN, Benchmark, Layout

QUESTION = "Description: {instruction}"
"""How the released data begins its questions."""

PROMPTS = ("single_turn", MULTI_TURN, "vanilla", "direct")
ZOOM = MappingProxyType({"window_model_px": 200, "shown_px": 504, "dot": True})
"""Evaluation's crop of the reference: 100 px to each side, shown at 504, with a dot (its training differs)."""
METRIC = "share of points in the box"
BUNDLE = "gsarch/vigorl_datasets, web_grounding.tar"

PLATFORMS = {"windows": "desktop", "macos": "desktop", "ios": "mobile", "android": "mobile"}
"""Platform of each of ScreenSpot's sources; all others are pages of the web."""

SCREENSPOT_FOLDERS = ("screenspot_imgs", "screenspotv2_image", "images", "")


def read_screenspot(files: Files) -> Iterator[Example]:
    """`img_filename`, `bbox` [left, top, width, height] in pixels, `instruction`, `data_type`, `data_source`."""
    for path, row in files.rows():
        image = files.image(row, row.text("img_filename"), path, SCREENSPOT_FOLDERS)
        # screenspot_desktop.json and screenspot_desktop_v2.json: the platform stands in the file's name alone.
        platform = path.stem.removesuffix("_v2").rsplit("_", 1)[-1]
        yield point_example(
            row,
            example_id=f"{platform}-{_number(row)}",
            question=QUESTION.format(instruction=row.text("instruction")),
            box=from_xywh(row.numbers("bbox", 4)),
            image=image,
            tags={"platform": platform, "element": row.text("data_type"), "source": row.text("data_source", "")},
        )


def read_screenspot_hub(files: Files) -> Iterator[Example]:
    """The mirror: `image`, `bbox` [left, top, right, bottom] in shares, else the fields of `read_screenspot`."""
    for number, (_, row) in enumerate(files.rows()):
        image = cell_image(row, "image")
        source = row.text("data_source")
        yield point_example(
            row,
            example_id=f"{files.split}-{number}",
            question=QUESTION.format(instruction=row.text("instruction")),
            box=from_shares(row, row.numbers("bbox", 4), image.size),
            image=image,
            tags={"platform": PLATFORMS.get(source, "web"), "element": row.text("data_type"), "source": source},
        )


def read_screenspot_pro(files: Files) -> Iterator[Example]:
    """`id`, `img_filename`, `bbox` [x1, y1, x2, y2] in pixels, `instruction`, `ui_type`, `group`, `application`,
    `platform`; Chinese instructions and sizes are not read."""
    for path, row in files.rows():
        image = files.image(row, row.text("img_filename"), path, ("../images", "images", ""))
        yield point_example(
            row,
            example_id=row.text("id"),
            question=QUESTION.format(instruction=row.text("instruction")),
            box=row.numbers("bbox", 4),
            image=image,
            tags={
                "group": row.text("group"),
                "element": row.text("ui_type"),
                "platform": row.text("platform"),
                "application": row.text("application"),
            },
        )


def read_os_atlas(files: Files) -> Iterator[Example]:
    """`img_filename` with `elements`, or one element beside it: `instruction`, `bbox` in shares, maybe `data_type`."""
    for path, row in files.rows():
        image = files.image(row, row.text("img_filename"), path, ("", "images", path.stem.split("_")[0] + "_images"))
        elements = list(row.objects("elements")) if "elements" in row else [row]
        for number, element in enumerate(elements):
            yield point_example(
                element,
                example_id=f"{path.stem}-{_number(row)}-{number}",
                question=QUESTION.format(instruction=element.text("instruction")),
                box=from_shares(element, element.numbers("bbox", 4), image.size),
                image=image,
                tags={"platform": path.parent.name.removesuffix("_domain"), "element": element.text("data_type", "")},
            )


def _number(row: Fields) -> str:
    return row.where.rsplit(":", 1)[-1]


OS_ATLAS = Benchmark(
    name="os-atlas",
    title="OS-ATLAS, the validation part of the released bundle",
    split="val",
    layouts=(
        Layout({"val": 1500, "train": 12000}, "vigorl_osatlas_{split}_RL.jsonl", reader(AnswerKind.POINT), BUNDLE),
        Layout({"desktop": 0}, "desktop_domain/*.json", read_os_atlas, "OS-Copilot/OS-Atlas-data"),
        Layout({"mobile": 0}, "mobile_domain/*.json", read_os_atlas, "OS-Copilot/OS-Atlas-data"),
        Layout({"web": 0}, "web_domain/*.json", read_os_atlas, "OS-Copilot/OS-Atlas-data"),
    ),
    family="web_grounding",
    prompts=PROMPTS,
    tags=("platform", "element"),
    crossed=("platform", "element"),
    metric=METRIC,
    zoom=ZOOM,
)
SCREENSPOT = replace(
    OS_ATLAS,
    name="screenspot",
    title="ScreenSpot (v1)",
    split="test",
    layouts=(
        Layout({"test": 1272}, "screenspot_*[bep].json", read_screenspot, "the authors' SeeClick release"),
        Layout({"test": 1272}, "test-*.parquet", read_screenspot_hub, "rootsautomation/ScreenSpot"),
    ),
    tags=("platform", "element"),
)
SCREENSPOT_V2 = replace(
    SCREENSPOT,
    name="screenspot-v2",
    title="ScreenSpot-V2",
    layouts=(
        Layout({"test": 1272}, "screenspot_*_v2.json", read_screenspot, "OS-Copilot/ScreenSpot-v2"),
        Layout({"test": 1272}, "screenspot_v2_test.jsonl", reader(AnswerKind.POINT), BUNDLE),
    ),
)
SCREENSPOT_PRO = replace(
    SCREENSPOT,
    name="screenspot-pro",
    title="ScreenSpot-Pro",
    layouts=(
        Layout({"test": 1581}, "annotations/*.json", read_screenspot_pro, "likaixin/ScreenSpot-Pro"),
        Layout({"test": 1581}, "screenspot_pro_test.jsonl", reader(AnswerKind.POINT), BUNDLE),
    ),
    tags=("group", "element", "platform", "application"),
    crossed=("group", "element"),
)
SCREENSPOT_PRO_LR = replace(
    SCREENSPOT_PRO,
    name="screenspot-pro-lr",
    title="ScreenSpot-Pro, images of at most 1920 pixels a side",
    max_side=1920,
)
