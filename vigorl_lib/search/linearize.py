"""Trees become demonstration chains to train on.

A chain is a `Trajectory` whose assistant text is DEMONSTRATION: text alone, tokenised once, later, by
the student. From one tree come

* direct chains: rollouts that ended right;
* corrected chains: a rollout that went wrong, and from the turn where a right one parts from it, the
  backtrack phrase and the right one's way on. The shared beginning stands there once, the wrong
  answer never;
* single-turn chains: the same thoughts in one block, without zooms.

Everything is deterministic: order follows the trees, choices follow seeds. What each chain came from is
in its id: `tree/kind.number`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from vigorl_lib.domain.geometry import Point
from vigorl_lib.domain.grammar import BACKTRACK_PHRASE, Answer, Zoom, render_turn
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import (
    Message,
    Origin,
    Role,
    Segment,
    StopReason,
    Trajectory,
    TurnRecord,
)
from vigorl_lib.prompts import Prompt
from vigorl_lib.search.config import LinearizeConfig
from vigorl_lib.search.tree import Tree

DIRECT, CORRECTED, SINGLE = "direct", "corrected", "single"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn and what the environment said to it."""

    record: TurnRecord
    observation: Segment | None


@dataclass(frozen=True, slots=True)
class Chains:
    """Chains by split; the examples of the two are disjoint."""

    train: list[Trajectory]
    validation: list[Trajectory]
    statistics: dict[str, float]


def linearize(trees: Iterable[Tree], config: LinearizeConfig, *, single_turn: Prompt, seed: int) -> Chains:
    """All chains of some finished trees. `single_turn` is the system prompt of the single-turn chains."""
    split: dict[bool, list[Trajectory]] = {False: [], True: []}
    seen = list(trees)
    for tree in seen:
        held_out = random.Random(derive_seed(seed, "split", tree.example_id)).random() < config.validation_share
        split[held_out].extend(chains_of(tree, config, single_turn, seed))
    train = _with_direct_share(split[False], config.direct_share, seed)
    validation = _with_direct_share(split[True], config.direct_share, seed)
    return Chains(train, validation, statistics(seen, [*train, *validation]))


def chains_of(tree: Tree, config: LinearizeConfig, single_turn: Prompt, seed: int) -> list[Trajectory]:
    """The chains of one tree, capped: corrected ones first, then direct ones, each in a seeded order."""
    rng = random.Random(derive_seed(seed, "linearize", tree.tree_id))
    right = _unique(r.trajectory for r in tree.rollouts if r.value >= 1.0 and _usable(r.trajectory, config))
    wrong = _unique(r.trajectory for r in tree.rollouts if r.value < 1.0)
    corrected = [c for bad in wrong for good in right if (c := correct(bad, good, config)) is not None]
    rng.shuffle(corrected)
    rng.shuffle(right)
    multi = [_named(tree, CORRECTED, k, c) for k, c in enumerate(corrected[: config.max_corrected_per_example])]
    room = config.max_chains_per_example - len(multi)
    multi += [_named(tree, DIRECT, k, demonstrate(t, exchanges(t), config)) for k, t in enumerate(right[:room])]
    if not config.single_turn:
        return multi
    singles = _unique(single_chain(t, single_turn, config) for t in right)
    return multi + [_named(tree, SINGLE, k, c) for k, c in enumerate(singles[: config.max_chains_per_example])]


def exchanges(trajectory: Trajectory) -> list[Exchange]:
    """Turns with the observations between them."""
    observations = [s for s in trajectory.segments if s.origin is Origin.OBSERVATION]
    padded = [*observations, *[None] * (len(trajectory.turns) - len(observations))]
    return [Exchange(record, observation) for record, observation in zip(trajectory.turns, padded, strict=True)]


def correct(wrong: Trajectory, right: Trajectory, config: LinearizeConfig) -> Trajectory | None:
    """Go astray as `wrong` did in the one turn where it parts from `right`, notice it, and go on as `right`.

    None where that turn was no zoom, so that there is nothing to notice, or where the chain grows too long.
    """
    bad, good = exchanges(wrong), exchanges(right)
    parting = next((k for k, (b, g) in enumerate(zip(bad, good, strict=False)) if b.record.text != g.record.text), None)
    if parting is None or bad[parting].observation is None or bad[parting].record.crop is None:
        return None
    if len(good) + 1 > config.max_turns:
        return None
    turn = good[parting].record.turn
    if not turn.thought.startswith(BACKTRACK_PHRASE):
        turn = replace(turn, thought=f"{BACKTRACK_PHRASE} {turn.thought}")
    record = replace(good[parting].record, turn=turn, text=render_turn(turn.thought, turn.action))
    way_back = Exchange(record, good[parting].observation)
    return demonstrate(right, [*good[:parting], bad[parting], way_back, *good[parting + 1 :]], config)


