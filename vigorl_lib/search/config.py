"""Settings of the tree search and of linearization."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vigorl_lib.config import Section


class SearchConfig(Section):
    """The tree policy and its budgets (reference: 8 to 20 simulations, 3 children, 2 rollouts, c = 2, depth 10)."""

    kind: Literal["tree", "paths"] = "tree"
    """A tree, or single paths: every simulation is one rollout from the question."""
    simulations: int = Field(default=8, ge=1)
    children: int = Field(default=3, ge=1)
    """Continuations per expansion; one request."""
    rollouts_per_child: int = Field(default=2, ge=1)
    """Rollouts from each new child, all at once."""
    selection: Literal["ucb", "puct", "puct_uniform"] = "ucb"
    """The tree policy: UCB1 as the reference smooths it, or PUCT with the policy's own preference or none."""
    exploration: float = Field(default=2.0, ge=0.0)
    """Weight of exploration, the reference's `c_puct`."""
    max_depth: int = Field(default=10, ge=1)
    """Turns from the root, rollouts included; the task's own `zoom.max_turns` holds as well."""
    rollout_max_steps: int = Field(default=5, ge=1)
    """Turns of a rollout from a child at most. On its last one a task with `force_answer` prefills the answer."""
    max_tree_tokens: int = Field(default=0, ge=0)
    """Begin no simulation once a tree has sampled so many tokens; 0 sets no limit. Text-exact policies count none."""
    dedup_radius_px: float = Field(default=10.0, ge=0.0)
    """A child that looks nearer than this (model frame) to where its path or a sibling looked is dropped."""
    min_path_turns: int = Field(default=0, ge=0)
    """Single paths with fewer turns count as wrong, whatever they answer."""
    stop_when_solved: bool = False
    """End a tree after the simulation that found a right answer."""
    stop_when_hopeless: int = Field(default=0, ge=0)
    """End a tree after so many simulations without one right answer; 0 goes on."""
    deadline_s: float = Field(default=0.0, ge=0.0)
    """Time that one call spends on one tree; then what is in flight is cancelled and the tree ends. 0 is no limit."""
    simulations_in_flight: int = Field(default=1, ge=1)
    """Per tree. With 1 a tree follows from the seed alone; with more it also depends on which one ends first."""
    trees_in_flight: int = Field(default=64, ge=1)
    """Searched at the same time."""
    limit: int = Field(default=0, ge=0)
    """Only the first examples; 0 takes all."""


class LinearizeConfig(Section):
    """Which chains are made of the trees."""

    mode: Literal["standard", "reference"] = "standard"
    """`reference` makes the published code's single-turn chains and heeds `crops_afterwards`, the prompts and
    `validation_share` alone."""
    crops_afterwards: bool = False
    """In `reference` mode also the published code's multi-turn chains: single-turn ones cut at their points, with
    crops by `task.zoom`."""
    max_chains_per_example: int = Field(default=4, ge=1)
    """Per example and mode."""
    max_corrected_per_example: int = Field(default=1, ge=0)
    """Chains with a wrong branch and a way back, within the cap above."""
    balance_branches: bool = False
    """Fill the cap from the ways that begin differently in turn, so that the one that the search took most often
    does not give all chains of its example."""
    max_wrong_turns: int = Field(default=1, ge=1)
    """Turns of the wrong branch that a corrected chain shows, at most."""
    train_wrong_branch: bool = False
    """Whether a turn that leads astray is itself trained, as in the reference; in a single-turn chain it always is."""
    direct_share: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of multi-turn chains that answer without a zoom; null takes what the trees hold, 0 zooms only."""
    single_turn: bool = True
    """Also write single-turn chains: all thoughts in one block."""
    single_turn_after_zoom: bool = True
    """Make single-turn chains of rollouts that zoomed, too. Their last thoughts say what only the crop showed."""
    single_turn_prompt: str = "single_turn"
    """Prompt file that single-turn chains are given."""
    multi_turn_prompt: str = ""
    """Prompt file that multi-turn chains are given; empty keeps that of the search. Name one after a search whose
    teacher had a prompt of its own."""
    validation_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the examples whose chains are held out."""
    max_turns: int = Field(default=5, ge=1)
    """Multi-turn chains with more turns are left out."""
    min_points: int = Field(default=1, ge=0)
    """Chains that cite fewer points are left out."""
    points_on_image: bool = True
    """Leave out chains that cite a point beside the image."""
    min_words: int = Field(default=0, ge=0)
    max_words: int = Field(default=0, ge=0)
    """Words of all thoughts of a chain; 0 sets no limit."""
    max_repetition: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the thoughts' four-word sequences that may have occurred before in the chain."""
    evidence_hit: bool = False
    """Leave out chains whose last zoom (or, without one, last point) misses where the answer shows, as far as the
    data set tells it: they were right by luck."""
