"""A second statement of the reference's rewards, judges and parsers, in plain string code; it is no code of ours.

Written from the published description of the rules, not from `vigorl_lib.reward.reference`, and without one
regular expression, so that the two share no mistake but those of their readers. `test_reference_differential` holds
one against the other. Where the description leaves a choice, the comment says what was taken.
"""

from __future__ import annotations

import ast
import json
import math
import string
from collections.abc import Callable
from dataclasses import dataclass

TAGS = ("think", "tool_call", "observation", "answer")
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class Oracle:
    overall: float
    format: float
    accuracy: float


def between(text: str, name: str) -> str | None:
    """Inside of the first `<name>` that is closed later."""
    begin = text.find(f"<{name}>")
    if begin < 0:
        return None
    begin += len(name) + 2
    end = text.find(f"</{name}>", begin)
    return text[begin:end] if end >= 0 else None


def predicted(response: str) -> str:
    """What is matched: the first answer whose tags stand in one line, or all of the response without such."""
    for piece in response.split("\n"):
        inside = between(piece, "answer")
        if inside is not None:
            return inside.strip()
    return response.strip()


def answered(response: str) -> str:
    """What the format looks at: the first answer, whatever its lines; empty without tags."""
    return (between(response, "answer") or "").strip()


def literal_ints(text: str, count: int) -> list[int] | None:
    """A Python tuple of ints, written with or without its parentheses, of 200 characters at most; a list is none."""
    if len(text.strip()) > 200:
        return None
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, tuple) or len(value) != count:
        return None
    return list(value) if all(type(part) is int for part in value) else None


def pairs_of_digits(text: str) -> set[tuple[int, int]]:
    """Points `(x, y)`: digits, no blank just inside the parentheses, any blanks behind the comma."""
    found = set()
    for at, character in enumerate(text):
        if character != "(":
            continue
        close = text.find(")", at)
        left, comma, right = text[at + 1 : close].partition(",")
        right = right.lstrip()
        if close > 0 and comma and left.isdecimal() and right.isdecimal():
            found.add((int(left), int(right)))
    return found


def numbers_in_prose(text: str) -> list[tuple[float, float]]:
    """Points as the reference's chain builders read them: whole or decimal numbers, blanks anywhere inside.

    A sign and the number of digits are not told: a minus is taken, and nine digits before the decimal point at most.
    """
    found, at = [], 0
    while (begin := text.find("(", at)) >= 0:
        end = text.find(")", begin)
        parts = text[begin + 1 : end].split(",") if end >= 0 else []
        values = [value for part in parts if (value := decimal(part.strip())) is not None]
        if len(parts) == len(values) == 2:
            found.append((values[0], values[1]))
        at = begin + 1
    return found


def decimal(text: str) -> float | None:
    whole, dot, rest = text.removeprefix("-").partition(".")
    fit = whole.isdecimal() and len(whole) <= 9 and (rest.isdecimal() if dot else True)
    return float(text) if fit else None


def has_shape(response: str) -> bool:
    """Think block, blanks, answer block, and nothing else but blanks around them."""
    text = response.strip()
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    # A tag inside a block is content: any closing tag with blanks and an answer behind it will do.
    pieces = text[len("<think>") :].split("</think>")
    for cut in range(1, len(pieces)):
        rest = "</think>".join(pieces[cut:]).lstrip()
        if rest.startswith("<answer>"):
            return True
    return False


def cites(response: str) -> bool:
    thought = between(response, "think")
    return thought is not None and bool(pairs_of_digits(thought))


def tags_in_order(text: str) -> list[tuple[str, int, int]]:
    """Structural tags as (tag, begin, end), by position."""
    found = []
    for name in TAGS:
        for tag in (f"<{name}>", f"</{name}>"):
            at = text.find(tag)
            while at >= 0:
                found.append((tag, at, at + len(tag)))
                at = text.find(tag, at + 1)
    return sorted(found, key=lambda item: item[1])


