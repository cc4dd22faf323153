"""Drafts: the turns of chains to be, as text and observations, without prompt, id or loss mask.

A draft is a right rollout's way, or that of a right and a wrong rollout joined where they part. Which
drafts are good enough is `chain_filters`'s concern, what becomes of them `linearize`'s.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vigorl_lib.domain.geometry import Point
from vigorl_lib.domain.grammar import SINGLE_TURN, Answer, Continue, Zoom, render_turn
from vigorl_lib.domain.trajectory import Origin, Segment, Trajectory, TurnRecord
from vigorl_lib.domain.wire import BACKTRACK_PHRASE
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.search.tree import Tree

MAX_PAIRS = 10_000
"""Pairs of a wrong and a right rollout that are tried for one tree; of more, so many are drawn by seed."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn and what the environment said to it; `astray` marks a turn of a wrong branch that was joined in."""

    record: TurnRecord
    observation: Segment | None
    astray: bool = False

    @property
    def takes_back(self) -> bool:
        """Whether this turn says that the one before it looked in a wrong place."""
        return self.record.turn.thought.startswith(BACKTRACK_PHRASE)


@dataclass(frozen=True, slots=True)
class Draft:
    """The turns of a chain to be, and the right rollout that gives it prompt, answer and reward."""

    source: Trajectory
    exchanges: tuple[Exchange, ...]

    @property
    def corrected(self) -> bool:
        return any(BACKTRACK_PHRASE in exchange.record.turn.thought for exchange in self.exchanges)

    @property
    def zooms(self) -> bool:
        return any(isinstance(exchange.record.turn.action, Zoom) for exchange in self.exchanges)

    @property
    def records(self) -> tuple[TurnRecord, ...]:
        return tuple(exchange.record for exchange in self.exchanges)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(record.text for record in self.records)


def exchanges(trajectory: Trajectory) -> tuple[Exchange, ...]:
    """Turns with the observations between them, the turns in their canonical spelling."""
    observations = [segment for segment in trajectory.segments if segment.origin is Origin.OBSERVATION]
    padded = [*observations, *[None] * (len(trajectory.turns) - len(observations))]
    return tuple(map(canonical, trajectory.turns, padded))


def canonical(record: TurnRecord, observation: Segment | None) -> Exchange:
    """An exchange whose text is the one spelling of its turn, whatever the policy wrote."""
    turn = record.turn
    if not isinstance(turn.action, Answer | Zoom | Continue):
        return Exchange(record, observation)
    return Exchange(replace(record, text=render_turn(turn.thought, turn.action)), observation)


def joined(
    tree: Tree, right: Sequence[Draft], *, max_wrong_turns: int, rules: ZoomConfig, rng: random.Random
) -> Iterator[Draft]:
    """Every wrong rollout of a tree joined to every right draft, in all lengths of the wrong branch.

    As far as an environment with these rules would play it.
    """
    wrong = [exchanges(rollout.trajectory) for rollout in tree.rollouts if rollout.value < 1.0 and not rollout.failed]
    pairs: Iterable[tuple[tuple[Exchange, ...], Draft]] = itertools.product(wrong, right)
    if len(wrong) * len(right) > MAX_PAIRS:
        drawn = sorted(rng.sample(range(len(wrong) * len(right)), MAX_PAIRS))
        pairs = ((wrong[k // len(right)], right[k % len(right)]) for k in drawn)
    for bad, good in pairs:
        for length in range(1, max_wrong_turns + 1):
            draft = correct(bad, good, length)
            if draft is not None and playable(draft, rules):
                yield draft


def correct(wrong: Sequence[Exchange], right: Draft, length: int = 1) -> Draft | None:
    """Go astray as `wrong` did for `length` turns from where it parts from `right`, notice it, and go on as `right`.

    The two may part at any depth. None where the wrong branch is no such length, or one of its turns did not
    look elsewhere than the right one, so that there is nothing to take back.
    """
    good = right.exchanges
    pairs = enumerate(zip(wrong, good, strict=False))
    parting = next((k for k, (bad, right_one) in pairs if bad.record.text != right_one.record.text), None)
    if parting is None or good[parting].takes_back:
        return None
    branch = wrong[parting : parting + length]
    if len(branch) < length or not all(_astray(bad, good[parting]) for bad in branch):
        return None
    turn = good[parting].record.turn
    turn = replace(turn, thought=f"{BACKTRACK_PHRASE} {turn.thought}".strip())
    way_back = canonical(replace(good[parting].record, turn=turn), good[parting].observation)
    shown = (replace(bad, astray=True) for bad in branch)
    return Draft(right.source, (*good[:parting], *shown, way_back, *good[parting + 1 :]))


def _astray(bad: Exchange, good: Exchange) -> bool:
    if bad.record.invalid is not None or bad.takes_back:
        return False
    match bad.record.turn.action, good.record.turn.action:
        case Zoom(), Zoom():
            seen, wanted = bad.record.crop, good.record.crop
            # A rollout that saw the right place and read it wrongly must not teach that the place was wrong.
            return seen is not None and wanted is not None and not seen.window.contains(wanted.window.center)
        case Continue(), _:
            return True
        case _:
            return False


def playable(draft: Draft, rules: ZoomConfig) -> bool:
    """Whether the environment would grant every turn of a joined draft.

    That is: there are not too many, and no zoom is too near to an earlier one.
    """
    if len(draft.records) > rules.max_turns:
        return False
    seen: list[Point] = []
    for record in draft.records:
        if isinstance(record.turn.action, Zoom):
            if any(record.turn.action.point.distance(other) < rules.min_distance_px for other in seen):
                return False
            seen.append(record.turn.action.point)
    return True


def single_turn(draft: Draft) -> Draft:
    """The thoughts of all turns in one block, and the answer."""
    thought = " ".join(record.turn.thought for record in draft.records if record.turn.thought)
    points = tuple(point for record in draft.records for point in record.turn.points)
    last = draft.records[-1]
    turn = replace(last.turn, thought=thought, points=points)
    record = TurnRecord(turn, render_turn(thought, turn.action), last.finish_reason)
    return Draft(replace(draft.source, mode=SINGLE_TURN.name), (Exchange(record, None),))


def unique(drafts: Iterable[Draft]) -> list[Draft]:
    """The first of each text, in order."""
    by_text: dict[tuple[str, ...], Draft] = {}
    for draft in drafts:
        by_text.setdefault(draft.texts, draft)
    return list(by_text.values())


def in_turn(drafts: Iterable[Draft]) -> list[Draft]:
    """The first of each first turn, then the second of each, and so on."""
    by_beginning: dict[str, list[Draft]] = {}
    for draft in drafts:
        by_beginning.setdefault(draft.texts[0], []).append(draft)
    rounds = itertools.zip_longest(*by_beginning.values())
    return [draft for one_of_each in rounds for draft in one_of_each if draft is not None]
