"""The literals that released checkpoints depend on, byte for byte, each with its source; no parser and no rule.

Source: the public code that accompanies *Grounded Reinforcement Learning for Visual Reasoning* (arXiv 2505.23678),
where the paper's text differs, the code. They are spelled here and nowhere else in the library; what differs between
model families (ChatML, vision tokens) is `vigorl_lib.models.families`, and how turns are read is
`vigorl_lib.domain.grammar`. `docs/compatibility.md` tells what was checked.
"""

from __future__ import annotations

from enum import StrEnum

# The tags of a response: system prompts, SFT chains and rewards of the reference agree on them. Those of the tool call
# are added tokens of Qwen2.5 that are not special, so they survive decoding.
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
TOOL_OPEN, TOOL_CLOSE = "<tool_call>", "</tool_call>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
OBSERVATION_OPEN, OBSERVATION_CLOSE = "<observation>", "</observation>"
TAGS = (
    *(THINK_OPEN, THINK_CLOSE, TOOL_OPEN, TOOL_CLOSE),
    *(ANSWER_OPEN, ANSWER_CLOSE, OBSERVATION_OPEN, OBSERVATION_CLOSE),
)
"""The structural tags; the grammar of a multi-turn response looks at nothing else."""

IMAGE_PLACEHOLDER = "<image>"
"""Where an image stands in the text of the reference's records and chains; no model ever reads it."""

TOOL_NAME = "search_coordinate"
"""Of the released data, prompts and rewards; the paper's text calls the tool `crop`. The reference never checks it."""

ACTION_STOPS = (TOOL_CLOSE, ANSWER_CLOSE)
"""Sampling of a turn ends once the text ends with one of these (the reference's GRPO rollout, besides end of turn)."""

OBSERVATION_SENTENCE = "Here is the crop of the image centered on the coordinate"
OBSERVATION_DOT_CLAUSE = ", with a red dot at the coordinate location"

FORCED_ANSWER_THOUGHT = "Based on all the information I've gathered, I'll now provide my final answer."
"""The thought of every forced answer, in rollouts, evaluation and demo, and of the last turn of every multi-turn SFT
chain. The paper's appendix words it otherwise."""
FORCED_ANSWER_PREFIX = f"{THINK_OPEN} {FORCED_ANSWER_THOUGHT} {THINK_CLOSE}\n{ANSWER_OPEN}"
"""What an assistant turn is prefilled with when turns or images run out."""

PREVIOUS_THOUGHT = "\n\nPrevious thought "
"""Between a question and each of the thoughts that the reference's search numbers behind it."""
BACKTRACK_PHRASE = "Wait, this seems off. Let's try something else."
"""Between a wrong branch and the right one in a corrected SFT chain (the reference's chain builder)."""


class Spelling(StrEnum):
    """How an observation is written. Ours is that of the reference's GRPO, which its final weights saw most.

    The others are named after the part of the reference that writes so; `eval` and `demo` never tell of the dot.
    """

    GRPO = "grpo"
    SFT = "sft"
    EVAL = "eval"
    DEMO = "demo"


def observation_text(spelling: Spelling = Spelling.GRPO, *, dot: bool = False) -> tuple[str, str]:
    """Text before and after the crop's image in the environment's message; `dot` says that one is drawn."""
    told = dot and spelling in (Spelling.GRPO, Spelling.SFT)
    sentence = OBSERVATION_SENTENCE + (OBSERVATION_DOT_CLAUSE if told else "") + ":"
    match spelling:
        case Spelling.GRPO:
            return f"{OBSERVATION_OPEN}\n{sentence}\n", OBSERVATION_CLOSE
        case Spelling.SFT:
            return f"{OBSERVATION_OPEN}\n{sentence}\n", f"\n{OBSERVATION_CLOSE}"
        case Spelling.EVAL:
            return f"{OBSERVATION_OPEN}\n{sentence}", f"\n{OBSERVATION_CLOSE}"
        case Spelling.DEMO:
            return f"{OBSERVATION_OPEN}\n{sentence}\n{OBSERVATION_CLOSE}", ""
