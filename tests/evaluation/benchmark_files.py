"""Miniatures of every benchmark's published files: their folders, names and fields; our own questions and pictures.

`write_benchmark_files(root)` writes one folder for each benchmark. Pictures are single colours; what is asked about
them cannot be seen, which does not matter to who knows the answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pictures import encoded
from vigorl_lib.evaluation.benchmarks.spatial import SUB_TASKS

PER_BENCHMARK = {
    "sat2": 3,
    "blink": 14,
    "blink-joined": 14,
    "robospatial": 3,
    "robospatial-context": 1,
    "vstar": 3,
    "os-atlas": 2,
    "screenspot": 4,
    "screenspot-v2": 3,
    "screenspot-pro": 3,
    "screenspot-pro-lr": 3,
    "web-action": 5,
    "mmmu": 3,
    "realworldqa": 2,
}
"""Questions in the measured split of each miniature."""


def write_benchmark_files(root: Path) -> None:
    _sat2(root / "sat2")
    for name in ("blink", "blink-joined"):
        _blink(root / name)
    for name in ("robospatial", "robospatial-context"):
        _robospatial(root / name)
    _vstar(root / "vstar")
    _os_atlas(root / "os-atlas")
    _screenspot(root / "screenspot", "screenspot_{}.json", "screenspot_imgs")
    _screenspot(root / "screenspot-v2", "screenspot_{}_v2.json", "screenspotv2_image")
    for name in ("screenspot-pro", "screenspot-pro-lr"):
        _screenspot_pro(root / name)
    _web_action(root / "web-action")
    _mmmu(root / "mmmu")
    _realworldqa(root / "realworldqa")


def picture(path: Path, width: int, height: int, color: int) -> str:
    """Write a picture in the form of its ending; returns its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(width, height, "JPEG" if path.suffix == ".jpg" else "PNG", color))
    return path.name


def cell(width: int, height: int, color: int) -> dict[str, Any]:
    """A picture as Hugging Face stores it in a column of images."""
    return {"bytes": encoded(width, height, "PNG", color), "path": f"{color}.png"}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def conversation(name: str, image: str, question: str, answer: str) -> dict[str, Any]:
    said = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": said}


def _sat2(folder: Path) -> None:
    rows = []
    for number, answer in enumerate(("left", "Rotated right", "the lamp")):
        name = picture(folder / "sat2_test" / "images" / f"{number}.png", 112, 84, number)
        question = f"Which way, question {number}? Choose between: left, Rotated right, or the lamp."
        rows.append(conversation(f"sat_{number}", f"images/{name}", question, answer))
    write_jsonl(folder / "sat2_test" / "sat2_test.jsonl", rows)
    write_parquet(
        folder / "SAT_val.parquet",
        [
            {
                "image_bytes": [encoded(60, 40, "PNG", 3), encoded(30, 20, "PNG", 4)],
                "question": "Did the camera move left or right?",
                "answers": ["Moved left", "Moved right"],
                "question_type": "action_sequence",
                "correct_answer": "Moved right",
            }
        ],
    )


def _blink(folder: Path) -> None:
    for number, name in enumerate(SUB_TASKS):
        count = 1 + number % 4
        pictures: dict[str, Any] = {f"image_{k}": cell(56, 42, 10 * number + k) for k in range(1, count + 1)}
        pictures |= {f"image_{k}": None for k in range(count + 1, 5)}
        row = {
            "idx": f"val_{name}_1",
            "question": f"Which one is it ({name})?",
            "sub_task": name,
            **pictures,
            "choices": ["the first", "the second", "none"],
            "answer": f"({'ABC'[number % 3]})",
            "prompt": "Which one is it? Select from the following choices.",
            "explanation": "",
        }
        # An empty column has no type of its own.
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        types = {key: image if key.startswith("image_") else pa.string() for key in row} | {
            "choices": pa.list_(pa.string())
        }
        path = folder / name / "val-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row], schema=pa.schema(list(types.items()))), path)


