"""Which drafts are good enough to learn from; each that is not has a named fault, and the faults are counted.

A draft comes from a rollout that the reward called right, so this is about how it got there: its form, its
length, repetitions, and where it pointed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, FrameMap
from vigorl_lib.domain.grammar import MODES, Answer, Continue, Zoom, parse_turn
from vigorl_lib.domain.trajectory import StopReason
from vigorl_lib.search.config import LinearizeConfig
from vigorl_lib.search.drafts import Draft

REPETITION_WORDS = 4
"""Length of the word sequences whose repetitions are counted."""


class Fault(StrEnum):
    FORM = "form"
    """A turn that is malformed, was not granted, or stands where it must not; or no answer at the end."""
    POINTS = "points"
    OUTSIDE = "outside"
    """A cited point does not lie on the image."""
    LENGTH = "length"
    TURNS = "turns"
    REPETITION = "repetition"
    EVIDENCE = "evidence"
    """The last place that was looked at is not where the answer shows."""


def fault(draft: Draft, config: LinearizeConfig, example: Example | None) -> Fault | None:
    """The first thing that is wrong with a draft; `example` tells the truth for `evidence_hit`, where it is asked."""
    points = [point for record in draft.records for point in record.turn.points]
    words = [word for record in draft.records for word in record.turn.thought.split()]
    if not well_formed(draft):
        return Fault.FORM
    if len(points) < config.min_points:
        return Fault.POINTS
    if config.points_on_image and not _on_image(draft):
        return Fault.OUTSIDE
    if not config.min_words <= len(words) <= (config.max_words or len(words)):
        return Fault.LENGTH
    if repetition(words) > config.max_repetition:
        return Fault.REPETITION
    if config.evidence_hit and example is not None and hits_evidence(draft, example) is False:
        return Fault.EVIDENCE
    return None


def well_formed(draft: Draft) -> bool:
    """An answer at the end, before it zooms or thoughts alone, and no turn that the environment refused.

    A strict parser reads every turn as it was understood: a lenient one lets tags through inside a thought.
    """
    *before, last = draft.records
    mode = MODES[draft.source.mode]
    return (
        draft.source.stop is StopReason.ANSWERED
        and isinstance(last.turn.action, Answer)
        and all(isinstance(record.turn.action, Zoom | Continue) for record in before)
        and not any(record.invalid for record in draft.records)
        and all(parse_turn(record.text, mode) == record.turn for record in draft.records)
    )


def repetition(words: Sequence[str]) -> float:
    """Share of the sequences of four words that occurred before; 0 for fewer than five words."""
    sequences = list(zip(*(words[k:] for k in range(REPETITION_WORDS)), strict=False))
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def hits_evidence(draft: Draft, example: Example) -> bool | None:
    """Whether the last zoom shows the middle of a region that shows the answer, or else the last point lies on one.

    None where the truth names no region or nobody knows the frame of the points.
    """
    evidence, model = example.truth.evidence, draft.source.model_size
    if not evidence or model is None:
        return None
    crops = [record.crop for record in draft.records if record.crop is not None]
    if crops:
        return any(crops[-1].window.contains(box.center) for box in evidence)
    frames = FrameMap(example.images[0].size, model)
    points = [frames.point(point, Frame.ORIGINAL) for record in draft.records for point in record.turn.points]
    return bool(points) and any(box.contains(points[-1]) for box in evidence)


def _on_image(draft: Draft) -> bool:
    model = draft.source.model_size
    if model is None:
        return True
    frames = FrameMap(model, model)
    return all(frames.inside(point) for record in draft.records for point in record.turn.cited)
