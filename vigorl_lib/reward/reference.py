"""The rules of the reference's rewards and judges, quirks included, so that its numbers can be compared with ours.

A rule reads the whole response as text and the gold answer as text; it knows neither turns nor frames. These are
not the rules to train with: `vigorl_lib.reward.rules` is. The quirks that are kept on purpose, by the name that
`QUIRKS` gives them:

* a response without answer tags is matched as a whole, and so is one whose answer holds a line break;
* a gold answer with capital letters is never matched by `string_match`, because only the prediction is lower-cased;
* numbers are compared as they are said: neither point nor box is ever mapped to another frame;
* the bonus for distinct points is paid for wrong answers and for points off the image, without a cap;
* typed content, the argument of `stop` and everything after the first matching verb of a web action count nothing.

Source: the reference's `examples/reward_function` and `reward_funcs/judge.py`, arXiv 2505.23678. Where its description
leaves a choice, `docs/compatibility.md` says which was taken.
"""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from vigorl_lib.domain.wire import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    OBSERVATION_CLOSE,
    OBSERVATION_OPEN,
    TAGS,
    THINK_CLOSE,
    THINK_OPEN,
    TOOL_CLOSE,
    TOOL_OPEN,
)
from vigorl_lib.models.families import IM_END

QUIRKS = MappingProxyType(
    {
        "answer_tags_optional": "without answer tags the whole response is the answer",
        "one_line_answer": "an answer with a line break in it is not found, so the whole response is the answer",
        "gold_case": "string_match lower-cases the prediction only",
        "unmapped_points": "point and box are compared without regard to their frames",
        "ungated_bonus": "distinct points are paid without a right answer, off the image, and without a cap",
        "typed_content": "of a typed text only the element is compared",
        "substring_judge": "the judge takes a prediction that merely contains the gold answer",
    }
)

_THOUGHT_TO_ANSWER = re.compile(rf"{THINK_CLOSE}\s*{ANSWER_OPEN}")
_POINT = re.compile(r"\((\d+),\s*(\d+)\)")
_LETTER = re.compile(r"^[A-Za-z][.)]\s*")
# All that a tuple of whole numbers may be written with; other text need not trouble Python's parser.
_LITERAL = re.compile(r"[0-9a-fA-FxXoO_+\-,() \t\r\n]{1,200}")
_BRACKET_NUMBER = re.compile(r"\[(\d+)\]")
_STRUCTURE = re.compile("|".join(TAGS))
_AFTER = {
    "": (THINK_OPEN,),
    THINK_OPEN: (THINK_CLOSE,),
    THINK_CLOSE: (TOOL_OPEN, ANSWER_OPEN),
    TOOL_OPEN: (TOOL_CLOSE,),
    TOOL_CLOSE: (OBSERVATION_OPEN,),
    OBSERVATION_OPEN: (OBSERVATION_CLOSE,),
    OBSERVATION_CLOSE: (THINK_OPEN,),
    ANSWER_OPEN: (ANSWER_CLOSE,),
    ANSWER_CLOSE: (),
}
"""Which tags may follow a tag in a multi-turn response; what stands between them is not looked at."""

DISTINCT_PX = 10.0
NEAR_PX = 50.0


@dataclass(frozen=True, slots=True)
class ReferenceScore:
    """`overall` is what the reference trains on."""

    overall: float
    format: float
    accuracy: float


Rule = Callable[[str, str], ReferenceScore]
"""From a response and a gold answer, both text."""


def _between(text: str, opening: str, closing: str) -> str | None:
    """What stands behind the first `opening`, up to the next `closing`; None where either is missing."""
    # A lazy pattern would start again at each opening that is never closed, of which a degenerate text has thousands.
    _, opened, rest = text.partition(opening)
    inside, closed, _ = rest.partition(closing)
    return inside if opened and closed else None


