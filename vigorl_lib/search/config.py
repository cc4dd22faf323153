"""Settings of the tree search and of linearization."""

from __future__ import annotations

from pydantic import Field

from vigorl_lib.config import Section


class SearchConfig(Section):
    """The tree policy and its budgets (reference: 8 to 20 simulations, 3 children, 2 rollouts, c = 2, depth 10)."""

    simulations: int = Field(default=8, ge=1)
    children: int = Field(default=3, ge=1)
    """Continuations per expansion; one request."""
    rollouts_per_child: int = Field(default=2, ge=1)
    """Rollouts from each new child, all at once."""
    c_ucb: float = Field(default=2.0, ge=0.0)
    """Weight of exploration."""
    max_depth: int = Field(default=10, ge=1)
    """Turns from the root, rollouts included; the task's own `zoom.max_turns` holds as well."""
    rollout_max_steps: int = Field(default=5, ge=1)
    """Turns of a rollout at most. On its last one a task with `force_answer` prefills the answer."""
    dedup_radius_px: float = Field(default=10.0, ge=0.0)
    """A child that looks nearer than this (model frame) to where its path or a sibling looked is dropped."""
    stop_when_solved: bool = False
    """End a tree after the simulation that found a right answer."""
    trees_in_flight: int = Field(default=64, ge=1)
    """Searched at the same time; each has one simulation in flight."""
    limit: int = Field(default=0, ge=0)
    """Only the first examples; 0 takes all."""


class LinearizeConfig(Section):
    """Which chains are made of the trees."""

    max_chains_per_example: int = Field(default=4, ge=1)
    """Per example and mode."""
    max_corrected_per_example: int = Field(default=1, ge=0)
    """Chains with a wrong branch and a way back, within the cap above."""
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
