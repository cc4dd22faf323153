"""The next action on a web page from a screenshot with numbered elements, in VisualWebArena's action format, offline.

It measures single steps of recorded trajectories. It opens no browser, so it says nothing of whether a task succeeds,
which is what the paper's VisualWebArena numbers are.
"""

from __future__ import annotations

from vigorl_lib.domain.example import AnswerKind
from vigorl_lib.domain.web_action import parse_action
from vigorl_lib.evaluation.benchmarks.bundle import reader
from vigorl_lib.evaluation.benchmarks.spec import Benchmark, Layout


def _verb(example_id: str, answer: str) -> dict[str, str]:
    action = parse_action(answer)
    return {"verb": action.verb.value} if action is not None else {}


WEB_ACTION = Benchmark(
    name="web-action",
    title="Web actions, step by step",
    split="train",
    layouts=(
        Layout(
            {"train": 0},
            "vigorl_web_action_MCTS.jsonl",
            reader(AnswerKind.ACTION, _verb),
            "gsarch/vigorl_datasets, web_action.tar",
        ),
    ),
    family="web_action",
    prompts=("single_turn", "vanilla", "direct"),
    tags=("verb",),
    metric="share of steps with the recorded action",
)