def _robospatial(folder: Path) -> None:
    rows = []
    asked = [
        ("configuration", "Is the chair left of the desk? Answer yes or no.", "Yes"),
        ("compatibility", "Can the box fit on the shelf? Answer yes or no.", "no"),
        (
            "context",
            "In the image, there is a table. Pinpoint several points in the free space right of it. Your answer should "
            "be formatted as a list of tuples, i.e. [(x1, y1), ...]. The coordinates should be between 0 and 1.",
            "[(0.5, 0.25), (0.9, 0.25), (0.9, 0.75)]",
        ),
        ("configuration", "Is the lamp behind the sofa? Answer yes or no.", "no"),
    ]
    for number, (category, question, answer) in enumerate(asked):
        name = picture(folder / "images" / f"img_{category}_{number}.png", 140, 112, number)
        rows.append(
            {
                "category": category,
                "question": question,
                "answer": answer,
                "img": f"images/{name}",
                "depth_image": f"images/depth_{category}_{number}.png",
                "mask": None,
            }
        )
    write_json(folder / "annotations.json", rows)


def _vstar(folder: Path) -> None:
    rows = []
    asked = [
        ("direct_attributes", "What is the material of the glove?", ("rubber", "cotton", "kevlar", "leather"), "B"),
        ("direct_attributes", "What is the color of the kite?", ("red", "blue", "green", "white"), "D"),
        ("relative_position", "Is the dog left or right of the bin?", ("left", "right"), "A"),
    ]
    for number, (category, question, choices, label) in enumerate(asked):
        name = f"{category}/sa_{number}.jpg"
        picture(folder / name, 448, 336, number)
        lines = [f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=False)]
        ask = "Answer with the option's letter from the given choices directly."
        rows.append(
            {
                "image": name,
                "text": "\n".join([question, *lines, ask]),
                "category": category,
                "label": label,
                "question_id": number % 2,
            }
        )
        boxes = [[100, 50, 30, 40]] if category == "direct_attributes" else [[10, 20, 30, 40], [200, 20, 30, 40]]
        annotation = {"target_object": ["thing"] * len(boxes), "bbox": boxes, "question": question, "options": choices}
        write_json((folder / name).with_suffix(".json"), annotation)
    write_jsonl(folder / "test_questions.jsonl", rows)


def _os_atlas(folder: Path) -> None:
    rows = []
    for number, box in enumerate(("(10, 20, 60, 40)", "(100, 30, 160, 90)")):
        name = picture(folder / "images" / f"atlas_{number}.png", 200, 100, number)
        question = f"<image>\nDescription: element {number}"
        rows.append({"problem": question, "answer": box, "images": [f"images/{name}"]})
    write_jsonl(folder / "vigorl_osatlas_val_RL.jsonl", rows)
    picture(folder / "desktop_domain" / "windows_images" / "a.png", 200, 100, 7)
    elements = [
        {"instruction": "Save", "bbox": [0.1, 0.2, 0.3, 0.4], "data_type": "button"},
        {"instruction": "Close", "bbox": [0.9, 0.0, 1.0, 0.1]},
    ]
    write_json(folder / "desktop_domain" / "windows_splited.json", [{"img_filename": "a.png", "elements": elements}])
    picture(folder / "mobile_domain" / "b.png", 50, 100, 8)
    flat = [{"img_filename": "b.png", "instruction": "Back", "bbox": [0.0, 0.0, 0.2, 0.1]}]
    write_json(folder / "mobile_domain" / "uibert_raw.json", flat)


