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
    """Turns from the root, rollouts included."""
    rollout_max_steps: int = Field(default=5, ge=1)
    dedup_radius_px: float = Field(default=10.0, ge=0.0)
    """A child that zooms nearer than this (model frame) to its path or to a sibling is dropped."""
    stop_when_solved: bool = False
    """End a tree after the simulation that found a right answer."""
    trees_in_flight: int = Field(default=64, ge=1)
    limit: int = Field(default=0, ge=0)
    """Only the first examples; 0 takes all."""


class LinearizeConfig(Section):
    """Which chains are made of the trees."""

    max_chains_per_example: int = Field(default=4, ge=1)
    """Per example and mode."""
    max_corrected_per_example: int = Field(default=1, ge=0)
    """Chains with a wrong branch and a way back, within the cap above."""
    train_wrong_branch: bool = False
    """Whether the turn that leads astray is itself trained, as in the reference."""
    direct_share: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of multi-turn chains that answer without a zoom; None takes what the trees hold."""
    single_turn: bool = True
    """Also write single-turn chains: all thoughts in one block."""
    single_turn_prompt: str = "single_turn"
    validation_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the examples whose chains are held out."""
    max_turns: int = Field(default=5, ge=1)
    min_points: int = Field(default=1, ge=0)
    """Chains that cite fewer points are left out."""
