"""Trees become demonstration chains to train on.

A chain is a `Trajectory` whose assistant text is DEMONSTRATION: text alone, tokenised once, later, by
the student. From one tree come

* direct chains: rollouts that ended right;
* corrected chains: ones that look in a wrong place, say the backtrack phrase, and go on to the right answer.
  A rollout may have gone that way itself, or a wrong one and a right one are joined where they part: the
  shared beginning stands there once, the wrong answer never;
* single-turn chains: the same thoughts in one block, without zooms.

Everything is deterministic: order follows the examples' ids, choices follow seeds. What each chain came from
is in its id: `tree/kind.number`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from vigorl_lib.domain.grammar import BACKTRACK_PHRASE, MULTI_TURN, SINGLE_TURN, Answer, Continue, Zoom, render_turn
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import DataError
from vigorl_lib.prompts import Prompt
from vigorl_lib.search.config import LinearizeConfig
from vigorl_lib.search.tree import Tree

DIRECT, CORRECTED, SINGLE = "direct", "corrected", "single"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn and what the environment said to it."""

    record: TurnRecord
    observation: Segment | None

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
    def texts(self) -> tuple[str, ...]:
        return tuple(exchange.record.text for exchange in self.exchanges)


@dataclass(frozen=True, slots=True)
class Chains:
    """Chains by split; the examples of the two are disjoint."""

    train: list[Trajectory]
    validation: list[Trajectory]
    statistics: dict[str, float]


@dataclass(frozen=True, slots=True)
class ChainPrompts:
    """System prompts that the student is asked with; without one, multi-turn chains keep that of the search."""

    single_turn: Prompt
    multi_turn: Prompt | None = None


def linearize(trees: Iterable[Tree], config: LinearizeConfig, prompts: ChainPrompts, *, seed: int) -> Chains:
    """All chains of some finished trees. Raises DataError (CHAINS_MISSING) where `direct_share` cannot be had."""
    # Trees end in the order in which their searches happened to run.
    seen = sorted(trees, key=lambda tree: tree.example_id)
    chains = [chain for tree in seen for chain in chains_of(tree, config, prompts, seed)]
    chains = _with_direct_share(chains, config.direct_share, seed)
    split: dict[bool, list[Trajectory]] = {False: [], True: []}
    for chain in chains:
        chance = random.Random(derive_seed(seed, "split", chain.example_id)).random()
        split[chance < config.validation_share].append(chain)
    return Chains(split[False], split[True], statistics(seen, chains))


def chains_of(tree: Tree, config: LinearizeConfig, prompts: ChainPrompts, seed: int) -> list[Trajectory]:
    """The chains of one tree: drafts in a seeded order, as many as the caps let in, in either mode."""
    drafts = drafts_of(tree, config)
    random.Random(derive_seed(seed, "linearize", tree.example_id)).shuffle(drafts)
    multi = _capped([draft for draft in drafts if _is_multi_turn(draft, config)], config)
    alone = [draft for draft in drafts if config.single_turn_after_zoom or not draft.zooms]
    singles = _capped(_unique(map(single_turn, alone)), config) if config.single_turn else []
    made = [(CORRECTED if d.corrected else DIRECT, demonstrate(d, config, prompts.multi_turn)) for d in multi]
    made += [(SINGLE, demonstrate(d, config, prompts.single_turn)) for d in singles]
    chains = []
    numbers: Counter[str] = Counter()
    for kind, chain in made:
        chains.append(replace(chain, trajectory_id=f"{tree.tree_id}/{kind}.{numbers[kind]}"))
        numbers[kind] += 1
    return chains


def drafts_of(tree: Tree, config: LinearizeConfig) -> list[Draft]:
    """Every right way through a tree, then every wrong one joined to a right one; no text twice."""
    right = [Draft(r.trajectory, exchanges(r.trajectory)) for r in tree.rollouts if r.value >= 1.0]
    right = [draft for draft in right if _usable(draft, config)]
    wrong = [exchanges(r.trajectory) for r in tree.rollouts if r.value < 1.0 and not r.failed]
    joined = [draft for bad in wrong for good in right if (draft := correct(bad, good)) is not None]
    return _unique([*right, *joined])


