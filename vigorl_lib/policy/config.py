"""Settings of one named policy: which engine serves it, from which checkpoint, within which limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vigorl_lib.config import Section


class ScriptedConfig(Section):
    """The scripted teacher: how it explores and how often it errs. Rates are probabilities per turn."""

    root: str = ""
    """Storage that holds the data set whose scenes the teacher knows."""
    dataset: str = "visual-search"
    splits: tuple[str, ...] = ("train",)
    mode: Literal["single_turn", "multi_turn", "thought_steps"] = "multi_turn"
    """Which actions it takes. Serve two names to have a teacher for each of two modes."""
    direct_rate: float = Field(default=0.3, ge=0.0, le=1.0)
    """Multi-turn: answer at once, without a zoom."""
    distractor_rate: float = Field(default=0.15, ge=0.0, le=1.0)
    """Multi-turn: zoom on a look-alike; the next turn says so and tries elsewhere."""
    error_rate: float = Field(default=0.05, ge=0.0, le=1.0)
    """A wrong answer about what was seen."""
    unseen_error_rate: float = Field(default=0.05, ge=0.0, le=1.0)
    """A wrong answer, given without a zoom, about a target that the view is too coarse to show (tag `size: small`)."""
    point_noise_px: float = Field(default=2.0, ge=0.0)
    """Standard deviation of a point around the middle of its target, model-frame pixels."""
    point_bin_px: int = Field(default=4, ge=1)
    """Points are said as the middle of a bin of this side, model-frame pixels."""


class PolicyConfig(Section):
    """One process serves one policy under one name."""

    name: str = Field(default="student", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    engine: Literal["transformers", "scripted"] = "transformers"
    model: str = Field(min_length=1)
    """Checkpoint in Hugging Face format: a folder or a storage URI. A scripted teacher only takes from it the frame
    that its student's points are in."""
    revision: str = ""
    """Said in every answer beside the model; it selects nothing."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` …"""
    threads: int = Field(default=1, ge=1)
    """CPU threads of the engine; more than one is slower for tiny models and for shared cores."""
    max_batch: int = Field(default=64, ge=1)
    """Samples that are decoded together."""
    max_queued: int = Field(default=1024, ge=1)
    """Samples that may wait; a request beyond them is refused with OVERLOADED."""
    max_context_tokens: int = Field(default=4096, ge=1)
    """Prompt and completion together; the checkpoint's own limit applies too."""
    trainable_by: str = ""
    """Run id that may update the weights; empty for a policy that nobody trains."""
    weights_root: str = ""
    """Storage folder with `CURRENT` and the versions it names; loaded before the policy is ready."""
    view_cache_bytes: int = Field(default=256 << 20, ge=0)
    """Decoded images in the model frame."""
    feature_cache_bytes: int = Field(default=256 << 20, ge=0)
    """Vision features under the current weights."""
    scripted: ScriptedConfig = ScriptedConfig()

    @model_validator(mode="after")
    def _check_scripted(self) -> PolicyConfig:
        if self.engine == "scripted" and "scripted" not in self.name:
            raise ValueError(
                f"a scripted policy says so in its name, for example 'scripted-teacher', not {self.name!r}"
            )
        if self.engine == "scripted" and self.trainable_by:
            raise ValueError("a scripted policy has no weights to train")
        if self.engine == "scripted" and not self.scripted.root:
            raise ValueError("a scripted policy needs `scripted.root`, the storage of the scenes that it knows")
        return self