def said(response: str) -> str:
    """What is matched: the first answer tags' text, if it is one line, else the whole response; stripped."""
    answers = (_between(line, ANSWER_OPEN, ANSWER_CLOSE) for line in response.split("\n"))
    return next((answer for answer in answers if answer is not None), response).strip()


def _written(response: str) -> str:
    """What stands in the first answer tags, over any number of lines; it counts for the format alone."""
    return (_between(response, ANSWER_OPEN, ANSWER_CLOSE) or "").strip()


def integers(text: str, count: int) -> tuple[int, ...] | None:
    """The numbers of a Python tuple of exactly `count` whole numbers, with or without its parentheses."""
    text = text.strip()
    if _LITERAL.fullmatch(text) is None:
        return None
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    if not isinstance(values, tuple) or len(values) != count or any(type(value) is not int for value in values):
        return None
    return values


def _squared_distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    # Squared and whole: a number may be too long for a float.
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def cites_point(response: str) -> bool:
    """Whether the first thought holds a point of whole numbers, without blanks inside its parentheses."""
    thought = _between(response, THINK_OPEN, THINK_CLOSE)
    return thought is not None and _POINT.search(thought) is not None


def calls(response: str) -> list[tuple[int, int]] | None:
    """The points of all zooms of a multi-turn response; None where the response breaks the grammar."""
    text = response.strip().removesuffix(IM_END).rstrip()
    if not text.endswith(ANSWER_CLOSE):
        return None
    points, previous, begin = [], "", 0
    for tag in _STRUCTURE.finditer(text):
        if tag[0] not in _AFTER[previous]:
            return None
        if tag[0] == TOOL_CLOSE:
            point = _called(text[begin : tag.start()])
            if point is None:
                return None
            points.append(point)
        previous, begin = tag[0], tag.end()
    return points if previous == ANSWER_CLOSE else None


