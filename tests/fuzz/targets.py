"""What is fuzzed: each target takes bytes from a fuzzer and checks what must hold for any input; no engine is here.

A target raises nothing for any bytes, except an AssertionError (or whatever leaked) where it found a defect. Text
targets read bytes through a small alphabet of the wire's own words, so that a fuzzer need not guess tags by letters.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

from PIL import Image as PILImage

from vigorl_lib.domain.example import AnswerKind, GroundTruth
from vigorl_lib.domain.geometry import Box, FrameMap, Size
from vigorl_lib.domain.grammar import (
    MODES,
    Answer,
    Continue,
    Malformed,
    TurnScanner,
    Zoom,
    map_points,
    parse_turn,
    render_turn,
)
from vigorl_lib.domain.web_action import history_entry, parse_action
from vigorl_lib.errors import DataError, RewardError
from vigorl_lib.models.pixels import decode
from vigorl_lib.reward.matching import match_answer
from vigorl_lib.reward.reference import JUDGES, RULES
from vigorl_lib.storage.images import probe

MAX_PIXELS = 1 << 20
"""Small, so that a picture that is allowed decodes fast and larger ones are met often."""

WORDS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>", "<observation>"),
    *("</observation>", '{"name": "search_coordinate", "arguments": {"coordinate": [', "]}}", "(12, 34)", "[7]"),
    *("click ", "type ", "\n", "scroll ", "[down]", "go_back", "stop ", "B. ", "1e999", "NaN", "9" * 40, "true"),
    *("\u0663", "<|im_end|>", '"', "{"),
)
"""Bytes below the length of this tuple stand for its entries."""

FRAMES = FrameMap(Size(400, 300), Size(392, 308))
TRUTHS = (
    GroundTruth("left", AnswerKind.STRING),
    GroundTruth("left", AnswerKind.CHOICE, choices=("left", "right")),
    GroundTruth("", AnswerKind.POINT, box=Box(10, 10, 200, 200)),
    GroundTruth("type [7] [x]", AnswerKind.ACTION),
)


def text_of(data: bytes) -> str:
    """Any text, UTF-8 with words of the wire in it; broken UTF-8 becomes replacement characters."""
    pieces, run = [], bytearray()
    for byte in data:
        if byte < len(WORDS):
            pieces += [run.decode("utf-8", "replace"), WORDS[byte]]
            run.clear()
        else:
            run.append(byte)
    return "".join((*pieces, run.decode("utf-8", "replace")))


def image(data: bytes) -> None:
    """An image is refused by name, or decodes to RGB of the size that its header promised."""
    try:
        promised = probe(data, max_pixels=MAX_PIXELS)
    except DataError:
        promised = None
    try:
        picture = decode(data, max_pixels=MAX_PIXELS)
    except DataError:
        return
    assert promised is not None, "decoded what the probe refused"
    assert picture.mode == "RGB"
    assert picture.size == (promised.size.width, promised.size.height)


def turn(data: bytes) -> None:
    """A turn is read in every mode without an error; what was read survives writing, mapping and streaming."""
    text = text_of(data)
    for mode in MODES.values():
        for strict in (True, False):
            read = parse_turn(text, mode, strict=strict)
            if isinstance(read.action, Malformed):
                continue
            if strict:
                again = parse_turn(render_turn(read.thought, read.action), mode)
                assert (again.thought, again.action) == (read.thought, read.action), (text, read, again)
            mapped = parse_turn(map_points(text, lambda point: point), mode, strict=strict)
            assert type(mapped.action) is type(read.action), (text, read, mapped)
            assert mapped.cited == read.cited, (text, read, mapped)
    scanner, points, step = TurnScanner(), 0, 1 + len(data) % 7
    for start in range(0, len(text), step):
        points += len(scanner.feed(text[start : start + step]))
    assert text.startswith(scanner.text)
    assert scanner.turn(strict=False) == parse_turn(scanner.text, strict=False)


def web_action(data: bytes) -> None:
    """An action is read or not; what is read is written, read again and told in one line of history."""
    action = parse_action(text_of(data))
    if action is not None:
        assert parse_action(str(action)) == action
        assert action.same(action)
        assert history_entry(action, {7: "[BUTTON] [go]"})


def reward(data: bytes) -> None:
    """Every rule gives finite numbers in its range, every judge a verdict, and the matcher decides or says why not."""
    response, _, gold = text_of(data).partition("\x7f")
    for name, rule in RULES.items():
        score = rule(response, gold)
        assert 0 <= score.accuracy <= 1, name
        assert 0 <= score.overall <= 0.6 + 0.4 * max(1, score.format), name
    for judge in JUDGES.values():
        assert isinstance(judge(response, gold), bool)
    for truth in (*TRUTHS, GroundTruth(gold, AnswerKind.ACTION)):
        try:
            match_answer(response, truth, FRAMES)
        except RewardError:
            assert truth.answer == gold, "only a truth that is none may be refused"


TARGETS: Mapping[str, Callable[[bytes], None]] = MappingProxyType(
    {"image": image, "turn": turn, "web_action": web_action, "reward": reward}
)


def seeds(target: str) -> list[bytes]:
    """Where a fuzzer starts from: good inputs of the target."""
    if target == "image":
        return _pictures()
    good = (
        render_turn("at (3, 4)", Zoom(parse_turn("<think> (3, 4) </think><answer>x</answer>").points[0])),
        render_turn("so (12, 34)", Answer("(5, 6)")),
        render_turn("nothing yet", Continue()),
        *("click [12]", "type [7] [hello [world]]", "scroll [up]", "go_back", "stop [it is 4]", "A. left\x7fleft"),
    )
    return [text.encode() for text in good]


def _pictures() -> list[bytes]:
    made = []
    for mode, kinds in {
        "RGB": ("PNG", "JPEG", "WEBP", "BMP", "TIFF"),
        "L": ("PNG", "JPEG", "GIF"),
        "P": ("PNG", "GIF"),
        "RGBA": ("PNG", "WEBP", "TIFF"),
        "CMYK": ("JPEG", "TIFF"),
        "I;16": ("PNG", "TIFF"),
        "1": ("PNG", "TIFF", "BMP"),
    }.items():
        for kind in kinds:
            picture, exif, buffer = PILImage.new(mode, (9, 5)), PILImage.Exif(), io.BytesIO()
            exif[0x0112] = 6
            picture.save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
            made.append(buffer.getvalue())
    for orientation in (3, 6):
        buffer = io.BytesIO()
        PILImage.new("RGB", (9, 5)).save(buffer, "TIFF", tiffinfo={0x0112: orientation})
        made.append(buffer.getvalue())
    frames, buffer = [PILImage.new("L", (4, 4), shade) for shade in (0, 99)], io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return [*made, buffer.getvalue()]


def mutated(data: bytes, seed: int, edits: int) -> bytes:
    """A copy with some small damages: bytes set, bits flipped, pieces cut or doubled, numbers set to extremes."""
    draw, changed = random.Random(seed), bytearray(data)
    for _ in range(edits):
        at = draw.randrange(len(changed) + 1)
        length = min(draw.choice((1, 1, 2, 4, 16)), len(changed) - at)
        match draw.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([draw.randrange(256)])
            case 1 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                changed[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            case _:
                del changed[draw.randrange(len(changed) // 2, len(changed) + 1) :]
    return bytes(changed)