def exchanges(trajectory: Trajectory) -> tuple[Exchange, ...]:
    """Turns with the observations between them, the turns in their canonical spelling."""
    observations = [segment for segment in trajectory.segments if segment.origin is Origin.OBSERVATION]
    padded = [*observations, *[None] * (len(trajectory.turns) - len(observations))]
    return tuple(map(_exchange, trajectory.turns, padded))


def _exchange(record: TurnRecord, observation: Segment | None) -> Exchange:
    turn = record.turn
    if not isinstance(turn.action, Answer | Zoom | Continue):
        return Exchange(record, observation)
    return Exchange(replace(record, text=render_turn(turn.thought, turn.action)), observation)


def correct(wrong: Sequence[Exchange], right: Draft) -> Draft | None:
    """Go astray as `wrong` did in the one turn where it parts from `right`, notice it, and go on as `right`.

    None where that turn did not look elsewhere than the right one, so that there is nothing to take back.
    """
    good = right.exchanges
    pairs = enumerate(zip(wrong, good, strict=False))
    parting = next((k for k, (bad, right_one) in pairs if bad.record.text != right_one.record.text), None)
    if parting is None or good[parting].takes_back or not _astray(wrong[parting], good[parting]):
        return None
    turn = good[parting].record.turn
    turn = replace(turn, thought=f"{BACKTRACK_PHRASE} {turn.thought}")
    way_back = _exchange(replace(good[parting].record, turn=turn), good[parting].observation)
    return Draft(right.source, (*good[:parting], wrong[parting], way_back, *good[parting + 1 :]))


def _astray(bad: Exchange, good: Exchange) -> bool:
    if bad.record.invalid is not None or bad.observation is None:
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


def single_turn(draft: Draft) -> Draft:
    """The thoughts of all turns in one block, and the answer."""
    records = [exchange.record for exchange in draft.exchanges]
    thought = " ".join(record.turn.thought for record in records if record.turn.thought)
    points = tuple(point for record in records for point in record.turn.points)
    turn = replace(records[-1].turn, thought=thought, points=points)
    record = TurnRecord(turn, render_turn(thought, turn.action), records[-1].finish_reason)
    return Draft(replace(draft.source, mode=SINGLE_TURN.name), (Exchange(record, None),))


def demonstrate(draft: Draft, config: LinearizeConfig, prompt: Prompt | None) -> Trajectory:
    """The chain of a draft under a system prompt, or under that of the search.

    A turn that the next one takes back is shown and, unless `train_wrong_branch`, not trained: the student
    learns the way back, not the way astray. In one block there is no such choice.
    """
    opening = draft.source.segments[0]
    if prompt is not None:
        opening = Segment(Origin.PROMPT, (Message(Role.SYSTEM, (prompt.text,)), opening.messages[-1]))
    segments = [opening]
    for exchange, following in zip(draft.exchanges, [*draft.exchanges[1:], None], strict=True):
        astray = following is not None and following.takes_back
        said = Message(Role.ASSISTANT, (exchange.record.text,))
        segments.append(Segment(Origin.DEMONSTRATION, (said,), trained=config.train_wrong_branch or not astray))
        if exchange.observation is not None:
            segments.append(exchange.observation)
    turns = tuple(exchange.record for exchange in draft.exchanges)
    return replace(draft.source, segments=tuple(segments), turns=turns)


def kind_of(chain: Trajectory) -> str:
    """direct, corrected or single."""
    return chain.trajectory_id.rsplit("/", 1)[1].split(".")[0]


