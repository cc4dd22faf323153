"""Settings of the composed reward; they travel with each request."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vigorl_lib.config import Section


class RewardConfig(Section):
    """Weights of the parts and the rule of the diversity bonus (paper: 0.6 answer, 0.4 format, 0.2 a point)."""

    answer_weight: float = Field(default=0.6, ge=0.0)
    format_weight: float = Field(default=0.4, ge=0.0)
    distinct_bonus: float = Field(default=0.2, ge=0.0)
    """Added to the format part per distinct point after the first."""
    distinct_radius_px: float = Field(default=10.0, gt=0.0)
    """Points nearer than this to a kept one are not distinct (model frame)."""
    distinct_cap: int = Field(default=4, ge=0)
    """Points that earn the bonus at most."""
    distinct_when: Literal["correct", "always", "never"] = "correct"
    """`correct` pays the bonus only with a right answer; `always` is the reference's rule."""
    require_point: bool = True
    """Format counts only if at least one point is cited (grounded modes)."""
