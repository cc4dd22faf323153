"""When is an answer right? One matcher for training, search and evaluation.

Answers are compared by their kind: strings and choices after a documented normalisation, points by
the box that they must lie in, web actions by their parts. What cannot be read as its kind is
malformed, which is not the same as wrong.
"""

from __future__ import annotations

import re
from enum import StrEnum

from vigorl_lib.domain.example import AnswerKind, GroundTruth
from vigorl_lib.domain.geometry import Frame, FrameMap, in_polygon
from vigorl_lib.domain.grammar import find_points
from vigorl_lib.domain.web_action import parse_action
from vigorl_lib.errors import RewardError

_LETTER_PREFIX = re.compile(r"^\(?([A-Za-z])[.):]\s*")
_EDGES = " \t\n.,;:!?\"'`"


class Match(StrEnum):
    RIGHT = "right"
    WRONG = "wrong"
    UNREADABLE = "unreadable"
    """The text cannot be read as an answer of this kind."""
    UNDECIDED = "undecided"
    """Only a judge can tell."""


def normalize(text: str) -> str:
    """Lower case, single blanks, no punctuation at the edges."""
    return " ".join(text.lower().split()).strip(_EDGES)


def match_answer(text: str, truth: GroundTruth, frames: FrameMap | None = None) -> Match:
    """Compare an answer with the truth.

    `frames` maps the answer's model frame to the truth's original frame; only points need it. Raises
    RewardError (TRUTH_INCOMPLETE) where the truth lacks what its kind needs.
    """
    match truth.kind:
        case AnswerKind.STRING:
            return _verdict(_spelled(text, truth))
        case AnswerKind.CHOICE:
            return _choice(text, truth)
        case AnswerKind.POINT:
            return _point(text, truth, frames)
        case AnswerKind.ACTION:
            return _action(text, truth.answer)
        case AnswerKind.FREE:
            return Match.RIGHT if _spelled(text, truth) else Match.UNDECIDED


def _spelled(text: str, truth: GroundTruth) -> bool:
    """The answer or an accepted spelling, also behind the letter of an option."""
    right = {normalize(spelling) for spelling in (truth.answer, *truth.accepted)}
    return not right.isdisjoint({normalize(text), normalize(_LETTER_PREFIX.sub("", text.strip()))})


def _verdict(right: bool) -> Match:
    return Match.RIGHT if right else Match.WRONG


def _choice(text: str, truth: GroundTruth) -> Match:
    """The choice's text, with or without its letter, or its letter alone."""
    if not truth.choices:
        raise RewardError("a choice needs truth.choices, found none", reason="TRUTH_INCOMPLETE", infrastructure=False)
    choices = [normalize(choice) for choice in truth.choices]
    said = normalize(text)
    if said not in choices:
        letter = _LETTER_PREFIX.match(text.strip())
        rest = normalize(_LETTER_PREFIX.sub("", text.strip()))
        index = ord((letter[1] if letter else said)[0].lower()) - ord("a") if letter or len(said) == 1 else -1
        if rest in choices and letter:
            said = rest
        elif 0 <= index < len(choices) and (len(said) == 1 or not rest):
            said = choices[index]
        else:
            return Match.UNREADABLE
    return _verdict(said == normalize(truth.answer))


def _point(text: str, truth: GroundTruth, frames: FrameMap | None) -> Match:
    if truth.box is None or frames is None:
        raise RewardError(
            "a point needs truth.box and the image's frames", reason="TRUTH_INCOMPLETE", infrastructure=False
        )
    points = find_points(text)
    if len(points) != 1:
        return Match.UNREADABLE
    point = frames.point(points[0], Frame.ORIGINAL)
    return _verdict(truth.box.contains(point) and (not truth.region or in_polygon(point, truth.region)))


def _action(text: str, gold: str) -> Match:
    """All parts must agree: the verb, the element, the direction, and the typed or answered text."""
    said, wanted = parse_action(text), parse_action(gold)
    if said is None:
        return Match.UNREADABLE
    if wanted is None:
        raise RewardError(f"truth is no web action: {gold!r}", reason="TRUTH_INCOMPLETE", infrastructure=False)
    return _verdict(said.same(wanted))