def _screenspot(folder: Path, pattern: str, images: str) -> None:
    sources = {"desktop": "windows", "mobile": "ios", "web": "forum"}
    for number, (platform, source) in enumerate(sources.items()):
        name = picture(folder / images / f"{platform}_1.png", 300, 200, number)
        row = {
            "img_filename": name,
            "bbox": [250, 20, 40, 30],
            "instruction": f"open the {platform} menu",
            "data_type": "icon",
            "data_source": source,
        }
        rows = [row]
        if platform == "web" and "v2" not in pattern:
            # A box that leaves the screen by a little, as some of the published ones do.
            rows.append({**row, "bbox": [280, 190, 40, 30], "data_type": "text", "instruction": "the corner"})
        write_json(folder / pattern.format(platform), rows)


def _screenspot_pro(folder: Path) -> None:
    asked = [
        ("photoshop_windows", "Creative", "photoshop", "windows", "icon"),
        ("photoshop_windows", "Creative", "photoshop", "windows", "text"),
        ("vscode_macos", "Dev", "vscode", "macos", "text"),
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, (file, group, application, platform, element) in enumerate(asked):
        name = f"{file}/shot_{number}.png"
        picture(folder / "images" / name, 2560, 1440, number)
        rows.setdefault(file, []).append(
            {
                "img_filename": name,
                "bbox": [1200, 600, 1240, 624],
                "instruction": f"tool {number}",
                "instruction_cn": "工具",
                "id": f"{file}_{number}",
                "application": application,
                "platform": platform,
                "img_size": [2560, 1440],
                "ui_type": element,
                "group": group,
            }
        )
    for file, part in rows.items():
        write_json(folder / "annotations" / f"{file}.json", part)


def _web_action(folder: Path) -> None:
    actions = ("click [12]", "type [7] [red bicycle under 50]", "scroll [down]", "go_back", "stop [No]")
    rows = []
    for number, action in enumerate(actions):
        name = picture(folder / "images" / f"page_{number}.png", 168, 112, number)
        question = f"OBJECTIVE: buy bicycle {number}\n\nPREVIOUS ACTIONS: \nNone\n\nIMAGE:"
        rows.append(conversation(f"step_{number}", f"images/{name}", question, action))
    write_jsonl(folder / "vigorl_web_action_MCTS.jsonl", rows)


def _mmmu(folder: Path) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [(f"image_{k}", image) for k in range(1, 8)]
    texts = ("id", "question", "options", "explanation", "img_type", "answer", "topic_difficulty", "question_type")
    schema = pa.schema([*((name, pa.string()) for name in (*texts, "subfield")), *images])
    asked = [
        ("Accounting_1", "<image 1> What is the total?", "['$ 6', '$ 7']", "B", "multiple-choice", 1),
        ("Art_Theory_2", "Which of <image 1> and <image 2>?", "['<image 1>', '<image 2>']", "A", "multiple-choice", 2),
        ("Math_3", "How long is it? <image 1>", "[]", "['4', '4 cm']", "open", 1),
    ]
    for number, (name, question, options, answer, kind, count) in enumerate(asked):
        row: dict[str, Any] = dict.fromkeys(schema.names)
        row |= {"id": f"validation_{name}", "question": question, "options": options, "answer": answer}
        row |= {"question_type": kind, "img_type": "['Tables']", "topic_difficulty": "Easy", "subfield": "x"}
        row |= {f"image_{k}": cell(84, 56, 20 * number + k) for k in range(1, count + 1)}
        path = folder / name.rsplit("_", 1)[0] / "validation-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row], schema=schema), path)


def _realworldqa(folder: Path) -> None:
    choice = "Which way does the car face?\n\nA. Left\nB. Straight\nC. Right\n"
    letter = "Please answer directly with only the letter of the correct option and nothing else."
    write_parquet(
        folder / "data" / "test-00000-of-00001.parquet",
        [
            {
                "image": cell(112, 84, 1),
                "question": choice + letter,
                "answer": "C",
            },
            {
                "image": cell(112, 84, 2),
                "question": "How many cars are there? Please answer directly with a single word or number.",
                "answer": "2",
            },
        ],
    )