def demonstrate(source: Trajectory, turns: Sequence[Exchange], config: LinearizeConfig) -> Trajectory:
    """A chain with the prompt of `source` and these turns.

    A turn that the next one takes back is shown and, unless `train_wrong_branch`, not trained: the
    student learns the way back, not the way astray.
    """
    segments = [source.segments[0]]
    for exchange, following in zip(turns, [*turns[1:], None], strict=True):
        astray = following is not None and following.record.turn.thought.startswith(BACKTRACK_PHRASE)
        said = Message(Role.ASSISTANT, (exchange.record.text,))
        segments.append(Segment(Origin.DEMONSTRATION, (said,), trained=config.train_wrong_branch or not astray))
        if exchange.observation is not None:
            segments.append(exchange.observation)
    return replace(source, segments=tuple(segments), turns=tuple(e.record for e in turns), error="", seconds=0.0)


def single_chain(trajectory: Trajectory, prompt: Prompt, config: LinearizeConfig) -> Trajectory:
    """The thoughts of all turns in one block, under the single-turn prompt."""
    last = trajectory.turns[-1]
    thought = " ".join(record.turn.thought for record in trajectory.turns if record.turn.thought)
    points = tuple(point for record in trajectory.turns for point in record.turn.points)
    turn = replace(last.turn, thought=thought, points=points)
    record = TurnRecord(turn, render_turn(thought, turn.action), last.finish_reason)
    question = trajectory.segments[0].messages[-1]
    opening = Segment(Origin.PROMPT, (Message(Role.SYSTEM, (prompt.text,)), question))
    return replace(
        demonstrate(replace(trajectory, segments=(opening,)), [Exchange(record, None)], config), mode="single_turn"
    )


def kind_of(chain: Trajectory) -> str:
    """direct, corrected or single."""
    return chain.trajectory_id.rsplit("/", 1)[1].split(".")[0]


def statistics(trees: Sequence[Tree], chains: Sequence[Trajectory]) -> dict[str, float]:
    """What the search found and what was made of it."""
    rollouts = [rollout for tree in trees for rollout in tree.rollouts]
    kinds = Counter(kind_of(chain) for chain in chains)
    multi = [chain for chain in chains if chain.mode != "single_turn"]
    return {
        "trees": len(trees),
        "solve_rate": fmean(tree.solved for tree in trees) if trees else 0.0,
        "failed_trees": sum(bool(tree.error) for tree in trees),
        "simulations": sum(tree.simulations for tree in trees),
        "rollouts": len(rollouts),
        "rollout_success": fmean(rollout.value for rollout in rollouts) if rollouts else 0.0,
        **{f"rollout_success_zooms_{k}": v for k, v in _success_by_zooms(trees).items()},
        "chains": len(chains),
        **{f"chains_{kind}": kinds[kind] for kind in (DIRECT, CORRECTED, SINGLE)},
        "turns_per_chain": fmean(len(chain.turns) for chain in multi) if multi else 0.0,
        "points_per_chain": fmean(len(_points(chain)) for chain in chains) if chains else 0.0,
        "zoom_share": fmean(chain.zooms > 0 for chain in multi) if multi else 0.0,
    }


def _success_by_zooms(trees: Sequence[Tree]) -> dict[int, float]:
    by_zooms: dict[int, list[float]] = {}
    for tree in trees:
        for rollout in tree.rollouts:
            by_zooms.setdefault(rollout.trajectory.zooms, []).append(rollout.value)
    return {zooms: fmean(values) for zooms, values in sorted(by_zooms.items())}


def _usable(trajectory: Trajectory, config: LinearizeConfig) -> bool:
    """A right answer whose every turn is as it should be."""
    return (
        trajectory.stop is StopReason.ANSWERED
        and isinstance(trajectory.turns[-1].turn.action, Answer)
        and all(isinstance(record.turn.action, Zoom) for record in trajectory.turns[:-1])
        and not any(record.invalid for record in trajectory.turns)
        and len(trajectory.turns) <= config.max_turns
        and len(_points(trajectory)) >= config.min_points
    )


def _points(trajectory: Trajectory) -> list[Point]:
    return [point for record in trajectory.turns for point in record.turn.points]


def _unique(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """The first of each text, in order."""
    by_text: dict[tuple[str, ...], Trajectory] = {}
    for trajectory in trajectories:
        by_text.setdefault(tuple(record.text for record in trajectory.turns), trajectory)
    return list(by_text.values())


def _named(tree: Tree, kind: str, number: int, chain: Trajectory) -> Trajectory:
    return replace(chain, trajectory_id=f"{tree.tree_id}/{kind}.{number}")


def _with_direct_share(chains: list[Trajectory], share: float | None, seed: int) -> list[Trajectory]:
    """Multi-turn chains thinned out until this share of them answers without a zoom; others are kept."""
    multi = [chain for chain in chains if chain.mode != "single_turn"]
    plain = [chain for chain in multi if chain.zooms == 0]
    zooming = [chain for chain in multi if chain.zooms > 0]
    if share is None or not multi:
        return chains
    rng = random.Random(derive_seed(seed, "direct_share"))
    total = min(
        len(plain) / share if share > 0 else float("inf"), len(zooming) / (1 - share) if share < 1 else float("inf")
    )
    kept = {
        chain.trajectory_id
        for part, wanted in ((plain, share * total), (zooming, (1 - share) * total))
        for chain in rng.sample(part, round(wanted))
    }
    return [chain for chain in chains if chain.mode == "single_turn" or chain.trajectory_id in kept]
