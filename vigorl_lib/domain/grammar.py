"""The response language: what a policy may say in one turn, and how it is written.

A turn is a thought, the points that the thought cites, and one action: `Zoom`, `Answer`, `Continue`
(a thought alone) or `Malformed`. `render_turn` writes a turn in the one canonical spelling,
`parse_turn` reads one, strictly or leniently, and says by a typed reason why it could not.
`TurnScanner` reads a turn while it is being sampled.

The literals are `vigorl_lib.domain.wire`. This module knows no pixels: whether a point lies on the image is for the
environment to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from vigorl_lib.domain.geometry import Frame, Point
from vigorl_lib.domain.wire import (
    ACTION_STOPS,
    ANSWER_CLOSE,
    ANSWER_OPEN,
    PREVIOUS_THOUGHT,
    TAGS,
    THINK_CLOSE,
    THINK_OPEN,
    TOOL_CLOSE,
    TOOL_NAME,
    TOOL_OPEN,
)

# Below a billion, as in a tool call: a longer number is no coordinate, and the longest are infinite as floats.
_NUMBER = r"(-?\d{1,9}(?:\.\d+)?)"
_POINT = re.compile(rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)")
_CALL = re.compile(f"{TOOL_OPEN}(.*?){TOOL_CLOSE}", re.DOTALL)
_TAG = re.compile("|".join(TAGS))


class ActionKind(StrEnum):
    CONTINUE = "continue"
    ZOOM = "zoom"
    ANSWER = "answer"


class ContinueStyle(StrEnum):
    """How a turn follows a `Continue`."""

    SAME_MESSAGE = "same_message"
    """The next thought goes on in the same assistant message."""
    NEW_TURN = "new_turn"
    """A user turn asks to go on."""
    NUMBERED = "numbered"
    """The question is asked again with all earlier thoughts behind it, numbered, as the reference's search does."""


class MalformedReason(StrEnum):
    NO_THOUGHT = "no_thought"
    UNCLOSED_TAG = "unclosed_tag"
    NO_ACTION = "no_action"
    SEVERAL_ACTIONS = "several_actions"
    TEXT_OUTSIDE_TAGS = "text_outside_tags"
    BAD_TOOL_CALL = "bad_tool_call"
    EMPTY_ANSWER = "empty_answer"
    ACTION_NOT_ALLOWED = "action_not_allowed"


@dataclass(frozen=True, slots=True)
class Mode:
    """Which actions a turn may end in, and how a turn follows a thought alone."""

    name: str
    actions: frozenset[ActionKind]
    continue_style: ContinueStyle = ContinueStyle.SAME_MESSAGE


SINGLE_TURN = Mode("single_turn", frozenset({ActionKind.ANSWER}))
MULTI_TURN = Mode("multi_turn", frozenset({ActionKind.ZOOM, ActionKind.ANSWER}))
THOUGHT_STEPS = Mode("thought_steps", frozenset({ActionKind.CONTINUE, ActionKind.ANSWER}), ContinueStyle.NEW_TURN)
CLASSIC = Mode("classic", THOUGHT_STEPS.actions, ContinueStyle.NUMBERED)
"""The reference's search step: a thought with one point, or an answer; crops come later, if at all."""
MODES = {mode.name: mode for mode in (SINGLE_TURN, MULTI_TURN, THOUGHT_STEPS, CLASSIC)}


@dataclass(frozen=True, slots=True)
class Continue:
    """A thought and no action."""


@dataclass(frozen=True, slots=True)
class Zoom:
    """Ask for the crop around `point`."""

    point: Point


@dataclass(frozen=True, slots=True)
class Answer:
    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """Text that is no turn; `detail` is written for the reader of a report or for the policy itself."""

    reason: MalformedReason
    detail: str


Action = Continue | Zoom | Answer | Malformed


@dataclass(frozen=True, slots=True)
class Turn:
    """One parsed turn. `points` are those cited in the thought, in order, repeats included."""

    thought: str
    points: tuple[Point, ...]
    action: Action

    @property
    def cited(self) -> tuple[Point, ...]:
        """Points of the thought and, last, the point of a zoom."""
        return (*self.points, self.action.point) if isinstance(self.action, Zoom) else self.points


def find_points(text: str, frame: Frame = Frame.MODEL) -> tuple[Point, ...]:
    """Points written as `(x, y)` in prose, in order of appearance."""
    return tuple(Point(float(m[1]), float(m[2]), frame) for m in _POINT.finditer(text))


def number(value: float) -> str:
    """A coordinate as it is written: an integer where it is one, and never with an exponent."""
    return str(int(value)) if float(value).is_integer() else format(Decimal(repr(float(value))), "f")