def tool_point(body: str, kinds: tuple[type, ...] = (int,)) -> tuple[int, int] | None:
    """The two numbers of a call. Rewards want whole ones; nothing is said of what the crop tool takes: any numbers."""
    try:
        coordinate = json.loads(body)["arguments"]["coordinate"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    if not isinstance(coordinate, list) or len(coordinate) != 2:
        return None
    return (coordinate[0], coordinate[1]) if all(type(part) in kinds for part in coordinate) else None


def walk(response: str) -> list[tuple[int, int]] | None:
    """Points of the tool calls of a response whose tags come in the right order; None for any other response."""
    text = response.rstrip()
    if text.endswith(END_OF_TURN):
        text = text[: -len(END_OF_TURN)].rstrip()
    if not text.endswith("</answer>"):
        return None
    tags = tags_in_order(text)
    points: list[tuple[int, int]] = []
    index = 0
    while True:
        names = [tag for tag, _, _ in tags[index : index + 6]]
        if names[:4] == ["<think>", "</think>", "<answer>", "</answer>"]:
            return points if index + 4 == len(tags) else None
        round_trip = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<observation>", "</observation>"]
        if names != round_trip:
            return None
        point = tool_point(text[tags[index + 2][2] : tags[index + 3][1]])
        if point is None:
            return None
        points.append(point)
        index += 6


def diversity(points: list[tuple[int, int]]) -> float:
    kept: list[tuple[int, int]] = []
    for point in points:
        if all(math.hypot(point[0] - x, point[1] - y) >= 10 for x, y in kept):
            kept.append(point)
    return 1 + 0.2 * (len(kept) - 1) if len(kept) > 1 else 1.0


def in_box(prediction: str, gold: str) -> bool:
    point, box = literal_ints(prediction, 2), literal_ints(gold, 4)
    return point is not None and box is not None and box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def without_letter(text: str) -> str:
    # Any one ASCII letter counts as an option's.
    if len(text) > 1 and text[0] in string.ascii_letters and text[1] in ".)":
        return text[2:].strip()
    return text


def first_bracket(text: str) -> str | None:
    begin = text.find("[")
    end = text.find("]", begin + 1)
    return text[begin + 1 : end] if 0 <= begin < end else None


def first_bracketed_integer(text: str) -> str | None:
    for at, character in enumerate(text):
        if character == "[":
            end = text.find("]", at)
            if end > 0 and text[at + 1 : end].isdecimal():
                return text[at + 1 : end]
    return None


def web_accuracy(prediction: str, gold: str) -> float:
    if "go_back" in prediction:
        return float("go_back" in gold)
    if "stop" in prediction:
        return float("stop" in gold)
    if "scroll" in prediction:
        return float(any(way in prediction and way in gold for way in ("[down]", "[up]")))
    for verb, element in (("click", first_bracketed_integer), ("type", first_bracket)):
        if verb in prediction:
            mine, other = element(prediction), element(gold)
            return 0.5 * (verb in gold) + 0.5 * (mine is not None and mine == other)
    return 0.0


def single(accuracy: float, shape: bool) -> Oracle:
    return Oracle(0.5 * accuracy + 0.5 * shape, float(shape), accuracy)


def multi(accuracy: float, response: str, fit: bool) -> Oracle:
    points = walk(response)
    score = diversity(points) if points is not None and fit else 0.0
    return Oracle(0.6 * accuracy + 0.4 * score, score, accuracy)


def score(rule: str, response: str, gold: str) -> Oracle:
    """One of the eight rewards."""
    answer = predicted(response)
    filled, two_ints = answered(response) != "", literal_ints(answered(response), 2) is not None
    boxed = float(in_box(answer, gold))
    # Blanks at the ends of a gold answer are taken for no part of it.
    exact = float(answer.lower() == gold.strip().lower())
    text = float(without_letter(answer).lower() == gold.strip())
    web = web_accuracy(answer, gold)
    shaped, pointed = has_shape(response), cites(response)
    scores: dict[str, Callable[[], Oracle]] = {
        "point_in_bbox": lambda: single(boxed, shaped and two_ints),
        "point_in_bbox_grounded_thinking": lambda: single(boxed, shaped and two_ints and pointed),
        "string_match": lambda: single(text, shaped and filled),
        "string_match_grounded_thinking": lambda: single(text, shaped and filled and pointed),
        "string_match_multiturn": lambda: multi(exact, response, filled),
        "point_in_bbox_multicrop": lambda: multi(boxed, response, two_ints),
        "web_action": lambda: single(web, shaped),
        "web_action_grounded_thinking": lambda: single(web, shaped and pointed),
    }
    return scores[rule]()


REWARDS = (
    *("point_in_bbox", "point_in_bbox_grounded_thinking", "string_match", "string_match_grounded_thinking"),
    *("string_match_multiturn", "point_in_bbox_multicrop", "web_action", "web_action_grounded_thinking"),
)


def bare(text: str) -> str:
    return "".join(c for c in text.lower() if c not in string.punctuation and not c.isspace())


def judge(kind: str, prediction: str, gold: str) -> bool:
    """One of the four judges that need no model."""
    if kind == "string_match":
        return bare(gold) in bare(prediction)
    if kind == "point_in_bbox":
        return in_box(prediction, gold)
    if kind == "point_match":
        mine, other = literal_ints(prediction, 2), literal_ints(gold, 2)
        return mine is not None and other is not None and math.dist(mine, other) < 50
    words, wanted = prediction.split(), gold.split()
    if "go_back" in prediction:
        return "go_back" in gold
    if "stop" in prediction:
        return "stop" in gold
    if "scroll" in prediction:
        # The direction with or without its brackets.
        return "scroll" in gold and any(way in prediction and way in gold for way in ("down", "up"))
    verb, length = ("click", 2) if "click" in prediction else ("type", 3)
    # Of the two ids, the gold one is taken for the part: `[12]` passes for `[2]`.
    return verb in prediction and len(words) == length and verb in gold and named(wanted) in words[1]


def named(words: list[str]) -> str:
    """The id of a gold action; what no prediction holds where there is none."""
    return words[1].strip("[]") if len(words) > 1 else " "


JUDGES = ("string_match", "point_in_bbox", "point_match", "web_action")


def search_step(text: str) -> tuple[str, str]:
    """What the reference's search makes of one reply: `answer` and its text, or `thought`."""
    if "<answer>" not in text:
        return "thought", ""
    return "answer", text.partition("<answer>")[2].partition("</answer>")[0].strip()


def rollout_action(text: str) -> tuple[str, tuple[int, int] | None]:
    """What the reference's GRPO makes of one turn, its text cut behind the first closing tag of an action."""
    if "</answer>" in text:
        return "answer", None
    body = between(text, "tool_call")
    point = None if body is None else tool_point(body, (int, float))
    # Neither does it say what a crop around no place at all would be: numbers beyond a billion are none for us.
    if point is not None and not all(abs(part) < 1e9 for part in point):
        point = None
    return ("none", None) if point is None else ("zoom", point)


def upfront_answer(text: str) -> str | None:
    """What the reference's evaluation takes from one whole generation: the first answer block; None without one."""
    inside = between(text, "answer")
    return None if inside is None else inside.strip()


def action_parts(text: str) -> tuple[str, str, str] | None:
    """Verb, id or direction, and content of a web action that the whole text is; None for any other text.

    The five forms of the action space; ids have at most nine digits, `stop` may come bare, and blanks may stand
    around every part. The last bracket closes the content, so that it may hold brackets itself.
    """
    text = text.strip()
    verb = next((verb for verb in ("click", "type", "scroll", "go_back", "stop") if text.lower().startswith(verb)), "")
    rest = text[len(verb) :]
    if not verb:
        return None
    # Blanks before the bracket may be missing.
    rest = rest.strip()
    if verb in ("go_back", "stop") and not rest:
        return verb, "", ""
    if verb == "go_back" or not (rest.startswith("[") and rest.endswith("]") and len(rest) > 1):
        return None
    if verb == "stop":
        return verb, "", rest[1:-1].strip()
    if verb == "scroll":
        direction = rest[1:-1].strip().lower()
        return (verb, direction, "") if direction in ("down", "up") else None
    mark, _, tail = rest[1:].partition("]")
    mark, tail = mark.strip(), tail.strip()
    if not (mark.isdecimal() and len(mark) <= 9):
        return None
    if verb == "click":
        return (verb, str(int(mark)), "") if not tail else None
    fit = len(tail) > 1 and tail.startswith("[") and tail.endswith("]")
    return (verb, str(int(mark)), tail[1:-1].strip()) if fit else None
