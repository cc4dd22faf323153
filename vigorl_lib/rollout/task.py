"""What is asked of a policy: prompt, mode, sampling and budgets. A recipe's `task` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vigorl_lib.config import Section
from vigorl_lib.domain.geometry import Frame
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.policy.base import PolicyInfo, Sampling


class FewShotExample(Section):
    """A conversation that is shown before the question; the environment answers its turns as it would in earnest."""

    image: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of an image in the run's storage."""
    question: str = Field(min_length=1)
    replies: tuple[str, ...] = Field(min_length=1)
    """What the policy would say, turn by turn, with points in the frame that the prompt asks for."""


class TaskConfig(Section):
    """One way of asking; training, search and evaluation that share it ask in exactly the same way."""

    family: str = "visual_search"
    """Folder of the prompt files."""
    mode: str = "multi_turn"
    """A mode of the grammar: single_turn, multi_turn, thought_steps or classic (as the reference searches)."""
    prompt: str = ""
    """Prompt file in the family's folder, without ending; empty takes the mode's name."""
    prompt_source: Literal["file", "checkpoint"] = "file"
    """Whose system prompt: ours, from its file, or none, so that the checkpoint's chat template brings its own."""
    point_frame: Literal["policy", "model", "normalized"] = "model"
    """Frame in which the prompt asks for points: pixels of the image shown (`model`), 0 to 1000 on both axes
    (`normalized`), or whichever the policy's family was taught (`policy`)."""
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
    force_answer_greedily: bool = False
    """Sample that turn at temperature 0, as the reference's evaluation does."""
    min_steps_from: int = Field(default=0, ge=0)
    """The system prompt asks for at least so many steps, a number drawn per question from this one to `min_steps_to`;
    0 asks for none (reference: 3 to 7)."""
    min_steps_to: int = Field(default=0, ge=0)
    few_shot: tuple[FewShotExample, ...] = ()
    zoom: ZoomConfig = ZoomConfig()

    @model_validator(mode="after")
    def _check_min_steps(self) -> TaskConfig:
        if self.min_steps_from > self.min_steps_to:
            raise ValueError(f"min_steps_to: expected at least min_steps_from ({self.min_steps_from})")
        if self.min_steps_to and self.prompt_source == "checkpoint":
            raise ValueError("min_steps_to: its line would replace the checkpoint's prompt; take prompt_source file")
        return self

    @property
    def prompt_name(self) -> str:
        return self.prompt or self.mode

    def frame_for(self, policy: PolicyInfo) -> Frame:
        """The frame in which this policy writes points when it is asked in this way."""
        # A script reads no prompt: it writes in its own frame, whatever is asked.
        if self.point_frame == "policy" or policy.scripted:
            return policy.point_frame
        return Frame(self.point_frame)

    def sampling(self, tokens_left: int, *, forced: bool = False) -> Sampling:
        """How a turn is sampled with so many tokens left; `forced` says that its answer tag is prefilled."""
        return Sampling(
            temperature=0.0 if forced and self.force_answer_greedily else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=max(1, min(self.max_turn_tokens, tokens_left)),
        )
