"""The page of one GRPO step: its metrics and its groups, every rollout with what it saw, said and earned.

It reads what the rollout producer committed; how groups are made and compared is `vigorl_lib.training`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape

from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Role, Trajectory, TurnRecord
from vigorl_lib.report.page import render_document
from vigorl_lib.report.trajectory import render_trajectory
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.groups import Group, StepGroups, rollout_metrics
from vigorl_lib.training.plan import compare

Load = Callable[[Image], Image]
"""The same image with its bytes."""


def render_rollouts(step: StepGroups, config: GrpoConfig, load: Load, *, run_id: str, groups: int) -> str:
    """A self-contained HTML file of a step's first `groups` groups; images come from `load`.

    Raises what `load` raises.
    """
    shown = [step.groups[position] for position in sorted(step.groups)][:groups]
    number = step.plan.step
    header = (
        f'<header class="top"><p class="eyebrow">run {escape(run_id)}</p><h1>Rollouts of step {number}</h1>'
        f"<p>{len(step.groups)} groups, {len(step.plan.chosen)} of them trained on; the first {len(shown)} are shown."
        "</p></header>"
    )
    sections = [("metrics", "Metrics", _metrics(step))]
    sections += [(f"group-{g.position}", f"Group {g.position}", _group(g, step, config, load)) for g in shown]
    return render_document(f"{run_id}, step {number}", header, sections)


def _metrics(step: StepGroups) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{value:.4g}</td></tr>" for name, value in rollout_metrics(step).items()
    )
    return f"<table>{rows}</table>"


def _group(group: Group, step: StepGroups, config: GrpoConfig, load: Load) -> str:
    advantages = dict(compare(group, config))
    fate = "trained on" if group.position in step.plan.chosen else "left out"
    question = next((text for t in group.trajectories if (text := _question(t))), "")
    intro = f"<p><b>{escape(group.example_id)}</b>, {fate}: {escape(question.strip())}</p>"
    strips = []
    for number, trajectory in enumerate(group.trajectories):
        image = _first_image(trajectory)
        title = _title(number, trajectory, advantages.get(number))
        if image is None:
            strips.append(f"<p>{escape(title)}</p>")
        else:
            strips.append(render_trajectory(_with_crops(trajectory, load), load(image), title))
    return intro + "".join(strips)


def _title(number: int, trajectory: Trajectory, advantage: float | None) -> str:
    sampled = [segment for segment in trajectory.segments if segment.logprobs]
    versions = sorted({segment.policy_version for segment in sampled})
    parts = [
        f"rollout {number} ({trajectory.mode})",
        f"stop {trajectory.stop}",
        f"{sum(len(segment.logprobs) for segment in sampled)} tokens",
        f"weights {', '.join(map(str, versions)) or 'none'}",
        "not trained" if advantage is None else f"advantage {advantage:+.3f}",
    ]
    return " · ".join(parts)


def _question(trajectory: Trajectory) -> str:
    messages = [message for segment in trajectory.segments[:1] for message in segment.messages]
    return next((message.text for message in reversed(messages) if message.role is Role.USER), "")


def _first_image(trajectory: Trajectory) -> Image | None:
    return next((image for segment in trajectory.segments for image in segment.images), None)


def _with_crops(trajectory: Trajectory, load: Load) -> Trajectory:
    def loaded(record: TurnRecord) -> TurnRecord:
        return replace(record, crop_image=load(record.crop_image)) if record.crop_image is not None else record

    return replace(trajectory, turns=tuple(map(loaded, trajectory.turns)))
