"""Settings of an evaluation."""

from __future__ import annotations

from pydantic import Field, model_validator

from vigorl_lib.config import Section


class EvaluationConfig(Section):
    """What is measured: each mode is one cell of the table. Greedy unless the temperature says otherwise."""

    modes: tuple[str, ...] = ("single_turn", "multi_turn")
    benchmark: str = ""
    """Name of a benchmark, or `all`: its data set, prompts and crop are taken instead of the recipe's, and `modes` are
    prompts of it, by default its first one (docs/benchmarks.md)."""
    temperature: float = Field(default=0.0, ge=0.0)
    samples: int = Field(default=1, ge=1)
    """Answers to each question, for pass@k and majority votes; more than one needs a temperature."""
    cache_answers: bool = False
    """Remember greedy answers in storage, for any evaluation of the same policy that asks the same."""
    limit: int = Field(default=0, ge=0)
    """Only the first examples; 0 takes all."""
    max_in_flight: int = Field(default=256, ge=1)
    """Conversations at a time, at most; within it the policy's load decides."""
    bootstrap_samples: int = Field(default=2000, ge=100)
    keep_trajectories: int = Field(default=120, ge=0)
    """Trajectories of this many examples, the first ones, are kept for the report."""

    @model_validator(mode="after")
    def _answers_differ(self) -> EvaluationConfig:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples={self.samples} at temperature 0 asks for the same answer so many times; set a temperature, "
                "for example evaluation.temperature=0.5"
            )
        return self