def render_point(point: Point) -> str:
    return f"({number(point.x)}, {number(point.y)})"


def map_points(text: str, move: Callable[[Point], Point], frame: Frame = Frame.MODEL) -> str:
    """The same text with other numbers: every point, written as `(x, y)` or in a tool call, goes through `move`.

    `frame` is the one that the text's points are in. What a parser would not read as a point stays as it is, so
    the mapped text is well formed exactly where the text was.
    Example: doubling `"<think> at (3, 4) </think>"` gives `"<think> at (6, 8) </think>"`.
    """
    pieces, done = [], 0
    for call in _CALL.finditer(text):
        pieces += [_map_prose(text[done : call.start(1)], move, frame)]
        pieces += [_map_call(_map_prose(call[1], move, frame), move, frame)]
        done = call.end(1)
    return "".join((*pieces, _map_prose(text[done:], move, frame)))


def _map_prose(text: str, move: Callable[[Point], Point], frame: Frame) -> str:
    return _POINT.sub(lambda match: render_point(move(find_points(match[0], frame)[0])), text)


def _map_call(body: str, move: Callable[[Point], Point], frame: Frame) -> str:
    action = _zoom(body, False, frame)
    if not isinstance(action, Zoom):
        return body
    point = move(action.point)
    # Through JSON, not by pattern: whatever spelling the parser understands must be mapped as well.
    call = json.loads(body)
    call["arguments"]["coordinate"] = [json.loads(number(point.x)), json.loads(number(point.y))]
    return f"\n{json.dumps(call)}\n"


def render_tool_call(point: Point) -> str:
    coordinate = f"[{number(point.x)}, {number(point.y)}]"
    body = f'{{"name": "{TOOL_NAME}", "arguments": {{"coordinate": {coordinate}}}}}'
    return f"{TOOL_OPEN}\n{body}\n{TOOL_CLOSE}"


def render_turn(thought: str, action: Action) -> str:
    """Canonical spelling of a turn, without end-of-turn token."""
    think = f"{THINK_OPEN} {thought.strip()} {THINK_CLOSE}"
    match action:
        case Continue():
            return think
        case Zoom(point):
            return f"{think}\n{render_tool_call(point)}"
        case Answer(text):
            return f"{think}\n{ANSWER_OPEN} {text.strip()} {ANSWER_CLOSE}"
        case Malformed(reason):
            raise ValueError(f"a malformed turn ({reason}) has no spelling")


def numbered_thoughts(thoughts: Iterable[str]) -> str:
    """What follows a question that is asked again after some thoughts; empty without any."""
    return "".join(f"{PREVIOUS_THOUGHT}{number}: {thought.strip()}" for number, thought in enumerate(thoughts, 1))


def parse_turn(text: str, mode: Mode = MULTI_TURN, *, strict: bool = True, frame: Frame = Frame.MODEL) -> Turn:
    """Read one turn.

    Strict: exactly one think block, then exactly one action that the mode allows, white space
    between, nothing else. Lenient: the first think block and the first action count wherever they
    stand, a missing thought is empty, an answer that was never closed runs to the end. Never raises:
    what cannot be read is a turn whose action is `Malformed`.
    """
    think, after, problem = _thought(text, strict)
    points = find_points(think, frame)
    if problem is not None:
        return Turn(think, points, problem)
    action = _action(after if strict else text, strict, frame)
    kind = _kind(action)
    if kind is not None and kind not in mode.actions:
        if kind is ActionKind.CONTINUE:
            action = Malformed(MalformedReason.NO_ACTION, f"expected an action ({_names(mode)}) after the thought")
        else:
            action = Malformed(
                MalformedReason.ACTION_NOT_ALLOWED, f"expected one of {_names(mode)}, found the action {kind}"
            )
    return Turn(think, points, action)


def _names(mode: Mode) -> str:
    return ", ".join(sorted(mode.actions))


def _kind(action: Action) -> ActionKind | None:
    match action:
        case Continue():
            return ActionKind.CONTINUE
        case Zoom():
            return ActionKind.ZOOM
        case Answer():
            return ActionKind.ANSWER
        case Malformed():
            return None


