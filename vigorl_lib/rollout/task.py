"""What is asked of a policy: prompt, mode, sampling and budgets. A recipe's `task` section."""

from __future__ import annotations

from pydantic import Field

from vigorl_lib.config import Section
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.policy.base import Sampling


class TaskConfig(Section):
    """One way of asking; training, search and evaluation that share it ask in exactly the same way."""

    family: str = "visual_search"
    """Folder of the prompt files."""
    mode: str = "multi_turn"
    """A mode of the grammar: single_turn, multi_turn or thought_steps."""
    prompt: str = ""
    """Prompt file in the family's folder, without ending; empty takes the mode's name."""
    temperature: float = Field(default=1.0, ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    max_turn_tokens: int = Field(default=1024, ge=1)
    """Sampled tokens per turn."""
    max_tokens: int = Field(default=4096, ge=1)
    """Tokens after the prompt, observations included."""
    observation_text_tokens: int = Field(default=32, ge=0)
    """Reserved per observation besides its image tokens, before a zoom is granted."""
    force_answer: bool = False
    """Prefill the answer tag on the last permitted turn."""
    zoom: ZoomConfig = ZoomConfig()

    @property
    def prompt_name(self) -> str:
        return self.prompt or self.mode

    def sampling(self, tokens_left: int) -> Sampling:
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=max(1, min(self.max_turn_tokens, tokens_left)),
        )
