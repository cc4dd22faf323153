"""Tree policies by name: the rule that says which node the next simulation works on.

`ucb` is UCB1 with the reference's smoothing, `puct` and `puct_uniform` weigh exploration by a prior over the
children. All see a simulation in flight as virtual visits that found nothing right, so that the next one goes
elsewhere; with none in flight the rules are the plain ones. No statistics change here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vigorl_lib.domain.trajectory import Origin, Prefix
from vigorl_lib.errors import PolicyError
from vigorl_lib.search.tree import Node

Selection = Callable[[Node, float], list[float]]
"""Scores of a node's children, in their order, for a weight of exploration."""


def select(root: Node, selection: str, exploration: float) -> Node | None:
    """The node that the next simulation works on; None where all that is left is in flight already.

    Descends to the available child with the largest score, ties to the first, until a node is terminal or has
    no children. Raises PolicyError (LOGPROBS_MISSING) for `puct` over a policy that reports none.
    """
    if not root.available:
        return None
    scores_of = SELECTIONS[selection]
    node = root
    while not node.terminal and node.children:
        scored = [
            (score, child)
            for score, child in zip(scores_of(node, exploration), node.children, strict=True)
            if child.available
        ]
        node = max(scored, key=lambda pair: pair[0])[1]
    return node


def visits(node: Node) -> int:
    return node.visit_count + node.virtual_visits


def value(node: Node) -> float:
    """Mean reward, virtual visits counted as 0."""
    return node.value * node.visit_count / max(1, visits(node)) if node.virtual_visits else node.value


def ucb(node: Node, exploration: float) -> list[float]:
    """Q + c·sqrt(ln(N_parent + 1) / (N_child + 1)): the reference's rule."""
    log_visits = math.log(visits(node) + 1)
    return [value(child) + exploration * math.sqrt(log_visits / (visits(child) + 1)) for child in node.children]


def puct(node: Node, exploration: float) -> list[float]:
    """Q + c·P·sqrt(N_parent) / (N_child + 1), P the policy's own preference among the children that it sampled."""
    return _puct(node, exploration, sequence_priors([child.prefix for child in node.children]))


def puct_uniform(node: Node, exploration: float) -> list[float]:
    """PUCT that prefers no child."""
    return _puct(node, exploration, [1 / len(node.children)] * len(node.children))


SELECTIONS: dict[str, Selection] = {"ucb": ucb, "puct": puct, "puct_uniform": puct_uniform}


def sequence_priors(siblings: Sequence[Prefix]) -> list[float]:
    """Softmax over the mean log-probability per token of each sibling's own turn.

    The mean and not the sum: whole turns differ by tens of nats, by their length alone, and one of them would get
    all. Raises PolicyError (LOGPROBS_MISSING).
    """
    means = []
    for prefix in siblings:
        logprobs = [p for segment in prefix.new_segments if segment.origin is Origin.POLICY for p in segment.logprobs]
        if not logprobs:
            raise PolicyError(
                "search.selection puct needs the log-probabilities of a token-exact policy, found none; "
                "take puct_uniform or ucb",
                reason="LOGPROBS_MISSING",
            )
        means.append(math.fsum(logprobs) / len(logprobs))
    weights = [math.exp(mean - max(means)) for mean in means]
    return [weight / sum(weights) for weight in weights]


def _puct(node: Node, exploration: float, priors: Sequence[float]) -> list[float]:
    # At least 1: before any visit the prior alone decides.
    root_visits = math.sqrt(max(1, visits(node)))
    return [
        value(child) + exploration * prior * root_visits / (visits(child) + 1)
        for child, prior in zip(node.children, priors, strict=True)
    ]