def _thought(text: str, strict: bool) -> tuple[str, str, Malformed | None]:
    """The thought, the text after it, and why there is none."""
    begin = text.find(THINK_OPEN)
    end = text.find(THINK_CLOSE, max(begin, 0))
    if begin < 0 or (strict and text[:begin].strip()):
        if not strict:
            first_tag = _TAG.search(text)
            return text[: first_tag.start() if first_tag else None].strip(), text, None
        return "", text, Malformed(MalformedReason.NO_THOUGHT, f"expected the turn to begin with {THINK_OPEN}")
    if end < 0:
        if not strict:
            return _TAG.split(text[begin + len(THINK_OPEN) :])[0].strip(), text, None
        return text[begin + len(THINK_OPEN) :], "", Malformed(MalformedReason.UNCLOSED_TAG, f"{THINK_CLOSE} is missing")
    thought = text[begin + len(THINK_OPEN) : end]
    if strict and (inner := _TAG.search(thought)):
        return thought, "", Malformed(MalformedReason.UNCLOSED_TAG, f"found {inner[0]} inside the thought")
    return thought.strip(), text[end + len(THINK_CLOSE) :], None


def _action(text: str, strict: bool, frame: Frame) -> Action:
    tool, answer = text.find(TOOL_OPEN), text.find(ANSWER_OPEN)
    if tool < 0 and answer < 0:
        if strict and text.strip():
            return Malformed(MalformedReason.TEXT_OUTSIDE_TAGS, f"found text after {THINK_CLOSE} outside any tag")
        return Continue()
    is_tool = answer < 0 or 0 <= tool < answer
    begin, opening, closing = (tool, TOOL_OPEN, TOOL_CLOSE) if is_tool else (answer, ANSWER_OPEN, ANSWER_CLOSE)
    end = text.find(closing, begin)
    if end < 0 and (strict or is_tool):
        return Malformed(MalformedReason.UNCLOSED_TAG, f"{closing} is missing")
    body = text[begin + len(opening) : end if end >= 0 else None]
    if strict:
        rest = text[end + len(closing) :]
        if rest.strip():
            several = TOOL_OPEN in rest or ANSWER_OPEN in rest
            reason = MalformedReason.SEVERAL_ACTIONS if several else MalformedReason.TEXT_OUTSIDE_TAGS
            return Malformed(reason, f"expected the turn to end with {closing}")
        if text[:begin].strip():
            return Malformed(MalformedReason.TEXT_OUTSIDE_TAGS, f"found text between {THINK_CLOSE} and {opening}")
    if is_tool:
        return _zoom(body, strict, frame)
    if strict and _TAG.search(body):
        return Malformed(MalformedReason.SEVERAL_ACTIONS, "found a tag inside the answer")
    answer_text = body.strip()
    return Answer(answer_text) if answer_text else Malformed(MalformedReason.EMPTY_ANSWER, "the answer is empty")


def _zoom(body: str, strict: bool, frame: Frame) -> Action:
    expected = f'expected {{"name": "{TOOL_NAME}", "arguments": {{"coordinate": [x, y]}}}}'
    try:
        call = json.loads(body)
        x, y = call["arguments"]["coordinate"]
        named = call.get("name") == TOOL_NAME
    except (ValueError, KeyError, TypeError, RecursionError):
        return Malformed(MalformedReason.BAD_TOOL_CALL, expected)
    if strict and not named:
        return Malformed(MalformedReason.BAD_TOOL_CALL, expected)
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in (x, y)):
        return Malformed(MalformedReason.BAD_TOOL_CALL, f"{expected} with two numbers")
    return Zoom(Point(float(x), float(y), frame))


@dataclass(slots=True)
class TurnScanner:
    """Reads a turn delta by delta while it is sampled.

    `feed` returns the points that the new text completed and whether the turn is now complete.
    Text after the end of the action is not consumed. Example: feeding `"<think> at (3,"` gives no
    point, feeding `" 4) </think>"` then gives (3, 4) and `complete` False.
    """

    mode: Mode = MULTI_TURN
    frame: Frame = Frame.MODEL
    text: str = ""
    complete: bool = False
    _points_seen: int = 0

    def feed(self, delta: str) -> tuple[Point, ...]:
        if self.complete:
            return ()
        # A closing tag may straddle two deltas: look back by the longest tag's length.
        start = max(0, len(self.text) - len(TOOL_CLOSE))
        self.text += delta
        ends = [position + len(stop) for stop in ACTION_STOPS if (position := self.text.find(stop, start)) >= 0]
        if ends:
            self.text = self.text[: min(ends)]
            self.complete = True
        thought = self.text.partition(THINK_OPEN)[2].partition(THINK_CLOSE)[0]
        points = find_points(thought, self.frame)
        fresh = points[self._points_seen :]
        self._points_seen = len(points)
        return fresh

    def turn(self, *, strict: bool = True) -> Turn:
        """The turn as read so far."""
        return parse_turn(self.text, self.mode, strict=strict, frame=self.frame)