def statistics(trees: Sequence[Tree], chains: Sequence[Trajectory]) -> dict[str, float]:
    """What the search found and what was made of it; rates are shares of 1."""
    rollouts = [rollout for tree in trees for rollout in tree.rollouts]
    whole = [rollout for rollout in rollouts if not rollout.failed]
    kinds = Counter(kind_of(chain) for chain in chains)
    multi = [chain for chain in chains if chain.mode == MULTI_TURN.name]
    by_zooms: dict[int, list[float]] = {}
    for rollout in whole:
        by_zooms.setdefault(rollout.trajectory.zooms, []).append(rollout.value)
    return {
        "trees": len(trees),
        "failed_trees": sum(bool(tree.error) for tree in trees),
        "solve_rate": _mean(tree.solved for tree in trees),
        "simulations": sum(tree.simulations for tree in trees),
        "rollouts": len(rollouts),
        "failed_rollouts": len(rollouts) - len(whole),
        "failed_expansions": sum(bool(node.error) for tree in trees for node in tree.nodes),
        "rollout_success": _mean(rollout.value for rollout in whole),
        **{f"rollout_success_zooms_{zooms}": fmean(values) for zooms, values in sorted(by_zooms.items())},
        "chains": len(chains),
        **{f"chains_{kind}": kinds[kind] for kind in (DIRECT, CORRECTED, SINGLE)},
        "turns_per_chain": _mean(len(chain.turns) for chain in multi),
        "words_per_chain": _mean(sum(len(record.text.split()) for record in chain.turns) for chain in chains),
        "points_per_chain": _mean(sum(len(record.turn.points) for record in chain.turns) for chain in chains),
        "zoom_share": _mean(chain.zooms > 0 for chain in multi),
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else 0.0


def _usable(draft: Draft, config: LinearizeConfig) -> bool:
    """A right answer whose every turn is as it should be."""
    *before, last = (exchange.record for exchange in draft.exchanges)
    return (
        draft.source.stop is StopReason.ANSWERED
        and isinstance(last.turn.action, Answer)
        and all(isinstance(record.turn.action, Zoom | Continue) for record in before)
        and not any(record.invalid for record in [*before, last])
        and sum(len(record.turn.points) for record in [*before, last]) >= config.min_points
    )


def _is_multi_turn(draft: Draft, config: LinearizeConfig) -> bool:
    return draft.source.mode == MULTI_TURN.name and len(draft.exchanges) <= config.max_turns


def _capped(drafts: Sequence[Draft], config: LinearizeConfig) -> list[Draft]:
    """The first drafts, of them so many corrected ones at most."""
    kept: list[Draft] = []
    room = config.max_corrected_per_example
    for draft in drafts:
        if len(kept) == config.max_chains_per_example:
            break
        if draft.corrected and room == 0:
            continue
        room -= draft.corrected
        kept.append(draft)
    return kept


def _unique(drafts: Iterable[Draft]) -> list[Draft]:
    """The first of each text, in order."""
    by_text: dict[tuple[str, ...], Draft] = {}
    for draft in drafts:
        by_text.setdefault(draft.texts, draft)
    return list(by_text.values())


def _with_direct_share(chains: list[Trajectory], share: float | None, seed: int) -> list[Trajectory]:
    """Multi-turn chains thinned out until this share of them answers without a zoom; others are kept."""
    multi = [chain for chain in chains if chain.mode == MULTI_TURN.name]
    if share is None or not multi:
        return chains
    plain = [chain for chain in multi if chain.zooms == 0]
    zooming = [chain for chain in multi if chain.zooms > 0]
    if (share > 0 and not plain) or (share < 1 and not zooming):
        raise DataError(
            f"linearize.direct_share: {share:g} of the multi-turn chains cannot be had of {len(plain)} without "
            f"a zoom and {len(zooming)} with one; search more, or set it to null",
            reason="CHAINS_MISSING",
        )
    rng = random.Random(derive_seed(seed, "direct_share"))
    total = min(
        len(plain) / share if share > 0 else float("inf"), len(zooming) / (1 - share) if share < 1 else float("inf")
    )
    kept = {
        chain.trajectory_id
        for part, wanted in ((plain, share * total), (zooming, (1 - share) * total))
        for chain in rng.sample(part, round(wanted))
    }
    return [chain for chain in chains if chain.mode != MULTI_TURN.name or chain.trajectory_id in kept]
