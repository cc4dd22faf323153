"""Generated responses and gold answers for differential tests: well formed, mutated, and hostile. Seeded, no files."""

from __future__ import annotations

import random
from collections.abc import Iterator

TAGS = tuple(f"<{slash}{name}>" for name in ("think", "tool_call", "observation", "answer") for slash in ("", "/"))
WORDS = (
    *("the", "red", "cup", "Left", "behind", "Option", "zoomed", "(12, 40)", "(7,9)", "( 3, 4)", "(3 , 4)", "[3]"),
    "é",
)
OPTIONS = ("left", "Left", "the red cup", "A", "yes", "red-green", "b) left", "İstanbul", "")
VERBS = ("click [12]", "click [2]", "type [7] [hello world]", "type [7] []", "scroll [down]", "scroll [up]", "go_back")
ODD = (
    *("", " ", "\n", "\t", "\u00a0", "\u2028", "<|im_end|>", "<|im_end|><|im_end|>", "(1, 2)", "(1.5, 2)", "(-3, 4)"),
    *("()", "(1, 2, 3)", "[1, 2]", "((1, 2))", "(1, 2,)", "(1,\n2)", "(001, 2)", "(1_0, 2)", "(0x1, 2)", "(+1, 2)"),
    *("(True, 2)", "(٣, 4)", "(²,4)", "1, 2", "(1 2)", "1,2)", "(" * 40, "9" * 400, "(4, 999999999.5)"),
    *("(9999999999, 4)", "A.", "A)", "A. ", "z) left", "É. left", "A.left", "click", "click [", "click []"),
    *("click [x] [12]", "CLICK [12]", "click [12] now", "type [7]", "type [[7]] [x]", "type[7][x]", "stop [done]"),
    *("stop", "unstoppable", "scroll", "scroll [left]", "scroll [down] [up]", "typeclick [12]", "goback"),
    *("go_back stop", "</THINK>", "<think/>", "< answer >", "<answer", "answer>", "\x00", "😀"),
)
CALLS = (
    '{"name": "search_coordinate", "arguments": {"coordinate": [%d, %d]}}',
    '{"arguments": {"coordinate": [%d, %d]}}',
    '{"name": "crop", "arguments": {"coordinate": [%d, %d], "coordinate": [1, 2]}}',
)
BAD_CALLS = (
    *('{"arguments": {"coordinate": [1, 2, 3]}}', '{"arguments": {"coordinate": [1.0, 2]}}', "[1, 2]", "{}", "null"),
    *("{", '{"arguments": {"coordinate": [true, 2]}}', '{"arguments": {"coordinate": "1, 2"}}'),
    *('{"arguments": [[1, 2]]}', '{"arguments": {"coordinate": {"0": 1, "1": 2}}}'),
    *('{"arguments": {"coordinate": [1e2, 2]}}', '{"arguments": null}', "{'arguments': {'coordinate': [1, 2]}}"),
    *('{"arguments": {"coordinate": [NaN, 2]}}', "[" * 60, '"arguments"', "7"),
    *('{"arguments": {"coordinate": [-5, 100000]}}', '{"arguments": {"coordinate": [%s, 2]}}' % ("9" * 30), ""),
)


