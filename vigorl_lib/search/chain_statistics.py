"""What a search found, what it cost, and what was made of it, as plain numbers.

Flat names, so that the same dictionary is the JSON file, the command's output and the source of the report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from vigorl_lib.domain.grammar import MULTI_TURN
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.search.tree import Rollout, Tree

Statistics = dict[str, float]
KS = (1, 2, 4, 8)
"""success@k is given for these k, as far as trees have so many rollouts."""


def search_statistics(trees: Sequence[Tree]) -> Statistics:
    """Of the trees alone; rates are shares of 1.

    `success_at_K_depth_D` is the chance that one of K rollouts that branched off at depth D is right, without
    replacement, mean over the trees with at least K of them; `success_at_K` takes the rollouts of all depths. Of a
    tree that ended because it was solved, it says instead whether one of its first K was right.
    """
    rollouts = [rollout for tree in trees for rollout in tree.rollouts]
    whole = [rollout for rollout in rollouts if not rollout.failed]
    by_zooms: dict[int, list[float]] = {}
    for rollout in whole:
        by_zooms.setdefault(rollout.trajectory.zooms, []).append(rollout.value)
    return {
        "trees": len(trees),
        "failed_trees": sum(bool(tree.error) for tree in trees),
        "solve_rate": mean(tree.solved for tree in trees),
        "simulations": sum(tree.simulations for tree in trees),
        "rollouts": len(rollouts),
        "failed_rollouts": len(rollouts) - len(whole),
        "failed_expansions": sum(bool(node.error) for tree in trees for node in tree.nodes),
        "rollout_success": mean(rollout.value for rollout in whole),
        **{f"rollout_success_zooms_{zooms}": fmean(values) for zooms, values in sorted(by_zooms.items())},
        **_success(trees),
        **_cost(trees),
    }


def success_at(k: int, n: int, right: int) -> float:
    """Chance that k of n rollouts, drawn without replacement, hold one of the `right` ones; k must not exceed n."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def chain_statistics(chains: Sequence[Trajectory], kinds: Mapping[str, int], faults: Mapping[str, int]) -> Statistics:
    """Of the chains; `kinds` counts them by kind, `faults` the drafts that were left out by reason.

    `chains_turns_N` counts multi-turn chains by turns, `chains_points_N` chains by cited points.
    """
    multi = [chain for chain in chains if chain.mode == MULTI_TURN.name]
    points = [sum(len(record.turn.points) for record in chain.turns) for chain in chains]
    return {
        "chains": len(chains),
        **{f"chains_{kind}": count for kind, count in kinds.items()},
        "examples_with_chains": len({chain.example_id for chain in chains}),
        "turns_per_chain": mean(len(chain.turns) for chain in multi),
        "words_per_chain": mean(sum(len(record.text.split()) for record in chain.turns) for chain in chains),
        "points_per_chain": mean(points),
        "zoom_share": mean(chain.zooms > 0 for chain in multi),
        **{f"chains_turns_{n}": count for n, count in sorted(Counter(len(chain.turns) for chain in multi).items())},
        **{f"chains_points_{n}": count for n, count in sorted(Counter(points).items())},
        **{f"left_out_{reason}": count for reason, count in sorted(faults.items()) if count},
    }


def mean(values: Iterable[float]) -> float:
    """The mean, 0 of nothing."""
    found = list(values)
    return fmean(found) if found else 0.0


def _success(trees: Sequence[Tree]) -> Statistics:
    by_depth: dict[int, list[_Outcomes]] = {}
    everywhere = []
    for tree in trees:
        mine: dict[int, list[bool]] = {}
        for rollout in tree.rollouts:
            if not rollout.failed:
                mine.setdefault(_depth(tree, rollout), []).append(rollout.value >= 1.0)
        stopped = tree.end == "solved"
        everywhere.append(_Outcomes([r.value >= 1.0 for r in tree.rollouts if not r.failed], stopped))
        for depth, outcomes in mine.items():
            by_depth.setdefault(depth, []).append(_Outcomes(outcomes, stopped))
    found = _success_of(everywhere, "")
    for depth, groups in sorted(by_depth.items()):
        found |= _success_of(groups, f"_depth_{depth}")
    return found


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Whether the rollouts of a tree were right, in their order."""

    right: Sequence[bool]
    stopped: bool
    """The search ended at the first right one: how many there are follows from how they went."""

    def success_at(self, k: int) -> float | None:
        """None where there are too few of them to tell."""
        n, right = len(self.right), sum(self.right)
        if self.stopped and (right or n >= k):
            return float(any(self.right[:k]))
        return success_at(k, n, right) if n >= k else None


def _success_of(groups: Sequence[_Outcomes], suffix: str) -> Statistics:
    found = {}
    for k in KS:
        # Without a tree that is as large as k, a mean would be over the early ends alone.
        if any(len(group.right) >= k for group in groups):
            chances = [chance for group in groups if (chance := group.success_at(k)) is not None]
            found[f"success_at_{k}{suffix}"] = fmean(chances)
    return found


def _depth(tree: Tree, rollout: Rollout) -> int:
    return tree.nodes[rollout.node].prefix.depth


def _cost(trees: Sequence[Tree]) -> Statistics:
    """Turns and tokens sampled, as far as policy and journal count them; all trees pay for the solved ones."""
    solved = sum(tree.solved for tree in trees)
    sampled: Statistics = {
        "turns": sum(tree.cost.turns for tree in trees),
        "tokens": sum(tree.cost.tokens for tree in trees),
    }
    counted = {name: value for name, value in sampled.items() if value}
    return counted | {f"{name}_per_solved": value / solved for name, value in counted.items() if solved}
