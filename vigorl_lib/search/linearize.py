"""Trees become demonstration chains to train on.

A chain is a `Trajectory` whose assistant text is DEMONSTRATION: text alone, tokenised once, later, by
the student. From one tree come

* direct chains: rollouts that ended right;
* corrected chains: ones that look in a wrong place, say the backtrack phrase, and go on to the right answer.
  A rollout may have gone that way itself, or a wrong one and a right one are joined where they part: the
  shared beginning stands there once, the wrong answer never;
* single-turn chains: the same thoughts in one block, without zooms.

Everything is deterministic: order follows the examples' ids, choices follow seeds. What each chain came from
is in its id: `tree/kind.number`. How the published code makes chains is `vigorl_lib.search.reference_chains`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.grammar import MULTI_TURN
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, Trajectory
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.errors import DataError
from vigorl_lib.prompts import Prompt, asking_for_pixels
from vigorl_lib.search.chain_filters import Fault, fault
from vigorl_lib.search.chain_statistics import Statistics, chain_statistics, search_statistics
from vigorl_lib.search.config import LinearizeConfig
from vigorl_lib.search.drafts import Draft, exchanges, in_turn, joined, single_turn, unique
from vigorl_lib.search.reference_chains import reference_chains
from vigorl_lib.search.tree import Tree

DIRECT, CORRECTED, SINGLE = "direct", "corrected", "single"


@dataclass(frozen=True, slots=True)
class Chains:
    """Chains by split; the examples of the two are disjoint."""

    train: list[Trajectory]
    validation: list[Trajectory]
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class ChainTask:
    """What the student is asked with, and by which rules its chains must play.

    Without `multi_turn`, multi-turn chains keep the prompt of the search. `rules` are those of the environment that
    was searched in: a joined chain that it would not play to the end is not made. `examples` tell the truth
    for the filter `evidence_hit`, which wants all of them.
    """

    single_turn: Prompt
    multi_turn: Prompt | None = None
    rules: ZoomConfig = field(default_factory=ZoomConfig)
    examples: Mapping[str, Example] = field(default_factory=dict)


def linearize(trees: Iterable[Tree], config: LinearizeConfig, task: ChainTask, *, seed: int) -> Chains:
    """All chains of some finished trees; those that ended in an error are counted and give none.

    Raises DataError: CHAINS_MISSING where `direct_share` cannot be had, EXAMPLE_MISSING where `evidence_hit` is
    asked and nobody knows a tree's example.
    """
    # Trees end in the order in which their searches happened to run.
    seen = sorted(trees, key=lambda tree: tree.example_id)
    whole = [tree for tree in seen if not tree.error]
    faults: Counter[str] = Counter()
    if config.mode == "reference":
        train, validation = reference_chains(whole, task.single_turn, config.validation_share, seed)
    else:
        chains = [chain for tree in whole for chain in chains_of(tree, config, task, seed, faults)]
        chains = _with_direct_share(chains, config.direct_share, seed)
        held_out = {tree.example_id for tree in seen if _held_out(tree.example_id, config, seed)}
        train = [chain for chain in chains if chain.example_id not in held_out]
        validation = [chain for chain in chains if chain.example_id in held_out]
    return with_statistics(train, validation, search_statistics(seen), faults)


def with_statistics(
    train: list[Trajectory], validation: list[Trajectory], search: Statistics, faults: Mapping[str, int] | None = None
) -> Chains:
    """Chains with their statistics behind those of the search."""
    whole = [*train, *validation]
    kinds = {DIRECT: 0, CORRECTED: 0, SINGLE: 0} | Counter(map(kind_of, whole))
    return Chains(train, validation, search | chain_statistics(whole, kinds, faults or {}))


def _held_out(example_id: str, config: LinearizeConfig, seed: int) -> bool:
    return random.Random(derive_seed(seed, "split", example_id)).random() < config.validation_share


def chains_of(
    tree: Tree, config: LinearizeConfig, task: ChainTask, seed: int, faults: Counter[str]
) -> list[Trajectory]:
    """The chains of one tree: drafts in a seeded order, as many as the caps let in, in either mode.

    Drafts that are not good enough are counted in `faults`.
    """
    example = _example(tree, config, task)
    drafts = _good(drafts_of(tree, config, task, seed, faults), config, example, faults)
    random.Random(derive_seed(seed, "linearize", tree.example_id)).shuffle(drafts)
    if config.balance_branches:
        drafts = in_turn(drafts)
    played = [draft for draft in drafts if draft.source.mode == MULTI_TURN.name]
    multi = [draft for draft in played if len(draft.exchanges) <= config.max_turns]
    faults[Fault.TURNS] += len(played) - len(multi)
    made = [(CORRECTED if d.corrected else DIRECT, d, task.multi_turn) for d in _capped(multi, config)]
    if config.single_turn:
        alone = [draft for draft in drafts if config.single_turn_after_zoom or not draft.zooms]
        singles = _good(unique(map(single_turn, alone)), config, example, faults)
        made += [(SINGLE, draft, task.single_turn) for draft in _capped(singles, config)]
    chains = []
    numbers: Counter[str] = Counter()
    for kind, draft, prompt in made:
        chain = demonstrate(draft, config, prompt)
        chains.append(replace(chain, trajectory_id=f"{tree.tree_id}/{kind}.{numbers[kind]}"))
        numbers[kind] += 1
    return chains


def drafts_of(tree: Tree, config: LinearizeConfig, task: ChainTask, seed: int, faults: Counter[str]) -> list[Draft]:
    """Every good right way through a tree, then every wrong one joined to a right one; no text twice."""
    right = [Draft(r.trajectory, exchanges(r.trajectory)) for r in tree.rollouts if r.value >= 1.0]
    right = _good(unique(right), config, _example(tree, config, task), faults)
    wrong_ways = joined(
        tree,
        right,
        max_wrong_turns=config.max_wrong_turns,
        rules=task.rules,
        rng=random.Random(derive_seed(seed, "join", tree.example_id)),
    )
    return unique([*right, *wrong_ways])


def demonstrate(draft: Draft, config: LinearizeConfig, prompt: Prompt | None) -> Trajectory:
    """The chain of a draft under a system prompt, or under that of the search.

    Turns that are taken back are shown and, unless `train_wrong_branch`, not trained: the student learns the
    way back, not the way astray. In one block there is no such choice. Turns are in the model frame whatever the
    teacher spoke in, and so is what the student is asked for. Examples that the teacher was shown before the
    question are left away.
    """
    messages = draft.source.segments[0].messages
    # None is heard where the checkpoint's own template brought the prompt.
    heard = [asking_for_pixels(message.text) for message in messages if message.role is Role.SYSTEM]
    system = [Message(Role.SYSTEM, (text,)) for text in (heard if prompt is None else [prompt.text])]
    segments = [Segment(Origin.PROMPT, (*system, messages[-1]))]
    for exchange, following in zip(draft.exchanges, [*draft.exchanges[1:], None], strict=True):
        astray = exchange.astray or (following is not None and following.takes_back)
        said = Message(Role.ASSISTANT, (exchange.record.text,))
        segments.append(Segment(Origin.DEMONSTRATION, (said,), trained=config.train_wrong_branch or not astray))
        if exchange.observation is not None:
            segments.append(exchange.observation)
    return replace(draft.source, segments=tuple(segments), turns=draft.records)


def kind_of(chain: Trajectory) -> str:
    """direct, corrected or single; crops in `vigorl_lib.search.reference_crops`."""
    return chain.trajectory_id.rsplit("/", 1)[1].split(".")[0]


def _example(tree: Tree, config: LinearizeConfig, task: ChainTask) -> Example | None:
    if not config.evidence_hit:
        return None
    if tree.example_id not in task.examples:
        raise DataError(
            f"linearize.evidence_hit: the truth of example {tree.example_id} is not at hand; "
            "name the data set that was searched, or leave this filter out",
            reason="EXAMPLE_MISSING",
            example=tree.example_id,
        )
    return task.examples[tree.example_id]


def _good(
    drafts: Iterable[Draft], config: LinearizeConfig, example: Example | None, faults: Counter[str]
) -> list[Draft]:
    kept = []
    for draft in drafts:
        problem = fault(draft, config, example)
        if problem is None:
            kept.append(draft)
        else:
            faults[problem] += 1
    return kept


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