def corpus(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` pairs of a response and a gold answer; a third each as written, mutated, and hostile."""
    draw = random.Random(seed)
    for index in range(count):
        response, gold = _conversation(draw) if draw.random() < 0.5 else _single(draw)
        if index % 3 == 1:
            for _ in range(draw.randint(1, 3)):
                response = _mutated(draw, response)
        elif index % 3 == 2:
            response = _hostile(draw, response)
            gold = draw.choice((gold, draw.choice(ODD), gold.upper()))
        yield response, gold


def _point(draw: random.Random) -> tuple[int, int]:
    return draw.choice((0, 5, 9, 10, 19, 20, 300)), draw.choice((0, 1, 10, 14, 40))


def _answer(draw: random.Random) -> tuple[str, str]:
    """An answer and a gold answer of one kind, often a match."""
    kind = draw.randrange(3)
    if kind == 0:
        x, y = _point(draw)
        left, top = draw.choice((x, x - 5, x + 1)), draw.choice((y, y - 3, y + 2))
        said = draw.choice((f"({x}, {y})", f"({x},{y})", f" ( {x} , {y} ) ", f"{x}, {y}"))
        if draw.random() < 0.2:
            return said, f"({left}, {top + draw.choice((0, 49, 50))})"
        return said, f"({left}, {top}, {left + draw.choice((0, 5, 40))}, {top + draw.choice((0, 3, 40))})"
    choices = OPTIONS if kind == 1 else (*VERBS, "stop [it is 4]", "stop")
    gold = draw.choice(choices)
    said = gold if draw.random() < 0.6 else draw.choice(choices)
    return draw.choice((said, said, said.upper(), f"A. {said}", f"b) {said}", f"I {said} it.")), gold


def _prose(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(0, 6)))


def _single(draw: random.Random) -> tuple[str, str]:
    answer, gold = _answer(draw)
    gap = draw.choice(("\n", "", "  \n\t"))
    edge = draw.choice((" ", "", "\n"))
    return f"<think>{edge}{_prose(draw)}{edge}</think>{gap}<answer>{edge}{answer}{edge}</answer>", gold


def _conversation(draw: random.Random) -> tuple[str, str]:
    answer, gold = _answer(draw)
    turns = []
    for _ in range(draw.randint(0, 4)):
        call = draw.choice(CALLS) % _point(draw) if draw.random() < 0.95 else draw.choice(BAD_CALLS)
        seen = "user\n<observation>\nHere is the crop of the image\n</observation>\nassistant\n"
        turns.append(f"<think> {_prose(draw)} </think>\n<tool_call>\n{call}\n</tool_call>\n{seen}")
    turns.append(f"<think> {_prose(draw)} </think>\n<answer> {answer} </answer>")
    return "".join(turns) + draw.choice(("", "", "<|im_end|>", "<|im_end|>\n", "\n")), gold


def _mutated(draw: random.Random, text: str) -> str:
    """One small damage: a piece dropped, doubled, moved, replaced, or a tag put in or taken out."""
    begin, end = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
    end = min(end, begin + draw.choice((1, 8, 60)))
    piece = text[begin:end]
    present = [tag for tag in TAGS if tag in text]
    tag = draw.choice(present or TAGS)
    return draw.choice(
        (
            text[:begin] + text[end:],
            text[:end] + piece + text[end:],
            text[:begin] + piece[::-1] + text[end:],
            text[:begin] + draw.choice(TAGS) + text[begin:],
            text[:begin] + draw.choice(ODD) + text[end:],
            text.replace(tag, "", 1),
            text.replace(tag, tag * 2, 1),
            text.replace(tag, draw.choice(TAGS), 1),
            text[:begin],
        )
    )


def _hostile(draw: random.Random, text: str) -> str:
    """Text made to mislead: odd numbers as the answer, tags in tags, answers before thoughts, calls that are none."""
    odd = draw.choice(ODD)
    return draw.choice(
        (
            odd,
            "".join(draw.choices(TAGS + ODD, k=draw.randint(1, 9))),
            f"<think> {draw.choice(ODD)} </think>\n<answer>{odd}</answer>",
            f"<think>{odd}</think> <answer> {draw.choice(ODD)} </answer>{draw.choice(ODD)}",
            f"<think> a <tool_call>{draw.choice(BAD_CALLS)}</tool_call> </think><answer>{odd}</answer>",
            f"<think>{odd}</think><tool_call>{draw.choice(BAD_CALLS)}</tool_call><observation></observation>{text}",
            text + text,
            f"<answer>{odd}</answer>{text}",
            text.replace("<answer>", f"<answer>{odd}", 1),
            text.replace("\n", odd),
        )
    )