def _called(body: str) -> tuple[int, int] | None:
    try:
        coordinate = json.loads(body)["arguments"]["coordinate"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(coordinate, list) or len(coordinate) != 2:
        return None
    if any(type(number) is not int for number in coordinate):
        return None
    return coordinate[0], coordinate[1]


def multi_turn_format(response: str) -> float:
    """1 for the grammar, and 0.2 for each distinct zoom after the first."""
    points = calls(response)
    if points is None or not _written(response):
        return 0.0
    kept: list[tuple[int, int]] = []
    for point in points:
        if all(_squared_distance(point, other) >= DISTINCT_PX**2 for other in kept):
            kept.append(point)
    return 1.0 + 0.2 * max(0, len(kept) - 1)


def _multi_turn_with_point(response: str) -> float:
    return multi_turn_format(response) if integers(_written(response), 2) is not None else 0.0


def _shaped(response: str) -> float:
    """A thought and an answer and nothing around or between them; inside them anything, tags too."""
    text = response.strip()
    if not text.startswith(THINK_OPEN) or not text.endswith(ANSWER_CLOSE):
        return 0.0
    return float(_THOUGHT_TO_ANSWER.search(text, len(THINK_OPEN), len(text) - len(ANSWER_CLOSE)) is not None)


def _shaped_with_point(response: str) -> float:
    return float(_shaped(response) and integers(_written(response), 2) is not None)


def _shaped_with_text(response: str) -> float:
    return float(_shaped(response) and bool(_written(response)))


def _in_box(prediction: str, gold: str) -> float:
    point, box = integers(prediction, 2), integers(gold, 4)
    if point is None or box is None:
        return 0.0
    return float(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


def _same_text(prediction: str, gold: str) -> float:
    return float(_LETTER.sub("", prediction).strip().lower() == gold.strip())


def _same_text_any_case(prediction: str, gold: str) -> float:
    return float(prediction.lower() == gold.strip().lower())


def web_action_accuracy(prediction: str, gold: str) -> float:
    """The first verb that the prediction contains decides; half for the verb, half for its element."""
    if "go_back" in prediction:
        return float("go_back" in gold)
    if "stop" in prediction:
        return float("stop" in gold)
    if "scroll" in prediction:
        return float(any(way in prediction and way in gold for way in ("[down]", "[up]")))
    if "click" in prediction:
        return _verb_and_element("click", prediction, gold, _number_in_brackets)
    if "type" in prediction:
        return _verb_and_element("type", prediction, gold, _text_in_brackets)
    return 0.0


def _number_in_brackets(text: str) -> str | None:
    found = _BRACKET_NUMBER.search(text)
    return found[1] if found else None


def _text_in_brackets(text: str) -> str | None:
    return _between(text, "[", "]")


def _verb_and_element(verb: str, prediction: str, gold: str, element: Callable[[str], str | None]) -> float:
    here = element(prediction)
    return 0.5 * (verb in gold) + 0.5 * (here is not None and here == element(gold))


def _rule(
    accuracy: Callable[[str, str], float],
    form: Callable[[str], float],
    accuracy_weight: float,
    *,
    grounded: bool = False,
) -> Rule:
    def score(response: str, gold: str) -> ReferenceScore:
        formed = form(response) * (cites_point(response) if grounded else 1.0)
        right = accuracy(said(response), gold)
        return ReferenceScore(accuracy_weight * right + (1.0 - accuracy_weight) * formed, formed, right)

    return score


RULES: MappingProxyType[str, Rule] = MappingProxyType(
    {
        "point_in_bbox": _rule(_in_box, _shaped_with_point, 0.5),
        "point_in_bbox_grounded_thinking": _rule(_in_box, _shaped_with_point, 0.5, grounded=True),
        "string_match": _rule(_same_text, _shaped_with_text, 0.5),
        "string_match_grounded_thinking": _rule(_same_text, _shaped_with_text, 0.5, grounded=True),
        "string_match_multiturn": _rule(_same_text_any_case, multi_turn_format, 0.6),
        "point_in_bbox_multicrop": _rule(_in_box, _multi_turn_with_point, 0.6),
        "web_action": _rule(web_action_accuracy, _shaped, 0.5),
        "web_action_grounded_thinking": _rule(web_action_accuracy, _shaped, 0.5, grounded=True),
    }
)
"""The eight rewards by their names in the reference."""


_BARE = str.maketrans("", "", string.punctuation)


def judge_string_match(prediction: str, gold: str) -> bool:
    """Equal, or the gold answer inside the prediction, after dropping case, punctuation and all blanks."""
    here, there = ("".join(text.lower().translate(_BARE).split()) for text in (prediction, gold))
    return there in here


def judge_point_in_bbox(prediction: str, gold: str) -> bool:
    return bool(_in_box(prediction, gold))


def judge_point_match(prediction: str, gold: str) -> bool:
    """Two points less than 50 pixels apart, unscaled."""
    here, there = integers(prediction, 2), integers(gold, 2)
    return here is not None and there is not None and _squared_distance(here, there) < NEAR_PX**2


def judge_web_action(prediction: str, gold: str) -> bool:
    """By substrings; a click has exactly two words, a type exactly three, and of its text nothing is compared."""
    words, wanted = prediction.split(), gold.split()
    for verb in ("go_back", "stop"):
        if verb in prediction:
            return verb in gold
    if "scroll" in prediction:
        return "scroll" in gold and any(way in prediction and way in gold for way in ("down", "up"))
    for verb, length in (("click", 2), ("type", 3)):
        if verb in prediction:
            return verb in gold and len(words) == length and len(wanted) >= 2 and wanted[1].strip("[]") in words[1]
    return False


JUDGES: MappingProxyType[str, Callable[[str, str], bool]] = MappingProxyType(
    {
        "string_match": judge_string_match,
        "point_in_bbox": judge_point_in_bbox,
        "point_match": judge_point_match,
        "web_action": judge_web_action,
    }
)
"""The reference's evaluation judges: they read the answer alone, more leniently than the rewards."""
