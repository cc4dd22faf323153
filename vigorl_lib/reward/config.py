"""Settings of the composed reward; they travel with each request."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vigorl_lib.config import Section
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.rpc.config import ClientConfig

COMPOSED = "composed"
REFERENCE = "reference."
"""Names of the reference's rules begin so."""


class RewardConfig(Section):
    """The rule, and for the composed one weights and the bonus (paper: 0.6 answer, 0.4 format, 0.2 a point)."""

    rule: str = Field(default=COMPOSED, pattern=r"^[a-z][a-z0-9_.-]*$")
    """`composed`, `reference.NAME` for a rule of the reference, or a name that the server gave to code of its own.
    The other settings are those of `composed`; code of one's own may read them."""
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
    evidence_weight: float = Field(default=0.0, ge=0.0)
    """Added to the total where a cited point lies on a region that shows the answer, if such regions are known."""


class JudgeConfig(Section):
    """Who decides about free answers: a policy behind an address, or an engine of this process."""

    policy: str = "judge"
    """Name of the policy at `target`."""
    target: str = ""
    """gRPC target of a policy service."""
    client: ClientConfig = ClientConfig()
    """Deadlines and TLS of the calls to `target`."""
    engine: PolicyConfig | None = None
    """An engine of this process instead, such as an OpenAI-compatible endpoint."""
    with_image: bool = True
    """Whether the judge sees the example's images."""
    timeout_s: float = Field(default=60.0, gt=0.0)
    """Of one question, all attempts together."""
    attempts: int = Field(default=3, ge=1)
    """Questions asked until one reply can be read as a verdict."""
    in_flight: int = Field(default=16, ge=1)
    """Questions asked at the same time."""
    max_tokens: int = Field(default=256, ge=1)
    """Of one reply."""
    cache_entries: int = Field(default=100_000, ge=0)
    """Verdicts that are remembered."""

    @model_validator(mode="after")
    def _check_one(self) -> JudgeConfig:
        if bool(self.target) == (self.engine is not None):
            raise ValueError("a judge needs either `target`, a policy service, or `engine`, an engine of this process")
        return self
